package controllers

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/resolve"
	"github.com/servicesecurity/operator/controllers/rollout"
	"github.com/servicesecurity/operator/controllers/traffic"
)

const (
	// callsTimeout bounds one reading of the callers' proxies.
	callsTimeout = 10 * time.Second
	// callsBefore is for how many intervals before a window is full the callers' proxies are read: what fails already is no
	// fault of the switch.
	callsBefore = 4
)

// watch reads what the callers' own proxies count of their calls, around the switch and while it is verified. At no other time
// does it read anything.
func (p *run) watch(ctx context.Context) {
	switched := p.switched().SwitchedAt
	if !p.watches(switched) {
		p.known.calls, p.known.meshed = nil, nil
		return
	}
	if p.known.calls == nil {
		p.known.calls = &rollout.CallHistory{}
	}
	// Only who succeeded before the switch counts. After a restart these are taken from what the target's proxies have counted
	// in their lives.
	if switched.IsZero() || len(p.known.meshed) == 0 {
		p.known.meshed = p.out.Seen.Meshed
	}
	if len(p.known.meshed) == 0 {
		return
	}
	callers, err := p.senders(ctx)
	if err != nil {
		log.FromContext(ctx).Error(err, "Finding the callers' pods failed")
		return
	}
	within, cancel := p.within(ctx, callsTimeout, callsTimeout)
	defer cancel()
	p.known.calls.Note(p.Calls.Calls(within, traffic.CallsRequest{
		Profile: p.known.observed, Services: services(p.out.Facts, p.profile.Namespace, p.Resolver), Callers: callers,
	}), switched)
}

// failing are the callers that the switch cut off, by all that tells it.
func (p *run) failing() []string {
	evidence := rollout.Evidence{Failing: p.known.calls.Failing(), Refused: p.refused}
	return evidence.FailingCallers()
}

// cutOff names who is refused because of the switch, by access logs: not on what was STRICT before.
func (p *run) cutOff(ctx context.Context) []string {
	switched := p.switched()
	if switched.SwitchedAt.IsZero() {
		return nil
	}
	turned := slices.DeleteFunc(slices.Clone(p.out.Facts.Pods), func(pod facts.Pod) bool { return pod.Secured })
	return p.AccessLogs.Logged(ctx, traffic.LogRequest{
		Proxies: proxies(turned), Ports: p.out.Spec.TurnedStrict(switched.Previous), Since: switched.SwitchedAt,
	}).Failing(switched.SwitchedAt)
}

// switched is the object with the switch whose verification goes on; empty if there is none. The cache may not have it yet.
func (p *run) switched() facts.Policy {
	if own := p.out.Facts.Policy; own.Owned && !own.SwitchedAt.IsZero() {
		return own
	}
	return p.known.held
}

// watches says whether the callers' side matters now: while the switch is verified, and shortly before it.
func (p *run) watches(switched time.Time) bool {
	spec := p.out.Spec
	if p.Calls == nil || !spec.AsksStrict() || spec.Strategy != v1alpha1.StrategyStaged || spec.VerificationWindow == 0 {
		return false
	}
	return !switched.IsZero() || p.out.Facts.Live || p.near()
}

// near says that the window is full, or almost, and that nothing but a person or the reading itself holds the switch.
func (p *run) near() bool {
	return p.hold == "" && !p.behind && near(p.profile, p.out.Spec, p.out.Decision.Eligible, p.out.Now, p.Interval)
}

func near(profile *v1alpha1.ServiceSecurityProfile, spec rollout.Spec, eligible, now time.Time, interval time.Duration) bool {
	mtls := profile.Status.MTLS
	if mtls == nil || spec.Suspend || eligible.IsZero() || eligible.Sub(now) > callsBefore*interval {
		return false
	}
	if mtls.Stage == v1alpha1.StageBlocked {
		// What a proxy's own word lacks is made good by its next ones, which must not cease because of that.
		return !slices.ContainsFunc(mtls.Blockers, func(b v1alpha1.Blocker) bool { return b.Type != v1alpha1.BlockerTelemetryIncomplete })
	}
	return mtls.Stage == v1alpha1.StageObserving || mtls.Stage == v1alpha1.StageAwaitingApproval
}

// senders are the callers with the proxies that send their calls. One without a workload's name stands for all workloads under
// its identity.
func (p *run) senders(ctx context.Context) ([]traffic.CallerProxies, error) {
	type identity struct{ namespace, account string }
	pods := map[identity][]facts.Pod{}
	proxies := map[string][]traffic.Proxy{}
	for _, caller := range p.known.meshed {
		namespace, account, ok := caller.Identity()
		if !ok {
			proxies[caller.Name()] = nil
			continue
		}
		id := identity{namespace, account}
		if _, read := pods[id]; !read {
			found, err := p.Resolver.Senders(ctx, namespace, account)
			if err != nil {
				return nil, err
			}
			pods[id] = found
		}
		addSenders(proxies, caller, pods[id])
	}
	out := make([]traffic.CallerProxies, 0, len(proxies))
	for _, name := range slices.Sorted(maps.Keys(proxies)) {
		out = append(out, traffic.CallerProxies{Name: name, Proxies: few(proxies[name])})
	}
	return out[:min(len(out), traffic.MaxMeshedCallers)], nil
}

// addSenders adds a caller's pods, by the name of its workload.
func addSenders(proxies map[string][]traffic.Proxy, caller traffic.MeshedCaller, pods []facts.Pod) {
	found := false
	for _, pod := range pods {
		if caller.Workload != "" && caller.Workload != pod.Workload {
			continue
		}
		found = true
		name := pod.Namespace + "/" + pod.Workload
		proxy := traffic.Proxy{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, Workload: pod.Workload, Address: pod.IP, Created: pod.Created}
		if !slices.Contains(proxies[name], proxy) {
			proxies[name] = append(proxies[name], proxy)
		}
	}
	if !found && proxies[caller.Name()] == nil {
		proxies[caller.Name()] = nil
	}
}

// few are the oldest of a caller's pods, which stay the same from reading to reading.
func few(proxies []traffic.Proxy) []traffic.Proxy {
	slices.SortFunc(proxies, func(a, b traffic.Proxy) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.Name, b.Name))
	})
	return proxies[:min(len(proxies), traffic.MaxCallerProxies)]
}

// services are those that clients call to reach the target.
func services(f facts.Facts, namespace string, resolver *resolve.Resolver) traffic.Services {
	domain := cmp.Or(resolver.ClusterDomain, resolve.DefaultClusterDomain)
	switch f.Target.Scope {
	case v1alpha1.ScopeMesh:
		return traffic.Services{Suffix: ".svc." + domain}
	case v1alpha1.ScopeNamespace:
		return traffic.Services{Suffix: "." + namespace + ".svc." + domain}
	case v1alpha1.ScopeWorkload, v1alpha1.ScopeGateway:
	}
	var out traffic.Services
	for _, host := range f.Hosts {
		out.Names = append(out.Names, host.Name)
	}
	return out
}
