package controllers

import (
	"fmt"
	"strings"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

// unsupported is the one list of what the API has and the operator does not do yet. A profile that asks for any of it is
// not accepted, so that nothing is silently ignored.
var unsupported = []struct {
	what  string
	asked func(v1alpha1.ServiceSecurityProfileSpec) bool
}{
	{"rollout.strategy Staged for target kind Namespace (write Immediate, or a profile for each workload)", staged(v1alpha1.TargetNamespace)},
	{"rollout.strategy Staged for target kind Mesh (write Immediate, or a profile for each workload)", staged(v1alpha1.TargetMesh)},
}

func staged(kind v1alpha1.TargetKind) func(v1alpha1.ServiceSecurityProfileSpec) bool {
	return func(s v1alpha1.ServiceSecurityProfileSpec) bool {
		return s.Target.Kind == kind && s.MTLS != nil && s.MTLS.Mode == v1alpha1.ModeStrict &&
			(s.MTLS.Rollout == nil || s.MTLS.Rollout.Strategy != v1alpha1.StrategyImmediate)
	}
}

// unsupportedBy names what a profile asks for in vain; nil if nothing.
func unsupportedBy(profile *v1alpha1.ServiceSecurityProfile) *facts.Problem {
	var asked []string
	for _, u := range unsupported {
		if u.asked(profile.Spec) {
			asked = append(asked, u.what)
		}
	}
	if len(asked) == 0 {
		return nil
	}
	return &facts.Problem{
		Reason:  v1alpha1.ReasonUnsupported,
		Message: fmt.Sprintf("This version of the operator does not support %s. Take it out of the profile; docs/roadmap.md says what works.", strings.Join(asked, ", ")),
	}
}
