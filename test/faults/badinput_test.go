package faults

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/traffic"
	"github.com/servicesecurity/operator/controllers/traffic/promql"
	"github.com/servicesecurity/operator/test/promserver"
)

// rounds are enough for a switch and its verification, if anything led to them.
const rounds = 12

// reconcile does one reconcile, and lets an interval go by.
func (w *world) reconcile(t *testing.T) {
	t.Helper()
	w.read = map[schema.GroupVersionKind]bool{}
	if _, err := w.reconciler.Reconcile(log.IntoContext(context.Background(), logr.Discard()), w.request()); err != nil {
		t.Fatal(err)
	}
	w.reconciles++
	w.clock.SetTime(w.now().Add(interval))
}

// server is a Prometheus that scrapes the one pod of a world.
type server struct {
	*promserver.Server
	w      *world
	target promserver.Target
	until  time.Time
	// patience is how long the operator waits for an answer.
	patience time.Duration
	down     bool
	bend     http.HandlerFunc
}

func newServer(t *testing.T, w *world, skew time.Duration) *server {
	t.Helper()
	s := &server{w: w, until: epoch.Add(-time.Hour), patience: 20 * time.Second, target: promserver.NewTarget(map[string]string{
		"job": "envoy", "instance": "10.0.0.1:15090", "namespace": namespace, "pod": "web-0",
	})}
	var err error
	if s.Server, err = promserver.New(t.TempDir(), func() time.Time { return w.now().Add(skew) }, t.Errorf); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// scrape reads the pod's proxy every half a minute up to now. The process is as old as they say.
func (s *server) scrape(t *testing.T, started time.Time, skew time.Duration) {
	t.Helper()
	for ; !s.until.After(s.w.now()); s.until = s.until.Add(30 * time.Second) {
		if s.until.Before(started) {
			continue
		}
		up := int64(s.until.Sub(started) / time.Second)
		text := fmt.Sprintf(`# TYPE istio_requests_total counter
istio_requests_total{reporter="destination",source_workload="front",source_workload_namespace="clients",source_principal="spiffe://cluster.local/ns/clients/sa/front",destination_workload="web-0",destination_workload_namespace="shop",request_protocol="http",connection_security_policy="mutual_tls"} %d
# TYPE envoy_server_uptime gauge
envoy_server_uptime{} %d
`, 7+up, up)
		if at := s.w.script.plaintext; at > 0 && s.until.Sub(epoch) >= at {
			text += `istio_requests_total{reporter="destination",source_workload="unknown",source_workload_namespace="unknown",source_principal="unknown",destination_workload="web-0",destination_workload_namespace="shop",request_protocol="http",connection_security_policy="none"} 1` + "\n"
		}
		if refused, ok := s.ScrapeText(&s.target, s.until.Add(skew), []byte(text)); refused > 0 || !ok {
			t.Fatal("the server refused a scrape")
		}
	}
}

func (s *server) RoundTrip(r *http.Request) (*http.Response, error) {
	if s.down {
		return nil, errors.New("connection refused")
	}
	recorder := httptest.NewRecorder()
	if s.bend != nil {
		s.bend(recorder, r)
	} else {
		s.ServeHTTP(recorder, r)
	}
	return recorder.Result(), r.Context().Err()
}

func answers(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// observe has the world's operator, and those after it, ask the server.
func (s *server) observe() {
	s.w.core.Observer = func(sidecars traffic.Observer) traffic.Observer {
		observer, err := promql.New(promql.Options{
			URL: "http://prometheus", Transport: s, Clock: s.w.clock, Interval: interval, Timeout: s.patience, MaxBodyBytes: maxBody,
			Direct: sidecars,
		})
		if err != nil {
			panic(err) // a mistake in these options
		}
		return observer
	}
	s.w.boot()
}

// maxBody is what the operator takes of an answer here.
const maxBody = 1 << 20

// endless answers with more series than that.
func endless(w http.ResponseWriter, _ *http.Request) {
	_, _ = io.WriteString(w, `{"status":"success","data":{"resultType":"vector","result":[`)
	_, _ = io.WriteString(w, strings.Repeat(`{"metric":{"part":"now"},"value":[1,"1"]},`, maxBody/20))
}

// TestBadPrometheus: whatever the server does, the profile is not switched, and says why.
func TestBadPrometheus(t *testing.T) {
	for name, tc := range map[string]struct {
		down    bool
		bend    http.HandlerFunc
		wait    time.Duration // of the operator, for an answer
		skew    time.Duration // of the server's clock
		foreign bool          // the series are of another tenant's pod of the same name
		empty   bool          // they are of other namespaces alone
		want    string        // of the condition TrafficObserved, and what is said
		says    string
	}{
		"a good one":      {want: "Enforced"},
		"down":            {down: true, want: "SourceUnavailable", says: "cannot be reached"},
		"slow":            {wait: 200 * time.Millisecond, bend: func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, want: "SourceUnavailable", says: "did not answer in time"},
		"422":             {bend: answers(422, `{"status":"error","errorType":"execution","error":"too many samples"}`), want: "SourceUnavailable", says: "too many samples"},
		"half a JSON":     {bend: answers(200, `{"status":"success","data":{"resultType":"vector","result":[{"me`), want: "SourceUnavailable", says: "not that of Prometheus"},
		"without an end":  {bend: endless, want: "SourceUnavailable", says: "longer than the operator takes"},
		"another tenant":  {foreign: true, want: "Incomplete", says: "another pod of the name of pod shop/web-0"},
		"nothing of ours": {empty: true, want: "Incomplete", says: "shop/web-0"},
		"an old clock":    {skew: -10 * time.Minute, want: "Incomplete", says: "behind the operator's"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, err := newWorld(scripts()[0], Core{}, nil, false)
			if err != nil {
				t.Fatal(err)
			}
			s := newServer(t, w, tc.skew)
			s.down, s.bend, s.patience = tc.down, tc.bend, cmp.Or(tc.wait, s.patience)
			s.observe()
			started := epoch
			if tc.foreign {
				started = epoch.Add(-30 * time.Minute)
			}
			for range rounds {
				if !tc.empty {
					s.scrape(t, started, tc.skew)
				}
				w.reconcile(t)
			}
			expect(t, w, tc.want, tc.says)
		})
	}
}

// expect holds what a profile has come to: Enforced, or blocked with a condition that says why.
func expect(t *testing.T, w *world, want, says string) {
	t.Helper()
	for _, violation := range w.oracle.violations {
		t.Error(violation)
	}
	status := w.stored().Status
	if want == "Enforced" {
		if status.MTLS.Stage != v1alpha1.StageEnforced || !w.oracle.strict["web"] {
			t.Errorf("with nothing bad it is %s", status.MTLS.Stage)
		}
		return
	}
	if status.MTLS.Stage != v1alpha1.StageBlocked || w.oracle.strict["web"] {
		t.Errorf("it is %s, and STRICT: %t", status.MTLS.Stage, w.oracle.strict["web"])
	}
	for _, c := range status.Conditions {
		if c.Type == v1alpha1.ConditionTrafficObserved && (c.Status != metav1.ConditionFalse || c.Reason != want || !strings.Contains(c.Message, says)) {
			t.Errorf("%s %s: %s", c.Status, c.Reason, c.Message)
		}
	}
	if text := printed(status); len(text) > 16<<10 {
		t.Errorf("the status has grown to %d bytes", len(text))
	}
}

// TestForgedStatus: a status that somebody edits by hand, with the operator there or away, switches nothing.
func TestForgedStatus(t *testing.T) {
	far := metav1.NewTime(epoch.Add(1000 * time.Hour))
	for name, edit := range map[string]func(*v1alpha1.MTLSStatus){
		"Enforced, and the object says PERMISSIVE": func(m *v1alpha1.MTLSStatus) {
			m.Stage, m.EffectiveMode, m.EnforcedTime = v1alpha1.StageEnforced, v1alpha1.ModeStrict, new(metav1.NewTime(epoch))
		},
		"a stretch older than the profile": func(m *v1alpha1.MTLSStatus) { m.CleanSinceTime = new(metav1.NewTime(epoch.Add(-24 * time.Hour))) },
		"a stretch from before the plaintext": func(m *v1alpha1.MTLSStatus) {
			m.CleanSinceTime, m.LastPlaintextTime = new(metav1.NewTime(epoch.Add(time.Second))), nil
		},
		"rubbish": func(m *v1alpha1.MTLSStatus) {
			m.Stage, m.InheritedMode, m.Attempts = "Sleeping", "Sometimes", -7
			m.CleanSinceTime, m.LastPlaintextTime, m.NextAttemptTime = &far, &far, &far
			m.Evidence = &v1alpha1.Evidence{ObservedTime: &far, SinceTime: &far, Proxies: "?", Plaintext: -1, MutualTLS: -1 << 62}
		},
	} {
		for _, away := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, the operator away: %t", name, away), func(t *testing.T) {
				t.Parallel()
				w, err := newWorld(scripts()[0], Core{}, nil, false)
				if err != nil {
					t.Fatal(err)
				}
				// Plaintext comes at 7m30s, and the edit after that.
				for range 3 {
					w.reconcile(t)
				}
				forged := w.stored().DeepCopy()
				edit(forged.Status.MTLS)
				if err := w.store.update(forged, false); err != nil {
					t.Fatal(err)
				}
				if away {
					w.boot()
				}
				w.reconcile(t)
				if m := w.stored().Status.MTLS; m.Stage == v1alpha1.StageEnforced || m.Stage == "Sleeping" || w.oracle.strict["web"] {
					t.Errorf("after the edit it is %s, and STRICT: %t", m.Stage, w.oracle.strict["web"])
				}
				for range rounds {
					w.reconcile(t)
				}
				expect(t, w, "Enforced", "")
			})
		}
	}
}
