package promql

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/common/model"
	"k8s.io/utils/clock"

	"github.com/servicesecurity/operator/controllers/traffic"
)

// Options of an Observer; the zero value of each but URL stands for its default.
type Options struct {
	// URL of the server, below which its API is.
	URL string
	// ConfigFile is a Prometheus HTTP client configuration. It is read anew when it changes.
	ConfigFile string
	// Cluster is this cluster's name in the label destination_cluster; without it a server has the series of one cluster.
	Cluster string
	// Matchers are added to every selector, as PromQL writes them.
	Matchers string
	// NamespaceLabel and PodLabel of the scraped pods: namespace and pod.
	NamespaceLabel, PodLabel string
	// Transport carries the queries instead of what ConfigFile says.
	Transport http.RoundTripper
	// Direct reads the proxies themselves: when a pod goes away, and around the switch. May be nil.
	Direct traffic.Observer
	// Clock; the system's by default.
	Clock clock.PassiveClock
	// Interval between polls: 15 s.
	Interval time.Duration
	// Timeout of a whole poll: 2 min. Whoever asks may wait less, and finds its result later.
	Timeout time.Duration
	// MaxBodyBytes bounds an answer: 64 MiB.
	MaxBodyBytes int64
	// Log takes what the server warns of, once.
	Log logr.Logger
}

// Observer is a traffic.Observer and a traffic.CallObserver that reads a Prometheus-compatible server.
type Observer struct {
	poller   *poller
	direct   traffic.Observer
	clock    clock.PassiveClock
	interval time.Duration

	callers *callers

	mu       sync.Mutex
	profiles map[string]*profile
}

var _ traffic.Observer = (*Observer)(nil)

// New makes an Observer. It fails on options that cannot be right, and asks the server nothing.
func New(options Options) (*Observer, error) {
	timeout := cmp.Or(options.Timeout, 2*time.Minute)
	labels := schema{
		namespace: cmp.Or(options.NamespaceLabel, "namespace"), pod: cmp.Or(options.PodLabel, "pod"),
		cluster: options.Cluster, matchers: options.Matchers,
	}
	for flag, name := range map[string]string{"--prometheus-namespace-label": labels.namespace, "--prometheus-pod-label": labels.pod} {
		if !model.LegacyValidation.IsValidLabelName(name) {
			return nil, fmt.Errorf("reading %s: %q is not the name of a label", flag, name)
		}
	}
	if labels.matchers != "" && !matchersForm.MatchString(labels.matchers) {
		return nil, fmt.Errorf(`reading --prometheus-matchers: %q is not a list of label matchers, such as cluster="east",team=~"a|b"`, labels.matchers)
	}
	client, err := newClient(options, timeout, cmp.Or(options.MaxBodyBytes, 64<<20))
	if err != nil {
		return nil, err
	}
	ticker := options.Clock
	if ticker == nil {
		ticker = clock.RealClock{}
	}
	interval := cmp.Or(options.Interval, 15*time.Second)
	return &Observer{
		poller: &poller{
			client: client, schema: labels, clock: ticker, interval: interval, timeout: timeout, steps: historySteps, scrapes: maxScrapes, log: options.Log,
			needs: map[string]need{},
		},
		direct: options.Direct, callers: newCallers(), clock: ticker, interval: interval, profiles: map[string]*profile{},
	}, nil
}

// matchersForm is a list of label matchers with quoted values.
var matchersForm = func() *regexp.Regexp {
	const one = `[a-zA-Z_][a-zA-Z0-9_]*\s*(=|!=|=~|!~)\s*"([^"\\\n]|\\.)*"`
	return regexp.MustCompile(`^\s*` + one + `\s*(,\s*` + one + `\s*)*$`)
}()

// Observe says what the server's history means for a target. It asks the server when its last answer is too old.
func (o *Observer) Observe(ctx context.Context, request traffic.Request) traffic.Observation {
	asked, namespaces := o.clock.Now(), make([]string, 0, 1)
	for _, px := range request.Proxies {
		if !slices.Contains(namespaces, px.Namespace) {
			namespaces = append(namespaces, px.Namespace)
		}
	}
	o.hearLastWords(ctx, request) // first: a server that is slow must not make it too late
	within, cancel := o.patience(ctx, request)
	defer cancel()
	err := o.poller.require(within, request.Profile, need{window: request.Window, namespaces: namespaces})
	observation := o.conclude(request, asked, namespaces, err)
	return o.read(ctx, request, observation)
}

// forReading is what is left of a request's time for the direct reading, or a third of that time if it is shorter.
const forReading = 10 * time.Second

// patience bounds the wait for a poll, so that a server that is slow leaves the direct reading after it time to read.
func (o *Observer) patience(ctx context.Context, request traffic.Request) (context.Context, context.CancelFunc) {
	deadline, bounded := ctx.Deadline()
	if !bounded || o.direct == nil || !request.Readings {
		return context.WithCancel(ctx)
	}
	return context.WithDeadline(ctx, deadline.Add(-min(forReading, time.Until(deadline)/3)))
}

// conclude judges what is there of the last poll.
func (o *Observer) conclude(request traffic.Request, asked time.Time, namespaces []string, err error) traffic.Observation {
	p := o.poller
	p.mu.Lock()
	defer p.mu.Unlock()
	err = errors.Join(err, p.last.err)
	wanted := &poll{window: request.Window, namespaces: map[string]struct{}{}}
	for _, n := range namespaces {
		wanted.namespaces[n] = struct{}{}
	}
	if p.history == nil || err != nil {
		if request.Unobserved { // it may not be when the server answers again
			o.profile(request.Profile).hidden = o.clock.Now()
		}
		return o.unanswered(request, err)
	}
	observation := conclude(request, p.history, p.last, o.profile(request.Profile), asked, o.clock.Now(), o.interval)
	if len(request.Proxies) > 0 && !p.last.covers(wanted) && p.last.problem == "" {
		observation.Completeness, observation.Reason, observation.Since = traffic.Incomplete, reasonIncomplete, time.Time{}
		observation.Message = "Prometheus was not asked for this target's whole window yet; it will be at the next observation interval."
	}
	return observation
}

// unanswered is what is known without an answer of the server.
func (o *Observer) unanswered(request traffic.Request, err error) traffic.Observation {
	observation := traffic.Observation{Time: o.clock.Now()}
	none := problems{noPods: len(request.Proxies) == 0}
	if problem := o.poller.last.problem; problem != "" {
		none.say("%s", problem)
	}
	observation.Completeness, observation.Reason, observation.Message = none.judge()
	if err == nil && observation.Completeness == traffic.Complete {
		err = errors.New("it was not asked yet")
	}
	if err != nil && !none.noPods { // of no pods the server was not asked
		observation.Completeness, observation.Reason = traffic.Unavailable, reasonSourceUnavailable
		observation.Message = fmt.Sprintf("Prometheus gives no answer: %v. See whether it runs, and the operator's flags --prometheus-url and --prometheus-config-file.", err)
	}
	return observation
}

// Forget drops what is remembered of a profile. A server that no profile needs is not asked.
func (o *Observer) Forget(name string) {
	o.poller.mu.Lock()
	delete(o.poller.needs, name)
	o.poller.mu.Unlock()
	o.mu.Lock()
	delete(o.profiles, name)
	o.mu.Unlock()
	if o.direct != nil {
		o.direct.Forget(name)
	}
}

func (o *Observer) profile(name string) *profile {
	o.mu.Lock()
	defer o.mu.Unlock()
	p := o.profiles[name]
	if p == nil {
		p = &profile{unknown: map[object]struct{}{}, ended: map[object]string{}, beside: map[object]*neighbour{}}
		o.profiles[name] = p
	}
	return p
}

// hearLastWords reads pods whose deletion has started, at each observation: the server may not scrape them again. One that has
// never counted plaintext in its life takes nothing with it.
func (o *Observer) hearLastWords(ctx context.Context, request traffic.Request) {
	if o.direct == nil {
		return
	}
	known := o.profile(request.Profile)
	var group sync.WaitGroup
	for _, px := range request.Proxies {
		if px.Terminating && px.Address != "" {
			group.Go(func() { o.hear(ctx, known, px, request.Window) })
		}
	}
	group.Wait()
}

// hear reads one of them. One that restarted lost what it had counted, so its word is worth nothing.
func (o *Observer) hear(ctx context.Context, known *profile, px traffic.Proxy, window time.Duration) {
	name, last := object{px.Namespace, px.Name}, traffic.Observation{}
	if px.Restarts == 0 {
		key := "last words of " + px.UID
		last = o.direct.Observe(ctx, traffic.Request{
			Profile: key, Proxies: []traffic.Proxy{px}, Ports: traffic.PortSet{Except: true}, Window: window,
		})
		o.direct.Forget(key)
	}
	o.poller.mu.Lock()
	defer o.poller.mu.Unlock()
	switch plain := last.Evidence.Plaintext > 0 || last.OpenPlaintext > 0; {
	case plain && known.endedWell(name, px.UID):
		known.late = fmt.Sprintf("plaintext reached pod %s while it terminated", name)
		delete(known.ended, name)
	case plain || px.Restarts > 0:
		delete(known.ended, name)
	case last.Completeness == traffic.Complete:
		known.ended[name] = px.UID
	}
}

// read adds what the proxies say of their own configuration, which is too late from a server around the switch. It also
// shows plaintext connections that are open at this moment.
func (o *Observer) read(ctx context.Context, request traffic.Request, observation traffic.Observation) traffic.Observation {
	if o.direct == nil {
		return observation
	}
	if !request.Readings {
		o.direct.Forget(request.Profile)
		return observation
	}
	request.RequireSeries, request.Evidence, request.CleanSince, request.Callers = false, nil, time.Time{}, nil
	direct := o.direct.Observe(ctx, request)
	observation.Proxies, observation.Meshed = direct.Proxies, direct.Meshed
	observation.OpenPlaintext = max(observation.OpenPlaintext, direct.OpenPlaintext)
	if direct.LastPlaintext.After(observation.LastPlaintext) {
		observation.LastPlaintext = direct.LastPlaintext
	}
	if observation.Completeness == traffic.Complete && direct.Completeness != traffic.Complete {
		observation.Completeness, observation.Reason, observation.Since = traffic.Incomplete, reasonIncomplete, time.Time{}
		observation.Message = "Around the switch the proxies are read directly. " + direct.Message
	}
	switch {
	case direct.Since.After(o.scraped(request.Profile)):
		// What a proxy counted between its last scrape and the first direct reading is in neither.
		observation.Awaits = "The switch waits until Prometheus has scraped each proxy once more since the proxies are read directly."
	case observation.Completeness == traffic.Complete && direct.Time.After(observation.Time):
		// All that any of them counted since its last scrape is in what was read directly.
		observation.Time = direct.Time
	}
	return observation
}

// scraped is up to when all of a target's proxies were scraped.
func (o *Observer) scraped(profile string) time.Time {
	known := o.profile(profile)
	o.poller.mu.Lock()
	defer o.poller.mu.Unlock()
	return known.scraped
}
