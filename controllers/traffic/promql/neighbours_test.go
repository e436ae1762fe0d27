package promql

import (
	"cmp"
	"context"
	"strings"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/traffic"
)

// beside is a script with a pod of another workload.
func beside(t *testing.T, workload, name string) (s *script, other *pod) {
	t.Helper()
	other = newPod(workload, name, epoch.Add(-time.Hour))
	other.extra = map[string]string{"instance": "10.0.0.2:15090"}
	other.counts[requests("mutual_tls", "front")] = 7
	s = play(t, func(s *script, _ int) bool {
		s.scrape(other, s.now)
		return true
	})
	return s, other
}

// TestWorkloadsBefore holds that the stretch of a process before goes on only where it watched the same workloads: what one that
// is no more saw last is not known.
func TestWorkloadsBefore(t *testing.T) {
	for name, tc := range map[string]struct {
		leaves   bool
		evidence func(*v1alpha1.Evidence) *v1alpha1.Evidence
		first    bool   // the profile is new
		refused  string // by a policy of another's when the operator is back
		wantLost bool
	}{
		"the same":                {},
		"others refuse plaintext": {refused: "shop/web Strict", wantLost: true},
		"one that left":           {leaves: true, wantLost: true},
		"that do not say":         {evidence: func(e *v1alpha1.Evidence) *v1alpha1.Evidence { e.Proxies = evidenceOf; return e }, wantLost: true},
		"by the sidecars":         {evidence: func(e *v1alpha1.Evidence) *v1alpha1.Evidence { e.Proxies = "0f0f"; return e }, wantLost: true},
		"of no evidence":          {evidence: func(*v1alpha1.Evidence) *v1alpha1.Evidence { return nil }, wantLost: true},
		"of no evidence, at last": {evidence: func(*v1alpha1.Evidence) *v1alpha1.Evidence { return nil }, first: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, blue := beside(t, "web-blue", "web-blue-7c-y1")
			clock := clocktesting.NewFakePassiveClock(s.now)
			before := s.ask(s.observer(clock, nil), clock, s.pod, blue)
			if before.Completeness != traffic.Complete || before.Time.Sub(before.Since) < 30*time.Minute || len(before.Evidence.Proxies) > 64 {
				t.Fatalf("%s since %s: %s", before.Completeness, before.Since, before.Message)
			}
			pods := []*pod{s.pod, blue}
			for n := range 8 { // the operator is away for two minutes
				s.now = s.now.Add(15 * time.Second)
				s.scrape(s.pod, s.now)
				if n < 4 || !tc.leaves {
					s.scrape(blue, s.now)
				}
			}
			if tc.leaves {
				s.leave(blue, s.now)
				pods = pods[:1]
			}
			o, evidence, since := s.observer(clock, nil), before.Evidence.DeepCopy(), before.Since
			if tc.evidence != nil {
				evidence = tc.evidence(evidence)
			}
			if tc.first {
				since = time.Time{}
			}
			back := s.now
			for n := range 3 {
				s.now = s.now.Add(15 * time.Second)
				clock.SetTime(s.now)
				s.server.now = s.now
				for _, p := range pods {
					s.scrape(p, s.now)
				}
				seen := o.Observe(context.Background(), s.request(func(r *traffic.Request) {
					r.CleanSince, r.Evidence, r.Proxies, r.Refused = since, evidence, nil, nil
					if tc.refused != "" {
						r.Refused = []string{tc.refused}
					}
					for _, p := range pods {
						r.Proxies = append(r.Proxies, p.proxy())
					}
				}))
				if seen.Completeness != traffic.Complete || seen.Since.After(back) != tc.wantLost || seen.Gap != "" != (tc.wantLost && n == 0) {
					t.Errorf("%s since %s, back at %s; gap %q; %s", seen.Completeness, seen.Since, back, seen.Gap, seen.Message)
				}
				// While the process runs others may come: nothing is read of them that it would not remember.
				evidence = &v1alpha1.Evidence{Proxies: "others"}
			}
		})
	}
}

// TestNeighbours holds that plaintext of a workload that may have been of the target counts, until it is known to be another's.
func TestNeighbours(t *testing.T) {
	const minute, plain = 4, scripted - 40 // scrapes
	for name, tc := range map[string]struct {
		plaintext bool
		// It is scraped until it leaves, so many scrapes before the operator comes, or after; never if zero.
		leaves int
		comes  bool // another pod of it comes then, with traffic
		alike  bool // another workload's pod, with a name as its own would have, is there and has no traffic
		west   bool // another cluster has a workload of that name

		wantHeld string // at first
		wantLost bool
		wantLast traffic.Completeness // after some minutes; complete by default
	}{
		"another's":                              {plaintext: true, wantHeld: "of workload shop/web-blue"},
		"another's without plaintext":            {},
		"gone without plaintext":                 {leaves: -20},
		"gone before":                            {plaintext: true, leaves: -20, wantHeld: "of workload shop/web-blue", wantLost: true},
		"gone before, a name for another's":      {plaintext: true, leaves: -20, alike: true, wantHeld: "of workload shop/web-blue", wantLost: true},
		"gone a moment before":                   {plaintext: true, leaves: -1, wantHeld: "of workload shop/web-blue", wantLost: true},
		"gone before it could be told":           {plaintext: true, leaves: 2, wantHeld: "of workload shop/web-blue", wantLost: true},
		"gone when it was known for another's":   {plaintext: true, leaves: 3 * minute, wantHeld: "of workload shop/web-blue"},
		"another's that restarts a moment later": {plaintext: true, leaves: 2, comes: true, wantHeld: "of workload shop/web-blue"},
		"of several clusters":                    {plaintext: true, west: true, wantHeld: "several clusters (east, west)", wantLast: traffic.Incomplete},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			blue, next := newPod("web-blue", "web-blue-7c-y1", epoch.Add(-time.Hour)), newPod("web-blue", "web-blue-8d-y2", epoch.Add(-time.Hour))
			alike := newPod("web-blue-x", "web-blue-x-0", epoch.Add(-time.Hour))
			for p, instance := range map[*pod]string{blue: "10.0.0.2:15090", next: "10.0.0.3:15090", alike: "10.0.0.4:15090"} {
				p.extra = map[string]string{"instance": instance}
			}
			blue.counts[requests("mutual_tls", "front")], next.counts[requests("mutual_tls", "front")] = 7, 1
			if tc.west {
				blue.extra["destination_cluster"], next.extra["destination_cluster"] = "east", "west"
			}
			scrape := func(s *script, n int) {
				if n == plain && tc.plaintext {
					blue.counts[requests("none", "cron")] = 1
				}
				left := tc.leaves != 0 && n >= scripted+tc.leaves
				if left && n == scripted+tc.leaves {
					s.leave(blue, s.now)
				}
				if !left {
					s.scrape(blue, s.now)
				}
				if tc.west || tc.comes && n > scripted+tc.leaves+2 {
					s.scrape(next, s.now)
				}
				if tc.alike {
					s.scrape(alike, s.now)
				}
			}
			s := play(t, func(s *script, n int) bool {
				scrape(s, n)
				return true
			})
			clock := clocktesting.NewFakePassiveClock(s.now)
			o := s.observer(clock, nil)
			var gaps []string
			var seen traffic.Observation
			for n := range 8 * minute {
				seen = s.pass(o, clock, 1, func(int) { scrape(s, scripted+n) }, s.pod)
				if n == 0 && (!strings.Contains(seen.Message, tc.wantHeld) || (seen.Completeness == traffic.Complete) != (tc.wantHeld == "")) {
					t.Errorf("at first %s: %s", seen.Completeness, seen.Message)
				}
				if seen.Gap != "" {
					gaps = append(gaps, seen.Gap)
				}
			}
			if last := cmp.Or(tc.wantLast, traffic.Complete); seen.Completeness != last {
				t.Fatalf("%s: %s", seen.Completeness, seen.Message)
			}
			if last := seen.Completeness == traffic.Complete; last && seen.Since.Before(at(plain)) == tc.wantLost {
				t.Errorf("since %s, and the plaintext was at %s", seen.Since, at(plain))
			}
			if told := strings.Join(gaps, "; "); (told == "plaintext was seen at workload shop/web-blue, which is no more and may have been of the target") != tc.wantLost {
				t.Errorf("told as a gap: %q", told)
			}
		})
	}
}

// TestPassing holds that plaintext counts of a pod that came and went between two looks at the target, which may have been of it: its
// pods are listed before the server is waited for, so one that is scraped need not have been among them.
func TestPassing(t *testing.T) {
	t.Parallel()
	s := play(t, nil)
	clock := clocktesting.NewFakePassiveClock(s.now)
	o := s.observer(clock, nil)
	if seen := s.pass(o, clock, 12, nil, s.pod); seen.Completeness != traffic.Complete {
		t.Fatal(seen.Message) // it looked for longer than what is read may be late by
	}
	once := newPod("once", "once", s.now)
	once.extra = map[string]string{"instance": "10.0.0.2:15090"}
	once.counts[requests("none", "cron")] = 1
	scraped := s.now.Add(5 * time.Second)
	s.scrape(once, scraped)
	s.leave(once, scraped.Add(5*time.Second))
	if seen := s.pass(o, clock, 1, nil, s.pod); seen.Completeness != traffic.Incomplete || !strings.Contains(seen.Message, "workload shop/once") {
		t.Errorf("at first %s: %s", seen.Completeness, seen.Message)
	}
	if seen := s.pass(o, clock, 24, nil, s.pod); seen.Completeness != traffic.Complete || seen.Since.Before(scraped) {
		t.Errorf("%s since %s, and the plaintext was at %s: %s", seen.Completeness, seen.Since, scraped, seen.Message)
	}
}

// TestMisnamed holds that plaintext counts of a workload that the metrics of the target's own pods name, whatever their name is and
// whoever else has it.
func TestMisnamed(t *testing.T) {
	t.Parallel()
	s, other := beside(t, "web-x", "web-x-7c-y1")
	clock := clocktesting.NewFakePassiveClock(s.now)
	o := s.observer(clock, nil)
	target := newPod("web-y", "web-y-7c-y1", epoch.Add(-time.Hour))
	listed := *target
	target.workload = other.workload
	target.extra = map[string]string{"instance": "10.0.0.3:15090"}
	target.counts[requests("mutual_tls", "front")] = 1
	var plain time.Time
	seen := s.pass(o, clock, 60, func(n int) {
		if n == 40 {
			target.counts[requests("none", "cron")], plain = 1, s.now
		}
		s.scrape(other, s.now)
		s.scrape(target, s.now)
	}, s.pod)
	if seen.Since.After(plain) {
		t.Errorf("since %s, and the plaintext was at %s and another's: %s", seen.Since, plain, seen.Message)
	}
	seen = o.Observe(context.Background(), s.request(func(r *traffic.Request) {
		r.Proxies = append(r.Proxies, listed.proxy())
	}))
	if seen.Completeness != traffic.Complete || seen.Since.Before(plain) {
		t.Errorf("%s since %s, and the plaintext was at %s: %s", seen.Completeness, seen.Since, plain, seen.Message)
	}
}

// TestUnwatched holds that plaintext counts of a workload that may have been the target's while that was not looked at, or that was so
// until a moment ago, though the server was asked all along.
func TestUnwatched(t *testing.T) {
	for name, tc := range map[string]struct {
		away           int // scrapes, before it leaves
		interval       time.Duration
		unwatched, was bool
		comes          bool // it was not there before
		wantLost       bool
	}{
		"looked at":                         {away: 16},
		"not looked at":                     {away: 16, unwatched: true, wantLost: true},
		"not looked at, and new":            {away: 3, unwatched: true, comes: true, wantLost: true},
		"not looked at for longer, and new": {away: 7, interval: time.Minute, unwatched: true, comes: true, wantLost: true},
		"was the target's a moment before":  {away: 3, was: true, wantLost: true},
		"was the target's":                  {away: 16, was: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := play(t, nil)
			clock := clocktesting.NewFakePassiveClock(s.now)
			interval := cmp.Or(tc.interval, 15*time.Second)
			o := s.observer(clock, func(o *Options) { o.Interval = interval })
			passing := newPod("once", "once", s.now)
			passing.extra = map[string]string{"instance": "10.0.0.2:15090"}
			passing.counts[requests("mutual_tls", "front")] = 1
			target := []*pod{s.pod}
			if tc.was {
				target = append(target, passing)
			}
			s.pass(o, clock, 12, func(int) {
				if !tc.comes {
					s.scrape(passing, s.now)
				}
			}, target[:len(target):len(target)]...)
			passing.started = s.now
			var plain time.Time
			for n := range tc.away {
				s.now = s.now.Add(15 * time.Second)
				if n == 1 {
					passing.counts[requests("none", "cron")], plain = 1, s.now
				}
				s.scrape(s.pod, s.now)
				s.scrape(passing, s.now)
				clock.SetTime(s.now)
				s.server.now = s.now
				profile := "p"
				if tc.unwatched {
					profile = "another" // which has the server asked
				}
				o.Observe(context.Background(), s.request(func(r *traffic.Request) { r.Profile = profile }))
			}
			s.leave(passing, s.now.Add(time.Second))
			seen := s.pass(o, clock, 24, nil, s.pod)
			if seen.Completeness != traffic.Complete || seen.Since.Before(plain) != !tc.wantLost {
				t.Errorf("%s since %s, and the plaintext was at %s: %s", seen.Completeness, seen.Since, plain, seen.Message)
			}
		})
	}
}

// TestBecame holds that a workload which was another's, became the target's and left it, is not taken for another's by what was known
// before.
func TestBecame(t *testing.T) {
	t.Parallel()
	s, other := beside(t, "web-x", "web-x-7c-y1")
	clock := clocktesting.NewFakePassiveClock(s.now)
	o := s.observer(clock, nil)
	var plain time.Time
	scrape := func(n int) {
		if n == 1 { // later than it is missed
			other.counts[requests("none", "cron")]++
			plain = s.now
		}
		s.scrape(other, s.now)
	}
	if seen := s.pass(o, clock, 20, scrape, s.pod); seen.Completeness != traffic.Complete || !seen.Since.Before(plain) {
		t.Fatalf("%s since %s, and another's plaintext was at %s: %s", seen.Completeness, seen.Since, plain, seen.Message)
	}
	s.pass(o, clock, 4, nil, s.pod, other)
	s.pass(o, clock, 2, scrape, s.pod)
	s.leave(other, s.now.Add(time.Second))
	if seen := s.pass(o, clock, 24, nil, s.pod); seen.Completeness != traffic.Complete || seen.Since.Before(plain) {
		t.Errorf("%s since %s, and the plaintext was at %s: %s", seen.Completeness, seen.Since, plain, seen.Message)
	}
}

// TestLookClock holds that times which a server's clock said that was set back since are not waited for.
func TestLookClock(t *testing.T) {
	web, once := object{"shop", "web"}, object{"shop", "once"}
	p := &profile{looked: epoch, steady: epoch.Add(time.Hour), left: map[object]time.Time{once: epoch.Add(time.Hour)}}
	v := &view{profile: p, now: epoch, workloads: map[object]*workload{web: nil}, history: newHistory(), poll: poll{now: epoch}}
	v.look(epoch)
	if !p.steady.Equal(epoch) || !p.left[once].Equal(epoch) {
		t.Errorf("looked at since %s, and left at %s", p.steady, p.left[once])
	}
}

// TestKnownAfresh holds that a history which is read anew does not forget which workloads are another's.
func TestKnownAfresh(t *testing.T) {
	t.Parallel()
	s, other := beside(t, "once", "once")
	clock := clocktesting.NewFakePassiveClock(s.now)
	o := s.observer(clock, nil)
	var plain time.Time
	longer := func() {
		o.Observe(context.Background(), s.request(func(r *traffic.Request) { r.Profile, r.Window = "another", r.Window+s.now.Sub(epoch) }))
	}
	for n := range 40 {
		switch n {
		case 20:
			other.counts[requests("none", "cron")], plain = 1, s.now.Add(15*time.Second)
		case 30:
			s.leave(other, s.now.Add(time.Second))
		case 18, 25, 35:
			longer()
		}
		seen := s.pass(o, clock, 1, func(int) {
			if n < 30 {
				s.scrape(other, s.now)
			}
		}, s.pod)
		if n > 10 && (seen.Completeness != traffic.Complete || !plain.IsZero() && !seen.Since.Before(plain)) {
			t.Errorf("at %d %s since %s, and the plaintext was at %s: %s", n, seen.Completeness, seen.Since, plain, seen.Message)
		}
	}
	if h := o.poller.history; len(h.afresh(h.to.Add(-time.Minute)).workloads) > 0 {
		t.Error("times are kept of before the server's clock was set back")
	}
}
