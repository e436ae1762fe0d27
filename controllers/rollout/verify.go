package rollout

import (
	"slices"
	"time"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/traffic"
)

const (
	// maxAttempts is after how many rollbacks nothing is tried until the spec changes.
	maxAttempts = 3
	// firstBackOff after a rollback; it grows fourfold with each.
	firstBackOff = 15 * time.Minute
	// startTolerance is by how much two estimates of one process's start may differ: proxies tell their uptime in seconds,
	// and bring it up to date every five.
	startTolerance = 10 * time.Second
)

// strict keeps STRICT where it is, and ends its verification.
func strict(in Input) Decision {
	d := remembered(in)
	d.Form, d.Rules, d.Stage = strictForm(in), clientRules(in), v1alpha1.StageEnforced
	d.Enforced = notAfter(in.Previous.Enforced, in.Now)
	open := verification(in)
	if blockers := winners(in); len(blockers) > 0 {
		// What is in force is what another object says. The verification goes on when that is gone.
		d.Stage, d.Blockers = v1alpha1.StageBlocked, blockers
		d.SwitchedAt, d.Previous = open.SwitchedAt, open.Previous
		return d
	}
	if before := in.Previous.Stage; d.Enforced.IsZero() && (before != "" && before != v1alpha1.StageEnforced || parentTurnedStrict(in)) {
		// The parent became STRICT, or status missed the whole verification: it is in force since now at the latest.
		d.Enforced = in.Now
	}
	if !open.SwitchedAt.IsZero() {
		verify(in, &d, open)
	}
	return d
}

// widened goes on with a verification although STRICT was asked for on more ports since. Those are observed after it: as long as it
// lasts nobody counts what STRICT refuses. It says whether the verification goes on, or came to a bad end.
func widened(in Input) (d Decision, goesOn bool) {
	if verification(in).SwitchedAt.IsZero() || !someStrict(in) || selectorChanged(in) {
		return Decision{}, false
	}
	d = strict(in)
	if d.Stage != v1alpha1.StageRolledBack {
		d.Form = hold(in)
	}
	return d, d.Stage != v1alpha1.StageEnforced
}

// someStrict says whether STRICT is in force on a port on which it is asked for.
func someStrict(in Input) bool {
	now := live(in)
	return slices.ContainsFunc(reach(in, now, held(in).Form), func(port int32) bool {
		return in.Spec.Asked.At(port) == v1alpha1.ModeStrict && holdsStrict(in, now, port)
	})
}

// verification is the object whose verification is not over. Its annotations say so, which outlive status.
func verification(in Input) facts.Policy {
	own := in.Facts.Policy
	if !own.Exists || !own.Owned || own.SwitchedAt.IsZero() {
		own = held(in)
	}
	own.SwitchedAt = notAfter(own.SwitchedAt, in.Now)
	return own
}

// verify watches the callers after the switch.
func verify(in Input, d *Decision, open facts.Policy) {
	d.Enforced = open.SwitchedAt
	if in.Spec.VerificationWindow == 0 || in.Spec.Strategy == v1alpha1.StrategyImmediate {
		return
	}
	if sameSpec(in) && in.Previous.Stage == v1alpha1.StageRolledBack && rollBack(in, d, open.Previous) {
		// The rollback was written already, and the object was read before that: it counts once.
		d.Attempts, d.NextAttempt = attempts(in), nextAttempt(in)
		d.RolledBack = facts.Rollback{Generation: in.Spec.Generation, Attempts: max(d.Attempts, 1), Time: in.Now}
		return
	}
	if len(in.FailingCallers) > 0 {
		d.FailedCallers = slices.Clone(in.FailingCallers)
		if mayRollBack(in) && rollBack(in, d, open.Previous) {
			count(in, d)
		}
		return
	}
	waiting := notTaken(in, open.SwitchedAt)
	if !in.Now.Before(open.SwitchedAt.Add(in.Spec.VerificationWindow)) && waiting == "" {
		return
	}
	d.Stage, d.SwitchedAt, d.Previous = v1alpha1.StageVerifying, open.SwitchedAt, open.Previous
	d.Waiting, d.Observe, d.After = waiting, true, in.Interval
}

// mayRollBack says whether a failed verification takes STRICT back: not where callers that are kept out by their identity would
// get in by plaintext.
func mayRollBack(in Input) bool {
	return in.Spec.Rollback == v1alpha1.RollbackAutomatic && !in.Spec.DeniesIdentities && len(in.Facts.IdentityDenials) == 0
}

// notTaken says which proxies have not shown that they took STRICT and drained what it ends; empty if all have. What still drains
// long after the window is something else.
func notTaken(in Input, switched time.Time) string {
	switch {
	case len(in.Facts.Pods) == 0:
		return ""
	case in.Seen.Completeness != traffic.Complete:
		return clip("The proxies could not be read after the switch. "+in.Seen.Message, maxMessage)
	}
	var untouched, draining []string
	for _, reading := range in.Seen.Proxies {
		before, known := in.Baseline[reading.UID]
		if known && reading.ListenerUpdates == before.ListenerUpdates && sameProcess(before, reading, switched) {
			untouched = append(untouched, reading.Name)
		}
		if reading.Draining > 0 && in.Now.Before(switched.Add(in.Spec.VerificationWindow+traffic.MostDraining)) {
			draining = append(draining, reading.Name)
		}
	}
	switch {
	case len(untouched) > 0:
		return "These proxies have not taken STRICT yet: " + names(untouched) + "."
	case len(draining) > 0:
		return "These proxies still drain connections from before the switch: " + names(draining) + "."
	}
	return ""
}

// sameProcess says whether two readings, of before the switch and after it, are of one process. One that started since took its
// first configuration with STRICT in it, and counts from the beginning. A count of restarts may be late, and be of one before.
func sameProcess(before, after traffic.Reading, switched time.Time) bool {
	restarted := after.Restarts > before.Restarts && after.Started.After(switched)
	return !restarted && after.Started.Sub(before.Started).Abs() < startTolerance
}

// rollBack returns to what was in force before the switch, never below what is inherited. It says whether there is
// anything to return to.
func rollBack(in Input, d *Decision, before facts.Form) bool {
	now, floor, back := live(in), inherited(in), false
	form := transform(in, func(port int32, asked v1alpha1.Mode) v1alpha1.Mode {
		if asked == v1alpha1.ModeStrict && floor != v1alpha1.ModeStrict && !holdsStrict(in, now, port) {
			return v1alpha1.ModePermissive // it is no part of the switch: see widened
		}
		if asked != v1alpha1.ModeStrict || before.At(port) == v1alpha1.ModeStrict || floor == v1alpha1.ModeStrict {
			return stepTo(in, now, port, asked)
		}
		back = true
		return v1alpha1.ModePermissive
	}, now, before)
	if !back {
		return false
	}
	d.Form, d.Stage, d.Enforced, d.Approval = form, v1alpha1.StageRolledBack, time.Time{}, nil
	d.Observe, d.After = true, in.Interval
	return true
}

// count counts a rollback, and says when the next attempt starts, if there is one.
func count(in Input, d *Decision) {
	d.RolledBack = facts.Rollback{Generation: in.Spec.Generation, Attempts: min(attempts(in)+1, maxAttempts), Time: in.Now}
	d.await()
}

// recount counts a rollback of which status does not know, as the object tells it.
func recount(in Input, d *Decision) {
	if recorded(in) <= counted(in) {
		count(in, d)
		return
	}
	d.RolledBack = lastRollback(in)
	d.await()
}

// await says how many attempts were made and when the next one starts, if there is one.
func (d *Decision) await() {
	d.Attempts = d.RolledBack.Attempts
	if d.Attempts < maxAttempts {
		d.NextAttempt = d.RolledBack.Time.Add(backOff(d.Attempts))
	}
}

func backOff(attempts int32) time.Duration {
	return firstBackOff << (2 * (min(max(attempts, 1), maxAttempts) - 1))
}

// nextAttempt is when the next attempt starts, as decided before; zero if there is none. A clock that was ahead then
// does not lengthen the wait.
func nextAttempt(in Input) time.Time {
	return notAfter(in.Previous.NextAttempt, in.Now.Add(backOff(attempts(in))))
}

func sameSpec(in Input) bool { return in.Previous.Generation == in.Spec.Generation }

// attempts ended in a rollback since the spec last changed.
func attempts(in Input) int32 { return max(counted(in), recorded(in)) }

// counted are the attempts that status knows of.
func counted(in Input) int32 {
	if !sameSpec(in) {
		return 0
	}
	return min(max(in.Previous.Attempts, 0), maxAttempts)
}

// recorded are the attempts that the object tells of.
func recorded(in Input) int32 {
	last := lastRollback(in)
	if last.Generation != in.Spec.Generation {
		return 0
	}
	return last.Attempts
}

// noted is the rollback that the object is to tell of: the last, until STRICT has been verified.
func noted(in Input, d Decision) facts.Rollback {
	if !d.RolledBack.Time.IsZero() || d.Stage == v1alpha1.StageEnforced {
		return d.RolledBack
	}
	return lastRollback(in)
}

// lastRollback is what the profile's object tells of the last rollback; zero if it tells of none. One from the future is
// the work of a clock that was ahead, and is written anew.
func lastRollback(in Input) facts.Rollback {
	if !speaks(in.Facts) {
		return facts.Rollback{}
	}
	last := in.Facts.Policy.RolledBack
	last.Attempts, last.Time = min(last.Attempts, maxAttempts), notAfter(last.Time, in.Now)
	return last
}
