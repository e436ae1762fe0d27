package traffic_test

import (
	"slices"
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

// TestKeepCallers: what status knew before a restart names callers until their window has passed, and is no plaintext.
func TestKeepCallers(t *testing.T) {
	t.Parallel()
	start, now := time.Unix(1000, 0), time.Unix(2000, 0)
	caller := func(name, address string, seen time.Time, refused bool) v1alpha1.PlaintextCaller {
		return v1alpha1.PlaintextCaller{Workload: name, Address: address, Protocol: "HTTP", Requests: 5, LastSeenTime: &metav1.Time{Time: seen}, Refused: refused}
	}
	cron, web := caller("cron", "10.0.0.1", start, false), caller("web", "", start, false)
	for name, tc := range map[string]struct {
		seen, before, want []v1alpha1.PlaintextCaller
	}{
		"nobody told yet":        {nil, []v1alpha1.PlaintextCaller{cron, web}, []v1alpha1.PlaintextCaller{cron, web}},
		"refused":                {nil, []v1alpha1.PlaintextCaller{caller("cron", "10.0.0.1", start, true)}, []v1alpha1.PlaintextCaller{caller("cron", "10.0.0.1", start, true)}},
		"before the window":      {nil, []v1alpha1.PlaintextCaller{caller("cron", "10.0.0.1", start.Add(-1), false), {Workload: "never"}}, nil},
		"in the future":          {nil, []v1alpha1.PlaintextCaller{caller("cron", "10.0.0.1", now.Add(1), false)}, nil},
		"told again":             {[]v1alpha1.PlaintextCaller{cron, web}, []v1alpha1.PlaintextCaller{caller("cron", "10.0.0.1", start, false), caller("web", "", start, false)}, []v1alpha1.PlaintextCaller{cron, web}},
		"its address got a name": {[]v1alpha1.PlaintextCaller{cron}, []v1alpha1.PlaintextCaller{caller("unknown", "10.0.0.1", start, false)}, []v1alpha1.PlaintextCaller{cron}},
		"another without address": {
			[]v1alpha1.PlaintextCaller{web}, []v1alpha1.PlaintextCaller{caller("db", "", start, false)}, []v1alpha1.PlaintextCaller{caller("db", "", start, false), web},
		},
		"named by the metrics, and by the log since": {
			[]v1alpha1.PlaintextCaller{cron}, []v1alpha1.PlaintextCaller{caller("cron", "", start, false)}, []v1alpha1.PlaintextCaller{cron},
		},
		"refused now": {
			[]v1alpha1.PlaintextCaller{caller("cron", "10.0.0.1", start, true)}, []v1alpha1.PlaintextCaller{cron}, []v1alpha1.PlaintextCaller{cron, caller("cron", "10.0.0.1", start, true)},
		},
	} {
		before := traffic.Observation{Completeness: traffic.Complete, Callers: tc.seen}
		after := before.Keep(tc.before, start, now)
		if diff := cmp.Diff(tc.want, after.Callers); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if after.Callers = before.Callers; !cmp.Equal(before, after) {
			t.Errorf("%s: more than callers were kept: %+v", name, after)
		}
	}
	many := traffic.Observation{}.Keep(slices.Repeat([]v1alpha1.PlaintextCaller{web, cron}, traffic.MaxCallers), start, now)
	if len(many.Callers) != traffic.MaxCallers {
		t.Errorf("%d callers", len(many.Callers))
	}
}
