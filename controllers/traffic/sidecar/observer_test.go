package sidecar

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	testclock "k8s.io/utils/clock/testing"

	"github.com/servicesecurity/operator/controllers/traffic"
)

// fleet serves proxies on loopback: every connection to any address reaches the server, by the host that was asked for.
func fleet(tb testing.TB, handler http.Handler, options Options) *Observer {
	tb.Helper()
	server := httptest.NewServer(handler)
	tb.Cleanup(server.Close)
	transport := newTransport(time.Second, time.Minute)
	transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, server.Listener.Addr().String())
	}
	tb.Cleanup(transport.CloseIdleConnections)
	options.Transport = transport
	if options.Clock == nil {
		options.Clock = testclock.NewFakePassiveClock(epoch)
	}
	return New(options)
}

func asking(profile string, proxies int) traffic.Request {
	r := traffic.Request{Profile: profile, Targets: "t", Ports: traffic.PortSet{Except: true}, Window: time.Hour}
	for i := range proxies {
		r.Proxies = append(r.Proxies, traffic.Proxy{
			Namespace: "foo", Name: fmt.Sprintf("pod-%d", i), UID: fmt.Sprintf("uid-%d", i), Address: fmt.Sprintf("10.0.0.%d", i+1),
		})
	}
	return r
}

func serve(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }
}

// What a proxy may answer, in the words that status has for it.
func TestScrape(t *testing.T) {
	t.Parallel()
	over := make(chan struct{}) // ends the answers that have no end
	t.Cleanup(func() { close(over) })
	hang := func(r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-over:
		}
	}
	hijack := func(w http.ResponseWriter, text string) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		_, _ = io.WriteString(conn, text)
		_ = conn.Close()
	}
	for name, tc := range map[string]struct {
		handler http.HandlerFunc
		timeout time.Duration
		want    string
	}{
		"an Envoy without traffic": {handler: serve(uptime)},
		"a page": {
			handler: serve("<html><body>welcome</body></html>"),
			want:    "it answered with HTML, not with metrics",
		},
		"a page, by its type alone": {
			handler: func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/html; charset=utf-8")
				_, _ = io.WriteString(w, uptime)
			},
			want: "it answered with HTML, not with metrics",
		},
		"another program's metrics": {
			handler: serve("# TYPE go_goroutines gauge\ngo_goroutines 7\n"),
			want:    "the answer has no envoy_server_uptime, so it is not from Envoy",
		},
		"an error": {
			handler: func(w http.ResponseWriter, _ *http.Request) { http.Error(w, uptime, http.StatusInternalServerError) },
			want:    "it answered 500 Internal Server Error",
		},
		"a redirect, which is not followed": {
			handler: func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/stats/prometheus" {
					t.Error("the redirect was followed")
				}
				http.Redirect(w, r, "/elsewhere", http.StatusFound)
			},
			want: "it answered 302 Found",
		},
		"a body without end": {
			handler: func(w http.ResponseWriter, r *http.Request) {
				for r.Context().Err() == nil {
					if _, err := io.WriteString(w, strings.Repeat("# nothing\n", 100)); err != nil {
						return
					}
				}
			},
			want: "its answer is longer than 65536 bytes",
		},
		"a body that stops half way": {
			handler: func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.WriteString(w, uptime)
				_ = http.NewResponseController(w).Flush()
				hang(r)
			},
			timeout: 50 * time.Millisecond,
			want:    "its answer did not end within 50ms",
		},
		"a body shorter than announced": {
			handler: func(w http.ResponseWriter, _ *http.Request) {
				hijack(w, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nenvoy")
			},
			want: "its answer broke off: the connection was closed",
		},
		"nothing at all": {
			handler: func(_ http.ResponseWriter, r *http.Request) { hang(r) },
			timeout: 50 * time.Millisecond,
			want:    "no answer within 50ms",
		},
		"a connection that is closed": {
			handler: func(w http.ResponseWriter, _ *http.Request) { hijack(w, "") },
			want:    "the connection was closed",
		},
		"another protocol": {
			handler: func(w http.ResponseWriter, _ *http.Request) { hijack(w, "SSH-2.0-OpenSSH\r\n\r\n") },
			want:    `net/http: HTTP/1.x transport connection broken: malformed HTTP response "SSH-2.0-OpenSSH"`,
		},
		"headers without end": {
			handler: func(w http.ResponseWriter, _ *http.Request) {
				hijack(w, "HTTP/1.1 200 OK\r\n"+strings.Repeat("X-Y: "+strings.Repeat("z", 1000)+"\r\n", 1000))
			},
			want: "net/http: HTTP/1.x transport connection broken: net/http: server response headers exceeded 65536 bytes; aborted",
		},
		"a compressed body, which nobody asked for": {
			handler: func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Accept-Encoding") != "" {
					t.Error("compression was asked for")
				}
				var b bytes.Buffer
				z := gzip.NewWriter(&b)
				_, _ = io.WriteString(z, uptime)
				_ = z.Close()
				w.Header().Set("Content-Encoding", "gzip")
				_, _ = w.Write(b.Bytes())
			},
			want: "its answer is not in Prometheus' text format: text format parsing error in line 1: invalid metric name",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := fleet(t, tc.handler, Options{Timeout: tc.timeout, MaxBodyBytes: 64 << 10})
			_, err := o.scraper.scrape(t.Context(), "10.0.0.1")
			if tc.want == "" && err != nil {
				t.Errorf("error is %v", err)
			}
			if tc.want != "" && (err == nil || err.Error() != tc.want) {
				t.Errorf("error is %v, want %s", err, tc.want)
			}
		})
	}
}

func TestScrapeUnreachable(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := int32(listener.Addr().(*net.TCPAddr).Port)
	_ = listener.Close()
	o := New(Options{Port: port})
	_, err = o.scraper.scrape(t.Context(), "127.0.0.1")
	if !errors.As(err, &unreachable{}) || err.Error() != "connection refused" {
		t.Errorf("error is %v", err)
	}
	if _, err = o.scraper.scrape(t.Context(), "not an address"); err == nil || !strings.HasPrefix(err.Error(), "its address is not one") {
		t.Errorf("error is %v", err)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = o.scraper.scrape(canceled, "127.0.0.1"); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	if got := o.Observe(canceled, asking("p", 2)); got.Completeness != traffic.Unavailable {
		t.Errorf("observation is %s", tell(got))
	}
	o.slots.Release(0)
	if err := o.slots.Acquire(t.Context(), int64(o.limit)); err != nil {
		t.Fatal(err)
	}
	if got := o.Observe(canceled, asking("p", 2)); got.Completeness != traffic.Unavailable {
		t.Errorf("observation is %s", tell(got))
	}
}

func TestWords(t *testing.T) {
	t.Parallel()
	s := scraper{timeout: time.Second}
	for name, tc := range map[string]struct {
		err  error
		want string
	}{
		"a name that is not known": {&net.OpError{Op: "dial", Err: errors.New("no such host")}, "no such host"},
		"a deadline of the socket": {&net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}, "no answer within 1s"},
		"anything else":            {errors.New("odd"), "odd"},
	} {
		if got := s.words(tc.err).Error(); got != tc.want {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// A whole observation: the request that a proxy gets, and what becomes of its answers.
func TestObserve(t *testing.T) {
	t.Parallel()
	clock := testclock.NewFakePassiveClock(epoch)
	answer, err := os.ReadFile("testdata/istio.prom")
	if err != nil {
		t.Fatal(err)
	}
	var body atomic.Value
	body.Store(string(answer))
	o := fleet(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.URL.Path != "/stats/prometheus" || r.URL.Query().Get("filter") != filter || !strings.HasSuffix(r.Host, ":15090") {
			t.Errorf("the proxy was asked %s %s of %s", r.Method, r.URL, r.Host)
		}
		_, _ = io.WriteString(w, body.Load().(string))
	}), Options{Clock: clock})
	request := asking("p", 1)
	request.Proxies = append(request.Proxies, traffic.Proxy{Namespace: "foo", Name: "last", UID: "last", Terminating: true})
	told := []string{tell(o.Observe(t.Context(), request))}
	clock.SetTime(epoch.Add(10 * time.Second))
	body.Store(strings.Replace(string(answer), `connection_security_policy="none"} 9`, `connection_security_policy="none"} 12`, 1))
	told = append(told, tell(o.Observe(t.Context(), request)))
	o.Forget("p")
	told = append(told, tell(o.Observe(t.Context(), request)))
	want := []string{
		"Complete/NoTraffic, since 0s, plaintext 0s, open 3, legacy/cron TCP 0",
		"Complete, since 0s, plaintext 10s, open 3, /unknown HTTP 3, legacy/cron TCP 0",
		"Complete/NoTraffic, since 10s, plaintext 10s, open 3, legacy/cron TCP 0",
	}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Errorf("observations (-want +got):\n%s", diff)
	}
}

// A connection by TLS that comes between the reading of two statistics looks plaintext. A second reading clears it up, and
// one that is plaintext stays.
func TestObserveConfirmsPlaintextConnections(t *testing.T) {
	t.Parallel()
	text := func(total, ssl, active, sslActive int) string {
		const s = "envoy_http_downstream_cx_%s{http_conn_manager_prefix=\"inbound_0.0.0.0_8000\"} %d\n"
		return uptime + fmt.Sprintf(s, "total", total) + fmt.Sprintf(s, "ssl_total", ssl) + fmt.Sprintf(s, "active", active) + fmt.Sprintf(s, "ssl_active", sslActive)
	}
	for name, tc := range map[string]struct {
		answers []string
		want    string
		asked   int
	}{
		"none":                                 {[]string{text(5, 5, 2, 2)}, "Complete/NoTraffic, since 0s", 1},
		"an illusion":                          {[]string{text(5, 5, 2, 1), text(5, 5, 2, 2)}, "Complete/NoTraffic, since 0s", 2},
		"another one":                          {[]string{text(5, 5, 2, 1), text(9, 8, 3, 1)}, "Complete/NoTraffic, since 0s, plaintext 0s, open 1", 2},
		"a real one":                           {[]string{text(5, 4, 2, 1), text(5, 4, 2, 1)}, "Complete/NoTraffic, since 0s, plaintext 0s, open 1", 2},
		"an illusion where some were long ago": {[]string{text(9, 5, 2, 1), text(9, 5, 2, 2)}, "Complete/NoTraffic, since 0s", 2},
		"a bad second":                         {[]string{text(5, 4, 2, 1), "<p>"}, "Unavailable/SourceUnavailable: The proxy of pod foo/pod-0 cannot be read: it answered with HTML, not with metrics. See what answers on port 15090 of the pod: it should be its istio-proxy container.", 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			asked := 0
			o := fleet(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, tc.answers[asked])
				asked++
			}), Options{})
			if got := tell(o.Observe(t.Context(), asking("p", 1))); got != tc.want || asked != tc.asked {
				t.Errorf("after %d scrapes: %s", asked, got)
			}
		})
	}
}

// One that ends between the two, and came since the reading before or was open then, is none.
func TestObserveSeesConnectionsThatEnd(t *testing.T) {
	t.Parallel()
	text := func(total, active int) string {
		const s = "envoy_http_downstream_cx_%s{http_conn_manager_prefix=\"inbound_0.0.0.0_8000\"} %d\n"
		return uptime + fmt.Sprintf(s, "total", total) + fmt.Sprintf(s, "ssl_total", 5) + fmt.Sprintf(s, "active", active) + fmt.Sprintf(s, "ssl_active", 0)
	}
	for name, answers := range map[string][]string{
		"it came since":    {text(5, 0), text(6, 1), text(6, 0)},
		"it was open then": {text(6, 1), text(6, 1), text(6, 1), text(6, 0)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := fleet(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, answers[0])
				answers = answers[1:]
			}), Options{})
			o.Observe(t.Context(), asking("p", 1))
			if got := o.Observe(t.Context(), asking("p", 1)); got.OpenPlaintext != 1 || len(answers) != 0 {
				t.Errorf("%d scrapes left: %s", len(answers), tell(got))
			}
		})
	}
}

// A pod that goes between the two has no other reading: what the first has counts.
func TestObserveTakesTheFirstOfAPodThatGoes(t *testing.T) {
	t.Parallel()
	text := func(total, active int) string {
		const s = "envoy_http_downstream_cx_%s{http_conn_manager_prefix=\"inbound_0.0.0.0_8000\"} %d\n"
		return uptime + fmt.Sprintf(s, "total", total) + fmt.Sprintf(s, "ssl_total", 5) + fmt.Sprintf(s, "active", active) + fmt.Sprintf(s, "ssl_active", 0)
	}
	for terminating, want := range map[bool]string{
		true:  "Complete, since 0s, plaintext 0s, open 1, legacy/cron HTTP 1",
		false: "Unavailable/SourceUnavailable: The proxy of pod foo/pod-0 cannot be read: it answered with HTML, not with metrics. See what answers on port 15090 of the pod: it should be its istio-proxy container.",
	} {
		answers := []string{text(5, 0), text(6, 1) + plainHTTP + " 1\n", "<p>"}
		o := fleet(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, answers[0])
			answers = answers[1:]
		}), Options{})
		request := asking("p", 1)
		request.Proxies[0].Terminating = terminating
		o.Observe(t.Context(), request)
		if got := o.Observe(t.Context(), request); tell(got) != want || len(answers) != 0 {
			t.Errorf("terminating %t, %d scrapes left: %s", terminating, len(answers), tell(got))
		}
	}
}

// A request that comes between the two has its connection in the second alone, which is not taken: it is told by the next reading, and
// not as one of an excepted port's.
func TestObserveTakesNoRequestWithoutItsConnection(t *testing.T) {
	t.Parallel()
	const connections = "envoy_http_downstream_cx_%s{http_conn_manager_prefix=\"inbound_0.0.0.0_%d\"} %d\n"
	text := func(here, excepted, requests int) string {
		all := uptime
		for port, total := range map[int]int{8000: here, 9000: excepted} {
			for name, n := range map[string]int{"total": total, "ssl_total": 0, "active": 0, "ssl_active": 0} {
				all += fmt.Sprintf(connections, name, port, n)
			}
		}
		return all + fmt.Sprintf("%s %d\n", plainHTTP, requests)
	}
	answers := []string{text(0, 0, 0), text(0, 1, 1), text(1, 1, 2), text(1, 1, 2), text(1, 1, 2)}
	clock := testclock.NewFakePassiveClock(epoch)
	o := fleet(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, answers[0])
		answers = answers[1:]
	}), Options{Clock: clock})
	request := asking("p", 1)
	request.Ports = traffic.PortSet{Except: true, Ports: []int32{9000}}
	var told []string
	for range 3 {
		told = append(told, tell(o.Observe(t.Context(), request)))
		clock.SetTime(clock.Now().Add(4 * time.Second))
	}
	want := []string{"Complete/NoTraffic, since 0s", "Complete/NoTraffic, since 0s", "Complete, since 0s, plaintext 8s, legacy/cron HTTP 1"}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Errorf("observations (-want +got):\n%s", diff)
	}
}

// Scrapes are bounded over all profiles together.
func TestObserveBoundsConcurrency(t *testing.T) {
	t.Parallel()
	const bound, profiles, proxies = 3, 4, 8
	var busy, most atomic.Int32
	full := make(chan struct{})
	var once sync.Once
	o := fleet(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		now := busy.Add(1)
		defer busy.Add(-1)
		for old := most.Load(); now > old && !most.CompareAndSwap(old, now); old = most.Load() {
		}
		if now == bound {
			once.Do(func() { close(full) })
		}
		<-full // so that the bound is reached, too
		_, _ = io.WriteString(w, uptime)
	}), Options{Concurrency: bound})
	var wg sync.WaitGroup
	for i := range profiles {
		for range 2 { // the same profile at the same time, too
			wg.Go(func() {
				if got := o.Observe(t.Context(), asking(fmt.Sprint(i), proxies)); got.Completeness != traffic.Complete {
					t.Error(tell(got))
				}
			})
		}
		wg.Go(func() { o.Forget(fmt.Sprint(i)) })
	}
	wg.Wait()
	if most.Load() != bound {
		t.Errorf("%d scrapes were under way at once, the bound is %d", most.Load(), bound)
	}
}

// BenchmarkObserve compares an observation of ten proxies with fetching the same answers and throwing them away.
func BenchmarkObserve(b *testing.B) {
	answer, err := os.ReadFile("testdata/istio.prom")
	if err != nil {
		b.Fatal(err)
	}
	o := fleet(b, serve(string(answer)), Options{})
	request := asking("p", 10)
	bare := func() {
		var wg sync.WaitGroup
		for _, px := range request.Proxies {
			wg.Go(func() {
				r, err := http.NewRequestWithContext(b.Context(), http.MethodGet, "http://"+px.Address+":15090"+query, nil)
				if err != nil {
					b.Error(err)
					return
				}
				response, err := o.scraper.client.Do(r)
				if err != nil {
					b.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, response.Body)
				_ = response.Body.Close()
			})
		}
		wg.Wait()
	}
	o.Observe(b.Context(), request)
	var observing, fetching time.Duration
	b.ReportAllocs()
	for b.Loop() {
		begin := time.Now()
		// The file has an open plaintext connection, which is scraped twice: observe what is read once.
		o.Observe(b.Context(), request)
		middle := time.Now()
		bare()
		bare()
		observing, fetching = observing+middle.Sub(begin), fetching+time.Since(middle)
	}
	b.ReportMetric(float64(observing.Microseconds())/float64(b.N), "observe-µs/op")
	b.ReportMetric(float64(fetching.Microseconds())/float64(b.N), "fetch-µs/op")
	b.ReportMetric(float64(observing)/float64(fetching), "ratio")
	b.ReportMetric(float64(len(answer)), "bytes/scrape")
}
