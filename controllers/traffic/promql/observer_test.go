package promql

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/traffic"
)

// script is a world of one pod that is scraped every 15 s for an hour before the observation.
type script struct {
	*server
	pod *pod
	now time.Time
}

const scripted = 240 // scrapes

// play scrapes the pod, and calls what happens at a scrape's number before it. False skips the scrape.
func play(t testing.TB, happens func(s *script, n int) bool) *script {
	s := &script{server: newServer(t), now: epoch, pod: newPod("web", "web-5d-x1", epoch.Add(-time.Hour))}
	s.pod.counts[requests("mutual_tls", "front")] = 7
	for n := range scripted {
		s.now = s.now.Add(15 * time.Second)
		s.pod.counts[requests("mutual_tls", "front")]++
		if happens == nil || happens(s, n) {
			s.scrape(s.pod, s.now)
		}
	}
	s.now = s.now.Add(2 * time.Second)
	s.server.now = s.now
	return s
}

func at(n int) time.Time { return epoch.Add(time.Duration(n+1) * 15 * time.Second) }

func (s *script) request(change func(*traffic.Request)) traffic.Request {
	r := traffic.Request{
		Profile: "p", Targets: "t", Ports: traffic.PortSet{Except: true}, RequireSeries: true, Window: 30 * time.Minute,
		Proxies: []traffic.Proxy{s.pod.proxy()},
	}
	if change != nil {
		change(&r)
	}
	return r
}

// TestObserve tells histories that were before anybody asked.
func TestObserve(t *testing.T) {
	onCount := func(n int, series series, value float64) func(*script, int) bool {
		return func(s *script, i int) bool {
			if i == n {
				s.pod.counts[series] = value
			}
			return true
		}
	}
	tests := map[string]struct {
		happens func(s *script, n int) bool
		options func(*Options)
		change  func(*traffic.Request)

		wantCompleteness traffic.Completeness
		wantReason       string
		wantMessage      string
		wantSince        time.Time // not before
		wantPlaintext    time.Time
		wantCaller       string
		wantOpen         int64
		wantUnclear      bool
		check            func(t *testing.T, o traffic.Observation)
	}{
		"nothing but mutual TLS": {
			wantCompleteness: traffic.Complete,
			check: func(t *testing.T, o traffic.Observation) {
				if o.Time.Sub(o.Since) < 30*time.Minute {
					t.Errorf("the window is not proven: since %s", o.Since)
				}
				if o.MutualTLS < 100 || o.MutualTLS > 130 {
					t.Errorf("%d requests by mutual TLS, about 120 were made in the window", o.MutualTLS)
				}
			},
		},
		"one request whose series is born with it": {
			happens:          onCount(200, requests("none", "cron"), 1),
			wantCompleteness: traffic.Complete, wantPlaintext: at(200), wantSince: at(200), wantCaller: "cron clients HTTP 1",
		},
		"a counter that moves": {
			happens: func(s *script, n int) bool {
				s.pod.counts[requests("none", "cron")] = 5
				if n >= 180 {
					s.pod.counts[requests("none", "cron")] = 6
				}
				return true
			},
			wantCompleteness: traffic.Complete, wantPlaintext: at(180), wantSince: at(180),
		},
		"a series that went while the server was down, and began again with the same count": {
			happens: func(s *script, n int) bool {
				delete(s.pod.counts, requests("none", "cron"))
				switch {
				case n < 224 || n >= 227:
					s.pod.counts[requests("none", "cron")] = 1
				case n < 225:
					s.pod.record.Last = nil // a server that restarts does not know what it scraped before
					return false
				}
				return true
			},
			wantCompleteness: traffic.Complete, wantPlaintext: at(227), wantSince: at(227),
		},
		"a counter that does not": {
			happens: func(s *script, _ int) bool {
				s.pod.counts[requests("none", "cron")] = 5
				return true
			},
			wantCompleteness: traffic.Complete,
			check: func(t *testing.T, o traffic.Observation) {
				if o.Time.Sub(o.Since) < 30*time.Minute || len(o.Callers) > 0 {
					t.Errorf("since %s, callers %v", o.Since, o.Callers)
				}
			},
		},
		"a policy that nobody knows": {
			happens:          onCount(200, requests("simple_tls", "cron"), 1),
			wantCompleteness: traffic.Complete, wantPlaintext: at(200),
		},
		"bytes of a connection that was opened long ago": {
			happens: func(s *script, n int) bool {
				s.pod.counts[series{"istio_tcp_received_bytes_total", "none", "old", "tcp"}] = float64(n)
				return true
			},
			wantCompleteness: traffic.Complete, wantPlaintext: at(scripted - 1), wantCaller: "old clients TCP 0",
		},
		"an open connection": {
			happens: func(s *script, _ int) bool {
				s.pod.counts[series{"istio_tcp_connections_opened_total", "none", "old", "tcp"}] = 3
				s.pod.counts[series{"istio_tcp_connections_closed_total", "none", "old", "tcp"}] = 2
				return true
			},
			wantCompleteness: traffic.Complete, wantOpen: 1,
		},
		"messages of a stream": {
			happens:          onCount(210, series{"istio_request_messages_total", "", "streamer", "grpc"}, 4),
			wantCompleteness: traffic.Complete, wantPlaintext: at(210), wantCaller: "streamer clients GRPC 0",
		},
		"excepted ports": {
			happens:          onCount(210, requests("none", "cron"), 4),
			change:           func(r *traffic.Request) { r.Ports.Ports = []int32{8080} },
			wantCompleteness: traffic.Complete, wantPlaintext: at(210), wantUnclear: true,
		},
		"a restart": {
			happens: func(s *script, n int) bool {
				if n == 150 {
					s.pod.counts = map[series]float64{}
					s.pod.started, s.pod.restarts = s.now.Add(-5*time.Second), 1
				}
				return true
			},
			wantCompleteness: traffic.Complete, wantSince: at(149),
		},
		"a pod of the workload that went away": {
			happens:          func(s *script, n int) bool { return s.leaves(newPod("web", "web-5d-x2", epoch), n) },
			wantCompleteness: traffic.Complete, wantSince: at(150),
		},
		"a pod that went away, of a workload that its pods are not called after": {
			happens: func(s *script, n int) bool {
				s.pod.workload = "shop" // by a label
				return s.leaves(newPod("shop", "web-6e-x2", epoch), n)
			},
			wantCompleteness: traffic.Complete, wantSince: at(150),
		},
		"an outage of the server": {
			happens:          func(_ *script, n int) bool { return n < 150 || n > 170 },
			wantCompleteness: traffic.Complete, wantSince: at(170),
		},
		"a few scrapes that were missed": {
			happens:          func(_ *script, n int) bool { return n < 150 || n > 152 },
			wantCompleteness: traffic.Complete,
			check: func(t *testing.T, o traffic.Observation) {
				if o.Time.Sub(o.Since) < 30*time.Minute {
					t.Errorf("the counters make it good, and the stretch begins at %s", o.Since)
				}
			},
		},
		"scraping that ended": {
			happens:          func(_ *script, n int) bool { return n < scripted-5 },
			wantCompleteness: traffic.Incomplete, wantReason: reasonIncomplete, wantMessage: "does not scrape the proxy of pod shop/web-5d-x1 now",
		},
		"a scrape that failed a moment ago": {
			happens: func(s *script, n int) bool {
				if n == scripted-1 {
					s.fail(s.pod, s.now)
				}
				return n < scripted-1
			},
			wantCompleteness: traffic.Incomplete, wantReason: reasonIncomplete, wantMessage: "does not scrape the proxy",
		},
		"another tenant's data": {
			change:           func(r *traffic.Request) { r.Proxies[0].Name = "web-5d-x9" },
			wantCompleteness: traffic.Incomplete, wantReason: reasonIncomplete, wantMessage: "no envoy_server_uptime of the proxy of pod shop/web-5d-x9",
		},
		"a process older than the pod": {
			change:           func(r *traffic.Request) { r.Proxies[0].Created = epoch.Add(30 * time.Minute) },
			wantCompleteness: traffic.Incomplete, wantReason: reasonIncomplete, wantMessage: "of another pod of the name of pod shop/web-5d-x1",
		},
		"a process older than the pod, as far as clocks can tell": {
			change:           func(r *traffic.Request) { r.Proxies[0].Created = epoch.Add(-time.Hour + 50*time.Second) },
			wantCompleteness: traffic.Complete,
			check: func(t *testing.T, o traffic.Observation) {
				if o.Time.Sub(o.Since) < 30*time.Minute {
					t.Errorf("since %s", o.Since)
				}
			},
		},
		"a proxy that restarted, of an old pod": {
			happens: func(s *script, n int) bool {
				if n == 60 {
					s.pod.counts = map[series]float64{}
					s.pod.started, s.pod.restarts = s.now.Add(-5*time.Second), 1
				}
				return true
			},
			wantCompleteness: traffic.Complete,
		},
		"another cluster's pod of the same name, and the flag": {
			happens: func(s *script, _ int) bool {
				s.pod.extra = map[string]string{"destination_cluster": "west"}
				return true
			},
			options:          func(o *Options) { o.Cluster = "east" },
			change:           func(r *traffic.Request) { r.RequireSeries = false },
			wantCompleteness: traffic.Incomplete, wantReason: reasonIncomplete, wantMessage: "of another cluster than --prometheus-cluster says",
		},
		"another cluster's idle connection to a pod of the same name, and the flag": {
			happens: func(s *script, _ int) bool {
				s.pod.extra = map[string]string{"destination_cluster": "west"}
				clear(s.pod.counts)
				s.pod.counts[series{"istio_tcp_received_bytes_total", "none", "old", "tcp"}] = 9
				return true
			},
			options:          func(o *Options) { o.Cluster = "east" },
			change:           func(r *traffic.Request) { r.RequireSeries = false },
			wantCompleteness: traffic.Incomplete, wantReason: reasonIncomplete, wantMessage: "of another cluster than --prometheus-cluster says",
		},
		"another cluster's pod of the same name for a while, and the flag": {
			happens: func(s *script, n int) bool {
				s.pod.extra = map[string]string{"destination_cluster": "east"}
				other := newPod("web", s.pod.name, epoch)
				other.extra = map[string]string{"destination_cluster": "west", "instance": "10.9.9.9:15090"}
				other.counts[requests("mutual_tls", "front")] = 7
				switch {
				case n < 190:
					s.scrape(other, s.now)
				case n == 190:
					for _, one := range other.samples(s.now) {
						other.record.Last = append(other.record.Last, one.Labels)
					}
					s.leave(other, s.now)
				}
				return true
			},
			options:          func(o *Options) { o.Cluster = "east" },
			wantCompleteness: traffic.Complete, wantSince: at(189),
		},
		"a label that a Telemetry drops": {
			happens: func(s *script, n int) bool {
				s.pod.counts[requests("", "cron")] = float64(n)
				return true
			},
			wantCompleteness: traffic.Incomplete, wantReason: reasonIncomplete, wantMessage: "move without the labels reporter and connection_security_policy",
		},
		"a label that a Telemetry dropped for a while": {
			happens: func(s *script, n int) bool {
				s.pod.counts[requests("", "cron")] = float64(min(n, 190))
				return true
			},
			wantCompleteness: traffic.Complete, wantSince: at(190),
		},
		"series of nobody's workload": {
			happens: func(s *script, n int) bool {
				s.pod.drop = map[string]bool{"destination_workload": true}
				s.pod.counts[requests("none", "cron")] = float64(n)
				return true
			},
			wantCompleteness: traffic.Incomplete, wantMessage: "namespace shop moves without the label destination_workload",
		},
		"no series": {
			happens: func(s *script, _ int) bool {
				clear(s.pod.counts)
				return true
			},
			wantCompleteness: traffic.Incomplete, wantReason: reasonNoTelemetry, wantMessage: "set minRequests to 0",
		},
		"no series, and none wanted": {
			happens: func(s *script, _ int) bool {
				clear(s.pod.counts)
				return true
			},
			change:           func(r *traffic.Request) { r.RequireSeries = false },
			wantCompleteness: traffic.Complete, wantReason: reasonNoTraffic,
		},
		"series that were off for a while": {
			happens: func(s *script, n int) bool {
				if n > 140 && n < 170 {
					clear(s.pod.counts)
				}
				return true
			},
			wantCompleteness: traffic.Complete, wantSince: at(170),
		},
		"no traffic": {
			happens: func(s *script, _ int) bool {
				s.pod.counts[requests("mutual_tls", "front")] = 7
				return true
			},
			wantCompleteness: traffic.Complete, wantReason: reasonNoTraffic,
		},
		"another cluster's workload of the same name": {
			happens: func(s *script, n int) bool {
				s.pod.extra = map[string]string{"destination_cluster": "east"}
				other := newPod("web", "web-77-y1", epoch)
				other.extra = map[string]string{"destination_cluster": "west"}
				other.counts[requests("none", "cron")] = float64(n)
				s.scrape(other, s.now)
				return true
			},
			wantCompleteness: traffic.Incomplete, wantMessage: "several clusters (east, west)",
		},
		"another cluster's workload, and the flag": {
			happens: func(s *script, n int) bool {
				s.pod.extra = map[string]string{"destination_cluster": "east"}
				other := newPod("web", "api-77-y1", epoch)
				other.extra = map[string]string{"destination_cluster": "west"}
				other.counts[requests("none", "cron")] = float64(n)
				s.scrape(other, s.now)
				return true
			},
			options:          func(o *Options) { o.Cluster = "east" },
			wantCompleteness: traffic.Complete,
			check: func(t *testing.T, o traffic.Observation) {
				if !o.LastPlaintext.IsZero() || o.MutualTLS == 0 {
					t.Errorf("plaintext %s, mutual TLS %d", o.LastPlaintext, o.MutualTLS)
				}
			},
		},
		"matchers": {
			options:          func(o *Options) { o.Matchers = `job="another"` },
			wantCompleteness: traffic.Incomplete, wantMessage: "no envoy_server_uptime",
		},
		"no pods": {
			change:           func(r *traffic.Request) { r.Proxies = nil },
			wantCompleteness: traffic.Incomplete, wantReason: reasonNoTelemetry,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := play(t, tc.happens)
			clock := clocktesting.NewFakePassiveClock(s.now.Add(3 * time.Second))
			o := s.observer(clock, tc.options).Observe(context.Background(), s.request(tc.change))
			if o.Completeness != tc.wantCompleteness || tc.wantReason != "" && o.Reason != tc.wantReason || !strings.Contains(o.Message, tc.wantMessage) {
				t.Fatalf("%s %s: %s", o.Completeness, o.Reason, o.Message)
			}
			if (o.Message == "") != (o.Completeness == traffic.Complete) {
				t.Errorf("%s with message %q", o.Completeness, o.Message)
			}
			late := func(got, want time.Time) bool {
				got = got.Add(-3 * time.Second)
				return want.IsZero() || !got.Before(want) && got.Before(want.Add(4*time.Minute))
			}
			if !late(o.Since, tc.wantSince) || !late(o.LastPlaintext, tc.wantPlaintext) {
				t.Errorf("since %s, last plaintext %s; want %s, %s", o.Since, o.LastPlaintext, tc.wantSince, tc.wantPlaintext)
			}
			if o.OpenPlaintext != tc.wantOpen || o.NotAttributable != tc.wantUnclear {
				t.Errorf("%d open, not attributable %v", o.OpenPlaintext, o.NotAttributable)
			}
			if tc.wantCaller != "" {
				if len(o.Callers) != 1 {
					t.Fatalf("callers %v", o.Callers)
				}
				c := o.Callers[0]
				if got := fmt.Sprint(c.Workload, " ", c.Namespace, " ", c.Protocol, " ", c.Requests); got != tc.wantCaller {
					t.Errorf("caller %s, want %s", got, tc.wantCaller)
				}
			}
			if tc.check != nil {
				tc.check(t, o)
			}
		})
	}
}

// TestBadServer holds that no answer of a server that is not well is ever read as no plaintext.
func TestBadServer(t *testing.T) {
	answer := func(status int, body string) func(http.HandlerFunc) http.HandlerFunc {
		return func(http.HandlerFunc) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(status)
				_, _ = io.WriteString(w, body)
			}
		}
	}
	callers := func(many int, next http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if !strings.HasPrefix(r.FormValue("query"), "topk") {
				next(w, r)
				return
			}
			_, _ = io.WriteString(w, `{"status":"success","data":{"resultType":"vector","result":[`)
			for i := range many {
				if i > 0 {
					_, _ = io.WriteString(w, ",")
				}
				if _, err := fmt.Fprintf(w, `{"metric":{"namespace":"shop","destination_workload":"web","source_workload":"w%d","reporter":"destination","connection_security_policy":"none"},"value":[1,"%d"]}`, i, epoch.Unix()); err != nil {
					return
				}
			}
			_, _ = io.WriteString(w, `]}}`)
		}
	}
	million := func(next http.HandlerFunc) http.HandlerFunc { return callers(1_000_000, next) }
	many := func(next http.HandlerFunc) http.HandlerFunc { return callers(100_000, next) }
	slow := func(http.HandlerFunc) http.HandlerFunc {
		return func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.ReadAll(r.Body)
			<-r.Context().Done()
		}
	}
	half := func(http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"status":"success","data":{"resultType":"vector","result":[{"metric":{"part":"now"},"val`)
		}
	}
	tests := map[string]struct {
		bend        func(http.HandlerFunc) http.HandlerFunc
		options     func(*Options)
		skew        time.Duration // of the operator's clock
		warnings    []string
		want        traffic.Completeness
		wantMessage string
	}{
		"down":         {options: func(o *Options) { o.URL = "http://127.0.0.1:1" }, want: traffic.Unavailable, wantMessage: "it cannot be reached"},
		"slow":         {bend: slow, options: func(o *Options) { o.Timeout = 100 * time.Millisecond }, want: traffic.Unavailable, wantMessage: "did not answer in time"},
		"422":          {bend: answer(422, `{"status":"error","errorType":"execution","error":"query processing would load too many samples into memory"}`), want: traffic.Unavailable, wantMessage: "too many samples"},
		"401":          {bend: answer(401, `no`), want: traffic.Unavailable, wantMessage: "401"},
		"503":          {bend: answer(503, `busy`), want: traffic.Unavailable, wantMessage: "503"},
		"a redirect":   {bend: answer(302, ``), want: traffic.Unavailable, wantMessage: "302"},
		"HTML":         {bend: answer(200, `<html>sign in</html>`), want: traffic.Unavailable, wantMessage: "not that of Prometheus"},
		"half a JSON":  {bend: half, want: traffic.Unavailable, wantMessage: "not that of Prometheus"},
		"an empty one": {bend: answer(200, `{"status":"success","data":{"resultType":"vector","result":[]}}`), want: traffic.Unavailable, wantMessage: "lacks the time"},
		"another type": {bend: answer(200, `{"status":"success","data":{"resultType":"scalar","result":[1,"1"]}}`), want: traffic.Unavailable, wantMessage: "scalar"},
		"a million":    {bend: million, want: traffic.Unavailable, wantMessage: "longer than the operator takes"},
		"very many":    {bend: many, want: traffic.Complete},
		"an old clock": {skew: 10 * time.Minute, want: traffic.Incomplete, wantMessage: "behind the operator's"},
		"both":         {skew: 10 * time.Minute, warnings: []string{"store-2 did not answer"}, want: traffic.Incomplete, wantMessage: "store-2 did not answer. The server's clock is more than 1m0s behind"},
		"a fast clock": {skew: -10 * time.Minute, want: traffic.Incomplete, wantMessage: "ahead of the operator's"},
		"a warning":    {warnings: []string{"store-2 did not answer"}, want: traffic.Incomplete, wantMessage: "store-2 did not answer"},
		"a fair clock": {skew: 40 * time.Second, want: traffic.Complete},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := play(t, nil)
			s.bend, s.Warnings = tc.bend, tc.warnings
			clock := clocktesting.NewFakePassiveClock(s.now.Add(tc.skew))
			observer := s.observer(clock, tc.options)
			o := observer.Observe(context.Background(), s.request(nil))
			if o.Completeness != tc.want || !strings.Contains(o.Message, tc.wantMessage) {
				t.Fatalf("%s %s: %s", o.Completeness, o.Reason, o.Message)
			}
			if o.Completeness == traffic.Unavailable && o.Reason != reasonSourceUnavailable || o.Completeness != traffic.Complete && !o.Since.IsZero() {
				t.Errorf("%s with reason %s since %s", o.Completeness, o.Reason, o.Since)
			}
			if h := observer.poller.history; h != nil {
				for name, w := range h.workloads {
					if len(w.callers) > maxKept+3 {
						t.Errorf("%d callers of %s are remembered", len(w.callers), name)
					}
				}
			}
		})
	}
}

// TestClockThatJumps holds that data which a clock makes look new is not taken for new.
func TestClockThatJumps(t *testing.T) {
	s := play(t, nil)
	clock := clocktesting.NewFakePassiveClock(s.now)
	o := s.observer(clock, nil)
	if seen := o.Observe(context.Background(), s.request(nil)); seen.Completeness != traffic.Complete {
		t.Fatal(seen.Message)
	}
	// Half a minute goes by, and the server answers as of the same moment: nothing new is seen in it.
	clock.SetTime(s.now.Add(30 * time.Second))
	seen := o.Observe(context.Background(), s.request(nil))
	if seen.Completeness == traffic.Complete && seen.Since.Before(s.now) {
		t.Errorf("the stretch goes on from %s through time that the server did not see", seen.Since)
	}
}

// TestSlowAnswer holds that a server which takes long to answer is not one whose clock jumped, and that a jump which hides behind
// that is found as far as it can be.
func TestSlowAnswer(t *testing.T) {
	for name, tc := range map[string]struct {
		takes  []time.Duration // the first query, at each poll
		set    time.Duration   // the server's clock, before the last
		cached time.Duration   // the last answer is as of so long ago
		want   bool
	}{
		"all the same":                   {takes: []time.Duration{0, 0, 0}},
		"a slow first one":               {takes: []time.Duration{14 * time.Second, 0, 0}},
		"a slow one":                     {takes: []time.Duration{0, 14 * time.Second, 0}},
		"a slow last one":                {takes: []time.Duration{0, 0, 14 * time.Second}},
		"all slow, one less":             {takes: []time.Duration{13 * time.Second, 0, 13 * time.Second}},
		"a step ahead":                   {takes: []time.Duration{0, 0, 0}, set: 6 * time.Second, want: true},
		"a step back":                    {takes: []time.Duration{0, 0, 0}, set: -6 * time.Second, want: true},
		"a step after a slow first one":  {takes: []time.Duration{14 * time.Second, 0, 0}, set: 6 * time.Second, want: true},
		"steps that are small":           {takes: []time.Duration{0, 0, 0}, set: 4 * time.Second},
		"a step ahead in a slow one":     {takes: []time.Duration{0, 0, 14 * time.Second}, set: 20 * time.Second, want: true},
		"old data as new, and slowly so": {takes: []time.Duration{0, 0, 14 * time.Second}, cached: 6 * time.Second, want: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := play(t, nil)
			clock := clocktesting.NewFakePassiveClock(s.now)
			o := s.observer(clock, nil)
			var skew time.Duration
			var seen traffic.Observation
			for n, takes := range tc.takes {
				s.now = s.now.Add(30 * time.Second)
				s.scrape(s.pod, s.now.Add(-15*time.Second))
				s.scrape(s.pod, s.now)
				if n == len(tc.takes)-1 {
					skew = tc.set - tc.cached
				}
				s.server.now = s.now.Add(skew)
				clock.SetTime(s.now)
				s.bend = func(next http.HandlerFunc) http.HandlerFunc {
					return func(w http.ResponseWriter, r *http.Request) {
						next(w, r)
						if r.FormValue("time") == "" {
							clock.SetTime(s.now.Add(takes))
						}
					}
				}
				seen = o.Observe(context.Background(), s.request(nil))
			}
			jumped := !o.poller.last.jumped.IsZero()
			if jumped != tc.want || seen.Completeness == traffic.Complete && seen.Since.Before(s.now.Add(-time.Minute)) == tc.want {
				t.Errorf("%s since %s, jumped %v: %s", seen.Completeness, seen.Since, jumped, seen.Message)
			}
			if seen.Time.After(s.now) {
				t.Errorf("asked at %s, and it claims to know of %s", s.now, seen.Time)
			}
		})
	}
}

// pass scrapes the target's pods every 15 s for so many scrapes, and asks after each.
func (s *script) pass(o *Observer, clock *clocktesting.FakePassiveClock, scrapes int, before func(n int), pods ...*pod) (last traffic.Observation) {
	s.t.Helper()
	for n := range scrapes {
		s.now = s.now.Add(15 * time.Second)
		if before != nil {
			before(n)
		}
		for _, p := range pods {
			s.scrape(p, s.now)
		}
		last = s.ask(o, clock, pods...)
	}
	return last
}

// ask asks now, about these pods.
func (s *script) ask(o *Observer, clock *clocktesting.FakePassiveClock, pods ...*pod) traffic.Observation {
	return s.observe(o, clock, func(r *traffic.Request) {
		r.Proxies = nil
		for _, p := range pods {
			r.Proxies = append(r.Proxies, p.proxy())
		}
	})
}

// observe asks now what change makes of the request.
func (s *script) observe(o *Observer, clock *clocktesting.FakePassiveClock, change func(*traffic.Request)) traffic.Observation {
	clock.SetTime(s.now)
	s.server.now = s.now
	return o.Observe(context.Background(), s.request(change))
}

// without is a server whose store with a pod's series does not answer, or that with its counters alone.
func without(pod string, counters bool) func(http.HandlerFunc) http.HandlerFunc {
	const all, uptime = `pod!=""`, "envoy_server_uptime{"
	rest := `pod!~"|` + pod + `"`
	return func(next http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			query := r.FormValue("query")
			if counters {
				query = strings.ReplaceAll(strings.ReplaceAll(query, "{"+all, "{"+rest), uptime+rest, uptime+all)
			} else {
				query = strings.ReplaceAll(query, all, rest)
			}
			r.Form.Set("query", query)
			next(w, r)
		}
	}
}

// TestWarning holds that what an answer with a warning lacked is read when the server has it again.
func TestWarning(t *testing.T) {
	for name, counters := range map[string]bool{"all of a pod": false, "its counters": true} {
		t.Run(name, func(t *testing.T) { testWarning(t, counters) })
	}
}

func testWarning(t *testing.T, counters bool) {
	s := play(t, nil)
	clock := clocktesting.NewFakePassiveClock(s.now)
	o := s.observer(clock, nil)
	other := newPod("web", "web-5d-x2", s.now)
	other.counts[requests("mutual_tls", "front")] = 7
	if seen := s.pass(o, clock, 8, nil, s.pod, other); seen.Completeness != traffic.Complete {
		t.Fatal(seen.Message)
	}
	s.bend, s.Warnings = without(s.pod.name, counters), []string{"store-2 did not answer", "store-1 is slow"}
	var plaintext time.Time
	seen := s.pass(o, clock, 40, func(n int) {
		if n == 12 {
			plaintext = s.now
			s.pod.counts[requests("none", "cron")]++
		}
	}, s.pod, other)
	if seen.Completeness != traffic.Incomplete || !strings.Contains(seen.Message, "store-1 is slow; store-2 did not answer.") || strings.Count(seen.Message, "store-2") != 1 {
		t.Errorf("%s: %s", seen.Completeness, seen.Message)
	}
	s.bend, s.Warnings = nil, nil
	seen = s.pass(o, clock, 2, nil, s.pod, other)
	if seen.Completeness != traffic.Complete || seen.Since.Before(plaintext) || seen.LastPlaintext.Before(plaintext) {
		t.Errorf("%s since %s, last plaintext %s, and there was some at %s: %s", seen.Completeness, seen.Since, seen.LastPlaintext, plaintext, seen.Message)
	}
	// Where nothing was lost the stretch goes on.
	s.Warnings = []string{"store-2 did not answer"}
	s.pass(o, clock, 40, nil, s.pod, other)
	s.Warnings = nil
	if again := s.pass(o, clock, 2, nil, s.pod, other); again.Completeness != traffic.Complete || again.Since.After(seen.Since) {
		t.Errorf("%s since %s, after %s before: %s", again.Completeness, again.Since, seen.Since, again.Gap)
	}
}

// TestDelayedSamples holds that samples which come late, with the times of their scrapes, are not taken for read, and that
// what counters make good does not restart the stretch.
func TestDelayedSamples(t *testing.T) {
	for name, tc := range map[string]struct {
		scrapes  int  // that are late
		lost     bool // or fail
		inParts  bool
		appears  bool // the pod is new then
		restarts bool
	}{
		"four":                     {scrapes: 4},
		"four that fail":           {scrapes: 4, lost: true},
		"forty":                    {scrapes: 40, restarts: true},
		"forty, part by part":      {scrapes: 40, inParts: true, restarts: true},
		"forty of a pod just made": {scrapes: 40, appears: true, restarts: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := play(t, nil)
			clock := clocktesting.NewFakePassiveClock(s.now)
			o := s.observer(clock, nil)
			other := newPod("web", "web-5d-x2", s.now)
			other.counts[requests("mutual_tls", "front")] = 7
			before := s.pass(o, clock, 8, nil, other, s.pod)
			slow := s.pod
			if tc.appears {
				slow = newPod("web", "web-5d-x3", s.now)
			}
			target := []*pod{other, s.pod, slow}[:2]
			if tc.appears {
				target = target[:3]
			}
			var late []func()
			var plaintext time.Time
			for n := range tc.scrapes {
				s.now = s.now.Add(15 * time.Second)
				if tc.scrapes > 4 && n == tc.scrapes/2 {
					plaintext = s.now
					slow.counts[requests("none", "cron")]++
				}
				at, held := s.now, *slow
				held.counts = maps.Clone(slow.counts)
				late = append(late, func() {
					held.record.Last = slow.record.Last
					s.scrape(&held, at)
					slow.record.Last = held.record.Last
				})
				for _, p := range target {
					if p != slow {
						s.scrape(p, s.now)
					}
				}
				s.ask(o, clock, target...)
			}
			for i, scrape := range late {
				if tc.lost {
					break
				}
				scrape()
				if tc.inParts && i%10 == 9 {
					s.ask(o, clock, target...)
				}
			}
			seen := s.pass(o, clock, 3, nil, target...)
			if seen.Completeness != traffic.Complete {
				t.Fatal(seen.Message)
			}
			if tc.restarts && seen.Since.Before(plaintext) || !tc.restarts && seen.Since.After(before.Since) {
				t.Errorf("since %s, %s before it; plaintext at %s; %s", seen.Since, before.Since, plaintext, seen.Gap)
			}
		})
	}
}

// TestFailureAtFirst holds that scrapes which fail as the operator starts are made good by the next, too.
func TestFailureAtFirst(t *testing.T) {
	for _, failed := range []int{1, 3} {
		s := play(t, nil)
		clock := clocktesting.NewFakePassiveClock(s.now)
		for range failed {
			s.now = s.now.Add(15 * time.Second)
			s.fail(s.pod, s.now)
		}
		o := s.observer(clock, nil)
		if seen := s.ask(o, clock, s.pod); seen.Completeness != traffic.Incomplete {
			t.Fatal(seen.Completeness)
		}
		if seen := s.pass(o, clock, 2, nil, s.pod); seen.Completeness != traffic.Complete || seen.Time.Sub(seen.Since) < 30*time.Minute {
			t.Errorf("after %d failures %s since %s: %s", failed, seen.Completeness, seen.Since, seen.Message)
		}
	}
}

// TestImpatience holds that whoever cannot wait for a poll gets what the one before told, as of when it did, and that this does
// not seem newer than it is.
func TestImpatience(t *testing.T) {
	s := play(t, nil)
	clock := clocktesting.NewFakePassiveClock(s.now)
	o := s.observer(clock, nil)
	impatient, cancel := context.WithCancel(context.Background())
	cancel()
	ask := func(ctx context.Context) traffic.Observation {
		s.now = s.now.Add(15 * time.Second)
		s.scrape(s.pod, s.now)
		clock.SetTime(s.now)
		s.server.now = s.now
		return o.Observe(ctx, s.request(nil))
	}
	hold := make(chan struct{})
	s.bend = func(next http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			<-hold
			next(w, r)
		}
	}
	if seen := ask(impatient); seen.Completeness != traffic.Unavailable {
		t.Errorf("of nothing that was read: %s", seen.Completeness)
	}
	close(hold)
	o.Observe(context.Background(), s.request(nil)) // the poll ends
	before := ask(context.Background())
	if before.Completeness != traffic.Complete {
		t.Fatal(before.Message)
	}
	hold = make(chan struct{})
	seen := ask(impatient)
	close(hold)
	if seen.Completeness != traffic.Complete || !seen.Time.Equal(before.Time) || !seen.Since.Equal(before.Since) {
		t.Errorf("%s from %s to %s, and before it was from %s to %s: %s", seen.Completeness, seen.Since, seen.Time, before.Since, before.Time, seen.Message)
	}
}

// inTime is a direct source that notes whether it had time left to read.
type inTime struct {
	direct
	err error
}

func (d *inTime) Observe(ctx context.Context, r traffic.Request) traffic.Observation {
	d.err = ctx.Err()
	return d.direct.Observe(ctx, r)
}

// TestSlowPollLeavesTime holds that waiting for a slow server does not use up the time of the direct reading after it.
func TestSlowPollLeavesTime(t *testing.T) {
	t.Parallel()
	s := play(t, nil)
	clock := clocktesting.NewFakePassiveClock(s.now)
	d := &inTime{direct: direct{answer: traffic.Observation{Completeness: traffic.Complete, Since: s.now.Add(-time.Hour)}}}
	o := s.observer(clock, func(o *Options) { o.Direct = d })
	ask := func(wait time.Duration) traffic.Observation {
		s.now = s.now.Add(15 * time.Second)
		s.scrape(s.pod, s.now)
		clock.SetTime(s.now)
		s.server.now = s.now
		d.answer.Time = s.now
		ctx, cancel := context.WithTimeout(context.Background(), wait)
		defer cancel()
		return o.Observe(ctx, s.request(func(r *traffic.Request) { r.Readings = true }))
	}
	before := ask(time.Minute)
	if before.Completeness != traffic.Complete {
		t.Fatal(before.Message)
	}
	hold := make(chan struct{})
	defer close(hold)
	s.bend = func(http.HandlerFunc) http.HandlerFunc {
		return func(http.ResponseWriter, *http.Request) { <-hold }
	}
	seen := ask(3 * time.Second)
	if d.err != nil || len(d.asked) != 2 {
		t.Errorf("read directly %d times, the last with %v", len(d.asked), d.err)
	}
	if seen.Completeness != traffic.Complete || !seen.Since.Equal(before.Since) || !seen.Time.Equal(s.now) {
		t.Errorf("%s from %s to %s, and it was read directly at %s: %s", seen.Completeness, seen.Since, seen.Time, s.now, seen.Message)
	}
}

// TestUnobservedUnasked holds the same where that is over before the server answers again.
func TestUnobservedUnasked(t *testing.T) {
	s := play(t, nil)
	clock := clocktesting.NewFakePassiveClock(s.now)
	o := s.observer(clock, nil)
	observe := func(unobserved bool) traffic.Observation {
		s.now = s.now.Add(15 * time.Second)
		s.scrape(s.pod, s.now)
		clock.SetTime(s.now)
		s.server.now = s.now
		return o.Observe(context.Background(), s.request(func(r *traffic.Request) { r.Unobserved = unobserved }))
	}
	observe(false)
	s.bend = func(http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }
	}
	if seen := observe(true); seen.Completeness != traffic.Unavailable {
		t.Fatal(seen.Completeness)
	}
	s.bend = nil
	const why = "a part of the target was not observed"
	if seen := observe(false); seen.Since.Before(s.now) || seen.Gap != why {
		t.Errorf("the stretch began at %s, and the gap is %q", seen.Since, seen.Gap)
	}
}

// TestUnobserved holds that no stretch includes a time when a part of the target was not observed.
func TestUnobserved(t *testing.T) {
	s := play(t, nil)
	clock := clocktesting.NewFakePassiveClock(s.now)
	o := s.observer(clock, nil)
	next := func(unobserved bool) traffic.Observation {
		t.Helper()
		s.now = s.now.Add(15 * time.Second)
		s.scrape(s.pod, s.now)
		clock.SetTime(s.now)
		s.server.now = s.now
		seen := o.Observe(context.Background(), s.request(func(r *traffic.Request) { r.Unobserved = unobserved }))
		if seen.Completeness != traffic.Complete {
			t.Fatal(seen.Message)
		}
		return seen
	}
	const why = "a part of the target was not observed"
	if seen := next(false); s.now.Sub(seen.Since) < 30*time.Minute {
		t.Fatalf("since %s", seen.Since)
	}
	if seen := next(true); seen.Since.Before(s.now) || seen.Gap != why {
		t.Errorf("the stretch began at %s, and the gap is %q", seen.Since, seen.Gap)
	}
	if seen := next(true); seen.Since.Before(s.now) || seen.Gap != "" {
		t.Errorf("the stretch began at %s, and the gap is told again: %q", seen.Since, seen.Gap)
	}
	// A proxy takes another configuration within an interval, and the listener before drains for 45 s.
	end := s.now.Add(15*time.Second + 45*time.Second)
	for s.now.Before(end.Add(45 * time.Second)) {
		seen, want := next(false), end
		if s.now.Before(end) {
			want = s.now
		}
		if !seen.Since.Equal(want) || seen.Gap != "" {
			t.Errorf("%s: the stretch began at %s, and not at %s; gap %q", s.now, seen.Since, want, seen.Gap)
		}
	}
	if seen := next(true); seen.Gap != why {
		t.Errorf("the next gap is %q", seen.Gap)
	}
}

// TestQueriesAreFew holds that the number of queries does not depend on that of the profiles.
func TestQueriesAreFew(t *testing.T) {
	s := play(t, nil)
	clock := clocktesting.NewFakePassiveClock(s.now)
	o := s.observer(clock, nil)
	var group sync.WaitGroup
	for i := range 100 {
		group.Go(func() {
			o.Observe(context.Background(), s.request(func(r *traffic.Request) { r.Profile = fmt.Sprint(i) }))
		})
	}
	group.Wait()
	if n := s.queries.Load(); n != queriesPerPoll {
		t.Errorf("100 profiles ask %d queries", n)
	}
	for i := range 100 { // spread over an hour of intervals, each profile at a time of its own
		clock.SetTime(clock.Now().Add(15 * time.Second / 100))
		s.server.now = clock.Now()
		o.Observe(context.Background(), s.request(func(r *traffic.Request) { r.Profile = fmt.Sprint(i) }))
	}
	if n := s.queries.Load(); n > 2*6 {
		t.Errorf("%d queries in an interval and a moment", n)
	}
	for i := range 100 {
		o.Forget(fmt.Sprint(i))
	}
	if len(o.profiles) > 0 || len(o.poller.needs) > 0 {
		t.Error("profiles are remembered after they were forgotten")
	}
}

// TestLongerWindow holds that a profile with a longer window gets it proven, and none is told more than was read.
func TestLongerWindow(t *testing.T) {
	s := play(t, nil)
	clock := clocktesting.NewFakePassiveClock(s.now)
	o := s.observer(clock, nil)
	ask := func(profile string, window time.Duration) traffic.Observation {
		return o.Observe(context.Background(), s.request(func(r *traffic.Request) { r.Profile, r.Window = profile, window }))
	}
	first := ask("a", 10*time.Minute)
	if seen := ask("b", 50*time.Minute); seen.Completeness != traffic.Incomplete || !strings.Contains(seen.Message, "whole window") {
		t.Errorf("%s: %s", seen.Completeness, seen.Message)
	}
	s.now = s.now.Add(13 * time.Second)
	s.scrape(s.pod, s.now)
	clock.SetTime(s.now)
	s.server.now = s.now
	if seen := ask("b", 50*time.Minute); seen.Completeness != traffic.Complete || seen.Time.Sub(seen.Since) < 50*time.Minute {
		t.Errorf("%s since %s: %s", seen.Completeness, seen.Since, seen.Message)
	}
	// The stretch of the other goes on from where it began.
	again := s.request(func(r *traffic.Request) {
		r.Profile, r.Window, r.CleanSince, r.Evidence = "a", 10*time.Minute, first.Since, &first.Evidence
	})
	if seen := o.Observe(context.Background(), again); seen.Since.After(first.Since) {
		t.Errorf("the stretch creeps from %s to %s", first.Since, seen.Since)
	}
}

// TestReach holds that a poll reads all the time since the last that was learned from, and never more than is asked for.
func TestReach(t *testing.T) {
	const window, gap = 30 * time.Minute, 75 * time.Second
	now := epoch.Add(24 * time.Hour)
	for name, tc := range map[string]struct {
		since       time.Duration
		wantHistory bool
		wantSpan    time.Duration
	}{
		"an interval":     {15 * time.Second, false, 15*time.Second + gap + 15*time.Second},
		"some failures":   {20 * time.Minute, false, 20*time.Minute + gap + 15*time.Second},
		"a night of them": {10 * time.Hour, true, window + gap},
	} {
		p := &poller{steps: historySteps, scrapes: maxScrapes, history: newHistory(), last: poll{window: window, now: now.Add(-tc.since)}}
		p.history.to = now.Add(-tc.since)
		a := &answer{now: now, interval: 15 * time.Second, longest: 15 * time.Second}
		p.reach(&poll{window: window}, a)
		if a.asked.afresh != tc.wantHistory || a.asked.span != tc.wantSpan {
			t.Errorf("%s: everything %v, %s back; want %v, %s", name, a.asked.afresh, a.asked.span, tc.wantHistory, tc.wantSpan)
		}
	}
}

// interval is one in which the pod is scraped, and the observation after it.
func (s *script) interval(o *Observer, clock *clocktesting.FakePassiveClock, r traffic.Request) traffic.Observation {
	s.now = s.now.Add(15 * time.Second)
	s.pod.counts[requests("mutual_tls", "front")]++
	s.scrape(s.pod, s.now.Add(-2*time.Second))
	clock.SetTime(s.now)
	s.server.now = s.now
	return o.Observe(context.Background(), r)
}

// TestLongHistory holds that one that is too much for a poll, or for the server, is read in parts, with nothing missed and
// nothing concluded before the last.
func TestLongHistory(t *testing.T) {
	happens := func(s *script, n int) bool {
		switch n {
		case 60: // one request in the life of a process, whose series is born with it, among scrapes that fail
			s.pod.counts[requests("none", "cron")] = 1
		case 90:
			s.pod.started = s.now
			s.pod.counts = map[series]float64{requests("mutual_tls", "front"): 1}
		}
		return n < 56 || n > 59
	}
	tests := map[string]struct {
		scrapes, samples int
		wantParts        int
		wantFailures     bool
	}{
		"whole":                   {scrapes: maxScrapes, samples: 50_000_000, wantParts: 1},
		"two parts":               {scrapes: 120, samples: 50_000_000, wantParts: 2},
		"parts of a traffic step": {scrapes: 10, samples: 50_000_000, wantParts: 20},
		"short parts":             {scrapes: 1, samples: 50_000_000, wantParts: 25},
		"a server with limits":    {scrapes: maxScrapes, samples: 200, wantParts: 2, wantFailures: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			s := play(t, happens)
			clock := clocktesting.NewFakePassiveClock(s.now)
			o := s.observer(clock, nil)
			o.poller.scrapes = int64(tc.scrapes)
			if tc.wantFailures {
				s.Limit(tc.samples)
			}
			request := s.request(func(r *traffic.Request) { r.Window = 54 * time.Minute })
			seen := traffic.Observation{}
			parts, failures := 0, 0
			for seen.Completeness != traffic.Complete {
				s.queries.Store(0)
				if seen = s.interval(o, clock, request); s.queries.Load() > queriesPerPoll {
					t.Errorf("%d queries in an interval", s.queries.Load())
				}
				if parts++; seen.Completeness == traffic.Unavailable {
					parts--
					failures++
				}
				if parts+failures > 40 {
					t.Fatalf("not read: %s", seen.Message)
				}
				if seen.Gap != "" || seen.Completeness == traffic.Incomplete && !seen.Since.IsZero() {
					t.Errorf("%q, since %s", seen.Gap, seen.Since)
				}
			}
			if parts < tc.wantParts || tc.wantParts == 1 && parts > 1 || failures > 0 != tc.wantFailures {
				t.Errorf("read in %d parts after %d failures", parts, failures)
			}
			if off := seen.LastPlaintext.Sub(at(60)); off < -time.Second || off > 30*time.Second {
				t.Errorf("the plaintext was at %s, and is said to be at %s", at(60), seen.LastPlaintext)
			}
			if off := seen.Since.Sub(at(90)); off < -time.Second || off > 30*time.Second {
				t.Errorf("the process began at %s, and the stretch is said to at %s", at(90), seen.Since)
			}
			if len(seen.Callers) != 1 || seen.Callers[0].Workload != "cron" {
				t.Errorf("the callers are %v", seen.Callers)
			}
			// What came in the last step may be missing.
			if most := int64(scripted - 90 + parts + failures); seen.MutualTLS > most || seen.MutualTLS < most-20 {
				t.Errorf("%d requests by mutual TLS of %d", seen.MutualTLS, most)
			}
			if again := s.interval(o, clock, request); again.Completeness != traffic.Complete || again.Gap != "" || !again.Since.Equal(seen.Since) {
				t.Errorf("%s since %s: %s %s", again.Completeness, again.Since, again.Message, again.Gap)
			}
		})
	}
}

// TestMutualInWindow holds that calls by mutual TLS count as long as they are in the window, and no longer.
func TestMutualInWindow(t *testing.T) {
	s := play(t, func(s *script, n int) bool {
		if n >= 80 { // 20 minutes after the beginning, 40 before the end
			s.pod.counts[requests("mutual_tls", "front")]--
		}
		return true
	})
	o := s.observer(clocktesting.NewFakePassiveClock(s.now), nil)
	for _, tc := range []struct {
		window time.Duration
		want   bool
	}{{50 * time.Minute, true}, {30 * time.Minute, false}} {
		seen := o.Observe(context.Background(), s.request(func(r *traffic.Request) { r.Window = tc.window }))
		if seen.Completeness != traffic.Complete || seen.MutualTLS > 0 != tc.want {
			t.Errorf("in %s: %d calls; %s %s", tc.window, seen.MutualTLS, seen.Completeness, seen.Message)
		}
	}
}

// direct stands for the sidecars' own source.
type direct struct {
	mu     sync.Mutex
	asked  []traffic.Request
	answer traffic.Observation
}

func (d *direct) Observe(_ context.Context, r traffic.Request) traffic.Observation {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = append(d.asked, r)
	return d.answer
}

func (d *direct) Forget(string) {}

// TestDirect holds when the proxies themselves are read: for their last words, and around the switch.
func TestDirect(t *testing.T) {
	s := play(t, nil)
	clock := clocktesting.NewFakePassiveClock(s.now)
	d := &direct{answer: traffic.Observation{Completeness: traffic.Complete, Proxies: []traffic.Reading{{Name: "web-5d-x1"}}}}
	o := s.observer(clock, func(o *Options) { o.Direct = d })
	other := newPod("web", "web-5d-x2", epoch)
	both := func(r *traffic.Request) { r.Proxies = append(r.Proxies, other.proxy()) }
	s.scrape(other, s.now)
	if seen := o.Observe(context.Background(), s.request(both)); seen.Completeness != traffic.Complete || len(d.asked) > 0 || len(seen.Proxies) > 0 {
		t.Fatalf("%s: %s; %d direct readings", seen.Completeness, seen.Message, len(d.asked))
	}
	other.terminating = true
	o.Observe(context.Background(), s.request(both))
	if len(d.asked) != 1 || len(d.asked[0].Proxies) != 1 || d.asked[0].Proxies[0].Name != other.name {
		t.Fatalf("the last words of %s were not heard: %v", other.name, d.asked)
	}
	if seen := o.Observe(context.Background(), s.request(nil)); seen.Completeness != traffic.Complete || seen.Time.Sub(seen.Since) < 30*time.Minute {
		t.Errorf("%s since %s, and nothing was lost: %s", seen.Completeness, seen.Since, seen.Gap)
	}
	readings := func(r *traffic.Request) { r.Readings = true }
	if seen := o.Observe(context.Background(), s.request(readings)); len(seen.Proxies) != 1 {
		t.Error("around the switch the proxies are not read")
	}
	// The last scrape was two seconds ago. What was counted between it and the first direct reading is in neither.
	for since, waits := range map[time.Duration]bool{-3 * time.Second: false, -time.Second: true} {
		d.answer.Since = s.now.Add(since)
		if seen := o.Observe(context.Background(), s.request(readings)); seen.Completeness != traffic.Complete || seen.Awaits != "" != waits {
			t.Errorf("read directly since %s: %s, awaits %q", since, seen.Completeness, seen.Awaits)
		}
	}
	// Once they are read without a break since before the last scrape, what they say reaches further than the server's answer.
	for name, tc := range map[string]struct {
		since        time.Duration
		completeness traffic.Completeness
		want         bool
	}{
		"without a break":      {-3 * time.Second, traffic.Complete, true},
		"since after a scrape": {-time.Second, traffic.Complete, false},
		"not all of them":      {-3 * time.Second, traffic.Incomplete, false},
	} {
		last := s.now.Add(20 * time.Second)
		d.answer.Since, d.answer.Completeness, d.answer.Time, d.answer.LastPlaintext = s.now.Add(tc.since), tc.completeness, last, last
		if seen := o.Observe(context.Background(), s.request(readings)); seen.Time.Equal(last) != tc.want || !seen.LastPlaintext.Equal(last) {
			t.Errorf("read %s: of %s, last plaintext %s; read at %s", name, seen.Time, seen.LastPlaintext, last)
		}
	}
	d.answer = traffic.Observation{Completeness: traffic.Unavailable, Message: "No route.", OpenPlaintext: 2}
	if seen := o.Observe(context.Background(), s.request(readings)); seen.Completeness != traffic.Incomplete || !strings.Contains(seen.Message, "No route.") || seen.OpenPlaintext != 2 {
		t.Errorf("%s: %s", seen.Completeness, seen.Message)
	}
}

// TestLastWords holds that each pod is heard as long as it terminates, whoever had its name before.
func TestLastWords(t *testing.T) {
	clean := traffic.Observation{Completeness: traffic.Complete}
	plain := traffic.Observation{Completeness: traffic.Complete, Evidence: v1alpha1.Evidence{Plaintext: 1}}
	gone := traffic.Observation{Completeness: traffic.Unavailable}
	for name, tc := range map[string]struct {
		first, second []traffic.Observation // what the two pods of one name say at each interval of their deletion
		restarts      bool                  // of the second's container in the end
		wantHeard     int
		wantLost      bool
	}{
		"clean":                        {first: []traffic.Observation{clean}, second: []traffic.Observation{clean, clean}, wantHeard: 3},
		"silent, after one that spoke": {first: []traffic.Observation{clean}, second: []traffic.Observation{gone}, wantHeard: 2, wantLost: true},
		"plaintext, after a clean one": {first: []traffic.Observation{clean}, second: []traffic.Observation{plain}, wantHeard: 2, wantLost: true},
		"plaintext at last":            {first: []traffic.Observation{clean}, second: []traffic.Observation{clean, plain, gone}, wantHeard: 4, wantLost: true},
		"unreadable at last":           {first: []traffic.Observation{clean}, second: []traffic.Observation{clean, gone}, wantHeard: 3},
		"a restart at last":            {first: []traffic.Observation{clean}, second: []traffic.Observation{clean, clean}, restarts: true, wantHeard: 2, wantLost: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := play(t, nil)
			clock := clocktesting.NewFakePassiveClock(s.now)
			d := &direct{}
			o := s.observer(clock, func(o *Options) { o.Direct = d })
			var last traffic.Observation
			life := func(p *pod, words []traffic.Observation, restarts bool) {
				s.pass(o, clock, 8, nil, s.pod, p)
				p.terminating = true
				s.leave(p, s.now.Add(time.Second)) // it is not scraped any more
				for i, word := range words {
					d.answer = word
					if restarts && i == len(words)-1 {
						p.restarts++
					}
					s.now = s.now.Add(15 * time.Second)
					s.scrape(s.pod, s.now)
					last = s.ask(o, clock, s.pod, p)
				}
			}
			life(newPod("web", "web-0", s.now), tc.first, false)
			s.pass(o, clock, 8, nil, s.pod)
			life(newPod("web", "web-0", s.now), tc.second, tc.restarts)
			before := s.now
			last = s.pass(o, clock, 3, nil, s.pod)
			if last.Completeness != traffic.Complete || last.Since.Before(before) == tc.wantLost || len(d.asked) != tc.wantHeard {
				t.Errorf("%s since %s, heard %d times; the last one went after %s: %s", last.Completeness, last.Since, len(d.asked), before, last.Message)
			}
		})
	}
}

// TestPredecessor holds that a pod which went before the operator looked is missed, also where another has its name.
func TestPredecessor(t *testing.T) {
	for name, tc := range map[string]struct {
		from, to int // the scrapes between the two
		before   bool
		late     bool // the operator looks when the second is going
	}{
		"at once":            {from: 200, to: 202, before: true},
		"after some minutes": {from: 180, to: 200, before: true},
		"at once, seen late": {from: 200, to: 202, before: true, late: true},
		"none":               {from: 150, to: 200},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first, second := newPod("web", "web-0", epoch), newPod("web", "web-0", at(tc.to).Add(-10*time.Second))
			second.extra = map[string]string{"instance": "10.0.0.2:15090"}
			s := play(t, func(s *script, n int) bool {
				switch {
				case tc.before && n < tc.from:
					s.scrape(first, s.now)
				case tc.before && n == tc.from:
					s.leave(first, s.now)
				case n >= tc.to:
					s.scrape(second, s.now)
				}
				return true
			})
			clock := clocktesting.NewFakePassiveClock(s.now)
			d := &direct{answer: traffic.Observation{Completeness: traffic.Complete}}
			o := s.observer(clock, func(o *Options) { o.Direct = d })
			if tc.late {
				s.leave(second, s.now) // before anybody watched
			} else {
				s.ask(o, clock, s.pod, second)
			}
			// That the second goes as it should does not bring back what the first took with it.
			second.terminating = true
			s.now = s.now.Add(15 * time.Second)
			s.scrape(s.pod, s.now)
			s.ask(o, clock, s.pod, second)
			if !tc.late {
				s.leave(second, s.now.Add(time.Second))
			}
			seen := s.pass(o, clock, 2, nil, s.pod)
			if seen.Completeness != traffic.Complete || seen.Since.After(at(tc.from)) != tc.before {
				t.Errorf("%s since %s, and the first went at %s: %s", seen.Completeness, seen.Since, at(tc.from), seen.Message)
			}
		})
	}
}

// TestPlaintextOfATerminatingPod holds that plaintext which only a direct reading saw restarts the stretch at once.
func TestPlaintextOfATerminatingPod(t *testing.T) {
	s := play(t, nil)
	clock := clocktesting.NewFakePassiveClock(s.now)
	d := &direct{answer: traffic.Observation{Completeness: traffic.Complete}}
	o := s.observer(clock, func(o *Options) { o.Direct = d })
	other := newPod("web", "web-0", s.now)
	s.pass(o, clock, 8, nil, s.pod, other)
	other.terminating = true
	s.pass(o, clock, 1, nil, s.pod, other)
	d.answer.OpenPlaintext = 1
	if seen := s.pass(o, clock, 1, nil, s.pod, other); seen.Completeness != traffic.Complete || seen.Since.Before(s.now) || seen.Gap == "" {
		t.Errorf("%s since %s, gap %q", seen.Completeness, seen.Since, seen.Gap)
	}
}

// TestUnreadWhileTerminating holds that a pod that is not scraped does not become one that was read by its deletion.
func TestUnreadWhileTerminating(t *testing.T) {
	s := play(t, nil)
	clock := clocktesting.NewFakePassiveClock(s.now)
	d := &direct{answer: traffic.Observation{Completeness: traffic.Complete, Evidence: v1alpha1.Evidence{Plaintext: 1}}}
	o := s.observer(clock, func(o *Options) { o.Direct = d })
	other := newPod("web", "web-0", s.now)
	s.pass(o, clock, 8, nil, s.pod, other)
	for range 8 {
		s.now = s.now.Add(15 * time.Second)
		s.fail(other, s.now)
		s.scrape(s.pod, s.now)
		s.ask(o, clock, s.pod, other)
	}
	other.terminating = true
	if seen := s.ask(o, clock, s.pod, other); seen.Completeness != traffic.Incomplete || !strings.Contains(seen.Message, "pod shop/web-0, which terminates") {
		t.Errorf("%s: %s", seen.Completeness, seen.Message)
	}
	d.answer.Evidence.Plaintext = 0
	if seen := s.ask(o, clock, s.pod, other); seen.Completeness != traffic.Complete {
		t.Errorf("%s: %s", seen.Completeness, seen.Message)
	}
}

// TestCredentials holds that what the client configuration says is sent, and read anew when it changes.
func TestCredentials(t *testing.T) {
	s := play(t, nil)
	var got http.Header
	s.bend = func(next http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			got = r.Header.Clone()
			next(w, r)
		}
	}
	dir := t.TempDir()
	file, token := filepath.Join(dir, "client.yaml"), filepath.Join(dir, "token")
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(token, "one")
	write(file, "authorization: {credentials_file: token}\nhttp_headers: {X-Scope-OrgID: {values: [shop]}}\n")
	clock := clocktesting.NewFakePassiveClock(s.now)
	o := s.observer(clock, func(o *Options) { o.ConfigFile = file })
	ask := func() traffic.Observation {
		clock.SetTime(clock.Now().Add(15 * time.Second))
		s.server.now = clock.Now()
		return o.Observe(context.Background(), s.request(nil))
	}
	ask()
	if got.Get("Authorization") != "Bearer one" || got.Get("X-Scope-Orgid") != "shop" {
		t.Errorf("the server was sent %v", got)
	}
	write(token, "two")
	ask()
	if got.Get("Authorization") != "Bearer two" {
		t.Errorf("a new token was not read: %v", got)
	}
	write(file, "basic_auth: {username: me, password: secret}\n")
	ask()
	if user, password, ok := (&http.Request{Header: got}).BasicAuth(); !ok || user != "me" || password != "secret" {
		t.Errorf("a new configuration was not read: %v", got)
	}
	write(file, "basic_auth: {username: me, pass: secret}\n")
	if seen := ask(); seen.Completeness != traffic.Unavailable || strings.Contains(seen.Message, "secret") {
		t.Errorf("%s: %s", seen.Completeness, seen.Message)
	}
}

func TestNewRefuses(t *testing.T) {
	dir := t.TempDir()
	file := func(content string) string {
		name := filepath.Join(dir, fmt.Sprint(len(content)))
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	const fine = "http://prometheus:9090"
	for name, tc := range map[string]struct {
		options Options
		want    string
	}{
		"no scheme":       {Options{URL: "prometheus:9090"}, "--prometheus-url"},
		"another scheme":  {Options{URL: "ftp://prometheus"}, "--prometheus-url"},
		"no URL":          {Options{URL: "http://[::1"}, "--prometheus-url"},
		"credentials":     {Options{URL: "http://a:b@prometheus"}, "--prometheus-config-file"},
		"no such file":    {Options{URL: fine, ConfigFile: filepath.Join(dir, "none")}, "--prometheus-config-file"},
		"unknown field":   {Options{URL: fine, ConfigFile: file("basic: {}\n")}, "--prometheus-config-file"},
		"contradiction":   {Options{URL: fine, ConfigFile: file("bearer_token: x\nbasic_auth: {username: a}\n")}, "--prometheus-config-file"},
		"no certificate":  {Options{URL: fine, ConfigFile: file("tls_config: {ca_file: /nowhere}\n")}, "--prometheus-config-file"},
		"matchers":        {Options{URL: fine, Matchers: `cluster=east`}, "--prometheus-matchers"},
		"more than those": {Options{URL: fine, Matchers: `cluster="east"} or {a="b"`}, "--prometheus-matchers"},
		"label":           {Options{URL: fine, PodLabel: "pod-name"}, "--prometheus-pod-label"},
	} {
		if _, err := New(tc.options); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := New(Options{URL: fine + "/prefix", Matchers: `cluster="east",team=~"a|b"`}); err != nil {
		t.Error(err)
	}
}

func TestBelongs(t *testing.T) {
	web := object{"shop", "web"}
	long := object{"shop", strings.Repeat("w", 60)}
	for name, tc := range map[string]struct {
		pod, workload object
		want          bool
	}{
		"deployment":        {object{"shop", "web-6d4f-x2x4z"}, web, true},
		"stateful set":      {object{"shop", "web-0"}, web, true},
		"bare pod":          {object{"shop", "web"}, web, true},
		"scheduled job":     {object{"shop", "web-29012345-x2x4z"}, web, true},
		"indexed":           {object{"shop", "web-29012345-0-x2x4z"}, web, true},
		"another workload":  {object{"shop", "web-admin-6d4f-x2x4z"}, web, false},
		"another namespace": {object{"other", "web-0"}, web, false},
		"another prefix":    {object{"shop", "website-0"}, web, false},
		"cut off":           {object{"shop", strings.Repeat("w", 58) + "x2x4z"}, long, true},
	} {
		if got := belongs(tc.pod, tc.workload); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestStem holds that pods of one controller are found by each other's names.
func TestStem(t *testing.T) {
	const long = "a-workload-with-a-name-that-is-longer-than-all-others-are-"
	for name, tc := range map[string]struct {
		pod, other string
		want       bool
	}{
		"deployment":               {"web-6d4f-x2x4z", "web-7e5a-y3y5z", true},
		"with a number":            {"web-2-6d4f-x2x4z", "web-2-7e5a-y3y5z", true},
		"stateful set":             {"web-db-0", "web-db-1", true},
		"daemon set":               {"agent-x2x4z", "agent-y3y5z", true},
		"scheduled job":            {"web-29012345-x2x4z", "web-29012346-y3y5z", true},
		"scheduled job of many":    {"web-29012345-0-x2x4z", "web-29012346-1-y3y5z", true},
		"bare pods":                {"web-a", "web-b", true},
		"names that are cut":       {long + "x2x4z", long[:50] + "7e5a-y3y5z", true},
		"another workload's":       {"web-6d4f-x2x4z", "api-6d4f-x2x4z", false},
		"another's by the dash":    {"web-6d4f-x2x4z", "website-6d4f-x2x4z", false},
		"another's, a longer name": {"web-6d4f-x2x4z", "web-admin-6d4f-x2x4z", false},
	} {
		if got := belongs(object{"shop", tc.other}, stem(object{"shop", tc.pod})); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// leaves has another pod be scraped up to the scrape 150, at which it is gone.
func (s *script) leaves(other *pod, n int) bool {
	switch {
	case n < 150:
		other.record.Last = nil
		s.scrape(other, s.now)
	case n == 150:
		other.record.Last = []labels.Labels{other.samples(s.now)[0].Labels}
		s.leave(other, s.now)
	}
	return true
}
