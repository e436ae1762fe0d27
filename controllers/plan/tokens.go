package plan

import (
	"slices"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

// Tokens are what proxies make of the tokens that requests carry.
type Tokens struct {
	Name string
	Attachment
	Issuers []v1alpha1.Issuer
}

const (
	// issuerClaim tells whose valid token a request carries. It is asked for instead of a request principal, which needs a
	// subject, and which tokens of anybody's RequestAuthentication have.
	issuerClaim = "iss"
	// preflight is the method of a CORS preflight, and preflightHeader the header by which it is one. A browser sends it
	// without a token, and asks no other way whether it may send the request that has one.
	preflight       = "OPTIONS"
	preflightHeader = "access-control-request-method"
	// anyValue is every value that is there.
	anyValue = "*"
)

func (i *Intent) tokens(profile *v1alpha1.ServiceSecurityProfile, f facts.Facts) {
	jwt := profile.Spec.JWT
	if jwt == nil {
		return
	}
	i.Tokens = &Tokens{Name: facts.TokensName(profile.Name), Attachment: attachment(f), Issuers: slices.Clone(jwt.Issuers)}
	if jwt.Requirement == v1alpha1.TokenOptional {
		return
	}
	i.Policies = append(i.Policies, Policy{
		Name: facts.TokenName(profile.Name), Attachment: attachment(f), Deny: true, Rules: tokenRules(jwt, tcpPorts(f)),
	})
}

// tokenRules refuse requests without a token of the issuers. Declared TCP ports have no requests, and a rule that loses its
// conditions there would close them.
func tokenRules(jwt *v1alpha1.JWT, tcp []int32) []Rule {
	where := Operation{Paths: Texts(jwt.RequiredPaths), NotPaths: Texts(jwt.ExemptPaths), NotPorts: tcp}
	without := Condition{Claim: []string{issuerClaim}, NotValues: issuersOf(jwt)}
	requests, options := where, where
	requests.NotMethods, options.Methods = []string{preflight}, []string{preflight}
	return []Rule{
		{To: []Operation{requests}, When: []Condition{without}},
		{To: []Operation{options}, When: []Condition{without, {Header: preflightHeader, NotValues: []string{anyValue}}}},
	}
}

func issuersOf(jwt *v1alpha1.JWT) []string {
	issuers := make([]string, 0, len(jwt.Issuers))
	for _, issuer := range jwt.Issuers {
		issuers = append(issuers, string(issuer.Issuer))
	}
	return issuers
}

func tcpPorts(f facts.Facts) []int32 {
	var ports []int32
	for _, port := range f.Ports {
		if port.Protocol == facts.ProtocolTCP {
			ports = append(ports, port.Port)
		}
	}
	return ports
}

// Texts are named strings as plain ones; nil for none.
func Texts[T ~string](all []T) []string {
	var out []string
	for _, one := range all {
		out = append(out, string(one))
	}
	return out
}
