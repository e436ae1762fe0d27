package resolve

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

// resolveHosts finds the Services that lead to the target's pods. A Service target has the one host that it names; the
// others are still ways for clients to reach its pods, so rules and ports look at all of them.
func (res *resolution) resolveHosts(ctx context.Context) error {
	find := res.findServices
	if wide(res.profile.Spec.Target.Kind) {
		find = res.listServices
	}
	if err := find(ctx); err != nil {
		return err
	}
	served := map[client.ObjectKey][]int32{}
	for _, service := range res.services {
		for _, pod := range res.endpointsOf(service) {
			key := client.ObjectKeyFromObject(pod)
			served[key] = append(served[key], targetPorts(service, []*corev1.Pod{pod})...)
		}
	}
	strict := strictPorts(res.profile)
	for _, pod := range res.pods {
		ports := served[client.ObjectKeyFromObject(pod)]
		described := describePod(pod, ports)
		described.ExcludedStrict = excludedPorts(pod, ports, strict)
		described.UnrewrittenProbes = unrewrittenProbes(pod, strict)
		res.facts.Pods = append(res.facts.Pods, described)
	}
	return nil
}

// findServices finds those that select one of the target's pods.
func (res *resolution) findServices(ctx context.Context) error {
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
	res.endpoints = map[types.NamespacedName][]*corev1.Pod{}
	target := res.profile.Spec.Target
	for _, service := range res.services {
		pods, err := findPods(ctx, res.source, service.Namespace, service.Spec.Selector)
		if err != nil {
			return err
		}
		res.endpoints[client.ObjectKeyFromObject(service)] = pods
		if target.Kind == v1alpha1.TargetWorkload || target.Kind == v1alpha1.TargetService && service.Name == target.Name {
			res.facts.Hosts = append(res.facts.Hosts, describeHost(service, pods, res.resolver.clusterDomain()))
		}
	}
	return nil
}

// listServices lists all Services of a namespace, or of the cluster for the mesh, with their pods.
func (res *resolution) listServices(ctx context.Context) error {
	namespace := res.profile.Namespace
	if res.facts.Target.Scope == v1alpha1.ScopeMesh {
		namespace = ""
	}
	if res.misplaced {
		return nil
	}
	items, err := res.list(ctx, core, &corev1.ServiceList{}, client.InNamespace(namespace))
	if err != nil {
		return err
	}
	for _, item := range items {
		if service, ok := item.(*corev1.Service); ok {
			res.services = append(res.services, service)
		}
	}
	sortByName(res.services)
	res.endpoints = selectPods(res.services, res.everyPod)
	return nil
}

func (res *resolution) endpointsOf(service *corev1.Service) []*corev1.Pod {
	return res.endpoints[client.ObjectKeyFromObject(service)]
}

// selectPods returns the pods of each Service, in the order of the pods. It looks at each pod once.
func selectPods(services []*corev1.Service, pods []*corev1.Pod) map[types.NamespacedName][]*corev1.Pod {
	type place struct{ namespace, pair string }
	anchored := map[place][]*corev1.Service{}
	for _, service := range services {
		if selector := serviceSelector(service); len(selector) > 0 {
			at := place{service.Namespace, anchor(selector)}
			anchored[at] = append(anchored[at], service)
		}
	}
	selected := map[types.NamespacedName][]*corev1.Pod{}
	for _, pod := range pods {
		for k, v := range pod.Labels {
			for _, service := range anchored[place{pod.Namespace, pair(k, v)}] {
				if matches(service.Spec.Selector, pod.Labels) {
					key := client.ObjectKeyFromObject(service)
					selected[key] = append(selected[key], pod)
				}
			}
		}
	}
	return selected
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
		if !takesMutualTLS(pod) {
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
			described.TargetPort, described.OtherTargets = targets[0], append([]int32(nil), targets[1:]...)
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
