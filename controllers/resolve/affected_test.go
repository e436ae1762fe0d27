package resolve

import (
	"context"
	"errors"
	"slices"
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

// affecting is an object of every kind that profiles are told of.
func affecting() []client.Object {
	return []client.Object{
		newPod("new", tags{"app": "web"}), newService("web", tags{"app": "web"}), newNamespace("foo"), meshMap("istio", ""),
		newPolicy("foo", "web", 0, nil, strict), owned(newPolicy("foo", "web", 0, tags{"app": "web"}, strict), newProfile("web", 0, toService("web"), strict)),
		newRule("foo", "web-x", "web", ""), newRule("foo", "web", "*.local", ""), newRule("foo", "web", "*.foo.svc.cluster.local", ""),
		owned(newRule("foo", "r", "x.y", ""), newProfile("web", 0, toService("web"), strict)),
		newProfile("web", 0, toService("web"), strict), newProfile("web-v1", 0, toWorkload(tags{"app": "web"}), strict),
	}
}

func TestAffectedErrors(t *testing.T) {
	base := town(t)
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
			if options.FieldSelector == nil {
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
