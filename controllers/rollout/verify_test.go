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

func failing(in *rollout.Input) { in.FailingCallers = []string{"bar/sleep"} }

func TestVerify(t *testing.T) {
	late := func(in *rollout.Input) { pass(in, 5*time.Minute) }
	tests := map[string]struct {
		edit        func(*rollout.Input)
		wantStage   v1alpha1.Stage
		wantWaiting string
	}{
		"in its window":      {func(*rollout.Input) {}, v1alpha1.StageVerifying, ""},
		"over":               {late, v1alpha1.StageEnforced, ""},
		"a second too early": {func(in *rollout.Input) { pass(in, 5*time.Minute-time.Second) }, v1alpha1.StageVerifying, ""},
		"no baseline":        {func(in *rollout.Input) { late(in); in.Baseline = nil }, v1alpha1.StageEnforced, ""},
		"not read": {
			func(in *rollout.Input) { late(in); incomplete(in, traffic.Incomplete) }, v1alpha1.StageVerifying,
			"The proxies could not be read after the switch. Proxy httpbin-1 was not read. Allow port 15090.",
		},
		"not taken": {
			func(in *rollout.Input) {
				late(in)
				in.Baseline = map[string]traffic.Reading{"httpbin-1": in.Seen.Proxies[0]}
			}, v1alpha1.StageVerifying,
			"These proxies have not taken STRICT yet: httpbin-1.",
		},
		"a new process counts from the beginning": {func(in *rollout.Input) {
			late(in)
			in.Baseline = map[string]traffic.Reading{"httpbin-1": in.Seen.Proxies[0]}
			in.Seen.Proxies[0].ListenerUpdates, in.Seen.Proxies[0].Started = 7, in.Now
		}, v1alpha1.StageEnforced, ""},
		"a process that started twice in a moment, and the second time after the switch": {func(in *rollout.Input) {
			late(in)
			switched := in.Facts.Policy.SwitchedAt
			in.Seen.Proxies[0].Started = switched.Add(-5 * time.Second)
			in.Baseline = map[string]traffic.Reading{"httpbin-1": in.Seen.Proxies[0]}
			in.Seen.Proxies = []traffic.Reading{in.Seen.Proxies[0]}
			in.Seen.Proxies[0].Started, in.Seen.Proxies[0].Restarts = switched.Add(4*time.Second), 1
		}, v1alpha1.StageEnforced, ""},
		"or before it, and the kubelet told that late": {func(in *rollout.Input) {
			late(in)
			in.Seen.Proxies[0].Started = in.Facts.Policy.SwitchedAt.Add(-5 * time.Second)
			in.Baseline = map[string]traffic.Reading{"httpbin-1": in.Seen.Proxies[0]}
			in.Seen.Proxies = []traffic.Reading{in.Seen.Proxies[0]}
			in.Seen.Proxies[0].Restarts = 1
		}, v1alpha1.StageVerifying, "These proxies have not taken STRICT yet: httpbin-1."},
		"or after it, if it was not started anew": {func(in *rollout.Input) {
			late(in)
			in.Seen.Proxies[0].Started = in.Facts.Policy.SwitchedAt.Add(4 * time.Second)
			in.Baseline = map[string]traffic.Reading{"httpbin-1": in.Seen.Proxies[0]}
		}, v1alpha1.StageVerifying, "These proxies have not taken STRICT yet: httpbin-1."},
		"fewer updates than before, so a new process": {func(in *rollout.Input) {
			late(in)
			in.Baseline = map[string]traffic.Reading{"httpbin-1": in.Seen.Proxies[0]}
			in.Seen.Proxies = []traffic.Reading{{Name: "httpbin-1", UID: "httpbin-1", Started: noon.Add(-48 * time.Hour), ListenerUpdates: 2}}
		}, v1alpha1.StageEnforced, ""},
		"something drains long after": {func(in *rollout.Input) {
			late(in)
			in.Seen.Proxies[0].Draining, in.Now = 2, in.Facts.Policy.SwitchedAt.Add(in.Spec.VerificationWindow+traffic.MostDraining)
		}, v1alpha1.StageEnforced, ""},
		"draining":             {func(in *rollout.Input) { late(in); in.Seen.Proxies[0].Draining = 2 }, v1alpha1.StageVerifying, "These proxies still drain connections from before the switch: httpbin-1."},
		"no pods any more":     {func(in *rollout.Input) { late(in); in.Facts.Pods = nil; incomplete(in, traffic.Incomplete) }, v1alpha1.StageEnforced, ""},
		"strategy: Immediate":  {func(in *rollout.Input) { in.Spec.Strategy = v1alpha1.StrategyImmediate }, v1alpha1.StageEnforced, ""},
		"the clock is behind":  {func(in *rollout.Input) { shift(in, -time.Hour) }, v1alpha1.StageVerifying, ""},
		"a foreign annotation": {func(in *rollout.Input) { in.Facts.Policy.Owned = false; in.Held = facts.Policy{} }, v1alpha1.StageEnforced, ""},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			in := with(verifying(), tc.edit)
			got := rollout.Next(in)
			if got.Stage != tc.wantStage || got.Waiting != tc.wantWaiting || !got.Form.Equal(strict) {
				t.Errorf("got %s, %q, waiting %q", got.Stage, got.Form, got.Waiting)
			}
			if verifying := got.Stage == v1alpha1.StageVerifying; got.SwitchedAt.IsZero() == verifying || got.Observe != verifying || got.Previous.Empty() == verifying {
				t.Errorf("the object would not say whether it is verified: %+v", got)
			}
			if got.SwitchedAt.After(in.Now) || got.Enforced.After(in.Now) {
				t.Errorf("a time that lies ahead: %s %s", got.SwitchedAt, got.Enforced)
			}
		})
	}
}

func TestRollBack(t *testing.T) {
	mixed := form(v1alpha1.ModePermissive, 8080, v1alpha1.ModeStrict)
	tests := map[string]struct {
		edit         func(*rollout.Input)
		wantForm     facts.Form
		wantStage    v1alpha1.Stage
		wantAttempts int32
		wantNext     time.Duration
	}{
		"the first":            {func(*rollout.Input) {}, permissive, v1alpha1.StageRolledBack, 1, 15 * time.Minute},
		"the second":           {func(in *rollout.Input) { in.Previous.Attempts = 1 }, permissive, v1alpha1.StageRolledBack, 2, time.Hour},
		"the third":            {func(in *rollout.Input) { in.Previous.Attempts = 2 }, permissive, v1alpha1.StageRolledBack, 3, 0},
		"more than ever were":  {func(in *rollout.Input) { in.Previous.Attempts = 1 << 30 }, permissive, v1alpha1.StageRolledBack, 3, 0},
		"fewer than none":      {func(in *rollout.Input) { in.Previous.Attempts = -1 << 30 }, permissive, v1alpha1.StageRolledBack, 1, 15 * time.Minute},
		"of another spec":      {func(in *rollout.Input) { in.Previous.Attempts = 2; edited(in) }, permissive, v1alpha1.StageRolledBack, 1, 15 * time.Minute},
		"what was is unknown":  {func(in *rollout.Input) { in.Facts.Policy.Previous = facts.Form{} }, permissive, v1alpha1.StageRolledBack, 1, 15 * time.Minute},
		"a port was STRICT":    {func(in *rollout.Input) { in.Facts.Policy.Previous = mixed }, mixed, v1alpha1.StageRolledBack, 1, 15 * time.Minute},
		"it said DISABLE":      {func(in *rollout.Input) { in.Facts.Policy.Previous = disabled }, permissive, v1alpha1.StageRolledBack, 1, 15 * time.Minute},
		"all was STRICT":       {func(in *rollout.Input) { in.Facts.Policy.Previous = strict }, strict, v1alpha1.StageEnforced, 0, 0},
		"STRICT is inherited":  {func(in *rollout.Input) { in.Facts.Inherited = v1alpha1.ModeStrict }, strict, v1alpha1.StageEnforced, 0, 0},
		"DISABLE is inherited": {func(in *rollout.Input) { in.Facts.Inherited = v1alpha1.ModeDisabled }, permissive, v1alpha1.StageRolledBack, 1, 15 * time.Minute},
		"rollback: Never":      {func(in *rollout.Input) { in.Spec.Rollback = v1alpha1.RollbackNever }, strict, v1alpha1.StageEnforced, 0, 0},
		"deniedCallers":        {func(in *rollout.Input) { in.Spec.DeniesIdentities = true }, strict, v1alpha1.StageEnforced, 0, 0},
		"a policy of somebody else denies identities": {func(in *rollout.Input) { in.Facts.IdentityDenials = []string{"foo/web-deny"} }, strict, v1alpha1.StageEnforced, 0, 0},
		"an exception to DISABLE on its way": {func(in *rollout.Input) {
			in.Spec.Asked = form(v1alpha1.ModeStrict, 9443, v1alpha1.ModeDisabled)
		}, permissive, v1alpha1.StageRolledBack, 1, 15 * time.Minute},
		"an older competing policy": {func(in *rollout.Input) {
			in.Facts.CompetingPolicies = []facts.CompetingPolicy{{Name: "other", Wins: true}}
		}, strict, v1alpha1.StageBlocked, 0, 0},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			in := with(verifying(), failing, tc.edit)
			got := rollout.Next(in)
			var next time.Duration
			if !got.NextAttempt.IsZero() {
				next = got.NextAttempt.Sub(in.Now)
			}
			if !got.Form.Equal(tc.wantForm) || got.Stage != tc.wantStage || got.Attempts != tc.wantAttempts || next != tc.wantNext {
				t.Errorf("got %q, %s, %d attempts, the next in %s", got.Form, got.Stage, got.Attempts, next)
			}
			want := facts.Rollback{}
			if tc.wantStage == v1alpha1.StageRolledBack {
				want = facts.Rollback{Generation: in.Spec.Generation, Attempts: tc.wantAttempts, Time: in.Now}
			}
			if got.RolledBack != want {
				t.Errorf("the object would say %s", got.RolledBack)
			}
			if named := len(got.FailedCallers) > 0; named == (tc.wantStage == v1alpha1.StageBlocked) {
				t.Errorf("failed callers %v at stage %s", got.FailedCallers, got.Stage)
			}
			if tc.wantStage == v1alpha1.StageRolledBack && (!got.SwitchedAt.IsZero() || !got.Enforced.IsZero() || got.Approval != nil) {
				t.Errorf("it still looks verified: %+v", got)
			}
		})
	}
	if got := rollout.Next(with(enforced(), failing)); got.Stage != v1alpha1.StageEnforced || !got.Form.Equal(strict) {
		t.Errorf("Enforced rolled back: %+v", got)
	}
}

// TestWidened: a port more that is to be STRICT is observed after the verification that is under way, and ends it no sooner.
func TestWidened(t *testing.T) {
	written := form(v1alpha1.ModeStrict, 9443, v1alpha1.ModePermissive)
	widened := func(edits ...func(*rollout.Input)) rollout.Input {
		return with(verifying(), append([]func(*rollout.Input){edited, func(in *rollout.Input) {
			in.Facts.Policy.Form, in.Held.Form = written, written
			in.Previous.CleanSince = time.Time{}
		}}, edits...)...)
	}
	late := func(in *rollout.Input) { shift(in, 10*time.Minute) }
	for name, tc := range map[string]struct {
		in       rollout.Input
		form     facts.Form
		stage    v1alpha1.Stage
		switched bool
	}{
		"goes on":                   {widened(), written, v1alpha1.StageVerifying, true},
		"after a restart":           {widened(func(in *rollout.Input) { in.Held = facts.Policy{} }), written, v1alpha1.StageVerifying, true},
		"callers fail":              {widened(failing), permissive, v1alpha1.StageRolledBack, false},
		"callers fail, no rollback": {widened(failing, func(in *rollout.Input) { in.Spec.Rollback = v1alpha1.RollbackNever }), written, v1alpha1.StageObserving, false},
		"callers fail, of a switch that was for one port more": {widened(failing, func(in *rollout.Input) {
			in.Facts.Policy.Previous = form(v1alpha1.ModeStrict, 8080, v1alpha1.ModePermissive)
			in.Held = facts.Policy{}
		}), facts.Form{Mode: v1alpha1.ModeStrict, Ports: map[int32]v1alpha1.Mode{8080: v1alpha1.ModePermissive, 9443: v1alpha1.ModePermissive}}, v1alpha1.StageRolledBack, false},
		"is over":                   {widened(late), written, v1alpha1.StageObserving, false},
		"the whole window was seen": {widened(late, func(in *rollout.Input) { in.Seen.Since = noon.Add(-window) }), written, v1alpha1.StageObserving, false},
		"another policy is used": {widened(func(in *rollout.Input) {
			in.Facts.CompetingPolicies = []facts.CompetingPolicy{{Name: "other", Wins: true}}
		}), written, v1alpha1.StageBlocked, true},
		"strategy: Immediate": {widened(func(in *rollout.Input) { in.Spec.Strategy = v1alpha1.StrategyImmediate }), strict, v1alpha1.StageEnforced, false},
		"its end was written, and status was not": {widened(late, func(in *rollout.Input) {
			in.Facts.Policy.SwitchedAt, in.Held.SwitchedAt, in.Previous.Generation = time.Time{}, time.Time{}, in.Spec.Generation
		}), written, v1alpha1.StageObserving, false},
	} {
		t.Run(name, func(t *testing.T) {
			got := rollout.Next(tc.in)
			if !got.Form.Equal(tc.form) || got.Stage != tc.stage || got.SwitchedAt.IsZero() == tc.switched {
				t.Errorf("got %q, %s, switched at %s", got.Form, got.Stage, got.SwitchedAt)
			}
			if tc.stage == v1alpha1.StageObserving && (!got.CleanSince.Equal(tc.in.Now) || !got.Observe) {
				t.Errorf("the stretch of the other ports begins at %s, before they were observed", got.CleanSince)
			}
		})
	}
}

// TestBackOff follows a rollback to the next attempt, through a crash between the object and status, and a stale read.
func TestBackOff(t *testing.T) {
	in := with(verifying(), failing)
	first := rollout.Next(in)
	stale := applied(in, first)
	stale.Facts.Policy, stale.Held = in.Facts.Policy, in.Facts.Policy
	if got := rollout.Next(stale); got.Attempts != 1 || got.Stage != v1alpha1.StageRolledBack || !got.Form.Equal(permissive) || !got.NextAttempt.Equal(first.NextAttempt) {
		t.Errorf("an object read before the write counts again: %+v", got)
	}
	crashed := applied(in, first)
	crashed.Previous, crashed.Held, crashed.FailingCallers = in.Previous, facts.Policy{}, nil
	got := rollout.Next(crashed)
	if got.Attempts != 1 || got.Stage != v1alpha1.StageRolledBack || !got.NextAttempt.Equal(noon.Add(15*time.Minute)) {
		t.Errorf("a rollback that status did not live to see does not count: %+v", got)
	}

	rests := applied(in, first)
	rests.FailingCallers = nil
	tests := map[string]struct {
		edit      func(*rollout.Input)
		wantStage v1alpha1.Stage
		wantNext  time.Time
	}{
		"rests":             {func(in *rollout.Input) { pass(in, 14*time.Minute) }, v1alpha1.StageRolledBack, first.NextAttempt},
		"is due":            {func(in *rollout.Input) { pass(in, 15*time.Minute) }, v1alpha1.StageObserving, time.Time{}},
		"is due, suspended": {func(in *rollout.Input) { pass(in, 15*time.Minute); in.Spec.Suspend = true }, v1alpha1.StageRolledBack, first.NextAttempt},
		"the spec changes":  {edited, v1alpha1.StageObserving, time.Time{}},
		"never again": {func(in *rollout.Input) {
			pass(in, 1000*time.Hour)
			in.Previous.Attempts, in.Previous.NextAttempt = 3, time.Time{}
		}, v1alpha1.StageRolledBack, time.Time{}},
		"the clock was far ahead":   {func(in *rollout.Input) { shift(in, -1000*time.Hour) }, v1alpha1.StageRolledBack, noon.Add(15*time.Minute - 1000*time.Hour)},
		"lists what is in the way":  {func(in *rollout.Input) { in.Seen.OpenPlaintext = 1 }, v1alpha1.StageRolledBack, first.NextAttempt},
		"the object is not its own": {func(in *rollout.Input) { in.Facts.Policy.Owned = false }, v1alpha1.StageRolledBack, first.NextAttempt},
	}
	unaccepted := clone(rests)
	unaccepted.Previous.Stage = ""
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			in := with(clone(rests), tc.edit)
			got := rollout.Next(in)
			if since := rollout.Next(with(clone(unaccepted), tc.edit)); since.Stage != got.Stage || !since.NextAttempt.Equal(got.NextAttempt) {
				t.Errorf("after a time without a decision: %s, the next at %s", since.Stage, since.NextAttempt)
			}
			if got.Stage != tc.wantStage || !got.NextAttempt.Equal(tc.wantNext) || !got.Form.Equal(permissive) {
				t.Errorf("got %s, the next at %s", got.Stage, got.NextAttempt)
			}
			if blocked := len(got.Blockers) > 0; blocked != (in.Seen.OpenPlaintext > 0) {
				t.Errorf("got blockers %v", got.Blockers)
			}
		})
	}
}

// TestRollbackOnTheObject: what the object tells of a rollback counts, whatever became of status.
func TestRollbackOnTheObject(t *testing.T) {
	seen := func(attempts int32, ago time.Duration) func(*rollout.Input) {
		return func(in *rollout.Input) {
			in.Facts.Policy.RolledBack = facts.Rollback{Generation: 1, Attempts: attempts, Time: in.Now.Add(-ago)}
		}
	}
	knows := func(attempts int32) func(*rollout.Input) {
		return func(in *rollout.Input) { in.Previous.Attempts = attempts }
	}
	tests := map[string]struct {
		edits        []func(*rollout.Input)
		wantStage    v1alpha1.Stage
		wantAttempts int32
		wantNext     time.Duration
		wantStretch  bool // goes on
	}{
		"status does not know":             {[]func(*rollout.Input){seen(1, time.Minute)}, v1alpha1.StageRolledBack, 1, 14 * time.Minute, false},
		"status does not know the second":  {[]func(*rollout.Input){seen(2, time.Minute), knows(1)}, v1alpha1.StageRolledBack, 2, 59 * time.Minute, false},
		"status does not know the last":    {[]func(*rollout.Input){seen(3, time.Minute), knows(2)}, v1alpha1.StageRolledBack, 3, 0, false},
		"long ago":                         {[]func(*rollout.Input){seen(1, time.Hour)}, v1alpha1.StageRolledBack, 1, -45 * time.Minute, false},
		"status is lost":                   {[]func(*rollout.Input){seen(1, time.Minute), func(in *rollout.Input) { in.Previous = rollout.Previous{Generation: 1} }}, v1alpha1.StageRolledBack, 1, 14 * time.Minute, false},
		"status knows, and observes since": {[]func(*rollout.Input){seen(1, time.Hour), knows(1)}, v1alpha1.StageVerifying, 1, 0, true},
		"status knows, its stretch is older": {
			[]func(*rollout.Input){seen(1, 15*time.Minute), knows(1)}, v1alpha1.StageObserving, 1, 0, false,
		},
		"status is edited in the back-off":           {[]func(*rollout.Input){seen(1, time.Minute), knows(1)}, v1alpha1.StageRolledBack, 1, 14 * time.Minute, false},
		"status is edited after the last":            {[]func(*rollout.Input){seen(3, 1000*time.Hour), knows(3)}, v1alpha1.StageRolledBack, 3, 0, false},
		"status says that there were others":         {[]func(*rollout.Input){seen(1, time.Minute), knows(3)}, v1alpha1.StageRolledBack, 3, 14 * time.Minute, false},
		"of an older spec, whose stretch status has": {[]func(*rollout.Input){seen(2, time.Minute), edited}, v1alpha1.StageObserving, 0, 0, false},
		"of an older spec, long ago":                 {[]func(*rollout.Input){seen(2, time.Hour), edited}, v1alpha1.StageVerifying, 0, 0, true},
		"a clock that was ahead":                     {[]func(*rollout.Input){seen(1, -time.Hour)}, v1alpha1.StageRolledBack, 1, 15 * time.Minute, false},
		"more than there can be":                     {[]func(*rollout.Input){seen(1<<30, time.Minute)}, v1alpha1.StageRolledBack, 3, 0, false},
		"for other pods": {
			[]func(*rollout.Input){seen(1, time.Minute), func(in *rollout.Input) { in.Facts.Policy.Selector = map[string]string{"app": "other"} }}, v1alpha1.StageVerifying, 0, 0, true,
		},
		"of somebody else": {[]func(*rollout.Input){seen(1, time.Minute), func(in *rollout.Input) { in.Facts.Policy.Owned = false }}, v1alpha1.StageVerifying, 0, 0, true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			in := with(full(), tc.edits...)
			got := rollout.Next(in)
			var next time.Duration
			if !got.NextAttempt.IsZero() {
				next = got.NextAttempt.Sub(in.Now)
			}
			if got.Stage != tc.wantStage || got.Attempts != tc.wantAttempts || next != tc.wantNext {
				t.Errorf("got %s, %d attempts, the next in %s", got.Stage, got.Attempts, next)
			}
			if got.Switched != tc.wantStretch {
				t.Errorf("switched: %t", got.Switched)
			}
			if got.RolledBack.Time.After(in.Now) || in.Facts.Policy.Owned && tc.wantStage != v1alpha1.StageVerifying && got.RolledBack.Time.IsZero() {
				t.Errorf("the object would say %s", got.RolledBack)
			}
		})
	}
	in := with(verifying(), seen(1, time.Hour))
	if got := rollout.Next(in); got.RolledBack != in.Facts.Policy.RolledBack {
		t.Errorf("while it verifies again the object would say %s", got.RolledBack)
	}
	in.FailingCallers, in.Previous.Attempts = []string{"bar/sleep"}, 0
	if got := rollout.Next(in); got.Attempts != 2 || got.RolledBack.Attempts != 2 {
		t.Errorf("the second rollback is the %dth, and the object would say %s", got.Attempts, got.RolledBack)
	}
	if got := rollout.Next(with(enforced(), seen(1, time.Hour))); got.RolledBack != (facts.Rollback{}) {
		t.Errorf("Enforced, and the object would say %s", got.RolledBack)
	}
}

// TestCompeting: a policy that Istio uses instead stops nothing but the claim; the verification goes on when it is gone.
func TestCompeting(t *testing.T) {
	in := with(verifying(), func(in *rollout.Input) {
		in.Facts.CompetingPolicies = []facts.CompetingPolicy{{Namespace: "foo", Name: "younger", Pod: "a"}, {Namespace: "foo", Name: "older", Pod: "a", Wins: true}}
	})
	got := rollout.Next(in)
	if got.Stage != v1alpha1.StageBlocked || !got.SwitchedAt.Equal(in.Facts.Policy.SwitchedAt) || !got.Previous.Equal(permissive) || !got.Form.Equal(strict) {
		t.Errorf("got %+v", got)
	}
	if len(got.Blockers) != 1 || !strings.Contains(got.Blockers[0].Message, "foo/older") {
		t.Errorf("got %v", got.Blockers)
	}
	in = applied(in, got)
	in.Facts.CompetingPolicies = nil
	if got := rollout.Next(in); got.Stage != v1alpha1.StageVerifying {
		t.Errorf("the verification is lost: %s", got.Stage)
	}
	inherits := with(enforced(), func(in *rollout.Input) {
		in.Facts.Policy, in.Held, in.Facts.Inherited = facts.Policy{}, facts.Policy{}, v1alpha1.ModeStrict
		in.Facts.CompetingPolicies = []facts.CompetingPolicy{{Namespace: "foo", Name: "older", Pod: "a", Wins: true}}
	})
	if got := rollout.Next(inherits); got.Stage != v1alpha1.StageBlocked {
		t.Errorf("Enforced, while another policy is in force: %s", got.Stage)
	}
	if diff := cmp.Diff([]v1alpha1.BlockerType{v1alpha1.BlockerCompetingPeerAuthentication}, types(rollout.Next(inherits).Blockers)); diff != "" {
		t.Error(diff)
	}
}
