package status

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/traffic"
)

// Significant says whether two statuses differ in what must be written at once. What differs otherwise (counts, the time
// something was last seen, the evidence) is written at most once a minute.
func Significant(before, after v1alpha1.ServiceSecurityProfileStatus) bool {
	return !equality.Semantic.DeepEqual(essence(before), essence(after))
}

// Overstates says whether a status claims a stretch without plaintext that is longer than the true one by more than a writer's
// delay: somebody edited it, and a restart of the operator must not find it.
func Overstates(before, now v1alpha1.ServiceSecurityProfileStatus, delay time.Duration) bool {
	if before.MTLS == nil || before.MTLS.CleanSinceTime == nil || now.MTLS == nil || now.MTLS.CleanSinceTime == nil {
		return false
	}
	return now.MTLS.CleanSinceTime.Sub(before.MTLS.CleanSinceTime.Time) > delay
}

// Equal says whether two statuses say the same.
func Equal(before, after v1alpha1.ServiceSecurityProfileStatus) bool {
	return equality.Semantic.DeepEqual(before, after)
}

func essence(status v1alpha1.ServiceSecurityProfileStatus) v1alpha1.ServiceSecurityProfileStatus {
	out := *status.DeepCopy()
	for i := range out.Conditions {
		out.Conditions[i].LastTransitionTime = metav1.Time{}
	}
	if a := out.Authorization; a != nil && a.ObservedTime != nil {
		a.ObservedTime = &metav1.Time{}
		for i := range a.DryRun {
			// Whether anybody would be refused is news; how many are is not.
			a.DryRun[i].Allowed, a.DryRun[i].Refused = 0, min(a.DryRun[i].Refused, 1)
		}
	}
	if out.MTLS == nil {
		return out
	}
	out.MTLS.Evidence = whether(out.MTLS.Evidence)
	out.MTLS.LastPlaintextTime, out.MTLS.EligibleTime, out.MTLS.CleanSinceTime = nil, nil, nil
	for i := range out.MTLS.Rollouts {
		r := &out.MTLS.Rollouts[i]
		r.Evidence, r.LastPlaintextTime, r.CleanSinceTime = whether(r.Evidence), nil, nil
	}
	for i := range out.MTLS.PlaintextCallers {
		out.MTLS.PlaintextCallers[i] = traffic.CallerID(out.MTLS.PlaintextCallers[i])
	}
	slices.SortFunc(out.MTLS.PlaintextCallers, func(a, b v1alpha1.PlaintextCaller) int {
		return strings.Compare(fmt.Sprint(a), fmt.Sprint(b))
	})
	return out
}

// whether there is evidence is news: a restart of the operator must not find what proves nothing any more.
func whether(evidence *v1alpha1.Evidence) *v1alpha1.Evidence {
	if !evidence.Proves() {
		return nil
	}
	return &v1alpha1.Evidence{}
}
