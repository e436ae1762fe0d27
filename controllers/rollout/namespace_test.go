package rollout_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/rollout"
)

// whole is the input for a namespace whose object is PERMISSIVE.
func whole() rollout.Input {
	in := base()
	in.Spec.MaxConcurrent = 2
	in.Facts.Target = facts.Target{Scope: v1alpha1.ScopeNamespace}
	in.Facts.Hosts, in.Facts.Rules = nil, nil
	in.Facts.Policy.Selector = nil
	return in
}

// at is a workload at a stage.
func at(name string, stage v1alpha1.Stage, edits ...func(*rollout.Member)) rollout.Member {
	m := rollout.Member{Name: name, Object: "all-" + name, Decision: rollout.Decision{Stage: stage, Form: strict, Observe: true, After: interval}}
	m.Facts.Target.Selector = map[string]string{"app": name}
	if stage == v1alpha1.StageBlocked {
		m.Decision.Blockers = []v1alpha1.Blocker{{Type: v1alpha1.BlockerNoPods, Message: "Start it."}}
	}
	if stage == v1alpha1.StageEnforced {
		m.Decision.Observe, m.Decision.After = false, 0
	}
	for _, edit := range edits {
		edit(&m)
	}
	return m
}

// followed is a workload with a profile of its own, whose objects are live, that asks for a mode while another may be in force.
func followed(asks, effective v1alpha1.Mode) func(*rollout.Member) {
	return func(m *rollout.Member) {
		m.Decision, m.Covered = rollout.Decision{}, true
		m.Facts.Effective = effective
		m.Facts.Conflicts = []facts.Conflict{{Problem: facts.Problem{Section: v1alpha1.SectionMTLS}, WinnerAsks: asks, WinnerLive: true}}
	}
}

// byHand is a workload with a policy of somebody else's.
func byHand(effective v1alpha1.Mode) func(*rollout.Member) {
	return func(m *rollout.Member) {
		m.Decision, m.Covered = rollout.Decision{}, true
		m.Facts.Effective = effective
		m.Facts.CompetingPolicies = []facts.CompetingPolicy{{Namespace: "foo", Name: "hand", Wins: true}}
	}
}

func ripe(m *rollout.Member) { m.Decision.Ripe, m.Decision.Form = true, permissive }

func TestGather(t *testing.T) {
	enforced, blocked := v1alpha1.StageEnforced, v1alpha1.StageBlocked
	manual := func(in *rollout.Input) { in.Spec.Approval = v1alpha1.ApprovalManual }
	live := func(in *rollout.Input) { in.Facts.Live = true }
	for name, tc := range map[string]struct {
		edit    func(*rollout.Input)
		members []rollout.Member
		idle    []string
		stage   v1alpha1.Stage
		mode    v1alpha1.Mode
		confirm bool
		waiting string
	}{
		"nobody": {stage: blocked, mode: v1alpha1.ModePermissive},
		"one is blocked": {
			members: []rollout.Member{at("a", enforced), at("b", blocked), at("c", v1alpha1.StageVerifying)},
			stage:   blocked, mode: v1alpha1.ModePermissive, waiting: "not there yet: b.",
		},
		"rolled back comes first": {
			members: []rollout.Member{at("a", blocked), at("b", v1alpha1.StageRolledBack)},
			stage:   v1alpha1.StageRolledBack, mode: v1alpha1.ModePermissive, waiting: "not there yet: b.",
		},
		"all, as the cache has it": {
			members: []rollout.Member{at("a", enforced), at("b", enforced)},
			stage:   v1alpha1.StageObserving, mode: v1alpha1.ModePermissive, confirm: true, waiting: "once more",
		},
		"all, read live": {edit: live, members: []rollout.Member{at("a", enforced), at("b", enforced)}, stage: enforced, mode: v1alpha1.ModeStrict},
		"all, suspended": {
			edit:    func(in *rollout.Input) { live(in); in.Spec.Suspend = true },
			members: []rollout.Member{at("a", enforced)}, stage: v1alpha1.StageObserving, mode: v1alpha1.ModePermissive, waiting: "rollout.suspend",
		},
		"all but one without pods": {
			edit: live, members: []rollout.Member{at("a", enforced)}, idle: []string{"monthly"},
			stage: v1alpha1.StageObserving, mode: v1alpha1.ModePermissive, waiting: "scheduled jobs only: monthly.",
		},
		"being verified": {
			edit: live, members: []rollout.Member{at("a", enforced), at("b", v1alpha1.StageVerifying)},
			stage: v1alpha1.StageVerifying, mode: v1alpha1.ModePermissive, waiting: "not there yet: b.",
		},
		"an own profile on its way": {
			edit: live, members: []rollout.Member{at("a", enforced), at("b", "", followed(v1alpha1.ModeStrict, v1alpha1.ModePermissive))},
			stage: v1alpha1.StageObserving, mode: v1alpha1.ModePermissive, waiting: "not there yet: b.",
		},
		"an own profile that is there": {
			edit: live, members: []rollout.Member{at("a", enforced), at("b", "", followed(v1alpha1.ModeStrict, v1alpha1.ModeStrict))},
			stage: enforced, mode: v1alpha1.ModeStrict,
		},
		"an own profile as an exception": {
			edit: live, members: []rollout.Member{at("a", enforced), at("b", "", followed(v1alpha1.ModePermissive, v1alpha1.ModePermissive))},
			stage: enforced, mode: v1alpha1.ModeStrict,
		},
		"an exception by hand": {edit: live, members: []rollout.Member{at("a", enforced), at("b", "", byHand(v1alpha1.ModePermissive))}, stage: enforced, mode: v1alpha1.ModeStrict},
		"STRICT by hand":       {edit: live, members: []rollout.Member{at("a", "", byHand(v1alpha1.ModeStrict))}, stage: enforced, mode: v1alpha1.ModeStrict},
		"a policy by hand for a part": {
			edit: live, members: []rollout.Member{at("a", enforced), at("b", blocked, byHand(v1alpha1.ModePermissive), func(m *rollout.Member) { m.Covered, m.Decision.Stage = false, blocked })},
			stage: blocked, mode: v1alpha1.ModePermissive, waiting: "not there yet: b.",
		},
		"a WorkloadEntry": {
			edit:    func(in *rollout.Input) { live(in); in.Facts.WorkloadEntries = []string{"foo/vm"} },
			members: []rollout.Member{at("a", enforced)}, stage: blocked, mode: v1alpha1.ModePermissive,
		},
		"an older policy for the whole namespace": {
			edit: func(in *rollout.Input) {
				live(in)
				in.Facts.CompetingPolicies = []facts.CompetingPolicy{{Namespace: "foo", Name: "legacy", Wins: true}}
			},
			members: []rollout.Member{at("a", enforced)}, stage: blocked, mode: v1alpha1.ModePermissive,
		},
		"ripe, without approval": {edit: manual, members: []rollout.Member{at("a", v1alpha1.StageObserving, ripe)}, stage: v1alpha1.StageAwaitingApproval, mode: v1alpha1.ModePermissive, waiting: "a."},
		"not ripe, no approval yet": {
			edit: manual, members: []rollout.Member{at("a", v1alpha1.StageObserving)}, stage: v1alpha1.StageObserving, mode: v1alpha1.ModePermissive, waiting: "a.",
		},
	} {
		t.Run(name, func(t *testing.T) {
			in := whole()
			if tc.edit != nil {
				tc.edit(&in)
			}
			d := rollout.Gather(in, tc.members, tc.idle, nil)
			if d.Stage != tc.stage || d.Form.Mode != tc.mode || d.Confirm != tc.confirm || d.Switched != (tc.mode == v1alpha1.ModeStrict) {
				t.Errorf("got stage %s, mode %s, confirm %t, switched %t", d.Stage, d.Form.Mode, d.Confirm, d.Switched)
			}
			if !strings.Contains(d.Waiting, tc.waiting) || (tc.waiting == "") != (d.Waiting == "") && len(tc.members) > 0 {
				t.Errorf("waiting: %q", d.Waiting)
			}
		})
	}
}

// TestGatherSays: what status says of all is taken from each, and the same thing is said once.
func TestGatherSays(t *testing.T) {
	in := whole()
	a := at("a", v1alpha1.StageBlocked)
	a.Decision.LastPlaintext, a.Decision.Attempts, a.Decision.NextAttempt = noon, 1, noon.Add(2*time.Hour)
	b := at("b", v1alpha1.StageRolledBack)
	b.Decision.Blockers, b.Decision.After = slices.Clone(a.Decision.Blockers), time.Second
	b.Decision.LastPlaintext, b.Decision.Attempts, b.Decision.NextAttempt = noon.Add(time.Minute), 2, noon.Add(time.Hour)
	b.Decision.FailedCallers = []string{"web"}
	d := rollout.Gather(in, []rollout.Member{a, b, at("c", v1alpha1.StageEnforced)}, nil, nil)
	want := []v1alpha1.Blocker{{Type: v1alpha1.BlockerNoPods, Message: "Workloads a, b: Start it."}}
	if diff := cmp.Diff(want, d.Blockers); diff != "" {
		t.Errorf("blockers (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"web (of workload b)"}, d.FailedCallers); diff != "" {
		t.Errorf("failed callers (-want +got):\n%s", diff)
	}
	if !d.LastPlaintext.Equal(noon.Add(time.Minute)) || d.Attempts != 2 || !d.NextAttempt.Equal(noon.Add(time.Hour)) || d.After != time.Second || !d.Observe {
		t.Errorf("got %+v", d)
	}
}

// TestApproveNamespace: one approval is for all workloads of a generation, and is kept.
func TestApproveNamespace(t *testing.T) {
	in := whole()
	in.Spec.Approval = v1alpha1.ApprovalManual
	members := []rollout.Member{at("a", v1alpha1.StageObserving, ripe), at("b", v1alpha1.StageBlocked)}
	asked := rollout.Gather(in, members, nil, nil)
	if asked.Approval == nil || asked.Approval.Token == "" || rollout.HoldMembers(in) == "" {
		t.Fatalf("got %+v", asked.Approval)
	}
	if got := types(asked.Blockers); !slices.Contains(got, v1alpha1.BlockerApprovalMissing) {
		t.Errorf("blockers %v", got)
	}
	in.Spec.Approved = asked.Approval.Token
	given := rollout.Gather(in, members, nil, nil)
	if rollout.HoldMembers(in) != "" || given.Approval.ApprovedToken != asked.Approval.Token || slices.Contains(types(given.Blockers), v1alpha1.BlockerApprovalMissing) {
		t.Errorf("given: %+v, %v", given.Approval, given.Blockers)
	}
	in.Spec.Approved, in.Previous.Approval = "", *given.Approval
	if rollout.HoldMembers(in) != "" {
		t.Error("not kept")
	}
	in.Spec.Generation++
	if rollout.HoldMembers(in) == "" {
		t.Error("kept for another generation")
	}
}

// TestApproveOne: a token is for one profile.
func TestApproveOne(t *testing.T) {
	in := whole()
	in.Spec.Approval, in.Spec.UID = v1alpha1.ApprovalManual, "one"
	in.Spec.Approved = rollout.Gather(in, []rollout.Member{at("a", v1alpha1.StageObserving, ripe)}, nil, nil).Approval.Token
	if in.Spec.UID = "two"; rollout.HoldMembers(in) == "" {
		t.Error("another profile's token approves")
	}
}

// TestKeepObjects: an object of a workload goes only when others speak for all that it selects.
func TestKeepObjects(t *testing.T) {
	weak := func(m *rollout.Member) { m.Decision.Form = permissive }
	all := []rollout.Member{
		at("a", v1alpha1.StageEnforced), at("b", v1alpha1.StageObserving, weak), at("c", "", followed(v1alpha1.ModePermissive, v1alpha1.ModePermissive)),
		{Name: "d", Object: "all-d", Decision: rollout.Unselectable()},
		{Name: "e", Object: "all-e", Decision: rollout.Disputed(facts.Facts{})},
		at("f+g", v1alpha1.StageVerifying),
	}
	d := rollout.Gather(whole(), all, nil, []facts.MemberObject{
		{Name: "gone"},
		{Name: "all-a", Workloads: []string{"a"}},
		{Name: "was-a", Workloads: []string{"a"}},
		{Name: "was-a-and-b", Workloads: []string{"a", "b"}},
		{Name: "all-c", Workloads: []string{"c"}},
		{Name: "all-d", Workloads: []string{"d"}},
		{Name: "all-e", Workloads: []string{"e"}},
		{Name: "was-half-of-a", Workloads: []string{"a"}, Part: true},
		{Name: "was-half-of-c", Workloads: []string{"c"}, Part: true},
		{Name: "was-f-and-g", Workloads: []string{"f+g"}},
		{Name: "was-f", Workloads: []string{"f+g"}, Part: true},
	})
	if diff := cmp.Diff([]string{"gone", "was-a-and-b", "all-d", "was-f"}, d.KeepObjects); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if !d.Members[4].Keeps() || d.Members[3].Written() {
		t.Error("what is disputed is kept, and what cannot be selected has nothing written")
	}
}

func TestAdmit(t *testing.T) {
	in := whole()
	verifying := []rollout.Member{at("a", v1alpha1.StageVerifying), at("b", v1alpha1.StageVerifying), at("c", v1alpha1.StageVerifying)}
	for n, want := range []int{2, 1, 0, 0} {
		if got := rollout.Admit(in, append(verifying[:n:n], at("d", v1alpha1.StageEnforced))); got != want {
			t.Errorf("with %d being verified: %d, want %d", n, got, want)
		}
	}
}

// TestHold: what is ripe waits while something else says so.
func TestHold(t *testing.T) {
	in := full()
	in.Facts.Live, in.Hold = true, rollout.MaxConcurrentReached
	if d := rollout.Next(in); d.Switched || !d.Ripe || d.Form.Mode != v1alpha1.ModePermissive || d.Waiting != rollout.MaxConcurrentReached {
		t.Errorf("held: %+v", d)
	}
	in.Hold = ""
	if d := rollout.Next(in); !d.Switched {
		t.Errorf("not held: %+v", d)
	}
}

// TestStages: a namespace whose own object, or parent, demands mutual TLS goes by that alone.
func TestStages(t *testing.T) {
	for name, tc := range map[string]struct {
		edit func(*rollout.Input)
		want bool
	}{
		"PERMISSIVE":           {func(*rollout.Input) {}, true},
		"no object yet":        {func(in *rollout.Input) { in.Facts.Policy = facts.Policy{} }, true},
		"STRICT":               {func(in *rollout.Input) { in.Facts.Policy.Form = strict }, false},
		"the mesh is STRICT":   {func(in *rollout.Input) { in.Facts.Policy, in.Facts.Inherited = facts.Policy{}, v1alpha1.ModeStrict }, false},
		"STRICT, changed":      {func(in *rollout.Input) { in.Held = ownPolicy(strict); in.Held.Selector = nil }, false},
		"Immediate":            {func(in *rollout.Input) { in.Spec.Strategy = v1alpha1.StrategyImmediate }, false},
		"a workload":           {func(in *rollout.Input) { in.Facts.Target.Scope = v1alpha1.ScopeWorkload }, false},
		"the mesh":             {func(in *rollout.Input) { in.Facts.Target.Scope = v1alpha1.ScopeMesh }, false},
		"PERMISSIVE asked for": {func(in *rollout.Input) { in.Spec.Asked = permissive }, false},
	} {
		in := whole()
		tc.edit(&in)
		if got := rollout.Stages(in); got != tc.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// TestKeepMembers: the workloads' own objects stay until the namespace's has settled.
func TestKeepMembers(t *testing.T) {
	in := whole()
	in.Facts.Policy.Form, in.Facts.UnchangedFor = strict, settle-time.Second
	if d := rollout.Next(in); !d.KeepMembers || d.After <= 0 {
		t.Errorf("before: %t, %s", d.KeepMembers, d.After)
	}
	in.Facts.UnchangedFor = settle
	if d := rollout.Next(in); d.KeepMembers {
		t.Error("after: kept")
	}
	in.Facts.CompetingPolicies = []facts.CompetingPolicy{{Namespace: "foo", Name: "legacy", Wins: true}}
	if d := rollout.Next(in); !d.KeepMembers || d.After != 0 {
		t.Errorf("while another policy is in force: %t, %s", d.KeepMembers, d.After)
	}
}

// TestOnlyMembers: while the namespace is to be STRICT and is not, nobody takes away what makes its workloads so.
func TestOnlyMembers(t *testing.T) {
	for name, tc := range map[string]struct {
		edit func(*rollout.Input)
		want bool
	}{
		"suspended": {func(in *rollout.Input) { in.Spec.Suspend = true }, true},
		"clients are not ready": {func(in *rollout.Input) {
			in.Facts.Mesh.AutoMTLS, in.Facts.Wildcard = false, &facts.Wildcard{Host: "*.foo.svc.cluster.local"}
		}, true},
		"a pod in ambient mode": {func(in *rollout.Input) {
			in.Facts.Pods = append(in.Facts.Pods, facts.Pod{Name: "z", Membership: facts.MemberAmbient})
		}, true},
		"it is written now":       {func(*rollout.Input) {}, false},
		"PERMISSIVE is asked for": {func(in *rollout.Input) { in.Spec.Asked = permissive }, false},
	} {
		t.Run(name, func(t *testing.T) {
			in := whole()
			in.Spec.Strategy, in.Facts.UnchangedFor = v1alpha1.StrategyImmediate, settle
			tc.edit(&in)
			if d := rollout.Next(in); d.KeepMembers != tc.want {
				t.Errorf("keeps the workloads' objects: %t, at %s with %q", d.KeepMembers, d.Stage, d.Form)
			}
		})
	}
}

// TestExceptedPods: pods for which narrower policies decide hold nothing of the mesh's.
func TestExceptedPods(t *testing.T) {
	in := full()
	in.Facts.Pods = append(in.Facts.Pods, facts.Pod{Namespace: "bar", Name: "old", Membership: facts.MemberNone, Excepted: true})
	if d := rollout.Next(in); !d.Ripe {
		t.Errorf("blockers %v", d.Blockers)
	}
	if rollout.Hidden(in.Facts) {
		t.Error("no stretch begins, because of a pod that is not the mesh's to judge")
	}
	in.Facts.Pods[1].Excepted = false
	if d := rollout.Next(in); d.Ripe {
		t.Error("a pod outside the mesh holds nothing")
	}
}
