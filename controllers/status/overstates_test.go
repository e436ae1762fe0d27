package status_test

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/status"
)

func TestOverstates(t *testing.T) {
	since := func(at time.Duration) v1alpha1.ServiceSecurityProfileStatus {
		return v1alpha1.ServiceSecurityProfileStatus{MTLS: &v1alpha1.MTLSStatus{CleanSinceTime: &metav1.Time{Time: start.Add(at)}}}
	}
	none := v1alpha1.ServiceSecurityProfileStatus{}
	for name, tc := range map[string]struct {
		before, now v1alpha1.ServiceSecurityProfileStatus
		want        bool
	}{
		"the same":             {since(0), since(0), false},
		"behind by a write":    {since(0), since(time.Minute), false},
		"edited to a year ago": {since(-8760 * time.Hour), since(0), true},
		"edited to tomorrow":   {since(24 * time.Hour), since(0), false},
		"lost":                 {none, since(0), false},
		"a new one":            {since(-time.Hour), none, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := status.Overstates(tc.before, tc.now, time.Minute); got != tc.want {
				t.Errorf("Overstates is %t", got)
			}
		})
	}
}
