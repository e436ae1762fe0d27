package rollout_test

import (
	"testing"
	"time"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/rollout"
)

// What a part of the target takes while no proxy counts it is no evidence, however clean the other part is: a stretch never
// includes such a time.
func TestStretchIsObservedInFull(t *testing.T) {
	outsider := sidecar("httpbin-2")
	outsider.Membership = facts.MemberNone
	excluded := sidecar("httpbin-1")
	excluded.ExcludedStrict = []string{"9443"}
	for name, hide := range map[string]func(*facts.Facts){
		"a pod without a sidecar":              func(f *facts.Facts) { f.Pods = append(f.Pods, outsider) },
		"a port that bypasses the proxy":       func(f *facts.Facts) { f.Pods = []facts.Pod{excluded} },
		"a WorkloadEntry":                      func(f *facts.Facts) { f.WorkloadEntries = []string{"foo/vm"} },
		"a remote cluster":                     func(f *facts.Facts) { f.RemoteClusters = []string{"west"} },
		"a Telemetry that disables the metric": func(f *facts.Facts) { f.TelemetryOverrides = []string{"foo/quiet"} },
		"a mesh without a provider of metrics": func(f *facts.Facts) { f.Uncounted = true },
	} {
		t.Run(name, func(t *testing.T) {
			in := full()
			hide(&in.Facts)
			hidden := rollout.Next(in)
			if !hidden.CleanSince.IsZero() || !hidden.Eligible.IsZero() || hidden.Stage != v1alpha1.StageBlocked {
				t.Errorf("while it is there: %s since %s, eligible %s", hidden.Stage, hidden.CleanSince, hidden.Eligible)
			}
			in = full()
			in.Previous.Stage, in.Previous.CleanSince = hidden.Stage, hidden.CleanSince
			in.Previous.Unobserved = rollout.Unobserved(hidden.Blockers)
			after := rollout.Next(in)
			if !after.CleanSince.Equal(in.Now) || after.Switched {
				t.Errorf("once it is gone: switched %t, clean since %s, not %s", after.Switched, after.CleanSince, in.Now)
			}
			pass(&in, time.Minute)
			in.Previous.CleanSince, in.Previous.Unobserved = after.CleanSince, false
			if got := rollout.Next(in); !got.CleanSince.Equal(after.CleanSince) {
				t.Errorf("a minute later: clean since %s, not %s", got.CleanSince, after.CleanSince)
			}
		})
	}
}

// An object that still tells of its switch was STRICT until somebody edited it, whatever status knows.
func TestStretchBeginsAfterStrictWasTakenBack(t *testing.T) {
	in := full()
	switchedUnseen(&in)
	in.Facts.Policy.Form = permissive
	if got := rollout.Next(in); got.Switched || !got.CleanSince.Equal(in.Now) {
		t.Errorf("switched %t, clean since %s, not %s", got.Switched, got.CleanSince, in.Now)
	}
	in.Facts.Policy.Selector = map[string]string{"app": "other"}
	if got := rollout.Next(in); !got.CleanSince.Equal(in.Previous.CleanSince) {
		t.Errorf("an object for other pods began the stretch anew at %s", got.CleanSince)
	}
}

// While the spec asked for no STRICT nothing was judged, and before that STRICT may have been in force: whom it refused no history
// shows. A source that has a history begins with the edit, too, unless the profile is new.
func TestStretchBeginsWithTheEditToStrict(t *testing.T) {
	in := full()
	in.Previous = rollout.Previous{Generation: 1, NotRequested: true}
	in.Spec.Generation = 2
	if got := rollout.Next(in); got.Switched || !got.CleanSince.Equal(in.Now) {
		t.Errorf("after an edit: switched %t, clean since %s, not %s", got.Switched, got.CleanSince, in.Now)
	}
	for name, previous := range map[string]rollout.Previous{"a new profile": {}, "one whose target was not there before": {Generation: 2}} {
		in.Previous = previous
		if got := rollout.Next(in); !got.Switched {
			t.Errorf("%s: %s since %s", name, got.Stage, got.CleanSince)
		}
	}
}

// A source that is behind, as a Prometheus is by up to a scrape, is not asked again and again until it has caught up.
func TestWaitsForAReadingThatIsBehind(t *testing.T) {
	for name, tc := range map[string]struct {
		behind, want time.Duration
	}{
		"behind":           {10 * time.Second, 10 * time.Second},
		"more than once":   {time.Minute, interval},
		"hardly":           {20 * time.Millisecond, 20 * time.Millisecond},
		"not behind, late": {0, 3 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			in := full()
			in.Seen.Time = in.Now.Add(-tc.behind)
			if tc.behind == 0 {
				in.Seen.Since = in.Seen.Since.Add(tc.want)
				in.Previous.CleanSince = in.Seen.Since
			}
			if got := rollout.Next(in); got.Stage != v1alpha1.StageObserving || got.After != tc.want {
				t.Errorf("%s, comes back after %s, not %s", got.Stage, got.After, tc.want)
			}
		})
	}
}
