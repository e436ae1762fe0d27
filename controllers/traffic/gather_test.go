package traffic_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/traffic"
)

func TestGather(t *testing.T) {
	t.Parallel()
	early, late := time.Unix(100, 0), time.Unix(200, 0)
	caller := func(name string, requests int64, at time.Time) v1alpha1.PlaintextCaller {
		return v1alpha1.PlaintextCaller{Workload: name, Requests: requests, LastSeenTime: &metav1.Time{Time: at}}
	}
	skipped := traffic.Observation{Completeness: traffic.Skipped, LastPlaintext: late, MutualTLS: 9}
	clean := traffic.Observation{Completeness: traffic.Complete, Time: late, MutualTLS: 3, ConnectionsVisible: true, Callers: []v1alpha1.PlaintextCaller{caller("a", 1, late)}}
	partial := traffic.Observation{
		Completeness: traffic.Incomplete, Reason: "Incomplete", Message: "No answer.", Time: early, LastPlaintext: early, MutualTLS: 4, OpenPlaintext: 2,
		Callers: []v1alpha1.PlaintextCaller{caller("b", 5, early), caller("a", 2, early)},
	}
	for name, tc := range map[string]struct {
		all  []traffic.Observation
		want traffic.Observation
	}{
		"none":        {nil, traffic.Observation{Completeness: traffic.Skipped, ConnectionsVisible: true}},
		"nobody asks": {[]traffic.Observation{skipped}, traffic.Observation{Completeness: traffic.Skipped, ConnectionsVisible: true}},
		"refused": {
			[]traffic.Observation{{Completeness: traffic.Skipped, Callers: []v1alpha1.PlaintextCaller{caller("a", 1, late)}}},
			traffic.Observation{Completeness: traffic.Skipped, ConnectionsVisible: true, Callers: []v1alpha1.PlaintextCaller{caller("a", 1, late)}},
		},
		"one": {[]traffic.Observation{skipped, clean}, clean},
		"the least complete": {[]traffic.Observation{clean, skipped, partial}, traffic.Observation{
			Completeness: traffic.Incomplete, Reason: "Incomplete", Message: "Workload z: No answer.", Time: late, LastPlaintext: early,
			MutualTLS: 7, OpenPlaintext: 2, Callers: []v1alpha1.PlaintextCaller{caller("b", 5, early), caller("a", 3, late)},
		}},
	} {
		if diff := cmp.Diff(tc.want, traffic.Gather([]string{"x", "y", "z"}, tc.all)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
