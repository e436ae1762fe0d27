package resolve

import (
	"context"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

// protocols are what istiod knows a port to speak by name (protocol.Parse, IsHTTP and IsTCP in istio.io/istio 1.29,
// pkg/config/protocol/instance.go).
var protocols = map[string]facts.Protocol{
	"http": facts.ProtocolHTTP, "http2": facts.ProtocolHTTP, "http_proxy": facts.ProtocolHTTP,
	"grpc": facts.ProtocolHTTP, "grpc-web": facts.ProtocolHTTP,
	"tcp": facts.ProtocolTCP, "tls": facts.ProtocolTCP, "https": facts.ProtocolTCP,
	"mongo": facts.ProtocolTCP, "redis": facts.ProtocolTCP, "mysql": facts.ProtocolTCP,
}

// kubernetesProtocols are Kubernetes' own names, which count as appProtocol only.
var kubernetesProtocols = map[string]facts.Protocol{
	"kubernetes.io/h2c": facts.ProtocolHTTP, "kubernetes.io/ws": facts.ProtocolHTTP, "kubernetes.io/wss": facts.ProtocolTCP,
}

// neverSniffed are the Service ports that istiod takes for TCP where nothing is declared, since their servers speak
// first: SMTP, DNS, MySQL and MongoDB.
var neverSniffed = map[int32]bool{25: true, 53: true, 3306: true, 27017: true}

const (
	nameUDP     = "udp"
	nameGRPCWeb = "grpc-web"
)

// InferProtocol is what istiod takes a Service's port to speak (ConvertProtocol in istio.io/istio 1.29,
// pkg/config/kube/conversion.go): what appProtocol says, or else the port's name up to the first hyphen. It is empty for
// UDP, which the proxy leaves alone.
func InferProtocol(port corev1.ServicePort) facts.Protocol {
	name := port.Name
	if port.AppProtocol != nil {
		name = *port.AppProtocol
		if protocol, ok := kubernetesProtocols[name]; ok && tcp(port.Protocol) {
			return protocol
		}
	}
	name = strings.ToLower(name)
	if strings.HasPrefix(name, nameGRPCWeb) {
		name = nameGRPCWeb
	} else {
		name, _, _ = strings.Cut(name, "-")
	}
	protocol, declared := protocols[name]
	switch {
	case !tcp(port.Protocol) || name == nameUDP:
		return ""
	case declared:
		return protocol
	case neverSniffed[port.Port]:
		return facts.ProtocolTCP
	default:
		return facts.ProtocolUndeclared
	}
}

// declarations are the protocols of workload ports, as all Services and workloads together declare them.
type declarations map[int32]facts.Protocol

// declare notes what one of them says. Those that differ declare nothing.
func (d declarations) declare(port int32, protocol facts.Protocol) {
	if before, ok := d[port]; ok && before != protocol {
		protocol = facts.ProtocolUndeclared
	}
	d[port] = protocol
}

// over is what a port speaks, given what its Service says: where there are listeners, they alone count, and a port without one
// is sniffed.
func (d declarations) over(port int32, service facts.Protocol) facts.Protocol {
	if len(d) == 0 {
		return service
	}
	if protocol, ok := d[port]; ok {
		return protocol
	}
	return facts.ProtocolUndeclared
}

// ports are the workload ports by number.
func (d declarations) ports() []facts.WorkloadPort {
	var ports []facts.WorkloadPort
	for _, port := range slices.Sorted(maps.Keys(d)) {
		ports = append(ports, facts.WorkloadPort{Port: port, Protocol: d[port]})
	}
	return ports
}

// resolveProtocols tells what the target's ports speak. On a gateway's own ports a policy sees requests even where a port
// is named https, so there is nothing to say of them but for what a Gateway's listeners pass through.
func (res *resolution) resolveProtocols(ctx context.Context) error {
	switch {
	case res.gateway != nil:
		res.facts.Ports = listenerPorts(res.gateway)
		return nil
	case res.facts.Target.Scope == v1alpha1.ScopeGateway, res.facts.Target.Scope == v1alpha1.ScopeMesh && !readsRequests(res.profile):
		return nil
	}
	declared := declarations{}
	mapped := map[client.ObjectKey]map[int32]bool{}
	for _, pod := range res.pods {
		// A gateway among the workloads of a namespace says nothing of theirs.
		if !isGateway(pod) {
			mapped[client.ObjectKeyFromObject(pod)] = map[int32]bool{}
		}
	}
	listeners, err := res.ingress(ctx)
	if err != nil {
		return err
	}
	for pod, ports := range listeners {
		for port, protocol := range ports {
			declared.declare(port, protocol)
			mapped[pod][port] = true
		}
	}
	expected := declarations{}
	for _, service := range res.services {
		res.declareService(declared, expected, mapped, listeners, service)
	}
	for port, protocol := range expected {
		if _, known := declared[port]; !known {
			declared[port] = protocol
		}
	}
	res.declareUnmapped(declared, mapped)
	res.declareGateways(declared)
	res.facts.Ports = declared.ports()
	return nil
}

// declareUnmapped looks at what pods listen on without a Service: it is sniffed, whatever the port of the same number is
// elsewhere.
func (res *resolution) declareUnmapped(declared declarations, mapped map[client.ObjectKey]map[int32]bool) {
	for _, pod := range res.pods {
		ports, ours := mapped[client.ObjectKeyFromObject(pod)]
		for _, port := range containerPorts(pod) {
			if _, known := declared[port]; known && ours && !ports[port] {
				declared.declare(port, facts.ProtocolUndeclared)
			}
		}
	}
}

// declareGateways takes the numbers that gateways among the target's pods listen on off those that are TCP elsewhere: a
// policy sees requests there, and must not be kept away from them.
func (res *resolution) declareGateways(declared declarations) {
	for _, pod := range res.pods {
		if !isGateway(pod) {
			continue
		}
		ports := containerPorts(pod)
		for _, service := range res.services {
			if service.Namespace == pod.Namespace && matches(serviceSelector(service), pod.Labels) {
				ports = append(ports, targetPorts(service, []*corev1.Pod{pod})...)
			}
		}
		for _, port := range ports {
			if _, known := declared[port]; known {
				declared.declare(port, facts.ProtocolUndeclared)
			}
		}
	}
}

// declareService notes what a Service declares of the target's pods, and which of their ports it maps. One that has no
// pods says only what is to be expected; one that has none of the target's does not concern it. Where a pod has listeners of its
// own, these count.
func (res *resolution) declareService(declared, expected declarations, mapped map[client.ObjectKey]map[int32]bool, listeners map[client.ObjectKey]declarations, service *corev1.Service) {
	if len(serviceSelector(service)) == 0 {
		return
	}
	endpoints := res.endpointsOf(service)
	for _, port := range service.Spec.Ports {
		protocol := InferProtocol(port)
		if protocol == "" {
			continue
		}
		if len(endpoints) == 0 {
			for _, target := range targetsOf(port, nil) {
				expected.declare(target, protocol)
			}
		}
		for _, pod := range endpoints {
			key := client.ObjectKeyFromObject(pod)
			ports, ours := mapped[key]
			if !ours {
				continue
			}
			for _, target := range targetsOf(port, []*corev1.Pod{pod}) {
				declared.declare(target, listeners[key].over(target, protocol))
				ports[target] = true
			}
		}
	}
}

// readsRequests says that the profile has a section whose policies look at requests.
func readsRequests(profile *v1alpha1.ServiceSecurityProfile) bool {
	return profile.Spec.JWT != nil || profile.Spec.Authorization != nil
}
