package resolve

import (
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

// resolveRefused finds what plaintext the pods refuse now by policies of anyone else, while STRICT is on its way: nobody counts what is
// refused.
func (res *resolution) resolveRefused(policies []*securityv1.PeerAuthentication) {
	if !res.onItsWay() {
		return
	}
	near := res.near(policies)
	for i, pod := range res.pods {
		if takesMutualTLS(pod) {
			res.facts.Pods[i].Refused = res.refused(subject{pod.Namespace, pod.Labels}, near(pod.Namespace))
		}
	}
}

// refused says on which ports the policies of anyone else have a pod refuse plaintext; nothing if on none.
func (res *resolution) refused(pod subject, policies []*securityv1.PeerAuthentication) facts.Form {
	mesh, space, workload := oldestOfEach(res.facts.Mesh.RootNamespace, pod.namespace, pod.labels, policies)
	refuses := func(policy *securityv1.PeerAuthentication, mode v1alpha1.Mode) v1alpha1.Mode {
		if mode == v1alpha1.ModeStrict && !res.ours(policy) {
			return v1alpha1.ModeStrict
		}
		return v1alpha1.ModePermissive
	}
	form := facts.Form{Mode: v1alpha1.ModePermissive}
	for _, policy := range []*securityv1.PeerAuthentication{mesh, space, workload} {
		if policy != nil && modeOf(policy.Spec.GetMtls()) != "" {
			form.Mode = refuses(policy, modeOf(policy.Spec.GetMtls()))
		}
	}
	if workload != nil {
		form.Ports = portsOf(workload)
		for port, mode := range form.Ports {
			form.Ports[port] = refuses(workload, mode)
		}
	}
	if form.Equal(facts.Form{Mode: v1alpha1.ModePermissive}) {
		return facts.Form{}
	}
	return form
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
