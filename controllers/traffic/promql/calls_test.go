package promql

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/prometheus/model/labels"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/servicesecurity/operator/controllers/traffic"
	"github.com/servicesecurity/operator/test/promserver"
)

// outbound are series of what a caller's proxy counts itself, as "metric service flags".
type outbound map[string]float64

// scrapeCaller stores what the proxy of a caller says.
func (s *server) scrapeCaller(namespace, name string, at time.Time, counts outbound) {
	s.t.Helper()
	series := func(metric string) map[string]string {
		return map[string]string{"__name__": metric, "job": "envoy", "instance": name, "namespace": namespace, "pod": name}
	}
	samples := []promserver.Sample{{Labels: labels.FromMap(series("envoy_server_uptime")), Value: 3600}}
	for key, n := range counts {
		part := strings.Fields(key)
		m := series("istio_" + part[0] + "_total")
		m["reporter"], m["destination_service"], m["response_flags"], m["connection_security_policy"] = "source", part[1], part[2], "unknown"
		samples = append(samples, promserver.Sample{Labels: labels.FromMap(m), Value: n})
	}
	s.stored(s.Scrape(&promserver.Target{Up: labels.FromMap(series("up"))}, at, samples...))
}

const (
	httpbin = "httpbin.foo.svc.cluster.local"
	echo    = "echo.foo.svc.cluster.local"
)

func callsRequest(profile string) traffic.CallsRequest {
	sender := func(name string) traffic.Proxy {
		return traffic.Proxy{Namespace: "shop", Name: name, UID: "uid-" + name, Created: epoch}
	}
	return traffic.CallsRequest{
		Profile: profile, Services: traffic.Services{Names: []string{httpbin}},
		Callers: []traffic.CallerProxies{
			{Name: "shop/web", Proxies: []traffic.Proxy{sender("web-1"), sender("web-2"), sender("web-3")}},
			{Name: "far/away"},
		},
	}
}

func callsServer(t *testing.T) (*server, *clocktesting.FakePassiveClock) {
	s := newServer(t)
	s.scrapeCaller("shop", "web-1", epoch, outbound{
		"requests " + httpbin + " -": 100, "requests " + httpbin + " UC": 7, "requests " + httpbin + " URX,UF": 20, "requests " + httpbin + " UH": 3000,
		"requests " + echo + " UF": 50000, "tcp_connections_opened " + httpbin + " -": 1000,
		"tcp_connections_closed " + httpbin + " UR": 400, "tcp_connections_closed " + httpbin + " -": 600,
	})
	s.scrapeCaller("shop", "web-2", epoch, nil)
	s.scrapeCaller("other", "web-3", epoch, outbound{"requests " + httpbin + " UF": 9})
	s.now = epoch.Add(10 * time.Second)
	return s, clocktesting.NewFakePassiveClock(s.now)
}

func TestCalls(t *testing.T) {
	t.Parallel()
	web := func(arrived, failed int64) []traffic.CallerCalls {
		return []traffic.CallerCalls{
			{
				Name: "shop/web", Unread: "Prometheus does not scrape the proxy of pod shop/web-3",
				Pods: []traffic.PodCalls{{UID: "uid-web-1", Created: epoch, Arrived: arrived, Failed: failed}, {UID: "uid-web-2", Created: epoch}},
			},
			{Name: "far/away"},
		}
	}
	unread := func(why string) []traffic.CallerCalls {
		return []traffic.CallerCalls{{Name: "shop/web", Unread: why}, {Name: "far/away", Unread: why}}
	}
	var many []string
	for i := range maxServices {
		many = append(many, fmt.Sprintf("s%d.foo.svc.cluster.local", i))
	}
	many = append(many, httpbin)
	for name, tc := range map[string]struct {
		edit        func(*traffic.CallsRequest)
		bend        func(http.HandlerFunc) http.HandlerFunc
		warnings    []string
		want        []traffic.CallerCalls
		wantQueries int64
	}{
		"one service":           {want: web(700, 427), wantQueries: 1},
		"a namespace":           {edit: func(r *traffic.CallsRequest) { r.Services = traffic.Services{Suffix: ".foo.svc.cluster.local"} }, want: web(700, 50427), wantQueries: 1},
		"more than it can name": {edit: func(r *traffic.CallsRequest) { r.Services.Names = many }, want: web(700, 427), wantQueries: 1},
		"no service": {
			edit: func(r *traffic.CallsRequest) { r.Services = traffic.Services{} },
			want: unread("no Service leads to the target, by which its calls could be told"),
		},
		"no pods": {
			edit: func(r *traffic.CallsRequest) { r.Callers = r.Callers[1:] },
			want: []traffic.CallerCalls{{Name: "far/away"}},
		},
		"an error": {
			bend: func(http.HandlerFunc) http.HandlerFunc {
				return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }
			},
			want: unread("Prometheus gives no answer about them: it refused the query: server error: 503 (server_error)"),
		},
		"a warning": {
			warnings: []string{"a store is away"}, wantQueries: 1,
			want: unread("Prometheus gives no answer about them: The server answered with a warning, so its answer may lack something: a store is away."),
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, clock := callsServer(t)
			s.bend, s.Warnings = tc.bend, tc.warnings
			request := callsRequest("a")
			if tc.edit != nil {
				tc.edit(&request)
			}
			got := s.observer(clock, nil).Calls(context.Background(), request)
			if diff := cmp.Diff(tc.want, got.Callers); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if n := s.queries.Load(); n != tc.wantQueries {
				t.Errorf("%d queries, want %d", n, tc.wantQueries)
			}
		})
	}
}

// TestCallsQueriesAreFew holds that many profiles near their switches cost one query an interval, within the limit of six.
func TestCallsQueriesAreFew(t *testing.T) {
	t.Parallel()
	s, clock := callsServer(t)
	o := s.observer(clock, nil)
	for i := range 30 {
		o.Calls(context.Background(), callsRequest(fmt.Sprint(i)))
	}
	if n := s.queries.Load(); n != 1 {
		t.Errorf("%d queries in a moment", n)
	}
	late := o.Calls(context.Background(), callsRequest("29")).Callers[0]
	if late.Unread != "Prometheus is asked at the next observation interval" {
		t.Errorf("who came after the query is told %q, %v", late.Unread, late.Pods)
	}
	before := s.queries.Load()
	const intervals = 10
	for range intervals * 30 {
		clock.SetTime(clock.Now().Add(15 * time.Second / 30))
		s.now = clock.Now()
		o.Calls(context.Background(), callsRequest(fmt.Sprint(int(s.now.Sub(epoch)/time.Millisecond)/500%30)))
		o.Observe(context.Background(), traffic.Request{Profile: "a", Window: time.Minute, Proxies: []traffic.Proxy{{Namespace: "foo", Name: "x"}}})
	}
	if n := s.queries.Load() - before; n > 6*(intervals+1) {
		t.Errorf("%d queries in %d intervals", n, intervals)
	}
	if calls := o.Calls(context.Background(), callsRequest("29")).Callers[0]; calls.Unread != "Prometheus does not scrape the proxy of pod shop/web-3" || len(calls.Pods) != 2 {
		t.Errorf("at the next interval it is told %+v", calls)
	}
	clock.SetTime(clock.Now().Add(time.Hour))
	s.now = clock.Now()
	o.Calls(context.Background(), callsRequest("new"))
	if len(o.callers.wants) != 1 {
		t.Errorf("%d profiles are remembered that do not ask any more", len(o.callers.wants)-1)
	}
	// Nobody waits for a slot for ever.
	o.callers.slot <- struct{}{}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if calls := o.Calls(ctx, callsRequest("new")).Callers[0]; calls.Unread != "Prometheus was not asked in time" {
		t.Errorf("who cannot wait is told %q", calls.Unread)
	}
}

// TestCallsOfNobody holds that a failure to answer is not told of callers of which nobody asked.
func TestCallsOfNobody(t *testing.T) {
	s, clock := callsServer(t)
	o := s.observer(clock, nil)
	s.bend = func(http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }
	}
	request := callsRequest("p")
	if got := o.Calls(context.Background(), request); got.Callers[1].Unread == "" {
		t.Fatal("the server does not answer, and that is not told")
	}
	clock.SetTime(clock.Now().Add(time.Minute))
	request.Callers = request.Callers[1:]
	if diff := cmp.Diff([]traffic.CallerCalls{{Name: "far/away"}}, o.Calls(context.Background(), request).Callers); diff != "" {
		t.Error(diff)
	}
}
