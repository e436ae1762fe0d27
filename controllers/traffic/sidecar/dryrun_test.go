package sidecar

import (
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/servicesecurity/operator/controllers/traffic"
)

func prom(tb testing.TB, name string) string {
	tb.Helper()
	body, err := os.ReadFile("testdata/" + name)
	if err != nil {
		tb.Fatal(err)
	}
	return string(body)
}

// judged is what a proxy prints of one kind of policy on one connection manager; none stands for TCP.
func judged(manager, action, allowed, denied string) string {
	const series = "%s{authz_dry_run_action=%q,authz_dry_run_result=%q%s} %s\n"
	family, rest := "envoy_tcp", `,tcp_prefix="rbac.istio_dry_run_`+action+`_"`
	if manager != "" {
		family, rest = "envoy_http_rbac", `,http_conn_manager_prefix="`+manager+`"`
	}
	return fmt.Sprintf(series, family, action, "allowed", rest, allowed) + fmt.Sprintf(series, family, action, "denied", rest, denied)
}

// What a proxy prints of a dry run, and what becomes of it.
func TestDryRunCounts(t *testing.T) {
	t.Parallel()
	const port = "inbound_0.0.0.0_8000"
	type counts = []traffic.ShadowCount
	for name, tc := range map[string]struct {
		body           string
		denies         bool // a DENY policy as well
		only           bool // and no other
		want           counts
		wantNotCounted bool
	}{
		"both kinds: the larger refusal and the smaller admission, for TCP and for HTTP on port zero alone": {
			body: prom(t, "dryrun.prom"), denies: true,
			want: counts{{Port: 0, Allowed: 7, Refused: 8}, {Port: 8000, Allowed: 3, Refused: 3}, {Port: 8001, Refused: 1}},
		},
		"the ALLOW policy alone": {
			body: prom(t, "dryrun.prom"),
			want: counts{{Port: 0, Allowed: 7, Refused: 8}, {Port: 8000, Allowed: 3, Refused: 3}, {Port: 8001, Refused: 1}},
		},
		"the DENY policy alone": {
			body: prom(t, "dryrun.prom"), denies: true, only: true,
			want: counts{{Port: 0, Allowed: 11, Refused: 4}, {Port: 8000, Allowed: 4, Refused: 2}, {Port: 8001, Allowed: 1}},
		},
		"what a policy in force refuses is not let in": {
			body: prom(t, "dryrun-token.prom"), denies: true,
			want: counts{{Port: 0, Allowed: 6, Refused: 8}, {Port: 8000, Allowed: 3, Refused: 3}},
		},
		"port zero is left out while nothing came": {
			body: prom(t, "dryrun-deny.prom"), denies: true, only: true,
			want: counts{{Port: 8000, Allowed: 4, Refused: 2}},
		},
		"a kind that nobody counts": {
			body: prom(t, "dryrun-deny.prom"), denies: true, wantNotCounted: true,
			want: counts{{Port: 8000, Allowed: 4, Refused: 2}},
		},
		"only a kind that is not asked for":       {body: prom(t, "dryrun-deny.prom"), wantNotCounted: true},
		"no policy":                               {body: uptime, wantNotCounted: true},
		"a policy in force":                       {body: uptime + `envoy_http_rbac{authz_enforce_result="denied",http_conn_manager_prefix="inbound_0.0.0.0_8000"} 1` + "\n", wantNotCounted: true},
		"a counter without its other":             {body: uptime + strings.SplitAfter(judged(port, "allow", "1", "2"), "\n")[0], wantNotCounted: true},
		"words that nobody knows":                 {body: uptime + judged(port, "audit", "1", "2") + strings.ReplaceAll(judged(port, "allow", "1", "2"), `result="`, `result="un`), wantNotCounted: true},
		"no label":                                {body: uptime + "envoy_http_rbac{} 1\nenvoy_tcp{} 1\n", wantNotCounted: true},
		"what the workload sends itself":          {body: uptime + judged("outbound_0.0.0.0_8000", "allow", "1", "2"), wantNotCounted: true},
		"both families of addresses are one port": {body: uptime + judged(port, "allow", "1", "2") + judged("inbound_[__]_8000;", "allow", "3", "4"), want: counts{{Port: 8000, Allowed: 4, Refused: 6}}},
		"no port in the name":                     {body: uptime + judged("inbound_0.0.0.0_x", "allow", "1", "2") + judged("inbound_0.0.0.0_70000", "allow", "1", "2"), want: counts{{Allowed: 2, Refused: 4}}},
		"TCP's manager is TCP, whatever it says":  {body: uptime + strings.ReplaceAll(judged("", "allow", "1", "2"), "tcp_prefix", "http_conn_manager_prefix"), want: counts{{Allowed: 1, Refused: 2}}},
		"nothing came":                            {body: uptime + judged(port, "allow", "0", "0") + judged("", "allow", "0", "0"), want: counts{{Port: 8000}}},
		"one manager counts one kind more":        {body: uptime + judged(port, "allow", "1", "2") + judged(port, "deny", "0", "3") + judged("", "allow", "5", "6"), denies: true, want: counts{{Allowed: 5, Refused: 6}, {Port: 8000, Refused: 3}}},
		"sums stay at the largest number":         {body: uptime + judged("InboundPassthroughCluster", "allow", "4.6e18", "4.6e18") + judged("", "allow", "4.6e18", "4.6e18") + judged("inbound_x", "allow", "4.6e18", "4.6e18"), want: counts{{Allowed: math.MaxInt64, Refused: math.MaxInt64}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			read, err := parseShadows([]byte(tc.body))
			if err != nil {
				t.Fatal(err)
			}
			ports := map[int32]traffic.ShadowCount{}
			if counted := read.sum(ports, [2]bool{!tc.only, tc.denies}); counted == tc.wantNotCounted {
				t.Errorf("counted is %t", counted)
			}
			if diff := cmp.Diff(tc.want, inOrder(ports), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("ports (-want +got):\n%s", diff)
			}
		})
	}
}

// A proxy may name any number of ports. Those that most is refused on are kept, then those that most came to.
func TestDryRunBoundsPorts(t *testing.T) {
	t.Parallel()
	ports := map[int32]traffic.ShadowCount{}
	for port := range int32(100) {
		ports[port] = traffic.ShadowCount{Port: port, Allowed: int64(port), Refused: max(0, int64(port)-50)}
	}
	want := make([]int32, 0, traffic.MaxShadowPorts)
	for port := int32(100 - traffic.MaxShadowPorts); port < 100; port++ {
		want = append(want, port)
	}
	var got []int32
	for _, count := range inOrder(ports) {
		got = append(got, count.Port)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ports (-want +got):\n%s", diff)
	}
}

func TestDryRunErrors(t *testing.T) {
	t.Parallel()
	const port = "inbound_0.0.0.0_8000"
	one := judged(port, "allow", "1", "2")
	for name, tc := range map[string]struct{ body, want string }{
		"nothing":            {"", "it answered with nothing, not even the metrics that every Envoy has"},
		"a page":             {"<p>", "it answered with HTML, not with metrics"},
		"another program":    {one, "the answer has no envoy_server_uptime, so it is not from Envoy"},
		"cut off":            {uptime + one[:40], "its answer is not in Prometheus' text format: text format parsing error in line 3: unexpected end of input stream"},
		"a series twice":     {uptime + one + one, "a series appears twice in the answer"},
		"twice, in disguise": {uptime + one + strings.ReplaceAll(one, "{", `{extra="1",`), "a series appears twice in the answer"},
		"no number":          {uptime + judged("", "deny", "NaN", "1"), "envoy_tcp has the value NaN, which is no count"},
		"less than nothing":  {uptime + judged(port, "deny", "0", "-1"), "envoy_http_rbac has the value -1, which is no count"},
		"without end":        {uptime + judged(port, "deny", "+Inf", "1"), "envoy_http_rbac has the value +Inf, which is no count"},
		"more than there is": {uptime + judged(port, "deny", "1e300", "1"), "envoy_http_rbac has the value 1e+300, which is no count"},
		"no counter":         {uptime + "# TYPE envoy_tcp histogram\n" + `envoy_tcp_sum{authz_dry_run_action="deny",authz_dry_run_result="denied"} 1` + "\n", "envoy_tcp is neither a counter nor a gauge"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := parseShadows([]byte(tc.body)); err == nil || err.Error() != tc.want {
				t.Errorf("error is %v, want %s", err, tc.want)
			}
		})
	}
}

// The request that a proxy gets, and what an answer of several proxies comes to.
func TestDryRun(t *testing.T) {
	t.Parallel()
	both, fewer := prom(t, "dryrun.prom"), prom(t, "dryrun-deny.prom")
	const see = " See what answers on port 15090 of the pod: it should be its istio-proxy container."
	for name, tc := range map[string]struct {
		answers []string // by proxy; the name of what happens to it, if that is no body
		skip    bool     // no policy is in dry run
		want    traffic.Shadow
	}{
		"no policy": {answers: []string{both}, skip: true, want: traffic.Shadow{Completeness: traffic.Skipped}},
		"no proxy":  {want: traffic.Shadow{Completeness: traffic.Incomplete, Message: "There is no pod with a sidecar to read."}},
		"all read": {answers: []string{both, both, "terminating"}, want: traffic.Shadow{
			Completeness: traffic.Complete,
			Ports:        []traffic.ShadowCount{{Allowed: 14, Refused: 16}, {Port: 8000, Allowed: 6, Refused: 6}, {Port: 8001, Refused: 2}},
		}},
		"one not read": {answers: []string{fewer, "<p>"}, want: traffic.Shadow{
			Completeness: traffic.Incomplete,
			Message: "The proxy of pod foo/pod-1 cannot be read: it answered with HTML, not with metrics." + see + " The dry run is not counted by " +
				"the proxy of pod foo/pod-0: it has not taken the policy yet, or its statistics lack those that end in shadow_allowed and shadow_denied.",
			Ports: []traffic.ShadowCount{{Port: 8000, Allowed: 4, Refused: 2}},
		}},
		"none read": {answers: []string{"<p>", ""}, want: traffic.Shadow{
			Completeness: traffic.Unavailable,
			Message:      "The proxy of pod foo/pod-0 cannot be read, nor that of 1 more pod: it answered with HTML, not with metrics." + see,
		}},
		"one without an address": {answers: []string{both, "unaddressed"}, want: traffic.Shadow{
			Completeness: traffic.Incomplete, Message: "The proxy cannot be read before there is an address of pod foo/pod-1.",
			Ports: []traffic.ShadowCount{{Allowed: 7, Refused: 8}, {Port: 8000, Allowed: 3, Refused: 3}, {Port: 8001, Refused: 1}},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			answers := map[string]string{}
			request := traffic.DryRunRequest{Proxies: asking("p", len(tc.answers)).Proxies, Allows: !tc.skip, Denies: !tc.skip}
			for i, answer := range tc.answers {
				px := &request.Proxies[i]
				answers[px.Address+":15090"] = answer
				switch answer {
				case "terminating":
					px.Terminating = true
				case "unaddressed":
					px.Address = ""
				}
			}
			o := fleet(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method != http.MethodGet || r.URL.Path != "/stats/prometheus" || r.URL.Query().Get("filter") != shadowFilter || answers[r.Host] == "terminating" {
					t.Errorf("the proxy was asked %s %s of %s", r.Method, r.URL, r.Host)
				}
				_, _ = io.WriteString(w, answers[r.Host])
			}), Options{})
			if diff := cmp.Diff(tc.want, o.DryRun(t.Context(), request), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("counts (-want +got):\n%s", diff)
			}
		})
	}
}

// One request has no more time than the other, and they share their slots.
func TestDryRunIsBounded(t *testing.T) {
	t.Parallel()
	asked := false
	o := fleet(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }), Options{Concurrency: 1})
	if err := o.slots.Acquire(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	got := o.DryRun(canceled, traffic.DryRunRequest{Proxies: asking("p", 2).Proxies, Allows: true})
	if got.Completeness != traffic.Unavailable || asked {
		t.Errorf("asked is %t, the answer %+v", asked, got)
	}
}

// The filter is matched by Envoy against the name that a statistic has inside of it.
func TestShadowFilter(t *testing.T) {
	t.Parallel()
	re := regexp.MustCompile(shadowFilter)
	for name, want := range map[string]bool{
		"http.inbound_0.0.0.0_8000;.rbac.istio_dry_run_allow_.shadow_allowed":     true,
		"http.inbound_[__]_8000;.rbac.istio_dry_run_deny_.shadow_denied":          true,
		"http.InboundPassthroughCluster;.rbac.istio_dry_run_allow_.shadow_denied": true,
		"tcp.rbac.istio_dry_run_allow_.shadow_denied":                             true,
		"http.inbound_0.0.0.0_8000;.rbac.allowed":                                 false,
		"http.inbound_0.0.0.0_8000;.rbac.istio_ext_authz_.shadow_allowed":         false,
		"tcp.rbac.denied": false,
		"cluster.outbound|80||shadow_denied.foo.svc.cluster.local;.upstream_cx_tx": false,
		"server.uptime":           true,
		"server.memory_allocated": false,
	} {
		if got := re.MatchString(name); got != want {
			t.Errorf("%s: matched is %t", name, got)
		}
	}
}
