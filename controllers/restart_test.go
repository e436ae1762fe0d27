package controllers_test

import (
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

var _ = Describe("A restart of the operator", func() {
	window := func(text string) edit {
		return staged(func(r *v1alpha1.Rollout) { r.ObservationWindow = v1alpha1.Duration(text) })
	}

	It("while observing keeps the stretch if nothing was missed", func(ctx SpecContext) {
		ns, _ := workload(ctx)
		one := startOperator(forProfilesOf(ns))
		ssp := profile(ctx, ns, "httpbin", ofOperator(ns), window("9s"))
		Eventually(func() bool {
			m := status(ctx, ssp).MTLS
			return m != nil && m.CleanSinceTime != nil && m.Evidence != nil && m.Evidence.ObservedTime != nil
		}).Should(BeTrue())
		since := status(ctx, ssp).MTLS.CleanSinceTime.Time
		// The stretch would be so much shorter if it started over, which a busy machine must not make up for.
		Eventually(time.Now).Should(BeTemporally(">", since.Add(5*time.Second)))
		one.stop()
		one.another()
		back := time.Now()
		Eventually(switched).WithArguments(ns).ShouldNot(BeZero())
		Expect(switched(ns)).To(And(BeTemporally(">=", since.Add(9*time.Second)), BeTemporally("<", back.Add(9*time.Second))))
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageEnforced))
	})

	It("starts over if plaintext was sent while it was down", func(ctx SpecContext) {
		ns, proxy := workload(ctx)
		one := startOperator(forProfilesOf(ns))
		ssp := profile(ctx, ns, "httpbin", ofOperator(ns), window("2s"))
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageObserving))
		one.stop()
		proxy.Plaintext(1)
		one.another()
		back := time.Now()
		Eventually(blockers(ssp)).WithContext(ctx).Should(ContainElement(v1alpha1.BlockerPlaintextSeen))
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageEnforced))
		Expect(switched(ns)).To(BeTemporally(">=", back.Add(2*time.Second)))
	})

	It("while blocked stays blocked, and forgets no caller", func(ctx SpecContext) {
		ns, proxy := workload(ctx)
		one := startOperator(forProfilesOf(ns))
		ssp := profile(ctx, ns, "httpbin", ofOperator(ns), window("2s"))
		Eventually(func(g Gomega) {
			proxy.Plaintext(1)
			g.Expect(blockers(ssp)(ctx)).To(ContainElement(v1alpha1.BlockerPlaintextSeen))
			g.Expect(status(ctx, ssp).MTLS.PlaintextCallers).To(HaveLen(1))
		}).Should(Succeed())
		one.stop()
		last := status(ctx, ssp).MTLS.LastPlaintextTime.Time
		one.another()
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageEnforced))
		// Status rounds to seconds, and never down.
		Expect(switched(ns)).To(BeTemporally(">=", last.Add(time.Second)))
	})

	It("while verifying goes on with that, also when status was lost", func(ctx SpecContext) {
		ns, _ := workload(ctx)
		one := startOperator(forProfilesOf(ns))
		ssp := profile(ctx, ns, "httpbin", ofOperator(ns), staged(func(r *v1alpha1.Rollout) { r.VerificationWindow = "3s" }))
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageVerifying))
		one.stop()
		patchStatus(ctx, ssp, `{"status": null}`)
		one.another()
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageVerifying))
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageEnforced))
		Expect(time.Now()).To(BeTemporally(">=", switched(ns).Add(3*time.Second-100*time.Millisecond)))
		Expect(peerSequence(ns)()).To(Equal("PERMISSIVE STRICT"))
	})

	It("when all is done changes nothing", func(ctx SpecContext) {
		ns, _ := workload(ctx)
		one := startOperator(forProfilesOf(ns))
		ssp := profile(ctx, ns, "httpbin", ofOperator(ns))
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageEnforced))
		Eventually(condition(ssp, v1alpha1.ConditionMutualTLSEnforced)).WithContext(ctx).Should(HavePrefix("True/MutualTLSEnforced"))
		Eventually(ruleMode(ns)).WithContext(ctx).Should(Equal("ISTIO_MUTUAL"))
		one.stop()
		before, versions := status(ctx, ssp), len(istiod.of(ns))
		one.another()
		Consistently(func(g Gomega) {
			g.Expect(status(ctx, ssp)).To(Equal(before))
			g.Expect(istiod.of(ns)).To(HaveLen(versions))
		}, 1500*time.Millisecond).Should(Succeed())
	})

	It("by a change of the leader goes on where the old one was", func(ctx SpecContext) {
		ns, _ := workload(ctx)
		one := startOperator(forProfilesOf(ns), func(o *operator) { o.elect = true })
		ssp := profile(ctx, ns, "httpbin", ofOperator(ns), window("4s"))
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageObserving))
		one.another()
		one.stop()
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageEnforced))
		Expect(peerSequence(ns)()).To(Equal("PERMISSIVE STRICT"))
	})
})

var _ = Describe("The target", func() {
	It("that selects other pods keeps STRICT on the old ones until the new ones have passed", func(ctx SpecContext) {
		ns, _, ssp := enforced(ctx)
		_, proxy := pod(ctx, ns, "next", "next-1", true)
		proxy.Plaintext(1)
		update(ctx, &corev1.Service{ObjectMeta: objectMeta(ns, "httpbin")}, func(s *corev1.Service) { s.Spec.Selector = map[string]string{"app": "next"} })
		Eventually(func(g Gomega) {
			proxy.Plaintext(1)
			g.Expect(blockers(ssp)(ctx)).To(ContainElement(v1alpha1.BlockerPlaintextSeen))
		}).Should(Succeed())
		peer, err := peerAuthentication(ctx, ns, "httpbin")
		Expect(err).NotTo(HaveOccurred())
		Expect(peer.Spec.Selector.MatchLabels).To(Equal(map[string]string{"app": "httpbin"}))
		calls(proxy)
		Eventually(func(g Gomega) {
			peer, err := peerAuthentication(ctx, ns, "httpbin")
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(peer.Spec.Selector.MatchLabels).To(Equal(map[string]string{"app": "next"}))
		}).Should(Succeed())
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageEnforced))
		Expect(peerSequence(ns)()).To(Equal("PERMISSIVE STRICT"))
	})

	It("that selects other pods is followed at once under PERMISSIVE", func(ctx SpecContext) {
		ns, _ := workload(ctx)
		profile(ctx, ns, "httpbin", mtls(v1alpha1.MTLS{Mode: v1alpha1.ModePermissive}))
		Eventually(peerMode(ns, "httpbin")).WithContext(ctx).Should(Equal("PERMISSIVE"))
		update(ctx, &corev1.Service{ObjectMeta: objectMeta(ns, "httpbin")}, func(s *corev1.Service) { s.Spec.Selector = map[string]string{"app": "next"} })
		Eventually(func(g Gomega) {
			peer, err := peerAuthentication(ctx, ns, "httpbin")
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(peer.Spec.Selector.MatchLabels).To(Equal(map[string]string{"app": "next"}))
		}).Should(Succeed())
	})

	It("that is deleted leaves what is in force", func(ctx SpecContext) {
		ns, _, ssp := enforced(ctx)
		Eventually(condition(ssp, v1alpha1.ConditionReady)).WithContext(ctx).Should(HavePrefix("True/Ready"))
		versions := len(istiod.of(ns))
		Expect(k8s.Delete(ctx, &corev1.Service{ObjectMeta: objectMeta(ns, "httpbin")})).To(Succeed())
		Eventually(condition(ssp, v1alpha1.ConditionReady)).WithContext(ctx).Should(And(
			HavePrefix("False/TargetNotFound"), ContainSubstring(`Service "httpbin" does not exist`)))
		Consistently(func() int { return len(istiod.of(ns)) }).Should(Equal(versions))
		Expect(status(ctx, ssp).MTLS.EffectiveMode).To(Equal(v1alpha1.ModeStrict))
		service(ctx, ns, "httpbin")
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageEnforced))
		Expect(peerSequence(ns)()).To(Equal("PERMISSIVE STRICT"))
	})
})

var _ = Describe("A profile that is deleted", func() {
	It("takes all its objects with it", func(ctx SpecContext) {
		ns, _, ssp := enforced(ctx)
		Eventually(ruleMode(ns)).WithContext(ctx).Should(Equal("ISTIO_MUTUAL"))
		Expect(ssp.Finalizers).To(BeEmpty())
		Expect(k8s.Delete(ctx, ssp)).To(Succeed())
		Eventually(generated(ns)).WithContext(ctx).Should(BeEmpty())
	})

	DescribeTable("tells no client to send plaintext that the server does not take", func(ctx SpecContext, how client.DeleteOption, order string) {
		ns, _ := workload(ctx)
		ssp := profile(ctx, ns, "httpbin", mtls(v1alpha1.MTLS{Mode: v1alpha1.ModeDisabled}))
		Eventually(peerMode(ns, "httpbin")).WithContext(ctx).Should(Equal("DISABLE"))
		Eventually(func(g Gomega) {
			peer, err := peerAuthentication(ctx, ns, "httpbin")
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(peer.OwnerReferences).To(HaveLen(2))
		}).Should(Succeed())
		Expect(k8s.Delete(ctx, ssp, how)).To(Succeed())
		Eventually(generated(ns)).WithContext(ctx).Should(BeEmpty())
		Eventually(bothSequence(ns)).Should(MatchRegexp(order))
	},
		Entry("in the background", client.PropagationPolicy(metav1.DeletePropagationBackground), "peer:DISABLE rule:gone peer:gone$"),
		// Dependents go first there by definition, which no owner reference can turn round.
		Entry("in the foreground, in any order", client.PropagationPolicy(metav1.DeletePropagationForeground), "gone peer:gone|gone rule:gone"),
	)
})
