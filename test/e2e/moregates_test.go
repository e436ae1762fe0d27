//go:build e2e

package e2e

import (
	"context"
	"fmt"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/test/testbed"
)

var _ = Describe("What holds the switch although nobody sends plaintext", Ordered, Label("gates"), func() {
	const (
		name = "gates"
		// idle lets a workload switch that nobody calls: nothing but the gate holds it.
		idle = `{mode: Strict, rollout: {observationWindow: 5s, verificationWindow: 3s, minRequests: 0}}`
	)
	var profile *v1alpha1.ServiceSecurityProfile

	BeforeAll(func(ctx SpecContext) {
		setUp(ctx, space{name: name, meshed: true, manifests: []string{testbed.Httpbin(name), testbed.Sleep(name)}})
	}, NodeTimeout(rollout))

	BeforeEach(func() { profile = nil })

	AfterEach(func(ctx SpecContext) {
		if profile != nil {
			Expect(mesh.Client().Delete(ctx, read(ctx, profile))).To(Succeed())
			Eventually(func() string { return peerMode(ctx, name, "httpbin") }).WithContext(ctx).Should(BeEmpty())
		}
	}, NodeTimeout(rollout))

	// hold applies an object that istiod accepts, expects that it alone holds the switch, and that the switch comes without it.
	hold := func(ctx context.Context, manifest string, kind v1alpha1.BlockerType, named string) {
		GinkgoHelper()
		Expect(mesh.Apply(ctx, manifest)).To(Succeed())
		profile = applyProfile(ctx, name, "httpbin", idle)
		expectHeld(ctx, profile, kind, named)
		Expect(blockers(ctx, profile)).To(HaveLen(1))
		Expect(mesh.Delete(ctx, manifest)).To(Succeed())
		expectStage(ctx, profile, v1alpha1.StageEnforced)
	}

	It("a probe that the kubelet sends to the application in plaintext", func(ctx SpecContext) {
		annotate := func(value string) {
			GinkgoHelper()
			_, err := mesh.Kubectl(ctx, "patch", "deployment/httpbin", "-n", name, "--type=merge", "-p",
				fmt.Sprintf(`{"spec":{"template":{"metadata":{"annotations":{"sidecar.istio.io/rewriteAppHTTPProbers":%s}}}}}`, value))
			Expect(err).NotTo(HaveOccurred())
			_, err = mesh.Kubectl(ctx, "rollout", "status", "deployment/httpbin", "-n", name)
			Expect(err).NotTo(HaveOccurred())
		}
		annotate(`"false"`)
		profile = applyProfile(ctx, name, "httpbin", idle)
		expectHeld(ctx, profile, v1alpha1.BlockerUnrewrittenProbes, "/httpbin.")
		Expect(blockers(ctx, profile)).To(ContainElement(HavePrefix("PlaintextSeen: ")), "the proxy counts the probes")
		By("letting the injector rewrite it")
		annotate("null")
		expectStage(ctx, profile, v1alpha1.StageEnforced)
	}, SpecTimeout(rollout))

	It("a machine outside the cluster that the Service selects", func(ctx SpecContext) {
		hold(ctx, `apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: vm, namespace: gates}
spec: {address: 192.0.2.7, labels: {app: httpbin}, serviceAccount: httpbin}
`, v1alpha1.BlockerWorkloadEntry, "gates/vm")
	}, SpecTimeout(rollout))

	It("a ServiceEntry by which meshed clients send plaintext", func(ctx SpecContext) {
		const entry = `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: legacy-name, namespace: gates}
spec:
  hosts: [httpbin.legacy.example]
  ports: [{number: 8000, name: http, protocol: HTTP}]
  resolution: STATIC
  workloadSelector: {labels: {app: httpbin}}
`
		hold(ctx, entry, v1alpha1.BlockerPlaintextServiceEntry, "gates/legacy-name")

		By("showing that STRICT refuses who uses it")
		Expect(mesh.Apply(ctx, entry)).To(Succeed())
		url := "http://httpbin." + name + ":8000/ip"
		Eventually(func(g Gomega) {
			answer, err := mesh.Curl(ctx, name, "sleep", url, "-H", "Host: httpbin.legacy.example:8000")
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(answer.HTTPCode).To(Equal(503))
		}).WithContext(ctx).Should(Succeed())
		expectReach(ctx, reach{from: name, to: name, status: 200})
		Expect(mesh.Delete(ctx, entry)).To(Succeed())
	}, SpecTimeout(rollout))

	It("a ServiceEntry of another namespace that claims the host", func(ctx SpecContext) {
		setUp(ctx, space{name: "gates-other"})
		hold(ctx, `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: claim, namespace: gates-other}
spec:
  hosts: [httpbin.gates.svc.cluster.local]
  location: MESH_EXTERNAL
  ports: [{number: 8000, name: http, protocol: HTTP}]
  resolution: DNS
`, v1alpha1.BlockerPlaintextServiceEntry, "gates-other/claim")
	}, SpecTimeout(rollout))

	It("a Sidecar that terminates TLS of its own", func(ctx SpecContext) {
		hold(ctx, `apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: own-tls, namespace: gates}
spec:
  workloadSelector: {labels: {app: httpbin}}
  ingress:
  - port: {number: 8000, protocol: HTTPS, name: https}
    defaultEndpoint: 127.0.0.1:8000
    tls: {mode: SIMPLE, serverCertificate: /tmp/cert.pem, privateKey: /tmp/key.pem}
`, v1alpha1.BlockerSidecarIngressTLS, "gates/own-tls")
	}, SpecTimeout(rollout))

	It("a Telemetry that turns the metrics off", func(ctx SpecContext) {
		const off = `apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: no-metrics, namespace: gates}
spec:
  metrics: [{providers: [{name: prometheus}], overrides: [{match: {mode: CLIENT_AND_SERVER}, disabled: true}]}]
`
		hold(ctx, off, v1alpha1.BlockerTelemetryOverridden, "gates/no-metrics")
	}, SpecTimeout(rollout))

	It("a Telemetry that takes the label away by which plaintext is told", func(ctx SpecContext) {
		const retagged = `apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: no-policy, namespace: gates}
spec:
  metrics:
  - providers: [{name: prometheus}]
    overrides: [{match: {metric: REQUEST_COUNT, mode: SERVER}, tagOverrides: {connection_security_policy: {operation: REMOVE}}}]
`
		hold(ctx, retagged, v1alpha1.BlockerTelemetryOverridden, "gates/no-policy")
	}, SpecTimeout(rollout))

	It("a cluster whose pods cannot be listed", func(ctx SpecContext) {
		hold(ctx, `apiVersion: v1
kind: Secret
metadata:
  name: istio-remote-secret-east
  namespace: istio-system
  labels: {istio/multiCluster: "true"}
  annotations: {networking.istio.io/cluster: east}
`, v1alpha1.BlockerRemoteCluster, "east")
	}, SpecTimeout(rollout))

	It("not a scheduled job that the window cannot have seen, which is named", func(ctx SpecContext) {
		const job = `apiVersion: batch/v1
kind: CronJob
metadata: {name: report, namespace: gates}
spec:
  schedule: 0 4 * * 0
  jobTemplate:
    spec:
      template:
        spec: {restartPolicy: Never, containers: [{name: report, image: client}]}
`
		Expect(mesh.Apply(ctx, job)).To(Succeed())
		profile = applyProfile(ctx, name, "httpbin", idle)
		Eventually(func() []v1alpha1.Warning { return read(ctx, profile).Status.Warnings }).WithContext(ctx).Should(ContainElement(And(
			HaveField("Type", v1alpha1.WarningScheduledJobOutsideWindow), HaveField("Message", ContainSubstring("gates/report")),
			HaveField("Message", ContainSubstring("more than 168h")))))
		Expect(read(ctx, profile).Status.Warnings).NotTo(ContainElement(HaveField("Type", v1alpha1.WarningRemoteClustersNotVisible)))
		expectStage(ctx, profile, v1alpha1.StageEnforced)
		Expect(mesh.Delete(ctx, job)).To(Succeed())
	}, SpecTimeout(rollout))
})
