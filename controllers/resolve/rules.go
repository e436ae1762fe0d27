package resolve

import (
	"context"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	networkingv1alpha3 "istio.io/api/networking/v1alpha3"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

// ExpandHost is a rule's host as Istio reads it (ResolveShortnameToFQDN): a name without a dot is a Service of the rule's
// own namespace, everything else is meant as it is written.
func ExpandHost(host, namespace, clusterDomain string) string {
	if host == "" || host == "*" || strings.Contains(host, ".") {
		return host
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return host
	}
	return Host(host, namespace, clusterDomain)
}

// MatchHost says whether a rule's expanded host matches the host of a Service: a leading asterisk stands for any text.
func MatchHost(pattern, host string) bool {
	if suffix, ok := strings.CutPrefix(pattern, "*"); ok {
		return strings.HasSuffix(host, suffix)
	}
	return pattern != "" && pattern == host
}

// moreSpecific says whether Istio prefers one matching host to another: the exact one, then the longest, then the first
// in the alphabet.
func moreSpecific(a, b string) bool {
	aWild, bWild := strings.HasPrefix(a, "*"), strings.HasPrefix(b, "*")
	switch {
	case aWild != bWild:
		return bWild
	case len(a) != len(b):
		return len(a) > len(b)
	default:
		return a < b
	}
}

// position is where a host is in the mesh.
type position struct {
	serviceNamespace, rootNamespace string
	// privateRules says that rules without exportTo are for their own namespace.
	privateRules bool
}

// ApplyingRules are the rules that some client of a host follows. Istio looks in the client's namespace, then the
// Service's, then the root namespace, and takes of each the most specific host, from what the namespace keeps for itself
// and what it exports apart. A client may be anywhere, so a rule counts unless its own namespace hides it. Which of two
// with the same host and namespace Istio prefers does not matter: the other takes its place when that one goes.
func ApplyingRules(host, serviceNamespace, clusterDomain string, mesh facts.Mesh, rules []*networkingv1.DestinationRule) []*networkingv1.DestinationRule {
	at := position{serviceNamespace: serviceNamespace, rootNamespace: mesh.RootNamespace, privateRules: mesh.PrivateRules}
	best := map[string]string{}
	pools := make([][]string, len(rules))
	for i, rule := range rules {
		expanded := ExpandHost(rule.Spec.GetHost(), rule.Namespace, clusterDomain)
		if !MatchHost(expanded, host) {
			continue
		}
		pools[i] = at.pools(rule)
		for _, pool := range pools[i] {
			if now, ok := best[pool]; !ok || moreSpecific(expanded, now) {
				best[pool] = expanded
			}
		}
	}
	var applying []*networkingv1.DestinationRule
	for i, rule := range rules {
		expanded := ExpandHost(rule.Spec.GetHost(), rule.Namespace, clusterDomain)
		if slices.ContainsFunc(pools[i], func(pool string) bool { return best[pool] == expanded }) {
			applying = append(applying, rule)
		}
	}
	return applying
}

// pools are the sets of rules in which Istio looks a rule up (setDestinationRules): those for clients of its own
// namespace, and those that it exports, which count only in the Service's and in the root namespace. Clients in the root
// namespace see there first what it keeps for itself.
func (at position) pools(rule *networkingv1.DestinationRule) []string {
	exportTo := at.exportTo(rule)
	own := func(to string) bool { return to == "." || to == rule.Namespace }
	private := len(exportTo) == 1 && own(exportTo[0])
	local := len(exportTo) == 0 || slices.ContainsFunc(exportTo, func(to string) bool { return to == "*" || own(to) })
	var pools []string
	if local && (private || rule.Namespace != at.rootNamespace) {
		pools = append(pools, rule.Namespace+"/local")
	}
	if !private && (rule.Namespace == at.serviceNamespace || rule.Namespace == at.rootNamespace) {
		pools = append(pools, rule.Namespace+"/exported")
	}
	return pools
}

// exportTo are the namespaces that a rule is for; none stands for all.
func (at position) exportTo(rule *networkingv1.DestinationRule) []string {
	to := rule.Spec.GetExportTo()
	if rule.Spec.GetWorkloadSelector() != nil || len(to) == 0 && at.privateRules {
		return []string{"."}
	}
	return to
}

// TLSSetting is a place in a rule whose tls mode is refused by a Service port that is STRICT.
type TLSSetting struct {
	// Mode as Istio writes it.
	Mode string
	// Where says at which place.
	Where string
}

// BreakingTLS are the tls settings of a rule that break callers of a Service's ports when these are STRICT: everything
// but ISTIO_MUTUAL and nothing at all, which is auto-mTLS. A port's tls replaces the rule's, and a subset's overrides both.
func BreakingTLS(rule *networkingv1alpha3.DestinationRule, ports []facts.ServicePort, strict func(workloadPort int32) bool) []TLSSetting {
	var settings []TLSSetting
	add := func(policy *networkingv1alpha3.TrafficPolicy, port int32, where string) {
		tls, place := portTLS(policy, port)
		if tls == nil || tls.GetMode() == networkingv1alpha3.ClientTLSSettings_ISTIO_MUTUAL {
			return
		}
		if setting := (TLSSetting{Mode: tls.GetMode().String(), Where: where + place}); !slices.Contains(settings, setting) {
			settings = append(settings, setting)
		}
	}
	for _, port := range ports {
		if !slices.ContainsFunc(port.Targets(), strict) {
			continue
		}
		add(rule.GetTrafficPolicy(), port.Port, "trafficPolicy")
		for _, subset := range rule.GetSubsets() {
			add(subset.GetTrafficPolicy(), port.Port, "subset "+subset.GetName())
		}
	}
	return settings
}

// portTLS is what a policy says for a Service port, and the place where it says so. An entry for a port replaces the rest of
// the policy as a whole, but without tls it does not make the port auto-mTLS: whether an endpoint is sent mutual TLS goes by
// the policy's own tls then (istiod's trafficPolicyTLSModeForPort).
func portTLS(policy *networkingv1alpha3.TrafficPolicy, port int32) (tls *networkingv1alpha3.ClientTLSSettings, place string) {
	for _, entry := range policy.GetPortLevelSettings() {
		if int64(entry.GetPort().GetNumber()) == int64(port) && entry.GetTls() != nil {
			return entry.GetTls(), fmt.Sprintf(".portLevelSettings[%d]", port)
		}
	}
	return policy.GetTls(), ""
}

// strictPorts says which workload ports the profile asks to be STRICT. One that could not be resolved, which is 0, may be
// any.
func strictPorts(profile *v1alpha1.ServiceSecurityProfile) func(int32) bool {
	mtls := profile.Spec.MTLS
	if mtls == nil {
		return func(int32) bool { return false }
	}
	form, anyStrict := facts.Form{Mode: mtls.Mode, Ports: map[int32]v1alpha1.Mode{}}, mtls.Mode == v1alpha1.ModeStrict
	for _, exception := range mtls.PortLevel {
		form.Ports[exception.Port] = exception.Mode
		anyStrict = anyStrict || exception.Mode == v1alpha1.ModeStrict
	}
	return func(port int32) bool {
		return port == 0 && anyStrict || form.At(port) == v1alpha1.ModeStrict
	}
}

func (res *resolution) resolveRules(ctx context.Context) error {
	if err := res.ownRules(ctx); err != nil {
		return err
	}
	if wide(res.profile.Spec.Target.Kind) {
		return res.wideRules(ctx)
	}
	strict := strictPorts(res.profile)
	domain := res.resolver.clusterDomain()
	var keys []string
	for _, service := range res.services {
		keys = append(keys, hostKeys(Host(service.Name, service.Namespace, domain), service.Name, service.Namespace)...)
	}
	rules, err := find(ctx, res.source, rulesByHost, "", keys...)
	if err != nil {
		return err
	}
	rules = res.othersRules(rules)
	for _, service := range res.services {
		res.clientRules(service, rules, strict)
	}
	return nil
}

// othersRules leaves out what profiles generate, which is no one else's rule, and hides none: what it hides must be known
// before it is written, and after that nothing may have changed. A rule that waits for its adoption is as good as the
// profile's.
func (res *resolution) othersRules(rules []*networkingv1.DestinationRule) []*networkingv1.DestinationRule {
	return slices.DeleteFunc(rules, func(rule *networkingv1.DestinationRule) bool {
		return generated(rule) || rule.Namespace == res.profile.Namespace &&
			slices.ContainsFunc(res.facts.Rules, func(own facts.Rule) bool { return own.Owned && own.Name == rule.Name })
	})
}

// wideRules notes the rules that break clients of a namespace's or the mesh's Services under STRICT. Those that break none
// are not worth a mention: there may be one for every Service, and the profile has rules for none of them alone.
func (res *resolution) wideRules(ctx context.Context) error {
	strict := strictPorts(res.profile)
	if !strict(0) {
		return nil
	}
	rules, err := listAll(ctx, res.source, rulesByHost, "")
	if err != nil {
		return err
	}
	byKey := map[string][]*networkingv1.DestinationRule{}
	for _, rule := range res.othersRules(rules) {
		key := hostKey(rule.Spec.GetHost(), rule.Namespace)
		byKey[key] = append(byKey[key], rule)
	}
	domain := res.resolver.clusterDomain()
	for _, service := range res.services {
		if !slices.ContainsFunc(res.endpointsOf(service), res.reachable) {
			continue
		}
		var near []*networkingv1.DestinationRule
		for _, key := range hostKeys(Host(service.Name, service.Namespace, domain), service.Name, service.Namespace) {
			near = append(near, byKey[key]...)
		}
		sortByName(near)
		res.clientRules(service, near, strict)
	}
	res.facts.ClientRules = slices.DeleteFunc(res.facts.ClientRules, func(rule facts.ClientRule) bool { return rule.TLS == "" })
	return nil
}

// clientRules notes what clients of a Service follow.
func (res *resolution) clientRules(service *corev1.Service, rules []*networkingv1.DestinationRule, strict func(int32) bool) {
	domain := res.resolver.clusterDomain()
	host := Host(service.Name, service.Namespace, domain)
	ports := describePorts(service, res.endpointsOf(service))
	for _, rule := range ApplyingRules(host, service.Namespace, domain, res.facts.Mesh, rules) {
		noted := facts.ClientRule{Namespace: rule.Namespace, Name: rule.Name, Host: host}
		settings := BreakingTLS(&rule.Spec, ports, strict)
		if len(settings) == 0 {
			res.facts.ClientRules = append(res.facts.ClientRules, noted)
		}
		for _, setting := range settings {
			noted.TLS, noted.Where = setting.Mode, setting.Where
			res.facts.ClientRules = append(res.facts.ClientRules, noted)
		}
	}
}

// rulePorts are what the rule says of tls for single ports of the Service; nil if it says nothing. An entry without tls leaves
// the rule's in force.
func rulePorts(rule *networkingv1.DestinationRule) map[int32]facts.TLS {
	var ports map[int32]facts.TLS
	for _, entry := range rule.Spec.GetTrafficPolicy().GetPortLevelSettings() {
		number, tls := entry.GetPort().GetNumber(), entry.GetTls()
		if number > math.MaxUint16 || tls == nil {
			continue
		}
		if ports == nil {
			ports = map[int32]facts.TLS{}
		}
		ports[int32(number)] = facts.TLS(tls.GetMode().String())
	}
	return ports
}

// ruleNames are the names of the rules that the profile would need.
func (res *resolution) ruleNames() []string {
	var names []string
	add := func(service string) {
		names = append(names, facts.RuleName(res.profile.Name, res.profile.Spec.Target.Kind, service))
	}
	for _, host := range res.facts.Hosts {
		add(host.Service)
	}
	if wildcard := res.facts.Wildcard; wildcard != nil {
		add("")
		for _, exempt := range wildcard.Exempt {
			add(exempt.Name)
		}
	}
	return names
}

// ownRules notes the live rules that the profile owns, and those that have a name it would need.
func (res *resolution) ownRules(ctx context.Context) error {
	owned, err := find(ctx, res.source, rulesByOwner, res.profile.Namespace, string(res.profile.UID))
	if err != nil {
		return err
	}
	have := map[string]bool{}
	for _, rule := range owned {
		have[rule.Name] = true
	}
	for _, name := range res.ruleNames() {
		if have[name] {
			continue
		}
		var rule networkingv1.DestinationRule
		exists, err := res.get(ctx, DestinationRuleKind, res.profile.Namespace, name, &rule)
		if err != nil {
			return err
		}
		if exists {
			owned = append(owned, &rule)
		}
	}
	sortByName(owned)
	for _, rule := range owned {
		described := facts.Rule{Name: rule.Name, Owned: speaksFor(rule, res.profile), Host: rule.Spec.GetHost()}
		if tls := rule.Spec.GetTrafficPolicy().GetTls(); tls != nil {
			described.TLS = facts.TLS(tls.GetMode().String())
		}
		described.Ports = rulePorts(rule)
		res.facts.Rules = append(res.facts.Rules, described)
	}
	return nil
}
