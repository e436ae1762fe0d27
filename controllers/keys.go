package controllers

import (
	"fmt"

	"github.com/lestrrat-go/jwx/jwk"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

// keysProblem refuses inline keys that Istio would refuse, by the library that Istio reads them with, and those with which
// no token would be valid or every reader of the profile could make one; nil if they are fine.
func keysProblem(profile *v1alpha1.ServiceSecurityProfile) *facts.Problem {
	if profile.Spec.JWT == nil {
		return nil
	}
	for _, issuer := range profile.Spec.JWT.Issuers {
		if issuer.JWKS == "" {
			continue
		}
		if what := wrongWith(issuer.JWKS); what != "" {
			return &facts.Problem{
				Reason: v1alpha1.ReasonInvalid, Section: v1alpha1.SectionJWT,
				Message: fmt.Sprintf("jwt.issuers: the jwks of issuer %q %s.", issuer.Issuer, what),
			}
		}
	}
	return nil
}

// wrongWith says what is wrong with a key set, and what to write instead; empty if nothing is.
func wrongWith(text string) string {
	set, err := jwk.Parse([]byte(text))
	switch {
	case err != nil:
		return fmt.Sprintf("is no JSON Web Key Set (%s): write the issuer's public keys, as they are at its jwksUri", clip(err.Error(), maxReason))
	case set.Len() == 0:
		return "has no key, so that every token would be refused: write the issuer's public keys, or set jwksUri"
	}
	for i := range set.Len() {
		key, _ := set.Get(i)
		switch key.(type) {
		case jwk.RSAPrivateKey, jwk.ECDSAPrivateKey, jwk.OKPPrivateKey, jwk.SymmetricKey:
			return fmt.Sprintf("has a private or symmetric key (key %d), which everybody who reads the profile could sign tokens with: replace that key at the issuer, and write public keys only", i+1)
		}
	}
	return ""
}

// maxReason bounds the words of a library about somebody's text.
const maxReason = 200
