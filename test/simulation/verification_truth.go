package simulation

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"
)

// cause is why a call was lost at connection level.
type cause int

const (
	ofOld    cause = iota // the share that the caller has lost all the time
	bySwitch              // STRICT does not let it in
	byDrain               // its connection ended with the listener that STRICT replaced
	byOutage              // something else, for a time
	causes
)

// part of a caller's pods.
type part string

const (
	wholly part = "all pods"
	half   part = "half of the pods"
	single part = "one pod"
)

func (p part) has(number int) bool {
	return p == wholly || p == half && number%2 == 0 || p == single && number == 0
}

// condition loses a share of the calls of a part of a caller's pods for a time.
type condition struct {
	cause    cause
	from, to time.Duration
	share    float64
	part     part
	service  int // -1 for all of the target's
}

// begins is when it begins for a pod: what it holds open by mutual TLS lives on until the listener before has drained.
func (c condition) begins(p *callerPod) time.Duration {
	if c.cause == bySwitch {
		return c.from + p.drains
	}
	return c.from
}

// truth counts the calls to the target that were sent.
type truth struct {
	arrived int64
	lost    [causes]int64
}

func (t truth) minus(other truth) truth {
	t.arrived -= other.arrived
	for i := range t.lost {
		t.lost[i] -= other.lost[i]
	}
	return t
}

func (t truth) plus(other truth) truth {
	t.arrived += other.arrived
	for i := range t.lost {
		t.lost[i] += other.lost[i]
	}
	return t
}

// failed is what was lost, without what the drain cost, which is no reason to take STRICT back.
func (t truth) failed() int64 { return t.lost[ofOld] + t.lost[bySwitch] + t.lost[byOutage] }

func (t truth) total() int64 { return t.arrived + t.failed() }

// protocol is how a caller calls, which decides what its proxy makes of a call that is lost.
type protocol string

const (
	plainHTTP protocol = "HTTP"
	plainTCP  protocol = "TCP"
	ownTLS    protocol = "TLS of its own"
)

// meshCaller is a workload that calls the target. Its pods call alike.
type meshCaller struct {
	name     string
	protocol protocol
	rate     float64    // calls of a pod in a second, to the target
	share    [2]float64 // of each of the target's services
	// app is the share of answers that are errors of the application, since some time; unsent that of calls that find no endpoint.
	app, unsent float64
	appFrom     time.Duration
	// other is the rate of calls to another service, all of which fail since some time.
	other      float64
	othersFrom time.Duration
	liar       bool

	conditions []condition
	effect     condition // of the switch; its share is 0 for none
	pods       []*callerPod
	watched    bool
	made       int
}

// callerPod has a proxy, which has a process now and then.
type callerPod struct {
	caller             *meshCaller
	number             int
	name, uid, address string
	created, addressed time.Duration
	at                 time.Duration // until when its calls are told
	drains             time.Duration
	gone               bool
	proc               *callerProcess
	troubles           []spell
	random             *rand.Rand
	carry              [3]float64
	sum                truth
	// succeeded is when a call last arrived before the switch, about; -forever for never.
	succeeded    time.Duration
	whole, shown ledger
}

// spell of trouble for whoever reads a proxy.
type spell struct {
	from, to time.Duration
	trouble  trouble
}

// trouble at a time.
func (p *callerPod) trouble(now time.Duration) trouble {
	for _, s := range p.troubles {
		if now >= s.from && now < s.to {
			return s.trouble
		}
	}
	return answers
}

// advancePod tells a pod's calls up to a time, from one change of its conditions to the next.
func (v *verification) advancePod(p *callerPod, to time.Duration) {
	for !p.gone && p.at < to {
		next := to
		bound := func(at time.Duration) {
			if at > p.at && at < next {
				next = at
			}
		}
		for _, c := range p.caller.conditions {
			bound(c.begins(p))
			bound(c.to)
		}
		for _, at := range []time.Duration{p.proc.ready, p.caller.appFrom, p.caller.othersFrom} {
			bound(at)
		}
		if p.at >= p.proc.ready {
			v.callOf(p, next)
		}
		p.at = next
	}
	p.at = max(p.at, to)
}

// callOf is what a pod does while nothing changes.
func (v *verification) callOf(p *callerPod, to time.Duration) {
	c, seconds := p.caller, (to - p.at).Seconds()
	for service, share := range c.share {
		n := p.times(service, c.rate*share*seconds)
		if n == 0 {
			continue
		}
		unsent := p.of(n, c.unsent)
		p.proc.answered(v, c, service, "503", "UH", unsent, to)
		n -= unsent
		var sent truth
		for _, why := range []cause{bySwitch, byOutage, byDrain, ofOld} {
			lost := p.of(n, p.loses(why, service))
			sent.lost[why] = lost
			p.proc.losesCalls(v, c, service, why, lost, to)
			n -= lost
		}
		errors := int64(0)
		if p.at >= c.appFrom {
			errors = p.of(n, c.app)
		}
		p.proc.answered(v, c, service, "503", pick(p.random, "-", "URX", "UR"), errors, to)
		p.proc.answered(v, c, service, "200", "-", n-errors, to)
		sent.arrived = n
		if n > 0 && v.switched < 0 {
			p.succeeded = to
		}
		p.sum, p.proc.sum = p.sum.plus(sent), p.proc.sum.plus(sent)
	}
	if n := p.times(2, c.other*seconds); n > 0 {
		p.proc.elsewhere(v, c, n, p.at >= c.othersFrom, to)
	}
}

// loses is the share that a cause costs now.
func (p *callerPod) loses(why cause, service int) (share float64) {
	for _, c := range p.caller.conditions {
		if c.cause == why && p.at >= c.begins(p) && p.at < c.to && c.part.has(p.number) && (c.service < 0 || c.service == service) {
			share = max(share, c.share)
		}
	}
	return share
}

// times is how often something happens that happens so often on average: what is left of one is kept for later.
func (p *callerPod) times(what int, expected float64) int64 {
	all := p.carry[what] + expected
	whole := math.Floor(all)
	p.carry[what] = all - whole
	return int64(whole)
}

// of so many calls, each one is with some probability. Many are taken together.
func (p *callerPod) of(n int64, share float64) int64 {
	switch {
	case share <= 0 || n == 0:
		return 0
	case share >= 1:
		return n
	case n > 40:
		mean := float64(n) * share
		drawn := mean + p.random.NormFloat64()*math.Sqrt(mean*(1-share))
		return min(n, max(0, int64(math.Round(drawn))))
	}
	var some int64
	for range n {
		if p.random.Float64() < share {
			some++
		}
	}
	return some
}

// pick one of a few, the first ones more often.
func pick[T any](random *rand.Rand, all ...T) T {
	return all[min(random.IntN(len(all)), random.IntN(len(all)))]
}

// addPod makes a pod of a caller, which has an address a moment later.
func (v *verification) addPod(c *meshCaller) *callerPod {
	p := &callerPod{
		caller: c, number: c.made, name: fmt.Sprintf("%s-%d", c.name, c.made), uid: fmt.Sprintf("uid-%s-%d", c.name, c.made),
		address: fmt.Sprintf("10.%d.0.%d", v.index(c), c.made), created: v.now, at: v.now, addressed: v.now + 2*time.Second,
		random: rand.New(rand.NewPCG(v.seed, uint64(v.index(c)*1000+c.made+7))), succeeded: -forever,
	}
	c.made++
	for i := range p.carry {
		p.carry[i] = p.random.Float64()
	}
	if v.switched < 0 {
		p.drains = time.Duration(p.random.Int64N(int64(drainTime)))
	} else {
		p.whole.young, p.shown.young = true, true
	}
	p.begin(v.now + 2*time.Second)
	c.pods = append(c.pods, p)
	return p
}

func (v *verification) index(c *meshCaller) int {
	for i, other := range v.callers {
		if other == c {
			return i
		}
	}
	return len(v.callers)
}

// begin a process of the proxy, which is there a moment later.
func (p *callerPod) begin(ready time.Duration) { p.proc = &callerProcess{ready: ready} }

// advance lets everything happen up to a time.
func (v *verification) advance(to time.Duration) {
	for {
		what := -1
		for i, e := range v.agenda {
			if e.at <= to && (what < 0 || e.at < v.agenda[what].at) {
				what = i
			}
		}
		if what < 0 {
			break
		}
		e := v.agenda[what]
		v.agenda = append(v.agenda[:what:what], v.agenda[what+1:]...)
		v.tell(max(v.now, e.at))
		e.do()
	}
	v.tell(to)
}

// tell all calls up to a time.
func (v *verification) tell(to time.Duration) {
	v.now = max(v.now, to)
	for _, c := range v.callers {
		for _, p := range c.pods {
			v.advancePod(p, v.now)
		}
	}
}
