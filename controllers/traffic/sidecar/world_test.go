package sidecar

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/servicesecurity/operator/controllers/traffic"
)

// epoch is when every story begins.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// simulated is a pod with a proxy whose counters a story moves.
type simulated struct {
	traffic.Proxy
	started time.Duration
	stale   time.Duration // by how much the uptime lags behind
	series  map[string]int64
	gauges  map[string]int64
	err     error
}

// exposition is what the proxy would print.
func (s *simulated) exposition(now time.Duration) string {
	values := map[string]int64{
		"envoy_server_uptime{}": int64((now - s.started - s.stale) / time.Second),
	}
	for k, v := range s.series {
		values[k] = v
	}
	for k, v := range s.gauges {
		values[k] = v
	}
	keys := make([]string, 0, len(values))
	for k := range values {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	var b strings.Builder
	typed := ""
	for _, k := range keys {
		family, _, _ := strings.Cut(k, "{")
		if family != typed {
			kind := "gauge"
			if strings.HasSuffix(family, "_total") {
				kind = "counter"
			}
			fmt.Fprintf(&b, "# TYPE %s %s\n", family, kind)
			typed = family
		}
		fmt.Fprintf(&b, "%s %d\n", k, values[k])
	}
	return b.String()
}

// world is a story in progress.
type world struct {
	tb      testing.TB
	tracker *tracker
	req     traffic.Request
	pods    []*simulated
	now     time.Duration // ticking
	booted  time.Duration // when the operator's process began
	set     time.Duration // by how much the wall clock was set
	told    []string
	last    traffic.Observation
}

func newWorld(tb testing.TB) *world {
	return &world{
		tb:      tb,
		tracker: &tracker{interval: 15 * time.Second, port: 15090},
		req:     traffic.Request{Profile: "p", Targets: "t", Ports: traffic.PortSet{Except: true}, Window: time.Hour},
	}
}

func (w *world) instant() instant {
	return instant{wall: epoch.Add(w.now + w.set), mono: w.now - w.booted}
}

func (w *world) pod(name string) *simulated {
	for _, p := range w.pods {
		if p.Name == name {
			return p
		}
	}
	w.tb.Fatalf("there is no pod %s", name)
	return nil
}

func (w *world) observe() traffic.Observation {
	w.req.Proxies = nil
	var scrapes []scrape
	for _, p := range w.pods {
		w.req.Proxies = append(w.req.Proxies, p.Proxy)
		s := scrape{at: w.instant()}
		switch {
		case p.err != nil:
			s.err = p.err
		case p.Address != "":
			c, err := parse([]byte(p.exposition(w.now)))
			if err != nil {
				w.tb.Fatal(err)
			}
			s.counters = c
		}
		scrapes = append(scrapes, s)
	}
	w.last = w.tracker.observe(w.req, scrapes, w.instant())
	return w.last
}

// tell puts an observation into a line.
func tell(o traffic.Observation) string {
	line := string(o.Completeness)
	if o.Reason != "" {
		line += "/" + o.Reason
	}
	offset := func(what string, t time.Time) {
		if !t.IsZero() {
			line += fmt.Sprintf(", %s %s", what, t.Sub(epoch))
		}
	}
	count := func(what string, n int64) {
		if n != 0 {
			line += fmt.Sprintf(", %s %d", what, n)
		}
	}
	offset("since", o.Since)
	offset("plaintext", o.LastPlaintext)
	count("open", o.OpenPlaintext)
	count("mutual", o.MutualTLS)
	if o.NotAttributable {
		line += ", not attributable"
	}
	for _, c := range o.Callers {
		line += fmt.Sprintf(", %s/%s %s %d", c.Namespace, c.Workload, c.Protocol, c.Requests)
	}
	if o.Gap != "" {
		line += ", gap: " + o.Gap
	}
	if o.Message != "" {
		line += ": " + o.Message
	}
	return line
}

// step is something that happens in a story.
type step func(*world)

// read observes, and tells it.
func read(w *world) { w.told = append(w.told, tell(w.observe())) }

// after lets time pass.
func after(d time.Duration) step { return func(w *world) { w.now += d } }

// next lets an interval pass, and reads.
func next(w *world) { w.now += 10 * time.Second; read(w) }

// clock sets the clock on the wall.
func clockSet(by time.Duration) step { return func(w *world) { w.set += by } }

// pod starts a pod.
func pod(name string) step { return olderPod(name, 0) }

// olderPod starts a pod that has run for a while.
func olderPod(name string, age time.Duration) step {
	return func(w *world) {
		w.pods = append(w.pods, &simulated{
			Proxy:   traffic.Proxy{Namespace: "foo", Name: name, UID: "uid-" + name, Address: "10.0.0.1"},
			started: w.now - age, series: map[string]int64{}, gauges: map[string]int64{},
		})
	}
}

// with changes a pod.
func with(name string, change func(*simulated)) step { return func(w *world) { change(w.pod(name)) } }

func gone(name string) step {
	return func(w *world) { w.pods = slices.DeleteFunc(w.pods, func(p *simulated) bool { return p.Name == name }) }
}

func terminating(name string) step { return with(name, func(p *simulated) { p.Terminating = true }) }

func refuses(name string) step {
	return with(name, func(p *simulated) { p.err = unreachable{errors.New("connection refused")} })
}

func answers(name string) step { return with(name, func(p *simulated) { p.err = nil }) }

// evicting has pod a's proxy drop series that stand still for so long.
func evicting(after time.Duration) step { return with("a", func(p *simulated) { p.Eviction = after }) }

// restart starts the proxy's process anew.
func restart(name string) step {
	return func(w *world) {
		p := w.pod(name)
		p.started, p.series = w.now, map[string]int64{}
	}
}

// plus moves a series.
func plus(name, series string, n int64) step {
	return with(name, func(p *simulated) { p.series[series] += n })
}

// gauge sets one.
func gauge(name, series string, n int64) step {
	return with(name, func(p *simulated) { p.gauges[series] = n })
}

func evicts(series string) step {
	return with("a", func(p *simulated) { delete(p.series, series) })
}

func request(change func(*traffic.Request)) step { return func(w *world) { change(&w.req) } }

// operatorRestarts forgets everything but what status kept of the observation before.
func operatorRestarts(w *world) {
	evidence := w.last.Evidence
	w.req.Evidence, w.req.CleanSince, w.req.Callers = &evidence, w.last.Since, w.last.Callers
	if w.last.LastPlaintext.After(w.last.Since) {
		w.req.CleanSince = w.last.LastPlaintext
	}
	w.tracker, w.booted = &tracker{interval: 15 * time.Second, port: 15090}, w.now
}

// The series of the stories.
const (
	mtlsHTTP       = `istio_requests_total{response_code="200",reporter="destination",source_workload="web",source_workload_namespace="bar",source_principal="spiffe://cluster.local/ns/bar/sa/web",request_protocol="http",connection_security_policy="mutual_tls"}`
	plainHTTP      = `istio_requests_total{response_code="200",reporter="destination",source_workload="cron",source_workload_namespace="legacy",source_principal="unknown",request_protocol="http",connection_security_policy="none"}`
	plainGRPC      = `istio_requests_total{response_code="200",reporter="destination",source_workload="unknown",source_workload_namespace="unknown",source_principal="unknown",request_protocol="grpc",connection_security_policy="none"}`
	sourceHTTP     = `istio_requests_total{response_code="200",reporter="source",source_workload="httpbin",source_workload_namespace="foo",source_principal="unknown",request_protocol="http",connection_security_policy="unknown"}`
	waypointHTTP   = `istio_requests_total{response_code="200",reporter="waypoint",source_workload="cron",source_workload_namespace="legacy",source_principal="unknown",request_protocol="http",connection_security_policy="none"}`
	noPolicy       = `istio_requests_total{response_code="200",reporter="destination",source_workload="cron",source_workload_namespace="legacy",source_principal="unknown",request_protocol="http"}`
	noReporter     = `istio_requests_total{response_code="200",source_workload="cron",source_workload_namespace="legacy",source_principal="unknown",request_protocol="http",connection_security_policy="none"}`
	mtlsMessages   = `istio_request_messages_total{reporter="destination",source_workload="web",source_workload_namespace="bar",source_principal="spiffe://cluster.local/ns/bar/sa/web",request_protocol="grpc"}`
	plainMessage   = `istio_request_messages_total{reporter="destination",source_workload="feed",source_workload_namespace="legacy",source_principal="unknown",request_protocol="grpc"}`
	plainAnswer    = `istio_response_messages_total{reporter="destination",source_workload="feed",source_workload_namespace="legacy",request_protocol="grpc"}`
	mtlsOpened     = `istio_tcp_connections_opened_total{reporter="destination",source_workload="web",source_workload_namespace="bar",source_principal="spiffe://cluster.local/ns/bar/sa/web",request_protocol="tcp",connection_security_policy="mutual_tls"}`
	plainTCPOpen   = `istio_tcp_connections_opened_total{reporter="destination",source_workload="db-client",source_workload_namespace="legacy",source_principal="unknown",request_protocol="tcp",response_flags="-",connection_security_policy="none"}`
	unnamedTCPOpen = `istio_tcp_connections_opened_total{reporter="destination",source_workload="unknown",source_workload_namespace="unknown",source_principal="unknown",request_protocol="tcp",response_flags="-",connection_security_policy="none"}`
	plainTCPClose  = `istio_tcp_connections_closed_total{reporter="destination",source_workload="db-client",source_workload_namespace="legacy",source_principal="unknown",request_protocol="tcp",response_flags="DC",connection_security_policy="none"}`
	plainTCPBytes  = `istio_tcp_received_bytes_total{reporter="destination",source_workload="db-client",source_workload_namespace="legacy",source_principal="unknown",request_protocol="tcp",response_flags="-",connection_security_policy="none"}`

	updates  = `envoy_listener_manager_listener_modified{}`
	draining = `envoy_listener_manager_total_filter_chains_draining{}`
)

// exposes has the proxy expose the connections of a port: in all, of them by TLS, active, of them by TLS.
func exposes(name, prefix string, total, ssl, active, sslActive int64) step {
	return func(w *world) {
		for family, n := range map[string]int64{
			"total": total, "ssl_total": ssl, "active": active, "ssl_active": sslActive,
		} {
			gauge(name, fmt.Sprintf("envoy_http_downstream_cx_%s{http_conn_manager_prefix=%q}", family, prefix), n)(w)
		}
	}
}
