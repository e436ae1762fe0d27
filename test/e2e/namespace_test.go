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

// applyWhole applies a profile for a whole namespace, or for the mesh.
func applyWhole(ctx context.Context, namespace, kind, mtls string) *v1alpha1.ServiceSecurityProfile {
	GinkgoHelper()
	profile := &v1alpha1.ServiceSecurityProfile{}
	profile.Namespace, profile.Name = namespace, "default"
	Expect(mesh.Apply(ctx, fmt.Sprintf(`apiVersion: servicesecurity.dev/v1alpha1
kind: ServiceSecurityProfile
metadata: {name: %s, namespace: %s}
spec:
  target: {kind: %s}
  mtls: %s
`, profile.Name, namespace, kind, mtls))).To(Succeed())
	return profile
}

// peers are the names and modes of a namespace's PeerAuthentications.
func peers(ctx context.Context, namespace string) string {
	GinkgoHelper()
	out, err := mesh.Kubectl(ctx, "get", "peerauthentication", "-n", namespace, "-o", `jsonpath={range .items[*]}{.spec.selector.matchLabels.app}={.spec.mtls.mode} {end}`)
	Expect(err).NotTo(HaveOccurred())
	return out
}

var _ = Describe("E7: a whole namespace in stages", Label("namespace"), func() {
	It("secures four of five workloads and names the fifth, and then itself", func(ctx SpecContext) {
		f := startFive(ctx, "e7")
		By("four enforced, one blocked and named")
		f.expectFour(ctx)

		By("a workload that appears later")
		late := f.caller("late")
		Expect(mesh.Apply(ctx, renamed(testbed.Httpbin(f.shop), "httpbin", "late"))).To(Succeed())
		Expect(mesh.WaitReady(ctx, f.shop, "app=late")).To(Succeed())
		Expect(mesh.Apply(ctx, late)).To(Succeed())
		Expect(mesh.Served(ctx, f.clients, "calls-late")).To(Succeed())
		f.expectCount(ctx, 1, 5)

		By("the fifth, and then one object for all")
		f.expectAll(ctx)
	}, SpecTimeout(3*rollout))
})

var _ = Describe("The mesh in stages", Label("namespace"), func() {
	It("makes one switch when every workload is clean but the exceptions", func(ctx SpecContext) {
		const shop, old, legacy, root = "mesh-shop", "mesh-old", "mesh-legacy", "istio-system"
		steady, err := testbed.LoadClient(shop, "steady", "--url=http://httpbin."+shop+":8000/ip", "--rate=30", "--new=2")
		Expect(err).NotTo(HaveOccurred())
		cron, err := testbed.LoadClient(legacy, "cron", "--url=http://httpbin."+old+":8000/ip", "--rate=5", "--connections=1")
		Expect(err).NotTo(HaveOccurred())
		setUp(ctx,
			space{name: shop, meshed: true, manifests: []string{testbed.Httpbin(shop), steady}},
			space{name: old, meshed: true, manifests: []string{testbed.Httpbin(old)}}, space{name: legacy, manifests: []string{cron}},
		)
		for namespace, app := range map[string]string{shop: "steady", legacy: "cron"} {
			Expect(mesh.Served(ctx, namespace, app)).To(Succeed())
		}
		profile := applyWhole(ctx, root, "Mesh", `{mode: Strict, rollout: {observationWindow: 5s, verificationWindow: 3s}}`)
		DeferCleanup(deleteProfiles, root)
		expectHeld(ctx, profile, v1alpha1.BlockerPlaintextSeen, "unknown")
		Expect(read(ctx, profile).Status.MTLS.Workloads).To(HaveValue(Equal(v1alpha1.WorkloadCount{Blocked: 3})))

		By("an exception by a profile of its own")
		applyProfile(ctx, old, "httpbin", "{mode: Permissive}")
		expectStage(ctx, profile, v1alpha1.StageEnforced)
		Expect(peerMode(ctx, root, "default")).To(Equal("STRICT"))
		expectClean(ctx, shop, "steady")
		Expect(mesh.Totals(ctx, legacy, "cron")).To(HaveField("Failed()", BeZero()))
	}, SpecTimeout(3*rollout))
})
