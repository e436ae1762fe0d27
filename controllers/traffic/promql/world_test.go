package promql

import (
	"math"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/servicesecurity/operator/controllers/traffic"
	"github.com/servicesecurity/operator/test/promserver"
)

// epoch is when every world begins.
var epoch = time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)

// server is a Prometheus behind its HTTP API.
type server struct {
	*promserver.Server
	t       testing.TB
	http    *httptest.Server
	now     time.Time // of the server's clock
	queries atomic.Int64
	bytes   atomic.Int64
	// longest answer.
	longest atomic.Int64
	// bend is laid around the handler.
	bend func(http.HandlerFunc) http.HandlerFunc
}

func newServer(t testing.TB) *server {
	t.Helper()
	s := &server{t: t, now: epoch}
	var err error
	if s.Server, err = promserver.New(t.TempDir(), func() time.Time { return s.now }, t.Errorf); err != nil {
		t.Fatal(err)
	}
	s.http = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handler := s.serve
		if s.bend != nil {
			handler = s.bend(handler)
		}
		handler(w, r)
	}))
	t.Cleanup(func() {
		s.http.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *server) serve(w http.ResponseWriter, r *http.Request) {
	s.queries.Add(1)
	s.ServeHTTP(&measured{w, s}, r)
}

// measured counts what is answered.
type measured struct {
	http.ResponseWriter
	server *server
}

func (m *measured) Write(p []byte) (int, error) {
	m.server.bytes.Add(int64(len(p)))
	m.server.longest.Store(max(m.server.longest.Load(), int64(len(p))))
	return m.ResponseWriter.Write(p)
}

// observer asks the server. The operator's clock is its own.
func (s *server) observer(clock *clocktesting.FakePassiveClock, change func(*Options)) *Observer {
	s.t.Helper()
	options := Options{URL: s.http.URL, Clock: clock, Interval: 15 * time.Second}
	if change != nil {
		change(&options)
	}
	o, err := New(options)
	if err != nil {
		s.t.Fatal(err)
	}
	return o
}

// series of one proxy: what distinguishes them from each other.
type series struct{ metric, policy, source, protocol string }

func requests(policy, source string) series {
	return series{"istio_requests_total", policy, source, "http"}
}

// pod is a proxy that is scraped.
type pod struct {
	namespace, name, uid, workload string
	created, started               time.Time
	restarts                       int32
	terminating                    bool
	counts                         map[series]float64
	// extra labels of every series.
	extra map[string]string
	drop  map[string]bool // labels that its series lack
	// record is what the server remembers of it.
	record promserver.Target
}

func newPod(workload, name string, at time.Time) *pod {
	return &pod{namespace: "shop", name: name, uid: name + at.String(), workload: workload, created: at, started: at, counts: map[series]float64{}}
}

// newPodAt is one that is scraped at an instance of its own.
func newPodAt(instance, workload, name string, at time.Time) *pod {
	p := newPod(workload, name, at)
	p.extra = map[string]string{"instance": instance}
	return p
}

func (p *pod) proxy() traffic.Proxy {
	return traffic.Proxy{
		Namespace: p.namespace, Name: p.name, UID: p.uid, Workload: p.workload, Address: "10.0.0.1",
		Created: p.created, Restarts: p.restarts, Terminating: p.terminating,
	}
}

func (p *pod) target(name string) map[string]string {
	all := map[string]string{"__name__": name, "job": "envoy", "instance": "10.0.0.1:15090", "namespace": p.namespace, "pod": p.name}
	for k, v := range p.extra {
		all[k] = v
	}
	return all
}

// samples are what a scrape of the proxy has. Envoy brings its uptime up to date every five seconds.
func (p *pod) samples(at time.Time) []promserver.Sample {
	uptime := math.Floor(at.Sub(p.started).Seconds()/5) * 5
	all := []promserver.Sample{{Labels: labels.FromMap(p.target("envoy_server_uptime")), Value: uptime}}
	for s, n := range p.counts {
		m := p.target(s.metric)
		m["reporter"], m["destination_workload"], m["destination_workload_namespace"] = "destination", p.workload, p.namespace
		m["source_workload"], m["source_workload_namespace"], m["request_protocol"] = s.source, "clients", s.protocol
		m["source_principal"] = "unknown"
		if s.policy == "mutual_tls" {
			m["source_principal"] = "spiffe://cluster.local/ns/clients/sa/" + s.source
		}
		if s.policy != "" {
			m["connection_security_policy"] = s.policy
		}
		for name := range p.drop {
			delete(m, name)
		}
		all = append(all, promserver.Sample{Labels: labels.FromMap(m), Value: n})
	}
	return all
}

// scrape stores what the proxy says.
func (s *server) scrape(p *pod, at time.Time) {
	s.t.Helper()
	p.record.Up = labels.FromMap(p.target("up"))
	s.stored(s.Scrape(&p.record, at, p.samples(at)...))
}

// fail is a scrape that fails.
func (s *server) fail(p *pod, at time.Time) {
	s.t.Helper()
	p.record.Up = labels.FromMap(p.target("up"))
	s.stored(s.Fail(&p.record, at))
}

// leave is a target that goes.
func (s *server) leave(p *pod, at time.Time) {
	s.t.Helper()
	p.record.Up = labels.FromMap(p.target("up"))
	s.stored(s.Leave(&p.record, at))
}

// stored holds that the storage took everything: a test that scrapes twice at one time is wrong.
func (s *server) stored(refused int) {
	s.t.Helper()
	if refused > 0 {
		s.t.Fatalf("the storage refused %d samples", refused)
	}
}
