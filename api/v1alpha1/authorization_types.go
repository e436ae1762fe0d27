package v1alpha1

// Enforcement says whether authorization is in force or only counted.
//
// +kubebuilder:validation:Enum=Enforced;DryRun
type Enforcement string

// The enforcements.
const (
	// EnforcementEnforced refuses.
	EnforcementEnforced Enforcement = "Enforced"
	// EnforcementDryRun counts what would be refused, by Istio's dry-run
	// annotation.
	EnforcementDryRun Enforcement = "DryRun"
)

// DefaultAction says what happens to a caller that no list names.
//
// +kubebuilder:validation:Enum=Deny;Allow
type DefaultAction string

// The default actions.
const (
	// DefaultDeny lets only allowedCallers in.
	DefaultDeny DefaultAction = "Deny"
	// DefaultAllow lets everyone in but deniedCallers.
	DefaultAllow DefaultAction = "Allow"
)

// Authorization says who may call.
//
// +kubebuilder:validation:XValidation:rule="self.default == 'Deny' || !has(self.allowedCallers) || size(self.allowedCallers) == 0",message="allowedCallers has no meaning with default Allow: remove it, or set default to Deny"
// +kubebuilder:validation:XValidation:rule="self.default == 'Deny' || (has(self.deniedCallers) && size(self.deniedCallers) > 0)",message="default Allow without deniedCallers restricts nobody: add deniedCallers, or remove authorization"
type Authorization struct {
	// enforcement says whether callers are refused. Enforced, the default,
	// refuses. DryRun lets everybody through and makes the proxies count what
	// would be refused.
	// +optional
	// +kubebuilder:default=Enforced
	Enforcement Enforcement `json:"enforcement,omitempty"`

	// default says what happens to a caller that no list names. Deny, the
	// default, lets only allowedCallers in, and nobody where none are listed.
	// Allow lets in all but deniedCallers.
	// +optional
	// +kubebuilder:default=Deny
	Default DefaultAction `json:"default,omitempty"`

	// allowedCallers are the callers that are let in. One match is enough. At
	// most 64, each name once.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=64
	AllowedCallers []Caller `json:"allowedCallers,omitempty"`

	// deniedCallers are the callers that are refused, also when allowedCallers
	// lists them. At most 64, each name once.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=64
	DeniedCallers []Caller `json:"deniedCallers,omitempty"`
}

// ServiceAccountRef names a service account: "name" in the profile's
// namespace, or "namespace/name".
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=256
// +kubebuilder:validation:XValidation:rule="self.matches('^([a-z0-9]([-a-z0-9]*[a-z0-9])?/)?[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')",message="write a service account as name, in the profile's namespace, or as namespace/name, without wildcards"
type ServiceAccountRef string

// Principal is a peer identity as Istio writes it, without spiffe://:
// "cluster.local/ns/a/sa/b", with a "*" at its start or end if wanted.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=256
// +kubebuilder:validation:XValidation:rule="!self.startsWith('spiffe://')",message="write a principal without spiffe://, such as cluster.local/ns/shop/sa/checkout"
// +kubebuilder:validation:XValidation:rule=`self.matches(r'^(\*|\*[-A-Za-z0-9_./:]+|[^\s*]+\*?)$')`,message="write a principal such as cluster.local/ns/shop/sa/checkout, with a * at its start or its end only, and after a * at its start nothing but letters, digits and - _ . / :"
type Principal string

// NamespaceName is the name of a namespace.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=63
// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",message="write the name of a namespace, of lower-case letters, digits and -, without wildcards"
type NamespaceName string

// IPBlock is an IP address or CIDR block, such as 10.0.0.0/8 or
// 2001:db8::/32.
//
// +kubebuilder:validation:MinLength=2
// +kubebuilder:validation:MaxLength=64
// +kubebuilder:validation:XValidation:rule="isIP(self) || isCIDR(self)",message="write an IP address or a CIDR block, such as 10.1.2.3, 10.0.0.0/8 or 2001:db8::/32"
type IPBlock string

// RequestPrincipal is a token's issuer/subject, with a "*" at its start or
// end if wanted. What stands after the last / is the subject.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=256
// +kubebuilder:validation:XValidation:rule=`self.matches(r'^(\*|\*?[^\s*]*/([^\s*/]+\*?|\*))$') && !self.matches(r'^[^/]*:/+[^/]*$')`,message="write a request principal as issuer/subject, such as https://accounts.example.com/alice, with a * at the start of the issuer or at the end of the subject: https://accounts.example.com/* is whoever has a token of that issuer"
type RequestPrincipal string

// Caller is a kind of request. The identity kinds (serviceAccounts,
// namespaces, principals) are alternatives; everything else that is set must
// hold as well. Within one list one match is enough.
//
// +kubebuilder:validation:XValidation:rule="(has(self.serviceAccounts) && size(self.serviceAccounts) > 0) || (has(self.namespaces) && size(self.namespaces) > 0) || (has(self.principals) && size(self.principals) > 0) || (has(self.ipBlocks) && size(self.ipBlocks) > 0) || (has(self.remoteIpBlocks) && size(self.remoteIpBlocks) > 0) || (has(self.requestPrincipals) && size(self.requestPrincipals) > 0) || (has(self.claims) && size(self.claims) > 0) || (has(self.headers) && size(self.headers) > 0) || (has(self.operations) && size(self.operations) > 0)",message="a caller without any condition is everybody: say by at least one list entry who calls or what is called"
type Caller struct {
	// name is what status and events call this caller. It is unique in its list.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",message="write a caller's name in lower-case letters, digits and -, such as product-page"
	Name string `json:"name"`

	// serviceAccounts are the service accounts that call: "name" in the
	// profile's namespace, or "namespace/name". They are proven by mutual TLS,
	// so plaintext never matches. At most 16.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	ServiceAccounts []ServiceAccountRef `json:"serviceAccounts,omitempty"`

	// namespaces are the namespaces that call. They are proven by mutual TLS, so
	// plaintext never matches. At most 16.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	Namespaces []NamespaceName `json:"namespaces,omitempty"`

	// principals are peer identities of any trust domain, such as
	// "cluster.local/ns/shop/sa/checkout", with a "*" at the start or the end if
	// wanted. They are proven by mutual TLS, so plaintext never matches. At most
	// 16.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	Principals []Principal `json:"principals,omitempty"`

	// ipBlocks are the addresses that the connection comes from. At most 16.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	IPBlocks []IPBlock `json:"ipBlocks,omitempty"`

	// remoteIpBlocks are the addresses of the original client, taken from
	// X-Forwarded-For or the proxy protocol as the mesh is configured to trust
	// them. At most 16.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	RemoteIPBlocks []IPBlock `json:"remoteIpBlocks,omitempty"`

	// requestPrincipals are the end users, as issuer/subject of a valid token,
	// with a "*" at the start or the end if wanted. At most 16.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	RequestPrincipals []RequestPrincipal `json:"requestPrincipals,omitempty"`

	// claims are what a valid token must claim; all entries must hold. At most
	// 16.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	Claims []ClaimMatch `json:"claims,omitempty"`

	// headers are what the request's headers must say; all entries must hold. At
	// most 16, each header once.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	Headers []HeaderMatch `json:"headers,omitempty"`

	// operations are what is called; one match is enough. Without any,
	// everything may be called. At most 16.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	Operations []Operation `json:"operations,omitempty"`
}

// ClaimMatch demands a claim with one of the values.
//
// +kubebuilder:validation:XValidation:rule="has(self.name) != has(self.path)",message="set either name (a top-level claim) or path (a nested one)"
type ClaimMatch struct {
	// name is the name of a top-level claim. Either name or path must be set.
	// +optional
	// +kubebuilder:validation:XValidation:rule=`self.matches(r'^[^\[\]]+$')`,message="write the name of a claim without brackets; for a nested claim use path, such as [realm_access, roles]"
	Name Text `json:"name,omitempty"`

	// path leads to a nested claim, such as [realm_access, roles]. From 1 to 16
	// names. Either name or path must be set.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:XValidation:rule=`self.matches(r'^[^\[\]]+$')`,message="write each name on the path to a claim as an entry of its own, without brackets"
	Path []Text `json:"path,omitempty"`

	// values are the values of which the claim must have one, with a "*" at the
	// start or the end if wanted. They match strings and lists of strings; a
	// claim that is a boolean or a number never matches. From 1 to 16.
	// +required
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Values []Text `json:"values"`
}

// HeaderMatch demands a header with one of the values.
type HeaderMatch struct {
	// name is the name of the header.
	// +required
	Name HTTPHeaderName `json:"name"`

	// values are the values of which the header must have one, with a "*" at the
	// start or the end if wanted. From 1 to 16.
	// +required
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Values []Text `json:"values"`
}

// Method is an HTTP method.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=32
// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Z][-A-Z]*$')",message="write an HTTP method in capitals, such as GET"
type Method string

// Host is a Host header, with a "*" at its start or end if wanted.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=256
// +kubebuilder:validation:Pattern=`^(\*|\*?[^\s*/]+|[^\s*/]+\*)$`
type Host string

// Port is a workload (container) port.
//
// +kubebuilder:validation:Minimum=1
// +kubebuilder:validation:Maximum=65535
type Port int32

// Operation is what is called; everything that is set must hold.
//
// +kubebuilder:validation:XValidation:rule="(has(self.methods) && size(self.methods) > 0) || (has(self.paths) && size(self.paths) > 0) || (has(self.hosts) && size(self.hosts) > 0) || (has(self.ports) && size(self.ports) > 0)",message="an operation without any condition is every operation: add methods, paths, hosts or ports, or remove operations"
type Operation struct {
	// methods are HTTP methods in capitals, such as GET. At most 16.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	Methods []Method `json:"methods,omitempty"`

	// paths are request paths: exact (/a/b), prefix (/a/*), suffix (*/b), or
	// Istio's path templates (/a/{*}/b, /a/{**}). At most 16.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:Pattern="^((/[^\\s?#*{}]*\\*?|\\*[^\\s?#*{}]*)|(/(\\{\\*\\}|[-\\w.~%!$&'()+,;:@=]+))*(/\\{\\*\\*\\}(/[-\\w.~%!$&'()+,;:@=]+)*)?/?)$"
	Paths []Path `json:"paths,omitempty"`

	// hosts are values of the Host header, with a "*" at the start or the end if
	// wanted. At most 16.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	Hosts []Host `json:"hosts,omitempty"`

	// ports are ports that the container listens on (1 to 65535), not ports of a
	// Service. At most 16.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	Ports []Port `json:"ports,omitempty"`
}
