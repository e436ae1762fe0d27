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
			Namespace: "foo", Loosens: true, Peer: &plan.Peer{Name: "web", Selector: selector, Form: disabled, AfterClients: true},
			Clients: []plan.Client{{Name: "web", Host: "httpbin.foo.svc.cluster.local", TLS: facts.TLSDisable}},
		}},
		"DISABLE without a rule": {v1alpha1.TargetService, rollout.Decision{Form: disabled}, plan.Intent{
			Namespace: "foo", Loosens: true, Peer: &plan.Peer{Name: "web", Selector: selector, Form: disabled},
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

// TestExport: where the mesh keeps rules without exportTo to their namespace, those of a profile say that they are for all.
func TestExport(t *testing.T) {
	profile := &v1alpha1.ServiceSecurityProfile{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: "mesh"}}
	decision := rollout.Decision{
		Rules:  []rollout.Rule{{Host: facts.Host{Name: "*.local"}, TLS: facts.TLSMutual}},
		Exempt: []facts.Exempt{{Host: "kubernetes.default.svc.cluster.local", Name: "kubernetes"}},
	}
	for _, private := range []bool{false, true} {
		clients := plan.Build(profile, facts.Facts{Mesh: facts.Mesh{PrivateRules: private}}, decision).Clients
		if len(clients) != 2 || clients[0].Export != private || clients[1].Export != private {
			t.Errorf("rules are private: %t; got %+v", private, clients)
		}
	}
}

// TestSections: what each section of a profile becomes, and what becomes of those that an older profile has.
func TestSections(t *testing.T) {
	jwt := &v1alpha1.JWT{Issuers: []v1alpha1.Issuer{{Issuer: "https://a"}}, ExemptPaths: []v1alpha1.Path{"/healthz"}}
	nobody := &v1alpha1.Authorization{}
	lost := func(section v1alpha1.Section, live bool) facts.Conflict {
		return facts.Conflict{Problem: facts.Problem{Section: section}, WinnerLive: live}
	}
	pods := plan.Attachment{Selector: map[string]string{"app": "web"}}
	issuer := plan.Condition{Claim: []string{"iss"}, NotValues: []string{"https://a"}}
	token := plan.Policy{Name: "web-token", Attachment: pods, Deny: true, Rules: []plan.Rule{
		{To: []plan.Operation{{NotMethods: []string{"OPTIONS"}, NotPaths: []string{"/healthz"}, NotPorts: []int32{9000}}}, When: []plan.Condition{issuer}},
		{
			To:   []plan.Operation{{Methods: []string{"OPTIONS"}, NotPaths: []string{"/healthz"}, NotPorts: []int32{9000}}},
			When: []plan.Condition{issuer, {Header: "access-control-request-method", NotValues: []string{"*"}}},
		},
	}}
	tokens := &plan.Tokens{Name: "web", Attachment: pods, Issuers: jwt.Issuers}
	tests := map[string]struct {
		jwt           *v1alpha1.JWT
		authorization *v1alpha1.Authorization
		conflicts     []facts.Conflict
		handover      []v1alpha1.Section
		gateway       string
		want          plan.Intent
	}{
		"none":             {want: plan.Intent{}},
		"tokens, required": {jwt: jwt, want: plan.Intent{Tokens: tokens, Policies: []plan.Policy{token}}},
		"tokens, optional": {
			jwt:  &v1alpha1.JWT{Requirement: v1alpha1.TokenOptional, Issuers: jwt.Issuers},
			want: plan.Intent{Tokens: tokens},
		},
		"nobody": {authorization: nobody, want: plan.Intent{Policies: []plan.Policy{{Name: "web", Attachment: pods}}}},
		"in order of their names": {jwt: jwt, authorization: nobody, want: plan.Intent{
			Tokens: tokens, Policies: []plan.Policy{{Name: "web", Attachment: pods}, token},
		}},
		"callers by what any token may claim are bound to the issuers": {
			jwt: &v1alpha1.JWT{Requirement: v1alpha1.TokenOptional, Issuers: jwt.Issuers},
			authorization: &v1alpha1.Authorization{AllowedCallers: []v1alpha1.Caller{
				{Claims: []v1alpha1.ClaimMatch{{Name: "role", Values: []v1alpha1.Text{"x"}}}},
				{RequestPrincipals: []v1alpha1.RequestPrincipal{"*/alice"}},
				{RequestPrincipals: []v1alpha1.RequestPrincipal{"https://a/alice"}},
				{Headers: []v1alpha1.HeaderMatch{{Name: "h", Values: []v1alpha1.Text{"x"}}}},
			}},
			want: plan.Intent{Tokens: tokens, Policies: []plan.Policy{{Name: "web", Attachment: pods, Rules: []plan.Rule{
				{When: []plan.Condition{{Claim: []string{"role"}, Values: []string{"x"}}, {Claim: []string{"iss"}, Values: []string{"https://a"}}}},
				{From: []plan.Source{{RequestPrincipals: []string{"*/alice"}}}, When: []plan.Condition{{Claim: []string{"iss"}, Values: []string{"https://a"}}}},
				{From: []plan.Source{{RequestPrincipals: []string{"https://a/alice"}}}},
				{When: []plan.Condition{{Header: "h", Values: []string{"x"}}}},
			}}}},
		},
		"what another profile takes over stays": {
			handover: []v1alpha1.Section{v1alpha1.SectionAuthorization},
			want:     plan.Intent{Keep: []v1alpha1.Section{v1alpha1.SectionAuthorization}},
		},
		"at a gateway": {authorization: nobody, gateway: "edge", want: plan.Intent{
			Policies: []plan.Policy{{Name: "web", Attachment: plan.Attachment{Gateway: "edge"}}},
		}},
		"an older profile has the tokens": {
			jwt: jwt, authorization: nobody, conflicts: []facts.Conflict{lost(v1alpha1.SectionJWT, false)},
			want: plan.Intent{Keep: []v1alpha1.Section{v1alpha1.SectionJWT}, Policies: []plan.Policy{{Name: "web", Attachment: pods}}},
		},
		"and its objects are live": {
			jwt: jwt, authorization: nobody, conflicts: []facts.Conflict{lost(v1alpha1.SectionJWT, true)},
			want: plan.Intent{Policies: []plan.Policy{{Name: "web", Attachment: pods}}},
		},
		"an older profile has all": {
			jwt: jwt, authorization: nobody,
			conflicts: []facts.Conflict{lost(v1alpha1.SectionMTLS, false), lost(v1alpha1.SectionJWT, true), lost(v1alpha1.SectionAuthorization, false)},
			want:      plan.Intent{Keep: []v1alpha1.Section{v1alpha1.SectionMTLS, v1alpha1.SectionAuthorization}},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			profile := &v1alpha1.ServiceSecurityProfile{ObjectMeta: metav1.ObjectMeta{Namespace: "foo", Name: "web"}}
			profile.Spec.JWT, profile.Spec.Authorization = tc.jwt, tc.authorization
			found := facts.Facts{
				Target: facts.Target{Selector: pods.Selector, Gateway: tc.gateway}, Mesh: facts.Mesh{TrustDomain: "td"}, Conflicts: tc.conflicts, Handover: tc.handover,
				Ports: []facts.WorkloadPort{{Port: 8000, Protocol: facts.ProtocolHTTP}, {Port: 8001, Protocol: facts.ProtocolUndeclared}, {Port: 9000, Protocol: facts.ProtocolTCP}},
			}
			tc.want.Namespace, tc.want.TrustDomain = "foo", "td"
			for _, section := range tc.want.Keep {
				if !tc.want.Keeps(section) {
					t.Errorf("%s is not kept", section)
				}
			}
			if diff := cmp.Diff(tc.want, plan.Build(profile, found, rollout.Decision{})); diff != "" {
				t.Errorf("unexpected intent (-want +got):\n%s", diff)
			}
		})
	}
}

// TestCallers: what one caller becomes among the allowed and among the denied, beside a TCP port.
func TestCallers(t *testing.T) {
	tcp := []int32{9000}
	mutual := plan.Source{ServiceAccounts: []plan.ServiceAccount{{Namespace: "foo", Name: "a"}, {Namespace: "bar", Name: "b"}}}
	tests := map[string]struct {
		caller      v1alpha1.Caller
		want, wantD []plan.Rule // wantD is nil if it is the same
	}{
		"by service account": {
			caller: v1alpha1.Caller{ServiceAccounts: []v1alpha1.ServiceAccountRef{"a", "bar/b"}},
			want:   []plan.Rule{{From: []plan.Source{mutual}}},
		},
		"identities are alternatives, the rest holds for each": {
			caller: v1alpha1.Caller{
				ServiceAccounts: []v1alpha1.ServiceAccountRef{"a", "bar/b"}, Namespaces: []v1alpha1.NamespaceName{"n"}, Principals: []v1alpha1.Principal{"p"},
				IPBlocks: []v1alpha1.IPBlock{"10.0.0.0/8"}, RemoteIPBlocks: []v1alpha1.IPBlock{"192.0.2.1"},
			},
			want: []plan.Rule{{From: []plan.Source{
				{ServiceAccounts: mutual.ServiceAccounts, IPBlocks: []string{"10.0.0.0/8"}, RemoteIPBlocks: []string{"192.0.2.1"}},
				{Namespaces: []string{"n"}, IPBlocks: []string{"10.0.0.0/8"}, RemoteIPBlocks: []string{"192.0.2.1"}},
				{Principals: []string{"p"}, IPBlocks: []string{"10.0.0.0/8"}, RemoteIPBlocks: []string{"192.0.2.1"}},
			}}},
		},
		"by address alone": {
			caller: v1alpha1.Caller{IPBlocks: []v1alpha1.IPBlock{"10.0.0.0/8"}},
			want:   []plan.Rule{{From: []plan.Source{{IPBlocks: []string{"10.0.0.0/8"}}}}},
		},
		"by what needs a token": {
			caller: v1alpha1.Caller{RequestPrincipals: []v1alpha1.RequestPrincipal{"i/*"}},
			want:   []plan.Rule{{From: []plan.Source{{RequestPrincipals: []string{"i/*"}}}}},
			wantD:  []plan.Rule{{From: []plan.Source{{RequestPrincipals: []string{"i/*"}}}, To: []plan.Operation{{NotPorts: tcp}}}},
		},
		"by claims and headers": {
			caller: v1alpha1.Caller{
				Claims:  []v1alpha1.ClaimMatch{{Name: "role", Values: []v1alpha1.Text{"x"}}, {Path: []v1alpha1.Text{"a", "b"}, Values: []v1alpha1.Text{"y", "z"}}},
				Headers: []v1alpha1.HeaderMatch{{Name: "h", Values: []v1alpha1.Text{"w"}}},
			},
			want: []plan.Rule{{When: []plan.Condition{
				{Claim: []string{"role"}, Values: []string{"x"}}, {Claim: []string{"a", "b"}, Values: []string{"y", "z"}}, {Header: "h", Values: []string{"w"}},
			}}},
			wantD: []plan.Rule{{To: []plan.Operation{{NotPorts: tcp}}, When: []plan.Condition{
				{Claim: []string{"role"}, Values: []string{"x"}}, {Claim: []string{"a", "b"}, Values: []string{"y", "z"}}, {Header: "h", Values: []string{"w"}},
			}}},
		},
		"operations on requests and on connections are apart": {
			caller: v1alpha1.Caller{Operations: []v1alpha1.Operation{
				{Methods: []v1alpha1.Method{"GET"}},
				{Ports: []v1alpha1.Port{9000}},
				{Paths: []v1alpha1.Path{"/a"}, Ports: []v1alpha1.Port{8000}},
				{Hosts: []v1alpha1.Host{"h"}, Ports: []v1alpha1.Port{8000, 9000}},
			}},
			want: []plan.Rule{
				{To: []plan.Operation{{Ports: tcp}}},
				{To: []plan.Operation{{Methods: []string{"GET"}}, {Paths: []string{"/a"}, Ports: []int32{8000}}, {Hosts: []string{"h"}, Ports: []int32{8000, 9000}}}},
			},
			wantD: []plan.Rule{
				{To: []plan.Operation{{Ports: tcp}}},
				{To: []plan.Operation{
					{Methods: []string{"GET"}, NotPorts: tcp},
					{Paths: []string{"/a"}, Ports: []int32{8000}},
					{Hosts: []string{"h"}, Ports: []int32{8000, 9000}, NotPorts: tcp},
				}},
			},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			profile := &v1alpha1.ServiceSecurityProfile{ObjectMeta: metav1.ObjectMeta{Namespace: "foo", Name: "web"}}
			profile.Spec.Authorization = &v1alpha1.Authorization{
				Enforcement: v1alpha1.EnforcementDryRun, AllowedCallers: []v1alpha1.Caller{tc.caller}, DeniedCallers: []v1alpha1.Caller{tc.caller},
			}
			found := facts.Facts{Ports: []facts.WorkloadPort{{Port: 9000, Protocol: facts.ProtocolTCP}}}
			if tc.wantD == nil {
				tc.wantD = tc.want
			}
			want := []plan.Policy{{Name: "web", DryRun: true, Rules: tc.want}, {Name: "web-deny", DryRun: true, Deny: true, Rules: tc.wantD}}
			got := plan.Build(profile, found, rollout.Decision{})
			if diff := cmp.Diff(want, got.Policies); diff != "" {
				t.Errorf("unexpected policies (-want +got):\n%s", diff)
			}
			profile.Spec.Authorization.Default = v1alpha1.DefaultAllow
			found.Ports = nil
			want = []plan.Policy{{Name: "web-deny", DryRun: true, Deny: true, Rules: tc.want}}
			if diff := cmp.Diff(want, plan.Build(profile, found, rollout.Decision{}).Policies); diff != "" {
				t.Errorf("all but the denied, without a TCP port (-want +got):\n%s", diff)
			}
		})
	}
}

// TestWildcard: the hosts that a wildcard must not cover have rules that say nothing.
func TestWildcard(t *testing.T) {
	profile := &v1alpha1.ServiceSecurityProfile{ObjectMeta: metav1.ObjectMeta{Namespace: "root", Name: "mesh"}}
	profile.Spec.Target.Kind = v1alpha1.TargetMesh
	d := rollout.Decision{
		Form: facts.Form{Mode: v1alpha1.ModeStrict}, Rules: []rollout.Rule{{Host: facts.Host{Name: "*.local"}, TLS: facts.TLSMutual}},
		Exempt: []facts.Exempt{{Host: "*.legacy.svc.cluster.local", Name: "legacy"}},
	}
	want := plan.Intent{
		Namespace: "root", Peer: &plan.Peer{Name: "default", Form: d.Form},
		Clients: []plan.Client{{Name: "mesh", Host: "*.local", TLS: facts.TLSMutual}, {Name: "mesh-legacy", Host: "*.legacy.svc.cluster.local"}},
	}
	if diff := cmp.Diff(want, plan.Build(profile, facts.Facts{}, d)); diff != "" {
		t.Errorf("unexpected intent (-want +got):\n%s", diff)
	}
}

// TestLoosens: what is weaker by the profile's own wish is told apart from the way back after a failed verification.
func TestLoosens(t *testing.T) {
	strict, permissive, disabled := facts.Form{Mode: v1alpha1.ModeStrict}, facts.Form{Mode: v1alpha1.ModePermissive}, facts.Form{Mode: v1alpha1.ModeDisabled}
	live := func(form facts.Form) facts.Policy { return facts.Policy{Exists: true, Form: form} }
	tests := map[string]struct {
		facts    facts.Facts
		decision rollout.Decision
		want     bool
	}{
		"weaker":                      {facts.Facts{Policy: live(strict)}, rollout.Decision{Form: permissive}, true},
		"as it is":                    {facts.Facts{Policy: live(strict)}, rollout.Decision{Form: strict}, false},
		"stronger":                    {facts.Facts{Policy: live(permissive)}, rollout.Decision{Form: strict}, false},
		"weaker on a port":            {facts.Facts{Policy: live(strict)}, rollout.Decision{Form: facts.Form{Mode: v1alpha1.ModeStrict, Ports: map[int32]v1alpha1.Mode{80: v1alpha1.ModeDisabled}}}, true},
		"weaker than the parent":      {facts.Facts{Inherited: v1alpha1.ModeStrict}, rollout.Decision{Form: permissive}, true},
		"back to a weaker parent":     {facts.Facts{Policy: live(strict), Inherited: v1alpha1.ModePermissive}, rollout.Decision{}, true},
		"back to a parent as strong":  {facts.Facts{Policy: live(strict), Inherited: v1alpha1.ModeStrict}, rollout.Decision{}, false},
		"rolled back":                 {facts.Facts{Policy: live(strict)}, rollout.Decision{Form: permissive, Stage: v1alpha1.StageRolledBack}, false},
		"kept":                        {facts.Facts{Policy: live(strict)}, rollout.Decision{Keep: true}, false},
		"an own mode that is unset":   {facts.Facts{Policy: live(facts.Form{}), Inherited: v1alpha1.ModeStrict}, rollout.Decision{Form: permissive}, true},
		"weaker than Istio's default": {facts.Facts{}, rollout.Decision{Form: disabled}, true},
		"for other pods":              {facts.Facts{Policy: facts.Policy{Exists: true, Form: strict, Selector: map[string]string{"a": "b"}}, Inherited: v1alpha1.ModePermissive}, rollout.Decision{Form: permissive}, false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			profile := &v1alpha1.ServiceSecurityProfile{}
			if got := plan.Build(profile, tc.facts, tc.decision).Loosens; got != tc.want {
				t.Errorf("got %t", got)
			}
		})
	}
}
