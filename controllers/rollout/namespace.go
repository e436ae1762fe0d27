package rollout

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

// Member is one workload of a whole namespace and what was decided for it.
type Member struct {
	Name string
	// Object is the name of its PeerAuthentication.
	Object   string
	Facts    facts.Facts
	Decision Decision
	// Covered says that for every pod there is a policy of somebody else's with a mode.
	Covered bool
}

// Stages says whether the workloads of a whole namespace go to STRICT one by one: it is asked for in stages, and the
// namespace's own object, or its parent, does not demand it yet.
func Stages(in Input) bool {
	return in.Facts.Target.Scope == v1alpha1.ScopeNamespace && in.Spec.Asked.Mode == v1alpha1.ModeStrict &&
		in.Spec.Strategy == v1alpha1.StrategyStaged && !strictInForce(in)
}

// MemberSpec is what the profile of a whole namespace asks for each of its workloads. Clients are told for all of them by
// the namespace's own rules, and one approval is for all.
func MemberSpec(spec Spec) Spec {
	spec.Member, spec.DestinationRule, spec.Approval = true, v1alpha1.DestinationRuleNever, v1alpha1.ApprovalAutomatic
	return spec
}

// yields says that a profile of the workload's own is what counts for it.
func (m Member) yields() bool { return m.Covered && m.Facts.Lost(v1alpha1.SectionMTLS) }

// Disputed is the decision for a workload that another profile is for in part, or whose policy is not there yet: what is in
// force stays, and the namespace waits.
func Disputed(f facts.Facts) Decision {
	d := Decision{Stage: v1alpha1.StageBlocked, Keep: true}
	for _, c := range f.Conflicts {
		if c.Section == v1alpha1.SectionMTLS {
			d.Blockers = blocker(v1alpha1.BlockerCompetingPeerAuthentication, "Another profile is for a part of it, or its policy is not there yet. %s", c.Message)
		}
	}
	return d
}

// Unselectable is the decision for a workload that can have no object of its own.
func Unselectable() Decision {
	return Decision{Stage: v1alpha1.StageBlocked, Blockers: blocker(v1alpha1.BlockerNoPods, "No labels tell its pods from those of other workloads, so no PeerAuthentication can be for them alone. Give its pod template a label of its own.")}
}

// Excepted says that somebody wants the workload to be weaker than its namespace: by its own profile, or by hand.
func (m Member) Excepted() bool {
	if m.yields() {
		return slices.ContainsFunc(m.Facts.Conflicts, func(c facts.Conflict) bool {
			return c.Section == v1alpha1.SectionMTLS && c.WinnerAsks != v1alpha1.ModeStrict
		})
	}
	return m.foreign() && m.Facts.Effective != v1alpha1.ModeStrict
}

// foreign says that policies made by hand speak for all of the workload already.
func (m Member) foreign() bool {
	return m.Covered && !m.Facts.Policy.Owned && slices.ContainsFunc(m.Facts.CompetingPolicies, func(p facts.CompetingPolicy) bool { return p.Wins })
}

// Follows says that nothing is decided for the workload: somebody else's policy is what counts for it.
func (m Member) Follows() bool { return m.yields() || m.foreign() }

// Keeps says that the workload's object must be left as it is: what takes its place is not there yet.
func (m Member) Keeps() bool {
	if m.yields() {
		return !slices.ContainsFunc(m.Facts.Conflicts, func(c facts.Conflict) bool {
			return c.Section == v1alpha1.SectionMTLS && c.WinnerLive
		})
	}
	return m.Decision.Keep
}

// Stage is how far the workload is, whoever takes it there.
func (m Member) Stage() v1alpha1.Stage {
	switch {
	case !m.Follows():
		return m.Decision.Stage
	case m.Facts.Effective == v1alpha1.ModeStrict:
		return v1alpha1.StageEnforced
	}
	return v1alpha1.StageObserving
}

// HoldMembers says why no workload may get STRICT now; empty if they may.
func HoldMembers(in Input) string {
	switch {
	case !clientsReady(in):
		return waitingClients
	case !membersApproved(in):
		return "Nothing but approval is missing."
	}
	return ""
}

// membersApproved says whether a person approved the rollout of the namespace: once for all workloads of one generation,
// each of which needs evidence of its own nevertheless.
func membersApproved(in Input) bool {
	token := memberToken(in)
	return in.Spec.Approval != v1alpha1.ApprovalManual || in.Spec.Approved == token || in.Previous.Approval.ApprovedToken == token
}

func memberToken(in Input) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d namespace", in.Spec.UID, in.Spec.Generation))
	return hex.EncodeToString(sum[:8])
}

// awaitMembers asks for approval, if a workload is ripe for it.
func awaitMembers(in Input, d *Decision, ripe []string) {
	if in.Spec.Approval != v1alpha1.ApprovalManual {
		d.Approval = nil
		return
	}
	token := memberToken(in)
	d.Approval = &v1alpha1.ApprovalStatus{
		Token:   token,
		Summary: fmt.Sprintf("Generation %d: every workload of the namespace, each when it had no plaintext under complete observation over the whole window of %s.", in.Spec.Generation, in.Spec.ObservationWindow),
	}
	switch {
	case membersApproved(in):
		d.Approval.ApprovedToken = token
	case len(ripe) > 0:
		d.Blockers = append(d.Blockers, blocker(v1alpha1.BlockerApprovalMissing, "The switch of workloads to STRICT waits for approval: %s. Approve it for the whole namespace with the annotation %s: %s on the profile.", names(ripe), v1alpha1.AnnotationApprove, token)...)
	}
}

// MaxConcurrentReached is why a ripe workload waits for others.
const MaxConcurrentReached = "Nothing stands in the way of STRICT; it is written when fewer than rollout.maxConcurrent workloads are being verified."

// Admit says how many more workloads may get STRICT now.
func Admit(in Input, members []Member) int {
	free := int(in.Spec.MaxConcurrent)
	for _, m := range members {
		if m.Decision.Stage == v1alpha1.StageVerifying {
			free--
		}
	}
	return max(free, 0)
}

// Gather is the decision for a whole namespace, given those for its workloads. Idle are those that nobody can observe. The
// namespace's own object stays PERMISSIVE until each of them demands mutual TLS; their own objects stay until after that.
//
// An object of theirs whose workload is not there any more, scaled down for example, stays: the namespace's is weaker. It goes
// only when others speak for all that it selects.
func Gather(in Input, members []Member, idle []string, objects []facts.MemberObject) Decision {
	d := remembered(in)
	d.Form, d.Rules = hold(in), clientRules(in)
	d.Exempt, d.Members = exempt(in, d.Rules), members
	approved := membersApproved(in)
	behind := map[v1alpha1.Stage][]string{}
	for i := range d.Members {
		m := &d.Members[i]
		if m.Excepted() {
			continue
		}
		if m.Decision.Ripe && !approved {
			m.Decision.Stage = v1alpha1.StageAwaitingApproval
		}
		behind[m.Stage()] = append(behind[m.Stage()], m.Name)
		d.absorb(*m)
	}
	d.Blockers = append(closed(in, wholeGates), memberBlockers(d.Members)...)
	d.KeepObjects = keptObjects(d.Members, objects)
	awaitMembers(in, &d, behind[v1alpha1.StageAwaitingApproval])
	d.Stage = v1alpha1.StageEnforced
	for _, stage := range order {
		if len(behind[stage]) > 0 {
			d.Stage = stage
			break
		}
	}
	if len(members) == 0 && len(idle) == 0 {
		d.Blockers = append(d.Blockers, blocker(v1alpha1.BlockerNoPods, "The namespace has no workload with pods, so there is nothing to observe. Start one, or use rollout.strategy Immediate.")...)
	}
	if d.Stage == v1alpha1.StageEnforced && len(d.Blockers) > 0 {
		d.Stage = v1alpha1.StageBlocked
	}
	lastStep(in, &d, behind, idle)
	return revisit(in, d)
}

// wholeGates are those of the namespace itself, which no single workload may have.
var wholeGates = []gate{entriesGate, policiesGate}

// keptObjects are those of the profile's objects for single workloads that no member's takes the place of. One for a part of the pods
// stays until the member's is verified: a rollback of that must not take it from them.
func keptObjects(members []Member, objects []facts.MemberObject) []string {
	spoken, proven := map[string]bool{}, map[string]bool{}
	own := map[string]bool{}
	for _, m := range members {
		own[m.Object] = m.Written() || m.Keeps()
		spoken[m.Name] = m.Follows() && !m.Keeps() || m.Written()
		proven[m.Name] = m.Follows() || m.Stage() == v1alpha1.StageEnforced
	}
	var kept []string
	for _, object := range objects {
		needed := len(object.Workloads) == 0 || slices.ContainsFunc(object.Workloads, func(name string) bool { return !spoken[name] || object.Part && !proven[name] })
		if needed && !own[object.Name] {
			kept = append(kept, object.Name)
		}
	}
	return kept
}

// Written says that the workload gets an object: one that is not STRICT yet has none, since the namespace's says PERMISSIVE,
// and one that was STRICT and may be no more keeps its own, which says so.
func (m Member) Written() bool {
	return !m.Keeps() && !m.Follows() && len(m.Facts.Target.Selector) > 0 &&
		(m.Decision.Form.Mode == v1alpha1.ModeStrict || m.Facts.Policy.Owned && !m.Decision.Form.Empty())
}

// order of the stages, the least advanced first.
var order = []v1alpha1.Stage{
	v1alpha1.StageRolledBack, v1alpha1.StageBlocked, v1alpha1.StageObserving, v1alpha1.StageAwaitingApproval, v1alpha1.StageVerifying,
}

// lastStep makes the namespace's own object STRICT once every workload is.
func lastStep(in Input, d *Decision, behind map[v1alpha1.Stage][]string, idle []string) {
	switch {
	case len(behind[d.Stage]) == 0 && d.Stage != v1alpha1.StageEnforced:
		return
	case d.Stage != v1alpha1.StageEnforced:
		d.Waiting = fmt.Sprintf("Workloads that are not there yet: %s.", names(behind[d.Stage]))
		return
	case len(idle) > 0:
		d.Stage = v1alpha1.StageObserving
		d.Waiting = fmt.Sprintf("Every workload with pods demands mutual TLS. The namespace as a whole does not, as long as there are workloads without pods to observe, or with scheduled jobs only: %s. Delete them or start pods, or use rollout.strategy Immediate, which does not wait for them.", names(idle))
		return
	case in.Spec.Suspend:
		d.Stage, d.Waiting = v1alpha1.StageObserving, waitingSuspended
		return
	case !in.Facts.Live:
		d.Stage, d.Confirm = v1alpha1.StageObserving, true
		d.Waiting = "Every workload demands mutual TLS; that is read once more before the namespace does."
		return
	}
	d.Form, d.Switched, d.Enforced = strictForm(in), true, in.Now
}

// absorb takes from a workload's decision what the namespace's status says of all.
func (d *Decision) absorb(m Member) {
	one := m.Decision
	d.Observe = d.Observe || one.Observe
	for _, caller := range one.FailedCallers {
		d.FailedCallers = append(d.FailedCallers, fmt.Sprintf("%s (of workload %s)", caller, m.Name))
	}
	d.LastPlaintext = latest(d.LastPlaintext, one.LastPlaintext)
	d.CleanSince, d.Eligible = latest(d.CleanSince, one.CleanSince), latest(d.Eligible, one.Eligible)
	d.Attempts = max(d.Attempts, one.Attempts)
	if !one.NextAttempt.IsZero() && (d.NextAttempt.IsZero() || one.NextAttempt.Before(d.NextAttempt)) {
		d.NextAttempt = one.NextAttempt
	}
	if one.After > 0 && (d.After == 0 || one.After < d.After) {
		d.After = one.After
	}
}

// memberBlockers says each thing once that holds any of the workloads, with whom it holds.
func memberBlockers(members []Member) []v1alpha1.Blocker {
	var said []v1alpha1.Blocker
	holds := map[v1alpha1.Blocker][]string{}
	for _, m := range members {
		if m.Follows() {
			continue
		}
		for _, b := range m.Decision.Blockers {
			if len(holds[b]) == 0 {
				said = append(said, b)
			}
			holds[b] = append(holds[b], m.Name)
		}
	}
	var out []v1alpha1.Blocker
	for _, b := range said {
		who := "Workload"
		if len(holds[b]) > 1 {
			who = "Workloads"
		}
		out = append(out, blocker(b.Type, "%s %s: %s", who, names(holds[b]), b.Message)...)
	}
	return out
}

// onlyMembers: while the namespace's object does not say STRICT, or nothing is written, those of its workloads are all that
// does.
func onlyMembers(in Input, d Decision) bool {
	return d.Keep || in.Facts.Target.Scope == v1alpha1.ScopeNamespace && in.Spec.Asked.Mode == v1alpha1.ModeStrict && d.Form.Mode != v1alpha1.ModeStrict
}

// keepMembers: the workloads' own objects outlive the moment in which the namespace's becomes STRICT by the settle time.
// istiod reads both in the order in which they were written, and so never sees neither.
func keepMembers(in Input) bool {
	return in.Facts.Target.Scope == v1alpha1.ScopeNamespace && in.Spec.AsksStrict() &&
		(in.Facts.UnchangedFor < in.Settle || len(winners(in)) > 0)
}
