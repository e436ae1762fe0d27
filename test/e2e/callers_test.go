//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/test/testbed"
	"github.com/servicesecurity/operator/test/testbed/token"
)

// exempt is the path that the profile below exempts from the token.
const exempt = "/user-agent"

// tokenAndCallers wants a token and lets one account in: to read with the right role, to read the exempt path, and to ask
// for permission as browsers do.
const tokenAndCallers = `apiVersion: servicesecurity.dev/v1alpha1
kind: ServiceSecurityProfile
metadata: {name: httpbin, namespace: matrix}
spec:
  target: {kind: Service, name: httpbin}
  jwt:
    exemptPaths: [/user-agent]
    issuers:
    - issuer: testing@secure.istio.io
      jwks: '%s'
  authorization:
    allowedCallers:
    - name: learners
      serviceAccounts: [sleep]
      claims: [{name: role, values: [learner]}]
      operations: [{methods: [GET]}]
    - name: everybody
      serviceAccounts: [sleep]
      operations: [{methods: [GET], paths: [/user-agent]}, {methods: [OPTIONS]}]
`

// request is one cell of the cross product.
type request struct {
	token, caller, path, method string
}

// answer is what the profile's documentation says: a bad token is 401 wherever tokens are looked at, which a browser's preflight
// is spared; a missing one is 403 but on an exempt path; and who is not on the list is 403.
func (r request) answer() int {
	preflight := r.method == "preflight"
	switch {
	case !preflight && (r.token == "other issuer" || r.token == "expired" || r.token == "forged"):
		return 401
	case !preflight && r.token == "none" && r.path != exempt, r.caller != "allowed", r.method == "POST":
		return 403
	case preflight, r.path == exempt, r.token == "valid", r.token == "no sub":
		return 200
	}
	return 403
}

var _ = Describe("A token and a list of callers", Ordered, Label("smoke"), func() {
	callers := map[string]string{"allowed": "matrix", "other": "matrix-other", "no sidecar": "matrix-legacy"}
	methods := map[string][]string{
		"GET": nil, "POST": {"-X", "POST"},
		"preflight": {"-X", "OPTIONS", "-H", "Origin: https://shop.example.com", "-H", "Access-Control-Request-Method: GET"},
	}

	BeforeAll(func(ctx SpecContext) {
		setUp(ctx,
			space{name: "matrix", meshed: true, manifests: []string{testbed.Httpbin("matrix"), testbed.Sleep("matrix")}},
			space{name: "matrix-other", meshed: true, manifests: []string{testbed.Sleep("matrix-other")}},
			space{name: "matrix-legacy", manifests: []string{testbed.Sleep("matrix-legacy")}},
		)
		Expect(mesh.Apply(ctx, fmt.Sprintf(tokenAndCallers, users.JWKS()))).To(Succeed())
		profile := &v1alpha1.ServiceSecurityProfile{}
		profile.Namespace, profile.Name = "matrix", "httpbin"
		expectInForce(ctx, profile)
	}, NodeTimeout(2*patience))

	It("answers each request as documented, whatever is combined", func(ctx SpecContext) {
		learner := claims().With(token.Claims{"role": "learner"})
		tokens := map[string][]string{
			"none": nil, "valid": bearer(users, learner), "no sub": bearer(users, learner.With(token.Claims{"sub": nil})),
			"wrong role":   bearer(users, learner.With(token.Claims{"role": "juice-hater"})),
			"other issuer": bearer(users, learner.With(token.Claims{"iss": "https://accounts.example.com"})),
			"expired":      bearer(users, learner.Expiring(-2*time.Minute)), "forged": bearer(forger, learner),
		}
		asked := map[int]int{}
		for token, tokenArgs := range tokens {
			for caller, namespace := range callers {
				for _, path := range []string{"/headers", exempt} {
					for method, methodArgs := range methods {
						r := request{token: token, caller: caller, path: path, method: method}
						asked[r.answer()]++
						By(fmt.Sprintf("%+v: %d", r, r.answer()))
						args := append(append([]string{}, tokenArgs...), methodArgs...)
						expectAnswers(ctx, ask{from: namespace, url: "http://httpbin.matrix:8000" + path, args: args, want: r.answer()})
					}
				}
			}
		}
		GinkgoWriter.Printf("requests by their answer: %v\n", asked)
	}, SpecTimeout(rollout))
})

// nested lets in administrators, as Keycloak names them, with tokens that are meant for the shop.
const nested = `apiVersion: servicesecurity.dev/v1alpha1
kind: ServiceSecurityProfile
metadata: {name: httpbin, namespace: nested}
spec:
  target: {kind: Service, name: httpbin}
  jwt:
    issuers:
    - issuer: testing@secure.istio.io
      audiences: [shop]
      fromHeaders: [{name: x-token}]
      jwks: '%s'
  authorization:
    allowedCallers:
    - name: admins
      claims: [{path: [realm_access, roles], values: [admin]}]
`

var _ = Describe("A token's audience and nested claims", Label("walkthroughs"), func() {
	It("are what lets a request in", func(ctx SpecContext) {
		const name, url = "nested", "http://httpbin.nested:8000/ip"
		setUp(ctx, space{name: name, meshed: true, manifests: []string{testbed.Httpbin(name), testbed.Sleep(name)}})
		Expect(mesh.Apply(ctx, fmt.Sprintf(nested, users.JWKS()))).To(Succeed())
		profile := &v1alpha1.ServiceSecurityProfile{}
		profile.Namespace, profile.Name = name, "httpbin"
		expectInForce(ctx, profile)
		roles := func(names ...any) token.Claims {
			return claims().With(token.Claims{"aud": "shop", "realm_access": map[string]any{"roles": names}})
		}
		header := func(c token.Claims) []string {
			GinkgoHelper()
			signed, err := users.Sign(c)
			Expect(err).NotTo(HaveOccurred())
			return []string{"-H", "x-token: " + signed}
		}
		expectAnswers(ctx,
			ask{from: name, url: url, want: 403},
			ask{from: name, url: url, args: header(roles("reader", "admin")), want: 200},
			ask{from: name, url: url, args: header(roles("reader")), want: 403},
			ask{from: name, url: url, args: header(claims().With(token.Claims{"aud": "shop"})), want: 403},
			ask{from: name, url: url, args: bearer(users, roles("admin")), want: 403},
		)
		Eventually(func(g Gomega) {
			answer, err := mesh.Curl(ctx, name, "sleep", url, header(roles("admin").With(token.Claims{"aud": "bank"}))...)
			g.Expect(err).NotTo(HaveOccurred())
			// A good token that is meant for somebody else is no bad one to Envoy.
			g.Expect(answer).To(And(HaveField("HTTPCode", 403), HaveField("Body", HavePrefix("Audiences in Jwt "))), "%+v", answer)
		}).WithContext(ctx).Should(Succeed())
	}, SpecTimeout(rollout))
})

var _ = Describe("A dry run of callers", Label("walkthroughs"), func() {
	It("refuses nobody and counts whom it would, and one edit makes it refuse", func(ctx SpecContext) {
		const foo, legacy, url = "foo", "legacy", "http://httpbin.foo:8000/ip"
		setUp(ctx,
			space{name: foo, meshed: true, manifests: []string{testbed.Httpbin(foo), testbed.Sleep(foo)}},
			space{name: legacy, manifests: []string{testbed.Sleep(legacy)}},
		)
		profile := applySample(ctx, "callers-dry-run.yaml")
		Expect(condition(ctx, profile, v1alpha1.ConditionAuthorizationEnforced)).To(HavePrefix("False/" + v1alpha1.ReasonDryRun))
		counted := func() (at v1alpha1.DryRunCount) {
			if status := read(ctx, profile).Status.Authorization; status != nil {
				for _, count := range status.DryRun {
					if count.Port == 8000 {
						at = count
					}
				}
			}
			return at
		}
		before := counted()
		stranger := startLoad(ctx, legacy, "--url="+url, "--rate=20", "--expect=200")
		neighbour := startLoad(ctx, foo, "--url="+url, "--rate=20", "--expect=200")

		// Status is written for such counts once a minute at most.
		Eventually(counted).WithContext(ctx).WithTimeout(2 * time.Minute).Should(
			And(HaveField("Refused", BeNumerically(">", before.Refused)), HaveField("Allowed", BeNumerically(">", before.Allowed))))
		for _, load := range []*testbed.Load{stranger, neighbour} {
			totals, err := load.Totals(ctx)
			Expect(err).NotTo(HaveOccurred())
			Expect(totals.Failed()).To(BeZero(), "%+v", totals.Errors)
		}

		By("enforcing it")
		applySample(ctx, "callers-dry-run.yaml", set(string(v1alpha1.EnforcementEnforced), "spec", "authorization", "enforcement"))
		expectAnswers(ctx, ask{from: legacy, url: url, want: 403}, ask{from: foo, url: url, want: 200})
		Expect(condition(ctx, profile, v1alpha1.ConditionAuthorizationEnforced)).To(HavePrefix("True/"))
		totals, err := neighbour.Totals(ctx)
		Expect(err).NotTo(HaveOccurred())
		Expect(totals.Failed()).To(BeZero(), "%+v", totals.Errors)
	}, SpecTimeout(2*rollout))
})

// startLoad sends requests from a namespace's sleep until the spec ends, and counts from the moment at which all of them get what they expect.
func startLoad(ctx context.Context, namespace string, flags ...string) *testbed.Load {
	GinkgoHelper()
	load, err := mesh.StartLoad(ctx, namespace, "sleep", flags...)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(load.Stop)
	Expect(load.Served(ctx)).To(Succeed())
	return load
}
