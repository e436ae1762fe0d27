package controllers_test

import (
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	networkingapi "istio.io/api/networking/v1alpha3"
	securityapi "istio.io/api/security/v1beta1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

var _ = Describe("A mode", func() {
	It("Permissive is written and never observed", func(ctx SpecContext) {
		ns, proxy := workload(ctx)
		proxy.Answer(answer("text/html", "<html>"))
		ssp := profile(ctx, ns, "httpbin", mtls(v1alpha1.MTLS{Mode: v1alpha1.ModePermissive}))
		Eventually(condition(ssp, v1alpha1.ConditionReady)).WithContext(ctx).Should(HavePrefix("True/Ready"))
		Expect(peerSequence(ns)()).To(Equal("PERMISSIVE"))
		Expect(condition(ssp, v1alpha1.ConditionTrafficObserved)(ctx)).To(HavePrefix("Unknown/NotNeeded"))
		Expect(condition(ssp, v1alpha1.ConditionMutualTLSEnforced)(ctx)).To(HavePrefix("False/NotRequested"))
		Expect(stage(ssp)(ctx)).To(BeEmpty())
		Expect(generated(ns)(ctx)).To(ConsistOf("PeerAuthentication/httpbin"))
		Eventually(func() v1alpha1.Mode { return status(ctx, ssp).MTLS.EffectiveMode }).Should(Equal(v1alpha1.ModePermissive))
	})

	It("Disabled turns the clients off first", func(ctx SpecContext) {
		ns, _ := workload(ctx)
		profile(ctx, ns, "httpbin", mtls(v1alpha1.MTLS{Mode: v1alpha1.ModeDisabled}))
		Eventually(bothSequence(ns)).Should(Equal("peer:PERMISSIVE rule:DISABLE peer:DISABLE"))
		Consistently(bothSequence(ns)).Should(Equal("peer:PERMISSIVE rule:DISABLE peer:DISABLE"))
	})

	It("Strict, Immediate, is enforced without evidence, and says so", func(ctx SpecContext) {
		ns := namespace(ctx)
		service(ctx, ns, "httpbin")
		ssp := profile(ctx, ns, "httpbin", staged(func(r *v1alpha1.Rollout) { r.Strategy = v1alpha1.StrategyImmediate }))
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageEnforced))
		Expect(peerMode(ns, "httpbin")(ctx)).To(Equal("STRICT"))
		Expect(status(ctx, ssp).Warnings).To(ContainElement(HaveField("Type", v1alpha1.WarningObservationSkipped)))
	})

	It("with a port exception says so by the workload's port", func(ctx SpecContext) {
		ns, _ := workload(ctx)
		profile(ctx, ns, "httpbin", func(p *v1alpha1.ServiceSecurityProfile) {
			p.Spec.MTLS.PortLevel = []v1alpha1.PortMTLS{{Port: 8080, Mode: v1alpha1.ModePermissive}}
		})
		Eventually(peerMode(ns, "httpbin")).WithContext(ctx).Should(Equal("STRICT"))
		peer, err := peerAuthentication(ctx, ns, "httpbin")
		Expect(err).NotTo(HaveOccurred())
		Expect(peer.Spec.PortLevelMtls).To(HaveLen(1))
		Expect(peer.Spec.PortLevelMtls[8080].GetMode()).To(Equal(securityapi.PeerAuthentication_MutualTLS_PERMISSIVE))
		for _, v := range istiod.of(ns) {
			if v.kind == "PeerAuthentication" {
				Expect(v.says).NotTo(Equal("DISABLE"))
			}
		}
	})

	It("Permissive with a Strict port rolls that port out", func(ctx SpecContext) {
		ns, proxy := workload(ctx)
		proxy.Plaintext(1)
		ssp := profile(ctx, ns, "httpbin", func(p *v1alpha1.ServiceSecurityProfile) {
			p.Spec.MTLS.Mode = v1alpha1.ModePermissive
			p.Spec.MTLS.PortLevel = []v1alpha1.PortMTLS{{Port: 8080, Mode: v1alpha1.ModeStrict}}
		})
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageEnforced))
		peer, err := peerAuthentication(ctx, ns, "httpbin")
		Expect(err).NotTo(HaveOccurred())
		Expect(peer.Spec.GetMtls().GetMode()).To(Equal(securityapi.PeerAuthentication_MutualTLS_PERMISSIVE))
		Expect(peer.Spec.PortLevelMtls[8080].GetMode()).To(Equal(securityapi.PeerAuthentication_MutualTLS_STRICT))
	})

	DescribeTable("never puts STRICT and DISABLE side by side", func(ctx SpecContext, from, to v1alpha1.Mode, want string) {
		ns, _ := workload(ctx)
		mode := func(m v1alpha1.Mode) edit {
			return func(p *v1alpha1.ServiceSecurityProfile) { p.Spec.MTLS.Mode = m }
		}
		ssp := profile(ctx, ns, "httpbin", mode(from))
		Eventually(bothSequence(ns)).Should(HavePrefix(strings.Split(want, " | ")[0]))
		Eventually(condition(ssp, v1alpha1.ConditionReady)).WithContext(ctx).Should(HavePrefix("True/Ready"))
		update(ctx, ssp, mode(to))
		Eventually(bothSequence(ns)).Should(Equal(strings.ReplaceAll(want, " | ", " ")))
		noShortCut(ns)
	},
		Entry("from Strict to Disabled", v1alpha1.ModeStrict, v1alpha1.ModeDisabled,
			"peer:PERMISSIVE rule:ISTIO_MUTUAL peer:STRICT | peer:PERMISSIVE rule:DISABLE peer:DISABLE"),
		Entry("from Disabled to Strict", v1alpha1.ModeDisabled, v1alpha1.ModeStrict,
			"peer:PERMISSIVE rule:DISABLE peer:DISABLE | peer:PERMISSIVE rule:ISTIO_MUTUAL peer:STRICT"),
		Entry("from Strict to Permissive", v1alpha1.ModeStrict, v1alpha1.ModePermissive,
			"peer:PERMISSIVE rule:ISTIO_MUTUAL peer:STRICT | peer:PERMISSIVE rule:gone"),
	)
})

// noShortCut demands of the objects of a namespace that a server never went from STRICT to DISABLE or back, and never
// refused what clients were told to do.
func noShortCut(ns string) {
	GinkgoHelper()
	peer, rule := "", ""
	for _, v := range istiod.of(ns) {
		before := peer
		if v.kind == "PeerAuthentication" {
			peer = v.says
		} else {
			rule = v.says
		}
		Expect(before + " " + peer).NotTo(Or(Equal("STRICT DISABLE"), Equal("DISABLE STRICT")))
		Expect(peer + " " + rule).NotTo(Or(Equal("STRICT DISABLE"), Equal("DISABLE ISTIO_MUTUAL")))
	}
}

var _ = Describe("The DestinationRule", func() {
	strict := func(policy v1alpha1.DestinationRulePolicy) edit {
		return func(p *v1alpha1.ServiceSecurityProfile) { p.Spec.MTLS.DestinationRule = policy }
	}

	It("Always is there without a rollout", func(ctx SpecContext) {
		ns, _ := workload(ctx)
		profile(ctx, ns, "httpbin", strict(v1alpha1.DestinationRuleAlways), func(p *v1alpha1.ServiceSecurityProfile) {
			p.Spec.MTLS.Mode = v1alpha1.ModePermissive
		})
		Eventually(bothSequence(ns)).Should(Equal("peer:PERMISSIVE rule:ISTIO_MUTUAL"))
	})

	It("Never is not there, also under STRICT", func(ctx SpecContext) {
		ns, _, _ := enforced(ctx, strict(v1alpha1.DestinationRuleNever))
		Expect(bothSequence(ns)()).To(Equal("peer:PERMISSIVE peer:STRICT"))
	})

	It("Auto names the host in full, and excepts ports that are Disabled", func(ctx SpecContext) {
		ns := namespace(ctx)
		svc := service(ctx, ns, "httpbin")
		update(ctx, svc, func(s *corev1.Service) {
			s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "tcp-raw", Port: 9000, TargetPort: intstr.FromInt32(9090)})
		})
		_, proxy := pod(ctx, ns, "httpbin", "httpbin-1", true)
		calls(proxy)
		ssp := profile(ctx, ns, "httpbin", func(p *v1alpha1.ServiceSecurityProfile) {
			p.Spec.MTLS.PortLevel = []v1alpha1.PortMTLS{{Port: 9090, Mode: v1alpha1.ModeDisabled}}
		})
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageEnforced))
		Eventually(func(g Gomega) {
			rule, err := destinationRule(ctx, ns)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(rule.Spec.Host).To(Equal("httpbin." + ns + ".svc.cluster.local"))
			g.Expect(rule.Spec.TrafficPolicy.Tls.Mode).To(Equal(networkingapi.ClientTLSSettings_ISTIO_MUTUAL))
			g.Expect(rule.Spec.TrafficPolicy.PortLevelSettings).To(HaveLen(1))
			g.Expect(rule.Spec.TrafficPolicy.PortLevelSettings[0].Port.Number).To(Equal(uint32(9000)))
			g.Expect(rule.Spec.TrafficPolicy.PortLevelSettings[0].Tls.Mode).To(Equal(networkingapi.ClientTLSSettings_DISABLE))
			peer, err := peerAuthentication(ctx, ns, "httpbin")
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(peer.Spec.PortLevelMtls[9090].GetMode()).To(Equal(securityapi.PeerAuthentication_MutualTLS_DISABLE))
		}).Should(Succeed())
		noShortCut(ns)
	})

	It("Auto goes when an endpoint leaves the mesh, and comes back with it", func(ctx SpecContext) {
		ns, _, ssp := enforced(ctx)
		Eventually(ruleMode(ns)).WithContext(ctx).Should(Equal("ISTIO_MUTUAL"))
		plain, _ := pod(ctx, ns, "httpbin", "plain", false)
		Eventually(ruleMode(ns)).WithContext(ctx).Should(BeEmpty())
		Expect(peerMode(ns, "httpbin")(ctx)).To(Equal("STRICT"))
		Eventually(func() []v1alpha1.Warning { return status(ctx, ssp).Warnings }).Should(ContainElement(And(
			HaveField("Type", v1alpha1.WarningPodsNotInMesh), HaveField("Message", ContainSubstring("plain")))))
		Expect(k8s.Delete(ctx, plain)).To(Succeed())
		Eventually(ruleMode(ns)).WithContext(ctx).Should(Equal("ISTIO_MUTUAL"))
		Expect(peerSequence(ns)()).To(Equal("PERMISSIVE STRICT"))
	})
})
