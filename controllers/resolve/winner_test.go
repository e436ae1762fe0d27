package resolve

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	securityv1beta1 "istio.io/api/security/v1beta1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

func TestWinnerLive(t *testing.T) {
	web, v1 := tags{"app": "web"}, tags{"app": "web", "version": "v1"}
	service, a, b := newService("web", web), newPod("web-a", v1), newPod("web-b", tags{"app": "web", "version": "v2"})
	loser, winner := newProfile("loser", 10, toService("web"), strict), newProfile("winner", 5, toWorkload(web), strict)
	narrow := newProfile("winner", 5, toWorkload(v1), strict)
	with := func(profile *v1alpha1.ServiceSecurityProfile, edits ...func(*v1alpha1.ServiceSecurityProfile)) *v1alpha1.ServiceSecurityProfile {
		return edited(profile.DeepCopy(), append([]func(*v1alpha1.ServiceSecurityProfile){withoutMTLS}, edits...)...)
	}
	authorizing := func(byDefault v1alpha1.DefaultAction, denied ...string) func(*v1alpha1.ServiceSecurityProfile) {
		return func(p *v1alpha1.ServiceSecurityProfile) {
			p.Spec.Authorization = &v1alpha1.Authorization{Default: byDefault}
			for _, name := range denied {
				p.Spec.Authorization.DeniedCallers = append(p.Spec.Authorization.DeniedCallers, v1alpha1.Caller{Name: name})
			}
		}
	}
	counting := func(p *v1alpha1.ServiceSecurityProfile) {
		p.Spec.Authorization.Enforcement = v1alpha1.EnforcementDryRun
	}
	counted := func(policy *securityv1.AuthorizationPolicy) *securityv1.AuthorizationPolicy {
		policy.Annotations = map[string]string{annotationDryRun: "true"}
		return policy
	}
	at := placed{selector: web}
	peer := func(mode v1alpha1.Mode, edits ...func(*securityv1.PeerAuthentication)) *securityv1.PeerAuthentication {
		return owned(newPolicy("foo", "winner", 5, web, mode, edits...), winner)
	}
	tokens := owned(newTokens("foo", "winner", at, "x"), winner)
	access := func(name string, action securityv1beta1.AuthorizationPolicy_Action) *securityv1.AuthorizationPolicy {
		return owned(newAccess("foo", name, at, action), winner)
	}
	ours := owned(newPolicy("foo", "loser", 10, web, strict), loser)
	required, optional := issuing("", "x"), issuing(v1alpha1.TokenOptional, "x")
	gateway, gatewayPod := newGateway("gw"), newPod("gw-a", tags{"app": "gw", labelGatewayName: "gw"}, router)
	for name, tc := range map[string]struct {
		loser, winner *v1alpha1.ServiceSecurityProfile
		objects       []client.Object
		want          bool
	}{
		"mtls, nothing there":           {loser, winner, nil, false},
		"mtls, someone else's":          {loser, winner, []client.Object{newPolicy("foo", "winner", 0, web, strict)}, false},
		"mtls, none of its own to lose": {loser, winner, []client.Object{peer(permissive)}, true},
		"mtls, as strong":               {loser, winner, []client.Object{peer(strict), ours}, true},
		"mtls, weaker":                  {loser, winner, []client.Object{peer(permissive), ours}, false},
		"mtls, weaker on a port":        {loser, winner, []client.Object{peer(strict, withPorts(map[uint32]v1alpha1.Mode{80: disabled})), ours}, false},
		"mtls, not for every pod":       {loser, narrow, []client.Object{owned(newPolicy("foo", "winner", 5, v1, strict), narrow), ours}, false},
		"mtls, of a namespace":          {newProfile("loser", 10, toNamespace, strict), newProfile("winner", 5, toNamespace, strict), []client.Object{owned(newPolicy("foo", "default", 5, nil, strict), winner)}, true},
		"mtls, weaker than a workload's own": {newProfile("loser", 10, toNamespace, strict), newProfile("winner", 5, toNamespace, strict), []client.Object{
			owned(newPolicy("foo", "default", 5, nil, permissive), winner), owned(newPolicy("foo", "loser-web-0", 10, web, strict), newProfile("loser", 10, toNamespace, strict)),
		}, false},
		"jwt, nothing there":                  {with(loser, required), with(winner, required), nil, false},
		"jwt, not demanded yet":               {with(loser, required), with(winner, required), []client.Object{tokens}, false},
		"jwt":                                 {with(loser, required), with(winner, required), []client.Object{tokens, access("winner-token", deny)}, true},
		"jwt, someone else demands it":        {with(loser, required), with(winner, required), []client.Object{tokens, newAccess("foo", "winner-token", at, deny)}, false},
		"jwt, optional":                       {with(loser, optional), with(winner, optional), []client.Object{tokens}, true},
		"jwt, optional for demanded":          {with(loser, required), with(winner, optional), []client.Object{tokens}, false},
		"jwt, not for every pod":              {with(loser, required), with(narrow, optional), []client.Object{owned(newTokens("foo", "winner", placed{selector: v1}, "x"), narrow)}, false},
		"authorization, nothing there":        {with(loser, authorizing("")), with(winner, authorizing("")), nil, false},
		"authorization":                       {with(loser, authorizing("")), with(winner, authorizing(v1alpha1.DefaultDeny)), []client.Object{access("winner", allow)}, true},
		"authorization, denied ones are not":  {with(loser, authorizing("")), with(winner, authorizing("", "x")), []client.Object{access("winner", allow)}, false},
		"authorization, both":                 {with(loser, authorizing("")), with(winner, authorizing("", "x")), []client.Object{access("winner", allow), access("winner-deny", deny)}, true},
		"authorization, all but denied":       {with(loser, authorizing(v1alpha1.DefaultAllow, "y")), with(winner, authorizing(v1alpha1.DefaultAllow, "x")), []client.Object{access("winner-deny", deny)}, true},
		"authorization, all for some":         {with(loser, authorizing("")), with(winner, authorizing(v1alpha1.DefaultAllow, "x")), []client.Object{access("winner-deny", deny)}, false},
		"authorization, counted only":         {with(loser, authorizing("")), with(winner, authorizing("")), []client.Object{counted(access("winner", allow))}, false},
		"authorization, both counted only":    {with(loser, authorizing(""), counting), with(winner, authorizing(""), counting), []client.Object{counted(access("winner", allow))}, true},
		"authorization, not for every pod":    {with(loser, authorizing("")), with(narrow, authorizing("")), []client.Object{owned(newAccess("foo", "winner", placed{selector: v1}, allow), narrow)}, false},
		"a Gateway's, for its own pods":       {with(newProfile("loser", 10, toWorkload(tags{"app": "gw"}), strict), optional), with(newProfile("winner", 5, toGatewayAPI("gw"), strict), optional), []client.Object{owned(newTokens("foo", "winner", placed{gateways: []string{"gw"}}, "x"), winner)}, true},
		"a Workload's, for a Gateway's pods":  {with(newProfile("loser", 10, toGatewayAPI("gw"), strict), optional), with(newProfile("winner", 5, toWorkload(tags{"app": "gw"}), strict), optional), []client.Object{owned(newTokens("foo", "winner", placed{selector: tags{"app": "gw"}}, "x"), winner)}, true},
		"a Workload's, for a Gateway no pods": {with(newProfile("loser", 10, toGatewayAPI("gw"), strict), optional), with(newProfile("winner", 5, toGatewayAPI("gw"), strict), optional), nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := cluster(t, append(tc.objects, service, a, b, gateway, gatewayPod, tc.loser, tc.winner)...)
			got := mustResolve(t, r, tc.loser)
			if len(got.Conflicts) != 1 || got.Conflicts[0].WinnerLive != tc.want {
				t.Errorf("conflicts are %+v, want one with WinnerLive %t", got.Conflicts, tc.want)
			}
			if diff := mustResolve(t, r, tc.winner).Conflicts; diff != nil {
				t.Errorf("the winner has conflicts: %v", diff)
			}
		})
	}
}

func TestConflictsAcrossScopes(t *testing.T) {
	service, pod := newService("web", tags{"app": "web"}), newPod("web-a", tags{"app": "web", "b": "c"})
	hearing := func(audience v1alpha1.Text) func(*v1alpha1.ServiceSecurityProfile) {
		return func(p *v1alpha1.ServiceSecurityProfile) { p.Spec.JWT.Issuers[0].Audiences = []v1alpha1.Text{audience} }
	}
	named := func(name, namespace string, minute int, target v1alpha1.Target, edits ...func(*v1alpha1.ServiceSecurityProfile)) *v1alpha1.ServiceSecurityProfile {
		return in(namespace, edited(newProfile(name, minute, target, strict), append(edits, func(p *v1alpha1.ServiceSecurityProfile) {
			p.UID = p.UID + "-" + "of-" + p.UID
		})...))
	}
	x, y, optionalX, optionalY := issuing("", "x"), issuing("", "y"), issuing(v1alpha1.TokenOptional, "x"), issuing(v1alpha1.TokenOptional, "y")
	const root = "istio-system"
	for name, tc := range map[string]struct {
		profile, other *v1alpha1.ServiceSecurityProfile
		// message of the conflict, in part; empty for none.
		want string
	}{
		"Service in a Namespace":            {named("b", "foo", 10, toService("web"), x), named("a", "foo", 5, toNamespace, y), `Profile "a" in namespace "foo", whose target is Namespace "foo", is older and accepts other tokens`},
		"Service in the mesh":               {named("b", "foo", 10, toService("web"), x), named("a", root, 5, toMesh, y), `Profile "a" in namespace "istio-system", whose target is the mesh, is older`},
		"Gateway in a Namespace":            {named("b", "foo", 10, toGatewayAPI("gw"), withoutMTLS, x), named("a", "foo", 5, toNamespace, y), `Namespace "foo"`},
		"Namespace with a Service":          {named("b", "foo", 10, toNamespace, x), named("a", "foo", 5, toService("web"), y), `whose target is Service "web"`},
		"Namespace with a Workload":         {named("b", "foo", 10, toNamespace, x), named("a", "foo", 5, toWorkload(tags{"app": "web", "b": "c"}), y), `whose target is Workload "app=web,b=c"`},
		"Namespace with one without pods":   {named("b", "foo", 10, toNamespace, x), named("a", "foo", 5, toWorkload(tags{"app": "gone"}), y), ""},
		"one without pods in a Namespace":   {named("b", "foo", 10, toWorkload(tags{"app": "gone"}), x), named("a", "foo", 5, toNamespace, y), ""},
		"mesh with a Gateway":               {named("b", root, 10, toMesh, x), named("a", "foo", 5, toGatewayAPI("gw"), withoutMTLS, y), `Gateway "gw"`},
		"one issuer, other audiences":       {named("b", "foo", 10, toService("web"), optionalX), named("a", "foo", 5, toNamespace, optionalX, hearing("there")), "other tokens"},
		"Namespace in the mesh":             {named("b", "foo", 10, toNamespace, x), named("a", root, 5, toMesh, y), `the mesh`},
		"mesh with a Namespace":             {named("b", root, 10, toMesh, x), named("a", "foo", 5, toNamespace, y), `Namespace "foo"`},
		"mesh with a Service of its name":   {named("a", root, 10, toMesh, x), named("a", "foo", 5, toService("web"), y), `Service "web"`},
		"the older one":                     {named("b", "foo", 1, toService("web"), x), named("a", "foo", 5, toNamespace, y), ""},
		"the same issuers":                  {named("b", "foo", 10, toService("web"), x), named("a", "foo", 5, toNamespace, x), ""},
		"optional on one side":              {named("b", "foo", 10, toService("web"), x), named("a", "foo", 5, toNamespace, optionalY), "other tokens"},
		"optional on the other side":        {named("b", "foo", 10, toService("web"), optionalX), named("a", "foo", 5, toNamespace, y), "other tokens"},
		"optional on both sides":            {named("b", "foo", 10, toService("web"), optionalX), named("a", "foo", 5, toNamespace, optionalY), ""},
		"mtls is no matter":                 {named("b", "foo", 10, toService("web")), named("a", "foo", 5, toNamespace, y), ""},
		"another namespace":                 {named("b", "foo", 10, toService("web"), x), named("a", "bar", 5, toNamespace, y), ""},
		"for the mesh in no root namespace": {named("b", "foo", 10, toService("web"), x), named("a", "bar", 5, toMesh, y), ""},
		"it is being deleted":               {named("b", "foo", 10, toService("web"), x), edited(named("a", "foo", 5, toNamespace, y), deleting), ""},
		"two for one namespace":             {named("b", "foo", 10, toNamespace, withoutMTLS, x), named("a", "foo", 5, toNamespace, withoutMTLS, x), `sets jwt for the same target`},
		"two for the mesh":                  {named("b", root, 10, toMesh), named("a", root, 5, toMesh), `sets mtls for the same target`},
		"two for a Gateway":                 {named("b", "foo", 10, toGatewayAPI("gw"), withoutMTLS, x), named("a", "foo", 5, toGatewayAPI("gw"), withoutMTLS, x), `sets jwt for the same target`},
		"two Gateways":                      {named("b", "foo", 10, toGatewayAPI("gw"), withoutMTLS, x), named("a", "foo", 5, toGatewayAPI("other"), withoutMTLS, x), ""},
		"a Gateway and its pods":            {named("b", "foo", 10, toGatewayAPI("gw"), withoutMTLS, x), named("a", "foo", 5, toWorkload(tags{"app": "gw"}), withoutMTLS, x), `its target is Workload "app=gw"`},
		"a Gateway's pods and it":           {named("b", "foo", 10, toWorkload(tags{"app": "gw"}), withoutMTLS, x), named("a", "foo", 5, toGatewayAPI("gw"), withoutMTLS, x), `its target is Gateway "gw"`},
	} {
		t.Run(name, func(t *testing.T) {
			r := cluster(t, service, pod, newGateway("gw"), newPod("gw-a", tags{"app": "gw", labelGatewayName: "gw"}, router), tc.profile, tc.other)
			got := mustResolve(t, r, tc.profile).Conflicts
			if tc.want == "" && got == nil {
				return
			}
			if len(got) != 1 || tc.want == "" || !strings.Contains(got[0].Message, tc.want) || got[0].Reason != v1alpha1.ReasonConflicted {
				t.Errorf("conflicts are %+v, want one that says %q", got, tc.want)
			}
			// The one has to hear of the other, whichever changes.
			for _, pair := range [][2]*v1alpha1.ServiceSecurityProfile{{tc.profile, tc.other}, {tc.other, tc.profile}} {
				if !slices.Contains(r.Affected(t.Context(), pair[0]), client.ObjectKeyFromObject(pair[1])) {
					t.Errorf("a change of %s/%s is not told to %s/%s", pair[0].Namespace, pair[0].Name, pair[1].Namespace, pair[1].Name)
				}
			}
		})
	}
}

// TestHandover: what a profile gives up stays until the profile that takes it up has its own.
func TestHandover(t *testing.T) {
	web := tags{"app": "web"}
	authorizing := func(p *v1alpha1.ServiceSecurityProfile) { p.Spec.Authorization = &v1alpha1.Authorization{} }
	giver := newProfile("giver", 5, toService("web"), strict)
	taker := edited(newProfile("taker", 10, toService("web"), strict), withoutMTLS, authorizing)
	narrow := edited(newProfile("taker", 10, toWorkload(web), strict), withoutMTLS, authorizing)
	theirs := owned(newAccess("foo", "taker", placed{selector: web}, allow), taker)
	for name, tc := range map[string]struct {
		giver, taker *v1alpha1.ServiceSecurityProfile
		objects      []client.Object
		want         []v1alpha1.Section
	}{
		"not there yet":          {giver, taker, nil, []v1alpha1.Section{v1alpha1.SectionAuthorization}},
		"there":                  {giver, taker, []client.Object{theirs}, nil},
		"of another target":      {giver, narrow, nil, nil},
		"being deleted":          {giver, edited(taker.DeepCopy(), deleting), nil, nil},
		"the giver still has it": {edited(giver.DeepCopy(), authorizing), taker, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := cluster(t, append(tc.objects, newService("web", web), newPod("web-a", web), tc.giver, tc.taker)...)
			if diff := cmp.Diff(tc.want, mustResolve(t, r, tc.giver).Handover); diff != "" {
				t.Errorf("handed over (-want +got):\n%s", diff)
			}
		})
	}
}

// TestHandoverOfMutualTLS: STRICT that one profile gives up and another takes up stays until that has its evidence, for which it does
// not stand in the way.
func TestHandoverOfMutualTLS(t *testing.T) {
	web := tags{"app": "web"}
	giver := edited(newProfile("giver", 5, toService("web"), strict), withoutMTLS)
	taker := newProfile("taker", 10, toService("web"), strict)
	excepting := newProfile("taker", 10, toService("web"), strict, v1alpha1.PortMTLS{Port: 8080, Mode: permissive})
	lenient, off := newProfile("taker", 10, toService("web"), permissive), newProfile("taker", 10, toService("web"), disabled)
	verified := func(p *securityv1.PeerAuthentication) {
		p.Annotations = map[string]string{v1alpha1.AnnotationSwitchedAt: "2026-01-02T12:00:00Z"}
	}
	ours := owned(newPolicy("foo", "giver", 5, web, strict), giver)
	theirs := func(mode v1alpha1.Mode, edits ...func(*securityv1.PeerAuthentication)) *securityv1.PeerAuthentication {
		return owned(newPolicy("foo", "taker", 10, web, mode, edits...), taker)
	}
	port := withPorts(map[uint32]v1alpha1.Mode{8080: permissive})
	mtls := []v1alpha1.Section{v1alpha1.SectionMTLS}
	for name, tc := range map[string]struct {
		taker   *v1alpha1.ServiceSecurityProfile
		objects []client.Object
		want    []v1alpha1.Section
	}{
		"nothing there yet":                       {taker, nil, mtls},
		"the taker observes":                      {taker, []client.Object{theirs(permissive)}, mtls},
		"the taker is STRICT":                     {taker, []client.Object{theirs(strict)}, nil},
		"the taker is on its way to an exception": {excepting, []client.Object{theirs(permissive)}, mtls},
		"the taker is STRICT with an exception":   {excepting, []client.Object{theirs(strict, port)}, nil},
		"the taker is STRICT, and is verified":    {taker, []client.Object{theirs(strict, verified)}, mtls},
		"the taker asks for PERMISSIVE":           {lenient, []client.Object{theirs(permissive)}, nil},
		"the taker is on its way to DISABLE":      {off, []client.Object{theirs(permissive)}, nil},
		"another one is later, and has nothing":   {taker, []client.Object{theirs(strict), edited(newProfile("third", 20, toService("web"), strict), func(p *v1alpha1.ServiceSecurityProfile) { p.UID = "third" })}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := cluster(t, append(tc.objects, newService("web", web), newPod("web-a", web), giver, tc.taker, ours)...)
			diff(t, "handed over", tc.want, mustResolve(t, r, giver).Handover)
			diff(t, "competing with the taker", 0, len(mustResolve(t, r, tc.taker).CompetingPolicies))
			for _, pair := range [][2]*v1alpha1.ServiceSecurityProfile{{giver, tc.taker}, {tc.taker, giver}} {
				if !slices.Contains(r.Affected(t.Context(), pair[0]), client.ObjectKeyFromObject(pair[1])) {
					t.Errorf("a change of %s is not told to %s", pair[0].Name, pair[1].Name)
				}
			}
		})
	}
}
