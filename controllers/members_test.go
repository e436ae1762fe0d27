package controllers_test

import (
	"context"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	securityapi "istio.io/api/security/v1beta1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/test/playback"
)

// members reads which workloads have STRICT objects of their own, by the label app that these select.
func members(namespace string) func(context.Context) []string {
	return func(ctx context.Context) []string {
		var list securityv1.PeerAuthenticationList
		Expect(k8s.List(ctx, &list, client.InNamespace(namespace))).To(Succeed())
		names := []string{}
		for _, object := range list.Items {
			if labels := object.Spec.GetSelector().GetMatchLabels(); len(labels) > 0 && object.Spec.GetMtls().GetMode().String() == "STRICT" {
				names = append(names, labels["app"])
			}
		}
		return names
	}
}

// counted reads the workloads by stage.
func counted(ssp *v1alpha1.ServiceSecurityProfile) func(context.Context) v1alpha1.WorkloadCount {
	return func(ctx context.Context) v1alpha1.WorkloadCount {
		if mtls := status(ctx, ssp).MTLS; mtls != nil && mtls.Workloads != nil {
			return *mtls.Workloads
		}
		return v1alpha1.WorkloadCount{}
	}
}

// shop makes workloads, one pod each, that are called by mutual TLS.
func shop(ctx context.Context, apps ...string) (string, map[string]*playback.Proxy) {
	ns := namespace(ctx)
	proxies := map[string]*playback.Proxy{}
	for _, app := range apps {
		service(ctx, ns, app)
		_, proxy := pod(ctx, ns, app, app+"-1", true)
		calls(proxy)
		proxies[app] = proxy
	}
	return ns, proxies
}

var _ = Describe("A whole namespace in stages", func() {
	It("takes no workload to STRICT because the mesh is, where the namespace is an exception from that", func(ctx SpecContext) {
		policy := func(namespace string, mode securityapi.PeerAuthentication_MutualTLS_Mode) *securityv1.PeerAuthentication {
			return &securityv1.PeerAuthentication{
				ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "default", Annotations: map[string]string{v1alpha1.AnnotationAdopt: "all"}},
				Spec:       securityapi.PeerAuthentication{Mtls: peerIs(mode)},
			}
		}
		mesh := policy(istioSystem, securityapi.PeerAuthentication_MutualTLS_STRICT)
		Expect(k8s.Create(ctx, mesh)).To(Succeed())
		DeferCleanup(func(ctx SpecContext) { Expect(k8s.Delete(ctx, mesh)).To(Succeed()) })
		ns, proxies := shop(ctx, "cart", "orders")
		every(func() { proxies["orders"].Plaintext(1) })
		Expect(k8s.Create(ctx, policy(ns, securityapi.PeerAuthentication_MutualTLS_PERMISSIVE))).To(Succeed())

		ssp := profile(ctx, ns, "all", whole(v1alpha1.TargetNamespace))
		Eventually(members(ns)).WithContext(ctx).Should(ConsistOf("cart"))
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageBlocked))
		Consistently(members(ns)).WithContext(ctx).Should(ConsistOf("cart"))
		Expect(peerMode(ns, "default")(ctx)).To(Equal("PERMISSIVE"))
	})

	It("secures its clean workloads one by one, and itself after the last", func(ctx SpecContext) {
		ns, proxies := shop(ctx, "cart", "catalog", "orders", "payment", "users")
		proxies["orders"].Plaintext(7)
		ssp := profile(ctx, ns, "all", whole(v1alpha1.TargetNamespace))
		stop := every(func() {
			proxies["orders"].Plaintext(1)
			for _, p := range proxies {
				p.TakeConfiguration()
			}
		})

		By("four that are clean, while the fifth is named")
		Eventually(members(ns)).WithContext(ctx).Should(ConsistOf("cart", "catalog", "payment", "users"))
		Eventually(counted(ssp)).WithContext(ctx).Should(Equal(v1alpha1.WorkloadCount{Blocked: 1, Enforced: 4}))
		Expect(peerMode(ns, "default")(ctx)).To(Equal("PERMISSIVE"))
		Expect(stage(ssp)(ctx)).To(Equal(v1alpha1.StageBlocked))
		Expect(status(ctx, ssp).MTLS.Blockers).To(ContainElement(And(
			HaveField("Type", v1alpha1.BlockerPlaintextSeen), HaveField("Message", HavePrefix("Workload orders-1: Callers still send plaintext")))))
		Expect(condition(ssp, v1alpha1.ConditionReady)(ctx)).To(HavePrefix("False/PlaintextSeen: Workload orders-1"))
		Expect(status(ctx, ssp).MTLS.EffectiveMode).To(Equal(v1alpha1.ModePermissive))

		By("one that comes later")
		service(ctx, ns, "late")
		_, late := pod(ctx, ns, "late", "late-1", true)
		calls(late)
		every(late.TakeConfiguration)
		Eventually(members(ns)).WithContext(ctx).Should(ContainElement("late"))

		By("the last, and then the namespace by one object, without a moment of less")
		weaker := make(chan string, 100)
		watching := every(func() {
			list := members(ns)(ctx)
			if len(list) < 5 && peerMode(ns, "default")(ctx) != "STRICT" && peerMode(ns, "default")(ctx) != "STRICT" {
				select {
				case weaker <- strings.Join(list, ","):
				default:
				}
			}
		})
		stop()
		stop = every(func() {
			for _, p := range proxies {
				p.TakeConfiguration()
			}
		})
		Eventually(peerMode(ns, "default")).WithContext(ctx).Should(Equal("STRICT"))
		Eventually(generated(ns)).WithContext(ctx).Should(ConsistOf("PeerAuthentication/default"))
		watching()
		stop()
		Expect(weaker).To(BeEmpty())
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageEnforced))
		Eventually(counted(ssp)).WithContext(ctx).Should(Equal(v1alpha1.WorkloadCount{Enforced: 6}))
		Expect(status(ctx, ssp).MTLS.Rollouts).To(BeEmpty())
		Expect(condition(ssp, v1alpha1.ConditionMutualTLSEnforced)(ctx)).To(HavePrefix("True/MutualTLSEnforced"))
	})
})

var _ = Describe("A whole namespace in stages, on the way", func() {
	quick := func(proxies map[string]*playback.Proxy) {
		every(func() {
			for _, p := range proxies {
				p.TakeConfiguration()
			}
		})
	}

	It("asks for one approval for all workloads", func(ctx SpecContext) {
		ns, proxies := shop(ctx, "cart", "catalog")
		quick(proxies)
		ssp := profile(ctx, ns, "all", whole(v1alpha1.TargetNamespace), func(p *v1alpha1.ServiceSecurityProfile) {
			p.Spec.MTLS.Rollout.Approval = v1alpha1.ApprovalManual
		})
		Eventually(counted(ssp)).WithContext(ctx).Should(Equal(v1alpha1.WorkloadCount{AwaitingApproval: 2}))
		Eventually(condition(ssp, v1alpha1.ConditionReady)).WithContext(ctx).Should(HavePrefix("False/AwaitingApproval"))
		Consistently(members(ns), "1s").WithContext(ctx).Should(BeEmpty())
		token := status(ctx, ssp).MTLS.Approval.Token
		Expect(token).NotTo(BeEmpty())
		update(ctx, ssp, func(p *v1alpha1.ServiceSecurityProfile) {
			p.Annotations = map[string]string{v1alpha1.AnnotationApprove: token}
		})
		Eventually(peerMode(ns, "default")).WithContext(ctx).Should(Equal("STRICT"))
		Eventually(generated(ns)).WithContext(ctx).Should(ConsistOf("PeerAuthentication/default"))
	})

	It("shows the age of its workloads' readings in metrics", func(ctx SpecContext) {
		ns, _ := shop(ctx, "cart")
		o := startOperator(forProfilesOf(ns))
		ssp := profile(ctx, ns, "all", whole(v1alpha1.TargetNamespace), ofOperator(ns), staged(func(r *v1alpha1.Rollout) { r.ObservationWindow = "1h" }))
		Eventually(counted(ssp)).WithContext(ctx).Should(Equal(v1alpha1.WorkloadCount{Observing: 1}))
		Eventually(func() float64 { return total(o.metrics, "servicesecurity_observation_age_seconds") }).Should(BeNumerically(">", 0))
	})

	It("leaves an exception alone, and waits for a profile that is itself on its way", func(ctx SpecContext) {
		ns, proxies := shop(ctx, "cart", "catalog", "orders")
		quick(proxies)
		every(func() { proxies["orders"].Plaintext(1) })
		profile(ctx, ns, "catalog", at(v1alpha1.ModePermissive))
		own := profile(ctx, ns, "orders")
		Eventually(blockers(own)).WithContext(ctx).Should(ContainElement(v1alpha1.BlockerPlaintextSeen))
		ssp := profile(ctx, ns, "all", whole(v1alpha1.TargetNamespace))
		Eventually(counted(ssp)).WithContext(ctx).Should(Equal(v1alpha1.WorkloadCount{Observing: 1, Enforced: 1}))
		Expect(members(ns)(ctx)).To(ConsistOf("cart"))
		Expect(peerMode(ns, "catalog")(ctx)).To(Equal("PERMISSIVE"))
		Expect(condition(ssp, v1alpha1.ConditionMutualTLSEnforced)(ctx)).To(ContainSubstring("not there yet: orders-1."))
		Consistently(peerMode(ns, "default"), "1s").WithContext(ctx).Should(Equal("PERMISSIVE"))

		By("giving up the profile that waits")
		Expect(k8s.Delete(ctx, own)).To(Succeed())
		Eventually(blockers(ssp)).WithContext(ctx).Should(ContainElement(v1alpha1.BlockerPlaintextSeen))
	})

	It("takes over STRICT from its workloads without observing anew, by another operator too", func(ctx SpecContext) {
		ns, proxies := shop(ctx, "cart", "orders")
		quick(proxies)
		stop := every(func() { proxies["orders"].Plaintext(1) })
		o := startOperator(func(o *operator) { o.shard = "members" })
		ssp := profile(ctx, ns, "all", ofOperator("members"), whole(v1alpha1.TargetNamespace))
		Eventually(counted(ssp)).WithContext(ctx).Should(Equal(v1alpha1.WorkloadCount{Blocked: 1, Enforced: 1}))
		object, err := peerAuthentication(ctx, ns, facts.MemberName("all", "cart-1"))
		Expect(err).NotTo(HaveOccurred())
		o.stop()
		o.another()
		stop()
		Eventually(peerMode(ns, "default")).WithContext(ctx).Should(Equal("STRICT"))
		Eventually(generated(ns)).WithContext(ctx).Should(ConsistOf("PeerAuthentication/default"))
		Expect(object.Generation).To(BeEquivalentTo(1), "written once")
	})

	It("keeps STRICT for a workload that is scaled to zero", func(ctx SpecContext) {
		ns, proxies := shop(ctx, "cart", "orders")
		quick(proxies)
		every(func() { proxies["orders"].Plaintext(1) })
		ssp := profile(ctx, ns, "all", whole(v1alpha1.TargetNamespace))
		Eventually(counted(ssp)).WithContext(ctx).Should(Equal(v1alpha1.WorkloadCount{Blocked: 1, Enforced: 1}))
		gone := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "cart-1"}}
		Expect(k8s.Delete(ctx, gone, client.GracePeriodSeconds(0))).To(Succeed())
		Consistently(members(ns), "1s").WithContext(ctx).Should(ConsistOf("cart"))
		Expect(status(ctx, ssp).MTLS.Rollouts).To(ContainElement(HaveField("Name", "cart-1")))
	})

	It("becomes PERMISSIVE, and Immediate, by an edit", func(ctx SpecContext) {
		ns, proxies := shop(ctx, "cart", "orders")
		quick(proxies)
		every(func() { proxies["orders"].Plaintext(1) })
		ssp := profile(ctx, ns, "all", whole(v1alpha1.TargetNamespace))
		Eventually(members(ns)).WithContext(ctx).Should(ConsistOf("cart"))
		update(ctx, ssp, func(p *v1alpha1.ServiceSecurityProfile) {
			p.Spec.MTLS.Rollout.Strategy, p.Spec.MTLS.Rollout.Suspend = v1alpha1.StrategyImmediate, ptr.To(true)
		})
		Eventually(condition(ssp, v1alpha1.ConditionMutualTLSEnforced)).WithContext(ctx).Should(ContainSubstring("rollout.suspend is true"))
		Consistently(members(ns), "1s").WithContext(ctx).Should(ConsistOf("cart"), "suspended, it takes nothing away")
		update(ctx, ssp, func(p *v1alpha1.ServiceSecurityProfile) {
			p.Spec.MTLS.Mode, p.Spec.MTLS.Rollout.Suspend = v1alpha1.ModePermissive, nil
		})
		Eventually(generated(ns)).WithContext(ctx).Should(ConsistOf("PeerAuthentication/default"))
		Expect(peerMode(ns, "default")(ctx)).To(Equal("PERMISSIVE"))
		update(ctx, ssp, func(p *v1alpha1.ServiceSecurityProfile) {
			p.Spec.MTLS.Mode, p.Spec.MTLS.Rollout.Strategy = v1alpha1.ModeStrict, v1alpha1.StrategyImmediate
		})
		Eventually(peerMode(ns, "default")).WithContext(ctx).Should(Equal("STRICT"))
		Expect(k8s.Delete(ctx, ssp)).To(Succeed())
		Eventually(generated(ns)).WithContext(ctx).Should(BeEmpty())
	})
})
