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

const monitoring = "monitoring"

// observeBy restarts the operator with a flag more, or with those of the overlay if it is empty.
func observeBy(ctx context.Context, flag string) {
	GinkgoHelper()
	const deployment = "deployment/servicesecurity-controller-manager"
	if flag != "" {
		_, err := mesh.Kubectl(ctx, "patch", deployment, "-n", systemNamespace, "--type=json",
			"-p", `[{"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": "`+flag+`"}]`)
		Expect(err).NotTo(HaveOccurred())
	} else {
		_, err := mesh.Kubectl(ctx, "apply", "--server-side", "--force-conflicts", "-k", overlay)
		Expect(err).NotTo(HaveOccurred())
	}
	_, err := mesh.Kubectl(ctx, "rollout", "status", deployment, "-n", systemNamespace, "--timeout=60s")
	Expect(err).NotTo(HaveOccurred())
	Expect(mesh.WaitReady(ctx, systemNamespace, managerApp)).To(Succeed())
}

// scale sets the number of Prometheus servers.
func scale(ctx context.Context, replicas string) {
	GinkgoHelper()
	_, err := mesh.Kubectl(ctx, "scale", "deployment/prometheus", "-n", monitoring, "--replicas="+replicas)
	Expect(err).NotTo(HaveOccurred())
}

var _ = Describe("With Prometheus as the source", Ordered, Label("prometheus"), func() {
	const shop, legacy = "prom-shop", "prom-legacy"
	var profile, stream *v1alpha1.ServiceSecurityProfile

	BeforeAll(func(ctx SpecContext) {
		steady, err := testbed.LoadClient(shop, "steady", "--url=http://httpbin."+shop+":8000/ip", "--rate=40", "--connections=4", "--new=4", "--stream=tcp-echo."+shop+":9000")
		Expect(err).NotTo(HaveOccurred())
		old, err := testbed.LoadClient(legacy, "cron", "--url=http://httpbin."+shop+":8000/ip", "--rate=5", "--connections=1")
		Expect(err).NotTo(HaveOccurred())
		setUp(ctx,
			space{name: monitoring, manifests: []string{testbed.Prometheus(monitoring)}},
			space{name: shop, meshed: true, manifests: []string{testbed.Httpbin(shop), testbed.TCPEcho(shop), testbed.Sleep(shop), steady}},
			space{name: legacy, manifests: []string{testbed.Sleep(legacy), old}},
		)
		for namespace, app := range map[string]string{shop: "steady", legacy: "cron"} {
			Expect(mesh.Served(ctx, namespace, app)).To(Succeed())
		}
		DeferCleanup(func(ctx SpecContext) { observeBy(ctx, "") }, NodeTimeout(2*patience))
		observeBy(ctx, "--prometheus-url=http://prometheus."+monitoring+":9090")
	}, NodeTimeout(rollout))

	It("E1: stays PERMISSIVE and names who sends plaintext, while it arrives", func(ctx SpecContext) {
		profile = applyProfile(ctx, shop, "httpbin", staged)
		stream = applyProfile(ctx, shop, "tcp-echo", `{mode: Strict, rollout: {observationWindow: 5s, verificationWindow: 3s, minRequests: 0}}`)
		expectHeld(ctx, profile, v1alpha1.BlockerPlaintextSeen, "outside the mesh")
		Eventually(func() []v1alpha1.PlaintextCaller { return read(ctx, profile).Status.MTLS.PlaintextCallers }).
			Should(ContainElement(HaveField("Requests", BeNumerically(">", 0))), "%s", describe(ctx, profile))
		Expect(condition(ctx, profile, v1alpha1.ConditionTrafficObserved)).To(HavePrefix("True/"))
		totals, err := mesh.Totals(ctx, legacy, "cron")
		Expect(err).NotTo(HaveOccurred())
		Expect(totals.Failed()).To(BeZero(), "%+v", totals.Errors)
	}, SpecTimeout(rollout))

	It("E2: goes to STRICT and Enforced when the client is in the mesh, without a failure", func(ctx SpecContext) {
		begin := time.Now()
		moveIn(ctx, legacy)
		expectStage(ctx, profile, v1alpha1.StageEnforced)
		expectStage(ctx, stream, v1alpha1.StageEnforced)
		GinkgoWriter.Printf("from the restart to Enforced: %s\n", time.Since(begin).Round(time.Second))
		Expect(peerMode(ctx, shop, "httpbin")).To(Equal("STRICT"))
		expectClean(ctx, shop, "steady")
		Expect(mesh.Namespace(ctx, legacy, false)).To(Succeed())
		answer, err := mesh.Curl(ctx, legacy, "sleep", "http://httpbin."+shop+":8000/ip")
		Expect(err).NotTo(HaveOccurred())
		Expect(answer).To(And(HaveField("HTTPCode", 0), HaveField("CurlExit", 56)))
	}, SpecTimeout(rollout))

	It("proves the window from before the profile", func(ctx SpecContext) {
		pod, err := mesh.ReadyPod(ctx, shop, "sleep")
		Expect(err).NotTo(HaveOccurred())
		Eventually(func() time.Duration { return time.Since(pod.CreationTimestamp.Time) }).WithTimeout(2 * patience).Should(BeNumerically(">", 75*time.Second))
		begin := time.Now()
		idle := applyProfile(ctx, shop, "sleep", `{mode: Strict, rollout: {observationWindow: 40s, verificationWindow: 3s, minRequests: 0}}`)
		expectStage(ctx, idle, v1alpha1.StageEnforced)
		Expect(time.Since(begin)).To(BeNumerically("<", 35*time.Second))
	}, SpecTimeout(2*rollout))

	It("E3: one request in plaintext now and then is never promoted", func(ctx SpecContext) {
		expectNeverPromoted(ctx, "prom-rare", legacy)
	}, SpecTimeout(rollout))

	It("E4: proxies that are not scraped, and a server that is down, hold it, and STRICT stays where it is", func(ctx SpecContext) {
		const name = "prom-dark"
		setUp(ctx, space{name: name, meshed: true, manifests: []string{testbed.Sleep(name)}})
		closeStats(ctx, name, "sleep", "-I")
		waiting := applyProfile(ctx, name, "sleep", `{mode: Strict, rollout: {observationWindow: 5s, verificationWindow: 3s, minRequests: 0}}`)
		expectHeld(ctx, waiting, v1alpha1.BlockerTelemetryIncomplete, "15090")
		By("stopping Prometheus")
		scale(ctx, "0")
		expectHeld(ctx, waiting, v1alpha1.BlockerTelemetryIncomplete, "Prometheus gives no answer")
		Eventually(func() string { return condition(ctx, waiting, v1alpha1.ConditionTrafficObserved) }).Should(HavePrefix("False/SourceUnavailable"))
		Expect(peerMode(ctx, shop, "httpbin")).To(Equal("STRICT"))
		Expect(stage(ctx, profile)).To(Equal(v1alpha1.StageEnforced))

		By("starting it again")
		closeStats(ctx, name, "sleep", "-D")
		scale(ctx, "1")
		expectStage(ctx, waiting, v1alpha1.StageEnforced)
	}, SpecTimeout(2*rollout))
})
