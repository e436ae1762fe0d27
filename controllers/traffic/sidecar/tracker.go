package sidecar

import (
	"fmt"
	"slices"
	"time"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/traffic"
)

// instant is a time on both clocks: the one on the wall, which people may set, and the one that only ticks.
type instant struct {
	wall time.Time
	mono time.Duration
}

func (i instant) isZero() bool { return i.wall.IsZero() }

// scrape is what came of reading one proxy: counters or an error, or neither for a proxy without an address.
type scrape struct {
	at       instant
	counters *counters
	err      error
}

// tracker remembers one profile's proxies and says what their readings mean. It is pure.
type tracker struct {
	interval time.Duration
	port     int32

	last    instant // the reading before; zero before the first
	first   time.Duration
	stepped time.Duration // when the clock on the wall was last set in the life of this process; zero if never
	targets string
	ports   traffic.PortSet
	proxies map[string]*proxy // by UID

	since     instant // start of the stretch; zero until a complete reading
	mutual    flow    // counted since the later of since and lastPlaintext
	flowed    bool    // anything at all in the stretch
	callers   book
	meshed    book
	evidence  v1alpha1.Evidence
	pending   *v1alpha1.Evidence // status's, until the first complete reading
	recalled  *v1alpha1.Evidence // the same, for proxies that are read for the first time
	cleanFrom time.Time          // that goes with it

	lastPlaintext    instant
	lastUncertain    time.Time // plaintext that no port can be told of
	lastExcepted     time.Time // plaintext on excepted ports only
	previousReadings int
	// hidden is when a request last said that a part of the target was not observed; zero once nothing is left of that.
	hidden instant
}

// pass is one observation in the making.
type pass struct {
	*tracker
	req traffic.Request
	now instant

	gap      string // why the stretch restarts
	goesOn   bool   // it was hidden at the reading before, and that was told
	problems problems

	read      int
	series    bool // any destination series
	visible   bool // every proxy that was read exposes its connections
	plaintext bool
	ended     bool // plaintext connections, with their pod
	uncertain bool
	mutual    int64
	open      int64
	moved     map[caller]tally
	meshed    map[caller]int64
	readings  []traffic.Reading
}

// observe takes the readings of the proxies, in the request's order.
func (t *tracker) observe(req traffic.Request, scrapes []scrape, now instant) traffic.Observation {
	p := &pass{tracker: t, req: req, now: now, visible: true, moved: map[caller]tally{}, meshed: map[caller]int64{}}
	p.begin()
	for i, px := range req.Proxies {
		if c := scrapes[i].counters; c != nil {
			p.take(px, scrapes[i])
		} else {
			p.miss(px, scrapes[i].err)
		}
	}
	p.leave()
	p.linger()
	p.settle()
	o := p.conclude()
	t.last, t.targets, t.ports = now, req.Targets, req.Ports
	t.previousReadings++
	return o
}

// begin compares the request and the clocks with those of the reading before.
func (p *pass) begin() {
	p.callers.window, p.tracker.meshed.window = p.req.Window, p.req.Window
	first := p.last.isZero()
	if first {
		p.remember()
	}
	p.goesOn = !p.hidden.isZero()
	if p.req.Unobserved {
		p.hidden = p.now
		p.interrupt(unobserved)
	}
	if first {
		return
	}
	p.clocks()
	if p.req.Targets != p.targets {
		p.interrupt("the target now selects other pods")
	}
	if !sameSet(p.req.Ports, p.ports) && !p.lastExcepted.IsZero() && !p.lastExcepted.Before(p.since.wall) {
		p.interrupt("other ports are excepted now, and plaintext was seen on those excepted before")
	}
	// No time may lie in the future, or it would count for longer than it should.
	for _, t := range []*time.Time{&p.lastPlaintext.wall, &p.lastUncertain, &p.lastExcepted} {
		if t.After(p.now.wall) {
			*t = p.now.wall
		}
	}
}

// clocks compares the clock on the wall with the one that ticks.
func (p *pass) clocks() {
	wall, ticked := p.now.wall.Sub(p.last.wall), p.now.mono-p.last.mono
	switch {
	case wall < 0:
		p.interrupt("the operator's clock was set back")
	case (wall-ticked).Abs() > p.interval || p.strayed().Abs() > p.interval:
		p.interrupt("the operator's clock jumped")
	}
}

// strayed is by how much the clock on the wall has left the ticking one since the stretch began, or since the last plaintext in it,
// from which the window counts: small steps add up.
func (p *pass) strayed() time.Duration {
	if p.since.isZero() {
		return 0
	}
	from := p.since
	if !p.lastPlaintext.isZero() && p.lastPlaintext.mono > from.mono {
		from = p.lastPlaintext
	}
	return p.now.wall.Sub(from.wall) - (p.now.mono - from.mono)
}

// interrupt restarts the stretch. The first reason is kept: the others are often its consequences.
func (p *pass) interrupt(why string) {
	if p.gap == "" {
		p.gap = why
	}
}

// take compares a reading with the one before of the same process.
func (p *pass) take(px traffic.Proxy, s scrape) {
	state := p.known(px)
	now, before := s.counters, state.counters
	change := state.compare(px, s)
	fresh := change != sameProcess
	if fresh {
		before = &counters{}
	}
	d := now.since(before)
	plain, certain := d.attribute(p.req.Ports, before, now, fresh)
	switch change {
	case otherProcess:
		p.interrupt(fmt.Sprintf("the proxy of pod %s restarted, and what it saw before went with it", name(px)))
		p.count(plain, certain, &d)
		state.orphans = ends{}
	case newProxy:
		state.orphans = p.recall(px, s)
		p.join(px, s.at.mono-now.started(), plain, certain, &d)
	default:
		if p.evicting(px, state.at, s.at.mono) {
			p.problems.evicting = append(p.problems.evicting, name(px))
		}
		evicted := p.lost(px, state, now, d.lost)
		state.orphan(&d, evicted)
		p.count(plain, certain, &d)
		p.mutual = add(p.mutual, d.mutual)
	}
	state.balance(now)
	state.age(now, &d, fresh)
	for who, calls := range d.meshed {
		p.meshed[who] = add(p.meshed[who], calls)
	}
	p.label(px, state, &d, now.missing)
	state.keep(px, s, fresh)
	p.sum(px, s, state, &d)
}

// count takes in plaintext that a proxy saw since it was read before.
func (p *pass) count(plain, certain bool, d *delta) {
	switch {
	case plain:
		p.plaintext = true
		p.uncertain = p.uncertain || !certain
		for who, t := range d.callers {
			if t.moved {
				p.add(who, t)
			}
		}
	case d.plain():
		p.lastExcepted = p.now.wall
	}
}

// join takes in a proxy that was not read before. What it counted since its start is compared with the stretch: all of it
// lies in the stretch, or it has never seen plaintext, or the stretch cannot include it.
func (p *pass) join(px traffic.Proxy, started time.Duration, plain, certain bool, d *delta) {
	if p.since.isZero() {
		// Without a stretch, what was there at the first reading happened earlier.
		if p.previousReadings > 0 && started >= p.first-startSlack {
			p.count(plain, certain, d)
		}
		return
	}
	p.evicting(px, started-startTolerance, p.now.mono)
	switch within := started >= p.since.mono-startSlack; {
	case within:
		if px.Restarts > 0 {
			p.interrupt(fmt.Sprintf("the proxy of pod %s restarted before it was read, and what it saw before went with it", name(px)))
		}
		p.count(plain, certain, d)
	case plain:
		p.interrupt(fmt.Sprintf("pod %s joined the target, and its proxy saw plaintext before", name(px)))
	case d.plain():
		p.lastExcepted = p.now.wall
	}
	// The start is an estimate that errs on the late side, so what cannot be told to be in the stretch is left out.
	if started-startTolerance >= max(p.since.mono, p.lastPlaintext.mono) {
		p.mutual = add(p.mutual, d.mutual)
	}
}

// evicting says that the proxy may have counted something and dropped it between two times, which no reading would show.
func (p *pass) evicting(px traffic.Proxy, since, until time.Duration) bool {
	if px.Eviction == 0 || until-since <= px.Eviction {
		return false
	}
	p.interrupt(fmt.Sprintf("the proxy of pod %s drops series that do not move, and some may have come and gone unread", name(px)))
	return true
}

// lost judges series that vanished from the same process, and says whether they were evicted.
func (p *pass) lost(px traffic.Proxy, state *proxy, now *counters, lost bool) (evicted bool) {
	if !lost {
		return false
	}
	p.interrupt(fmt.Sprintf("series of the proxy of pod %s vanished", name(px)))
	// Envoy keeps a series with the filter chain that wrote it: when the listener changes, those that the new chain does not
	// write go once the old one has drained, and its connections with it. That is a gap, but no reason to doubt this reading.
	if state.changing(now) && px.Eviction == 0 {
		return false
	}
	p.problems.vanished = append(p.problems.vanished, name(px))
	return true
}

// label judges series that do not say how the traffic was secured. They stay in a proxy when the label comes back, so once
// they were seen to move, it takes others that do say it to trust the proxy again.
func (p *pass) label(px traffic.Proxy, state *proxy, d *delta, missing string) {
	switch {
	case d.unlabelled:
		state.unlabelled = true
		p.interrupt(fmt.Sprintf("the metrics of the proxy of pod %s do not say how its traffic was secured", name(px)))
	case d.labelled || missing == "":
		state.unlabelled = false
	}
	if state.unlabelled {
		p.problems.label(name(px), missing)
	}
}

// sum adds a reading to the observation.
func (p *pass) sum(px traffic.Proxy, s scrape, state *proxy, d *delta) {
	c := s.counters
	p.read++
	p.series = p.series || len(c.samples) > 0
	p.visible = p.visible && c.ports != nil
	tcp := c.openTCP(state.orphans)
	here, excepted := c.openHTTP(p.req.Ports)
	state.open = add(tcp, here)
	p.open = add(p.open, state.open)
	if excepted > 0 {
		p.lastExcepted = p.now.wall
	}
	if tcp > 0 {
		p.uncertain = p.uncertain || !p.req.Ports.All()
		for who, t := range d.callers {
			if t.open > 0 {
				p.add(who, tally{}) // it only holds its connection, but it is who must be fixed
			}
		}
	}
	p.readings = append(p.readings, traffic.Reading{
		Namespace: px.Namespace, Name: px.Name, UID: px.UID,
		Started: s.at.wall.Add(-c.started()), Restarts: px.Restarts,
		ListenerUpdates: c.updates, Draining: c.drain,
	})
}

func (p *pass) add(who caller, t tally) {
	sum := p.moved[who]
	sum.requests, sum.messages, sum.opened = add(sum.requests, t.requests), add(sum.messages, t.messages), add(sum.opened, t.opened)
	p.moved[who] = sum
}

// miss takes in a proxy that was not read.
func (p *pass) miss(px traffic.Proxy, err error) {
	state := p.known(px)
	switch {
	case px.Terminating && (state.readAtEnd || !state.addressed):
		// Its last word is known, or it never had an address to be called at.
	case px.Address == "":
		p.problems.unaddressed = append(p.problems.unaddressed, name(px))
	default:
		p.problems.failed(name(px), err)
	}
}

// leave drops the proxies that are gone. One that was not read after its deletion began took something with it.
func (p *pass) leave() {
	here := make(map[string]bool, len(p.req.Proxies))
	for _, px := range p.req.Proxies {
		here[px.UID] = true
	}
	gone := make([]string, 0, len(p.proxies))
	for uid, state := range p.proxies {
		if here[uid] {
			continue
		}
		if state.addressed && !state.readAtEnd {
			gone = append(gone, state.name)
		}
		p.ended = p.ended || state.open > 0
		delete(p.proxies, uid)
	}
	if len(gone) > 0 {
		slices.Sort(gone)
		p.interrupt(fmt.Sprintf("%s went away before what it saw last was read", pods(gone)))
	}
}

// unobserved is the gap while a part of the target is hidden.
const unobserved = "a part of the target was not observed"

// linger keeps the stretch from beginning while something may be left of what hid traffic: proxies take a moment to get another
// configuration, and the listeners that had the one before drain without counting.
func (p *pass) linger() {
	if p.hidden.isZero() {
		return
	}
	past := p.now.mono - p.hidden.mono
	draining := p.read < len(p.req.Proxies) || slices.ContainsFunc(p.readings, func(r traffic.Reading) bool { return r.Draining > 0 })
	if past < p.interval || draining && past < traffic.MostDraining {
		p.interrupt(unobserved)
		return
	}
	p.hidden = instant{}
}

// settle brings the stretch up to date.
func (p *pass) settle() {
	t := p.tracker
	if p.gap != "" {
		p.drop()
	}
	running := !t.since.isZero()
	if running {
		t.flowed = t.flowed || p.mutual > 0
		t.mutual = t.mutual.add(p.now.mono, p.mutual, p.req.Window)
	}
	if p.plaintext || p.open > 0 || p.ended {
		// A connection that is open is plaintext now, whether it moves or not, and one that ended with its pod was until now.
		t.lastPlaintext, t.mutual, t.flowed = p.now, nil, t.flowed || p.plaintext
		if p.uncertain {
			t.lastUncertain = p.now.wall
		}
	}
	for who, sent := range p.moved {
		t.callers.see(who, sent.count(), p.now.wall)
	}
	for who, calls := range p.meshed {
		if who.principal != "" {
			t.meshed.see(who, calls, p.now.wall)
		}
	}
}

// drop ends the stretch.
func (p *pass) drop() {
	t := p.tracker
	t.since, t.mutual, t.flowed, t.pending = instant{}, nil, false, nil
	if t.evidence.Proves() {
		t.evidence = v1alpha1.Evidence{}
	}
}

// conclude says what the pass found.
func (p *pass) conclude() traffic.Observation {
	t := p.tracker
	o := traffic.Observation{
		Time: p.now.wall, Proxies: p.readings, OpenPlaintext: p.open,
		ConnectionsVisible: p.visible && p.read > 0, Gap: p.told(),
	}
	o.Completeness, o.Reason, o.Message = p.problems.judge(p.req, p.read, p.series, t.port)
	if o.Completeness == traffic.Complete {
		o.Since = p.now.wall
		if t.hidden.isZero() {
			o.Since = p.proven()
			o.Gap = p.told()
		}
		if !t.flowed {
			o.Reason = "NoTraffic"
		}
	}
	if o.Void = t.since.isZero() && t.pending == nil; o.Void {
		p.void()
	}
	o.LastPlaintext, o.MutualTLS, o.Evidence = t.lastPlaintext.wall, t.mutual.total(), *t.evidence.DeepCopy()
	o.NotAttributable = p.uncertain || p.recently(t.lastUncertain)
	o.Callers, o.Meshed = t.callers.list(p.now.wall), t.meshed.met(p.now.wall)
	return o
}

// proven is the start of the stretch, which begins now if none goes on, and what it rests on is noted.
func (p *pass) proven() time.Time {
	t := p.tracker
	if t.since.isZero() {
		p.start()
	}
	t.evidence = p.evidenceNow()
	return t.since.wall
}

// told is the gap, unless it goes on and was told before: a gap is written to status at once.
func (p *pass) told() string {
	if p.goesOn && !p.hidden.isZero() {
		return ""
	}
	return p.gap
}

// recently says whether a time lies in the window, or is that of the plaintext that is remembered.
func (p *pass) recently(when time.Time) bool {
	return !when.IsZero() && (when.Equal(p.lastPlaintext.wall) || p.now.wall.Sub(when) <= p.req.Window)
}

func sorted(ports []int32) []int32 {
	ports = slices.Clone(ports)
	slices.Sort(ports)
	return slices.Compact(ports)
}

func sameSet(a, b traffic.PortSet) bool {
	return a.Except == b.Except && slices.Equal(sorted(a.Ports), sorted(b.Ports))
}
