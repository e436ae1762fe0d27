package controllers

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

// TestTransitions: a rollback is one, whether it is a namespace's workload or a profile of its own that it is of.
func TestTransitions(t *testing.T) {
	const rolledBack, blocked, observing, enforced = v1alpha1.StageRolledBack, v1alpha1.StageBlocked, v1alpha1.StageObserving, v1alpha1.StageEnforced
	at := func(stage v1alpha1.Stage, workloads ...v1alpha1.Stage) v1alpha1.ServiceSecurityProfileStatus {
		mtls := &v1alpha1.MTLSStatus{Stage: stage}
		for i, one := range workloads {
			mtls.Rollouts = append(mtls.Rollouts, v1alpha1.WorkloadRollout{Name: fmt.Sprint(i), Stage: one})
		}
		return v1alpha1.ServiceSecurityProfileStatus{MTLS: mtls}
	}
	many := func(stage v1alpha1.Stage) v1alpha1.ServiceSecurityProfileStatus {
		status := at(stage)
		for i := range 2 * maxRolloutEvents {
			status.MTLS.Rollouts = append(status.MTLS.Rollouts, v1alpha1.WorkloadRollout{Name: fmt.Sprint(i), Stage: stage})
		}
		return status
	}
	for name, tc := range map[string]struct {
		before, after v1alpha1.ServiceSecurityProfileStatus
		want          map[v1alpha1.Stage]int
	}{
		"nothing":                         {at(observing), at(observing), nil},
		"a profile":                       {at(v1alpha1.StageVerifying), at(rolledBack), map[v1alpha1.Stage]int{rolledBack: 1}},
		"a new profile":                   {v1alpha1.ServiceSecurityProfileStatus{}, at(blocked), map[v1alpha1.Stage]int{blocked: 1}},
		"a profile without its section":   {at(blocked), v1alpha1.ServiceSecurityProfileStatus{}, nil},
		"a back-off that goes on":         {at(""), at(rolledBack), nil},
		"the first workload":              {at(observing, v1alpha1.StageVerifying, observing), at(rolledBack, rolledBack, observing), map[v1alpha1.Stage]int{rolledBack: 1}},
		"the next":                        {at(rolledBack, rolledBack, v1alpha1.StageVerifying), at(rolledBack, rolledBack, rolledBack), map[v1alpha1.Stage]int{rolledBack: 1}},
		"another is left at its stage":    {at(rolledBack, rolledBack, blocked), at(blocked, observing, blocked), map[v1alpha1.Stage]int{observing: 1}},
		"what holds the namespace itself": {at(enforced, enforced), at(blocked, enforced), map[v1alpha1.Stage]int{blocked: 1}},
		"more than there are events for":  {many(observing), many(blocked), map[v1alpha1.Stage]int{blocked: 2 * maxRolloutEvents}},
	} {
		t.Run(name, func(t *testing.T) {
			var got map[v1alpha1.Stage]int
			for _, stage := range transitions(tc.before, tc.after) {
				if got == nil {
					got = map[v1alpha1.Stage]int{}
				}
				got[stage]++
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("stages (-want +got):\n%s", diff)
			}
		})
	}
}
