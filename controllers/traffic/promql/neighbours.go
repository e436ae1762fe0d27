package promql

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Which workloads are the target's is told by its pods. What left the target while nobody looked is told by status, by the
// set of workloads that were observed, and where that does not know it, by plaintext of a workload that is nobody's any more.

// neighbour is a workload beside the target's.
type neighbour struct {
	// noticed is when it was first found there, or again since it was the target's.
	noticed time.Time
	// another says that it is another's: it lived on beside the target. That stays so when its pods go.
	another bool
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

// neighbours judges the workloads beside the target's, in its namespaces.
func (v *view) neighbours() {
	known := v.profile.beside
	var namespaces []string
	for name := range v.workloads {
		namespaces = append(namespaces, name.namespace)
		delete(known, name)
	}
	slices.Sort(namespaces)
	for _, namespace := range slices.Compact(namespaces) {
		for _, name := range v.history.beside[namespace] {
			if _, ours := v.workloads[name]; !ours {
				v.neighbour(name, v.history.workloads[name])
			}
		}
	}
	for name := range known {
		if v.history.workloads[name] == nil && !v.behind() {
			delete(known, name)
		}
	}
}

// neighbour judges one of them. One that is no more may have been of the target, and is taken for it; one that is between two
// pods, or whose scrapes fail, is given a while to show up.
func (v *view) neighbour(name object, w *workload) {
	known := v.profile.beside[name]
	if known == nil {
		known = &neighbour{noticed: v.now}
		v.profile.beside[name] = known
	}
	if known.noticed.After(v.now) {
		known.noticed = v.now // the server's clock was set back
	}
	known.another = known.another || v.lives(w, known.noticed)
	switch last := w.moved(); {
	case !last.After(v.since):
	case len(w.clusters) > 1:
		for cluster := range w.clusters {
			v.problems.clusters = append(v.problems.clusters, cluster)
		}
	case known.another:
	case v.behind() || v.now.Sub(known.noticed) < recently:
		v.problems.beside = append(v.problems.beside, name.String())
	default:
		v.bump(last, fmt.Sprintf("plaintext was seen at workload %s, which is no more and may have been of the target", name))
	}
}

// lives says whether a workload has a pod that is not the target's, and that was scraped long enough after that was found for
// the pod to have been there: one that is no more is not scraped for that long. It is told by series alone, as other pods may
// have names like those of the ones that went.
func (v *view) lives(w *workload, found time.Time) bool {
	return slices.ContainsFunc(w.pods, func(name object) bool {
		_, ours := v.pods[name]
		p := v.history.pods[name]
		return !ours && p != nil && p.present && !p.at.Before(found.Add(maxSkew))
	})
}
