package apply

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	securityapi "istio.io/api/security/v1beta1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/istio"
)

// request is one that policies are asked about.
type request struct{ who, method string }

var (
	identities = []string{"a", "b", "c"}
	methods    = []string{"GET", "POST"}
)

func requests() (all []request) {
	for _, who := range identities {
		for _, method := range methods {
			all = append(all, request{who, method})
		}
	}
	return all
}

func (r request) matches(rule *securityapi.Rule) bool {
	from, to := len(rule.GetFrom()) == 0, len(rule.GetTo()) == 0
	for _, f := range rule.GetFrom() {
		from = from || slices.Contains(f.GetSource().GetPrincipals(), r.who)
	}
	for _, t := range rule.GetTo() {
		to = to || slices.Contains(t.GetOperation().GetMethods(), r.method)
	}
	return from && to
}

// letIn says what Istio makes of a request: first what refuses it, then, if there is anything that lets some in, whether
// that does. What is in dry run does neither.
func letIn(r request, policies []*securityv1.AuthorizationPolicy) bool {
	restricted, allowed := false, false
	for _, p := range policies {
		if p.Annotations[istio.AnnotationDryRun] == "true" {
			continue
		}
		match := slices.ContainsFunc(p.Spec.GetRules(), r.matches)
		if p.Spec.GetAction() == securityapi.AuthorizationPolicy_DENY && match {
			return false
		}
		if p.Spec.GetAction() == securityapi.AuthorizationPolicy_ALLOW {
			restricted, allowed = true, allowed || match
		}
	}
	return !restricted || allowed
}

func someRule(r *rand.Rand) *securityapi.Rule {
	rule := &securityapi.Rule{}
	if r.IntN(3) > 0 {
		rule.From = []*securityapi.Rule_From{{Source: &securityapi.Source{Principals: []string{identities[r.IntN(len(identities))]}}}}
	}
	if len(rule.From) == 0 || r.IntN(2) == 0 {
		rule.To = []*securityapi.Rule_To{{Operation: &securityapi.Operation{Methods: []string{methods[r.IntN(len(methods))]}}}}
	}
	return rule
}

func somePolicies(r *rand.Rand) istio.Objects {
	var out istio.Objects
	dryRun := r.IntN(4) == 0
	for _, name := range []string{"web", "web-deny", "web-token"} {
		if r.IntN(3) == 0 {
			continue
		}
		p := &securityv1.AuthorizationPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "foo", Name: name}}
		if name != "web" {
			p.Spec.Action = securityapi.AuthorizationPolicy_DENY
		}
		if dryRun && name != "web-token" {
			p.Annotations = map[string]string{istio.AnnotationDryRun: "true"}
		}
		for range r.IntN(3) {
			p.Spec.Rules = append(p.Spec.Rules, someRule(r))
		}
		out.AuthorizationPolicies = append(out.AuthorizationPolicies, p)
	}
	return out
}

func policiesOf(t *testing.T, c client.Client) []*securityv1.AuthorizationPolicy {
	t.Helper()
	list := &securityv1.AuthorizationPolicyList{}
	if err := c.List(context.Background(), list); err != nil {
		t.Fatal(err)
	}
	return list.Items
}

// TestNoDoorOpens: whatever the old and the new policies are, no request that both let in is refused on the way, and none
// that both refuse gets in, after each single write.
func TestNoDoorOpens(t *testing.T) {
	for seed := range uint64(1000) {
		r := rand.New(rand.NewPCG(seed, 7))
		before, after := somePolicies(r), somePolicies(r)
		var check func(what string)
		watched := interceptor.Funcs{
			Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
				defer check("create " + o.GetName())
				return c.Create(ctx, o, opts...)
			},
			Update: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.UpdateOption) error {
				defer check("update " + o.GetName())
				return c.Update(ctx, o, opts...)
			},
			Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
				defer check("delete " + o.GetName())
				return c.Delete(ctx, o, opts...)
			},
		}
		base := fake.NewClientBuilder().WithScheme(scheme(t)).Build()
		a := Applier{Client: interceptor.NewClient(base, watched), Mesh: facts.Mesh{RequestAuthentications: true, AuthorizationPolicies: true}}
		check = func(string) {}
		if _, err := a.Apply(t.Context(), profile(), before); err != nil {
			t.Fatal(err)
		}
		was := map[request]bool{}
		for _, q := range requests() {
			was[q] = letIn(q, policiesOf(t, base))
		}
		will := map[request]bool{}
		var wanted []*securityv1.AuthorizationPolicy
		for _, p := range after.AuthorizationPolicies {
			wanted = append(wanted, p.DeepCopy())
		}
		for _, q := range requests() {
			will[q] = letIn(q, wanted)
		}
		check = func(what string) {
			for _, q := range requests() {
				if got := letIn(q, policiesOf(t, base)); was[q] == will[q] && got != was[q] {
					t.Errorf("seed %d: after %s, %v is let in: %t, before and at the end %t", seed, what, q, got, was[q])
				}
			}
		}
		if _, err := a.Apply(t.Context(), profile(), after); err != nil {
			t.Fatal(err)
		}
		for _, q := range requests() {
			if got := letIn(q, policiesOf(t, base)); got != will[q] {
				t.Errorf("seed %d: at the end %v is let in: %t", seed, q, got)
			}
		}
		if again, err := a.Apply(t.Context(), profile(), after); err != nil || len(again.Changes) > 0 {
			t.Errorf("seed %d: the same again writes %v, %v", seed, again.Changes, err)
		}
		if t.Failed() {
			return
		}
	}
}

func tokens() *securityv1.RequestAuthentication {
	object := &securityv1.RequestAuthentication{ObjectMeta: metav1.ObjectMeta{Namespace: "foo", Name: "web"}}
	object.Spec.JwtRules = []*securityapi.JWTRule{{Issuer: "https://example.com"}}
	return object
}

func deny(name string, methods ...string) *securityv1.AuthorizationPolicy {
	object := &securityv1.AuthorizationPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "foo", Name: name}}
	object.Spec.Action = securityapi.AuthorizationPolicy_DENY
	object.Spec.Rules = []*securityapi.Rule{{To: []*securityapi.Rule_To{{Operation: &securityapi.Operation{Methods: methods}}}}}
	return object
}

// TestTokensSettle: tokens come before the policies that ask for them and go after them, each with a time to settle.
func TestTokensSettle(t *testing.T) {
	uid := 0
	c := interceptor.NewClient(fake.NewClientBuilder().WithScheme(scheme(t)).Build(), interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			uid++
			o.SetUID(types.UID(fmt.Sprint(uid)))
			return c.Create(ctx, o, opts...)
		},
	})
	long := 24 * time.Hour
	a := Applier{Client: c, Mesh: facts.Mesh{RequestAuthentications: true, AuthorizationPolicies: true}, Settle: 10 * time.Second, TokensAge: long, PoliciesAge: long}
	with := istio.Objects{RequestAuthentication: tokens(), AuthorizationPolicies: []*securityv1.AuthorizationPolicy{deny("web-token", "GET")}}
	steps := []struct {
		what                   string
		desired                istio.Objects
		tokensAge, policiesAge time.Duration
		want                   []string
		settling               time.Duration
		owners                 int
	}{
		{"tokens first", with, long, long, []string{"Created RequestAuthentication"}, 10 * time.Second, 1},
		{"they are taken", with, 4 * time.Second, long, nil, 6 * time.Second, 1},
		{"now the policy, which the tokens outlive", with, 10 * time.Second, long, []string{"Created AuthorizationPolicy", "Updated RequestAuthentication"}, 0, 2},
		{"nothing to do", with, 11 * time.Second, time.Second, nil, 0, 2},
		{"the policy first", istio.Objects{}, long, long, []string{"Deleted AuthorizationPolicy"}, 10 * time.Second, 2},
		{"its end is taken", istio.Objects{}, long, 3 * time.Second, nil, 7 * time.Second, 2},
		{"now the tokens", istio.Objects{}, long, 10 * time.Second, []string{"Deleted RequestAuthentication"}, 0, 0},
	}
	for _, step := range steps {
		a.TokensAge, a.PoliciesAge = step.tokensAge, step.policiesAge
		result, err := a.Apply(t.Context(), profile(), step.desired)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, change := range result.Changes {
			got = append(got, fmt.Sprintf("%s %s", change.Verb, change.Kind))
		}
		if diff := cmp.Diff(step.want, got); diff != "" {
			t.Errorf("%s: writes (-want +got):\n%s", step.what, diff)
		}
		if result.Settling != step.settling {
			t.Errorf("%s: settling for %s, want %s", step.what, result.Settling, step.settling)
		}
		live := &securityv1.RequestAuthentication{}
		err = c.Get(t.Context(), client.ObjectKeyFromObject(tokens()), live)
		if client.IgnoreNotFound(err) != nil || len(live.OwnerReferences) != step.owners {
			t.Errorf("%s: owners %v, %v", step.what, live.OwnerReferences, err)
		}
		if (step.owners > 0) != result.Holds(RequestAuthentication, "web") {
			t.Errorf("%s: resources %v", step.what, result.Resources)
		}
	}
}

// TestAllOrNothing: if one object cannot be written, none is.
func TestAllOrNothing(t *testing.T) {
	foreign := deny("web-deny", "POST")
	foreign.Annotations = map[string]string{v1alpha1.AnnotationAdopt: "web"}
	foreign.Spec.Rules[0].To[0].Operation.NotPaths = []string{"/a"}
	for name, tc := range map[string]struct {
		live    []client.Object
		refuse  string
		mesh    facts.Mesh
		wantErr any
	}{
		"somebody else's": {live: []client.Object{deny("web-deny", "GET")}, mesh: facts.Mesh{RequestAuthentications: true, AuthorizationPolicies: true}, wantErr: new(*ForeignObjectError)},
		"not adoptable":   {live: []client.Object{foreign}, mesh: facts.Mesh{RequestAuthentications: true, AuthorizationPolicies: true}, wantErr: new(*ForeignObjectError)},
		"refused":         {refuse: "web-deny", mesh: facts.Mesh{RequestAuthentications: true, AuthorizationPolicies: true}, wantErr: new(*refusal)},
		"no such kinds":   {mesh: facts.Mesh{}, wantErr: new(*NotInstalledError)},
	} {
		t.Run(name, func(t *testing.T) {
			base := fake.NewClientBuilder().WithScheme(scheme(t)).WithObjects(tc.live...).Build()
			c := interceptor.NewClient(base, interceptor.Funcs{
				Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
					if o.GetName() == tc.refuse {
						return &refusal{}
					}
					return c.Create(ctx, o, opts...)
				},
			})
			a := Applier{Client: c, Mesh: tc.mesh}
			desired := istio.Objects{RequestAuthentication: tokens(), AuthorizationPolicies: []*securityv1.AuthorizationPolicy{deny("web-deny", "GET"), deny("web-token", "GET")}}
			result, err := a.Apply(t.Context(), profile(), desired)
			if !errors.As(err, tc.wantErr) || !result.PoliciesFailed {
				t.Errorf("failed: %t, with %v", result.PoliciesFailed, err)
			}
			if len(result.Changes) > 0 || len(result.Resources) > 0 {
				t.Errorf("written all the same: %v, %v", result.Changes, result.Resources)
			}
			if got := policiesOf(t, base); len(got) != len(tc.live) {
				t.Errorf("%d policies", len(got))
			}
		})
	}
}

// TestFirstPolicyFails: a policy that refuses more at once, as a first step, and cannot be written leaves the rest alone.
func TestFirstPolicyFails(t *testing.T) {
	base := fake.NewClientBuilder().WithScheme(scheme(t)).Build()
	c := interceptor.NewClient(base, interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			asked := client.CreateOptions{}
			if asked.ApplyOptions(opts); len(asked.DryRun) == 0 {
				return &refusal{}
			}
			return c.Create(ctx, o, opts...)
		},
	})
	a := Applier{Client: c, Mesh: facts.Mesh{AuthorizationPolicies: true}}
	desired := istio.Objects{AuthorizationPolicies: []*securityv1.AuthorizationPolicy{deny("web-deny", "GET"), deny("web-token", "GET")}}
	result, err := a.Apply(t.Context(), profile(), desired)
	if !errors.As(err, new(*refusal)) || !result.PoliciesFailed || len(result.Changes) > 0 || len(policiesOf(t, base)) > 0 {
		t.Errorf("%+v, %v", result, err)
	}
}

// TestServerWaitsForPolicies: the server does not take more while what refuses it instead is not there.
func TestServerWaitsForPolicies(t *testing.T) {
	c := fake.NewClientBuilder().WithScheme(scheme(t)).Build()
	a := Applier{Client: c, Mesh: facts.Mesh{PeerAuthentications: true, DestinationRules: true, RequestAuthentications: true, AuthorizationPolicies: true}, Settle: time.Minute, TokensAge: time.Hour}
	if _, err := a.Apply(t.Context(), profile(), objects(securityapi.PeerAuthentication_MutualTLS_STRICT)); err != nil {
		t.Fatal(err)
	}
	mode := func() securityapi.PeerAuthentication_MutualTLS_Mode {
		live := &securityv1.PeerAuthentication{}
		if err := c.Get(t.Context(), types.NamespacedName{Namespace: "foo", Name: "web"}, live); err != nil {
			t.Fatal(err)
		}
		return live.Spec.GetMtls().GetMode()
	}
	lenient := objects(securityapi.PeerAuthentication_MutualTLS_PERMISSIVE)
	lenient.Loosens = true
	lenient.RequestAuthentication, lenient.AuthorizationPolicies = tokens(), []*securityv1.AuthorizationPolicy{deny("web-token", "GET")}
	result, err := a.Apply(t.Context(), profile(), lenient)
	if err != nil || !result.PeerHeld || mode() != securityapi.PeerAuthentication_MutualTLS_STRICT || !result.Holds(PeerAuthentication, "web") {
		t.Errorf("before the policy is there: %+v, %v, mode %s", result, err, mode())
	}
	a.TokensAge = time.Hour
	result, err = a.Apply(t.Context(), profile(), lenient)
	if err != nil || result.PeerHeld || mode() != securityapi.PeerAuthentication_MutualTLS_PERMISSIVE {
		t.Errorf("when it is: %+v, %v, mode %s", result, err, mode())
	}
}

type refusal struct{}

func (*refusal) Error() string { return "admission webhook denied the request" }

// TestKept: what a section keeps is left alone, and is the profile's.
func TestKept(t *testing.T) {
	c := fake.NewClientBuilder().WithScheme(scheme(t)).Build()
	a := Applier{Client: c, Mesh: facts.Mesh{RequestAuthentications: true, AuthorizationPolicies: true}}
	desired := istio.Objects{RequestAuthentication: tokens(), AuthorizationPolicies: []*securityv1.AuthorizationPolicy{deny("web-deny", "GET"), deny("web-token", "GET")}}
	first, err := a.Apply(t.Context(), profile(), desired)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := a.Apply(t.Context(), profile(), istio.Objects{
		KeepPeerAuthentication: true, KeepDestinationRules: true, KeepRequestAuthentication: true, KeepAuthorizationPolicies: []string{"web-deny", "web-token", "web"},
	})
	if err != nil || len(kept.Changes) > 0 {
		t.Errorf("keeping writes %v, %v", kept.Changes, err)
	}
	if len(kept.Resources) != len(first.Resources) {
		t.Errorf("kept %v of %v", kept.Resources, first.Resources)
	}
}

func TestInexpressiblePolicies(t *testing.T) {
	spec := &securityapi.AuthorizationPolicy{
		Action:       securityapi.AuthorizationPolicy_CUSTOM,
		ActionDetail: &securityapi.AuthorizationPolicy_Provider{Provider: &securityapi.AuthorizationPolicy_ExtensionProvider{Name: "ext"}},
		Rules: []*securityapi.Rule{{}, {
			From: []*securityapi.Rule_From{{Source: &securityapi.Source{Principals: []string{"a"}}}, {Source: &securityapi.Source{NotNamespaces: []string{"a"}}}},
			To:   []*securityapi.Rule_To{{Operation: &securityapi.Operation{NotMethods: []string{"GET"}}}},
			When: []*securityapi.Condition{{Key: "request.headers[a]", Values: []string{"a"}}, {Key: "request.headers[b]", NotValues: []string{"a"}}},
		}},
	}
	want := []string{"action CUSTOM", "provider", "rules[1].from[1]", "rules[1].to[0]", "rules[1].when[1]"}
	if diff := cmp.Diff(want, inexpressiblePolicy(spec)); diff != "" {
		t.Errorf("policy (-want +got):\n%s", diff)
	}
	rules := &securityapi.RequestAuthentication{JwtRules: []*securityapi.JWTRule{{Issuer: "a"}, {Issuer: "b", SpaceDelimitedClaims: []string{"scope"}}}}
	if diff := cmp.Diff([]string{"jwtRules[1].spaceDelimitedClaims"}, inexpressibleTokens(rules)); diff != "" {
		t.Errorf("tokens (-want +got):\n%s", diff)
	}
}
