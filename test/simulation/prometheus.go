package simulation

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/servicesecurity/operator/controllers/traffic"
	"github.com/servicesecurity/operator/controllers/traffic/promql"
	"github.com/servicesecurity/operator/test/promserver"
)

// prometheus is a server that scrapes the proxies by a schedule of its own, and that the operator asks.
type prometheus struct {
	w *world
	// random is its own, so that a seed's world is the same with either source.
	random   *rand.Rand
	server   *promserver.Server
	folder   string
	interval time.Duration // between scrapes
	targets  []*target
	// skew of the server's clock, ahead is by how much it was set ahead, and when.
	skew  time.Duration
	ahead []step
	down  bool
	runs  int // what a run that is over has under way comes to nothing
	mood  mood
	polls polls
}

// mood is how the server answers.
type mood int

const (
	well        mood = iota
	slowly           // each query
	unavailable      // to each query
	overtaxed        // by what reads many series
	unfinished       // it hangs
	halved           // a part of the series is away, and a warning says so
	moods
)

func (m mood) String() string {
	return [...]string{"answers", "is slow", "answers 503", "answers 422", "hangs", "lacks a part of its series"}[m]
}

// polls are what the operator asked.
type polls struct {
	// last is when the last one began, whole the last that was answered in full.
	last, whole time.Duration
	answered    int
}

// queriesOfAPoll is how many queries make one.
const queriesOfAPoll = 5

// scraped is a scrape of a proxy that the server stored: what the proxy had counted at one time, from another on.
type scraped struct{ at, stored time.Duration }

func newPrometheus(w *world, seed int64) *prometheus {
	p := &prometheus{w: w, random: rand.New(rand.NewPCG(uint64(seed), 2))}
	var err error
	if p.folder, err = os.MkdirTemp("", "prometheus"); err != nil {
		panic(err)
	}
	complain := func(format string, args ...any) { w.oracle.violate(w, "Prometheus: "+format, args...) }
	if p.server, err = promserver.New(p.folder, p.now, complain); err != nil {
		panic(err)
	}
	return p
}

func (p *prometheus) close() {
	if err := p.server.Close(); err != nil {
		panic(err)
	}
	if err := os.RemoveAll(p.folder); err != nil {
		panic(err)
	}
}

// now is the time by the server's clock.
func (p *prometheus) now() time.Time { return epoch.Add(p.w.now + p.skew) }

func (p *prometheus) between(least, most time.Duration) time.Duration {
	return least + time.Duration(p.random.Int64N(int64(most-least)+1))
}

// later is what happens also when the faults have ended.
func (p *prometheus) later(at time.Duration, do func()) {
	p.w.agenda = append(p.w.agenda, entry{at: at, do: do, lasting: true})
}

func (p *prometheus) note(format string, args ...any) {
	p.w.diary.note(p.w.now, "server", format, args...)
}

func (p *prometheus) observer(clock clock, core Core) traffic.Observer {
	var transport http.RoundTripper = p
	if core.Server != nil {
		transport = core.Server(p)
	}
	o, err := promql.New(promql.Options{
		URL: "http://prometheus:9090", Transport: transport, Direct: readProxies(p.w, clock, core), Clock: clock, Interval: p.w.config.interval,
	})
	if err != nil {
		panic(err)
	}
	return o
}

// RoundTrip is a query. Time passes before it is evaluated, and after.
func (p *prometheus) RoundTrip(r *http.Request) (*http.Response, error) {
	w := p.w
	if err := r.ParseForm(); err != nil {
		return nil, err
	}
	query, first := r.Form.Get("query"), r.Form.Get("time") == ""
	w.advance(w.now + p.between(time.Millisecond, 20*time.Millisecond))
	if first {
		p.polls.last, p.polls.answered = w.now, 0
	}
	switch {
	case p.down:
		return nil, syscall.ECONNREFUSED
	case p.mood == unavailable:
		return answer(http.StatusServiceUnavailable, nil), nil
	case p.mood == unfinished:
		w.advance(w.now + 2*time.Minute)
		return nil, context.DeadlineExceeded
	case p.mood == overtaxed && strings.Contains(query, "topk"):
		return answer(http.StatusUnprocessableEntity, []byte(`{"status":"error","errorType":"execution","error":"query processing would load too many samples into memory"}`)), nil
	case p.mood == slowly:
		w.advance(w.now + p.between(0, 10*time.Second))
	}
	if first {
		p.polls.last = w.now
	}
	response := httptest.NewRecorder()
	p.server.ServeHTTP(response, r)
	if p.mood == slowly {
		w.advance(w.now + p.between(0, 10*time.Second))
	}
	w.advance(w.now + p.between(time.Millisecond, 20*time.Millisecond))
	if p.polls.answered++; p.polls.answered == queriesOfAPoll {
		p.news()
	}
	return response.Result(), nil
}

// news is what a poll shows that none before did, of the last two intervals.
func (p *prometheus) news() {
	w := p.w
	for _, u := range w.uses {
		if u.proc == nil || u.counted != counted {
			continue
		}
		i := u.proc.firstScraped(u.metered)
		if i < 0 || u.proc.scraped[i].stored > p.polls.last || u.proc.scraped[i].stored <= p.polls.whole || u.proc.scraped[i].at < w.now-2*w.config.interval {
			continue
		}
		if !u.proc.reborn(u, u.proc.scrapes(), i) {
			w.oracle.fresh = append(w.oracle.fresh, u)
		}
	}
	p.polls.whole = p.polls.last
}

// firstScraped is which scrape was the first after a time; -1 if none was.
func (p *process) firstScraped(after time.Duration) int {
	return slices.IndexFunc(p.scraped, func(s scraped) bool { return s.at >= after })
}

// scrapes are the times of them.
func (p *process) scrapes() []time.Duration {
	times := make([]time.Duration, len(p.scraped))
	for i, s := range p.scraped {
		times[i] = s.at
	}
	return times
}

func (p *prometheus) asked(r traffic.Request) {
	if !r.Readings {
		p.w.readers++ // it forgets what the proxies said
	}
	for _, pod := range p.w.pods {
		if slices.ContainsFunc(r.Proxies, func(px traffic.Proxy) bool { return px.UID == pod.uid }) {
			pod.remembered = p.w.memories
		}
	}
}

// compares: the last word of a pod is compared with nothing.
func (p *prometheus) compares(proc *process) bool { return !proc.pod.terminating }

// slack: what is counted is dated by the next scrape, in steps of a 300th of the window, and the last scrape is where the
// observation ends.
func (p *prometheus) slack() time.Duration {
	return 4*p.interval + p.w.config.interval + p.w.window()/100
}

// excuse says why the server could not have shown a use.
func (p *prometheus) excuse(u *use, window time.Duration) string {
	w, since := p.w, p.w.now-window
	switch sum := p.stepped(since); {
	case u.to <= since+sum:
		return "before a window that a clock set ahead made shorter"
	case u.proc == nil && !w.oracle.noticed.since(u.from, w.memories):
		return "in a pod outside the mesh, while nobody looked"
	case u.proc == nil:
		return ""
	case u.counted != counted && !w.oracle.noticed.since(u.from, w.memories):
		return "on a listener that did not count, while nobody looked"
	case u.counted != counted:
		return ""
	case p.direct(u):
		return ""
	}
	gone, proc := u.pod.gone, u.proc
	i := proc.firstScraped(u.metered)
	switch {
	case i >= 0 && proc.scraped[i].stored <= p.polls.last && proc.reborn(u, proc.scrapes(), i):
		return "in a series that went and was born again between two scrapes"
	case i >= 0 && proc.scraped[i].stored <= p.polls.last:
		return ""
	case u.to == forever && u.metered == forever:
		return "a stream that is open, and whose connection nobody read"
	case !gone && !u.pod.terminating && proc.ended == forever && p.passed(u):
		return "" // the next scrape was to be waited for
	case !gone && !u.pod.terminating && proc.ended == forever:
		return "after the last scrape"
	case u.pod.lastWord >= 0 && u.metered > u.pod.lastWord:
		return "after a pod's last word"
	case !gone && u.pod.terminating:
		return "after the last scrape"
	case gone && len(proc.scraped) == 0 && u.pod.remembered != w.memories:
		return "in a proxy that came and went between two scrapes, while nobody looked"
	}
	return ""
}

// passed says that a use was counted when the proxy was last read directly, whether or not that shows it.
func (p *prometheus) passed(u *use) bool {
	proc := u.proc
	i := proc.firstRead(u.shown)
	return i >= 0 && proc.reader == p.w.readers && !proc.reborn(u, proc.read, i)
}

// direct says that the proxies' own word, around the switch, told of a use.
func (p *prometheus) direct(u *use) bool {
	w, proc := p.w, u.proc
	if proc.reader != w.readers || len(proc.read) == 0 {
		return false
	}
	last := proc.read[len(proc.read)-1]
	if proc.exposes && u.client.kind != tcp && last >= w.oracle.began && u.from <= last && u.to > last {
		return true // it was open then
	}
	for i := len(proc.read) - 1; i > 0 && proc.read[i-1] >= proc.since; i-- {
		if u.shown > proc.read[i-1] && u.shown <= proc.read[i] {
			return !proc.reborn(u, proc.read, i)
		}
	}
	return false
}

// stepped is by how much clocks that were set ahead made windows shorter that reach back to a time: as little as the observer
// allows for, but for steps of the server's clock that nobody saw.
func (p *prometheus) stepped(since time.Duration) time.Duration {
	seen, unseen := sumSteps(p.ahead, since)
	operator, _ := sumSteps(p.w.oracle.steps, since)
	return unseen + min(seen+operator, 5*time.Second)
}

func (p *prometheus) String() string { return fmt.Sprintf("scraping every %s", p.interval) }
