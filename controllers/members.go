package controllers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/resolve"
	"github.com/servicesecurity/operator/controllers/rollout"
	"github.com/servicesecurity/operator/controllers/status"
	"github.com/servicesecurity/operator/controllers/traffic"
)

// membersAtOnce is how many workloads of a namespace are observed at the same time. How many proxies are read at once, over
// all, is the observer's to bound.
const membersAtOnce = 64

// decideMembers takes the workloads of a whole namespace towards STRICT one by one, and the namespace after them.
func (p *run) decideMembers(ctx context.Context) error {
	if mtls := p.profile.Status.MTLS; p.known.members == nil {
		p.known.members = map[string]*knowledge{}
		if mtls != nil {
			p.known.callers = slices.Clone(mtls.PlaintextCallers)
		}
	}
	whole, err := p.resolveMembers(ctx, p.Resolver)
	if err != nil || p.tooMany() {
		return err
	}
	next := 2 * int(p.out.Spec.MaxConcurrent)
	for _, m := range p.members {
		m.hold, m.behind = rollout.HoldMembers(p.input()), next <= 0
		if mtls := m.profile.Status.MTLS; mtls != nil && mtls.Stage == v1alpha1.StageObserving {
			next--
		}
	}
	p.lookAtMembers(ctx)
	p.checkMembersParent(ctx)
	if err := p.admit(ctx); err != nil {
		return err
	}
	p.gather(whole)
	if !p.out.Decision.Confirm {
		return nil
	}
	return p.lastStep(ctx)
}

// resolveMembers finds the workloads.
func (p *run) resolveMembers(ctx context.Context, resolver *resolve.Resolver) (resolve.Namespace, error) {
	found, err := resolver.Members(ctx, p.profile)
	if err == nil && p.outrun(found.Members) {
		found, err = p.Resolver.Live().Members(ctx, p.profile)
		for i := range found.Members {
			found.Members[i].Facts.Live = false // the profile itself is the cache's
		}
	}
	if err != nil {
		return found, fmt.Errorf("resolving the workloads: %w", err)
	}
	p.members = nil
	seen := map[string]bool{}
	for _, m := range found.Members {
		seen[m.Name] = true
		p.members = append(p.members, p.member(m))
	}
	for name, known := range p.known.members {
		if !seen[name] {
			p.Observer.Forget(known.observed)
			delete(p.known.members, name)
		}
	}
	return found, nil
}

// outrun says that a cache may have the object of a workload as it was before it was last written.
func (p *run) outrun(members []facts.Member) bool {
	return slices.ContainsFunc(members, func(m facts.Member) bool {
		known := p.known.members[m.Name]
		return !m.Facts.Live && (p.known.doubt || known != nil && known.behind(m.Facts.Policy))
	})
}

// member is the reconcile of one workload, as a part of that of its namespace.
func (p *run) member(m facts.Member) *run {
	known, ok := p.known.members[m.Name]
	if !ok {
		known = newKnowledge(m.Profile.UID, m.Profile.Name, p.out.Now)
		p.known.members[m.Name] = known
	}
	m.Facts.UnchangedFor = known.unchangedFor(m.Facts, p.out.Now)
	return &run{Reconciler: p.Reconciler, profile: m.Profile, known: known, name: m.Name, covered: m.Covered, unselectable: m.Unselectable, out: status.Input{
		Profile: m.Profile, Spec: rollout.MemberSpec(p.out.Spec), Facts: m.Facts, Now: p.out.Now,
		Seen: traffic.Observation{Completeness: traffic.Skipped},
	}}
}

// tooMany refuses a namespace that status has no room for.
func (p *run) tooMany() bool {
	if len(p.members) <= v1alpha1.MaxRollouts {
		return false
	}
	p.out.Facts.Problem = &facts.Problem{
		Reason: v1alpha1.ReasonUnsupported, Section: v1alpha1.SectionMTLS,
		Message: fmt.Sprintf("The namespace has more than %d workloads, which is too many for rollout.strategy Staged. Write a profile for each, or strategy Immediate.", v1alpha1.MaxRollouts),
	}
	p.members = nil
	return true
}

// dropMembers forgets the workloads of a namespace that goes no more by them.
func (p *run) dropMembers() {
	for _, known := range p.known.members {
		p.Observer.Forget(known.observed)
	}
	p.known.members, p.known.callers = nil, nil
}

// lookAtMembers decides for each workload, many at the same time.
func (p *run) lookAtMembers(ctx context.Context) {
	group := errgroup.Group{}
	group.SetLimit(membersAtOnce)
	until := time.Now().Add(observationTimeout)
	for _, m := range p.members {
		m.until = until
		group.Go(func() error { m.look(ctx); return nil })
	}
	_ = group.Wait() // what cannot be observed is said in the observation
}

// look decides for one workload, and observes it if the decision depends on its traffic.
func (p *run) look(ctx context.Context) {
	if !p.next() {
		return
	}
	if p.out.Decision.Observe {
		p.observe(ctx)
		return
	}
	p.log(ctx)
	p.out.Seen.Callers = p.out.Logged.Refused()
}

// next decides for one workload by what is known, and says whether it goes through a rollout.
func (p *run) next() bool {
	switch {
	case p.asMember().Follows():
		p.out.Decision = rollout.Decision{}
	case p.unselectable:
		p.out.Decision = rollout.Unselectable()
	case p.out.Facts.Lost(v1alpha1.SectionMTLS):
		p.out.Decision = rollout.Disputed(p.out.Facts)
	case p.out.Facts.Policy.Former && len(p.out.Facts.CompetingPolicies) > 0:
		// A new object would be the youngest, and not count beside the others.
		p.out.Decision = rollout.Unchanged(p.input(), fmt.Sprintf("Its PeerAuthentication has the name of before, and keeps it as long as there is %s for its pods.", p.out.Facts.CompetingPolicies[0].Name))
	default:
		p.out.Decision = rollout.Next(p.input())
		return true
	}
	return false
}

func (p *run) asMember() rollout.Member {
	return rollout.Member{Name: p.name, Object: p.profile.Name, Facts: p.out.Facts, Decision: p.out.Decision, Covered: p.covered}
}

func (p *run) rolloutMembers() []rollout.Member {
	members := make([]rollout.Member, 0, len(p.members))
	for _, m := range p.members {
		members = append(members, m.asMember())
	}
	return members
}

// checkMembersParent decides from facts read live for the workloads whose objects rest on what they inherit; see checkParent.
func (p *run) checkMembersParent(ctx context.Context) {
	live := p.Resolver.Live().Sharing()
	for _, m := range p.members {
		if !m.asMember().Written() || m.out.Facts.Live || !rollout.ByParent(m.input(), m.out.Decision) {
			continue
		}
		found, err := live.Member(ctx, m.profile)
		if err != nil {
			// What was decided for the others must be written nevertheless.
			log.FromContext(ctx).Error(err, "Reading live what a workload inherits failed", "workload", m.name)
			m.out.Decision = rollout.Unchanged(m.input(), "What the workload inherits could not be read once more.")
			continue
		}
		found.Live = false // what was observed is older
		found.UnchangedFor = m.known.unchangedFor(found, p.out.Now)
		m.out.Facts = found
		m.next()
	}
}

// admit confirms the ripe workloads by facts read live, as many as may be verified at once.
func (p *run) admit(ctx context.Context) error {
	free := rollout.Admit(p.input(), p.rolloutMembers())
	reread := sync.OnceValue(func() error { return p.rereadUnchanged(ctx) })
	until := time.Now().Add(observationTimeout)
	for _, m := range p.members {
		if !m.out.Decision.Confirm {
			continue
		}
		if free == 0 {
			m.wait(rollout.MaxConcurrentReached)
			continue
		}
		err := reread()
		if errors.Is(err, errChanged) {
			return err
		}
		m.until = until
		if err == nil {
			err = m.confirm(ctx)
		}
		if err != nil {
			// It waits. What was decided for the others must not: a rollback may be among that.
			log.FromContext(ctx).Error(err, "Reading a ripe workload live failed", "workload", m.name)
			m.wait("Every gate is open, and they could not be read once more.")
		}
		if m.out.Decision.Switched {
			free--
		}
	}
	return nil
}

// confirm decides for a workload from facts read live.
func (p *run) confirm(ctx context.Context) error {
	live, err := p.Resolver.Live().Member(ctx, p.profile)
	if err != nil {
		return fmt.Errorf("resolving workload %s: %w", p.name, err)
	}
	live.UnchangedFor = p.known.unchangedFor(live, p.out.Now)
	p.out.Facts = live
	p.look(ctx)
	return nil
}

// wait decides for a workload that must not get STRICT now.
func (p *run) wait(why string) {
	p.hold = why
	p.out.Decision = rollout.Next(p.input())
}

// rereadUnchanged reads the profile live, which must ask for what it asked for before: workloads were decided by that.
func (p *run) rereadUnchanged(ctx context.Context) error {
	generation := p.profile.Generation
	if err := p.reread(ctx); err != nil {
		return err
	}
	if p.profile.Generation != generation {
		return fmt.Errorf("%w: it was edited a moment ago", errChanged)
	}
	return nil
}

// lastStep decides once more from facts read live, when every workload seems to demand mutual TLS.
func (p *run) lastStep(ctx context.Context) error {
	if err := p.reread(ctx); err != nil {
		return err
	}
	if err := p.resolve(ctx, p.Resolver.Live()); err != nil {
		return err
	}
	if !p.out.Facts.Actionable() || p.out.Facts.Lost(v1alpha1.SectionMTLS) || !rollout.Stages(p.input()) {
		return errors.New("reading the namespace live: it changed a moment ago")
	}
	whole, err := p.resolveMembers(ctx, p.Resolver.Live())
	if err != nil || p.tooMany() {
		return err
	}
	for _, m := range p.members {
		m.hold = rollout.MaxConcurrentReached // this is the namespace's step, and nobody else's
	}
	p.lookAtMembers(ctx)
	p.gather(whole)
	return nil
}

// gather makes the namespace's decision of those of its workloads.
func (p *run) gather(whole resolve.Namespace) {
	var names []string
	var seen []traffic.Observation
	for _, m := range p.members {
		names, seen = append(names, m.name), append(seen, m.out.Seen)
	}
	p.out.Seen = traffic.Gather(names, seen).Keep(p.known.callers, p.out.Now.Add(-p.out.Spec.ObservationWindow), p.out.Now)
	p.out.Decision = rollout.Gather(p.input(), p.rolloutMembers(), whole.Idle, whole.Objects)
	p.out.Members = nil
	for i, m := range p.members {
		m.out.Decision = p.out.Decision.Members[i].Decision
		p.out.Members = append(p.out.Members, status.Member{Member: p.out.Decision.Members[i], Input: m.out})
	}
}

// learnMembers remembers what was done for the workloads.
func (p *run) learnMembers() {
	for _, m := range p.members {
		m.out.ApplyError, m.out.Applied = p.out.ApplyError, p.out.Applied
		m.learn()
	}
}

// sight is what verification sees, of a whole namespace for all its workloads that are verified.
func (p *run) sight() rollout.Sight {
	if len(p.members) == 0 {
		return p.known.calls.Sight()
	}
	var all rollout.Sight
	for _, m := range p.members {
		if m.out.Decision.Stage == v1alpha1.StageVerifying {
			all = all.And(m.known.calls.Sight())
		}
	}
	return all
}

// expectMembers prepares for the writes of the workloads' decisions.
func (p *run) expectMembers() {
	for _, m := range p.members {
		m.known.expect(m.out.Decision, m.out.Seen.Proxies)
	}
}

// observerKey tells what an observer remembers of one profile, or of one workload of its, from all else.
func observerKey(uid types.UID, name string) string { return string(uid) + "/" + name }
