package resolve

import (
	"maps"
	"slices"

	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

// refusing are the policies of anyone else by which pods refuse plaintext now, on any port, while STRICT is on its way: nobody counts
// what is refused.
func (res *resolution) refusing(governed []subject, policies []*securityv1.PeerAuthentication) []string {
	if !res.onItsWay() {
		return nil
	}
	near := res.near(policies)
	found := map[string]bool{}
	for _, pod := range governed {
		mesh, space, workload := oldestOfEach(res.facts.Mesh.RootNamespace, pod.namespace, pod.labels, near(pod.namespace))
		if workload != nil && slices.Contains(slices.Collect(maps.Values(portsOf(workload))), v1alpha1.ModeStrict) {
			found[qualified(workload)] = !res.ours(workload)
		}
		for _, policy := range []*securityv1.PeerAuthentication{workload, space, mesh} {
			if policy == nil || modeOf(policy.Spec.GetMtls()) == "" {
				continue
			}
			if modeOf(policy.Spec.GetMtls()) == v1alpha1.ModeStrict {
				found[qualified(policy)] = !res.ours(policy)
			}
			break
		}
	}
	maps.DeleteFunc(found, func(_ string, others bool) bool { return !others })
	return slices.Sorted(maps.Keys(found))
}

// ours says that a policy is the profile's, for its target or for a workload of that.
func (res *resolution) ours(policy *securityv1.PeerAuthentication) bool {
	return metav1.IsControlledBy(policy, res.profile) || res.speaksAsPeer(policy)
}

// near gives those policies that may apply to pods of a namespace: its own, and the mesh's.
func (res *resolution) near(policies []*securityv1.PeerAuthentication) func(namespace string) []*securityv1.PeerAuthentication {
	root := res.facts.Mesh.RootNamespace
	spaces := map[string][]*securityv1.PeerAuthentication{}
	for _, policy := range policies {
		spaces[policy.Namespace] = append(spaces[policy.Namespace], policy)
	}
	mesh := spaces[root]
	for namespace := range spaces {
		if namespace != root {
			spaces[namespace] = append(spaces[namespace], mesh...)
		}
	}
	return func(namespace string) []*securityv1.PeerAuthentication {
		if found, ok := spaces[namespace]; ok {
			return found
		}
		return mesh
	}
}
