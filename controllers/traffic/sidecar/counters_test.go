package sidecar

import (
	"cmp"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	godiff "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// summary is what can be compared of counters: hashes differ from run to run.
type summary struct {
	Uptime, Updates, Draining int64
	ByKind                    map[kind]int64
	Callers                   map[string]int64 // in plaintext
	Ports                     map[int32]connections
	OpenTCP                   int64
	Missing                   string
}

func summarise(c *counters) summary {
	s := summary{
		Uptime: c.uptime, Updates: c.updates, Draining: c.drain, Ports: c.ports, OpenTCP: c.openTCP(ends{}), Missing: c.missing,
		ByKind: map[kind]int64{}, Callers: map[string]int64{},
	}
	for _, x := range c.samples {
		s.ByKind[x.kind] = add(s.ByKind[x.kind], x.value)
		if x.kind.plain() {
			who := c.callers[x.caller]
			s.Callers[who.namespace+"/"+who.workload+" "+who.protocol] += x.value
		}
	}
	return s
}

func TestParse(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]summary{
		"istio.prom": {
			Uptime: 86400, Updates: 5, Draining: 2, OpenTCP: 2,
			ByKind: map[kind]int64{
				mutualCounted: 376752 + 4, mutualOther: 500 + 9999, plainRequests: 9 + 2, plainMessages: 7, plainAnswers: 70,
				plainOpened: 5, plainClosed: 3, plainBytes: 1 << 20,
			},
			Callers: map[string]int64{
				"/unknown HTTP": 9, "/unknown GRPC": 77, "legacy/odd \"name\" with \\ and\nnewline GRPC": 2, "legacy/cron TCP": 5 + 3 + 1<<20,
			},
			Ports: map[int32]connections{0: {plainTotal: 1}, 8000: {plainTotal: 4, plainActive: 1}},
		},
		"upstream.prom": {
			Uptime: 10, Updates: 2, Draining: 1,
			ByKind: map[kind]int64{plainRequests: 1}, Callers: map[string]int64{"/unknown HTTP": 1},
			Ports: map[int32]connections{8000: {plainTotal: 1}},
		},
		"idle.prom": {Uptime: 5},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			body, err := os.ReadFile("testdata/" + name)
			if err != nil {
				t.Fatal(err)
			}
			c, err := parse(body)
			if err != nil {
				t.Fatal(err)
			}
			if diff := godiff.Diff(want, summarise(c), cmpopts.EquateEmpty(), godiff.AllowUnexported(connections{})); diff != "" {
				t.Errorf("counters (-want +got):\n%s", diff)
			}
			if !slices.IsSortedFunc(c.samples, func(a, b sample) int { return cmp.Compare(a.hash, b.hash) }) {
				t.Error("samples are not in order")
			}
		})
	}
}

const uptime = "# TYPE envoy_server_uptime gauge\nenvoy_server_uptime{} 5\n"

func TestParseDetails(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("n", 252) + "é" + "tail"
	for name, tc := range map[string]struct {
		text string
		want summary
	}{
		"names are cut to what the API allows, never inside a character": {
			text: strings.ReplaceAll(plainHTTP, `"cron"`, `"`+long+`"`) + " 1\n",
			want: summary{ByKind: map[kind]int64{plainRequests: 1}, Callers: map[string]int64{"legacy/" + strings.Repeat("n", 252) + " HTTP": 1}},
		},
		"names that are no UTF-8 are made so": {
			text: strings.ReplaceAll(plainHTTP, `"cron"`, "\"c\xff\xfen\"") + " 1\n",
			want: summary{ByKind: map[kind]int64{plainRequests: 1}, Callers: map[string]int64{"legacy/c\uFFFDn HTTP": 1}},
		},
		"a caller without labels is unknown": {
			text: `istio_tcp_sent_bytes_total{reporter="destination",connection_security_policy="none"}` + " 1\n",
			want: summary{ByKind: map[kind]int64{plainBytes: 1}, Callers: map[string]int64{"/unknown TCP": 1}},
		},
		"any policy but the one is plaintext": {
			text: strings.ReplaceAll(plainHTTP, `"none"`, `"unknown"`) + " 1\n" + strings.ReplaceAll(plainHTTP, `"none"`, `"MUTUAL_TLS"`) + " 1\n",
			want: summary{ByKind: map[kind]int64{plainRequests: 2}, Callers: map[string]int64{"legacy/cron HTTP": 2}},
		},
		"the label that is missing is named": {
			text: noPolicy + " 1\n" + noReporter + " 1\n" + `istio_tcp_sent_bytes_total{reporter="destination"}` + " 1\n",
			want: summary{ByKind: map[kind]int64{unlabelled: 3}, Missing: "the label connection_security_policy of istio_requests_total is missing"},
		},
		"connections that are not all exposed are not read": {
			text: `envoy_http_downstream_cx_active{http_conn_manager_prefix="inbound_0.0.0.0_8000"} 3` + "\n",
		},
		"connections that the workload makes are not read": {
			text: `envoy_http_downstream_cx_active{http_conn_manager_prefix="outbound_0.0.0.0_8000"} 3` + "\n",
		},
		"a prefix without a port is one that no Service knows": {
			text: `envoy_http_downstream_cx_active{http_conn_manager_prefix="inbound_x;"} 3
envoy_http_downstream_cx_ssl_active{http_conn_manager_prefix="inbound_x;"} 1
envoy_http_downstream_cx_total{http_conn_manager_prefix="inbound_x;"} 3
envoy_http_downstream_cx_ssl_total{http_conn_manager_prefix="inbound_x;"} 7
`,
			want: summary{Ports: map[int32]connections{0: {plainActive: 2}}},
		},
		"sums stay at the largest number": {
			text: "envoy_listener_manager_listener_modified{} 4.6e18\n" + plainHTTP + " 4.6e18\n" + plainGRPC + " 4.6e18\n" + strings.ReplaceAll(plainGRPC, `"200"`, `"404"`) + " 4.6e18\n",
			want: summary{Updates: 4600000000000000000, ByKind: map[kind]int64{plainRequests: math.MaxInt64}, Callers: map[string]int64{"legacy/cron HTTP": 4600000000000000000, "/unknown GRPC": 9200000000000000000}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := parse([]byte(uptime + tc.text))
			if err != nil {
				t.Fatal(err)
			}
			tc.want.Uptime = 5
			if diff := godiff.Diff(tc.want, summarise(c), cmpopts.EquateEmpty(), godiff.AllowUnexported(connections{})); diff != "" {
				t.Errorf("counters (-want +got):\n%s", diff)
			}
			if plain, _ := c.totals(); plain < 0 {
				t.Error("a total overflowed")
			}
		})
	}
}

func TestParseErrors(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ text, want string }{
		"nothing":                   {"\n", "it answered with nothing, not even the metrics that every Envoy has"},
		"a page":                    {" \n<!DOCTYPE html><p>hello", "it answered with HTML, not with metrics"},
		"prose":                     {"hello world\n", "its answer is not in Prometheus' text format: text format parsing error in line 1: expected float as value, got \"world\""},
		"JSON":                      {`{"status":"ok"}`, "its answer is not in Prometheus' text format: text format parsing error in line 1: unexpected end of metric name ':'"},
		"what the parser panics on": {"#TYPE A00000000000 \n{}0", "its answer is not in Prometheus' text format: the parser found no way through it"},
		"cut off":                   {uptime + `istio_requests_total{reporter="dest`, "its answer is not in Prometheus' text format: text format parsing error in line 3: unexpected end of input stream"},
		"another program":           {"go_goroutines 7\n", "the answer has no envoy_server_uptime, so it is not from Envoy"},
		"a series twice":            {uptime + plainHTTP + " 1\n" + plainHTTP + " 2\n", "a series appears twice in the answer"},
		"no number":                 {uptime + plainHTTP + " NaN\n", "istio_requests_total has the value NaN, which is no count"},
		"less than nothing":         {uptime + "envoy_listener_manager_listener_modified{} -1\n", "envoy_listener_manager_listener_modified has the value -1, which is no count"},
		"without end":               {uptime + `envoy_http_downstream_cx_active{http_conn_manager_prefix="inbound_0.0.0.0_80"} +Inf` + "\n", "envoy_http_downstream_cx_active has the value +Inf, which is no count"},
		"no counter":                {uptime + "# TYPE istio_requests_total histogram\nistio_requests_total_sum{reporter=\"destination\"} 1\n", "istio_requests_total is neither a counter nor a gauge"},
		"older than anybody":        {"envoy_server_uptime{} 1e12\n", "envoy_server_uptime is 1000000000000 seconds, which no process runs"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := parse([]byte(tc.text))
			if err == nil || err.Error() != tc.want {
				t.Errorf("error is %v, want %s", err, tc.want)
			}
		})
	}
}

// Callers name themselves, so their names must not fill the memory.
func TestParseBoundsCallers(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString(uptime)
	for i := range 1000 {
		b.WriteString(strings.ReplaceAll(plainHTTP, `"cron"`, `"cron-`+strconv.Itoa(i)+`"`) + " 1\n")
	}
	c, err := parse([]byte(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	if len(c.callers) != maxCallers+1 || len(c.samples) != 1000 {
		t.Errorf("there are %d callers and %d samples", len(c.callers), len(c.samples))
	}
	if plain, _ := c.totals(); plain != 1000 {
		t.Errorf("%d requests are counted, of 1000", plain)
	}
}

// The filter is matched by Envoy against the name that a statistic has inside of it.
func TestFilter(t *testing.T) {
	t.Parallel()
	re := regexp.MustCompile(filter)
	for name, want := range map[string]bool{
		"istiocustom.istio_requests_total.response_code.200.reporter.destination.source_workload.unknown":             true,
		"istiocustom.istio_requests_total.response_code.200.reporter.source.source_workload.httpbin":                  false,
		"istiocustom.istio_requests_total.response_code.200.reporter.waypoint.source_workload.httpbin":                true,
		"istiocustom.istio_requests_total.response_code.200.source_workload.unknown":                                  true,
		"istiocustom.istio_requests_total.response_code.200.response_flags.-":                                         true,
		"istiocustom.istio_requests_total.response_code.200":                                                          true,
		"istiocustom.istio_requests_total.response_code..reporter.source.x.y":                                         false,
		"istiocustom.istio_requests_total.response_flags.-.reporter.source":                                           true,
		"istiocustom.istio_requests_total.reporter.destination.connection_security_policy.none.source_principal..a.b": true,
		"istiocustom.istio_requests_total.reporter.source.connection_security_policy.unknown":                         false,
		"istiocustom.istio_requests_total.reporter..source_workload.x":                                                true,
		"istiocustom.istio_requests_total.request_protocol.http":                                                      true,
		"istiocustom.istio_requests_total.source_workload.reporter.source":                                            true,
		"istiocustom.istio_requests_total":                                                                            true,
		"istiocustom.istio_tcp_connections_opened_total.reporter.destination.source_workload.unknown":                 true,
		"istiocustom.istio_tcp_connections_closed_total.reporter.source.source_workload.unknown":                      false,
		"istiocustom.istio_tcp_received_bytes_total.reporter.destination":                                             true,
		"istiocustom.istio_tcp_sent_bytes_total.reporter.destination":                                                 true,
		"istiocustom.istio_request_messages_total.reporter.destination":                                               true,
		"istiocustom.istio_response_messages_total.reporter.destination":                                              true,
		"istiocustom.istio_request_bytes.reporter.destination":                                                        false,
		"istiocustom.istio_request_duration_milliseconds.reporter.destination":                                        false,
		"reporter=.=destination;.;source_workload=.=unknown;.;istio_requests_total":                                   true,
		"http.inbound_0.0.0.0_8000;.downstream_cx_total":                                                              true,
		"http.inbound_0.0.0.0_8000;.downstream_cx_ssl_active":                                                         true,
		"http.inbound_[__]_8000;.downstream_cx_ssl_total":                                                             true,
		"http.InboundPassthroughCluster;.downstream_cx_active":                                                        true,
		"http.inbound_0.0.0.0_8000;.downstream_cx_http1_total":                                                        false,
		"http.inbound_0.0.0.0_8000;.downstream_cx_rx_bytes_total":                                                     false,
		"http.outbound_0.0.0.0_8000;.downstream_cx_total":                                                             false,
		"http.stats.downstream_cx_total":                                                                              false,
		"listener_manager.listener_modified":                                                                          true,
		"listener_manager.listener_in_place_updated":                                                                  true,
		"listener_manager.total_filter_chains_draining":                                                               true,
		"listener_manager.total_listeners_draining":                                                                   true,
		"listener_manager.listener_added":                                                                             false,
		"server.uptime":                                                                                               true,
		"server.memory_allocated":                                                                                     false,
		"cluster.outbound|80||istio_requests_totals.foo.svc.cluster.local;.upstream_rq_total":                         false,
	} {
		if got := re.MatchString(name); got != want {
			t.Errorf("%s: matched is %t", name, got)
		}
	}
}
