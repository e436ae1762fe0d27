package promql

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Which workloads are the target's is told by its pods. What left the target while nobody looked is told by status, by the
// set of workloads that were observed, and where that does not know it, by plaintext of a workload that is nobody's any more.

// suspect is a workload that had plaintext.
type suspect struct {
	name object
	last time.Time // when it had any
	*workload
}

// neighbour is what is known of a suspect beside the target's workloads.
type neighbour struct {
	// claimed says that the metrics of the target's own pods named it: it is the target's, whatever its name is.
	claimed bool
	// until is up to when its plaintext is another's.
	until time.Time
	// doubted is since when it is not known whose its plaintext is, and counted up to when that was taken for the target's.
	doubted, counted time.Time
}

// sight is what the looks at a target saw, by which the workloads beside it are judged.
type sight struct {
	targets string // as the request said
	// listed is a time on the operator's clock at which, or before which, the target's pods were listed, and pods are those that
	// were listed then or later.
	listed time.Time
	pods   map[object]struct{}
	// looked is the last look, on the server's clock, and jumped when a clock was last found to have jumped before it.
	looked, jumped time.Time
}

// suspects are the names of the workloads that had plaintext in a history, or have it in an answer to it.
func (a *answer) suspects(h *history) []string {
	names := map[string]struct{}{}
	if h != nil {
		for _, list := range h.suspects {
			for _, s := range list {
				names[s.name.name] = struct{}{}
			}
		}
	}
	for _, s := range a.times {
		names[string(s.Metric[destinationWorkload])] = struct{}{}
	}
	// One whose name is longer than any can be is not asked about. It is never known for another's then.
	maps.DeleteFunc(names, func(name string, _ struct{}) bool { return name == "" || name == unknown || len(name) > maxName })
	return slices.Sorted(maps.Keys(names))
}

// learnServing takes in which pods count for which suspects.
func (h *history) learnServing(a *answer) {
	for _, w := range h.workloads {
		w.pods = nil
	}
	h.serving = map[object][]object{}
	for _, s := range a.counts {
		if s.Metric[part] == partServes {
			pod, name, w := a.named(s.Metric), a.workload(s.Metric), h.workload(a, s.Metric)
			h.serving[pod] = append(h.serving[pod], name)
			w.pods = append(w.pods, pod)
		}
	}
}

// listSuspects lists them anew.
func (h *history) listSuspects() {
	h.suspects = map[string][]suspect{}
	for name, w := range h.workloads {
		if last := w.moved(); name.name != "" && !last.IsZero() {
			h.suspects[name.namespace] = append(h.suspects[name.namespace], suspect{name, last, w})
		}
	}
	for _, list := range h.suspects {
		slices.SortFunc(list, func(x, y suspect) int { return y.last.Compare(x.last) })
	}
}

// evidence marks what was observed as this source's, and stands for the target's workloads, and for what others have them refuse.
func (v *view) evidence() string {
	names := make([]string, 0, len(v.workloads))
	for name := range v.workloads {
		names = append(names, fmt.Sprintf("%q", name))
	}
	slices.Sort(names)
	sum := sha256.Sum256([]byte(strings.Join(slices.Concat(names, v.req.Refused), "\n")))
	return evidenceOf + " " + hex.EncodeToString(sum[:16])
}

// resume judges what status kept of the time before this process: what a workload saw last that left since then is not known, nor
// what was refused by a policy that went. A digest does not tell that from one that came, which would lose nothing: both restart the
// stretch. Without evidence and without a stretch the profile is new, or was never observed.
func (v *view) resume() {
	e := v.req.Evidence
	if e == nil && v.req.CleanSince.IsZero() || e != nil && e.Proxies == v.evidence() {
		return
	}
	v.lost("other workloads may have been of the target before the operator was away, or others refused plaintext to it, and what they saw last is not known")
	v.profile.told = v.history.from // so that this is told
}

// neighbours judges the workloads beside the target's, in its namespaces, that had plaintext since the stretch began.
func (v *view) neighbours() {
	if v.behind() {
		return // nothing is concluded yet
	}
	v.remember()
	known := v.profile.beside
	var namespaces []string
	for name := range v.workloads {
		namespaces = append(namespaces, name.namespace)
		delete(known, name)
	}
	for pod := range v.pods {
		for _, name := range v.history.serving[pod] {
			if _, ours := v.workloads[name]; !ours {
				v.neighbour(name).claimed = true
			}
		}
	}
	slices.Sort(namespaces)
	for _, namespace := range slices.Compact(namespaces) {
		for _, s := range v.history.suspects[namespace] { // the last first, so that what it restarts the stretch by is told
			_, ours := v.workloads[s.name]
			switch k := known[s.name]; {
			case ours:
			case s.last.After(v.since):
				v.judge(s, v.neighbour(s.name))
			case k != nil:
				k.doubted = time.Time{}
			}
		}
	}
	maps.DeleteFunc(known, func(name object, _ *neighbour) bool { return v.history.workloads[name] == nil })
	v.see()
}

// remember drops what is remembered of the workloads beside another target, or of a clock that is no more. What was to hold for
// a while after the last look does not hold in an absence after it.
func (v *view) remember() {
	known, seen := v.profile.beside, &v.profile.seen
	if seen.targets != v.req.Targets || !seen.jumped.Equal(v.poll.jumped) {
		clear(known)
		*seen = sight{}
	}
	if v.now.Sub(seen.looked) > 2*max(maxSkew, v.interval) { // looks may wait for a slow answer
		for _, k := range known {
			if last := seen.looked.Add(maxSkew); k.until.After(last) {
				k.until = last
			}
		}
	}
}

// see remembers this look. The time of a listing is kept until the server's data reaches well past it, as samples may be late, and
// answers: between a look and the one after it there need be no scrape that is read by then.
func (v *view) see() {
	seen := &v.profile.seen
	if seen.listed.IsZero() || !v.early(v.poll.now).Before(seen.listed.Add(2*v.history.interval+maxSkew/2)) {
		seen.listed, seen.pods = v.asked, make(map[object]struct{}, len(v.pods))
	}
	for name := range v.pods {
		seen.pods[name] = struct{}{}
	}
	seen.targets, seen.looked, seen.jumped = v.req.Targets, v.now, v.poll.jumped
}

func (v *view) neighbour(name object) *neighbour {
	known := v.profile.beside[name]
	if known == nil {
		known = &neighbour{}
		v.profile.beside[name] = known
	}
	return known
}

// judge judges one of them. One that is no more may have been of the target, and is taken for it; one that is between two pods,
// or whose scrapes fail, is given a while to show up.
func (v *view) judge(s suspect, known *neighbour) {
	if v.anothers(s) {
		known.until = v.now.Add(recently) // for as long its pods may be others before it is known again
	}
	switch {
	case len(s.clusters) > 1:
		for cluster := range s.clusters {
			v.problems.clusters = append(v.problems.clusters, cluster)
		}
	case known.claimed:
		v.bump(s.last, fmt.Sprintf("plaintext was seen at workload %s, as the metrics of the target's pods name it", s.name))
	case !s.last.After(known.until):
		known.doubted = time.Time{}
	case s.last.After(known.counted) && known.doubted.IsZero():
		known.doubted = v.now
		fallthrough
	case v.now.Sub(known.doubted) < recently:
		v.problems.beside = append(v.problems.beside, s.name.String())
	default:
		known.counted, known.doubted = later(known.counted, s.last), time.Time{}
		v.bump(s.last, fmt.Sprintf("plaintext was seen at workload %s, which is no more and may have been of the target", s.name))
	}
}

// anothers says whether a workload has a pod that lived on beside the target: that ran for long enough before the target's pods
// were listed to have been listed with them, was scraped after that, and is not, and was not, among them. It is told by series
// alone, as other pods may have names like those of the ones that went.
func (v *view) anothers(s suspect) bool {
	seen := v.profile.seen
	return slices.ContainsFunc(s.pods, func(name object) bool {
		_, ours := v.pods[name]
		_, was := seen.pods[name]
		p := v.history.pods[name]
		return !ours && !was && p != nil && p.present &&
			!v.own(p.started).Add(maxSkew).After(seen.listed) && !v.early(p.at).Before(seen.listed)
	})
}
