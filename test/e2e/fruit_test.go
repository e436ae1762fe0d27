//go:build e2e

package e2e

import (
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/test/testbed"
	"github.com/servicesecurity/operator/test/testbed/token"
)

var _ = Describe("C: the fruit shop", Ordered, ContinueOnFailure, Label("walkthroughs"), func() {
	const factory, juiceShop, legacy = "micro-shake-factory", "juice-shop", "fruit-legacy"
	const fruits, bookclub, httpbin = "http://fruits-api-service.micro-shake-factory/api/fruits/au", "http://bookclub-service.micro-shake-factory/", "http://httpbin.micro-shake-factory:8000/ip"

	BeforeAll(func(ctx SpecContext) {
		setUp(ctx,
			space{name: factory, meshed: true, manifests: []string{testbed.FruitsAPI(factory), testbed.Httpbin(factory), testbed.Sleep(factory)}},
			space{name: juiceShop, meshed: true, manifests: []string{testbed.Sleep(juiceShop)}},
			space{name: legacy, manifests: []string{testbed.Sleep(legacy)}},
		)
		for _, from := range []string{factory, juiceShop, legacy} {
			expectAnswers(ctx, ask{from: from, url: fruits, want: 200}, ask{from: from, url: bookclub, want: 200}, ask{from: from, url: httpbin, want: 200})
		}
	}, NodeTimeout(2*patience))

	AfterEach(func(ctx SpecContext) {
		deleteProfiles(ctx, factory)
		deleteProfiles(ctx, rootNamespace)
	}, NodeTimeout(patience))

	// mine are the claims of a token of this shop's issuer.
	mine := func(role string) token.Claims {
		return claims().With(token.Claims{"iss": "istio-succinctly.io", "role": role})
	}

	It("C1: with the mesh Strict clients outside fail, and meshed ones need nothing", func(ctx SpecContext) {
		expectStage(ctx, applySample(ctx, "mesh-strict.yaml"), v1alpha1.StageEnforced)
		expectAnswers(ctx, ask{from: legacy, url: fruits, want: 0})
		for _, from := range []string{factory, juiceShop} {
			expectAnswers(ctx, ask{from: from, url: fruits, want: 200}, ask{from: from, url: bookclub, want: 200})
		}
		rules, err := mesh.Kubectl(ctx, "get", "destinationrules", "--all-namespaces", "-o", "name")
		Expect(err).NotTo(HaveOccurred())
		Expect(rules).To(BeEmpty(), "automatic mutual TLS needs none")
	}, SpecTimeout(rollout))

	It("C2: without a token of the issuer the API refuses", func(ctx SpecContext) {
		applySample(ctx, "token-from-jwks-uri.yaml")
		for _, from := range []string{juiceShop, legacy} {
			expectAnswers(ctx, ask{from: from, url: fruits, want: 403}, ask{from: from, url: fruits, args: bearer(users, mine("learner")), want: 200},
				ask{from: from, url: fruits, args: bearer(users, claims()), want: 401})
		}
	}, SpecTimeout(rollout))

	It("C3: a learner may read, and nobody else may anything", func(ctx SpecContext) {
		applySample(ctx, "callers-by-claim.yaml")
		learner := bearer(users, mine("learner"))
		expectAnswers(ctx,
			ask{from: juiceShop, url: fruits, args: learner, want: 200},
			ask{from: juiceShop, url: fruits, args: append([]string{"-X", "POST"}, learner...), want: 403},
			ask{from: juiceShop, url: fruits, args: bearer(users, mine("juice-hater")), want: 403},
			ask{from: juiceShop, url: fruits, want: 403},
			ask{from: juiceShop, url: fruits, args: bearer(forger, mine("learner")), want: 401},
			ask{from: juiceShop, url: httpbin, want: 200},
		)
	}, SpecTimeout(rollout))

	It("C4: exceptions go on working in a mesh that is Strict", func(ctx SpecContext) {
		expectStage(ctx, applySample(ctx, "mesh-strict.yaml"), v1alpha1.StageEnforced)
		expectAnswers(ctx, ask{from: legacy, url: fruits, want: 0}, ask{from: legacy, url: httpbin, want: 0})

		By("a service without a sidecar")
		expectAnswers(ctx, ask{from: juiceShop, url: bookclub, want: 200}, ask{from: legacy, url: bookclub, want: 200})

		By("one port")
		applySample(ctx, "port-permissive.yaml")
		expectAnswers(ctx, ask{from: legacy, url: fruits, want: 200}, ask{from: legacy, url: httpbin, want: 0}, ask{from: juiceShop, url: fruits, want: 200})
		deleteProfiles(ctx, factory)
		expectAnswers(ctx, ask{from: legacy, url: fruits, want: 0})

		By("one namespace")
		applySample(ctx, "namespace-permissive.yaml")
		expectAnswers(ctx, ask{from: legacy, url: fruits, want: 200}, ask{from: legacy, url: httpbin, want: 200}, ask{from: juiceShop, url: fruits, want: 200})
	}, SpecTimeout(rollout))

	It("C5: only what is covered is restricted", func(ctx SpecContext) {
		By("one service")
		applySample(ctx, "service-callers.yaml")
		expectAnswers(ctx,
			ask{from: juiceShop, url: fruits, want: 200}, ask{from: factory, url: fruits, want: 403}, ask{from: legacy, url: fruits, want: 403},
			ask{from: juiceShop, url: httpbin, want: 200}, ask{from: factory, url: httpbin, want: 200}, ask{from: legacy, url: httpbin, want: 200},
		)

		By("its whole namespace too")
		applySample(ctx, "namespace-callers.yaml")
		expectAnswers(ctx,
			ask{from: juiceShop, url: httpbin, want: 403}, ask{from: factory, url: httpbin, want: 200}, ask{from: legacy, url: httpbin, want: 403},
			// Both say who gets in, and either suffices.
			ask{from: juiceShop, url: fruits, want: 200}, ask{from: factory, url: fruits, want: 200}, ask{from: legacy, url: fruits, want: 403},
			// There is no proxy to refuse anybody.
			ask{from: legacy, url: bookclub, want: 200},
		)
	}, SpecTimeout(rollout))
})
