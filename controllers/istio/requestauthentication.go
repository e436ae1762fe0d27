package istio

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	securityapi "istio.io/api/security/v1beta1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	"k8s.io/utils/ptr"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/plan"
)

// requestAuthentication says which tokens are valid.
func requestAuthentication(namespace string, tokens plan.Tokens) *securityv1.RequestAuthentication {
	object := &securityv1.RequestAuthentication{ObjectMeta: meta(namespace, tokens.Name)}
	object.Spec.Selector, object.Spec.TargetRefs = attach(tokens.Attachment)
	for _, issuer := range tokens.Issuers {
		object.Spec.JwtRules = append(object.Spec.JwtRules, jwtRule(issuer))
	}
	return object
}

func jwtRule(issuer v1alpha1.Issuer) *securityapi.JWTRule {
	rule := &securityapi.JWTRule{
		Issuer: string(issuer.Issuer), JwksUri: string(issuer.JWKSURI), Jwks: issuer.JWKS,
		Audiences: plan.Texts(issuer.Audiences), FromParams: plan.Texts(issuer.FromParams), FromCookies: plan.Texts(issuer.FromCookies),
		ForwardOriginalToken:  ptr.Deref(issuer.ForwardOriginalToken, false),
		OutputPayloadToHeader: string(issuer.OutputPayloadToHeader),
	}
	for _, header := range issuer.FromHeaders {
		rule.FromHeaders = append(rule.FromHeaders, &securityapi.JWTHeader{Name: string(header.Name), Prefix: header.Prefix})
	}
	for _, claim := range issuer.OutputClaimToHeaders {
		rule.OutputClaimToHeaders = append(rule.OutputClaimToHeaders, &securityapi.ClaimToHeader{Header: string(claim.Header), Claim: string(claim.Claim)})
	}
	// The API server admits no other durations than those that can be read.
	if timeout, err := time.ParseDuration(string(issuer.Timeout)); err == nil {
		rule.Timeout = durationpb.New(timeout)
	}
	return rule
}
