package simulation

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The metrics of Istio's that a proxy has.
const (
	requestsTotal = iota
	requestMessages
	openedTotal
	closedTotal
	receivedBytes
)

var metricNames = [...]string{
	"istio_requests_total", "istio_request_messages_total", "istio_tcp_connections_opened_total",
	"istio_tcp_connections_closed_total", "istio_tcp_received_bytes_total",
}

// series is what tells one from another.
type series struct {
	metric int
	policy string
	client string
	named  bool
}

// counter is a series of one process.
type counter struct {
	series
	labels string
	value  int64
	moved  time.Duration
}

// connections are the statistics of an inbound port.
type connections struct{ total, tls, active int64 }

// counts adds to a series.
func (p *process) counts(w *world, how telemetry, s series, n int64) {
	if how == notCounted {
		return
	}
	if how == unlabelled && s.policy != "" && s.metric != requestMessages {
		s.policy = ""
	}
	for _, c := range p.families[s.metric] {
		if c.series == s {
			c.value += n
			c.moved = w.now
			return
		}
	}
	p.families[s.metric] = append(p.families[s.metric], &counter{s, s.text(), n, w.now})
}

// text is a series as Envoy prints it.
func (s series) text() string {
	workload, namespace, principal := "unknown", "unknown", "unknown"
	if s.named {
		workload, namespace = s.client, "clients"
	}
	mutual := s.policy == "mutual_tls"
	if mutual {
		principal = "spiffe://cluster.local/ns/clients/sa/" + s.client
	}
	protocol := "http"
	switch s.metric {
	case requestMessages:
		protocol = "grpc"
	case openedTotal, closedTotal, receivedBytes:
		protocol = "tcp"
	}
	text := fmt.Sprintf(`%s{reporter="destination",source_workload=%q,source_workload_namespace=%q,source_principal=%q,destination_workload="web",request_protocol=%q`,
		metricNames[s.metric], workload, namespace, principal, protocol)
	if s.metric != requestMessages && s.policy != "" {
		text += fmt.Sprintf(`,connection_security_policy=%q`, s.policy)
	}
	if !s.named {
		// What tells unknown callers apart in truth, such as their codes of response.
		text += fmt.Sprintf(`,response_flags=%q`, s.client)
	}
	return text + "} "
}

// connection counts a connection of an HTTP port.
func (p *process) connection(port int32, tls bool, came, active int64) {
	if !p.exposes {
		return
	}
	c := p.cx[port]
	if c == nil {
		c = &connections{}
		p.cx[port] = c
	}
	c.total += came
	c.active += active
	if tls {
		c.tls += came
	}
}

// report brings the counters of what is open up to date, as Envoy does every few seconds.
func (p *process) report(w *world) {
	for _, u := range p.open {
		n := int64((w.now-u.from)/flush) - u.flushed
		if n <= 0 || u.client.kind == request || u.client.kind == stream {
			continue
		}
		first := u.flushed == 0
		u.flushed += n
		who := u.client
		if who.kind == tcp && first {
			p.counts(w, u.counted, series{openedTotal, "none", who.name, who.named}, 1)
		}
		if who.kind == tcp && !who.idle {
			p.counts(w, u.counted, series{receivedBytes, "none", who.name, who.named}, 100*n)
		}
		if who.kind == messages && !who.idle {
			p.counts(w, u.counted, series{requestMessages, "none", who.name, who.named}, n)
		}
	}
	if p.evicts == 0 {
		return
	}
	for f := range p.families {
		p.sweep(w, f, w.now-p.evicts, func(*counter) bool { return false })
	}
}

// sweep removes series that did not move since a time, but for those that are held.
func (p *process) sweep(w *world, family int, since time.Duration, held func(*counter) bool) {
	p.families[family] = slices.DeleteFunc(p.families[family], func(c *counter) bool {
		goes := c.moved < since && !held(c)
		if goes {
			p.swept = append(p.swept, sweep{w.now, c.client, c.metric})
		}
		return goes
	})
}

// holds says that something open will still write to the series.
func (p *process) holds(c *counter) bool {
	return slices.ContainsFunc(p.open, func(u *use) bool { return u.client.name == c.client && u.flushed > 0 })
}

// exposition is what the proxy answers now.
func (p *process) exposition(w *world) []byte {
	p.report(w)
	var b bytes.Buffer
	line := func(text string, v int64) {
		b.WriteString(text)
		b.WriteString(strconv.FormatInt(v, 10))
		b.WriteByte('\n')
	}
	for f, family := range p.families {
		if len(family) > 0 {
			b.WriteString("# TYPE " + metricNames[f] + " counter\n")
		}
		for _, c := range family {
			line(c.labels, c.value)
		}
	}
	b.WriteString("# TYPE envoy_server_uptime gauge\n")
	line("envoy_server_uptime{} ", int64(max(0, w.now-p.started-p.lag)/time.Second))
	b.WriteString("# TYPE envoy_listener_manager_listener_modified counter\n")
	line("envoy_listener_manager_listener_modified{} ", p.updates)
	b.WriteString("# TYPE envoy_listener_manager_total_filter_chains_draining gauge\n")
	draining := int64(0)
	if w.now < p.drained {
		draining = 1
	}
	line("envoy_listener_manager_total_filter_chains_draining{} ", draining)
	if p.exposes {
		for _, name := range []string{"total", "ssl_total", "active", "ssl_active"} {
			b.WriteString("# TYPE envoy_http_downstream_cx_" + name + " gauge\n")
			for _, port := range targetPorts {
				c := p.cx[port]
				if c == nil {
					c = &connections{}
				}
				v := map[string]int64{"total": c.total, "ssl_total": c.tls, "active": c.active}[name]
				line(fmt.Sprintf("envoy_http_downstream_cx_%s{http_conn_manager_prefix=\"inbound_0.0.0.0_%d\"} ", name, port), v)
			}
		}
	}
	return b.Bytes()
}

// trouble is what happens to whoever scrapes a proxy.
type trouble int

const (
	answers trouble = iota
	refuses
	hangs
	slow
	failing
	garbled
	cutOff
	foreign // something else answers on the port
	troubles
)

func (t trouble) String() string {
	return [...]string{"answers", "refuses", "hangs", "is slow", "fails", "is garbled", "is cut off", "is something else"}[t]
}

// network is how the operator reaches the proxies. Time passes while it does.
type network struct {
	w    *world
	core Core
}

func (n network) RoundTrip(r *http.Request) (*http.Response, error) {
	w := n.w
	w.advance(w.now + 20*time.Millisecond)
	host, _, _ := strings.Cut(r.URL.Host, ":")
	i := slices.IndexFunc(w.pods, func(p *pod) bool { return p.address == host })
	if i < 0 || w.pods[i].proc == nil {
		return nil, syscall.ECONNREFUSED
	}
	p := w.pods[i].proc
	body := p.exposition(w)
	if n.core.Exposition != nil {
		body = n.core.Exposition(p.pod.uid, w.now-p.pod.created, body)
	}
	switch p.pod.trouble {
	case refuses:
		return nil, syscall.ECONNREFUSED
	case hangs:
		w.advance(w.now + 5*time.Second)
		return nil, context.DeadlineExceeded
	case slow:
		w.heard(p)
		w.advance(w.now + w.between(time.Second, 4*time.Second))
		return answer(http.StatusOK, body), nil
	case failing:
		return answer(http.StatusServiceUnavailable, nil), nil
	case garbled:
		return answer(http.StatusOK, append(body[:len(body)/2], "\x00{{{\n"...)), nil
	case cutOff:
		a := answer(http.StatusOK, body)
		a.Body = io.NopCloser(io.MultiReader(bytes.NewReader(body[:len(body)/2]), broken{}))
		return a, nil
	case foreign:
		return answer(http.StatusOK, []byte("# TYPE up gauge\nup 1\n")), nil
	case answers, troubles:
	}
	w.heard(p)
	return answer(http.StatusOK, body), nil
}

// heard notes that a proxy was read. Of one that is read twice in one pass the first time counts.
func (w *world) heard(p *process) {
	since := time.Duration(-1)
	if n := len(p.read); n > 0 && p.reader == w.readers && p.read[n-1] >= w.oracle.began && w.source.compares(p) {
		return
	}
	if len(p.read) > 0 && p.reader == w.readers {
		since = p.read[len(p.read)-1]
	}
	if p.reader != w.readers {
		p.since = w.now
	}
	p.read, p.reader = append(p.read, w.now), w.readers
	if p.pod.terminating {
		p.pod.lastWord = w.now
	}
	if since >= 0 && w.source.compares(p) {
		w.oracle.news(w, p, since)
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("connection reset") }

func answer(code int, body []byte) *http.Response {
	return &http.Response{
		StatusCode: code, Header: http.Header{"Content-Type": []string{"text/plain"}}, Body: io.NopCloser(bytes.NewReader(body)),
	}
}
