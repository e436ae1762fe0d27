package plan_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/plan"
	"github.com/servicesecurity/operator/controllers/rollout"
)

func TestBuild(t *testing.T) {
	switched := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	selector := map[string]string{"app": "httpbin"}
	strict, permissive, disabled := facts.Form{Mode: v1alpha1.ModeStrict}, facts.Form{Mode: v1alpha1.ModePermissive}, facts.Form{Mode: v1alpha1.ModeDisabled}
	host := func(service string) facts.Host {
		return facts.Host{Name: service + ".foo.svc.cluster.local", Service: service}
	}
	rule := func(service string, tls facts.TLS, ports ...rollout.RulePort) rollout.Rule {
		return rollout.Rule{Host: host(service), TLS: tls, Ports: ports}
	}
	off := rollout.RulePort{Port: 443, TLS: facts.TLSDisable}
	tests := map[string]struct {
		kind     v1alpha1.TargetKind
		decision rollout.Decision
		want     plan.Intent
	}{
		"nothing": {v1alpha1.TargetService, rollout.Decision{}, plan.Intent{Namespace: "foo"}},
		"observing": {v1alpha1.TargetService, rollout.Decision{Form: permissive}, plan.Intent{
			Namespace: "foo", Peer: &plan.Peer{Name: "web", Selector: selector, Form: permissive},
		}},
		"the switch": {v1alpha1.TargetService, rollout.Decision{
			Form: strict, SwitchedAt: switched, Previous: permissive, Rules: []rollout.Rule{rule("httpbin", facts.TLSMutual, off)},
		}, plan.Intent{
			Namespace: "foo", Peer: &plan.Peer{Name: "web", Selector: selector, Form: strict, SwitchedAt: switched, Previous: permissive},
			Clients: []plan.Client{{Name: "web", Host: "httpbin.foo.svc.cluster.local", TLS: facts.TLSMutual, Ports: []rollout.RulePort{off}}},
		}},
		"a workload of two Services, by name": {v1alpha1.TargetWorkload, rollout.Decision{
			Form: strict, Rules: []rollout.Rule{rule("b", facts.TLSMutual), rule("a", facts.TLSMutual)},
		}, plan.Intent{
			Namespace: "foo", Peer: &plan.Peer{Name: "web", Selector: selector, Form: strict},
			Clients: []plan.Client{
				{Name: "web-a", Host: "a.foo.svc.cluster.local", TLS: facts.TLSMutual},
				{Name: "web-b", Host: "b.foo.svc.cluster.local", TLS: facts.TLSMutual},
			},
		}},
		"kept": {v1alpha1.TargetService, rollout.Decision{Form: permissive, Keep: true, Rules: []rollout.Rule{rule("httpbin", facts.TLSMutual)}}, plan.Intent{
			Namespace: "foo", KeepPeer: true, Clients: []plan.Client{{Name: "web", Host: "httpbin.foo.svc.cluster.local", TLS: facts.TLSMutual}},
		}},
		"the rule outlives the object that goes": {v1alpha1.TargetService, rollout.Decision{Rules: []rollout.Rule{rule("httpbin", facts.TLSDisable)}}, plan.Intent{
			Namespace: "foo", Clients: []plan.Client{{Name: "web", Host: "httpbin.foo.svc.cluster.local", TLS: facts.TLSDisable}},
		}},
		"DISABLE outlives its rule": {v1alpha1.TargetService, rollout.Decision{Form: disabled, Rules: []rollout.Rule{rule("httpbin", facts.TLSDisable)}}, plan.Intent{
			Namespace: "foo", Peer: &plan.Peer{Name: "web", Selector: selector, Form: disabled, AfterClients: true},
			Clients: []plan.Client{{Name: "web", Host: "httpbin.foo.svc.cluster.local", TLS: facts.TLSDisable}},
		}},
		"DISABLE without a rule": {v1alpha1.TargetService, rollout.Decision{Form: disabled}, plan.Intent{
			Namespace: "foo", Peer: &plan.Peer{Name: "web", Selector: selector, Form: disabled},
		}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			profile := &v1alpha1.ServiceSecurityProfile{ObjectMeta: metav1.ObjectMeta{Namespace: "foo", Name: "web"}}
			profile.Spec.Target.Kind = tc.kind
			found := facts.Facts{Target: facts.Target{Selector: selector}}
			got := plan.Build(profile, found, tc.decision)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("unexpected intent (-want +got):\n%s", diff)
			}
			if got.Peer != nil {
				got.Peer.Selector["changed"] = "yes"
				if len(selector) != 1 {
					t.Fatal("the intent shares the selector with the facts")
				}
			}
			for _, client := range got.Clients {
				for i := range client.Ports {
					client.Ports[i].Port = -1
				}
			}
			for _, rule := range tc.decision.Rules {
				for _, port := range rule.Ports {
					if port.Port < 0 {
						t.Error("the intent shares the ports with the decision")
					}
				}
			}
		})
	}
}
