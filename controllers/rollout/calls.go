package rollout

import (
	"slices"
	"strings"
	"time"

	"github.com/servicesecurity/operator/controllers/traffic"
)

// A caller fails with the switch if it lost at least minLost calls, and they are at least half of those that it made since,
// or all of those that it made in the last keptReadings; and if before the switch it lost less than half of that share. At
// least half of its pods that call must fail likewise, so that one broken pod of many is no reason.
//
// Five in a row are no accident, and few enough that a caller with one call a minute is noticed in a window of ten. Half is
// far above what a drained listener or a pod that goes away costs, and below what is left when some connections by mutual
// TLS live on.
const (
	minLost      = 5
	keptReadings = 5
	// maxHistories bounds the pods of one caller that are remembered.
	maxHistories = 4 * traffic.MaxCallerProxies
	// maxFailing bounds the callers that are named.
	maxFailing = 20
)

// Evidence is all that says that callers were cut off by the switch. This is where its kinds meet.
type Evidence struct {
	// Failing callers, by their own proxies' counters.
	Failing []string
	// Refused are workloads of the cluster whose plaintext the target refused after the switch, by access logs over
	// authenticated streams.
	Refused []string
}

// FailingCallers are those of Input, in order.
func (e Evidence) FailingCallers() []string {
	all := slices.Concat(e.Failing, e.Refused)
	slices.Sort(all)
	all = slices.Compact(all)
	return all[:min(len(all), maxFailing)]
}

// CallHistory is what the proxies of a target's callers counted before the switch and after it. It is kept in memory: what
// is lost of it with a restart is what came before that, and then a caller's whole life stands for the time before.
type CallHistory struct {
	callers  map[string]*callerHistory
	readings int
}

type callerHistory struct {
	unread string
	pods   map[string]*podHistory
}

// podHistory is of one process of a proxy, or of several of one pod: what one has counted is added to what those before it had.
type podHistory struct {
	// said is what the proxy said last, and sum what it and those before it have counted.
	said, sum tally
	// before the switch: the first reading that is remembered, and the last one.
	before, base tally
	based        bool
	// last readings, the oldest first.
	last []tally
	// reading is the number of the last one.
	reading int
}

// tally counts calls.
type tally struct{ arrived, lost int64 }

func (c tally) total() int64 { return c.arrived + c.lost }

func (c tally) plus(other tally) tally {
	return tally{c.arrived + other.arrived, c.lost + other.lost}
}

// since is what was counted after an earlier reading. A process that began anew counts from zero. One that goes on counts no less
// in all: a connection that is lost has arrived no more.
func (c tally) since(before tally) tally {
	if c.total() < before.total() || c.lost < before.lost {
		return c
	}
	return tally{max(0, c.arrived-before.arrived), c.lost - before.lost}
}

// failing says that at least half of the calls are lost.
func (c tally) failing() bool { return c.lost > 0 && c.lost >= c.arrived }

// Note takes in a reading. switchedAt is when STRICT was written; zero before that.
func (h *CallHistory) Note(calls traffic.Calls, switchedAt time.Time) {
	if h.callers == nil {
		h.callers = map[string]*callerHistory{}
	}
	h.readings++
	asked := make(map[string]bool, len(calls.Callers))
	for _, caller := range calls.Callers {
		asked[caller.Name] = true
		known := h.callers[caller.Name]
		if known == nil {
			known = &callerHistory{pods: map[string]*podHistory{}}
			h.callers[caller.Name] = known
		}
		known.unread = caller.Unread
		known.note(caller.Pods, h.readings, switchedAt)
	}
	for name := range h.callers {
		if !asked[name] {
			delete(h.callers, name)
		}
	}
}

func (c *callerHistory) note(pods []traffic.PodCalls, reading int, switchedAt time.Time) {
	for _, pod := range pods {
		known := c.pods[pod.UID]
		if known == nil {
			if len(c.pods) >= maxHistories {
				c.forget(reading)
			}
			known = &podHistory{}
			c.pods[pod.UID] = known
		}
		known.add(tally{bounded(pod.Arrived), bounded(pod.Failed)})
		if !switchedAt.IsZero() {
			known.settle(pod.Created.After(switchedAt))
		}
		known.reading, known.last = reading, append(known.last, known.sum)
		if len(known.last) > keptReadings {
			known.last = slices.Delete(known.last, 0, 1)
		}
	}
}

// bounded keeps sums of what proxies say from overflowing.
func bounded(n int64) int64 { return min(max(0, n), 1<<53) }

// forget drops the pods that the reading before did not have.
func (c *callerHistory) forget(reading int) {
	for uid, pod := range c.pods {
		if pod.reading < reading-1 {
			delete(c.pods, uid)
		}
	}
}

// add takes in what the proxy says.
func (p *podHistory) add(said tally) {
	more := said.since(p.said)
	p.said, p.sum = said, tally{bounded(p.sum.arrived + more.arrived), bounded(p.sum.lost + more.lost)}
}

// settle fixes what is before the switch, at the first reading after it. All that a pod counted that was made after the
// switch is after it; of one that was not read before, nothing is, and its life is no late reading before it.
func (p *podHistory) settle(young bool) {
	if p.based {
		return
	}
	p.based = true
	switch {
	case len(p.last) > 0:
		p.before, p.base = p.last[0], p.last[len(p.last)-1]
	case !young:
		p.before, p.base = p.sum, p.sum
	}
	p.last = nil
}

// Failing are the callers whose calls began to fail with the switch, ordered by name.
func (h *CallHistory) Failing() []string {
	if h == nil {
		return nil
	}
	var names []string
	for name, caller := range h.callers {
		if caller.fails(h.readings) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// span is what the pods of a caller did between two readings.
type span struct {
	sum              tally
	calling, failing int
}

func (s *span) add(calls tally) {
	if calls.total() == 0 {
		return
	}
	s.sum = s.sum.plus(calls)
	s.calling++
	if calls.failing() {
		s.failing++
	}
}

func (s span) fails() bool {
	return s.sum.lost >= minLost && s.sum.failing() && 2*s.failing >= s.calling
}

func (c *callerHistory) fails(reading int) bool {
	var life, lately tally
	var since, recent span
	for _, pod := range c.pods {
		if !pod.based || len(pod.last) == 0 {
			continue
		}
		now := pod.last[len(pod.last)-1]
		since.add(now.since(pod.base))
		if pod.reading == reading && len(pod.last) == keptReadings {
			recent.add(now.since(pod.last[0]))
		}
		life, lately = life.plus(pod.base), lately.plus(pod.base.since(pod.before))
	}
	before := lately
	if before.total() < minLost {
		before = life
	}
	return since.fails() && before.better(since.sum) || recent.fails() && recent.sum.arrived == 0 && before.better(recent.sum)
}

// better says that the share of lost calls is less than half of what it is later.
func (c tally) better(later tally) bool {
	// In floating point the products cannot overflow, whatever a proxy says.
	return c.total() == 0 || 2*float64(c.lost)*float64(later.total()) < float64(later.lost)*float64(c.total())
}

// Sight is what the callers' own proxies can tell.
type Sight struct {
	// Callers that are watched, ordered by name.
	Callers []string
	// Unseen are those of whom nothing is known, or not all, as "namespace/workload (why)", ordered by name.
	Unseen []string
}

// Sight says whose calls are seen.
func (h *CallHistory) Sight() Sight {
	var s Sight
	if h == nil {
		return s
	}
	for name, caller := range h.callers {
		switch why := caller.unseen(); why {
		case "":
			s.Callers = append(s.Callers, name)
		default:
			s.Unseen = append(s.Unseen, name+" ("+why+")")
		}
	}
	slices.SortFunc(s.Callers, strings.Compare)
	slices.SortFunc(s.Unseen, strings.Compare)
	return s
}

// And is the sight of two workloads of one namespace. A caller that is seen for one of them only is not seen.
func (s Sight) And(other Sight) Sight {
	all := Sight{Callers: slices.Concat(s.Callers, other.Callers), Unseen: slices.Concat(s.Unseen, other.Unseen)}
	for _, names := range []*[]string{&all.Callers, &all.Unseen} {
		slices.Sort(*names)
		*names = slices.Compact(*names)
	}
	return all
}

func (c *callerHistory) unseen() string {
	counted := false
	for _, pod := range c.pods {
		counted = counted || len(pod.last) > 0 && pod.last[len(pod.last)-1].total() > 0
	}
	switch {
	case c.unread != "":
		return c.unread
	case len(c.pods) == 0:
		return "no pod with a sidecar in this cluster has its identity"
	case !counted:
		return "its proxies count no calls to the target"
	}
	return ""
}
