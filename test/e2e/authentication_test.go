//go:build e2e

package e2e

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/test/testbed"
)

// reset is curl's exit code for a connection that the other side reset.
const reset = 56

// other is httpbin under another name, to see that what is done to one service leaves the others alone.
func other(namespace string) string {
	return renamed(testbed.Httpbin(namespace), "httpbin", "httpbin2")
}

var _ = Describe("A: the authentication policy task", Ordered, ContinueOnFailure, Label("walkthroughs"), func() {
	const foo, bar, legacy = "foo", "bar", "legacy"
	everybody := []string{foo, bar, legacy}

	BeforeAll(func(ctx SpecContext) {
		setUp(ctx,
			space{name: foo, meshed: true, manifests: []string{testbed.Httpbin(foo), testbed.Sleep(foo), other(foo)}},
			space{name: bar, meshed: true, manifests: []string{testbed.Httpbin(bar), testbed.Sleep(bar), other(bar)}},
			space{name: legacy, manifests: []string{testbed.Httpbin(legacy), testbed.Sleep(legacy)}},
		)
	}, NodeTimeout(patience))

	AfterEach(func(ctx SpecContext) {
		for _, namespace := range []string{foo, bar, rootNamespace} {
			deleteProfiles(ctx, namespace)
		}
	}, NodeTimeout(patience))

	// matrix expects every pair to answer 200, but for the refused ones.
	matrix := func(ctx SpecContext, refused ...reach) {
		GinkgoHelper()
		want := refused
		for _, from := range everybody {
			for _, to := range everybody {
				isRefused := false
				for _, r := range refused {
					isRefused = isRefused || r.from == from && r.to == to
				}
				if !isRefused {
					want = append(want, reach{from: from, to: to, status: 200})
				}
			}
		}
		expectReach(ctx, want...)
	}
	url := func(namespace, path string) string { return "http://httpbin." + namespace + ":8000" + path }
	// tokens expects what each kind of token is answered.
	tokens := func(ctx SpecContext, from, url string) {
		GinkgoHelper()
		expectAnswers(ctx,
			ask{from: from, url: url, want: 403},
			ask{from: from, url: url, args: bearer(users, claims()), want: 200},
			// Past the minute that Envoy grants to clocks that differ.
			ask{from: from, url: url, args: bearer(users, claims().Expiring(-2*time.Minute)), want: 401},
			ask{from: from, url: url, args: bearer(forger, claims()), want: 401},
		)
	}

	It("A1: without a profile everybody reaches everybody", func(ctx SpecContext) {
		matrix(ctx)
	}, SpecTimeout(patience))

	for _, file := range []string{"mesh-strict.yaml", "mesh-strict-with-client-rule.yaml"} {
		It("A2: the whole mesh Strict, "+file, func(ctx SpecContext) {
			expectStage(ctx, applySample(ctx, file), v1alpha1.StageEnforced)
			matrix(ctx, reach{from: legacy, to: foo, exit: reset}, reach{from: legacy, to: bar, exit: reset})
			for _, from := range everybody {
				expectAnswers(ctx, ask{from: from, url: "https://kubernetes.default.svc/version", args: []string{"-k"}, want: 200})
			}
		}, SpecTimeout(rollout))
	}

	It("A3: with Strict on the namespace foo only legacy to foo fails", func(ctx SpecContext) {
		expectStage(ctx, applySample(ctx, "namespace-strict.yaml"), v1alpha1.StageEnforced)
		matrix(ctx, reach{from: legacy, to: foo, exit: reset})
	}, SpecTimeout(rollout))

	It("A4: with Strict on httpbin in bar only legacy to it fails, and other services of bar are untouched", func(ctx SpecContext) {
		expectStage(ctx, applySample(ctx, "service-strict.yaml"), v1alpha1.StageEnforced)
		matrix(ctx, reach{from: legacy, to: bar, exit: reset})
		expectAnswers(ctx, ask{from: legacy, url: "http://httpbin2.bar:8000/ip", want: 200})
	}, SpecTimeout(rollout))

	It("A5: with Strict on port 1234 alone, port 8000 takes plaintext", func(ctx SpecContext) {
		profile := applySample(ctx, "port-strict.yaml")
		expectStage(ctx, profile, v1alpha1.StageEnforced)
		ports, err := mesh.Kubectl(ctx, "get", "peerauthentication", "-n", bar, profile.Name, "-o", "jsonpath={.spec.portLevelMtls['1234'].mode}")
		Expect(err).NotTo(HaveOccurred())
		Expect(ports).To(Equal("STRICT"))
		Expect(read(ctx, profile).Status.Warnings).To(ContainElement(HaveField("Type", v1alpha1.WarningPortNotMapped)))
		matrix(ctx)
	}, SpecTimeout(rollout))

	It("A6: with foo Strict and its httpbin Disabled, legacy reaches httpbin and nothing else in foo", func(ctx SpecContext) {
		applySample(ctx, "service-mtls-disabled.yaml")
		expectStage(ctx, applySample(ctx, "namespace-strict.yaml"), v1alpha1.StageEnforced)
		matrix(ctx)
		expectAnswers(ctx,
			ask{from: legacy, url: "http://httpbin2.foo:8000/ip", want: 0},
			ask{from: foo, url: "http://httpbin2.foo:8000/ip", want: 200}, ask{from: bar, url: "http://httpbin2.foo:8000/ip", want: 200},
		)
	}, SpecTimeout(rollout))

	It("A7: httpbin in foo needs a token", func(ctx SpecContext) {
		applySample(ctx, "token-required.yaml")
		for _, from := range everybody {
			tokens(ctx, from, url(foo, "/headers"))
		}
		expectAnswers(ctx, ask{from: foo, url: url(bar, "/headers"), want: 200}, ask{from: foo, url: "http://httpbin2.foo:8000/headers", want: 200})
	}, SpecTimeout(rollout))

	It("A7: a token that holds for five seconds is good for another minute of skew, and then no more", func(ctx SpecContext) {
		const life, skew = 5 * time.Second, time.Minute
		applySample(ctx, "token-required.yaml")
		short := bearer(users, claims().Expiring(life))
		expires := time.Now().Add(life)
		expectAnswers(ctx, ask{from: foo, url: url(foo, "/headers"), args: bearer(users, claims()), want: 200})
		if time.Now().Before(expires.Add(skew - life)) { // else this machine is too slow to tell
			expectAnswers(ctx, ask{from: foo, url: url(foo, "/headers"), args: short, want: 200})
		}
		Eventually(func(g Gomega) {
			answer, err := mesh.Curl(ctx, foo, "sleep", url(foo, "/headers"), short...)
			g.Expect(err).NotTo(HaveOccurred())
			expectAnswer(g, answer, 401, "the token that expired")
		}).WithContext(ctx).WithTimeout(2 * time.Minute).WithPolling(time.Second).Should(Succeed())
		Expect(time.Now()).To(BeTemporally(">=", expires.Add(skew-2*time.Second)), "the API keeps whole seconds")
	}, SpecTimeout(2*rollout))

	It("A8: without a token on the exempt path only", func(ctx SpecContext) {
		applySample(ctx, "token-required-with-exempt-paths.yaml")
		tokens(ctx, foo, url(foo, "/headers"))
		expectAnswers(ctx,
			ask{from: foo, url: url(foo, "/user-agent"), want: 200},
			ask{from: foo, url: url(foo, "/user-agent"), args: bearer(users, claims()), want: 200},
			ask{from: foo, url: url(foo, "/user-agent"), args: bearer(forger, claims()), want: 401},
		)
	}, SpecTimeout(rollout))

	It("A9: with a token on the required path only", func(ctx SpecContext) {
		applySample(ctx, "token-required-on-paths.yaml")
		tokens(ctx, foo, url(foo, "/ip"))
		expectAnswers(ctx, ask{from: foo, url: url(foo, "/user-agent"), want: 200})
	}, SpecTimeout(rollout))

	It("A10: a token and mutual TLS", func(ctx SpecContext) {
		expectStage(ctx, applySample(ctx, "token-and-strict.yaml"), v1alpha1.StageEnforced)
		for _, from := range []string{foo, bar} {
			tokens(ctx, from, url(foo, "/headers"))
		}
		expectAnswers(ctx, ask{from: legacy, url: url(foo, "/headers"), args: bearer(users, claims()), want: 0})
	}, SpecTimeout(rollout))

	It("A11: a token at the ingress gateway, for every service behind it", func(ctx SpecContext) {
		const ingress = "istio-ingress"
		setUp(ctx, space{name: ingress, meshed: true, manifests: []string{testbed.IngressGateway(ingress)}})
		Expect(mesh.Apply(ctx, ingressRoutes)).To(Succeed())
		through := "http://istio-ingressgateway." + ingress + "/headers"
		asks := func(host string, want int, args ...string) ask {
			return ask{from: legacy, url: through, args: append([]string{"-H", "Host: " + host}, args...), want: want}
		}
		hosts := []string{"foo.example.com", "bar.example.com"}
		for _, host := range hosts {
			expectAnswers(ctx, asks(host, 200))
		}
		applySample(ctx, "gateway-workload-token.yaml")
		for _, host := range hosts {
			expectAnswers(ctx, asks(host, 403), asks(host, 200, bearer(users, claims())...),
				asks(host, 401, bearer(users, claims().Expiring(-2*time.Minute))...), asks(host, 401, bearer(forger, claims())...))
		}
		expectAnswers(ctx, ask{from: legacy, url: url(foo, "/headers"), want: 200})
	}, SpecTimeout(rollout))

	It("A12: when the profiles are deleted everything is as before, and no object is left", func(ctx SpecContext) {
		for _, namespace := range []string{foo, bar, rootNamespace} {
			Eventually(func() (string, error) {
				return mesh.Kubectl(ctx, "get", "peerauthentications,destinationrules,requestauthentications,authorizationpolicies", "-n", namespace, "-o", "name")
			}).WithContext(ctx).Should(BeEmpty())
		}
		matrix(ctx)
	}, SpecTimeout(patience))
})

// ingressRoutes lead from the classic ingress gateway to httpbin in foo and in bar.
const ingressRoutes = `apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: httpbin, namespace: istio-ingress}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: foo, namespace: istio-ingress}
spec:
  hosts: [foo.example.com]
  gateways: [httpbin]
  http:
  - route: [{destination: {host: httpbin.foo.svc.cluster.local, port: {number: 8000}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: bar, namespace: istio-ingress}
spec:
  hosts: [bar.example.com]
  gateways: [httpbin]
  http:
  - route: [{destination: {host: httpbin.bar.svc.cluster.local, port: {number: 8000}}}]
`

// immediate is Strict without observation.
const immediate = `{mode: Strict, rollout: {strategy: Immediate}}`

func deleteProfiles(ctx context.Context, namespace string) {
	GinkgoHelper()
	_, err := mesh.Kubectl(ctx, "delete", "ssp", "--all", "-n", namespace)
	Expect(err).NotTo(HaveOccurred())
}
