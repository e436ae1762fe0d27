package status

import (
	"fmt"
	"slices"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/traffic"
)

// whoCalls names callers and what to do about them, in an order that does not follow their counts.
func whoCalls(all []v1alpha1.PlaintextCaller) string {
	var known []string
	unnamed := ""
	for _, c := range all {
		name := traffic.NameOf(c)
		switch {
		case c.Refused:
		case name == "":
			unnamed = ", and from callers that the target's proxies cannot name"
		case !slices.Contains(known, name):
			known = append(known, name)
		}
	}
	if len(known) == 0 {
		return "a workload outside the mesh, whose name the target's proxies cannot tell. Its address is in their access logs, if these are on; move it into the mesh."
	}
	slices.Sort(known)
	return and(known) + unnamed + ". Move what calls in plaintext into the mesh; status.mtls.plaintextCallers counts it by caller."
}

// refusedCallers are those that STRICT refuses, by name and port, in an order that does not follow their counts.
func refusedCallers(r report) []string {
	strict := len(r.Members) > 0 || r.mtls.Stage == v1alpha1.StageEnforced || r.mtls.Stage == v1alpha1.StageVerifying
	if !r.secures() || !r.Spec.AsksStrict() || !strict {
		return nil
	}
	var refused []string
	for _, c := range r.mtls.PlaintextCallers {
		if c.Refused {
			refused = append(refused, fmt.Sprintf("%s on port %d", or(traffic.NameOf(c), "an unknown workload"), c.Port))
		}
	}
	slices.Sort(refused)
	return slices.Compact(refused)
}
