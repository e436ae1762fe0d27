package facts_test

import (
	"testing"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

func TestPeerName(t *testing.T) {
	for kind, want := range map[v1alpha1.TargetKind]string{
		v1alpha1.TargetService: "web", v1alpha1.TargetWorkload: "web", v1alpha1.TargetGateway: "web",
		v1alpha1.TargetNamespace: "default", v1alpha1.TargetMesh: "default",
	} {
		profile := &v1alpha1.ServiceSecurityProfile{}
		profile.Name, profile.Spec.Target.Kind = "web", kind
		if got := facts.PeerName(profile); got != want {
			t.Errorf("%s: got %q, want %q", kind, got, want)
		}
	}
}

// TestNames: no two objects of one kind of one profile share a name.
func TestNames(t *testing.T) {
	if facts.TokensName("web") != "web" {
		t.Errorf("RequestAuthentication: got %q", facts.TokensName("web"))
	}
	for _, names := range [][]string{
		{facts.AllowName("web"), facts.DenyName("web"), facts.TokenName("web")},
		{facts.RuleName("web", v1alpha1.TargetMesh, ""), facts.RuleName("web", v1alpha1.TargetMesh, "a"), facts.RuleName("web", v1alpha1.TargetMesh, "b")},
	} {
		seen := map[string]bool{}
		for _, name := range names {
			if seen[name] || name == "" {
				t.Errorf("%v: %q is not of its own", names, name)
			}
			seen[name] = true
		}
	}
}
