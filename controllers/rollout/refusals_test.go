package rollout_test

import (
	"slices"
	"testing"
	"time"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/rollout"
)

// TestRefusals: a stretch begins anew when a workload takes plaintext again that somebody else's policy made it refuse, and not when
// only the policy is another, or the workload has no pods any more.
func TestRefusals(t *testing.T) {
	pod := func(refused facts.Form, edits ...func(*facts.Pod)) facts.Pod {
		p := facts.Pod{Namespace: "foo", Name: "web-1", Workload: "web", Refused: refused}
		for _, edit := range edits {
			edit(&p)
		}
		return p
	}
	excepted := func(p *facts.Pod) { p.Excepted = true }
	going := func(p *facts.Pod) { p.Terminating = true }
	other := func(p *facts.Pod) { p.Name, p.Workload = "batch-1", "batch" }
	none, on8080 := facts.Form{}, form(v1alpha1.ModePermissive, 8080, v1alpha1.ModeStrict)
	but8080 := form(v1alpha1.ModeStrict, 8080, v1alpha1.ModePermissive)
	type step []facts.Pod
	for name, tc := range map[string]struct {
		steps []step
		want  []bool
	}{
		"nothing is refused":                 {[]step{{pod(none)}, {pod(none)}}, []bool{false, false}},
		"it goes on":                         {[]step{{pod(strict)}, {pod(strict)}}, []bool{false, false}},
		"it ends, once":                      {[]step{{pod(strict)}, {pod(none)}, {pod(none)}}, []bool{false, true, false}},
		"it ends for a new pod":              {[]step{{pod(strict)}, {pod(none, func(p *facts.Pod) { p.Name = "web-2" })}}, []bool{false, true}},
		"it ends for one of two workloads":   {[]step{{pod(strict), pod(strict, other)}, {pod(none), pod(strict, other)}}, []bool{false, true}},
		"it ends on a port":                  {[]step{{pod(strict)}, {pod(but8080)}}, []bool{false, true}},
		"it ends on all but a port":          {[]step{{pod(strict)}, {pod(on8080)}}, []bool{false, true}},
		"it ends on the port that it was on": {[]step{{pod(on8080)}, {pod(none)}}, []bool{false, true}},
		"it comes on more":                   {[]step{{pod(on8080)}, {pod(strict)}}, []bool{false, false}},
		"one pod more that takes it":         {[]step{{pod(strict)}, {pod(strict), pod(none)}}, []bool{false, false}},
		"a job is over":                      {[]step{{pod(none), pod(strict, other)}, {pod(none)}, {pod(none), pod(strict, other)}}, []bool{false, false, false}},
		"it ends while there are no pods":    {[]step{{pod(strict)}, {}, {pod(none)}}, []bool{false, false, true}},
		"its pods go, the policy first":      {[]step{{pod(strict)}, {pod(none, going)}, {}}, []bool{false, false, false}},
		"pods that are not the profile's":    {[]step{{pod(strict, excepted)}, {pod(none, excepted)}, {pod(none)}}, []bool{false, false, true}},
		"long after there were none":         {[]step{{pod(strict)}, {}, {}, {}, {}, {}, {pod(none)}}, []bool{false, false, false, false, false, false, false}},
	} {
		t.Run(name, func(t *testing.T) {
			known, now := rollout.Refusals{}, noon
			for i, step := range tc.steps {
				if got := known.Released(step, window, now); got != tc.want[i] {
					t.Errorf("step %d: %t", i, got)
				}
				now = now.Add(window/4 + time.Second)
			}
		})
	}
	got := rollout.RefusalsOf([]facts.Pod{pod(strict, other), pod(on8080), pod(strict, going)}, noon).Text()
	if want := []string{"foo/batch Strict", "foo/web Permissive,8080=Strict"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
