package v1alpha1

// TokenRequirement says what happens to a request without a token.
//
// +kubebuilder:validation:Enum=Required;Optional
type TokenRequirement string

// The token requirements.
const (
	// TokenRequired refuses a request without a valid token of one of the
	// issuers.
	TokenRequired TokenRequirement = "Required"
	// TokenOptional lets a request without a token through; an invalid one is
	// refused all the same.
	TokenOptional TokenRequirement = "Optional"
)

// JWT declares the end-user tokens that are accepted or demanded.
//
// +kubebuilder:validation:XValidation:rule="!(has(self.exemptPaths) && has(self.requiredPaths))",message="set exemptPaths (a token everywhere but there) or requiredPaths (a token only there), not both"
// +kubebuilder:validation:XValidation:rule="self.requirement != 'Optional' || !(has(self.exemptPaths) || has(self.requiredPaths))",message="exemptPaths and requiredPaths need requirement Required, since with Optional no path needs a token: remove them, or set requirement to Required"
type JWT struct {
	// requirement says what happens to a request without a token. Required, the
	// default, refuses it with 403. Optional lets it through. A token that is
	// invalid, expired or of another issuer is refused with 401 in either case,
	// and one for another audience with 403.
	// +optional
	// +kubebuilder:default=Required
	Requirement TokenRequirement `json:"requirement,omitempty"`

	// exemptPaths are paths that need no token, such as health checks. A bad
	// token is still refused there, and authorization still applies. Prefer
	// exact paths: what an application makes of "/public/..%2Fadmin" is its own
	// affair, and Istio sees a path under /public/. It cannot
	// be combined with requiredPaths. At most 16.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:XValidation:rule="!self.exists(p, p in ['*', '/*', '/{**}'])",message="exemptPaths exempts every path: set requirement to Optional instead, or name the paths"
	// +kubebuilder:validation:items:XValidation:rule=`self.contains('{') || self.matches(r'^(/[^\s?#*}]*\*?|\*[^\s?#*}]*)$')`,message="write a path that is exact (/a/b), a prefix (/a/*) or a suffix (*/b), without query, blanks or another *"
	// +kubebuilder:validation:items:XValidation:rule="!self.contains('{') || self.matches(r\"^(/(\\{\\*\\}|[-\\w.~%!$&'()+,;:@=]+))*(/\\{\\*\\*\\}(/[-\\w.~%!$&'()+,;:@=]+)*)?/?$\")",message="write a path template of whole segments, {*} for one and at most one {**}, the last of them, for any number, such as /users/{*}/photos or /static/{**}"
	ExemptPaths []Path `json:"exemptPaths,omitempty"`

	// requiredPaths are the only paths that need a token. An application that
	// reads a path otherwise than Istio does can be reached around them, so
	// prefer exemptPaths with exact paths, around which it cannot. At most 16.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:XValidation:rule=`self.contains('{') || self.matches(r'^(/[^\s?#*}]*\*?|\*[^\s?#*}]*)$')`,message="write a path that is exact (/a/b), a prefix (/a/*) or a suffix (*/b), without query, blanks or another *"
	// +kubebuilder:validation:items:XValidation:rule="!self.contains('{') || self.matches(r\"^(/(\\{\\*\\}|[-\\w.~%!$&'()+,;:@=]+))*(/\\{\\*\\*\\}(/[-\\w.~%!$&'()+,;:@=]+)*)?/?$\")",message="write a path template of whole segments, {*} for one and at most one {**}, the last of them, for any number, such as /users/{*}/photos or /static/{**}"
	RequiredPaths []Path `json:"requiredPaths,omitempty"`

	// issuers are the issuers whose tokens are accepted, from 1 to 16, each
	// once.
	// +required
	// +listType=map
	// +listMapKey=issuer
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Issuers []Issuer `json:"issuers"`
}

// Path is a request path: exact (/a/b), prefix (/a/*), suffix (*/b), or an
// Istio path template (/a/{*}/b, /a/{**}). Its form is checked where it is
// used, since rules with a message of their own cost too much inside the
// operations of callers.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=256
type Path string

// HTTPHeaderName is the name of an HTTP header.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=256
// +kubebuilder:validation:XValidation:rule="self.matches(\"^[-A-Za-z0-9!#$%&'*+.^_`|~]+$\")",message="write the name of a header alone, without blanks or a colon, such as x-token"
type HTTPHeaderName string

// Text is a bounded string without control characters.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=256
// +kubebuilder:validation:Pattern=`^[^\x00-\x1f\x7f]+$`
type Text string

// URL is an http or https address.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=256
// +kubebuilder:validation:XValidation:rule="isURL(self) && url(self).getScheme() in ['http', 'https'] && size(url(self).getHostname()) > 0",message="write an http or https address, such as https://accounts.example.com/jwks"
type URL string

// Issuer is one issuer of tokens and where its tokens are found. Its keys
// come from jwksUri, from jwks, or, with neither, from the issuer's OIDC
// discovery document, as Istio does it.
//
// +kubebuilder:validation:XValidation:rule="!(has(self.jwksUri) && has(self.jwks))",message="set jwksUri or jwks, not both"
// +kubebuilder:validation:XValidation:rule="has(self.jwksUri) || has(self.jwks) || self.issuer.startsWith('https://') || self.issuer.startsWith('http://')",message="the keys of an issuer that is no http or https address cannot be discovered: set jwksUri or jwks"
type Issuer struct {
	// issuer is the issuer exactly as it stands in the token's iss claim.
	// +required
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('*') && !self.endsWith('*')",message="write the issuer exactly as it stands in its tokens, without a * at its start or end: one * would stand for other issuers"
	Issuer Text `json:"issuer"`

	// jwksUri is the address of the issuer's key set (JWKS). istiod fetches it,
	// and while it cannot be fetched every token of the issuer is refused.
	// +optional
	JWKSURI URL `json:"jwksUri,omitempty"`

	// jwks is the issuer's key set (JWKS) itself, as JSON of at most 64 KiB. It
	// holds public keys only.
	// +optional
	// +kubebuilder:validation:MinLength=2
	// +kubebuilder:validation:MaxLength=65536
	// +kubebuilder:validation:XValidation:rule=`self.matches(r'^\s*\{') && self.matches(r'"keys"\s*:\s*\[') && self.matches(r'\}\s*$')`,message="jwks must be a JSON Web Key Set: {\"keys\": [...]}"
	JWKS string `json:"jwks,omitempty"`

	// audiences are the audiences of which a token must name one in its aud
	// claim. Without any, every audience is accepted. At most 16.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	Audiences []Text `json:"audiences,omitempty"`

	// fromHeaders are the headers that carry the token. Where fromHeaders,
	// fromParams and fromCookies are all absent, it is taken from
	// "Authorization: Bearer", then from the query parameter access_token. At
	// most 16, each header once.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	FromHeaders []TokenHeader `json:"fromHeaders,omitempty"`

	// fromParams are the query parameters that carry the token. At most 16.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:XValidation:rule=`self.matches(r'^[^\s&=?#]+$')`,message="write the name of a query parameter alone, without blanks, =, &, ? or #"
	FromParams []Text `json:"fromParams,omitempty"`

	// fromCookies are the cookies that carry the token. At most 16.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:XValidation:rule=`self.matches(r'^[^\s;,="]+$')`,message="write the name of a cookie alone, without blanks, =, comma or semicolon"
	FromCookies []Text `json:"fromCookies,omitempty"`

	// forwardOriginalToken says whether the token is passed on to the workload.
	// Without it the token is taken out of the request.
	// +optional
	ForwardOriginalToken *bool `json:"forwardOriginalToken,omitempty"`

	// outputPayloadToHeader is a header in which the token's payload is passed
	// on to the workload, base64url-encoded.
	// +optional
	OutputPayloadToHeader HTTPHeaderName `json:"outputPayloadToHeader,omitempty"`

	// outputClaimToHeaders are claims that are copied to headers for the
	// workload. At most 16, each header once.
	// +optional
	// +listType=map
	// +listMapKey=header
	// +kubebuilder:validation:MaxItems=16
	OutputClaimToHeaders []ClaimToHeader `json:"outputClaimToHeaders,omitempty"`

	// timeout is how long fetching the key set may take, at least 1ms. Without
	// it Istio's default of 5s holds.
	// +optional
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') || duration(self) >= duration('1ms')",message="timeout must be at least 1ms, for example 5s"
	Timeout Duration `json:"timeout,omitempty"`
}

// TokenHeader is a header that carries a token.
type TokenHeader struct {
	// name is the name of the header.
	// +required
	Name HTTPHeaderName `json:"name"`

	// prefix is what stands before the token, with its trailing blank, such as
	// "Bearer ". Without it the whole value is the token.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^[^\x00-\x1f\x7f]*$`
	Prefix string `json:"prefix,omitempty"`
}

// ClaimToHeader copies a claim to a header.
type ClaimToHeader struct {
	// header is the name of the header that the workload receives.
	// +required
	// +kubebuilder:validation:XValidation:rule="self.matches('^[-_A-Za-z0-9]+$')",message="Istio writes claims only to headers of letters, digits, - and _, such as x-group"
	Header HTTPHeaderName `json:"header"`

	// claim is the name of the claim. The names of nested claims are joined by
	// dots.
	// +required
	Claim Text `json:"claim"`
}
