//go:build istio

package istio_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	"github.com/google/go-cmp/cmp"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	"sigs.k8s.io/yaml"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/istio"
	"github.com/servicesecurity/operator/test/builder"
)

// The ports of every target in the table.
const (
	requests    = 8000
	connections = 9000
	undeclared  = 7000
	// others are those that no Service maps.
	others = 0
)

// all modes that a port's chains have.
var (
	bothHTTP = []string{"TLS HTTP", "plaintext HTTP"}
	bothTCP  = []string{"TLS TCP", "plaintext TCP"}
	strict   = map[uint32][]string{
		requests: {"TLS HTTP"}, connections: {"TLS TCP"}, undeclared: {"TLS HTTP", "TLS TCP"}, others: {"TLS HTTP", "TLS TCP"},
	}
	permissive = map[uint32][]string{
		requests: bothHTTP, connections: bothTCP,
		undeclared: {"TLS HTTP", "TLS TCP", "plaintext HTTP", "plaintext TCP"}, others: {"TLS HTTP", "TLS TCP", "plaintext HTTP", "plaintext TCP"},
	}
)

const (
	service = "target: {kind: Service, name: httpbin}\n"
	issuer  = "{issuer: one, jwks: '" + keySet + "'}"
)

// TestListeners holds what a proxy gets of the profiles that people write most, port by port.
func TestListeners(t *testing.T) {
	tests := map[string]struct {
		spec string
		// wantKinds of chains by port; nil for what is there without a profile.
		wantKinds map[uint32][]string
		// wantRequests and wantConnections are the rules at the HTTP and the TCP port, "DENY httpbin-token 0", those that are
		// only counted in brackets.
		wantRequests, wantConnections []string
		// wantAllow says that both ports let in nothing but what a rule matches.
		wantAllow   bool
		wantIssuers []string
		// wantRefused says that some rule refuses connections to the TCP port.
		wantRefused bool
	}{
		"strict":     {spec: "mtls: {mode: Strict, rollout: {strategy: Immediate}}", wantKinds: strict},
		"staged":     {spec: "mtls: {mode: Strict}", wantKinds: permissive},
		"permissive": {spec: "mtls: {mode: Permissive}", wantKinds: permissive},
		"disabled": {
			spec:      "mtls: {mode: Disabled, destinationRule: Never}",
			wantKinds: map[uint32][]string{requests: {"plaintext HTTP"}, connections: {"plaintext TCP"}, undeclared: {"plaintext HTTP", "plaintext TCP"}, others: {"plaintext HTTP", "plaintext TCP"}},
		},
		"a port that is permissive, and one that is strict": {
			spec:      "mtls: {mode: Permissive, portLevel: [{port: 9000, mode: Strict}], rollout: {strategy: Immediate}}",
			wantKinds: map[uint32][]string{requests: bothHTTP, connections: {"TLS TCP"}, undeclared: permissive[undeclared], others: permissive[others]},
		},
		"strict but for a port": {
			spec:      "mtls: {mode: Strict, portLevel: [{port: 8000, mode: Permissive}], rollout: {strategy: Immediate}}",
			wantKinds: map[uint32][]string{requests: bothHTTP, connections: {"TLS TCP"}, undeclared: strict[undeclared], others: strict[others]},
		},
		"a token is demanded": {
			spec:            "jwt: {issuers: [" + issuer + "]}",
			wantRequests:    []string{"DENY httpbin-token 0", "DENY httpbin-token 1"},
			wantConnections: []string{"DENY httpbin-token 0", "DENY httpbin-token 1"},
			wantIssuers:     []string{"one"},
		},
		"a token is looked at, of two issuers": {
			spec:        "jwt: {requirement: Optional, issuers: [" + issuer + ", {issuer: two, jwks: '" + keySet + "'}]}",
			wantIssuers: []string{"one", "two"},
		},
		"a service account is let in": {
			spec:         "authorization: {allowedCallers: [{name: a, serviceAccounts: [b]}]}",
			wantRequests: []string{"ALLOW httpbin 0"}, wantConnections: []string{"ALLOW httpbin 0"}, wantAllow: true,
		},
		"a method is let in, so connections are not": {
			spec:         "authorization: {allowedCallers: [{name: a, operations: [{methods: [GET]}]}]}",
			wantRequests: []string{"ALLOW httpbin 0"}, wantAllow: true,
		},
		"a port, and a method": {
			spec:         "authorization: {allowedCallers: [{name: a, operations: [{methods: [GET]}, {ports: [9000]}]}]}",
			wantRequests: []string{"ALLOW httpbin 0", "ALLOW httpbin 1"}, wantConnections: []string{"ALLOW httpbin 0"}, wantAllow: true,
		},
		"nobody is let in": {
			spec:         "authorization: {}",
			wantRequests: []string{"ALLOW httpbin 0"}, wantConnections: []string{"ALLOW httpbin 0"}, wantAllow: true,
		},
		"a method is refused, connections are not": {
			spec:         "authorization: {default: Allow, deniedCallers: [{name: a, operations: [{methods: [POST]}]}]}",
			wantRequests: []string{"DENY httpbin-deny 0"}, wantConnections: []string{"DENY httpbin-deny 0"},
		},
		"an address is refused, connections too": {
			spec:         "authorization: {default: Allow, deniedCallers: [{name: a, ipBlocks: [192.0.2.0/24]}]}",
			wantRequests: []string{"DENY httpbin-deny 0"}, wantConnections: []string{"DENY httpbin-deny 0"}, wantRefused: true,
		},
		"callers are only counted": {
			spec:         "authorization: {enforcement: DryRun, allowedCallers: [{name: a, serviceAccounts: [b]}], deniedCallers: [{name: c, namespaces: [d]}]}",
			wantRequests: []string{"(ALLOW httpbin 0)", "(DENY httpbin-deny 0)"}, wantConnections: []string{"(ALLOW httpbin 0)", "(DENY httpbin-deny 0)"},
		},
		"a token is demanded, callers are only counted": {
			spec:            "jwt: {issuers: [" + issuer + "]}\nauthorization: {enforcement: DryRun, default: Allow, deniedCallers: [{name: c, namespaces: [d]}]}",
			wantRequests:    []string{"(DENY httpbin-deny 0)", "DENY httpbin-token 0", "DENY httpbin-token 1"},
			wantConnections: []string{"(DENY httpbin-deny 0)", "DENY httpbin-token 0", "DENY httpbin-token 1"},
			wantIssuers:     []string{"one"},
		},
	}
	ctx := testContext(t)
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := compile(ctx, onThreePorts(t, service+tc.spec))
			if err != nil {
				t.Fatal(err)
			}
			want := tc.wantKinds
			if want == nil {
				want = permissive
			}
			for _, port := range []uint32{requests, connections, undeclared, others} {
				if diff := cmp.Diff(want[port], sees(got.chains, port)); diff != "" {
					t.Errorf("port %d has other chains (-want +got):\n%s", port, diff)
				}
			}
			for _, c := range got.chains {
				var wantRules []string
				switch c.port {
				case requests:
					wantRules = tc.wantRequests
				case connections:
					wantRules = tc.wantConnections
				default:
					continue // compile has compared them with the objects
				}
				if diff := cmp.Diff(wantRules, c.list()); diff != "" || c.allows != tc.wantAllow {
					t.Errorf("port %d has other rules, or lets in others (%t) (-want +got):\n%s", c.port, c.allows, diff)
				}
				if diff := cmp.Diff(tc.wantIssuers, c.issuers()); diff != "" && c.http {
					t.Errorf("port %d takes tokens of others (-want +got):\n%s", c.port, diff)
				}
				if refused := c.refuses(); c.port == connections && refused != tc.wantRefused {
					t.Errorf("connections to port %d are refused by some rule: %t", c.port, refused)
				}
			}
		})
	}
}

func onThreePorts(t *testing.T, spec string) (c builder.Case) {
	t.Helper()
	profile := &v1alpha1.ServiceSecurityProfile{}
	profile.Namespace, profile.Name = "foo", "httpbin"
	if err := yaml.UnmarshalStrict([]byte(spec), &profile.Spec); err != nil {
		t.Fatal(err)
	}
	c = told(profile, true)
	c.Facts.Ports = []facts.WorkloadPort{
		{Port: undeclared, Protocol: facts.ProtocolUndeclared}, {Port: requests, Protocol: facts.ProtocolHTTP}, {Port: connections, Protocol: facts.ProtocolTCP},
	}
	return c
}

// list are a chain's rules, ordered.
func (c chain) list() []string {
	var all []string
	add := func(rules map[string]rule, before, after string) {
		for name, r := range rules {
			_, policy, _ := strings.Cut(name, "policy[")
			short := strings.NewReplacer("]-rule[", " ", "]", "").Replace(policy)
			all = append(all, before+r.action.String()+" "+short+after)
		}
	}
	add(c.rules, "", "")
	add(c.shadow, "(", ")")
	slices.Sort(all)
	return all
}

func (c chain) issuers() []string {
	var all []string
	for _, provider := range c.tokens.GetProviders() {
		all = append(all, provider.GetIssuer())
	}
	slices.Sort(all)
	return all
}

// refuses says whether a DENY rule may match what comes to the chain's port.
func (c chain) refuses() bool {
	return slices.ContainsFunc(slices.Collect(maps.Values(c.rules)), func(r rule) bool {
		return r.action == rbacv3.RBAC_DENY && couldMatch(r.policy, c.port)
	})
}

// TestGatewayListeners: a Gateway's proxies get what a Gateway profile says.
func TestGatewayListeners(t *testing.T) {
	c := onThreePorts(t, "target: {kind: Gateway, name: front}\njwt: {issuers: ["+issuer+"]}\nauthorization: {default: Allow, deniedCallers: [{name: a, remoteIpBlocks: [192.0.2.0/24]}]}")
	c.Facts.Ports = nil
	got, err := compile(testContext(t), c)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"DENY httpbin-deny 0", "DENY httpbin-token 0", "DENY httpbin-token 1"}
	for _, one := range got.chains {
		if diff := cmp.Diff(want, one.list()); diff != "" || !one.http {
			t.Errorf("the gateway has other rules (-want +got):\n%s", diff)
		}
	}
}

// TestDifferences shows that a rule, or an issuer, that is lost on the way is noticed.
func TestDifferences(t *testing.T) {
	c := onThreePorts(t, service+"jwt: {issuers: ["+issuer+"]}\nauthorization: {default: Deny, allowedCallers: [{name: a, serviceAccounts: [b]}, {name: c, operations: [{methods: [GET]}]}]}")
	got, err := compile(testContext(t), c)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*istio.Objects){
		"a rule more": func(o *istio.Objects) {
			p := policy(o, "httpbin")
			p.Spec.Rules = append(p.Spec.Rules, p.Spec.GetRules()[0])
		},
		"a rule less":    func(o *istio.Objects) { p := policy(o, "httpbin"); p.Spec.Rules = p.Spec.GetRules()[:1] },
		"another action": func(o *istio.Objects) { policy(o, "httpbin").Spec.Action = policy(o, "httpbin-token").Spec.GetAction() },
		"dry run": func(o *istio.Objects) {
			policy(o, "httpbin").Annotations = map[string]string{istio.AnnotationDryRun: "true"}
		},
		"a condition more": func(o *istio.Objects) {
			policy(o, "httpbin").Spec.GetRules()[1].GetTo()[0].GetOperation().Ports = []string{"1"}
		},
		"a source more": func(o *istio.Objects) {
			r := policy(o, "httpbin").Spec.GetRules()[0]
			r.From = append(r.From, r.From[0])
		},
		"another issuer":           func(o *istio.Objects) { o.RequestAuthentication.Spec.GetJwtRules()[0].Issuer = "two" },
		"no RequestAuthentication": func(o *istio.Objects) { o.RequestAuthentication = nil },
	} {
		changed := istio.Objects{RequestAuthentication: got.objects.RequestAuthentication.DeepCopy()}
		for _, p := range got.objects.AuthorizationPolicies {
			changed.AuthorizationPolicies = append(changed.AuthorizationPolicies, p.DeepCopy())
		}
		change(&changed)
		if differences(got.chains, changed, c.Facts.Ports) == nil {
			t.Errorf("%s is not noticed", name)
		}
	}
	// A port that is declared TCP only afterwards: the rule about tokens was not kept away from it.
	ports := []facts.WorkloadPort{{Port: undeclared, Protocol: facts.ProtocolTCP}}
	if differences(got.chains, got.objects, ports) == nil {
		t.Error("a DENY rule about requests on a TCP port is not noticed")
	}
}

func policy(objects *istio.Objects, name string) *securityv1.AuthorizationPolicy {
	i := slices.IndexFunc(objects.AuthorizationPolicies, func(p *securityv1.AuthorizationPolicy) bool { return p.Name == name })
	return objects.AuthorizationPolicies[i]
}
