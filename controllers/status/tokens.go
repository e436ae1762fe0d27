package status

import (
	"fmt"
	"slices"
	"strings"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

// tokenWarnings say what the tokens' section does besides what it says.
func tokenWarnings(r report, add addWarning) {
	jwt := r.Profile.Spec.JWT
	for _, foreign := range r.Facts.ForeignTokens {
		add(v1alpha1.WarningForeignRequestAuthentication, "RequestAuthentication %s/%s is for the same pods, and Istio takes tokens that either of the two takes. %s Delete it, or say what it says in this profile.",
			foreign.Namespace, foreign.Name, opens(*jwt, foreign))
	}
	if pods := outside(r.Facts.Pods); len(pods) > 0 {
		add(v1alpha1.WarningPodsNotInMesh, "These pods have no proxy that could look at tokens, so no token is demanded there: %s. Enable injection and restart them.", names(pods))
	}
	if ports := bypassing(r.Facts.Pods); len(ports) > 0 {
		add(v1alpha1.WarningPodsNotInMesh, "These ports bypass the proxy, so no token is demanded there: %s. Take them out of the annotation traffic.sidecar.istio.io/excludeInboundPorts, and restart the pods.", names(ports))
	}
	if jwt.Requirement != v1alpha1.TokenOptional {
		requirementWarnings(r, add)
	}
	for _, issuer := range jwt.Issuers {
		insecure := strings.HasPrefix(string(issuer.JWKSURI), "http://") ||
			issuer.JWKSURI == "" && issuer.JWKS == "" && strings.HasPrefix(string(issuer.Issuer), "http://")
		if insecure {
			add(v1alpha1.WarningInsecureKeys, "The keys of issuer %s are fetched over http, so whoever is on the way can put in their own. Use https, or write them into jwks.", issuer.Issuer)
		}
	}
}

// opens says which doors somebody else's tokens open.
func opens(jwt v1alpha1.JWT, foreign facts.ForeignTokens) string {
	shared, others := []string{}, []string{}
	for _, issuer := range foreign.Issuers {
		own := slices.ContainsFunc(jwt.Issuers, func(i v1alpha1.Issuer) bool { return string(i.Issuer) == issuer })
		if own {
			shared = append(shared, issuer)
		} else {
			others = append(others, issuer)
		}
	}
	var texts []string
	if len(shared) > 0 {
		texts = append(texts, fmt.Sprintf("Its keys and audiences count for these issuers of the profile: %s.", names(shared)))
	}
	if len(others) > 0 && jwt.Requirement == v1alpha1.TokenOptional {
		texts = append(texts, fmt.Sprintf("Tokens of these issuers are valid, too: %s.", names(others)))
	} else if len(others) > 0 {
		texts = append(texts, fmt.Sprintf("Tokens of these issuers are valid, but do not meet requirement Required: %s.", names(others)))
	}
	return sentences(texts...)
}

// requirementWarnings say where the demand for a token does not hold, or holds too much.
func requirementWarnings(r report, add addWarning) {
	jwt := r.Profile.Spec.JWT
	if ports := portsOf(r.Facts, facts.ProtocolTCP); len(ports) > 0 {
		add(v1alpha1.WarningTokenOnTCPPort, "Workload %s declared as TCP, where there is no request that could carry a token: no token is demanded there. Restrict callers by authorization, or declare the protocol of what speaks HTTP.", portsAre(ports))
	}
	if ports := portsOf(r.Facts, facts.ProtocolUndeclared); len(ports) > 0 {
		add(v1alpha1.WarningTokenOnUndeclaredPort, "The protocol of workload %s is not declared, or not everywhere the same. Requests need a token there, and everything that turns out not to be HTTP is refused. Name the Service's port by its protocol, such as http-web or tcp-db, or set appProtocol; where the pods' Sidecar has ingress listeners, these count instead: list the port there.", portsText(ports))
	}
	if len(jwt.RequiredPaths) > 0 {
		add(v1alpha1.WarningRequiredPathsEvadable, "The list requiredPaths says what needs a token, and an application that reads a path otherwise than Istio does (by case, by ;, by encoded characters) can be reached around it. Use exemptPaths with exact paths, which fails closed.")
	}
	if paths := deadPaths(r.Profile.Spec); len(paths) > 0 && !r.Facts.Lost(v1alpha1.SectionAuthorization) {
		add(v1alpha1.WarningExemptPathDead, "These of exemptPaths let nobody in without a token all the same, because every caller in allowedCallers needs one: %s. Add a caller without claims and requestPrincipals for them.", names(paths))
	}
}

// deadPaths are the exempt paths that no caller can use without a token.
func deadPaths(spec v1alpha1.ServiceSecurityProfileSpec) []string {
	a := spec.Authorization
	if a == nil || a.Default == v1alpha1.DefaultAllow || a.Enforcement == v1alpha1.EnforcementDryRun {
		return nil
	}
	tokenless := slices.ContainsFunc(a.AllowedCallers, func(c v1alpha1.Caller) bool { return len(c.Claims)+len(c.RequestPrincipals) == 0 })
	if tokenless {
		return nil
	}
	var paths []string
	for _, path := range spec.JWT.ExemptPaths {
		paths = append(paths, string(path))
	}
	return paths
}

func portsOf(f facts.Facts, protocol facts.Protocol) []string {
	var ports []string
	for _, port := range f.Ports {
		if port.Protocol == protocol {
			ports = append(ports, fmt.Sprint(port.Port))
		}
	}
	return ports
}

func portsText(ports []string) string {
	if len(ports) == 1 {
		return "port " + ports[0]
	}
	return "ports " + and(ports)
}

func portsAre(ports []string) string {
	if len(ports) == 1 {
		return portsText(ports) + " is"
	}
	return portsText(ports) + " are"
}
