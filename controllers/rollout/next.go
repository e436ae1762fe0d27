package rollout

import (
	"maps"
	"slices"
	"time"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

// Next decides what the target's mutual TLS must be now.
func Next(in Input) Decision {
	in.Facts.Pods = concerned(in.Facts.Pods)
	var d Decision
	switch {
	case in.Spec.Asked.Empty():
		d = leave(in)
	case ambient(in) == len(in.Facts.Pods) && len(in.Facts.Pods) > 0:
		d = unsupported(in)
	case !in.Spec.AsksStrict():
		d = plain(in)
	case strictInForce(in):
		d = strict(in)
	case in.Spec.Strategy == v1alpha1.StrategyImmediate:
		d = immediate(in)
	default:
		d = staged(in)
	}
	d.Exempt = exempt(in, d.Rules)
	d.RolledBack = noted(in, d)
	if d.KeepMembers = keepMembers(in) || onlyMembers(in, d); keepMembers(in) && d.After == 0 && in.Facts.UnchangedFor < in.Settle {
		d.After = settleIn(in)
	}
	return revisit(in, d)
}

// concerned are the pods for which the target's policy decides.
func concerned(pods []facts.Pod) []facts.Pod {
	excepted := func(pod facts.Pod) bool { return pod.Excepted }
	if !slices.ContainsFunc(pods, excepted) {
		return pods
	}
	return slices.DeleteFunc(slices.Clone(pods), excepted)
}

// live is what is in force.
func live(in Input) facts.Form { return in.Facts.InForce() }

func inherited(in Input) v1alpha1.Mode { return in.Facts.InheritedMode() }

// reach are the ports on which the asked and the given forms may differ; port 0 stands for all others.
func reach(in Input, forms ...facts.Form) []int32 {
	ports := map[int32]struct{}{0: {}}
	for _, form := range append(forms, in.Spec.Asked) {
		for port := range form.Ports {
			ports[port] = struct{}{}
		}
	}
	return slices.Sorted(maps.Keys(ports))
}

// transform gives the asked form with every mode replaced by what fn says of it.
func transform(in Input, fn func(port int32, asked v1alpha1.Mode) v1alpha1.Mode, forms ...facts.Form) facts.Form {
	return in.Spec.Asked.Map(reach(in, forms...)[1:], fn)
}

// held is the object as this process last wrote it, if it speaks for these pods.
func held(in Input) facts.Policy {
	if in.Held.Exists && maps.Equal(in.Held.Selector, in.Facts.Target.Selector) {
		return in.Held
	}
	return facts.Policy{}
}

// holdsStrict says whether STRICT is in force on a port, or was until someone else changed the object: that is drift, which
// is repaired, and no reason to observe anew.
func holdsStrict(in Input, now facts.Form, port int32) bool {
	return now.At(port) == v1alpha1.ModeStrict || held(in).Form.At(port) == v1alpha1.ModeStrict
}

// strictInForce says whether STRICT is in force wherever it is asked for.
func strictInForce(in Input) bool {
	if parentTurnedStrict(in) {
		return true
	}
	now := live(in)
	for _, port := range reach(in, now, held(in).Form) {
		if in.Spec.Asked.At(port) == v1alpha1.ModeStrict && !holdsStrict(in, now, port) {
			return false
		}
	}
	return true
}

// parentTurnedStrict: while observing, the profile's own PERMISSIVE must not keep its pods weaker than a parent that
// becomes STRICT would make them. A parent that was STRICT before, with the profile as its exception, is another matter,
// and so is an exception that goes at the same time: an edit of the spec is observed.
func parentTurnedStrict(in Input) bool {
	before := in.Previous
	return in.Facts.Inherited == v1alpha1.ModeStrict && before.Stage != v1alpha1.StageEnforced &&
		before.Generation == in.Spec.Generation && before.Inherited != "" && before.Inherited != v1alpha1.ModeStrict
}

// hold is the form while STRICT is not reached: asked for where it is no tightening to STRICT, as it is otherwise.
func hold(in Input) facts.Form {
	now := live(in)
	return transform(in, func(port int32, asked v1alpha1.Mode) v1alpha1.Mode {
		if asked == v1alpha1.ModeStrict && !holdsStrict(in, now, port) {
			return v1alpha1.ModePermissive
		}
		return stepTo(in, now, port, asked)
	}, now, held(in).Form)
}

// ByParent says whether what a decision writes rests on what the target inherits, and not on evidence or on what was in force: a
// first object, one for other pods, or one that had no mode of its own may be weaker than the parent, and so may a rollback; and
// STRICT may be there only because the parent has it.
func ByParent(in Input, d Decision) bool {
	own := in.Facts.Policy
	switch {
	case d.Keep, d.Form.Empty(), d.Switched, !in.Spec.AsksStrict(), own.Exists && !own.Owned:
		return false
	case d.Form.Equal(held(in).Form) && d.Form.Equal(strictForm(in)): // STRICT that somebody took away
		return false
	case !speaks(in.Facts):
		return true
	}
	return (parentTurnedStrict(in) || d.Stage == v1alpha1.StageRolledBack || own.Form.Mode == "") && !d.Form.Equal(own.Form)
}

// Unchanged leaves the object as it is, and the rollout where it was, because of what could not be read.
func Unchanged(in Input, why string) Decision {
	d, own := remembered(in), in.Facts.Policy
	d.Keep, d.Rules, d.Waiting = true, liveRules(in), why
	d.SwitchedAt, d.Previous, d.RolledBack = own.SwitchedAt, own.Previous, own.RolledBack
	d.Stage, d.Enforced, d.NextAttempt = in.Previous.Stage, in.Previous.Enforced, in.Previous.NextAttempt
	d.CleanSince = notAfter(in.Previous.CleanSince, in.Now)
	if d.Stage == "" {
		d.Stage = v1alpha1.StageObserving
	}
	d.Observe, d.After = true, in.Interval
	return d
}

// strictForm is the asked form with the way to DISABLE on ports that go there.
func strictForm(in Input) facts.Form {
	now := live(in)
	return transform(in, func(port int32, asked v1alpha1.Mode) v1alpha1.Mode {
		return stepTo(in, now, port, asked)
	}, now)
}

// stepTo is what a port's mode is next. The way to DISABLE leads by way of PERMISSIVE, and clients follow first.
func stepTo(in Input, now facts.Form, port int32, asked v1alpha1.Mode) v1alpha1.Mode {
	if asked != v1alpha1.ModeDisabled || now.At(port) == v1alpha1.ModeDisabled ||
		now.At(port) == v1alpha1.ModePermissive && clientsFollow(in, port) {
		return asked
	}
	return v1alpha1.ModePermissive
}

// leave is a profile that asks for nothing: its objects go. Where what is inherited then and what clients are told do not
// go together, the server takes both until they do.
func leave(in Input) Decision {
	d := Decision{Rules: clientRules(in)}
	if own := in.Facts.Policy; !own.Exists || !own.Owned {
		return d
	}
	now, next := live(in), inherited(in)
	both := now.Map(reach(in, now)[1:], func(_ int32, mode v1alpha1.Mode) v1alpha1.Mode {
		if mode == next {
			return mode
		}
		return v1alpha1.ModePermissive
	})
	stepped := now.Equal(both) && next != v1alpha1.ModePermissive && now.Mode != next && !settled(in)
	if stepped || clashes(in, now, next) {
		d.Form = both
		d.Waiting = "The server takes mutual TLS and plaintext while clients follow; then what is inherited holds."
	}
	return d
}

// clashes says that what is in force, or what the profile's rules make clients do, is the opposite of the next mode.
func clashes(in Input, now facts.Form, next v1alpha1.Mode) bool {
	if next == v1alpha1.ModePermissive {
		return false
	}
	for _, port := range reach(in, now) {
		if mode := now.At(port); mode != next && mode != v1alpha1.ModePermissive {
			return true
		}
	}
	return slices.ContainsFunc(liveRules(in), func(rule Rule) bool {
		return against(rule.TLS, next) ||
			slices.ContainsFunc(rule.Ports, func(p RulePort) bool { return against(p.TLS, next) })
	})
}

// against says that a server in this mode refuses what the rule makes clients do.
func against(tls facts.TLS, mode v1alpha1.Mode) bool {
	return tls == facts.TLSDisable && mode == v1alpha1.ModeStrict || tls == facts.TLSMutual && mode == v1alpha1.ModeDisabled
}

func ambient(in Input) int {
	count := 0
	for _, pod := range in.Facts.Pods {
		if pod.Membership == facts.MemberAmbient {
			count++
		}
	}
	return count
}

// unsupported is a target whose pods are all in ambient mode: nothing is written for them.
func unsupported(in Input) Decision {
	d := remembered(in)
	d.Keep, d.Rules, d.Blockers = true, liveRules(in), podsGate(in)
	if in.Spec.AsksStrict() {
		d.Stage = v1alpha1.StageBlocked
	}
	return d
}

// plain is a profile that asks for no STRICT.
func plain(in Input) Decision {
	d := Decision{Form: hold(in), Rules: clientRules(in)}
	if !d.Form.Equal(in.Spec.Asked) {
		d.Waiting = "Mutual TLS is taken back in steps, so that no caller is cut off on the way; clients follow first."
	}
	return d
}

// immediate switches without observation, but not before the client side.
func immediate(in Input) Decision {
	d := remembered(in)
	d.Form, d.Keep, d.Rules, d.Stage = hold(in), selectorChanged(in), clientRules(in), v1alpha1.StageObserving
	switch {
	case ambient(in) > 0:
		d.Stage, d.Blockers = v1alpha1.StageBlocked, podsGate(in)
	case in.Spec.Suspend:
		d.Waiting = waitingSuspended
	case !clientsReady(in):
		d.Waiting, d.After = waitingClients, settleIn(in)
	default:
		d.Form, d.Keep = strictForm(in), false
		d.Stage, d.Switched, d.Enforced, d.Skipped = v1alpha1.StageEnforced, true, in.Now, skipped(in)
	}
	return d
}

// skipped are the kinds of the closed gates, of those that are judged without an observation.
func skipped(in Input) []v1alpha1.BlockerType {
	var kinds []v1alpha1.BlockerType
	for _, b := range append(closed(in, standing), rollingOutGate(in)...) {
		if !slices.Contains(kinds, b.Type) {
			kinds = append(kinds, b.Type)
		}
	}
	return kinds
}

const (
	waitingSuspended = "Nothing stands in the way of STRICT, but rollout.suspend is true."
	waitingClients   = "The client side is being prepared before STRICT is written, and proxies are given time to take that."
)

// remembered is a decision that holds what status must not lose.
func remembered(in Input) Decision {
	return Decision{
		LastPlaintext: notAfter(in.Previous.LastPlaintext, in.Now),
		Attempts:      attempts(in), Approval: kept(in.Previous.Approval),
	}
}

// revisit makes sure that a step that waits for clients is taken although nothing else happens.
func revisit(in Input, d Decision) Decision {
	pending := !d.Keep && (!rulesInPlace(in) || in.Spec.Asked.Empty() && !d.Form.Empty())
	if !d.Keep && !in.Spec.Asked.Empty() {
		for _, port := range reach(in, d.Form) {
			pending = pending || in.Spec.Asked.At(port) == v1alpha1.ModeDisabled && d.Form.At(port) != v1alpha1.ModeDisabled
		}
	}
	if !pending {
		return d
	}
	if wait := settleIn(in); d.After == 0 || wait < d.After {
		d.After = wait
	}
	return d
}

// settleIn is when clients have had their time, or, where they have had it, when to try again what was not written.
func settleIn(in Input) time.Duration {
	if wait := in.Settle - in.Facts.UnchangedFor; wait > 0 {
		return wait
	}
	return max(in.Interval, time.Second)
}

// selectorChanged: under STRICT the old object stays until the new set of pods has passed the gates; then one update.
func selectorChanged(in Input) bool {
	own := in.Facts.Policy
	return own.Exists && !maps.Equal(own.Selector, in.Facts.Target.Selector) &&
		slices.ContainsFunc(reach(in, own.Form), func(port int32) bool { return own.Form.At(port) == v1alpha1.ModeStrict })
}

// kept is what stays of an approval while there is nothing to approve: that it was given.
func kept(approval v1alpha1.ApprovalStatus) *v1alpha1.ApprovalStatus {
	if approval.ApprovedToken == "" {
		return nil
	}
	return &v1alpha1.ApprovalStatus{ApprovedToken: approval.ApprovedToken}
}

func latest(times ...time.Time) time.Time {
	var out time.Time
	for _, t := range times {
		if t.After(out) {
			out = t
		}
	}
	return out
}

// notAfter bounds a remembered time by now: a clock that jumped back must not lengthen what it measures.
func notAfter(t, now time.Time) time.Time {
	if t.After(now) {
		return now
	}
	return t
}
