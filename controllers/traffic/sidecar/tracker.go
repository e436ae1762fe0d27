package sidecar

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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
	cleanFrom time.Time          // that goes with it

	lastPlaintext    instant
	lastUncertain    time.Time // plaintext that no port can be told of
	lastExcepted     time.Time // plaintext on excepted ports only
	previousReadings int
	unobserved       bool // the request before said so
}

// pass is one observation in the making.
type pass struct {
	*tracker
	req traffic.Request
	now instant

	gap      string // why the stretch restarts
	problems problems

	read      int
	series    bool // any destination series
	visible   bool // every proxy that was read exposes its connections
	plaintext bool
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
	p.settle()
	o := p.conclude()
	t.last, t.targets, t.ports = now, req.Targets, req.Ports
	t.unobserved = req.Unobserved
	t.previousReadings++
	return o
}

// begin compares the request and the clocks with those of the reading before.
func (p *pass) begin() {
	p.callers.window, p.tracker.meshed.window = p.req.Window, p.req.Window
	if p.req.Unobserved {
		p.interrupt("a part of the target was not observed")
	}
	if p.last.isZero() {
		p.first = p.now.mono
		p.proxies = map[string]*proxy{}
		p.pending, p.cleanFrom = p.req.Evidence, p.req.CleanSince
		if p.pending != nil {
			p.evidence = *p.pending.DeepCopy()
		}
		p.callers.seed(p.req.Callers, p.now.wall)
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

// strayed is by how much the clock on the wall has left the ticking one since the stretch began: small steps add up.
func (p *pass) strayed() time.Duration {
	if p.since.isZero() {
		return 0
	}
	return p.now.wall.Sub(p.since.wall) - (p.now.mono - p.since.mono)
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
	case newProxy:
		p.join(px, s.at.mono-now.started(), plain, certain, &d)
	default:
		p.lost(px, state, now, d.lost)
		p.count(plain, certain, &d)
		p.mutual = add(p.mutual, d.mutual)
	}
	for who, calls := range d.meshed {
		p.meshed[who] = add(p.meshed[who], calls)
	}
	p.label(px, state, &d, now.missing)
	state.keep(px, s, fresh)
	p.sum(px, s, &d)
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

// lost judges series that vanished from the same process.
func (p *pass) lost(px traffic.Proxy, state *proxy, now *counters, lost bool) {
	if !lost {
		return
	}
	p.interrupt(fmt.Sprintf("series of the proxy of pod %s vanished", name(px)))
	// Envoy keeps a series with the filter chain that wrote it: when the listener changes, those that the new chain does not
	// write go once the old one has drained. That is a gap, but no reason to doubt this reading.
	if !state.changing(now) {
		p.problems.vanished = append(p.problems.vanished, name(px))
	}
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
func (p *pass) sum(px traffic.Proxy, s scrape, d *delta) {
	c := s.counters
	p.read++
	p.series = p.series || len(c.samples) > 0
	p.visible = p.visible && c.ports != nil
	tcp := c.openTCP()
	p.open = add(p.open, add(tcp, c.openHTTP(p.req.Ports)))
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
		Started:         s.at.wall.Add(-c.started()),
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
		delete(p.proxies, uid)
	}
	if len(gone) > 0 {
		slices.Sort(gone)
		p.interrupt(fmt.Sprintf("%s went away before what it saw last was read", pods(gone)))
	}
}

// settle brings the stretch up to date.
func (p *pass) settle() {
	t := p.tracker
	if p.gap != "" {
		t.since, t.mutual, t.flowed = instant{}, nil, false
		t.pending, t.evidence = nil, v1alpha1.Evidence{}
	}
	running := !t.since.isZero()
	if running {
		t.flowed = t.flowed || p.mutual > 0
		t.mutual = t.mutual.add(p.now.mono, p.mutual, p.req.Window)
	}
	if p.plaintext || p.open > 0 {
		// A connection that is open is plaintext now, whether it moves or not: its end may come with that of its pod, and then
		// nobody counts it.
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

// conclude says what the pass found.
func (p *pass) conclude() traffic.Observation {
	t := p.tracker
	o := traffic.Observation{
		Time: p.now.wall, Proxies: p.readings, OpenPlaintext: p.open,
		ConnectionsVisible: p.visible && p.read > 0, Gap: p.told(),
	}
	o.Completeness, o.Reason, o.Message = p.problems.judge(p.req, p.read, p.series, t.port)
	if o.Completeness == traffic.Complete {
		if t.since.isZero() {
			p.start()
			o.Gap = p.told()
		}
		t.evidence = p.evidenceNow()
		o.Since = t.since.wall
		if !t.flowed {
			o.Reason = "NoTraffic"
		}
	}
	o.Void = t.since.isZero() && t.pending == nil
	o.LastPlaintext, o.MutualTLS, o.Evidence = t.lastPlaintext.wall, t.mutual.total(), *t.evidence.DeepCopy()
	o.NotAttributable = p.uncertain || p.recently(t.lastUncertain)
	o.Callers, o.Meshed = t.callers.list(p.now.wall), t.meshed.met(p.now.wall)
	return o
}

// told is the gap, unless it goes on and was told before: a gap is written to status at once.
func (p *pass) told() string {
	if p.req.Unobserved && p.unobserved {
		return ""
	}
	return p.gap
}

// recently says whether a time lies in the window, or is that of the plaintext that is remembered.
func (p *pass) recently(when time.Time) bool {
	return !when.IsZero() && (when.Equal(p.lastPlaintext.wall) || p.now.wall.Sub(when) <= p.req.Window)
}

// start begins a stretch at a complete reading. After a restart of the operator it may have begun long ago.
func (p *pass) start() {
	t := p.tracker
	t.since = p.now
	e, from := t.pending, t.cleanFrom
	t.pending = nil
	if e == nil || e.ObservedTime == nil || from.IsZero() {
		return
	}
	if e.SinceTime == nil {
		p.interrupt("the evidence in status does not say since when it holds")
		return
	}
	if since := e.SinceTime.Time; from.Before(since) {
		if since.After(p.now.wall) {
			since = p.now.wall // it was rounded up; a clock that is behind is told by the time of the readings
		}
		from, t.cleanFrom = since, since // somebody edited status
	}
	plain, mutual := p.totals()
	if why := p.missed(e, plain, mutual); why != "" {
		p.interrupt(why)
		return
	}
	t.since = instant{wall: from, mono: p.now.mono - p.now.wall.Sub(from)}
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
	if !from.Before(p.now.wall.Add(-p.req.Window)) {
		calls = add(calls, max(0, e.MutualTLSInStretch)) // else nobody knows how many of them were in the window
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
	case plain < e.Plaintext || mutual < e.MutualTLS:
		return "counters of a proxy fell in the operator's absence"
	}
	return ""
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
		Plaintext: plain, MutualTLS: mutual, MutualTLSInStretch: p.tracker.mutual.total(),
	}
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
	slices.Sort(lines)
	lines = append(lines, fmt.Sprint(p.req.Ports.Except, sorted(p.req.Ports.Ports)))
	sum := sha256.Sum256([]byte(strings.Join(lines, "\n")))
	return hex.EncodeToString(sum[:16])
}

func sorted(ports []int32) []int32 {
	ports = slices.Clone(ports)
	slices.Sort(ports)
	return slices.Compact(ports)
}

func sameSet(a, b traffic.PortSet) bool {
	return a.Except == b.Except && slices.Equal(sorted(a.Ports), sorted(b.Ports))
}
