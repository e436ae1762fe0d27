package sidecar

import (
	"cmp"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/traffic"
)

const (
	// maxListed is what status has room for.
	maxListed = 20
	// maxKept bounds those that are remembered, so that callers with ever new names cannot fill the memory.
	maxKept = 200
	// parts of the window in which requests are counted: a count is exact to one part.
	parts = 8
	// slots for the parts that a window touches.
	slots = parts + 1
)

// book remembers who called within the window.
type book struct {
	window  time.Duration
	entries map[caller]*entry
}

// entry counts a caller's requests by parts of the window; the part of number n is at n modulo slots.
type entry struct {
	counts [slots]int64
	newest int64
	last   time.Time
}

// seed takes the callers that status kept. Those with an address are the access logs', not ours.
func (b *book) seed(known []v1alpha1.PlaintextCaller, now time.Time) {
	for _, k := range known {
		if k.LastSeenTime == nil || k.Address != "" || k.Refused {
			continue
		}
		last := k.LastSeenTime.Time
		if last.After(now) {
			last = now
		}
		b.see(caller{workload: k.Workload, namespace: k.Namespace, protocol: k.Protocol}, max(0, k.Requests), last)
	}
}

// see counts requests of a caller.
func (b *book) see(who caller, requests int64, now time.Time) {
	e := b.entries[who]
	if e == nil {
		b.makeRoom()
		e = &entry{newest: b.part(now)}
		if b.entries == nil {
			b.entries = map[caller]*entry{}
		}
		b.entries[who] = e
	}
	e.advance(b.part(now))
	e.counts[mod(e.newest)] = add(e.counts[mod(e.newest)], requests)
	if now.After(e.last) {
		e.last = now
	}
}

// makeRoom drops whoever was seen longest ago.
func (b *book) makeRoom() {
	if len(b.entries) < maxKept {
		return
	}
	var oldest *caller
	for who, e := range b.entries {
		if oldest == nil || e.last.Before(b.entries[*oldest].last) {
			oldest = &who
		}
	}
	delete(b.entries, *oldest)
}

// expire forgets those that the window has left behind.
func (b *book) expire(now time.Time) {
	for who, e := range b.entries {
		if e.last.After(now) {
			e.last = now // the clock went back
		}
		if b.window > 0 && now.Sub(e.last) > b.window {
			delete(b.entries, who)
			continue
		}
		e.advance(b.part(now))
	}
}

// met has the callers of the window that have a principal, the one with the most calls first.
func (b *book) met(now time.Time) []traffic.MeshedCaller {
	b.expire(now)
	list := make([]traffic.MeshedCaller, 0, len(b.entries))
	for who, e := range b.entries {
		list = append(list, traffic.MeshedCaller{Principal: who.principal, Workload: who.workload, Calls: e.sum()})
	}
	slices.SortFunc(list, func(x, y traffic.MeshedCaller) int {
		return cmp.Or(cmp.Compare(y.Calls, x.Calls), cmp.Compare(x.Principal, y.Principal), cmp.Compare(x.Workload, y.Workload))
	})
	return list[:min(len(list), traffic.MaxMeshedCallers)]
}

// list has the callers of the window, worst first.
func (b *book) list(now time.Time) []v1alpha1.PlaintextCaller {
	b.expire(now)
	var list []v1alpha1.PlaintextCaller
	for who, e := range b.entries {
		list = append(list, v1alpha1.PlaintextCaller{
			Workload: who.workload, Namespace: who.namespace, Protocol: who.protocol,
			Requests: e.sum(), LastSeenTime: &metav1.Time{Time: e.last},
		})
	}
	slices.SortFunc(list, func(x, y v1alpha1.PlaintextCaller) int {
		return cmp.Or(cmp.Compare(y.Requests, x.Requests), cmp.Compare(x.Namespace, y.Namespace),
			cmp.Compare(x.Workload, y.Workload), cmp.Compare(x.Protocol, y.Protocol))
	})
	return list[:min(len(list), maxListed)]
}

// part is the number of the part of the window that a time lies in. Without a window there is only one.
func (b *book) part(t time.Time) int64 {
	if b.window < parts {
		return 0
	}
	return t.UnixNano() / int64(b.window/parts)
}

// advance forgets the parts that the window has left behind.
func (e *entry) advance(part int64) {
	if part-e.newest >= slots {
		e.counts = [slots]int64{}
		e.newest = part
	}
	for e.newest < part {
		e.newest++
		e.counts[mod(e.newest)] = 0
	}
}

func (e *entry) sum() (sum int64) {
	for _, n := range e.counts {
		sum = add(sum, n)
	}
	return sum
}

func mod(part int64) int64 { return (part%slots + slots) % slots }
