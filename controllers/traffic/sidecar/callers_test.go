package sidecar

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

func listed(b *book, now time.Time) (lines []string) {
	for _, c := range b.list(now) {
		lines = append(lines, fmt.Sprintf("%s/%s %s %d %s", c.Namespace, c.Workload, c.Protocol, c.Requests, c.LastSeenTime.Sub(epoch)))
	}
	return lines
}

func TestBook(t *testing.T) {
	t.Parallel()
	at := epoch.Add
	cron, web := caller{workload: "cron", namespace: "legacy", protocol: "HTTP"}, caller{workload: "web", protocol: "TCP"}
	for name, tc := range map[string]struct {
		window time.Duration
		do     func(*book)
		now    time.Duration
		want   []string
	}{
		"the worst is first": {
			window: time.Hour,
			do: func(b *book) {
				b.see(cron, 1, at(0))
				b.see(web, 2, at(0))
				b.see(caller{workload: "a", protocol: "TCP"}, 2, at(0))
			},
			want: []string{"/a TCP 2 0s", "/web TCP 2 0s", "legacy/cron HTTP 1 0s"},
		},
		"requests are counted in the window": {
			window: time.Hour,
			do:     func(b *book) { b.see(cron, 100, at(0)); b.see(cron, 1, at(50*time.Minute)) },
			now:    70 * time.Minute,
			want:   []string{"legacy/cron HTTP 1 50m0s"},
		},
		"a caller that was not seen in the window is dropped": {
			window: time.Hour,
			do:     func(b *book) { b.see(cron, 100, at(0)); b.see(web, 1, at(time.Minute)) },
			now:    time.Hour + time.Second,
			want:   []string{"/web TCP 1 1m0s"},
		},
		"without a window nothing is dropped": {
			do:   func(b *book) { b.see(cron, 100, at(0)); b.see(cron, 1, at(time.Hour)) },
			now:  1000 * time.Hour,
			want: []string{"legacy/cron HTTP 101 1h0m0s"},
		},
		"requests of a time when the clock was ahead are kept, at now": {
			window: time.Hour,
			do:     func(b *book) { b.see(cron, 2, at(30*time.Minute)); b.see(cron, 3, at(10*time.Minute)) },
			now:    10 * time.Minute,
			want:   []string{"legacy/cron HTTP 5 10m0s"},
		},
		"what status kept is counted on": {
			window: time.Hour,
			do: func(b *book) {
				seen := func(d time.Duration) *metav1.Time { return &metav1.Time{Time: at(d)} }
				b.seed([]v1alpha1.PlaintextCaller{
					{Workload: "cron", Namespace: "legacy", Protocol: "HTTP", Requests: 40, LastSeenTime: seen(0)},
					{Workload: "ahead", Protocol: "HTTP", Requests: -1, LastSeenTime: seen(time.Hour)},
					{Workload: "logged", Address: "10.0.0.9", LastSeenTime: seen(0)},
					{Workload: "refused", Refused: true, LastSeenTime: seen(0)},
					{Workload: "never"},
				}, at(time.Minute))
				b.see(cron, 2, at(time.Minute))
			},
			now:  time.Minute,
			want: []string{"legacy/cron HTTP 42 1m0s", "/ahead HTTP 0 1m0s"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := &book{window: tc.window}
			tc.do(b)
			if diff := cmp.Diff(tc.want, listed(b, at(tc.now))); diff != "" {
				t.Errorf("callers (-want +got):\n%s", diff)
			}
		})
	}
}

// Callers name themselves, so ever new names must not fill the memory, nor push out those that were seen just now.
func TestBookIsBounded(t *testing.T) {
	t.Parallel()
	b := &book{window: time.Hour}
	for i := range 10 * maxKept {
		b.see(caller{workload: fmt.Sprint(i)}, int64(i), epoch.Add(time.Duration(i)*time.Second))
	}
	if len(b.entries) != maxKept {
		t.Errorf("%d callers are kept", len(b.entries))
	}
	list := b.list(epoch.Add(10 * maxKept * time.Second))
	if len(list) != maxListed || list[0].Workload != fmt.Sprint(10*maxKept-1) {
		t.Errorf("%d callers are listed, the first is %+v", len(list), list[0])
	}
}
