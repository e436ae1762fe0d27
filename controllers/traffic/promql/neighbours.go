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
		if name := string(s.Metric[destinationWorkload]); name != "" && name != unknown {
			names[name] = struct{}{}
		}
	}
	return slices.Collect(maps.Keys(names))
}

// afresh is a history that is read anew. Since when a workload is there is known from the one before, unless the server's clock
// was set back since.
func (h *history) afresh(now time.Time) *history {
	next := newHistory()
	if h == nil || now.Before(h.to) {
		return next
	}
	for name, w := range h.workloads {
		next.workloads[name] = newWorkload(w.found)
	}
	return next
}

// learnServing takes in which pods count for which suspects.
func (h *history) learnServing(a *answer) {
	h.serving = map[object][]object{}
	for _, s := range a.counts {
		if s.Metric[part] != partServes {
			continue
		}
		pod, name := a.named(s.Metric), a.workload(s.Metric)
		h.serving[pod] = append(h.serving[pod], name)
		if p := h.pods[pod]; p != nil && p.present {
			w := h.workload(a, s.Metric)
			w.lived = later(w.lived, p.at)
		}
	}
}

// suspect lists the suspects.
func (h *history) suspect() {
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

// neighbours judges the workloads beside the target's, in its namespaces, that had plaintext since the stretch began. now is the
// operator's time.
func (v *view) neighbours(now time.Time) {
	v.look(now)
	claimed := map[object]struct{}{} // by the target's pods, under another name than they have
	for pod := range v.pods {
		for _, name := range v.history.serving[pod] {
			claimed[name] = struct{}{}
		}
	}
	var namespaces []string
	for name := range v.workloads {
		namespaces = append(namespaces, name.namespace)
	}
	slices.Sort(namespaces)
	for _, namespace := range slices.Compact(namespaces) {
		for _, s := range v.history.suspects[namespace] {
			if !s.last.After(v.since) {
				break // so it is with the rest
			}
			if _, ours := v.workloads[s.name]; !ours {
				_, ours = claimed[s.name]
				v.neighbour(s, ours)
			}
		}
	}
}

// look remembers since when the target is looked at without a break, and which workloads were its own.
func (v *view) look(now time.Time) {
	p := v.profile
	if gone := now.Sub(p.looked); gone > v.apart() || p.steady.After(v.now) { // or the server's clock was set back
		p.steady = v.now
	}
	p.looked = now
	for name := range p.own {
		if _, ours := v.workloads[name]; !ours {
			p.left[name] = v.now
		}
	}
	p.own = make(map[object]struct{}, len(v.workloads))
	for name := range v.workloads {
		p.own[name] = struct{}{}
		delete(p.left, name)
		delete(p.others, name)
	}
	for name, left := range p.left {
		if left.After(v.now) {
			p.left[name] = v.now
		}
	}
	if !v.behind() {
		unheard := func(name object) bool { return v.history.workloads[name] == nil }
		maps.DeleteFunc(p.left, func(name object, _ time.Time) bool { return unheard(name) })
		maps.DeleteFunc(p.others, func(name object, _ struct{}) bool { return unheard(name) })
	}
}

// apart is how far apart looks at a target are at the most, to be without a break.
func (v *view) apart() time.Duration { return max(2*v.interval, maxSkew) }

// neighbour judges one of them. One that is no more may have been of the target, and is taken for it; one that is between two
// pods, or whose scrapes fail, is given a while to show up. One that lived on beside the target for long enough for its pods to
// have been among the target's is another's, also when it goes: that is told by series alone, as other pods may have names like
// those of the ones that went.
func (v *view) neighbour(s suspect, claimed bool) {
	noticed := later(v.profile.steady, v.profile.left[s.name])
	if s.found.After(noticed) {
		noticed = s.found.Add(v.apart()) // it may have been the target's between two looks
	}
	if !s.lived.Before(noticed.Add(maxSkew)) {
		v.profile.others[s.name] = struct{}{}
	}
	_, another := v.profile.others[s.name]
	switch {
	case len(s.clusters) > 1:
		for cluster := range s.clusters {
			v.problems.clusters = append(v.problems.clusters, cluster)
		}
	case claimed:
		v.bump(s.last, fmt.Sprintf("plaintext was seen at workload %s, as the metrics of the target's pods name it", s.name))
	case another:
	case v.behind() || v.now.Sub(noticed) < recently:
		v.problems.beside = append(v.problems.beside, s.name.String())
	default:
		v.bump(s.last, fmt.Sprintf("plaintext was seen at workload %s, which is no more and may have been of the target", s.name))
	}
}
