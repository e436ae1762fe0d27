package accesslog

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"

	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/traffic"
)

// called is an HTTP request from an address.
func called(address string, port int32, made time.Time) entry {
	return entry{address: netip.MustParseAddr(address), port: port, protocol: protocolHTTP, ended: true, made: made}
}

// texts are callers in a line each.
func texts(l traffic.Logged) []string {
	var all []string
	for _, c := range l.Callers {
		text := fmt.Sprintf("%s/%s %s %d %s %d", c.Namespace, c.Workload, c.Address, c.Port, c.Protocol, c.Requests)
		if c.Refused {
			text += " refused"
		}
		if !c.Authenticated.IsZero() {
			text += " authenticated"
		}
		all = append(all, text)
	}
	return all
}

var (
	target = identify("foo", "httpbin", "10.0.0.1")
	cron   = identify("legacy", "cron", "10.0.0.9")
)

func TestLogged(t *testing.T) {
	t.Parallel()
	at := func(seconds int) time.Time { return epoch.Add(time.Duration(seconds) * time.Second) }
	refused := called("10.0.0.9", 8000, at(1))
	refused.refused, refused.protocol = true, protocolTCP
	goingOn := called("10.0.0.9", 8000, at(1))
	goingOn.ended = false
	for name, tc := range map[string]struct {
		log      func(*store, *cluster)
		request  func(*traffic.LogRequest)
		want     []string
		accepted time.Time
	}{
		"a pod": {
			log: func(s *store, _ *cluster) {
				s.add(target, false, called("10.0.0.9", 8000, at(1)), cron, at(1))
				s.add(target, false, called("10.0.0.9", 8000, at(2)), cron, at(2))
			},
			want: []string{"legacy/cron 10.0.0.9 8000 HTTP 2"}, accepted: at(2),
		},
		"an address outside the cluster": {
			log: func(s *store, _ *cluster) {
				s.add(target, false, called("192.0.2.7", 8000, at(1)), facts.Identity{}, at(1))
			},
			want: []string{"/unknown 192.0.2.7 8000 HTTP 1"}, accepted: at(1),
		},
		"a pod that the cache did not have yet": {
			log: func(s *store, c *cluster) {
				s.add(target, false, called("10.0.0.9", 8000, at(1)), facts.Identity{}, at(1))
				c.add(at(0), cron)
			},
			want: []string{"legacy/cron 10.0.0.9 8000 HTTP 1"}, accepted: at(1),
		},
		"an address that passed to another pod since": {
			log: func(s *store, c *cluster) {
				s.add(target, false, called("10.0.0.9", 8000, at(1)), facts.Identity{}, at(1))
				c.add(at(2), cron)
			},
			want: []string{"/unknown 10.0.0.9 8000 HTTP 1"}, accepted: at(1),
		},
		"an address that two pods had, one after the other": {
			log: func(s *store, _ *cluster) {
				s.add(target, false, called("10.0.0.9", 8000, at(1)), cron, at(1))
				s.add(target, false, called("10.0.0.9", 8000, at(5)), identify("foo", "sleep", "10.0.0.9"), at(5))
			},
			want: []string{"foo/sleep 10.0.0.9 8000 HTTP 1", "legacy/cron 10.0.0.9 8000 HTTP 1"}, accepted: at(5),
		},
		"replicas of one workload": {
			log: func(s *store, _ *cluster) {
				s.add(target, false, called("10.0.0.9", 8000, at(1)), cron, at(1))
				s.add(target, false, called("10.0.0.8", 8000, at(1)), cron, at(1))
				s.add(target, false, called("10.0.0.8", 8000, at(1)), cron, at(1))
			},
			want: []string{"legacy/cron 10.0.0.8 8000 HTTP 3"}, accepted: at(1),
		},
		"what STRICT refused is no plaintext that was let in": {
			log: func(s *store, _ *cluster) {
				s.add(target, true, refused, cron, at(1))
			},
			want: []string{"legacy/cron 10.0.0.9 8000 TCP 1 refused authenticated"},
		},
		"a stream that goes on is one, however often it is told of": {
			log: func(s *store, _ *cluster) {
				s.add(target, false, goingOn, cron, at(1))
				s.add(target, false, goingOn, cron, at(1))
			},
			want: []string{"legacy/cron 10.0.0.9 8000 HTTP 1"}, accepted: at(1),
		},
		"ports that do not matter": {
			log: func(s *store, _ *cluster) {
				s.add(target, false, called("10.0.0.9", 8000, at(1)), cron, at(1))
				s.add(target, false, called("10.0.0.9", 9000, at(2)), cron, at(2))
			},
			request: func(r *traffic.LogRequest) { r.Ports.Ports = []int32{9000} },
			want:    []string{"legacy/cron 10.0.0.9 8000 HTTP 1"}, accepted: at(1),
		},
		"another target's pods": {
			log: func(s *store, _ *cluster) {
				s.add(identify("foo", "other", "10.0.0.2"), false, called("10.0.0.9", 8000, at(1)), cron, at(1))
			},
		},
		"before the window": {
			log: func(s *store, _ *cluster) {
				s.add(target, false, called("10.0.0.9", 8000, at(1)), cron, at(1))
			},
			request: func(r *traffic.LogRequest) { r.Since = at(2) },
		},
	} {
		s, c := newStore(Limits{}.withDefaults()), &cluster{}
		tc.log(s, c)
		request := every(epoch, target)
		if tc.request != nil {
			tc.request(&request)
		}
		got := s.logged(t.Context(), c, request, at(10))
		if diff := cmp.Diff(tc.want, texts(got)); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", name, diff)
		}
		if !got.LastAccepted.Equal(tc.accepted) || got.Truncated {
			t.Errorf("%s: last let in %s, want %s; truncated %t", name, got.LastAccepted, tc.accepted, got.Truncated)
		}
	}
}

func TestRetention(t *testing.T) {
	t.Parallel()
	s, c := newStore(Limits{Retention: time.Hour}.withDefaults()), &cluster{}
	s.add(target, false, called("10.0.0.9", 8000, epoch), cron, epoch)
	s.sweep(epoch.Add(time.Hour))
	if s.size() != 1 {
		t.Fatal("it forgot what is not older than the window")
	}
	if got := s.logged(t.Context(), c, every(epoch, target), epoch.Add(3*time.Hour)); len(got.Callers) != 1 {
		t.Fatalf("a longer window has %v", texts(got))
	}
	s.sweep(epoch.Add(2 * time.Hour))
	if s.size() != 1 {
		t.Fatal("it forgot what a longer window asks for")
	}
	s.sweep(epoch.Add(4 * time.Hour))
	if s.size() != 0 || len(s.records) != 0 {
		t.Fatalf("%d callers, %d proxies are left", s.size(), len(s.records))
	}
}

// TestClockSetBack: what a clock that was ahead has noted ages from when that is over, and not only an hour later.
func TestClockSetBack(t *testing.T) {
	t.Parallel()
	s, c := newStore(Limits{}.withDefaults()), &cluster{}
	ahead := epoch.Add(time.Hour)
	s.add(target, false, called("10.0.0.9", 8000, ahead), cron, ahead)
	s.truncate(target, ahead)
	s.truncateAll(ahead)
	for range 3 {
		got := s.logged(t.Context(), c, every(epoch.Add(-time.Minute), target), epoch)
		if !got.LastAccepted.Equal(epoch) || !got.Truncated {
			t.Fatalf("last let in %s, truncated %t", got.LastAccepted, got.Truncated)
		}
	}
	later := epoch.Add(10 * time.Minute)
	if got := s.logged(t.Context(), c, every(epoch, target), later); !got.LastAccepted.Equal(epoch) {
		t.Errorf("ten minutes later it was last let in at %s", got.LastAccepted)
	}
	if got := s.logged(t.Context(), c, every(later, target), later); len(got.Callers) > 0 || got.Truncated {
		t.Errorf("a window later there are %v, truncated %t", texts(got), got.Truncated)
	}
}

func TestRefusing(t *testing.T) {
	t.Parallel()
	s := newStore(Limits{}.withDefaults())
	e := called("10.0.0.9", 8000, epoch)
	s.add(target, false, e, cron, epoch)
	if got := s.refusing(); len(got) != 0 {
		t.Errorf("%v refused somebody", got)
	}
	e.refused = true
	s.add(target, false, e, cron, epoch)
	s.add(target, false, e, cron, epoch)
	if got := s.refusing(); !slices.Equal(got, []types.NamespacedName{{Namespace: "foo", Name: "httpbin-1"}}) {
		t.Errorf("%v refused somebody", got)
	}
	if got := s.refusing(); len(got) != 0 {
		t.Errorf("%v refused somebody again", got)
	}
	// The record of the pod that had the name before goes, and the refusal of this one stays.
	before := target
	before.UID = "before"
	s.add(before, false, called("10.0.0.9", 8000, epoch), cron, epoch)
	later := epoch.Add(25 * time.Hour)
	s.add(target, false, e, cron, later)
	s.sweep(later)
	if got := s.refusing(); len(s.records) != 1 || len(got) != 1 {
		t.Errorf("%d records, %v refused somebody", len(s.records), got)
	}
}

// TestRefusingTwice: a name is told once, whoever has it.
func TestRefusingTwice(t *testing.T) {
	t.Parallel()
	s := newStore(Limits{}.withDefaults())
	e := called("10.0.0.9", 8000, epoch)
	e.refused = true
	for _, uid := range []string{"a", "b"} {
		pod := target
		pod.UID = uid
		s.add(pod, false, e, cron, epoch)
	}
	if got := s.refusing(); len(got) != 1 {
		t.Errorf("%v refused somebody", got)
	}
}

// TestAccountsAreForgotten: what was left out of an account's lists is so for as long as a caller is remembered.
func TestAccountsAreForgotten(t *testing.T) {
	t.Parallel()
	s, c := newStore(Limits{}.withDefaults()), &cluster{}
	c.add(epoch, target)
	s.truncateAccount(account{target.Namespace, target.ServiceAccount}, epoch)
	if !s.logged(t.Context(), c, every(epoch.Add(-time.Hour), target), epoch).Truncated {
		t.Error("nothing was left out")
	}
	if s.logged(t.Context(), c, every(epoch.Add(time.Hour), target), epoch.Add(2*time.Hour)).Truncated {
		t.Error("something was left out before what is asked for")
	}
	if s.sweep(epoch.Add(25 * time.Hour)); len(s.accounts) > 0 {
		t.Errorf("%d accounts are remembered", len(s.accounts))
	}
}

// TestOneProxyPaysItself: a proxy with ever new callers loses its own, and no other's.
func TestOneProxyPaysItself(t *testing.T) {
	t.Parallel()
	limits := Limits{CallersPerProxy: 10, Callers: 40, Proxies: 8}.withDefaults()
	s, c := newStore(limits), &cluster{}
	s.add(target, false, called("10.0.0.9", 8000, epoch), cron, epoch)
	hostile := identify("evil", "proxy", "10.6.6.6")
	for i := range 1000 {
		now := epoch.Add(time.Duration(i) * time.Second)
		s.add(hostile, false, called(fmt.Sprintf("192.0.%d.%d", i/250, i%250+1), int32(1+i), now), facts.Identity{}, now)
	}
	if s.size() != 11 {
		t.Errorf("%d callers are kept", s.size())
	}
	now := epoch.Add(time.Hour)
	if got := s.logged(t.Context(), c, every(epoch.Add(-time.Second), target), now); len(got.Callers) != 1 || got.Truncated {
		t.Errorf("the other has %v, truncated %t", texts(got), got.Truncated)
	}
	if got := s.logged(t.Context(), c, every(epoch.Add(-time.Second), hostile), now); len(got.Callers) != 10 || !got.Truncated {
		t.Errorf("the hostile one has %d callers, truncated %t", len(got.Callers), got.Truncated)
	}
}

// TestBounds holds for any sequence of entries: no bound is passed, and the count is that of what is there.
func TestBounds(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 1))
	limits := Limits{CallersPerProxy: 1 + random.IntN(8), Callers: 1 + random.IntN(40), Proxies: 1 + random.IntN(10)}.withDefaults()
	s := newStore(limits)
	now := epoch
	for range 20000 {
		now = now.Add(time.Duration(random.IntN(60)) * time.Second)
		pod := identify("foo", fmt.Sprint("pod", random.IntN(20)), "10.0.0.1")
		e := called(fmt.Sprintf("10.1.0.%d", random.IntN(200)), int32(1+random.IntN(3)), now)
		e.refused = random.IntN(2) == 0
		switch random.IntN(20) {
		case 0:
			s.sweep(now)
		case 1:
			s.truncate(pod, now)
		case 2:
			s.refusing()
		default:
			s.add(pod, random.IntN(2) == 0, e, facts.Identity{}, now)
		}
		sum := 0
		for _, r := range s.records {
			sum += len(r.callers)
			if len(r.callers) != r.order.Len() {
				t.Fatalf("seed %d: a proxy has %d callers, %d in order", seed, len(r.callers), r.order.Len())
			}
			if len(r.callers) > limits.CallersPerProxy {
				t.Fatalf("seed %d: a proxy has %d callers of %d", seed, len(r.callers), limits.CallersPerProxy)
			}
		}
		if sum != s.callers || sum > limits.Callers || len(s.records) > limits.Proxies || len(s.news) > len(s.records) {
			t.Fatalf("seed %d: %d callers, counted %d of %d; %d proxies of %d; news of %d", seed, sum, s.callers, limits.Callers, len(s.records), limits.Proxies, len(s.news))
		}
	}
}
