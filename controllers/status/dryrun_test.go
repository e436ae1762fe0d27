package status_test

import (
	"strings"
	"testing"
	"time"

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

// counting is a profile whose callers are counted only.
func counting() status.Input {
	profile := &v1alpha1.ServiceSecurityProfile{ObjectMeta: metav1.ObjectMeta{Namespace: "foo", Name: "web"}}
	profile.Spec.Authorization = &v1alpha1.Authorization{Enforcement: v1alpha1.EnforcementDryRun}
	return status.Input{Profile: profile, Now: start, Facts: facts.Facts{Inherited: v1alpha1.ModePermissive}}
}

// TestDryRunCounts: what was counted is shown when all proxies were read, and stays until they are again.
func TestDryRunCounts(t *testing.T) {
	in := counting()
	if got := status.Compute(in).Authorization; got == nil || got.ObservedTime != nil {
		t.Fatalf("before a reading: %v", got)
	}
	in.Shadow = traffic.Shadow{Completeness: traffic.Complete, Ports: []traffic.ShadowCount{{Port: 0}, {Port: 8000, Allowed: 5, Refused: 2}}}
	first := status.Compute(in)
	want := &v1alpha1.AuthorizationStatus{
		ObservedTime: &metav1.Time{Time: start}, DryRun: []v1alpha1.DryRunCount{{Port: 0}, {Port: 8000, Allowed: 5, Refused: 2}},
	}
	if diff := cmp.Diff(want, first.Authorization); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
	in.Profile.Status = first
	in.Now = start.Add(time.Minute)
	in.Shadow = traffic.Shadow{Completeness: traffic.Incomplete, Message: "Pod web-1 was not read."}
	second := status.Compute(in)
	if diff := cmp.Diff(want, second.Authorization); diff != "" {
		t.Errorf("after a reading that failed (-want +got):\n%s", diff)
	}
	c := meta.FindStatusCondition(second.Conditions, v1alpha1.ConditionAuthorizationEnforced)
	if c.Reason != v1alpha1.ReasonDryRun || !strings.Contains(c.Message, "Pod web-1 was not read.") {
		t.Errorf("the condition says %s: %s", c.Reason, c.Message)
	}
	in.Shadow = traffic.Shadow{Completeness: traffic.Complete, Ports: []traffic.ShadowCount{{Port: 0}, {Port: 8000, Allowed: 50, Refused: 20}}}
	if more := status.Compute(in); status.Significant(first, more) {
		t.Error("more of the same is news")
	}
	in.Shadow.Ports[0].Refused = 1
	if news := status.Compute(in); !status.Significant(first, news) {
		t.Error("the first refusal on a port is no news")
	}
	in.Profile.Spec.Authorization.Enforcement = v1alpha1.EnforcementEnforced
	if got := status.Compute(in).Authorization; got != nil {
		t.Errorf("enforced: %v", got)
	}
}

// TestSettling: while one write waits for another to be taken, nothing is claimed.
func TestSettling(t *testing.T) {
	in := counting()
	in.Profile.Spec.Authorization.Enforcement = v1alpha1.EnforcementEnforced
	in.Applied = apply.Result{Settling: time.Second}
	got := status.Compute(in)
	for kind, want := range map[string]metav1.ConditionStatus{
		v1alpha1.ConditionProgrammed: metav1.ConditionUnknown, v1alpha1.ConditionAuthorizationEnforced: metav1.ConditionFalse, v1alpha1.ConditionReady: metav1.ConditionFalse,
	} {
		if c := meta.FindStatusCondition(got.Conditions, kind); c.Status != want || c.Reason != v1alpha1.ReasonSettling {
			t.Errorf("%s is %s, %s", kind, c.Status, c.Reason)
		}
	}
}

// TestPeerHeld: a server that waits for its policies is said to be as it is.
func TestPeerHeld(t *testing.T) {
	in := counting()
	in.Facts.Effective = v1alpha1.ModeStrict
	in.Decision = rollout.Decision{Form: facts.Form{Mode: v1alpha1.ModePermissive}}
	in.Applied = apply.Result{Settling: time.Second, PeerHeld: true}
	if got := status.Compute(in).MTLS.EffectiveMode; got != v1alpha1.ModeStrict {
		t.Errorf("the mode in force is said to be %s", got)
	}
}
