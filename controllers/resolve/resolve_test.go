package resolve

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

func TestResolveService(t *testing.T) {
	web := tags{"app": "web"}
	profile := newProfile("secure", 10, toService("web"), strict)
	unready := func(pod *corev1.Pod) { pod.Status.Conditions = nil }
	r := cluster(t, profile, newNamespace("foo"), meshMap("istio", "trustDomain: td\ndefaultProviders: {metrics: [prometheus]}"),
		newService("web", web, port(80, "http"), port(443, "tls")), newService("web-too", web, port(81, 8080)), newService("db", tags{"app": "db"}, port(1, 1)),
		newPod("web-c", web, withoutSidecar), newPod("web-a", web, annotate(annotationExclude, "8080")), newPod("web-b", web, unready),
		newPod("web-done", web, func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }), newPod("db-a", tags{"app": "db"}),
		owned(newPolicy("foo", "secure", 10, web, permissive), profile),
	)
	pod := func(name string, ready bool) facts.Pod {
		return facts.Pod{
			Namespace: "foo", Name: name, UID: "uid-" + name, IP: "10.0.0.1", Workload: "web", Created: epoch,
			Restarts: 2, Ready: ready, Membership: facts.MemberSidecar,
		}
	}
	a, b, c := pod("web-a", true), pod("web-b", false), pod("web-c", true)
	a.ExcludedPorts, a.ExcludedStrict = []string{"8080"}, []string{"8080"}
	c.Membership, c.Restarts = facts.MemberNone, 0
	want := facts.Facts{
		Mesh:   facts.Mesh{PeerAuthentications: true, DestinationRules: true, RequestAuthentications: true, AuthorizationPolicies: true, RootNamespace: "istio-system", TrustDomain: "td", AutoMTLS: true},
		Target: facts.Target{Scope: v1alpha1.ScopeWorkload, Selector: web},
		Pods:   []facts.Pod{a, b, c},
		Hosts: []facts.Host{{
			Name: webHost, Service: "web", Endpoints: 2, UnmeshedEndpoints: []string{"web-c"},
			Ports: []facts.ServicePort{{Name: "http-80", Port: 80, TargetPort: 8080}, {Name: "http-443", Port: 443}},
		}},
		Policy:    facts.Policy{Exists: true, Owned: true, Version: "999", Form: facts.Form{Mode: permissive}, Selector: web},
		Effective: permissive, Inherited: permissive,
		Ports: []facts.WorkloadPort{{Port: 8080, Protocol: facts.ProtocolHTTP}},
	}
	diff(t, "facts", want, mustResolve(t, r, profile))
}

func TestResolveWorkload(t *testing.T) {
	web, v1 := tags{"app": "web"}, tags{"app": "web", "version": "v1"}
	profile := newProfile("secure", 10, toWorkload(v1), strict)
	headless := newService("web-headless", web, port(80, 8080))
	headless.Spec.ClusterIP = corev1.ClusterIPNone
	headless.Spec.PublishNotReadyAddresses = true
	alias := newService("alias", web)
	alias.Spec.Type = corev1.ServiceTypeExternalName
	unready := func(pod *corev1.Pod) { pod.Status.Conditions = nil }
	noAddress := func(pod *corev1.Pod) { pod.Status.PodIP = "" }
	r := cluster(t, profile, newService("web", web, port(80, 8080)), headless, alias, newService("v2", tags{"app": "web", "version": "v2"}, port(80, 8080)),
		newPod("a", v1), newPod("b", tags{"app": "web", "version": "v2"}, withoutSidecar, unready),
		newPod("c", tags{"app": "web", "version": "v2"}, noAddress))
	got := mustResolve(t, r, profile)
	diff(t, "selector", v1, got.Target.Selector)
	ports := []facts.ServicePort{{Name: "http-80", Port: 80, TargetPort: 8080}}
	diff(t, "hosts", []facts.Host{
		{Name: webHost, Service: "web", Ports: ports, Endpoints: 1},
		{Name: "web-headless.foo.svc.cluster.local", Service: "web-headless", Headless: true, Ports: ports, Endpoints: 2, UnmeshedEndpoints: []string{"b"}},
	}, got.Hosts)
	if len(got.Pods) != 1 || got.Pods[0].Name != "a" || got.RollingOut != nil {
		t.Errorf("pods are %v, rolling out %v, want a alone, and nothing", got.Pods, got.RollingOut)
	}
}

func TestEndpoint(t *testing.T) {
	service := newService("web", nil)
	published := newService("web", nil)
	published.Spec.PublishNotReadyAddresses = true
	leaving := func(pod *corev1.Pod) {
		now := at(1)
		pod.DeletionTimestamp = &now
	}
	unready := func(pod *corev1.Pod) { pod.Status.Conditions[0].Status = corev1.ConditionFalse }
	noAddress := func(pod *corev1.Pod) { pod.Status.PodIP = "" }
	for name, tc := range map[string]struct {
		edit            func(*corev1.Pod)
		want, published bool
	}{
		"ready":      {func(*corev1.Pod) {}, true, true},
		"not ready":  {unready, false, true},
		"leaving":    {leaving, false, true},
		"no address": {noAddress, false, false},
	} {
		pod := newPod("a", nil, tc.edit)
		if got := endpoint(service, pod); got != tc.want {
			t.Errorf("%s: the pod is an endpoint: %t, want %t", name, got, tc.want)
		}
		if got := endpoint(published, pod); got != tc.published {
			t.Errorf("%s: the pod is an endpoint of a Service that publishes all: %t, want %t", name, got, tc.published)
		}
	}
}

func TestTargets(t *testing.T) {
	web := tags{"app": "web"}
	external := newService("web", web)
	external.Spec.Type, external.Spec.ExternalName = corev1.ServiceTypeExternalName, "web.other.svc.cluster.local"
	inRoot := newProfile("p", 0, toWorkload(web), strict)
	inRoot.Namespace = "istio-system"
	terminating := newNamespace("foo", func(n *corev1.Namespace) { n.Status.Phase = corev1.NamespaceTerminating })
	deleted := newNamespace("foo", func(n *corev1.Namespace) {
		now := at(1)
		n.DeletionTimestamp, n.Finalizers = &now, []string{"kubernetes"}
	})
	goes := &facts.Problem{
		Reason:  v1alpha1.ReasonTargetNotFound,
		Message: `Namespace "foo" is being deleted, and nothing is written into it: create the profile in another namespace, or wait until it goes too.`,
	}
	const invalidKey = "not a label key"
	for name, tc := range map[string]struct {
		profile *v1alpha1.ServiceSecurityProfile
		objects []client.Object
		want    *facts.Problem
	}{
		"Service":           {newProfile("p", 0, toService("web"), strict), []client.Object{newService("web", web), newNamespace("foo")}, nil},
		"Workload, no pods": {newProfile("p", 0, toWorkload(web), strict), nil, nil},
		"impossible label":  {newProfile("p", 0, toWorkload(tags{invalidKey: "x"}), strict), nil, nil},
		"missing Service": {newProfile("p", 0, toService("web"), strict), nil, &facts.Problem{
			Reason: v1alpha1.ReasonTargetNotFound, Message: `Service "web" does not exist in namespace "foo": create it, or delete the profile.`,
		}},
		"ExternalName": {newProfile("p", 0, toService("web"), strict), []client.Object{external}, &facts.Problem{
			Reason:  v1alpha1.ReasonTargetNotFound,
			Message: `Service "web" in namespace "foo" is of type ExternalName, an alias of "web.other.svc.cluster.local" without pods of its own: target the Service that it stands for, in that Service's namespace.`,
		}},
		"no selector": {newProfile("p", 0, toService("web"), strict), []client.Object{newService("web", nil)}, &facts.Problem{
			Reason:  v1alpha1.ReasonTargetNotFound,
			Message: `Service "web" in namespace "foo" has no selector, so it does not say which pods it stands for: give it a selector, or create the profile with target kind Workload and the pods' labels.`,
		}},
		"namespace that is deleted":                {newProfile("p", 0, toWorkload(web), strict), []client.Object{deleted}, goes},
		"namespace that terminates":                {newProfile("p", 0, toWorkload(web), strict), []client.Object{terminating}, goes},
		"the namespace is told before the Service": {newProfile("p", 0, toService("web"), strict), []client.Object{terminating}, goes},
		"root namespace": {inRoot, nil, &facts.Problem{
			Reason: v1alpha1.ReasonInvalid, Section: v1alpha1.SectionMTLS,
			Message: `Namespace "istio-system" is the mesh's root namespace, where Istio ignores a PeerAuthentication for single workloads: remove mtls, or move the workload and its profile to a namespace of their own.`,
		}},
		"root namespace of the mesh configuration": {newProfile("p", 0, toWorkload(web), strict), []client.Object{meshMap("istio", "rootNamespace: foo")}, &facts.Problem{
			Reason: v1alpha1.ReasonInvalid, Section: v1alpha1.SectionMTLS,
			Message: `Namespace "foo" is the mesh's root namespace, where Istio ignores a PeerAuthentication for single workloads: remove mtls, or move the workload and its profile to a namespace of their own.`,
		}},
		"not the root namespace any more": {inRoot, []client.Object{meshMap("istio", "rootNamespace: root")}, nil},
		"root namespace without mtls":     {edited(inRoot.DeepCopy(), sections(false, false, true)), nil, nil},
		"Workload without a selector":     {newProfile("p", 0, v1alpha1.Target{Kind: v1alpha1.TargetWorkload}, strict), []client.Object{newPod("a", web)}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got := mustResolve(t, cluster(t, append(tc.objects, tc.profile)...), tc.profile)
			diff(t, "problem", tc.want, got.Problem)
			if got.Pods != nil {
				t.Errorf("pods are %v, want none", got.Pods)
			}
		})
	}
}

// watched is a reader that notes what is read and may refuse it.
func watched(r *Resolver, refuse func(n int, obj any) error) (*Resolver, *[]string) {
	var mu sync.Mutex
	var reads []string
	note := func(obj any) error {
		mu.Lock()
		defer mu.Unlock()
		reads = append(reads, typeName(obj))
		return refuse(len(reads), obj)
	}
	wrap := func(reader client.Reader) client.Reader {
		return interceptor.NewClient(reader.(client.WithWatch), interceptor.Funcs{
			Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
				if err := note(obj); err != nil {
					return err
				}
				return c.Get(ctx, key, obj, opts...)
			},
			List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
				if err := note(list); err != nil {
					return err
				}
				return c.List(ctx, list, opts...)
			},
		})
	}
	copied := *r
	copied.Reader, copied.LiveReader = wrap(r.Reader), wrap(r.LiveReader)
	return &copied, &reads
}

func typeName(obj any) string {
	switch obj.(type) {
	case *securityv1.PeerAuthentication, *securityv1.PeerAuthenticationList:
		return "PeerAuthentication"
	case *networkingv1.DestinationRule, *networkingv1.DestinationRuleList:
		return "DestinationRule"
	default:
		return "core"
	}
}

func busyCluster(t testing.TB) (*Resolver, *v1alpha1.ServiceSecurityProfile) {
	web := tags{"app": "web"}
	at := placed{selector: web}
	profile := edited(newProfile("secure", 10, toWorkload(web), strict), issuing("", "x"), func(p *v1alpha1.ServiceSecurityProfile) {
		p.Spec.Authorization = &v1alpha1.Authorization{DeniedCallers: []v1alpha1.Caller{{Name: "x"}}}
	})
	lead := func(name string, target v1alpha1.Target) *v1alpha1.ServiceSecurityProfile {
		return edited(newProfile(name, 5, target, strict), sections(true, true, true))
	}
	space, mesh := lead("lead", toNamespace), in(root, lead("lead", toMesh))
	return cluster(
		t, profile, newProfile("other", 20, toService("web"), strict), newNamespace("foo"), meshMap("istio", ""), newService("web", web, port(80, 8080)),
		newPod("web-a", web), owned(newPolicy("foo", "secure", 10, web, permissive), profile), owned(newPolicy("foo", "other", 10, web, permissive), newProfile("other", 20, toService("web"), strict)),
		owned(newTokens("foo", "secure", at, "x"), profile), owned(newAccess("foo", "secure-token", at, deny), profile),
		owned(newAccess("foo", "secure", at, allow), profile), owned(newAccess("foo", "secure-deny", at, deny), profile), newRule("shop", "off", webHost, "DISABLE"),
		space, owned(newPolicy("foo", "default", 5, nil, strict), space), mesh, newGateway("gw"),
	), profile
}

func TestResolveErrors(t *testing.T) {
	base, profile := busyCluster(t)
	all := sections(true, true, true)
	naming := func(profile *v1alpha1.ServiceSecurityProfile) {
		profile.Spec.Authorization.AllowedCallers = []v1alpha1.Caller{{
			Name: "x", ServiceAccounts: []v1alpha1.ServiceAccountRef{"here"}, Namespaces: []v1alpha1.NamespaceName{"shop"},
		}}
	}
	always := func(profile *v1alpha1.ServiceSecurityProfile) {
		profile.Spec.MTLS.DestinationRule = v1alpha1.DestinationRuleAlways
	}
	for _, profile := range []*v1alpha1.ServiceSecurityProfile{
		profile, newProfile("other", 20, toService("web"), strict), edited(newProfile("other", 20, toService("web"), strict), all, naming),
		edited(newProfile("space", 20, toNamespace, strict), all, naming, always), in(root, edited(newProfile("mesh", 20, toMesh, strict), all, naming, always)),
		in("bar", newProfile("misplaced", 20, toMesh, strict)), edited(newProfile("gateway", 20, toGatewayAPI("gw"), strict), sections(false, true, true)),
		in(root, edited(newProfile("web", 20, toWorkload(tags{"app": "web"}), strict), sections(false, true, true))),
	} {
		for _, live := range []bool{false, true} {
			for fail := 1; failRead(t, base, profile, live, fail); fail++ {
			}
		}
	}
}

// failRead fails one read of a resolution and says whether there was one to fail.
func failRead(t *testing.T, base *Resolver, profile *v1alpha1.ServiceSecurityProfile, live bool, fail int) bool {
	t.Helper()
	broken := errors.New("the API server is away")
	r, reads := watched(base, func(n int, _ any) error {
		if n == fail {
			return broken
		}
		return nil
	})
	if live {
		r = r.Live()
	}
	got, err := r.Resolve(t.Context(), profile)
	if len(*reads) < fail {
		if err != nil || fail < 3 {
			t.Errorf("Resolve made %d reads and said %v, want more reads and no error", len(*reads), err)
		}
		return false
	}
	if !errors.Is(err, broken) {
		t.Errorf("read %d failed, and Resolve says %v", fail, err)
		return true
	}
	if !strings.HasPrefix(err.Error(), "reading *") && !strings.HasPrefix(err.Error(), "listing *") {
		t.Errorf("error %q does not say what was read", err)
	}
	diff(t, "facts beside an error", facts.Facts{}, got)
	return true
}

func TestResolveWithoutIstio(t *testing.T) {
	base, profile := busyCluster(t)
	noMatch := func(kind schema.GroupVersionKind) error { return &meta.NoKindMatchError{GroupKind: kind.GroupKind()} }
	gone := func(schema.GroupVersionKind) error {
		return apierrors.NewNotFound(schema.GroupResource{Resource: "x"}, "")
	}
	for name, tc := range map[string]struct {
		installed func(schema.GroupVersionKind) bool
		refuse    func(schema.GroupVersionKind) error
		// kinds that may be asked for once more each at most, to find out that they are gone.
		asked int
	}{
		"told before":            {func(schema.GroupVersionKind) bool { return false }, noMatch, 0},
		"found out":              {nil, noMatch, 2},
		"gone since it was said": {func(schema.GroupVersionKind) bool { return true }, gone, 100},
	} {
		t.Run(name, func(t *testing.T) {
			r, reads := watched(base, func(_ int, obj any) error {
				switch typeName(obj) {
				case "PeerAuthentication":
					return tc.refuse(PeerAuthenticationKind)
				case "DestinationRule":
					return tc.refuse(DestinationRuleKind)
				}
				return nil
			})
			r.Installed = tc.installed
			got := mustResolve(t, r, profile)
			if got.Mesh.PeerAuthentications || got.Mesh.DestinationRules {
				t.Errorf("mesh is %+v, want neither kind", got.Mesh)
			}
			if got.Effective != "" || got.Inherited != "" || got.Policy.Exists || got.ClientRules != nil {
				t.Errorf("effective %q, inherited %q, policy %v, rules %v, want none", got.Effective, got.Inherited, got.Policy, got.ClientRules)
			}
			if len(got.Pods) != 1 || len(got.Hosts) != 1 {
				t.Errorf("%d pods and %d hosts, want one each", len(got.Pods), len(got.Hosts))
			}
			asked := len(slices.DeleteFunc(*reads, func(kind string) bool { return kind == "core" }))
			// Resolve ran by the cache and live.
			if asked > 2*tc.asked {
				t.Errorf("absent kinds were read %d times, want at most %d", asked, 2*tc.asked)
			}
		})
	}
	t.Run("one kind arrives", func(t *testing.T) {
		r, _ := watched(base, func(int, any) error { return nil })
		r.Installed = func(kind schema.GroupVersionKind) bool { return kind == PeerAuthenticationKind }
		got := mustResolve(t, r, profile)
		if !got.Mesh.PeerAuthentications || got.Mesh.DestinationRules || !got.Policy.Owned || got.ClientRules != nil {
			t.Errorf("mesh is %+v, policy %+v, rules %v, want PeerAuthentications only", got.Mesh, got.Policy, got.ClientRules)
		}
	})
}

func TestIndexErrors(t *testing.T) {
	broken := errors.New("no informer")
	for fail := 1; fail <= 3; fail++ {
		err := Index(t.Context(), &failingIndexer{at: fail, err: broken})
		if !errors.Is(err, broken) || !strings.HasPrefix(err.Error(), "indexing servicesecurity.dev/") {
			t.Errorf("index %d failed, and Index says %v", fail, err)
		}
	}
	if err := IndexPeerAuthentications(t.Context(), &failingIndexer{at: 1, err: broken}); !errors.Is(err, broken) {
		t.Errorf("IndexPeerAuthentications says %v", err)
	}
	for fail := 1; fail <= 2; fail++ {
		if err := IndexDestinationRules(t.Context(), &failingIndexer{at: fail, err: broken}); !errors.Is(err, broken) {
			t.Errorf("index %d failed, and IndexDestinationRules says %v", fail, err)
		}
	}
	indexer := &failingIndexer{}
	if err := Index(t.Context(), indexer); err != nil {
		t.Fatal(err)
	}
	for _, extract := range indexer.extract {
		if got := extract(&corev1.Node{}); got != nil {
			t.Errorf("a Node is indexed under %v", got)
		}
	}
}

type failingIndexer struct {
	n, at   int
	err     error
	extract []client.IndexerFunc
}

func (f *failingIndexer) IndexField(_ context.Context, _ client.Object, _ string, extract client.IndexerFunc) error {
	f.n++
	f.extract = append(f.extract, extract)
	if f.n == f.at {
		return f.err
	}
	return nil
}
