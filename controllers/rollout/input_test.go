package rollout_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/rollout"
	"github.com/servicesecurity/operator/controllers/traffic"
)

func ptr[T any](v T) *T { return &v }

func profile(mtls *v1alpha1.MTLS, auth *v1alpha1.Authorization) *v1alpha1.ServiceSecurityProfile {
	return &v1alpha1.ServiceSecurityProfile{
		ObjectMeta: metav1.ObjectMeta{Generation: 4, Annotations: map[string]string{v1alpha1.AnnotationApprove: "token"}},
		Spec:       v1alpha1.ServiceSecurityProfileSpec{MTLS: mtls, Authorization: auth},
	}
}

func TestSpecOf(t *testing.T) {
	denied := func(c v1alpha1.Caller) *v1alpha1.Authorization {
		return &v1alpha1.Authorization{DeniedCallers: []v1alpha1.Caller{{Name: "ip", IPBlocks: []v1alpha1.IPBlock{"10.0.0.0/8"}}, c}}
	}
	defaults := rollout.Spec{
		Generation: 4, Approved: "token", Asked: strict, DestinationRule: v1alpha1.DestinationRuleAuto,
		Strategy: v1alpha1.StrategyStaged, ObservationWindow: 24 * time.Hour, VerificationWindow: 10 * time.Minute,
		MinRequests: 1, Rollback: v1alpha1.RollbackAutomatic, Approval: v1alpha1.ApprovalAutomatic, MaxConcurrent: 5,
	}
	tests := map[string]struct {
		profile *v1alpha1.ServiceSecurityProfile
		want    rollout.Spec
	}{
		"no mtls":          {profile(nil, nil), rollout.Spec{Generation: 4, Approved: "token"}},
		"defaults":         {profile(&v1alpha1.MTLS{Mode: v1alpha1.ModeStrict}, denied(v1alpha1.Caller{Name: "x"})), defaults},
		"an empty rollout": {profile(&v1alpha1.MTLS{Mode: v1alpha1.ModeStrict, Rollout: &v1alpha1.Rollout{}}, nil), defaults},
		"everything": {profile(&v1alpha1.MTLS{
			Mode: v1alpha1.ModeStrict, PortLevel: []v1alpha1.PortMTLS{{Port: 9443, Mode: v1alpha1.ModePermissive}}, DestinationRule: v1alpha1.DestinationRuleNever,
			Rollout: &v1alpha1.Rollout{
				Strategy: v1alpha1.StrategyImmediate, ObservationWindow: "1h30m", MinRequests: ptr(int64(0)), VerificationWindow: "0s",
				Rollback: v1alpha1.RollbackNever, Approval: v1alpha1.ApprovalManual, Suspend: ptr(true), MaxConcurrent: ptr(int32(9)),
			},
		}, denied(v1alpha1.Caller{Name: "x", Namespaces: []v1alpha1.NamespaceName{"bar"}})), rollout.Spec{
			Generation: 4, Approved: "token", Asked: form(v1alpha1.ModeStrict, 9443, v1alpha1.ModePermissive), DestinationRule: v1alpha1.DestinationRuleNever,
			Strategy: v1alpha1.StrategyImmediate, ObservationWindow: 90 * time.Minute, Rollback: v1alpha1.RollbackNever,
			Approval: v1alpha1.ApprovalManual, Suspend: true, DeniesIdentities: true, MaxConcurrent: 9,
		}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := rollout.SpecOf(tc.profile)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("unexpected spec (-want +got):\n%s", diff)
			}
		})
	}
	for name, caller := range map[string]v1alpha1.Caller{
		"service account": {ServiceAccounts: []v1alpha1.ServiceAccountRef{"a"}}, "namespace": {Namespaces: []v1alpha1.NamespaceName{"a"}}, "principal": {Principals: []v1alpha1.Principal{"a"}},
	} {
		if got, err := rollout.SpecOf(profile(nil, denied(caller))); err != nil || !got.DeniesIdentities {
			t.Errorf("%s is no identity: %+v, %v", name, got, err)
		}
	}
}

func TestSpecOfFails(t *testing.T) {
	for _, text := range []v1alpha1.Duration{"-1h", "1", "1.5h", "1d", "h", "1us", "999999h", "0x1s", " 1h", "1h ", "+1h", "99999h99999h99999h99999h", "9000h"} {
		for field, r := range map[string]*v1alpha1.Rollout{"observationWindow": {ObservationWindow: text}, "verificationWindow": {VerificationWindow: text}} {
			got, err := rollout.SpecOf(profile(&v1alpha1.MTLS{Mode: v1alpha1.ModeStrict, Rollout: r}, nil))
			if err == nil || !strings.Contains(err.Error(), field) {
				t.Errorf("%s %q: got %+v, %v", field, text, got, err)
			}
		}
	}
	if _, err := rollout.SpecOf(profile(&v1alpha1.MTLS{Mode: v1alpha1.ModeStrict, Rollout: &v1alpha1.Rollout{ObservationWindow: "0s"}}, nil)); err == nil {
		t.Error("an observation window of 0s passes")
	}
}

// TestTurnedStrict: whoever is refused on a port that was STRICT before is not refused because of the switch.
func TestTurnedStrict(t *testing.T) {
	spec := rollout.Spec{Asked: form(v1alpha1.ModeStrict, 1, v1alpha1.ModePermissive)}
	for name, tc := range map[string]struct {
		before facts.Form
		want   traffic.PortSet
	}{
		"nothing was":               {permissive, traffic.PortSet{Except: true, Ports: []int32{1}}},
		"not known":                 {facts.Form{}, traffic.PortSet{Except: true, Ports: []int32{1}}},
		"a port was":                {form(v1alpha1.ModePermissive, 2, v1alpha1.ModeStrict), traffic.PortSet{Except: true, Ports: []int32{1, 2}}},
		"the port that is none now": {form(v1alpha1.ModePermissive, 1, v1alpha1.ModeStrict), traffic.PortSet{Except: true, Ports: []int32{1}}},
		"all were, but for one":     {form(v1alpha1.ModeStrict, 2, v1alpha1.ModePermissive), traffic.PortSet{Ports: []int32{2}}},
		"all were":                  {strict, traffic.PortSet{}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, spec.TurnedStrict(tc.before)); diff != "" {
				t.Errorf("unexpected ports (-want +got):\n%s", diff)
			}
		})
	}
}

func TestStrictPorts(t *testing.T) {
	tests := map[string]struct {
		asked      facts.Form
		wantAsks   bool
		wantPorts  traffic.PortSet
		wantStrict []int32
	}{
		"nothing":                        {facts.Form{}, false, traffic.PortSet{}, nil},
		"Strict":                         {strict, true, traffic.PortSet{Except: true}, []int32{1, 2}},
		"Permissive":                     {permissive, false, traffic.PortSet{}, nil},
		"Strict, one Permissive":         {form(v1alpha1.ModeStrict, 1, v1alpha1.ModePermissive), true, traffic.PortSet{Except: true, Ports: []int32{1}}, []int32{2}},
		"Permissive, one Strict":         {form(v1alpha1.ModePermissive, 1, v1alpha1.ModeStrict), true, traffic.PortSet{Ports: []int32{1}}, []int32{1}},
		"Permissive, one Disabled":       {form(v1alpha1.ModePermissive, 1, v1alpha1.ModeDisabled), false, traffic.PortSet{}, nil},
		"Strict, one Strict by mistake":  {form(v1alpha1.ModeStrict, 1, v1alpha1.ModeStrict), true, traffic.PortSet{Except: true}, []int32{1, 2}},
		"Disabled, one Strict, in order": {facts.Form{Mode: v1alpha1.ModeDisabled, Ports: map[int32]v1alpha1.Mode{2: v1alpha1.ModeStrict, 1: v1alpha1.ModeStrict}}, true, traffic.PortSet{Ports: []int32{1, 2}}, []int32{1, 2}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			spec := rollout.Spec{Asked: tc.asked}
			if got := spec.AsksStrict(); got != tc.wantAsks {
				t.Errorf("asks for STRICT: %t", got)
			}
			got := spec.StrictPorts()
			if diff := cmp.Diff(tc.wantPorts, got); diff != "" {
				t.Errorf("unexpected ports (-want +got):\n%s", diff)
			}
			var has []int32
			for _, port := range []int32{1, 2} {
				if got.Has(port) {
					has = append(has, port)
				}
			}
			if diff := cmp.Diff(tc.wantStrict, has); diff != "" {
				t.Errorf("unexpected ports (-want +got):\n%s", diff)
			}
		})
	}
}
