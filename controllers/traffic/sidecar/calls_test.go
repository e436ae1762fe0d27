package sidecar

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/servicesecurity/operator/controllers/traffic"
)

// callerExposition is what the proxy of a caller prints, in the form of Istio's.
const callerExposition = `# TYPE istio_requests_total counter
istio_requests_total{reporter="source",source_workload="web",source_workload_namespace="shop",source_principal="spiffe://cluster.local/ns/shop/sa/web",destination_workload="httpbin",destination_workload_namespace="foo",destination_principal="spiffe://cluster.local/ns/foo/sa/httpbin",destination_service="httpbin.foo.svc.cluster.local",destination_service_name="httpbin",destination_service_namespace="foo",request_protocol="http",response_code="200",grpc_response_status="",response_flags="-",connection_security_policy="unknown"} 100
istio_requests_total{reporter="source",source_workload="web",destination_workload="unknown",destination_service="httpbin.foo.svc.cluster.local",request_protocol="http",response_code="403",response_flags="-",connection_security_policy="unknown"} 10
istio_requests_total{reporter="source",source_workload="web",destination_workload="unknown",destination_service="httpbin.foo.svc.cluster.local",request_protocol="http",response_code="503",response_flags="URX",connection_security_policy="unknown"} 1
istio_requests_total{reporter="source",source_workload="web",destination_workload="unknown",destination_service="httpbin.foo.svc.cluster.local",request_protocol="http",response_code="503",response_flags="UC",connection_security_policy="unknown"} 7
istio_requests_total{reporter="source",source_workload="web",destination_workload="unknown",destination_service="httpbin.foo.svc.cluster.local",request_protocol="http",response_code="503",response_flags="URX,UF",connection_security_policy="unknown"} 20
istio_requests_total{reporter="source",source_workload="web",destination_workload="unknown",destination_service="httpbin.foo.svc.cluster.local",request_protocol="http",response_code="503",response_flags="UH",connection_security_policy="unknown"} 3000
istio_requests_total{reporter="source",source_workload="web",destination_workload="unknown",destination_service="httpbin.foo.svc.cluster.local",request_protocol="http",response_code="504",response_flags="UT",connection_security_policy="unknown"} 4000
istio_requests_total{reporter="source",source_workload="web",destination_workload="unknown",destination_service="httpbin.foo.svc.cluster.local",request_protocol="grpc",response_code="0",response_flags="UR",connection_security_policy="unknown"} 2
istio_requests_total{reporter="source",source_workload="web",destination_service="other.foo.svc.cluster.local",request_protocol="http",response_code="503",response_flags="UF",connection_security_policy="unknown"} 50000
istio_requests_total{reporter="destination",source_workload="api",destination_service="httpbin.foo.svc.cluster.local",request_protocol="http",response_code="503",response_flags="UF",connection_security_policy="mutual_tls"} 60000
# TYPE istio_tcp_connections_opened_total counter
istio_tcp_connections_opened_total{reporter="source",source_workload="web",destination_service="httpbin.foo.svc.cluster.local",request_protocol="tcp",response_flags="-",connection_security_policy="unknown"} 1000
istio_tcp_connections_opened_total{reporter="source",source_workload="web",destination_service="httpbin.foo.svc.cluster.local",request_protocol="tcp",response_flags="UF,URX",connection_security_policy="unknown"} 300
# TYPE istio_tcp_connections_closed_total counter
istio_tcp_connections_closed_total{reporter="source",source_workload="web",destination_service="httpbin.foo.svc.cluster.local",request_protocol="tcp",response_flags="-",connection_security_policy="unknown"} 600
istio_tcp_connections_closed_total{reporter="source",source_workload="web",destination_service="httpbin.foo.svc.cluster.local",request_protocol="tcp",response_flags="UR",connection_security_policy="unknown"} 400
istio_tcp_connections_closed_total{reporter="source",source_workload="web",destination_service="httpbin.foo.svc.cluster.local",request_protocol="tcp",response_flags="UF,URX",connection_security_policy="unknown"} 300
# TYPE envoy_server_uptime gauge
envoy_server_uptime{} 3600
`

var httpbin = traffic.Services{Names: []string{"httpbin.foo.svc.cluster.local"}}

func TestParseCalls(t *testing.T) {
	t.Parallel()
	const unlabelled = "# TYPE istio_requests_total counter\nistio_requests_total 5\nenvoy_server_uptime 1\n"
	for name, tc := range map[string]struct {
		body     string
		services traffic.Services
		want     traffic.PodCalls
		wantErr  string
	}{
		"of one service":     {callerExposition, httpbin, traffic.PodCalls{Arrived: 113 + 600, Failed: 27 + 700}, ""},
		"of a namespace":     {callerExposition, traffic.Services{Suffix: ".foo.svc.cluster.local"}, traffic.PodCalls{Arrived: 113 + 600, Failed: 27 + 700 + 50000}, ""},
		"of another":         {callerExposition, traffic.Services{Suffix: ".bar.svc.cluster.local"}, traffic.PodCalls{}, ""},
		"of none":            {callerExposition, traffic.Services{}, traffic.PodCalls{}, ""},
		"without labels":     {unlabelled, httpbin, traffic.PodCalls{}, ""},
		"not Envoy":          {"a_total 1\n", httpbin, traffic.PodCalls{}, errNotEnvoy.Error()},
		"a count that is no": {strings.Replace(callerExposition, "} 7\n", "} NaN\n", 1), httpbin, traffic.PodCalls{}, "which is no count"},
		"more closed than opened": {
			strings.Replace(callerExposition, "} 1000\n", "} 10\n", 1), httpbin, traffic.PodCalls{Arrived: 113, Failed: 27 + 700}, "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := parseCalls([]byte(tc.body), tc.services)
			if (err == nil) != (tc.wantErr == "") || err != nil && !strings.Contains(err.Error(), tc.wantErr) {
				t.Fatalf("got the error %v, want %q", err, tc.wantErr)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestCallsFilter(t *testing.T) {
	t.Parallel()
	const mine = "istiocustom.istio_requests_total.response_code.200.reporter.source.source_workload.web.destination_service.httpbin.foo.svc.cluster.local.response_flags.-"
	other, dotless := strings.Replace(mine, "httpbin", "other", 1), strings.Replace(mine, "httpbin.foo", "httpbin-foo", 1)
	var many []string
	for range maxFilterNames + 1 {
		many = append(many, "httpbin.foo.svc.cluster.local")
	}
	for name, tc := range map[string]struct {
		services traffic.Services
		want     []string
	}{
		"one":          {httpbin, []string{mine, "server.uptime"}},
		"a namespace":  {traffic.Services{Suffix: ".foo.svc.cluster.local"}, []string{mine, other, "server.uptime"}},
		"several":      {traffic.Services{Names: []string{"other.foo.svc.cluster.local", "x.foo.svc.cluster.local"}}, []string{other, "server.uptime"}},
		"more of them": {traffic.Services{Names: many}, []string{mine, other, dotless, "server.uptime"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			re := regexp.MustCompile(callsFilter(tc.services))
			var got []string
			for _, statistic := range []string{
				mine, other, dotless, "istiocustom.istio_request_bytes.destination_service.httpbin.foo.svc.cluster.local", "server.uptime", "server.live",
			} {
				if re.MatchString(statistic) {
					got = append(got, statistic)
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestCalls(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.URL.Query().Get("filter"), "httpbin") {
			w.WriteHeader(http.StatusBadRequest)
		}
		_, _ = w.Write([]byte(callerExposition))
	}))
	t.Cleanup(server.Close)
	address, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(address.Host)
	observer := New(Options{Port: int32(at.Port()), Timeout: time.Second})
	proxy := func(name, address string) traffic.Proxy {
		return traffic.Proxy{Namespace: "shop", Name: name, UID: name, Address: address, Created: epoch}
	}
	here := at.Addr().String()
	got := observer.Calls(context.Background(), traffic.CallsRequest{Services: httpbin, Callers: []traffic.CallerProxies{
		{Name: "shop/web", Proxies: []traffic.Proxy{proxy("web-1", here), proxy("web-2", "127.0.0.77"), proxy("web-3", ""), proxy("web-4", here), proxy("web-5", here), proxy("web-6", here)}},
		{Name: "far/away"},
		{Name: "shop/api", Proxies: []traffic.Proxy{proxy("api-1", here)}},
	}})
	pod := func(name string) traffic.PodCalls {
		return traffic.PodCalls{UID: name, Created: epoch, Arrived: 713, Failed: 727}
	}
	want := []traffic.CallerCalls{
		{Name: "shop/web", Pods: []traffic.PodCalls{pod("web-1"), pod("web-4"), pod("web-5")}, Unread: "the proxy of pod shop/web-2 cannot be read: connection refused"},
		{Name: "far/away"},
		{Name: "shop/api", Pods: []traffic.PodCalls{pod("api-1")}},
	}
	if diff := cmp.Diff(want, got.Callers); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got.Time.IsZero() {
		t.Error("the reading has no time")
	}
	got = observer.Calls(context.Background(), traffic.CallsRequest{Callers: []traffic.CallerProxies{{Name: "shop/web", Proxies: []traffic.Proxy{proxy("web-1", here)}}}})
	want = []traffic.CallerCalls{{Name: "shop/web", Unread: "no Service leads to the target, by which its calls could be told"}}
	if diff := cmp.Diff(want, got.Callers); diff != "" {
		t.Errorf("without a Service (-want +got):\n%s", diff)
	}
}

// The target's own proxies tell who calls by mutual TLS within the window.
func TestMeshed(t *testing.T) {
	t.Parallel()
	series := func(policy, principal, workload string) string {
		return `istio_requests_total{reporter="destination",connection_security_policy="` + policy + `",source_principal="` + principal + `",source_workload="` + workload + `"}`
	}
	const web, api = "spiffe://cluster.local/ns/shop/sa/web", "spiffe://cluster.local/ns/shop/sa/api"
	w := newWorld(t)
	p := &simulated{Proxy: traffic.Proxy{Namespace: "foo", Name: "a", UID: "a", Address: "10.0.0.1"}, series: map[string]int64{
		series("mutual_tls", web, "web"):   100,
		series("mutual_tls", api, "-"):     7,
		series("none", "unknown", "cron"):  9,
		series("mutual_tls", "", "nobody"): 9,
		`istio_tcp_connections_opened_total{reporter="destination",connection_security_policy="mutual_tls",source_principal="` + api + `"}`: 3,
	}}
	w.pods = append(w.pods, p)
	check := func(what string, want ...traffic.MeshedCaller) {
		t.Helper()
		if diff := cmp.Diff(append([]traffic.MeshedCaller{}, want...), w.observe().Meshed); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	check("the first reading has all", traffic.MeshedCaller{Principal: web, Workload: "web", Calls: 100}, traffic.MeshedCaller{Principal: api, Calls: 10})
	w.now += 50 * time.Minute
	p.series[series("mutual_tls", api, "-")] += 5
	w.observe()
	w.now += 20 * time.Minute
	check("only the window's", traffic.MeshedCaller{Principal: api, Calls: 5})
	w.now += 2 * time.Hour
	check("nobody called")
}

func TestMeshedIsBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := &simulated{Proxy: traffic.Proxy{Namespace: "foo", Name: "a", UID: "a", Address: "10.0.0.1"}, series: map[string]int64{}}
	for i := range 2 * maxCallers {
		name := string(rune('a'+i%26)) + strings.Repeat("x", i/26)
		p.series[`istio_requests_total{reporter="destination",connection_security_policy="mutual_tls",source_principal="spiffe://cluster.local/ns/shop/sa/`+name+`"}`] = int64(i)
		p.series[`istio_requests_total{reporter="destination",connection_security_policy="none",source_principal="unknown",source_workload="`+name+`"}`] = 0
	}
	w.pods = append(w.pods, p)
	if got := len(w.observe().Meshed); got != traffic.MaxMeshedCallers {
		t.Errorf("%d callers, want %d", got, traffic.MaxMeshedCallers)
	}
	kept := 0
	for _, who := range w.tracker.proxies["a"].counters.callers {
		if who.principal == "" && who.workload != unknown {
			kept++
		}
	}
	// One place is for all that have no room.
	if kept < maxMeshed-1 {
		t.Errorf("those by mutual TLS leave room for %d others, want %d at least", kept, maxMeshed-1)
	}
}
