package resolve

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// rewritten says whether the injector has redirected a probe or a hook to the proxy's agent, which asks the application itself.
func rewritten(get *corev1.HTTPGetAction) bool {
	return strings.HasPrefix(get.Path, "/app-health/") || strings.HasPrefix(get.Path, "/app-lifecycle/")
}

// unrewrittenProbes are the containers that the kubelet probes, or calls a hook of, in plaintext through the proxy on a port
// that is to be STRICT.
func unrewrittenProbes(pod *corev1.Pod, strict func(int32) bool) []string {
	if !takesMutualTLS(pod) {
		return nil
	}
	_, bypasses := bypass(pod)
	proxys := proxyPorts(pod)
	var names []string
	for _, container := range serving(pod) {
		plain := slices.ContainsFunc(probedPorts(pod, container), func(port int32) bool {
			return strict(port) && !proxys(port) && !bypasses(port)
		})
		if plain {
			names = append(names, container.Name)
		}
	}
	slices.Sort(names)
	return names
}

// probedPorts are the ports of a container that the kubelet sends plaintext to, in order, if a proxy may be in between: on the
// host's network there is none.
func probedPorts(pod *corev1.Pod, container corev1.Container) []int32 {
	if container.Name == proxyContainer || pod.Spec.HostNetwork || sidecar(pod) == nil {
		return nil
	}
	var ports []int32
	for _, handler := range handlers(container) {
		if port := portNumber(container, handledPort(handler)); port > 0 {
			ports = append(ports, port)
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

// handlers are what the kubelet calls of a container. Of hooks only HTTP is called over the network.
func handlers(container corev1.Container) []corev1.ProbeHandler {
	var all []corev1.ProbeHandler
	for _, probe := range []*corev1.Probe{container.LivenessProbe, container.ReadinessProbe, container.StartupProbe} {
		if probe != nil {
			all = append(all, probe.ProbeHandler)
		}
	}
	if hooks := container.Lifecycle; hooks != nil {
		for _, hook := range []*corev1.LifecycleHandler{hooks.PostStart, hooks.PreStop} {
			if hook != nil {
				all = append(all, corev1.ProbeHandler{HTTPGet: hook.HTTPGet})
			}
		}
	}
	return all
}

// handledPort is the port that a call goes to; 0 if it goes to none of the application's. A call with a host of its own goes
// there.
func handledPort(handler corev1.ProbeHandler) intstr.IntOrString {
	switch http, tcp, grpc := handler.HTTPGet, handler.TCPSocket, handler.GRPC; {
	case http != nil && http.Host == "" && !rewritten(http):
		return http.Port
	case tcp != nil && tcp.Host == "":
		return tcp.Port
	case grpc != nil:
		return intstr.FromInt32(grpc.Port)
	default:
		return intstr.FromInt32(0)
	}
}

// portNumber is the number of a probe's port, which may be a name that the same container gives; 0 if it cannot be told.
func portNumber(container corev1.Container, port intstr.IntOrString) int32 {
	if port.Type == intstr.Int {
		return port.IntVal
	}
	for _, declared := range container.Ports {
		if declared.Name == port.StrVal {
			return declared.ContainerPort
		}
	}
	return 0
}

// trimProbes keeps of a container's probes and hooks the ports that take plaintext, of which there are five at the most.
func trimProbes(container *corev1.Container, ports []int32) {
	http := func(i int) *corev1.HTTPGetAction { return &corev1.HTTPGetAction{Port: intstr.FromInt32(ports[i])} }
	for i, probe := range []**corev1.Probe{&container.LivenessProbe, &container.ReadinessProbe, &container.StartupProbe} {
		if i < len(ports) {
			*probe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: http(i)}}
		}
	}
	if len(ports) > 3 {
		container.Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{HTTPGet: http(3)}}
	}
	if len(ports) > 4 {
		container.Lifecycle.PreStop = &corev1.LifecycleHandler{HTTPGet: http(4)}
	}
}
