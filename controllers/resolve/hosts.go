package resolve

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

// resolveHosts finds the Services that lead to the target's pods. A Service target has the one host that it names; the
// others are still ways for clients to reach its pods, so rules and ports look at all of them.
func (res *resolution) resolveHosts(ctx context.Context) error {
	services, err := servicesSelecting(ctx, res.source, res.profile.Namespace, labelSets(res.pods))
	if err != nil {
		return err
	}
	for _, service := range services {
		if !slices.ContainsFunc(res.services, func(s *corev1.Service) bool { return s.Name == service.Name }) {
			res.services = append(res.services, service)
		}
	}
	sortByName(res.services)
	res.endpoints = map[string][]*corev1.Pod{}
	var served []int32
	for _, service := range res.services {
		pods, err := findPods(ctx, res.source, service.Namespace, service.Spec.Selector)
		if err != nil {
			return err
		}
		res.endpoints[service.Name] = pods
		served = append(served, targetPorts(service, pods)...)
		if res.profile.Spec.Target.Kind == v1alpha1.TargetWorkload || service.Name == res.profile.Spec.Target.Name {
			res.facts.Hosts = append(res.facts.Hosts, describeHost(service, pods, res.resolver.clusterDomain()))
		}
	}
	for _, pod := range res.pods {
		res.facts.Pods = append(res.facts.Pods, describePod(pod, served))
	}
	return nil
}

// Host is a Service's name in the mesh.
func Host(service, namespace, clusterDomain string) string {
	return service + "." + namespace + ".svc." + clusterDomain
}

func describeHost(service *corev1.Service, pods []*corev1.Pod, clusterDomain string) facts.Host {
	host := facts.Host{
		Name:     Host(service.Name, service.Namespace, clusterDomain),
		Service:  service.Name,
		Headless: service.Spec.ClusterIP == corev1.ClusterIPNone,
		Ports:    describePorts(service, pods),
	}
	for _, pod := range pods {
		if !endpoint(service, pod) {
			continue
		}
		host.Endpoints++
		if membership(pod) != facts.MemberSidecar {
			host.UnmeshedEndpoints = append(host.UnmeshedEndpoints, pod.Name)
		}
	}
	return host
}

// endpoint says whether clients of a Service are sent to a pod.
func endpoint(service *corev1.Service, pod *corev1.Pod) bool {
	if pod.Status.PodIP == "" {
		return false
	}
	return service.Spec.PublishNotReadyAddresses || ready(pod) && pod.DeletionTimestamp.IsZero()
}

// describePorts are a Service's TCP ports; Istio leaves the others alone.
func describePorts(service *corev1.Service, pods []*corev1.Pod) []facts.ServicePort {
	var ports []facts.ServicePort
	for _, port := range service.Spec.Ports {
		if !tcp(port.Protocol) {
			continue
		}
		described := facts.ServicePort{Port: port.Port, Name: port.Name}
		if targets := targetsOf(port, pods); len(targets) > 0 {
			described.TargetPort = targets[0]
		}
		ports = append(ports, described)
	}
	return ports
}

// targetsOf are the workload ports of a Service's port: one if it has a number, and if it has a name, what the pods call
// so, which may differ from pod to pod. They are ordered by the pods' names.
func targetsOf(port corev1.ServicePort, pods []*corev1.Pod) []int32 {
	if port.TargetPort.Type == intstr.Int {
		if port.TargetPort.IntVal == 0 {
			return []int32{port.Port}
		}
		return []int32{port.TargetPort.IntVal}
	}
	var targets []int32
	for _, pod := range pods {
		for _, container := range serving(pod) {
			for _, declared := range container.Ports {
				named := declared.Name == port.TargetPort.StrVal && tcp(declared.Protocol)
				if named && !slices.Contains(targets, declared.ContainerPort) {
					targets = append(targets, declared.ContainerPort)
				}
			}
		}
	}
	return targets
}

// targetPorts are all workload ports that a Service maps.
func targetPorts(service *corev1.Service, pods []*corev1.Pod) []int32 {
	var targets []int32
	for _, port := range service.Spec.Ports {
		if tcp(port.Protocol) {
			targets = append(targets, targetsOf(port, pods)...)
		}
	}
	return targets
}
