package resolve

import (
	"context"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8sruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

// shelf answers as the manager's cache does: by indexes, with its own objects.
type shelf struct {
	objects map[client.ObjectKey]map[reflect.Type]client.Object
	// sorted are the objects by type, namespace ("" for all) and key of an index ("" for all).
	sorted  map[reflect.Type]map[[3]string][]k8sruntime.Object
	indexes map[reflect.Type]map[string]client.IndexerFunc
}

func newShelf(tb testing.TB, objects ...client.Object) *shelf {
	tb.Helper()
	s := &shelf{
		objects: map[client.ObjectKey]map[reflect.Type]client.Object{},
		sorted:  map[reflect.Type]map[[3]string][]k8sruntime.Object{}, indexes: map[reflect.Type]map[string]client.IndexerFunc{},
	}
	for _, register := range []func(context.Context, client.FieldIndexer) error{
		Index, IndexPeerAuthentications, IndexDestinationRules, IndexRequestAuthentications, IndexAuthorizationPolicies,
		IndexWorkloadEntries, IndexServiceEntries, IndexSidecars, IndexTelemetries, IndexCronJobs, IndexRemoteSecrets,
	} {
		if err := register(tb.Context(), s); err != nil {
			tb.Fatal(err)
		}
	}
	for _, obj := range objects {
		s.put(obj)
	}
	return s
}

// IndexField implements client.FieldIndexer.
func (s *shelf) IndexField(_ context.Context, obj client.Object, field string, extract client.IndexerFunc) error {
	kind := reflect.TypeOf(obj)
	if s.indexes[kind] == nil {
		s.indexes[kind] = map[string]client.IndexerFunc{}
	}
	s.indexes[kind][field] = extract
	return nil
}

func (s *shelf) put(obj client.Object) {
	key, kind := client.ObjectKeyFromObject(obj), reflect.TypeOf(obj)
	if s.objects[key] == nil {
		s.objects[key] = map[reflect.Type]client.Object{}
	}
	s.objects[key][kind] = obj
	if s.sorted[kind] == nil {
		s.sorted[kind] = map[[3]string][]k8sruntime.Object{}
	}
	for _, namespace := range []string{"", key.Namespace} {
		at := [3]string{namespace}
		s.sorted[kind][at] = append(s.sorted[kind][at], obj)
		for field, extract := range s.indexes[kind] {
			for _, value := range extract(obj) {
				at := [3]string{namespace, field, value}
				s.sorted[kind][at] = append(s.sorted[kind][at], obj)
			}
		}
	}
}

// Get implements client.Reader.
func (s *shelf) Get(_ context.Context, key client.ObjectKey, obj client.Object, _ ...client.GetOption) error {
	found, ok := s.objects[key][reflect.TypeOf(obj)]
	if !ok {
		return apierrors.NewNotFound(schema.GroupResource{}, key.Name)
	}
	reflect.ValueOf(obj).Elem().Set(reflect.ValueOf(found.DeepCopyObject()).Elem())
	return nil
}

// List implements client.Reader. A list of objects of which only the metadata are kept is empty.
func (s *shelf) List(_ context.Context, list client.ObjectList, options ...client.ListOption) error {
	asked := (&client.ListOptions{}).ApplyOptions(options)
	at := [3]string{asked.Namespace}
	if asked.FieldSelector != nil {
		one := asked.FieldSelector.Requirements()[0]
		at[1], at[2] = one.Field, one.Value
	}
	items := reflect.ValueOf(list).Elem().FieldByName("Items")
	kind := items.Type().Elem()
	if kind.Kind() != reflect.Pointer {
		kind = reflect.PointerTo(kind)
	}
	return meta.SetList(list, s.sorted[kind][at])
}

// meshText is a mesh configuration of a usual length.
const meshText = `accessLogFile: /dev/stdout
defaultConfig:
  discoveryAddress: istiod.istio-system.svc:15012
  holdApplicationUntilProxyStarts: true
  proxyStatsMatcher:
    inclusionSuffixes: [downstream_cx_active, downstream_cx_ssl_active, downstream_cx_total, downstream_cx_ssl_total]
  tracing: {zipkin: {address: zipkin.istio-system:9411}}
defaultProviders: {metrics: [prometheus]}
enablePrometheusMerge: true
extensionProviders:
- {name: otel, envoyOtelAls: {service: opentelemetry-collector.istio-system.svc.cluster.local, port: 4317}}
- {name: zipkin, zipkin: {service: zipkin.istio-system.svc.cluster.local, port: 9411}}
- {name: oauth2-proxy, envoyExtAuthzHttp: {service: oauth2-proxy.foo.svc.cluster.local, port: 4180, includeRequestHeadersInCheck: [authorization, cookie]}}
outboundTrafficPolicy: {mode: REGISTRY_ONLY}
rootNamespace: istio-system
trustDomain: cluster.local
`

// crowd is a namespace of so many workloads with so many pods each.
func crowd(workloads, pods int) []client.Object {
	objects := []client.Object{newNamespace("foo"), meshMap("istio", meshText)}
	for i := range workloads {
		name := fmt.Sprintf("web-%d", i)
		labels := tags{"app": name}
		objects = append(objects, newService(name, labels, port(80, 8080)))
		for j := range pods {
			objects = append(objects, newPod(fmt.Sprintf("%s-%d", name, j), labels, ofDeployment(name)))
		}
	}
	return objects
}

// kept is a profile for the whole namespace whose status is full.
func kept(workloads int) *v1alpha1.ServiceSecurityProfile {
	profile := newProfile("space", 0, toNamespace, strict)
	since := metav1.Now()
	profile.Status.MTLS = &v1alpha1.MTLSStatus{}
	for i := range workloads {
		profile.Status.MTLS.Rollouts = append(profile.Status.MTLS.Rollouts, v1alpha1.WorkloadRollout{
			Name: fmt.Sprintf("web-%d", i), Stage: v1alpha1.StageObserving, CleanSinceTime: &since, Evidence: &v1alpha1.Evidence{ObservedTime: &since},
		})
	}
	return profile
}

func sizes(b *testing.B, run func(b *testing.B, workloads int)) {
	for _, workloads := range []int{100, 1000} {
		b.Run(fmt.Sprint(workloads), func(b *testing.B) { run(b, workloads) })
	}
}

// BenchmarkMembers is what one reconcile of a whole namespace reads of its workloads, with ten pods each.
func BenchmarkMembers(b *testing.B) {
	sizes(b, func(b *testing.B, workloads int) {
		profile := kept(workloads)
		r := &Resolver{Reader: newShelf(b, append(crowd(workloads, 10), profile)...), RootNamespace: "istio-system"}
		b.ReportAllocs()
		for b.Loop() {
			found, err := r.Members(b.Context(), profile)
			if err != nil || len(found.Members) != workloads {
				b.Fatal(len(found.Members), err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*workloads), "µs/workload")
	})
}

// BenchmarkAffected is what a pod's event costs, in a namespace of so many workloads with a profile each.
func BenchmarkAffected(b *testing.B) {
	sizes(b, func(b *testing.B, workloads int) {
		objects := crowd(workloads, 10)
		for i := range workloads {
			objects = append(objects, newProfile(fmt.Sprintf("web-%d", i), 0, toService(fmt.Sprintf("web-%d", i)), strict))
		}
		r := &Resolver{Reader: newShelf(b, objects...), RootNamespace: "istio-system"}
		pod := newPod("web-7-3", tags{"app": "web-7"})
		b.ReportAllocs()
		for b.Loop() {
			if keys := r.Affected(b.Context(), pod); len(keys) != 1 {
				b.Fatal(keys)
			}
		}
	})
}

// newStore is what an informer keeps pods in: with the index of namespaces and this package's, for which the manager's cache
// keeps each key twice, of one namespace and of all.
func newStore() toolscache.Indexer {
	return toolscache.NewIndexer(toolscache.MetaNamespaceKeyFunc, toolscache.Indexers{
		toolscache.NamespaceIndex: toolscache.MetaNamespaceIndexFunc,
		podsByLabel.name: func(object any) ([]string, error) {
			pod, _ := object.(*corev1.Pod)
			var keys []string
			for _, key := range podKeys(pod) {
				keys = append(keys, pod.Namespace+"/"+key, "__all_namespaces/"+key)
			}
			return keys, nil
		},
	})
}

// BenchmarkTrimPod is the memory of pods in the cache, ten of each workload, trimmed and as the API server has them but for managed
// fields. The indexes are in it.
func BenchmarkTrimPod(b *testing.B) {
	const pods = 10_000
	heap := func(trim bool) float64 {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		all := newStore()
		for i := range pods {
			var pod any = livePod(i)
			if trim {
				var err error
				if pod, err = TrimPod(pod); err != nil {
					b.Fatal(err)
				}
			}
			if err := all.Add(pod); err != nil {
				b.Fatal(err)
			}
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		runtime.KeepAlive(all)
		return float64(after.HeapAlloc-before.HeapAlloc) / pods
	}
	var trimmed, whole float64
	for b.Loop() {
		trimmed, whole = heap(true), heap(false)
	}
	b.ReportMetric(trimmed, "B/pod")
	b.ReportMetric(whole, "B/pod-untrimmed")
	b.ReportMetric(trimmed/whole, "ratio")
	if trimmed > whole/3 {
		b.Errorf("a pod takes %.0f bytes in the cache, untrimmed %.0f", trimmed, whole)
	}
}

// livePod is a pod as the injector and the kubelet leave it: no two share a string, as no two that were decoded do.
func livePod(i int) *corev1.Pod {
	text := strings.Clone
	pod := newPod(fmt.Sprintf("web-%d", i), tags{
		"app": fmt.Sprintf("web%d", i/10), "pod-template-hash": text("5d4f8c7b9"), "security.istio.io/tlsMode": "istio", "service.istio.io/canonical-name": fmt.Sprintf("web%d", i/10),
	})
	pod.Annotations = map[string]string{
		"sidecar.istio.io/status":           text(`{"initContainers":["istio-init"],"containers":["istio-proxy"],"volumes":["workload-socket","istio-envoy","istio-data","istio-podinfo","istio-token","istiod-ca-cert"],"revision":"default"}`),
		"prometheus.io/path":                "/stats/prometheus",
		"kubectl.kubernetes.io/restartedAt": text("2026-01-01T00:00:00Z"),
		"example.com/note":                  strings.Repeat("x", 500),
	}
	for _, name := range []string{"app", "istio-proxy"} {
		c := corev1.Container{Name: text(name), Image: text("registry.example.com/team/image:v1"), Args: []string{text("--a=b"), text("--c=d")}}
		if name == "istio-proxy" {
			c.Name = name
		}
		for range 25 {
			c.Env = append(c.Env, corev1.EnvVar{Name: text("SOME_VARIABLE"), Value: text("some value of it")})
		}
		for range 6 {
			c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: text("volume"), MountPath: text("/var/run/some/volume")})
			pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: text("volume"), VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
		}
		pod.Spec.Containers = append(pod.Spec.Containers, c)
		pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, corev1.ContainerStatus{
			Name: c.Name, Image: text("registry.example.com/team/image:v1"), ImageID: text("registry.example.com/team/image@sha256:0123456789abcdef"), ContainerID: text("containerd://0123456789abcdef"),
		})
	}
	for _, kind := range []string{"Initialized", "Ready", "ContainersReady", "PodScheduled"} {
		pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{
			Type: corev1.PodConditionType(kind), Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(time.Unix(int64(i), 0)),
		})
	}
	return pod
}

// TestMembersAreRead holds that what a namespace costs grows with its workloads, not with their square.
func TestMembersAreRead(t *testing.T) {
	allocations := func(workloads int) float64 {
		profile := kept(workloads)
		r := &Resolver{Reader: newShelf(t, append(crowd(workloads, 3), profile)...), RootNamespace: "istio-system"}
		return testing.AllocsPerRun(2, func() {
			if found, err := r.Members(t.Context(), profile); err != nil || len(found.Members) != workloads {
				t.Fatal(len(found.Members), err)
			}
		})
	}
	const times = 8
	if few, many := allocations(50), allocations(50*times); many > few*times*1.25 {
		t.Errorf("%d times the workloads make %.1f times the allocations: %.0f and %.0f", times, many/few, few, many)
	}
}
