//go:build e2e

package e2e

import (
	"context"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/test/testbed"
)

// absence is how long the API server is away: longer than a lease, so that no leader survives it.
const absence = 30 * time.Second

// onceEach are the modes of a rollout without a rollback.
var onceEach = []string{"PERMISSIVE", "STRICT"}

// recordModes notes every mode that httpbin's PeerAuthentication takes, in order, until the spec ends.
func recordModes(ctx context.Context, namespace string) func() []string {
	GinkgoHelper()
	var mu sync.Mutex
	var modes []string
	look := func() {
		asking, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		object := &unstructured.Unstructured{}
		object.SetAPIVersion("security.istio.io/v1")
		object.SetKind("PeerAuthentication")
		if err := mesh.Client().Get(asking, client.ObjectKey{Namespace: namespace, Name: "httpbin"}, object); err != nil {
			return // it is not there yet, or the API server is away
		}
		mode, _, _ := unstructured.NestedString(object.Object, "spec", "mtls", "mode")
		mu.Lock()
		defer mu.Unlock()
		if len(modes) == 0 || modes[len(modes)-1] != mode {
			modes = append(modes, mode)
		}
	}
	watching, stop := context.WithCancel(ctx)
	DeferCleanup(stop)
	go func() {
		for watching.Err() == nil {
			look()
			time.Sleep(poll)
		}
	}()
	return func() []string {
		look()
		mu.Lock()
		defer mu.Unlock()
		return append([]string{}, modes...)
	}
}

// away runs something while the API server is away, and brings it back when the absence is over, whatever came of it.
func away(leave func(), back func() error, meanwhile func()) {
	GinkgoHelper()
	leave()
	left := time.Now()
	defer func() { Expect(back()).To(Succeed()) }()
	meanwhile()
	time.Sleep(time.Until(left.Add(absence)))
}

// leaseHolder is the replica that leads, as POD_UID: a restarted one is another.
func leaseHolder(ctx context.Context) func() (string, error) {
	return func() (string, error) {
		return mesh.Kubectl(ctx, "get", "lease", "leader.servicesecurity.dev", "-n", systemNamespace, "-o", "jsonpath={.spec.holderIdentity}")
	}
}

var _ = Describe("Two replicas, in the middle of a rollout", Ordered, ContinueOnFailure, Label("outage"), func() {
	const name, legacy = "outage", "outage-legacy"

	BeforeAll(func(ctx SpecContext) {
		DeferCleanup(func(ctx SpecContext) { scaleOperator(ctx, 1) }, NodeTimeout(patience))
		scaleOperator(ctx, 2)
		meshedShop(ctx, name)
		setUp(ctx, space{name: legacy, manifests: []string{testbed.Sleep(legacy)}})
		Expect(mesh.Served(ctx, name, "steady")).To(Succeed())
	}, NodeTimeout(rollout))

	AfterAll(func(ctx SpecContext) { expectClean(ctx, name, "steady") }, NodeTimeout(patience))

	It("the API server is gone for 30 s in the window, while plaintext is sent", func(ctx SpecContext) {
		caller, err := mesh.ReadyPod(ctx, legacy, "sleep")
		Expect(err).NotTo(HaveOccurred())
		profile, began := beginRollout(ctx, name)
		modes := recordModes(ctx, name)
		Eventually(modes).WithContext(ctx).Should(Equal(onceEach[:1]))
		time.Sleep(time.Until(began.Add(2 * time.Second)))
		var sent time.Time
		away(mesh.ControlPlane().KillServer, func() error { return mesh.ControlPlane().StartServer(ctx) }, func() {
			time.Sleep(absence / 2)
			sent = time.Now()
			Expect(mesh.CurlFrom(ctx, legacy, caller.Name, "http://httpbin."+name+":8000/ip")).To(HaveField("HTTPCode", 200), "it is PERMISSIVE still")
		})
		back := time.Now()
		expectEnd(ctx, profile, sent)
		Expect(modes()).To(Equal(onceEach), "no moment of anything else")
		GinkgoWriter.Printf("from its return to Enforced: %s\n", time.Since(back).Round(100*time.Millisecond))
	}, SpecTimeout(2*rollout))

	It("the API server hangs for 30 s around the switch", func(ctx SpecContext) {
		profile, began := beginRollout(ctx, name)
		modes := recordModes(ctx, name)
		Eventually(func() time.Duration {
			if mtls := read(ctx, profile).Status.MTLS; mtls != nil && mtls.CleanSinceTime != nil {
				return time.Since(mtls.CleanSinceTime.Time)
			}
			return 0
		}).WithContext(ctx).WithPolling(20 * time.Millisecond).Should(BeNumerically(">", killWindow-200*time.Millisecond))
		away(mesh.ControlPlane().FreezeServer, func() error { mesh.ControlPlane().ThawServer(); return nil }, func() {})
		back := time.Now()
		expectEnd(ctx, profile, began)
		Expect(modes()).To(Equal(onceEach), "no moment of anything else")
		GinkgoWriter.Printf("from its return to Enforced: %s\n", time.Since(back).Round(100*time.Millisecond))
	}, SpecTimeout(2*rollout))

	expectHandover := func(ctx context.Context, when []string, end func(pod string) error) {
		GinkgoHelper()
		before, err := leaseHolder(ctx)()
		Expect(err).NotTo(HaveOccurred())
		profile, began := beginRollout(ctx, name)
		modes := recordModes(ctx, name)
		Eventually(modes).WithContext(ctx).Should(Equal(when))
		pod, _, _ := strings.Cut(before, "_")
		Expect(end(pod)).To(Succeed())
		Eventually(leaseHolder(ctx)).WithContext(ctx).Should(And(Not(BeEmpty()), Not(Equal(before))))
		expectEnd(ctx, profile, began)
		Expect(modes()).To(Equal(onceEach), "no moment of anything else")
	}

	It("the leader is killed in the window", func(ctx SpecContext) {
		expectHandover(ctx, onceEach[:1], func(pod string) error { return mesh.Kill(systemNamespace, pod, "manager") })
	}, SpecTimeout(2*rollout))

	It("the leader's pod goes right after the switch", func(ctx SpecContext) {
		expectHandover(ctx, onceEach, func(pod string) error {
			_, err := mesh.Kubectl(ctx, "delete", "pod", pod, "-n", systemNamespace)
			return err
		})
	}, SpecTimeout(2*rollout))
})
