package resolve

import (
	"fmt"
	"strings"
	"testing"
	"time"

	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

const root = "istio-system"

func podNames(pods []facts.Pod) string {
	var names []string
	for _, pod := range pods {
		names = append(names, pod.Namespace+"/"+pod.Name)
	}
	return strings.Join(names, " ")
}

func labelled(name, key, value string) *corev1.Namespace {
	return newNamespace(name, func(n *corev1.Namespace) { n.Labels = map[string]string{key: value} })
}

func TestScopePods(t *testing.T) {
	web := tags{"app": "web"}
	finished := func(pod *corev1.Pod) { pod.Status.Phase = corev1.PodFailed }
	ambient := func(pod *corev1.Pod) {
		withoutSidecar(pod)
		pod.Annotations = map[string]string{annotationAmbient: "enabled"}
	}
	optedOut := func(value string) func(*corev1.Pod) {
		return func(pod *corev1.Pod) {
			withoutSidecar(pod)
			pod.Labels[labelInject] = value
		}
	}
	annotatedOut := func(pod *corev1.Pod) {
		withoutSidecar(pod)
		pod.Annotations = map[string]string{annotationInject: "false"}
	}
	onHost := func(pod *corev1.Pod) {
		withoutSidecar(pod)
		pod.Spec.HostNetwork = true
	}
	other := func(pod *corev1.Pod) {
		pod.OwnerReferences[0].Name, pod.Labels[labelTemplateHash], pod.Labels["app"] = "web-h2", "h2", "x"
	}
	r := cluster(
		t, labelled("foo", labelInjection, "enabled"), labelled("bar", labelRevision, "canary"), labelled("off", labelInjection, "disabled"), newNamespace("plain"),
		newPod("a", web), newPod("b", web, withoutSidecar), newPod("c", web, finished), newPod("d", web, optedOut("false")), newPod("e", nil, annotatedOut), newPod("f", nil, onHost),
		newPod("g", nil, optedOut("true")), newPod("h", nil, other),
		in("bar", newPod("a", web, withoutSidecar)), in("off", newPod("a", web, withoutSidecar)), in("off", newPod("b", web)), in("plain", newPod("a", web, withoutSidecar)), in("plain", newPod("z", web, ambient)),
		newService("web", web, port(80, 8080)), in("bar", newService("web", web, port(80, 8080))),
	)
	namespace := mustResolve(t, r, newProfile("p", 0, toNamespace, strict))
	diff(t, "pods of the namespace", "foo/a foo/b foo/d foo/e foo/f foo/g foo/h", podNames(namespace.Pods))
	diff(t, "target", facts.Target{Scope: v1alpha1.ScopeNamespace}, namespace.Target)
	diff(t, "rolling out", []string{"web"}, namespace.RollingOut)
	mesh := mustResolve(t, r, in(root, newProfile("p", 0, toMesh, strict)))
	diff(t, "pods of the mesh", "bar/a foo/a foo/b foo/g foo/h off/b plain/z", podNames(mesh.Pods))
	diff(t, "target", facts.Target{Scope: v1alpha1.ScopeMesh}, mesh.Target)
	diff(t, "rolling out", []string{"foo/web"}, mesh.RollingOut)
	if namespace.Hosts != nil || mesh.Hosts != nil || namespace.Wildcard != nil || mesh.Wildcard != nil {
		t.Errorf("hosts are %v and %v, want none", namespace.Hosts, mesh.Hosts)
	}
	for _, problem := range []*facts.Problem{namespace.Problem, mesh.Problem} {
		if problem != nil {
			t.Errorf("problem is %v, want none", problem)
		}
	}
}

// TestSecured: which pods the mesh's own object decides for, and which of those a profile that follows it has made STRICT.
func TestSecured(t *testing.T) {
	web, db, api := tags{"app": "web"}, tags{"app": "db"}, tags{"app": "api"}
	enforced, onItsWay := newProfile("web", 1, toService("web"), strict), newProfile("db", 1, toService("db"), strict)
	enforced.UID, onItsWay.UID = "web", "db"
	noon := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	mesh := in(root, newProfile("p", 0, toMesh, strict))
	mesh.UID = "mesh"
	switched := owned(newPolicy(root, "default", 1, nil, strict, annotated(v1alpha1.AnnotationSwitchedAt, noon.Format(time.RFC3339))), mesh)
	type marks struct{ Excepted, Secured bool }
	for since, secured := range map[*metav1.Time]bool{nil: true, {Time: noon.Add(-time.Hour)}: true, {Time: noon}: false} {
		enforced.Status.MTLS = &v1alpha1.MTLSStatus{Stage: v1alpha1.StageEnforced, EnforcedTime: since}
		r := cluster(t, newPod("web", web), newPod("db", db), newPod("api", api), newPod("none", nil), enforced, onItsWay, switched,
			owned(newPolicy("foo", "web", 1, web, strict), enforced), owned(newPolicy("foo", "db", 1, db, permissive), onItsWay), newPolicy("foo", "api", 1, api, strict))
		got := map[string]marks{}
		for _, pod := range mustResolve(t, r, mesh).Pods {
			got[pod.Name] = marks{pod.Excepted, pod.Secured}
		}
		diff(t, "pods", map[string]marks{"web": {Secured: secured}, "db": {}, "api": {Excepted: true}, "none": {}}, got)
	}
}

func TestMisplaced(t *testing.T) {
	r := cluster(t, newPod("a", nil), newPolicy("foo", "default", 0, nil, strict), newTokens("foo", "t", placed{}, "x"), newService("web", nil), in("bar", newProfile("q", 0, toMesh, strict)),
		newProfile("older", 0, toMesh, strict), meshMap("istio", "rootNamespace: root"), meshMap("istio-canary", "rootNamespace: canary-root"))
	profile := edited(newProfile("p", 10, toMesh, strict), issuing("", "y"))
	profile.Spec.MTLS.DestinationRule = v1alpha1.DestinationRuleAlways
	got := mustResolve(t, r, profile)
	diff(t, "facts", facts.Facts{
		Mesh:   got.Mesh,
		Target: facts.Target{Scope: v1alpha1.ScopeMesh},
		Problem: &facts.Problem{
			Reason:  v1alpha1.ReasonInvalid,
			Message: `Target kind Mesh is for the mesh's root namespace, which is "root": create the profile there, or create one with target kind Namespace here.`,
		},
	}, got)
	for _, namespace := range []string{"root", "canary-root"} {
		if got := mustResolve(t, r, in(namespace, profile.DeepCopy())).Problem; got != nil {
			t.Errorf("in %s there is a problem: %v", namespace, got)
		}
	}
}

func TestReach(t *testing.T) {
	web := tags{"app": "web"}
	ingress := tags{"istio": "ingressgateway"}
	include := func(profile *v1alpha1.ServiceSecurityProfile) { profile.Spec.Target.IncludeGateways = new(true) }
	jwt, authorization := sections(false, true, false), sections(false, false, true)
	gateway, pod := newPod("gw", ingress, router), newPod("web-a", web)
	var many []client.Object
	for i := range 7 {
		many = append(many, newPod(fmt.Sprintf("gw-%d", i), nil, router, func(pod *corev1.Pod) { pod.Labels[labelWorkloadName] = pod.Name }))
	}
	const remedy = " Set target.includeGateways: true if that is meant, or use profiles whose targets do not include them."
	for name, tc := range map[string]struct {
		profile  *v1alpha1.ServiceSecurityProfile
		objects  []client.Object
		reason   string
		section  v1alpha1.Section
		message  string
		gateways []string
		scope    v1alpha1.Scope
	}{
		"Namespace with a gateway, mtls":        {newProfile("p", 0, toNamespace, strict), []client.Object{gateway, pod}, "", "", "", nil, v1alpha1.ScopeNamespace},
		"Namespace with a gateway, jwt":         {edited(newProfile("p", 0, toNamespace, strict), jwt), []client.Object{gateway, pod}, v1alpha1.ReasonAffectsGateways, v1alpha1.SectionJWT, "The target includes gateways, for which jwt would count too: foo/web." + remedy, []string{"foo/web"}, v1alpha1.ScopeNamespace},
		"Namespace with gateways":               {edited(newProfile("p", 0, toNamespace, strict), authorization), many, v1alpha1.ReasonAffectsGateways, v1alpha1.SectionAuthorization, "The target includes gateways, for which authorization would count too: foo/gw-0, foo/gw-1, foo/gw-2, foo/gw-3, foo/gw-4 and 2 more." + remedy, []string{"foo/gw-0", "foo/gw-1", "foo/gw-2", "foo/gw-3", "foo/gw-4", "foo/gw-5", "foo/gw-6"}, v1alpha1.ScopeNamespace},
		"Namespace with a gateway that is said": {edited(newProfile("p", 0, toNamespace, strict), jwt, include), []client.Object{gateway, pod}, "", "", "", []string{"foo/web"}, v1alpha1.ScopeNamespace},
		"Namespace without one":                 {edited(newProfile("p", 0, toNamespace, strict), jwt), []client.Object{pod, in("bar", newPod("gw", nil, router))}, "", "", "", nil, v1alpha1.ScopeNamespace},
		"mesh with a gateway":                   {in(root, edited(newProfile("p", 0, toMesh, strict), authorization)), []client.Object{in("bar", newPod("gw", nil, router)), pod}, v1alpha1.ReasonAffectsGateways, v1alpha1.SectionAuthorization, "The target includes gateways, for which authorization would count too: bar/web." + remedy, []string{"bar/web"}, v1alpha1.ScopeMesh},
		"Namespace that is the root":            {in(root, newProfile("p", 0, toNamespace, strict)), nil, v1alpha1.ReasonInvalid, "", `Namespace "istio-system" is the mesh's root namespace, where what is said of the namespace counts for the whole mesh: create the profile with target kind Mesh if that is meant, or with kind Service or Workload.`, nil, v1alpha1.ScopeNamespace},
		"gateway by its labels":                 {edited(newProfile("p", 0, toWorkload(ingress), strict), jwt), []client.Object{gateway, pod}, "", "", "", nil, v1alpha1.ScopeGateway},
		"gateway by its labels, mtls":           {newProfile("p", 0, toWorkload(ingress), strict), []client.Object{gateway, pod}, v1alpha1.ReasonInvalid, v1alpha1.SectionMTLS, "The target's pods are a gateway, whose listeners have TLS settings of their own that no PeerAuthentication changes: remove mtls, and keep jwt and authorization; or target the Services behind the gateway.", nil, v1alpha1.ScopeGateway},
		"gateway by its Service":                {edited(newProfile("p", 0, toService("gw"), strict), jwt), []client.Object{newService("gw", ingress), gateway}, "", "", "", nil, v1alpha1.ScopeGateway},
		"gateway and another workload":          {newProfile("p", 0, toWorkload(tags{labelTemplateHash: "h1"}), strict), []client.Object{gateway, pod}, "", "", "", nil, v1alpha1.ScopeWorkload},
		"root, no one else's pods":              {in(root, edited(newProfile("p", 0, toWorkload(web), strict), jwt)), []client.Object{in(root, newPod("a", web)), newPod("b", tags{"app": "db"})}, "", "", "", nil, v1alpha1.ScopeWorkload},
		"root, another's pod without a sidecar": {in(root, edited(newProfile("p", 0, toWorkload(web), strict), jwt)), []client.Object{newPod("b", web, withoutSidecar)}, "", "", "", nil, v1alpha1.ScopeWorkload},
		"root, another's pod, jwt":              {in(root, edited(newProfile("p", 0, toWorkload(web), strict), jwt)), []client.Object{pod}, v1alpha1.ReasonInvalid, v1alpha1.SectionJWT, fmt.Sprintf(messageOthersInRoot, root, "web-a", "foo"), nil, v1alpha1.ScopeWorkload},
		"root, another's pod, authorization":    {in(root, edited(newProfile("p", 0, toService("web"), strict), authorization)), []client.Object{pod, in(root, newService("web", web))}, v1alpha1.ReasonInvalid, v1alpha1.SectionAuthorization, fmt.Sprintf(messageOthersInRoot, root, "web-a", "foo"), nil, v1alpha1.ScopeWorkload},
		"root, a Gateway":                       {in(root, edited(newProfile("p", 0, toGatewayAPI("gw"), strict), jwt)), []client.Object{in(root, newGateway("gw")), newPod("x", tags{labelGatewayName: "gw"}, router)}, "", "", "", nil, v1alpha1.ScopeGateway},
	} {
		t.Run(name, func(t *testing.T) {
			got := mustResolve(t, cluster(t, append(tc.objects, tc.profile)...), tc.profile)
			var want *facts.Problem
			if tc.reason != "" {
				want = &facts.Problem{Reason: tc.reason, Section: tc.section, Message: tc.message}
			}
			diff(t, "problem", want, got.Problem)
			diff(t, "gateways", tc.gateways, got.Gateways)
			diff(t, "scope", tc.scope, got.Target.Scope)
		})
	}
}

func TestScopePolicies(t *testing.T) {
	web := tags{"app": "web"}
	space, mesh := newProfile("p", 10, toNamespace, strict), in(root, newProfile("p", 10, toMesh, strict))
	own := func(minute int, mode v1alpha1.Mode) *securityv1.PeerAuthentication {
		return owned(newPolicy("foo", "default", minute, nil, mode), space)
	}
	meshOwn := func(mode v1alpha1.Mode) *securityv1.PeerAuthentication {
		return owned(newPolicy(root, "default", 10, nil, mode), mesh)
	}
	pod, far := newPod("web-a", web), in("bar", newPod("far", nil))
	for name, tc := range map[string]struct {
		profile              *v1alpha1.ServiceSecurityProfile
		objects              []client.Object
		effective, inherited v1alpha1.Mode
		from                 string
		competing            []facts.CompetingPolicy
	}{
		"Namespace, nothing":                        {space, []client.Object{pod}, permissive, permissive, "", nil},
		"Namespace, no pods":                        {space, []client.Object{own(10, strict)}, strict, permissive, "", nil},
		"Namespace, own":                            {space, []client.Object{pod, own(10, strict)}, strict, permissive, "", nil},
		"Namespace, from the mesh":                  {space, []client.Object{pod, newPolicy(root, "m", 0, nil, strict)}, strict, strict, "istio-system/m", nil},
		"Namespace, own over the mesh's":            {space, []client.Object{pod, own(10, permissive), newPolicy(root, "m", 0, nil, strict)}, permissive, strict, "istio-system/m", nil},
		"Namespace, a workload that is weaker":      {space, []client.Object{pod, newPod("db", nil), own(10, strict), newPolicy("foo", "w", 0, web, disabled)}, disabled, permissive, "", nil},
		"Namespace, a workload that is stronger":    {space, []client.Object{pod, own(10, permissive), newPolicy("foo", "w", 0, web, strict)}, strict, permissive, "", nil},
		"Namespace, a pod out of the mesh":          {space, []client.Object{pod, newPod("b", tags{"app": "b"}, withoutSidecar), own(10, strict), newPolicy("foo", "w", 0, tags{"app": "b"}, disabled)}, strict, permissive, "", nil},
		"Namespace, a gateway":                      {space, []client.Object{pod, newPod("gw", tags{"app": "gw"}, router), own(10, strict), newPolicy("foo", "w", 0, tags{"app": "gw"}, disabled)}, strict, permissive, "", nil},
		"Namespace, one that is older":              {space, []client.Object{pod, own(10, strict), newPolicy("foo", "other", 5, nil, permissive)}, permissive, permissive, "", []facts.CompetingPolicy{{Namespace: "foo", Name: "other", Pod: "web-a", Wins: true}}},
		"Namespace, one that is younger, no pods":   {space, []client.Object{own(10, strict), newPolicy("foo", "other", 15, nil, permissive)}, strict, permissive, "", []facts.CompetingPolicy{{Namespace: "foo", Name: "other"}}},
		"Namespace, to adopt":                       {space, []client.Object{pod, adoptable(newPolicy("foo", "default", 5, nil, strict), "p")}, strict, permissive, "", nil},
		"Namespace, another namespace's":            {space, []client.Object{pod, far, newPolicy("bar", "default", 5, nil, strict)}, permissive, permissive, "", nil},
		"mesh, nothing":                             {mesh, []client.Object{pod}, permissive, permissive, "", nil},
		"mesh, no pods":                             {mesh, []client.Object{meshOwn(strict)}, strict, permissive, "", nil},
		"mesh, own":                                 {mesh, []client.Object{pod, far, meshOwn(strict)}, strict, permissive, "", nil},
		"mesh, a namespace that is weaker":          {mesh, []client.Object{pod, far, meshOwn(strict), newPolicy("bar", "default", 0, nil, disabled)}, disabled, permissive, "", nil},
		"mesh, a workload that is weaker":           {mesh, []client.Object{pod, far, meshOwn(strict), newPolicy("foo", "w", 0, web, permissive)}, permissive, permissive, "", nil},
		"mesh, an empty namespace that is weaker":   {mesh, []client.Object{pod, meshOwn(strict), newPolicy("bar", "default", 0, nil, disabled)}, strict, permissive, "", nil},
		"mesh, one that is older":                   {mesh, []client.Object{pod, meshOwn(strict), newPolicy(root, "other", 5, nil, disabled), newPolicy(root, "w", 5, web, disabled)}, disabled, permissive, "", []facts.CompetingPolicy{{Namespace: root, Name: "other", Pod: "web-a", Wins: true}}},
		"mesh, a pod in the root namespace":         {mesh, []client.Object{in(root, newPod("x", web)), meshOwn(strict)}, strict, permissive, "", nil},
		"mesh, a namespace's default is no own one": {mesh, []client.Object{pod, newPolicy("foo", "default", 0, nil, strict)}, strict, permissive, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			got := mustResolve(t, cluster(t, append(tc.objects, tc.profile)...), tc.profile)
			if got.Effective != tc.effective || got.Inherited != tc.inherited || got.InheritedFrom != tc.from {
				t.Errorf("effective %q, inherited %q from %q, want %q, %q from %q", got.Effective, got.Inherited, got.InheritedFrom, tc.effective, tc.inherited, tc.from)
			}
			diff(t, "competing", tc.competing, got.CompetingPolicies)
		})
	}
	t.Run("own object", func(t *testing.T) {
		got := mustResolve(t, cluster(t, own(10, strict)), space)
		diff(t, "policy", facts.Policy{Exists: true, Owned: true, Version: "999", Form: facts.Form{Mode: strict}}, got.Policy)
	})
}

func TestScopeRules(t *testing.T) {
	web := tags{"app": "web"}
	far := "web.bar.svc.cluster.local"
	space, mesh := newProfile("p", 10, toNamespace, strict), in(root, newProfile("p", 10, toMesh, strict))
	objects := []client.Object{
		newService("web", web, port(80, 8080)), newPod("a", web), in("bar", newService("web", web, port(80, 8080))), in("bar", newPod("a", web)),
		newService("legacy", tags{"app": "legacy"}, port(80, 8080)), newPod("l", tags{"app": "legacy"}, withoutSidecar),
		newRule("shop", "off", webHost, "DISABLE"), newRule("foo", "fine", "web", "ISTIO_MUTUAL"), newRule("shop", "far", far, "SIMPLE"),
		newRule("foo", "legacy", "legacy", "DISABLE"), owned(newRule("foo", "generated", "web", "DISABLE"), newProfile("q", 0, toService("web"), strict)),
	}
	off := facts.ClientRule{Namespace: "shop", Name: "off", Host: webHost, TLS: "DISABLE", Where: "trafficPolicy"}
	simple := facts.ClientRule{Namespace: "shop", Name: "far", Host: far, TLS: "SIMPLE", Where: "trafficPolicy"}
	r := cluster(t, objects...)
	diff(t, "rules of the namespace", []facts.ClientRule{off}, mustResolve(t, r, space).ClientRules)
	diff(t, "rules of the mesh", []facts.ClientRule{simple, off}, mustResolve(t, r, mesh).ClientRules)
	diff(t, "rules where nothing is strict", 0, len(mustResolve(t, r, newProfile("p", 10, toNamespace, permissive)).ClientRules))
}
