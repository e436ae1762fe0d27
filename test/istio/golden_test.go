//go:build istio

package istio_test

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	networkingapi "istio.io/api/networking/v1alpha3"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

var noEgress = []*networkingapi.IstioEgressListener{{Hosts: []string{"~/*"}}}

// TestGolden asks istiod's own validation and the API server (Istio's CRDs with their CEL rules) about every object of
// every golden case, and expects neither a refusal nor a warning, nor a field that is dropped.
func TestGolden(t *testing.T) {
	cases := map[string][]client.Object{}
	for _, pattern := range []string{"../../controllers/istio/testdata/*/out.yaml", "../../controllers/status/testdata/*/out.yaml"} {
		paths, err := filepath.Glob(pattern)
		if err != nil || len(paths) == 0 {
			t.Fatalf("no golden cases at %s: %v", pattern, err)
		}
		for _, path := range paths {
			cases[strings.TrimPrefix(path, "../../controllers/")] = objectsIn(t, path)
		}
	}
	asked := askAll(t, cases)
	if asked["AuthorizationPolicy"] == 0 || asked["RequestAuthentication"] == 0 || asked["PeerAuthentication"] == 0 || asked["DestinationRule"] == 0 {
		t.Errorf("asked about %v: were the golden cases read?", asked)
	}
	t.Logf("%v in %d cases", asked, len(cases))
}

// TestSamples asks about what comes of each sample, for a target that takes requests alone and for one with a TCP port.
func TestSamples(t *testing.T) {
	cases := map[string][]client.Object{}
	for name, profile := range samples(t) {
		for _, variant := range []struct {
			name string
			tcp  bool
		}{{"HTTP", false}, {"HTTP and TCP", true}} {
			objects, err := render(told(profile, variant.tcp))
			if err != nil {
				t.Fatal(err)
			}
			list := listed(objects)
			if len(list) == 0 {
				t.Errorf("%s: nothing comes of it", name)
			}
			cases[name+"/"+variant.name] = list
		}
	}
	t.Logf("%v in %d cases", askAll(t, cases), len(cases))
}

// TestRefusals shows that both would say so if something were wrong.
func TestRefusals(t *testing.T) {
	ctx := testContext(t)
	istiodRefuses := map[string]string{
		"a port's settings without a port": "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: a, namespace: default}, spec: {host: a.default.svc.cluster.local, trafficPolicy: {portLevelSettings: [{tls: {mode: ISTIO_MUTUAL}}]}}}",
		"a condition that it skips":        "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: a-deny, namespace: default}, spec: {action: DENY, rules: [{when: [{key: request.claims, values: [a]}]}]}}",
		"a key set that is none":           "{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {name: a, namespace: default}, spec: {jwtRules: [{issuer: a, jwks: a}]}}",
		"a DENY rule that widens on TCP":   "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: a, namespace: default}, spec: {action: DENY, rules: [{to: [{operation: {methods: [GET]}}]}]}}",
	}
	for name, text := range istiodRefuses {
		if said, err := complaint(ctx, parse(t, text)); err != nil || said == "" {
			t.Errorf("istiod takes %s: %v", name, err)
		}
	}
	noSelector := "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: a, namespace: default}, spec: {portLevelMtls: {\"80\": {mode: STRICT}}}}"
	if err := served(ctx, parse(t, noSelector)); err == nil {
		t.Error("the API server takes port exceptions without a selector")
	}
	unknown := "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: a, namespace: default}, spec: {mtls: {mode: STRICT, strict: true}}}"
	if err := served(ctx, parse(t, unknown)); err == nil {
		t.Error("the API server takes a field that it does not know")
	}
}

// askAll asks both about the objects of all cases, and counts them by kind.
func askAll(t *testing.T, cases map[string][]client.Object) map[string]int {
	t.Helper()
	ctx := testContext(t)
	asked := map[string]int{}
	for _, name := range slices.Sorted(maps.Keys(cases)) {
		t.Run(name, func(t *testing.T) {
			for _, object := range cases[name] {
				kind := object.GetObjectKind().GroupVersionKind().Kind
				asked[kind]++
				said, err := complaint(ctx, object)
				if err != nil {
					t.Fatal(err)
				}
				if said != "" {
					t.Errorf("%s\n%s", said, text(object))
				}
				if err := served(ctx, object); err != nil {
					t.Errorf("%s %s: the API server says %v", kind, object.GetName(), err)
				}
			}
		})
	}
	return asked
}

// samples are the profiles of config/samples, by file.
func samples(t *testing.T) map[string]*v1alpha1.ServiceSecurityProfile {
	t.Helper()
	paths, err := filepath.Glob("../../config/samples/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*v1alpha1.ServiceSecurityProfile{}
	for _, path := range paths {
		var profile v1alpha1.ServiceSecurityProfile
		if content := read(t, path); !strings.Contains(content, "\nkind: "+v1alpha1.Kind+"\n") {
			continue // kustomization.yaml
		} else if err := yaml.UnmarshalStrict([]byte(content), &profile); err != nil {
			t.Fatal(err)
		}
		all[filepath.Base(path)] = &profile
	}
	if len(all) == 0 {
		t.Fatal("no samples found")
	}
	return all
}

// objectsIn are all objects in a golden file: documents of their own, or in the list of a step.
func objectsIn(t *testing.T, path string) []client.Object {
	t.Helper()
	var all []client.Object
	for _, document := range strings.Split(read(t, path), "\n---\n") {
		one := parse(t, document)
		if one.Object["kind"] != nil {
			all = append(all, one)
		}
		listed, _ := one.Object["objects"].([]any)
		for _, object := range listed {
			all = append(all, &unstructured.Unstructured{Object: object.(map[string]any)})
		}
	}
	return all
}

func parse(t *testing.T, document string) *unstructured.Unstructured {
	t.Helper()
	object := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(document), &object.Object); err != nil {
		t.Fatal(err)
	}
	return object
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}
