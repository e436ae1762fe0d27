package crd_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// rule is one rule of the schema: merge patches over the minimal spec that it lets pass and that it refuses.
type rule struct {
	name string
	// field is where the API server reports the refusal; [*] is any index.
	field string
	// want is in the message of every refusal.
	want   string
	accept []string
	reject []string
}

// The messages of the schema's own keywords, as the API server writes them.
const (
	wantEnum          = "Unsupported value"
	wantRequired      = "Required value"
	wantPattern       = "should match '"
	wantMinLength     = "should be at least"
	wantMaxLength     = "Too long: may not be more than"
	wantMinItems      = "should have at least"
	wantMaxItems      = "Too many"
	wantMinimum       = "should be greater than or equal to"
	wantMaximum       = "should be less than or equal to"
	wantDuplicate     = "Duplicate value"
	wantMinProperties = "properties"
)

const (
	writeDuration = "write a duration such as 24h, 10m, 1h30m or 500ms: up to four whole numbers of at most five digits, each with its unit h, m, s or ms, and no sign"
	writeHeader   = "write the name of a header alone, without blanks or a colon, such as x-token"
	writePath     = "write a path that is exact (/a/b), a prefix (/a/*) or a suffix (*/b), without query, blanks or another *"
	writeTemplate = "write a path template of whole segments, {*} for one and at most one {**}, the last of them, for any number, such as /users/{*}/photos or /static/{**}"
	writeIPBlock  = "write an IP address or a CIDR block, such as 10.1.2.3, 10.0.0.0/8 or 2001:db8::/32"
)

// Sections that the cases below start from.
const (
	strict = `{mtls: {mode: Strict}}`
	jwt    = `{jwt: {issuers: [{issuer: "https://accounts.example.com"}]}}`
)

var sectionRules = []rule{
	{
		name:   "a profile says something",
		field:  "spec",
		want:   "the profile says nothing: set at least one of mtls, jwt and authorization",
		accept: []string{strict, `{mtls: null, authorization: {}}`, `{mtls: null, ` + jwt[1:], `{authorization: {}, ` + jwt[1:]},
		reject: []string{`{mtls: null}`},
	},
	{
		name:   "a profile has a target",
		field:  "spec.target",
		want:   wantRequired,
		reject: []string{`{target: null}`},
	},
	{
		name:   "gateways have no mtls",
		field:  "spec.mtls",
		want:   "mtls is not for gateways, whose listeners have TLS settings of their own: remove mtls, or target the Service behind the gateway",
		accept: []string{`{target: {kind: Gateway}, mtls: null, ` + jwt[1:], `{target: {kind: Gateway}, mtls: null, authorization: {}}`},
		reject: []string{`{target: {kind: Gateway}}`, `{target: {kind: Gateway}, authorization: {}}`},
	},
}

var targetRules = []rule{
	{
		name:   "the kind of the target is one of five",
		field:  "spec.target.kind",
		want:   wantEnum,
		accept: []string{`{target: {kind: Service}}`, `{target: {kind: Workload, name: null, selector: {matchLabels: {app: reviews}}}}`, `{target: {kind: Gateway}, mtls: null, authorization: {}}`, `{target: {kind: Namespace, name: null}}`, `{target: {kind: Mesh, name: null}}`},
		reject: []string{`{target: {kind: Deployment}}`, `{target: {kind: service}}`, `{target: {kind: ""}}`},
	},
	{
		name:   "the target has a kind",
		field:  "spec.target.kind",
		want:   wantRequired,
		reject: []string{`{target: {kind: null}}`},
	},
	{
		name:   "Service and Gateway need a name",
		field:  "spec.target.name",
		want:   "kind Service and Gateway need name: set it to the one that is meant, in the profile's namespace",
		accept: []string{`{target: {kind: Service, name: reviews}}`},
		reject: []string{`{target: {name: null}}`, `{target: {kind: Gateway, name: null}, mtls: null, authorization: {}}`},
	},
	{
		name:   "only Service and Gateway have a name",
		field:  "spec.target.name",
		want:   "name is for kind Service and Gateway only: remove it; kind Workload takes selector",
		accept: []string{`{target: {kind: Namespace, name: null}}`},
		reject: []string{`{target: {kind: Namespace}}`, `{target: {kind: Mesh}}`, `{target: {kind: Workload, selector: {matchLabels: {app: reviews}}}}`},
	},
	{
		name:   "Workload needs a selector",
		field:  "spec.target.selector",
		want:   "kind Workload needs selector.matchLabels with at least one label of its pods; for all pods of the namespace use kind Namespace",
		accept: []string{`{target: {kind: Workload, name: null, selector: {matchLabels: {app: reviews}}}}`},
		reject: []string{`{target: {kind: Workload, name: null}}`},
	},
	{
		name:   "only Workload has a selector",
		field:  "spec.target.selector",
		want:   "selector is for kind Workload only: remove it, or set kind to Workload",
		accept: []string{`{target: {kind: Service}}`},
		reject: []string{`{target: {selector: {matchLabels: {app: reviews}}}}`, `{target: {kind: Namespace, name: null, selector: {matchLabels: {app: reviews}}}}`, `{target: {kind: Mesh, name: null, selector: {matchLabels: {app: reviews}}}}`},
	},
	{
		name:   "a selector has labels",
		field:  "spec.target.selector.matchLabels",
		want:   wantRequired,
		reject: []string{`{target: {kind: Workload, name: null, selector: {}}}`},
	},
	{
		name:   "a selector has one label at least",
		field:  "spec.target.selector.matchLabels",
		want:   "should have at least 1 properties",
		accept: []string{`{target: {kind: Workload, name: null, selector: {matchLabels: {app: ""}}}}`},
		reject: []string{`{target: {kind: Workload, name: null, selector: {matchLabels: {}}}}`},
	},
	{
		name:   "a selector has at most 16 labels",
		field:  "spec.target.selector.matchLabels",
		want:   "Too many: 17: must have at most 16 items",
		accept: []string{`{target: {kind: Workload, name: null, selector: {matchLabels: ` + object(16) + `}}}`},
		reject: []string{`{target: {kind: Workload, name: null, selector: {matchLabels: ` + object(17) + `}}}`},
	},
	{
		name:  "a selector's keys are keys of labels",
		field: "spec.target.selector.matchLabels",
		want:  "write a label's key as on the pod, such as app or app.kubernetes.io/name, of at most 317 characters",
		accept: []string{
			`{target: {kind: Workload, name: null, selector: {matchLabels: {app.kubernetes.io/name: reviews, App_2: x}}}}`,
			`{target: {kind: Workload, name: null, selector: {matchLabels: {` + strings.Repeat("a", 253) + "/" + strings.Repeat("b", 63) + `: x}}}}`,
		},
		reject: []string{
			`{target: {kind: Workload, name: null, selector: {matchLabels: {"": x}}}}`,
			`{target: {kind: Workload, name: null, selector: {matchLabels: {"app*": x}}}}`,
			`{target: {kind: Workload, name: null, selector: {matchLabels: {a/b/c: x}}}}`,
			`{target: {kind: Workload, name: null, selector: {matchLabels: {` + strings.Repeat("a", 253) + "/" + strings.Repeat("b", 64) + `: x}}}}`,
		},
	},
	{
		name:   "includeGateways is for Namespace and Mesh",
		field:  "spec.target.includeGateways",
		want:   "includeGateways is for kind Namespace and Mesh only: remove it",
		accept: []string{`{target: {kind: Namespace, name: null, includeGateways: true}}`, `{target: {kind: Mesh, name: null, includeGateways: false}}`},
		reject: []string{`{target: {includeGateways: true}}`, `{target: {includeGateways: false}}`, `{target: {kind: Workload, name: null, selector: {matchLabels: {app: reviews}}, includeGateways: true}}`},
	},
}

var mtlsRules = []rule{
	{
		name:   "the mode exists",
		field:  "spec.mtls.mode",
		want:   `supported values: "Strict", "Permissive", "Disabled"`,
		accept: []string{strict, `{mtls: {mode: Permissive}}`, `{mtls: {mode: Disabled}}`},
		reject: []string{`{mtls: {mode: Mutual}}`, `{mtls: {mode: STRICT}}`, `{mtls: {mode: ""}}`},
	},
	{
		name:   "mtls says a mode",
		field:  "spec.mtls.mode",
		want:   wantRequired,
		reject: []string{`{mtls: {mode: null}}`},
	},
	{
		name:   "the DestinationRule policy exists",
		field:  "spec.mtls.destinationRule",
		want:   wantEnum,
		accept: []string{`{mtls: {destinationRule: Auto}}`, `{mtls: {destinationRule: Always}}`, `{mtls: {destinationRule: Never}}`},
		reject: []string{`{mtls: {destinationRule: Sometimes}}`},
	},
	{
		name:   "Namespace and Mesh have no port exceptions",
		field:  "spec.mtls.portLevel",
		want:   "mtls.portLevel needs target kind Service or Workload: Istio ignores port exceptions of a namespace or the mesh; write a profile for each workload that needs one",
		accept: []string{`{mtls: {mode: Strict, portLevel: [{port: 9443, mode: Permissive}]}}`, `{target: {kind: Workload, name: null, selector: {matchLabels: {app: reviews}}}, mtls: {portLevel: [{port: 9443, mode: Disabled}]}}`},
		reject: []string{`{target: {kind: Namespace, name: null}, mtls: {portLevel: [{port: 9443, mode: Strict}]}}`, `{target: {kind: Mesh, name: null}, mtls: {portLevel: [{port: 9443, mode: Strict}]}}`},
	},
	{
		name:   "a port exception differs from the mode",
		field:  "spec.mtls.portLevel",
		want:   "a port exception must have another mode than mtls.mode: remove the entry, or change its mode",
		accept: []string{`{mtls: {mode: Permissive, portLevel: [{port: 1234, mode: Strict}, {port: 1235, mode: Disabled}]}}`},
		reject: []string{`{mtls: {mode: Permissive, portLevel: [{port: 1234, mode: Strict}, {port: 1235, mode: Permissive}]}}`, `{mtls: {mode: Strict, portLevel: [{port: 1234, mode: Strict}]}}`},
	},
	{
		name:   "a port has one exception",
		field:  "spec.mtls.portLevel[*]",
		want:   wantDuplicate,
		accept: []string{`{mtls: {portLevel: [{port: 1, mode: Strict}, {port: 2, mode: Strict}]}}`},
		reject: []string{`{mtls: {portLevel: [{port: 1, mode: Strict}, {port: 1, mode: Disabled}]}}`},
	},
	{
		name:   "a port exception says its mode",
		field:  "spec.mtls.portLevel[*].mode",
		want:   wantRequired,
		reject: []string{`{mtls: {portLevel: [{port: 1}]}}`},
	},
	{
		name:   "a port exception's mode exists",
		field:  "spec.mtls.portLevel[*].mode",
		want:   wantEnum,
		accept: []string{`{mtls: {mode: Strict, portLevel: [{port: 1, mode: Permissive}, {port: 2, mode: Disabled}]}}`},
		reject: []string{`{mtls: {portLevel: [{port: 1, mode: Simple}]}}`},
	},
	{
		name:   "a port exception says its port",
		field:  "spec.mtls.portLevel[*].port",
		want:   wantRequired,
		reject: []string{`{mtls: {portLevel: [{mode: Strict}]}}`},
	},
	{
		name:   "a port is at least 1",
		field:  "spec.mtls.portLevel[*].port",
		want:   wantMinimum,
		accept: []string{`{mtls: {portLevel: [{port: 1, mode: Strict}]}}`},
		reject: []string{`{mtls: {portLevel: [{port: 0, mode: Strict}]}}`, `{mtls: {portLevel: [{port: -1, mode: Strict}]}}`},
	},
	{
		name:   "a port is at most 65535",
		field:  "spec.mtls.portLevel[*].port",
		want:   wantMaximum,
		accept: []string{`{mtls: {portLevel: [{port: 65535, mode: Strict}]}}`},
		reject: []string{`{mtls: {portLevel: [{port: 65536, mode: Strict}]}}`},
	},
	{
		name:   "the strategy exists",
		field:  "spec.mtls.rollout.strategy",
		want:   wantEnum,
		accept: []string{`{mtls: {mode: Strict, rollout: {strategy: Staged}}}`, `{mtls: {mode: Strict, rollout: {strategy: Immediate}}}`},
		reject: []string{`{mtls: {mode: Strict, rollout: {strategy: Canary}}}`},
	},
	{
		name:   "the observation window has an end and a sense",
		field:  "spec.mtls.rollout.observationWindow",
		want:   "observationWindow must be longer than 0s and at most 8760h (a year), for example 24h; to switch without observation set strategy to Immediate",
		accept: []string{`{mtls: {mode: Strict, rollout: {observationWindow: 1ms}}}`, `{mtls: {mode: Strict, rollout: {observationWindow: 8760h}}}`},
		reject: []string{`{mtls: {mode: Strict, rollout: {observationWindow: 0s}}}`, `{mtls: {mode: Strict, rollout: {observationWindow: 0h0m0s0ms}}}`, `{mtls: {mode: Strict, rollout: {observationWindow: 8760h1ms}}}`},
	},
	{
		name:   "the verification window has an end",
		field:  "spec.mtls.rollout.verificationWindow",
		want:   "verificationWindow must be at most 168h (a week), for example 10m; 0s turns verification off",
		accept: []string{`{mtls: {mode: Strict, rollout: {verificationWindow: 0s}}}`, `{mtls: {mode: Strict, rollout: {verificationWindow: 168h}}}`},
		reject: []string{`{mtls: {mode: Strict, rollout: {verificationWindow: 168h1s}}}`},
	},
	{
		name:   "minRequests is not negative",
		field:  "spec.mtls.rollout.minRequests",
		want:   wantMinimum,
		accept: []string{`{mtls: {mode: Strict, rollout: {minRequests: 0}}}`},
		reject: []string{`{mtls: {mode: Strict, rollout: {minRequests: -1}}}`},
	},
	{
		name:   "minRequests can be reached",
		field:  "spec.mtls.rollout.minRequests",
		want:   wantMaximum,
		accept: []string{`{mtls: {mode: Strict, rollout: {minRequests: 1000000000}}}`},
		reject: []string{`{mtls: {mode: Strict, rollout: {minRequests: 1000000001}}}`},
	},
	{
		name:   "the rollback policy exists",
		field:  "spec.mtls.rollout.rollback",
		want:   wantEnum,
		accept: []string{`{mtls: {mode: Strict, rollout: {rollback: Automatic}}}`, `{mtls: {mode: Strict, rollout: {rollback: Never}}}`},
		reject: []string{`{mtls: {mode: Strict, rollout: {rollback: Manual}}}`},
	},
	{
		name:   "the approval policy exists",
		field:  "spec.mtls.rollout.approval",
		want:   wantEnum,
		accept: []string{`{mtls: {mode: Strict, rollout: {approval: Automatic}}}`, `{mtls: {mode: Strict, rollout: {approval: Manual}}}`},
		reject: []string{`{mtls: {mode: Strict, rollout: {approval: Always}}}`},
	},
	{
		name:   "Immediate asks nobody",
		field:  "spec.mtls.rollout.approval",
		want:   "strategy Immediate waits for nobody: remove approval, or set strategy to Staged",
		accept: []string{`{mtls: {mode: Strict, rollout: {strategy: Immediate}}}`, `{mtls: {mode: Strict, rollout: {approval: Manual}}}`},
		reject: []string{`{mtls: {mode: Strict, rollout: {strategy: Immediate, approval: Manual}}}`},
	},
	{
		name:   "maxConcurrent is for namespaces",
		field:  "spec.mtls.rollout.maxConcurrent",
		want:   "mtls.rollout.maxConcurrent is for target kind Namespace only: remove it",
		accept: []string{`{target: {kind: Namespace, name: null}, mtls: {mode: Strict, rollout: {maxConcurrent: 5}}}`},
		reject: []string{`{mtls: {mode: Strict, rollout: {maxConcurrent: 5}}}`, `{target: {kind: Mesh, name: null}, mtls: {mode: Strict, rollout: {maxConcurrent: 5}}}`},
	},
	{
		name:   "maxConcurrent lets one through",
		field:  "spec.mtls.rollout.maxConcurrent",
		want:   wantMinimum,
		accept: []string{`{target: {kind: Namespace, name: null}, mtls: {mode: Strict, rollout: {maxConcurrent: 1}}}`},
		reject: []string{`{target: {kind: Namespace, name: null}, mtls: {mode: Strict, rollout: {maxConcurrent: 0}}}`},
	},
	{
		name:   "maxConcurrent has an end",
		field:  "spec.mtls.rollout.maxConcurrent",
		want:   wantMaximum,
		accept: []string{`{target: {kind: Namespace, name: null}, mtls: {mode: Strict, rollout: {maxConcurrent: 100}}}`},
		reject: []string{`{target: {kind: Namespace, name: null}, mtls: {mode: Strict, rollout: {maxConcurrent: 101}}}`},
	},
}

var jwtRules = []rule{
	{
		name:   "the requirement exists",
		field:  "spec.jwt.requirement",
		want:   wantEnum,
		accept: []string{with(jwt, `{jwt: {requirement: Required}}`), with(jwt, `{jwt: {requirement: Optional}}`)},
		reject: []string{with(jwt, `{jwt: {requirement: Forbidden}}`)},
	},
	{
		name:   "paths are exempt or required, not both",
		field:  "spec.jwt",
		want:   "set exemptPaths (a token everywhere but there) or requiredPaths (a token only there), not both",
		accept: []string{with(jwt, `{jwt: {exemptPaths: [/healthz]}}`), with(jwt, `{jwt: {requiredPaths: [/ip]}}`)},
		reject: []string{with(jwt, `{jwt: {exemptPaths: [/healthz], requiredPaths: [/ip]}}`)},
	},
	{
		name:   "paths need a requirement",
		field:  "spec.jwt",
		want:   "exemptPaths and requiredPaths need requirement Required, since with Optional no path needs a token: remove them, or set requirement to Required",
		accept: []string{with(jwt, `{jwt: {requirement: Required, exemptPaths: [/healthz]}}`)},
		reject: []string{with(jwt, `{jwt: {requirement: Optional, exemptPaths: [/healthz]}}`), with(jwt, `{jwt: {requirement: Optional, requiredPaths: [/ip]}}`)},
	},
	{
		name:   "not every path is exempt",
		field:  "spec.jwt.exemptPaths",
		want:   "exemptPaths exempts every path: set requirement to Optional instead, or name the paths",
		accept: []string{with(jwt, `{jwt: {exemptPaths: [/]}}`), with(jwt, `{jwt: {exemptPaths: ["/public/*"]}}`)},
		reject: []string{with(jwt, `{jwt: {exemptPaths: [/healthz, "*"]}}`), with(jwt, `{jwt: {exemptPaths: ["/*"]}}`), with(jwt, `{jwt: {exemptPaths: ["/{**}"]}}`)},
	},
	{
		name:   "there are issuers",
		field:  "spec.jwt.issuers",
		want:   wantRequired,
		reject: []string{`{jwt: {}}`},
	},
	{
		name:   "an issuer has its name",
		field:  "spec.jwt.issuers[*].issuer",
		want:   wantRequired,
		reject: []string{`{jwt: {issuers: [{jwksUri: "https://accounts.example.com/jwks"}]}}`},
	},
	{
		name:   "an issuer stands once",
		field:  "spec.jwt.issuers[*]",
		want:   wantDuplicate,
		accept: []string{`{jwt: {issuers: [{issuer: "https://a.example"}, {issuer: "https://b.example"}]}}`},
		reject: []string{`{jwt: {issuers: [{issuer: "https://a.example"}, {issuer: "https://a.example"}]}}`},
	},
	{
		name:   "keys come from one place",
		field:  "spec.jwt.issuers[*]",
		want:   "set jwksUri or jwks, not both",
		accept: []string{`{jwt: {issuers: [{issuer: me, jwksUri: "https://a.example/jwks"}, {issuer: you, jwks: '{"keys": []}'}]}}`},
		reject: []string{`{jwt: {issuers: [{issuer: me, jwksUri: "https://a.example/jwks", jwks: '{"keys": []}'}]}}`},
	},
	{
		name:   "keys come from somewhere",
		field:  "spec.jwt.issuers[*]",
		want:   "the keys of an issuer that is no http or https address cannot be discovered: set jwksUri or jwks",
		accept: []string{`{jwt: {issuers: [{issuer: "http://a.example"}]}}`, `{jwt: {issuers: [{issuer: testing@secure.istio.io, jwksUri: "https://a.example/jwks"}]}}`},
		reject: []string{`{jwt: {issuers: [{issuer: testing@secure.istio.io}]}}`},
	},
	{
		name:   "a token's header has a name",
		field:  "spec.jwt.issuers[*].fromHeaders[*].name",
		want:   wantRequired,
		reject: []string{`{jwt: {issuers: [{issuer: "https://a.example", fromHeaders: [{prefix: "Bearer "}]}]}}`},
	},
	{
		name:   "a token's header stands once",
		field:  "spec.jwt.issuers[*].fromHeaders[*]",
		want:   wantDuplicate,
		accept: []string{`{jwt: {issuers: [{issuer: "https://a.example", fromHeaders: [{name: a}, {name: b, prefix: "Bearer "}]}]}}`},
		reject: []string{`{jwt: {issuers: [{issuer: "https://a.example", fromHeaders: [{name: a}, {name: a, prefix: "Bearer "}]}]}}`},
	},
	{
		name:   "a copied claim has a header",
		field:  "spec.jwt.issuers[*].outputClaimToHeaders[*].header",
		want:   wantRequired,
		reject: []string{`{jwt: {issuers: [{issuer: "https://a.example", outputClaimToHeaders: [{claim: group}]}]}}`},
	},
	{
		name:   "a copied claim has a name",
		field:  "spec.jwt.issuers[*].outputClaimToHeaders[*].claim",
		want:   wantRequired,
		reject: []string{`{jwt: {issuers: [{issuer: "https://a.example", outputClaimToHeaders: [{header: x-group}]}]}}`},
	},
	{
		name:   "a header receives one claim",
		field:  "spec.jwt.issuers[*].outputClaimToHeaders[*]",
		want:   wantDuplicate,
		accept: []string{`{jwt: {issuers: [{issuer: "https://a.example", outputClaimToHeaders: [{header: x-a, claim: a}, {header: x-b, claim: a}]}]}}`},
		reject: []string{`{jwt: {issuers: [{issuer: "https://a.example", outputClaimToHeaders: [{header: x-a, claim: a}, {header: x-a, claim: b}]}]}}`},
	},
	{
		name:   "fetching the keys may take a while",
		field:  "spec.jwt.issuers[*].timeout",
		want:   "timeout must be at least 1ms, for example 5s",
		accept: []string{`{jwt: {issuers: [{issuer: "https://a.example", timeout: 1ms}]}}`},
		reject: []string{`{jwt: {issuers: [{issuer: "https://a.example", timeout: 0s}]}}`},
	},
}

var authorizationRules = []rule{
	{
		name:   "the enforcement exists",
		field:  "spec.authorization.enforcement",
		want:   wantEnum,
		accept: []string{`{authorization: {enforcement: Enforced}}`, `{authorization: {enforcement: DryRun}}`},
		reject: []string{`{authorization: {enforcement: Audit}}`},
	},
	{
		name:   "the default exists",
		field:  "spec.authorization.default",
		want:   wantEnum,
		accept: []string{`{authorization: {default: Deny}}`, `{authorization: {default: Allow, deniedCallers: [{name: a, namespaces: [a]}]}}`},
		reject: []string{`{authorization: {default: Reject}}`},
	},
	{
		name:   "allowedCallers need default Deny",
		field:  "spec.authorization",
		want:   "allowedCallers has no meaning with default Allow: remove it, or set default to Deny",
		accept: []string{`{authorization: {allowedCallers: [{name: a, namespaces: [a]}], deniedCallers: [{name: b, namespaces: [b]}]}}`, `{authorization: {default: Allow, allowedCallers: [], deniedCallers: [{name: b, namespaces: [b]}]}}`},
		reject: []string{`{authorization: {default: Allow, allowedCallers: [{name: a, namespaces: [a]}], deniedCallers: [{name: b, namespaces: [b]}]}}`},
	},
	{
		name:   "default Allow needs deniedCallers",
		field:  "spec.authorization",
		want:   "default Allow without deniedCallers restricts nobody: add deniedCallers, or remove authorization",
		accept: []string{`{authorization: {default: Allow, deniedCallers: [{name: b, namespaces: [b]}]}}`},
		reject: []string{`{authorization: {default: Allow}}`, `{authorization: {default: Allow, deniedCallers: []}}`},
	},
}

// callerRules hold for allowedCallers and deniedCallers alike.
func callerRules(list string) []rule {
	field := "spec.authorization." + list + "[*]"
	callers := func(text string) string { return `{authorization: {` + list + `: [` + text + `]}}` }
	return []rule{
		{
			name:   "a caller has a name",
			field:  field + ".name",
			want:   wantRequired,
			reject: []string{callers(`{namespaces: [a]}`)},
		},
		{
			name:   "a caller stands once",
			field:  field,
			want:   wantDuplicate,
			accept: []string{callers(`{name: a, namespaces: [a]}, {name: b, namespaces: [a]}`)},
			reject: []string{callers(`{name: a, namespaces: [a]}, {name: a, namespaces: [b]}`)},
		},
		{
			name:  "a caller has a condition",
			field: field,
			want:  "a caller without any condition is everybody: say by at least one list entry who calls or what is called",
			accept: []string{
				callers(`{name: a, serviceAccounts: [a]}`), callers(`{name: a, namespaces: [a]}`), callers(`{name: a, principals: ["*"]}`),
				callers(`{name: a, ipBlocks: [0.0.0.0/0]}`), callers(`{name: a, remoteIpBlocks: ["::/0"]}`), callers(`{name: a, requestPrincipals: ["*"]}`),
				callers(`{name: a, claims: [{name: role, values: [learner]}]}`), callers(`{name: a, headers: [{name: hello, values: [world]}]}`),
				callers(`{name: a, operations: [{methods: [GET]}]}`), callers(`{name: a, serviceAccounts: [], namespaces: [a]}`),
			},
			reject: []string{callers(`{name: a}`), callers(`{name: a, serviceAccounts: [], namespaces: [], principals: [], ipBlocks: [], remoteIpBlocks: [], requestPrincipals: [], claims: [], headers: [], operations: []}`)},
		},
		{
			name:   "a claim has a name or a path",
			field:  field + ".claims[*]",
			want:   "set either name (a top-level claim) or path (a nested one)",
			accept: []string{callers(`{name: a, claims: [{name: role, values: [x]}, {path: [realm_access, roles], values: [admin]}]}`)},
			reject: []string{callers(`{name: a, claims: [{values: [x]}]}`), callers(`{name: a, claims: [{name: role, path: [role], values: [x]}]}`)},
		},
		{
			name:   "a claim has values",
			field:  field + ".claims[*].values",
			want:   wantRequired,
			reject: []string{callers(`{name: a, claims: [{name: role}]}`)},
		},
		{
			name:   "a header has a name",
			field:  field + ".headers[*].name",
			want:   wantRequired,
			reject: []string{callers(`{name: a, headers: [{values: [x]}]}`)},
		},
		{
			name:   "a header has values",
			field:  field + ".headers[*].values",
			want:   wantRequired,
			reject: []string{callers(`{name: a, headers: [{name: x}]}`)},
		},
		{
			name:   "a header stands once",
			field:  field + ".headers[*]",
			want:   wantDuplicate,
			accept: []string{callers(`{name: a, headers: [{name: x, values: [x]}, {name: z, values: [x]}]}`)},
			reject: []string{callers(`{name: a, headers: [{name: x, values: [x]}, {name: x, values: [z]}]}`)},
		},
		{
			name:   "an operation has a condition",
			field:  field + ".operations[*]",
			want:   "an operation without any condition is every operation: add methods, paths, hosts or ports, or remove operations",
			accept: []string{callers(`{name: a, operations: [{methods: [GET, HEAD], paths: ["/reviews/*"], hosts: [], ports: [9080]}, {hosts: [a]}, {paths: [/]}, {ports: [1]}]}`)},
			reject: []string{callers(`{name: a, operations: [{}]}`), callers(`{name: a, operations: [{methods: [], paths: [], hosts: [], ports: []}]}`)},
		},
		{
			name:   "an operation's port is at least 1",
			field:  field + ".operations[*].ports[*]",
			want:   wantMinimum,
			accept: []string{callers(`{name: a, operations: [{ports: [1]}]}`)},
			reject: []string{callers(`{name: a, operations: [{ports: [0]}]}`)},
		},
		{
			name:   "an operation's port is at most 65535",
			field:  field + ".operations[*].ports[*]",
			want:   wantMaximum,
			accept: []string{callers(`{name: a, operations: [{ports: [65535]}]}`)},
			reject: []string{callers(`{name: a, operations: [{ports: [65536]}]}`)},
		},
	}
}

// specRules are all rules of the spec.
func specRules() []rule {
	var all []rule
	for _, rules := range [][]rule{
		sectionRules, targetRules, mtlsRules, jwtRules, authorizationRules, callerRules("allowedCallers"), callerRules("deniedCallers"),
		formRules(), boundRules(),
	} {
		all = append(all, rules...)
	}
	return all
}

var _ = Describe("The spec", func() {
	for _, r := range specRules() {
		for _, text := range r.accept {
			It(fmt.Sprintf("%s: %s accepts %s", r.name, r.field, short(text)), func(ctx context.Context) {
				Expect(dryCreate(ctx, profile(text))).To(Succeed())
			})
		}
		for _, text := range r.reject {
			It(fmt.Sprintf("%s: %s refuses %s", r.name, r.field, short(text)), func(ctx context.Context) {
				expectCause(dryCreate(ctx, profile(text)), r.field, r.want)
			})
		}
	}

	It("refuses a field that does not exist", func(ctx context.Context) {
		Expect(dryCreate(ctx, profile(`{mtls: {mode: Strict, rolout: {}}}`))).To(MatchError(ContainSubstring(`unknown field "spec.mtls.rolout"`)))
	})

	It("leaves room in the profile's name for the names of the generated objects", func(ctx context.Context) {
		object := profile()
		object.SetName(strings.Repeat("a", 189))
		Expect(dryCreate(ctx, object)).To(Succeed())
		object = profile()
		object.SetName(strings.Repeat("a", 190))
		expectCause(dryCreate(ctx, object), "<nil>", wantShortName)
	})

	It("is required", func(ctx context.Context) {
		object := profile()
		delete(object.Object, "spec")
		expectCause(dryCreate(ctx, object), "spec", wantRequired)
	})
})

const wantShortName = "the name may have at most 189 characters, because the names of the generated objects are made from it"

// with merges patches while the tables are built, before any spec runs.
func with(texts ...string) string {
	merged := map[string]any{}
	for _, text := range texts {
		merged = merge(merged, parse(text))
	}
	data, err := json.Marshal(merged)
	if err != nil {
		panic(err)
	}
	return string(data)
}

// object is an object of n members, as YAML.
func object(n int) string {
	members := make([]string, n)
	for i := range members {
		members[i] = fmt.Sprintf("key-%d: value", i)
	}
	return "{" + strings.Join(members, ", ") + "}"
}

// short keeps the names of long cases readable.
func short(text string) string {
	if len(text) > 160 {
		return fmt.Sprintf("%s… (%d bytes)", text[:120], len(text))
	}
	return text
}
