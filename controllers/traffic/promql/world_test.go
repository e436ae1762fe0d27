package promql

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/tsdb"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/servicesecurity/operator/controllers/traffic"
)

// epoch is when every world begins.
var epoch = time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)

// server is Prometheus' own storage and query engine behind its HTTP API.
type server struct {
	t       testing.TB
	db      *tsdb.DB
	engine  *promql.Engine
	http    *httptest.Server
	now     time.Time // of the server's clock
	queries atomic.Int64
	bytes   atomic.Int64
	// longest answer, and the most samples that a query held at one time.
	longest, peak atomic.Int64
	// limited says that queries may fail at the engine's limits.
	limited bool
	// bend is laid around the handler.
	bend func(http.HandlerFunc) http.HandlerFunc
	// warnings go with every answer.
	warnings []string
}

func newServer(t testing.TB) *server {
	t.Helper()
	options := tsdb.DefaultOptions()
	options.WALSegmentSize = -1
	options.RetentionDuration = 0
	options.MinBlockDuration, options.MaxBlockDuration = 1<<40, 1<<40
	db, err := tsdb.Open(t.TempDir(), nil, nil, options, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, db: db, now: epoch, engine: newEngine(50_000_000)}
	s.http = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handler := s.serve
		if s.bend != nil {
			handler = s.bend(handler)
		}
		handler(w, r)
	}))
	t.Cleanup(func() {
		s.http.Close()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// newEngine has Prometheus' defaults but for the samples that a query may hold.
func newEngine(samples int) *promql.Engine {
	return promql.NewEngine(promql.EngineOpts{
		MaxSamples: samples, Timeout: 2 * time.Minute, LookbackDelta: 5 * time.Minute, EnableAtModifier: true, EnableNegativeOffset: true,
		Parser: parser.NewParser(parser.Options{}),
	})
}

// serve answers an instant query as Prometheus does.
func (s *server) serve(w http.ResponseWriter, r *http.Request) {
	s.queries.Add(1)
	at := s.now
	if text := r.FormValue("time"); text != "" {
		seconds, err := strconv.ParseFloat(text, 64)
		if err != nil {
			s.t.Errorf("the time of a query: %v", err)
		}
		at = time.UnixMilli(int64(math.Round(seconds * 1000)))
	}
	query, err := s.engine.NewInstantQuery(r.Context(), s.db, nil, r.FormValue("query"), at)
	if err != nil {
		s.t.Errorf("%v in:\n%s", err, r.FormValue("query"))
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	defer query.Close()
	result := query.Exec(r.Context())
	answer := map[string]any{"status": "success", "warnings": s.warnings}
	if result.Err != nil {
		if !s.limited {
			s.t.Errorf("%v in:\n%s", result.Err, r.FormValue("query"))
		}
		w.WriteHeader(http.StatusUnprocessableEntity)
		answer = map[string]any{"status": "error", "errorType": "execution", "error": result.Err.Error()}
	} else {
		for _, warning := range result.Warnings {
			s.t.Errorf("%v in:\n%s", warning, r.FormValue("query"))
		}
		answer["data"] = map[string]any{"resultType": result.Value.Type(), "result": encode(result.Value)}
	}
	body, err := json.Marshal(answer)
	if err != nil {
		s.t.Error(err)
	}
	s.bytes.Add(int64(len(body)))
	s.longest.Store(max(s.longest.Load(), int64(len(body))))
	s.peak.Store(max(s.peak.Load(), int64(query.Stats().Samples.PeakSamples)))
	_, _ = w.Write(body)
}

func encode(v parser.Value) any {
	pair := func(t int64, f float64) []any {
		return []any{float64(t) / 1000, strconv.FormatFloat(f, 'f', -1, 64)}
	}
	switch v := v.(type) {
	case promql.Vector:
		out := make([]any, 0, len(v))
		for _, s := range v {
			out = append(out, map[string]any{"metric": s.Metric.Map(), "value": pair(s.T, s.F)})
		}
		return out
	case promql.Matrix:
		out := make([]any, 0, len(v))
		for _, s := range v {
			values := make([]any, 0, len(s.Floats))
			for _, p := range s.Floats {
				values = append(values, pair(p.T, p.F))
			}
			out = append(out, map[string]any{"metric": s.Metric.Map(), "values": values})
		}
		return out
	}
	panic(fmt.Sprintf("a result of type %T", v))
}

// sample is one of a scrape.
type sample struct {
	labels labels.Labels
	value  float64
}

// write stores samples of one time. One that exists already is an error in the test.
func (s *server) write(at time.Time, samples ...sample) {
	s.t.Helper()
	appender := s.db.Appender(context.Background())
	for _, one := range samples {
		if _, err := appender.Append(0, one.labels, at.UnixMilli(), one.value); err != nil {
			s.t.Fatalf("%s at %s: %v", one.labels, at, err)
		}
	}
	if err := appender.Commit(); err != nil {
		s.t.Fatal(err)
	}
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
	last  []labels.Labels // of the last scrape
}

func newPod(workload, name string, at time.Time) *pod {
	return &pod{namespace: "shop", name: name, uid: name + at.String(), workload: workload, created: at, started: at, counts: map[series]float64{}}
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
func (p *pod) samples(at time.Time) []sample {
	uptime := math.Floor(at.Sub(p.started).Seconds()/5) * 5
	all := []sample{{labels.FromMap(p.target("envoy_server_uptime")), uptime}}
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
		all = append(all, sample{labels.FromMap(m), n})
	}
	return all
}

// scrape stores what the proxy says, and a marker for every series that it no longer has, as Prometheus does.
func (s *server) scrape(p *pod, at time.Time) {
	s.t.Helper()
	now := p.samples(at)
	here := map[uint64]bool{}
	stored := append([]sample{}, now...)
	for _, one := range now {
		here[one.labels.Hash()] = true
	}
	for _, before := range p.last {
		if !here[before.Hash()] {
			stored = append(stored, sample{before, stale})
		}
	}
	p.last = p.last[:0]
	for _, one := range now {
		p.last = append(p.last, one.labels)
	}
	s.write(at, append(stored, sample{labels.FromMap(p.target("up")), 1})...)
}

// fail is a scrape that fails.
func (s *server) fail(p *pod, at time.Time) {
	s.t.Helper()
	stored := []sample{{labels.FromMap(p.target("up")), 0}}
	for _, before := range p.last {
		stored = append(stored, sample{before, stale})
	}
	p.last = nil
	s.write(at, stored...)
}

// leave is a target that goes.
func (s *server) leave(p *pod, at time.Time) {
	s.t.Helper()
	stored := []sample{{labels.FromMap(p.target("up")), stale}}
	for _, before := range p.last {
		stored = append(stored, sample{before, stale})
	}
	p.last = nil
	s.write(at, stored...)
}

var stale = math.Float64frombits(value.StaleNaN)
