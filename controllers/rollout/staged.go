package rollout

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/traffic"
)

// staged moves towards STRICT as far as the evidence goes.
func staged(in Input) Decision {
	before, goesOn := widened(in)
	if goesOn {
		return before
	}
	d := remembered(in)
	d.FailedCallers = before.FailedCallers
	d.Form, d.Keep, d.Rules = hold(in), selectorChanged(in), clientRules(in)
	d.LastPlaintext, d.Observe, d.After = lastPlaintext(in), true, in.Interval
	if rolledBack(in, &d) {
		d.Blockers = closed(in, gates)
		return d
	}
	d.CleanSince = cleanSince(in)
	if !d.CleanSince.IsZero() {
		d.Eligible = d.CleanSince.Add(in.Spec.ObservationWindow)
	}
	d.Blockers = closed(in, gates)
	full, approved := windowFull(in, d.Eligible), true
	if full {
		d.Blockers = append(d.Blockers, closed(in, lateGates)...)
		approved = approval(in, &d)
	}
	switch {
	case len(d.Blockers) == 1 && !approved:
		d.Stage = v1alpha1.StageAwaitingApproval
	case len(d.Blockers) > 0:
		d.Stage = v1alpha1.StageBlocked
	case !full:
		d.Stage = v1alpha1.StageObserving
		// A reading that is behind stays so for a while.
		d.After = min(d.After, max(d.Eligible.Sub(in.Now), in.Now.Sub(seenTime(in)), time.Millisecond))
	default:
		ripe(in, &d)
	}
	return d
}

// rolledBack says whether the rollout rests after a rollback, until the time of its next attempt.
func rolledBack(in Input, d *Decision) bool {
	switch {
	case unrecorded(in):
		d.Stage, d.Approval = v1alpha1.StageRolledBack, nil
		recount(in, d)
		return true
	case !resting(in):
		return false
	}
	next := nextAttempt(in)
	if told := toldAttempt(in); in.Now.Before(told) {
		next = latest(next, told)
	}
	if !next.IsZero() && !in.Now.Before(next) && !in.Spec.Suspend {
		return false
	}
	d.Stage, d.NextAttempt = v1alpha1.StageRolledBack, next
	if d.RolledBack = lastRollback(in); d.RolledBack.Time.IsZero() {
		// Somebody replaced the object: what status knows goes back there.
		d.RolledBack = facts.Rollback{Generation: in.Spec.Generation, Attempts: max(attempts(in), 1), Time: in.Now}
		if !next.IsZero() {
			d.RolledBack.Time = notAfter(next.Add(-backOff(attempts(in))), in.Now)
		}
	}
	return true
}

// toldAttempt is when the next attempt starts as the object tells it, which outlives a status that is edited; zero if it tells
// of none.
func toldAttempt(in Input) time.Time {
	if n := recorded(in); n > 0 && n < maxAttempts {
		return lastRollback(in).Time.Add(backOff(n))
	}
	return time.Time{}
}

// resting says that the rollout is in its back-off: by the object or, where that does not tell, by the stage in status or,
// where nothing was decided since, by the rest of it.
func resting(in Input) bool {
	if recorded(in) == maxAttempts || in.Now.Before(toldAttempt(in)) {
		return true
	}
	switch in.Previous.Stage {
	case v1alpha1.StageRolledBack:
		return sameSpec(in)
	case "":
		return sameSpec(in) && (!in.Previous.NextAttempt.IsZero() || counted(in) == maxAttempts)
	case v1alpha1.StageObserving, v1alpha1.StageBlocked, v1alpha1.StageAwaitingApproval, v1alpha1.StageVerifying, v1alpha1.StageEnforced:
	}
	return false
}

// unrecorded is a rollback that status did not live to see: the object tells of it, or the profile was verifying and the
// object says PERMISSIVE. It counts, or attempts would have no bound.
func unrecorded(in Input) bool {
	return sameSpec(in) && in.Previous.Stage == v1alpha1.StageVerifying && speaks(in.Facts) && !someStrict(in) || recorded(in) > counted(in)
}

// cleanSince is the start of the plaintext-free, fully observed stretch; zero if there is none. It only ever moves on.
func cleanSince(in Input) time.Time {
	before := notAfter(in.Previous.CleanSince, in.Now)
	switch in.Previous.Stage {
	case v1alpha1.StageVerifying, v1alpha1.StageEnforced, v1alpha1.StageRolledBack:
		// What STRICT refused was not seen. Whoever was cut off must have had the time to show up again.
		return in.Now
	}
	if in.Previous.NotRequested || in.Previous.Undecided() {
		// STRICT was not asked for until now, or nothing was decided: it may have been in force before, and the same holds. Nor
		// did anybody look at what no proxy counts.
		return in.Now
	}
	if Refused(in.Facts) {
		// Somebody took STRICT back before status knew of it: the same.
		return in.Now
	}
	last := lastRollback(in).Time
	switch {
	case !before.IsZero() && before.Before(last):
		return in.Now // the same, with STRICT taken back by this operator
	case Hidden(in.Facts):
		return time.Time{}
	case in.Previous.Unobserved:
		return in.Now
	case in.Seen.Completeness != traffic.Complete:
		// The observer may yet find that nothing was missed; until then the telemetry gate is closed.
		return before
	case in.Seen.Since.IsZero():
		return in.Now
	}
	return notAfter(latest(in.Seen.Since, lastPlaintext(in), before, last), in.Now)
}

// hiding are the gates behind which a part of the target takes traffic that no proxy counts, so that no stretch may
// include them.
var hiding = []v1alpha1.BlockerType{
	v1alpha1.BlockerPodsNotInMesh, v1alpha1.BlockerAmbientUnsupported, v1alpha1.BlockerWorkloadEntry, v1alpha1.BlockerRemoteCluster,
	v1alpha1.BlockerPortsExcluded, v1alpha1.BlockerTelemetryOverridden,
}

// Unobserved says whether any of the blockers, as status kept them, hides traffic from the proxies' metrics.
func Unobserved(blockers []v1alpha1.Blocker) bool {
	return slices.ContainsFunc(blockers, func(b v1alpha1.Blocker) bool { return slices.Contains(hiding, b.Type) })
}

// Refused says whether the target's own object tells of a switch whose verification is not over, so that STRICT refused
// what nobody counted.
func Refused(f facts.Facts) bool {
	return speaks(f) && !f.Policy.SwitchedAt.IsZero()
}

// speaks says that the profile has an object, and that it is for the target's pods.
func speaks(f facts.Facts) bool {
	return f.Policy.Exists && f.Policy.Owned && maps.Equal(f.Policy.Selector, f.Target.Selector)
}

// Hidden says whether the target takes traffic now that no proxy's metrics show.
func Hidden(f facts.Facts) bool {
	f.Pods = concerned(f.Pods)
	return Unobserved(closed(Input{Facts: f}, []gate{podsGate, entriesGate, portsGate, overridesGate}))
}

// seenTime is the time of the reading. One from the future is the work of a clock that jumped back, and proves no more
// than what was until now.
func seenTime(in Input) time.Time { return notAfter(in.Seen.Time, in.Now) }

func windowFull(in Input, eligible time.Time) bool {
	return in.Seen.Completeness == traffic.Complete && !eligible.IsZero() && !seenTime(in).Before(eligible)
}

// ripe decides once the window is full and every gate is open.
func ripe(in Input, d *Decision) {
	d.Stage, d.Ripe = v1alpha1.StageObserving, true
	fresh := !in.Seen.Time.Before(in.Now.Add(-in.Interval)) && !in.Seen.Time.After(in.Now)
	switch {
	case in.Spec.Suspend:
		d.Waiting = waitingSuspended
	case in.Hold != "":
		d.Waiting = in.Hold
	case in.Seen.Awaits != "":
		d.Waiting = in.Seen.Awaits
	case !clientsReady(in):
		d.Waiting, d.After = waitingClients, min(d.After, settleIn(in))
	case !in.Facts.Live || !fresh:
		d.Waiting = "Every gate is open; they are read once more before STRICT is written."
		d.Confirm = true
	default:
		promote(in, d)
	}
}

// promote is the switch.
func promote(in Input, d *Decision) {
	d.Form, d.Keep, d.Switched = strictForm(in), false, true
	d.Enforced, d.CleanSince, d.Eligible = in.Now, time.Time{}, time.Time{}
	if in.Spec.VerificationWindow == 0 {
		d.Stage = v1alpha1.StageEnforced
		return
	}
	now := live(in)
	d.Stage, d.SwitchedAt = v1alpha1.StageVerifying, in.Now
	d.Previous = facts.Form{Mode: now.Mode, Ports: maps.Clone(now.Ports)}
}

// approval says whether a person approved this switch, and keeps the approval once it was given. The token stands for
// the generation and the clean stretch, so that plaintext seen later makes another one.
func approval(in Input, d *Decision) bool {
	if in.Spec.Approval != v1alpha1.ApprovalManual {
		d.Approval = nil
		return true
	}
	// The token must be the same before and after the stretch has been to status.
	since := traffic.WholeSecond(d.CleanSince).UTC().Format(time.RFC3339)
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %s", in.Spec.Generation, since))
	status := v1alpha1.ApprovalStatus{
		Token:         hex.EncodeToString(sum[:8]),
		Summary:       fmt.Sprintf("Generation %d: no plaintext since %s under complete observation, over the whole window of %s.", in.Spec.Generation, since, in.Spec.ObservationWindow),
		ApprovedToken: in.Previous.Approval.ApprovedToken,
	}
	if in.Spec.Approved == status.Token {
		status.ApprovedToken = status.Token
	}
	d.Approval = &status
	if status.ApprovedToken == status.Token {
		return true
	}
	d.Blockers = append(d.Blockers, blocker(v1alpha1.BlockerApprovalMissing, "The switch to STRICT waits for approval. Approve it with the annotation %s: %s on the profile.", v1alpha1.AnnotationApprove, status.Token)...)
	return false
}
