package resolve

import (
	"testing"

	securityv1beta1 "istio.io/api/security/v1beta1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

func from(source *securityv1beta1.Source) *securityv1beta1.Rule {
	return &securityv1beta1.Rule{From: []*securityv1beta1.Rule_From{{Source: source}}}
}

func given(key string, values, not []string) *securityv1beta1.Rule {
	return &securityv1beta1.Rule{When: []*securityv1beta1.Condition{{Key: key, Values: values, NotValues: not}}}
}

func TestDeniesIdentities(t *testing.T) {
	some := []string{"x"}
	for name, tc := range map[string]struct {
		action securityv1beta1.AuthorizationPolicy_Action
		rule   *securityv1beta1.Rule
		want   bool
	}{
		"DENY a principal":                {deny, from(&securityv1beta1.Source{Principals: some}), true},
		"DENY a namespace":                {deny, from(&securityv1beta1.Source{Namespaces: some}), true},
		"DENY a service account":          {deny, from(&securityv1beta1.Source{ServiceAccounts: some}), true},
		"DENY all but a principal":        {deny, from(&securityv1beta1.Source{NotPrincipals: some}), false},
		"DENY an address":                 {deny, from(&securityv1beta1.Source{IpBlocks: some}), false},
		"DENY a token":                    {deny, from(&securityv1beta1.Source{RequestPrincipals: some}), false},
		"DENY if a principal":             {deny, given("source.principal", some, nil), true},
		"DENY if not a principal":         {deny, given("source.principal", nil, some), false},
		"DENY if an address":              {deny, given("source.ip", some, nil), false},
		"DENY everybody":                  {deny, &securityv1beta1.Rule{}, false},
		"ALLOW a principal":               {allow, from(&securityv1beta1.Source{Principals: some}), false},
		"ALLOW all but a principal":       {allow, from(&securityv1beta1.Source{NotPrincipals: some}), true},
		"ALLOW all but a namespace":       {allow, from(&securityv1beta1.Source{NotNamespaces: some}), true},
		"ALLOW all but a service account": {allow, from(&securityv1beta1.Source{NotServiceAccounts: some}), true},
		"ALLOW unless a namespace":        {allow, given("source.namespace", nil, some), true},
		"ALLOW if a namespace":            {allow, given("source.namespace", some, nil), false},
		"AUDIT a principal":               {securityv1beta1.AuthorizationPolicy_AUDIT, from(&securityv1beta1.Source{Principals: some}), false},
		"CUSTOM for a principal":          {securityv1beta1.AuthorizationPolicy_CUSTOM, from(&securityv1beta1.Source{Principals: some}), false},
	} {
		t.Run(name, func(t *testing.T) {
			spec := &securityv1beta1.AuthorizationPolicy{Action: tc.action, Rules: []*securityv1beta1.Rule{{}, tc.rule}}
			if got := deniesIdentities(spec); got != tc.want {
				t.Errorf("it keeps identities out: %t, want %t", got, tc.want)
			}
		})
	}
}

func TestIdentityDenials(t *testing.T) {
	web := tags{"app": "web"}
	denies := func(namespace, name string, at placed, edits ...func(*securityv1.AuthorizationPolicy)) *securityv1.AuthorizationPolicy {
		policy := newAccess(namespace, name, at, deny)
		policy.Spec.Rules = []*securityv1beta1.Rule{from(&securityv1beta1.Source{Namespaces: []string{"legacy"}})}
		for _, edit := range edits {
			edit(policy)
		}
		return policy
	}
	profile := newProfile("p", 10, toService("web"), strict)
	team := newProfile("team", 20, toService("web"), strict)
	verifying := owned(newPolicy("foo", "p", 0, web, strict, annotated(v1alpha1.AnnotationSwitchedAt, "2026-01-01T00:07:00Z")), profile)
	enforced := owned(newPolicy("foo", "p", 0, web, strict), profile)
	others := []client.Object{
		owned(denies("foo", "team-deny", placed{selector: web}), team), denies("istio-system", "mesh", placed{}),
		owned(denies("foo", "p-deny", placed{selector: web}), profile), denies("foo", "db", placed{selector: tags{"app": "db"}}),
		denies("foo", "dry", placed{}, dryRun("true")), denies("bar", "elsewhere", placed{}),
	}
	both := []string{"foo/team-deny", "istio-system/mesh"}
	for name, tc := range map[string]struct {
		policy client.Object
		want   []string
	}{
		"on its way": {owned(newPolicy("foo", "p", 0, web, permissive), profile), both},
		"verifying":  {verifying, both},
		"enforced":   {enforced, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got := mustResolve(t, cluster(t, append([]client.Object{newService("web", web), newPod("web-a", web), tc.policy}, others...)...), profile)
			diff(t, "policies", tc.want, got.IdentityDenials)
		})
	}
}
