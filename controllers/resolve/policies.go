package resolve

import (
	"context"
	"maps"
	"math"
	"slices"
	"time"

	securityv1beta1 "istio.io/api/security/v1beta1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"
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
			mesh = oldest(mesh, policy)
		case policy.Namespace != namespace || namespace == rootNamespace:
		case len(selector) == 0:
			space = oldest(space, policy)
		case matches(selector, labels):
			workload = oldest(workload, policy)
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
	if res.facts.Target.Scope == v1alpha1.ScopeGateway || res.misplaced {
		return nil
	}
	var own securityv1.PeerAuthentication
	exists, err := res.get(ctx, PeerAuthenticationKind, res.profile.Namespace, facts.PeerName(res.profile), &own)
	if err != nil {
		return err
	}
	if exists {
		res.facts.Policy = describePolicy(&own, res.profile)
	}
	governed := res.governed(res.pods)
	policies, err := res.findPolicies(ctx, governed)
	if err != nil || !res.has(PeerAuthenticationKind) {
		return err
	}
	var former *securityv1.PeerAuthentication
	if res.resolver.member && !exists {
		former = res.former(governed, policies)
	}
	if former != nil {
		res.facts.Policy = describePolicy(former, res.profile)
		res.facts.Policy.Former, res.facts.Policy.Selector = true, maps.Clone(res.facts.Target.Selector)
	}
	if res.facts.CompetingPolicies, err = res.competing(ctx, policies, former); err != nil {
		return err
	}
	res.facts.Effective = res.effective(governed, policies)
	if err := res.exceptPods(ctx, policies); err != nil {
		return err
	}
	inherited := res.inherited(policies)
	res.facts.Inherited, res.facts.InheritedFrom = inherited.Mode, inherited.From
	res.resolveRefused(policies)
	return nil
}

// former is the profile's object that is in force for all pods of a workload under the name that it had when it was told apart from
// others in another way: what was written there of its rollout goes on, until the workload's own object takes its place.
func (res *resolution) former(governed []subject, policies []*securityv1.PeerAuthentication) *securityv1.PeerAuthentication {
	var found *securityv1.PeerAuthentication
	for _, pod := range governed {
		_, _, policy := oldestOfEach(res.facts.Mesh.RootNamespace, pod.namespace, pod.labels, policies)
		if policy == nil || found != nil && policy != found || !metav1.IsControlledBy(policy, res.profile) {
			return nil
		}
		found = policy
	}
	return found
}

// Inherited reads once more what would be in force without the profile's own object, given what was resolved of it before;
// empty if PeerAuthentications are not installed. It costs a list of them in the profile's namespace, and one in the root
// namespace.
func (r *Resolver) Inherited(ctx context.Context, profile *v1alpha1.ServiceSecurityProfile, before facts.Facts) (v1alpha1.Mode, error) {
	res := &resolution{source: r.source(), resolver: r, profile: profile, facts: before}
	policies, err := listAll(ctx, res.source, policiesBySelector, profile.Namespace)
	if err != nil {
		return "", err
	}
	if root := before.Mesh.RootNamespace; root != profile.Namespace {
		mesh, err := listAll(ctx, res.source, policiesBySelector, root)
		if err != nil {
			return "", err
		}
		policies = append(policies, mesh...)
	}
	if !res.has(PeerAuthenticationKind) {
		return "", nil
	}
	return res.inherited(policies).Mode, nil
}

func (res *resolution) inherited(policies []*securityv1.PeerAuthentication) PeerMode {
	return ComposePeerMode(res.facts.Mesh.RootNamespace, res.profile.Namespace, nil, res.parents(policies))
}

// parents are the policies that a target inherits from: without labels no workload policy applies to it, and of a
// namespace's or the mesh's own scope none is its parent. A workload's own object has a selector, unless somebody took it
// away: then it must not be its own parent. What the profile of a whole namespace says for all is the parent of each workload.
func (res *resolution) parents(policies []*securityv1.PeerAuthentication) []*securityv1.PeerAuthentication {
	return slices.DeleteFunc(slices.Clone(policies), func(p *securityv1.PeerAuthentication) bool {
		switch res.facts.Target.Scope {
		case v1alpha1.ScopeMesh:
			return true
		case v1alpha1.ScopeNamespace:
			return p.Namespace != res.facts.Mesh.RootNamespace
		case v1alpha1.ScopeWorkload, v1alpha1.ScopeGateway:
		}
		return res.speaksAsPeer(p) || !res.resolver.member && metav1.IsControlledBy(p, res.profile)
	})
}

// findPolicies returns the PeerAuthentications that may apply to one of the pods, or to a pod of the target.
func (res *resolution) findPolicies(ctx context.Context, governed []subject) ([]*securityv1.PeerAuthentication, error) {
	namespace, root := res.profile.Namespace, res.facts.Mesh.RootNamespace
	var policies []*securityv1.PeerAuthentication
	var err error
	switch res.facts.Target.Scope {
	case v1alpha1.ScopeMesh:
		return listAll(ctx, res.source, policiesBySelector, "")
	case v1alpha1.ScopeNamespace:
		policies, err = listAll(ctx, res.source, policiesBySelector, namespace)
	case v1alpha1.ScopeWorkload, v1alpha1.ScopeGateway:
		sets := labelSets(res.pods)
		for _, pod := range governed {
			sets = append(sets, pod.labels)
		}
		policies, err = find(ctx, res.source, policiesBySelector, namespace, append(pairs(sets), noSelector)...)
	}
	if err != nil || namespace == root {
		return policies, err
	}
	mesh, err := find(ctx, res.source, policiesBySelector, root, noSelector)
	return append(policies, mesh...), err
}

// governed are those of some of the target's pods whose mode is told. Pods outside the mesh are not among them, nor gateways: no policy applies to
// them, and they are reported apart. Without pods it is a pod with just the labels that the target asks for, or, if the
// target is lost, those that the profile's own object asks for, since what is in force stays.
func (res *resolution) governed(pods []*corev1.Pod) []subject {
	var all []subject
	for _, pod := range pods {
		switch membership(pod) {
		case facts.MemberNone, facts.MemberNoInterception:
		default:
			if !isGateway(pod) {
				all = append(all, subject{pod.Namespace, pod.Labels})
			}
		}
	}
	stand := subject{namespace: res.profile.Namespace}
	switch {
	case len(all) > 0:
		return all
	case wide(res.profile.Spec.Target.Kind):
	case len(res.facts.Target.Selector) > 0:
		stand.labels = res.facts.Target.Selector
	case res.facts.Policy.Owned && len(res.facts.Policy.Selector) > 0:
		stand.labels = res.facts.Policy.Selector
	default:
		return nil
	}
	return []subject{stand}
}

// effective is the weakest mode over the pods and over the ports that are not excepted; empty without any.
func (res *resolution) effective(governed []subject, policies []*securityv1.PeerAuthentication) v1alpha1.Mode {
	excepted := res.exceptions
	if res.profile.Spec.MTLS != nil {
		excepted = slices.Concat(excepted, res.profile.Spec.MTLS.PortLevel)
	}
	root, near := res.facts.Mesh.RootNamespace, res.near(policies)
	var weakest v1alpha1.Mode
	told := map[string]bool{}
	for _, pod := range governed {
		// Where no policy has a selector, one pod stands for its whole namespace.
		alike := !slices.ContainsFunc(near(pod.namespace), func(p *securityv1.PeerAuthentication) bool {
			return p.Namespace == pod.namespace && len(p.Spec.GetSelector().GetMatchLabels()) > 0
		})
		if alike && told[pod.namespace] {
			continue
		}
		told[pod.namespace] = true
		mode := Weakest(ComposePeerMode(root, pod.namespace, pod.labels, near(pod.namespace)).Form, excepted)
		weakest = facts.Weaker(weakest, mode)
		res.overridden(pod, mode, near(pod.namespace))
	}
	slices.Sort(res.facts.Overrides)
	return weakest
}

// overridden notes the policy that makes a pod of a whole namespace, or of the mesh, weaker than the profile asks.
func (res *resolution) overridden(pod subject, mode v1alpha1.Mode, policies []*securityv1.PeerAuthentication) {
	scope, mtls := res.facts.Target.Scope, res.profile.Spec.MTLS
	whole := scope == v1alpha1.ScopeNamespace || scope == v1alpha1.ScopeMesh
	if !whole || mtls == nil || mode == mtls.Mode || facts.Weaker(mode, mtls.Mode) != mode {
		return
	}
	_, space, workload := oldestOfEach(res.facts.Mesh.RootNamespace, pod.namespace, pod.labels, policies)
	if workload == nil && scope == v1alpha1.ScopeMesh {
		workload = space
	}
	if workload == nil || metav1.IsControlledBy(workload, res.profile) {
		return // it is the profile's own that is not written yet, or one that competes with it
	}
	if name := workload.Namespace + "/" + workload.Name; !slices.Contains(res.facts.Overrides, name) {
		res.facts.Overrides = append(res.facts.Overrides, name)
	}
}

// competing are the other policies of the target's scope: those that match one of its pods or, of a whole namespace or the
// mesh, those without a selector beside its own. Those of profiles that are in conflict with this one are left out: the
// conflict says it, and they go when it is resolved. Own is what stands for the profile's if there is none of its name.
func (res *resolution) competing(ctx context.Context, policies []*securityv1.PeerAuthentication, own *securityv1.PeerAuthentication) ([]facts.CompetingPolicy, error) {
	if res.facts.Target.Scope == v1alpha1.ScopeWorkload && res.profile.Namespace == res.facts.Mesh.RootNamespace {
		return nil, nil
	}
	if at := slices.IndexFunc(policies, res.speaksAsPeer); at >= 0 {
		own = policies[at]
	}
	var all []facts.CompetingPolicy
	for _, policy := range policies {
		if policy.Name == facts.PeerName(res.profile) || policy.Namespace != res.profile.Namespace {
			continue
		}
		if pod, ok := res.contested(policy.Spec.GetSelector().GetMatchLabels()); ok {
			yields, err := res.yields(ctx, policy)
			if err != nil {
				return nil, err
			}
			if yields {
				continue
			}
			all = append(all, facts.CompetingPolicy{
				Namespace: policy.Namespace, Name: policy.Name, Pod: pod,
				Wins: own == nil || olderThan(policy, own),
			})
		}
	}
	return all, nil
}

// speaksAsPeer says that a policy is the profile's own, or waits for its adoption under its name.
func (res *resolution) speaksAsPeer(policy *securityv1.PeerAuthentication) bool {
	return policy.Name == facts.PeerName(res.profile) && policy.Namespace == res.profile.Namespace && speaksFor(policy, res.profile)
}

// contested says whether a policy with this selector is of the target's scope, and names a pod that it is about; a whole
// namespace or the mesh may have none.
func (res *resolution) contested(selector map[string]string) (pod string, ok bool) {
	if wide(res.profile.Spec.Target.Kind) {
		if len(selector) > 0 {
			return "", false
		}
		if len(res.pods) > 0 {
			pod = res.pods[0].Name
		}
		return pod, true
	}
	for _, pod := range res.pods {
		if matches(selector, pod.Labels) {
			return pod.Name, true
		}
	}
	return "", false
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
		Version:  policy.ResourceVersion,
		Form:     formOf(policy),
		Selector: maps.Clone(policy.Spec.GetSelector().GetMatchLabels()),
	}
	if !metav1.IsControlledBy(policy, profile) {
		return described
	}
	// They are for a rollout whose status was lost, or not written. One that cannot be read is as good as none.
	if switched, err := time.Parse(time.RFC3339, policy.Annotations[v1alpha1.AnnotationSwitchedAt]); err == nil {
		described.SwitchedAt = switched
	}
	if previous, err := facts.ParseForm(policy.Annotations[v1alpha1.AnnotationPreviousMode]); err == nil {
		described.Previous = previous
	}
	if rolledBack, err := facts.ParseRollback(policy.Annotations[v1alpha1.AnnotationRolledBack]); err == nil {
		described.RolledBack = rolledBack
	}
	return described
}
