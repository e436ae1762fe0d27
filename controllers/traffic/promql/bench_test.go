package promql

import (
	"context"
	"fmt"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"

	"github.com/servicesecurity/operator/controllers/traffic"
)

// BenchmarkInterval is what an interval of 200 profiles with 5 pods each costs: the server's work is in it. Its answers' bytes
// and the queries are reported.
func BenchmarkInterval(b *testing.B) {
	const profiles, pods = 200, 5
	s := newServer(b)
	var all []*pod
	targets := make([]traffic.Request, profiles)
	for i := range targets {
		workload := fmt.Sprintf("web%d", i)
		targets[i] = traffic.Request{Profile: workload, Ports: traffic.PortSet{Except: true}, RequireSeries: true, Window: 20 * time.Minute}
		for j := range pods {
			p := newPod(workload, fmt.Sprintf("%s-6d4f-%d", workload, j), epoch.Add(-time.Hour))
			for k := range 6 {
				p.counts[requests("mutual_tls", fmt.Sprintf("client%d", k))] = float64(k)
			}
			all = append(all, p)
			targets[i].Proxies = append(targets[i].Proxies, p.proxy())
		}
	}
	now := epoch
	next := func() {
		now = now.Add(15 * time.Second)
		for i, p := range all {
			p.counts[requests("mutual_tls", "client1")]++
			s.scrape(p, now.Add(-time.Duration(i%14)*time.Second))
		}
		s.now = now
	}
	for range 90 {
		next()
	}
	clock := clocktesting.NewFakePassiveClock(now)
	o := s.observer(clock, nil)
	ask := func() {
		clock.SetTime(now)
		for i := range targets {
			if seen := o.Observe(context.Background(), targets[i]); i > 0 && seen.Completeness != traffic.Complete {
				b.Log(seen.Message)
			}
		}
	}
	begin := time.Now()
	ask()
	next()
	ask()
	b.Logf("reading the whole window: %s, %d bytes", time.Since(begin).Round(time.Millisecond), s.bytes.Load())
	s.bytes.Store(0)
	s.queries.Store(0)
	b.ResetTimer()
	for b.Loop() {
		b.StopTimer()
		next()
		b.StartTimer()
		ask()
	}
	b.ReportMetric(float64(s.bytes.Load())/float64(b.N), "answer-bytes/op")
	b.ReportMetric(float64(s.queries.Load())/float64(b.N), "queries/op")
}
