package status_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/apply"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/rollout"
	"github.com/servicesecurity/operator/controllers/status"
	"github.com/servicesecurity/operator/controllers/traffic"
)

var (
	strict    = facts.Form{Mode: v1alpha1.ModeStrict}
	labels    = map[string]string{"app": "httpbin"}
	peer      = v1alpha1.ResourceRef{Kind: "PeerAuthentication", Name: "httpbin"}
	rule      = v1alpha1.ResourceRef{Kind: "DestinationRule", Name: "httpbin"}
	errFailed = errors.New("updating PeerAuthentication httpbin: it failed")
)

// enforced is a profile whose STRICT is in force.
func enforced() status.Input {
	profile := &v1alpha1.ServiceSecurityProfile{}
	profile.Namespace, profile.Name, profile.Generation = "foo", "httpbin", 2
	profile.Spec.Target = v1alpha1.Target{Kind: v1alpha1.TargetService, Name: "httpbin"}
	profile.Status.ObservedGeneration = 2
	profile.Status.MTLS = &v1alpha1.MTLSStatus{Stage: v1alpha1.StageEnforced}
	return status.Input{
		Profile: profile, Now: start,
		Spec: rollout.Spec{Asked: strict, ObservationWindow: time.Hour, VerificationWindow: 10 * time.Minute, MinRequests: 1},
		Facts: facts.Facts{
			Mesh: facts.Mesh{AutoMTLS: true}, Target: facts.Target{Scope: v1alpha1.ScopeWorkload, Selector: labels},
			Pods:      []facts.Pod{{Name: "httpbin-1", Membership: facts.MemberSidecar}},
			Policy:    facts.Policy{Exists: true, Owned: true, Form: strict, Selector: labels},
			Effective: v1alpha1.ModeStrict, Inherited: v1alpha1.ModePermissive,
		},
		Decision: rollout.Decision{Form: strict, Stage: v1alpha1.StageEnforced},
		Applied:  apply.Result{Resources: []v1alpha1.ResourceRef{peer}},
	}
}

// observing is a profile under observation, of which the traffic is known.
func observing() status.Input {
	in := enforced()
	permissive := facts.Form{Mode: v1alpha1.ModePermissive}
	in.Facts.Policy.Form, in.Facts.Effective = permissive, v1alpha1.ModePermissive
	in.Profile.Status.MTLS.Stage = v1alpha1.StageObserving
	in.Decision = rollout.Decision{Form: permissive, Stage: v1alpha1.StageObserving, Observe: true, CleanSince: start.Add(-time.Minute)}
	in.Seen = traffic.Observation{Completeness: traffic.Complete, Time: start, ConnectionsVisible: true, MutualTLS: 1}
	return in
}

func condition(s v1alpha1.ServiceSecurityProfileStatus, kind string) string {
	c := meta.FindStatusCondition(s.Conditions, kind)
	return fmt.Sprintf("%s, %s: %s", c.Status, c.Reason, c.Message)
}

// TestApplyError: what could not be written is said in a sentence each, with a remedy, and without what changes each time.
func TestApplyError(t *testing.T) {
	resource := schema.GroupResource{Group: "security.istio.io", Resource: "peerauthentications"}
	foreign := &apply.ForeignObjectError{Kind: "DestinationRule", Namespace: "foo", Name: "httpbin", Owner: "HelmRelease/shop"}
	tests := map[string]struct {
		err  error
		want string
	}{
		"a passing fault":     {errFailed, "False, ApplyFailed: Updating PeerAuthentication httpbin: it failed. The operator tries again; nothing needs to be done unless this stays."},
		"nothing said at all": {errors.New(""), "False, ApplyFailed: The API server gave no reason. The operator tries again; nothing needs to be done unless this stays."},
		"several lines":       {errors.New("é\n  b"), "False, ApplyFailed: É b. The operator tries again; nothing needs to be done unless this stays."},
		"another connection each time": {
			errors.New("read tcp [fd00::7]:48211->[fd00::1]:443: EOF"),
			"False, ApplyFailed: Read tcp [fd00::1]:443: EOF. The operator tries again; nothing needs to be done unless this stays.",
		},
		"no permission": {
			fmt.Errorf("creating: %w", apierrors.NewForbidden(resource, "httpbin", errors.New("no"))),
			"False, ApplyFailed: Creating: peerauthentications.security.istio.io \"httpbin\" is forbidden: no. Give the operator's ServiceAccount the permissions that its ClusterRole lists.",
		},
		"the gravest reason goes first": {
			errors.Join(errFailed, fmt.Errorf("x: %w", foreign)),
			"False, ForeignObject: X: DestinationRule foo/httpbin is controlled by HelmRelease/shop, so it is left alone. Rename the profile, or that object. " +
				"Updating PeerAuthentication httpbin: it failed. The operator tries again; nothing needs to be done unless this stays.",
		},
		"the same thing is said once": {
			errors.Join(errFailed, errFailed),
			"False, ApplyFailed: Updating PeerAuthentication httpbin: it failed. The operator tries again; nothing needs to be done unless this stays.",
		},
		"an older Istio": {
			&apply.UnsupportedError{Kind: "PeerAuthentication", Name: "httpbin", Err: errors.New(`unknown field "spec.a"`)},
			"False, UnsupportedByIstio: The installed Istio does not know a field that PeerAuthentication httpbin needs, and would drop it: unknown field \"spec.a\". Upgrade Istio's CRDs, or leave out what needs the field.",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			in := enforced()
			in.ApplyError = tc.err
			got := status.Compute(in)
			if diff := cmp.Diff(tc.want, condition(got, v1alpha1.ConditionProgrammed)); diff != "" {
				t.Errorf("Programmed (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.want, condition(got, v1alpha1.ConditionReady)); diff != "" {
				t.Errorf("Ready (-want +got):\n%s", diff)
			}
		})
	}
}

// TestUnwritten: a move that could not be written did not happen.
func TestUnwritten(t *testing.T) {
	switched := rollout.Decision{Form: strict, Stage: v1alpha1.StageVerifying, Switched: true, Enforced: start, SwitchedAt: start, Observe: true}
	back := rollout.Decision{Form: facts.Form{Mode: v1alpha1.ModePermissive}, Stage: v1alpha1.StageRolledBack, Attempts: 1, NextAttempt: start.Add(time.Hour), FailedCallers: []string{"a"}}
	observed := v1alpha1.MTLSStatus{
		Stage: v1alpha1.StageBlocked, Blockers: []v1alpha1.Blocker{{Type: v1alpha1.BlockerPodsRollingOut, Message: "Wait."}},
		CleanSinceTime: &metav1.Time{Time: start.Add(-time.Hour)}, InheritedMode: v1alpha1.ModeDisabled, EnforcedTime: &metav1.Time{Time: start},
	}
	approved := &v1alpha1.ApprovalStatus{Token: "t", ApprovedToken: "t"}
	tests := map[string]struct {
		before   v1alpha1.MTLSStatus
		decision rollout.Decision
		edit     func(*status.Input)
		want     v1alpha1.MTLSStatus
	}{
		"the switch is due": {
			observed, switched, nil,
			v1alpha1.MTLSStatus{Stage: v1alpha1.StageObserving, CleanSinceTime: observed.CleanSinceTime, EffectiveMode: v1alpha1.ModePermissive, InheritedMode: v1alpha1.ModePermissive},
		},
		"the switch is due, and approved": {
			observed, func() rollout.Decision { d := switched; d.Approval = approved; return d }(), nil,
			v1alpha1.MTLSStatus{Stage: v1alpha1.StageObserving, CleanSinceTime: observed.CleanSinceTime, EffectiveMode: v1alpha1.ModePermissive, InheritedMode: v1alpha1.ModePermissive, Approval: approved},
		},
		"the object of the server's side is written all the same": {
			observed, switched, func(in *status.Input) { in.Applied.Resources = []v1alpha1.ResourceRef{peer} },
			v1alpha1.MTLSStatus{Stage: v1alpha1.StageVerifying, EnforcedTime: &metav1.Time{Time: start}, EffectiveMode: v1alpha1.ModeStrict, InheritedMode: v1alpha1.ModePermissive},
		},
		"a parent became STRICT, and is followed again at the next attempt": {
			observed,
			rollout.Decision{Form: strict, Stage: v1alpha1.StageEnforced, Enforced: start},
			nil,
			v1alpha1.MTLSStatus{Stage: v1alpha1.StageBlocked, Blockers: observed.Blockers, CleanSinceTime: observed.CleanSinceTime, EffectiveMode: v1alpha1.ModePermissive, InheritedMode: v1alpha1.ModeDisabled, EnforcedTime: observed.EnforcedTime},
		},
		"a rollback is not counted": {
			v1alpha1.MTLSStatus{Stage: v1alpha1.StageVerifying},
			back, nil,
			v1alpha1.MTLSStatus{Stage: v1alpha1.StageVerifying, EffectiveMode: v1alpha1.ModePermissive},
		},
		"a rollback, and status was lost": {
			v1alpha1.MTLSStatus{},
			back, func(in *status.Input) { in.Facts.Policy.SwitchedAt = start.Add(-time.Millisecond) },
			v1alpha1.MTLSStatus{Stage: v1alpha1.StageVerifying, EffectiveMode: v1alpha1.ModePermissive, EnforcedTime: &metav1.Time{Time: start}},
		},
		"a back-off goes on after a time without a decision": {
			v1alpha1.MTLSStatus{Attempts: 1, NextAttemptTime: &metav1.Time{Time: start}},
			back, nil,
			v1alpha1.MTLSStatus{Attempts: 1, NextAttemptTime: &metav1.Time{Time: start}, EffectiveMode: v1alpha1.ModePermissive},
		},
		"another spec has no attempts yet": {
			v1alpha1.MTLSStatus{Stage: v1alpha1.StageRolledBack, Attempts: 3, NextAttemptTime: &metav1.Time{Time: start}},
			switched,
			func(in *status.Input) { in.Profile.Generation++ },
			v1alpha1.MTLSStatus{Stage: v1alpha1.StageObserving, EffectiveMode: v1alpha1.ModePermissive, InheritedMode: v1alpha1.ModePermissive},
		},
		"STRICT was in force, and drifted": {
			v1alpha1.MTLSStatus{Stage: v1alpha1.StageEnforced},
			rollout.Decision{Form: strict, Stage: v1alpha1.StageEnforced},
			nil,
			v1alpha1.MTLSStatus{Stage: v1alpha1.StageEnforced, EffectiveMode: v1alpha1.ModePermissive, InheritedMode: v1alpha1.ModePermissive},
		},
		"STRICT is not asked for any more": {
			v1alpha1.MTLSStatus{Stage: v1alpha1.StageEnforced},
			rollout.Decision{Form: facts.Form{Mode: v1alpha1.ModePermissive}},
			func(in *status.Input) { in.Spec.Asked.Mode = v1alpha1.ModePermissive },
			v1alpha1.MTLSStatus{EffectiveMode: v1alpha1.ModePermissive, InheritedMode: v1alpha1.ModePermissive},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			in := observing()
			in.Profile.Status.MTLS, in.Decision, in.ApplyError, in.Applied = &tc.before, tc.decision, errFailed, apply.Result{}
			if tc.edit != nil {
				tc.edit(&in)
			}
			got := status.Compute(in)
			got.MTLS.Evidence = nil
			if diff := cmp.Diff(tc.want, *got.MTLS); diff != "" {
				t.Errorf("mtls (-want +got):\n%s", diff)
			}
			hold(t, in, got)
		})
	}
}

// TestEffectiveMode is that after the write, and what was found where nothing was written.
func TestEffectiveMode(t *testing.T) {
	tests := map[string]struct {
		edit func(*status.Input)
		want v1alpha1.Mode
	}{
		"as written": {func(in *status.Input) { in.Facts.Effective = v1alpha1.ModePermissive }, v1alpha1.ModeStrict},
		"the weakest port without an exception": {func(in *status.Input) {
			in.Decision.Form.Ports = map[int32]v1alpha1.Mode{80: v1alpha1.ModePermissive, 81: v1alpha1.ModeStrict}
		}, v1alpha1.ModePermissive},
		"an exception does not count": {func(in *status.Input) {
			in.Spec.Asked.Ports = map[int32]v1alpha1.Mode{80: v1alpha1.ModeDisabled}
			in.Decision.Form.Ports = in.Spec.Asked.Ports
		}, v1alpha1.ModeStrict},
		"an older policy": {func(in *status.Input) {
			in.Facts.Effective = v1alpha1.ModeDisabled
			in.Facts.CompetingPolicies = []facts.CompetingPolicy{{Namespace: "foo", Name: "old", Pod: "p", Wins: true}}
		}, v1alpha1.ModeDisabled},
		"a younger policy": {func(in *status.Input) {
			in.Facts.CompetingPolicies = []facts.CompetingPolicy{{Namespace: "foo", Name: "young", Pod: "p"}}
		}, v1alpha1.ModeStrict},
		"the object is left alone": {func(in *status.Input) { in.Decision.Keep, in.Facts.Effective = true, v1alpha1.ModePermissive }, v1alpha1.ModePermissive},
		"nobody can tell":          {func(in *status.Input) { in.Facts.Effective = "" }, ""},
		"the object goes": {func(in *status.Input) {
			in.Spec.Asked, in.Decision = facts.Form{}, rollout.Decision{}
		}, v1alpha1.ModePermissive},
		"there is no object, and somebody else's stays": {func(in *status.Input) {
			in.Spec.Asked, in.Decision, in.Facts.Policy.Owned = facts.Form{}, rollout.Decision{}, false
		}, v1alpha1.ModeStrict},
		"not accepted": {func(in *status.Input) {
			in.Facts.Problem = &facts.Problem{Reason: v1alpha1.ReasonInvalid, Message: "Mend it."}
			in.Facts.Effective, in.Decision, in.Applied = v1alpha1.ModeDisabled, rollout.Decision{}, apply.Result{}
		}, v1alpha1.ModeDisabled},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			in := enforced()
			tc.edit(&in)
			if got := status.Compute(in).MTLS.EffectiveMode; got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// TestNotAccepted: nothing is written and nothing removed, and nothing that the rollout must remember is forgotten.
func TestNotAccepted(t *testing.T) {
	in := enforced()
	in.Facts.Problem = &facts.Problem{Reason: v1alpha1.ReasonConflicted, Section: v1alpha1.SectionMTLS, Message: "Mend it."}
	in.Decision, in.Applied = rollout.Decision{}, apply.Result{}
	at := &metav1.Time{Time: start}
	in.Profile.Status.Resources = []v1alpha1.ResourceRef{peer, rule}
	in.Profile.Status.MTLS = &v1alpha1.MTLSStatus{
		Stage: v1alpha1.StageObserving, InheritedMode: v1alpha1.ModeStrict, CleanSinceTime: at, EligibleTime: at, LastPlaintextTime: at, Attempts: 2, NextAttemptTime: at,
		Blockers: []v1alpha1.Blocker{{Type: v1alpha1.BlockerNoPods, Message: "Wait."}}, Evidence: &v1alpha1.Evidence{Proxies: "p"},
	}
	got := status.Compute(in)
	want := &v1alpha1.MTLSStatus{
		EffectiveMode: v1alpha1.ModeStrict, InheritedMode: v1alpha1.ModeStrict, // as it was decided by
		CleanSinceTime: at, LastPlaintextTime: at, Attempts: 2, NextAttemptTime: at, Evidence: &v1alpha1.Evidence{Proxies: "p"},
	}
	if diff := cmp.Diff(want, got.MTLS); diff != "" {
		t.Errorf("mtls (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]v1alpha1.ResourceRef{rule, peer}, got.Resources); diff != "" {
		t.Errorf("resources (-want +got):\n%s", diff)
	}
	in.Profile.Status.MTLS.Rollouts = []v1alpha1.WorkloadRollout{
		{Name: "web", Stage: v1alpha1.StageRolledBack, InheritedMode: v1alpha1.ModePermissive, Attempts: 3, NextAttemptTime: at, Blockers: []v1alpha1.BlockerType{v1alpha1.BlockerNoPods}},
	}
	kept := v1alpha1.WorkloadRollout{Name: "web", InheritedMode: v1alpha1.ModePermissive, Attempts: 3, NextAttemptTime: at}
	if diff := cmp.Diff([]v1alpha1.WorkloadRollout{kept}, status.Compute(in).MTLS.Rollouts); diff != "" {
		t.Errorf("rollouts (-want +got):\n%s", diff)
	}
	in.Profile.Generation++
	kept.Attempts, kept.NextAttemptTime = 0, nil
	if diff := cmp.Diff([]v1alpha1.WorkloadRollout{kept}, status.Compute(in).MTLS.Rollouts); diff != "" {
		t.Errorf("rollouts with another spec (-want +got):\n%s", diff)
	}
	if mode := status.Compute(in).MTLS.InheritedMode; mode != v1alpha1.ModePermissive {
		t.Errorf("with another spec %s is inherited", mode)
	}
	in.Profile.Status.MTLS = nil
	if mode := status.Compute(in).MTLS.InheritedMode; mode != "" {
		t.Errorf("it was never decided for, and %s was inherited then", mode)
	}
	if got.Warnings != nil {
		t.Errorf("warnings %v of a profile that is not accepted", got.Warnings)
	}
}

// TestResources: a failure is no reason to forget an object, unless it says that the object is not there.
func TestResources(t *testing.T) {
	foreign := &apply.ForeignObjectError{Kind: peer.Kind, Namespace: "foo", Name: peer.Name}
	tests := map[string]struct {
		applied apply.Result
		err     error
		want    []v1alpha1.ResourceRef
	}{
		"as applied, in the order of names":             {apply.Result{Resources: []v1alpha1.ResourceRef{peer, rule}}, nil, []v1alpha1.ResourceRef{rule, peer}},
		"without an error, what is not applied is gone": {apply.Result{Resources: []v1alpha1.ResourceRef{peer}}, nil, []v1alpha1.ResourceRef{peer}},
		"a failure forgets nothing":                     {apply.Result{Resources: []v1alpha1.ResourceRef{peer}}, errFailed, []v1alpha1.ResourceRef{rule, peer}},
		"what was deleted is gone": {
			apply.Result{Changes: []apply.Change{{Verb: apply.Deleted, Kind: rule.Kind, Name: rule.Name}}}, errFailed, []v1alpha1.ResourceRef{peer},
		},
		"what is someone else's is gone":    {apply.Result{}, errors.Join(errFailed, foreign), []v1alpha1.ResourceRef{rule}},
		"what has no kind any more is gone": {apply.Result{}, &apply.NotInstalledError{Kind: rule.Kind}, []v1alpha1.ResourceRef{peer}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			in := enforced()
			in.Profile.Status.Resources = []v1alpha1.ResourceRef{peer, rule}
			in.Applied, in.ApplyError = tc.applied, tc.err
			if diff := cmp.Diff(tc.want, status.Compute(in).Resources); diff != "" {
				t.Errorf("resources (-want +got):\n%s", diff)
			}
		})
	}
}

// TestTransitions: a condition's time is that of its last change of status, and the set is always whole and in order.
func TestTransitions(t *testing.T) {
	in := enforced()
	before := metav1.NewTime(start.Add(-time.Hour))
	in.Profile.Status.Conditions = []metav1.Condition{
		{Type: "Strange", Status: metav1.ConditionTrue},
		{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, LastTransitionTime: before},
		{Type: v1alpha1.ConditionAccepted, Status: metav1.ConditionFalse, LastTransitionTime: before},
		{Type: v1alpha1.ConditionProgrammed, Status: metav1.ConditionTrue},
	}
	in.Now = start.Add(time.Millisecond)
	got := status.Compute(in)
	hold(t, in, got)
	want := map[string]time.Time{v1alpha1.ConditionReady: before.Time, v1alpha1.ConditionAccepted: start, v1alpha1.ConditionProgrammed: start}
	for kind, at := range want {
		if c := meta.FindStatusCondition(got.Conditions, kind); !c.LastTransitionTime.Time.Equal(at) {
			t.Errorf("%s changed at %s, want %s", kind, c.LastTransitionTime, at)
		}
	}
}

// TestTarget says in status and in Accepted what the profile secures.
func TestTarget(t *testing.T) {
	long := map[string]v1alpha1.LabelValue{}
	for i := range 16 {
		long[fmt.Sprintf("%s-%02d", strings.Repeat("k", 250), i)] = v1alpha1.LabelValue(strings.Repeat("v", 60))
	}
	tests := map[string]struct {
		target      v1alpha1.Target
		want        string
		wantMessage string
	}{
		"Service":   {v1alpha1.Target{Kind: v1alpha1.TargetService, Name: "a"}, "Service/a", "its target is Service a in namespace foo, whose pods have the labels app=httpbin."},
		"Workload":  {v1alpha1.Target{Kind: v1alpha1.TargetWorkload, Selector: &v1alpha1.WorkloadSelector{MatchLabels: map[string]v1alpha1.LabelValue{"b": "2", "a": "1"}}}, "Workload/a=1,b=2", "its target is the pods of namespace foo with the labels a=1,b=2."},
		"Gateway":   {v1alpha1.Target{Kind: v1alpha1.TargetGateway, Name: "a"}, "Gateway/a", "its target is Gateway a in namespace foo."},
		"Namespace": {v1alpha1.Target{Kind: v1alpha1.TargetNamespace}, "Namespace", "its target is namespace foo."},
		"Mesh":      {v1alpha1.Target{Kind: v1alpha1.TargetMesh}, "Mesh", "its target is the whole mesh."},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			in := enforced()
			in.Profile.Spec.Target = tc.target
			got := status.Compute(in)
			if got.Target != tc.want {
				t.Errorf("got %q, want %q", got.Target, tc.want)
			}
			if diff := cmp.Diff("True, Accepted: The profile is understood, and "+tc.wantMessage, condition(got, v1alpha1.ConditionAccepted)); diff != "" {
				t.Errorf("Accepted (-want +got):\n%s", diff)
			}
		})
	}
	in := enforced()
	in.Profile.Spec.Target = v1alpha1.Target{Kind: v1alpha1.TargetWorkload, Selector: &v1alpha1.WorkloadSelector{MatchLabels: long}}
	if got := status.Compute(in).Target; len(got) != 1024 || !strings.HasSuffix(got, "…") {
		t.Errorf("a target of %d bytes, want 1024 with an ellipsis", len(got))
	}
}

// TestClip: what others call themselves may be long, and cut in the middle of a character.
func TestClip(t *testing.T) {
	in := observing()
	in.Decision.Stage = v1alpha1.StageBlocked
	for i := range 40 {
		in.Decision.Blockers = append(in.Decision.Blockers, v1alpha1.Blocker{Type: v1alpha1.BlockerPlaintextSeen, Message: "É" + strings.Repeat("é", 1000)})
		in.Seen.Callers = append(in.Seen.Callers, v1alpha1.PlaintextCaller{
			Workload: fmt.Sprintf("%s%d", strings.Repeat("é", 200), i), Namespace: "a\xff", Address: strings.Repeat("1", 99), Protocol: strings.Repeat("P", 99),
		})
		in.Facts.UnmappedPorts = append(in.Facts.UnmappedPorts, int32(i))
		in.Applied.Resources = append(in.Applied.Resources, v1alpha1.ResourceRef{Kind: "DestinationRule", Name: fmt.Sprint("rule-", i)})
	}
	got := status.Compute(in)
	hold(t, in, got)
	want := v1alpha1.PlaintextCaller{
		Workload: strings.Repeat("é", 125) + "…", Namespace: "a?", Address: strings.Repeat("1", 61) + "…", Protocol: strings.Repeat("P", 13) + "…",
	}
	if diff := cmp.Diff(want, got.MTLS.PlaintextCallers[0]); diff != "" {
		t.Errorf("caller (-want +got):\n%s", diff)
	}
	if len(got.MTLS.Blockers) != 32 || len(got.MTLS.PlaintextCallers) != 20 || len(got.Warnings) != 16 || len(got.Resources) != 41 {
		t.Errorf("%d blockers, %d callers, %d warnings, %d resources", len(got.MTLS.Blockers), len(got.MTLS.PlaintextCallers), len(got.Warnings), len(got.Resources))
	}
	if text := got.MTLS.Blockers[0].Message; text != "É"+strings.Repeat("é", 509)+"…" {
		t.Errorf("a message of %d bytes: %s", len(text), text)
	}
	wantProgrammed := "True, Programmed: DestinationRule rule-0, DestinationRule rule-1, DestinationRule rule-10 and others in namespace foo are what the profile asks for now."
	if diff := cmp.Diff(wantProgrammed, condition(got, v1alpha1.ConditionProgrammed)); diff != "" {
		t.Errorf("Programmed (-want +got):\n%s", diff)
	}
}

// TestTimes are whole seconds, and never before what they stand for.
func TestTimes(t *testing.T) {
	in := observing()
	in.Decision.CleanSince, in.Decision.Eligible = start.Add(time.Nanosecond), start
	got := status.Compute(in).MTLS
	if want := start.Add(time.Second); !got.CleanSinceTime.Time.Equal(want) || !got.EligibleTime.Time.Equal(start) {
		t.Errorf("cleanSinceTime %s, want %s; eligibleTime %s, want %s", got.CleanSinceTime, want, got.EligibleTime, start)
	}
}

// TestEvidence is kept from the last complete reading, and dropped when nothing is observed.
func TestEvidence(t *testing.T) {
	had := &v1alpha1.Evidence{Proxies: "before"}
	tests := map[string]struct {
		edit func(*status.Input)
		want *v1alpha1.Evidence
	}{
		"complete":                             {func(in *status.Input) { in.Seen.Evidence.Proxies = "now" }, &v1alpha1.Evidence{Proxies: "now"}},
		"incomplete":                           {func(in *status.Input) { in.Seen.Completeness = traffic.Incomplete }, had},
		"incomplete, and something was missed": {func(in *status.Input) { in.Seen.Completeness, in.Seen.Void = traffic.Incomplete, true }, nil},
		"complete, and nothing goes on yet":    {func(in *status.Input) { in.Seen.Void = true }, nil},
		"what outlives it": {func(in *status.Input) {
			in.Seen.Completeness, in.Seen.Void = traffic.Incomplete, true
			in.Seen.Evidence = v1alpha1.Evidence{ObservedTime: &metav1.Time{}, Connections: []v1alpha1.PodConnections{{Pod: "a", Opened: 1}}}
		}, &v1alpha1.Evidence{ObservedTime: &metav1.Time{}, Connections: []v1alpha1.PodConnections{{Pod: "a", Opened: 1}}}},
		"not observed any more": {func(in *status.Input) { in.Decision.Observe = false }, nil},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			in := observing()
			in.Profile.Status.MTLS.Evidence = had
			tc.edit(&in)
			if diff := cmp.Diff(tc.want, status.Compute(in).MTLS.Evidence); diff != "" {
				t.Errorf("evidence (-want +got):\n%s", diff)
			}
		})
	}
}

// TestAbsentMember: the rollout of a workload without pods stays as long as its object does, and attempts are those of one spec
// there, too.
func TestAbsentMember(t *testing.T) {
	at := &metav1.Time{Time: start}
	tests := map[string]struct {
		before, edited v1alpha1.WorkloadRollout
	}{
		"rolled back for good": {
			v1alpha1.WorkloadRollout{Stage: v1alpha1.StageRolledBack, InheritedMode: v1alpha1.ModePermissive, LastPlaintextTime: at, Attempts: 3},
			v1alpha1.WorkloadRollout{InheritedMode: v1alpha1.ModePermissive, LastPlaintextTime: at},
		},
		"rolled back for a while": {
			v1alpha1.WorkloadRollout{Stage: v1alpha1.StageRolledBack, InheritedMode: v1alpha1.ModePermissive, Attempts: 1, NextAttemptTime: at},
			v1alpha1.WorkloadRollout{InheritedMode: v1alpha1.ModePermissive},
		},
		"enforced at the second attempt": {
			v1alpha1.WorkloadRollout{Stage: v1alpha1.StageEnforced, InheritedMode: v1alpha1.ModePermissive, EnforcedTime: at, Attempts: 1},
			v1alpha1.WorkloadRollout{Stage: v1alpha1.StageEnforced, InheritedMode: v1alpha1.ModePermissive, EnforcedTime: at},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			in := observing()
			in.Members = []status.Member{{Member: rollout.Member{Name: "b", Decision: in.Decision}, Input: observing()}}
			in.Applied.Resources = []v1alpha1.ResourceRef{{Kind: apply.PeerAuthentication, Name: facts.MemberName("httpbin", "a")}}
			before := tc.before
			before.Name, tc.edited.Name = "a", "a"
			tc.before = before
			before.Evidence = &v1alpha1.Evidence{Proxies: "p"}
			in.Profile.Status.MTLS.Rollouts = []v1alpha1.WorkloadRollout{before}
			absent := func() []v1alpha1.WorkloadRollout { return status.Compute(in).MTLS.Rollouts[1:] }
			if diff := cmp.Diff([]v1alpha1.WorkloadRollout{tc.before}, absent()); diff != "" {
				t.Errorf("with the same spec (-want +got):\n%s", diff)
			}
			in.Profile.Generation++
			if diff := cmp.Diff([]v1alpha1.WorkloadRollout{tc.edited}, absent()); diff != "" {
				t.Errorf("with another spec (-want +got):\n%s", diff)
			}
			in.Applied.Resources = nil
			if gone := absent(); len(gone) > 0 {
				t.Errorf("without its object there is %v", gone)
			}
		})
	}
}

// TestRollbacksOfMembers: what is said of a namespace's rollbacks is about those that there are. The callers that failed are named
// as long as the same workloads are rolled back.
func TestRollbacksOfMembers(t *testing.T) {
	const verifying, enforced, rolledBack = v1alpha1.StageVerifying, v1alpha1.StageEnforced, v1alpha1.StageRolledBack
	in := observing()
	in.Facts.Target.Scope = v1alpha1.ScopeNamespace
	next := start.Add(time.Hour)
	step := func(a, b v1alpha1.Stage, d rollout.Decision) string {
		d.Form, d.Stage = facts.Form{Mode: v1alpha1.ModePermissive}, rolledBack
		in.Decision, in.Members = d, nil
		for name, stage := range map[string]v1alpha1.Stage{"a": a, "b": b} {
			member := observing()
			member.Decision.Stage = stage
			in.Members = append(in.Members, status.Member{Member: rollout.Member{Name: name, Decision: member.Decision}, Input: member})
		}
		in.Profile.Status = status.Compute(in)
		return meta.FindStatusCondition(in.Profile.Status.Conditions, v1alpha1.ConditionMutualTLSEnforced).Message
	}
	const failed = "Verification failed, and what was in force before is in force again. "
	both := failed + "Callers that failed: y (of workload b). Workloads that are not there yet: a, b. The next attempt starts at status.mtls.nextAttemptTime."
	for _, s := range []struct {
		a, b v1alpha1.Stage
		d    rollout.Decision
		want string
	}{
		{rolledBack, verifying, rollout.Decision{FailedCallers: []string{"x (of workload a)"}, Waiting: "Workloads that are not there yet: a."}, failed + "Callers that failed: x (of workload a). Workloads that are not there yet: a. Nothing is tried again until the spec changes."},
		{rolledBack, rolledBack, rollout.Decision{FailedCallers: []string{"y (of workload b)"}, NextAttempt: next, Waiting: "Workloads that are not there yet: a, b."}, both},
		{rolledBack, rolledBack, rollout.Decision{NextAttempt: next, Waiting: "Workloads that are not there yet: a, b."}, both},
		{rolledBack, rolledBack, rollout.Decision{Waiting: "Workloads that are not there yet: a, b."}, failed + "Workloads that are not there yet: a, b. Nothing is tried again until the spec changes."},
		{rolledBack, enforced, rollout.Decision{Waiting: "Workloads that are not there yet: a."}, failed + "Workloads that are not there yet: a. Nothing is tried again until the spec changes."},
	} {
		if diff := cmp.Diff(s.want, step(s.a, s.b, s.d)); diff != "" {
			t.Errorf("a is %s, b is %s (-want +got):\n%s", s.a, s.b, diff)
		}
	}
}

// TestConnectionsOfMembers: what a whole namespace has to remember of connections has a bound, and what is told in full goes first.
func TestConnectionsOfMembers(t *testing.T) {
	in := observing()
	for m := range 30 {
		member := observing()
		member.Seen.Evidence = v1alpha1.Evidence{ObservedTime: &metav1.Time{Time: start}, Proxies: "p"}
		for c := range int64(v1alpha1.MaxPodConnections) {
			member.Seen.Evidence.Connections = append(member.Seen.Evidence.Connections, v1alpha1.PodConnections{Pod: fmt.Sprint(c), Opened: 1, Closed: c % 2})
		}
		in.Members = append(in.Members, status.Member{Member: rollout.Member{Name: fmt.Sprintf("web-%02d", m), Decision: member.Decision}, Input: member})
	}
	rollouts, kept := status.Compute(in).MTLS.Rollouts, 0
	if len(rollouts) != 30 {
		t.Fatalf("%d rollouts", len(rollouts))
	}
	for _, one := range rollouts {
		kept += len(one.Evidence.Connections)
		for _, c := range one.Evidence.Connections {
			if c.Closed > 0 {
				t.Fatalf("%+v is kept", c)
			}
		}
	}
	if kept != 30*v1alpha1.MaxPodConnections/2 {
		t.Errorf("%d are kept", kept)
	}
	for i := range in.Members {
		for c := range in.Members[i].Input.Seen.Evidence.Connections {
			in.Members[i].Input.Seen.Evidence.Connections[c].Closed = 0
		}
	}
	kept = 0
	for _, one := range status.Compute(in).MTLS.Rollouts {
		kept += len(one.Evidence.Connections)
	}
	if kept != 1024 {
		t.Errorf("%d open ones are kept, want 1024", kept)
	}
}

// TestMessages are those that no story comes to.
func TestMessages(t *testing.T) {
	tests := map[string]struct {
		base func() status.Input
		edit func(*status.Input)
		kind string
		want string
	}{
		"refused callers": {
			enforced, func(in *status.Input) {
				in.Logged.Callers = []traffic.LoggedCaller{
					{PlaintextCaller: v1alpha1.PlaintextCaller{Workload: "unknown", Address: "192.0.2.7", Port: 80, Refused: true}},
					{PlaintextCaller: v1alpha1.PlaintextCaller{Workload: "cron", Namespace: "legacy", Address: "10.0.0.9", Port: 80, Requests: 3, Refused: true}},
					{PlaintextCaller: v1alpha1.PlaintextCaller{Workload: "let-in", Namespace: "legacy", Address: "10.0.0.9", Port: 9000, Requests: 3}},
				}
			}, v1alpha1.ConditionPlaintextFree,
			"False, PlaintextRefused: STRICT refused plaintext within rollout.observationWindow: address 192.0.2.7 on port 80, legacy/cron on port 80. Move these callers into the mesh, or except the port by mtls.portLevel; status.mtls.plaintextCallers counts them.",
		},
		"nobody calls yet": {
			observing, func(in *status.Input) { in.Spec.MinRequests, in.Seen.Reason = 1, v1alpha1.ReasonNoTraffic }, v1alpha1.ConditionTrafficObserved,
			"False, NoTraffic: Every proxy of the target is read, and nobody calls it by mutual TLS. Send traffic, or set rollout.minRequests to 0 to let an idle workload switch.",
		},
		"nobody calls after the switch": {
			observing, func(in *status.Input) {
				in.Spec.MinRequests, in.Seen.Reason, in.Decision.Stage = 1, v1alpha1.ReasonNoTraffic, v1alpha1.StageVerifying
			}, v1alpha1.ConditionTrafficObserved,
			"True, TrafficObserved: Every proxy of the target is read, and nothing is missing from what it counts.",
		},
		"refused callers need nobody": {
			enforced, func(in *status.Input) {
				in.Logged.Callers = []traffic.LoggedCaller{{PlaintextCaller: v1alpha1.PlaintextCaller{Workload: "cron", Port: 80, Refused: true}}}
			}, v1alpha1.ConditionReady,
			"True, Ready: Everything is accepted and programmed, and nothing waits for a person.",
		},
		"plaintext that was let in before STRICT": {
			enforced, func(in *status.Input) {
				in.Logged.Callers = []traffic.LoggedCaller{{PlaintextCaller: v1alpha1.PlaintextCaller{Workload: "cron", Port: 80}}}
			}, v1alpha1.ConditionPlaintextFree,
			"Unknown, NotNeeded: STRICT is in force for good, so the traffic is not observed any more.",
		},
		"a rollback without a next attempt": {
			observing, func(in *status.Input) { in.Decision = rollout.Decision{Stage: v1alpha1.StageRolledBack} }, v1alpha1.ConditionReady,
			"False, RolledBack: Verification failed, and what was in force before is in force again. Nothing is tried again until the spec changes.",
		},
		"a rollback while suspended": {
			observing, func(in *status.Input) {
				in.Spec.Suspend = true
				in.Decision = rollout.Decision{Stage: v1alpha1.StageRolledBack, NextAttempt: start, FailedCallers: []string{"a", "b", "c", "d"}}
			}, v1alpha1.ConditionMutualTLSEnforced,
			"False, RolledBack: Verification failed, and what was in force before is in force again. Callers that failed: a, b, c and others. Nothing is tried again while rollout.suspend is true.",
		},
		"an approval without a token": {
			observing, func(in *status.Input) { in.Decision = rollout.Decision{Stage: v1alpha1.StageAwaitingApproval} }, v1alpha1.ConditionReady,
			"False, AwaitingApproval: Nothing but approval is missing: kubectl annotate ssp httpbin -n foo --overwrite servicesecurity.dev/approve= approves what status.mtls.approval.summary says.",
		},
		"nothing was said of what is missing": {
			observing, func(in *status.Input) { in.Seen = traffic.Observation{Completeness: traffic.Incomplete} }, v1alpha1.ConditionTrafficObserved,
			"False, Incomplete: The target's proxies were not read.",
		},
		"no traffic, and none is asked for": {
			observing, func(in *status.Input) {
				in.Spec.MinRequests, in.Seen.Reason = 0, v1alpha1.ReasonNoTraffic
			}, v1alpha1.ConditionTrafficObserved,
			"True, TrafficObserved: Every proxy of the target is read, and nothing is missing from what it counts.",
		},
		"plaintext at the edge of the window": {
			observing, func(in *status.Input) { in.Decision.LastPlaintext = start.Add(-time.Hour) }, v1alpha1.ConditionPlaintextFree,
			"True, PlaintextFree: No plaintext was seen since status.mtls.cleanSinceTime.",
		},
		"a part of the target is not observed": {
			observing, func(in *status.Input) {
				in.Decision.Stage = v1alpha1.StageBlocked
				in.Decision.Blockers = []v1alpha1.Blocker{
					{Type: v1alpha1.BlockerPodsNotInMesh, Message: "One."},
					{Type: v1alpha1.BlockerPodsNotInMesh, Message: "Two."},
					{Type: v1alpha1.BlockerPlaintextDestinationRule, Message: "Three."},
					{Type: v1alpha1.BlockerPortsExcluded, Message: "Four."},
				}
			}, v1alpha1.ConditionPlaintextFree,
			"Unknown, Incomplete: No plaintext was seen, but a part of the target takes traffic that no proxy counts, because of PodsNotInMesh, PortsExcluded. status.mtls.blockers says what to do.",
		},
		"callers of many names": {
			observing, func(in *status.Input) {
				in.Decision.LastPlaintext = start
				for _, name := range []string{"d", "a", "unknown", "c", "b", "a"} {
					in.Seen.Callers = append(in.Seen.Callers, v1alpha1.PlaintextCaller{Workload: name, Namespace: "unknown"})
				}
			}, v1alpha1.ConditionPlaintextFree,
			"False, PlaintextSeen: Plaintext was seen within rollout.observationWindow, from a, b, c and others, and from callers that the target's proxies cannot name. Move what calls in plaintext into the mesh; status.mtls.plaintextCallers counts it by caller.",
		},
		"some ports are excepted": {
			enforced, func(in *status.Input) {
				in.Spec.Asked.Ports = map[int32]v1alpha1.Mode{9090: v1alpha1.ModePermissive, 80: v1alpha1.ModeDisabled}
			}, v1alpha1.ConditionMutualTLSEnforced,
			"True, MutualTLSEnforced: STRICT is in force on every port but the workload ports 80 and 9090.",
		},
		"STRICT is inherited, and the object cannot be written": {enforced, func(in *status.Input) {
			in.Facts.Policy, in.Facts.Inherited, in.Applied, in.ApplyError = facts.Policy{}, v1alpha1.ModeStrict, apply.Result{}, errFailed
		}, v1alpha1.ConditionMutualTLSEnforced, "True, MutualTLSEnforced: STRICT is in force on every port."},
		"a port was weakened, and cannot be repaired": {
			enforced, func(in *status.Input) {
				in.Spec.Asked = facts.Form{Mode: v1alpha1.ModePermissive, Ports: map[int32]v1alpha1.Mode{80: v1alpha1.ModeStrict}}
				in.Facts.Policy.Form = facts.Form{Mode: v1alpha1.ModePermissive}
				in.Applied, in.ApplyError = apply.Result{}, errFailed
			}, v1alpha1.ConditionMutualTLSEnforced,
			"False, ApplyFailed: STRICT is not in force any more, and cannot be written again; see the condition Programmed.",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			in := tc.base()
			tc.edit(&in)
			if diff := cmp.Diff(tc.want, condition(status.Compute(in), tc.kind)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.kind, diff)
			}
		})
	}
}

// TestWarnings are those that no story comes to.
func TestWarnings(t *testing.T) {
	host := facts.Host{Name: "httpbin.foo.svc.cluster.local", Service: "httpbin", Headless: true}
	other := facts.ClientRule{Namespace: "shop", Name: "plain", Host: host.Name}
	tests := map[string]struct {
		edit func(*status.Input)
		want []v1alpha1.WarningType
	}{
		"nothing to say": {func(*status.Input) {}, nil},
		"a port's rule alone demands mutual TLS": {func(in *status.Input) {
			host := host
			host.UnmeshedEndpoints = []string{"a", "b", "c", "d"}
			in.Facts.Hosts = []facts.Host{host}
			in.Decision.Rules = []rollout.Rule{{Host: host, TLS: facts.TLSDisable, Ports: []rollout.RulePort{{Port: 80, TLS: facts.TLSMutual}}}}
		}, []v1alpha1.WarningType{v1alpha1.WarningPodsNotReachable}},
		"a rule that forbids mutual TLS leaves no one out": {func(in *status.Input) {
			host := host
			host.Headless, host.UnmeshedEndpoints = false, []string{"a"}
			in.Facts.Hosts = []facts.Host{host}
			in.Decision.Rules = []rollout.Rule{{Host: host, TLS: facts.TLSDisable}}
		}, nil},
		"one foreign rule is one warning, however many of its settings matter": {func(in *status.Input) {
			in.Facts.Hosts, in.Facts.ClientRules = []facts.Host{host}, []facts.ClientRule{other, other}
		}, []v1alpha1.WarningType{v1alpha1.WarningDestinationRuleWithheld}},
		"a foreign rule where the namespace is DISABLE": {func(in *status.Input) {
			host := host
			host.Headless, in.Facts.Inherited, in.Facts.InheritedFrom = false, v1alpha1.ModeDisabled, "foo/default"
			in.Facts.Hosts, in.Facts.ClientRules = []facts.Host{host}, []facts.ClientRule{other}
		}, []v1alpha1.WarningType{v1alpha1.WarningDestinationRuleWithheld}},
		"a foreign rule for another host": {func(in *status.Input) {
			other := other
			other.Host = "else.foo.svc.cluster.local"
			in.Facts.Hosts, in.Facts.ClientRules = []facts.Host{host}, []facts.ClientRule{other}
		}, nil},
		"jobs that the window cannot have seen": {func(in *status.Input) {
			in.Facts.ScheduledJobs = []facts.ScheduledJob{{Namespace: "foo", Name: "weekly", Gap: 168 * time.Hour}, {Namespace: "bar", Name: "daily", Gap: 24 * time.Hour}}
		}, []v1alpha1.WarningType{v1alpha1.WarningScheduledJobOutsideWindow}},
		"remote clusters are hidden": {func(in *status.Input) { in.Facts.RemoteClustersHidden = true }, []v1alpha1.WarningType{v1alpha1.WarningRemoteClustersNotVisible}},
		"STRICT is not asked for": {func(in *status.Input) {
			in.Spec.Asked.Mode, in.Decision = v1alpha1.ModePermissive, rollout.Decision{Form: facts.Form{Mode: v1alpha1.ModePermissive}}
			in.Facts.Hosts, in.Facts.ClientRules = []facts.Host{host}, []facts.ClientRule{other}
		}, nil},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			in := enforced()
			tc.edit(&in)
			var got []v1alpha1.WarningType
			for _, w := range status.Compute(in).Warnings {
				got = append(got, w.Type)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
		})
	}
}

// TestRollbackWarning: that nothing would be rolled back is said before it matters, and only where something would be
// otherwise.
func TestRollbackWarning(t *testing.T) {
	const rest = " will not be rolled back if callers fail after the switch, although rollout.rollback is Automatic: in plaintext, callers would get in who are kept out by their identity, by "
	const text = "STRICT" + rest
	denies := func(in *status.Input) { in.Facts.IdentityDenials = []string{"foo/web-deny"} }
	tests := map[string]struct {
		edit func(*status.Input)
		want string
	}{
		"nobody is denied": {func(*status.Input) {}, ""},
		"by the profile":   {func(in *status.Input) { in.Spec.DeniesIdentities = true }, text + "deniedCallers of this profile."},
		"by a policy":      {denies, text + "foo/web-deny."},
		"by both":          {func(in *status.Input) { denies(in); in.Spec.DeniesIdentities = true }, text + "deniedCallers of this profile, foo/web-deny."},
		"by policies of members": {func(in *status.Input) {
			denies(in)
			for _, name := range []string{"web", "db", "api"} {
				in.Members = append(in.Members, status.Member{Member: rollout.Member{Name: name}, Input: enforced()})
			}
			in.Members[0].Facts.IdentityDenials, in.Members[1].Facts.IdentityDenials = []string{"foo/web-deny", "foo/all"}, []string{"foo/all"}
		}, "STRICT of web, db" + rest + "foo/all, foo/web-deny."},
		"while it is verified":  {func(in *status.Input) { denies(in); in.Decision.Stage = v1alpha1.StageVerifying }, text + "foo/web-deny."},
		"the switch is over":    {func(in *status.Input) { denies(in); in.Decision.Stage = v1alpha1.StageEnforced }, ""},
		"rollback is Never":     {func(in *status.Input) { denies(in); in.Spec.Rollback = v1alpha1.RollbackNever }, ""},
		"nothing is verified":   {func(in *status.Input) { denies(in); in.Spec.VerificationWindow = 0 }, ""},
		"strategy is Immediate": {func(in *status.Input) { denies(in); in.Spec.Strategy = v1alpha1.StrategyImmediate }, ""},
		"STRICT is not asked for": {func(in *status.Input) {
			denies(in)
			in.Spec.Asked.Mode = v1alpha1.ModePermissive
			in.Decision = rollout.Decision{Form: facts.Form{Mode: v1alpha1.ModePermissive}}
		}, ""},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			in := observing()
			in.Spec.Strategy, in.Spec.Rollback = v1alpha1.StrategyStaged, v1alpha1.RollbackAutomatic
			tc.edit(&in)
			var got string
			for _, w := range status.Compute(in).Warnings {
				if w.Type == v1alpha1.WarningRollbackWithheld {
					got = w.Message
				}
			}
			if got != tc.want {
				t.Errorf("the warning says %q, want %q", got, tc.want)
			}
		})
	}
}

func TestScheduledJobWarning(t *testing.T) {
	in := enforced()
	in.Facts.ScheduledJobs = []facts.ScheduledJob{
		{Namespace: "bar", Name: "monthly", Gap: 744*time.Hour + time.Minute}, {Namespace: "foo", Name: "weekly", Gap: 168 * time.Hour},
	}
	want := "Scheduled jobs that may call the target run less often than once in rollout.observationWindow, so the plaintext that they may send is not known: bar/monthly, foo/weekly. " +
		"Lengthen observationWindow to more than 745h, or see that their pods have a sidecar."
	if got := status.Compute(in).Warnings; len(got) != 1 || got[0].Message != want {
		t.Errorf("warnings are %v, want one that says %q", got, want)
	}
}

// TestSignificant: what must be written at once, and what may wait a minute.
func TestSignificant(t *testing.T) {
	at := func(seconds int) *metav1.Time {
		return &metav1.Time{Time: start.Add(time.Duration(seconds) * time.Second)}
	}
	whole := func() v1alpha1.ServiceSecurityProfileStatus {
		return v1alpha1.ServiceSecurityProfileStatus{
			ObservedGeneration: 1, Pods: &v1alpha1.PodCount{Total: 1, InMesh: 1},
			Conditions: []metav1.Condition{{Type: "Ready", Status: "True", Reason: "Ready", Message: "m", LastTransitionTime: *at(0)}},
			MTLS: &v1alpha1.MTLSStatus{
				Stage: v1alpha1.StageObserving, CleanSinceTime: at(0), EligibleTime: at(0), LastPlaintextTime: at(0),
				PlaintextCallers: []v1alpha1.PlaintextCaller{
					{Workload: "a", Port: 1, Requests: 2, LastSeenTime: at(0)}, {Workload: "a", Port: 2, Requests: 1}, {Workload: "b", Requests: 1},
				},
				Blockers: []v1alpha1.Blocker{{Type: v1alpha1.BlockerNoPods, Message: "m"}}, Evidence: &v1alpha1.Evidence{Plaintext: 1},
			},
		}
	}
	type edit func(*v1alpha1.ServiceSecurityProfileStatus)
	tests := map[string]struct {
		edit                   edit
		significant, unchanged bool
	}{
		"nothing":                    {func(*v1alpha1.ServiceSecurityProfileStatus) {}, false, true},
		"nil and empty are the same": {func(s *v1alpha1.ServiceSecurityProfileStatus) { s.Warnings = []v1alpha1.Warning{} }, false, true},
		"the same times in another zone": {func(s *v1alpha1.ServiceSecurityProfileStatus) {
			s.MTLS.CleanSinceTime = &metav1.Time{Time: start.In(time.FixedZone("x", 3600))}
		}, false, true},
		"a condition's time": {func(s *v1alpha1.ServiceSecurityProfileStatus) { s.Conditions[0].LastTransitionTime = *at(1) }, false, false},
		"times of the stretch": {func(s *v1alpha1.ServiceSecurityProfileStatus) {
			s.MTLS.CleanSinceTime, s.MTLS.EligibleTime, s.MTLS.LastPlaintextTime = at(1), nil, at(2)
		}, false, false},
		"evidence": {func(s *v1alpha1.ServiceSecurityProfileStatus) { s.MTLS.Evidence.Plaintext++ }, false, false},
		"a caller's count and the order by it": {func(s *v1alpha1.ServiceSecurityProfileStatus) {
			c := s.MTLS.PlaintextCallers
			c[0], c[1], c[2] = c[1], c[2], c[0]
			c[0].Requests, c[0].LastSeenTime = 9, at(9)
		}, false, false},
		"another caller":       {func(s *v1alpha1.ServiceSecurityProfileStatus) { s.MTLS.PlaintextCallers[0].Workload = "c" }, true, false},
		"a caller is refused":  {func(s *v1alpha1.ServiceSecurityProfileStatus) { s.MTLS.PlaintextCallers[0].Refused = true }, true, false},
		"another port":         {func(s *v1alpha1.ServiceSecurityProfileStatus) { s.MTLS.PlaintextCallers[0].Port = 3 }, true, false},
		"one caller less":      {func(s *v1alpha1.ServiceSecurityProfileStatus) { s.MTLS.PlaintextCallers = s.MTLS.PlaintextCallers[:1] }, true, false},
		"the stage":            {func(s *v1alpha1.ServiceSecurityProfileStatus) { s.MTLS.Stage = v1alpha1.StageBlocked }, true, false},
		"a blocker":            {func(s *v1alpha1.ServiceSecurityProfileStatus) { s.MTLS.Blockers[0].Message = "n" }, true, false},
		"a condition's status": {func(s *v1alpha1.ServiceSecurityProfileStatus) { s.Conditions[0].Status = "False" }, true, false},
		"a condition's words":  {func(s *v1alpha1.ServiceSecurityProfileStatus) { s.Conditions[0].Message = "n" }, true, false},
		"the generation":       {func(s *v1alpha1.ServiceSecurityProfileStatus) { s.ObservedGeneration++ }, true, false},
		"the pods":             {func(s *v1alpha1.ServiceSecurityProfileStatus) { s.Pods.InMesh = 0 }, true, false},
		"no mtls at all":       {func(s *v1alpha1.ServiceSecurityProfileStatus) { s.MTLS = nil }, true, false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			before, after := whole(), whole()
			tc.edit(&after)
			if got := status.Significant(before, after); got != tc.significant {
				t.Errorf("significant: got %t, want %t", got, tc.significant)
			}
			if got := status.Significant(after, before); got != tc.significant {
				t.Errorf("significant the other way: got %t, want %t", got, tc.significant)
			}
			if got := status.Equal(before, after); got != tc.unchanged {
				t.Errorf("equal: got %t, want %t", got, tc.unchanged)
			}
			if diff := cmp.Diff(whole(), before); diff != "" {
				t.Errorf("the status before was changed:\n%s", diff)
			}
		})
	}
}

// TestComputeChangesNothing of what it is given.
func TestComputeChangesNothing(t *testing.T) {
	in := observing()
	in.Profile.Status.Resources = []v1alpha1.ResourceRef{peer, rule}
	in.Applied.Resources = []v1alpha1.ResourceRef{peer, rule}
	in.Seen.Callers = []v1alpha1.PlaintextCaller{{Workload: strings.Repeat("a", 300)}}
	in.Decision.Blockers = []v1alpha1.Blocker{{Type: v1alpha1.BlockerPlaintextSeen, Message: strings.Repeat("a", 3000)}}
	profile, resources := in.Profile.DeepCopy(), fmt.Sprint(in.Applied, in.Seen.Callers, in.Decision)
	got := status.Compute(in)
	got.MTLS.PlaintextCallers[0].Workload, got.MTLS.Evidence.Proxies = "changed", "changed"
	if diff := cmp.Diff(profile, in.Profile); diff != "" {
		t.Errorf("the profile was changed:\n%s", diff)
	}
	if resources != fmt.Sprint(in.Applied, in.Seen.Callers, in.Decision) || in.Seen.Evidence.Proxies != "" {
		t.Error("the input was changed")
	}
}

func BenchmarkCompute(b *testing.B) {
	for _, name := range []string{"a3-workload-strict", "many-blockers"} {
		b.Run(name, func(b *testing.B) {
			in := tell(b, name)[0].input
			b.ReportAllocs()
			for b.Loop() {
				status.Compute(in)
			}
		})
	}
}
