package simulation

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The target's services, and one that is none of them.
var (
	targetServices = [2]string{"web.shop.svc.cluster.local", "admin.shop.svc.cluster.local"}
	otherService   = "web.data.svc.cluster.local"
)

// callerProcess is one run of a caller's proxy: its counters, and the truth of what it sent.
type callerProcess struct {
	ready  time.Duration
	series []*callSeries
	sum    truth
}

// callSeries is a counter with its name as Prometheus has it, and as Envoy does, by which the filter selects it.
type callSeries struct {
	key        seriesKey
	text, stat string
	value      int64
	moved      time.Duration
	asked      string // the last filter
	matches    bool   // whether that selects it
}

type seriesKey struct {
	metric                         string
	reporter, service, code, flags string
}

// count adds to a series. One that did not move for too long is gone, and begins again.
func (p *callerProcess) count(v *verification, c *meshCaller, key seriesKey, n int64, at time.Duration) {
	if n == 0 {
		return
	}
	for _, s := range p.series {
		if s.key == key {
			if v.evicted(s, at) {
				s.value = 0
			}
			s.value, s.moved = s.value+n, at
			return
		}
	}
	p.series = append(p.series, &callSeries{key: key, text: key.text(c), stat: key.stat(c), value: n, moved: at})
}

func (v *verification) evicted(s *callSeries, at time.Duration) bool {
	return v.evicts > 0 && at-s.moved > v.evicts
}

func (k seriesKey) text(c *meshCaller) string {
	proto := "http"
	if strings.HasPrefix(k.metric, "istio_tcp") {
		proto = "tcp"
	}
	return fmt.Sprintf(`%s{reporter=%q,source_workload=%q,source_workload_namespace="clients",destination_service=%q,request_protocol=%q,response_code=%q,response_flags=%q,connection_security_policy="unknown"} `,
		k.metric, k.reporter, c.name, k.service, proto, k.code, k.flags)
}

func (k seriesKey) stat(c *meshCaller) string {
	return "istiocustom." + k.metric + ".response_code." + k.code + ".reporter." + k.reporter + ".source_workload." + c.name +
		".destination_service." + k.service + ".response_flags." + k.flags + ".connection_security_policy.unknown"
}

const (
	callsMade   = "istio_requests_total"
	callsOpened = "istio_tcp_connections_opened_total"
	callsClosed = "istio_tcp_connections_closed_total"
)

// answered counts calls that came to an end by themselves, or that were never sent.
func (p *callerProcess) answered(v *verification, c *meshCaller, service int, code, flags string, n int64, at time.Duration) {
	to := targetServices[service]
	switch {
	case c.protocol != plainTCP:
		p.count(v, c, seriesKey{callsMade, "source", to, code, flags}, n, at)
	case flags == "UH":
		p.count(v, c, seriesKey{callsOpened, "source", to, "0", flags}, n, at)
		p.count(v, c, seriesKey{callsClosed, "source", to, "0", flags}, n, at)
	default: // an error of the application is inside
		p.count(v, c, seriesKey{callsOpened, "source", to, "0", "-"}, n, at)
		p.count(v, c, seriesKey{callsClosed, "source", to, "0", "-"}, n, at)
	}
}

// losesCalls counts what was lost at connection level, as the proxy of such a caller does.
func (p *callerProcess) losesCalls(v *verification, c *meshCaller, service int, why cause, n int64, at time.Duration) {
	to := targetServices[service]
	flags := map[protocol]string{plainHTTP: "UC", plainTCP: "UR", ownTLS: "URX,UF"}[c.protocol]
	if why == byOutage {
		flags = map[protocol]string{plainHTTP: "UF", plainTCP: "UF,URX", ownTLS: "UF"}[c.protocol]
	}
	if c.protocol != plainTCP {
		p.count(v, c, seriesKey{callsMade, "source", to, "503", flags}, n, at)
		return
	}
	opened := flags
	if flags == "UR" {
		opened = "-"
	}
	p.count(v, c, seriesKey{callsOpened, "source", to, "0", opened}, n, at)
	p.count(v, c, seriesKey{callsClosed, "source", to, "0", flags}, n, at)
}

// elsewhere counts calls that have nothing to do with the target: its own to another service, and others' to it.
func (p *callerProcess) elsewhere(v *verification, c *meshCaller, n int64, fail bool, at time.Duration) {
	flags, code := "-", "200"
	if fail {
		flags, code = "UF,URX", "503"
	}
	p.count(v, c, seriesKey{callsMade, "source", otherService, code, flags}, n, at)
	p.count(v, c, seriesKey{callsMade, "destination", targetServices[0], code, flags}, n, at)
}

// selected says whether a filter selects a series.
func (v *verification) selected(s *callSeries, filter string) bool {
	if s.asked != filter {
		selects := v.filters[filter]
		if selects == nil {
			selects = regexp.MustCompile(filter)
			v.filters[filter] = selects
		}
		s.asked, s.matches = filter, selects.MatchString(s.stat)
	}
	return s.matches
}

// exposition is what a caller's proxy answers now.
func (v *verification) exposition(p *callerPod, filter string) []byte {
	p.proc.series = slices.DeleteFunc(p.proc.series, func(s *callSeries) bool { return v.evicted(s, v.now) })
	var b bytes.Buffer
	for _, metric := range []string{callsMade, callsOpened, callsClosed} {
		head := "# TYPE " + metric + " counter\n"
		for _, s := range p.proc.series {
			if s.key.metric != metric || !v.selected(s, filter) {
				continue
			}
			b.WriteString(head)
			b.WriteString(s.text)
			b.WriteString(v.value(p, s))
			b.WriteByte('\n')
			head = ""
		}
	}
	fmt.Fprintf(&b, "# TYPE envoy_server_uptime gauge\nenvoy_server_uptime{} %d\n", int64((v.now-p.proc.ready)/time.Second))
	return b.Bytes()
}

// value is what a proxy says of a series: a liar's goes down as well as up, or beyond all sense.
func (v *verification) value(p *callerPod, s *callSeries) string {
	if !p.caller.liar {
		return strconv.FormatInt(s.value, 10)
	}
	switch p.random.IntN(8) {
	case 0:
		return strconv.FormatInt(s.value/2, 10)
	case 1:
		return "4e18"
	case 2:
		return pick(p.random, "-3", "NaN", "9.3e18")
	}
	return strconv.FormatInt(s.value, 10)
}

// callerNetwork is how the operator reaches the callers' proxies. They answer at one moment, and it is late by the slowest.
type callerNetwork struct{ v *verification }

func (n callerNetwork) RoundTrip(r *http.Request) (*http.Response, error) {
	v := n.v
	host, _, _ := strings.Cut(r.URL.Host, ":")
	p := v.pod(host)
	if p == nil || p.gone || v.now < p.proc.ready {
		return nil, syscall.ECONNREFUSED
	}
	body := v.exposition(p, r.URL.Query().Get("filter"))
	if v.core.Exposition != nil {
		body = v.core.Exposition(p.uid, body)
	}
	switch p.trouble(v.now) {
	case refuses:
		return nil, syscall.ECONNREFUSED
	case hangs:
		v.late = 5 * time.Second
		return nil, context.DeadlineExceeded
	case slow:
		v.late = max(v.late, 2*time.Second)
	case failing:
		return answer(http.StatusServiceUnavailable, nil), nil
	case garbled:
		return answer(http.StatusOK, append(body[:len(body)/2], "\x00{{{\n"...)), nil
	case cutOff:
		a := answer(http.StatusOK, nil)
		a.Body = io.NopCloser(io.MultiReader(bytes.NewReader(body[:len(body)/2]), broken{}))
		return a, nil
	case foreign:
		return answer(http.StatusOK, []byte("# TYPE up gauge\nup 1\n")), nil
	case answers, troubles:
	}
	p.heard(v)
	return answer(http.StatusOK, body), nil
}

func (v *verification) pod(address string) *callerPod {
	for _, c := range v.callers {
		for _, p := range c.pods {
			if p.address == address {
				return p
			}
		}
	}
	return nil
}
