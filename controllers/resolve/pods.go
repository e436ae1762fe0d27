package resolve

import (
	"context"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

const (
	proxyContainer = "istio-proxy"
	initContainer  = "istio-init"

	labelTLSMode      = "security.istio.io/tlsMode"
	labelWorkloadName = "service.istio.io/workload-name"

	labelTemplateHash = "pod-template-hash"
	labelRolloutHash  = "rollouts-pod-template-hash"
	labelRevisionHash = "controller-revision-hash"

	annotationAmbient      = "ambient.istio.io/redirection"
	annotationStatus       = "sidecar.istio.io/status"
	annotationTemplates    = "inject.istio.io/templates"
	annotationInterception = "sidecar.istio.io/interceptionMode"
	annotationExclude      = "traffic.sidecar.istio.io/excludeInboundPorts"
	annotationInclude      = "traffic.sidecar.istio.io/includeInboundPorts"
	annotationStatusPort   = "status.sidecar.istio.io/port"
	annotationEviction     = "sidecar.istio.io/statsEvictionInterval"

	envGenerator    = "ISTIO_META_GENERATOR"
	envInterception = "ISTIO_META_INTERCEPTION_MODE"
	envWorkloadName = "ISTIO_META_WORKLOAD_NAME"

	interceptionNone = "NONE"
	allPorts         = "*"
)

func (res *resolution) resolvePods(ctx context.Context) error {
	var err error
	switch target := res.facts.Target; target.Scope {
	case v1alpha1.ScopeNamespace:
		res.everyPod, err = listPods(ctx, res.source, res.profile.Namespace)
		res.pods = res.everyPod
	case v1alpha1.ScopeMesh:
		err = res.resolveMeshPods(ctx)
	case v1alpha1.ScopeGateway:
		if target.Gateway != "" {
			res.pods, err = findPods(ctx, res.source, res.profile.Namespace, map[string]string{labelGatewayName: target.Gateway})
		}
	case v1alpha1.ScopeWorkload:
		res.pods, err = findPods(ctx, res.source, res.profile.Namespace, target.Selector)
		if len(res.pods) > 0 && !slices.ContainsFunc(res.pods, func(pod *corev1.Pod) bool { return !isGateway(pod) }) {
			res.facts.Target.Scope = v1alpha1.ScopeGateway
		}
	}
	return err
}

func (res *resolution) resolveMeshPods(ctx context.Context) error {
	if res.misplaced {
		return nil
	}
	var err error
	if res.everyPod, err = listPods(ctx, res.source, ""); err != nil {
		return err
	}
	res.pods, err = res.meshPods(ctx)
	return err
}

// describePod tells a pod as facts. Served are the workload ports that Services map to it.
func describePod(pod *corev1.Pod, served []int32) facts.Pod {
	return facts.Pod{
		Namespace:     pod.Namespace,
		Name:          pod.Name,
		UID:           string(pod.UID),
		IP:            pod.Status.PodIP,
		Workload:      workloadName(pod),
		Created:       pod.CreationTimestamp.Time,
		Restarts:      proxyRestarts(pod),
		Ready:         ready(pod),
		Terminating:   !pod.DeletionTimestamp.IsZero(),
		Membership:    membership(pod),
		Gateway:       isGateway(pod),
		ExcludedPorts: excludedPorts(pod, served, anyPort),
		StatsEviction: statsEviction(pod),
	}
}

// statsEviction is how long a series has to stand still before the pod's proxy may drop it; zero if it drops none. One that cannot
// be read is the shortest.
func statsEviction(pod *corev1.Pod) time.Duration {
	text := pod.Annotations[annotationEviction]
	if text == "" {
		return 0
	}
	interval, err := time.ParseDuration(text)
	if err != nil {
		return time.Nanosecond
	}
	return max(time.Nanosecond, interval)
}

// sidecar is the proxy's container, which is an init container where sidecars are native; nil if there is none.
func sidecar(pod *corev1.Pod) *corev1.Container {
	for _, containers := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range containers {
			if containers[i].Name == proxyContainer {
				return &containers[i]
			}
		}
	}
	return nil
}

// membership tells how a pod takes part in the mesh. Only what is in the pod counts: the namespace's label says what
// shall be, and a pod from before it has no proxy.
func membership(pod *corev1.Pod) facts.Membership {
	proxy := sidecar(pod)
	switch {
	case proxyless(pod, proxy):
		return facts.MemberProxyless
	case proxy == nil && pod.Annotations[annotationAmbient] == injectionEnabled, proxyRole(proxy) == roleWaypoint:
		return facts.MemberAmbient
	case proxyRole(proxy) == roleRouter:
		// A gateway has the listeners itself, so nothing has to be redirected to it, and clients need not trust its label.
		return facts.MemberSidecar
	case proxy == nil || pod.Spec.HostNetwork:
		// The injector leaves pods on the host's network alone, and a proxy put there by hand can redirect nothing.
		return facts.MemberNone
	case interception(pod, proxy) == interceptionNone:
		return facts.MemberNoInterception
	case pod.Labels[labelTLSMode] != "istio":
		// istiod takes a missing label for "disabled" (GetTLSModeFromEndpointLabels), and clients then send plaintext
		// by auto-mTLS, which STRICT would refuse.
		return facts.MemberTLSDisabled
	default:
		return facts.MemberSidecar
	}
}

// proxyless says that gRPC in the application takes its configuration from istiod itself: the template grpc-agent has a
// container istio-proxy without Envoy, grpc-simple has none at all.
func proxyless(pod *corev1.Pod, proxy *corev1.Container) bool {
	if proxy != nil {
		return env(proxy, envGenerator) == "grpc" || hasTemplate(pod, "grpc-agent")
	}
	_, injected := pod.Annotations[annotationStatus]
	return injected && (hasTemplate(pod, "grpc-simple") || hasTemplate(pod, "grpc-agent"))
}

func hasTemplate(pod *corev1.Pod, template string) bool {
	return slices.ContainsFunc(strings.Split(pod.Annotations[annotationTemplates], ","), func(name string) bool {
		return strings.TrimSpace(name) == template
	})
}

func env(container *corev1.Container, name string) string {
	for _, variable := range container.Env {
		if variable.Name == name {
			return variable.Value
		}
	}
	return ""
}

// interception is the mode by which inbound traffic reaches the proxy. The proxy's environment says what was in force
// when it was injected; the annotation alone may have been ignored.
func interception(pod *corev1.Pod, proxy *corev1.Container) string {
	if mode := env(proxy, envInterception); mode != "" {
		return mode
	}
	return pod.Annotations[annotationInterception]
}

// istioPorts belong to the proxy itself and never carry the workload's traffic.
var istioPorts = map[int32]bool{
	15000: true, 15001: true, 15004: true, 15006: true, 15008: true, 15020: true, 15021: true, 15053: true, 15090: true,
}

// excludedPorts are the workload ports whose inbound traffic bypasses the proxy, of those that are asked for. A list of ports to include other than
// "*" excludes all others, and only "*" leaves a meaning to the list of ports to exclude (istio-iptables).
func excludedPorts(pod *corev1.Pod, served []int32, asked func(int32) bool) []string {
	if sidecar(pod) == nil || isGateway(pod) {
		return nil
	}
	include, bypasses := bypass(pod)
	proxys := proxyPorts(pod)
	var bypassing []string
	ports := slices.Concat(containerPorts(pod), served)
	slices.Sort(ports)
	for _, port := range slices.Compact(ports) {
		if asked(port) && !proxys(port) && bypasses(port) {
			bypassing = append(bypassing, strconv.Itoa(int(port)))
		}
	}
	if include == "" && len(bypassing) == 0 && asked(0) {
		return []string{allPorts}
	}
	return bypassing
}

// anyPort asks for all ports; 0 stands for those that nobody declares.
func anyPort(int32) bool { return true }

// bypass is which ports the pod includes, and which ones are not redirected to the proxy.
func bypass(pod *corev1.Pod) (include string, bypasses func(int32) bool) {
	include, exclude := redirection(pod)
	if include == allPorts {
		excluded := parsePorts(exclude)
		return include, func(port int32) bool { return excluded[port] }
	}
	included := parsePorts(include)
	return include, func(port int32) bool { return !included[port] }
}

// proxyPorts are the ports of the pod's proxy itself.
func proxyPorts(pod *corev1.Pod) func(int32) bool {
	statusPort := parsePorts(pod.Annotations[annotationStatusPort])
	return func(port int32) bool { return istioPorts[port] || statusPort[port] }
}

// redirection is which inbound ports are redirected to the proxy, and which are not. Without annotations, the arguments
// of the init container have the mesh's defaults; where a CNI plugin takes its place, the injector writes the defaults
// into the annotations.
func redirection(pod *corev1.Pod) (include, exclude string) {
	include, exclude = allPorts, ""
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name != initContainer {
			continue
		}
		args := pod.Spec.InitContainers[i].Args
		for j := 0; j+1 < len(args); j++ {
			switch args[j] {
			case "-b":
				include = args[j+1]
			case "-d":
				exclude = args[j+1]
			}
		}
	}
	if text, ok := pod.Annotations[annotationInclude]; ok {
		include = text
	}
	if text, ok := pod.Annotations[annotationExclude]; ok {
		exclude = text
	}
	return strings.TrimSpace(include), strings.TrimSpace(exclude)
}

func parsePorts(text string) map[int32]bool {
	ports := map[int32]bool{}
	for _, field := range strings.Split(text, ",") {
		if port, err := strconv.ParseUint(strings.TrimSpace(field), 10, 16); err == nil {
			ports[int32(port)] = true
		}
	}
	return ports
}

// containerPorts are the TCP ports that the pod's own containers declare.
func containerPorts(pod *corev1.Pod) []int32 {
	var ports []int32
	for _, container := range serving(pod) {
		if container.Name == proxyContainer {
			continue
		}
		for _, port := range container.Ports {
			if tcp(port.Protocol) {
				ports = append(ports, port.ContainerPort)
			}
		}
	}
	return ports
}

// serving are the containers that run as long as the pod: init containers only if they restart always.
func serving(pod *corev1.Pod) []corev1.Container {
	containers := slices.Clone(pod.Spec.Containers)
	for _, container := range pod.Spec.InitContainers {
		if container.RestartPolicy != nil && *container.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			containers = append(containers, container)
		}
	}
	return containers
}

func tcp(protocol corev1.Protocol) bool { return protocol == "" || protocol == corev1.ProtocolTCP }

func proxyRestarts(pod *corev1.Pod) int32 {
	for _, statuses := range [][]corev1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses} {
		for _, status := range statuses {
			if status.Name == proxyContainer {
				return status.RestartCount
			}
		}
	}
	return 0
}

func ready(pod *corev1.Pod) bool {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

func finished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// cronJobName is the form of the names of a CronJob's Jobs, as istiod tells them.
var cronJobName = regexp.MustCompile(`^(.+)-\d{8,10}$`)

// workloadName is the name of the pod's workload that telemetry carries: the one that the injector wrote into the proxy's
// environment. The label, which it is taken from where there is one, may have changed since. Of a pod without a sidecar it is
// what istiod tells (GetWorkloadMetaFromPod).
func workloadName(pod *corev1.Pod) string {
	if proxy := sidecar(pod); proxy != nil {
		if name := env(proxy, envWorkloadName); name != "" {
			return name
		}
	}
	if name, ok := pod.Labels[labelWorkloadName]; ok {
		return name
	}
	_, name := controller(pod)
	return name
}

// controller is the kind and name of what controls the pod in the end, as far as it can be told from the pod alone; the
// pod itself if nothing does.
func controller(pod *corev1.Pod) (kind, name string) {
	owner := metav1.GetControllerOfNoCopy(pod)
	if owner == nil || pod.GenerateName == "" || owner.Name == "" {
		return "Pod", pod.Name
	}
	switch owner.Kind {
	case "ReplicaSet":
		for _, parent := range []struct{ kind, label string }{{"Deployment", labelTemplateHash}, {"Rollout", labelRolloutHash}} {
			if hash := pod.Labels[parent.label]; hash != "" && strings.HasSuffix(owner.Name, hash) {
				return parent.kind, strings.TrimSuffix(owner.Name, "-"+hash)
			}
		}
	case "ReplicationController":
		if config := pod.Labels["deploymentconfig"]; config != "" {
			return "DeploymentConfig", config
		}
	case "Job":
		if match := cronJobName.FindStringSubmatch(owner.Name); match != nil {
			return "CronJob", match[1]
		}
	}
	return owner.Kind, owner.Name
}

func (res *resolution) resolveRollingOut(context.Context) error {
	res.facts.RollingOut = rollingOut(res.concerned(), res.facts.Target.Scope == v1alpha1.ScopeMesh)
	return nil
}

// rollingOut are the workloads that have pods of more than one revision, or a pod that has no address yet. A workload is
// told by its controller: several may share one name by label, each with a revision of its own. Qualified names have their
// namespace before them.
func rollingOut(pods []*corev1.Pod, qualified bool) []string {
	revision := map[string]string{}
	moving := map[string]bool{}
	for _, pod := range pods {
		kind, name := controller(pod)
		key := pod.Namespace + "/" + kind + "/" + name
		hash := podRevision(pod)
		before, seen := revision[key]
		if seen && before != hash || pod.Status.PodIP == "" {
			workload := workloadName(pod)
			if qualified {
				workload = pod.Namespace + "/" + workload
			}
			moving[workload] = true
		}
		revision[key] = hash
	}
	if len(moving) == 0 {
		return nil
	}
	return slices.Sorted(maps.Keys(moving))
}

func podRevision(pod *corev1.Pod) string {
	for _, label := range []string{labelTemplateHash, labelRolloutHash, labelRevisionHash} {
		if hash := pod.Labels[label]; hash != "" {
			return hash
		}
	}
	return ""
}

// keptAnnotations and keptEnv are what is read of a pod.
var (
	keptAnnotations = []string{
		annotationAmbient, annotationStatus, annotationTemplates, annotationInterception, annotationExclude,
		annotationInclude, annotationStatusPort, annotationRevision, annotationInject,
		annotationEviction,
	}
	keptEnv = []string{envGenerator, envInterception, envWorkloadName}
)

// TrimPod is a cache transform that keeps of a pod what is read here, so that the memory of a large cluster's pods stays
// small. What it does not know it leaves as it is.
func TrimPod(obj any) (any, error) {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return obj, nil
	}
	annotations := map[string]string{}
	for _, name := range keptAnnotations {
		if value, ok := pod.Annotations[name]; ok {
			annotations[name] = value
		}
	}
	if _, ok := annotations[annotationStatus]; ok {
		// That it is there is all that counts, and it is long.
		annotations[annotationStatus] = ""
	}
	trimmed := &corev1.Pod{
		TypeMeta: pod.TypeMeta,
		ObjectMeta: metav1.ObjectMeta{
			Name: pod.Name, GenerateName: pod.GenerateName, Namespace: pod.Namespace, UID: pod.UID,
			ResourceVersion: pod.ResourceVersion, CreationTimestamp: pod.CreationTimestamp,
			DeletionTimestamp: pod.DeletionTimestamp, Labels: pod.Labels, Annotations: annotations,
			OwnerReferences: pod.OwnerReferences,
		},
		Spec: corev1.PodSpec{
			HostNetwork: pod.Spec.HostNetwork,
			// Thousands of pods share a few names.
			ServiceAccountName: pod.Spec.ServiceAccountName,
			Containers:         trimContainers(pod, pod.Spec.Containers),
			InitContainers:     trimContainers(pod, pod.Spec.InitContainers),
		},
		Status: corev1.PodStatus{
			Phase: pod.Status.Phase, PodIP: pod.Status.PodIP, PodIPs: trimIPs(pod.Status.PodIPs),
			ContainerStatuses:     trimStatuses(pod.Status.ContainerStatuses),
			InitContainerStatuses: trimStatuses(pod.Status.InitContainerStatuses),
		},
	}
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			trimmed.Status.Conditions = []corev1.PodCondition{{
				Type: condition.Type, Status: condition.Status, LastTransitionTime: condition.LastTransitionTime,
			}}
		}
	}
	return trimmed, nil
}

// trimIPs keeps a pod's addresses if it has more than the one that is kept anyway.
func trimIPs(all []corev1.PodIP) []corev1.PodIP {
	if len(all) < 2 {
		return nil
	}
	return all
}

func trimContainers(pod *corev1.Pod, containers []corev1.Container) []corev1.Container {
	var kept []corev1.Container
	for _, container := range containers {
		trimmed := corev1.Container{Name: container.Name, RestartPolicy: container.RestartPolicy, Ports: container.Ports}
		trimProbes(&trimmed, probedPorts(pod, container))
		switch container.Name {
		case initContainer:
			trimmed.Args = container.Args
		case proxyContainer:
			if role := proxyRole(&container); role == roleRouter || role == roleWaypoint {
				trimmed.Args = []string{"proxy", role}
			}
			for _, variable := range container.Env {
				if slices.Contains(keptEnv, variable.Name) {
					trimmed.Env = append(trimmed.Env, variable)
				}
			}
		}
		kept = append(kept, trimmed)
	}
	return kept
}

func trimStatuses(statuses []corev1.ContainerStatus) []corev1.ContainerStatus {
	for _, status := range statuses {
		if status.Name == proxyContainer {
			return []corev1.ContainerStatus{{Name: status.Name, RestartCount: status.RestartCount}}
		}
	}
	return nil
}
