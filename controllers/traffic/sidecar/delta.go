package sidecar

import "github.com/servicesecurity/operator/controllers/traffic"

// tally is what a caller sent in plaintext between two readings.
type tally struct {
	requests, messages, opened int64
	// open connections now.
	open  int64
	moved bool
}

// delta is what happened between two readings of one process.
type delta struct {
	http, tcp  bool // plaintext moved
	mutual     int64
	labelled   bool  // something moved that says how it was secured
	unlabelled bool  // something moved that does not
	lost       bool  // a series vanished, or a counter fell
	orphans    ends  // that the lost series had counted
	closed     int64 // plaintext connections that ended
	callers    map[caller]tally
	meshed     map[caller]int64 // what callers by mutual TLS moved
}

func (d *delta) plain() bool { return d.http || d.tcp }

// since compares with an earlier reading of the same process; with none, everything is new. Both are ordered by hash.
func (c *counters) since(before *counters) delta {
	d := delta{callers: map[caller]tally{}}
	old := before.samples
	for _, s := range c.samples {
		for len(old) > 0 && old[0].hash < s.hash {
			d.lose(old[0])
			old = old[1:]
		}
		moved := s.value
		if len(old) > 0 && old[0].hash == s.hash {
			if old[0].value <= s.value {
				moved -= old[0].value
			} else {
				d.lose(old[0]) // it vanished and was born again: all that it counts is new
			}
			old = old[1:]
		}
		d.count(c, s, moved)
	}
	for _, s := range old {
		d.lose(s)
	}
	return d
}

func (d *delta) lose(s sample) {
	d.lost = true
	d.orphans.count(s)
}

// ends are how many plaintext connections were opened and closed.
type ends struct{ opened, closed int64 }

func (e *ends) count(s sample) {
	switch s.kind {
	case plainOpened:
		e.opened = add(e.opened, s.value)
	case plainClosed:
		e.closed = add(e.closed, s.value)
	}
}

func (e ends) and(other ends) ends {
	return ends{add(e.opened, other.opened), add(e.closed, other.closed)}
}

// gone is what is not counted any more of what once was, by what is counted now. Series that went may have been born again since:
// where both sums fell, those that were born again may have counted all of it, and whatever leaves more connections open is taken.
func (e ends) gone(now ends) ends {
	vanished := ends{opened: max(0, e.opened-now.opened), closed: max(0, e.closed-now.closed)}
	if now.opened < e.opened && (now.closed < e.closed || e.closed == 0) && e.opened-e.closed > vanished.opened-vanished.closed {
		return e
	}
	return vanished
}

// count takes in what a series moved by.
func (d *delta) count(c *counters, s sample, moved int64) {
	if moved > 0 {
		switch {
		case s.kind == unlabelled:
			d.unlabelled = true
		case s.kind == mutualCounted:
			d.mutual = add(d.mutual, moved)
			d.labelled = true
			d.meet(c.callers[s.caller], moved)
		case s.kind.plain():
			d.tcp = d.tcp || s.kind.tcp()
			d.http = d.http || !s.kind.tcp()
			d.labelled = true
		}
	}
	if s.kind == plainClosed {
		d.closed = add(d.closed, moved)
	}
	if s.kind.plain() {
		who := c.callers[s.caller]
		t := d.callers[who]
		t.take(s, moved)
		d.callers[who] = t
	}
}

func (d *delta) meet(who caller, moved int64) {
	if d.meshed == nil {
		d.meshed = map[caller]int64{}
	}
	d.meshed[who] = add(d.meshed[who], moved)
}

func (t *tally) take(s sample, moved int64) {
	t.moved = t.moved || moved > 0
	switch s.kind {
	case plainRequests:
		t.requests = add(t.requests, moved)
	case plainMessages:
		t.messages = add(t.messages, moved)
	case plainOpened:
		t.opened = add(t.opened, moved)
		t.open += s.value
	case plainClosed:
		t.open -= s.value
	}
}

// count is the caller's part in status. The messages of a stream stand for it until it ends and is counted as a request.
func (t tally) count() int64 {
	if t.requests == 0 {
		return add(t.messages, t.opened)
	}
	return add(t.requests, t.opened)
}

// openTCP counts the plaintext connections that are open, given what is not counted any more.
func (c *counters) openTCP(orphans ends) int64 {
	all := c.tcp.and(orphans)
	return max(0, all.opened-all.closed)
}

// openHTTP counts the plaintext connections that are open on the ports of the set, and on the excepted ones.
func (c *counters) openHTTP(ports traffic.PortSet) (here, excepted int64) {
	for port, p := range c.ports {
		if matters(ports, port) {
			here = add(here, p.plainActive)
		} else {
			excepted = add(excepted, p.plainActive)
		}
	}
	return here, excepted
}

// totals are the sums that status keeps.
func (c *counters) totals() (plain, mutual int64) {
	for _, s := range c.samples {
		switch {
		case s.kind.plain():
			plain = add(plain, s.value)
		case s.kind == mutualCounted:
			mutual = add(mutual, s.value)
		}
	}
	return plain, mutual
}

// matters says whether plaintext on a port matters. A port that the proxy does not know is never excepted.
func matters(ports traffic.PortSet, port int32) bool { return port == 0 || ports.Has(port) }

// attribute says whether the plaintext between two readings may have been on a port that matters, and whether that is known
// for certain.
//
// Istio's metrics have no port. The connection statistics have one: an HTTP request needs a connection, and that was open
// at the reading before, is open now, or came in between. So if every port with such a connection is excepted, so was the
// request. TCP has no such statistics, and without them nothing is known: what is not certain counts.
//
// A plaintext connection that came on a port that matters counts by itself: its request may be in the next reading only.
func (d *delta) attribute(ports traffic.PortSet, before, now *counters, fresh bool) (plain, certain bool) {
	if ports.All() {
		return d.plain(), true
	}
	if now.ports == nil || (!fresh && before.ports == nil) {
		return d.plain(), false
	}
	here, elsewhere := none, none
	for port := range union(before.ports, now.ports) {
		u := now.ports[port].use(before.ports[port])
		if matters(ports, port) {
			here = max(here, u)
		} else {
			elsewhere = max(elsewhere, u)
		}
	}
	if d.tcp || (d.http && max(here, elsewhere) == none) {
		return true, false
	}
	return here == grown || (d.http && here == open), true
}

// use is what plaintext connections a port had between two readings.
type use int

const (
	none  use = iota
	open      // some were open at one of them
	grown     // some came
)

// use compares two readings of a port. A total that fell began again from zero.
func (c connections) use(before connections) use {
	switch {
	case c.plainTotal > before.plainTotal, c.plainTotal < before.plainTotal && c.plainTotal > 0:
		return grown
	case c.plainActive > 0, before.plainActive > 0:
		return open
	}
	return none
}

func union(a, b map[int32]connections) map[int32]struct{} {
	all := make(map[int32]struct{}, len(a)+len(b))
	for port := range a {
		all[port] = struct{}{}
	}
	for port := range b {
		all[port] = struct{}{}
	}
	return all
}

// doubtful says that the connection statistics may show a plaintext connection that there is not: a scrape does not read
// them all at one moment, and a connection by TLS that comes or goes in between is in one and not in the other.
func (c *counters) doubtful(before *counters) bool {
	for port, p := range c.ports {
		if p.plainActive > 0 || (before != nil && p.plainTotal > before.ports[port].plainTotal) {
			return true
		}
	}
	return false
}

// confirm keeps, of the connections that look plaintext, those that a scrape a moment later has too, and those that were open at the
// reading before or came since, and may have ended in between. Of the later one nothing else is taken: a request that came in between has
// its connection there alone.
func (c *counters) confirm(before, later *counters) {
	for port, p := range c.ports {
		l, ok := later.ports[port]
		if !ok {
			continue
		}
		total, mayEnd := min(p.plainTotal, l.plainTotal), int64(0)
		if before != nil {
			known := before.ports[port]
			mayEnd = add(known.plainActive, max(0, total-known.plainTotal))
		}
		c.ports[port] = connections{plainTotal: total, plainActive: min(p.plainActive, max(l.plainActive, mayEnd))}
	}
}
