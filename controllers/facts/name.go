package facts

import "github.com/servicesecurity/operator/api/v1alpha1"

// RuleName is the name of the profile's DestinationRule for a Service: a Service profile has one rule, of its own name;
// a Workload profile has one for each Service.
func RuleName(profile string, kind v1alpha1.TargetKind, service string) string {
	if kind == v1alpha1.TargetService {
		return profile
	}
	return profile + "-" + service
}
