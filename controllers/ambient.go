package controllers

import (
	"fmt"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

// ambientProblem refuses tokens and callers for pods that have no Envoy of their own: ztunnel knows no requests, and a DENY
// policy that loses what it says of them refuses everybody. Nil if there are none. Mutual TLS has a blocker for them.
func ambientProblem(profile *v1alpha1.ServiceSecurityProfile, f facts.Facts) *facts.Problem {
	if profile.Spec.JWT == nil && profile.Spec.Authorization == nil {
		return nil
	}
	for _, pod := range f.Pods {
		if pod.Membership == facts.MemberAmbient {
			return &facts.Problem{
				Reason: v1alpha1.ReasonUnsupported, Section: facts.RequestSection(profile),
				Message: fmt.Sprintf("Pod %s/%s is in ambient mode, where policies about requests would refuse everybody. Give it a sidecar, or use a target without such pods.", pod.Namespace, pod.Name),
			}
		}
	}
	return nil
}
