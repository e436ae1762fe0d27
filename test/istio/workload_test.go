//go:build istio

package istio_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	networkingapi "istio.io/api/networking/v1alpha3"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/istio"
	"github.com/servicesecurity/operator/test/builder"
)

const (
	// gatewayLabel is how istiod tells which proxies are a Gateway's.
	gatewayLabel = "gateway.networking.k8s.io/gateway-name"
	gatewayPort  = 8080
	// settled is how long istiod may take to see what was written, and pause how long it is given between two looks.
	settled = time.Minute
	pause   = 50 * time.Millisecond
)

var portNames = map[facts.Protocol]string{facts.ProtocolHTTP: "http", facts.ProtocolTCP: "tcp", facts.ProtocolUndeclared: "any"}

// settle puts the target of a case into a namespace of its own, where the profile goes too, unless it is the mesh's.
func settle(ctx context.Context, c *builder.Case) (proxy, error) {
	target := newProxy()
	if c.Profile.Spec.Target.Kind != v1alpha1.TargetMesh {
		c.Profile.Namespace = target.namespace
	}
	if err := kube.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: target.namespace}}); err != nil {
		return target, err
	}
	if c.Profile.Spec.Target.Kind == v1alpha1.TargetGateway {
		target.kind, target.labels[gatewayLabel] = "router", c.Profile.Spec.Target.Name
		c.Facts.Ports = []facts.WorkloadPort{{Port: gatewayPort, Protocol: facts.ProtocolHTTP}}
		return target, kube.Create(ctx, ingress(target))
	}
	if len(c.Facts.Target.Selector) > 0 {
		target.labels = c.Facts.Target.Selector
	}
	if err := createPod(ctx, target); err != nil || len(c.Facts.Ports) == 0 {
		return target, err
	}
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: target.namespace, Name: "target"}}
	service.Spec.Selector = target.labels
	for i, port := range c.Facts.Ports {
		service.Spec.Ports = append(service.Spec.Ports, corev1.ServicePort{
			Name: fmt.Sprintf("%s-%d", portNames[port.Protocol], i), Port: int32(20000 + i), TargetPort: intstr.FromInt32(port.Port),
		})
	}
	return target, kube.Create(ctx, service)
}

// createPod makes the pod that the proxy is in: istiod asks for its labels, and finds its Services by them.
func createPod(ctx context.Context, in proxy) error {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: in.namespace, Name: in.name, Labels: in.labels}}
	pod.Spec.Containers = []corev1.Container{{Name: "target", Image: "target"}}
	if err := kube.Create(ctx, pod); err != nil {
		return err
	}
	pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: in.address, PodIPs: []corev1.PodIP{{IP: in.address}}}
	return kube.Status().Update(ctx, pod)
}

// ingress makes a gateway's proxy listen.
func ingress(at proxy) *networkingv1.Gateway {
	gateway := &networkingv1.Gateway{ObjectMeta: metav1.ObjectMeta{Namespace: at.namespace, Name: "ingress"}}
	gateway.Spec.Selector = map[string]string{"app": "target"}
	gateway.Spec.Servers = []*networkingapi.Server{{
		Port: &networkingapi.Port{Number: gatewayPort, Name: "http", Protocol: "HTTP"}, Hosts: []string{"*"},
	}}
	return gateway
}

// compiled is what istiod makes of a case.
type compiled struct {
	objects   istio.Objects
	chains    []chain
	listeners []*listenerv3.Listener
}

// compile writes what comes of the case, and waits for the proxy to be told just that.
func compile(ctx context.Context, c builder.Case) (compiled, error) {
	target, err := settle(ctx, &c)
	if err != nil {
		return compiled{}, err
	}
	objects, err := render(c)
	if err != nil {
		return compiled{}, err
	}
	if c.Profile.Spec.Target.Kind == v1alpha1.TargetMesh {
		defer func() {
			for _, object := range listed(objects) {
				err = errors.Join(err, client.IgnoreNotFound(kube.Delete(ctx, object)))
			}
		}()
	}
	for _, object := range listed(objects) {
		one := object.DeepCopyObject().(client.Object)
		if err := kube.Create(ctx, one, client.FieldValidation("Strict")); err != nil {
			return compiled{}, fmt.Errorf("%s %s: the API server says %w", one.GetObjectKind().GroupVersionKind().Kind, one.GetName(), err)
		}
	}
	out := compiled{objects: objects}
	err = await(ctx, func() error {
		var wrong error
		if out.chains, out.listeners, wrong = target.chains(ctx); wrong != nil {
			return wrong
		}
		if wrong = differences(out.chains, objects, c.Facts.Ports); wrong != nil || target.kind == "router" {
			return wrong
		}
		return accepts(out.chains, objects, c.Facts.Ports)
	})
	for _, one := range out.listeners {
		err = errors.Join(err, acceptable(one))
	}
	if err != nil {
		return out, fmt.Errorf("%w\n%s", err, yamls(objects))
	}
	return out, nil
}

func yamls(objects istio.Objects) string {
	var all []string
	for _, object := range listed(objects) {
		all = append(all, text(object))
	}
	return strings.Join(all, "---\n")
}

// await tries until nothing is wrong, or says what stays so.
func await(ctx context.Context, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, settled)
	defer cancel()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}
