//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/types"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/test/testbed"
)

// accessLogProviders are those of docs/access-logs.md, for the mesh configuration.
func accessLogProviders() []any {
	const service = systemNamespace + "/servicesecurity-accesslog." + systemNamespace + ".svc.cluster.local"
	return []any{
		map[string]any{"name": "servicesecurity-http", "envoyHttpAls": map[string]any{
			"service": service, "port": 9095, "additionalRequestHeadersToLog": []any{"content-type"},
		}},
		map[string]any{"name": "servicesecurity-tcp", "envoyTcpAls": map[string]any{"service": service, "port": 9095}},
	}
}

// receiveAccessLogs installs the operator anew with an overlay that receives access logs, until the spec's container ends.
func receiveAccessLogs(ctx context.Context, with string) {
	GinkgoHelper()
	DeferCleanup(func(ctx SpecContext) {
		for _, object := range []string{"telemetry -n istio-system", "service", "rolebinding", "role"} {
			args := append([]string{"delete", "--ignore-not-found", "-n", systemNamespace}, strings.Fields(object)...)
			_, err := mesh.Kubectl(ctx, append(args, "servicesecurity-accesslog")...)
			Expect(err).NotTo(HaveOccurred())
		}
		observeBy(ctx, "")
	}, NodeTimeout(2*patience))
	_, err := mesh.Kubectl(ctx, "apply", "--server-side", "--force-conflicts", "-k", with)
	Expect(err).NotTo(HaveOccurred())
	_, err = mesh.Kubectl(ctx, "rollout", "status", "deployment/servicesecurity-controller-manager", "-n", systemNamespace, "--timeout=90s")
	Expect(err).NotTo(HaveOccurred())
	expectLed(ctx)
}

// expectLed waits until access logs are led to the operator's one pod; one that it takes over from may still be there.
func expectLed(ctx context.Context) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		name, err := endpoint(ctx)()
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(name).To(Equal(leader(ctx)))
	}).WithContext(ctx).Should(Succeed())
}

// endpoint reads the pod that access logs are led to.
func endpoint(ctx context.Context) func() (string, error) {
	return func() (string, error) {
		return mesh.Kubectl(ctx, "get", "endpointslice", "-n", systemNamespace, "servicesecurity-accesslog-leader", "-o", "jsonpath={.endpoints[0].targetRef.name}")
	}
}

// leader is the one pod of the operator.
func leader(ctx context.Context) string {
	GinkgoHelper()
	Expect(mesh.WaitReady(ctx, systemNamespace, managerApp)).To(Succeed())
	name, err := mesh.Kubectl(ctx, "get", "pods", "-n", systemNamespace, "-l", managerApp, "--field-selector=status.phase=Running", "-o", "jsonpath={.items[0].metadata.name}")
	Expect(err).NotTo(HaveOccurred())
	return name
}

// calls matches a caller of a port by name and address.
func calls(ctx context.Context, namespace, app string, port int32, refused bool) types.GomegaMatcher {
	GinkgoHelper()
	pod, err := mesh.ReadyPod(ctx, namespace, app)
	Expect(err).NotTo(HaveOccurred())
	return And(
		HaveField("Workload", app), HaveField("Namespace", namespace), HaveField("Address", pod.Status.PodIP),
		HaveField("Port", port), HaveField("Refused", refused), HaveField("Requests", BeNumerically(">", 0)),
	)
}

func plaintextCallers(ctx context.Context, profile *v1alpha1.ServiceSecurityProfile) func() []v1alpha1.PlaintextCaller {
	return func() []v1alpha1.PlaintextCaller {
		if mtls := read(ctx, profile).Status.MTLS; mtls != nil {
			return mtls.PlaintextCallers
		}
		return nil
	}
}

// call sends one request in plaintext and expects curl's exit code.
func call(ctx context.Context, namespace, host string, port, exit int) {
	GinkgoHelper()
	answer, err := mesh.Curl(ctx, namespace, "sleep", fmt.Sprintf("http://%s:%d/ip", host, port))
	Expect(err).NotTo(HaveOccurred())
	Expect(answer).To(HaveField("CurlExit", exit))
}

// expectRefusal has a caller outside the mesh refused, and expects to read its name in status, a condition and an event.
func expectRefusal(ctx context.Context, profile *v1alpha1.ServiceSecurityProfile, legacy string) {
	GinkgoHelper()
	Expect(condition(ctx, profile, v1alpha1.ConditionPlaintextFree)).To(HavePrefix("Unknown/NotNeeded"))
	refused := calls(ctx, legacy, "sleep", 8000, true)
	Eventually(func() []v1alpha1.PlaintextCaller {
		// While Envoy connects to a leader, it drops what it logs.
		call(ctx, legacy, "httpbin."+profile.Namespace, 8000, 56)
		return plaintextCallers(ctx, profile)()
	}).WithContext(ctx).WithPolling(3*time.Second).Should(ContainElement(refused), "%s", describe(ctx, profile))
	Eventually(func() string { return condition(ctx, profile, v1alpha1.ConditionPlaintextFree) }).WithContext(ctx).Should(
		And(HavePrefix("False/PlaintextRefused"), ContainSubstring(legacy+"/sleep on port 8000")))
	Eventually(func() (string, error) {
		return mesh.Kubectl(ctx, "get", "events", "-n", profile.Namespace, "--field-selector=reason=PlaintextRefused", "-o", "jsonpath={.items[*].message}")
	}).WithContext(ctx).Should(ContainSubstring(legacy + "/sleep on port 8000"))
	Expect(condition(ctx, profile, v1alpha1.ConditionReady)).To(HavePrefix("True/Ready"))
	Expect(stage(ctx, profile)).To(Equal(v1alpha1.StageEnforced))
	GinkgoWriter.Printf("%s\n", describe(ctx, profile))
}

var _ = Describe("With access logs", Ordered, Label("accesslog"), func() {
	const shop, legacy, two = "al-shop", "al-legacy", "al-two"
	var profile *v1alpha1.ServiceSecurityProfile

	BeforeAll(func(ctx SpecContext) {
		receiveAccessLogs(ctx, "../overlay-accesslog")
		steady, err := testbed.LoadClient(shop, "steady", "--url=http://httpbin."+shop+":8000/ip", "--rate=20", "--connections=2", "--new=2")
		Expect(err).NotTo(HaveOccurred())
		old, err := testbed.LoadClient(legacy, "cron", "--url=http://httpbin."+shop+":8000/ip", "--rate=5", "--connections=1")
		Expect(err).NotTo(HaveOccurred())
		setUp(ctx,
			space{name: shop, meshed: true, manifests: []string{testbed.Httpbin(shop), testbed.Sleep(shop), steady}},
			space{name: legacy, manifests: []string{testbed.Sleep(legacy), old}},
		)
		for namespace, app := range map[string]string{shop: "steady", legacy: "cron"} {
			Expect(mesh.Served(ctx, namespace, app)).To(Succeed())
		}
	}, NodeTimeout(rollout))

	It("E1: names who sends plaintext, with address and port", func(ctx SpecContext) {
		profile = applyProfile(ctx, shop, "httpbin", `{mode: Strict, rollout: {observationWindow: 15s, verificationWindow: 3s}}`)
		expectHeld(ctx, profile, v1alpha1.BlockerPlaintextSeen, legacy+"/cron on port 8000")
		Eventually(plaintextCallers(ctx, profile)).WithContext(ctx).Should(ConsistOf(calls(ctx, legacy, "cron", 8000, false)), "%s", describe(ctx, profile))
		GinkgoWriter.Printf("%s\n", describe(ctx, profile))
	}, SpecTimeout(rollout))

	It("goes to STRICT when it stops, and names who is refused then", func(ctx SpecContext) {
		_, err := mesh.Kubectl(ctx, "delete", "deployment/cron", "-n", legacy)
		Expect(err).NotTo(HaveOccurred())
		expectStage(ctx, profile, v1alpha1.StageEnforced)
		expectRefusal(ctx, profile, legacy)
		By("forgetting it when the window has passed")
		Eventually(func() string { return condition(ctx, profile, v1alpha1.ConditionPlaintextFree) }).WithContext(ctx).Should(HavePrefix("Unknown/NotNeeded"))
		Expect(plaintextCallers(ctx, profile)()).To(BeEmpty())
	}, SpecTimeout(rollout))

	It("goes on with the next leader of two replicas", func(ctx SpecContext) {
		DeferCleanup(func(ctx SpecContext) {
			scaleOperator(ctx, 1)
			expectLed(ctx)
		}, NodeTimeout(2*patience))
		scaleOperator(ctx, 2)
		before, err := endpoint(ctx)()
		Expect(err).NotTo(HaveOccurred())
		_, err = mesh.Kubectl(ctx, "delete", "pod", before, "-n", systemNamespace)
		Expect(err).NotTo(HaveOccurred())
		Eventually(endpoint(ctx)).WithContext(ctx).Should(And(Not(BeEmpty()), Not(Equal(before))))
		expectRefusal(ctx, profile, legacy)
	}, SpecTimeout(rollout))

	It("says which port alone has plaintext, and switches the others with an exception for it", func(ctx SpecContext) {
		both := strings.Replace(testbed.Httpbin(two), "  - {name: http, port: 8000, targetPort: 8000}", "  - {name: http, port: 8000}\n  - {name: http-old, port: 9000}", 1)
		both = strings.Replace(both, "      containers:\n", "      containers:\n      - {name: old, image: httpbin, args: [--port, \"9000\"], ports: [{name: http-old, containerPort: 9000}]}\n", 1)
		load, err := testbed.LoadClient(two, "steady", "--url=http://httpbin."+two+":8000/ip", "--rate=20")
		Expect(err).NotTo(HaveOccurred())
		old, err := testbed.LoadClient(legacy, "prober", "--url=http://httpbin."+two+":9000/ip", "--rate=5", "--connections=1")
		Expect(err).NotTo(HaveOccurred())
		setUp(ctx, space{name: two, meshed: true, manifests: []string{both, load}})
		Expect(mesh.Apply(ctx, old)).To(Succeed())
		Expect(mesh.Served(ctx, legacy, "prober")).To(Succeed())
		excepted := applyProfile(ctx, two, "httpbin", staged)
		expectHeld(ctx, excepted, v1alpha1.BlockerPlaintextSeen, "{port: 9000, mode: Permissive}")
		Eventually(plaintextCallers(ctx, excepted)).WithContext(ctx).Should(ConsistOf(calls(ctx, legacy, "prober", 9000, false)), "%s", describe(ctx, excepted))
		excepted = applyProfile(ctx, two, "httpbin", `{mode: Strict, portLevel: [{port: 9000, mode: Permissive}], rollout: {observationWindow: 5s, verificationWindow: 3s}}`)
		expectStage(ctx, excepted, v1alpha1.StageEnforced)
		call(ctx, legacy, "httpbin."+two, 9000, 0)
		Expect(plaintextCallers(ctx, excepted)()).To(BeEmpty())
		call(ctx, legacy, "httpbin."+two, 8000, 56)
		Eventually(plaintextCallers(ctx, excepted)).WithContext(ctx).Should(ConsistOf(calls(ctx, legacy, "sleep", 8000, true)), "%s", describe(ctx, excepted))
	}, SpecTimeout(2*rollout))
})

var _ = Describe("With access logs by mutual TLS alone", Ordered, Label("accesslog"), func() {
	const shop, legacy = "alm-shop", "alm-legacy"

	BeforeAll(func(ctx SpecContext) {
		DeferCleanup(func(ctx SpecContext) {
			_, err := mesh.Kubectl(ctx, "delete", "--ignore-not-found", "service/servicesecurity-accesslog-port", "-n", systemNamespace)
			Expect(err).NotTo(HaveOccurred())
		}, NodeTimeout(patience))
		receiveAccessLogs(ctx, "../overlay-accesslog-mtls")
		meshedShop(ctx, shop)
		setUp(ctx, space{name: legacy, manifests: []string{testbed.Sleep(legacy)}})
	}, NodeTimeout(rollout))

	It("E1: names who sends plaintext, over streams that prove who logs it", func(ctx SpecContext) {
		profile := applyProfile(ctx, shop, "httpbin", `{mode: Strict, rollout: {observationWindow: 10s, verificationWindow: 3s}}`)
		call(ctx, legacy, "httpbin."+shop, 8000, 0)
		Eventually(plaintextCallers(ctx, profile)).WithContext(ctx).Should(ConsistOf(calls(ctx, legacy, "sleep", 8000, false)), "%s", describe(ctx, profile))
		expectStage(ctx, profile, v1alpha1.StageEnforced)
		Eventually(plaintextCallers(ctx, profile)).WithContext(ctx).Should(BeEmpty())
		begin := time.Now()
		expectRefusal(ctx, profile, legacy)
		GinkgoWriter.Printf("the refusal was in status after %s\n", time.Since(begin).Round(time.Millisecond))
	}, SpecTimeout(rollout))

	It("E6: takes STRICT back for a pod whose plaintext is refused from then on, and names it", func(ctx SpecContext) {
		const name = "alm-e6"
		meshedShop(ctx, name)
		profile := applyProfile(ctx, name, "httpbin", verified)
		expectStage(ctx, profile, v1alpha1.StageVerifying)
		Eventually(func() v1alpha1.Stage {
			if _, err := mesh.Curl(ctx, legacy, "sleep", "http://httpbin."+name+":8000/ip"); err != nil {
				return v1alpha1.Stage(err.Error())
			}
			return stage(ctx, profile)
		}).WithContext(ctx).WithPolling(time.Second).Should(Equal(v1alpha1.StageRolledBack), "%s", describe(ctx, profile))
		Expect(peerMode(ctx, name, "httpbin")).To(Equal("PERMISSIVE"))
		Expect(condition(ctx, profile, v1alpha1.ConditionReady)).To(ContainSubstring("Callers that failed: " + legacy + "/sleep."))
		GinkgoWriter.Printf("rolled back:\n%s\n", describe(ctx, profile))
	}, SpecTimeout(rollout))
})
