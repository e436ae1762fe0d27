package promql

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"

	"github.com/servicesecurity/operator/controllers/traffic"
)

// event is one that nobody but the test knows of.
type event struct {
	at   time.Time
	what string
	pod  *pod // that plaintext reached
}

// life is a world that moves by the second.
type life struct {
	*server
	random   *rand.Rand
	interval time.Duration // between scrapes
	skew     time.Duration // of the operator's clock
	now      time.Time
	pods     []*pod
	next     map[*pod]time.Time // scrape
	failing  map[*pod]int       // scrapes that fail from now on
	down     map[*pod]time.Time // until when the process is down
	leaving  map[*pod]time.Time
	quiet    map[*pod]bool      // not scraped once its deletion has started
	heard    map[*pod]time.Time // when last it was read directly
	coming   []event            // pods that come back by their names
	moved    map[*pod]map[series]time.Time
	outage   time.Time // until when Prometheus is down
	blind    time.Time // until when a part of it does not answer
	hidden   string    // the pod whose series it has
	kinds    []series  // of plaintext
	lags     map[string]*lag
	direct   bool // the observer reads the proxies, too
	befalls  [misfortunes]bool
	plain    []event
	mutual   int64
	diary    []event
	made     int
	named    bool // pods keep their names
	callers  []legacy
}

// lag is that of the samples of one pod's name: until when nothing is written, and then how many scrapes in a second.
type lag struct {
	until time.Time
	rate  int
	queue []func()
}

// legacy sends plaintext now and then: in bursts that begin with chance in so many seconds.
type legacy struct {
	series series
	every  int
	burst  int
	left   int
}

func (l *life) note(format string, args ...any) {
	l.diary = append(l.diary, event{at: l.now, what: fmt.Sprintf(format, args...)})
}

func (l *life) chance(oneIn int) bool { return l.random.IntN(oneIn) == 0 }

func (l *life) create(name string) {
	l.made++
	if !l.named {
		name = fmt.Sprintf("web-%08x-%05x", l.random.Uint32(), l.random.Uint32N(1<<20))
	}
	p := newPod("web", name, l.now)
	p.uid = fmt.Sprint(l.made)
	p.extra = map[string]string{"instance": fmt.Sprintf("10.0.0.%d:15090", l.made)}
	l.moved[p] = map[series]time.Time{}
	p.started = l.now.Add(time.Duration(l.random.IntN(10)) * time.Second)
	l.pods = append(l.pods, p)
	l.next[p] = l.now.Add(time.Duration(l.random.Int64N(int64(l.interval))).Truncate(time.Millisecond))
	l.down[p] = p.started
	l.note("pod %s is created", name)
}

func newLife(t testing.TB, seed uint64) *life {
	r := rand.New(rand.NewPCG(seed, 1))
	l := &life{
		server: newServer(t), random: r, now: epoch, interval: time.Duration([]int{5, 15, 30}[r.IntN(3)]) * time.Second,
		skew: time.Duration(r.IntN(80)-40) * time.Second, next: map[*pod]time.Time{}, failing: map[*pod]int{},
		down: map[*pod]time.Time{}, leaving: map[*pod]time.Time{}, named: r.IntN(2) == 0,
		quiet: map[*pod]bool{}, heard: map[*pod]time.Time{}, moved: map[*pod]map[series]time.Time{}, lags: map[string]*lag{}, direct: r.IntN(3) > 0,
	}
	for i := range l.befalls {
		l.befalls[i] = r.IntN(5) < 2
	}
	l.kinds = []series{
		requests("none", "cron"), requests("none", "unknown"),
		{"istio_tcp_received_bytes_total", "none", "old", "tcp"},
		{"istio_request_messages_total", "", "streamer", "grpc"},
	}
	for range r.IntN(3) {
		l.callers = append(l.callers, legacy{series: l.kinds[r.IntN(len(l.kinds))], every: 60 * (1 + r.IntN(30)), burst: 1 + r.IntN(3)})
	}
	if l.chance(4) {
		// A StatefulSet whose pods go and come, and see plaintext only as they go.
		l.named, l.direct, l.callers, l.befalls = true, true, nil, [misfortunes]bool{deletion: true}
	}
	l.create("web-0")
	l.create("web-1")
	return l
}

// second moves the world on.
func (l *life) second() {
	l.now = l.now.Add(time.Second)
	l.server.now = l.now
	for _, p := range l.pods {
		for !l.next[p].After(l.now) {
			at := l.next[p]
			l.next[p] = at.Add(l.interval)
			switch {
			case at.Before(l.outage) || l.quiet[p]:
			case l.failing[p] > 0 || at.Before(l.down[p]):
				l.failing[p] = max(0, l.failing[p]-1)
				l.ingest(p, func(p *pod) { l.fail(p, at) })
			default:
				l.ingest(p, func(p *pod) { l.scrape(p, at) })
			}
		}
	}
	for _, late := range l.lags {
		for n := 0; n < late.rate && len(late.queue) > 0 && !l.now.Before(late.until); n++ {
			late.queue[0]()
			late.queue = late.queue[1:]
		}
	}
	for i := range l.callers {
		c := &l.callers[i]
		if l.chance(c.every) {
			c.left = 1 + l.random.IntN(c.burst)
		}
		if c.left > 0 {
			c.left--
			l.request(l.anyone(), c.series)
		}
	}
	// Plaintext is most likely where it is hard to see.
	if p := l.anyone(); l.obscure(p) && l.chance(60) {
		l.request(p, l.kinds[l.random.IntN(len(l.kinds))])
	}
	if !l.chance(3) {
		l.request(l.anyone(), requests("mutual_tls", "front"))
	}
	l.churn()
}

// ingest writes what is scraped of a pod now, or later.
func (l *life) ingest(p *pod, write func(*pod)) {
	then := *p
	then.counts = maps.Clone(p.counts)
	do := func() {
		then.record.Last = p.record.Last
		write(&then)
		p.record.Last = then.record.Last
	}
	late := l.lags[p.name]
	if late == nil || len(late.queue) == 0 && !l.now.Before(late.until) {
		do()
		return
	}
	late.queue = append(late.queue, do)
}

func (l *life) anyone() *pod { return l.pods[l.random.IntN(len(l.pods))] }

// obscure says whether what a pod counts now is late, withheld, or its last.
func (l *life) obscure(p *pod) bool {
	late := l.lags[p.name]
	return l.quiet[p] || late != nil && l.now.Before(late.until) || l.now.Before(l.blind) && l.hidden == p.name
}

// request reaches a pod whose process runs, and the counters at once.
func (l *life) request(p *pod, s series) {
	if !l.now.After(l.down[p]) {
		return
	}
	p.counts[s]++
	l.moved[p][s] = l.now
	if s.policy == "mutual_tls" {
		l.mutual++
		return
	}
	l.plain = append(l.plain, event{l.now, s.source + " sends plaintext to " + p.name, p})
	l.diary = append(l.diary, l.plain[len(l.plain)-1])
}

// churn is what happens to pods and to Prometheus.
func (l *life) churn() {
	for i := 0; i < len(l.pods); i++ {
		p := l.pods[i]
		if end, ok := l.leaving[p]; ok && !l.now.Before(end) {
			l.note("pod %s is gone", p.name)
			l.end(p)
			delete(l.leaving, p)
			l.pods = append(l.pods[:i], l.pods[i+1:]...)
			back := l.now
			if len(l.pods) > 0 {
				back = back.Add(time.Duration(l.random.IntN(2)*l.random.IntN(300)) * time.Second)
			}
			l.coming = append(l.coming, event{at: back, what: p.name})
			i--
		}
	}
	for i := 0; i < len(l.coming); i++ {
		if one := l.coming[i]; !l.now.Before(one.at) {
			l.coming = append(l.coming[:i], l.coming[i+1:]...)
			l.create(one.what)
			i--
		}
	}
	l.strike(l.anyone())
}

// end is that of a scraped pod.
func (l *life) end(p *pod) {
	if at := l.now; !at.Before(l.outage) && !l.quiet[p] {
		l.ingest(p, func(p *pod) { l.leave(p, at) })
	}
}

// What befalls pods and Prometheus. A world has some of it: where there is all, little is ever complete, and nothing is proven.
const (
	deletion = iota
	restart
	failures
	outage
	warning
	delay
	eviction
	misfortunes
)

// strike is what a pod meets, or Prometheus because of it.
func (l *life) strike(p *pod) {
	if !l.now.Before(l.blind) {
		l.Warnings, l.bend = nil, nil
	}
	happens := func(what, oneIn int) bool { return l.befalls[what] && l.chance(oneIn) }
	_, leaving := l.leaving[p]
	within := func(most int) time.Time { return l.now.Add(time.Duration(1+l.random.IntN(most)) * time.Second) }
	switch {
	case happens(deletion, 600) && l.now.Sub(p.created) > 10*l.interval && !leaving:
		l.remove(p)
	case happens(restart, 1800):
		l.note("the proxy of %s restarts", p.name)
		p.counts, p.restarts = map[series]float64{}, p.restarts+1
		p.started = within(20)
		l.down[p] = p.started
	case happens(failures, 600):
		l.failing[p] = 1 + l.random.IntN(12)
		l.note("%d scrapes of %s fail", l.failing[p], p.name)
	case happens(outage, 2400) && l.now.After(l.outage):
		l.outage = within(900)
		l.note("Prometheus is down until %s", l.outage.Format(time.TimeOnly))
	case happens(warning, 600) && l.now.After(l.blind):
		l.blind, l.hidden = within(600), p.name
		l.Warnings, l.bend = []string{"a store did not answer"}, without(p.name, l.chance(2))
		l.note("the store of %s does not answer until %s", p.name, l.blind.Format(time.TimeOnly))
	case happens(delay, 600) && (l.lags[p.name] == nil || len(l.lags[p.name].queue) == 0):
		l.lags[p.name] = &lag{until: within(600), rate: 1 + l.random.IntN(50)}
		l.note("samples of %s are written from %s on", p.name, l.lags[p.name].until.Format(time.TimeOnly))
	case happens(eviction, 1200):
		l.evict(p)
	}
}

// remove begins a pod's deletion. Half of them go slowly and unscraped, for no longer than it takes to tell that they went.
func (l *life) remove(p *pod) {
	l.note("pod %s is being deleted", p.name)
	p.terminating = true
	l.leaving[p] = l.now.Add(time.Duration(l.random.IntN(12)) * time.Second)
	if l.chance(2) {
		l.leaving[p] = l.now.Add(time.Duration(l.random.Int64N(int64(4 * l.interval))).Truncate(time.Second))
		l.end(p)
		l.quiet[p] = true
	}
}

// evict drops a series, of plaintext only long after it was scraped: what Envoy drops sooner nobody sees.
func (l *life) evict(p *pod) {
	for s := range p.counts {
		if s.policy == "mutual_tls" || l.now.Sub(l.moved[p][s]) > 30*time.Minute {
			delete(p.counts, s)
			l.note("%s of %s is evicted", s.metric+" "+s.policy, p.name)
			break
		}
	}
}

// Observe is a direct reading of a pod that terminates.
func (l *life) Observe(_ context.Context, r traffic.Request) traffic.Observation {
	for _, p := range l.pods {
		if p.uid != r.Proxies[0].UID || !l.now.After(l.down[p]) {
			continue
		}
		o := traffic.Observation{Completeness: traffic.Complete}
		for s, n := range p.counts {
			if s.policy != "mutual_tls" {
				o.Evidence.Plaintext += int64(n)
			}
		}
		return o
	}
	return traffic.Observation{Completeness: traffic.Unavailable, Message: "It does not answer."}
}

// Forget is for the interface.
func (l *life) Forget(string) {}

func (l *life) ask(o *Observer, clock *clocktesting.FakePassiveClock, window time.Duration) traffic.Observation {
	clock.SetTime(l.now.Add(l.skew))
	request := traffic.Request{Profile: "p", Targets: "t", Ports: traffic.PortSet{Except: true}, RequireSeries: l.made%2 == 0, Window: window}
	for _, p := range l.pods {
		request.Proxies = append(request.Proxies, p.proxy())
		if p.terminating && l.direct && p.restarts == 0 && l.now.After(l.down[p]) {
			l.heard[p] = l.now
		}
	}
	return o.Observe(context.Background(), request)
}

// check compares an observation with the truth.
func (l *life) check(seed uint64, o traffic.Observation) (complete bool) {
	l.t.Helper()
	if o.Completeness != traffic.Complete {
		if o.Message == "" || o.Reason == "" {
			l.t.Errorf("seed %d at %s: %s without a reason", seed, l.now, o.Completeness)
		}
		return false
	}
	since, until := o.Since.Add(-l.skew), o.Time.Add(-l.skew).Add(-l.interval)
	if o.Time.After(l.now.Add(l.skew)) {
		l.t.Errorf("seed %d: the observation is of the future", seed)
	}
	for _, e := range l.plain {
		// After its last word nobody sees what a pod counts.
		if last, ok := l.heard[e.pod]; ok && e.at.After(last) {
			continue
		}
		if e.at.After(since) && !e.at.After(until) {
			var diary strings.Builder
			for _, d := range l.diary {
				fmt.Fprintf(&diary, "%s %s\n", d.at.Format(time.TimeOnly), d.what)
			}
			l.t.Fatalf("seed %d, scraped every %s: at %s the observation says that there was no plaintext from %s to %s; at %s %s\n%s", seed, l.interval,
				l.now.Format(time.TimeOnly), since.Format(time.TimeOnly), until.Format(time.TimeOnly), e.at.Format(time.TimeOnly), e.what, diary.String())
		}
	}
	if o.MutualTLS > l.mutual {
		l.t.Fatalf("seed %d: %d requests by mutual TLS are counted, and there were %d", seed, o.MutualTLS, l.mutual)
	}
	return true
}

// TestTruth holds that plaintext is never denied: whatever histories of requests, restarts, failed scrapes and outages there
// are, what an observation calls free of plaintext was. It asks observers that were there all along, and new ones.
func TestTruth(t *testing.T) {
	// Each error that was once mended is found by some of these; more take longer than is nice to wait for.
	worlds, first := 24, uint64(12)
	if text := os.Getenv("PROMQL_SEEDS"); text != "" {
		worlds, _ = strconv.Atoi(text)
	}
	if text := os.Getenv("PROMQL_SEED"); text != "" {
		first, _ = strconv.ParseUint(text, 10, 64)
		worlds = 1
	}
	var complete, long, asks atomic.Int64
	t.Run("seed", func(t *testing.T) {
		for seed := first; seed < first+uint64(worlds); seed++ {
			t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
				t.Parallel()
				newLife(t, seed).run(seed, func(sure, whole bool) {
					asks.Add(1)
					if sure {
						complete.Add(1)
					}
					if whole {
						long.Add(1)
					}
				})
			})
		}
	})
	t.Logf("%d of %d observations complete, %d of them over the whole window", complete.Load(), asks.Load(), long.Load())
	if worlds > 1 && (complete.Load()*3 < asks.Load() || long.Load() == 0) {
		t.Error("that is too few to prove anything")
	}
}

// run asks in the course of an hour and more.
func (l *life) run(seed uint64, seen func(sure, whole bool)) {
	clock := clocktesting.NewFakePassiveClock(l.now)
	window := time.Duration([]int{10, 20, 40}[l.random.IntN(3)]) * time.Minute
	steps := time.Duration([]int{10, 40, historySteps}[l.random.IntN(3)])
	scrapes := []int64{maxScrapes, 300, 100}[seed%3] // and the history in parts
	observer := func() *Observer {
		o := l.observer(clock, func(o *Options) {
			if l.direct {
				o.Direct = l
			}
		})
		o.poller.steps = steps // long windows are read in steps longer than the gaps
		o.poller.scrapes = scrapes
		return o
	}
	o := observer()
	for l.now.Before(epoch.Add(75 * time.Minute)) {
		for range 13 + l.random.IntN(6) {
			l.second()
		}
		if l.chance(60) {
			o = observer() // the operator restarts
		}
		if !l.chance(3) && len(l.leaving) == 0 {
			continue
		}
		observation := l.ask(o, clock, window)
		sure := l.check(seed, observation)
		seen(sure, sure && observation.Time.Sub(observation.Since) > window)
	}
}
