package controllers

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	discoveryv1ac "k8s.io/client-go/applyconfigurations/discovery/v1"
	metav1ac "k8s.io/client-go/applyconfigurations/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
)

// publisher makes this process, when it becomes the leader, the one endpoint of a Service, so that all streams end here.
// It writes once: until there is another leader, nothing changes. The streams to a leader that went away end with it, and
// Envoy connects to the next.
type publisher struct {
	client  client.Client
	live    client.Reader
	options AccessLogOptions
}

// retry while the API server is away, or the Service is not there yet.
var retry = wait.Backoff{Duration: time.Second, Factor: 2, Jitter: jitter, Steps: 6, Cap: time.Minute}

// Start implements manager.Runnable, for the leader alone. It ends when the endpoint is written.
func (p *publisher) Start(ctx context.Context) error {
	logger := log.FromContext(ctx).WithName("accesslog")
	pause := retry
	for {
		err := p.publish(ctx)
		if err == nil {
			logger.Info("Access logs come to this replica", "service", p.options.Service, "address", p.options.Pod.IP)
			return nil
		}
		logger.Error(err, "The Service for access logs does not lead here yet")
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause.Step()):
		}
	}
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
	slice := discoveryv1ac.EndpointSlice(service.Name+"-leader", service.Namespace).
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
