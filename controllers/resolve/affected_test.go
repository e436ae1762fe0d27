package resolve

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

// town has profiles for Services and Workloads in two namespaces, and one in a third.
func town(t testing.TB, more ...client.Object) *Resolver {
	web, db := tags{"app": "web"}, tags{"app": "db"}
	in := func(namespace string, profile *v1alpha1.ServiceSecurityProfile) *v1alpha1.ServiceSecurityProfile {
		profile.Namespace = namespace
		return profile
	}
	barWeb := newService("web", web, port(80, 8080))
	barWeb.Namespace = "bar"
	barPod := newPod("web-a", web)
	barPod.Namespace = "bar"
	objects := []client.Object{
		newService("web", web, port(80, 8080)), newService("db", db, port(5432, 5432)), newService("all", tags{"tier": "back"}),
		newPod("web-a", tags{"app": "web", "version": "v1"}), newPod("web-b", tags{"app": "web", "version": "v2"}),
		newPod("db-a", tags{"app": "db", "tier": "back"}),
		newProfile("web", 0, toService("web"), strict), newProfile("web-v1", 1, toWorkload(tags{"app": "web", "version": "v1"}), strict),
		newProfile("db", 2, toService("db"), strict), newProfile("gone", 3, toService("gone"), strict),
		barWeb, barPod, in("bar", newProfile("web", 0, toService("web"), strict)),
		in("empty", newProfile("idle", 0, toWorkload(tags{"app": "idle"}), strict)),
		meshMap("istio", ""), meshMap("istio-canary", "rootNamespace: other-root"),
	}
	return cluster(t, append(objects, more...)...)
}

func TestAffected(t *testing.T) {
	var (
		foo        = []string{"foo/db", "foo/gone", "foo/web", "foo/web-v1"}
		everywhere = []string{"bar/web", "empty/idle", "foo/db", "foo/gone", "foo/web", "foo/web-v1"}
		webs       = []string{"foo/web", "foo/web-v1"}
	)
	elsewhere := newPod("web-a", tags{"app": "web"})
	elsewhere.Namespace = "nowhere"
	external := newService("web", tags{"app": "db"})
	external.Spec.Type = corev1.ServiceTypeExternalName
	withoutNamespace := meshMap("istio", "")
	withoutNamespace.Namespace = "foo"
	ownerless := owned(newRule("foo", "x", "nobody", ""), newProfile("left", 0, toService("left"), strict))
	byOther := newRule("foo", "y", "nobody", "")
	byOther.OwnerReferences = newPod("p", nil).OwnerReferences
	for name, tc := range map[string]struct {
		obj  client.Object
		want []string
	}{
		"pod of both": {newPod("new", tags{"app": "web", "version": "v1"}), webs},
		"pod of the Service, endpoint of the other's host": {newPod("new", tags{"app": "web", "version": "v3"}), webs},
		"pod of one":                             {newPod("new", tags{"app": "db"}), []string{"foo/db"}},
		"pod of none":                            {newPod("new", tags{"app": "cache"}), nil},
		"pod of a namespace without profiles":    {elsewhere, nil},
		"Service that is a target":               {newService("db", tags{"app": "db"}), []string{"foo/db"}},
		"Service that was lost":                  {newService("gone", nil), []string{"foo/gone"}},
		"Service that leads to pods of two":      {newService("new", tags{"app": "web", "version": "v1"}), webs},
		"Service that changed its selector":      {newService("db", tags{"app": "web"}), []string{"foo/db", "foo/web", "foo/web-v1"}},
		"Service without pods":                   {newService("new", tags{"app": "cache"}), nil},
		"Service that became an alias":           {external, []string{"foo/web"}},
		"namespace":                              {newNamespace("foo"), foo},
		"namespace without profiles":             {newNamespace("nowhere"), nil},
		"mesh configuration":                     {meshMap("istio", ""), everywhere},
		"mesh configuration of a revision":       {meshMap("istio-canary", ""), everywhere},
		"another ConfigMap":                      {meshMap("values", ""), nil},
		"ConfigMap of another namespace":         {withoutNamespace, nil},
		"policy of the mesh":                     {newPolicy("istio-system", "default", 0, nil, strict), everywhere},
		"policy of a revision's mesh":            {newPolicy("other-root", "default", 0, nil, strict), everywhere},
		"policy of the namespace":                {newPolicy("foo", "default", 0, nil, strict), foo},
		"policy of another namespace":            {newPolicy("nowhere", "default", 0, nil, strict), nil},
		"policy of a workload":                   {newPolicy("foo", "p", 0, tags{"app": "db"}, strict), []string{"foo/db"}},
		"policy of a workload in part":           {newPolicy("foo", "p", 0, tags{"version": "v2"}, strict), []string{"foo/web"}},
		"policy of a profile's name":             {newPolicy("foo", "gone", 0, tags{"app": "cache"}, strict), []string{"foo/gone"}},
		"policy that a profile owns":             {owned(newPolicy("foo", "p", 0, tags{"app": "cache"}, strict), newProfile("gone", 0, toService("gone"), strict)), []string{"foo/gone"}},
		"rule for a host":                        {newRule("shop", "r", "db.foo.svc.cluster.local", ""), []string{"foo/db"}},
		"rule for a host by its short name":      {newRule("foo", "r", "web", ""), webs},
		"rule for a host that is not there":      {newRule("shop", "r", "gone.foo.svc.cluster.local", ""), []string{"foo/gone"}},
		"rule for another host":                  {newRule("shop", "r", "db", ""), nil},
		"rule for a host outside":                {newRule("foo", "r", "example.com", ""), nil},
		"rule for a host that is no Service's":   {newRule("foo", "r", "foo.svc.cluster.local", ""), nil},
		"rule for a namespace":                   {newRule("shop", "r", "*.foo.svc.cluster.local", ""), foo},
		"rule for the cluster":                   {newRule("shop", "r", "*.local", ""), everywhere},
		"rule for everything":                    {newRule("shop", "r", "*", ""), everywhere},
		"rule for an odd wildcard":               {newRule("shop", "r", "*b.foo.svc.cluster.local", ""), foo},
		"rule for a wildcard outside":            {newRule("shop", "r", "*.example.com", ""), nil},
		"rule for a wildcard below a Service":    {newRule("shop", "r", "*.web.foo.svc.cluster.local", ""), foo},
		"rule that a profile owns":               {owned(newRule("foo", "r", "nobody", ""), newProfile("db", 0, toService("db"), strict)), []string{"foo/db"}},
		"rule of a profile that is gone":         {ownerless, nil},
		"rule that something else owns":          {byOther, nil},
		"rule of a profile's name":               {newRule("foo", "db", "nobody", ""), []string{"foo/db"}},
		"rule of a name that two may need":       {newRule("foo", "web-v1-all", "nobody", ""), webs},
		"profile of the same Service":            {newProfile("new", 9, toService("db"), strict), []string{"foo/db"}},
		"profile of a Service that is not there": {newProfile("new", 9, toService("gone"), strict), []string{"foo/gone"}},
		"profile with pods in common":            {newProfile("new", 9, toWorkload(tags{"app": "web"}), strict), webs},
		"profile itself, and those it meets":     {newProfile("web", 0, toService("web"), strict), []string{"foo/web-v1"}},
		"profile of another kind":                {newProfile("new", 9, v1alpha1.Target{Kind: v1alpha1.TargetNamespace}, strict), nil},
		"something else":                         {&corev1.Node{}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, key := range town(t).Affected(t.Context(), tc.obj) {
				got = append(got, key.String())
			}
			diff(t, "affected profiles", tc.want, got)
		})
	}
}

// city has profiles of every kind of target.
func city(t testing.TB, more ...client.Object) *Resolver {
	web := tags{"app": "web"}
	callers := edited(newProfile("web", 0, toService("web"), strict), sections(true, true, true))
	callers.Spec.Authorization.AllowedCallers = []v1alpha1.Caller{{
		Name: "x", ServiceAccounts: []v1alpha1.ServiceAccountRef{"here", "shop/there"}, Namespaces: []v1alpha1.NamespaceName{"clients"},
	}}
	objects := []client.Object{
		newService("web", web, port(80, 8080)), newPod("web-a", web), callers,
		newProfile("space", 1, toNamespace, strict), in("bar", newProfile("space", 1, toNamespace, strict)), in(root, newProfile("mesh", 1, toMesh, strict)),
		edited(newProfile("entry", 2, toGatewayAPI("gw"), strict), sections(false, true, false)), newGateway("gw"), newPod("gw-a", tags{labelGatewayName: "gw"}, router),
		in(root, edited(newProfile("ingress", 3, toWorkload(web), strict), sections(false, false, true))),
		in("bar", edited(newProfile("only", 4, toWorkload(web), strict), sections(false, true, true))), in("bar", newPod("web-a", web)),
		meshMap("istio", ""),
	}
	return cluster(t, append(objects, more...)...)
}

func newAccount(namespace, name string) client.Object {
	account := ServiceAccount()
	account.Namespace, account.Name = namespace, name
	return account
}

func TestAffectedOfEveryScope(t *testing.T) {
	web := tags{"app": "web"}
	winner := newProfile("entry", 2, toGatewayAPI("gw"), strict)
	for name, tc := range map[string]struct {
		obj  client.Object
		want string
	}{
		"pod":                                   {newPod("new", web), "foo/space foo/web istio-system/ingress istio-system/mesh"},
		"pod of no Service":                     {newPod("new", nil), "foo/space istio-system/mesh"},
		"pod of another namespace":              {in("else", newPod("new", web)), "istio-system/ingress istio-system/mesh"},
		"pod of the root namespace":             {in(root, newPod("new", web)), "istio-system/ingress istio-system/mesh"},
		"pod of a gateway":                      {newPod("new", tags{labelGatewayName: "gw"}, router), "foo/entry foo/space istio-system/mesh"},
		"pod of another gateway":                {newPod("new", tags{labelGatewayName: "other"}, router), "foo/space istio-system/mesh"},
		"Service":                               {newService("new", nil), "foo/space istio-system/mesh"},
		"namespace":                             {newNamespace("bar"), "bar/only bar/space istio-system/mesh"},
		"namespace of a caller":                 {newNamespace("clients"), "foo/web istio-system/mesh"},
		"service account":                       {newAccount("foo", "here"), "foo/web"},
		"service account, far":                  {newAccount("shop", "there"), "foo/web"},
		"service account that nobody names":     {newAccount("shop", "here"), ""},
		"Gateway":                               {newGateway("gw"), "foo/entry"},
		"another Gateway":                       {newGateway("other"), ""},
		"policy of a workload":                  {newPolicy("foo", "p", 0, tags{"app": "x"}, strict), "foo/space istio-system/mesh"},
		"rule for a host":                       {newRule("shop", "r", webHost, ""), "foo/space foo/web istio-system/mesh"},
		"rule for a namespace":                  {newRule("shop", "r", "*.bar.svc.cluster.local", ""), "bar/only bar/space istio-system/mesh"},
		"rule for an odd wildcard":              {newRule("shop", "r", "*b.bar.svc.cluster.local", ""), "bar/only bar/space istio-system/mesh"},
		"rule of an exempt host":                {newRule("foo", "space-kubernetes", "x.y", ""), "foo/space"},
		"tokens of a workload":                  {newTokens("foo", "t", placed{selector: web}, "x"), "foo/space foo/web istio-system/mesh"},
		"tokens of no workload":                 {newTokens("foo", "t", placed{selector: tags{"app": "x"}}, "x"), "foo/space istio-system/mesh"},
		"tokens of a namespace":                 {newTokens("foo", "t", placed{}, "x"), "foo/entry foo/web"},
		"tokens of the mesh":                    {newTokens(root, "t", placed{}, "x"), "bar/only foo/entry foo/web"},
		"tokens of workloads of the mesh":       {newTokens(root, "t", placed{selector: web}, "x"), "bar/only bar/space foo/space foo/web istio-system/mesh"},
		"tokens of a gateway":                   {newTokens("foo", "t", placed{gateways: []string{"gw", "other"}}, "x"), "foo/entry"},
		"tokens of a profile's name":            {newTokens("foo", "space", placed{gateways: []string{"x"}}, "x"), "foo/space"},
		"access of a namespace":                 {newAccess("foo", "a", placed{}, allow), "foo/web"},
		"access of the mesh":                    {newAccess(root, "a", placed{}, allow), "bar/only foo/web istio-system/ingress"},
		"access of a profile's name, denied":    {newAccess("foo", "space-deny", placed{gateways: []string{"x"}}, deny), "foo/space"},
		"access of a profile's name, no tokens": {newAccess("foo", "space-token", placed{gateways: []string{"x"}}, deny), "foo/space"},
		"Sidecar of a namespace":                {newSidecar("foo", "s", 0, nil), "foo/entry foo/space foo/web istio-system/mesh"},
		"Sidecar of a namespace, settled":       {newSidecar("bar", "s", 0, nil), "bar/only bar/space istio-system/mesh"},
		"Sidecar of a workload":                 {newSidecar("foo", "s", 0, web), "foo/space foo/web istio-system/mesh"},
		"Sidecar of the mesh":                   {newSidecar(root, "s", 0, nil), "bar/only bar/space foo/entry foo/space foo/web istio-system/ingress istio-system/mesh"},
		"Telemetry of a namespace":              {newTelemetry("bar", "s", 0, nil), "bar/space istio-system/mesh"},
		"profile of a workload":                 {newProfile("new", 9, toWorkload(tags{"app": "x"}), strict), "foo/space"},
		"profile of a workload without mtls":    {edited(newProfile("new", 9, toWorkload(tags{"app": "x"}), strict), withoutMTLS, sections(false, false, true)), ""},
		"profile of a Gateway":                  {edited(newProfile("new", 9, toGatewayAPI("x"), strict), withoutMTLS, sections(false, false, true)), ""},
		"profile of a namespace":                {in("bar", newProfile("space", 1, toNamespace, strict)), ""},
		"access that a profile owns, and those that wait for it": {owned(newAccess("foo", "a", placed{gateways: []string{"x"}}, deny), winner), "foo/entry foo/rival"},
	} {
		t.Run(name, func(t *testing.T) {
			rival := edited(newProfile("rival", 9, toGatewayAPI("gw"), strict), sections(false, false, true))
			more := []client.Object{}
			if strings.Contains(tc.want, "rival") {
				more = append(more, rival)
			}
			var got []string
			for _, key := range city(t, more...).Affected(t.Context(), tc.obj) {
				got = append(got, key.String())
			}
			diff(t, "affected profiles", tc.want, strings.Join(got, " "))
		})
	}
}

// affecting is an object of every kind that profiles are told of.
func affecting() []client.Object {
	return append(obstacles(), []client.Object{
		newSidecar(root, "in", 0, nil), newSidecar("foo", "in", 0, tags{"app": "web"}), newJob("shop", "j", "@daily", "http://web.foo"),
		newPod("gw-a", tags{labelGatewayName: "gw"}, router), in("else", newPod("new", tags{"app": "web"})), newGateway("gw"), newAccount("foo", "here"),
		newTokens(root, "web", placed{}, "x"), newAccess("foo", "web-deny", placed{selector: tags{"app": "web"}}, deny), newTokens("foo", "x", placed{gateways: []string{"gw"}}, "x"),
		owned(newAccess("foo", "a", placed{}, deny), newProfile("web", 0, toService("web"), strict)), newPolicy(root, "p", 0, nil, strict), newRule("foo", "web", webHost, ""),
		edited(newProfile("q", 0, toService("web"), strict), issuing("", "x")), in(root, edited(newProfile("q", 0, toMesh, strict), issuing("", "x"))), edited(newProfile("q", 0, toNamespace, strict), issuing("", "x")),
		newProfile("q", 0, toGatewayAPI("gw"), strict),
		newPod("new", tags{"app": "web"}), newService("web", tags{"app": "web"}), newNamespace("foo"), meshMap("istio", ""),
		newPolicy("foo", "web", 0, nil, strict), owned(newPolicy("foo", "web", 0, tags{"app": "web"}, strict), newProfile("web", 0, toService("web"), strict)),
		newRule("foo", "web-x", "web", ""), newRule("foo", "web", "*.local", ""), newRule("foo", "web", "*.foo.svc.cluster.local", ""),
		owned(newRule("foo", "r", "x.y", ""), newProfile("web", 0, toService("web"), strict)),
		newProfile("web", 0, toService("web"), strict), newProfile("web-v1", 0, toWorkload(tags{"app": "web"}), strict),
	}...)
}

func TestAffectedErrors(t *testing.T) {
	for _, base := range []*Resolver{town(t), city(t)} {
		affectedErrors(t, base)
	}
}

func affectedErrors(t *testing.T, base *Resolver) {
	t.Helper()
	for _, obj := range affecting() {
		all := base.Affected(t.Context(), obj)
		for fail := 1; ; fail++ {
			r, reads := watched(base, func(n int, _ any) error {
				if n == fail {
					return errors.New("the cache is not there")
				}
				return nil
			})
			// A failure may hide profiles, and invents none.
			for _, key := range r.Affected(t.Context(), obj) {
				if !slices.Contains(all, key) {
					t.Errorf("%T: read %d failed, and %v is affected", obj, fail, key)
				}
			}
			if fail == 1 && len(*reads) == 0 {
				t.Errorf("%T: nothing was read", obj)
			}
			if len(*reads) < fail {
				break
			}
		}
	}
}

// TestReadsByIndex holds that what is read by the cache does not grow with what is not touched: every list is by an
// index, or of the profiles or mesh configurations that the event is for.
func TestReadsByIndex(t *testing.T) {
	base := town(t, newRule("foo", "r", "web", ""), newPolicy("foo", "p", 0, nil, strict))
	r := *base
	var lists []string
	r.Reader = interceptor.NewClient(base.Reader.(client.WithWatch), interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			options := (&client.ListOptions{}).ApplyOptions(opts)
			if _, config := list.(*corev1.ConfigMapList); options.FieldSelector == nil && !config {
				lists = append(lists, typeName(list)+" in "+options.Namespace)
			}
			return c.List(ctx, list, opts...)
		},
	})
	for _, profile := range []*v1alpha1.ServiceSecurityProfile{
		newProfile("web", 0, toService("web"), strict), newProfile("web-v1", 1, toWorkload(tags{"app": "web"}), strict),
	} {
		if _, err := r.Resolve(t.Context(), profile); err != nil {
			t.Fatal(err)
		}
	}
	for _, obj := range []client.Object{
		newPod("new", tags{"app": "web"}), newService("web", tags{"app": "web"}), newPolicy("foo", "p", 0, tags{"app": "web"}, strict),
		newRule("foo", "web-x", "web", ""), newProfile("web", 0, toService("web"), strict),
	} {
		r.Affected(t.Context(), obj)
	}
	diff(t, "lists without an index", []string(nil), lists)

	// A selector of nothing but labels that are not indexed is looked up in its namespace.
	profile := newProfile("hash", 0, toWorkload(tags{labelTemplateHash: "h1"}), strict)
	got, err := r.Resolve(t.Context(), profile)
	if err != nil || len(got.Pods) != 3 {
		t.Errorf("%d pods and %v, want the 3 of the hash", len(got.Pods), err)
	}
	diff(t, "lists without an index", []string{"core in foo"}, lists)
}
