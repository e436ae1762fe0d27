package controllers

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/wait"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	discoveryv1ac "k8s.io/client-go/applyconfigurations/discovery/v1"
	metav1ac "k8s.io/client-go/applyconfigurations/meta/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
)

// publisher makes this process, when it becomes the leader, the one endpoint of a Service, so that all streams end here, and
// keeps it that. The streams to a leader that went away end with it, and Envoy connects to the next.
type publisher struct {
	client  client.Client
	live    client.Reader
	options AccessLogOptions
	// events of the EndpointSlice alone, which nobody else has.
	events cache.Cache
	// version of the EndpointSlice as it was last written.
	version atomic.Value
}

// newPublisher makes one with a watch of its own: the manager's cache would have every replica read EndpointSlices.
func newPublisher(mgr manager.Manager, options AccessLogOptions) (*publisher, error) {
	p := &publisher{client: mgr.GetClient(), live: mgr.GetAPIReader(), options: options}
	var err error
	p.events, err = cache.New(mgr.GetConfig(), cache.Options{
		HTTPClient: mgr.GetHTTPClient(), Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper(),
		DefaultNamespaces:    map[string]cache.Config{options.Pod.Namespace: {}},
		DefaultFieldSelector: fields.OneTermEqualSelector("metadata.name", p.name()),
		DefaultTransform:     cache.TransformStripManagedFields(),
	})
	if err != nil {
		return nil, fmt.Errorf("setting up the watch of the EndpointSlice: %w", err)
	}
	return p, nil
}

// name of the EndpointSlice.
func (p *publisher) name() string { return p.options.Service + "-leader" }

// retry while the API server is away, or the Service is not there yet.
var retry = wait.Backoff{Duration: time.Second, Factor: 2, Jitter: jitter, Steps: 6, Cap: time.Minute}

// Start implements manager.Runnable, for the leader alone.
func (p *publisher) Start(ctx context.Context) error {
	changes, err := p.watch(ctx)
	if err != nil {
		return err
	}
	var group sync.WaitGroup
	defer group.Wait()
	group.Go(func() {
		if err := p.events.Start(ctx); err != nil {
			log.FromContext(ctx).WithName("accesslog").Error(err, "The EndpointSlice for access logs is not watched")
		}
	})
	for {
		p.lead(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-changes:
			// Whoever writes over it again and again is answered once a second at the most.
			pause(ctx, time.Second)
		}
	}
}

// lead writes the endpoint, again and again until that succeeds.
func (p *publisher) lead(ctx context.Context) {
	logger := log.FromContext(ctx).WithName("accesslog")
	backoff := retry
	for ctx.Err() == nil {
		err := p.publish(ctx)
		if err == nil {
			logger.Info("Access logs come to this replica", "service", p.options.Service, "address", p.options.Pod.IP)
			return
		}
		logger.Error(err, "The Service for access logs does not lead here yet")
		pause(ctx, backoff.Step())
	}
}

// pause waits, at the most until ctx ends.
func pause(ctx context.Context, duration time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(duration):
	}
}

// watch tells when the EndpointSlice is not as this process wrote it any more. It is told by its version alone.
func (p *publisher) watch(ctx context.Context) (<-chan struct{}, error) {
	slice := &metav1.PartialObjectMetadata{}
	slice.SetGroupVersionKind(discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"))
	informer, err := p.events.GetInformer(ctx, slice, cache.BlockUntilSynced(false))
	if err != nil {
		return nil, fmt.Errorf("watching the EndpointSlice: %w", err)
	}
	changes := make(chan struct{}, 1)
	changed := func() {
		select {
		case changes <- struct{}{}:
		default: // it is known already
		}
	}
	written := func(object any) {
		if slice, ok := object.(*metav1.PartialObjectMetadata); ok && slice.ResourceVersion != p.version.Load() {
			changed()
		}
	}
	_, err = informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc: written, UpdateFunc: func(_, object any) { written(object) }, DeleteFunc: func(any) { changed() },
	})
	if err != nil {
		return nil, fmt.Errorf("watching the EndpointSlice: %w", err)
	}
	return changes, nil
}

func (p *publisher) publish(ctx context.Context) error {
	service := &corev1.Service{}
	if err := p.live.Get(ctx, client.ObjectKey{Namespace: p.options.Pod.Namespace, Name: p.options.Service}, service); err != nil {
		return fmt.Errorf("reading the Service: %w", err)
	}
	if len(service.Spec.Selector) > 0 {
		return fmt.Errorf("checking Service %s: it has a selector, which sends streams to replicas that do not lead", service.Name)
	}
	slice, err := p.endpoint(service)
	if err != nil {
		return err
	}
	if err := p.client.Apply(ctx, slice, FieldOwner, client.ForceOwnership); err != nil {
		return fmt.Errorf("writing the EndpointSlice: %w", err)
	}
	if slice.ResourceVersion != nil {
		p.version.Store(*slice.ResourceVersion)
	}
	return nil
}

// endpoint is the EndpointSlice whose one endpoint is this pod. It goes with the Service. Its reference to the pod tells
// istiod whether clients are to use mutual TLS, and whom to expect.
func (p *publisher) endpoint(service *corev1.Service) (*discoveryv1ac.EndpointSliceApplyConfiguration, error) {
	_, text, err := net.SplitHostPort(p.options.BindAddress)
	if err != nil {
		return nil, fmt.Errorf("reading the bind address: %w", err)
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("reading the bind address: %w", err)
	}
	family := discoveryv1.AddressTypeIPv4
	if ip := net.ParseIP(p.options.Pod.IP); ip != nil && ip.To4() == nil {
		family = discoveryv1.AddressTypeIPv6
	}
	slice := discoveryv1ac.EndpointSlice(p.name(), service.Namespace).
		WithLabels(map[string]string{discoveryv1.LabelServiceName: service.Name, discoveryv1.LabelManagedBy: Name}).
		WithOwnerReferences(metav1ac.OwnerReference().WithAPIVersion("v1").WithKind("Service").WithName(service.Name).WithUID(service.UID)).
		WithAddressType(family).
		WithEndpoints(discoveryv1ac.Endpoint().WithAddresses(p.options.Pod.IP).
			WithConditions(discoveryv1ac.EndpointConditions().WithReady(true)).
			WithTargetRef(corev1ac.ObjectReference().WithKind("Pod").WithNamespace(p.options.Pod.Namespace).WithName(p.options.Pod.Name)))
	for _, servicePort := range service.Spec.Ports {
		name := discoveryv1ac.EndpointPort().WithName(servicePort.Name).WithProtocol(corev1.ProtocolTCP).WithPort(int32(port))
		name.AppProtocol = servicePort.AppProtocol
		slice = slice.WithPorts(name)
	}
	return slice, nil
}
