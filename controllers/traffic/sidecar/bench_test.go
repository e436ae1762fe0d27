//go:build unix

package sidecar

import (
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	testclock "k8s.io/utils/clock/testing"

	"github.com/servicesecurity/operator/controllers/traffic"
)

// busy is the answer of a proxy with so many callers by mutual TLS, as a proxy prints it.
func busy(callers int, count int64) string {
	var text strings.Builder
	text.WriteString("# TYPE envoy_server_uptime gauge\nenvoy_server_uptime{} 86400\n# TYPE istio_requests_total counter\n")
	for i := range callers {
		caller := fmt.Sprintf("client-%d", i)
		fmt.Fprintf(&text, `istio_requests_total{reporter="destination",source_workload=%q,source_canonical_service=%q,source_canonical_revision="latest",source_workload_namespace="clients",`+
			`source_principal="spiffe://cluster.local/ns/clients/sa/%s",source_app=%q,source_version="v1",source_cluster="Kubernetes",destination_workload="web",destination_workload_namespace="foo",`+
			`destination_principal="spiffe://cluster.local/ns/foo/sa/web",destination_app="web",destination_version="v1",destination_service="web.foo.svc.cluster.local",destination_canonical_service="web",`+
			`destination_canonical_revision="v1",destination_service_name="web",destination_service_namespace="foo",destination_cluster="Kubernetes",request_protocol="http",response_code="200",`+
			`grpc_response_status="",response_flags="-",connection_security_policy="mutual_tls"} %d`+"\n", caller, caller, caller, caller, count)
	}
	return text.String()
}

// used is what the process has used, the proxies that it serves included.
type used struct {
	processor time.Duration
	allocated uint64 // bytes
}

func usedNow(tb testing.TB) used {
	tb.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		tb.Fatal(err)
	}
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	return used{time.Duration(usage.Utime.Nano() + usage.Stime.Nano()), memory.TotalAlloc}
}

// add is what was used since.
func (u *used) add(tb testing.TB, since used) {
	now := usedNow(tb)
	u.processor += now.processor - since.processor
	u.allocated += now.allocated - since.allocated
}

// BenchmarkInterval is an interval of 1,000 profiles with ten proxies each, which answer over loopback, compared with fetching
// the same answers and throwing them away. The proxies' own work is in both.
func BenchmarkInterval(b *testing.B) {
	const profiles, proxies, atOnce, callers = 1000, 10, 4, 10
	var scrapes, sent atomic.Int64
	var answer atomic.Pointer[string]
	say := func(n int64) { text := busy(callers, n); answer.Store(&text) }
	say(1)
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n, _ := io.WriteString(w, *answer.Load())
		scrapes.Add(1)
		sent.Add(int64(n))
	})
	clock := testclock.NewFakePassiveClock(epoch)
	o := fleet(b, handler, Options{Clock: clock, Timeout: time.Minute})
	// Two files for each of 10,000 connections are more than a process may have open: the proxies share ten addresses.
	transport, ok := o.scraper.client.Transport.(*http.Transport)
	if !ok {
		b.Fatalf("a %T", o.scraper.client.Transport)
	}
	transport.MaxIdleConnsPerHost, transport.ResponseHeaderTimeout = 4*atOnce, time.Minute
	requests := make([]traffic.Request, profiles)
	for i := range requests {
		requests[i] = asking(fmt.Sprint(i), proxies)
	}
	all := func(sum *used, do func(traffic.Request) error) {
		before := usedNow(b)
		group := errgroup.Group{}
		group.SetLimit(atOnce)
		for _, request := range requests {
			group.Go(func() error { return do(request) })
		}
		if err := group.Wait(); err != nil {
			b.Fatal(err)
		}
		sum.add(b, before)
	}
	observe := func(request traffic.Request) error {
		if got := o.Observe(b.Context(), request); got.Completeness != traffic.Complete {
			return fmt.Errorf("%s: %s", got.Completeness, got.Message)
		}
		return nil
	}
	fetch := func(request traffic.Request) error {
		var fetching sync.WaitGroup
		for _, px := range request.Proxies {
			fetching.Go(func() {
				if err := discard(b, o.scraper.client, "http://"+px.Address+":15090"+query); err != nil {
					b.Error(err)
				}
			})
		}
		fetching.Wait()
		return nil
	}
	var observing, fetching used
	all(&observing, observe)
	observing = used{}
	interval := int64(1)
	b.ReportAllocs()
	for b.Loop() {
		interval++
		say(interval)
		clock.SetTime(clock.Now().Add(15 * time.Second))
		scrapes.Store(0)
		sent.Store(0)
		all(&observing, observe)
		b.ReportMetric(float64(scrapes.Load()), "requests/interval")
		b.ReportMetric(float64(sent.Load()), "bytes/interval")
		b.StopTimer()
		all(&fetching, fetch)
		b.StartTimer()
	}
	b.ReportMetric(observing.processor.Seconds()/float64(b.N), "cpu-s/interval")
	b.ReportMetric(float64(observing.processor)/float64(fetching.processor), "x-bare-scrape")
	b.ReportMetric(float64(observing.allocated)/float64(fetching.allocated), "x-bare-alloc")
}

func discard(b *testing.B, c *http.Client, address string) error {
	request, err := http.NewRequestWithContext(b.Context(), http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	response, err := c.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close() //nolint:errcheck // nothing was written
	_, err = io.Copy(io.Discard, response.Body)
	return err
}

// BenchmarkParse is one proxy's answer alone.
func BenchmarkParse(b *testing.B) {
	body := []byte(busy(10, 1))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := parse(body); err != nil {
			b.Fatal(err)
		}
	}
}
