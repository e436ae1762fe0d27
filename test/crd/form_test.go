package crd_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// place is where a value goes: a field, and a patch with VALUE where the value goes in.
type place struct {
	field, patch string
}

// form is what strings in some places look like.
type form struct {
	name   string
	places []place
	good   []string
	bad    []string
	// want is in the message for each bad one.
	want string
}

const (
	selectorOf = `{target: {kind: Workload, name: null, selector: {matchLabels: {app: VALUE}}}}`
	issuerOf   = `{jwt: {issuers: [{issuer: "https://a.example", VALUE}]}}`
)

// inIssuer is a place in an issuer.
func inIssuer(field, patch string) place {
	return place{"spec.jwt.issuers[*]." + field, strings.Replace(issuerOf, "VALUE", patch, 1)}
}

// inCallers is a place in each of the two lists of callers.
func inCallers(field, patch string) []place {
	places := make([]place, 0, 2)
	for _, list := range []string{"allowedCallers", "deniedCallers"} {
		places = append(places, place{"spec.authorization." + list + "[*]." + field, `{authorization: {` + list + `: [{name: a, ` + patch + `}]}}`})
	}
	return places
}

// The places of each kind of string.
var (
	durations = []place{
		{"spec.mtls.rollout.observationWindow", `{mtls: {mode: Strict, rollout: {observationWindow: VALUE}}}`},
		{"spec.mtls.rollout.verificationWindow", `{mtls: {mode: Strict, rollout: {verificationWindow: VALUE}}}`},
		inIssuer("timeout", `timeout: VALUE`),
	}
	targetName  = []place{{"spec.target.name", `{target: {name: VALUE}}`}}
	labelValues = []place{{"spec.target.selector.matchLabels.app", selectorOf}}

	exemptPaths    = place{"spec.jwt.exemptPaths[*]", with(jwt, `{jwt: {exemptPaths: [VALUE]}}`)}
	requiredPaths  = place{"spec.jwt.requiredPaths[*]", with(jwt, `{jwt: {requiredPaths: [VALUE]}}`)}
	tokenPaths     = []place{exemptPaths, requiredPaths}
	operationPaths = inCallers("operations[*].paths[*]", `operations: [{paths: [VALUE]}]`)
	hosts          = inCallers("operations[*].hosts[*]", `operations: [{hosts: [VALUE]}]`)
	methods        = inCallers("operations[*].methods[*]", `operations: [{methods: [VALUE]}]`)

	copiedTo    = inIssuer("outputClaimToHeaders[*].header", `outputClaimToHeaders: [{header: VALUE, claim: a}]`)
	prefix      = inIssuer("fromHeaders[*].prefix", `fromHeaders: [{name: a, prefix: VALUE}]`)
	headerNames = slices.Concat(
		[]place{
			inIssuer("fromHeaders[*].name", `fromHeaders: [{name: VALUE}]`),
			inIssuer("outputPayloadToHeader", `outputPayloadToHeader: VALUE`),
			copiedTo,
		},
		inCallers("headers[*].name", `headers: [{name: VALUE, values: [x]}]`),
	)

	issuer  = place{"spec.jwt.issuers[*].issuer", `{jwt: {issuers: [{issuer: VALUE, jwksUri: "https://a.example"}]}}`}
	jwksURI = inIssuer("jwksUri", `jwksUri: VALUE`)
	jwks    = inIssuer("jwks", `jwks: VALUE`)
	params  = inIssuer("fromParams[*]", `fromParams: [VALUE]`)
	cookies = inIssuer("fromCookies[*]", `fromCookies: [VALUE]`)

	claimNames   = inCallers("claims[*].name", `claims: [{name: VALUE, values: [x]}]`)
	claimPaths   = inCallers("claims[*].path[*]", `claims: [{path: [VALUE], values: [x]}]`)
	claimValues  = inCallers("claims[*].values[*]", `claims: [{name: a, values: [VALUE]}]`)
	headerValues = inCallers("headers[*].values[*]", `headers: [{name: a, values: [VALUE]}]`)
	texts        = slices.Concat(
		[]place{
			issuer, params, cookies,
			inIssuer("audiences[*]", `audiences: [VALUE]`),
			inIssuer("outputClaimToHeaders[*].claim", `outputClaimToHeaders: [{header: a, claim: VALUE}]`),
		},
		claimNames, claimPaths,
		claimValues, headerValues,
	)

	callerNames = []place{
		{"spec.authorization.allowedCallers[*].name", `{authorization: {allowedCallers: [{name: VALUE, namespaces: [a]}]}}`},
		{"spec.authorization.deniedCallers[*].name", `{authorization: {deniedCallers: [{name: VALUE, namespaces: [a]}]}}`},
	}
	serviceAccounts   = inCallers("serviceAccounts[*]", `serviceAccounts: [VALUE]`)
	namespaces        = inCallers("namespaces[*]", `namespaces: [VALUE]`)
	principals        = inCallers("principals[*]", `principals: [VALUE]`)
	requestPrincipals = inCallers("requestPrincipals[*]", `requestPrincipals: [VALUE]`)
	ipBlocks          = slices.Concat(inCallers("ipBlocks[*]", `ipBlocks: [VALUE]`), inCallers("remoteIpBlocks[*]", `remoteIpBlocks: [VALUE]`))
)

// What is and is not a path, apart from templates.
var (
	goodPaths     = []string{"/", "/a/b", "/a/", "/a/*", "/a*", "*/b", "*.html", "/a%20b", "/ä", "/a;v=1"}
	badPaths      = []string{"a/b", "/a b", "/a?b=c", "/a#b", "/a/*/b", "*/b*", "/a**", "a*", "/a}"}
	goodTemplates = []string{"/users/{*}/photos", "/static/{**}", "/{*}", "/a/{*}/{**}", "/a/{**}/b", "/a/{*}/"}
	badTemplates  = []string{"{*}", "/a/{id}", "/a{*}", "/{*}b", "/{**}/{*}", "/{**}/{**}", "/{*}/*", "/{*}//a", "/{*}/a b", "/{", "/a/{*", "*/{*}"}
)

var forms = []form{
	{
		name:   "a duration is in Gateway API's form",
		places: durations,
		good:   []string{"24h", "10m", "1h30m", "500ms", "1h1m1s1ms", "00001h", "99m"},
		bad:    []string{"", "-1h", "+1h", "1.5h", "1d", "1", "h", "1 h", "1H", "soon", "100000s", "1h1h1h1h1h", "1us"},
		want:   writeDuration,
	},
	{
		name:   "a target's name is a name",
		places: targetName,
		good:   []string{"reviews", "a", "a-b.c", "1a"},
		bad:    []string{"Reviews", "shop/reviews", "reviews.", "-a", "a*", "*", "a b"},
		want:   "write the name alone, as kubectl get shows it: lower-case letters, digits, - and .",
	},
	{
		name:   "a label's value is one",
		places: labelValues,
		good:   []string{"", "a", "A.b_c-1"},
		bad:    []string{"*", "a*", "-a", "a-", "a b", "a/b"},
		want:   "write a label's value as on the pod: letters, digits, -, _ and ., beginning and ending with a letter or digit, without wildcards",
	},
	{name: "a path is exact, a prefix or a suffix", places: tokenPaths, good: goodPaths, bad: badPaths, want: writePath},
	{name: "a path template is Istio's", places: tokenPaths, good: goodTemplates, bad: badTemplates, want: writeTemplate},
	{name: "an operation's path is one of them", places: operationPaths, good: slices.Concat(goodPaths, goodTemplates, []string{"*", "/*", "/{**}"}), bad: slices.Concat(badPaths, badTemplates), want: wantPattern},
	{
		name:   "a host is one of the Host header",
		places: hosts,
		good:   []string{"*", "a", "shop.example.com", "*.example.com", "shop.*", "shop.example.com:8443", "[::1]:80"},
		bad:    []string{"https://a", "a/b", "a b", "a.*.b", "*a*", "**"},
		want:   wantPattern,
	},
	{
		name:   "a method is in capitals",
		places: methods,
		good:   []string{"GET", "VERSION-CONTROL"},
		bad:    []string{"get", "Get", "*", "GET ", "-GET"},
		want:   "write an HTTP method in capitals, such as GET",
	},
	{
		name:   "a header's name is a token",
		places: headerNames,
		good:   []string{"x-token", "X_Token-2"},
		bad:    []string{"x token", "x:token", ":path", "x-token:", "ä", "x[a]", "*\n"},
		want:   writeHeader,
	},
	{
		name:   "a claim goes to a header that Istio writes",
		places: []place{copiedTo},
		good:   []string{"x-group"},
		bad:    []string{"x.group", "x!", "~"},
		want:   "Istio writes claims only to headers of letters, digits, - and _, such as x-group",
	},
	{
		name:   "a prefix has no control characters",
		places: []place{prefix},
		good:   []string{"", "Bearer ", "Token=", "ä "},
		bad:    []string{"Bearer\n", "\x00", "\x7f"},
		want:   wantPattern,
	},
	{
		name:   "text has no control characters",
		places: texts,
		good:   []string{"a", "https//a.example", "ä", "role:x", "a*b", "a.b"},
		bad:    []string{"a\nb", "\t", "\x00", "\x7f"},
		want:   wantPattern,
	},
	{
		name:   "a key set's address is one",
		places: []place{jwksURI},
		good:   []string{"https://accounts.example.com/jwks", "http://keys:8080/a?b=c", "https://[::1]/jwks"},
		bad:    []string{"accounts.example.com/jwks", "/jwks", "ftp://a/jwks", "file:///etc/jwks", "https://", "https:///jwks", "https://a b/"},
		want:   "write an http or https address, such as https://accounts.example.com/jwks",
	},
	{
		name:   "a key set is one",
		places: []place{jwks},
		good:   []string{`{"keys":[]}`, "\n{ \"keys\" : [\n{\"kty\": \"RSA\"}\n] }\n"},
		bad:    []string{"{}", "[]", `{"kty": "RSA"}`, `"keys": []`, "https://a.example/jwks", `{"keys": []`},
		want:   `jwks must be a JSON Web Key Set: {"keys": [...]}`,
	},
	{
		name:   "a query parameter is a name",
		places: []place{params},
		good:   []string{"token", "access_token", "a[b]"},
		bad:    []string{"a b", "a=b", "?a", "a&b", "a#"},
		want:   "write the name of a query parameter alone, without blanks, =, &, ? or #",
	},
	{
		name:   "a cookie is a name",
		places: []place{cookies},
		good:   []string{"session", "__Host-session"},
		bad:    []string{"a b", "a=b", "a;", "a,b", `"a"`},
		want:   "write the name of a cookie alone, without blanks, =, comma or semicolon",
	},
	{
		name:   "a claim's name cannot say a path",
		places: claimNames,
		good:   []string{"role", "https://a.example/roles", "realm access"},
		bad:    []string{"a][b", "[a]", "a]"},
		want:   "write the name of a claim without brackets; for a nested claim use path, such as [realm_access, roles]",
	},
	{
		name:   "a claim's path has one name for each step",
		places: claimPaths,
		good:   []string{"realm_access", "https://a.example/roles"},
		bad:    []string{"a][b", "[a]", "a]"},
		want:   "write each name on the path to a claim as an entry of its own, without brackets",
	},
	{
		name:   "a caller's name is a label",
		places: callerNames,
		good:   []string{"productpage", "product-page", "1"},
		bad:    []string{"Productpage", "product page", "-a", "a-", "a.b"},
		want:   "write a caller's name in lower-case letters, digits and -, such as product-page",
	},
	{
		name:   "a service account is a name, or namespace/name",
		places: serviceAccounts,
		good:   []string{"productpage", "shop/checkout", "shop/a.b", "default"},
		bad:    []string{"*", "shop/*", "shop/", "/checkout", "a/b/c", "cluster.local/ns/a/sa/b", "Shop/checkout", "a.b/c"},
		want:   "write a service account as name, in the profile's namespace, or as namespace/name, without wildcards",
	},
	{
		name:   "a namespace is a name",
		places: namespaces,
		good:   []string{"frontends", "a-1"},
		bad:    []string{"*", "front*", "a.b", "Frontends", "-a"},
		want:   "write the name of a namespace, of lower-case letters, digits and -, without wildcards",
	},
	{
		name:   "a value may be a wildcard",
		places: slices.Concat(claimValues, headerValues),
		good:   []string{"*", "a*", "*a"},
		bad:    []string{"\x00"},
		want:   wantPattern,
	},
	{
		name:   "an issuer has no wildcard at its ends",
		places: []place{issuer},
		good:   []string{"https://a.example", "a*b", "testing@secure.istio.io"},
		bad:    []string{"*", "*a", "a*"},
		want:   "write the issuer exactly as it stands in its tokens, without a * at its start or end: one * would stand for other issuers",
	},
	{
		name:   "a principal has no scheme",
		places: principals,
		good:   []string{"cluster.local/ns/shop/sa/checkout"},
		bad:    []string{"spiffe://cluster.local/ns/shop/sa/checkout"},
		want:   "write a principal without spiffe://, such as cluster.local/ns/shop/sa/checkout",
	},
	{
		name:   "a principal has one wildcard at most",
		places: principals,
		good:   []string{"*", "*/sa/checkout", "*.example.com:8/ns/a_b", "cluster.local/ns/shop/*", "a(b"},
		bad:    []string{"a/*/b", "*a*", "**", "a b", "*e(b", "*/sa/a|b", "*[", "*\\", "*a+"},
		want:   "write a principal such as cluster.local/ns/shop/sa/checkout, with a * at its start or its end only, and after a * at its start nothing but letters, digits and - _ . / :",
	},
	{
		name:   "a request principal is issuer/subject",
		places: requestPrincipals,
		good:   []string{"https://accounts.example.com/alice", "https://accounts.example.com/*", "*/alice", "*", "a@b.c/d*", "*.example.com/*", "a/b/c"},
		bad:    []string{"alice", "a/*/b", "*a*", "**", "a b/c", "https://a*", "https://a", "https://*", "*lice", "a/", "*/"},
		want:   "write a request principal as issuer/subject, such as https://accounts.example.com/alice, with a * at the start of the issuer or at the end of the subject: https://accounts.example.com/* is whoever has a token of that issuer",
	},
	{
		name:   "an address is one, or a block",
		places: ipBlocks,
		good:   []string{"10.1.2.3", "10.0.0.0/8", "0.0.0.0/0", "10.1.2.3/32", "2001:db8::1", "2001:db8::/32", "::/0"},
		bad:    []string{"300.1.1.1", "10.0.0.0/33", "10.0.0", "10.0.0.*", "example.com", "2001:db8::/129", "10.0.0.0-10.0.0.9", "fe80::1%eth0"},
		want:   writeIPBlock,
	},
}

// formRules makes a rule of each form in each place, and of each length.
func formRules() []rule {
	var rules []rule
	for _, f := range forms {
		for _, p := range f.places {
			rules = append(rules, rule{name: f.name, field: p.field, want: f.want, accept: p.fill(f.good...), reject: p.fill(f.bad...)})
		}
	}
	// No duration or address is as long as its bound, which only spares the rule a long text.
	for _, p := range durations {
		rules = append(rules, rule{name: "a duration is not endless", field: p.field, want: wantMaxLength + " 32", reject: p.fill(strings.Repeat("1h", 17))})
	}
	for _, p := range ipBlocks {
		rules = append(rules,
			rule{name: "an address is not empty", field: p.field, want: wantMinLength, reject: p.fill("", "1")},
			rule{name: "an address is not endless", field: p.field, want: wantMaxLength + " 64", reject: p.fill("2001:db8::" + strings.Repeat("0", 55))})
	}
	for _, l := range lengths {
		for _, p := range l.places {
			if l.min > 0 {
				rules = append(rules, rule{name: "it is not empty", field: p.field, want: wantMinLength, reject: p.fill("")})
			}
			rules = append(rules, rule{
				name: fmt.Sprintf("it has at most %d characters", l.max), field: p.field, want: fmt.Sprintf("%s %d", wantMaxLength, l.max),
				accept: p.fill(l.pad(l.max)), reject: p.fill(l.pad(l.max + 1)),
			})
		}
	}
	return rules
}

// fill puts each value in its place.
func (p place) fill(values ...string) []string {
	patches := make([]string, 0, len(values))
	for _, value := range values {
		quoted, err := json.Marshal(value)
		if err != nil {
			panic(err)
		}
		// YAML forbids the one control character that JSON leaves as it is.
		patches = append(patches, p.put(strings.ReplaceAll(string(quoted), "\x7f", `\u007f`)))
	}
	return patches
}

// put puts YAML in its place. A patch that went through with has quoted the word.
func (p place) put(text string) string {
	return strings.Replace(strings.Replace(p.patch, `"VALUE"`, "VALUE", 1), "VALUE", text, 1)
}

// length is how long strings in some places may be; pad makes a good one of n characters.
type length struct {
	places   []place
	min, max int
	pad      func(n int) string
}

var lengths = []length{
	{targetName, 1, 253, letters},
	{labelValues, 0, 63, letters},
	{slices.Concat(tokenPaths, operationPaths), 1, 256, func(n int) string { return "/" + letters(n-1) }},
	{hosts, 1, 256, letters},
	{methods, 1, 32, func(n int) string { return strings.Repeat("A", n) }},
	{headerNames, 1, 256, letters},
	{[]place{prefix}, 0, 256, letters},
	{texts, 1, 256, letters},
	{[]place{jwksURI}, 1, 256, func(n int) string { return "https://a.example/" + letters(n-18) }},
	{[]place{jwks}, 2, 65536, func(n int) string { return `{"keys":[]` + strings.Repeat(" ", n-11) + `}` }},
	{callerNames, 1, 63, letters},
	{serviceAccounts, 1, 256, letters},
	{namespaces, 1, 63, letters},
	{slices.Concat(principals, requestPrincipals), 1, 256, func(n int) string { return "a/" + letters(n-2) }},
}

func letters(n int) string { return strings.Repeat("a", n) }

// bound is how many items a list may have; items makes n different good ones.
type bound struct {
	place
	min, max int
	items    func(i int) string
}

func boundRules() []rule {
	bounds := []bound{
		{place{"spec.mtls.portLevel", `{mtls: {portLevel: VALUE}}`}, 1, 16, item("{port: %d, mode: Strict}")},
		{place{"spec.jwt.issuers", `{jwt: {issuers: VALUE}}`}, 1, 16, item(`{issuer: "https://a.example/%d"}`)},
		{place{"spec.jwt.exemptPaths", with(jwt, `{jwt: {exemptPaths: VALUE}}`)}, 1, 16, item("/%d")},
		{place{"spec.jwt.requiredPaths", with(jwt, `{jwt: {requiredPaths: VALUE}}`)}, 1, 16, item("/%d")},
		{inIssuer("audiences", "audiences: VALUE"), 0, 16, item("a%d")},
		{inIssuer("fromHeaders", "fromHeaders: VALUE"), 0, 16, item("{name: a%d}")},
		{inIssuer("fromParams", "fromParams: VALUE"), 0, 16, item("a%d")},
		{inIssuer("fromCookies", "fromCookies: VALUE"), 0, 16, item("a%d")},
		{inIssuer("outputClaimToHeaders", "outputClaimToHeaders: VALUE"), 0, 16, item("{header: a%d, claim: a}")},
		{place{"spec.authorization.allowedCallers", `{authorization: {allowedCallers: VALUE}}`}, 0, 64, item("{name: a%d, namespaces: [a]}")},
		{place{"spec.authorization.deniedCallers", `{authorization: {deniedCallers: VALUE}}`}, 0, 64, item("{name: a%d, namespaces: [a]}")},
	}
	for _, b := range []struct {
		field, patch string
		min          int
		items        func(int) string
	}{
		{"serviceAccounts", "serviceAccounts: VALUE", 0, item("a%d")},
		{"namespaces", "namespaces: VALUE", 0, item("a%d")},
		{"principals", "principals: VALUE", 0, item("a%d")},
		{"ipBlocks", "ipBlocks: VALUE", 0, item("10.0.0.%d")},
		{"remoteIpBlocks", "remoteIpBlocks: VALUE", 0, item("10.0.0.%d")},
		{"requestPrincipals", "requestPrincipals: VALUE", 0, item("a/%d")},
		{"claims", "claims: VALUE", 0, item("{name: a%d, values: [a]}")},
		{"claims[*].path", "claims: [{path: VALUE, values: [a]}]", 1, item("a%d")},
		{"claims[*].values", "claims: [{name: a, values: VALUE}]", 1, item("a%d")},
		{"headers", "headers: VALUE", 0, item("{name: a%d, values: [a]}")},
		{"headers[*].values", "headers: [{name: a, values: VALUE}]", 1, item("a%d")},
		{"operations", "operations: VALUE", 0, item("{paths: [/%d]}")},
		{"operations[*].methods", "operations: [{methods: VALUE, paths: [/]}]", 0, func(i int) string { return strings.Repeat("A", i) }},
		{"operations[*].paths", "operations: [{paths: VALUE, methods: [GET]}]", 0, item("/%d")},
		{"operations[*].hosts", "operations: [{hosts: VALUE, methods: [GET]}]", 0, item("a%d")},
		{"operations[*].ports", "operations: [{ports: VALUE, methods: [GET]}]", 0, item("%d")},
	} {
		for _, p := range inCallers(b.field, b.patch) {
			// A caller needs a condition of its own when the list in question is empty.
			p.patch = strings.Replace(p.patch, "{name: a, ", "{name: a, "+otherCondition(b.field)+", ", 1)
			bounds = append(bounds, bound{p, b.min, 16, b.items})
		}
	}
	var rules []rule
	for _, b := range bounds {
		if b.min > 0 {
			rules = append(rules, rule{name: "the list is not empty", field: b.field, want: fmt.Sprintf("%s %d items", wantMinItems, b.min), reject: []string{b.list(0)}})
		} else {
			rules = append(rules, rule{name: "the list may be empty", field: b.field, accept: []string{b.list(0)}})
		}
		rules = append(rules, rule{
			name: fmt.Sprintf("the list has at most %d items", b.max), field: b.field, want: fmt.Sprintf("%s: %d: must have at most %d items", wantMaxItems, b.max+1, b.max),
			accept: []string{b.list(b.max)}, reject: []string{b.list(b.max + 1)},
		})
	}
	return append(rules, setRules()...)
}

func otherCondition(field string) string {
	if field == "namespaces" {
		return "serviceAccounts: [x]"
	}
	return "namespaces: [x]"
}

func item(format string) func(int) string {
	return func(i int) string { return fmt.Sprintf(format, i) }
}

func (b bound) list(n int) string {
	items := make([]string, n)
	for i := range items {
		items[i] = b.items(i + 1)
	}
	return b.put("[" + strings.Join(items, ", ") + "]")
}

// setRules say that lists of single values hold each value once.
func setRules() []rule {
	var rules []rule
	for _, set := range []struct {
		value  string
		places []place
	}{
		{"/a", slices.Concat(tokenPaths, operationPaths)},
		{"a", []place{params, cookies, inIssuer("audiences[*]", `audiences: [VALUE]`)}},
		{"a", slices.Concat(serviceAccounts, namespaces, principals, hosts, claimValues, headerValues)},
		{"a/b", requestPrincipals},
		{"10.0.0.1", ipBlocks},
		{"GET", methods},
		{"80", inCallers("operations[*].ports[*]", `operations: [{ports: [VALUE]}]`)},
	} {
		for _, p := range set.places {
			rules = append(rules, rule{name: "the list has each value once", field: p.field, want: wantDuplicate, reject: []string{p.put(set.value + ", " + set.value)}})
		}
	}
	return rules
}
