package resolve

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

const (
	labelInjection    = "istio-injection"
	injectionEnabled  = "enabled"
	injectionDisabled = "disabled"

	labelInject      = "sidecar.istio.io/inject"
	annotationInject = "sidecar.istio.io/inject"
	injectFalse      = "false"

	// namesInMessage bounds how many names a message has.
	namesInMessage = 5

	messageOthersInRoot = "Namespace %q is the mesh's root namespace, where a selector matches pods of all namespaces, and pod %q in namespace %q is one of them: narrow the target so that no other namespace's pods match, or move the workload and its profile to a namespace of their own."
)

// resolveMeshTarget refuses a profile for the mesh anywhere but in a root namespace, and then looks no further: nobody
// learns from a profile what is in other namespaces.
func (res *resolution) resolveMeshTarget(ctx context.Context) error {
	res.facts.Target.Scope = v1alpha1.ScopeMesh
	roots, err := res.rootNamespaces(ctx, res.resolver.RootNamespace)
	if err != nil || slices.Contains(roots, res.profile.Namespace) {
		return err
	}
	text, err := res.readMesh(ctx, res.resolver.RootNamespace, revisions(nil, res.revision)[0])
	mesh := ParseMesh(text, res.resolver.RootNamespace)
	res.misplaced = true
	res.problem(v1alpha1.ReasonInvalid, "", fmt.Sprintf(
		"Target kind Mesh is for the mesh's root namespace, which is %q: create the profile there, or create one with target kind Namespace here.", mesh.RootNamespace))
	return err
}

// listPods returns the pods of a namespace, or of all if it is empty, that are not finished, ordered by namespace and name.
func listPods(ctx context.Context, s *source, namespace string) ([]*corev1.Pod, error) {
	items, err := s.list(ctx, core, &corev1.PodList{}, client.InNamespace(namespace))
	if err != nil {
		return nil, err
	}
	return unfinished(items), nil
}

// meshPods are the pods that a profile for the mesh is about: those with a part in the mesh, and those that should have
// one. All others, such as the control plane's, are outside on purpose, and STRICT does not concern them.
func (res *resolution) meshPods(ctx context.Context) ([]*corev1.Pod, error) {
	items, err := res.list(ctx, core, &corev1.NamespaceList{})
	if err != nil {
		return nil, err
	}
	injected := map[string]bool{}
	for _, item := range items {
		if namespace, ok := item.(*corev1.Namespace); ok {
			injected[namespace.Name] = injects(namespace.Labels)
		}
	}
	var pods []*corev1.Pod
	for _, pod := range res.everyPod {
		if sidecar(pod) != nil || pod.Annotations[annotationAmbient] == injectionEnabled ||
			injected[pod.Namespace] && !pod.Spec.HostNetwork && !optsOut(pod) {
			pods = append(pods, pod)
		}
	}
	return pods, nil
}

// injects says whether a namespace with these labels asks for sidecars.
func injects(labels map[string]string) bool {
	switch labels[labelInjection] {
	case injectionEnabled:
		return true
	case injectionDisabled:
		return false
	default:
		return labels[labelRevision] != ""
	}
}

// optsOut says that a pod asks for no sidecar; the label counts before the annotation, as in istiod.
func optsOut(pod *corev1.Pod) bool {
	if value, ok := pod.Labels[labelInject]; ok {
		return value == injectFalse
	}
	return pod.Annotations[annotationInject] == injectFalse
}

// resolveReach finds what a target must not reach, or not without a word: the mesh by way of its root namespace, other
// namespaces' pods, and gateways.
func (res *resolution) resolveReach(ctx context.Context) error {
	profile, inRoot := res.profile, res.profile.Namespace == res.facts.Mesh.RootNamespace
	switch res.facts.Target.Scope {
	case v1alpha1.ScopeNamespace:
		if inRoot {
			res.problem(v1alpha1.ReasonInvalid, "", fmt.Sprintf(
				"Namespace %q is the mesh's root namespace, where what is said of the namespace counts for the whole mesh: create the profile with target kind Mesh if that is meant, or with kind Service or Workload.", profile.Namespace))
		}
		res.reachGateways()
	case v1alpha1.ScopeMesh:
		res.reachGateways()
	case v1alpha1.ScopeGateway:
		if profile.Spec.MTLS != nil {
			res.problem(v1alpha1.ReasonInvalid, v1alpha1.SectionMTLS,
				"The target's pods are a gateway, whose listeners have TLS settings of their own that no PeerAuthentication changes: remove mtls, and keep jwt and authorization; or target the Services behind the gateway.")
		}
	case v1alpha1.ScopeWorkload:
		if message := rootProblem(profile, res.facts.Mesh); message != "" {
			res.problem(v1alpha1.ReasonInvalid, v1alpha1.SectionMTLS, message)
		}
	}
	if inRoot && readsRequests(profile) {
		return res.reachOthers(ctx)
	}
	return nil
}

// reachOthers refuses a selector in the root namespace that matches another namespace's pod.
func (res *resolution) reachOthers(ctx context.Context) error {
	pods, err := findPods(ctx, res.source, "", res.facts.Target.Selector)
	if err != nil {
		return err
	}
	for _, pod := range pods {
		if pod.Namespace != res.profile.Namespace && sidecar(pod) != nil {
			res.problem(v1alpha1.ReasonInvalid, facts.RequestSection(res.profile), fmt.Sprintf(messageOthersInRoot, res.profile.Namespace, pod.Name, pod.Namespace))
			return nil
		}
	}
	return nil
}

// reachGateways names the gateways that the profile's policies about requests reach, and asks for a word about them.
func (res *resolution) reachGateways() {
	if !readsRequests(res.profile) {
		return
	}
	res.facts.Gateways = gatewayWorkloads(res.pods)
	include := res.profile.Spec.Target.IncludeGateways
	if len(res.facts.Gateways) == 0 || include != nil && *include {
		return
	}
	section := facts.RequestSection(res.profile)
	res.problem(v1alpha1.ReasonAffectsGateways, section, fmt.Sprintf(
		"The target includes gateways, for which %s would count too: %s. Set target.includeGateways: true if that is meant, or use profiles whose targets do not include them.",
		section, listNames(res.facts.Gateways)))
}

// listNames writes the first of some names, and how many there are more.
func listNames(names []string) string {
	if len(names) <= namesInMessage {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:namesInMessage], ", "), len(names)-namesInMessage)
}
