package status

import (
	"maps"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/apply"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/traffic"
)

// mtls is how mutual TLS stands. Where nothing was decided, or where the decision is a move that could not be written,
// the rollout stands where it stood.
func mtls(in Input) *v1alpha1.MTLSStatus {
	before := remembered(in)
	switch {
	case !in.secures():
		return undecided(in, before)
	case unmoved(in, before.Stage):
		return standing(in, before)
	}
	d := in.Decision
	out := &v1alpha1.MTLSStatus{
		EffectiveMode: effective(in), InheritedMode: in.Facts.Inherited, Stage: d.Stage,
		CleanSinceTime: instant(d.CleanSince), EligibleTime: instant(eligible(in)), LastPlaintextTime: instant(d.LastPlaintext),
		EnforcedTime: instant(d.Enforced), NextAttemptTime: instant(d.NextAttempt), Attempts: d.Attempts,
		Approval: d.Approval, Blockers: blockers(d.Blockers),
	}
	out.Rollouts = rollouts(in, before.Rollouts)
	out.Workloads = workloads(in, out.Stage, out.Rollouts)
	if !d.Observe {
		switch {
		case len(in.Members) > 0:
			out.PlaintextCallers = callers(in.Seen.Callers)
		case in.Spec.AsksStrict() && d.Stage == v1alpha1.StageEnforced:
			out.PlaintextCallers = callers(in.Logged.Refused())
		}
		return out
	}
	out.PlaintextCallers, out.Evidence = callers(in.Seen.Callers), before.Evidence
	switch {
	case len(in.Members) > 0:
	case in.Seen.Void && in.Seen.Evidence.ObservedTime == nil:
		out.Evidence = nil // applied without a field, it would be null
	case in.Seen.Void, in.Seen.Completeness == traffic.Complete:
		out.Evidence = in.Seen.Evidence.DeepCopy()
	}
	return out
}

// eligible is the earliest switch if nothing comes between. While something else than the window holds it, a time that is
// over says nothing.
func eligible(in Input) time.Time {
	if in.Decision.Stage == v1alpha1.StageBlocked && !in.Decision.Eligible.After(in.Now) {
		return time.Time{}
	}
	return in.Decision.Eligible
}

// undecided is how mutual TLS stands while nothing is decided. What was inherited at the last decision stays: by that it is
// told that there was one, and whether the parent became STRICT in the meantime.
func undecided(in Input, before *v1alpha1.MTLSStatus) *v1alpha1.MTLSStatus {
	before.EffectiveMode = in.Facts.Effective
	if edited(in) && before.InheritedMode != "" && in.Facts.Inherited != "" {
		before.InheritedMode = in.Facts.Inherited
	}
	before.Stage, before.Blockers, before.EligibleTime = "", nil, nil
	for i := range before.Rollouts {
		before.Rollouts[i].Stage, before.Rollouts[i].Blockers = "", nil
	}
	return before
}

func edited(in Input) bool { return in.Profile.Status.ObservedGeneration != in.Profile.Generation }

// remembered is how mutual TLS stood. Attempts are those of one spec.
func remembered(in Input) *v1alpha1.MTLSStatus {
	before := &v1alpha1.MTLSStatus{}
	if in.Profile.Status.MTLS != nil {
		before = in.Profile.Status.MTLS.DeepCopy()
	}
	if !edited(in) {
		return before
	}
	before.Attempts, before.NextAttemptTime, before.Stage = 0, nil, resumable(before.Stage)
	for i := range before.Rollouts {
		one := &before.Rollouts[i]
		one.Attempts, one.NextAttemptTime, one.Stage = 0, nil, resumable(one.Stage)
	}
	return before
}

// resumable is a stage as it stands once the spec was edited, which ends what a rollback began.
func resumable(stage v1alpha1.Stage) v1alpha1.Stage {
	if stage == v1alpha1.StageRolledBack {
		return ""
	}
	return stage
}

// written says whether the server's side is as it was decided.
func written(in Input) bool {
	if in.Applied.PeerHeld {
		return false
	}
	return in.ApplyError == nil || in.Decision.Keep || in.Decision.Form.Empty() || in.Applied.Holds(apply.PeerAuthentication, facts.PeerName(in.Profile))
}

// unmoved says that the decision is to move the rollout to another stage by a write that did not happen.
func unmoved(in Input, before v1alpha1.Stage) bool {
	d := in.Decision
	if written(in) {
		return false
	}
	switch d.Stage {
	case v1alpha1.StageVerifying, v1alpha1.StageEnforced:
		return d.Switched || before != "" && before != d.Stage
	case v1alpha1.StageRolledBack:
		return before != d.Stage
	case v1alpha1.StageObserving, v1alpha1.StageBlocked, v1alpha1.StageAwaitingApproval:
	}
	return false
}

// standing is the rollout before the move, which is decided again at the next attempt.
func standing(in Input, before *v1alpha1.MTLSStatus) *v1alpha1.MTLSStatus {
	d := in.Decision
	before.EffectiveMode = in.Facts.Effective
	if d.Approval != nil {
		// Once given, an approval counts, also without the annotation.
		before.Approval = d.Approval
	}
	switch {
	case d.Switched:
		before.Stage, before.Blockers, before.EnforcedTime, before.InheritedMode = v1alpha1.StageObserving, nil, nil, in.Facts.Inherited
	case before.Stage == "" && !in.Facts.Policy.SwitchedAt.IsZero():
		before.Stage, before.EnforcedTime = v1alpha1.StageVerifying, instant(in.Facts.Policy.SwitchedAt)
	}
	return before
}

// effective is the weakest mode in force after what was written; the facts tell it as it was before.
func effective(in Input) v1alpha1.Mode {
	form := in.Decision.Form
	switch {
	case in.Facts.Effective == "", len(in.Members) > 0, in.Decision.Keep, !written(in), winner(in) != nil, len(in.Facts.Overrides) > 0,
		slices.Contains(in.Facts.Handover, v1alpha1.SectionMTLS):
		return in.Facts.Effective
	case form.Empty() && in.Facts.Policy.Owned && in.ApplyError == nil && in.Facts.Inherited != "":
		return in.Facts.Inherited
	case form.Mode == "":
		return in.Facts.Effective
	}
	weakest := form.Mode
	for port, mode := range form.Ports {
		if _, excepted := in.Spec.Asked.Ports[port]; !excepted {
			weakest = facts.Weaker(weakest, mode)
		}
	}
	return weakest
}

// winner is the policy that Istio uses instead of the profile's; nil if it uses the profile's.
func winner(in Input) *facts.CompetingPolicy {
	for i, policy := range in.Facts.CompetingPolicies {
		if policy.Wins {
			return &in.Facts.CompetingPolicies[i]
		}
	}
	return nil
}

// strictIn says whether the form is STRICT wherever that is asked for.
func strictIn(in Input, form facts.Form) bool {
	asked := in.Spec.Asked
	ports := slices.AppendSeq(slices.AppendSeq([]int32{0}, maps.Keys(asked.Ports)), maps.Keys(form.Ports))
	return !slices.ContainsFunc(ports, func(port int32) bool {
		return asked.At(port) == v1alpha1.ModeStrict && form.At(port) != v1alpha1.ModeStrict
	})
}

// selectsOthers says that the live object speaks for other pods than those of the target.
func selectsOthers(in Input) bool {
	return in.Facts.Policy.Exists && !maps.Equal(in.Facts.Policy.Selector, in.Facts.Target.Selector)
}

// instant rounds up to the second that status can hold: a stretch must not look longer than it is.
func instant(t time.Time) *metav1.Time {
	if t.IsZero() {
		return nil
	}
	return &metav1.Time{Time: traffic.WholeSecond(t).UTC().Round(0)}
}

func blockers(all []v1alpha1.Blocker) []v1alpha1.Blocker {
	out := slices.Clone(all[:min(len(all), maxBlockers)])
	for i := range out {
		out[i].Message = clip(out[i].Message, maxMessage)
	}
	return out
}

// callers bounds what other people's workloads call themselves.
func callers(all []v1alpha1.PlaintextCaller) []v1alpha1.PlaintextCaller {
	out := slices.Clone(all[:min(len(all), maxCallers)])
	for i := range out {
		c := &out[i]
		c.Workload, c.Namespace = clip(c.Workload, maxName), clip(c.Namespace, maxName)
		c.Address, c.Protocol = clip(c.Address, maxAddress), clip(c.Protocol, maxProtocol)
	}
	return out
}
