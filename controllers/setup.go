package controllers

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	telemetryv1 "istio.io/client-go/pkg/apis/telemetry/v1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/resolve"
	"github.com/servicesecurity/operator/controllers/traffic"
)

// +kubebuilder:rbac:groups=servicesecurity.dev,resources=servicesecurityprofiles,verbs=get;list;watch
// +kubebuilder:rbac:groups=servicesecurity.dev,resources=servicesecurityprofiles/status,verbs=patch
// +kubebuilder:rbac:groups=servicesecurity.dev,resources=servicesecurityprofiles/finalizers,verbs=update
// +kubebuilder:rbac:groups=security.istio.io,resources=peerauthentications;requestauthentications;authorizationpolicies,verbs=get;list;watch;create;update;delete
// +kubebuilder:rbac:groups=networking.istio.io,resources=destinationrules,verbs=get;list;watch;create;update;delete
// +kubebuilder:rbac:groups=networking.istio.io,resources=serviceentries;sidecars;workloadentries,verbs=list;watch
// +kubebuilder:rbac:groups=telemetry.istio.io,resources=telemetries,verbs=list;watch
// +kubebuilder:rbac:groups=apps,resources=deployments;statefulsets;daemonsets,verbs=list;watch
// +kubebuilder:rbac:groups=batch,resources=cronjobs,verbs=list;watch
// +kubebuilder:rbac:groups=gateway.networking.k8s.io,resources=gateways,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=pods;services;namespaces;configmaps;serviceaccounts,verbs=get;list;watch
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

// Name of the controller, in logs, metrics and events.
const Name = "servicesecurity-operator"

// Options of the operator, with defaults that work.
type Options struct {
	// ObservationInterval is the time between two readings of a target's proxies.
	ObservationInterval time.Duration
	// SettleTime is how long clients are given to take a change of their side before the server's side follows.
	SettleTime time.Duration
	// IstioNamespace is where Istio's mesh configuration is.
	IstioNamespace string
	// ClusterDomain is the cluster's DNS domain.
	ClusterDomain string
	// Concurrency is how many profiles are worked on at once.
	Concurrency int
	// Observer reads the targets' traffic.
	Observer traffic.Observer
	// DryRuns reads what dry runs have counted.
	DryRuns traffic.DryRunObserver
	// Calls reads what callers' own proxies have counted of their calls.
	Calls traffic.CallObserver
	// AccessLogs say how access logs are received.
	AccessLogs AccessLogOptions
	// Clock of the operator; the real one if nil.
	Clock clock.PassiveClock
	// Registerer of the metrics that are read from the cache; controller-runtime's if nil.
	Registerer prometheus.Registerer
}

const (
	// reconciliationTimeout bounds one reconcile, which reads proxies over the network up to twice.
	reconciliationTimeout = 2 * time.Minute
	// observationTimeout bounds one reading of a target's proxies, or of those of all workloads of a namespace, and leaves time to write down what came of it.
	observationTimeout = 45 * time.Second
)

// Pauses between attempts, from the first to the longest.
const (
	firstPause   = 5 * time.Millisecond
	longestPause = time.Minute
)

// arrivalInterval is how often Istio's kinds are looked for while they are absent.
const arrivalInterval = 5 * time.Second

// NewScheme knows the kinds that the operator handles.
func NewScheme() (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		clientgoscheme.AddToScheme, v1alpha1.AddToScheme, securityv1.AddToScheme, networkingv1.AddToScheme, resolve.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("registering types: %w", err)
		}
	}
	return scheme, nil
}

// withDefaults fills in what may be nil.
func (o Options) withDefaults() Options {
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	if o.Registerer == nil {
		o.Registerer = metrics.Registry
	}
	return o
}

// Setup registers the controller with a manager whose cache has CacheOptions.
func Setup(ctx context.Context, mgr manager.Manager, opts Options) error {
	opts = opts.withDefaults()
	if err := resolve.Index(ctx, mgr.GetFieldIndexer()); err != nil {
		return fmt.Errorf("setting up: %w", err)
	}
	kinds := &istioKinds{
		mgr: mgr, namespace: opts.IstioNamespace, arrived: make(chan event.GenericEvent), indexed: map[schema.GroupVersionKind]bool{},
		looked: map[schema.GroupVersionKind]bool{}, installed: map[schema.GroupVersionKind]bool{},
	}
	r := &Reconciler{
		Client:   mgr.GetClient(),
		Observer: opts.Observer,
		DryRuns:  opts.DryRuns,
		Calls:    opts.Calls,
		Recorder: mgr.GetEventRecorder(Name),
		Clock:    opts.Clock,
		Interval: opts.ObservationInterval,
		Settle:   opts.SettleTime,
		Resolver: &resolve.Resolver{
			Reader: mgr.GetClient(), LiveReader: mgr.GetAPIReader(), RootNamespace: opts.IstioNamespace,
			ClusterDomain: opts.ClusterDomain, Installed: kinds.has,
		},
	}
	refusals, err := r.setupAccessLogs(ctx, mgr, opts)
	if err != nil {
		return err
	}
	affected := handler.EnqueueRequestsFromMapFunc(r.affected)
	own := predicate.Or(predicate.GenerationChangedPredicate{}, predicate.AnnotationChangedPredicate{}, statusLost())
	c, err := ctrl.NewControllerManagedBy(mgr).
		Named(Name).
		For(&v1alpha1.ServiceSecurityProfile{}, builder.WithPredicates(own)).
		Watches(&v1alpha1.ServiceSecurityProfile{}, affected, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&corev1.Pod{}, affected, builder.WithPredicates(changed())).
		Watches(&corev1.Service{}, affected, builder.WithPredicates(changed())).
		Watches(&corev1.Namespace{}, affected, builder.WithPredicates(changed())).
		Watches(&corev1.ConfigMap{}, affected, builder.WithPredicates(changed())).
		Watches(resolve.ServiceAccount(), affected, builder.WithPredicates(existence())).
		WatchesRawSource(source.Channel(kinds.arrived, &handler.EnqueueRequestForObject{})).
		WatchesRawSource(source.Channel(refusals, &handler.EnqueueRequestForObject{})).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: opts.Concurrency, ReconciliationTimeout: reconciliationTimeout, EnableWarmup: ptr.To(true),
			RateLimiter: workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](firstPause, longestPause),
		}).
		Build(r)
	if err != nil {
		return fmt.Errorf("setting up the controller: %w", err)
	}
	kinds.watch = func(object client.Object, passing ...predicate.Predicate) error {
		return c.Watch(source.Kind(mgr.GetCache(), object, handler.EnqueueRequestsFromMapFunc(r.affected), passing...))
	}
	// What is installed already is watched before the first reconcile.
	if _, err := kinds.look(ctx); err != nil {
		return err
	}
	if err := opts.Registerer.Register(newProfileCollector(mgr.GetClient(), opts.Clock)); err != nil {
		return fmt.Errorf("registering metrics: %w", err)
	}
	return mgr.Add(kinds)
}

// affected are the profiles that an object's change may concern.
func (r *Reconciler) affected(ctx context.Context, object client.Object) []reconcile.Request {
	var requests []reconcile.Request
	for _, name := range r.Resolver.Affected(ctx, object) {
		requests = append(requests, reconcile.Request{NamespacedName: name})
	}
	return requests
}

// istioKinds waits for Istio's kinds, indexes and watches them when they are there, and has every profile looked at again.
type istioKinds struct {
	mgr manager.Manager
	// namespace of Istio.
	namespace string
	watch     func(client.Object, ...predicate.Predicate) error
	arrived   chan event.GenericEvent
	// indexed are the kinds whose indexes are there, which cannot be made twice. Only look uses it, never twice at once.
	indexed map[schema.GroupVersionKind]bool
	// looked are the kinds that were looked for once; as indexed.
	looked map[schema.GroupVersionKind]bool

	mu        sync.RWMutex
	installed map[schema.GroupVersionKind]bool
}

// istioKind is one of the kinds that the operator reads, or writes too, and that may arrive late.
type istioKind struct {
	kind   schema.GroupVersionKind
	object client.Object
	index  func(context.Context, client.FieldIndexer) error
	// needed says, by the cache, whether anybody waits for the kind; nil if the operator itself does. What nobody waits for
	// is not asked for over and over.
	needed func(context.Context, client.Reader) (bool, error)
	// allowed says, by the API server itself, whether the operator may read the kind in Istio's namespace; nil if it
	// certainly may.
	allowed func(ctx context.Context, live client.Reader, istioNamespace string) (bool, error)
	// passing are the updates that matter; all of them if it is empty.
	passing []predicate.Predicate
}

func wantedKinds() []istioKind {
	some := []predicate.Predicate{changed()}
	return []istioKind{
		{kind: resolve.PeerAuthenticationKind, object: &securityv1.PeerAuthentication{}, index: resolve.IndexPeerAuthentications},
		{kind: resolve.DestinationRuleKind, object: &networkingv1.DestinationRule{}, index: resolve.IndexDestinationRules},
		{kind: resolve.RequestAuthenticationKind, object: &securityv1.RequestAuthentication{}, index: resolve.IndexRequestAuthentications},
		{kind: resolve.AuthorizationPolicyKind, object: &securityv1.AuthorizationPolicy{}, index: resolve.IndexAuthorizationPolicies},
		{kind: resolve.GatewayKind, object: &resolve.Gateway{}, index: resolve.IndexGateways, needed: resolve.TargetsGateways},
		{kind: resolve.WorkloadEntryKind, object: &networkingv1.WorkloadEntry{}, index: resolve.IndexWorkloadEntries, needed: resolve.RollsOut},
		{kind: resolve.ServiceEntryKind, object: &networkingv1.ServiceEntry{}, index: resolve.IndexServiceEntries, needed: resolve.RollsOut},
		{kind: resolve.SidecarKind, object: &networkingv1.Sidecar{}, index: resolve.IndexSidecars, needed: resolve.NeedsSidecars},
		{kind: resolve.TelemetryKind, object: &telemetryv1.Telemetry{}, index: resolve.IndexTelemetries, needed: resolve.RollsOut},
		{kind: resolve.CronJobKind, object: &batchv1.CronJob{}, index: resolve.IndexCronJobs, needed: resolve.RollsOut, passing: some},
		{kind: resolve.DeploymentKind, object: &appsv1.Deployment{}, index: resolve.IndexController, needed: resolve.RollsOut, passing: some},
		{kind: resolve.StatefulSetKind, object: &appsv1.StatefulSet{}, index: resolve.IndexController, needed: resolve.RollsOut, passing: some},
		{kind: resolve.DaemonSetKind, object: &appsv1.DaemonSet{}, index: resolve.IndexController, needed: resolve.RollsOut, passing: some},
		{
			kind: resolve.SecretKind, object: resolve.RemoteSecret(), index: resolve.IndexRemoteSecrets, needed: resolve.RollsOut,
			allowed: resolve.MayListRemoteSecrets, passing: some,
		},
	}
}

func (k *istioKinds) has(kind schema.GroupVersionKind) bool {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.installed[kind]
}

// NeedLeaderElection implements manager.LeaderElectionRunnable: a standby is warm, too.
func (k *istioKinds) NeedLeaderElection() bool { return false }

// Start implements manager.Runnable: it ends when all kinds are there.
func (k *istioKinds) Start(ctx context.Context) error {
	// It fails only by the end of ctx, which is the operator's.
	_ = wait.PollUntilContextCancel(ctx, arrivalInterval, true, func(ctx context.Context) (bool, error) {
		found, err := k.look(ctx)
		if err != nil {
			log.FromContext(ctx).Error(err, "Looking for Istio's kinds failed")
		}
		if len(found) > 0 {
			k.lookAgain(ctx)
		}
		return k.complete(), nil
	})
	return nil
}

func (k *istioKinds) complete() bool {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return len(k.installed) == len(wantedKinds())
}

// look watches the kinds that the API server knows and that are not watched yet, and says which.
func (k *istioKinds) look(ctx context.Context) ([]schema.GroupVersionKind, error) {
	var found []schema.GroupVersionKind
	for _, wanted := range wantedKinds() {
		if needed, err := k.needs(ctx, wanted); err != nil || !needed {
			if err != nil {
				return found, fmt.Errorf("looking for who needs %s: %w", wanted.kind.Kind, err)
			}
			continue
		}
		served, err := k.serves(ctx, wanted)
		if err != nil {
			return found, fmt.Errorf("looking for %s: %w", wanted.kind.Kind, err)
		}
		if !served {
			continue
		}
		if err := k.index(ctx, wanted); err != nil {
			return found, fmt.Errorf("indexing %s: %w", wanted.kind.Kind, err)
		}
		if err := k.watch(wanted.object, wanted.passing...); err != nil {
			return found, fmt.Errorf("watching %s: %w", wanted.kind.Kind, err)
		}
		k.mu.Lock()
		k.installed[wanted.kind] = true
		k.mu.Unlock()
		found = append(found, wanted.kind)
		log.FromContext(ctx).Info("Kind is watched", "kind", wanted.kind.Kind)
	}
	return found, nil
}

// serves says whether the API server knows the kind and lets the operator read it.
func (k *istioKinds) serves(ctx context.Context, wanted istioKind) (bool, error) {
	_, err := k.mgr.GetRESTMapper().RESTMapping(wanted.kind.GroupKind(), wanted.kind.Version)
	if err != nil || wanted.allowed == nil {
		return err == nil, ignoreNoMatch(err)
	}
	return wanted.allowed(ctx, k.mgr.GetAPIReader(), k.namespace)
}

func ignoreNoMatch(err error) error {
	if meta.IsNoMatchError(err) {
		return nil
	}
	return err
}

// needs says whether a kind is to be looked for: all are, the first time.
func (k *istioKinds) needs(ctx context.Context, wanted istioKind) (bool, error) {
	if k.has(wanted.kind) {
		return false, nil
	}
	if wanted.needed == nil || !k.looked[wanted.kind] {
		k.looked[wanted.kind] = true
		return true, nil
	}
	return wanted.needed(ctx, k.mgr.GetClient())
}

// index makes the indexes of a kind once. What may fail for a while is to get the informer, so that comes first.
func (k *istioKinds) index(ctx context.Context, wanted istioKind) error {
	if k.indexed[wanted.kind] {
		return nil
	}
	if _, err := k.mgr.GetCache().GetInformer(ctx, wanted.object, cache.BlockUntilSynced(false)); err != nil {
		return err
	}
	if err := wanted.index(ctx, k.mgr.GetFieldIndexer()); err != nil {
		return err
	}
	k.indexed[wanted.kind] = true
	return nil
}

// lookAgain has every profile looked at.
func (k *istioKinds) lookAgain(ctx context.Context) {
	profiles := &v1alpha1.ServiceSecurityProfileList{}
	if err := k.mgr.GetClient().List(ctx, profiles); err != nil {
		log.FromContext(ctx).Error(err, "Listing profiles failed")
		return
	}
	for i := range profiles.Items {
		select {
		case k.arrived <- event.GenericEvent{Object: &profiles.Items[i]}:
		case <-ctx.Done():
			return
		}
	}
}
