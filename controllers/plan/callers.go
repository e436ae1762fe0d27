package plan

import (
	"slices"
	"strings"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

// Policy lets requests in, or refuses them.
type Policy struct {
	Name string
	Attachment
	// Deny says that it refuses what matches; otherwise nothing else is let in.
	Deny bool
	// DryRun says that it is counted only.
	DryRun bool
	// Rules of which one must match; without any, nothing matches.
	Rules []Rule
}

// Rule matches what comes from one of the sources, does one of the operations and meets all of the conditions. An empty
// list is no demand.
type Rule struct {
	From []Source
	To   []Operation
	When []Condition
}

// Source is who calls. Everything that is set must hold, by one of its entries.
type Source struct {
	ServiceAccounts   []ServiceAccount
	Namespaces        []string
	Principals        []string
	IPBlocks          []string
	RemoteIPBlocks    []string
	RequestPrincipals []string
}

// ServiceAccount of the mesh's own trust domain.
type ServiceAccount struct {
	Namespace, Name string
}

// Operation is what is called. Everything that is set must hold.
type Operation struct {
	Methods, NotMethods []string
	Paths, NotPaths     []string
	Hosts               []string
	Ports, NotPorts     []int32
}

// aboutRequests says whether it can only be told of a request, not of a connection.
func (o Operation) aboutRequests() bool {
	return len(o.Methods)+len(o.NotMethods)+len(o.Paths)+len(o.NotPaths)+len(o.Hosts) > 0
}

// Condition is about a claim of a valid token, by the names that lead to it, or about a header. The value must be one of
// Values, or none of NotValues.
type Condition struct {
	Claim             []string
	Header            string
	Values, NotValues []string
}

func (i *Intent) callers(profile *v1alpha1.ServiceSecurityProfile, f facts.Facts) {
	a := profile.Spec.Authorization
	if a == nil {
		return
	}
	dryRun := a.Enforcement == v1alpha1.EnforcementDryRun
	if len(a.DeniedCallers) > 0 {
		deny := Policy{Name: facts.DenyName(profile.Name), Attachment: attachment(f), Deny: true, DryRun: dryRun}
		for _, caller := range a.DeniedCallers {
			deny.Rules = append(deny.Rules, spared(Rules(caller, profile.Namespace), tcpPorts(f))...)
		}
		i.Policies = append(i.Policies, deny)
	}
	if a.Default == v1alpha1.DefaultAllow {
		return
	}
	allow := Policy{Name: facts.AllowName(profile.Name), Attachment: attachment(f), DryRun: dryRun}
	for _, caller := range a.AllowedCallers {
		allow.Rules = append(allow.Rules, bound(Rules(caller, profile.Namespace), profile.Spec.JWT)...)
	}
	i.Policies = append(i.Policies, allow)
}

// Rules are those that stand for a caller of a profile in a namespace. Operations about requests and others go into rules of their own: on a
// TCP port Istio drops an ALLOW rule as a whole if any part of it is about requests.
func Rules(caller v1alpha1.Caller, namespace string) []Rule {
	from, when := sources(caller, namespace), conditions(caller)
	if len(caller.Operations) == 0 {
		return []Rule{{From: from, When: when}}
	}
	var requests, connections []Operation
	for _, o := range caller.Operations {
		operation := Operation{Methods: Texts(o.Methods), Paths: Texts(o.Paths), Hosts: Texts(o.Hosts), Ports: numbers(o.Ports)}
		if operation.aboutRequests() {
			requests = append(requests, operation)
		} else {
			connections = append(connections, operation)
		}
	}
	var rules []Rule
	for _, operations := range [][]Operation{connections, requests} {
		if len(operations) > 0 {
			rules = append(rules, Rule{From: from, To: operations, When: when})
		}
	}
	return rules
}

// spared keeps rules about requests away from TCP ports: a DENY rule loses its conditions there and refuses everybody.
func spared(rules []Rule, tcp []int32) []Rule {
	if len(tcp) == 0 {
		return rules
	}
	for i, rule := range rules {
		if !rule.AboutRequests() {
			continue
		}
		operations := slices.Clone(rule.To)
		if len(operations) == 0 {
			operations = []Operation{{}}
		}
		for j, operation := range operations {
			if len(operation.Ports) == 0 || overlap(operation.Ports, tcp) {
				operations[j].NotPorts = tcp
			}
		}
		rules[i].To = operations
	}
	return rules
}

// bound ties what a caller says of its token to the profile's issuers: somebody else's RequestAuthentication may make
// tokens of other issuers valid, which then claim what they like.
func bound(rules []Rule, jwt *v1alpha1.JWT) []Rule {
	if jwt == nil {
		return rules
	}
	for i, rule := range rules {
		if rule.trustsAnyIssuer() {
			rules[i].When = append(slices.Clone(rule.When), Condition{Claim: []string{issuerClaim}, Values: issuersOf(jwt)})
		}
	}
	return rules
}

// trustsAnyIssuer says whether the rule asks something of a token but not whose it is.
func (r Rule) trustsAnyIssuer() bool {
	anyone := func(principal string) bool { return strings.HasPrefix(principal, anyValue) }
	return slices.ContainsFunc(r.When, func(c Condition) bool { return len(c.Claim) > 0 }) ||
		slices.ContainsFunc(r.From, func(s Source) bool { return slices.ContainsFunc(s.RequestPrincipals, anyone) })
}

// AboutRequests says whether some part of the rule can only be told of a request.
func (r Rule) AboutRequests() bool {
	return len(r.When) > 0 ||
		slices.ContainsFunc(r.From, func(s Source) bool { return len(s.RequestPrincipals) > 0 }) ||
		slices.ContainsFunc(r.To, Operation.aboutRequests)
}

// sources has one for each kind of identity, since these are alternatives, with everything else copied into each.
func sources(caller v1alpha1.Caller, namespace string) []Source {
	var accounts []ServiceAccount
	for _, ref := range caller.ServiceAccounts {
		in, name, qualified := strings.Cut(string(ref), "/")
		if !qualified {
			in, name = namespace, in
		}
		accounts = append(accounts, ServiceAccount{Namespace: in, Name: name})
	}
	var identities []Source
	for _, identity := range []Source{
		{ServiceAccounts: accounts}, {Namespaces: Texts(caller.Namespaces)}, {Principals: Texts(caller.Principals)},
	} {
		if len(identity.ServiceAccounts)+len(identity.Namespaces)+len(identity.Principals) > 0 {
			identities = append(identities, identity)
		}
	}
	shared := len(caller.IPBlocks)+len(caller.RemoteIPBlocks)+len(caller.RequestPrincipals) > 0
	if len(identities) == 0 && shared {
		identities = []Source{{}}
	}
	for i := range identities {
		identities[i].IPBlocks, identities[i].RemoteIPBlocks = Texts(caller.IPBlocks), Texts(caller.RemoteIPBlocks)
		identities[i].RequestPrincipals = Texts(caller.RequestPrincipals)
	}
	return identities
}

func conditions(caller v1alpha1.Caller) []Condition {
	var all []Condition
	for _, claim := range caller.Claims {
		path := Texts(claim.Path)
		if claim.Name != "" {
			path = []string{string(claim.Name)}
		}
		all = append(all, Condition{Claim: path, Values: Texts(claim.Values)})
	}
	for _, header := range caller.Headers {
		all = append(all, Condition{Header: string(header.Name), Values: Texts(header.Values)})
	}
	return all
}

func numbers(ports []v1alpha1.Port) []int32 {
	var out []int32
	for _, port := range ports {
		out = append(out, int32(port))
	}
	return out
}

func overlap(a, b []int32) bool {
	return slices.ContainsFunc(a, func(port int32) bool { return slices.Contains(b, port) })
}
