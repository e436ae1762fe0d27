package promql

import (
	"context"
	"fmt"
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
	outage   time.Time // until when Prometheus is down
	plain    []event
	mutual   int64
	diary    []event
	made     int
	named    bool // pods keep their names
	callers  []legacy
}

// legacy sends plaintext now and then: in bursts that begin with chance in so many seconds.
type legacy struct {
	series series
	every  int
	burst  int
	left   int
}

func (l *life) note(format string, args ...any) {
	l.diary = append(l.diary, event{l.now, fmt.Sprintf(format, args...)})
}

func (l *life) chance(oneIn int) bool { return l.random.IntN(oneIn) == 0 }

func (l *life) create(name string) {
	l.made++
	if !l.named {
		name = fmt.Sprintf("web-%08x-%05x", l.random.Uint32(), l.random.Uint32N(1<<20))
	}
	p := newPod("web", name, l.now)
	p.uid = fmt.Sprint(l.made)
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
		down: map[*pod]time.Time{}, leaving: map[*pod]time.Time{}, named: r.IntN(3) == 0,
	}
	kinds := []series{
		requests("none", "cron"), requests("none", "unknown"),
		{"istio_tcp_received_bytes_total", "none", "old", "tcp"},
		{"istio_request_messages_total", "", "streamer", "grpc"},
	}
	for range 1 + r.IntN(3) {
		l.callers = append(l.callers, legacy{series: kinds[r.IntN(len(kinds))], every: 60 * (1 + r.IntN(60)), burst: 1 + r.IntN(3)})
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
			case at.Before(l.outage):
			case l.failing[p] > 0 || at.Before(l.down[p]):
				l.failing[p] = max(0, l.failing[p]-1)
				l.fail(p, at)
			default:
				l.scrape(p, at)
			}
		}
	}
	for i := range l.callers {
		c := &l.callers[i]
		if l.chance(c.every) {
			c.left = 1 + l.random.IntN(c.burst)
		}
		if c.left > 0 {
			c.left--
			l.request(c.series)
		}
	}
	if !l.chance(3) {
		l.request(requests("mutual_tls", "front"))
	}
	l.churn()
}

// request reaches a pod whose process runs, and the counters at once.
func (l *life) request(s series) {
	p := l.pods[l.random.IntN(len(l.pods))]
	if !l.now.After(l.down[p]) {
		return
	}
	p.counts[s]++
	if s.policy == "mutual_tls" {
		l.mutual++
		return
	}
	l.plain = append(l.plain, event{l.now, s.source + " sends plaintext to " + p.name})
	l.diary = append(l.diary, l.plain[len(l.plain)-1])
}

// churn is what happens to pods and to Prometheus.
func (l *life) churn() {
	for i := 0; i < len(l.pods); i++ {
		p := l.pods[i]
		if end, ok := l.leaving[p]; ok && !l.now.Before(end) {
			l.note("pod %s is gone", p.name)
			if !l.now.Before(l.outage) {
				l.leave(p, l.now)
			}
			l.pods = append(l.pods[:i], l.pods[i+1:]...)
			l.create(p.name)
			i--
		}
	}
	p := l.pods[l.random.IntN(len(l.pods))]
	_, leaving := l.leaving[p]
	old := l.now.Sub(p.created) > 10*l.interval
	switch {
	case l.chance(2400) && old && !leaving:
		l.note("pod %s is being deleted", p.name)
		p.terminating = true
		l.leaving[p] = l.now.Add(time.Duration(l.random.IntN(12)) * time.Second)
	case l.chance(2400):
		l.note("the proxy of %s restarts", p.name)
		p.counts, p.restarts = map[series]float64{}, p.restarts+1
		p.started = l.now.Add(time.Duration(l.random.IntN(20)) * time.Second)
		l.down[p] = p.started
	case l.chance(600):
		l.failing[p] = 1 + l.random.IntN(12)
		l.note("%d scrapes of %s fail", l.failing[p], p.name)
	case l.chance(3600) && l.now.After(l.outage):
		l.outage = l.now.Add(time.Duration(1+l.random.IntN(900)) * time.Second)
		l.note("Prometheus is down until %s", l.outage.Format(time.TimeOnly))
	case l.chance(1200):
		for s := range p.counts {
			delete(p.counts, s)
			l.note("%s of %s is evicted", s.metric+" "+s.policy, p.name)
			break
		}
	}
}

func (l *life) ask(o *Observer, clock *clocktesting.FakePassiveClock, window time.Duration) traffic.Observation {
	clock.SetTime(l.now.Add(l.skew))
	request := traffic.Request{Profile: "p", Targets: "t", Ports: traffic.PortSet{Except: true}, RequireSeries: l.made%2 == 0, Window: window}
	for _, p := range l.pods {
		request.Proxies = append(request.Proxies, p.proxy())
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
	worlds, first := 8, uint64(1)
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

// run asks in the course of three hours.
func (l *life) run(seed uint64, seen func(sure, whole bool)) {
	clock := clocktesting.NewFakePassiveClock(l.now)
	window := time.Duration([]int{10, 30, 90}[l.random.IntN(3)]) * time.Minute
	steps := time.Duration([]int{10, 40, historySteps}[l.random.IntN(3)])
	scrapes := []int64{maxScrapes, 300, 100}[seed%3] // and the history in parts
	observer := func() *Observer {
		o := l.observer(clock, nil)
		o.poller.steps = steps // long windows are read in steps longer than the gaps
		o.poller.scrapes = scrapes
		return o
	}
	o := observer()
	for l.now.Before(epoch.Add(3 * time.Hour)) {
		for range 13 + l.random.IntN(6) {
			l.second()
		}
		if l.chance(60) {
			o = observer() // the operator restarts
		}
		if !l.chance(3) {
			continue
		}
		observation := l.ask(o, clock, window)
		sure := l.check(seed, observation)
		seen(sure, sure && observation.Time.Sub(observation.Since) > window)
	}
}
