package rollout

import (
	"slices"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

// clientRules are the DestinationRules that must be there now. A rule that demands mutual TLS goes with everything but
// DISABLE on the server's side, and one that forbids it with everything but STRICT: between them the server is
// PERMISSIVE, and the rule follows, port by port.
func clientRules(in Input) []Rule {
	var rules []Rule
	for _, host := range hosts(in) {
		if rule := ruleNow(in, host); !rule.empty() {
			rules = append(rules, rule)
		}
	}
	return rules
}

// hosts are those that the profile may have rules for: the wildcard of a whole namespace or the mesh, or the target's.
func hosts(in Input) []facts.Host {
	if w := in.Facts.Wildcard; w != nil {
		return []facts.Host{{Name: w.Host}}
	}
	return in.Facts.Hosts
}

// exempt are the hosts that the rule for a wildcard must not cover, if there is one.
func exempt(in Input, rules []Rule) []facts.Exempt {
	if in.Facts.Wildcard == nil || len(rules) == 0 {
		return nil
	}
	return in.Facts.Wildcard.Exempt
}

// ruleNow is what the host's rule must be at this step; it is empty if there must be none.
func ruleNow(in Input, host facts.Host) Rule {
	now, goal := liveRule(in, host), goalRule(in, host)
	whole := wanted(in, host)
	tls := step(in, host, []int32{0}, now.TLS, whole)
	ports := make([]facts.TLS, len(host.Ports))
	stuck, harms := tls != whole, false
	for i, port := range host.Ports {
		from, to := now.at(port.Port), goal.at(port.Port)
		ports[i] = step(in, host, port.Targets(), from, to)
		stuck = stuck || ports[i] != to
		harms = harms || from == facts.TLSDisable && slices.ContainsFunc(port.Targets(), func(target int32) bool { return strictAt(in, target) })
	}
	if goal.empty() && stuck && !harms {
		// A rule goes whole, and so not before all of its ports may, unless it makes clients do what STRICT refuses: that goes first.
		return now
	}
	return ruleOf(host, tls, ports)
}

// goalRule is what clients of a host are to do, regardless of the steps on the way there.
func goalRule(in Input, host facts.Host) Rule {
	tls := wanted(in, host)
	ports := make([]facts.TLS, len(host.Ports))
	for i, port := range host.Ports {
		ports[i] = portGoal(in, host, tls, port.Targets())
	}
	return ruleOf(host, tls, ports)
}

// portGoal is what clients are to do at a port that leads to these workload ports, if they are to do that elsewhere.
func portGoal(in Input, host facts.Host, tls facts.TLS, targets []int32) facts.TLS {
	off := 0
	for _, target := range targets {
		if in.Spec.Asked.At(target) == v1alpha1.ModeDisabled {
			off++
		}
	}
	switch {
	case tls == facts.TLSUnset, off > 0 && off < len(targets):
		// Pods that differ in the port, and so in what they take, are told apart by auto-mTLS alone.
		return facts.TLSUnset
	case off > 0:
		return facts.TLSDisable
	case tls == facts.TLSDisable:
		return wantedMutual(in, host)
	}
	return tls
}

// ruleOf is the rule that says this, and that of each of the host's ports. A port is left to auto-mTLS only by a rule without
// tls that has no entry for it: an entry without tls leaves the rule's in force. So one such port makes the rule name all others.
func ruleOf(host facts.Host, tls facts.TLS, ports []facts.TLS) Rule {
	if slices.Contains(ports, facts.TLSUnset) {
		tls = facts.TLSUnset
	}
	rule := Rule{Host: host, TLS: tls}
	for i, port := range host.Ports {
		if ports[i] != tls {
			rule.Ports = append(rule.Ports, RulePort{Port: port.Port, TLS: ports[i]})
		}
	}
	return rule
}

// mutual says that clients are told to use mutual TLS, if only on a port.
func (r Rule) mutual() bool {
	return r.TLS == facts.TLSMutual || slices.ContainsFunc(r.Ports, func(p RulePort) bool { return p.TLS == facts.TLSMutual })
}

// empty says that clients are told nothing, which takes no rule.
func (r Rule) empty() bool { return r.TLS == facts.TLSUnset && len(r.Ports) == 0 }

func wanted(in Input, host facts.Host) facts.TLS {
	switch {
	case in.Spec.Asked.Empty() || in.Spec.DestinationRule == v1alpha1.DestinationRuleNever:
		return facts.TLSUnset
	case in.Spec.Asked.Mode == v1alpha1.ModeDisabled && in.Facts.Wildcard != nil && in.Facts.Mesh.AutoMTLS:
		// Clients are told by each workload whether it takes mutual TLS; a wildcard would overrule those that do.
		return facts.TLSUnset
	case in.Spec.Asked.Mode == v1alpha1.ModeDisabled:
		return facts.TLSDisable
	}
	return wantedMutual(in, host)
}

// wantedMutual says whether clients of a host are told to use mutual TLS, or left to auto-mTLS.
func wantedMutual(in Input, host facts.Host) facts.TLS {
	// Without a rule these clients would fall back to plaintext, which STRICT refuses.
	keep := needed(in, host) && strictLive(in) && (liveRule(in, host).TLS == facts.TLSMutual || !foreignRule(in, host))
	switch {
	case in.Spec.DestinationRule == v1alpha1.DestinationRuleAlways:
		return facts.TLSMutual
	case in.Spec.AsksStrict() && (harmless(in, host) || keep):
		return facts.TLSMutual
	}
	return facts.TLSUnset
}

// harmless: every ready endpoint takes mutual TLS, and no rule of anyone is replaced by this one, since rules do not
// merge. No endpoints for a moment are no reason to take a rule away.
func harmless(in Input, host facts.Host) bool {
	if in.Facts.Wildcard != nil {
		// What does not take mutual TLS under the wildcard has rules of its own; with auto-mTLS no rule is needed at all.
		return !in.Facts.Mesh.AutoMTLS
	}
	known := host.Endpoints > 0 || liveRule(in, host).mutual()
	return known && len(host.UnmeshedEndpoints) == 0 && !foreignRule(in, host)
}

func foreignRule(in Input, host facts.Host) bool {
	return slices.ContainsFunc(in.Facts.ClientRules, func(r facts.ClientRule) bool { return r.Host == host.Name })
}

// needed: auto-mTLS makes clients of this host send plaintext.
func needed(in Input, host facts.Host) bool {
	return !in.Facts.Mesh.AutoMTLS || host.Headless || in.Facts.PlaintextInherited()
}

// strictLive says whether STRICT is in force on a port where it is asked for.
func strictLive(in Input) bool {
	now := live(in)
	return slices.ContainsFunc(reach(in, now), func(port int32) bool {
		return in.Spec.Asked.At(port) == v1alpha1.ModeStrict && now.At(port) == v1alpha1.ModeStrict
	})
}

// step is what clients of workload ports do next on the way from one setting to another.
func step(in Input, host facts.Host, ports []int32, from, to facts.TLS) facts.TLS {
	for _, port := range ports {
		if !mayChange(in, host, port, from, to) {
			return from
		}
	}
	return to
}

// mayChange says whether the server's side of a port is ready for its clients to change.
func mayChange(in Input, host facts.Host, port int32, from, to facts.TLS) bool {
	// Where auto-mTLS does not make clients use mutual TLS, to take the rule away is to send plaintext.
	plaintext := needed(in, host) && in.Spec.DestinationRule != v1alpha1.DestinationRuleNever
	switch {
	case from == to, from == facts.TLSMutual && to == facts.TLSUnset && !plaintext:
		return true
	case strictAt(in, port):
		return to == facts.TLSMutual || to == facts.TLSUnset && from != facts.TLSMutual
	case live(in).At(port) == v1alpha1.ModeDisabled:
		return to == facts.TLSDisable || to == facts.TLSUnset && in.Spec.Asked.At(port) == v1alpha1.ModeDisabled
	}
	// PERMISSIVE takes both, once every proxy has it.
	return settled(in)
}

// strictAt says whether STRICT is in force on a port, or comes back this moment: after drift, or with the parent.
func strictAt(in Input, port int32) bool {
	return live(in).At(port) == v1alpha1.ModeStrict || in.Spec.Asked.At(port) == v1alpha1.ModeStrict && strictInForce(in)
}

func settled(in Input) bool { return in.Facts.UnchangedFor >= in.Settle }

// at is what clients of a Service port do.
func (r Rule) at(port int32) facts.TLS {
	for _, p := range r.Ports {
		if p.Port == port {
			return p.TLS
		}
	}
	return r.TLS
}

// liveRule is the profile's rule for the host as it is; where there is none, it says nothing.
func liveRule(in Input, host facts.Host) Rule {
	rule := Rule{Host: host}
	for _, r := range in.Facts.Rules {
		if !r.Owned || r.Host != host.Name {
			continue
		}
		rule.TLS = r.TLS
		for _, port := range host.Ports {
			if tls, ok := r.Ports[port.Port]; ok && tls != rule.TLS {
				rule.Ports = append(rule.Ports, RulePort{Port: port.Port, TLS: tls})
			}
		}
		break
	}
	return rule
}

// liveRules are the profile's rules as they are.
func liveRules(in Input) []Rule {
	var rules []Rule
	for _, host := range hosts(in) {
		if rule := liveRule(in, host); !rule.empty() {
			rules = append(rules, rule)
		}
	}
	return rules
}

// rulesInPlace says that clients are told all that they are to be told in the end.
func rulesInPlace(in Input) bool {
	for _, host := range hosts(in) {
		now, goal := liveRule(in, host), goalRule(in, host)
		if now.TLS != goal.TLS || !slices.Equal(now.Ports, goal.Ports) {
			return false
		}
	}
	return true
}

// clientsReady says that STRICT meets no client that was told otherwise: the server takes both, the rules are in place,
// and there was time for proxies to take that.
func clientsReady(in Input) bool {
	now := live(in)
	for _, port := range reach(in, now) {
		if in.Spec.Asked.At(port) == v1alpha1.ModeStrict && now.At(port) == v1alpha1.ModeDisabled {
			return false
		}
	}
	nothingOwn := !in.Facts.Policy.Exists && len(liveRules(in)) == 0
	return rulesInPlace(in) && (nothingOwn || settled(in))
}

// clientsFollow says that the rules tell clients of a workload port what they are to be told in the end, and for long enough.
func clientsFollow(in Input, port int32) bool {
	if !settled(in) {
		return false
	}
	for _, host := range hosts(in) {
		now, goal := liveRule(in, host), goalRule(in, host)
		if port == 0 && now.TLS != goal.TLS {
			return false
		}
		for _, p := range host.Ports {
			same := slices.ContainsFunc(p.Targets(), func(target int32) bool { return target == port || port == 0 && !excepted(in, target) })
			if same && now.at(p.Port) != goal.at(p.Port) {
				return false
			}
		}
	}
	return true
}

func excepted(in Input, port int32) bool {
	_, ok := in.Spec.Asked.Ports[port]
	return ok
}
