package resolve

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/controllers/facts"
)

func TestParseMesh(t *testing.T) {
	for name, tc := range map[string]struct {
		text string
		want facts.Mesh
	}{
		"empty":              {"", facts.Mesh{RootNamespace: "fallback", TrustDomain: "cluster.local", AutoMTLS: true}},
		"everything":         {"rootNamespace: root\ntrustDomain: td\nenableAutoMtls: false\n", facts.Mesh{RootNamespace: "root", TrustDomain: "td"}},
		"auto-mTLS said":     {"enableAutoMtls: true", facts.Mesh{RootNamespace: "fallback", TrustDomain: "cluster.local", AutoMTLS: true}},
		"private rules":      {"defaultDestinationRuleExportTo: [.]", facts.Mesh{RootNamespace: "fallback", TrustDomain: "cluster.local", AutoMTLS: true, PrivateRules: true}},
		"exported rules":     {"defaultDestinationRuleExportTo: ['*']", facts.Mesh{RootNamespace: "fallback", TrustDomain: "cluster.local", AutoMTLS: true}},
		"much else":          {"defaultConfig:\n  discoveryAddress: istiod:15012\nextensionProviders: []\ntrustDomain: td", facts.Mesh{RootNamespace: "fallback", TrustDomain: "td", AutoMTLS: true}},
		"no YAML":            {"\t{", facts.Mesh{RootNamespace: "fallback", TrustDomain: "cluster.local", AutoMTLS: true}},
		"of the wrong types": {"enableAutoMtls: [1]\ntrustDomain: td", facts.Mesh{RootNamespace: "fallback", TrustDomain: "cluster.local", AutoMTLS: true}},
	} {
		t.Run(name, func(t *testing.T) { diff(t, "mesh", tc.want, ParseMesh(tc.text, "fallback")) })
	}
}

func TestResolveMesh(t *testing.T) {
	web := tags{"app": "web"}
	profile := newProfile("web", 0, toWorkload(web), strict)
	revision := func(name string) func(*corev1.Pod) { return annotate(annotationRevision, name) }
	asks := func(name string) func(*corev1.Namespace) {
		return func(namespace *corev1.Namespace) { namespace.Labels = tags{labelRevision: name} }
	}
	for name, tc := range map[string]struct {
		objects []client.Object
		want    facts.Mesh
	}{
		"no configuration":        {nil, facts.Mesh{RootNamespace: "istio-system", TrustDomain: "cluster.local", AutoMTLS: true}},
		"default":                 {[]client.Object{meshMap("istio", "trustDomain: one")}, facts.Mesh{RootNamespace: "istio-system", TrustDomain: "one", AutoMTLS: true}},
		"pods of the default":     {[]client.Object{meshMap("istio", "trustDomain: one"), newPod("a", web, revision("default"))}, facts.Mesh{RootNamespace: "istio-system", TrustDomain: "one", AutoMTLS: true}},
		"pods of a revision":      {[]client.Object{meshMap("istio", "trustDomain: one"), meshMap("istio-canary", "trustDomain: two\nrootNamespace: root"), newPod("a", web, revision("canary"))}, facts.Mesh{RootNamespace: "root", TrustDomain: "two", AutoMTLS: true}},
		"a revision without any":  {[]client.Object{meshMap("istio", "trustDomain: one"), newPod("a", web, revision("canary"))}, facts.Mesh{RootNamespace: "istio-system", TrustDomain: "one", AutoMTLS: true}},
		"one of two without auto": {[]client.Object{meshMap("istio-a", "trustDomain: one"), meshMap("istio-b", "enableAutoMtls: false"), newPod("a", web, revision("b")), newPod("b", web, revision("a"))}, facts.Mesh{RootNamespace: "istio-system", TrustDomain: "one"}},
		"one of two, private":     {[]client.Object{meshMap("istio-a", "trustDomain: one"), meshMap("istio-b", "defaultDestinationRuleExportTo: [.]"), newPod("a", web, revision("b")), newPod("b", web, revision("a"))}, facts.Mesh{RootNamespace: "istio-system", TrustDomain: "one", AutoMTLS: true, PrivateRules: true}},
		"pod without a sidecar":   {[]client.Object{meshMap("istio-canary", "trustDomain: two"), newPod("a", web, withoutSidecar, revision("canary"))}, facts.Mesh{RootNamespace: "istio-system", TrustDomain: "cluster.local", AutoMTLS: true}},
		"asked by the namespace":  {[]client.Object{meshMap("istio-canary", "trustDomain: two"), newNamespace("foo", asks("canary"))}, facts.Mesh{RootNamespace: "istio-system", TrustDomain: "two", AutoMTLS: true}},
		"the pods say it better":  {[]client.Object{meshMap("istio", "trustDomain: one"), meshMap("istio-canary", "trustDomain: two"), newNamespace("foo", asks("canary")), newPod("a", web, revision("default"))}, facts.Mesh{RootNamespace: "istio-system", TrustDomain: "one", AutoMTLS: true}},
	} {
		t.Run(name, func(t *testing.T) {
			tc.want.PeerAuthentications, tc.want.DestinationRules = true, true
			tc.want.RequestAuthentications, tc.want.AuthorizationPolicies = true, true
			diff(t, "mesh", tc.want, mustResolve(t, cluster(t, append(tc.objects, profile)...), profile).Mesh)
		})
	}
	t.Run("the mesh's own, of two", func(t *testing.T) {
		objects := []client.Object{
			meshMap("istio", "trustDomain: one"), meshMap("istio-a", "rootNamespace: other\nenableAutoMtls: false"), newPod("a", web, revision("a")), newPod("b", web, revision("default")),
		}
		got := mustResolve(t, cluster(t, objects...), in(root, newProfile("p", 0, toMesh, strict))).Mesh
		if got.RootNamespace != root || got.TrustDomain != "one" || got.AutoMTLS {
			t.Errorf("mesh is %+v", got)
		}
	})
}
