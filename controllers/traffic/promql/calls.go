package promql

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"

	"github.com/servicesecurity/operator/controllers/traffic"
)

// The parts of the answer about callers.
const (
	partSent   = "sent"   // requests
	partOpened = "opened" // connections
	partClosed = "closed"
	partHere   = "here" // a proxy that is scraped
)

const (
	destinationService = "destination_service"
	responseFlags      = "response_flags"

	// maxServices is beyond how many services the query asks for all.
	maxServices = 50
)

var _ traffic.CallObserver = (*Observer)(nil)

// wanted is what a profile near its switch asks of its callers.
type wanted struct {
	services   traffic.Services
	namespaces []string
	at         time.Time
}

// callers is the last answer about callers, for all profiles together. Whoever holds the slot may ask and write.
type callers struct {
	slot chan struct{}

	wants map[string]wanted
	asked map[string]bool // the profiles that the answer is for
	at    time.Time
	calls map[object]map[string]*traffic.CallTally // by proxy and service; no services for one that is only scraped
	// copies of each series that the server has.
	copies int64
	err    error
}

func newCallers() *callers {
	return &callers{slot: make(chan struct{}, 1), wants: map[string]wanted{}}
}

// Calls reads what the server has of the callers' proxies. One query asks for all profiles, at most once an interval: a profile
// that comes in between is told at the next one.
func (o *Observer) Calls(ctx context.Context, request traffic.CallsRequest) traffic.Calls {
	now := o.clock.Now()
	if request.Services.Empty() {
		return request.Unserved(now)
	}
	c := o.callers
	select {
	case c.slot <- struct{}{}:
		defer func() { <-c.slot }()
	case <-ctx.Done():
		return request.Unread(now, "Prometheus was not asked in time")
	}
	now = o.clock.Now()
	c.want(request, now, o.interval)
	if age := now.Sub(c.at); c.at.IsZero() || age < 0 || age >= o.interval {
		c.ask(ctx, o.poller, now)
	}
	switch {
	case c.err != nil:
		return request.Unread(c.at, fmt.Sprintf("Prometheus gives no answer about them: %v", c.err))
	case !c.asked[request.Profile]:
		return request.Unread(c.at, "Prometheus is asked at the next observation interval")
	}
	return c.answer(request)
}

// want notes what a profile asks for, and forgets who has not asked for a while.
func (c *callers) want(request traffic.CallsRequest, now time.Time, interval time.Duration) {
	var namespaces []string
	for _, caller := range request.Callers {
		for _, px := range caller.Proxies {
			if !slices.Contains(namespaces, px.Namespace) {
				namespaces = append(namespaces, px.Namespace)
			}
		}
	}
	c.wants[request.Profile] = wanted{request.Services, namespaces, now}
	for profile, w := range c.wants {
		if now.Sub(w.at).Abs() > forgotten*interval {
			delete(c.wants, profile)
		}
	}
}

// ask asks for all profiles.
func (c *callers) ask(ctx context.Context, p *poller, now time.Time) {
	p.mu.Lock()
	p.callsAsked, c.copies = now, 1
	if p.history != nil {
		c.copies = max(1, p.history.copies)
	}
	p.mu.Unlock()
	c.at, c.err, c.asked, c.calls = now, nil, map[string]bool{}, map[object]map[string]*traffic.CallTally{}
	var names, namespaces []string
	for profile, w := range c.wants {
		c.asked[profile] = true
		namespaces = append(namespaces, w.namespaces...)
		if names = append(names, w.services.Names...); w.services.Suffix != "" {
			names = append(names, "*"+w.services.Suffix)
		}
	}
	slices.Sort(namespaces)
	if namespaces = slices.Compact(namespaces); len(namespaces) == 0 {
		return // nobody's pods are known
	}
	var answer poll
	vector, err := p.vector(ctx, p.schema.calls(namespaces, names), time.Time{}, &answer)
	if err == nil && len(answer.warnings) > 0 {
		err = errors.New(answer.warned())
	}
	if c.err = err; err == nil {
		c.learn(p.schema, vector)
	}
}

// calls asks how often each proxy called each service, by what came of it. A name that begins with * stands for all that end so.
func (s schema) calls(namespaces, services []string) string {
	more := []string{reporterLabel + `="source"`}
	if slices.Sort(services); len(slices.Compact(services)) <= maxServices {
		var quoted []string
		for _, name := range slices.Compact(services) {
			suffix, ends := strings.CutPrefix(name, "*")
			if name = regexp.QuoteMeta(suffix); ends {
				name = ".*" + name
			}
			quoted = append(quoted, name)
		}
		more = append(more, destinationService+"=~"+strconv.Quote(strings.Join(quoted, "|")))
	}
	by := strings.Join([]string{s.namespace, s.pod, destinationService, responseFlags}, ",")
	of := func(metric string) string {
		return fmt.Sprintf("sum by (%s) (%s{%s})", by, metric, s.where(namespaces, more...))
	}
	return anyOf(
		named(partSent, of("istio_requests_total")),
		named(partOpened, of("istio_tcp_connections_opened_total")),
		named(partClosed, of("istio_tcp_connections_closed_total")),
		named(partHere, fmt.Sprintf("group by (%s) (%s)", s.proxy(), s.heartbeat(namespaces))),
	)
}

// learn takes in an answer.
func (c *callers) learn(s schema, vector model.Vector) {
	for _, sample := range vector {
		name := object{string(sample.Metric[model.LabelName(s.namespace)]), string(sample.Metric[model.LabelName(s.pod)])}
		if c.calls[name] == nil {
			c.calls[name] = map[string]*traffic.CallTally{}
		}
		service, flags := string(sample.Metric[destinationService]), string(sample.Metric[responseFlags])
		tally := c.calls[name][service]
		if tally == nil {
			tally = &traffic.CallTally{}
			c.calls[name][service] = tally
		}
		switch n := count(sample.Value); sample.Metric[part] {
		case partSent:
			tally.Requests(flags, n)
		case partOpened:
			tally.Opened(flags, n)
		case partClosed:
			tally.Closed(flags, n)
		}
	}
}

// answer picks a request's callers out of the answer.
func (c *callers) answer(request traffic.CallsRequest) traffic.Calls {
	out := traffic.Calls{Time: c.at}
	for _, caller := range request.Callers {
		calls := traffic.CallerCalls{Name: caller.Name}
		for _, px := range caller.Proxies {
			services, scraped := c.calls[object{px.Namespace, px.Name}]
			if !scraped {
				if calls.Unread == "" {
					calls.Unread = fmt.Sprintf("Prometheus does not scrape the proxy of pod %s/%s", px.Namespace, px.Name)
				}
				continue
			}
			pod := traffic.PodCalls{UID: px.UID, Created: px.Created}
			for _, name := range slices.Sorted(maps.Keys(services)) {
				if request.Services.Has(name) {
					one := services[name].Calls()
					pod.Arrived, pod.Failed = add(pod.Arrived, one.Arrived), add(pod.Failed, one.Failed)
				}
			}
			pod.Arrived, pod.Failed = pod.Arrived/c.copies, pod.Failed/c.copies
			calls.Pods = append(calls.Pods, pod)
		}
		out.Callers = append(out.Callers, calls)
	}
	return out
}
