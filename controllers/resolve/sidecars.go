package resolve

import (
	"context"
	"slices"
	"strings"

	networkingv1alpha3 "istio.io/api/networking/v1alpha3"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

// SidecarKind is Istio's Sidecar as it is read here.
var SidecarKind = networkingv1.SchemeGroupVersion.WithKind("Sidecar")

var sidecarsBySelector = index[*networkingv1.Sidecar]{
	name:    "servicesecurity.dev/sidecar-selector",
	object:  &networkingv1.Sidecar{},
	newList: func() client.ObjectList { return &networkingv1.SidecarList{} },
	keys: func(s *networkingv1.Sidecar) []string {
		return []string{anchor(s.Spec.GetWorkloadSelector().GetLabels())}
	},
	kind: SidecarKind,
}

// IndexSidecars registers the indexes of Sidecar, whose CustomResourceDefinition may arrive late.
func IndexSidecars(ctx context.Context, indexer client.FieldIndexer) error {
	return sidecarsBySelector.register(ctx, indexer)
}

// sidecarFor is the one Sidecar that istiod uses for a pod: the oldest with a selector that matches, then the oldest of the
// namespace without one, then that of the root namespace. Nil if there is none.
func sidecarFor(root string, pod subject, all []*networkingv1.Sidecar) *networkingv1.Sidecar {
	var selected, space, mesh *networkingv1.Sidecar
	for _, s := range all {
		selector := s.Spec.GetWorkloadSelector()
		switch {
		case selector != nil:
			labels := selector.GetLabels()
			if s.Namespace == pod.namespace && (len(labels) == 0 || matches(labels, pod.labels)) {
				selected = oldest(selected, s)
			}
		case s.Namespace == pod.namespace:
			space = oldest(space, s)
		case s.Namespace == root:
			mesh = oldest(mesh, s)
		}
	}
	for _, s := range []*networkingv1.Sidecar{selected, space} {
		if s != nil {
			return s
		}
	}
	return mesh
}

// oldest is the older of two objects, of which one may be nil.
func oldest[T interface {
	comparable
	client.Object
}](a, b T) T {
	var none T
	if a == none || olderThan(b, a) {
		return b
	}
	return a
}

// resolveSidecars finds the Sidecars that terminate TLS of their own on a port that is to be STRICT.
func (res *resolution) resolveSidecars(ctx context.Context) error {
	pods := res.governed(res.concerned())
	sidecars, err := configurations(ctx, res, sidecarsBySelector, pods)
	if err != nil {
		return err
	}
	strict := strictPorts(res.profile)
	for _, pod := range pods {
		s := sidecarFor(res.facts.Mesh.RootNamespace, pod, sidecars)
		if s == nil || slices.Contains(res.facts.SidecarIngress, qualified(s)) {
			continue
		}
		if slices.ContainsFunc(s.Spec.GetIngress(), func(listener *networkingv1alpha3.IstioIngressListener) bool {
			return listener.GetTls() != nil && strict(int32(listener.GetPort().GetNumber())) //nolint:gosec // a port
		}) {
			res.facts.SidecarIngress = append(res.facts.SidecarIngress, qualified(s))
		}
	}
	slices.Sort(res.facts.SidecarIngress)
	return nil
}

// ingress are the ports of the target's pods whose Sidecar has ingress listeners, as these declare them. istiod then asks no
// Service (buildInboundChainConfigs in istio.io/istio 1.29, pilot/pkg/networking/core/listener_inbound.go). Only policies
// about requests go by it.
func (res *resolution) ingress(ctx context.Context) (map[client.ObjectKey]declarations, error) {
	if !readsRequests(res.profile) {
		return nil, nil
	}
	sidecars, err := configurations(ctx, res, sidecarsBySelector, res.subjects())
	if err != nil {
		return nil, err
	}
	listeners := map[client.ObjectKey]declarations{}
	for _, pod := range res.pods {
		s := sidecarFor(res.facts.Mesh.RootNamespace, subject{pod.Namespace, pod.Labels}, sidecars)
		if s != nil && len(s.Spec.GetIngress()) > 0 && !isGateway(pod) {
			listeners[client.ObjectKeyFromObject(pod)] = declaredBy(s.Spec.GetIngress())
		}
	}
	return listeners, nil
}

// declaredBy is what ingress listeners declare. One that may terminate TLS, which is for istiod's flags to say, may be HTTP
// behind it.
func declaredBy(listeners []*networkingv1alpha3.IstioIngressListener) declarations {
	declared := declarations{}
	for _, listener := range listeners {
		protocol, known := protocols[strings.ToLower(listener.GetPort().GetProtocol())]
		if !known || listener.GetTls() != nil {
			protocol = facts.ProtocolUndeclared
		}
		declared.declare(int32(listener.GetPort().GetNumber()), protocol) //nolint:gosec // a port
	}
	return declared
}

// NeedsSidecars says whether any profile is on its way to STRICT, or has policies about requests.
func NeedsSidecars(ctx context.Context, reader client.Reader) (bool, error) {
	found, err := find(ctx, &source{reader: reader}, profilesByTarget, "", readingRequests...)
	if err != nil || len(found) > 0 {
		return len(found) > 0, err
	}
	return RollsOut(ctx, reader)
}

// readingRequests are the keys of the profiles with policies about requests.
var readingRequests = []string{sectionKey(v1alpha1.SectionJWT), sectionKey(v1alpha1.SectionAuthorization)}

// configurations returns what istiod configures the proxies of these pods with: of their namespaces, and of the root
// namespace what has no selector.
func configurations[T client.Object](ctx context.Context, res *resolution, ix index[T], pods []subject) ([]T, error) {
	namespace, root := res.profile.Namespace, res.facts.Mesh.RootNamespace
	var found []T
	var err error
	if res.facts.Target.Scope == v1alpha1.ScopeWorkload {
		sets := make([]map[string]string, 0, len(pods))
		for _, pod := range pods {
			sets = append(sets, pod.labels)
		}
		found, err = find(ctx, res.source, ix, namespace, append(pairs(sets), noSelector)...)
	} else {
		found, err = within(ctx, res, ix)
	}
	if err != nil || namespace == root {
		return found, err
	}
	mesh, err := find(ctx, res.source, ix, root, noSelector)
	return append(found, mesh...), err
}
