package resolve

import (
	"context"
	"fmt"
	"maps"
	"slices"

	telemetryv1 "istio.io/client-go/pkg/apis/telemetry/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

// GatewayKind is the Gateway API's Gateway as it is read here.
var GatewayKind = schema.GroupVersionKind{Group: gatewayGroup, Version: "v1", Kind: gatewayKind}

// waypointClass is the class of ambient's waypoints, which are Gateways too.
const waypointClass = "istio-waypoint"

// Gateway is what is read of a Gateway (gateway.networking.k8s.io); what else it says does not reach the cache.
type Gateway struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              GatewaySpec `json:"spec,omitempty"`
}

// GatewaySpec is what is read of a Gateway's spec.
type GatewaySpec struct {
	GatewayClassName string     `json:"gatewayClassName,omitempty"`
	Listeners        []Listener `json:"listeners,omitempty"`
}

// Listener is what is read of a Gateway's listener.
type Listener struct {
	Port     int32  `json:"port"`
	Protocol string `json:"protocol"`
}

// GatewayList is a list of Gateways.
type GatewayList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Gateway `json:"items"`
}

// DeepCopyInto copies the Gateway into another one.
func (g *Gateway) DeepCopyInto(out *Gateway) {
	*out = *g
	g.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	out.Spec.Listeners = slices.Clone(g.Spec.Listeners)
}

// DeepCopyObject implements runtime.Object.
func (g *Gateway) DeepCopyObject() runtime.Object {
	out := &Gateway{}
	g.DeepCopyInto(out)
	return out
}

// DeepCopyObject implements runtime.Object.
func (l *GatewayList) DeepCopyObject() runtime.Object {
	out := &GatewayList{TypeMeta: l.TypeMeta, Items: make([]Gateway, len(l.Items))}
	list := &l.ListMeta
	list.DeepCopyInto(&out.ListMeta)
	for i := range l.Items {
		l.Items[i].DeepCopyInto(&out.Items[i])
	}
	return out
}

// AddToScheme registers the types of this package that are read from the API server.
func AddToScheme(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GatewayKind.GroupVersion(), &Gateway{}, &GatewayList{})
	metav1.AddToGroupVersion(scheme, GatewayKind.GroupVersion())
	return telemetryv1.AddToScheme(scheme)
}

// IndexGateways registers the indexes of Gateway, of which there are none: it is read by name.
func IndexGateways(context.Context, client.FieldIndexer) error { return nil }

// TargetsGateways says whether any profile has a Gateway as its target.
func TargetsGateways(ctx context.Context, reader client.Reader) (bool, error) {
	s := &source{reader: reader}
	found, err := find(ctx, s, profilesByTarget, "", anyGateway)
	return len(found) > 0, err
}

// resolveGateway finds the Gateway that is the target.
func (res *resolution) resolveGateway(ctx context.Context) error {
	res.facts.Target.Scope = v1alpha1.ScopeGateway
	name, namespace := res.profile.Spec.Target.Name, res.profile.Namespace
	var gateway Gateway
	found, err := res.get(ctx, GatewayKind, namespace, name, &gateway)
	switch {
	case err != nil:
		return err
	case !res.has(GatewayKind):
		res.problem(v1alpha1.ReasonTargetNotFound, "",
			"The cluster does not have the Gateway API (gateway.networking.k8s.io/v1): install it, or create the profile with target kind Workload and the labels of the gateway's pods.")
	case !found:
		res.problem(v1alpha1.ReasonTargetNotFound, "", fmt.Sprintf(
			"Gateway %q does not exist in namespace %q: create it, or delete the profile.", name, namespace))
	case gateway.Spec.GatewayClassName == waypointClass:
		res.problem(v1alpha1.ReasonUnsupported, "", fmt.Sprintf(
			"Gateway %q in namespace %q is a waypoint of ambient mode, which is not supported: target the workloads behind it once they have sidecars.", name, namespace))
	default:
		res.facts.Target.Gateway = name
		res.gateway = &gateway
	}
	return nil
}

// listenerPorts are the ports of a Gateway on which requests are not seen: those whose listeners all pass connections on.
func listenerPorts(gateway *Gateway) []facts.WorkloadPort {
	declared := declarations{}
	for _, listener := range gateway.Spec.Listeners {
		protocol := facts.ProtocolHTTP
		if listener.Protocol == "TCP" || listener.Protocol == "TLS" {
			protocol = facts.ProtocolTCP
		}
		declared.declare(listener.Port, protocol)
	}
	return slices.DeleteFunc(declared.ports(), func(port facts.WorkloadPort) bool { return port.Protocol != facts.ProtocolTCP })
}

// The roles of a proxy that is no sidecar, as its arguments say ("proxy router").
const (
	roleRouter   = "router"
	roleWaypoint = "waypoint"
)

// proxyRole is the role that a proxy's arguments give it; empty if they give none.
func proxyRole(proxy *corev1.Container) string {
	if proxy == nil {
		return ""
	}
	if i := slices.Index(proxy.Args, "proxy"); i >= 0 && i+1 < len(proxy.Args) {
		return proxy.Args[i+1]
	}
	return ""
}

// isGateway says that the pod's proxy is a gateway: an Envoy whose listeners no PeerAuthentication governs.
func isGateway(pod *corev1.Pod) bool { return proxyRole(sidecar(pod)) == roleRouter }

// takesMutualTLS says whether clients may be told to use mutual TLS with the pod whatever they find out by themselves.
func takesMutualTLS(pod *corev1.Pod) bool {
	return membership(pod) == facts.MemberSidecar && !isGateway(pod)
}

// gatewayWorkloads are the workloads of gateways among the pods, "namespace/name", in order.
func gatewayWorkloads(pods []*corev1.Pod) []string {
	names := map[string]bool{}
	for _, pod := range pods {
		if isGateway(pod) {
			names[pod.Namespace+"/"+workloadName(pod)] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}
