//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/test/testbed"
)

var _ = Describe("E8: the operator killed at any moment of a rollout", Ordered, Label("operation"), func() {
	var moments []time.Duration
	for moment := range 8 {
		moments = append(moments, time.Duration(moment)*1300*time.Millisecond)
	}
	operatorKilled("e8", moments, []time.Duration{2 * time.Second, 4 * time.Second})
})

// killOperator ends the leader's process with SIGKILL; the node starts it again.
func killOperator(ctx context.Context) {
	GinkgoHelper()
	out, err := mesh.Kubectl(ctx, "get", "pods", "-n", systemNamespace, "-l", managerApp, "-o", "jsonpath={.items[*].metadata.name}")
	Expect(err).NotTo(HaveOccurred())
	for _, pod := range strings.Fields(out) {
		Expect(mesh.Kill(systemNamespace, pod, "manager")).To(Succeed())
	}
}

// scaleOperator kills it for good, or brings it back.
func scaleOperator(ctx context.Context, replicas int) {
	GinkgoHelper()
	if replicas == 0 {
		killOperator(ctx)
	}
	_, err := mesh.Kubectl(ctx, "scale", "deployment", "-n", systemNamespace, "--all", fmt.Sprintf("--replicas=%d", replicas))
	Expect(err).NotTo(HaveOccurred())
	if replicas == 0 {
		Eventually(func() (string, error) {
			return mesh.Kubectl(ctx, "get", "pods", "-n", systemNamespace, "-l", managerApp, "-o", "name")
		}).WithContext(ctx).Should(BeEmpty())
		return
	}
	Expect(mesh.WaitReady(ctx, systemNamespace, managerApp)).To(Succeed())
}

var _ = Describe("Objects that others touch", Label("operation"), func() {
	It("repairs what was edited or deleted, and says how long that took", Label("smoke"), func(ctx SpecContext) {
		const name = "drift"
		meshedShop(ctx, name)
		expectStage(ctx, applyProfile(ctx, name, "httpbin", immediate), v1alpha1.StageEnforced)
		Eventually(func() (string, error) {
			return mesh.Kubectl(ctx, "get", "destinationrule", "-n", name, "-o", "name")
		}).WithContext(ctx).ShouldNot(BeEmpty())
		for _, kind := range []string{"peerauthentication", "destinationrule"} {
			want := spec(ctx, kind, name)
			for what, tamper := range map[string][]string{
				"edited": {"patch", kind, "httpbin", "-n", name, "--type", "merge", "-p", map[string]string{
					"peerauthentication": `{"spec":{"mtls":{"mode":"DISABLE"},"portLevelMtls":{"8000":{"mode":"PERMISSIVE"}}}}`,
					"destinationrule":    `{"spec":{"trafficPolicy":{"tls":{"mode":"DISABLE"},"loadBalancer":{"simple":"RANDOM"}}}}`,
				}[kind]},
				"deleted": {"delete", kind, "httpbin", "-n", name},
			} {
				_, err := mesh.Kubectl(ctx, tamper...)
				Expect(err).NotTo(HaveOccurred())
				began := time.Now()
				Eventually(func() string { return spec(ctx, kind, name) }).WithContext(ctx).WithPolling(10*time.Millisecond).Should(Equal(want), "%s %s", kind, what)
				GinkgoWriter.Printf("%s %s: repaired within %s, kubectl included\n", kind, what, time.Since(began).Round(time.Millisecond))
			}
		}
	}, SpecTimeout(2*rollout))

	It("leaves a foreign object alone, and adopts it without a gap", func(ctx SpecContext) {
		const name, legacy = "adopt", "adopt-legacy"
		field := func(path string) string {
			GinkgoHelper()
			text, err := mesh.Kubectl(ctx, "get", "peerauthentication", "httpbin", "-n", name, "-o", "jsonpath="+path)
			Expect(err).NotTo(HaveOccurred())
			return text
		}
		meshedShop(ctx, name)
		setUp(ctx, space{name: legacy, manifests: []string{testbed.Sleep(legacy)}})
		Expect(mesh.Apply(ctx, `apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: httpbin, namespace: adopt}
spec:
  selector: {matchLabels: {app: httpbin}}
  mtls: {mode: STRICT}
`)).To(Succeed())
		expectReach(ctx, reach{from: legacy, to: name, exit: reset})
		uid := field("{.metadata.uid} {.metadata.resourceVersion}")
		profile := applyProfile(ctx, name, "httpbin", staged)
		Eventually(func() string { return condition(ctx, profile, v1alpha1.ConditionProgrammed) }).WithContext(ctx).Should(
			And(HavePrefix("False/ForeignObject"), ContainSubstring("servicesecurity.dev/adopt: httpbin")))
		Expect(field("{.metadata.uid} {.metadata.resourceVersion}")).To(Equal(uid))

		By("handing it over, while plaintext goes on being refused and the meshed client goes on being served")
		Expect(mesh.Served(ctx, name, "steady")).To(Succeed())
		_, err := mesh.Kubectl(ctx, "annotate", "peerauthentication", "httpbin", "-n", name, "servicesecurity.dev/adopt=httpbin")
		Expect(err).NotTo(HaveOccurred())
		refused := 0
		Eventually(func(g Gomega) {
			answer, err := mesh.Curl(ctx, legacy, "sleep", "http://httpbin."+name+":8000/ip")
			g.Expect(err).NotTo(HaveOccurred())
			if answer.CurlExit != reset {
				StopTrying("plaintext got through").Now()
			}
			refused++
			g.Expect(condition(ctx, profile, v1alpha1.ConditionReady)).To(HavePrefix("True/Ready"))
			g.Expect(refused).To(BeNumerically(">=", 10))
		}).WithContext(ctx).Should(Succeed())
		Expect(field("{.metadata.uid}")).To(Equal(strings.Fields(uid)[0]))
		Expect(field("{.metadata.ownerReferences[0].kind}")).To(Equal(v1alpha1.Kind))
		Expect(stage(ctx, profile)).To(Equal(v1alpha1.StageEnforced))
		totals, err := mesh.Totals(ctx, name, "steady")
		Expect(err).NotTo(HaveOccurred())
		Expect(totals.Failed()).To(BeZero(), "%+v", totals.Errors)
	}, SpecTimeout(2*rollout))
})

func spec(ctx context.Context, kind, namespace string) string {
	text, err := mesh.Kubectl(ctx, "get", kind, "httpbin", "-n", namespace, "-o", "jsonpath={.spec}")
	if err != nil {
		return err.Error()
	}
	return text
}

var _ = Describe("The metrics endpoint", Label("operation"), func() {
	It("answers whoever may read metrics, and nobody else", func(ctx SpecContext) {
		const name, reader = "metrics", `apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: e2e-metrics-reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: servicesecurity-metrics-reader}
subjects: [{kind: ServiceAccount, name: sleep, namespace: metrics}]
`
		setUp(ctx, space{name: name, manifests: []string{testbed.Sleep(name)}})
		address, err := mesh.Kubectl(ctx, "get", "pods", "-n", systemNamespace, "-l", managerApp, "-o", "jsonpath={.items[0].status.podIP}")
		Expect(err).NotTo(HaveOccurred())
		pod, err := mesh.ReadyPod(ctx, name, "sleep")
		Expect(err).NotTo(HaveOccurred())
		ask := func(g Gomega, header string) string {
			out, _, err := mesh.Exec(ctx, name, pod.Name, "sh", "-c", fmt.Sprintf(
				`curl -sk -w '\n%%{http_code}' %s https://%s:8443/metrics`, header, address))
			g.Expect(err).NotTo(HaveOccurred())
			return out
		}
		const token = `-H "Authorization: Bearer $(cat /var/run/secrets/kubernetes.io/serviceaccount/token)"`
		Expect(ask(Default, "")).To(HaveSuffix("\n401"))
		Expect(ask(Default, token)).To(HaveSuffix("\n403"))
		Expect(mesh.Apply(ctx, reader)).To(Succeed())
		DeferCleanup(func(ctx SpecContext) { Expect(mesh.Delete(ctx, reader)).To(Succeed()) })
		Eventually(func(g Gomega) {
			// The operator remembers for half a minute that this reader was refused.
			g.Expect(ask(g, token)).To(And(HaveSuffix("\n200"), ContainSubstring("servicesecurity_observations_total"), ContainSubstring("servicesecurity_observation_age_seconds")))
		}).WithContext(ctx).Should(Succeed())
	}, SpecTimeout(rollout))
})

var _ = Describe("An idle operator", Label("operation"), func() {
	It("makes no API calls but lease renewal and open watches", func(ctx SpecContext) {
		const name, idle = "idle", 30 * time.Second
		meshedShop(ctx, name)
		expectStage(ctx, applyProfile(ctx, name, "httpbin", immediate), v1alpha1.StageEnforced)
		expectStage(ctx, applyProfile(ctx, name, "sleep", immediate), v1alpha1.StageEnforced)
		// What the last change set off is over when a while has passed without a call.
		Eventually(func() ([]string, error) { return operatorCalls(time.Now().Add(-3 * time.Second)) }).WithContext(ctx).Should(BeEmpty())
		from := time.Now()
		time.Sleep(idle)
		calls, err := operatorCalls(from)
		Expect(err).NotTo(HaveOccurred())
		Expect(calls).To(BeEmpty())
		leases, err := auditedCalls(from, func(e auditEvent) bool { return e.ObjectRef.Resource == "leases" })
		Expect(err).NotTo(HaveOccurred())
		Expect(leases).NotTo(BeEmpty(), "the audit log is the operator's")
		GinkgoWriter.Printf("in %s: %d lease calls, nothing else\n", idle, len(leases))
	}, SpecTimeout(2*rollout))
})

// auditEvent is what is read of a line of the API server's audit log.
type auditEvent struct {
	Verb           string    `json:"verb"`
	RequestURI     string    `json:"requestURI"`
	StageTimestamp time.Time `json:"stageTimestamp"`
	User           struct {
		Username string `json:"username"`
	} `json:"user"`
	ObjectRef struct {
		Resource string `json:"resource"`
	} `json:"objectRef"`
}

// operatorCalls are the operator's calls since a moment, without leases and watches. A watch that the API server ends
// after its minutes is opened again.
func operatorCalls(since time.Time) ([]string, error) {
	return auditedCalls(since, func(e auditEvent) bool { return e.ObjectRef.Resource != "leases" && e.Verb != "watch" })
}

func auditedCalls(since time.Time, wanted func(auditEvent) bool) ([]string, error) {
	file, err := os.Open(mesh.AuditLog())
	if err != nil {
		return nil, fmt.Errorf("opening the audit log: %w", err)
	}
	defer func() { _ = file.Close() }()
	var calls []string
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var event auditEvent
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			continue // the line that is being written
		}
		own := strings.HasPrefix(event.User.Username, "system:serviceaccount:"+systemNamespace+":")
		if own && event.StageTimestamp.After(since) && wanted(event) {
			calls = append(calls, event.Verb+" "+event.RequestURI)
		}
	}
	return calls, lines.Err()
}
