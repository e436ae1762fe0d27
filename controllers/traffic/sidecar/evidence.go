package sidecar

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/traffic"
)

// remember takes in what status kept, before the first reading.
func (p *pass) remember() {
	p.first, p.proxies = p.now.mono, map[string]*proxy{}
	p.recalled, p.cleanFrom = p.req.Evidence, p.req.CleanSince
	p.callers.seed(p.req.Callers, p.now.wall)
	switch e := p.req.Evidence; {
	case e == nil:
	case !e.Proves():
		p.hidden = p.now // something may have been hidden when the process before looked last
	default:
		p.pending, p.evidence = e, *e.DeepCopy()
	}
}

// recall gives the connections of a proxy that are not counted any more, by what status kept, if it is that process.
func (p *pass) recall(px traffic.Proxy, s scrape) ends {
	e := p.recalled
	if e == nil || e.ObservedTime == nil {
		return ends{}
	}
	observed := p.now.mono - p.now.wall.Sub(e.ObservedTime.Time)
	before := p.kept(px.UID)
	if before == nil || s.at.mono-s.counters.started()-startTolerance > observed {
		return ends{}
	}
	uncounted := max(before.Uncounted, -math.MaxInt64)
	gone := ends{opened: max(0, before.Opened), closed: max(0, before.Closed)}.gone(s.counters.tcp)
	return gone.and(ends{opened: max(0, uncounted), closed: max(0, -uncounted)})
}

// kept are the connections of a pod as status kept them; nil if it did not.
func (p *pass) kept(uid string) *v1alpha1.PodConnections {
	if p.recalled == nil {
		return nil
	}
	i := slices.IndexFunc(p.recalled.Connections, func(c v1alpha1.PodConnections) bool { return c.Pod == uid })
	if i < 0 {
		return nil
	}
	return &p.recalled.Connections[i]
}

// void is what a next process must know although nothing is proven. Its time stays until that changes.
func (p *pass) void() {
	e, connections := &p.evidence, p.connections()
	if e.ObservedTime == nil || e.Proves() || !slices.Equal(e.Connections, connections) {
		*e = v1alpha1.Evidence{ObservedTime: &metav1.Time{Time: p.now.wall}, Connections: connections}
	}
}

// start begins a stretch at a complete reading. After a restart of the operator it may have begun long ago.
func (p *pass) start() {
	t := p.tracker
	t.since = p.now
	e := t.pending
	t.pending = nil
	if e == nil || e.ObservedTime == nil || t.cleanFrom.IsZero() {
		return
	}
	if e.SinceTime == nil {
		p.interrupt("the evidence in status does not say since when it holds")
		return
	}
	if since := e.SinceTime.Time; t.cleanFrom.Before(since) {
		if since.After(p.now.wall) {
			since = p.now.wall // it was rounded up; a clock that is behind is told by the time of the readings
		}
		t.cleanFrom = since // somebody edited status
	}
	plain, mutual := p.totals()
	if why := p.missed(e, plain, mutual); why != "" {
		p.interrupt(why)
		return
	}
	p.resume(e, plain, mutual)
}

// resume takes up the stretch of the time before, of which nothing was missed.
func (p *pass) resume(e *v1alpha1.Evidence, plain, mutual int64) {
	t := p.tracker
	inStretch := max(0, e.MutualTLSInStretch)
	if oldest := p.oldest(); t.cleanFrom.Before(oldest.Add(-startTolerance)) {
		// What the pods before them took is gone with them, and for that there is nothing but the word of status.
		t.cleanFrom, inStretch = oldest, 0
	}
	t.since = instant{wall: t.cleanFrom, mono: p.now.mono - p.now.wall.Sub(t.cleanFrom)}
	if !p.req.Ports.All() {
		t.lastExcepted = p.now.wall // there may have been any, and nobody knows any more
	}
	if plain > e.Plaintext {
		// It came while nobody looked, and with what ports it had to do is not known any more.
		t.lastPlaintext, t.mutual, t.flowed = p.now, nil, true
		if !p.req.Ports.All() {
			t.lastUncertain = p.now.wall
		}
		return
	}
	calls := mutual - e.MutualTLS
	if !t.cleanFrom.Before(p.now.wall.Add(-p.req.Window)) {
		calls = add(calls, inStretch) // else nobody knows how many of them were in the window
	}
	t.mutual = flow{}.add(p.now.mono, calls, p.req.Window)
	t.flowed = t.mutual.total() > 0
}

// missed says why the evidence of the time before does not reach up to now; empty if it does.
func (p *pass) missed(e *v1alpha1.Evidence, plain, mutual int64) string {
	switch observed := e.ObservedTime.Time; {
	case p.cleanFrom.Before(p.req.Created):
		return "the stretch in status is older than the profile"
	case e.Targets != p.req.Targets:
		return "the target selects other pods than before the operator's absence"
	case p.now.wall.Before(observed) || p.now.wall.Before(p.cleanFrom):
		return "the operator's clock is behind that of the readings in status"
	case p.stepped > 0 && p.now.mono-p.now.wall.Sub(observed) <= p.stepped:
		return "the operator's clock jumped since the readings in status"
	case e.Proxies != p.digest():
		return "other pods or ports are observed than before the operator's absence"
	case !p.startedBefore(observed):
		return "a proxy may have restarted in the operator's absence"
	}
	return p.uncountedIn(e, plain, mutual)
}

// uncountedIn says why what the same proxies counted in the operator's absence may not be all; empty if it is.
func (p *pass) uncountedIn(e *v1alpha1.Evidence, plain, mutual int64) string {
	switch {
	case plain < e.Plaintext || mutual < e.MutualTLS:
		return "counters of a proxy fell in the operator's absence"
	case plain > e.Plaintext:
		return "" // that is known
	case p.evictedSince(e.ObservedTime.Time):
		return "a proxy drops series that do not move, and some may have come and gone in the operator's absence"
	case p.plaintextSeries() != e.PlaintextSeries:
		return "counters of a proxy fell in the operator's absence"
	case p.listenerUpdates() != e.ListenerUpdates:
		return "listeners of a proxy changed in the operator's absence, and may not have counted in between"
	}
	return ""
}

// evictedSince says whether a proxy may have dropped what it counted after a time.
func (p *pass) evictedSince(when time.Time) bool {
	return slices.ContainsFunc(p.req.Proxies, func(px traffic.Proxy) bool {
		return px.Eviction > 0 && p.now.wall.Sub(when) > px.Eviction
	})
}

// oldest is when the first of the processes that run began, on the late side.
func (p *pass) oldest() time.Time {
	oldest := p.now.mono
	for _, state := range p.proxies {
		if state.counters != nil {
			oldest = min(oldest, state.started)
		}
	}
	return p.now.wall.Add(oldest - p.now.mono)
}

// startedBefore says whether every proxy runs the process that was read at a time. Starts are estimated on the late side,
// so the answer yes is certain.
func (p *pass) startedBefore(when time.Time) bool {
	limit := p.now.mono - p.now.wall.Sub(when)
	for _, state := range p.proxies {
		if state.counters != nil && state.started+uptimeRounding >= limit {
			return false
		}
	}
	return true
}

func (p *pass) evidenceNow() v1alpha1.Evidence {
	plain, mutual := p.totals()
	since := p.since.wall
	if p.lastPlaintext.wall.After(since) {
		since = p.lastPlaintext.wall
	}
	return v1alpha1.Evidence{
		ObservedTime: &metav1.Time{Time: p.now.wall}, SinceTime: &metav1.Time{Time: traffic.WholeSecond(since)}, Proxies: p.digest(), Targets: p.req.Targets,
		Plaintext: plain, PlaintextSeries: p.plaintextSeries(), MutualTLS: mutual, MutualTLSInStretch: p.tracker.mutual.total(),
		Connections: p.connections(), ListenerUpdates: p.listenerUpdates(),
	}
}

// connections are those of the proxies that have had any in plaintext. Of more than there is room for, those come first that
// the counts do not tell, then those that are open.
func (p *pass) connections() []v1alpha1.PodConnections {
	var all []v1alpha1.PodConnections
	for uid, state := range p.proxies {
		if state.counters == nil {
			if kept := p.kept(uid); kept != nil {
				all = append(all, *kept) // it could not be read yet
			}
			continue
		}
		now, gone := state.counters.tcp, state.orphans
		if now != (ends{}) || gone != (ends{}) {
			all = append(all, v1alpha1.PodConnections{Pod: uid, Opened: now.opened, Closed: now.closed, Uncounted: gone.opened - gone.closed})
		}
	}
	told := func(c v1alpha1.PodConnections) int {
		if c.Uncounted != 0 {
			return 0
		}
		return 1
	}
	slices.SortFunc(all, func(a, b v1alpha1.PodConnections) int {
		return cmp.Or(cmp.Compare(told(a), told(b)), cmp.Compare(b.Opened-b.Closed, a.Opened-a.Closed), cmp.Compare(a.Pod, b.Pod))
	})
	return all[:min(len(all), v1alpha1.MaxPodConnections)]
}

// totals are those of all proxies that were ever read and are still here.
func (p *pass) totals() (plain, mutual int64) {
	for _, state := range p.proxies {
		if state.counters != nil {
			x, y := state.counters.totals()
			plain, mutual = add(plain, x), add(mutual, y)
		}
	}
	return plain, mutual
}

// digest stands for the processes that were read and the ports that matter. The start of a process is an estimate, and
// would make another digest each time; the count of restarts does not, and startedBefore sees what that count tells late.
func (p *pass) digest() string {
	lines := make([]string, 0, len(p.proxies)+1)
	for uid, state := range p.proxies {
		if state.counters != nil {
			lines = append(lines, fmt.Sprintf("%q %d", uid, state.restarts))
		}
	}
	return digest(append(lines, fmt.Sprint(p.req.Ports.Except, sorted(p.req.Ports.Ports))))
}

// listenerUpdates is how often the listeners of the same proxies have changed, in all.
func (p *pass) listenerUpdates() (sum int64) {
	for _, state := range p.proxies {
		if state.counters != nil {
			sum = add(sum, state.counters.updates)
		}
	}
	return sum
}

// plaintextSeries stands for the plaintext counters of the same proxies, each by itself.
func (p *pass) plaintextSeries() string {
	var lines []string
	for uid, state := range p.proxies {
		if state.counters != nil && state.counters.plaintext != "" {
			lines = append(lines, fmt.Sprintf("%q %s", uid, state.counters.plaintext))
		}
	}
	return digest(lines)
}
