//go:build e2e

package e2e

import (
	"fmt"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/test/testbed"
)

var _ = Describe("E1, E2 and E3: a legacy client, then a meshed one", Ordered, Label("smoke"), func() {
	const shop, legacy = "e2-shop", "e2-legacy"
	var profile, stream *v1alpha1.ServiceSecurityProfile
	var enforced time.Time

	BeforeAll(func(ctx SpecContext) {
		steady, err := testbed.LoadClient(shop, "steady", "--url=http://httpbin."+shop+":8000/ip", "--rate=120", "--connections=4", "--new=8", "--stream=tcp-echo."+shop+":9000")
		Expect(err).NotTo(HaveOccurred())
		old, err := testbed.LoadClient(legacy, "cron", "--url=http://httpbin."+shop+":8000/ip", "--rate=5", "--connections=1")
		Expect(err).NotTo(HaveOccurred())
		setUp(ctx,
			space{name: shop, meshed: true, manifests: []string{testbed.Httpbin(shop), testbed.TCPEcho(shop), testbed.Sleep(shop), steady}},
			space{name: legacy, manifests: []string{testbed.Sleep(legacy), old}},
		)
		for namespace, app := range map[string]string{shop: "steady", legacy: "cron"} {
			Expect(mesh.Served(ctx, namespace, app)).To(Succeed())
		}
		profile = applyProfile(ctx, shop, "httpbin", staged)
		// The bed counts a TCP connection when it ends, and this one does not.
		stream = applyProfile(ctx, shop, "tcp-echo", `{mode: Strict, rollout: {observationWindow: 5s, verificationWindow: 3s, minRequests: 0}}`)
	}, NodeTimeout(rollout))

	It("stays PERMISSIVE and Blocked while plaintext arrives, and cuts nobody off", func(ctx SpecContext) {
		expectStage(ctx, profile, v1alpha1.StageBlocked)
		Eventually(func() []string { return blockers(ctx, profile) }).Should(ContainElement(HavePrefix("PlaintextSeen: ")), "%s", describe(ctx, profile))
		Expect(peerMode(ctx, shop, "httpbin")).To(Equal("PERMISSIVE"))
		Expect(condition(ctx, profile, v1alpha1.ConditionPlaintextFree)).To(HavePrefix("False/PlaintextSeen"))
		// An open connection is seen by the first reading; who calls is told by what moves until the second.
		Eventually(func() []v1alpha1.PlaintextCaller { return read(ctx, profile).Status.MTLS.PlaintextCallers }).
			Should(ContainElement(HaveField("Requests", BeNumerically(">", 0))), "%s", describe(ctx, profile))
		Consistently(func() v1alpha1.Stage { return stage(ctx, profile) }, "8s", "500ms").Should(Equal(v1alpha1.StageBlocked), "longer than the window")
		totals, err := mesh.Totals(ctx, legacy, "cron")
		Expect(err).NotTo(HaveOccurred())
		Expect(totals).To(And(HaveField("Requests", BeNumerically(">", 0)), HaveField("Failed()", BeZero())), "%+v", totals.Errors)
	}, SpecTimeout(rollout))

	It("goes to STRICT and Enforced when the client is in the mesh, without a failure", func(ctx SpecContext) {
		begin := time.Now()
		moveIn(ctx, legacy)
		expectStage(ctx, profile, v1alpha1.StageObserving)
		expectStage(ctx, profile, v1alpha1.StageEnforced)
		expectStage(ctx, stream, v1alpha1.StageEnforced)
		GinkgoWriter.Printf("from the restart to Enforced: %s\n", time.Since(begin).Round(time.Second))
		Expect(peerMode(ctx, shop, "httpbin")).To(Equal("STRICT"))
		Expect(condition(ctx, profile, v1alpha1.ConditionReady)).To(HavePrefix("True/Ready"))
		Expect(read(ctx, profile).Status.MTLS.EffectiveMode).To(Equal(v1alpha1.ModeStrict))
		enforced = time.Now()
	}, SpecTimeout(rollout))

	It("E3: one request in plaintext now and then, to another workload, never promotes that", func(ctx SpecContext) {
		Expect(mesh.Namespace(ctx, legacy, false)).To(Succeed())
		expectNeverPromoted(ctx, "e3", legacy)
	}, SpecTimeout(rollout))

	It("keeps the meshed clients going for a minute after it, at their steady rate", func(ctx SpecContext) {
		Eventually(func(g Gomega) {
			totals, err := mesh.Totals(ctx, shop, "steady")
			g.Expect(err).NotTo(HaveOccurred())
			expectUnharmed(g, totals)
			g.Expect(time.Since(enforced)).To(BeNumerically(">=", time.Minute))
			g.Expect(totals.Requests).To(BeNumerically(">=", 10000))
			g.Expect(totals.NewConnections).To(BeNumerically(">=", 500))
		}).WithContext(ctx).WithTimeout(rollout).WithPolling(time.Second).Should(Succeed())
		expectClean(ctx, shop, "steady")
	}, SpecTimeout(2*rollout))

	It("refuses plaintext afterwards", func(ctx SpecContext) {
		outside := fmt.Sprintf("http://httpbin.%s:8000/ip", shop)
		answer, err := mesh.Curl(ctx, legacy, "sleep", outside)
		Expect(err).NotTo(HaveOccurred())
		Expect(answer).To(And(HaveField("HTTPCode", 0), HaveField("CurlExit", 56)))
	}, SpecTimeout(rollout))
})
