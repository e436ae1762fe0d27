package controllers_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/test/playback"
	"github.com/servicesecurity/operator/test/testbed"
)

var _ = Describe("A cluster without Istio", Label("slow"), func() {
	It("gets an operator that waits for Istio, for the fields that it needs, and then is quiet", func(ctx SpecContext) {
		c := startCluster(ctx, testbed.ControlPlaneOptions{Audit: true})
		before := k8s
		k8s = c.client
		DeferCleanup(func() { k8s = before })
		startOperator(func(o *operator) { o.cluster, o.shard, o.elect = c, "fresh", true })

		ns, proxy := workload(ctx)
		excepted := profile(ctx, ns, "httpbin", ofOperator("fresh"), func(p *v1alpha1.ServiceSecurityProfile) {
			p.Spec.MTLS.PortLevel = []v1alpha1.PortMTLS{{Port: 8080, Mode: v1alpha1.ModePermissive}}
		})
		By("saying that Istio is not installed")
		Eventually(condition(excepted, v1alpha1.ConditionProgrammed)).WithContext(ctx).Should(And(
			HavePrefix("False/IstioNotInstalled"), ContainSubstring("PeerAuthentication"), ContainSubstring("Install Istio's CRDs")))
		Expect(condition(excepted, v1alpha1.ConditionReady)(ctx)).To(HavePrefix("False/IstioNotInstalled"))

		By("saying that the installed Istio lacks a field")
		Expect(c.plane.InstallCRDs(olderIstio())).To(Succeed())
		Eventually(condition(excepted, v1alpha1.ConditionProgrammed)).WithContext(ctx).Should(And(
			HavePrefix("False/UnsupportedByIstio"), ContainSubstring("portLevelMtls"), ContainSubstring("Upgrade Istio's CRDs")))
		Consistently(peerMode(ns, "httpbin")).WithContext(ctx).ShouldNot(Equal("STRICT"), "without its exception")

		By("going on when it is there")
		Expect(c.plane.InstallCRDs(istioCRDs())).To(Succeed())
		proxies := []*playback.Proxy{proxy}
		settled := []*v1alpha1.ServiceSecurityProfile{excepted}
		for i := range 4 {
			name := fmt.Sprintf("app-%d", i)
			service(ctx, ns, name)
			_, another := pod(ctx, ns, name, name+"-1", true)
			calls(another)
			proxies = append(proxies, another)
			settled = append(settled, profile(ctx, ns, name, ofOperator("fresh")))
		}
		for _, ssp := range settled {
			Eventually(func(g Gomega) {
				for _, p := range proxies {
					p.TakeConfiguration()
				}
				g.Expect(stage(ssp)(ctx)).To(Equal(v1alpha1.StageEnforced))
				g.Expect(condition(ssp, v1alpha1.ConditionReady)(ctx)).To(HavePrefix("True/Ready"))
			}).Should(Succeed())
		}

		By("making no call but for its lease and its watches")
		// What the last change brought about is over when nothing was asked for two seconds.
		var calm time.Time
		Eventually(func(g Gomega) {
			calm = time.Now().Add(-2 * time.Second)
			g.Expect(callsSince(c, calm)()).To(BeEmpty())
		}).Should(Succeed())
		Consistently(callsSince(c, calm)).WithPolling(500 * time.Millisecond).WithTimeout(10 * time.Second).Should(BeEmpty())
		leases, watches := idleCalls(c, calm)
		Expect(leases).To(BeNumerically(">", 10))
		AddReportEntry("Idle calls in more than 10 s", fmt.Sprintf("%d of the lease, %d watches renewed, 0 others", leases, watches))
		GinkgoWriter.Printf("Repair-free idle: %d lease calls, %d watch calls, 0 others\n", leases, watches)
	})
})

// call is what is read of an audit event.
type call struct {
	Verb      string    `json:"verb"`
	URI       string    `json:"requestURI"`
	Received  time.Time `json:"requestReceivedTimestamp"`
	User      struct{ Username string }
	ObjectRef struct{ Resource string }
}

func (c call) lease() bool { return c.ObjectRef.Resource == "leases" }

func (c call) watches() bool { return c.Verb == "watch" }

func operatorCalls(c *cluster) ([]call, error) {
	file, err := os.Open(c.plane.AuditLog())
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	var calls []call
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var one call
		if json.Unmarshal(lines.Bytes(), &one) == nil && one.User.Username == operatorUser {
			calls = append(calls, one)
		}
	}
	return calls, lines.Err()
}

// callsSince is what the operator asked for since then, but for its lease and its watches.
func callsSince(c *cluster, since time.Time) func() ([]string, error) {
	return func() ([]string, error) {
		calls, err := operatorCalls(c)
		var asked []string
		for _, one := range calls {
			if !one.lease() && !one.watches() && one.Received.After(since) {
				asked = append(asked, fmt.Sprintf("%s %s %s", one.Received.Format(time.TimeOnly), one.Verb, one.URI))
			}
		}
		return asked, err
	}
}

func idleCalls(c *cluster, since time.Time) (leases, watches int) {
	calls, err := operatorCalls(c)
	Expect(err).NotTo(HaveOccurred())
	for _, one := range calls {
		switch {
		case !one.Received.After(since):
		case one.lease():
			leases++
		case one.watches():
			watches++
		}
	}
	return leases, watches
}

// olderIstio are Istio's definitions as if PeerAuthentication had no portLevelMtls yet.
func olderIstio() string {
	GinkgoHelper()
	text, err := os.ReadFile(istioCRDs())
	Expect(err).NotTo(HaveOccurred())
	objects, err := testbed.Objects(text)
	Expect(err).NotTo(HaveOccurred())
	var out []string
	for _, object := range objects {
		if object.GetName() == "peerauthentications.security.istio.io" {
			versions, _, err := unstructured.NestedSlice(object.Object, "spec", "versions")
			Expect(err).NotTo(HaveOccurred())
			for _, v := range versions {
				spec := []string{"schema", "openAPIV3Schema", "properties", "spec"}
				unstructured.RemoveNestedField(v.(map[string]any), append(spec, "properties", "portLevelMtls")...)
				unstructured.RemoveNestedField(v.(map[string]any), append(spec, "x-kubernetes-validations")...)
			}
			Expect(unstructured.SetNestedSlice(object.Object, versions, "spec", "versions")).To(Succeed())
		}
		document, err := yaml.Marshal(object.Object)
		Expect(err).NotTo(HaveOccurred())
		out = append(out, string(document))
	}
	path := filepath.Join(GinkgoT().TempDir(), "crds.yaml")
	Expect(os.WriteFile(path, []byte(strings.Join(out, "---\n")), 0o600)).To(Succeed())
	return path
}
