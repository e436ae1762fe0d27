package resolve

import (
	"context"
	"fmt"
	"slices"
	"strings"

	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

// The kinds that may be absent.
var (
	// PeerAuthenticationKind is Istio's PeerAuthentication as it is read here.
	PeerAuthenticationKind = securityv1.SchemeGroupVersion.WithKind("PeerAuthentication")
	// DestinationRuleKind is Istio's DestinationRule as it is read here.
	DestinationRuleKind = networkingv1.SchemeGroupVersion.WithKind("DestinationRule")
	// RequestAuthenticationKind is Istio's RequestAuthentication as it is read here.
	RequestAuthenticationKind = securityv1.SchemeGroupVersion.WithKind("RequestAuthentication")
	// AuthorizationPolicyKind is Istio's AuthorizationPolicy as it is read here.
	AuthorizationPolicyKind = securityv1.SchemeGroupVersion.WithKind("AuthorizationPolicy")
)

// index finds the objects of one kind by a key. The same keys function fills the cache's index and filters a live list,
// so that both ways of reading find the same.
type index[T client.Object] struct {
	name    string
	object  T
	newList func() client.ObjectList
	keys    func(T) []string
	// kind of the objects if the API server may not know it.
	kind schema.GroupVersionKind
}

func (ix index[T]) register(ctx context.Context, indexer client.FieldIndexer) error {
	extract := func(obj client.Object) []string {
		typed, ok := obj.(T)
		if !ok {
			return nil
		}
		return ix.keys(typed)
	}
	if err := indexer.IndexField(ctx, ix.object, ix.name, extract); err != nil {
		return fmt.Errorf("indexing %s: %w", ix.name, err)
	}
	return nil
}

// noSelector is the key of an object without a selector; no label pair looks like it.
const noSelector = "*"

// An object with a selector is indexed by one pair of it, its anchor: whoever has a pod's labels finds every selector
// that matches by looking up each of the pod's pairs, and far fewer that do not.
var (
	podsByLabel = index[*corev1.Pod]{
		name:    "servicesecurity.dev/pod-label",
		object:  &corev1.Pod{},
		newList: func() client.ObjectList { return &corev1.PodList{} },
		keys:    podKeys,
	}
	servicesBySelector = index[*corev1.Service]{
		name:    "servicesecurity.dev/service-selector",
		object:  &corev1.Service{},
		newList: func() client.ObjectList { return &corev1.ServiceList{} },
		keys:    func(s *corev1.Service) []string { return []string{anchor(serviceSelector(s))} },
	}
	profilesByTarget = index[*v1alpha1.ServiceSecurityProfile]{
		name:    "servicesecurity.dev/profile-target",
		object:  &v1alpha1.ServiceSecurityProfile{},
		newList: func() client.ObjectList { return &v1alpha1.ServiceSecurityProfileList{} },
		keys:    profileKeys,
	}
	profilesByCaller = index[*v1alpha1.ServiceSecurityProfile]{
		name:    "servicesecurity.dev/profile-caller",
		object:  &v1alpha1.ServiceSecurityProfile{},
		newList: func() client.ObjectList { return &v1alpha1.ServiceSecurityProfileList{} },
		keys:    callerKeys,
	}
	policiesBySelector = index[*securityv1.PeerAuthentication]{
		name:    "servicesecurity.dev/policy-selector",
		object:  &securityv1.PeerAuthentication{},
		newList: func() client.ObjectList { return &securityv1.PeerAuthenticationList{} },
		keys: func(p *securityv1.PeerAuthentication) []string {
			return []string{anchor(p.Spec.GetSelector().GetMatchLabels())}
		},
		kind: PeerAuthenticationKind,
	}
	tokensByPlace = index[*securityv1.RequestAuthentication]{
		name:    "servicesecurity.dev/tokens-place",
		object:  &securityv1.RequestAuthentication{},
		newList: func() client.ObjectList { return &securityv1.RequestAuthenticationList{} },
		keys:    func(r *securityv1.RequestAuthentication) []string { return placeKeys(&r.Spec) },
		kind:    RequestAuthenticationKind,
	}
	accessByPlace = index[*securityv1.AuthorizationPolicy]{
		name:    "servicesecurity.dev/access-place",
		object:  &securityv1.AuthorizationPolicy{},
		newList: func() client.ObjectList { return &securityv1.AuthorizationPolicyList{} },
		keys:    func(p *securityv1.AuthorizationPolicy) []string { return placeKeys(&p.Spec) },
		kind:    AuthorizationPolicyKind,
	}
	rulesByHost = index[*networkingv1.DestinationRule]{
		name:    "servicesecurity.dev/rule-host",
		object:  &networkingv1.DestinationRule{},
		newList: func() client.ObjectList { return &networkingv1.DestinationRuleList{} },
		keys: func(r *networkingv1.DestinationRule) []string {
			return []string{hostKey(r.Spec.GetHost(), r.Namespace)}
		},
		kind: DestinationRuleKind,
	}
	rulesByOwner = index[*networkingv1.DestinationRule]{
		name:    "servicesecurity.dev/rule-owner",
		object:  &networkingv1.DestinationRule{},
		newList: func() client.ObjectList { return &networkingv1.DestinationRuleList{} },
		keys:    func(r *networkingv1.DestinationRule) []string { return ownerKeys(r) },
		kind:    DestinationRuleKind,
	}
)

// Index registers the indexes of the kinds that every cluster has. A Resolver that reads from a cache needs them, and
// those of a kind that may arrive late before its Installed says that the kind is there.
func Index(ctx context.Context, indexer client.FieldIndexer) error {
	if err := podsByLabel.register(ctx, indexer); err != nil {
		return err
	}
	if err := servicesBySelector.register(ctx, indexer); err != nil {
		return err
	}
	if err := profilesByCaller.register(ctx, indexer); err != nil {
		return err
	}
	return profilesByTarget.register(ctx, indexer)
}

// IndexPeerAuthentications registers the indexes of PeerAuthentication, whose CustomResourceDefinition may arrive late.
func IndexPeerAuthentications(ctx context.Context, indexer client.FieldIndexer) error {
	return policiesBySelector.register(ctx, indexer)
}

// IndexDestinationRules registers the indexes of DestinationRule, whose CustomResourceDefinition may arrive late.
func IndexDestinationRules(ctx context.Context, indexer client.FieldIndexer) error {
	if err := rulesByHost.register(ctx, indexer); err != nil {
		return err
	}
	return rulesByOwner.register(ctx, indexer)
}

// IndexRequestAuthentications registers the indexes of RequestAuthentication, whose CustomResourceDefinition may arrive
// late.
func IndexRequestAuthentications(ctx context.Context, indexer client.FieldIndexer) error {
	return tokensByPlace.register(ctx, indexer)
}

// IndexAuthorizationPolicies registers the indexes of AuthorizationPolicy, whose CustomResourceDefinition may arrive late.
func IndexAuthorizationPolicies(ctx context.Context, indexer client.FieldIndexer) error {
	return accessByPlace.register(ctx, indexer)
}

func pair(key, value string) string { return key + "=" + value }

// anchor is the pair of a selector under which it is indexed.
func anchor(selector map[string]string) string {
	if len(selector) == 0 {
		return noSelector
	}
	pairs := make([]string, 0, len(selector))
	for k, v := range selector {
		pairs = append(pairs, pair(k, v))
	}
	return slices.Min(pairs)
}

// perPodLabels differ from pod to pod or from revision to revision, or are the same on every pod in the mesh. They are
// not worth an index entry; a selector of nothing else is looked up by listing the namespace.
var perPodLabels = map[string]bool{
	"pod-template-hash": true, "controller-revision-hash": true, "pod-template-generation": true,
	"statefulset.kubernetes.io/pod-name": true, "apps.kubernetes.io/pod-index": true,
	"batch.kubernetes.io/controller-uid": true, "controller-uid": true, "batch.kubernetes.io/job-completion-index": true,
	labelTLSMode: true, "service.istio.io/canonical-revision": true,
}

func podKeys(pod *corev1.Pod) []string {
	keys := make([]string, 0, len(pod.Labels))
	for k, v := range pod.Labels {
		if !perPodLabels[k] {
			keys = append(keys, pair(k, v))
		}
	}
	slices.Sort(keys)
	return keys
}

// The keys of profiles by the kind of their target.
const (
	anyWorkload    = "workload"
	anyGateway     = "gateway"
	wholeNamespace = "namespace"
	wholeMesh      = "mesh"
	rolling        = "rolling"
)

func serviceTargetKey(service string) string { return "service/" + service }

func selectorTargetKey(pair string) string { return "selector/" + pair }

func gatewayTargetKey(gateway string) string { return "gateway/" + gateway }

// sectionKey is the key of every profile that sets the section.
func sectionKey(section v1alpha1.Section) string { return "section/" + string(section) }

func profileKeys(profile *v1alpha1.ServiceSecurityProfile) []string {
	keys := []string{targetKey(profile.Spec.Target)}
	switch profile.Spec.Target.Kind {
	case v1alpha1.TargetWorkload:
		keys = append(keys, anyWorkload)
	case v1alpha1.TargetGateway:
		keys = append(keys, anyGateway)
	case v1alpha1.TargetService, v1alpha1.TargetNamespace, v1alpha1.TargetMesh:
	}
	if rolls(profile) {
		keys = append(keys, rolling)
	}
	for _, section := range []v1alpha1.Section{v1alpha1.SectionJWT, v1alpha1.SectionAuthorization} {
		if sets(profile, section) {
			keys = append(keys, sectionKey(section))
		}
	}
	return keys
}

// targetKey is shared by all profiles with the same target.
func targetKey(target v1alpha1.Target) string {
	switch target.Kind {
	case v1alpha1.TargetWorkload:
		return selectorTargetKey(anchor(workloadSelector(target)))
	case v1alpha1.TargetGateway:
		return gatewayTargetKey(target.Name)
	case v1alpha1.TargetNamespace:
		return wholeNamespace
	case v1alpha1.TargetMesh:
		return wholeMesh
	case v1alpha1.TargetService:
	}
	return serviceTargetKey(target.Name)
}

func ownerKeys(obj client.Object) []string {
	owner := metav1.GetControllerOf(obj)
	if owner == nil {
		return nil
	}
	return []string{string(owner.UID)}
}

// oddWildcards is the key of wildcards that do not start with "*.", such as "*-v1.foo.svc.cluster.local".
const oddWildcards = "*-"

// hostKey is the key of a rule's host as it is written. A name without a dot is left unexpanded, so that the index does
// not depend on the cluster's domain.
func hostKey(host, namespace string) string {
	switch {
	case host == "*" || strings.HasPrefix(host, "*."):
		return host
	case strings.HasPrefix(host, "*"):
		return oddWildcards
	case !strings.Contains(host, "."):
		return namespace + "/" + host
	default:
		return host
	}
}

// hostKeys are the keys of all rules that may match a Service's host.
func hostKeys(fqdn, service, namespace string) []string {
	keys := []string{fqdn, namespace + "/" + service, oddWildcards, "*"}
	for rest := fqdn; ; {
		dot := strings.IndexByte(rest, '.')
		if dot < 0 {
			return keys
		}
		rest = rest[dot+1:]
		keys = append(keys, "*."+rest)
	}
}
