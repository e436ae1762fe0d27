package rollout_test

import (
	"maps"
	"slices"
	"time"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/rollout"
	"github.com/servicesecurity/operator/controllers/traffic"
)

const (
	interval = 15 * time.Second
	settle   = 5 * time.Second
	window   = time.Hour
	hostName = "httpbin.foo.svc.cluster.local"
)

var (
	noon     = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	selector = map[string]string{"app": "httpbin"}

	permissive = facts.Form{Mode: v1alpha1.ModePermissive}
	strict     = facts.Form{Mode: v1alpha1.ModeStrict}
	disabled   = facts.Form{Mode: v1alpha1.ModeDisabled}
)

func form(mode v1alpha1.Mode, port int32, other v1alpha1.Mode) facts.Form {
	return facts.Form{Mode: mode, Ports: map[int32]v1alpha1.Mode{port: other}}
}

func sidecar(name string) facts.Pod {
	return facts.Pod{Namespace: "foo", Name: name, UID: name, IP: "10.0.0.1", Ready: true, Membership: facts.MemberSidecar}
}

func ownPolicy(f facts.Form) facts.Policy {
	return facts.Policy{Exists: true, Owned: true, Form: f, Selector: maps.Clone(selector)}
}

func ownRule(tls facts.TLS) facts.Rule {
	return facts.Rule{Name: "httpbin", Owned: true, Host: hostName, TLS: tls}
}

// base is a clean target under observation for half of its window: own PERMISSIVE, the rule in place, one sidecar.
func base() rollout.Input {
	return rollout.Input{
		Spec: rollout.Spec{
			Generation: 1, Asked: strict,
			DestinationRule: v1alpha1.DestinationRuleAuto, Strategy: v1alpha1.StrategyStaged,
			ObservationWindow: window, VerificationWindow: 10 * time.Minute, MinRequests: 1,
			Rollback: v1alpha1.RollbackAutomatic, Approval: v1alpha1.ApprovalAutomatic,
		},
		Facts: facts.Facts{
			Mesh:         facts.Mesh{PeerAuthentications: true, DestinationRules: true, RootNamespace: "istio-system", TrustDomain: "cluster.local", AutoMTLS: true},
			Target:       facts.Target{Scope: v1alpha1.ScopeWorkload, Selector: maps.Clone(selector)},
			Pods:         []facts.Pod{sidecar("httpbin-1")},
			Hosts:        []facts.Host{{Name: hostName, Service: "httpbin", Ports: []facts.ServicePort{{Port: 80, TargetPort: 8080, Name: "http"}, {Port: 443, TargetPort: 9443, Name: "tls"}}, Endpoints: 1}},
			Policy:       ownPolicy(permissive),
			Rules:        []facts.Rule{ownRule(facts.TLSMutual)},
			UnchangedFor: time.Hour,
			Inherited:    v1alpha1.ModePermissive,
		},
		Seen: traffic.Observation{
			Completeness: traffic.Complete, Time: noon, Since: noon.Add(-30 * time.Minute), MutualTLS: 100,
			Proxies: []traffic.Reading{{Namespace: "foo", Name: "httpbin-1", UID: "httpbin-1", Started: noon.Add(-48 * time.Hour), ListenerUpdates: 7}},
		},
		Previous: rollout.Previous{
			Generation: 1, Stage: v1alpha1.StageObserving, Inherited: v1alpha1.ModePermissive, CleanSince: noon.Add(-30 * time.Minute),
		},
		Held: ownPolicy(permissive),
		Now:  noon, Interval: interval, Settle: settle,
	}
}

// full is base with the window full, read live.
func full() rollout.Input {
	in := base()
	in.Seen.Since = noon.Add(-window)
	in.Previous.CleanSince = in.Seen.Since
	in.Facts.Live = true
	return in
}

// verifying is a target five minutes after the switch; its proxy took it.
func verifying() rollout.Input {
	in := base()
	in.Facts.Policy = ownPolicy(strict)
	in.Facts.Policy.SwitchedAt, in.Facts.Policy.Previous = noon.Add(-5*time.Minute), permissive
	in.Held = in.Facts.Policy
	in.Previous = rollout.Previous{
		Generation: 1, Stage: v1alpha1.StageVerifying, Inherited: v1alpha1.ModePermissive, Enforced: noon.Add(-5 * time.Minute),
	}
	before := in.Seen.Proxies[0]
	before.ListenerUpdates--
	in.Baseline = map[string]traffic.Reading{before.UID: before}
	return in
}

func enforced() rollout.Input {
	in := base()
	in.Facts.Policy = ownPolicy(strict)
	in.Held = in.Facts.Policy
	in.Seen = traffic.Observation{Completeness: traffic.Skipped}
	in.Previous = rollout.Previous{
		Generation: 1, Stage: v1alpha1.StageEnforced, Inherited: v1alpha1.ModePermissive, Enforced: noon.Add(-time.Hour),
	}
	return in
}

func rolledBack() rollout.Input {
	in := base()
	in.Facts.Policy.RolledBack = facts.Rollback{Generation: 1, Attempts: 1, Time: noon.Add(-5 * time.Minute)}
	in.Previous = rollout.Previous{
		Generation: 1, Stage: v1alpha1.StageRolledBack, Inherited: v1alpha1.ModePermissive, Attempts: 1, NextAttempt: noon.Add(10 * time.Minute),
	}
	return in
}

func with(in rollout.Input, edits ...func(*rollout.Input)) rollout.Input {
	for _, edit := range edits {
		edit(&in)
	}
	return in
}

// clone copies an input to its depths, so that a test can tell whether Next changed it.
func clone(in rollout.Input) rollout.Input {
	forms := func(f facts.Form) facts.Form { return facts.Form{Mode: f.Mode, Ports: maps.Clone(f.Ports)} }
	policy := func(p facts.Policy) facts.Policy {
		p.Form, p.Previous, p.Selector = forms(p.Form), forms(p.Previous), maps.Clone(p.Selector)
		return p
	}
	in.Spec.Asked = forms(in.Spec.Asked)
	in.Facts.Policy, in.Held = policy(in.Facts.Policy), policy(in.Held)
	in.Facts.Target.Selector = maps.Clone(in.Facts.Target.Selector)
	in.Facts.Pods = slices.Clone(in.Facts.Pods)
	in.Facts.Rules = slices.Clone(in.Facts.Rules)
	in.Facts.ClientRules = slices.Clone(in.Facts.ClientRules)
	in.Facts.CompetingPolicies = slices.Clone(in.Facts.CompetingPolicies)
	in.Facts.Hosts = slices.Clone(in.Facts.Hosts)
	for i := range in.Facts.Hosts {
		in.Facts.Hosts[i].Ports = slices.Clone(in.Facts.Hosts[i].Ports)
	}
	in.Seen.Proxies = slices.Clone(in.Seen.Proxies)
	in.Seen.Callers = slices.Clone(in.Seen.Callers)
	in.FailingCallers = slices.Clone(in.FailingCallers)
	in.Facts.Rules = slices.Clone(in.Facts.Rules)
	for i := range in.Facts.Rules {
		in.Facts.Rules[i].Ports = maps.Clone(in.Facts.Rules[i].Ports)
	}
	in.Baseline = maps.Clone(in.Baseline)
	return in
}

func types(blockers []v1alpha1.Blocker) []v1alpha1.BlockerType {
	var out []v1alpha1.BlockerType
	for _, b := range blockers {
		out = append(out, b.Type)
	}
	return out
}
