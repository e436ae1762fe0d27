package accesslog

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	"github.com/servicesecurity/operator/controllers/facts"
)

// BenchmarkStore takes in entries of ever new callers, and says what one costs where as many are kept as ever are.
func BenchmarkStore(b *testing.B) {
	limits := Limits{}.withDefaults()
	pods := make([]facts.Identity, limits.Callers/limits.CallersPerProxy)
	for i := range pods {
		pods[i] = identify("foo", fmt.Sprint("pod", i), "10.0.0.1")
	}
	cron := facts.Identity{Namespace: "legacy", Workload: "cron"}
	add := func(s *store, n uint32) {
		address := netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
		s.add(pods[int(n)%len(pods)], true, entry{address: address, port: 8000, protocol: protocolHTTP, ended: true, made: epoch}, cron, epoch)
	}
	full := newStore(limits)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for n := range uint32(limits.Callers) {
		add(full, n)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportAllocs()
	for n := uint32(limits.Callers); b.Loop(); n++ {
		add(full, n)
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(full.size()), "B/caller")
}
