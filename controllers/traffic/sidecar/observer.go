package sidecar

import (
	"cmp"
	"context"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"
	"k8s.io/utils/clock"

	"github.com/servicesecurity/operator/controllers/traffic"
)

// Options of an Observer; the zero value of each stands for its default.
type Options struct {
	// Clock; the system's by default.
	Clock clock.PassiveClock
	// Transport for the scrapes; by default one made for many pods that are called seldom.
	Transport http.RoundTripper
	// Port of the proxies' own metrics: 15090.
	Port int32
	// Concurrency bounds the scrapes under way at once, over all profiles: 32.
	Concurrency int
	// Timeout of a scrape: 5 s.
	Timeout time.Duration
	// MaxBodyBytes bounds an answer: 4 MiB.
	MaxBodyBytes int64
	// Interval between observations of a profile: 15 s. A wall clock that strays from the ticking one by more is a jump.
	Interval time.Duration
}

// Observer is a traffic.Observer and a traffic.DryRunObserver that reads the target's own sidecars, and a traffic.CallObserver
// that reads those of its callers.
type Observer struct {
	clock    clock.PassiveClock
	epoch    time.Time
	scraper  scraper
	slots    *semaphore.Weighted
	limit    int
	interval time.Duration

	mu       sync.Mutex
	profiles map[string]*profile
	// ahead is by how much the clock on the wall has left the ticking one, and stepped when that was last found to have
	// changed, by the ticking one; zero if never.
	ahead, stepped time.Duration
}

// clockStep is what the two clocks may differ by without one having been set.
const clockStep = time.Second

var _ traffic.Observer = (*Observer)(nil)

// profile serialises the observations of one profile.
type profile struct {
	mu      sync.Mutex
	tracker tracker
}

// New makes an Observer.
func New(options Options) *Observer {
	interval := cmp.Or(options.Interval, 15*time.Second)
	timeout := cmp.Or(options.Timeout, 5*time.Second)
	limit := cmp.Or(options.Concurrency, 32)
	ticker := options.Clock
	if ticker == nil {
		ticker = clock.RealClock{}
	}
	transport := options.Transport
	if transport == nil {
		transport = newTransport(timeout, interval)
	}
	o := &Observer{
		clock: ticker,
		epoch: ticker.Now(),
		scraper: scraper{
			client: &http.Client{
				Transport: transport,
				// A proxy does not redirect; whatever does is not to send the operator elsewhere.
				CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			},
			port:    cmp.Or(options.Port, 15090),
			timeout: timeout,
			maxBody: cmp.Or(options.MaxBodyBytes, 4<<20),
		},
		slots:    semaphore.NewWeighted(int64(limit)),
		limit:    limit,
		interval: interval,
		profiles: map[string]*profile{},
	}
	o.ahead = o.lead(o.now())
	return o
}

// Observe reads the proxies of the target and compares them with the reading before.
func (o *Observer) Observe(ctx context.Context, request traffic.Request) traffic.Observation {
	p := o.profile(request.Profile)
	p.mu.Lock()
	defer p.mu.Unlock()
	scrapes := o.scrapeAll(ctx, request.Proxies, &p.tracker)
	now := o.now()
	p.tracker.stepped = o.lastStep(now)
	return p.tracker.observe(request, scrapes, now)
}

// lastStep is when the clock on the wall was last found to have been set. A tracker that is new does not know.
func (o *Observer) lastStep(now instant) time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	if ahead := o.lead(now); (ahead - o.ahead).Abs() > clockStep {
		o.ahead, o.stepped = ahead, now.mono
	}
	return o.stepped
}

// lead is by how much the clock on the wall has run further than the ticking one.
func (o *Observer) lead(now instant) time.Duration { return now.wall.Sub(o.epoch.Round(0)) - now.mono }

// Forget drops what is remembered of a profile.
func (o *Observer) Forget(name string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.profiles, name)
}

func (o *Observer) profile(name string) *profile {
	o.mu.Lock()
	defer o.mu.Unlock()
	p := o.profiles[name]
	if p == nil {
		p = &profile{tracker: tracker{interval: o.interval, port: o.scraper.port}}
		o.profiles[name] = p
	}
	return p
}

// now reads both clocks. Round strips the ticking clock from the one on the wall; Since reads the ticking one alone.
func (o *Observer) now() instant {
	return instant{wall: o.clock.Now().Round(0), mono: o.clock.Since(o.epoch)}
}

// scrapeAll reads all proxies that have an address. The tracker is only looked at.
func (o *Observer) scrapeAll(ctx context.Context, proxies []traffic.Proxy, t *tracker) []scrape {
	return each(o, proxies, func(px traffic.Proxy) scrape {
		var before *counters
		if known := t.proxies[px.UID]; known != nil {
			before = known.counters
		}
		s := o.scrape(ctx, px.Address, before)
		if s.err != nil && !px.Terminating {
			s.counters = nil
		}
		return s
	})
}

// scrape reads one proxy, twice if the first reading may show plaintext connections that are none. If only the second fails there are
// both, counters and an error: of a pod that is going there may be no other reading.
func (o *Observer) scrape(ctx context.Context, address string, before *counters) (s scrape) {
	s.err = o.inSlot(ctx, func() error {
		first, err := o.scraper.scrape(ctx, address)
		s.at = o.now()
		if err != nil {
			return err
		}
		s.counters = first
		if first.doubtful(before) {
			again, err := o.scraper.scrape(ctx, address)
			if err != nil {
				return err
			}
			first.confirm(before, again)
		}
		return nil
	})
	return s
}

// each reads every proxy that has an address, many at once, and returns what it read in their order.
func each[T any](o *Observer, proxies []traffic.Proxy, read func(traffic.Proxy) T) []T {
	all := make([]T, len(proxies))
	var group errgroup.Group
	group.SetLimit(o.limit)
	for i, px := range proxies {
		if px.Address == "" {
			continue
		}
		group.Go(func() error {
			all[i] = read(px)
			return nil
		})
	}
	_ = group.Wait()
	return all
}

// inSlot reads once there is a slot for it.
func (o *Observer) inSlot(ctx context.Context, read func() error) error {
	if err := o.slots.Acquire(ctx, 1); err != nil {
		return err
	}
	defer o.slots.Release(1)
	return read()
}
