package sidecar

import (
	"time"

	"github.com/servicesecurity/operator/controllers/traffic"
)

// Envoy refreshes its uptime when it flushes its statistics, every five seconds by default. So a start that is reckoned from
// it is late by up to that and never early, but for the rounding of both ends to seconds.
const (
	// startTolerance is how much later a start may appear than at another reading of the same process.
	startTolerance = 10 * time.Second
	// startSlack is how much earlier a start may appear than it was.
	startSlack = 3 * time.Second
	// uptimeRounding is the rounding of the uptime alone.
	uptimeRounding = time.Second
	// drained is for how many readings after a change of listeners series may vanish for it.
	drained = 2
)

// proxy is what is remembered of a sidecar.
type proxy struct {
	name string
	// addressed says that it ever had an address, so that somebody could call it.
	addressed bool
	// readAtEnd says that it was read after its deletion began.
	readAtEnd bool
	// unlabelled says that its series cannot be trusted to say how its traffic was secured.
	unlabelled bool

	// orphans are the process's plaintext connections that are not counted any more, because their series went, and older is how
	// many are open, at the most, of those that came before a listener changed.
	orphans ends
	older   int64

	// Of the last reading; nil counters if there was none.
	counters *counters
	at       time.Duration
	restarts int32
	open     int64 // plaintext connections
	// started is the earliest estimate of the process's start.
	started time.Duration
	// steady counts the readings since a listener changed or drained.
	steady int
}

// change is what a reading says of the process that answers.
type change int

const (
	newProxy change = iota
	sameProcess
	otherProcess
)

// known is what is remembered of a proxy, a blank if nothing is.
func (t *tracker) known(px traffic.Proxy) *proxy {
	state := t.proxies[px.UID]
	if state == nil {
		state = &proxy{name: name(px)}
		t.proxies[px.UID] = state
	}
	state.addressed = state.addressed || px.Address != ""
	return state
}

// compare tells whether the process that answers is the one that was read before.
func (s *proxy) compare(px traffic.Proxy, reading scrape) change {
	if s.counters == nil {
		return newProxy
	}
	started := reading.at.mono - reading.counters.started()
	switch {
	case reading.counters.uptime < s.counters.uptime:
		return otherProcess
	// It certainly ran at the reading before; a count of restarts that says otherwise speaks of an earlier one, late.
	case started+uptimeRounding < s.at:
		return sameProcess
	case px.Restarts != s.restarts || started-s.started > startTolerance:
		return otherProcess
	}
	return sameProcess
}

// orphan goes on counting the connections of series that were lost, since the other half of each may be counted elsewhere. Those
// of an evicted series are open until they are counted as closed. Those of a listener that another one replaced have ended with
// it, and the ends of as many as were open, and were not seen to end, went uncounted.
func (s *proxy) orphan(d *delta, evicted bool) {
	if !d.lost {
		return
	}
	unseen := min(d.orphans.opened-d.orphans.closed, s.older-d.closed)
	s.orphans = s.orphans.and(d.orphans)
	if !evicted {
		s.orphans.closed = add(s.orphans.closed, max(0, unseen))
	}
}

// age notes how many connections came before a listener changed, and may be gone with the one that was replaced. Where one drains
// at the first reading, nobody knows.
func (s *proxy) age(now *counters, d *delta, fresh bool) {
	switch {
	case fresh && now.drain > 0:
		s.older = 0
	case fresh, !s.changing(now):
		s.older = now.openTCP(s.orphans)
	default:
		s.older = max(0, s.older-d.closed)
	}
}

// balance takes more ends than beginnings for ends of connections whose beginning was counted by a series that is gone. Envoy
// prints the ends first, so none of them is of a connection that it has still to print.
func (s *proxy) balance(now *counters) {
	all := now.tcp.and(s.orphans)
	s.orphans.opened = add(s.orphans.opened, max(0, all.closed-all.opened))
}

// keep remembers a reading.
func (s *proxy) keep(px traffic.Proxy, reading scrape, fresh bool) {
	started := reading.at.mono - reading.counters.started()
	switch {
	case fresh:
		s.started, s.steady = started, 0
	case s.changed(reading.counters):
		s.steady = 0
	default:
		s.steady++
	}
	s.started = min(s.started, started)
	s.counters, s.at, s.restarts = reading.counters, reading.at.mono, px.Restarts
	s.readAtEnd = s.readAtEnd || px.Terminating
}

// changed says that a listener changed or drains.
func (s *proxy) changed(now *counters) bool {
	return now.drain > 0 || now.updates != s.counters.updates
}

// changing says that series may vanish because a listener changed, now or shortly before.
func (s *proxy) changing(now *counters) bool { return s.changed(now) || s.steady < drained }

// started is for how long the process has run, so far as it says.
func (c *counters) started() time.Duration { return time.Duration(c.uptime) * time.Second }

func name(px traffic.Proxy) string { return px.Namespace + "/" + px.Name }
