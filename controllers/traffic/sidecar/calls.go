package sidecar

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	"github.com/servicesecurity/operator/controllers/traffic"
)

const (
	callRequests = "istio_requests_total"
	callOpened   = "istio_tcp_connections_opened_total"
	callClosed   = "istio_tcp_connections_closed_total"

	// maxFilterNames is beyond how many services the filter lets all of the cluster's pass.
	maxFilterNames = 8
)

var _ traffic.CallObserver = (*Observer)(nil)

// Calls reads what the callers' own proxies have counted of their calls.
func (o *Observer) Calls(ctx context.Context, request traffic.CallsRequest) traffic.Calls {
	if request.Services.Empty() {
		return request.Unserved(o.now().wall)
	}
	var proxies []traffic.Proxy
	for _, caller := range request.Callers {
		proxies = append(proxies, caller.Proxies[:min(len(caller.Proxies), traffic.MaxCallerProxies)]...)
	}
	type reading struct {
		calls traffic.PodCalls
		err   error
	}
	query := asks(callsFilter(request.Services))
	readings := each(o, proxies, func(px traffic.Proxy) (r reading) {
		r.err = o.inSlot(ctx, func() error {
			body, err := o.scraper.get(ctx, px.Address, query)
			if err == nil {
				r.calls, err = parseCalls(body, request.Services)
			}
			return err
		})
		return r
	})
	out := traffic.Calls{Time: o.now().wall}
	for _, caller := range request.Callers {
		calls := traffic.CallerCalls{Name: caller.Name}
		for _, px := range caller.Proxies[:min(len(caller.Proxies), traffic.MaxCallerProxies)] {
			r := readings[0]
			readings = readings[1:]
			switch {
			case px.Address == "":
			case r.err == nil:
				r.calls.UID, r.calls.Created = px.UID, px.Created
				calls.Pods = append(calls.Pods, r.calls)
			case calls.Unread == "":
				calls.Unread = fmt.Sprintf("the proxy of pod %s cannot be read: %v", name(px), r.err)
			}
		}
		out.Callers = append(out.Callers, calls)
	}
	return out
}

// callsFilter selects what a proxy counts of its own calls to some services, by the statistics' own names: see filter.
func callsFilter(services traffic.Services) string {
	to := regexp.QuoteMeta(services.Suffix)
	switch {
	case to != "":
	case len(services.Names) > maxFilterNames:
		to = `\.svc\.`
	default:
		quoted := make([]string, 0, len(services.Names))
		for _, name := range services.Names {
			quoted = append(quoted, regexp.QuoteMeta(name))
		}
		to = "(?:" + strings.Join(quoted, "|") + ")"
	}
	return `istio_(?:requests|tcp_connections_(?:opened|closed))_total\..*` + to + `|^server\.uptime$`
}

// parseCalls sums up the calls to some services in an exposition.
func parseCalls(body []byte, services traffic.Services) (traffic.PodCalls, error) {
	_, families, err := exposition(body)
	if err != nil {
		return traffic.PodCalls{}, err
	}
	var sum traffic.CallTally
	for _, name := range []string{callRequests, callOpened, callClosed} {
		for _, m := range families[name].GetMetric() {
			if label(m, "reporter") != "source" || !services.Has(label(m, "destination_service")) {
				continue
			}
			v, err := value(name, m)
			if err != nil {
				return traffic.PodCalls{}, err
			}
			switch flags := label(m, "response_flags"); name {
			case callRequests:
				sum.Requests(flags, v)
			case callOpened:
				sum.Opened(flags, v)
			case callClosed:
				sum.Closed(flags, v)
			}
		}
	}
	return sum.Calls(), nil
}
