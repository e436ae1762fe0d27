package resolve

import (
	"context"
	"maps"
	"slices"
	"strconv"

	securityv1beta1 "istio.io/api/security/v1beta1"
	typev1beta1 "istio.io/api/type/v1beta1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

const (
	labelGatewayName = "gateway.networking.k8s.io/gateway-name"
	gatewayGroup     = "gateway.networking.k8s.io"
	gatewayKind      = "Gateway"

	annotationDryRun = "istio.io/dry-run"
)

// placement is where a RequestAuthentication or an AuthorizationPolicy says that it applies.
type placement interface {
	GetSelector() *typev1beta1.WorkloadSelector
	GetTargetRef() *typev1beta1.PolicyTargetReference
	GetTargetRefs() []*typev1beta1.PolicyTargetReference
}

// references are the objects that a policy attaches to; with any, its selector does not count.
func references(spec placement) []*typev1beta1.PolicyTargetReference {
	if refs := spec.GetTargetRefs(); len(refs) > 0 {
		return refs
	}
	if ref := spec.GetTargetRef(); ref != nil {
		return []*typev1beta1.PolicyTargetReference{ref}
	}
	return nil
}

func toGateway(ref *typev1beta1.PolicyTargetReference) bool {
	return ref.GetGroup() == gatewayGroup && ref.GetKind() == gatewayKind
}

// placeKeys are the keys under which whoever has a pod's labels finds the policy.
func placeKeys(spec placement) []string {
	refs := references(spec)
	if len(refs) == 0 {
		return []string{anchor(spec.GetSelector().GetMatchLabels())}
	}
	var keys []string
	for _, ref := range refs {
		if toGateway(ref) {
			keys = append(keys, gatewayTargetKey(ref.GetName()))
		}
	}
	return keys
}

// podPlaceKeys are the keys of all policies that may apply to a pod with one of the sets of labels.
func podPlaceKeys(sets []map[string]string) []string {
	keys := append(pairs(sets), noSelector)
	for _, set := range sets {
		if gateway := set[labelGatewayName]; gateway != "" && !slices.Contains(keys, gatewayTargetKey(gateway)) {
			keys = append(keys, gatewayTargetKey(gateway))
		}
	}
	return keys
}

// subject is what a policy may apply to: the labels of a pod, in its namespace.
type subject struct {
	namespace string
	labels    map[string]string
}

// applies says whether a policy of a namespace applies to a pod, as istiod's ShouldAttachPolicy does for all but
// waypoints: by reference only to the pods of a Gateway of the policy's namespace; by selector to pods of that namespace
// or, in the root namespace, of all.
func applies(spec placement, namespace, root string, pod subject) bool {
	refs := references(spec)
	if len(refs) == 0 {
		selector := spec.GetSelector().GetMatchLabels()
		return (namespace == pod.namespace || namespace == root) && (len(selector) == 0 || matches(selector, pod.labels))
	}
	return namespace == pod.namespace && slices.ContainsFunc(refs, func(ref *typev1beta1.PolicyTargetReference) bool {
		sameNamespace := ref.GetNamespace() == "" || ref.GetNamespace() == pod.namespace
		return toGateway(ref) && sameNamespace && ref.GetName() != "" && ref.GetName() == pod.labels[labelGatewayName]
	})
}

// subjects are the target's pods, or what stands for them while there are none: a pod with just the labels that the
// target asks for.
func (res *resolution) subjects() []subject {
	all := make([]subject, 0, len(res.pods)+1)
	for _, pod := range res.pods {
		all = append(all, subject{pod.Namespace, pod.Labels})
	}
	if len(all) > 0 {
		return all
	}
	labels := res.facts.Target.Selector
	if res.facts.Target.Gateway != "" {
		labels = map[string]string{labelGatewayName: res.facts.Target.Gateway}
	}
	return []subject{{res.profile.Namespace, labels}}
}

// foreign returns the policies of one kind that apply to a subject, ordered by namespace and name, without the profile's
// own and those that wait for their adoption by it under one of the names.
func foreign[T client.Object](ctx context.Context, res *resolution, ix index[T], spec func(T) placement, names ...string) ([]T, error) {
	subjects := res.subjects()
	root := res.facts.Mesh.RootNamespace
	found, err := nearby(ctx, res, ix, subjects)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(found, func(obj T) bool {
		own := metav1.IsControlledBy(obj, res.profile) ||
			obj.GetNamespace() == res.profile.Namespace && slices.Contains(names, obj.GetName()) && speaksFor(obj, res.profile)
		return own || !slices.ContainsFunc(subjects, func(pod subject) bool {
			return applies(spec(obj), obj.GetNamespace(), root, pod)
		})
	}), nil
}

// nearby returns the policies of one kind that may apply to one of the subjects.
func nearby[T client.Object](ctx context.Context, res *resolution, ix index[T], subjects []subject) ([]T, error) {
	namespace, root := res.profile.Namespace, res.facts.Mesh.RootNamespace
	in := func(namespace string) ([]T, error) { return listAll(ctx, res.source, ix, namespace) }
	switch res.facts.Target.Scope {
	case v1alpha1.ScopeMesh:
		return in("")
	case v1alpha1.ScopeWorkload, v1alpha1.ScopeGateway:
		sets := make([]map[string]string, 0, len(subjects))
		for _, pod := range subjects {
			sets = append(sets, pod.labels)
		}
		keys := podPlaceKeys(sets)
		in = func(namespace string) ([]T, error) { return find(ctx, res.source, ix, namespace, keys...) }
	case v1alpha1.ScopeNamespace:
	}
	found, err := in(namespace)
	if err != nil || namespace == root {
		return found, err
	}
	mesh, err := in(root)
	found = append(found, mesh...)
	sortByName(found)
	return found, err
}

// resolveForeign finds what others say about the target's tokens and callers, as far as the profile has something to say
// about them too.
func (res *resolution) resolveForeign(ctx context.Context) error {
	if res.misplaced {
		return nil
	}
	if res.profile.Spec.JWT != nil {
		tokens, err := foreign(ctx, res, tokensByPlace,
			func(r *securityv1.RequestAuthentication) placement { return &r.Spec }, facts.TokensName(res.profile.Name))
		if err != nil {
			return err
		}
		for _, token := range tokens {
			res.foreignTokens(token)
		}
	}
	if res.profile.Spec.Authorization == nil {
		return nil
	}
	policies, err := res.foreignAccess(ctx)
	for _, policy := range policies {
		if !generated(policy) {
			res.facts.ForeignPolicies = append(res.facts.ForeignPolicies, describeAccess(policy))
		}
	}
	return err
}

// foreignAccess are the AuthorizationPolicies of anyone else that apply to the target.
func (res *resolution) foreignAccess(ctx context.Context) ([]*securityv1.AuthorizationPolicy, error) {
	name := res.profile.Name
	return foreign(ctx, res, accessByPlace,
		func(p *securityv1.AuthorizationPolicy) placement { return &p.Spec },
		facts.AllowName(name), facts.DenyName(name), facts.TokenName(name))
}

// foreignTokens notes a RequestAuthentication of someone else. What other profiles generate is left out if it accepts the
// same issuers, or if a conflict tells of it.
func (res *resolution) foreignTokens(tokens *securityv1.RequestAuthentication) {
	issuers := issuersOf(&tokens.Spec)
	if generated(tokens) &&
		(res.tokenRivals[metav1.GetControllerOfNoCopy(tokens).UID] || slices.Equal(issuers, profileIssuers(res.profile))) {
		return
	}
	res.facts.ForeignTokens = append(res.facts.ForeignTokens, facts.ForeignTokens{
		Namespace: tokens.Namespace, Name: tokens.Name, Issuers: issuers,
	})
}

// issuersOf are the issuers that a RequestAuthentication accepts, in order.
func issuersOf(spec *securityv1beta1.RequestAuthentication) []string {
	issuers := map[string]bool{}
	for _, rule := range spec.GetJwtRules() {
		if rule.GetIssuer() != "" {
			issuers[rule.GetIssuer()] = true
		}
	}
	return slices.Sorted(maps.Keys(issuers))
}

// profileIssuers are the issuers that a profile accepts, in order.
func profileIssuers(profile *v1alpha1.ServiceSecurityProfile) []string {
	issuers := map[string]bool{}
	if profile.Spec.JWT != nil {
		for _, issuer := range profile.Spec.JWT.Issuers {
			issuers[string(issuer.Issuer)] = true
		}
	}
	return slices.Sorted(maps.Keys(issuers))
}

func describeAccess(policy *securityv1.AuthorizationPolicy) facts.ForeignPolicy {
	return facts.ForeignPolicy{
		Namespace: policy.Namespace, Name: policy.Name, Action: policy.Spec.GetAction().String(), DryRun: inDryRun(policy),
	}
}

// inDryRun says that a policy is not in force. What is no boolean, istiod takes for false.
func inDryRun(policy *securityv1.AuthorizationPolicy) bool {
	dryRun, err := strconv.ParseBool(policy.Annotations[annotationDryRun])
	return err == nil && dryRun
}
