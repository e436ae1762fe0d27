package resolve

import (
	"testing"

	securityv1beta1 "istio.io/api/security/v1beta1"
	typev1beta1 "istio.io/api/type/v1beta1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

const (
	allow = securityv1beta1.AuthorizationPolicy_ALLOW
	deny  = securityv1beta1.AuthorizationPolicy_DENY
)

func TestApplies(t *testing.T) {
	web := tags{"app": "web"}
	gateway := tags{"app": "web", labelGatewayName: "gw"}
	ref := func(group, kind, name, namespace string) *securityv1beta1.RequestAuthentication {
		return &securityv1beta1.RequestAuthentication{TargetRef: &typev1beta1.PolicyTargetReference{Group: group, Kind: kind, Name: name, Namespace: namespace}}
	}
	at := func(p placed) *securityv1beta1.RequestAuthentication { return &newTokens("", "", p).Spec }
	for name, tc := range map[string]struct {
		spec      *securityv1beta1.RequestAuthentication
		namespace string
		labels    tags
		want      bool
	}{
		"no selector":                     {at(placed{}), "foo", web, true},
		"empty selector":                  {at(placed{selector: tags{}}), "foo", web, true},
		"no selector, another namespace":  {at(placed{}), "bar", web, false},
		"no selector, root":               {at(placed{}), "root", web, true},
		"selector":                        {at(placed{selector: web}), "foo", web, true},
		"selector of others":              {at(placed{selector: tags{"app": "db"}}), "foo", web, false},
		"selector, another namespace":     {at(placed{selector: web}), "bar", web, false},
		"selector, root":                  {at(placed{selector: web}), "root", web, true},
		"selector of others, root":        {at(placed{selector: tags{"app": "db"}}), "root", web, false},
		"selector, a Gateway's pod":       {at(placed{selector: web}), "foo", gateway, true},
		"reference, no Gateway's pod":     {at(placed{gateways: []string{"gw"}}), "foo", web, false},
		"reference":                       {at(placed{gateways: []string{"other", "gw"}}), "foo", gateway, true},
		"reference over selector":         {at(placed{selector: tags{"app": "db"}, gateways: []string{"gw"}}), "foo", gateway, true},
		"reference to another":            {at(placed{selector: web, gateways: []string{"other"}}), "foo", gateway, false},
		"reference, root":                 {at(placed{gateways: []string{"gw"}}), "root", gateway, false},
		"the older form of a reference":   {ref(gatewayGroup, gatewayKind, "gw", ""), "foo", gateway, true},
		"reference with the namespace":    {ref(gatewayGroup, gatewayKind, "gw", "foo"), "foo", gateway, true},
		"reference with another one":      {ref(gatewayGroup, gatewayKind, "gw", "bar"), "foo", gateway, false},
		"reference to a Service":          {ref("", "Service", "gw", ""), "foo", gateway, false},
		"reference to nothing":            {ref(gatewayGroup, gatewayKind, "", ""), "foo", web, false},
		"reference to Istio's own kind":   {ref("networking.istio.io", gatewayKind, "gw", ""), "foo", gateway, false},
		"selector that a Gateway's lacks": {at(placed{selector: tags{"app": "web", "x": "y"}}), "foo", gateway, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := applies(tc.spec, tc.namespace, "root", subject{"foo", tc.labels}); got != tc.want {
				t.Errorf("it applies: %t, want %t", got, tc.want)
			}
		})
	}
}

func dryRun(value string) func(*securityv1.AuthorizationPolicy) {
	return func(policy *securityv1.AuthorizationPolicy) {
		policy.Annotations = map[string]string{annotationDryRun: value}
	}
}

func adoptable[T client.Object](obj T, profile string) T {
	obj.SetAnnotations(map[string]string{v1alpha1.AnnotationAdopt: profile})
	return obj
}

func TestResolveForeign(t *testing.T) {
	web := tags{"app": "web"}
	both := func(profile *v1alpha1.ServiceSecurityProfile) *v1alpha1.ServiceSecurityProfile {
		return edited(profile, sections(false, true, true), issuing(v1alpha1.TokenOptional, "own"))
	}
	service := both(newProfile("p", 10, toService("web"), strict))
	namespace := both(newProfile("p", 10, toNamespace, strict))
	mesh := in("istio-system", both(newProfile("p", 10, toMesh, strict)))
	gateway := both(newProfile("p", 10, toGatewayAPI("gw"), strict))
	rival := both(newProfile("rival", 20, toService("web"), strict))
	pods := []client.Object{newService("web", web), newPod("web-a", web), in("bar", newPod("web-a", web)), newGateway("gw"), newPod("gw-a", tags{labelGatewayName: "gw"}, router)}
	tokens := func(namespace, name string, issuers ...string) facts.ForeignTokens {
		return facts.ForeignTokens{Namespace: namespace, Name: name, Issuers: issuers}
	}
	policy := func(namespace, name, action string) facts.ForeignPolicy {
		return facts.ForeignPolicy{Namespace: namespace, Name: name, Action: action}
	}
	dry := newAccess("foo", "dry", placed{}, allow)
	dryRun("TRUE")(dry)
	odd := newAccess("foo", "odd", placed{}, securityv1beta1.AuthorizationPolicy_CUSTOM)
	dryRun("maybe")(odd)
	nameless := newTokens("foo", "t", placed{}, "b", "", "a", "b")
	for name, tc := range map[string]struct {
		profile      *v1alpha1.ServiceSecurityProfile
		objects      []client.Object
		wantTokens   []facts.ForeignTokens
		wantPolicies []facts.ForeignPolicy
	}{
		"none":       {service, nil, nil, nil},
		"own":        {service, []client.Object{owned(newTokens("foo", "p", placed{}, "x"), service), owned(newAccess("foo", "p-token", placed{}, deny), service)}, nil, nil},
		"to adopt":   {service, []client.Object{adoptable(newTokens("foo", "p", placed{}, "x"), "p"), adoptable(newAccess("foo", "p-deny", placed{}, deny), "p")}, nil, nil},
		"misnamed":   {service, []client.Object{adoptable(newTokens("foo", "q", placed{}, "x"), "p"), adoptable(newAccess("foo", "q", placed{}, deny), "p")}, []facts.ForeignTokens{tokens("foo", "q", "x")}, []facts.ForeignPolicy{policy("foo", "q", "DENY")}},
		"issuers":    {service, []client.Object{nameless}, []facts.ForeignTokens{tokens("foo", "t", "a", "b")}, nil},
		"no section": {newProfile("p", 10, toService("web"), strict), []client.Object{newTokens("foo", "t", placed{}, "x"), newAccess("foo", "a", placed{}, allow)}, nil, nil},
		"tokens only": {
			edited(service.DeepCopy(), func(p *v1alpha1.ServiceSecurityProfile) { p.Spec.Authorization = nil }),
			[]client.Object{newTokens("foo", "t", placed{}, "x"), newAccess("foo", "a", placed{}, allow)},
			[]facts.ForeignTokens{tokens("foo", "t", "x")},
			nil,
		},
		"near and far": {service, []client.Object{
			newTokens("foo", "b", placed{}, "x"), newTokens("foo", "a", placed{selector: web}, "x"), newTokens("foo", "no", placed{selector: tags{"app": "db"}}, "x"),
			newTokens("bar", "no", placed{}, "x"), newTokens("istio-system", "c", placed{}, "x"), newTokens("istio-system", "d", placed{selector: web}, "x"),
			newTokens("istio-system", "no", placed{selector: tags{"app": "db"}}, "x"), newTokens("foo", "gw", placed{gateways: []string{"gw"}}, "x"),
		}, []facts.ForeignTokens{tokens("foo", "a", "x"), tokens("foo", "b", "x"), tokens("istio-system", "c", "x"), tokens("istio-system", "d", "x")}, nil},
		"actions": {service, []client.Object{
			dry, odd, newAccess("foo", "audit", placed{selector: web}, securityv1beta1.AuthorizationPolicy_AUDIT), newAccess("istio-system", "deny", placed{}, deny),
		}, nil, []facts.ForeignPolicy{policy("foo", "audit", "AUDIT"), {Namespace: "foo", Name: "dry", Action: "ALLOW", DryRun: true}, policy("foo", "odd", "CUSTOM"), policy("istio-system", "deny", "DENY")}},
		"of another profile": {service, []client.Object{
			owned(newTokens("foo", "same", placed{}, "own"), namespace), owned(newTokens("foo", "other", placed{}, "x"), newProfile("q", 0, toNamespace, strict)),
			owned(newAccess("foo", "a", placed{}, allow), namespace),
		}, []facts.ForeignTokens{tokens("foo", "other", "x")}, nil},
		"of a rival": {service, []client.Object{rival, owned(newTokens("foo", "rival", placed{selector: web}, "x"), rival)}, nil, nil},
		"a namespace's": {namespace, []client.Object{
			newTokens("foo", "a", placed{}, "x"), newTokens("foo", "b", placed{selector: web}, "x"), newTokens("foo", "no", placed{selector: tags{"app": "db"}}, "x"),
			newTokens("foo", "gw", placed{gateways: []string{"gw"}}, "x"), newTokens("bar", "no", placed{}, "x"), newTokens("istio-system", "c", placed{selector: web}, "x"),
		}, []facts.ForeignTokens{tokens("foo", "a", "x"), tokens("foo", "b", "x"), tokens("foo", "gw", "x"), tokens("istio-system", "c", "x")}, nil},
		"the mesh's": {mesh, []client.Object{
			newTokens("foo", "a", placed{}, "x"), newTokens("bar", "b", placed{selector: web}, "x"), newTokens("bar", "no", placed{selector: tags{"app": "db"}}, "x"),
			newTokens("empty", "no", placed{}, "x"), newTokens("istio-system", "c", placed{}, "x"),
		}, []facts.ForeignTokens{tokens("bar", "b", "x"), tokens("foo", "a", "x"), tokens("istio-system", "c", "x")}, nil},
		"a Gateway's": {gateway, []client.Object{
			newTokens("foo", "a", placed{}, "x"), newTokens("foo", "gw", placed{gateways: []string{"gw"}}, "x"), newTokens("foo", "no", placed{selector: web}, "x"),
			newTokens("bar", "no", placed{gateways: []string{"gw"}}, "x"),
		}, []facts.ForeignTokens{tokens("foo", "a", "x"), tokens("foo", "gw", "x")}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got := mustResolve(t, cluster(t, append(tc.objects, pods...)...), tc.profile)
			diff(t, "tokens", tc.wantTokens, got.ForeignTokens)
			diff(t, "policies", tc.wantPolicies, got.ForeignPolicies)
		})
	}
	t.Run("without pods", func(t *testing.T) {
		for _, profile := range []*v1alpha1.ServiceSecurityProfile{both(newProfile("p", 10, toWorkload(web), strict)), gateway} {
			got := mustResolve(t, cluster(t, newGateway("gw"), newTokens("foo", "a", placed{selector: web}, "x"), newTokens("foo", "b", placed{gateways: []string{"gw"}}, "x")), profile)
			if len(got.ForeignTokens) != 1 {
				t.Errorf("%s: tokens are %v, want one", profile.Spec.Target.Kind, got.ForeignTokens)
			}
		}
	})
}

func TestResolveCallers(t *testing.T) {
	account := func(namespace, name string) *corev1.ServiceAccount {
		account := &corev1.ServiceAccount{}
		account.Namespace, account.Name = namespace, name
		return account
	}
	profile := edited(newProfile("p", 0, toService("web"), strict), sections(false, false, true))
	profile.Spec.Authorization.AllowedCallers = []v1alpha1.Caller{
		{Name: "a", ServiceAccounts: []v1alpha1.ServiceAccountRef{"here", "gone", "shop/there", "shop/gone"}},
		{Name: "b", Namespaces: []v1alpha1.NamespaceName{"shop", "nowhere"}},
	}
	profile.Spec.Authorization.DeniedCallers = []v1alpha1.Caller{
		{Name: "c", ServiceAccounts: []v1alpha1.ServiceAccountRef{"foo/gone", "away/x"}, Namespaces: []v1alpha1.NamespaceName{"nowhere", "away"}},
	}
	got := mustResolve(t, cluster(t, profile, account("foo", "here"), account("shop", "there"), newNamespace("shop")), profile)
	diff(t, "service accounts", []string{"away/x", "foo/gone", "shop/gone"}, got.MissingServiceAccounts)
	diff(t, "namespaces", []string{"away", "nowhere"}, got.MissingNamespaces)
}
