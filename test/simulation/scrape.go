package simulation

import (
	"slices"
	"strings"
	"time"

	"github.com/servicesecurity/operator/test/promserver"
)

// target is a pod that Prometheus scrapes. Its loop is as Prometheus': it ticks by a clock that nobody sets.
type target struct {
	pod    *pod
	record promserver.Target
	phase  time.Duration
	from   time.Duration
	once   bool // it was scraped, or that was tried
	left   bool
	// failing is until when the server alone cannot reach it.
	failing time.Duration
}

// mostDiscovery is how long service discovery takes to tell of a change.
const mostDiscovery = 5 * time.Second

func (p *prometheus) appeared(pod *pod) {
	if slices.ContainsFunc(p.targets, func(t *target) bool { return t.pod == pod }) {
		return
	}
	t := &target{pod: pod, phase: p.between(0, p.interval-1), record: promserver.NewTarget(map[string]string{
		"job": "envoy-stats", "instance": pod.address + ":15090", "namespace": "shop", "pod": pod.name,
	})}
	p.targets = append(p.targets, t)
	t.from = p.w.now + p.between(0, mostDiscovery)
	p.loop(t, t.from)
}

func (p *prometheus) disappeared(pod *pod) {
	for _, t := range p.targets {
		if t.pod == pod {
			p.later(p.w.now+p.between(0, mostDiscovery), func() { t.left = true })
		}
	}
}

// loop begins to scrape a target, unless the server is down: then it does so when it runs again.
func (p *prometheus) loop(t *target, from time.Duration) {
	if p.down {
		return
	}
	run := p.runs
	p.later(p.tick(t, from), func() { p.ticked(t, run) })
}

// tick is the next moment of a target's schedule.
func (p *prometheus) tick(t *target, from time.Duration) time.Duration {
	next := from - from%p.interval + t.phase
	if next < from {
		next += p.interval
	}
	return next
}

func (p *prometheus) ticked(t *target, run int) {
	w := p.w
	if run != p.runs {
		return
	}
	if t.left {
		p.leave(t, run)
		return
	}
	t.once = true
	p.later(w.now+p.interval, func() { p.ticked(t, run) })
	text, took := p.fetch(t)
	at, stamp, proc := w.now, p.now(), t.pod.proc
	p.later(w.now+took, func() {
		if run != p.runs {
			return
		}
		if text == nil {
			p.server.Fail(&t.record, stamp)
			return
		}
		if refused, ok := p.server.ScrapeText(&t.record, stamp, text); ok && refused == 0 && proc != nil && len(t.record.Last) > 0 {
			proc.scraped = append(proc.scraped, scraped{at, w.now})
		}
	})
}

// leave ends a target's series at this tick: Prometheus writes that two ticks and a bit later, if it still runs.
func (p *prometheus) leave(t *target, run int) {
	p.targets = slices.DeleteFunc(p.targets, func(other *target) bool { return other == t })
	if !t.once {
		return
	}
	stamp := p.now()
	p.later(p.w.now+p.interval*11/10, func() {
		if run == p.runs {
			p.server.Leave(&t.record, stamp)
		}
	})
}

// fetch asks the proxy; nothing comes of it if it fails. It says how long that takes.
func (p *prometheus) fetch(t *target) (text []byte, took time.Duration) {
	w, proc := p.w, t.pod.proc
	most := min(10*time.Second, p.interval)
	if proc == nil || t.pod.gone {
		return nil, time.Millisecond
	}
	if w.now < t.failing {
		return nil, most
	}
	switch t.pod.trouble {
	case refuses, failing, cutOff:
		return nil, time.Millisecond
	case hangs:
		return nil, most
	case foreign:
		return []byte("# TYPE up gauge\nup 1\n"), time.Millisecond
	case slow:
		took = p.between(time.Second, 4*time.Second)
	case garbled:
		return []byte("# TYPE up gauge\nup{{{\n"), time.Millisecond
	case answers, troubles:
		took = p.between(time.Millisecond, 100*time.Millisecond)
	}
	if took > most {
		return nil, most
	}
	return kept(proc.exposition(w)), took
}

// kept are the lines that the scrape configuration of docs/observation.md keeps.
func kept(text []byte) []byte {
	var b strings.Builder
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "istio_") || strings.HasPrefix(line, "envoy_server_uptime") {
			b.WriteString(line)
		}
	}
	return []byte(b.String())
}
