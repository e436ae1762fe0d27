//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/test/testbed"
)

// verified is Strict with a verification window that is long enough for something to happen in it.
const verified = `{mode: Strict, rollout: {observationWindow: 5s, verificationWindow: 40s}}`

// clientRule makes clients of one namespace send plaintext to a host of another.
func clientRule(namespace, host, mode string) string {
	service, _, _ := strings.Cut(host, ".")
	return fmt.Sprintf(`apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: client-of-%s, namespace: %s}
spec:
  host: %s
  exportTo: ["."]
  trafficPolicy: {tls: {mode: %s}}
`, service, namespace, host, mode)
}

// warning reads what a profile's warning of a type says; empty if there is none.
func warning(ctx context.Context, profile *v1alpha1.ServiceSecurityProfile, kind v1alpha1.WarningType) string {
	for _, w := range read(ctx, profile).Status.Warnings {
		if w.Type == kind {
			return w.Message
		}
	}
	return ""
}

// eventsOf reads the events about a profile, as "reason: note".
func eventsOf(ctx context.Context, profile *v1alpha1.ServiceSecurityProfile) string {
	text, err := mesh.Kubectl(ctx, "get", "events.events.k8s.io", "-n", profile.Namespace, "-o", `jsonpath={range .items[?(@.regarding.name=="`+profile.Name+`")]}{.reason}: {.note}{"\n"}{end}`)
	if err != nil {
		return err.Error()
	}
	return text
}

// elapse puts the time of a profile's next attempt into the past, as if it had been waited for.
func elapse(ctx context.Context, profile *v1alpha1.ServiceSecurityProfile) {
	GinkgoHelper()
	past := time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)
	// The object tells of the rollback, too, and has the last word.
	told := fmt.Sprintf(`{"generation":%d,"attempts":1,"time":%q}`, read(ctx, profile).Generation, past)
	peer := &securityv1.PeerAuthentication{ObjectMeta: metav1.ObjectMeta{Namespace: profile.Namespace, Name: profile.Name}}
	patch := fmt.Sprintf(`{"metadata": {"annotations": {%q: %q}}}`, v1alpha1.AnnotationRolledBack, told)
	Expect(mesh.Client().Patch(ctx, peer, client.RawPatch(types.MergePatchType, []byte(patch)))).To(Succeed())
	patch = fmt.Sprintf(`{"status": {"mtls": {"nextAttemptTime": %q}}}`, past)
	// Until the operator has both: with the object as it was, it writes status as it was.
	Eventually(func(g Gomega) {
		g.Expect(mesh.Client().Status().Patch(ctx, read(ctx, profile), client.RawPatch(types.MergePatchType, []byte(patch)))).To(Succeed())
		g.Eventually(func() v1alpha1.Stage { return read(ctx, profile).Status.MTLS.Stage }, "2s").ShouldNot(Equal(v1alpha1.StageRolledBack))
	}).Should(Succeed())
}

var _ = Describe("E6: verification by the callers' own proxies", Label("verification"), func() {
	const shop, client = "e6-shop", "e6-client"
	const url, host = "http://httpbin." + shop + ":8000/ip", "httpbin." + shop + ".svc.cluster.local"

	BeforeEach(func(ctx SpecContext) {
		steady, err := testbed.LoadClient(shop, "steady", "--url="+url, "--rate=60", "--connections=4", "--new=4")
		Expect(err).NotTo(HaveOccurred())
		setUp(ctx,
			space{name: shop, meshed: true, manifests: []string{testbed.Httpbin(shop), testbed.TCPEcho(shop), steady}},
			space{name: client, meshed: true, manifests: []string{testbed.Sleep(client)}},
		)
		Expect(mesh.Served(ctx, shop, "steady")).To(Succeed())
	}, NodeTimeout(rollout))

	It("takes STRICT back when a meshed caller starts to fail, and tries again", func(ctx SpecContext) {
		load := startLoad(ctx, client, "--url="+url, "--rate=20", "--new=2")
		profile := applyProfile(ctx, shop, "httpbin", verified)
		expectStage(ctx, profile, v1alpha1.StageVerifying)
		Eventually(func() string { return condition(ctx, profile, v1alpha1.ConditionMutualTLSEnforced) }).Should(
			And(ContainSubstring(client+"/sleep"), ContainSubstring(shop+"/steady")), "%s", describe(ctx, profile))
		Expect(warning(ctx, profile, v1alpha1.WarningCallersNotVisible)).To(BeEmpty())
		GinkgoWriter.Printf("verifying:\n%s\n", describe(ctx, profile))

		begin := time.Now()
		rule := clientRule(client, host, "DISABLE")
		Expect(mesh.Apply(ctx, rule)).To(Succeed())
		expectStage(ctx, profile, v1alpha1.StageRolledBack)
		GinkgoWriter.Printf("from the cause to the rollback: %s\n", time.Since(begin).Round(100*time.Millisecond))
		Expect(peerMode(ctx, shop, "httpbin")).To(Equal("PERMISSIVE"))
		Expect(condition(ctx, profile, v1alpha1.ConditionReady)).To(And(HavePrefix("False/RolledBack"), ContainSubstring("Callers that failed: "+client+"/sleep.")))
		Expect(read(ctx, profile).Status.MTLS.Attempts).To(Equal(int32(1)))
		Eventually(func() string { return eventsOf(ctx, profile) }).Should(MatchRegexp(`(?m)^RolledBack: .*` + client + `/sleep`))
		GinkgoWriter.Printf("rolled back:\n%s\n", describe(ctx, profile))

		By("serving the caller again, and not flapping")
		Expect(load.Served(ctx)).To(Succeed())
		Consistently(func() string { return peerMode(ctx, shop, "httpbin") }, "10s", "500ms").Should(Equal("PERMISSIVE"))
		totals, err := load.Totals(ctx)
		Expect(err).NotTo(HaveOccurred())
		Expect(totals.Failed()).To(BeZero(), "%+v", totals.Errors)

		By("not switching at the next attempt while the cause is there")
		elapse(ctx, profile)
		expectHeld(ctx, profile, v1alpha1.BlockerPlaintextDestinationRule, client+"/client-of-httpbin")

		By("going to Enforced when it is gone")
		Expect(mesh.Delete(ctx, rule)).To(Succeed())
		expectStage(ctx, profile, v1alpha1.StageVerifying)
		expectStage(ctx, profile, v1alpha1.StageEnforced)
		Expect(peerMode(ctx, shop, "httpbin")).To(Equal("STRICT"))
	}, SpecTimeout(2*rollout))

	It("takes it back for a TCP caller and for TLS that is not the mesh's", func(ctx SpecContext) {
		for service, mode := range map[string]string{"tcp-echo": "DISABLE", "httpbin": "SIMPLE"} {
			calling, stop := context.WithCancel(ctx)
			done := make(chan struct{})
			go func() {
				defer GinkgoRecover()
				defer close(done)
				for calling.Err() == nil {
					_, _ = mesh.Curl(calling, client, "sleep", fmt.Sprintf("http://%s.%s:%s/ip", service, shop, map[string]string{"tcp-echo": "9000", "httpbin": "8000"}[service]), "--max-time", "1")
				}
			}()
			profile := applyProfile(ctx, shop, service, `{mode: Strict, rollout: {observationWindow: 5s, verificationWindow: 60s, minRequests: 1}}`)
			expectStage(ctx, profile, v1alpha1.StageVerifying)
			Expect(mesh.Apply(ctx, clientRule(client, service+"."+shop+".svc.cluster.local", mode))).To(Succeed())
			expectStage(ctx, profile, v1alpha1.StageRolledBack)
			Expect(condition(ctx, profile, v1alpha1.ConditionReady)).To(ContainSubstring("Callers that failed: " + client + "/sleep."))
			stop()
			<-done
		}
		Expect(mesh.Totals(ctx, shop, "steady")).To(HaveField("Failed()", BeZero()))
	}, SpecTimeout(2*rollout))

	It("takes nothing back when callers under load are fine, nor for one that failed before", func(ctx SpecContext) {
		// The second port of the Service leads past the server's proxy to one that takes no TLS, so that most calls of sleep fail,
		// before the switch and after it.
		Expect(mesh.Apply(ctx, fmt.Sprintf(`apiVersion: v1
kind: Service
metadata: {name: httpbin, namespace: %s}
spec:
  selector: {app: httpbin}
  ports: [{name: http, port: 8000, targetPort: 8000}, {name: http-dead, port: 8001, targetPort: 15090}]
`, shop))).To(Succeed())
		// A connection from before its proxy knows of the port would pass through for good.
		Eventually(func() (int, error) {
			answer, err := mesh.Curl(ctx, client, "sleep", "http://httpbin."+shop+":8001/")
			return answer.HTTPCode, err
		}).WithContext(ctx).Should(Equal(503))
		broken, err := mesh.StartLoad(ctx, client, "sleep", "--url=http://httpbin."+shop+":8001/", "--rate=20")
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(broken.Stop)
		calling, stop := context.WithCancel(ctx)
		DeferCleanup(stop)
		go func() {
			for calling.Err() == nil {
				_, _ = mesh.Curl(calling, client, "sleep", url, "--max-time", "1")
			}
		}()
		Eventually(mesh.Stats).WithContext(ctx).WithArguments(client, "sleep", "usedonly&filter=istio_requests_total").Should(
			MatchRegexp(`response_flags="[A-Z,]*UF[A-Z,]*"\} [1-9][0-9]`), "it fails at connection level before the switch")
		profile := applyProfile(ctx, shop, "httpbin", `{mode: Strict, rollout: {observationWindow: 5s, verificationWindow: 15s}}`)
		expectStage(ctx, profile, v1alpha1.StageVerifying)
		expectStage(ctx, profile, v1alpha1.StageEnforced)
		Expect(eventsOf(ctx, profile)).NotTo(ContainSubstring("RolledBack"))
		expectClean(ctx, shop, "steady")
	}, SpecTimeout(rollout))

	It("reports and keeps STRICT with rollback Never", func(ctx SpecContext) {
		startLoad(ctx, client, "--url="+url, "--rate=20")
		profile := applyProfile(ctx, shop, "httpbin", `{mode: Strict, rollout: {observationWindow: 5s, verificationWindow: 40s, rollback: Never}}`)
		expectStage(ctx, profile, v1alpha1.StageVerifying)
		Expect(mesh.Apply(ctx, clientRule(client, host, "DISABLE"))).To(Succeed())
		expectStage(ctx, profile, v1alpha1.StageEnforced)
		Expect(peerMode(ctx, shop, "httpbin")).To(Equal("STRICT"))
		Expect(warning(ctx, profile, v1alpha1.WarningVerificationFailed)).To(ContainSubstring(client + "/sleep"))
		Eventually(func() string { return eventsOf(ctx, profile) }).Should(MatchRegexp(`(?m)^Enforced: .*` + client + `/sleep`))
	}, SpecTimeout(rollout))
})

var _ = Describe("E6 with Prometheus as the source", Label("verification", "prometheus"), func() {
	It("takes STRICT back when the server has it that a meshed caller fails", func(ctx SpecContext) {
		setUp(ctx, space{name: monitoring, manifests: []string{testbed.Prometheus(monitoring)}})
		DeferCleanup(func(ctx SpecContext) { observeBy(ctx, "") }, NodeTimeout(2*patience))
		observeBy(ctx, "--prometheus-url=http://prometheus."+monitoring+":9090")
		expectTakenBack(ctx, "e6-prom", func(client string) {
			By("letting nobody but Prometheus read the caller's proxy")
			server, err := mesh.ReadyPod(ctx, monitoring, "prometheus")
			Expect(err).NotTo(HaveOccurred())
			caller, err := mesh.ReadyPod(ctx, client, "sleep")
			Expect(err).NotTo(HaveOccurred())
			out, exit, err := mesh.Exec(ctx, client, caller.Name, "sh", "-c",
				"iptables -w -I INPUT -p tcp --dport 15090 ! -s "+server.Status.PodIP+" -j REJECT --reject-with tcp-reset 2>&1")
			Expect(err).NotTo(HaveOccurred())
			Expect(exit).To(BeZero(), out)
		})
	}, SpecTimeout(2*rollout))
})
