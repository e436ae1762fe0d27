//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"time"

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
		const shop, clients, legacy = "e7-shop", "e7-clients", "e7-legacy"
		apps := []string{"cart", "catalog", "orders", "payment", "users"}
		var servers, callers []string
		for _, app := range apps {
			servers = append(servers, renamed(testbed.Httpbin(shop), "httpbin", app))
			load, err := testbed.LoadClient(clients, "calls-"+app, "--url=http://"+app+"."+shop+":8000/ip", "--rate=30", "--new=2")
			Expect(err).NotTo(HaveOccurred())
			callers = append(callers, load)
		}
		old, err := testbed.LoadClient(legacy, "cron", "--url=http://orders."+shop+":8000/ip", "--rate=5", "--connections=1")
		Expect(err).NotTo(HaveOccurred())
		setUp(ctx,
			space{name: shop, meshed: true, manifests: servers}, space{name: clients, meshed: true, manifests: callers},
			space{name: legacy, manifests: []string{old}},
		)
		for _, app := range apps {
			Expect(mesh.Served(ctx, clients, "calls-"+app)).To(Succeed())
		}
		Expect(mesh.Served(ctx, legacy, "cron")).To(Succeed())
		profile := applyWhole(ctx, shop, "Namespace", `{mode: Strict, rollout: {observationWindow: 5s, verificationWindow: 3s, maxConcurrent: 2}}`)

		By("four enforced, one blocked and named")
		count := func() v1alpha1.WorkloadCount {
			if mtls := read(ctx, profile).Status.MTLS; mtls != nil && mtls.Workloads != nil {
				return *mtls.Workloads
			}
			return v1alpha1.WorkloadCount{}
		}
		Eventually(func() v1alpha1.WorkloadCount {
			now := count()
			Expect(now.Verifying).To(BeNumerically("<=", 2), "maxConcurrent")
			return now
		}).WithContext(ctx).WithTimeout(rollout).Should(Equal(v1alpha1.WorkloadCount{Blocked: 1, Enforced: 4}), "%s", describe(ctx, profile))
		Expect(peers(ctx, shop)).To(Equal("=PERMISSIVE cart=STRICT catalog=STRICT payment=STRICT users=STRICT "))
		Expect(stage(ctx, profile)).To(Equal(v1alpha1.StageBlocked))
		Expect(blockers(ctx, profile)).To(ContainElement(HavePrefix("PlaintextSeen: Workload orders: ")))
		GinkgoWriter.Println(describe(ctx, profile))

		By("a workload that appears later")
		late, err := testbed.LoadClient(clients, "calls-late", "--url=http://late."+shop+":8000/ip", "--rate=30")
		Expect(err).NotTo(HaveOccurred())
		Expect(mesh.Apply(ctx, renamed(testbed.Httpbin(shop), "httpbin", "late"))).To(Succeed())
		Expect(mesh.WaitReady(ctx, shop, "app=late")).To(Succeed())
		Expect(mesh.Apply(ctx, late)).To(Succeed())
		Expect(mesh.Served(ctx, clients, "calls-late")).To(Succeed())
		Eventually(count).WithContext(ctx).WithTimeout(rollout).Should(Equal(v1alpha1.WorkloadCount{Blocked: 1, Enforced: 5}), "%s", describe(ctx, profile))

		By("the fifth, and then one object for all")
		Expect(mesh.Namespace(ctx, legacy, true)).To(Succeed())
		_, err = mesh.Kubectl(ctx, "rollout", "restart", "deployment/cron", "-n", legacy)
		Expect(err).NotTo(HaveOccurred())
		Eventually(func() string { return peers(ctx, shop) }).WithContext(ctx).WithTimeout(rollout).Should(Equal("=STRICT "), "%s", describe(ctx, profile))
		expectStage(ctx, profile, v1alpha1.StageEnforced)
		Expect(condition(ctx, profile, v1alpha1.ConditionReady)).To(HavePrefix("True/Ready"))
		time.Sleep(2 * time.Second) // calls that STRICT would break have had the time to
		requests := 0
		for _, app := range append(apps, "late") {
			totals, err := mesh.Totals(ctx, clients, "calls-"+app)
			Expect(err).NotTo(HaveOccurred())
			expectUnharmed(Default, totals)
			requests += totals.Requests
		}
		GinkgoWriter.Printf("meshed clients of the namespace: %d requests, 0 failures\n", requests)
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
		for namespace, app := range map[string]string{shop: "steady", legacy: "cron"} {
			totals, err := mesh.Totals(ctx, namespace, app)
			Expect(err).NotTo(HaveOccurred())
			expectUnharmed(Default, totals)
		}
	}, SpecTimeout(3*rollout))
})
