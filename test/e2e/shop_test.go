//go:build e2e

package e2e

import (
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/test/testbed"
)

var _ = Describe("B: the online shop", Ordered, ContinueOnFailure, Label("walkthroughs"), func() {
	const shop, legacy, frontend, products = "online-shop", "shop-legacy", "http://frontend.online-shop", "http://productcatalogservice.online-shop:3550/products"
	services := []string{frontend + "/", products, "http://currencyservice.online-shop:7000/", "http://cartservice.online-shop:7070/"}

	BeforeAll(func(ctx SpecContext) {
		setUp(ctx,
			space{name: shop, meshed: true, manifests: []string{testbed.OnlineShop(shop), testbed.Sleep(shop)}},
			space{name: legacy, manifests: []string{testbed.Sleep(legacy)}},
		)
		for _, url := range services {
			expectAnswers(ctx, ask{from: shop, url: url, want: 200}, ask{from: legacy, url: url, want: 200})
		}
		expectPage(ctx, shop, frontend+"/product/1", map[string]int{"productcatalogservice": 200, "currencyservice": 200, "cartservice": 200})
	}, NodeTimeout(2*patience))

	AfterEach(func(ctx SpecContext) { deleteProfiles(ctx, shop) }, NodeTimeout(patience))

	It("B1: with Strict on the frontend plaintext to it is reset, and the other services take it", func(ctx SpecContext) {
		expectStage(ctx, applySample(ctx, "shop-frontend-strict.yaml"), v1alpha1.StageEnforced)
		expectAnswers(ctx, ask{from: legacy, url: frontend, want: 0}, ask{from: shop, url: frontend, want: 200})
		for _, url := range services[1:] {
			expectAnswers(ctx, ask{from: legacy, url: url, want: 200})
		}
	}, SpecTimeout(rollout))

	It("B2: with Strict on the namespace plaintext to every service is reset", func(ctx SpecContext) {
		expectStage(ctx, applySample(ctx, "shop-strict.yaml"), v1alpha1.StageEnforced)
		for _, url := range services {
			expectAnswers(ctx, ask{from: legacy, url: url, want: 0}, ask{from: shop, url: url, want: 200})
		}
		expectPage(ctx, shop, frontend+"/product/1", map[string]int{"productcatalogservice": 200, "currencyservice": 200, "cartservice": 200})
	}, SpecTimeout(rollout))

	It("B3: with Strict and a token on the frontend", func(ctx SpecContext) {
		expectStage(ctx, applySample(ctx, "shop-frontend-users.yaml"), v1alpha1.StageEnforced)
		good := bearer(users, claims())
		expectAnswers(ctx,
			ask{from: shop, url: frontend, want: 403},
			ask{from: shop, url: frontend, args: good, want: 200},
			ask{from: shop, url: frontend, args: bearer(forger, claims()), want: 401},
			ask{from: legacy, url: frontend, args: good, want: 0},
			ask{from: legacy, url: products, want: 200},
		)
	}, SpecTimeout(rollout))

	It("B4: with no caller allowed everyone is refused", func(ctx SpecContext) {
		profile := applySample(ctx, "service-closed.yaml")
		expectAnswers(ctx, ask{from: shop, url: frontend, want: 403}, ask{from: legacy, url: frontend, want: 403}, ask{from: shop, url: products, want: 200})
		Eventually(func() string { return condition(ctx, profile, v1alpha1.ConditionAuthorizationEnforced) }).WithContext(ctx).Should(HavePrefix("True/"))
	}, SpecTimeout(rollout))

	It("B5: with the header a caller may read, and nothing else", func(ctx SpecContext) {
		applySample(ctx, "callers-by-header-and-method.yaml")
		header := []string{"-H", "hello: world"}
		for _, from := range []string{shop, legacy} {
			expectAnswers(ctx,
				ask{from: from, url: frontend, want: 403},
				ask{from: from, url: frontend, args: header, want: 200},
				ask{from: from, url: frontend, args: append([]string{"-I"}, header...), want: 200},
				ask{from: from, url: frontend, args: append([]string{"-X", "POST"}, header...), want: 403},
				ask{from: from, url: frontend, args: []string{"-H", "hello: there"}, want: 403},
			)
		}
	}, SpecTimeout(rollout))
})
