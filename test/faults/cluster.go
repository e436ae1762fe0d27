package faults

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/events"
	testclock "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers"
	"github.com/servicesecurity/operator/controllers/resolve"
	"github.com/servicesecurity/operator/controllers/traffic"
	"github.com/servicesecurity/operator/controllers/traffic/sidecar"
)

const (
	namespace = "shop"
	// interval between two readings, and from one reconcile to the next where nothing else happens.
	interval = 5 * time.Minute
	settle   = 5 * time.Second
	// window and verification of every profile.
	window       = 3 * interval
	verification = 2 * interval
)

// epoch is when every rollout begins.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Core is what is put between this package and the operator, to break it. The zero value leaves it as it is.
type Core struct {
	// Observer stands before the sidecars' observer.
	Observer func(traffic.Observer) traffic.Observer
	// Client stands before the operator's client.
	Client func(client.Client) client.Client
	// Live stands before what reads the API server itself.
	Live func(client.Reader) client.Reader
}

// world is a cluster in which a rollout goes on, and everything that is known of it.
type world struct {
	core   Core
	script *script
	clock  *testclock.FakePassiveClock
	store  *store
	empty  client.Client

	mu     sync.Mutex
	plan   []Fault
	calls  []Call
	met    int
	killed bool
	caches map[schema.GroupVersionKind]*cache
	// read are the kinds that were read since the last write, and since the reconcile began.
	read map[schema.GroupVersionKind]bool

	// aged is how long before the rollout the proxies' processes began.
	aged time.Duration

	reconciler *controllers.Reconciler
	profile    *v1alpha1.ServiceSecurityProfile // as it was made
	reconciles int
	phase      int
	approved   bool // by somebody, at least once
	oracle     oracle
	keep       bool
	diary      strings.Builder
}

// scheme and its client without objects are the same for all, and are not changed.
var emptyClient = sync.OnceValues(func() (client.Client, error) {
	scheme, err := controllers.NewScheme()
	if err != nil {
		return nil, err
	}
	return fake.NewClientBuilder().WithScheme(scheme).Build(), nil
})

func newWorld(s *script, core Core, plan []Fault, keep bool) (*world, error) {
	empty, err := emptyClient()
	if err != nil {
		return nil, err
	}
	w := &world{core: core, script: s, clock: testclock.NewFakePassiveClock(epoch), empty: empty, plan: plan, keep: keep, aged: time.Hour}
	w.store = &store{
		scheme: empty.Scheme(), indexes: map[schema.GroupVersionKind]map[string]client.IndexerFunc{},
		past: map[schema.GroupVersionKind][]table{}, now: w.clock.Now,
	}
	for _, register := range []func(context.Context, client.FieldIndexer) error{
		resolve.Index, resolve.IndexPeerAuthentications, resolve.IndexDestinationRules, resolve.IndexRequestAuthentications,
		resolve.IndexAuthorizationPolicies, resolve.IndexWorkloadEntries, resolve.IndexServiceEntries, resolve.IndexSidecars,
		resolve.IndexTelemetries, resolve.IndexCronJobs,
	} {
		if err := register(context.Background(), w.store); err != nil {
			return nil, err
		}
	}
	w.profile = s.profile()
	w.profile.Namespace, w.profile.Name, w.profile.Generation = namespace, cmp.Or(w.profile.Name, "web"), 1
	objects := []client.Object{w.profile, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, newPod("front-0", "front", "10.0.1.1")}
	for i, name := range s.workloads {
		objects = append(objects, newService(name), newPod(name+"-0", name, fmt.Sprintf("10.0.0.%d", i+1)))
	}
	for _, object := range objects {
		if err := w.store.create(object, false); err != nil {
			return nil, err
		}
	}
	w.oracle.begin(w)
	w.boot()
	return w, nil
}

func newService(name string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": name}, ClusterIP: "10.1.0.1",
			Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromInt32(8080)}},
		},
	}
}

func newPod(name, app, address string) *corev1.Pod {
	ns := namespace
	if app == "front" {
		ns = "clients"
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: ns, Name: name, Labels: map[string]string{"app": app, "security.istio.io/tlsMode": "istio"},
		},
		Spec: corev1.PodSpec{
			ServiceAccountName: app,
			Containers: []corev1.Container{
				{Name: "app", Image: "app", Ports: []corev1.ContainerPort{{ContainerPort: 8080}}}, {Name: "istio-proxy", Image: "proxy"},
			},
		},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: address, PodIPs: []corev1.PodIP{{IP: address}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		},
	}
}

// boot starts an operator: what the one before remembered is lost, and the caches are new.
func (w *world) boot() {
	w.killed, w.caches = false, map[schema.GroupVersionKind]*cache{}
	var direct client.Client = cached{w.empty, w}
	if w.core.Client != nil {
		direct = w.core.Client(direct)
	}
	var server client.Reader = live{w}
	if w.core.Live != nil {
		server = w.core.Live(server)
	}
	sidecars := sidecar.New(sidecar.Options{Clock: w.clock, Transport: proxies{w}, Concurrency: 1, Interval: interval})
	w.reconciler = &controllers.Reconciler{
		Client: direct, Recorder: &events.FakeRecorder{}, Clock: w.clock, Interval: interval, Settle: settle,
		Resolver: &resolve.Resolver{Reader: direct, LiveReader: server, RootNamespace: "istio-system"},
		Observer: sidecars, DryRuns: sidecars,
	}
	if w.core.Observer != nil {
		w.reconciler.Observer = w.core.Observer(sidecars)
	}
	if w.script.callers {
		w.reconciler.Calls, w.reconciler.AccessLogs = sidecars, logs{w}
	}
}

func (w *world) now() time.Time { return w.clock.Now() }

func (w *world) request() ctrl.Request {
	return ctrl.Request{NamespacedName: types.NamespacedName{Namespace: namespace, Name: w.profile.Name}}
}

// note adds to the diary.
func (w *world) note(format string, args ...any) {
	if w.keep {
		fmt.Fprintf(&w.diary, "  %8s  %s\n", w.now().Sub(epoch), fmt.Sprintf(format, args...))
	}
}

// proxies are the statistics endpoints of all sidecars.
type proxies struct{ w *world }

// RoundTrip answers as a sidecar: it took every change of PeerAuthentications, and its callers call steadily.
func (p proxies) RoundTrip(r *http.Request) (*http.Response, error) {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	text := &bytes.Buffer{}
	up := p.w.now().Sub(epoch)
	const served = `istio_requests_total{reporter="destination",source_workload=%q,source_workload_namespace=%q,source_principal=%q,destination_workload="web",request_protocol="http",response_flags="-",connection_security_policy=%q} %d` + "\n"
	fmt.Fprintln(text, "# TYPE istio_requests_total counter")
	if strings.HasPrefix(r.URL.Host, "10.0.1.") {
		for _, name := range p.w.script.workloads {
			fmt.Fprintf(text, `istio_requests_total{reporter="source",destination_workload=%q,destination_service="%s.%s.svc.cluster.local",request_protocol="http",response_code="200",response_flags="-",connection_security_policy="unknown"} %d`+"\n",
				name, name, namespace, 100+up/time.Second)
		}
	} else {
		fmt.Fprintf(text, served, "front", "clients", "spiffe://cluster.local/ns/clients/sa/front", "mutual_tls", 100+up/time.Second)
		if up >= p.w.script.plaintext && p.w.script.plaintext > 0 {
			fmt.Fprintf(text, served, "unknown", "unknown", "unknown", "none", 1)
		}
	}
	fmt.Fprintf(text, "# TYPE envoy_listener_manager_listener_modified counter\nenvoy_listener_manager_listener_modified{} %d\n", p.w.oracle.changes)
	fmt.Fprint(text, "# TYPE envoy_listener_manager_total_filter_chains_draining gauge\nenvoy_listener_manager_total_filter_chains_draining{} 0\n")
	fmt.Fprintf(text, "# TYPE envoy_server_uptime gauge\nenvoy_server_uptime{} %d\n", (p.w.aged+up)/time.Second)
	return &http.Response{
		StatusCode: http.StatusOK, Body: io.NopCloser(text), Request: r, ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"text/plain; version=0.0.4; charset=UTF-8"}},
	}, nil
}

// logs are the access logs: while a caller of the first workload is broken, STRICT refuses it all the time.
type logs struct{ w *world }

func (l logs) Logged(_ context.Context, request traffic.LogRequest) traffic.Logged {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	of := slices.ContainsFunc(request.Proxies, func(px traffic.Proxy) bool { return px.Name == l.w.script.workloads[0]+"-0" })
	if !of || !l.w.oracle.refuses() {
		return traffic.Logged{}
	}
	now := l.w.now()
	seen := metav1.NewTime(now)
	return traffic.Logged{Callers: []traffic.LoggedCaller{{
		PlaintextCaller: v1alpha1.PlaintextCaller{
			Namespace: "clients", Workload: "legacy", Address: "10.0.2.1", Port: 8080, Protocol: "HTTP", Requests: 1, LastSeenTime: &seen, Refused: true,
		},
		Pod: true, Authenticated: now,
	}}}
}
