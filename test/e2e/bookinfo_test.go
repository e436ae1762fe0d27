//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/test/testbed"
	"github.com/servicesecurity/operator/test/testbed/testapp"
)

// askPage gets a page; its status is 200.
func askPage(ctx context.Context, g Gomega, from, url string) *testapp.Page {
	GinkgoHelper()
	answer, err := mesh.Curl(ctx, from, "sleep", url)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(answer.HTTPCode).To(Equal(200), "%+v", answer)
	page := &testapp.Page{}
	g.Expect(json.Unmarshal([]byte(answer.Body), page)).To(Succeed(), answer.Body)
	return page
}

// expectPage expects a page of parts with these statuses.
func expectPage(ctx context.Context, from, url string, parts map[string]int) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		page := askPage(ctx, g, from, url)
		got := map[string]int{}
		for _, part := range page.Parts {
			got[part.Name] = part.Status
		}
		g.Expect(got).To(Equal(parts))
	}).WithContext(ctx).Should(Succeed())
}

var _ = Describe("D: Bookinfo", Ordered, ContinueOnFailure, Label("walkthroughs"), func() {
	const bookinfo, legacy = "bookinfo", "bookinfo-legacy"
	const productpage, details, reviews, ratings = "http://productpage.bookinfo:9080/productpage", "http://details.bookinfo:9080/details/0",
		"http://reviews.bookinfo:9080/reviews/0", "http://ratings.bookinfo:9080/ratings/0"

	BeforeAll(func(ctx SpecContext) {
		setUp(ctx,
			space{name: bookinfo, meshed: true, manifests: []string{testbed.Bookinfo(bookinfo), testbed.Sleep(bookinfo)}},
			space{name: legacy, manifests: []string{testbed.Sleep(legacy)}},
		)
		expectPage(ctx, bookinfo, productpage, map[string]int{"details": 200, "reviews": 200})
	}, NodeTimeout(2*patience))

	AfterEach(func(ctx SpecContext) { deleteProfiles(ctx, bookinfo) }, NodeTimeout(patience))

	// expectVersions expects the page to show every one of these versions of the reviews in the end, and never another, over that many pages.
	expectVersions := func(ctx context.Context, pages int, want ...string) {
		GinkgoHelper()
		Eventually(func(g Gomega) {
			seen := map[string]bool{}
			for range pages {
				part := askPage(ctx, g, bookinfo, productpage).Find("reviews")
				g.Expect(part).NotTo(BeNil())
				g.Expect(part.Status).To(Equal(200), "%+v", part)
				seen[part.Page.Version] = true
			}
			g.Expect(slices.Sorted(maps.Keys(seen))).To(Equal(want))
		}).WithContext(ctx).Should(Succeed())
	}

	It("D1: Permissive, and all three versions are reached", func(ctx SpecContext) {
		profile := applySample(ctx, "service-permissive.yaml")
		expectVersions(ctx, 30, "v1", "v2", "v3")
		Expect(read(ctx, profile).Status.MTLS.EffectiveMode).To(Equal(v1alpha1.ModePermissive))
		deleteProfiles(ctx, bookinfo)
	}, SpecTimeout(rollout))

	It("D2: Strict Staged is held by reviews-v2, which is named and stays reachable", func(ctx SpecContext) {
		profile := applySample(ctx, "service-strict-staged.yaml")
		expectHeld(ctx, profile, v1alpha1.BlockerPodsNotInMesh, "reviews-v2-")
		rules, err := mesh.Kubectl(ctx, "get", "destinationrules", "-n", bookinfo, "-o", "name")
		Expect(err).NotTo(HaveOccurred())
		Expect(rules).To(BeEmpty())
		expectVersions(ctx, 30, "v1", "v2", "v3")
		deleteProfiles(ctx, bookinfo)
	}, SpecTimeout(rollout))

	It("D3: with the clients' rule always there, reviews-v2 is never reached again, and status warned", func(ctx SpecContext) {
		profile := applySample(ctx, "service-client-rule-always.yaml")
		expectVersions(ctx, 40, "v1", "v3")
		Eventually(func() []v1alpha1.Warning { return read(ctx, profile).Status.Warnings }).WithContext(ctx).Should(
			ContainElement(HaveField("Message", ContainSubstring("reviews-v2-"))))

		By("leaving reviews-v2 alone, where there is nowhere else to try")
		scale := func(replicas int) {
			GinkgoHelper()
			_, err := mesh.Kubectl(ctx, "scale", "deployment", "-n", bookinfo, "reviews-v1", "reviews-v3", fmt.Sprintf("--replicas=%d", replicas))
			Expect(err).NotTo(HaveOccurred())
		}
		scale(0)
		expectPage(ctx, bookinfo, productpage, map[string]int{"details": 200, "reviews": 503})
		scale(1)
		Expect(mesh.WaitReady(ctx, bookinfo, "app=reviews")).To(Succeed())
		deleteProfiles(ctx, bookinfo)
		expectVersions(ctx, 30, "v1", "v2", "v3")
	}, SpecTimeout(rollout))

	It("D5: with nobody allowed everything is refused, except by reviews-v2, which has no proxy", func(ctx SpecContext) {
		profile := applySample(ctx, "namespace-closed.yaml")
		expectAnswers(ctx, ask{from: bookinfo, url: productpage, want: 403}, ask{from: bookinfo, url: details, want: 403}, ask{from: bookinfo, url: ratings, want: 403})
		for _, from := range []string{bookinfo, legacy} {
			for version, want := range map[string]int{"v1": 403, "v2": 200, "v3": 403} {
				expectAnswers(ctx, ask{from: from, url: fmt.Sprintf("http://%s:9080/reviews/0", podOf(ctx, bookinfo, "reviews", version).Status.PodIP), want: want})
			}
		}
		Eventually(func() string { return condition(ctx, profile, v1alpha1.ConditionAuthorizationEnforced) }).WithContext(ctx).Should(
			And(HavePrefix("False/"+v1alpha1.ReasonPodsNotInMesh), ContainSubstring("reviews-v2-")))
	}, SpecTimeout(rollout))

	It("D6: with a caller for each service the page works again, and every other pair is refused", func(ctx SpecContext) {
		for _, file := range []string{"callers-anybody-may-read.yaml", "callers-of-details.yaml", "callers-of-reviews.yaml", "callers-of-ratings.yaml"} {
			applySample(ctx, file)
		}
		expectPage(ctx, bookinfo, productpage, map[string]int{"details": 200, "reviews": 200})
		expectPage(ctx, legacy, productpage, map[string]int{"details": 200, "reviews": 200})
		expectAnswers(ctx, ask{from: bookinfo, url: productpage, args: []string{"-X", "POST"}, want: 403})

		By("asking from every pod for every service")
		expectPairs(ctx, bookinfo, map[string]string{"productpage": productpage, "details": details, "reviews": reviews, "ratings": ratings})

		By("looking at what each version of the reviews gets from the ratings")
		for version, want := range map[string]int{"v2": 403, "v3": 200} {
			Eventually(func(g Gomega) {
				part := askPage(ctx, g, bookinfo, productpage).Find("reviews")
				g.Expect(part).To(HaveField("Status", 200))
				g.Expect(part.Page.Version).To(Equal(version))
				g.Expect(part.Page.Find("ratings").Status).To(Equal(want))
			}).WithContext(ctx).WithPolling(time.Millisecond).Should(Succeed())
		}
		deleteProfiles(ctx, bookinfo)
		expectPage(ctx, bookinfo, productpage, map[string]int{"details": 200, "reviews": 200})
	}, SpecTimeout(rollout))

	It("D4: a token at the gateway, optional and then required", func(ctx SpecContext) {
		const gateway = "http://bookinfo-gateway-istio.bookinfo/productpage"
		Expect(mesh.Apply(ctx, bookinfoGateway)).To(Succeed())
		Eventually(func() error {
			return mesh.WaitReady(ctx, bookinfo, "gateway.networking.k8s.io/gateway-name=bookinfo-gateway")
		}).WithContext(ctx).Should(Succeed())
		expectAnswers(ctx, ask{from: legacy, url: gateway, want: 200})
		bad := []ask{
			{from: legacy, url: gateway, args: bearer(forger, claims()), want: 401},
			{from: legacy, url: gateway, args: bearer(users, claims().Expiring(-2*time.Minute)), want: 401},
		}
		good := ask{from: legacy, url: gateway, args: bearer(users, claims()), want: 200}

		By("Optional")
		applySample(ctx, "gateway-token-optional.yaml")
		expectAnswers(ctx, append(bad, good, ask{from: legacy, url: gateway, want: 200})...)
		deleteProfiles(ctx, bookinfo)

		By("Required")
		applySample(ctx, "gateway-token-required.yaml")
		expectAnswers(ctx, append(bad, good, ask{from: legacy, url: gateway, want: 403})...)
		expectAnswers(ctx, ask{from: bookinfo, url: productpage, want: 200})
		deleteProfiles(ctx, bookinfo)

		By("a namespace's callers, which would reach the gateway without having said so")
		profile := submitSample(ctx, "namespace-closed.yaml")
		Eventually(func() string { return condition(ctx, profile, v1alpha1.ConditionAccepted) }).WithContext(ctx).Should(HavePrefix("False/" + v1alpha1.ReasonAffectsGateways))
		expectAnswers(ctx, good)
		deleteProfiles(ctx, bookinfo)
	}, SpecTimeout(2*rollout))
})

// podOf is the pod of an app's version.
func podOf(ctx context.Context, namespace, app, version string) *corev1.Pod {
	GinkgoHelper()
	var pods corev1.PodList
	Expect(mesh.Client().List(ctx, &pods, client.InNamespace(namespace), client.MatchingLabels{"app": app, "version": version})).To(Succeed())
	Expect(pods.Items).To(HaveLen(1))
	return &pods.Items[0]
}

// expectPairs asks from every pod of Bookinfo for every service and expects what D6 says.
func expectPairs(ctx context.Context, namespace string, urls map[string]string) {
	GinkgoHelper()
	allowed := map[[2]string]bool{{"productpage", "details"}: true, {"productpage", "reviews"}: true, {"reviews", "ratings"}: true}
	for _, from := range [][2]string{{"productpage", "v1"}, {"details", "v1"}, {"ratings", "v1"}, {"reviews", "v1"}, {"reviews", "v2"}, {"reviews", "v3"}} {
		pod := podOf(ctx, namespace, from[0], from[1])
		for to, url := range urls {
			meshed := from[1] != "v2"
			want := to == "productpage" || meshed && allowed[[2]string{from[0], to}]
			Eventually(func(g Gomega) {
				answer, err := mesh.CurlFrom(ctx, namespace, pod.Name, url)
				g.Expect(err).NotTo(HaveOccurred())
				var page testapp.Page
				if to == "reviews" && !want && answer.HTTPCode == 200 {
					g.Expect(json.Unmarshal([]byte(answer.Body), &page)).To(Succeed())
					g.Expect(page.Version).To(Equal("v2"), "only what has no proxy answers")
					return
				}
				status := 403
				if want {
					status = 200
				}
				expectAnswer(g, answer, status, fmt.Sprintf("%v asks %s", from, to))
			}).WithContext(ctx).Should(Succeed())
		}
	}
}

const bookinfoGateway = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: bookinfo-gateway
  namespace: bookinfo
  annotations: {networking.istio.io/service-type: ClusterIP}
spec:
  gatewayClassName: istio
  listeners:
  - {name: http, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: Same}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: bookinfo, namespace: bookinfo}
spec:
  parentRefs: [{name: bookinfo-gateway}]
  rules:
  - matches: [{path: {type: Exact, value: /productpage}}]
    backendRefs: [{name: productpage, port: 9080}]
`
