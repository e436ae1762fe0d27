package simulation

import (
	"strings"
	"time"
)

// What happens to a Prometheus server, and when it was there before the operator.

func (p *prometheus) begin(window time.Duration) {
	w := p.w
	p.interval = []time.Duration{15 * time.Second, 30 * time.Second, time.Minute}[p.random.IntN(3)]
	p.skew = p.between(-40*time.Second, 40*time.Second)
	w.config.keepsNames = p.random.IntN(3) == 0
	if p.random.IntN(3) > 0 {
		w.config.before = p.between(0, 2*window)
	}
	if w.config.before > 0 && p.random.IntN(4) == 0 {
		// It is younger than the world.
		p.stop()
		p.later(p.between(0, w.config.before), p.start)
	}
	whole := w.config.before + w.config.horizon
	for range 1 + p.random.IntN(10) {
		fault := serverFaults[p.random.IntN(len(serverFaults))]
		w.at(p.between(0, whole), func() { fault(p) })
	}
	p.note("scrapes every %s; the operator comes at %s", p.interval, stamp(w.config.before))
}

// serverFaults are what happens to a server; what is listed twice happens more often.
var serverFaults = []func(*prometheus){
	outage, outage, outage, unreachable, unreachable, unreachable, moody, moody, moody, moody, moody, lacking, lacking, lacking, stepClock, stepClock, slewClock, crashTwice,
}

// while is a length that matters: some scrapes, or a part of the window.
func (p *prometheus) while() time.Duration {
	switch p.random.IntN(3) {
	case 0:
		return p.between(0, 2*p.interval)
	case 1:
		return p.between(0, 12*p.interval)
	}
	return p.between(0, p.w.window())
}

func (p *prometheus) stop() {
	p.down = true
	p.runs++
}

// start runs the server again. It does not know what it scraped before, so nothing marks the end of series that went meanwhile.
func (p *prometheus) start() {
	if !p.down {
		return
	}
	p.note("starts")
	p.down = false
	p.runs++
	left := p.targets[:0]
	for _, t := range p.targets {
		if t.pod.gone {
			continue
		}
		t.record.Last, t.once = nil, false
		left = append(left, t)
	}
	clear(p.targets[len(left):])
	p.targets = left
	for _, t := range p.targets {
		p.loop(t, p.w.now+p.between(0, mostDiscovery))
	}
}

// outage is a server that is down, or that restarts at once.
func outage(p *prometheus) {
	if p.down {
		return
	}
	p.note("is down")
	p.stop()
	p.w.at(p.w.now+p.while(), p.start)
}

// unreachable are targets that the server cannot reach, and the operator can.
func unreachable(p *prometheus) {
	for _, t := range p.targets {
		if p.random.IntN(2) == 0 {
			t.failing = p.w.now + p.while()
			p.note("does not reach %s until %s", t.pod.name, stamp(t.failing))
		}
	}
}

// moody is a server that does not answer as it should.
func moody(p *prometheus) {
	p.recover()
	p.mood = mood(1 + p.random.IntN(int(halved)-1))
	p.note("%s", p.mood)
	p.w.at(p.w.now+p.while(), p.recover)
}

// lacking is a server of many parts of which one is away. What proves that a proxy was read is in another one.
func lacking(p *prometheus) {
	p.recover()
	p.mood = halved
	p.note("%s", p.mood)
	away := uint64(p.random.IntN(2))
	p.server.Missing = func(metric string, hash uint64) bool {
		return strings.HasPrefix(metric, "istio_") && hash>>7%2 == away
	}
	p.server.Warnings = []string{"store-2 did not answer"}
	p.w.at(p.w.now+p.while(), p.recover)
}

func (p *prometheus) recover() {
	if p.mood != well {
		p.note("answers again")
	}
	p.mood, p.server.Missing, p.server.Warnings = well, nil, nil
}

// stepClock sets the server's clock.
func stepClock(p *prometheus) {
	p.set([]time.Duration{4 * time.Second, -4 * time.Second, 50 * time.Second, -50 * time.Second, 5 * time.Minute, -5 * time.Minute, time.Hour}[p.random.IntN(7)])
	p.clockSet()
}

// slewClock sets the server's clock in steps that are hard to tell from a slow answer.
func slewClock(p *prometheus) {
	by := p.between(-5*time.Second, 5*time.Second)
	for i := range 1 + p.random.IntN(8) {
		p.w.at(p.w.now+time.Duration(i)*p.w.config.interval, func() { p.set(by) })
	}
}

func (p *prometheus) set(by time.Duration) {
	p.note("its clock is set by %s", by)
	p.skew += by
	if by > 0 {
		p.ahead = append(p.ahead, step{at: p.w.now, by: by, away: p.w.operator == nil})
	}
}

// clockSet has clocks that differ be set right in the end.
func (p *prometheus) clockSet() {
	p.w.at(p.w.now+p.while(), func() {
		if (p.skew - p.w.skew).Abs() > time.Minute {
			p.w.jump(p.skew - p.w.skew + p.between(-20*time.Second, 20*time.Second))
		}
	})
}

// crashTwice is a proxy that lives between two scrapes alone.
func crashTwice(p *prometheus) {
	pod := p.w.any()
	if pod == nil || pod.proc == nil {
		return
	}
	again := func() {
		if pod.proc != nil && !pod.gone {
			p.note("the proxy of %s restarts", pod.name)
			pod.proc.kill(p.w)
			p.w.start(pod)
			pod.restarts++
		}
	}
	again()
	p.w.at(p.w.now+p.between(time.Second, 2*p.interval), again)
}

// calm: of a server that has just begun it is not known how often it scrapes before it has done so five times in five minutes.
func (p *prometheus) calm() time.Duration {
	p.start()
	p.recover()
	for _, t := range p.targets {
		t.failing = 0
	}
	if (p.skew - p.w.skew).Abs() > 30*time.Second {
		p.w.jump(p.skew - p.w.skew)
	}
	p.w.stamps = p.skew // all clocks are alike in the end
	return p.slack() + 10*time.Minute
}
