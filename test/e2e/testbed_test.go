//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/test/testbed"
	"github.com/servicesecurity/operator/test/testbed/testapp"
)

// strict is written by hand: this spec is about the bed, not about the operator.
const strict = `apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata:
  name: default
  namespace: %s
spec:
  mtls: {mode: STRICT}
`

// callee and its callers' answers: what curl says, as the walkthroughs print it.
type reach struct {
	from, to string
	status   int
	exit     int
}

func expectReach(ctx context.Context, want ...reach) {
	GinkgoHelper()
	for _, w := range want {
		url := fmt.Sprintf("http://httpbin.%s:8000/ip", w.to)
		Eventually(func(g Gomega) {
			answer, err := mesh.Curl(ctx, w.from, "sleep", url)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(answer).To(And(HaveField("HTTPCode", w.status), HaveField("CurlExit", w.exit)), "from %s to %s", w.from, w.to)
		}).WithContext(ctx).Should(Succeed())
	}
}

var _ = Describe("the test bed", Ordered, Label("smoke"), func() {
	const foo, bar, legacy = "foo", "bar", "legacy"

	BeforeAll(func(ctx SpecContext) {
		begin := time.Now()
		var spaces []space
		for _, name := range []string{foo, bar, legacy} {
			spaces = append(spaces, space{name: name, meshed: name != legacy, manifests: []string{testbed.Httpbin(name), testbed.Sleep(name)}})
		}
		setUp(ctx, spaces...)
		GinkgoWriter.Printf("six pods ready after %s\n", time.Since(begin).Round(time.Millisecond))
	}, NodeTimeout(patience))

	It("lets everybody reach everybody without a policy", func(ctx SpecContext) {
		var want []reach
		for _, from := range []string{foo, bar, legacy} {
			for _, to := range []string{foo, bar, legacy} {
				want = append(want, reach{from: from, to: to, status: 200})
			}
		}
		expectReach(ctx, want...)
	}, SpecTimeout(patience))

	It("counts plaintext and mutual TLS apart", func(ctx SpecContext) {
		Eventually(mesh.Stats).WithContext(ctx).WithArguments(foo, "httpbin", "usedonly&filter=istio_requests_total").Should(And(
			MatchRegexp(`(?m)^istio_requests_total\{[^}]*connection_security_policy="none"[^}]*\} [1-9]`),
			MatchRegexp(`(?m)^istio_requests_total\{[^}]*connection_security_policy="mutual_tls"[^}]*source_principal="spiffe://cluster.local/ns/bar/sa/sleep"[^}]*\} [1-9]`),
		))
	}, SpecTimeout(patience))

	It("has real proxies that refuse plaintext under STRICT", func(ctx SpecContext) {
		policy := fmt.Sprintf(strict, foo)
		Expect(mesh.Apply(ctx, policy)).To(Succeed())
		DeferCleanup(func(ctx SpecContext) { Expect(mesh.Delete(ctx, policy)).To(Succeed()) })
		expectReach(ctx,
			reach{from: legacy, to: foo, exit: reset},
			reach{from: foo, to: foo, status: 200}, reach{from: bar, to: foo, status: 200},
			reach{from: foo, to: bar, status: 200}, reach{from: bar, to: bar, status: 200}, reach{from: legacy, to: bar, status: 200},
			reach{from: foo, to: legacy, status: 200}, reach{from: bar, to: legacy, status: 200}, reach{from: legacy, to: legacy, status: 200},
		)
		Expect(mesh.Stats(ctx, foo, "httpbin", "filter=no_filter_chain_match")).To(
			MatchRegexp(`(?m)^envoy_listener_no_filter_chain_match\{[^}]*15006[^}]*\} [1-9]`), "what STRICT refused is counted")
	}, SpecTimeout(patience))

	It("refuses objects that Istio's own validation refuses", func(ctx SpecContext) {
		err := mesh.Apply(ctx, `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nonsense, namespace: foo}
spec:
  rules:
  - when: [{key: source.nonsense, values: [a]}]
`)
		Expect(err).To(MatchError(ContainSubstring("unknown attribute")))
	}, SpecTimeout(patience))

	It("leaves no network namespace of a deleted pod", func(ctx SpecContext) {
		pod, err := mesh.ReadyPod(ctx, bar, "sleep")
		Expect(err).NotTo(HaveOccurred())
		Expect(mesh.Client().Delete(ctx, pod)).To(Succeed())
		Eventually(func() error {
			_, _, err := mesh.Exec(ctx, bar, pod.Name, "true")
			return err
		}).WithContext(ctx).Should(MatchError(ContainSubstring("does not run it")))
		Expect(mesh.WaitReady(ctx, bar, "app=sleep")).To(Succeed())
		expectReach(ctx, reach{from: bar, to: foo, status: 200})
	}, SpecTimeout(patience))

	It("gives pods an API server that they can trust, and an identity", func(ctx SpecContext) {
		const ask = `cd /var/run/secrets/kubernetes.io/serviceaccount && curl -sS --cacert ca.crt -H "Authorization: Bearer $(cat token)" ` +
			`"https://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT/api/v1/secrets" https://kubernetes.default.svc/api/v1/secrets`
		for _, name := range []string{bar, legacy} {
			pod, err := mesh.ReadyPod(ctx, name, "sleep")
			Expect(err).NotTo(HaveOccurred())
			Eventually(func(g Gomega) {
				out, exit, err := mesh.Exec(ctx, name, pod.Name, "sh", "-c", ask)
				g.Expect(err).NotTo(HaveOccurred())
				g.Expect(exit).To(BeZero(), out)
				who := fmt.Sprintf(`User \"system:serviceaccount:%s:sleep\" cannot list resource`, name)
				g.Expect(strings.Count(out, who)).To(Equal(2), out)
			}).WithContext(ctx).Should(Succeed())
		}
	}, SpecTimeout(patience))

	It("has a client that counts what fails, and restarts what crashes", func(ctx SpecContext) {
		Expect(mesh.Apply(ctx, testbed.TCPEcho(foo))).To(Succeed())
		Expect(mesh.WaitReady(ctx, foo, "app=tcp-echo")).To(Succeed())
		load, err := testbed.LoadClient(bar, "load", "--url=http://httpbin.foo:8000/ip", "--rate=100", "--new=10", "--stream=tcp-echo.foo:9000")
		Expect(err).NotTo(HaveOccurred())
		Expect(mesh.Apply(ctx, load)).To(Succeed())
		Expect(mesh.WaitReady(ctx, bar, "app=load")).To(Succeed())
		totals := func() (testapp.Totals, error) { return mesh.Totals(ctx, bar, "load") }
		Eventually(totals).WithContext(ctx).Should(And(
			HaveField("Requests", BeNumerically(">", 300)), HaveField("NewConnections", BeNumerically(">", 30)),
			HaveField("Stream.BytesReceived", BeNumerically(">", 50)), HaveField("Failed()", BeZero()), HaveField("Stream.Reconnects", BeZero())))

		pod, err := mesh.ReadyPod(ctx, foo, "httpbin")
		Expect(err).NotTo(HaveOccurred())
		Expect(mesh.Kill(foo, pod.Name, "httpbin")).To(Succeed())
		Eventually(totals).WithContext(ctx).Should(HaveField("Failures", BeNumerically(">", 0)))
		Eventually(func(g Gomega) {
			g.Expect(mesh.Client().Get(ctx, client.ObjectKeyFromObject(pod), pod)).To(Succeed())
			g.Expect(pod.Status.ContainerStatuses).To(ContainElement(And(HaveField("RestartCount", int32(1)), HaveField("Ready", true))))
		}).WithContext(ctx).Should(Succeed())
		expectReach(ctx, reach{from: bar, to: foo, status: 200})
	}, SpecTimeout(patience))
})
