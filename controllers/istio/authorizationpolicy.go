package istio

import (
	"fmt"
	"strconv"
	"strings"

	securityapi "istio.io/api/security/v1beta1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"

	"github.com/servicesecurity/operator/controllers/plan"
)

// AnnotationDryRun makes Istio count what a policy would do instead of doing it.
const AnnotationDryRun = "istio.io/dry-run"

// authorizationPolicy says what is let in, or refused.
func authorizationPolicy(namespace, trustDomain string, policy plan.Policy) *securityv1.AuthorizationPolicy {
	object := &securityv1.AuthorizationPolicy{ObjectMeta: meta(namespace, policy.Name)}
	if policy.DryRun {
		object.Annotations = map[string]string{AnnotationDryRun: "true"}
	}
	object.Spec.Selector, object.Spec.TargetRefs = attach(policy.Attachment)
	object.Spec.Action = actions[policy.Deny]
	for _, r := range policy.Rules {
		rule := &securityapi.Rule{}
		for _, source := range r.From {
			rule.From = append(rule.From, &securityapi.Rule_From{Source: ruleSource(trustDomain, source)})
		}
		for _, operation := range r.To {
			rule.To = append(rule.To, &securityapi.Rule_To{Operation: ruleOperation(operation)})
		}
		for _, condition := range r.When {
			rule.When = append(rule.When, &securityapi.Condition{Key: key(condition), Values: condition.Values, NotValues: condition.NotValues})
		}
		object.Spec.Rules = append(object.Spec.Rules, rule)
	}
	return object
}

// ruleSource names service accounts by their principals: Istio's own field for them takes them from any trust domain, and
// only sixteen.
func ruleSource(trustDomain string, s plan.Source) *securityapi.Source {
	var principals []string
	for _, principal := range s.Principals {
		principals = append(principals, literal(principal))
	}
	for _, account := range s.ServiceAccounts {
		principals = append(principals, fmt.Sprintf("%s/ns/%s/sa/%s", trustDomain, account.Namespace, account.Name))
	}
	return &securityapi.Source{
		Principals: principals, Namespaces: s.Namespaces, IpBlocks: s.IPBlocks, RemoteIpBlocks: s.RemoteIPBlocks,
		RequestPrincipals: s.RequestPrincipals,
	}
}

// literal keeps dots from standing for any character: what follows a * at the start of a principal becomes a part of a
// regular expression, as it is (Istio's matcher.StringMatcherWithPrefix).
func literal(principal string) string {
	if len(principal) > 1 && strings.HasPrefix(principal, "*") {
		return strings.ReplaceAll(principal, ".", `\.`)
	}
	return principal
}

func ruleOperation(o plan.Operation) *securityapi.Operation {
	return &securityapi.Operation{
		Methods: o.Methods, NotMethods: o.NotMethods, Paths: o.Paths, NotPaths: o.NotPaths, Hosts: o.Hosts,
		Ports: decimals(o.Ports), NotPorts: decimals(o.NotPorts),
	}
}

// key is a condition's subject. Istio skips a rule whose key it does not know, so there are no other ones than these.
func key(c plan.Condition) string {
	if c.Header != "" {
		return "request.headers[" + c.Header + "]"
	}
	return "request.auth.claims[" + strings.Join(c.Claim, "][") + "]"
}

func decimals(ports []int32) []string {
	var out []string
	for _, port := range ports {
		out = append(out, strconv.Itoa(int(port)))
	}
	return out
}
