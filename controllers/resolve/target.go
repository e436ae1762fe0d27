package resolve

import (
	"context"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

// core is the zero kind, of what every API server serves.
var core schema.GroupVersionKind

func (res *resolution) resolveTarget(ctx context.Context) error {
	var namespace corev1.Namespace
	found, err := res.get(ctx, core, "", res.profile.Namespace, &namespace)
	if err != nil {
		return err
	}
	res.revision = namespace.Labels[labelRevision]
	if found && terminating(&namespace) {
		res.problem(v1alpha1.ReasonTargetNotFound, "", fmt.Sprintf(
			"Namespace %q is being deleted, and nothing is written into it: create the profile in another namespace, or wait until it goes too.",
			namespace.Name))
	}
	switch target := res.profile.Spec.Target; target.Kind {
	case v1alpha1.TargetMesh:
		return res.resolveMeshTarget(ctx)
	case v1alpha1.TargetNamespace:
		res.facts.Target.Scope = v1alpha1.ScopeNamespace
		return nil
	case v1alpha1.TargetGateway:
		return res.resolveGateway(ctx)
	case v1alpha1.TargetWorkload:
		res.facts.Target.Scope = v1alpha1.ScopeWorkload
		res.facts.Target.Selector = workloadSelector(target)
		return nil
	case v1alpha1.TargetService:
	}
	return res.resolveService(ctx)
}

// resolveService finds the Service that is the target.
func (res *resolution) resolveService(ctx context.Context) error {
	res.facts.Target.Scope = v1alpha1.ScopeWorkload
	name := res.profile.Spec.Target.Name
	var service corev1.Service
	found, err := res.get(ctx, core, res.profile.Namespace, name, &service)
	if err != nil {
		return err
	}
	if !found {
		res.problem(v1alpha1.ReasonTargetNotFound, "", fmt.Sprintf(
			"Service %q does not exist in namespace %q: create it, or delete the profile.", name, res.profile.Namespace))
		return nil
	}
	if problem := serviceProblem(&service); problem != "" {
		res.problem(v1alpha1.ReasonTargetNotFound, "", problem)
		return nil
	}
	res.facts.Target.Selector = maps.Clone(service.Spec.Selector)
	res.services = []*corev1.Service{&service}
	return nil
}

// serviceProblem says why a Service cannot be a target; empty if it can.
func serviceProblem(service *corev1.Service) string {
	switch {
	case service.Spec.Type == corev1.ServiceTypeExternalName:
		return fmt.Sprintf("Service %q in namespace %q is of type ExternalName, an alias of %q without pods of its own: target the Service that it stands for, in that Service's namespace.",
			service.Name, service.Namespace, service.Spec.ExternalName)
	case len(service.Spec.Selector) == 0:
		return fmt.Sprintf("Service %q in namespace %q has no selector, so it does not say which pods it stands for: give it a selector, or create the profile with target kind Workload and the pods' labels.",
			service.Name, service.Namespace)
	}
	return ""
}

// serviceSelector is what a Service selects pods by; empty if it selects none. An ExternalName Service selects none even
// with a selector.
func serviceSelector(service *corev1.Service) map[string]string {
	if service.Spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	return service.Spec.Selector
}

func workloadSelector(target v1alpha1.Target) map[string]string {
	if target.Selector == nil {
		return nil
	}
	selector := make(map[string]string, len(target.Selector.MatchLabels))
	for k, v := range target.Selector.MatchLabels {
		selector[k] = string(v)
	}
	return selector
}

func terminating(namespace *corev1.Namespace) bool {
	return !namespace.DeletionTimestamp.IsZero() || namespace.Status.Phase == corev1.NamespaceTerminating
}

// rootProblem says that a selector in the root namespace does nothing: Istio takes a PeerAuthentication there for the
// mesh's own and ignores one with a selector, even for pods of that namespace.
func rootProblem(profile *v1alpha1.ServiceSecurityProfile, mesh facts.Mesh) string {
	if profile.Namespace != mesh.RootNamespace || profile.Spec.MTLS == nil {
		return ""
	}
	return fmt.Sprintf("Namespace %q is the mesh's root namespace, where Istio ignores a PeerAuthentication for single workloads: remove mtls, or move the workload and its profile to a namespace of their own.",
		profile.Namespace)
}
