package sidecar

import (
	"context"
	"fmt"
	"regexp"
	"slices"
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
		return unserved(request, o.now())
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

// unserved is the answer for a target that no Service leads to: the callers' metrics name nothing else.
func unserved(request traffic.CallsRequest, now instant) traffic.Calls {
	out := traffic.Calls{Time: now.wall}
	for _, caller := range request.Callers {
		out.Callers = append(out.Callers, traffic.CallerCalls{Name: caller.Name, Unread: "no Service leads to the target, by which its calls could be told"})
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
	var sum tallies
	for _, name := range []string{callRequests, callOpened, callClosed} {
		for _, m := range families[name].GetMetric() {
			if label(m, "reporter") != "source" || !services.Has(label(m, "destination_service")) {
				continue
			}
			v, err := value(name, m)
			if err != nil {
				return traffic.PodCalls{}, err
			}
			sum.take(name, fateOf(label(m, "response_flags"), name != callRequests), v)
		}
	}
	return sum.calls(), nil
}

// tallies are the calls of one proxy, and its connections.
type tallies struct{ arrived, failed, opened, lost int64 }

func (t *tallies) take(name string, how fate, n int64) {
	switch {
	case name == callOpened:
		t.opened = add(t.opened, n)
	case name == callClosed && how == lostCall:
		t.lost = add(t.lost, n)
	case name == callRequests && how == lostCall:
		t.failed = add(t.failed, n)
	case name == callRequests && how == answeredCall:
		t.arrived = add(t.arrived, n)
	}
}

// calls takes both together. A connection is counted when it opens, and once more when it closes.
func (t *tallies) calls() traffic.PodCalls {
	return traffic.PodCalls{Arrived: add(t.arrived, max(0, t.opened-t.lost)), Failed: add(t.failed, t.lost)}
}

// fate is what became of a call, as far as the caller's Envoy knows.
type fate int

const (
	answeredCall fate = iota
	// lostCall found no connection, or lost it.
	lostCall
	// unsentCall says nothing of the server: no endpoint, a limit, no route, a client that went away, a timeout.
	unsentCall
)

// lostFlags are UF, no connection or no TLS handshake, and UC, a connection that the server ended. Of a request in plaintext
// STRICT makes UC, of a connection of TCP it makes resetFlag, and of TLS that is not the mesh's UF, with URX for the retries.
// URX alone is an answer that was asked for again in vain, and a request that is reset had a connection.
const resetFlag = "UR"

var (
	lostFlags   = []string{"UF", "UC"}
	unsentFlags = []string{"UH", "UO", "NR", "NC", "RL", "RLSE", "DC", "DT", "UT", "SI", "DPE", "IH", "FI", "DI", "OM"}
)

func fateOf(flags string, tcp bool) fate {
	out := answeredCall
	for _, flag := range strings.Split(flags, ",") {
		switch {
		case slices.Contains(lostFlags, flag), tcp && flag == resetFlag:
			return lostCall
		case slices.Contains(unsentFlags, flag):
			out = unsentCall
		}
	}
	return out
}
