package controllers_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers"
	"github.com/servicesecurity/operator/controllers/resolve"
	"github.com/servicesecurity/operator/controllers/traffic/sidecar"
	"github.com/servicesecurity/operator/test/testbed"
)

// bench is a control plane, a manager on it, and a count of what the manager asks the API server for.
type bench struct {
	api    client.Client
	config *rest.Config
	mgr    manager.Manager
	calls  *atomic.Int64
}

// counting counts what is asked of the API server, but for watches, whose renewal is nobody's doing.
type counting struct {
	http.RoundTripper
	calls *atomic.Int64
}

func (c counting) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Query().Get("watch") == "" {
		c.calls.Add(1)
	}
	return c.RoundTripper.RoundTrip(r)
}

func newBench(b *testing.B) *bench {
	b.Helper()
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		b.Skip("KUBEBUILDER_ASSETS is not set: run the benchmarks by make bench")
	}
	ctrl.SetLogger(logr.Discard())
	istio, err := istioDefinitions()
	must(b, err)
	plane, err := testbed.StartControlPlane(b.Context(), testbed.ControlPlaneOptions{
		CRDs: []string{istio, filepath.Join("..", "config", "crd", "bases")},
	})
	must(b, err)
	b.Cleanup(func() { must(b, plane.Stop()) })
	scheme, err := controllers.NewScheme()
	must(b, err)
	s := &bench{config: plane.Config(), calls: &atomic.Int64{}}
	s.api, err = client.New(s.config, client.Options{Scheme: scheme})
	must(b, err)
	must(b, s.api.Create(b.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: istioSystem}}))
	counted := plane.Config()
	counted.Wrap(func(rt http.RoundTripper) http.RoundTripper { return counting{rt, s.calls} })
	skip := true
	options := ctrl.Options{Scheme: scheme, Cache: controllers.CacheOptions(istioSystem), Metrics: metricsserver.Options{BindAddress: "0"}}
	options.Controller.SkipNameValidation = &skip
	s.mgr, err = ctrl.NewManager(counted, options)
	must(b, err)
	return s
}

func (s *bench) start(b *testing.B) {
	b.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.mgr.Start(ctx) }()
	b.Cleanup(func() {
		cancel()
		must(b, <-done)
	})
	if !s.mgr.GetCache().WaitForCacheSync(ctx) {
		b.Fatal("the cache did not come up")
	}
}

// target makes a Service and so many pods in the mesh.
func (s *bench) target(b *testing.B, ns, name string, pods int) {
	b.Helper()
	labels := map[string]string{"app": name, "security.istio.io/tlsMode": "istio"}
	must(b, s.api.Create(b.Context(), &corev1.Service{
		ObjectMeta: objectMeta(ns, name),
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": name}, Ports: []corev1.ServicePort{{Name: "http", Port: 80}}},
	}))
	for i := range pods {
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: fmt.Sprintf("%s-%d", name, i), Labels: labels},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "app"}, {Name: "istio-proxy", Image: "proxy"}}},
		}
		must(b, s.api.Create(b.Context(), pod))
		pod.Status = corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: fmt.Sprintf("10.0.0.%d", i+1),
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		}
		must(b, s.api.Status().Update(b.Context(), pod))
	}
}

func (s *bench) profile(ctx context.Context, ns, name string) error {
	return s.api.Create(ctx, &v1alpha1.ServiceSecurityProfile{
		ObjectMeta: objectMeta(ns, name),
		Spec: v1alpha1.ServiceSecurityProfileSpec{
			Target: v1alpha1.Target{Kind: v1alpha1.TargetService, Name: name},
			MTLS:   &v1alpha1.MTLS{Mode: v1alpha1.ModePermissive, DestinationRule: v1alpha1.DestinationRuleAlways},
		},
	})
}

// BenchmarkReconcileUnchanged is a reconcile that has nothing to do, of a profile with ten pods. It asks the API server
// for nothing.
func BenchmarkReconcileUnchanged(b *testing.B) {
	s := newBench(b)
	s.target(b, "default", "web", 10)
	must(b, s.profile(b.Context(), "default", "web"))
	indexer := s.mgr.GetFieldIndexer()
	for _, index := range []func(context.Context, client.FieldIndexer) error{resolve.Index, resolve.IndexPeerAuthentications, resolve.IndexDestinationRules} {
		must(b, index(b.Context(), indexer))
	}
	s.start(b)
	r := &controllers.Reconciler{
		Client: s.mgr.GetClient(), Recorder: s.mgr.GetEventRecorder("bench"), Clock: clock.RealClock{},
		Observer: sidecar.New(sidecar.Options{}), Interval: time.Minute,
		Resolver: &resolve.Resolver{Reader: s.mgr.GetClient(), LiveReader: s.mgr.GetAPIReader(), RootNamespace: istioSystem},
	}
	request := ctrl.Request{NamespacedName: types.NamespacedName{Namespace: "default", Name: "web"}}
	reconcile := func() ctrl.Result {
		result, err := r.Reconcile(b.Context(), request)
		must(b, err)
		return result
	}
	await(b, func() bool {
		before := s.calls.Load()
		_, err := r.Reconcile(b.Context(), request)
		rule := s.api.Get(b.Context(), request.NamespacedName, &networkingv1.DestinationRule{})
		time.Sleep(100 * time.Millisecond) // events are written on the side
		return err == nil && rule == nil && s.calls.Load() == before
	})
	before := s.calls.Load()
	b.ReportAllocs()
	for b.Loop() {
		if result := reconcile(); result.RequeueAfter != 0 {
			b.Fatal("it is to be looked at again")
		}
	}
	if calls := s.calls.Load() - before; calls != 0 {
		b.Fatalf("%d calls of the API server", calls)
	}
}

// BenchmarkManyProfiles is the time from the first of 200 profiles to the last of their objects and conditions, as a
// multiple of what a client alone takes to create the same objects at the same concurrency.
func BenchmarkManyProfiles(b *testing.B) {
	const profiles, concurrency = 200, 8
	s := newBench(b)
	must(b, controllers.Setup(b.Context(), s.mgr, controllers.Options{
		ObservationInterval: time.Minute, SettleTime: time.Millisecond, IstioNamespace: istioSystem, Concurrency: concurrency,
		Observer: sidecar.New(sidecar.Options{}), Registerer: prometheus.NewRegistry(),
	}))
	s.start(b)
	round := 0
	var operator, bare time.Duration
	for b.Loop() {
		round++
		ns := fmt.Sprintf("round-%d", round)
		must(b, s.api.Create(b.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}))
		for i := range profiles {
			s.target(b, ns, fmt.Sprintf("web-%d", i), 0)
		}
		start := time.Now()
		each(b, profiles, concurrency, func(i int) error {
			return s.profile(b.Context(), ns, fmt.Sprintf("web-%d", i))
		})
		created := time.Since(start)
		await(b, func() bool {
			list := &v1alpha1.ServiceSecurityProfileList{}
			must(b, s.api.List(b.Context(), list, client.InNamespace(ns)))
			for i := range list.Items {
				if len(list.Items[i].Status.Resources) != 2 {
					return false
				}
			}
			return true
		})
		operator += time.Since(start)

		peers, rules := &securityv1.PeerAuthenticationList{}, &networkingv1.DestinationRuleList{}
		must(b, s.api.List(b.Context(), peers, client.InNamespace(ns)))
		must(b, s.api.List(b.Context(), rules, client.InNamespace(ns)))
		start = time.Now()
		each(b, profiles, concurrency, func(i int) error {
			peer, rule := peers.Items[i].DeepCopy(), rules.Items[i].DeepCopy()
			for _, object := range []client.Object{peer, rule} {
				object.SetName("bare-" + object.GetName())
				object.SetResourceVersion("")
				object.SetUID("")
				object.SetOwnerReferences(nil)
				if err := s.api.Create(b.Context(), object); err != nil {
					return err
				}
			}
			return nil
		})
		bare += time.Since(start) + created
	}
	b.ReportMetric(operator.Seconds()/float64(round), "s/200-profiles")
	b.ReportMetric(operator.Seconds()/bare.Seconds(), "x-bare-client")
}

func each(b *testing.B, n, concurrency int, do func(int) error) {
	b.Helper()
	var group errgroup.Group
	group.SetLimit(concurrency)
	for i := range n {
		group.Go(func() error { return do(i) })
	}
	must(b, group.Wait())
}

func await(b *testing.B, done func() bool) {
	b.Helper()
	for end := time.Now().Add(2 * time.Minute); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			b.Fatal("it did not come")
		}
	}
}

func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}
