package resolve

import (
	"cmp"
	"context"

	corev1 "k8s.io/api/core/v1"

	"github.com/servicesecurity/operator/controllers/facts"
)

// Senders are the pods of a namespace that run under a service account, with an Envoy that sends their calls. They are ordered
// by name. The cache is read, whatever the Resolver is.
func (r *Resolver) Senders(ctx context.Context, namespace, serviceAccount string) ([]facts.Pod, error) {
	source := &source{reader: r.Reader, installed: r.Installed}
	pods, err := listPods(ctx, source, namespace)
	if err != nil {
		return nil, err
	}
	var senders []facts.Pod
	for _, pod := range pods {
		if account(pod) != serviceAccount || sidecar(pod) == nil {
			continue
		}
		switch sender := describePod(pod, nil); sender.Membership {
		case facts.MemberSidecar, facts.MemberTLSDisabled, facts.MemberNoInterception:
			senders = append(senders, sender)
		case facts.MemberNone, facts.MemberAmbient, facts.MemberProxyless:
		}
	}
	return senders, nil
}

// account is the service account that a pod runs under.
func account(pod *corev1.Pod) string { return cmp.Or(pod.Spec.ServiceAccountName, "default") }
