package status_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/apply"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/rollout"
	"github.com/servicesecurity/operator/controllers/status"
	"github.com/servicesecurity/operator/controllers/traffic"
)

var (
	notAcceptedReasons = []string{
		v1alpha1.ReasonTargetNotFound, v1alpha1.ReasonConflicted, v1alpha1.ReasonInvalid, v1alpha1.ReasonUnsupported, v1alpha1.ReasonAffectsGateways,
	}
	applyReasons = []string{
		v1alpha1.ReasonForeignObject, v1alpha1.ReasonIstioNotInstalled, v1alpha1.ReasonUnsupportedByIstio, v1alpha1.ReasonApplyFailed,
	}
	incompleteReasons = []string{v1alpha1.ReasonSourceUnavailable, v1alpha1.ReasonIncomplete, v1alpha1.ReasonNoTelemetry}
	unneededReasons   = []string{v1alpha1.ReasonNotNeeded, v1alpha1.ReasonNotAccepted}
	blockerReasons    = []string{
		string(v1alpha1.BlockerPodsNotInMesh), string(v1alpha1.BlockerNoPods), string(v1alpha1.BlockerAmbientUnsupported),
		string(v1alpha1.BlockerWorkloadEntry), string(v1alpha1.BlockerRemoteCluster), string(v1alpha1.BlockerPodsRollingOut),
		string(v1alpha1.BlockerPortsExcluded), string(v1alpha1.BlockerUnrewrittenProbes), string(v1alpha1.BlockerSidecarIngressTLS),
		string(v1alpha1.BlockerPortNotAttributable), string(v1alpha1.BlockerPlaintextDestinationRule),
		string(v1alpha1.BlockerPlaintextServiceEntry), string(v1alpha1.BlockerCompetingPeerAuthentication),
		string(v1alpha1.BlockerTelemetryOverridden), string(v1alpha1.BlockerTelemetryIncomplete), string(v1alpha1.BlockerPlaintextSeen),
		string(v1alpha1.BlockerPlaintextConnectionsOpen), string(v1alpha1.BlockerInsufficientTraffic), string(v1alpha1.BlockerApprovalMissing),
	}
)

// allowed are the reasons of each condition and status, as api/v1alpha1/conditions.go lists them.
var allowed = map[string]map[metav1.ConditionStatus][]string{
	v1alpha1.ConditionAccepted: {
		metav1.ConditionTrue: {v1alpha1.ConditionAccepted}, metav1.ConditionFalse: notAcceptedReasons,
	},
	v1alpha1.ConditionProgrammed: {
		metav1.ConditionTrue: {v1alpha1.ConditionProgrammed}, metav1.ConditionFalse: append([]string{v1alpha1.ReasonNotAccepted}, applyReasons...),
	},
	v1alpha1.ConditionTrafficObserved: {
		metav1.ConditionTrue:    {v1alpha1.ConditionTrafficObserved},
		metav1.ConditionFalse:   append([]string{v1alpha1.ReasonNoTraffic}, incompleteReasons...),
		metav1.ConditionUnknown: unneededReasons,
	},
	v1alpha1.ConditionPlaintextFree: {
		metav1.ConditionTrue:    {v1alpha1.ConditionPlaintextFree},
		metav1.ConditionFalse:   {v1alpha1.ReasonPlaintextSeen, v1alpha1.ReasonPlaintextRefused},
		metav1.ConditionUnknown: append(slices.Clone(incompleteReasons), unneededReasons...),
	},
	v1alpha1.ConditionMutualTLSEnforced: {
		metav1.ConditionTrue: {v1alpha1.ConditionMutualTLSEnforced, string(v1alpha1.StageVerifying)},
		metav1.ConditionFalse: append([]string{
			string(v1alpha1.StageObserving), string(v1alpha1.StageBlocked), string(v1alpha1.StageAwaitingApproval), string(v1alpha1.StageRolledBack),
			string(v1alpha1.StageVerifying), v1alpha1.ReasonPodsNotInMesh, v1alpha1.ReasonOverridden, v1alpha1.ReasonNotRequested, v1alpha1.ReasonNotAccepted,
		}, applyReasons...),
	},
	v1alpha1.ConditionAuthorizationEnforced: {
		metav1.ConditionTrue: {v1alpha1.ConditionAuthorizationEnforced},
		metav1.ConditionFalse: {
			v1alpha1.ReasonDryRun, v1alpha1.ReasonPodsNotInMesh, v1alpha1.ReasonNotRequested, v1alpha1.ReasonNotAccepted, v1alpha1.ReasonSettling,
			string(v1alpha1.BlockerPortsExcluded),
			v1alpha1.ReasonForeignObject, v1alpha1.ReasonIstioNotInstalled, v1alpha1.ReasonUnsupportedByIstio, v1alpha1.ReasonApplyFailed,
		},
	},
	v1alpha1.ConditionReady: {
		metav1.ConditionTrue: {v1alpha1.ConditionReady},
		metav1.ConditionFalse: slices.Concat(notAcceptedReasons, applyReasons, blockerReasons,
			[]string{string(v1alpha1.StageAwaitingApproval), string(v1alpha1.StageRolledBack)}),
	},
}

// hold checks what is true of every status.
func hold(t *testing.T, in status.Input, got v1alpha1.ServiceSecurityProfileStatus) {
	t.Helper()
	var kinds []string
	for _, c := range got.Conditions {
		kinds = append(kinds, c.Type)
		if !slices.Contains(allowed[c.Type][c.Status], c.Reason) {
			t.Errorf("%s is %s with reason %s, which is not one of %v", c.Type, c.Status, c.Reason, allowed[c.Type][c.Status])
		}
		if c.ObservedGeneration != in.Profile.Generation || c.LastTransitionTime.IsZero() {
			t.Errorf("%s is of generation %d and time %s", c.Type, c.ObservedGeneration, c.LastTransitionTime)
		}
		sentence(t, c.Type, c.Message)
	}
	if diff := cmp.Diff(v1alpha1.ConditionTypes, kinds); diff != "" {
		t.Errorf("conditions (-want +got):\n%s", diff)
	}
	if got.ObservedGeneration != in.Profile.Generation {
		t.Errorf("generation %d, want %d", got.ObservedGeneration, in.Profile.Generation)
	}
	if len(got.MTLS.Blockers) > 32 || len(got.Warnings) > 16 || len(got.MTLS.PlaintextCallers) > 20 || len(got.Resources) > 256 {
		t.Errorf("%d blockers, %d warnings, %d callers, %d resources are more than the CRD takes",
			len(got.MTLS.Blockers), len(got.Warnings), len(got.MTLS.PlaintextCallers), len(got.Resources))
	}
	for _, b := range got.MTLS.Blockers {
		sentence(t, string(b.Type), b.Message)
	}
	for _, w := range got.Warnings {
		sentence(t, string(w.Type), w.Message)
	}
	truthful(t, in, got)
}

// truthful checks what a status claims.
func truthful(t *testing.T, in status.Input, got v1alpha1.ServiceSecurityProfileStatus) {
	t.Helper()
	is := func(kind string) bool { return meta.IsStatusConditionTrue(got.Conditions, kind) }
	stage := got.MTLS.Stage
	if is(v1alpha1.ConditionMutualTLSEnforced) {
		wins := slices.ContainsFunc(in.Facts.CompetingPolicies, func(p facts.CompetingPolicy) bool { return p.Wins })
		if wins || stage != v1alpha1.StageEnforced && stage != v1alpha1.StageVerifying {
			t.Errorf("MutualTLSEnforced at stage %q with policies %v", stage, in.Facts.CompetingPolicies)
		}
		if in.Spec.Asked.Mode == v1alpha1.ModeStrict && got.MTLS.EffectiveMode != v1alpha1.ModeStrict && got.MTLS.EffectiveMode != "" {
			t.Errorf("MutualTLSEnforced, and the mode in force is %s", got.MTLS.EffectiveMode)
		}
	}
	waits := []v1alpha1.Stage{v1alpha1.StageBlocked, v1alpha1.StageAwaitingApproval, v1alpha1.StageRolledBack}
	if is(v1alpha1.ConditionReady) && (!is(v1alpha1.ConditionAccepted) || !is(v1alpha1.ConditionProgrammed) || slices.Contains(waits, stage)) {
		t.Errorf("Ready at stage %q", stage)
	}
	if stage != "" && !in.Spec.AsksStrict() {
		t.Errorf("stage %s, and Strict is not asked for", stage)
	}
	if in.Decision.Switched && in.ApplyError != nil && len(in.Applied.Resources) == 0 && stage != v1alpha1.StageObserving {
		t.Errorf("stage %s, and STRICT could not be written", stage)
	}
}

// sentence checks that a text is one: short enough, valid, and with a beginning and an end.
func sentence(t *testing.T, of, text string) {
	t.Helper()
	first, _ := utf8.DecodeRuneInString(text)
	last, _ := utf8.DecodeLastRuneInString(text)
	if !utf8.ValidString(text) || len(text) > 1024 || !unicode.IsUpper(first) && !unicode.IsDigit(first) || last != '.' && last != '…' {
		t.Errorf("%s: %q is no sentence", of, text)
	}
	if strings.Contains(text, "  ") || strings.Contains(text, "%!") || strings.Contains(text, "..") {
		t.Errorf("%s: %q is badly made", of, text)
	}
}

func TestStoriesHold(t *testing.T) {
	for _, name := range stories(t) {
		t.Run(name, func(t *testing.T) {
			for _, o := range tell(t, name) {
				hold(t, o.input, o.status)
				if again := status.Compute(o.input); !status.Equal(o.status, again) {
					t.Errorf("%s: the same input gives another status: %s", o.step, cmp.Diff(o.status, again))
				}
			}
		})
	}
}

// TestNoChurn: what moves all the time moves no text, and makes no write urgent.
func TestNoChurn(t *testing.T) {
	for _, name := range stories(t) {
		t.Run(name, func(t *testing.T) {
			for _, o := range tell(t, name) {
				in := o.input
				in.Now = in.Now.Add(time.Second)
				in.Seen.Time, in.Seen.MutualTLS = in.Now, in.Seen.MutualTLS+17
				in.Seen.Evidence.MutualTLS, in.Seen.Evidence.Plaintext = 99, 98
				in.Seen.Callers = slices.Clone(in.Seen.Callers)
				slices.Reverse(in.Seen.Callers)
				for i := range in.Seen.Callers {
					in.Seen.Callers[i].Requests += int64(100 * (i + 1))
					in.Seen.Callers[i].LastSeenTime = &metav1.Time{Time: in.Now}
				}
				if in.Seen.OpenPlaintext > 0 {
					in.Seen.OpenPlaintext++
				}
				for _, at := range []*time.Time{&in.Decision.CleanSince, &in.Decision.Eligible, &in.Decision.LastPlaintext} {
					if !at.IsZero() {
						*at = at.Add(time.Second)
					}
				}
				got := status.Compute(in)
				if diff := cmp.Diff(texts(o.status), texts(got)); diff != "" {
					t.Errorf("%s: texts changed (-before +after):\n%s", o.step, diff)
				}
				if status.Significant(o.status, got) {
					t.Errorf("%s: a change of counts and times is significant:\n%s", o.step, cmp.Diff(o.status, got))
				}
			}
		})
	}
}

func texts(s v1alpha1.ServiceSecurityProfileStatus) []string {
	var all []string
	for _, c := range s.Conditions {
		all = append(all, fmt.Sprint(c.Type, c.Status, c.Reason, c.Message))
	}
	for _, b := range s.MTLS.Blockers {
		all = append(all, string(b.Type), b.Message)
	}
	for _, w := range s.Warnings {
		all = append(all, string(w.Type), w.Message)
	}
	return all
}

// FuzzCompute holds the same of anything that may be found, decided and done.
func FuzzCompute(f *testing.F) {
	for seed := range uint64(400) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 7))
		before := v1alpha1.ServiceSecurityProfileStatus{}
		for range 3 {
			in := anything(r, before)
			got := status.Compute(in)
			hold(t, in, got)
			if !status.Equal(got, status.Compute(in)) {
				t.Error("the same input gives another status")
			}
			before = got
		}
	})
}

func pick[T any](r *rand.Rand, all ...T) T { return all[r.IntN(len(all))] }

func some[T any](r *rand.Rand, most int, one func(int) T) []T {
	var all []T
	if r.IntN(2) == 0 {
		return nil
	}
	for i := range r.IntN(most) {
		all = append(all, one(i))
	}
	return all
}

// anything is a random input that the controller could give.
func anything(r *rand.Rand, before v1alpha1.ServiceSecurityProfileStatus) status.Input {
	now := start.Add(time.Duration(r.IntN(1e6)) * time.Millisecond)
	ago := func() time.Time { return now.Add(-time.Duration(r.IntN(1e6)) * time.Millisecond) }
	name := func(i int) string { return pick(r, "a", "bé", strings.Repeat("x", 300), "\xff") + fmt.Sprint(i) }
	mode := func() v1alpha1.Mode {
		return pick(r, v1alpha1.ModeStrict, v1alpha1.ModePermissive, v1alpha1.ModeDisabled)
	}

	profile := &v1alpha1.ServiceSecurityProfile{Status: before}
	profile.Namespace, profile.Name, profile.Generation = "foo", "httpbin", 1+before.ObservedGeneration*int64(r.IntN(2))
	profile.Spec.Target = pick(r,
		v1alpha1.Target{Kind: v1alpha1.TargetService, Name: "httpbin"}, v1alpha1.Target{Kind: v1alpha1.TargetWorkload},
		v1alpha1.Target{Kind: v1alpha1.TargetGateway, Name: "g"}, v1alpha1.Target{Kind: v1alpha1.TargetNamespace}, v1alpha1.Target{Kind: v1alpha1.TargetMesh})
	in := status.Input{Profile: profile, Now: now}
	in.Spec = rollout.Spec{
		Generation: profile.Generation, Asked: facts.Form{Mode: pick(r, mode(), v1alpha1.ModeStrict)}, ObservationWindow: 100 * time.Second,
		DestinationRule:    pick(r, v1alpha1.DestinationRuleAuto, v1alpha1.DestinationRuleAlways, v1alpha1.DestinationRuleNever),
		Strategy:           pick(r, v1alpha1.StrategyStaged, v1alpha1.StrategyImmediate),
		VerificationWindow: pick(r, 0, 10*time.Minute), MinRequests: int64(r.IntN(3)),
		Rollback: pick(r, v1alpha1.RollbackAutomatic, v1alpha1.RollbackNever),
		Approval: pick(r, v1alpha1.ApprovalAutomatic, v1alpha1.ApprovalManual), Suspend: r.IntN(4) == 0,
	}
	if r.IntN(3) == 0 {
		in.Spec.Asked.Ports = map[int32]v1alpha1.Mode{80: mode(), 9443: mode()}
	}
	selector := map[string]string{"app": "httpbin"}
	in.Facts = facts.Facts{
		Live: r.IntN(2) == 0, Mesh: facts.Mesh{AutoMTLS: r.IntN(3) > 0}, Target: facts.Target{Scope: v1alpha1.ScopeWorkload, Selector: selector},
		UnchangedFor: pick(r, 0, time.Hour), Inherited: pick(r, mode(), ""), InheritedFrom: "foo/default",
		Policy: facts.Policy{Exists: r.IntN(2) == 0, Owned: r.IntN(2) == 0, Form: facts.Form{Mode: mode()}, Selector: pick(r, selector, nil)},
		Pods: some(r, 4, func(i int) facts.Pod {
			return facts.Pod{Name: name(i), Membership: pick(r, facts.MemberSidecar, facts.MemberSidecar, facts.MemberNone, facts.MemberAmbient)}
		}),
		Hosts: some(r, 3, func(i int) facts.Host {
			return facts.Host{Name: fmt.Sprint("host", i), Service: name(i), Headless: r.IntN(3) == 0, Endpoints: r.IntN(3), UnmeshedEndpoints: some(r, 5, name)}
		}),
		ClientRules: some(r, 40, func(i int) facts.ClientRule {
			return facts.ClientRule{Namespace: "shop", Name: name(i), Host: fmt.Sprint("host", r.IntN(3)), TLS: pick(r, "", "DISABLE"), Where: "trafficPolicy"}
		}),
		CompetingPolicies: some(r, 3, func(i int) facts.CompetingPolicy {
			return facts.CompetingPolicy{Namespace: "foo", Name: name(i), Pod: "p", Wins: r.IntN(2) == 0}
		}),
		UnmappedPorts: some(r, 20, func(i int) int32 { return int32(i) + 1 }),
	}
	in.Facts.Effective = in.Facts.Inherited
	if p := in.Facts.Policy; p.Exists && len(p.Selector) > 0 && !slices.ContainsFunc(in.Facts.CompetingPolicies, func(c facts.CompetingPolicy) bool { return c.Wins }) {
		in.Facts.Effective = p.Form.Mode
		if r.IntN(3) == 0 {
			in.Facts.Policy.SwitchedAt, in.Facts.Policy.Previous = ago(), facts.Form{Mode: v1alpha1.ModePermissive}
		}
	}
	in.Seen = traffic.Observation{
		Completeness: pick(r, traffic.Complete, traffic.Complete, traffic.Incomplete, traffic.Skipped), Time: now, Since: ago(),
		ConnectionsVisible: r.IntN(2) == 0, MutualTLS: int64(r.IntN(5)),
		Callers: some(r, 40, func(i int) v1alpha1.PlaintextCaller {
			return v1alpha1.PlaintextCaller{Workload: pick(r, name(i), "unknown", ""), Namespace: pick(r, "", "unknown", name(i)), Protocol: name(i)}
		}),
	}
	if in.Seen.Completeness != traffic.Complete {
		in.Seen.Reason = pick(r, "", v1alpha1.ReasonIncomplete, v1alpha1.ReasonSourceUnavailable, v1alpha1.ReasonNoTelemetry)
		in.Seen.Message = pick(r, "", "The proxy cannot be read.")
	} else if r.IntN(3) == 0 {
		in.Seen.Reason = v1alpha1.ReasonNoTraffic
	}
	if r.IntN(3) == 0 {
		in.Seen.LastPlaintext = ago()
	}
	if r.IntN(8) == 0 {
		in.Facts.Problem = &facts.Problem{Reason: pick(r, notAcceptedReasons...), Message: "It is not accepted. Mend it."}
		return in
	}
	in.Decision = rollout.Next(rollout.Input{
		Spec: in.Spec, Facts: in.Facts, Seen: in.Seen, Previous: rollout.PreviousOf(before), Now: now, Interval: interval, Settle: settle,
		FailingCallers: some(r, 6, name),
	})
	var errs []error
	if r.IntN(3) == 0 {
		errs = append(errs, pick[error](r,
			&apply.ForeignObjectError{Kind: "PeerAuthentication", Namespace: "foo", Name: "httpbin", Profile: "httpbin"},
			&apply.NotInstalledError{Kind: "PeerAuthentication"}, errors.New("updating PeerAuthentication httpbin: it failed"), errors.New("")))
	} else if !in.Decision.Form.Empty() {
		in.Applied.Resources = append(in.Applied.Resources, v1alpha1.ResourceRef{Kind: "PeerAuthentication", Name: "httpbin"})
	}
	if r.IntN(3) == 0 {
		errs = append(errs, pick[error](r, &apply.UnsupportedError{Kind: "DestinationRule", Name: "httpbin", Err: errors.New("unknown field")},
			&apply.NotInstalledError{Kind: "DestinationRule"}))
	}
	in.ApplyError = errors.Join(errs...)
	return in
}
