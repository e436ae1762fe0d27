package istio_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/istio"
	"github.com/servicesecurity/operator/controllers/plan"
	"github.com/servicesecurity/operator/controllers/rollout"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestRender holds what comes of every intent in testdata/<case>/in.yaml, which names plan.Intent's fields.
func TestRender(t *testing.T) {
	paths, err := filepath.Glob("testdata/*/in.yaml")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no cases found: %v", err)
	}
	for _, path := range paths {
		dir := filepath.Dir(path)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			golden(t, filepath.Join(dir, "out.yaml"), write(t, istio.Render("profile", intent(t, path))))
		})
	}
}

func intent(t *testing.T, path string) plan.Intent {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	document, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		t.Fatal(err)
	}
	var in plan.Intent
	decoder := json.NewDecoder(bytes.NewReader(document))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&in); err != nil {
		t.Fatal(err)
	}
	return in
}

// write gives the objects as documents, and what else is said of them in a first one.
func write(t *testing.T, objects istio.Objects) string {
	t.Helper()
	var documents []string
	add := func(object any) {
		text, err := yaml.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		documents = append(documents, strings.ReplaceAll(string(text), "status: {}\n", ""))
	}
	flags := fmt.Sprintf("# Keep the PeerAuthentication: %t. It goes after the DestinationRules: %t.\n", objects.KeepPeerAuthentication, objects.AfterDestinationRules)
	if objects.KeepDestinationRules || objects.KeepRequestAuthentication || len(objects.KeepAuthorizationPolicies) > 0 {
		flags += fmt.Sprintf("# Keep the DestinationRules: %t, the RequestAuthentication: %t, the AuthorizationPolicies: %s.\n",
			objects.KeepDestinationRules, objects.KeepRequestAuthentication, objects.KeepAuthorizationPolicies)
	}
	if pa := objects.PeerAuthentication; pa != nil {
		pa.TypeMeta = metav1.TypeMeta{APIVersion: "security.istio.io/v1", Kind: "PeerAuthentication"}
		add(pa)
	}
	for _, dr := range objects.DestinationRules {
		dr.TypeMeta = metav1.TypeMeta{APIVersion: "networking.istio.io/v1", Kind: "DestinationRule"}
		add(dr)
	}
	if ra := objects.RequestAuthentication; ra != nil {
		ra.TypeMeta = metav1.TypeMeta{APIVersion: "security.istio.io/v1", Kind: "RequestAuthentication"}
		add(ra)
	}
	for _, ap := range objects.AuthorizationPolicies {
		ap.TypeMeta = metav1.TypeMeta{APIVersion: "security.istio.io/v1", Kind: "AuthorizationPolicy"}
		add(ap)
	}
	return flags + strings.Join(documents, "---\n")
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got), -update writes it:\n%s", path, diff)
	}
}

// everything is an intent with all fields.
func everything() plan.Intent {
	in := plan.Intent{
		Namespace: "foo",
		Peer: &plan.Peer{
			Name: "httpbin", Selector: map[string]string{"app": "httpbin"}, AfterClients: true,
			Form: facts.Form{Mode: v1alpha1.ModeDisabled, Ports: map[int32]v1alpha1.Mode{9443: v1alpha1.ModeStrict}},
		},
	}
	for i := range 4 {
		name := fmt.Sprintf("httpbin-%d", i)
		in.Clients = append(in.Clients, plan.Client{
			Name: name, Host: name + ".foo.svc.cluster.local", TLS: facts.TLSDisable,
			Ports: []rollout.RulePort{{Port: 443, TLS: facts.TLSMutual}, {Port: 80}},
		})
	}
	return in
}

// TestDisableIsThere: what JSON leaves out must be in the object, or the comparison with the live one sees no difference
// between a rule that forbids TLS and one that leaves it to auto-mTLS.
func TestDisableIsThere(t *testing.T) {
	objects := istio.Render("profile", everything())
	policy := objects.DestinationRules[0].Spec.GetTrafficPolicy()
	if policy.GetTls() == nil {
		t.Error("the rule's tls is missing")
	}
	if ports := policy.GetPortLevelSettings(); ports[0].GetTls() == nil || ports[1].GetTls() != nil {
		t.Errorf("tls of the ports: %v and %v, want it for the first alone", ports[0].GetTls(), ports[1].GetTls())
	}
}

// TestRoundTrip: what an API server gives back compares equal, or the operator would write it again and again.
func TestRoundTrip(t *testing.T) {
	objects := istio.Render("profile", everything())
	peer, rule := &securityv1.PeerAuthentication{}, &networkingv1.DestinationRule{}
	pass(t, objects.PeerAuthentication, peer)
	pass(t, objects.DestinationRules[0], rule)
	if !proto.Equal(&objects.PeerAuthentication.Spec, &peer.Spec) {
		t.Errorf("sent %v, got back %v", &objects.PeerAuthentication.Spec, &peer.Spec)
	}
	if !proto.Equal(&objects.DestinationRules[0].Spec, &rule.Spec) {
		t.Errorf("sent %v, got back %v", &objects.DestinationRules[0].Spec, &rule.Spec)
	}
}

func pass(t *testing.T, from, to any) {
	t.Helper()
	text, err := json.Marshal(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, to); err != nil {
		t.Fatal(err)
	}
}

// TestPure: the same intent gives the same objects, which share nothing with it and have nothing that only the cluster
// knows.
func TestPure(t *testing.T) {
	in := everything()
	first := istio.Render("profile", in)
	want := write(t, istio.Render("profile", everything()))
	first.PeerAuthentication.Spec.Selector.MatchLabels["app"] = "changed"
	first.PeerAuthentication.Labels["app.kubernetes.io/managed-by"] = "changed"
	again := istio.Render("profile", in)
	if diff := cmp.Diff(want, write(t, again)); diff != "" {
		t.Errorf("the same intent gives other objects, or objects share maps with it (-want +got):\n%s", diff)
	}
	metas := []metav1.ObjectMeta{again.PeerAuthentication.ObjectMeta}
	for _, dr := range again.DestinationRules {
		metas = append(metas, dr.ObjectMeta)
	}
	for _, m := range metas {
		bare := metav1.ObjectMeta{Namespace: m.Namespace, Name: m.Name, Labels: m.Labels, Annotations: m.Annotations}
		if diff := cmp.Diff(bare, m); diff != "" || m.Namespace != "foo" || len(m.Labels) != 1 {
			t.Errorf("metadata of %s:\n%s", m.Name, diff)
		}
	}
}

func BenchmarkRender(b *testing.B) {
	in := everything()
	b.ReportAllocs()
	for b.Loop() {
		istio.Render("profile", in)
	}
}
