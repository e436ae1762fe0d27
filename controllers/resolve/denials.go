package resolve

import (
	"context"
	"slices"

	securityv1beta1 "istio.io/api/security/v1beta1"
)

// resolveDenials finds the policies of anyone else that keep callers out by their identity, which plaintext does not have.
func (res *resolution) resolveDenials(ctx context.Context) error {
	if !rolls(res.profile) || !res.onItsWay() && !res.facts.Verifying(res.profile) {
		return nil
	}
	policies, err := res.foreignAccess(ctx)
	for _, policy := range policies {
		if !inDryRun(policy) && deniesIdentities(&policy.Spec) {
			res.facts.IdentityDenials = append(res.facts.IdentityDenials, qualified(policy))
		}
	}
	return err
}

// identityKeys are those of a condition about who calls.
var identityKeys = []string{"source.principal", "source.namespace", "source.serviceAccount"}

// deniesIdentities says whether a policy keeps out callers by what only mutual TLS proves, so that in plaintext they would
// get in: a DENY of an identity, which plaintext does not match, or an ALLOW for all but one, which it does.
func deniesIdentities(spec *securityv1beta1.AuthorizationPolicy) bool {
	var named func(*securityv1beta1.Source) int
	var values func(*securityv1beta1.Condition) []string
	switch spec.GetAction() {
	case securityv1beta1.AuthorizationPolicy_DENY:
		named = func(s *securityv1beta1.Source) int {
			return len(s.GetPrincipals()) + len(s.GetNamespaces()) + len(s.GetServiceAccounts())
		}
		values = (*securityv1beta1.Condition).GetValues
	case securityv1beta1.AuthorizationPolicy_ALLOW:
		named = func(s *securityv1beta1.Source) int {
			return len(s.GetNotPrincipals()) + len(s.GetNotNamespaces()) + len(s.GetNotServiceAccounts())
		}
		values = (*securityv1beta1.Condition).GetNotValues
	case securityv1beta1.AuthorizationPolicy_AUDIT, securityv1beta1.AuthorizationPolicy_CUSTOM:
		return false
	}
	return slices.ContainsFunc(spec.GetRules(), func(rule *securityv1beta1.Rule) bool {
		return slices.ContainsFunc(rule.GetFrom(), func(from *securityv1beta1.Rule_From) bool { return named(from.GetSource()) > 0 }) ||
			slices.ContainsFunc(rule.GetWhen(), func(when *securityv1beta1.Condition) bool {
				return slices.Contains(identityKeys, when.GetKey()) && len(values(when)) > 0
			})
	})
}
