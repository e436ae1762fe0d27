package resolve

import (
	"context"
	"maps"
	"math"
	"slices"
	"time"

	securityv1beta1 "istio.io/api/security/v1beta1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

// PeerMode is what istiod makes of all PeerAuthentications for one pod.
type PeerMode struct {
	facts.Form
	// From names the object that the mode comes from, "namespace/name"; empty for Istio's default.
	From string
}

// ComposePeerMode tells what applies to a pod of a namespace with these labels, as istiod's ComposePeerAuthentication
// does: the workload's policy, then the namespace's, then the mesh's (without a selector in the root namespace), then
// PERMISSIVE. Of several of one scope only the oldest counts, whole. What is unset is inherited. A policy with a selector
// in the root namespace is nothing, not even for pods of that namespace; only a policy with a selector has ports.
func ComposePeerMode(rootNamespace, namespace string, labels map[string]string, policies []*securityv1.PeerAuthentication) PeerMode {
	mesh, space, workload := oldestOfEach(rootNamespace, namespace, labels, policies)
	out := PeerMode{Form: facts.Form{Mode: v1alpha1.ModePermissive}}
	for _, policy := range []*securityv1.PeerAuthentication{mesh, space, workload} {
		if policy == nil {
			continue
		}
		if mode := modeOf(policy.Spec.GetMtls()); mode != "" {
			out.Mode, out.From = mode, policy.Namespace+"/"+policy.Name
		}
	}
	if workload != nil {
		out.Ports = portsOf(workload)
	}
	return out
}

// oldestOfEach are the policies that count for a pod: the mesh's, its namespace's and its workload's.
func oldestOfEach(rootNamespace, namespace string, labels map[string]string, policies []*securityv1.PeerAuthentication) (mesh, space, workload *securityv1.PeerAuthentication) {
	for _, policy := range policies {
		selector := policy.Spec.GetSelector().GetMatchLabels()
		switch {
		case len(selector) == 0 && policy.Namespace == rootNamespace:
			mesh = older(mesh, policy)
		case policy.Namespace != namespace || namespace == rootNamespace:
		case len(selector) == 0:
			space = older(space, policy)
		case matches(selector, labels):
			workload = older(workload, policy)
		}
	}
	return mesh, space, workload
}

// Weakest is the weakest of the form's modes on ports other than the excepted ones. Every port that the form names
// counts, declared or not: Istio applies it to ports without a Service too.
func Weakest(form facts.Form, excepted []v1alpha1.PortMTLS) v1alpha1.Mode {
	weakest := form.Mode
	for port, mode := range form.Ports {
		isExcepted := slices.ContainsFunc(excepted, func(e v1alpha1.PortMTLS) bool { return e.Port == port })
		if !isExcepted {
			weakest = facts.Weaker(weakest, mode)
		}
	}
	return weakest
}

func older(a, b *securityv1.PeerAuthentication) *securityv1.PeerAuthentication {
	if a == nil || olderThan(b, a) {
		return b
	}
	return a
}

// modeOf is a mode in the profile's words; empty if it is unset.
func modeOf(mtls *securityv1beta1.PeerAuthentication_MutualTLS) v1alpha1.Mode {
	switch mtls.GetMode() {
	case securityv1beta1.PeerAuthentication_MutualTLS_STRICT:
		return v1alpha1.ModeStrict
	case securityv1beta1.PeerAuthentication_MutualTLS_PERMISSIVE:
		return v1alpha1.ModePermissive
	case securityv1beta1.PeerAuthentication_MutualTLS_DISABLE:
		return v1alpha1.ModeDisabled
	default:
		return ""
	}
}

// portsOf are the exceptions of a policy; a port that is unset is none.
func portsOf(policy *securityv1.PeerAuthentication) map[int32]v1alpha1.Mode {
	var ports map[int32]v1alpha1.Mode
	for port, mtls := range policy.Spec.GetPortLevelMtls() {
		mode := modeOf(mtls)
		if mode == "" || port > math.MaxUint16 {
			continue
		}
		if ports == nil {
			ports = map[int32]v1alpha1.Mode{}
		}
		ports[int32(port)] = mode
	}
	return ports
}

func (res *resolution) resolvePolicies(ctx context.Context) error {
	var own securityv1.PeerAuthentication
	exists, err := res.get(ctx, PeerAuthenticationKind, res.profile.Namespace, res.profile.Name, &own)
	if err != nil {
		return err
	}
	if exists {
		res.facts.Policy = describePolicy(&own, res.profile)
	}
	sets := res.policyLabels()
	policies, err := res.findPolicies(ctx, slices.Concat(labelSets(res.pods), sets))
	if err != nil || !res.has(PeerAuthenticationKind) {
		return err
	}
	res.facts.CompetingPolicies = res.competing(policies)
	root := res.facts.Mesh.RootNamespace
	res.facts.Effective = effective(root, res.profile, sets, policies)
	// Without labels no workload policy applies, which leaves what is inherited. The profile's own object has a selector,
	// unless somebody took it away: then it must not be its own parent.
	parents := slices.DeleteFunc(slices.Clone(policies), func(p *securityv1.PeerAuthentication) bool {
		return p.Name == res.profile.Name && speaksFor(p, res.profile) || metav1.IsControlledBy(p, res.profile)
	})
	inherited := ComposePeerMode(root, res.profile.Namespace, nil, parents)
	res.facts.Inherited, res.facts.InheritedFrom = inherited.Mode, inherited.From
	return nil
}

// findPolicies returns the PeerAuthentications that may apply to a pod with one of the sets of labels.
func (res *resolution) findPolicies(ctx context.Context, sets []map[string]string) ([]*securityv1.PeerAuthentication, error) {
	policies, err := find(ctx, res.source, policiesBySelector, res.profile.Namespace, append(pairs(sets), noSelector)...)
	if err != nil || res.profile.Namespace == res.facts.Mesh.RootNamespace {
		return policies, err
	}
	mesh, err := find(ctx, res.source, policiesBySelector, res.facts.Mesh.RootNamespace, noSelector)
	return append(policies, mesh...), err
}

// policyLabels are the labels of the pods whose mode is told. Pods outside the mesh are not among them: no policy
// applies to them, and they are reported apart. Without pods it is a pod with just the labels that the target asks for,
// or, if the target is lost, those that the profile's own object asks for, since what is in force stays.
func (res *resolution) policyLabels() []map[string]string {
	var sets []map[string]string
	for _, pod := range res.pods {
		switch membership(pod) {
		case facts.MemberNone, facts.MemberNoInterception:
		default:
			sets = append(sets, pod.Labels)
		}
	}
	switch {
	case len(sets) > 0:
		return sets
	case len(res.facts.Target.Selector) > 0:
		return []map[string]string{res.facts.Target.Selector}
	case res.facts.Policy.Owned && len(res.facts.Policy.Selector) > 0:
		return []map[string]string{res.facts.Policy.Selector}
	default:
		return nil
	}
}

// effective is the weakest mode over pods with these labels and over the ports that the profile does not except; empty
// without any.
func effective(root string, profile *v1alpha1.ServiceSecurityProfile, sets []map[string]string, policies []*securityv1.PeerAuthentication) v1alpha1.Mode {
	var excepted []v1alpha1.PortMTLS
	if profile.Spec.MTLS != nil {
		excepted = profile.Spec.MTLS.PortLevel
	}
	var weakest v1alpha1.Mode
	for _, labels := range sets {
		weakest = facts.Weaker(weakest, Weakest(ComposePeerMode(root, profile.Namespace, labels, policies).Form, excepted))
	}
	return weakest
}

// competing are the other workload policies that match a target pod. Those of profiles that are in conflict with this
// one are left out: the conflict says it, and they go when it is resolved.
func (res *resolution) competing(policies []*securityv1.PeerAuthentication) []facts.CompetingPolicy {
	if res.profile.Namespace == res.facts.Mesh.RootNamespace {
		return nil
	}
	var own *securityv1.PeerAuthentication
	for _, policy := range policies {
		if policy.Name == res.profile.Name && speaksFor(policy, res.profile) {
			own = policy
		}
	}
	var all []facts.CompetingPolicy
	for _, policy := range policies {
		if policy.Name == res.profile.Name || policy.Namespace != res.profile.Namespace || res.ofRival(policy) {
			continue
		}
		for _, pod := range res.pods {
			if matches(policy.Spec.GetSelector().GetMatchLabels(), pod.Labels) {
				all = append(all, facts.CompetingPolicy{
					Namespace: policy.Namespace, Name: policy.Name, Pod: pod.Name,
					Wins: own == nil || olderThan(policy, own),
				})
				break
			}
		}
	}
	return all
}

func (res *resolution) ofRival(obj client.Object) bool {
	owner := metav1.GetControllerOfNoCopy(obj)
	return owner != nil && generated(obj) && res.rivals[owner.UID]
}

// generated says that a profile controls the object.
func generated(obj client.Object) bool {
	owner := metav1.GetControllerOfNoCopy(obj)
	return owner != nil && owner.Kind == v1alpha1.Kind && owner.APIVersion == v1alpha1.SchemeGroupVersion.String()
}

// speaksFor says that the profile controls the object, or that the object's owner has put it up for adoption by it: what
// it says is then in force in the profile's name already, and is no weaker for being taken over.
func speaksFor(obj client.Object, profile *v1alpha1.ServiceSecurityProfile) bool {
	return metav1.IsControlledBy(obj, profile) ||
		metav1.GetControllerOfNoCopy(obj) == nil && obj.GetAnnotations()[v1alpha1.AnnotationAdopt] == profile.Name
}

func describePolicy(policy *securityv1.PeerAuthentication, profile *v1alpha1.ServiceSecurityProfile) facts.Policy {
	described := facts.Policy{
		Exists:   true,
		Owned:    speaksFor(policy, profile),
		Form:     facts.Form{Mode: modeOf(policy.Spec.GetMtls()), Ports: portsOf(policy)},
		Selector: maps.Clone(policy.Spec.GetSelector().GetMatchLabels()),
	}
	if !metav1.IsControlledBy(policy, profile) {
		return described
	}
	// Both are hints for a rollout whose status was lost. One that cannot be read is as good as none.
	if switched, err := time.Parse(time.RFC3339, policy.Annotations[v1alpha1.AnnotationSwitchedAt]); err == nil {
		described.SwitchedAt = switched
	}
	if previous, err := facts.ParseForm(policy.Annotations[v1alpha1.AnnotationPreviousMode]); err == nil {
		described.Previous = previous
	}
	return described
}
