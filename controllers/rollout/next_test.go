package rollout_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/rollout"
	"github.com/servicesecurity/operator/controllers/traffic"
)

// applied is the input as it is once a decision was written.
func applied(in rollout.Input, d rollout.Decision) rollout.Input {
	w := &world{target: in.Facts.Target.Selector, policy: in.Facts.Policy}
	w.write(d)
	in.Held = d.Held(in.Facts.Target, in.Held)
	in.Facts.Policy, in.Facts.Rules = w.policy, nil
	for _, rule := range d.Rules {
		live := facts.Rule{Owned: true, Host: rule.Host.Name, TLS: rule.TLS, Ports: map[int32]facts.TLS{}}
		for _, port := range rule.Ports {
			live.Ports[port.Port] = port.TLS
		}
		in.Facts.Rules = append(in.Facts.Rules, live)
	}
	in.Previous = rollout.Previous{
		Generation: in.Spec.Generation, Stage: d.Stage, Inherited: in.Facts.Inherited, CleanSince: d.CleanSince, LastPlaintext: d.LastPlaintext,
		Enforced: d.Enforced, NextAttempt: d.NextAttempt, Attempts: d.Attempts,
	}
	if d.Approval != nil {
		in.Previous.Approval = *d.Approval
	}
	return in
}

func TestPromote(t *testing.T) {
	in := full()
	in.Facts.Policy = ownPolicy(form(v1alpha1.ModePermissive, 9443, v1alpha1.ModeStrict))
	in.Previous.Attempts = 1
	got := rollout.Next(in)
	want := rollout.Decision{
		Form: strict, SwitchedAt: noon, Previous: form(v1alpha1.ModePermissive, 9443, v1alpha1.ModeStrict), Ripe: true, Switched: true,
		Rules: []rollout.Rule{{Host: in.Facts.Hosts[0], TLS: facts.TLSMutual}},
		Stage: v1alpha1.StageVerifying, Enforced: noon, Attempts: 1, Observe: true, After: interval,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("unexpected decision (-want +got):\n%s", diff)
	}
	got.Previous.Ports[1] = v1alpha1.ModeStrict
	if _, ok := in.Facts.Policy.Form.Ports[1]; ok {
		t.Error("the decision shares memory with the facts")
	}
}

func TestConfirm(t *testing.T) {
	tests := map[string]struct {
		edit         func(*rollout.Input)
		wantConfirm  bool
		wantSwitched bool
		wantWaiting  string
	}{
		"live and fresh":                   {func(*rollout.Input) {}, false, true, ""},
		"from the cache":                   {func(in *rollout.Input) { in.Facts.Live = false }, true, false, "read once more"},
		"a reading older than an interval": {func(in *rollout.Input) { pass(in, time.Minute); in.Seen.Time = noon }, true, false, "read once more"},
		"a reading a little ahead":         {func(in *rollout.Input) { in.Seen.Time = noon.Add(time.Second) }, true, false, "read once more"},
		"the rule is missing":              {func(in *rollout.Input) { in.Facts.Rules = nil }, false, false, "client side"},
		"the rule is new":                  {func(in *rollout.Input) { in.Facts.UnchangedFor = settle - 1 }, false, false, "client side"},
		"the rule is settled":              {func(in *rollout.Input) { in.Facts.UnchangedFor = settle }, false, true, ""},
		"no rule, PERMISSIVE is new": {func(in *rollout.Input) {
			in.Spec.DestinationRule, in.Facts.Rules, in.Facts.UnchangedFor = v1alpha1.DestinationRuleNever, nil, 0
		}, false, false, "client side"},
		"no rule, no object": {func(in *rollout.Input) {
			in.Spec.DestinationRule, in.Facts.Rules, in.Facts.UnchangedFor, in.Facts.Policy = v1alpha1.DestinationRuleNever, nil, 0, facts.Policy{}
		}, false, true, ""},
		"the server is still at DISABLE": {func(in *rollout.Input) { in.Facts.Policy.Form = disabled }, false, false, "client side"},
		"one port is still at DISABLE": {func(in *rollout.Input) {
			in.Facts.Policy.Form = form(v1alpha1.ModePermissive, 9443, v1alpha1.ModeDisabled)
		}, false, false, "client side"},
		"suspended":                   {func(in *rollout.Input) { in.Spec.Suspend = true }, false, false, "suspend is true"},
		"something is to be seen yet": {func(in *rollout.Input) { in.Seen.Awaits = "It waits." }, false, false, "It waits."},
		"the same, from the cache":    {func(in *rollout.Input) { in.Seen.Awaits, in.Facts.Live = "It waits.", false }, false, false, "It waits."},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := rollout.Next(with(full(), tc.edit))
			if got.Confirm != tc.wantConfirm || got.Switched != tc.wantSwitched || !strings.Contains(got.Waiting, tc.wantWaiting) {
				t.Errorf("got confirm %t, switched %t, waiting %q", got.Confirm, got.Switched, got.Waiting)
			}
			if got.After <= 0 || got.After > interval {
				t.Errorf("decides again after %s", got.After)
			}
			if !tc.wantSwitched && got.Form.Mode == v1alpha1.ModeStrict {
				t.Errorf("STRICT without a switch: %q", got.Form)
			}
		})
	}
}

func TestCleanSince(t *testing.T) {
	ago := func(d time.Duration) time.Time { return noon.Add(-d) }
	tests := map[string]struct {
		edit         func(*rollout.Input)
		want         time.Time
		wantEligible time.Time
		wantAfter    time.Duration
	}{
		"goes on":                           {func(*rollout.Input) {}, ago(30 * time.Minute), noon.Add(30 * time.Minute), interval},
		"soon over":                         {func(in *rollout.Input) { in.Spec.ObservationWindow = 30*time.Minute + 4*time.Second }, ago(30 * time.Minute), noon.Add(4 * time.Second), 4 * time.Second},
		"history from before the profile":   {func(in *rollout.Input) { in.Previous = rollout.Previous{} }, ago(30 * time.Minute), noon.Add(30 * time.Minute), interval},
		"never moves back":                  {func(in *rollout.Input) { in.Seen.Since = ago(time.Hour) }, ago(30 * time.Minute), noon.Add(30 * time.Minute), interval},
		"plaintext in it":                   {func(in *rollout.Input) { in.Seen.LastPlaintext = ago(5 * time.Minute) }, ago(5 * time.Minute), noon.Add(55 * time.Minute), interval},
		"plaintext that only status knows":  {func(in *rollout.Input) { in.Previous.LastPlaintext = ago(5 * time.Minute) }, ago(5 * time.Minute), noon.Add(55 * time.Minute), interval},
		"kept while incomplete":             {func(in *rollout.Input) { incomplete(in, traffic.Incomplete) }, ago(30 * time.Minute), noon.Add(30 * time.Minute), interval},
		"none yet, incomplete":              {func(in *rollout.Input) { in.Previous = rollout.Previous{}; incomplete(in, traffic.Incomplete) }, time.Time{}, time.Time{}, interval},
		"STRICT hid what happened before":   {func(in *rollout.Input) { in.Previous.Stage = v1alpha1.StageEnforced }, noon, noon.Add(window), interval},
		"a back-off that is over":           {func(in *rollout.Input) { in.Previous.Stage, in.Previous.NextAttempt = v1alpha1.StageRolledBack, noon }, noon, noon.Add(window), interval},
		"a spec that changed in a back-off": {func(in *rollout.Input) { in.Previous.Stage = v1alpha1.StageRolledBack; edited(in) }, noon, noon.Add(window), interval},
		"nothing was decided for a while":   {func(in *rollout.Input) { in.Previous.Stage = "" }, noon, noon.Add(window), interval},
		"nothing was ever decided":          {func(in *rollout.Input) { in.Previous = rollout.Previous{Generation: 1} }, ago(30 * time.Minute), noon.Add(30 * time.Minute), interval},
		"a reading from the future":         {func(in *rollout.Input) { in.Seen.Time, in.Seen.Since = noon.Add(2*time.Hour), noon.Add(time.Hour) }, noon, noon.Add(window), interval},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := rollout.Next(with(base(), tc.edit))
			if !got.CleanSince.Equal(tc.want) || !got.Eligible.Equal(tc.wantEligible) || got.After != tc.wantAfter {
				t.Errorf("got %s until %s, again after %s", got.CleanSince, got.Eligible, got.After)
			}
		})
	}
}

// TestPlaintextGate: it stays closed for three intervals, and then opens.
func TestPlaintextGate(t *testing.T) {
	for ago, want := range map[time.Duration]v1alpha1.Stage{
		0: v1alpha1.StageBlocked, 2 * interval: v1alpha1.StageBlocked, 3*interval - 1: v1alpha1.StageBlocked,
		3 * interval: v1alpha1.StageObserving, 4 * interval: v1alpha1.StageObserving,
	} {
		t.Run(ago.String(), func(t *testing.T) {
			in := base()
			in.Seen.LastPlaintext = noon.Add(-ago)
			if got := rollout.Next(in); got.Stage != want || !got.CleanSince.Equal(noon.Add(-ago)) {
				t.Errorf("got %s, clean since %s", got.Stage, got.CleanSince)
			}
		})
	}
}

func TestApproval(t *testing.T) {
	manual := func(in *rollout.Input) { in.Spec.Approval = v1alpha1.ApprovalManual }
	waiting := with(full(), manual)
	asked := rollout.Next(waiting)
	if asked.Stage != v1alpha1.StageAwaitingApproval || asked.Approval == nil || asked.Approval.Token == "" || asked.Approval.ApprovedToken != "" {
		t.Fatalf("nobody is asked: %+v", asked)
	}
	if want := "Generation 1: no plaintext since 2026-01-02T11:00:00Z under complete observation, over the whole window of 1h0m0s."; asked.Approval.Summary != want {
		t.Errorf("got summary %q", asked.Approval.Summary)
	}
	if message := asked.Blockers[0].Message; !strings.Contains(message, "servicesecurity.dev/approve: "+asked.Approval.Token) {
		t.Errorf("the message does not say how: %q", message)
	}

	// Approved while something else holds the switch: it is kept although the annotation goes.
	held := with(waiting, func(in *rollout.Input) {
		in.Spec.Approved, in.Facts.RollingOut = asked.Approval.Token, []string{"Deployment httpbin"}
	})
	given := rollout.Next(held)
	if given.Stage != v1alpha1.StageBlocked || given.Approval.ApprovedToken != asked.Approval.Token {
		t.Errorf("approval is not kept: %s %+v", given.Stage, given.Approval)
	}
	latched := with(waiting, func(in *rollout.Input) { in.Previous.Approval = *given.Approval })
	if got := rollout.Next(latched); !got.Switched {
		t.Errorf("approved, and not switched: %s %v", got.Stage, got.Blockers)
	}

	// A source that is away for a moment does not undo it; plaintext does.
	away := with(latched, func(in *rollout.Input) { incomplete(in, traffic.Unavailable) })
	lost := rollout.Next(away)
	if lost.Approval == nil || lost.Approval.ApprovedToken != asked.Approval.Token {
		t.Errorf("approval is lost: %+v", lost.Approval)
	}
	plaintext := with(latched, func(in *rollout.Input) {
		in.Seen.LastPlaintext = noon.Add(-time.Minute)
		pass(in, window)
		in.Spec.Approved = asked.Approval.Token
	})
	if got := rollout.Next(plaintext); got.Stage != v1alpha1.StageAwaitingApproval || got.Approval.Token == asked.Approval.Token {
		t.Errorf("an approval of other evidence counts: %s %+v", got.Stage, got.Approval)
	}
	if got := rollout.Next(with(latched, edited)); got.Stage != v1alpha1.StageAwaitingApproval {
		t.Errorf("an approval of another spec counts: %s", got.Stage)
	}
	// Everything that is missing is listed, approval too.
	both := rollout.Next(with(waiting, func(in *rollout.Input) {
		in.Seen.MutualTLS = 0
		in.Facts.ClientRules = []facts.ClientRule{{Namespace: "bar", Name: "legacy", Host: hostName, TLS: "DISABLE", Where: "trafficPolicy"}}
	}))
	want := []v1alpha1.BlockerType{v1alpha1.BlockerPlaintextDestinationRule, v1alpha1.BlockerInsufficientTraffic, v1alpha1.BlockerApprovalMissing}
	if diff := cmp.Diff(want, types(both.Blockers)); diff != "" || both.Stage != v1alpha1.StageBlocked {
		t.Errorf("stage %s (-want +got):\n%s", both.Stage, diff)
	}
}

// TestParent: a parent that becomes STRICT is followed; one that was STRICT before, and an edit at the same time, are not.
func TestParent(t *testing.T) {
	tests := map[string]struct {
		edit func(*rollout.Input)
		want facts.Form
	}{
		"becomes STRICT":    {func(*rollout.Input) {}, strict},
		"in a back-off":     {func(in *rollout.Input) { in.Previous.Stage = v1alpha1.StageRolledBack }, strict},
		"was STRICT before": {func(in *rollout.Input) { in.Previous.Inherited = v1alpha1.ModeStrict }, permissive},
		"status was lost":   {func(in *rollout.Input) { in.Previous = rollout.Previous{} }, permissive},
		"the profile asked for less before": {func(in *rollout.Input) {
			in.Previous.Stage, in.Previous.NotRequested = "", true
			edited(in)
		}, permissive},
		"while the profile was not accepted": {func(in *rollout.Input) { in.Previous.Stage = "" }, strict},
		"an exception goes at the same time": {edited, permissive},
		"STRICT by the parent, no object":    {func(in *rollout.Input) { in.Facts.Policy, in.Previous = facts.Policy{}, rollout.Previous{} }, strict},
		"STRICT by the parent, with exception": {func(in *rollout.Input) {
			in.Facts.Policy = facts.Policy{}
			in.Spec.Asked = form(v1alpha1.ModeStrict, 9443, v1alpha1.ModePermissive)
		}, form(v1alpha1.ModeStrict, 9443, v1alpha1.ModePermissive)},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			in := with(base(), func(in *rollout.Input) { in.Facts.Inherited = v1alpha1.ModeStrict }, tc.edit)
			if got := rollout.Next(in); !got.Form.Equal(tc.want) {
				t.Errorf("got %q at stage %s", got.Form, got.Stage)
			}
		})
	}
}

// TestByParent: a write that rests on the parent is told from those that rest on evidence, or on what was in force.
func TestByParent(t *testing.T) {
	none := func(in *rollout.Input) {
		in.Facts.Policy, in.Held, in.Previous = facts.Policy{}, facts.Policy{}, rollout.Previous{}
	}
	tests := map[string]struct {
		in   rollout.Input
		edit func(*rollout.Input)
		want bool
	}{
		"nothing changes":       {base(), func(*rollout.Input) {}, false},
		"the first object":      {base(), none, true},
		"STRICT by the parent":  {base(), func(in *rollout.Input) { none(in); in.Facts.Inherited = v1alpha1.ModeStrict }, true},
		"for other pods":        {base(), func(in *rollout.Input) { in.Facts.Target.Selector = map[string]string{"app": "other"} }, true},
		"becomes STRICT":        {base(), func(in *rollout.Input) { in.Facts.Inherited = v1alpha1.ModeStrict }, true},
		"had no mode":           {base(), func(in *rollout.Input) { in.Facts.Policy = ownPolicy(facts.Form{}); in.Held = facts.Policy{} }, true},
		"the switch":            {full(), func(*rollout.Input) {}, false},
		"a rollback":            {verifying(), func(in *rollout.Input) { in.FailingCallers = []string{"foo/sleep"} }, true},
		"after it":              {rolledBack(), func(*rollout.Input) {}, false},
		"STRICT that is drift":  {base(), func(in *rollout.Input) { in.Facts.Policy, in.Held = facts.Policy{}, ownPolicy(strict) }, false},
		"and PERMISSIVE":        {base(), func(in *rollout.Input) { in.Facts.Policy = facts.Policy{} }, true},
		"somebody else's":       {base(), func(in *rollout.Input) { none(in); in.Facts.Policy = facts.Policy{Exists: true, Form: permissive} }, false},
		"no STRICT is asked":    {base(), func(in *rollout.Input) { none(in); in.Spec.Asked = permissive }, false},
		"without observation":   {base(), func(in *rollout.Input) { none(in); in.Spec.Strategy = v1alpha1.StrategyImmediate }, false},
		"no pod but in ambient": {base(), func(in *rollout.Input) { none(in); in.Facts.Pods[0].Membership = facts.MemberAmbient }, false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			in := with(tc.in, tc.edit)
			if d := rollout.Next(in); rollout.ByParent(in, d) != tc.want {
				t.Errorf("%q at stage %s over %q: want %t", d.Form, d.Stage, in.Facts.Policy.Form, tc.want)
			}
		})
	}
}

// TestSince: status says since when the rollout is at its end, also where it missed the moment of the switch.
func TestSince(t *testing.T) {
	hourAgo := noon.Add(-time.Hour)
	at := func(stage v1alpha1.Stage) func(*rollout.Input) {
		return func(in *rollout.Input) { in.Previous.Stage, in.Previous.Enforced = stage, time.Time{} }
	}
	tests := map[string]struct {
		edit func(*rollout.Input)
		want time.Time
	}{
		"known":                          {func(in *rollout.Input) { in.Previous.Enforced = hourAgo }, hourAgo},
		"in force before the profile":    {at(""), time.Time{}},
		"and looked at again":            {at(v1alpha1.StageEnforced), time.Time{}},
		"status missed the verification": {at(v1alpha1.StageObserving), noon},
		"status missed its end":          {at(v1alpha1.StageVerifying), noon},
		"the parent became STRICT": {func(in *rollout.Input) {
			at(v1alpha1.StageBlocked)(in)
			in.Facts.Policy, in.Facts.Inherited = ownPolicy(permissive), v1alpha1.ModeStrict
		}, noon},
		"while the profile was not accepted": {func(in *rollout.Input) {
			at("")(in)
			in.Facts.Policy, in.Held, in.Facts.Inherited = ownPolicy(permissive), ownPolicy(permissive), v1alpha1.ModeStrict
		}, noon},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := rollout.Next(with(enforced(), tc.edit))
			if got.Stage != v1alpha1.StageEnforced || !got.Enforced.Equal(tc.want) {
				t.Errorf("got %s since %s, want %s", got.Stage, got.Enforced, tc.want)
			}
		})
	}
}

// TestLive: what is in force, by an object that is unset in parts, foreign, or for other pods.
func TestLive(t *testing.T) {
	tests := map[string]struct {
		policy    facts.Policy
		inherited v1alpha1.Mode
		want      facts.Form
		wantKeep  bool
		wantStage v1alpha1.Stage
	}{
		"unset, inherits PERMISSIVE":        {ownPolicy(facts.Form{}), "", permissive, false, v1alpha1.StageObserving},
		"unset, inherits STRICT":            {ownPolicy(facts.Form{}), v1alpha1.ModeStrict, strict, false, v1alpha1.StageEnforced},
		"unset, but STRICT on a port":       {ownPolicy(form("", 9443, v1alpha1.ModeStrict)), "", form(v1alpha1.ModePermissive, 9443, v1alpha1.ModeStrict), false, v1alpha1.StageObserving},
		"STRICT, a port unset":              {ownPolicy(form(v1alpha1.ModeStrict, 9443, "")), "", strict, false, v1alpha1.StageEnforced},
		"a foreign object, to be adopted":   {facts.Policy{Exists: true, Form: strict, Selector: selector}, "", strict, false, v1alpha1.StageEnforced},
		"a foreign one for other pods":      {facts.Policy{Exists: true, Form: strict, Selector: map[string]string{"app": "x"}}, "", permissive, true, v1alpha1.StageObserving},
		"PERMISSIVE for other pods":         {facts.Policy{Exists: true, Owned: true, Form: permissive, Selector: map[string]string{"app": "x"}}, "", permissive, false, v1alpha1.StageObserving},
		"STRICT on a port, for other pods":  {facts.Policy{Exists: true, Owned: true, Form: form(v1alpha1.ModePermissive, 1, v1alpha1.ModeStrict), Selector: map[string]string{"app": "x"}}, "", permissive, true, v1alpha1.StageObserving},
		"STRICT for other pods and inherit": {facts.Policy{Exists: true, Owned: true, Form: strict, Selector: map[string]string{"app": "x"}}, v1alpha1.ModeStrict, strict, false, v1alpha1.StageEnforced},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			in := base()
			in.Facts.Policy, in.Facts.Inherited, in.Previous.Inherited, in.Held = tc.policy, tc.inherited, tc.inherited, facts.Policy{}
			got := rollout.Next(in)
			if !got.Form.Equal(tc.want) || got.Keep != tc.wantKeep || got.Stage != tc.wantStage {
				t.Errorf("got %q, keep %t, stage %s", got.Form, got.Keep, got.Stage)
			}
		})
	}
}

// TestSelector: the old set of pods keeps STRICT until the new one has passed; then one update.
func TestSelector(t *testing.T) {
	other := func(in *rollout.Input) {
		in.Facts.Target.Selector = map[string]string{"app": "httpbin", "version": "v2"}
	}
	in := with(enforced(), other, func(in *rollout.Input) { in.Seen = base().Seen; in.Seen.Since = noon })
	first := rollout.Next(in)
	if !first.Keep || first.Stage != v1alpha1.StageObserving || first.Switched {
		t.Fatalf("got %+v", first)
	}
	in = applied(in, first)
	if !in.Facts.Policy.Form.Equal(strict) || !cmp.Equal(in.Facts.Policy.Selector, selector) {
		t.Fatalf("the old object was changed: %+v", in.Facts.Policy)
	}
	pass(&in, window)
	in.Facts.Live = true
	last := rollout.Next(in)
	if last.Keep || !last.Switched || !last.Form.Equal(strict) || !last.Previous.Equal(permissive) {
		t.Errorf("got %+v", last)
	}
	immediate := with(enforced(), other, func(in *rollout.Input) { in.Spec.Strategy, in.Spec.Suspend = v1alpha1.StrategyImmediate, true })
	if got := rollout.Next(immediate); !got.Keep || got.Switched {
		t.Errorf("Immediate, suspended: %+v", got)
	}
	// Drift of the old object is not mended from what this process wrote for other pods.
	if got := rollout.Next(with(enforced(), other, func(in *rollout.Input) { in.Facts.Policy = facts.Policy{} })); got.Form.Mode == v1alpha1.ModeStrict {
		t.Errorf("STRICT for pods that were never observed: %+v", got)
	}
}

// TestHeld: STRICT that someone else took away comes back at once, with its verification; but only from this process' memory.
func TestHeld(t *testing.T) {
	gone := map[string]facts.Policy{
		"deleted": {}, "PERMISSIVE": ownPolicy(permissive), "DISABLE": ownPolicy(disabled),
		"a port opened": ownPolicy(form(v1alpha1.ModeStrict, 9443, v1alpha1.ModePermissive)),
	}
	for name, policy := range gone {
		t.Run(name, func(t *testing.T) {
			in := with(verifying(), func(in *rollout.Input) { in.Facts.Policy, in.Facts.UnchangedFor = policy, 0 })
			got := rollout.Next(in)
			if !got.Form.Equal(strict) || got.Stage != v1alpha1.StageVerifying || !got.SwitchedAt.Equal(noon.Add(-5*time.Minute)) || !got.Previous.Equal(permissive) {
				t.Errorf("verifying: %+v", got)
			}
			in = with(enforced(), func(in *rollout.Input) { in.Facts.Policy = policy })
			if got := rollout.Next(in); !got.Form.Equal(strict) || got.Stage != v1alpha1.StageEnforced || got.Switched {
				t.Errorf("enforced: %+v", got)
			}
			in.Held = facts.Policy{}
			if got := rollout.Next(in); got.Form.Equal(strict) {
				t.Errorf("STRICT although nothing but status says that it was: %+v", got)
			}
		})
	}
	partly := with(base(), func(in *rollout.Input) {
		in.Held = ownPolicy(form(v1alpha1.ModePermissive, 9443, v1alpha1.ModeStrict))
	})
	if got, want := rollout.Next(partly).Form, form(v1alpha1.ModePermissive, 9443, v1alpha1.ModeStrict); !got.Equal(want) {
		t.Errorf("one port: got %q", got)
	}

	before := ownPolicy(strict)
	tests := map[string]struct {
		decision rollout.Decision
		want     facts.Policy
	}{
		"kept":    {rollout.Decision{Keep: true, Form: permissive}, before},
		"removed": {rollout.Decision{}, facts.Policy{}},
		"written": {rollout.Decision{Form: strict, SwitchedAt: noon, Previous: permissive}, facts.Policy{Exists: true, Owned: true, Form: strict, Selector: selector, SwitchedAt: noon, Previous: permissive}},
	}
	for name, tc := range tests {
		if diff := cmp.Diff(tc.want, tc.decision.Held(facts.Target{Selector: selector}, before)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestAmbient: nothing is written where every pod is in ambient mode, and no STRICT where one is.
func TestAmbient(t *testing.T) {
	all := func(in *rollout.Input) { in.Facts.Pods[0].Membership = facts.MemberAmbient }
	some := func(in *rollout.Input) {
		in.Facts.Pods = append(in.Facts.Pods, facts.Pod{Name: "httpbin-2", Membership: facts.MemberAmbient})
	}
	got := rollout.Next(with(base(), all, func(in *rollout.Input) { in.Spec.Asked = disabled }))
	if !got.Keep || got.Stage != "" || len(got.Rules) != 1 || got.Rules[0].TLS != facts.TLSMutual || len(got.Blockers) != 1 {
		t.Errorf("mode Disabled: %+v", got)
	}
	got = rollout.Next(with(base(), some, func(in *rollout.Input) { in.Spec.Strategy = v1alpha1.StrategyImmediate }))
	if got.Stage != v1alpha1.StageBlocked || got.Switched || !cmp.Equal(types(got.Blockers), []v1alpha1.BlockerType{v1alpha1.BlockerAmbientUnsupported}) {
		t.Errorf("Immediate: %+v", got)
	}
}
