package resolve

import (
	"context"
	"fmt"
	"testing"

	networkingv1alpha3 "istio.io/api/networking/v1alpha3"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	telemetryv1 "istio.io/client-go/pkg/apis/telemetry/v1"
	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

func located[T client.Object](obj T, namespace, name string) T {
	obj.SetNamespace(namespace)
	obj.SetName(name)
	return obj
}

// obstacles are one of each kind that holds a rollout of web in foo.
func obstacles() []client.Object {
	entry := located(&networkingv1.WorkloadEntry{}, "foo", "vm")
	entry.Spec.Labels = tags{"app": "web"}
	service := located(&networkingv1.ServiceEntry{}, "shop", "out")
	service.Spec.Hosts = []string{webHost}
	sidecar := located(&networkingv1.Sidecar{}, "foo", "in")
	sidecar.Spec.Ingress = []*networkingv1alpha3.IstioIngressListener{ingress(8080, true)}
	telemetry := newTelemetry("foo", "off", 0, nil, drop())
	secret := RemoteSecret()
	secret.Namespace, secret.Name, secret.Labels = "istio-system", "istio-remote-secret-east", tags{labelMultiCluster: "true"}
	return []client.Object{entry, service, sidecar, telemetry, secret, newJob("foo", "weekly", "0 4 * * 0")}
}

func immediate(profile *v1alpha1.ServiceSecurityProfile) {
	profile.Spec.MTLS.Rollout = &v1alpha1.Rollout{Strategy: v1alpha1.StrategyImmediate}
}

func TestOnlyRolloutsPay(t *testing.T) {
	web := tags{"app": "web"}
	strictOn := func(port int32) v1alpha1.PortMTLS { return v1alpha1.PortMTLS{Port: port, Mode: strict} }
	base := func(name string) *v1alpha1.ServiceSecurityProfile {
		return newProfile(name, 0, toService("web"), strict)
	}
	enforced := func(profile *v1alpha1.ServiceSecurityProfile) {
		profile.Status.MTLS = &v1alpha1.MTLSStatus{Stage: v1alpha1.StageEnforced}
	}
	for name, tc := range map[string]struct {
		profile *v1alpha1.ServiceSecurityProfile
		more    []client.Object
		pays    bool
	}{
		"staged":                             {base("p"), nil, true},
		"staged, and status says Enforced":   {edited(base("p"), enforced), nil, true},
		"staged, own object PERMISSIVE":      {base("p"), []client.Object{newPolicy("foo", "p", 0, web, permissive)}, true},
		"own object STRICT for other pods":   {base("p"), []client.Object{newPolicy("foo", "p", 0, tags{"app": "db"}, strict)}, true},
		"STRICT but for a port":              {base("p"), []client.Object{newPolicy("foo", "p", 0, web, strict, withPorts(map[uint32]v1alpha1.Mode{9: permissive}))}, true},
		"a port STRICT":                      {newProfile("p", 0, toService("web"), permissive, strictOn(9)), nil, true},
		"a namespace":                        {newProfile("p", 0, toNamespace, strict), nil, true},
		"own object STRICT":                  {base("p"), []client.Object{newPolicy("foo", "p", 0, web, strict)}, false},
		"own object leaves it to the parent": {base("p"), []client.Object{newPolicy("foo", "p", 0, web, ""), newPolicy("foo", "default", 0, nil, strict)}, false},
		"STRICT inherited":                   {base("p"), []client.Object{newPolicy("foo", "default", 0, nil, strict)}, false},
		"the port is STRICT":                 {newProfile("p", 0, toService("web"), permissive, strictOn(9)), []client.Object{newPolicy("foo", "p", 0, web, permissive, withPorts(map[uint32]v1alpha1.Mode{9: strict}))}, false},
		"Immediate":                          {edited(base("p"), immediate), nil, false},
		"Permissive":                         {newProfile("p", 0, toService("web"), permissive), nil, false},
		"no mtls":                            {edited(base("p"), withoutMTLS, sections(false, true, false)), nil, false},
		"a Gateway":                          {newProfile("p", 0, toGatewayAPI("gw"), strict), []client.Object{newGateway("gw")}, false},
		"the mesh, in another namespace":     {newProfile("p", 0, toMesh, strict), nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			objects := append(obstacles(), tc.profile, newService("web", web, port(80, 8080)), newPod("web-a", web))
			r := cluster(t, append(objects, tc.more...)...)
			got := mustResolve(t, r, tc.profile)
			held := map[string]bool{
				"WorkloadEntries": got.WorkloadEntries != nil, "ServiceEntries": got.ServiceEntries != nil,
				"SidecarIngress": got.SidecarIngress != nil || tc.profile.Spec.MTLS != nil && tc.profile.Spec.MTLS.PortLevel != nil,
				"Telemetry":      got.TelemetryOverrides != nil, "RemoteClusters": got.RemoteClusters != nil, "ScheduledJobs": got.ScheduledJobs != nil,
			}
			if !tc.pays {
				held["SidecarIngress"] = got.SidecarIngress != nil
			}
			for fact, is := range held {
				if is != tc.pays {
					t.Errorf("%s are told: %t, want %t", fact, is, tc.pays)
				}
			}
		})
	}
}

func TestObstacles(t *testing.T) {
	web := tags{"app": "web"}
	profile := newProfile("p", 0, toService("web"), strict)
	got := mustResolve(t, cluster(t, append(obstacles(), profile, newService("web", web, port(80, 8080)), newPod("web-a", web))...), profile)
	diff(t, "entries", []string{"foo/vm"}, got.WorkloadEntries)
	diff(t, "service entries", []string{"shop/out"}, got.ServiceEntries)
	diff(t, "sidecars", []string{"foo/in"}, got.SidecarIngress)
	diff(t, "telemetries", []string{"foo/off"}, got.TelemetryOverrides)
	diff(t, "clusters", []string{"istio-remote-secret-east"}, got.RemoteClusters)
	diff(t, "jobs", []facts.ScheduledJob{{Namespace: "foo", Name: "weekly", Gap: 7 * day}}, got.ScheduledJobs)
}

func TestRollsOut(t *testing.T) {
	staged := newProfile("p", 0, toService("web"), strict)
	settled := newProfile("p", 0, toService("web"), strict)
	settled.Status.MTLS = &v1alpha1.MTLSStatus{Stage: v1alpha1.StageEnforced}
	blocked := newProfile("p", 0, toService("web"), strict)
	blocked.Status.MTLS = &v1alpha1.MTLSStatus{Stage: v1alpha1.StageBlocked}
	for name, tc := range map[string]struct {
		profile *v1alpha1.ServiceSecurityProfile
		want    bool
	}{
		"new": {staged, true}, "blocked": {blocked, true}, "settled": {settled, false},
		"Immediate":  {edited(newProfile("p", 0, toService("web"), strict), immediate), false},
		"Permissive": {newProfile("p", 0, toService("web"), permissive), false},
	} {
		got, err := RollsOut(t.Context(), cluster(t, tc.profile).Reader)
		if err != nil || got != tc.want {
			t.Errorf("%s: a rollout is on its way: %t, %v, want %t", name, got, err, tc.want)
		}
	}
}

func TestObservationWindow(t *testing.T) {
	for text, want := range map[v1alpha1.Duration]string{"": "24h0m0s", "90m": "1h30m0s", "soon": "0s"} {
		profile := newProfile("p", 0, toService("web"), strict)
		profile.Spec.MTLS.Rollout = &v1alpha1.Rollout{ObservationWindow: text}
		if got := observationWindow(profile).String(); got != want {
			t.Errorf("the window of %q is %s, want %s", text, got, want)
		}
	}
}

// TestAffectedRollouts: what holds rollouts wakes those that it may hold, and nothing that is settled.
func TestAffectedRollouts(t *testing.T) {
	settled := newProfile("settled", 9, toWorkload(tags{"app": "web"}), strict)
	settled.Status.MTLS = &v1alpha1.MTLSStatus{Stage: v1alpha1.StageEnforced}
	space, mesh := newProfile("space", 9, toNamespace, strict), in("istio-system", newProfile("mesh", 9, toMesh, strict))
	r := town(t, settled, space, mesh, newProfile("lax", 9, toService("web"), permissive))
	const theMesh, theSpace = "istio-system/mesh", "foo/space"
	wide := func(more ...string) []string { return append(append([]string{}, more...), theMesh) }
	foo := wide("foo/db", "foo/gone", theSpace, "foo/web", "foo/web-v1")
	everywhere := wide("bar/web", "empty/idle", "foo/db", "foo/gone", theSpace, "foo/web", "foo/web-v1")
	webs := wide(theSpace, "foo/web", "foo/web-v1")
	// The order is by namespace, and foo comes before istio-system.
	secret := RemoteSecret()
	secret.Namespace, secret.Name = "istio-system", "east"
	reference := newTelemetry("foo", "gw", 0, nil, drop())
	reference.Spec.TargetRefs = placed{gateways: []string{"gw"}}.refs()
	entryTo := func(edit func(*networkingv1alpha3.ServiceEntry)) *networkingv1.ServiceEntry {
		entry := located(&networkingv1.ServiceEntry{}, "foo", "out")
		edit(&entry.Spec)
		return entry
	}
	vm := located(&networkingv1.WorkloadEntry{}, "foo", "vm")
	vm.Spec.Labels = tags{"app": "db"}
	for name, tc := range map[string]struct {
		obj  client.Object
		want []string
	}{
		"an entry":         {vm, wide("foo/db", theSpace)},
		"a Service's host": {entryTo(func(e *networkingv1alpha3.ServiceEntry) { e.Hosts = []string{"db.foo.svc.cluster.local"} }), wide("foo/db", theSpace)},
		"hosts of nobody":  {entryTo(func(e *networkingv1alpha3.ServiceEntry) { e.Hosts = []string{"example.com", "a.svc.cluster.local"} }), nil},
		"an endpoint by name": {entryTo(func(e *networkingv1alpha3.ServiceEntry) {
			e.Endpoints = []*networkingv1alpha3.WorkloadEntry{{Address: webHost}}
		}), webs},
		"pods by selector": {entryTo(func(e *networkingv1alpha3.ServiceEntry) {
			e.WorkloadSelector = &networkingv1alpha3.WorkloadSelector{Labels: tags{"version": "v2"}}
		}), wide(theSpace, "foo/web")},
		"a Sidecar of the namespace":      {located(&networkingv1.Sidecar{}, "foo", "in"), foo},
		"a Sidecar of the mesh":           {located(&networkingv1.Sidecar{}, "istio-system", "in"), everywhere},
		"a Telemetry of some pods":        {newTelemetry("foo", "off", 0, tags{"version": "v2"}, drop()), wide(theSpace, "foo/web")},
		"a Telemetry by reference":        {reference, nil},
		"a job":                           {newJob("foo", "weekly", "@weekly"), foo},
		"a job elsewhere that names one":  {newJob("shop", "weekly", "@weekly", "http://db.foo:80"), wide("foo/db", theSpace)},
		"a remote cluster":                {secret, everywhere},
		"a kind that nobody looks at":     {&batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "foo", Name: "once"}}, nil},
		"a Telemetry of another one":      {&telemetryv1.Telemetry{ObjectMeta: metav1.ObjectMeta{Namespace: "nowhere", Name: "off"}}, wide()},
		"an entry that belongs to nobody": {located(&networkingv1.WorkloadEntry{}, "nowhere", "vm"), wide()},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, key := range r.Affected(t.Context(), tc.obj) {
				got = append(got, key.String())
			}
			diff(t, "profiles", tc.want, got)
		})
	}
}

// TestRolloutReadsByIndex holds that what a rollout reads does not grow with what others have.
func TestRolloutReadsByIndex(t *testing.T) {
	base := town(t, obstacles()...)
	r := *base
	var lists []string
	r.Reader = interceptor.NewClient(base.Reader.(client.WithWatch), interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			options := (&client.ListOptions{}).ApplyOptions(opts)
			if options.FieldSelector == nil {
				lists = append(lists, fmt.Sprintf("%T in %s", list, options.Namespace))
			}
			return c.List(ctx, list, opts...)
		},
	})
	if _, err := r.Resolve(t.Context(), newProfile("web", 0, toService("web"), strict)); err != nil {
		t.Fatal(err)
	}
	diff(t, "lists without an index", []string{"*v1.PartialObjectMetadataList in istio-system", "*v1.CronJobList in foo"}, lists)
}
