package simulation

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/rollout"
	"github.com/servicesecurity/operator/controllers/traffic"
	"github.com/servicesecurity/operator/controllers/traffic/sidecar"
)

// Verifier is what is put between the simulator of verifications and the code under test, to break it. The zero value leaves it
// as it is.
type Verifier struct {
	// Exposition changes what the proxy of a caller's pod answers.
	Exposition func(uid string, text []byte) []byte
	// Calls changes a reading before the history takes it in.
	Calls func(calls traffic.Calls, switchedAt time.Time) traffic.Calls
	// SwitchedAt changes when the history is told that STRICT was written.
	SwitchedAt func(time.Time) time.Time
}

// verification is a world around one switch: callers, what their proxies count, and the operator that reads them. Times are
// counted from the first reading.
type verification struct {
	seed   uint64
	random *rand.Rand
	now    time.Duration
	diary  diary
	core   Verifier
	report VerificationReport

	window   time.Duration
	evicts   time.Duration
	before   int           // readings
	planned  time.Duration // when the switch is to be, about
	switched time.Duration // -1 before
	taken    time.Duration // when the target's proxy has it
	settled  time.Duration // when that proxy has drained
	callers  []*meshCaller
	agenda   []entry
	services traffic.Services

	observer *sidecar.Observer
	calls    *rollout.CallHistory
	memory   int // the operator's processes
	readings int
	// readBefore is the number of the last one before the switch.
	readBefore int
	listed     bool // who is watched is fixed
	filters    map[string]*regexp.Regexp
	late       time.Duration // by what a reading takes
	spec       rollout.Spec
	stage      v1alpha1.Stage
	baseline   map[string]traffic.Reading
}

// verificationInterval is between two readings.
const verificationInterval = 30 * time.Second

// Verify plays the verification of a seed: the same one each time, and none that Run plays. A verbose one also returns its diary.
//
// The chain under test is the product's: sidecar.Observer reads what the callers' proxies expose, rollout.CallHistory compares,
// and rollout.Next decides. What is not are the lists of who is watched, which controllers.run makes of the cluster.
//
// A caller that is named, and the rollback for it, is needed if in truth the switch cut it off: since then at least five of its
// calls, and at least half, were lost at connection level, on at least half of the pods that called, and before it less than half
// of that share; or all of the last five readings' were. What its connections cost when the listener before has drained does not
// count as lost. It is unneeded if that holds neither in truth nor for what the readings showed of the truth.
//
// A caller is missed that is cut off wholly, if it succeeded before and the readings that succeeded showed as much of the truth as
// a rollback takes, and the verification passed.
func Verify(seed int64, core Verifier, verbose bool) (VerificationReport, string) {
	v := &verification{
		seed: uint64(seed), random: rand.New(rand.NewPCG(uint64(seed), 0x5ca11e5)), core: core, switched: -1,
		filters: map[string]*regexp.Regexp{}, stage: v1alpha1.StageObserving,
	}
	v.diary.keep = verbose
	v.begin()
	v.play()
	v.report.Histories, v.report.Readings = 1, v.readings
	return v.report, v.diary.lines.String()
}

// verificationClock is the operator's.
type verificationClock struct{ v *verification }

func (c verificationClock) Now() time.Time                { return epoch.Add(c.v.now) }
func (c verificationClock) Since(time.Time) time.Duration { return c.v.now }

// boot begins a process of the operator, which knows nothing.
func (v *verification) boot() {
	v.observer = sidecar.New(sidecar.Options{
		Clock: verificationClock{v}, Transport: callerNetwork{v}, Concurrency: 1, Interval: verificationInterval,
	})
	v.calls, v.listed, v.baseline = &rollout.CallHistory{}, false, nil
}

func (v *verification) begin() {
	v.window = pick(v.random, 2*time.Minute, 10*time.Minute, 5*time.Minute, 3*time.Minute)
	v.before = pick(v.random, 5, 5, 4, 8, 2, 1, 0)
	v.planned = time.Duration(max(0, v.before-1)) * (verificationInterval + time.Second)
	v.services = traffic.Services{Names: slices.Clone(targetServices[:])}
	switch v.random.IntN(6) {
	case 0:
		v.services = traffic.Services{Suffix: ".shop.svc.cluster.local"}
	case 1, 2: // so many that the proxies are asked for what they count of all services
		for i := range 10 {
			v.services.Names = append(v.services.Names, fmt.Sprintf("web-%d.shop.svc.cluster.local", i))
		}
	}
	if v.oneIn(8) {
		v.evicts = v.span(time.Minute, 5*time.Minute)
	}
	spec, err := rollout.SpecOf(&v1alpha1.ServiceSecurityProfile{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "profile", Generation: 1},
		Spec: v1alpha1.ServiceSecurityProfileSpec{
			Target: v1alpha1.Target{Kind: v1alpha1.TargetWorkload},
			MTLS: &v1alpha1.MTLS{Mode: v1alpha1.ModeStrict, Rollout: &v1alpha1.Rollout{
				VerificationWindow: v1alpha1.Duration(v.window.String()),
			}},
		},
	})
	if err != nil {
		panic(err) // the histories have no such specs
	}
	v.spec = spec
	v.now = -v.span(10*time.Minute, 40*time.Minute)
	harmless := v.oneIn(2)
	for range 1 + v.random.IntN(6) {
		v.makeCaller(harmless)
	}
	if v.oneIn(5) {
		v.later(v.span(v.planned, v.planned+v.window), func() {
			v.memory++
			v.boot()
			v.diary.note(v.now, "operator", "restarts")
		})
	}
	v.boot()
	v.advance(0)
}

func (v *verification) oneIn(n int) bool { return v.random.IntN(n) == 0 }

func (v *verification) span(least, most time.Duration) time.Duration {
	return least + time.Duration(v.random.Int64N(int64(most-least)+1))
}

func (v *verification) later(at time.Duration, do func()) {
	v.agenda = append(v.agenda, entry{at: at, do: do})
}

// makeCaller makes one with its pods, and all that will happen to it.
func (v *verification) makeCaller(harmless bool) {
	c := &meshCaller{
		name: fmt.Sprintf("c%d", len(v.callers)), protocol: pick(v.random, plainHTTP, plainTCP, ownTLS),
		// From one call a minute to fifty in a second.
		rate: math.Exp(math.Log(1.0/60) + v.random.Float64()*math.Log(3000)), share: [2]float64{1, 0},
		app: pick(v.random, 0, 0.1, 1), appFrom: pick(v.random, v.moment(2*time.Minute), -forever), unsent: pick(v.random, 0, 0, 0.3),
		othersFrom: pick(v.random, v.moment(2*time.Minute), -forever, forever), liar: v.oneIn(15),
	}
	if v.oneIn(4) {
		c.share = pick(v.random, [2]float64{0.5, 0.5}, [2]float64{0.1, 0.9}, [2]float64{0.8, 0.2})
	}
	if v.oneIn(2) {
		c.other = c.rate * pick(v.random, 1, 10, 0.1)
	}
	v.callers = append(v.callers, c)
	for range 1 + v.random.IntN(5) {
		v.addPod(c)
	}
	old := condition{cause: ofOld, from: v.now, to: forever, share: pick(v.random, 0, 0, 0.02, 0.3, 0.3, 1), part: wholly, service: -1}
	if old.share == 1 {
		old.from = v.span(v.now, v.planned)
	}
	c.conditions = append(c.conditions, old)
	if !harmless {
		c.effect = v.makeEffect(c)
	}
	v.diary.note(v.now, "truth", "%s calls by %s, %d pods, %.3f a second each to %v; loses %.0f%% since %s, errors %.0f%% since %s, unsent %.0f%%; the switch costs %s %s, liar: %t",
		c.name, c.protocol, len(c.pods), c.rate, c.share, 100*old.share, stamp(old.from), 100*c.app, began(c.appFrom), 100*c.unsent, c.effect.part, until(c.effect.to), c.liar)
	for _, happens := range []struct {
		oneIn int
		what  func(*meshCaller)
	}{{4, v.outage}, {4, v.unreadable}, {3, v.restarts}, {4, v.scales}, {8, v.rolls}} {
		if v.oneIn(happens.oneIn) {
			happens.what(c)
		}
	}
}

func began(t time.Duration) string {
	if t == -forever {
		return "the beginning"
	}
	return stamp(t)
}

func until(t time.Duration) string {
	if t == forever {
		return "for good"
	}
	return "for " + stamp(t)
}

// makeEffect is what the switch does to a caller: its times are counted from the switch.
func (v *verification) makeEffect(c *meshCaller) condition {
	e := condition{cause: bySwitch, to: forever, share: 1, part: wholly, service: -1}
	switch v.random.IntN(8) {
	case 0:
		e.part = half
	case 1:
		e.part = single
	case 2:
		e.service = 0
		if c.share[1] > 0 {
			e.service = v.random.IntN(2)
		}
	case 3:
		e.to = v.span(30*time.Second, v.window)
	case 4, 5:
	default:
		return condition{}
	}
	return e
}

// moment is one from shortly before the switch until the verification is over, or earlier.
func (v *verification) moment(earliest time.Duration) time.Duration {
	return v.span(v.planned-earliest, v.planned+v.window)
}

// outage of something else, which may have to do with what makes the proxies unreadable, too.
func (v *verification) outage(c *meshCaller) {
	from := v.moment(6 * time.Minute)
	o := condition{
		cause: byOutage, from: from, to: pick(v.random, from+v.span(10*time.Second, 8*time.Minute), forever), share: pick(v.random, 1, 0.5),
		part: pick(v.random, wholly, half, single), service: -1,
	}
	c.conditions = append(c.conditions, o)
	v.diary.note(v.now, "truth", "%s: %.0f%% of the calls of %s fail for another reason from %s, until %s", c.name, 100*o.share, o.part, stamp(o.from), end(o.to))
	if !v.oneIn(2) {
		return
	}
	for _, p := range c.pods {
		if o.part.has(p.number) {
			v.trouble(p, spell{o.from, o.to, refuses})
		}
	}
}

func end(t time.Duration) string {
	if t == forever {
		return "the end"
	}
	return stamp(t)
}

func (v *verification) trouble(p *callerPod, s spell) {
	p.troubles = append(p.troubles, s)
	v.diary.note(v.now, "truth", "%s %s to whoever reads it, from %s until %s", p.name, s.trouble, began(s.from), end(s.to))
}

func (v *verification) unreadable(c *meshCaller) {
	for _, p := range c.pods {
		if !v.oneIn(2) {
			continue
		}
		from := v.moment(3 * time.Minute)
		s := spell{from, from + v.span(10*time.Second, 5*time.Minute), trouble(1 + v.random.IntN(int(troubles)-1))}
		if v.oneIn(5) {
			s.from, s.to = -forever, forever
		}
		v.trouble(p, s)
	}
}

func (v *verification) restarts(c *meshCaller) {
	for _, p := range c.pods[:1+v.random.IntN(len(c.pods))] {
		for range 1 + v.random.IntN(2) {
			v.later(v.moment(3*time.Minute), func() {
				if !p.gone {
					p.begin(v.now + v.span(time.Second, 5*time.Second))
					v.diary.note(v.now, "truth", "the proxy of %s restarts", p.name)
				}
			})
		}
	}
}

// scales adds pods, and takes some away.
func (v *verification) scales(c *meshCaller) {
	for range 1 + v.random.IntN(3) {
		if v.oneIn(2) {
			v.later(v.moment(3*time.Minute), func() { v.comes(c) })
			continue
		}
		v.later(v.moment(3*time.Minute), func() { v.goes(c.pods[v.random.IntN(len(c.pods))]) })
	}
}

// rolls replaces all pods.
func (v *verification) rolls(c *meshCaller) {
	at := v.moment(time.Minute)
	for _, p := range c.pods {
		v.later(at, func() { v.comes(c) })
		at += v.span(time.Second, 20*time.Second)
		v.later(at, func() { v.goes(p) })
	}
}

func (v *verification) comes(c *meshCaller) {
	v.diary.note(v.now, "truth", "%s is made", v.addPod(c).name)
}

func (v *verification) goes(p *callerPod) {
	if !p.gone {
		p.gone = true
		v.diary.note(v.now, "truth", "%s goes", p.name)
	}
}

// play lets the operator read until it switches, and then until the verdict.
func (v *verification) play() {
	for i := range v.before {
		if i > 0 {
			v.rest()
		}
		v.read(time.Time{})
	}
	v.doSwitch()
	switchedAt := epoch.Add(v.switched)
	if v.oneIn(2) {
		v.rest()
	} else {
		v.advance(v.now + 100*time.Millisecond) // its own write wakes it
	}
	for end := v.switched + v.window + 4*time.Minute; v.now < end; v.rest() {
		v.read(switchedAt)
		d := rollout.Next(v.input(switchedAt))
		v.stage = d.Stage
		v.diary.note(v.now, "operator", "%s %v %s", d.Stage, d.FailedCallers, d.Waiting)
		switch d.Stage {
		case v1alpha1.StageRolledBack:
			v.named(d.FailedCallers)
			return
		case v1alpha1.StageEnforced:
			if v.now < v.switched+v.window {
				v.violate("early: Enforced before the window is over")
			}
			v.passed()
			return
		default:
		}
	}
	v.violate("late: there is no verdict")
}

// rest until the next reading.
func (v *verification) rest() {
	v.advance(v.now + v.late + v.span(verificationInterval, verificationInterval*11/10))
	v.late = 0
}

// doSwitch follows the last reading at once, unless that was not the operator's.
func (v *verification) doSwitch() {
	v.advance(v.now + v.late + v.span(10*time.Millisecond, 200*time.Millisecond))
	v.switched, v.late, v.readBefore = v.now, 0, v.readings
	v.noted(v.readings, false)
	v.taken, v.settled = v.now+v.span(0, 5*time.Second), v.now+drainTime+v.span(0, 5*time.Second)
	v.baseline = map[string]traffic.Reading{"web-1": v.target()}
	for _, c := range v.callers {
		e := c.effect
		e.from += v.taken
		if e.to != forever {
			e.to += v.taken
		}
		if e.share == 0 {
			e = condition{cause: byDrain, from: v.settled, to: v.settled + time.Second, share: 0.3, part: wholly, service: -1}
		} else {
			c.effect = e
		}
		c.conditions = append(c.conditions, e)
	}
	v.diary.note(v.now, "operator", "writes STRICT, which is in force at %s", stamp(v.taken))
}

// asked are the pods of a caller that are read: the five oldest that have an address.
func (v *verification) asked(c *meshCaller) (pods []*callerPod) {
	for _, p := range c.pods {
		if !p.gone && len(pods) < traffic.MaxCallerProxies {
			pods = append(pods, p)
		}
	}
	return pods
}

// watch says who is watched: who called by mutual TLS within the window before the switch, as the target's proxies count it. After
// a restart those are taken that ever did.
func (v *verification) watch() {
	if v.switched >= 0 && v.listed {
		return
	}
	v.listed = true
	for _, c := range v.callers {
		c.watched = false
		for _, p := range c.pods {
			c.watched = c.watched || p.succeeded > v.now-10*time.Minute || v.switched >= 0 && p.succeeded > -forever
		}
	}
}

// read is what controllers.run does for a reading.
func (v *verification) read(switchedAt time.Time) {
	if v.oneIn(40) {
		v.diary.note(v.now, "operator", "cannot list the callers' pods")
		return
	}
	v.readings++
	v.noted(v.readings, !switchedAt.IsZero())
	v.watch()
	request := traffic.CallsRequest{Profile: "profile", Services: v.services}
	for _, c := range v.callers {
		if !c.watched {
			continue
		}
		caller := traffic.CallerProxies{Name: "clients/" + c.name}
		for _, p := range v.asked(c) {
			px := traffic.Proxy{Namespace: "clients", Name: p.name, UID: p.uid, Workload: c.name, Created: epoch.Add(p.created)}
			if v.now >= p.addressed {
				px.Address = p.address
			}
			caller.Proxies = append(caller.Proxies, px)
		}
		request.Callers = append(request.Callers, caller)
	}
	calls := v.observer.Calls(context.Background(), request)
	if v.core.Calls != nil {
		calls = v.core.Calls(calls, switchedAt)
	}
	told := switchedAt
	if v.core.SwitchedAt != nil {
		told = v.core.SwitchedAt(switchedAt)
	}
	v.calls.Note(calls, told)
	v.sighted(v.calls.Sight().Unseen)
	if v.diary.keep {
		v.summary(calls)
	}
}

// summary tells a reading, and the truth beside it.
func (v *verification) summary(calls traffic.Calls) {
	for _, caller := range calls.Callers {
		var pods []string
		for _, p := range caller.Pods {
			pods = append(pods, fmt.Sprintf("%s %d/%d", p.UID, p.Arrived, p.Failed))
		}
		v.diary.note(v.now, "operator", "reads of %s, arrived/failed: %s %s", caller.Name, strings.Join(pods, ", "), caller.Unread)
	}
	for _, c := range v.callers {
		if v.switched >= 0 {
			v.diary.note(v.now, "truth", "%s: %s; as shown: %s", c.name, v.rose(c, ofTruth), v.rose(c, shown))
		}
	}
}

// target is what the one proxy of the target says of its listeners.
func (v *verification) target() traffic.Reading {
	r := traffic.Reading{Namespace: "shop", Name: "web-1", UID: "web-1", Started: epoch.Add(-24 * time.Hour), ListenerUpdates: 1}
	if v.now >= v.taken {
		r.ListenerUpdates = 2
		if v.now < v.settled {
			r.Draining = 1
		}
	}
	return r
}

// input is what the verification is decided of: STRICT is in force, and nothing but the callers may stand in its way.
func (v *verification) input(switchedAt time.Time) rollout.Input {
	now := epoch.Add(v.now)
	selector := map[string]string{"app": "web"}
	return rollout.Input{
		Spec: v.spec,
		Facts: facts.Facts{
			Mesh:   facts.Mesh{PeerAuthentications: true, AutoMTLS: true, RootNamespace: "istio-system", TrustDomain: "cluster.local"},
			Target: facts.Target{Scope: v1alpha1.ScopeWorkload, Selector: selector},
			Policy: facts.Policy{
				Exists: true, Owned: true, Form: facts.Form{Mode: v1alpha1.ModeStrict}, Selector: selector, SwitchedAt: switchedAt,
				Previous: facts.Form{Mode: v1alpha1.ModePermissive},
			},
			Inherited: v1alpha1.ModePermissive, Effective: v1alpha1.ModeStrict,
			Pods: []facts.Pod{{
				Namespace: "shop", Name: "web-1", UID: "web-1", Workload: "web", Created: epoch.Add(-24 * time.Hour), Ready: true,
				Membership: facts.MemberSidecar,
			}},
		},
		Seen:     traffic.Observation{Completeness: traffic.Complete, Time: now, Proxies: []traffic.Reading{v.target()}},
		Previous: rollout.Previous{Generation: 1, Stage: v.stage, Inherited: v1alpha1.ModePermissive},
		Baseline: v.baseline, FailingCallers: rollout.Evidence{Failing: v.calls.Failing()}.FailingCallers(),
		Now: now, Interval: verificationInterval, Settle: settle,
	}
}
