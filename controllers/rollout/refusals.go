package rollout

import (
	"maps"
	"slices"
	"time"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

// Refusals are what plaintext workloads refuse by policies of anyone else than the profile, by "namespace/workload". Nobody counts
// that, and whoever sent it may come back once it is not refused any more.
type Refusals map[string]refusal

type refusal struct {
	// form is STRICT on the ports on which plaintext is refused.
	form facts.Form
	// at is when it was last seen.
	at time.Time
}

// RefusalsOf are those of the pods that are there to stay.
func RefusalsOf(pods []facts.Pod, now time.Time) Refusals {
	found := Refusals{}
	for _, pod := range pods {
		if !pod.Terminating && !pod.Refused.Empty() {
			name := refuser(pod)
			found[name] = refusal{form: either(found[name].form, pod.Refused), at: now}
		}
	}
	return found
}

func refuser(pod facts.Pod) string { return pod.Namespace + "/" + pod.Workload }

// either is STRICT where one of two forms is.
func either(a, b facts.Form) facts.Form {
	ports := slices.AppendSeq(slices.Collect(maps.Keys(a.Ports)), maps.Keys(b.Ports))
	return b.Map(ports, func(port int32, mode v1alpha1.Mode) v1alpha1.Mode {
		if a.At(port) == v1alpha1.ModeStrict {
			return v1alpha1.ModeStrict
		}
		return mode
	})
}

// Released takes in what is refused now, and says whether a workload takes plaintext that it refused before. One that has no pods, or
// none for which the profile decides, is remembered for as long as the window: it may be back before who was refused had the time to
// show up.
func (r Refusals) Released(pods []facts.Pod, window time.Duration, now time.Time) bool {
	refused, released := RefusalsOf(pods, now), false
	for _, pod := range pods {
		before, known := r[refuser(pod)]
		if !known || pod.Terminating || pod.Excepted {
			continue
		}
		released = released || !refused[refuser(pod)].form.NoWeaker(before.form)
		delete(r, refuser(pod))
	}
	maps.Copy(r, refused)
	maps.DeleteFunc(r, func(_ string, one refusal) bool { return now.Sub(one.at) > window })
	return released
}

// Text tells them in order, the same as long as they are.
func (r Refusals) Text() []string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(r)) {
		all = append(all, name+" "+r[name].form.String())
	}
	return all
}
