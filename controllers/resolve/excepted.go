package resolve

import (
	"context"
	"slices"

	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

// exceptPods marks the mesh's pods for which a narrower policy decides. That of a profile which is itself on its way to
// STRICT is none of these: it follows as soon as the mesh demands it, if it is not STRICT already.
func (res *resolution) exceptPods(ctx context.Context, policies []*securityv1.PeerAuthentication) error {
	if res.facts.Target.Scope != v1alpha1.ScopeMesh {
		return nil
	}
	near := res.near(policies)
	follows := map[*securityv1.PeerAuthentication]follower{}
	res.excepted = map[*corev1.Pod]bool{}
	for i := range res.facts.Pods {
		pod := res.pods[i]
		decides := narrowest(res.facts.Mesh.RootNamespace, pod, near(pod.Namespace))
		if decides == nil {
			continue
		}
		if _, told := follows[decides]; !told {
			var err error
			if follows[decides], err = res.followsMesh(ctx, decides); err != nil {
				return err
			}
		}
		res.excepted[pod] = !follows[decides].follows
		res.facts.Pods[i].Excepted, res.facts.Pods[i].Secured = res.excepted[pod], follows[decides].secured
	}
	return nil
}

// concerned are the target's pods but for the excepted ones, as far as these are known yet: what holds a switch is looked for
// at them alone.
func (res *resolution) concerned() []*corev1.Pod {
	if len(res.excepted) == 0 {
		return res.pods
	}
	return slices.DeleteFunc(slices.Clone(res.pods), func(pod *corev1.Pod) bool { return res.excepted[pod] })
}

// reachable says whether clients use mutual TLS with a pod, and the target's policy decides for it.
func (res *resolution) reachable(pod *corev1.Pod) bool {
	return takesMutualTLS(pod) && !res.excepted[pod]
}

// narrowest is the policy that gives a pod its mode, of those that are narrower than the mesh's; nil if there is none.
func narrowest(root string, pod *corev1.Pod, policies []*securityv1.PeerAuthentication) *securityv1.PeerAuthentication {
	_, space, workload := oldestOfEach(root, pod.Namespace, pod.Labels, policies)
	for _, policy := range []*securityv1.PeerAuthentication{workload, space} {
		if policy != nil && modeOf(policy.Spec.GetMtls()) != "" {
			return policy
		}
	}
	return nil
}

// follower says whether a policy is that of a profile which follows the mesh, and whether it was STRICT before the mesh was.
type follower struct{ follows, secured bool }

// followsMesh says that a policy is that of a profile which asks for STRICT.
func (res *resolution) followsMesh(ctx context.Context, policy *securityv1.PeerAuthentication) (follower, error) {
	owner := metav1.GetControllerOfNoCopy(policy)
	if owner == nil || !generated(policy) {
		return follower{}, nil
	}
	var profile v1alpha1.ServiceSecurityProfile
	found, err := res.get(ctx, core, policy.Namespace, owner.Name, &profile)
	if !found || profile.UID != owner.UID || profile.Spec.MTLS == nil || profile.Spec.MTLS.Mode != v1alpha1.ModeStrict {
		return follower{}, err
	}
	return follower{follows: true, secured: modeOf(policy.Spec.GetMtls()) == v1alpha1.ModeStrict && res.enforcedBefore(&profile)}, err
}

// enforcedBefore says that a profile was at its end before the mesh switched, as its status tells.
func (res *resolution) enforcedBefore(profile *v1alpha1.ServiceSecurityProfile) bool {
	mtls, switched := profile.Status.MTLS, res.facts.Policy.SwitchedAt
	return mtls != nil && mtls.Stage == v1alpha1.StageEnforced &&
		(switched.IsZero() || mtls.EnforcedTime == nil || mtls.EnforcedTime.Time.Before(switched))
}
