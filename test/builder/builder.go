// Package builder takes a seed and a number and returns a random profile that the API server accepts, with random facts of
// its target. It is pure: the same seed and number give the same case.
package builder

import (
	"math/rand/v2"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/traffic"
)

// RootNamespace of the mesh that the facts tell of.
const RootNamespace = "istio-system"

// Options narrow what is made.
type Options struct {
	// KeysAt is an address below which every key set and every issuer that is discovered lies; empty for addresses of all
	// forms, at which nobody answers.
	KeysAt string
}

// Case is a profile, and what the cluster says of its target.
type Case struct {
	Profile *v1alpha1.ServiceSecurityProfile
	Facts   facts.Facts
	Seen    traffic.Observation
}

// maker makes one case.
type maker struct {
	*rand.Rand
	options Options
	// ports of which all parts of a case take most of theirs, so that they meet.
	ports []int32
}

// Make returns the case of the seed with the number.
func Make(seed, number uint64, options Options) Case {
	m := &maker{Rand: rand.New(rand.NewPCG(seed, number)), options: options}
	m.ports = many(m, 6, m.anyPort)
	profile := &v1alpha1.ServiceSecurityProfile{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.SchemeGroupVersion.String(), Kind: v1alpha1.Kind},
		ObjectMeta: metav1.ObjectMeta{Namespace: m.label(63), Name: m.subdomain(189), Generation: 1 + m.Int64N(5)},
		Spec:       v1alpha1.ServiceSecurityProfileSpec{Target: m.target()},
	}
	if profile.Spec.Target.Kind == v1alpha1.TargetMesh {
		profile.Namespace = RootNamespace
	}
	m.sections(&profile.Spec)
	c := Case{Profile: profile}
	c.Facts = m.facts(profile)
	c.Seen = m.observation(c.Facts)
	return c
}

// sections sets at least one.
func (m *maker) sections(spec *v1alpha1.ServiceSecurityProfileSpec) {
	gateway := spec.Target.Kind == v1alpha1.TargetGateway
	for spec.MTLS == nil && spec.JWT == nil && spec.Authorization == nil {
		if !gateway && m.chance(50) {
			spec.MTLS = m.mtls(spec.Target.Kind)
		}
		if m.chance(50) {
			spec.JWT = m.jwt()
		}
		if m.chance(60) {
			spec.Authorization = m.authorization()
		}
	}
}

func (m *maker) target() v1alpha1.Target {
	kind := pick(m,
		v1alpha1.TargetService, v1alpha1.TargetService, v1alpha1.TargetService, v1alpha1.TargetWorkload, v1alpha1.TargetWorkload,
		v1alpha1.TargetGateway, v1alpha1.TargetNamespace, v1alpha1.TargetMesh)
	target := v1alpha1.Target{Kind: kind}
	switch kind {
	case v1alpha1.TargetService:
		target.Name = m.label(63)
	case v1alpha1.TargetGateway:
		target.Name = m.subdomain(253)
	case v1alpha1.TargetWorkload:
		target.Selector = &v1alpha1.WorkloadSelector{MatchLabels: m.labels(16)}
	case v1alpha1.TargetNamespace, v1alpha1.TargetMesh:
		target.IncludeGateways = m.maybe()
	}
	return target
}

func (m *maker) mtls(kind v1alpha1.TargetKind) *v1alpha1.MTLS {
	out := &v1alpha1.MTLS{
		Mode:            m.mode(),
		DestinationRule: pick(m, "", v1alpha1.DestinationRuleAuto, v1alpha1.DestinationRuleAlways, v1alpha1.DestinationRuleNever),
	}
	if (kind == v1alpha1.TargetService || kind == v1alpha1.TargetWorkload) && m.chance(50) {
		for _, port := range many(m, 16, m.port) {
			exception := v1alpha1.PortMTLS{Port: port, Mode: m.mode()}
			for exception.Mode == out.Mode {
				exception.Mode = m.mode()
			}
			out.PortLevel = append(out.PortLevel, exception)
		}
	}
	if m.chance(70) {
		out.Rollout = m.rollout(kind)
	}
	return out
}

func (m *maker) mode() v1alpha1.Mode {
	return pick(m, v1alpha1.ModeStrict, v1alpha1.ModeStrict, v1alpha1.ModePermissive, v1alpha1.ModeDisabled)
}

func (m *maker) rollout(kind v1alpha1.TargetKind) *v1alpha1.Rollout {
	out := &v1alpha1.Rollout{
		Strategy:           pick(m, "", v1alpha1.StrategyStaged, v1alpha1.StrategyImmediate, v1alpha1.StrategyImmediate),
		ObservationWindow:  pick[v1alpha1.Duration](m, "", "24h", "1ms", "8760h", "0h0m0s500ms", "1h30m", "99999s", "8759h59m60s"),
		VerificationWindow: pick[v1alpha1.Duration](m, "", "10m", "0s", "168h", "00001h", "167h60m"),
		Rollback:           pick(m, "", v1alpha1.RollbackAutomatic, v1alpha1.RollbackNever),
		Approval:           pick(m, "", v1alpha1.ApprovalAutomatic, v1alpha1.ApprovalManual),
		Suspend:            m.maybe(),
	}
	if out.Strategy == v1alpha1.StrategyImmediate && out.Approval == v1alpha1.ApprovalManual {
		out.Approval = v1alpha1.ApprovalAutomatic
	}
	if m.chance(50) {
		requests := pick[int64](m, 0, 1, 1000, 1_000_000_000)
		out.MinRequests = &requests
	}
	if kind == v1alpha1.TargetNamespace && m.chance(50) {
		most := 1 + m.Int32N(100)
		out.MaxConcurrent = &most
	}
	return out
}
