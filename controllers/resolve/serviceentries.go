package resolve

import (
	"context"
	"slices"

	networkingv1alpha3 "istio.io/api/networking/v1alpha3"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

// ServiceEntryKind is Istio's ServiceEntry as it is read here.
var ServiceEntryKind = networkingv1.SchemeGroupVersion.WithKind("ServiceEntry")

// An entry is indexed by all that may lead to a target: its hosts, its endpoints' addresses, and an anchor of its selector.
var entriesByReach = index[*networkingv1.ServiceEntry]{
	name:    "servicesecurity.dev/service-entry-reach",
	object:  &networkingv1.ServiceEntry{},
	newList: func() client.ObjectList { return &networkingv1.ServiceEntryList{} },
	keys:    reachKeys,
	kind:    ServiceEntryKind,
}

// IndexServiceEntries registers the indexes of ServiceEntry, whose CustomResourceDefinition may arrive late.
func IndexServiceEntries(ctx context.Context, indexer client.FieldIndexer) error {
	return entriesByReach.register(ctx, indexer)
}

func hostReachKey(host string) string       { return "host/" + host }
func addressReachKey(address string) string { return "address/" + address }

func reachKeys(entry *networkingv1.ServiceEntry) []string {
	var keys []string
	for _, host := range entry.Spec.GetHosts() {
		keys = append(keys, hostReachKey(host))
	}
	for _, endpoint := range entry.Spec.GetEndpoints() {
		keys = append(keys, addressReachKey(endpoint.GetAddress()))
	}
	if labels := entry.Spec.GetWorkloadSelector().GetLabels(); len(labels) > 0 {
		keys = append(keys, selectorTargetKey(anchor(labels)))
	}
	return keys
}

// destination is what plaintext is sent to, if it is sent to the target.
type destination struct {
	hosts, addresses map[string]bool
	// pods are the labels of the target's pods, by namespace.
	pods map[string][]map[string]string
}

// destination collects the ways to the target's pods in the mesh.
func (res *resolution) destination() destination {
	to := destination{hosts: map[string]bool{}, addresses: map[string]bool{}, pods: map[string][]map[string]string{}}
	for _, service := range res.services {
		if !slices.ContainsFunc(res.endpointsOf(service), res.reachable) {
			continue
		}
		host := Host(service.Name, service.Namespace, res.resolver.clusterDomain())
		to.hosts[host], to.addresses[host] = true, true
		for _, ip := range append([]string{service.Spec.ClusterIP}, service.Spec.ClusterIPs...) {
			if ip != "" && ip != corev1.ClusterIPNone {
				to.addresses[ip] = true
			}
		}
	}
	for _, pod := range res.pods {
		if !res.reachable(pod) {
			continue
		}
		to.pods[pod.Namespace] = append(to.pods[pod.Namespace], pod.Labels)
		for _, ip := range append([]corev1.PodIP{{IP: pod.Status.PodIP}}, pod.Status.PodIPs...) {
			if ip.IP != "" {
				to.addresses[ip.IP] = true
			}
		}
	}
	return to
}

func (d destination) keys() []string {
	var keys []string
	for host := range d.hosts {
		keys = append(keys, hostReachKey(host))
	}
	for address := range d.addresses {
		keys = append(keys, addressReachKey(address))
	}
	for _, sets := range d.pods {
		for _, pair := range pairs(sets) {
			keys = append(keys, selectorTargetKey(pair))
		}
	}
	return keys
}

// plaintext says whether an entry, if it is used, makes clients send the destination plaintext. Auto-mTLS leaves out
// what is MESH_EXTERNAL, which an entry is unless it says otherwise, and every endpoint of which the entry does not say that
// it takes mutual TLS. A pod that an entry inside the mesh selects speaks for itself.
func (d destination) plaintext(entry *networkingv1.ServiceEntry) bool {
	if exportTo := entry.Spec.GetExportTo(); slices.Contains(exportTo, "~") && !slices.Contains(exportTo, "*") {
		return false
	}
	external := entry.Spec.GetLocation() == networkingv1alpha3.ServiceEntry_MESH_EXTERNAL
	if external {
		named := slices.ContainsFunc(entry.Spec.GetHosts(), func(host string) bool { return d.hosts[host] })
		if named || matchesAny(entry.Spec.GetWorkloadSelector().GetLabels(), d.pods[entry.Namespace]) {
			return true
		}
	}
	return slices.ContainsFunc(entry.Spec.GetEndpoints(), func(endpoint *networkingv1alpha3.WorkloadEntry) bool {
		return d.addresses[endpoint.GetAddress()] && (external || !mutualEndpoint(endpoint))
	})
}

// mutualEndpoint says whether clients use mutual TLS with an endpoint of an entry, as istiod's getTLSModeFromWorkloadEntry.
func mutualEndpoint(endpoint *networkingv1alpha3.WorkloadEntry) bool {
	if mode, ok := endpoint.GetLabels()[labelTLSMode]; ok {
		return mode == "istio"
	}
	return endpoint.GetServiceAccount() != ""
}

// resolveServiceEntries finds the entries of all namespaces that make clients send the target plaintext.
func (res *resolution) resolveServiceEntries(ctx context.Context) error {
	to := res.destination()
	var entries []*networkingv1.ServiceEntry
	var err error
	if res.facts.Target.Scope == v1alpha1.ScopeWorkload {
		entries, err = find(ctx, res.source, entriesByReach, "", to.keys()...)
	} else {
		entries, err = listAll(ctx, res.source, entriesByReach, "")
	}
	for _, entry := range entries {
		if to.plaintext(entry) {
			res.facts.ServiceEntries = append(res.facts.ServiceEntries, qualified(entry))
		}
	}
	return err
}
