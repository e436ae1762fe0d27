package faults

import (
	"time"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

// script is a rollout, from nothing to its end.
type script struct {
	name      string
	workloads []string
	// profile as it is made.
	profile func() *v1alpha1.ServiceSecurityProfile
	// phases follow one another: each begins when the profile rests as the one before left it.
	phases []phase
	// plaintext is when the only request in plaintext comes; zero for never.
	plaintext time.Duration
	// callers says that the callers' side is watched, by their proxies and by access logs.
	callers bool
	// breaks says that a caller of the first workload is refused by STRICT, until that is taken back for the first time.
	breaks bool
}

// phase is an edit of the profile, made when the rollout is at a stage and nothing is to be done any more.
type phase struct {
	name  string
	stage v1alpha1.Stage
	edit  func(*v1alpha1.ServiceSecurityProfileSpec)
}

func strict(target v1alpha1.Target, strategy v1alpha1.Strategy) *v1alpha1.ServiceSecurityProfile {
	rollout := &v1alpha1.Rollout{Strategy: strategy}
	if strategy == v1alpha1.StrategyStaged {
		rollout.ObservationWindow, rollout.VerificationWindow = v1alpha1.Duration(window.String()), v1alpha1.Duration(verification.String())
	}
	return &v1alpha1.ServiceSecurityProfile{Spec: v1alpha1.ServiceSecurityProfileSpec{
		Target: target, MTLS: &v1alpha1.MTLS{Mode: v1alpha1.ModeStrict, Rollout: rollout},
	}}
}

var toWeb = v1alpha1.Target{Kind: v1alpha1.TargetService, Name: "web"}

func scripts() []*script {
	return []*script{
		{
			name: "to Enforced", workloads: []string{"web"}, plaintext: 3 * interval / 2,
			profile: func() *v1alpha1.ServiceSecurityProfile { return strict(toWeb, v1alpha1.StrategyStaged) },
		},
		{
			name: "rolled back by a failing caller, and the next attempt", workloads: []string{"web"}, callers: true, breaks: true,
			profile: func() *v1alpha1.ServiceSecurityProfile { return strict(toWeb, v1alpha1.StrategyStaged) },
		},
		{
			name: "a whole namespace", workloads: []string{"cart", "pay", "web"},
			profile: func() *v1alpha1.ServiceSecurityProfile {
				p := strict(v1alpha1.Target{Kind: v1alpha1.TargetNamespace}, v1alpha1.StrategyStaged)
				p.Spec.MTLS.Rollout.MaxConcurrent = new(int32(2))
				return p
			},
		},
		{
			name: "approved by hand, with plaintext on the way", workloads: []string{"web"}, plaintext: 9 * interval / 2,
			profile: func() *v1alpha1.ServiceSecurityProfile {
				p := strict(toWeb, v1alpha1.StrategyStaged)
				p.Spec.MTLS.Rollout.Approval = v1alpha1.ApprovalManual
				return p
			},
		},
		{
			name: "a namespace with a workload that is rolled back", workloads: []string{"cart", "pay"}, callers: true, breaks: true,
			profile: func() *v1alpha1.ServiceSecurityProfile {
				return strict(v1alpha1.Target{Kind: v1alpha1.TargetNamespace}, v1alpha1.StrategyStaged)
			},
		},
		{
			name: "tokens and callers, taken back", workloads: []string{"web"},
			profile: guarded,
			phases: []phase{
				{"mode: Permissive", v1alpha1.StageEnforced, func(spec *v1alpha1.ServiceSecurityProfileSpec) {
					spec.MTLS = &v1alpha1.MTLS{Mode: v1alpha1.ModePermissive}
				}},
				{"jwt and authorization are removed", "", func(spec *v1alpha1.ServiceSecurityProfileSpec) {
					spec.JWT, spec.Authorization = nil, nil
				}},
			},
		},
	}
}

// guarded asks for all that a profile can ask for.
func guarded() *v1alpha1.ServiceSecurityProfile {
	p := strict(toWeb, v1alpha1.StrategyImmediate)
	p.Spec.JWT = &v1alpha1.JWT{
		Requirement: v1alpha1.TokenRequired,
		Issuers:     []v1alpha1.Issuer{{Issuer: "https://issuer.example.com", JWKSURI: "https://issuer.example.com/keys"}},
	}
	p.Spec.Authorization = &v1alpha1.Authorization{
		Default:        v1alpha1.DefaultDeny,
		AllowedCallers: []v1alpha1.Caller{{Name: "front", ServiceAccounts: []v1alpha1.ServiceAccountRef{"clients/front"}}},
		DeniedCallers:  []v1alpha1.Caller{{Name: "old", Namespaces: []v1alpha1.NamespaceName{"legacy"}}},
	}
	return p
}
