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
	{"target kind Gateway", targets(v1alpha1.TargetGateway)},
	{"target kind Namespace", targets(v1alpha1.TargetNamespace)},
	{"target kind Mesh", targets(v1alpha1.TargetMesh)},
	{"the section jwt", func(s v1alpha1.ServiceSecurityProfileSpec) bool { return s.JWT != nil }},
	{"the section authorization", func(s v1alpha1.ServiceSecurityProfileSpec) bool { return s.Authorization != nil }},
}

func targets(kind v1alpha1.TargetKind) func(v1alpha1.ServiceSecurityProfileSpec) bool {
	return func(s v1alpha1.ServiceSecurityProfileSpec) bool { return s.Target.Kind == kind }
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
