package rollout

import (
	"fmt"
	"slices"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/traffic"
)

// plaintextGate: somebody would be cut off.
func plaintextGate(in Input) []v1alpha1.Blocker {
	var blockers []v1alpha1.Blocker
	if recent(in) {
		if all := accepted(in.Seen.Callers); in.Seen.NotAttributable && !slices.ContainsFunc(all, onPort) {
			blockers = append(blockers, blocker(v1alpha1.BlockerPortNotAttributable, "Plaintext was seen, and it cannot be told whether only excepted ports took it. Expose the proxies' connection statistics (proxyStatsMatcher with inclusionSuffixes downstream_cx_total, downstream_cx_ssl_total, downstream_cx_active and downstream_cx_ssl_active).")...)
		} else {
			blockers = append(blockers, blocker(v1alpha1.BlockerPlaintextSeen, "Callers still send plaintext: %s. Move them into the mesh; their counts are in status.mtls.plaintextCallers.%s%s", callers(all), onePort(in, all), whoIsUnknown(all))...)
		}
	}
	if in.Seen.OpenPlaintext > 0 {
		blockers = append(blockers, blocker(v1alpha1.BlockerPlaintextConnectionsOpen, "Plaintext connections to the target are open. Move their clients into the mesh, or close them, which a restart of the target's pods does: STRICT would cut them off.")...)
	}
	return blockers
}

// accepted are the callers that were let in. Who was refused, by an earlier STRICT, does not hold the next.
func accepted(all []v1alpha1.PlaintextCaller) []v1alpha1.PlaintextCaller {
	return slices.DeleteFunc(slices.Clone(all), func(c v1alpha1.PlaintextCaller) bool { return c.Refused })
}

// onPort says that the port is known on which the caller sent plaintext, which is one that matters.
func onPort(c v1alpha1.PlaintextCaller) bool { return c.Port != 0 }

// callers names the worst callers, in an order that does not change with every count.
func callers(all []v1alpha1.PlaintextCaller) string {
	known := unique(all, func(c v1alpha1.PlaintextCaller) string {
		name := traffic.NameOf(c)
		switch {
		case name == "" && c.Protocol != "":
			return "an unknown workload (" + c.Protocol + ", outside the mesh, so its proxy cannot name it)"
		case name == "":
			return "an unknown workload (outside the mesh, so its proxy cannot name it)"
		case onPort(c):
			return fmt.Sprintf("%s on port %d", clip(name, maxName-len(" on port 65535")), c.Port)
		}
		return name
	})
	if len(known) == 0 {
		return "an unknown workload"
	}
	slices.Sort(known[:min(len(known), maxNames)])
	return names(known)
}

// maxCallers is how many callers an observation lists: of more, it is not known to which ports they go.
const maxCallers = 20

// onePort says that all plaintext goes to one port of several, which an exception would let the others do without.
func onePort(in Input, all []v1alpha1.PlaintextCaller) string {
	if len(all) == 0 || len(all) >= maxCallers || in.Facts.Target.Scope != v1alpha1.ScopeWorkload {
		return ""
	}
	port := all[0].Port
	elsewhere := func(c v1alpha1.PlaintextCaller) bool { return c.Port != port }
	another := func(p facts.WorkloadPort) bool {
		return p.Port != port && in.Spec.Asked.At(p.Port) == v1alpha1.ModeStrict
	}
	if port == 0 || slices.ContainsFunc(all, elsewhere) || !slices.ContainsFunc(in.Facts.Ports, another) {
		return ""
	}
	with, others := "with", "the other ports"
	if in.Spec.Member {
		// The CRD refuses portLevel in the profile of a whole namespace.
		with, others = "with a profile of its own for this workload that has", "its other ports and the rest of the namespace"
	}
	return fmt.Sprintf(" All of it goes to workload port %d: %s the exception {port: %d, mode: Permissive} in mtls.portLevel %s can become STRICT before that.", port, with, port, others)
}

// whoIsUnknown says how to get the name of a caller that the proxies cannot name.
func whoIsUnknown(all []v1alpha1.PlaintextCaller) string {
	unknown := slices.ContainsFunc(all, func(c v1alpha1.PlaintextCaller) bool { return traffic.NameOf(c) == "" })
	if len(all) > 0 && !unknown {
		return ""
	}
	return " The address of an unknown one is in the access logs of the target's proxies; docs/observation.md says how to turn them on."
}
