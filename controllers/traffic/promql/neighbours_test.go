package promql

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/traffic"
)

// beside is a script with a pod of another workload.
func beside(t *testing.T, workload, name string) (s *script, other *pod) {
	t.Helper()
	other = newPodAt("10.0.0.2:15090", workload, name, epoch.Add(-time.Hour))
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
		silent bool // without a word of the server's that it is no more
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
		"gone before it could be told":           {plaintext: true, leaves: 1, wantHeld: "of workload shop/web-blue", wantLost: true},
		"gone when it was known for another's":   {plaintext: true, leaves: 3 * minute, wantHeld: "of workload shop/web-blue"},
		"another's that restarts a moment later": {plaintext: true, leaves: 1, comes: true, wantHeld: "of workload shop/web-blue"},
		"not scraped any more":                   {plaintext: true, leaves: -1, silent: true, wantHeld: "of workload shop/web-blue", wantLost: true},
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
				if left && n == scripted+tc.leaves && !tc.silent {
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
	once := newPodAt("10.0.0.2:15090", "once", "once", s.now)
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
// whoever else has it, also when they do not name it any more.
func TestMisnamed(t *testing.T) {
	t.Parallel()
	for name, elses := range map[string]bool{"alone": false, "another's too": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, other := beside(t, "web-x", "web-x-7c-y1")
			clock := clocktesting.NewFakePassiveClock(s.now)
			o := s.observer(clock, nil)
			target := newPod("web-y", "web-y-7c-y1", epoch.Add(-time.Hour))
			listed := *target
			target.workload = other.workload
			target.extra = map[string]string{"instance": "10.0.0.3:15090"}
			target.counts[requests("mutual_tls", "front")] = 1
			if !elses {
				s.leave(other, s.now)
			}
			var plain time.Time
			var seen traffic.Observation
			for n := range 70 {
				s.now = s.now.Add(15 * time.Second)
				switch n {
				case 20:
					target.counts[requests("none", "cron")], plain = 1, s.now
				case 40:
					target.counts = map[series]float64{} // evicted
				}
				if elses {
					s.scrape(other, s.now)
				}
				s.scrape(s.pod, s.now)
				s.scrape(target, s.now)
				seen = s.observe(o, clock, func(r *traffic.Request) { r.Proxies = append(r.Proxies, listed.proxy()) })
			}
			if seen.Completeness != traffic.Complete || seen.Since.Before(plain) {
				t.Errorf("%s since %s, and the plaintext was at %s: %s", seen.Completeness, seen.Since, plain, seen.Message)
			}
		})
	}
}

// TestUnwatched holds that plaintext counts of a workload that may have been the target's while that was not looked at, though the
// server was asked all along.
func TestUnwatched(t *testing.T) {
	for name, tc := range map[string]struct {
		away int // scrapes, before it leaves
		// The target is not looked at; the workload is new; was the target's; was known for another's before.
		unwatched, comes, was, known bool
		wantLost                     bool
	}{
		"looked at":                          {away: 16},
		"not looked at":                      {away: 16, unwatched: true, wantLost: true},
		"not looked at, new":                 {away: 30, unwatched: true, comes: true, wantLost: true},
		"not looked at, known for another's": {away: 80, unwatched: true, known: true, wantLost: true},
		"not looked at for minutes":          {away: 14, unwatched: true, known: true, wantLost: true},
		"new":                                {away: 3, comes: true, wantLost: true},
		"new, and lives on":                  {away: 16, comes: true},
		"was the target's":                   {away: 16, was: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := play(t, nil)
			clock := clocktesting.NewFakePassiveClock(s.now)
			o := s.observer(clock, nil)
			passing := newPodAt("10.0.0.2:15090", "once", "once", s.now)
			passing.counts[requests("mutual_tls", "front")] = 1
			if tc.known {
				passing.counts[requests("none", "cron")] = 1
			}
			target := []*pod{s.pod}
			if tc.was {
				target = append(target, passing)
			}
			s.pass(o, clock, 12, func(int) {
				if !tc.comes && !tc.was {
					s.scrape(passing, s.now)
				}
			}, target...)
			if tc.comes {
				passing.started = s.now
			}
			var plain time.Time
			for n := range tc.away {
				s.now = s.now.Add(15 * time.Second)
				if n == max(1, tc.away-8) {
					passing.counts[requests("none", "cron")]++
					plain = s.now
				}
				s.scrape(s.pod, s.now)
				s.scrape(passing, s.now)
				s.observe(o, clock, func(r *traffic.Request) {
					if tc.unwatched {
						r.Profile = "another" // which has the server asked
					}
				})
			}
			s.leave(passing, s.now.Add(time.Second))
			seen := s.pass(o, clock, 24, nil, s.pod)
			if seen.Completeness != traffic.Complete || seen.Since.Before(plain) != !tc.wantLost {
				t.Errorf("%s since %s, and the plaintext was at %s: %s", seen.Completeness, seen.Since, plain, seen.Message)
			}
		})
	}
}

// TestComesBack holds that a workload which is there for one look in a while is not taken for another's because it was there
// before.
func TestComesBack(t *testing.T) {
	t.Parallel()
	s := play(t, nil)
	clock := clocktesting.NewFakePassiveClock(s.now)
	o := s.observer(clock, nil)
	var plain time.Time
	for n := range 3 {
		once := newPodAt(fmt.Sprintf("10.0.1.%d:15090", n), "once", fmt.Sprintf("once-%d", n), s.now)
		once.counts[requests("none", "cron")] = 1
		if seen := s.pass(o, clock, 1, func(int) { s.scrape(once, s.now) }, s.pod); seen.Completeness == traffic.Complete {
			t.Errorf("the %d. time at first: since %s", n, seen.Since)
		}
		plain = s.now
		s.leave(once, s.now.Add(time.Second))
		if seen := s.pass(o, clock, 30, nil, s.pod); seen.Completeness != traffic.Complete || seen.Since.Before(plain) {
			t.Errorf("the %d. time: %s since %s, and the plaintext was at %s: %s", n, seen.Completeness, seen.Since, plain, seen.Message)
		}
	}
}

// TestBetweenPods holds that another's first plaintext is waited for when its pod goes, or is not scraped, just then.
func TestBetweenPods(t *testing.T) {
	t.Parallel()
	for name, fails := range map[string]bool{"goes": false, "is not scraped": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, other := beside(t, "web-blue", "web-blue-7c-y1")
			clock := clocktesting.NewFakePassiveClock(s.now)
			o := s.observer(clock, nil)
			before := s.pass(o, clock, 40, func(int) { s.scrape(other, s.now) }, s.pod)
			next := newPodAt("10.0.0.4:15090", "web-blue", "web-blue-7c-y2", s.now)
			next.counts[requests("mutual_tls", "front")] = 1
			other.counts[requests("none", "cron")] = 1
			var seen traffic.Observation
			for n := range 12 {
				seen = s.pass(o, clock, 1, func(int) {
					switch {
					case n == 0 && fails:
						s.scrape(other, s.now.Add(-5*time.Second))
						s.fail(other, s.now.Add(-time.Second))
					case n == 0:
						s.scrape(other, s.now.Add(-5*time.Second))
						s.leave(other, s.now.Add(-time.Second))
					case fails:
						s.scrape(other, s.now)
					case n > 1:
						s.scrape(next, s.now)
					}
				}, s.pod)
				if seen.Gap != "" {
					t.Errorf("at %d since %s: %s", n, seen.Since, seen.Gap)
				}
			}
			if seen.Completeness != traffic.Complete || seen.Since.After(before.Since) {
				t.Errorf("%s since %s, and before since %s: %s", seen.Completeness, seen.Since, before.Since, seen.Message)
			}
		})
	}
}

// TestReplaced holds that another's is known when its pods are replaced, at once or after a while without any.
func TestReplaced(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		without  int // scrapes
		wantHeld bool
	}{
		"at once":       {without: 1},
		"after a while": {without: 30, wantHeld: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, other := beside(t, "web-blue", "web-blue-7c-y1")
			clock := clocktesting.NewFakePassiveClock(s.now)
			o := s.observer(clock, nil)
			other.counts[requests("none", "cron")] = 1
			before := s.pass(o, clock, 20, func(int) { s.scrape(other, s.now) }, s.pod)
			s.leave(other, s.now.Add(time.Second))
			s.pass(o, clock, tc.without, nil, s.pod)
			next := newPodAt("10.0.0.4:15090", "web-blue", "web-blue-7c-y2", s.now)
			next.counts[requests("none", "cron")] = 1
			held := false
			var seen traffic.Observation
			for range 12 {
				seen = s.pass(o, clock, 1, func(int) { s.scrape(next, s.now) }, s.pod)
				held = held || seen.Completeness != traffic.Complete
				if seen.Gap != "" {
					t.Errorf("since %s: %s", seen.Since, seen.Gap)
				}
			}
			if seen.Completeness != traffic.Complete || seen.Since.After(before.Since) || held != tc.wantHeld {
				t.Errorf("held %t, then %s since %s, and before since %s: %s", held, seen.Completeness, seen.Since, before.Since, seen.Message)
			}
		})
	}
}

// TestSlowLooks holds that another's is known however rarely the target is looked at.
func TestSlowLooks(t *testing.T) {
	t.Parallel()
	s, other := beside(t, "web-blue", "web-blue-7c-y1")
	clock := clocktesting.NewFakePassiveClock(s.now)
	o := s.observer(clock, nil)
	other.counts[requests("none", "cron")] = 1
	for n := range 4 {
		for range 7 {
			s.now = s.now.Add(15 * time.Second)
			s.scrape(other, s.now)
			s.scrape(s.pod, s.now)
		}
		if seen := s.ask(o, clock, s.pod); (seen.Completeness == traffic.Complete) != (n > 0) {
			t.Errorf("at %d %s: %s", n, seen.Completeness, seen.Message)
		}
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
	next := newPodAt("10.0.0.3:15090", "web-x", "web-x-7c-y2", s.now)
	s.leave(other, s.now.Add(time.Second))
	s.pass(o, clock, 2, nil, s.pod, next)
	next.counts[requests("none", "cron")]++
	s.pass(o, clock, 1, func(int) { s.scrape(next, s.now) }, s.pod) // it is missed
	next.counts[requests("none", "cron")]++
	s.pass(o, clock, 1, func(int) { s.scrape(next, s.now) }, s.pod)
	plain = s.now
	s.leave(next, s.now.Add(time.Second))
	if seen := s.pass(o, clock, 24, nil, s.pod); seen.Completeness != traffic.Complete || seen.Since.Before(plain) {
		t.Errorf("%s since %s, and the plaintext was at %s: %s", seen.Completeness, seen.Since, plain, seen.Message)
	}
}

// TestRemembered holds that of workloads nothing is kept that the server does not name any more, or that is of a clock which jumped.
func TestRemembered(t *testing.T) {
	web, once, gone := object{"shop", "web"}, object{"shop", "once"}, object{"shop", "gone"}
	p := &profile{beside: map[object]*neighbour{web: {}, once: {claimed: true}, gone: {}}}
	h := newHistory()
	h.workloads[once] = &workload{}
	v := &view{profile: p, now: epoch, workloads: map[object]*workload{web: nil}, history: h, poll: poll{now: epoch}}
	v.history.to = epoch
	v.neighbours()
	if len(p.beside) != 1 || p.beside[once] == nil {
		t.Errorf("kept %v", p.beside)
	}
	v.history.suspects = map[string][]suspect{"shop": {{name: once, last: epoch, workload: h.workloads[once]}}}
	v.since, p.beside[once].doubted = epoch, epoch.Add(-time.Hour)
	v.neighbours()
	if !p.beside[once].doubted.IsZero() {
		t.Error("the doubt goes on beyond the stretch")
	}
	for name, change := range map[string]func(){
		"a clock jumped":     func() { v.poll.jumped = epoch },
		"it jumped again":    func() { v.poll.jumped = epoch.Add(-time.Minute) },
		"the target changed": func() { v.req.Targets = "another" },
	} {
		p.beside[once] = &neighbour{}
		change()
		if v.neighbours(); len(p.beside) > 0 {
			t.Errorf("kept %v of before %s", p.beside, name)
		}
	}
}

// TestAnothers holds by what pod a workload is known for another's, as far as the clocks are known.
func TestAnothers(t *testing.T) {
	const slow = 10 * time.Second // an answer
	name, listed := object{"shop", "once-1"}, epoch.Add(-time.Minute)
	for title, tc := range map[string]struct {
		change func(*view, *proxy)
		want   bool
	}{
		"there all the time":       {want: true},
		"scraped just then":        {change: func(_ *view, p *proxy) { p.at = listed }, want: true},
		"scraped before, perhaps":  {change: func(_ *view, p *proxy) { p.at = listed.Add(-time.Second) }},
		"not scraped any more":     {change: func(_ *view, p *proxy) { p.present = false }},
		"not known":                {change: func(v *view, _ *proxy) { delete(v.history.pods, name) }},
		"old enough":               {change: func(_ *view, p *proxy) { p.started = listed.Add(-maxSkew - slow) }, want: true},
		"not old enough, perhaps":  {change: func(_ *view, p *proxy) { p.started = listed.Add(-maxSkew - slow + time.Second) }},
		"the target's":             {change: func(v *view, _ *proxy) { v.pods[name] = traffic.Proxy{} }},
		"the target's then":        {change: func(v *view, _ *proxy) { v.profile.seen.pods[name] = struct{}{} }},
		"before anything was seen": {change: func(v *view, _ *proxy) { v.profile.seen = sight{} }},
	} {
		p := &proxy{present: true, started: epoch.Add(-time.Hour), at: epoch}
		v := &view{
			profile: &profile{seen: sight{listed: listed, pods: map[object]struct{}{}}}, history: newHistory(), pods: map[object]traffic.Proxy{},
			poll: poll{now: epoch, sent: epoch, received: epoch.Add(slow)},
		}
		v.history.pods[name] = p
		if tc.change != nil {
			tc.change(v, p)
		}
		if got := v.anothers(suspect{workload: &workload{pods: []object{name}}}); got != tc.want {
			t.Errorf("%s: %t", title, got)
		}
	}
}

// TestLateNeighbours holds that another's constant plaintext holds nothing up where samples are late.
func TestLateNeighbours(t *testing.T) {
	t.Parallel()
	s, other := beside(t, "web-blue", "web-blue-7c-y1")
	clock := clocktesting.NewFakePassiveClock(s.now)
	o := s.observer(clock, nil)
	for n := range 60 {
		s.now = s.now.Add(15 * time.Second)
		if n > 1 {
			other.counts[requests("none", "cron")]++
			s.scrape(other, s.now.Add(-20*time.Second))
			s.scrape(s.pod, s.now.Add(-20*time.Second))
		}
		if seen := s.ask(o, clock, s.pod); n > 10 && seen.Completeness != traffic.Complete {
			t.Errorf("at %d %s: %s", n, seen.Completeness, seen.Message)
		}
	}
}

// TestSee holds what is remembered of the looks at a target: a listing until the server's data reaches well past it, however long
// its answers take, and the pods of all looks from then on.
func TestSee(t *testing.T) {
	web := object{"shop", "web"}
	v := &view{
		profile: &profile{beside: map[object]*neighbour{}}, workloads: map[object]*workload{web: nil}, history: newHistory(),
		poll: poll{now: epoch, sent: epoch, received: epoch},
	}
	look := func(asked, to time.Duration, pod string) sight {
		v.asked, v.poll.now, v.poll.sent, v.poll.received = epoch.Add(asked), epoch.Add(to), epoch.Add(to), epoch.Add(to)
		v.history.to, v.pods = v.poll.now, map[object]traffic.Proxy{{"shop", pod}: {}}
		v.neighbours()
		return v.profile.seen
	}
	if seen := look(0, 0, "web-1"); !seen.listed.Equal(epoch) || len(seen.pods) != 1 {
		t.Errorf("at first %v", seen)
	}
	if seen := look(2*time.Minute, 20*time.Second, "web-2"); !seen.listed.Equal(epoch) || len(seen.pods) != 2 {
		t.Errorf("with an answer of before %v", seen)
	}
	if seen := look(3*time.Minute, 3*time.Minute, "web-3"); !seen.listed.Equal(epoch.Add(3*time.Minute)) || len(seen.pods) != 1 {
		t.Errorf("with one that reaches past it %v", seen)
	}
	v.history.to = epoch
	v.asked, v.poll.now, v.poll.sent = epoch.Add(time.Hour), epoch.Add(time.Hour), epoch.Add(time.Hour)
	if v.neighbours(); !v.profile.seen.listed.Equal(epoch.Add(3 * time.Minute)) {
		t.Errorf("with history that is not read yet %v", v.profile.seen)
	}
}

// TestAbsence holds for how long a workload is another's: less in an absence, which looks that wait for answers are not.
func TestAbsence(t *testing.T) {
	for away, want := range map[time.Duration]time.Duration{65 * time.Second: recently, 3 * time.Minute: maxSkew} {
		once := object{"shop", "once"}
		p := &profile{beside: map[object]*neighbour{once: {until: epoch.Add(recently)}}, seen: sight{looked: epoch}}
		v := &view{profile: p, now: epoch.Add(away), interval: 15 * time.Second}
		if v.remember(); !p.beside[once].until.Equal(epoch.Add(want)) {
			t.Errorf("away for %s: until %s after the look before", away, p.beside[once].until.Sub(epoch))
		}
	}
}

// TestServes holds what is asked about suspects, and about whom.
func TestServes(t *testing.T) {
	const all = `group by (namespace,pod,destination_workload) ({pod!="",namespace!="",__name__=~"istio_requests_total|istio_tcp_connections_opened_total",reporter="destination"%s})`
	many := make([]string, maxSuspects+1)
	for name, tc := range map[string]struct {
		suspects []string
		cluster  string
		want     string
	}{
		"none":              {},
		"one":               {suspects: []string{"web"}, want: `,destination_workload=~"web"`},
		"of odd names":      {suspects: []string{"a.b", `x"|y`}, want: `,destination_workload=~"a\\.b|x\"\\|y"`},
		"of a cluster":      {suspects: []string{"web"}, cluster: "c1", want: `,destination_workload=~"web",destination_cluster="c1"`},
		"of too many":       {suspects: many, want: ``},
		"of nearly so many": {suspects: many[1:], want: `,destination_workload=~"` + strings.Repeat("|", maxSuspects-1) + `"`},
	} {
		s := schema{namespace: "namespace", pod: "pod", cluster: tc.cluster}
		query := s.plaintextCounts(asked{suspects: tc.suspects, since: time.Minute, gap: time.Minute})
		if want := fmt.Sprintf(all, tc.want); strings.Contains(query, "group by (") != (len(tc.suspects) > 0) || len(tc.suspects) > 0 && !strings.Contains(query, want) {
			t.Errorf("%s: %s is not in %s", name, want, query)
		}
	}
	h := newHistory()
	h.suspects = map[string][]suspect{"shop": {{name: object{"shop", "web"}}}}
	a := &answer{times: model.Vector{}}
	for _, name := range []model.LabelValue{"web", "", unknown, "cart", model.LabelValue(strings.Repeat("x", maxName+1))} {
		a.times = append(a.times, &model.Sample{Metric: model.Metric{destinationWorkload: name}})
	}
	if got := a.suspects(h); !slices.Equal(got, []string{"cart", "web"}) {
		t.Errorf("suspects %q", got)
	}
}

// TestSuspects holds that of several the last to have had plaintext is judged first, and none in vain.
func TestSuspects(t *testing.T) {
	h := newHistory()
	var want []string
	for n := range 9 {
		name := fmt.Sprintf("w%d", n)
		h.workloads[object{"shop", name}] = &workload{plaintext: epoch.Add(-time.Duration(n) * time.Second)}
		want = append(want, name)
	}
	h.workloads[object{"shop", "idle"}], h.workloads[object{"shop", ""}] = &workload{}, &workload{plaintext: epoch}
	h.listSuspects()
	var got []string
	for _, s := range h.suspects["shop"] {
		got = append(got, s.name.name)
	}
	if !slices.Equal(got, want) {
		t.Errorf("suspects %q", got)
	}
}
