//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/test/testbed"
)

// longerThanTheWindow is how long a blocked rollout is watched: a switch would have come by then.
const longerThanTheWindow = 8 * time.Second

// expectHeld expects that a blocker of the type names something, and that the switch does not come.
func expectHeld(ctx context.Context, profile *v1alpha1.ServiceSecurityProfile, kind v1alpha1.BlockerType, named string) {
	GinkgoHelper()
	Eventually(func() []string { return blockers(ctx, profile) }).WithContext(ctx).Should(
		ContainElement(And(HavePrefix(string(kind)+": "), ContainSubstring(named))))
	Consistently(func() string { return peerMode(ctx, profile.Namespace, profile.Name) }, longerThanTheWindow, poll).Should(Equal("PERMISSIVE"))
}

// meshedShop is httpbin and a meshed client that calls it.
func meshedShop(ctx context.Context, name string) {
	GinkgoHelper()
	load, err := testbed.LoadClient(name, "steady", "--url=http://httpbin."+name+":8000/ip", "--rate=20")
	Expect(err).NotTo(HaveOccurred())
	setUp(ctx, space{name: name, meshed: true, manifests: []string{testbed.Httpbin(name), testbed.Sleep(name), load}})
}

var _ = Describe("What holds the switch", Label("gates"), func() {
	It("E4: proxies that cannot be read hold it, and STRICT stays where it is", func(ctx SpecContext) {
		expectHeldByTelemetry(ctx, "e4")
	}, SpecTimeout(2*rollout))

	It("E5: a client's own DestinationRule with DISABLE, named", Label("smoke"), func(ctx SpecContext) {
		expectHeldByClientRule(ctx, "e5")
	}, SpecTimeout(2*rollout))

	It("a pod without a sidecar, named, and no rule that would cut it off", func(ctx SpecContext) {
		const name = "unmeshed"
		meshedShop(ctx, name)
		plain := strings.ReplaceAll(testbed.Httpbin(name), "metadata:\n  namespace: unmeshed\n  name: httpbin", "metadata:\n  namespace: unmeshed\n  name: httpbin-v2")
		plain = strings.ReplaceAll(plain, "version: v1}", `version: v2, sidecar.istio.io/inject: "false"}`)
		plain = strings.ReplaceAll(plain, "matchLabels: {app: httpbin}", "matchLabels: {app: httpbin, version: v2}")
		for _, document := range strings.Split(plain, "---\n") {
			if strings.Contains(document, "kind: Deployment") {
				Expect(mesh.Apply(ctx, document)).To(Succeed())
			}
		}
		Expect(mesh.WaitReady(ctx, name, "version=v2")).To(Succeed())
		profile := applyProfile(ctx, name, "httpbin", staged)
		expectHeld(ctx, profile, v1alpha1.BlockerPodsNotInMesh, "httpbin-v2-")
		rules, err := mesh.Kubectl(ctx, "get", "destinationrules", "-n", name, "-o", "name")
		Expect(err).NotTo(HaveOccurred())
		Expect(rules).To(BeEmpty())
		Expect(read(ctx, profile).Status.Pods).To(And(HaveField("Total", int32(2)), HaveField("InMesh", int32(1))))
	}, SpecTimeout(rollout))

	It("a plaintext TCP connection that was opened before and only moves bytes", func(ctx SpecContext) {
		const name, legacy = "tcp", "tcp-legacy"
		stream, err := testbed.LoadClient(legacy, "stream", "--rate=0", "--stream=tcp-echo."+name+":9000")
		Expect(err).NotTo(HaveOccurred())
		setUp(ctx,
			space{name: name, meshed: true, manifests: []string{testbed.TCPEcho(name)}},
			space{name: legacy, manifests: []string{stream}},
		)
		Eventually(func() (bool, error) {
			totals, err := mesh.Totals(ctx, legacy, "stream")
			return totals.Stream.BytesReceived > 0, err
		}).WithContext(ctx).Should(BeTrue())
		profile := applyProfile(ctx, name, "tcp-echo", `{mode: Strict, rollout: {observationWindow: 5s, verificationWindow: 3s, minRequests: 0}}`)
		expectHeld(ctx, profile, v1alpha1.BlockerPlaintextSeen, "TCP")
		totals, err := mesh.Totals(ctx, legacy, "stream")
		Expect(err).NotTo(HaveOccurred())
		Expect(totals.Stream.Reconnects).To(BeZero(), "nobody was cut off")
	}, SpecTimeout(rollout))
})

// closeStats closes a pod's port 15090 with -I, and opens it with -D.
func closeStats(ctx context.Context, namespace, app, operation string) {
	GinkgoHelper()
	pod, err := mesh.ReadyPod(ctx, namespace, app)
	Expect(err).NotTo(HaveOccurred())
	out, exit, err := mesh.Exec(ctx, namespace, pod.Name, "sh", "-c",
		fmt.Sprintf("iptables -w %s INPUT -p tcp --dport 15090 -j REJECT --reject-with tcp-reset 2>&1", operation))
	Expect(err).NotTo(HaveOccurred())
	Expect(exit).To(BeZero(), out)
}
