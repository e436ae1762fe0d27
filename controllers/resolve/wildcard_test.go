package resolve

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

func TestResolveWildcard(t *testing.T) {
	ruled := func(policy v1alpha1.DestinationRulePolicy, profile *v1alpha1.ServiceSecurityProfile) *v1alpha1.ServiceSecurityProfile {
		profile.Spec.MTLS.DestinationRule = policy
		return profile
	}
	space := func() *v1alpha1.ServiceSecurityProfile { return newProfile("p", 0, toNamespace, strict) }
	mesh := func() *v1alpha1.ServiceSecurityProfile { return in(root, newProfile("p", 0, toMesh, strict)) }
	alias := newService("alias", nil)
	alias.Spec.Type, alias.Spec.ExternalName = corev1.ServiceTypeExternalName, "example.com"
	unready := func(pod *corev1.Pod) { pod.Status.Conditions = nil }
	web, db, gw := tags{"app": "web"}, tags{"app": "db"}, tags{"app": "gw"}
	foo := []client.Object{
		alias, newService("web", web), newPod("a", web), newService("db", db), newPod("b", db), newPod("c", db, withoutSidecar),
		newService("gw", gw), newPod("d", gw, router), newService("none", nil), newService("idle", tags{"app": "idle"}),
		newService("starting", tags{"app": "starting"}), newPod("e", tags{"app": "starting"}, withoutSidecar, unready),
	}
	elsewhere := []client.Object{
		in("default", newService("kubernetes", nil)), in("legacy", newService("web", web)), in("legacy", newPod("a", web, withoutSidecar)),
		in("bar", newService("web", web)), in("bar", newPod("a", web)), in("a-b", newService("x", nil)),
	}
	of := func(names ...string) []facts.Exempt {
		var all []facts.Exempt
		for _, name := range names {
			all = append(all, facts.Exempt{Host: name + ".foo.svc.cluster.local", Name: name})
		}
		return all
	}
	off := meshMap("istio", "enableAutoMtls: false")
	inFoo := of("alias", "db", "gw", "none")
	inMesh := []facts.Exempt{
		{Host: "*.a-b.svc.cluster.local", Name: exemptName("", "a-b")},
		{Host: "alias.foo.svc.cluster.local", Name: "alias-foo"},
		{Host: "db.foo.svc.cluster.local", Name: "db-foo"},
		{Host: "*.default.svc.cluster.local", Name: "default"},
		{Host: "gw.foo.svc.cluster.local", Name: "gw-foo"},
		{Host: "*.legacy.svc.cluster.local", Name: "legacy"},
		{Host: "none.foo.svc.cluster.local", Name: "none-foo"},
	}
	for name, tc := range map[string]struct {
		profile *v1alpha1.ServiceSecurityProfile
		objects []client.Object
		want    *facts.Wildcard
	}{
		"Namespace, auto":                    {space(), foo, nil},
		"Namespace, never":                   {ruled(v1alpha1.DestinationRuleNever, space()), append(foo, off), nil},
		"Namespace, always":                  {ruled(v1alpha1.DestinationRuleAlways, space()), append(foo, elsewhere...), &facts.Wildcard{Host: "*.foo.svc.cluster.local", Exempt: inFoo}},
		"Namespace, auto, no auto-mTLS":      {ruled(v1alpha1.DestinationRuleAuto, space()), append(foo, off), &facts.Wildcard{Host: "*.foo.svc.cluster.local", Exempt: inFoo}},
		"Namespace, nothing to exempt":       {ruled(v1alpha1.DestinationRuleAlways, space()), []client.Object{newService("web", web), newPod("a", web)}, &facts.Wildcard{Host: "*.foo.svc.cluster.local"}},
		"Namespace, no mtls":                 {edited(space(), sections(false, true, false)), append(foo, off), nil},
		"mesh, auto":                         {mesh(), append(foo, elsewhere...), nil},
		"mesh, always":                       {ruled(v1alpha1.DestinationRuleAlways, mesh()), append(foo, elsewhere...), &facts.Wildcard{Host: "*.local", Exempt: inMesh}},
		"Service, always is no wildcard":     {ruled(v1alpha1.DestinationRuleAlways, newProfile("p", 0, toService("web"), strict)), foo, nil},
		"Namespace, always, without a thing": {ruled(v1alpha1.DestinationRuleAlways, space()), nil, &facts.Wildcard{Host: "*.foo.svc.cluster.local"}},
	} {
		t.Run(name, func(t *testing.T) {
			diff(t, "wildcard", tc.want, mustResolve(t, cluster(t, tc.objects...), tc.profile).Wildcard)
		})
	}
	t.Run("its rules are read", func(t *testing.T) {
		profile := ruled(v1alpha1.DestinationRuleAlways, space())
		r := cluster(t, newService("none", nil), newRule("foo", "p", "*.foo.svc.cluster.local", "ISTIO_MUTUAL"), newRule("foo", "p-none", "x", ""), newRule("foo", "p-other", "x", ""))
		var names []string
		for _, rule := range mustResolve(t, r, profile).Rules {
			names = append(names, rule.Name)
		}
		diff(t, "rules", []string{"p", "p-none"}, names)
	})
}

func TestWildcardHost(t *testing.T) {
	for domain, want := range map[string]string{"cluster.local": "*.local", "local": "*.local", "k8s.example.org": "*.org"} {
		if got := wildcardHost(in(root, newProfile("p", 0, toMesh, strict)), domain); got != want {
			t.Errorf("%s: got %q, want %q", domain, got, want)
		}
	}
}

func TestExemptName(t *testing.T) {
	long := strings.Repeat("x", 63)
	seen := map[string]string{}
	for _, service := range []string{"", "a", "a-b", "a-b-c", "b-c", long, long[:62] + "y", strings.Repeat("a-", 31) + "b"} {
		for _, namespace := range []string{"a", "b", "c", "a-b", "b-c", "c-d", long, long[:62] + "y"} {
			name := exemptName(service, namespace)
			if errs := validation.IsDNS1123Label(name); len(errs) > 0 {
				t.Errorf("%s of %s is named %q: %v", service, namespace, name, errs)
			}
			if before, ok := seen[name]; ok {
				t.Errorf("%s of %s and %s are both named %q", service, namespace, before, name)
			}
			seen[name] = service + " of " + namespace
		}
	}
	diff(t, "name of a Service", "kubernetes-default", exemptName("kubernetes", "default"))
	diff(t, "name of a namespace", "legacy", exemptName("", "legacy"))
}
