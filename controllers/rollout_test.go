package controllers_test

import (
	"context"
	"fmt"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

var _ = Describe("A staged rollout", func() {
	It("goes to STRICT once the proxies have seen no plaintext for the window", func(ctx SpecContext) {
		ns := namespace(ctx)
		service(ctx, ns, "httpbin")
		_, proxy := pod(ctx, ns, "httpbin", "httpbin-1", true)
		proxy.Plaintext(5)
		ssp := profile(ctx, ns, "httpbin")

		By("blocking while plaintext arrives")
		Eventually(peerMode(ns, "httpbin")).WithContext(ctx).Should(Equal("PERMISSIVE"))
		Eventually(func(g Gomega) {
			proxy.Plaintext(1)
			g.Expect(stage(ssp)(ctx)).To(Equal(v1alpha1.StageBlocked))
			g.Expect(blockers(ssp)(ctx)).To(ContainElement(v1alpha1.BlockerPlaintextSeen))
		}).Should(Succeed())

		By("switching when only mutual TLS is left")
		Eventually(func(g Gomega) {
			proxy.MutualTLS("sleep", ns, 1)
			g.Expect(stage(ssp)(ctx)).To(Equal(v1alpha1.StageVerifying))
		}).Should(Succeed())
		Expect(peerMode(ns, "httpbin")(ctx)).To(Equal("STRICT"))

		By("enforcing once the proxy has taken it and the verification window is over")
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageEnforced))
		Eventually(condition(ssp, v1alpha1.ConditionReady)).WithContext(ctx).Should(HavePrefix("True/Ready"))
		Eventually(condition(ssp, v1alpha1.ConditionMutualTLSEnforced)).WithContext(ctx).Should(HavePrefix("True/MutualTLSEnforced"))
		peer, err := peerAuthentication(ctx, ns, "httpbin")
		Expect(err).NotTo(HaveOccurred())
		Expect(peer.Annotations).NotTo(HaveKey(v1alpha1.AnnotationSwitchedAt))
	})

	It("tells each stage once, and counts the switch", func(ctx SpecContext) {
		promotions, writes := counter("servicesecurity_promotions_total"), counter("servicesecurity_writes_total")
		_, _, ssp := enforced(ctx)
		Eventually(stages(ssp)).WithContext(ctx).Should(HaveExactElements("Observing", "Verifying", "Enforced"))
		Consistently(stages(ssp)).WithContext(ctx).Should(HaveLen(3))
		Expect(counter("servicesecurity_promotions_total")).To(Equal(promotions + 1))
		// PERMISSIVE, the rule, STRICT, and the end of the verification.
		Expect(counter("servicesecurity_writes_total")).To(Equal(writes + 4))
		Expect(counter("servicesecurity_observations_total")).To(BeNumerically(">", 3))
	})

	It("does not count what a parent decided as a switch", func(ctx SpecContext) {
		ns, proxy := workload(ctx)
		proxy.Plaintext(1)
		promotions := counter("servicesecurity_promotions_total")
		policy(ctx, ns, "default", strict, nil)
		ssp := profile(ctx, ns, "httpbin")
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageEnforced))
		Expect(counter("servicesecurity_promotions_total")).To(Equal(promotions))
	})

	It("waits for a person if it shall", func(ctx SpecContext) {
		ns, proxy := workload(ctx)
		ssp := profile(ctx, ns, "httpbin", staged(func(r *v1alpha1.Rollout) { r.Approval = v1alpha1.ApprovalManual }))
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageAwaitingApproval))
		Expect(condition(ssp, v1alpha1.ConditionReady)(ctx)).To(HavePrefix("False/AwaitingApproval"))
		Expect(blockers(ssp)(ctx)).To(ConsistOf(v1alpha1.BlockerApprovalMissing))
		token := approvalToken(ctx, ssp)
		Expect(token).NotTo(BeEmpty())
		approve := func(value string) {
			update(ctx, ssp, func(p *v1alpha1.ServiceSecurityProfile) {
				p.Annotations = map[string]string{v1alpha1.AnnotationApprove: value}
			})
		}
		approve("wrong")
		Consistently(peerMode(ns, "httpbin")).WithContext(ctx).Should(Equal("PERMISSIVE"))

		By("making another token when plaintext arrives")
		Eventually(func(g Gomega) {
			proxy.Plaintext(1)
			g.Expect(stage(ssp)(ctx)).To(Equal(v1alpha1.StageBlocked))
		}).Should(Succeed())
		approve(token)
		Eventually(func(g Gomega) {
			g.Expect(stage(ssp)(ctx)).To(Equal(v1alpha1.StageAwaitingApproval))
			g.Expect(approvalToken(ctx, ssp)).NotTo(Or(BeEmpty(), Equal(token)))
		}).Should(Succeed())
		Consistently(peerMode(ns, "httpbin")).WithContext(ctx).Should(Equal("PERMISSIVE"))

		By("switching with the token that fits")
		// Status keeps times by the second, many intervals here, so the gate may close and open once more.
		Eventually(func(g Gomega) {
			if fits := approvalToken(ctx, ssp); fits != "" {
				approve(fits)
			}
			g.Expect(stage(ssp)(ctx)).To(BeElementOf(v1alpha1.StageVerifying, v1alpha1.StageEnforced))
		}).Should(Succeed())
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageEnforced))
		update(ctx, ssp, func(p *v1alpha1.ServiceSecurityProfile) { p.Annotations = nil })
		Consistently(peerSequence(ns)).Should(Equal("PERMISSIVE STRICT"))
		Expect(stage(ssp)(ctx)).To(Equal(v1alpha1.StageEnforced))
	})

	It("does not switch while it is suspended", func(ctx SpecContext) {
		ns, _ := workload(ctx)
		suspend := func(value bool) edit {
			return staged(func(r *v1alpha1.Rollout) { r.Suspend = &value })
		}
		ssp := profile(ctx, ns, "httpbin", suspend(true))
		Eventually(condition(ssp, v1alpha1.ConditionMutualTLSEnforced)).WithContext(ctx).Should(ContainSubstring("suspend is true"))
		Expect(condition(ssp, v1alpha1.ConditionReady)(ctx)).To(HavePrefix("True/Ready"))
		Consistently(peerSequence(ns)).Should(Equal("PERMISSIVE"))
		update(ctx, ssp, suspend(false))
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageEnforced))
	})

	It("does not switch a workload that nobody calls, unless minRequests is 0", func(ctx SpecContext) {
		ns := namespace(ctx)
		service(ctx, ns, "httpbin")
		pod(ctx, ns, "httpbin", "httpbin-1", true)
		ssp := profile(ctx, ns, "httpbin")
		Eventually(condition(ssp, v1alpha1.ConditionReady)).WithContext(ctx).Should(And(HavePrefix("False/TelemetryIncomplete"), ContainSubstring("minRequests")))
		Consistently(peerSequence(ns)).Should(Equal("PERMISSIVE"))
		update(ctx, ssp, staged(func(r *v1alpha1.Rollout) { r.MinRequests = never }))
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageEnforced))
	})

	It("verifies until every proxy has taken STRICT, or not at all", func(ctx SpecContext) {
		ns, proxy := workload(ctx)
		istiod.ignore(ns, true)
		ssp := profile(ctx, ns, "httpbin")
		Eventually(condition(ssp, v1alpha1.ConditionMutualTLSEnforced)).WithContext(ctx).Should(And(
			HavePrefix("True/Verifying"), ContainSubstring("have not taken STRICT yet")))
		Consistently(stage(ssp), "600ms").WithContext(ctx).Should(Equal(v1alpha1.StageVerifying))
		proxy.TakeConfiguration()
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageEnforced))

		other, _ := workload(ctx)
		istiod.ignore(other, true)
		quick := profile(ctx, other, "httpbin", staged(func(r *v1alpha1.Rollout) { r.VerificationWindow = "0s" }))
		Eventually(stage(quick)).WithContext(ctx).Should(Equal(v1alpha1.StageEnforced))
		Eventually(stages(quick)).WithContext(ctx).Should(HaveExactElements("Observing", "Enforced"))
	})

	It("shows profiles in metrics", func(ctx SpecContext) {
		ns, _ := workload(ctx)
		o := startOperator(forProfilesOf(ns))
		ssp := profile(ctx, ns, "httpbin", ofOperator(ns), staged(func(r *v1alpha1.Rollout) { r.ObservationWindow = "1h" }))
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageObserving))
		Eventually(func(g Gomega) {
			families, err := o.metrics.Gather()
			g.Expect(err).NotTo(HaveOccurred())
			var lines []string
			for _, family := range families {
				for _, m := range family.Metric {
					line := family.GetName()
					for _, label := range m.Label {
						line += " " + label.GetName() + "=" + label.GetValue()
					}
					lines = append(lines, fmt.Sprint(line, " ", m.GetGauge().GetValue()))
				}
			}
			g.Expect(lines).To(ContainElements(
				"servicesecurity_profiles stage=Observing 1",
				"servicesecurity_profile_conditions condition=Ready status=True 1",
				"servicesecurity_plaintext_callers 0",
			))
		}).Should(Succeed())
	})

	It("writes no status while nothing changes but counts", func(ctx SpecContext) {
		ns, proxy := workload(ctx)
		ssp := profile(ctx, ns, "httpbin")
		blocked := func(g Gomega) string {
			proxy.Plaintext(1)
			g.Expect(blockers(ssp)(ctx)).To(ContainElement(v1alpha1.BlockerPlaintextSeen))
			live := &v1alpha1.ServiceSecurityProfile{}
			g.Expect(k8s.Get(ctx, client.ObjectKeyFromObject(ssp), live)).To(Succeed())
			return live.ResourceVersion
		}
		var version string
		Eventually(func(g Gomega) {
			blocked(g)
			g.Expect(status(ctx, ssp).MTLS.PlaintextCallers).To(HaveLen(1))
			g.Expect(status(ctx, ssp).Resources).To(HaveLen(2))
			version = blocked(g)
		}).Should(Succeed())
		observed := counter("servicesecurity_observations_total")
		Consistently(func(g Gomega) { g.Expect(blocked(g)).To(Equal(version)) }, "1500ms").Should(Succeed())
		Expect(counter("servicesecurity_observations_total")).To(BeNumerically(">", observed+5))
	})

	It("is looked at once for what happens to a pod, and not at all for what does not matter", func(ctx SpecContext) {
		const reconciles = "controller_runtime_reconcile_total"
		ns, _, one := enforced(ctx)
		service(ctx, ns, "other")
		other := profile(ctx, ns, "other", mtls(v1alpha1.MTLS{Mode: v1alpha1.ModePermissive}))
		for _, ssp := range []*v1alpha1.ServiceSecurityProfile{one, other} {
			Eventually(condition(ssp, v1alpha1.ConditionReady)).WithContext(ctx).Should(HavePrefix("True/Ready"))
		}
		var before float64
		Eventually(func(g Gomega) {
			before = counter(reconciles)
			g.Consistently(func() float64 { return counter(reconciles) }, "300ms").Should(Equal(before))
		}).Should(Succeed())
		pod := &corev1.Pod{ObjectMeta: objectMeta(ns, "httpbin-1")}
		update(ctx, pod, func(p *corev1.Pod) { p.Annotations = map[string]string{"example.com/note": "x"} })
		Consistently(func() float64 { return counter(reconciles) }).Should(Equal(before))
		Expect(k8s.Get(ctx, client.ObjectKeyFromObject(pod), pod)).To(Succeed())
		pod.Status.Conditions[0].Status = corev1.ConditionFalse
		Expect(k8s.Status().Update(ctx, pod)).To(Succeed())
		Eventually(func() float64 { return counter(reconciles) }).Should(BeNumerically(">", before))
		Consistently(func() float64 { return counter(reconciles) }).Should(BeNumerically("<=", before+1))
	})
})

// approvalToken is what a person has to approve now; empty if nothing waits for that.
func approvalToken(ctx context.Context, ssp *v1alpha1.ServiceSecurityProfile) string {
	if m := status(ctx, ssp).MTLS; m != nil && m.Approval != nil {
		return m.Approval.Token
	}
	return ""
}

// counter is the sum of a counter of the operators of this process.
func counter(name string) float64 {
	GinkgoHelper()
	return total(metrics.Registry, name)
}

// total sums up what a registry has of a metric.
func total(registry prometheus.Gatherer, name string) float64 {
	GinkgoHelper()
	families, err := registry.Gather()
	Expect(err).NotTo(HaveOccurred())
	var sum float64
	for _, family := range families {
		if family.GetName() == name {
			for _, m := range family.Metric {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}
