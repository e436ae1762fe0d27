//go:build istio

package istio_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	securityapi "istio.io/api/security/v1beta1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/istio"
)

// wanted is a rule that a proxy must have.
type wanted struct {
	action rbacv3.RBAC_Action
	dryRun bool
	// rule is nil for one that never matches, which stands for a policy without rules.
	rule *securityapi.Rule
}

// wantedRules are those of the policies, by the names that istiod gives them.
func wantedRules(policies []*securityv1.AuthorizationPolicy) map[string]wanted {
	all := map[string]wanted{}
	for _, policy := range policies {
		one := wanted{action: rbacv3.RBAC_ALLOW, dryRun: policy.Annotations[istio.AnnotationDryRun] == "true"}
		if policy.Spec.GetAction() == securityapi.AuthorizationPolicy_DENY {
			one.action = rbacv3.RBAC_DENY
		}
		name := func(i int) string { return fmt.Sprintf("ns[%s]-policy[%s]-rule[%d]", policy.Namespace, policy.Name, i) }
		for i, rule := range policy.Spec.GetRules() {
			one.rule = rule
			all[name(i)] = one
		}
		if len(policy.Spec.GetRules()) == 0 {
			one.rule = nil
			all[name(0)] = one
		}
	}
	return all
}

// aboutRequests says whether some part of the rule can only be told of a request.
func aboutRequests(rule *securityapi.Rule) bool {
	return len(rule.GetWhen()) > 0 ||
		slices.ContainsFunc(rule.GetFrom(), func(f *securityapi.Rule_From) bool { return len(f.GetSource().GetRequestPrincipals()) > 0 }) ||
		slices.ContainsFunc(rule.GetTo(), func(to *securityapi.Rule_To) bool {
			o := to.GetOperation()
			return len(o.GetMethods())+len(o.GetNotMethods())+len(o.GetPaths())+len(o.GetNotPaths())+len(o.GetHosts()) > 0
		})
}

// differences says what the chains of a proxy have that the objects do not ask for, and the other way around.
func differences(chains []chain, objects istio.Objects, ports []facts.WorkloadPort) error {
	if len(chains) == 0 {
		return errors.New("the proxy has no inbound chain")
	}
	rules := wantedRules(objects.AuthorizationPolicies)
	var errs []error
	for _, c := range chains {
		if err := errors.Join(c.lacks(rules), c.spares(ports, rules), c.validates(objects.RequestAuthentication)); err != nil {
			errs = append(errs, fmt.Errorf("chain %s, port %d, TLS %t, HTTP %t: %w", c.name, c.port, c.tls, c.http, err))
		}
	}
	return errors.Join(errs...)
}

// lacks compares the rules of a chain with those wanted. An ALLOW rule about requests is not there for connections.
func (c chain) lacks(rules map[string]wanted) error {
	var errs []error
	want := maps.Clone(rules)
	maps.DeleteFunc(want, func(_ string, w wanted) bool {
		return !c.http && w.action == rbacv3.RBAC_ALLOW && aboutRequests(w.rule)
	})
	for name, w := range want {
		from, other := c.rules, c.shadow
		if w.dryRun {
			from, other = c.shadow, c.rules
		}
		got, ok := from[name]
		if _, wrong := other[name]; !ok || wrong || got.action != w.action {
			errs = append(errs, fmt.Errorf("rule %s (%s, dry run: %t) is lost, or something else", name, w.action, w.dryRun))
			continue
		}
		if err := w.complete(got.policy, c.http); err != nil {
			errs = append(errs, fmt.Errorf("rule %s: %w", name, err))
		}
	}
	if got := len(c.rules) + len(c.shadow); got != len(want) {
		errs = append(errs, fmt.Errorf("%d rules, want %d", got, len(want)))
	}
	return errors.Join(errs...)
}

// complete wants every part of the rule in what became of it. Of a DENY rule for connections, the parts about requests go.
func (w wanted) complete(policy *rbacv3.Policy, http bool) error {
	if w.rule == nil || !http {
		return nil
	}
	var errs []error
	froms, tos := w.rule.GetFrom(), w.rule.GetTo()
	if got, want := len(policy.GetPrincipals()), max(1, len(froms)); got != want {
		return fmt.Errorf("%d sources, want %d", got, want)
	}
	if got, want := len(policy.GetPermissions()), max(1, len(tos)); got != want {
		return fmt.Errorf("%d operations, want %d", got, want)
	}
	for i, principal := range policy.GetPrincipals() {
		want := len(w.rule.GetWhen())
		if len(froms) > 0 {
			s := froms[i].GetSource()
			want += filled(len(s.GetPrincipals()), len(s.GetNamespaces()), len(s.GetIpBlocks()), len(s.GetRemoteIpBlocks()), len(s.GetRequestPrincipals()))
		}
		if got := len(principal.GetAndIds().GetIds()); got != max(1, want) {
			errs = append(errs, fmt.Errorf("source %d has %d conditions, want %d", i, got, want))
		}
	}
	for i, permission := range policy.GetPermissions() {
		want := 0
		if len(tos) > 0 {
			o := tos[i].GetOperation()
			want = filled(len(o.GetMethods()), len(o.GetNotMethods()), len(o.GetPaths()), len(o.GetNotPaths()), len(o.GetHosts()), len(o.GetPorts()), len(o.GetNotPorts()))
		}
		if got := len(permission.GetAndRules().GetRules()); got != max(1, want) {
			errs = append(errs, fmt.Errorf("operation %d has %d conditions, want %d", i, got, want))
		}
	}
	return errors.Join(errs...)
}

func filled(sizes ...int) int {
	n := 0
	for _, size := range sizes {
		if size > 0 {
			n++
		}
	}
	return n
}

// spares wants no DENY rule about requests to refuse a connection to a port that is declared to have none: it has lost
// what it says of requests there.
func (c chain) spares(ports []facts.WorkloadPort, rules map[string]wanted) error {
	declared := slices.ContainsFunc(ports, func(p facts.WorkloadPort) bool {
		return uint32(p.Port) == c.port && p.Protocol == facts.ProtocolTCP
	})
	if c.http || !declared {
		return nil
	}
	var errs []error
	for name, got := range c.rules {
		w := rules[name]
		if got.action == rbacv3.RBAC_DENY && w.rule != nil && aboutRequests(w.rule) && couldMatch(got.policy, c.port) {
			errs = append(errs, fmt.Errorf("rule %s is about requests, and refuses connections", name))
		}
	}
	return errors.Join(errs...)
}

// validates wants the issuers of the RequestAuthentication, each with keys.
func (c chain) validates(ra *securityv1.RequestAuthentication) error {
	if !c.http || ra == nil {
		if c.tokens != nil {
			return errors.New("tokens are looked at, and should not be")
		}
		return nil
	}
	want, got := map[string]bool{}, map[string]bool{}
	for _, jwt := range ra.Spec.GetJwtRules() {
		want[jwt.GetIssuer()] = true
	}
	var errs []error
	for _, provider := range c.tokens.GetProviders() {
		got[provider.GetIssuer()] = true
		if provider.GetLocalJwks().GetInlineString() == "" {
			errs = append(errs, fmt.Errorf("issuer %q has no keys", provider.GetIssuer()))
		}
	}
	if !maps.Equal(want, got) || len(c.tokens.GetProviders()) != len(want) {
		errs = append(errs, fmt.Errorf("issuers %v, want %v", slices.Collect(maps.Keys(got)), slices.Collect(maps.Keys(want))))
	}
	return errors.Join(errs...)
}

// accepts wants of each declared port what the PeerAuthentication says: plaintext, mutual TLS, or both.
func accepts(chains []chain, objects istio.Objects, ports []facts.WorkloadPort) error {
	var errs []error
	for _, port := range ports {
		mode := modeOf(objects.PeerAuthentication, uint32(port.Port))
		if len(sees(chains, uint32(port.Port))) == 0 {
			errs = append(errs, fmt.Errorf("port %d has no chain", port.Port))
		}
		for _, c := range chains {
			if c.port != uint32(port.Port) {
				continue
			}
			if !c.tls && mode == v1alpha1.ModeStrict || c.tls && mode == v1alpha1.ModeDisabled {
				errs = append(errs, fmt.Errorf("port %d is %s and has %v", port.Port, mode, sees(chains, c.port)))
			}
		}
		if kinds := len(tlsKinds(chains, uint32(port.Port))); mode == v1alpha1.ModePermissive && kinds != 2 {
			errs = append(errs, fmt.Errorf("port %d is %s and has %v", port.Port, mode, sees(chains, uint32(port.Port))))
		}
	}
	return errors.Join(errs...)
}

func tlsKinds(chains []chain, port uint32) map[bool]bool {
	kinds := map[bool]bool{}
	for _, c := range chains {
		if c.port == port {
			kinds[c.tls] = true
		}
	}
	return kinds
}

// modeOf is what is in force where nothing else says anything.
func modeOf(pa *securityv1.PeerAuthentication, port uint32) v1alpha1.Mode {
	if pa == nil {
		return v1alpha1.ModePermissive
	}
	mode := pa.Spec.GetMtls().GetMode()
	if exception, ok := pa.Spec.GetPortLevelMtls()[port]; ok {
		mode = exception.GetMode()
	}
	switch mode {
	case securityapi.PeerAuthentication_MutualTLS_STRICT:
		return v1alpha1.ModeStrict
	case securityapi.PeerAuthentication_MutualTLS_DISABLE:
		return v1alpha1.ModeDisabled
	}
	return v1alpha1.ModePermissive
}
