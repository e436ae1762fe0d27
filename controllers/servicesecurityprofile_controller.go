package controllers

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/apply"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/istio"
	"github.com/servicesecurity/operator/controllers/plan"
	"github.com/servicesecurity/operator/controllers/resolve"
	"github.com/servicesecurity/operator/controllers/rollout"
	"github.com/servicesecurity/operator/controllers/status"
	"github.com/servicesecurity/operator/controllers/traffic"
)

// FieldOwner owns what the operator writes by server-side apply.
const FieldOwner = client.FieldOwner("servicesecurity-operator")

// jitter spreads profiles that would be looked at in the same moment.
const jitter = 0.1

// unsupportedInterval is how often a write is tried that the installed Istio does not support.
const unsupportedInterval = time.Minute

// Reconciler makes the cluster say what profiles ask for.
type Reconciler struct {
	// Client reads from the cache and writes to the API server.
	Client   client.Client
	Resolver *resolve.Resolver
	Observer traffic.Observer
	// AccessLogs knows who calls in plaintext; nil where access logs are not received.
	AccessLogs traffic.AccessLogs
	// DryRuns reads what a dry run has counted.
	DryRuns traffic.DryRunObserver
	// Calls reads what the callers' own proxies have counted; nil if nothing can.
	Calls    traffic.CallObserver
	Recorder events.EventRecorder
	Clock    clock.PassiveClock
	// Interval between two readings of a target's proxies.
	Interval time.Duration
	// Settle is how long clients are given to take a change of their side.
	Settle time.Duration

	memory memory
}

// run is one reconcile of one profile.
type run struct {
	*Reconciler
	profile *v1alpha1.ServiceSecurityProfile
	known   *knowledge
	out     status.Input

	// name of the workload, if this is the reconcile of one of a whole namespace's.
	name string
	// covered and unselectable are explained at facts.Member.
	covered, unselectable bool
	// behind says that other workloads of the namespace get STRICT before this one.
	behind bool
	// refused are who is cut off by the switch, by access logs.
	refused []string
	// hold says why STRICT must not be written now.
	hold string
	// until is when the readings of all workloads of a namespace must be over, if this is the reconcile of one.
	until time.Time
	// members are the reconciles of the workloads of a whole namespace.
	members []*run
}

// Reconcile takes one profile through the pipeline.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	profile := &v1alpha1.ServiceSecurityProfile{}
	if err := r.Client.Get(ctx, req.NamespacedName, profile); err != nil {
		if apierrors.IsNotFound(err) {
			r.forget(req.NamespacedName)
		}
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !profile.DeletionTimestamp.IsZero() {
		// Owner references make the garbage collector take the objects away in the right order.
		return ctrl.Result{}, nil
	}
	known := r.remember(req.NamespacedName, profile.UID, r.Clock.Now())
	p := &run{Reconciler: r, profile: known.current(profile), known: known}
	p.out = status.Input{Profile: p.profile, Now: r.Clock.Now()}
	if err := p.resolve(ctx, r.Resolver); err != nil {
		return ctrl.Result{}, err
	}
	if p.out.Facts.Actionable() {
		if err := p.decide(ctx); err != nil {
			return ctrl.Result{}, err
		}
		if err := p.checkParent(ctx); err != nil {
			return ctrl.Result{}, err
		}
		p.apply(ctx)
		p.count(ctx)
	}
	return p.finish(ctx)
}

// resolve reads the facts and what the spec asks for.
func (p *run) resolve(ctx context.Context, resolver *resolve.Resolver) error {
	found, err := resolver.Resolve(ctx, p.profile)
	if err == nil && !found.Live && (p.known.doubt || p.known.behind(found.Policy)) {
		found, err = p.Resolver.Live().Resolve(ctx, p.profile)
		found.Live = false // the profile itself is the cache's
	}
	if err != nil {
		return fmt.Errorf("resolving the target: %w", err)
	}
	spec, problem := p.spec()
	if found.Actionable() {
		// A conflict is about one section; whatever else is wrong is graver.
		for _, graver := range []*facts.Problem{problem, keysProblem(p.profile), ambientProblem(p.profile, found)} {
			if graver != nil {
				found.Problem = graver
				break
			}
		}
	}
	found.UnchangedFor = p.known.unchangedFor(found, p.out.Now)
	p.out.Facts, p.out.Spec = found, spec
	return nil
}

// spec reads what is asked of mutual TLS, and says why it cannot be done by this operator.
func (p *run) spec() (rollout.Spec, *facts.Problem) {
	spec, err := rollout.SpecOf(p.profile)
	if err != nil {
		return spec, &facts.Problem{
			Reason: v1alpha1.ReasonInvalid, Section: v1alpha1.SectionMTLS,
			Message: fmt.Sprintf("mtls.rollout is not valid: %v.", err),
		}
	}
	return spec, p.tooShort(spec)
}

// decide looks at the traffic if the decision depends on it. A decision that would switch to STRICT is made again from
// facts read live and from a reading taken after them.
func (p *run) decide(ctx context.Context) error {
	p.out.Seen = traffic.Observation{Completeness: traffic.Skipped}
	if p.out.Facts.Lost(v1alpha1.SectionMTLS) {
		return nil
	}
	if rollout.Stages(p.input()) {
		return p.decideMembers(ctx)
	}
	p.dropMembers()
	p.out.Decision = rollout.Next(p.input())
	if p.out.Decision.Observe {
		p.observe(ctx)
	} else {
		p.log(ctx)
	}
	if !p.out.Decision.Confirm {
		return nil
	}
	log.FromContext(ctx).V(1).Info("Every gate is open, reading them live")
	if err := p.reread(ctx); err != nil {
		return err
	}
	if err := p.resolve(ctx, p.Resolver.Live()); err != nil {
		return err
	}
	if !p.out.Facts.Actionable() || p.out.Facts.Lost(v1alpha1.SectionMTLS) {
		p.out.Decision = rollout.Decision{}
		return nil
	}
	p.observe(ctx)
	return nil
}

// checkParent reads the parent live before a write that rests on it: a cache may not have it yet that the parent is STRICT, which
// nobody may undo, or that it is not any more, and then STRICT has no evidence.
func (p *run) checkParent(ctx context.Context) error {
	if !rollout.ByParent(p.input(), p.out.Decision) {
		return nil
	}
	inherited, err := p.Resolver.Live().Inherited(ctx, p.profile, p.out.Facts)
	if err != nil {
		return fmt.Errorf("reading what is inherited: %w", err)
	}
	if inherited != "" && inherited != p.out.Facts.Inherited {
		return fmt.Errorf("reading what is inherited: it was %s a moment ago and is %s now", p.out.Facts.Inherited, inherited)
	}
	return nil
}

// errChanged says that what was decided was decided for another spec.
var errChanged = errors.New("reading the profile")

// reread reads the profile itself live: its spec may have changed, and with it what the switch rests on.
func (p *run) reread(ctx context.Context) error {
	profile := &v1alpha1.ServiceSecurityProfile{}
	if err := p.Resolver.LiveReader.Get(ctx, client.ObjectKeyFromObject(p.profile), profile); err != nil {
		return fmt.Errorf("reading the profile: %w", err)
	}
	if profile.UID != p.profile.UID || !profile.DeletionTimestamp.IsZero() {
		return fmt.Errorf("%w: it is being replaced or deleted", errChanged)
	}
	p.profile, p.out.Profile = profile, profile
	return nil
}

func (p *run) observe(ctx context.Context) {
	within, cancel := p.within(ctx, observationTimeout, 0)
	defer cancel()
	asked := request(p.profile, p.out.Spec, p.out.Facts, p.out.Now)
	asked.Readings = asked.Readings || p.near()
	released := p.known.refused.Released(p.out.Facts.Pods, p.out.Spec.ObservationWindow, p.out.Now)
	asked.Unobserved = asked.Unobserved || released
	p.out.Seen = p.Observer.Observe(within, asked)
	p.out.Now = p.Clock.Now()
	p.watch(ctx)
	p.log(ctx)
	p.out.Seen = p.out.Seen.With(p.out.Logged)
	observations.WithLabelValues(string(p.out.Seen.Completeness)).Inc()
	p.out.Decision = rollout.Next(p.input())
}

// within bounds a reading: what comes after it has a part of the reconcile's time, too. Those of all workloads of a namespace
// together may take as long as one of a single target, but for the grace.
func (p *run) within(ctx context.Context, timeout, grace time.Duration) (context.Context, context.CancelFunc) {
	deadline := time.Now().Add(timeout)
	if last := p.until.Add(grace); !p.until.IsZero() && last.Before(deadline) {
		deadline = last
	}
	return context.WithDeadline(ctx, deadline)
}

// count reads what a dry run has counted.
func (p *run) count(ctx context.Context) {
	a := p.profile.Spec.Authorization
	if !p.counts() || p.out.Now.Sub(p.known.counted).Abs() < p.Interval {
		return
	}
	p.known.counted = p.out.Now
	within, cancel := context.WithTimeout(ctx, observationTimeout)
	defer cancel()
	p.out.Shadow = p.DryRuns.DryRun(within, traffic.DryRunRequest{
		Proxies: proxies(p.out.Facts.Pods), Denies: len(a.DeniedCallers) > 0, Allows: a.Default != v1alpha1.DefaultAllow,
	})
}

// counts says whether a dry run goes on.
func (p *run) counts() bool {
	a := p.profile.Spec.Authorization
	return a != nil && a.Enforcement == v1alpha1.EnforcementDryRun && p.out.Facts.Actionable() && !p.out.Facts.Lost(v1alpha1.SectionAuthorization)
}

func (p *run) input() rollout.Input {
	return rollout.Input{
		Spec: p.out.Spec, Facts: p.out.Facts, Seen: p.out.Seen, Previous: rollout.PreviousOf(p.profile.Status),
		Held: p.known.held, Hold: p.hold, Baseline: p.known.baseline,
		FailingCallers: p.failing(),
		Now:            p.out.Now, Interval: p.Interval, Settle: p.Settle,
	}
}

// apply writes what was decided.
func (p *run) apply(ctx context.Context) {
	if !p.out.Facts.Actionable() {
		return
	}
	desired := istio.Render(p.profile.Name, plan.Build(p.profile, p.out.Facts, p.out.Decision))
	applier := apply.Applier{
		Client: p.Client, Mesh: p.out.Facts.Mesh, Settle: p.Settle,
		TokensAge:   p.known.age(apply.RequestAuthentication, p.out.Now),
		PoliciesAge: p.known.age(apply.AuthorizationPolicy, p.out.Now),
	}
	// Before the write, whose answer may get lost: it may have been made then.
	p.known.expect(p.out.Decision, p.out.Seen.Proxies)
	p.expectMembers()
	p.out.Applied, p.out.ApplyError = applier.Apply(ctx, p.profile, desired)
	for _, change := range p.out.Applied.Changes {
		writes.WithLabelValues(change.Kind, string(change.Verb)).Inc()
		if change.Unlike {
			p.known.touch(change.Kind, p.Clock.Now())
		}
		log.FromContext(ctx).Info("Istio object written", "verb", change.Verb, "kind", change.Kind, "name", change.Name)
	}
	p.known.doubt = p.out.ApplyError != nil && !permanent(p.out.ApplyError)
	p.learn()
	p.learnMembers()
}

// learn remembers what was done, and drops what is not needed any more.
func (p *run) learn() {
	d := p.out.Decision
	p.known.wrote(facts.PeerName(p.profile), p.out.Applied.Changes)
	if !p.out.Applied.PeerHeld && (p.out.ApplyError == nil || p.out.Applied.Holds(apply.PeerAuthentication, facts.PeerName(p.profile))) {
		p.known.held = d.Held(p.out.Facts.Target, p.known.held)
		if d.Switched {
			promotions.Inc()
		}
	}
	if d.SwitchedAt.IsZero() {
		p.known.baseline = nil
	}
	if !d.Observe {
		p.Observer.Forget(p.known.observed)
		p.known.calls, p.known.meshed = nil, nil
	}
}

// finish says what happened, in status, events and metrics, and when to look again.
func (p *run) finish(ctx context.Context) (ctrl.Result, error) {
	if err := p.out.ApplyError; stale(err) {
		// The cache lags behind what someone wrote. There is nothing to report before it has that.
		return ctrl.Result{}, err
	}
	p.out.Sight = p.sight()
	computed := status.Compute(p.out)
	if err := p.writeStatus(ctx, computed); err != nil {
		return ctrl.Result{}, err
	}
	if err := p.out.ApplyError; err != nil && !permanent(err) {
		return ctrl.Result{}, err
	}
	if after := p.again(); after > 0 {
		return ctrl.Result{RequeueAfter: wait.Jitter(after, jitter)}, nil
	}
	return ctrl.Result{}, nil
}

// again is when to look again although nothing changes; zero for never.
func (p *run) again() time.Duration {
	after := p.out.Decision.After
	if clears := p.refusalEnds(); clears > 0 && (after <= 0 || clears < after) {
		after = clears
	}
	if p.counts() && (after <= 0 || p.Interval < after) {
		after = p.Interval
	}
	if settling := p.out.Applied.Settling; settling > 0 && (after <= 0 || settling < after) {
		after = settling
	}
	if unsupported := (*apply.UnsupportedError)(nil); after <= 0 && errors.As(p.out.ApplyError, &unsupported) {
		// Nothing tells that a definition has got a new field.
		return unsupportedInterval
	}
	return after
}

// stale says that nothing went wrong but that the objects have changed since they were read.
func stale(err error) bool {
	if err == nil {
		return false
	}
	for _, e := range unwrap(err) {
		if !apierrors.IsConflict(e) && !apierrors.IsAlreadyExists(e) {
			return false
		}
	}
	return true
}

// permanent says that trying again changes nothing: a person, or an event, has to.
func permanent(err error) bool {
	var foreign *apply.ForeignObjectError
	var unsupported *apply.UnsupportedError
	var absent *apply.NotInstalledError
	for _, e := range unwrap(err) {
		if !errors.As(e, &foreign) && !errors.As(e, &unsupported) && !errors.As(e, &absent) {
			return false
		}
	}
	return true
}

func unwrap(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
}
