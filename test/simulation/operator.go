package simulation

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers"
	"github.com/servicesecurity/operator/controllers/apply"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/rollout"
	"github.com/servicesecurity/operator/controllers/status"
	"github.com/servicesecurity/operator/controllers/traffic"
)

// settle and statusInterval are the manager's.
const (
	settle         = 5 * time.Second
	statusInterval = time.Minute
)

// epoch is when every history begins.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Core is what is put between the simulator and the code under test, to break it. The zero value leaves it as it is.
type Core struct {
	// Next stands for rollout.Next.
	Next func(rollout.Input) rollout.Decision
	// Observer stands before the observer of a new operator process.
	Observer func(traffic.Observer) traffic.Observer
	// Request changes what is asked of the observer.
	Request func(*traffic.Request)
	// Exposition changes what the proxy of a pod of that age answers.
	Exposition func(uid string, age time.Duration, text []byte) []byte
	// Server stands before the Prometheus server of a new operator process.
	Server func(http.RoundTripper) http.RoundTripper
}

// clock is an operator's: people set the one on the wall, and only truth moves the one that ticks.
type clock struct{ w *world }

func (c clock) Now() time.Time { return epoch.Add(c.w.now + c.w.skew) }

// Since is only asked of the moment at which the process began.
func (c clock) Since(time.Time) time.Duration { return c.w.now - c.w.booted }

// cluster is what an API server, or a cache of it, says at one moment.
type cluster struct {
	profile *v1alpha1.ServiceSecurityProfile
	version int // of the PeerAuthentication
	facts   facts.Facts
}

// operator is one process of it: what it remembers dies with it. It does what controllers.Reconciler does, in its order.
type operator struct {
	w        *world
	core     Core
	clock    clock
	observer traffic.Observer
	number   int
	due      time.Duration
	failures int

	held          facts.Policy
	peer          int  // its version
	doubt         bool // whether the last write was made
	baseline      map[string]traffic.Reading
	objects       string
	unchanged     time.Time
	status        *v1alpha1.ServiceSecurityProfileStatus // as written, as of version
	statusVersion int
	statusWritten time.Time
}

func (w *world) boot(core Core) {
	w.operators++
	w.booted = w.now
	w.mistake()
	if w.logs != nil {
		w.logs.entries = nil
	}
	w.readers++
	w.memories++
	o := &operator{w: w, core: core, clock: clock{w}, number: w.operators, due: w.now}
	o.observer = w.source.observer(o.clock, core)
	if core.Observer != nil {
		o.observer = core.Observer(o.observer)
	}
	w.operator = o
	w.diary.note(w.now, "operator", "starts")
	w.oracle.hold(w.now, "the operator restarted")
}

func (o *operator) wake(at time.Duration) { o.due = min(o.due, at) }

func (o *operator) alive() bool { return o.w.operator == o }

// run is one reconcile.
type run struct {
	*operator
	version int
	out     status.Input
}

func (o *operator) reconcile() {
	w := o.w
	o.due = forever
	seen := w.look()
	if w.now < w.staleUntil {
		seen = o.fresher(seen)
	}
	r := &run{operator: o, out: status.Input{Profile: o.current(seen.profile), Now: o.clock.Now()}}
	if r.out.Profile == nil {
		return
	}
	r.resolve(seen, false)
	r.decide()
	if !o.alive() {
		return
	}
	w.oracle.decided(w, r.input(), r.out.Decision)
	after, err := time.Duration(0), r.checkParent()
	if err == nil {
		r.apply()
		if !o.alive() {
			return
		}
		after, err = r.finish()
	}
	if err != nil {
		o.failures++
		o.wake(w.now + min(time.Second<<min(o.failures, 6), w.config.interval))
		w.diary.note(w.now, "operator", "fails: %v", err)
		return
	}
	o.failures = 0
	if after > 0 {
		o.wake(w.now + after + time.Duration(w.random.Int64N(int64(after)/10+1)))
	}
}

// fresher is what a cache that stands still has, but for an object that is older than the last write of it.
func (o *operator) fresher(live *cluster) *cluster {
	stale := o.w.stale
	if !o.doubt && (!stale.facts.Policy.Exists || stale.version >= o.peer) {
		return stale
	}
	return &cluster{profile: stale.profile, version: live.version, facts: live.facts}
}

// current is the profile with the status that was last written, if the cache has an older one.
func (o *operator) current(cached *v1alpha1.ServiceSecurityProfile) *v1alpha1.ServiceSecurityProfile {
	if o.status == nil {
		return cached
	}
	if version, err := strconv.Atoi(cached.ResourceVersion); err != nil || version >= o.statusVersion {
		o.status = nil
		return cached
	}
	profile := cached.DeepCopy()
	profile.Status = *o.status.DeepCopy()
	return profile
}

func (r *run) resolve(c *cluster, live bool) {
	spec, err := rollout.SpecOf(r.out.Profile)
	if err != nil {
		panic(err) // the histories have no such specs
	}
	f := c.facts
	f.Live = live
	objects := fmt.Sprint(f.Policy.Exists, f.Policy.Form, f.Policy.Selector)
	if objects != r.objects || r.out.Now.Before(r.unchanged) {
		r.objects, r.unchanged = objects, r.out.Now
	}
	f.UnchangedFor = r.out.Now.Sub(r.unchanged)
	r.out.Facts, r.out.Spec, r.version = f, spec, c.version
	r.w.listed(f.Pods)
}

func (r *run) decide() {
	r.out.Seen = traffic.Observation{Completeness: traffic.Skipped}
	r.out.Decision = r.next()
	if r.out.Decision.Observe {
		r.observe()
	} else {
		r.log()
	}
	if !r.out.Decision.Confirm {
		return
	}
	live := r.w.look()
	r.out.Profile = live.profile
	r.resolve(live, true)
	r.observe()
}

func (r *run) observe() {
	w := r.w
	request := controllers.RequestOf(r.out.Profile, r.out.Spec, r.out.Facts, r.out.Now)
	request.Readings = request.Readings || controllers.Near(r.out.Profile, r.out.Spec, r.out.Decision.Eligible, r.out.Now, w.config.interval)
	if r.core.Request != nil {
		r.core.Request(&request)
	}
	w.oracle.pass(w, request)
	w.source.asked(request)
	r.out.Seen = r.observer.Observe(context.Background(), request)
	r.out.Now = r.clock.Now()
	r.log()
	r.out.Decision = r.next()
	if o := r.out.Seen; o.Completeness != traffic.Complete || o.Gap != "" {
		w.oracle.gap(w.now, o)
		w.diary.note(w.now, "operator", "sees: %s %s %s", o.Completeness, o.Gap, o.Message)
	}
	if o := r.out.Seen; o.Completeness == traffic.Complete {
		w.oracle.lingers(w, o)
		w.evidenced(r.out.Facts.Pods)
	}
}

func (r *run) input() rollout.Input {
	in := rollout.Input{
		Spec: r.out.Spec, Facts: r.out.Facts, Seen: r.out.Seen, Previous: rollout.PreviousOf(r.out.Profile.Status),
		Held: r.held, Baseline: r.baseline, Now: r.out.Now, Interval: r.w.config.interval, Settle: settle,
	}
	if !in.Facts.Policy.SwitchedAt.IsZero() {
		in.FailingCallers = r.w.failingCallers()
	}
	return in
}

func (r *run) next() rollout.Decision {
	if r.core.Next != nil {
		return r.core.Next(r.input())
	}
	return rollout.Next(r.input())
}

func (r *run) checkParent() error {
	if r.w.parent != r.out.Facts.Inherited && rollout.ByParent(r.input(), r.out.Decision) {
		return errors.New("the parent changed a moment ago")
	}
	return nil
}

// apply writes the PeerAuthentication.
func (r *run) apply() {
	d := r.out.Decision
	if !d.Keep && !d.Form.Equal(r.held.Form) {
		r.held = facts.Policy{}
	}
	if d.Switched {
		r.baseline = map[string]traffic.Reading{}
		for _, reading := range r.out.Seen.Proxies {
			r.baseline[reading.UID] = reading
		}
	}
	own := v1alpha1.ResourceRef{Kind: apply.PeerAuthentication, Name: r.out.Profile.Name}
	changed, err := r.write(d)
	if changed {
		r.out.Applied.Changes = []apply.Change{{Verb: apply.Updated, Kind: own.Kind, Name: own.Name}}
	}
	r.out.ApplyError, r.doubt = err, err != nil
	if changed {
		r.peer = r.w.version
	}
	if err == nil && (!d.Form.Empty() || d.Keep) {
		r.out.Applied.Resources = []v1alpha1.ResourceRef{own}
	}
	if err == nil {
		r.held = d.Held(r.out.Facts.Target, r.held)
		r.w.oracle.knows(r.number, r.held.Form)
	}
	if d.SwitchedAt.IsZero() {
		r.baseline = nil
	}
	if !d.Observe {
		r.observer.Forget(controllers.RequestOf(r.out.Profile, r.out.Spec, r.out.Facts, r.out.Now).Profile)
		r.w.readers++
		r.w.memories++
		r.w.forgot = r.w.now
	}
}

// write makes the live object say what was decided, if it is still as it was read.
func (r *run) write(d rollout.Decision) (changed bool, err error) {
	w := r.w
	want := facts.Policy{}
	switch {
	case d.Keep:
		return false, nil
	case !d.Form.Empty():
		want = facts.Policy{
			Exists: true, Owned: true, Form: d.Form, Selector: maps.Clone(r.out.Facts.Target.Selector), SwitchedAt: d.SwitchedAt, Previous: d.Previous,
			RolledBack: d.RolledBack,
		}
	}
	if read := r.out.Facts.Policy; same(want, read) {
		return false, nil
	}
	parent := w.parent
	w.advance(w.now + w.between(5*time.Millisecond, 50*time.Millisecond))
	if !r.alive() {
		return false, errors.New("killed")
	}
	w.oracle.crossed = w.parent != parent
	if w.fault.now(w, "PeerAuthentication") {
		return false, errors.New("writing PeerAuthentication: the server is away")
	}
	if r.version != w.version {
		return false, apierrors.NewConflict(schema.GroupResource{Resource: "peerauthentications"}, r.out.Profile.Name, errors.New("it was read before"))
	}
	before := w.inForce()
	w.policy = want
	w.version++
	w.diary.note(w.now, "operator", "writes %s, which said %s", w.inForce(), before)
	w.oracle.wrote(w, r.input(), d, before)
	w.configure()
	r.wake(w.now + 100*time.Millisecond) // it watches its own objects, too
	if w.fault.now(w, "answer") {
		return false, errors.New("writing PeerAuthentication: the answer was lost")
	}
	return true, nil
}

func same(a, b facts.Policy) bool {
	return a.Exists == b.Exists && a.Form.Equal(b.Form) && a.SwitchedAt.Equal(b.SwitchedAt) && a.RolledBack == b.RolledBack && maps.Equal(a.Selector, b.Selector)
}

// finish writes the status, and says when to look again.
func (r *run) finish() (time.Duration, error) {
	if err := r.out.ApplyError; err != nil && apierrors.IsConflict(err) {
		return 0, err
	}
	computed := status.Compute(r.out)
	if err := r.writeStatus(computed); err != nil {
		return 0, err
	}
	if d := r.out.Decision; r.w.diary.keep {
		r.w.diary.note(r.w.now, "operator", "%s by its clock: %s clean since %s, last plaintext %s, open %d, %v %s",
			r.out.Now.Format("01-02 15:04:05"), d.Stage, d.CleanSince.Format("01-02 15:04:05"), d.LastPlaintext.Format("15:04:05"), r.out.Seen.OpenPlaintext, types(d.Blockers), d.Waiting)
	}
	return r.out.Decision.After, r.out.ApplyError
}

func (r *run) writeStatus(computed v1alpha1.ServiceSecurityProfileStatus) error {
	w, before := r.w, r.out.Profile.Status
	if status.Equal(before, computed) {
		return nil
	}
	urgent := r.out.Seen.Gap != "" || status.Significant(before, computed) || status.Overstates(before, computed, statusInterval)
	if !urgent && r.out.Now.Sub(r.statusWritten).Abs() < statusInterval {
		return nil
	}
	w.advance(w.now + w.between(5*time.Millisecond, 50*time.Millisecond))
	if !r.alive() {
		return errors.New("killed")
	}
	if w.fault.now(w, "status") {
		return errors.New("writing the status: the server is away")
	}
	w.edit(func(p *v1alpha1.ServiceSecurityProfile) { p.Status = computed })
	w.oracle.recorded(w)
	if w.fault.now(w, "status answer") {
		return errors.New("writing the status: the answer was lost")
	}
	r.status, r.statusWritten = computed.DeepCopy(), r.out.Now
	r.statusVersion, _ = strconv.Atoi(w.profile.ResourceVersion)
	return nil
}

// edit replaces the live profile, which is never changed in place: caches still have the one before.
func (w *world) edit(change func(*v1alpha1.ServiceSecurityProfile)) {
	profile := w.profile.DeepCopy()
	change(profile)
	version, _ := strconv.Atoi(profile.ResourceVersion)
	profile.ResourceVersion = strconv.Itoa(version + 1)
	w.profile = profile
}

// look is what the API server says now.
func (w *world) look() *cluster {
	f := facts.Facts{
		Mesh:   facts.Mesh{PeerAuthentications: true, AutoMTLS: true, RootNamespace: "istio-system", TrustDomain: "cluster.local"},
		Target: facts.Target{Scope: v1alpha1.ScopeWorkload, Selector: map[string]string{"app": "web"}},
		Policy: w.policy, Inherited: w.parent, CompetingPolicies: w.competing, ClientRules: w.rule,
	}
	for _, p := range w.pods {
		pod := facts.Pod{
			Namespace: "shop", Name: p.name, UID: p.uid, IP: p.address, Workload: "web", Created: epoch.Add(p.created + w.stamps),
			Restarts: p.restarts, Ready: p.proc != nil || !p.meshed, Terminating: p.terminating, Membership: facts.MemberSidecar,
		}
		if !p.meshed {
			pod.Membership = facts.MemberNone
		}
		if p.proc != nil {
			pod.StatsEviction = p.proc.evicts
		}
		if p.probes {
			pod.UnrewrittenProbes = []string{"app"}
		}
		f.Pods = append(f.Pods, pod)
	}
	if len(w.pods) > 0 {
		f.Effective = w.inForce().Mode
	}
	if w.rolling > 0 {
		f.RollingOut = []string{"Deployment web"}
	}
	if w.telemetryObject {
		f.TelemetryOverrides = []string{"shop/quiet"}
	}
	return &cluster{profile: w.profile, version: w.version, facts: f}
}

func types(blockers []v1alpha1.Blocker) []v1alpha1.BlockerType {
	var all []v1alpha1.BlockerType
	for _, b := range blockers {
		all = append(all, b.Type)
	}
	return all
}

// fault is what the API server does to one of the next writes.
type fault struct {
	what  string
	times int
}

func (f *fault) now(w *world, what string) bool {
	if f.times == 0 || f.what != what {
		return false
	}
	f.times--
	w.oracle.hold(w.now, "the API server failed")
	w.diary.note(w.now, "truth", "the API server fails: %s", what)
	return true
}
