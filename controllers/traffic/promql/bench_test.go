//go:build unix

package promql

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/servicesecurity/operator/controllers/traffic"
	"github.com/servicesecurity/operator/test/promserver"
)

// fleet is a server that scrapes many proxies, and the profiles that they belong to.
type fleet struct {
	*server
	b        *testing.B
	every    time.Duration // between scrapes
	proxies  []*scraped
	requests []traffic.Request
	clock    *clocktesting.FakePassiveClock
	asked    []url.Values // since it was last emptied
}

// scraped is a proxy whose series are known already, so that a scrape of it makes nothing new.
type scraped struct {
	pod     *pod
	samples []promserver.Sample
	refs    []storage.SeriesRef
}

// newFleet has workloads of ten pods each, every proxy with ten callers.
func newFleet(b *testing.B, workloads int, policy string, every, window time.Duration) *fleet {
	const pods, callers = 10, 10
	f := &fleet{server: newServer(b), b: b, every: every, clock: clocktesting.NewFakePassiveClock(epoch)}
	f.bend = func(next http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			_ = r.FormValue("query") // parses the form
			f.asked = append(f.asked, r.PostForm)
			next(w, r)
		}
	}
	for i := range workloads {
		workload := fmt.Sprintf("web%d", i)
		request := traffic.Request{Profile: workload, Ports: traffic.PortSet{Except: true}, RequireSeries: true, Window: window}
		for j := range pods {
			p := newPod(workload, fmt.Sprintf("%s-6d4f7c9b8-x%d", workload, j), epoch.Add(-time.Hour))
			for k := range callers {
				p.counts[requests(policy, fmt.Sprintf("client%d", k))] = 1
			}
			p.extra = map[string]string{"destination_service": workload + ".shop.svc.cluster.local", "response_code": "200", "response_flags": "-"}
			samples := append(p.samples(epoch), promserver.Sample{Labels: labels.FromMap(p.target("up")), Value: 1})
			f.proxies = append(f.proxies, &scraped{p, samples, make([]storage.SeriesRef, len(samples))})
			request.Proxies = append(request.Proxies, p.proxy())
		}
		f.requests = append(f.requests, request)
	}
	return f
}

// next is another scrape of every proxy, and a while later.
func (f *fleet) next() {
	f.now = f.now.Add(f.every)
	f.clock.SetTime(f.now)
	appender := f.Appender()
	for i, p := range f.proxies {
		at := f.now.Add(-f.every * time.Duration(i%14) / 15)
		for j := range p.samples {
			one := &p.samples[j]
			switch one.Labels.Get("__name__") {
			case "envoy_server_uptime":
				one.Value = float64(at.Sub(p.pod.started) / time.Second / 5 * 5)
			case "istio_requests_total":
				one.Value++
			}
			ref, err := appender.Append(p.refs[j], one.Labels, at.UnixMilli(), one.Value)
			if err != nil {
				f.b.Fatal(err)
			}
			p.refs[j] = ref
		}
	}
	if err := appender.Commit(); err != nil {
		f.b.Fatal(err)
	}
}

// patient waits for a machine that is busy with other things.
func patient(o *Options) { o.Timeout = 10 * time.Minute }

// observe observes every profile. It says how many completely, and why not the others.
func (f *fleet) observe(o *Observer) (complete int, message string) {
	for _, request := range f.requests {
		if seen := o.Observe(f.b.Context(), request); seen.Completeness == traffic.Complete {
			complete++
		} else {
			message = seen.Message
		}
	}
	return complete, message
}

// used is what the process has used, the server included.
type used struct {
	processor     time.Duration
	bytes, number uint64
}

func usedNow(b *testing.B) used {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	return used{time.Duration(usage.Utime.Nano() + usage.Stime.Nano()), memory.TotalAlloc, memory.Mallocs}
}

// add adds what was used since.
func (u *used) add(b *testing.B, since used) {
	now := usedNow(b)
	u.processor += now.processor - since.processor
	u.bytes += now.bytes - since.bytes
	u.number += now.number - since.number
}

// cost is that of polls, and of the same queries asked bare.
type cost struct {
	operator, bare          used
	polls, queries, answers int64
}

// poll is one interval of the operator, and its queries once more, whose answers are thrown away.
func (c *cost) poll(f *fleet, o *Observer) (complete int, message string) {
	f.asked = nil
	f.bytes.Store(0)
	begin := usedNow(f.b)
	complete, message = f.observe(o)
	c.operator.add(f.b, begin)
	c.polls++
	c.queries += int64(len(f.asked))
	c.answers += f.bytes.Load()
	begin = usedNow(f.b)
	for _, form := range slices.Clone(f.asked) {
		if err := discard(f.b, f.http.URL+"/api/v1/query", form); err != nil {
			f.b.Fatal(err)
		}
	}
	c.bare.add(f.b, begin)
	return complete, message
}

func discard(b *testing.B, address string, form url.Values) error {
	request, err := http.NewRequestWithContext(b.Context(), http.MethodPost, address, strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close() //nolint:errcheck // nothing was written
	_, err = io.Copy(io.Discard, response.Body)
	return err
}

// report is for as many times as the benchmark ran.
func (c *cost) report(b *testing.B, per string) {
	n := float64(b.N)
	b.ReportMetric(float64(c.queries)/n, "queries/"+per)
	b.ReportMetric(float64(c.answers)/n, "answer-bytes/"+per)
	b.ReportMetric(c.operator.processor.Seconds()/n, "cpu-s/"+per)
	b.ReportMetric(float64(c.operator.processor)/float64(c.bare.processor), "x-bare-cpu")
	b.ReportMetric(float64(c.operator.bytes)/float64(c.bare.bytes), "x-bare-alloc")
	// What the server allocates is in both.
	b.ReportMetric((float64(c.operator.number)-float64(c.bare.number))/n, "own-allocs/"+per)
	b.ReportMetric((float64(c.operator.bytes)-float64(c.bare.bytes))/n, "own-bytes/"+per)
}

// BenchmarkInterval is an interval of 1,000 profiles with ten proxies each, compared with asking the same server the same
// queries and throwing its answers away. The server's work is in both.
func BenchmarkInterval(b *testing.B) {
	f := newFleet(b, 1000, "mutual_tls", 15*time.Second, 10*time.Minute)
	for range 60 {
		f.next()
	}
	o := f.observer(f.clock, patient)
	for complete, why := f.observe(o); complete < len(f.requests); complete, why = f.observe(o) {
		b.Log(why)
		f.next()
	}
	var c cost
	for b.Loop() {
		b.StopTimer()
		f.next()
		b.StartTimer()
		if complete, why := c.poll(f, o); complete < len(f.requests) {
			b.Fatal(why)
		}
	}
	c.report(b, "interval")
}

// BenchmarkBackfill is reading a day of 20 profiles with ten proxies each, before anything else is known: a day in which all
// callers came by mutual TLS, and one in which none did. A server's work grows with the proxies and their scrapes.
func BenchmarkBackfill(b *testing.B) {
	for name, policy := range map[string]string{"mutual": "mutual_tls", "plaintext": "none"} {
		b.Run(name, func(b *testing.B) { backfill(b, policy) })
	}
}

func backfill(b *testing.B, policy string) {
	f := newFleet(b, 20, policy, time.Minute, 24*time.Hour)
	for range 25 * 60 {
		f.next()
	}
	for i := range f.requests {
		f.requests[i].RequireSeries = policy == "mutual_tls"
	}
	var c cost
	for b.Loop() {
		o := f.observer(f.clock, patient)
		for complete := 0; complete < len(f.requests); f.next() {
			var why string
			if complete, why = c.poll(f, o); why != "" {
				b.Log(why)
			}
		}
	}
	c.report(b, "day")
	b.ReportMetric(float64(c.polls)/float64(b.N), "polls/day")
	b.ReportMetric(float64(f.Peak.Load()), "peak-samples")
	b.ReportMetric(float64(f.longest.Load()), "longest-answer-bytes")
}
