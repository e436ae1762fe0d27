package controllers_test

import (
	"fmt"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"google.golang.org/protobuf/proto"
	networkingapi "istio.io/api/networking/v1alpha3"
	securityapi "istio.io/api/security/v1beta1"
	typeapi "istio.io/api/type/v1beta1"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

type peerEdit = func(*securityv1.PeerAuthentication)

type ruleEdit = func(*networkingv1.DestinationRule)

func peerIs(mode securityapi.PeerAuthentication_MutualTLS_Mode) *securityapi.PeerAuthentication_MutualTLS {
	return &securityapi.PeerAuthentication_MutualTLS{Mode: mode}
}

var _ = Describe("Drift", func() {
	It("is repaired, whatever is edited and whatever is deleted", func(ctx SpecContext) {
		ns, _, ssp := enforced(ctx)
		Eventually(ruleMode(ns)).WithContext(ctx).Should(Equal("ISTIO_MUTUAL"))
		Eventually(condition(ssp, v1alpha1.ConditionReady)).WithContext(ctx).Should(HavePrefix("True/Ready"))
		peer, err := peerAuthentication(ctx, ns, "httpbin")
		Expect(err).NotTo(HaveOccurred())
		rule, err := destinationRule(ctx, ns)
		Expect(err).NotTo(HaveOccurred())

		repaired := func(what string, since time.Time) {
			GinkgoHelper()
			Eventually(func(g Gomega) {
				p, err := peerAuthentication(ctx, ns, "httpbin")
				g.Expect(err).NotTo(HaveOccurred())
				g.Expect(proto.Equal(&p.Spec, &peer.Spec)).To(BeTrue(), p.Spec.String())
				g.Expect([]any{p.Labels, p.OwnerReferences, p.Annotations}).To(Equal([]any{peer.Labels, peer.OwnerReferences, peer.Annotations}))
				r, err := destinationRule(ctx, ns)
				g.Expect(err).NotTo(HaveOccurred())
				g.Expect(proto.Equal(&r.Spec, &rule.Spec)).To(BeTrue(), r.Spec.String())
				g.Expect([]any{r.Labels, r.OwnerReferences, r.Annotations}).To(Equal([]any{rule.Labels, rule.OwnerReferences, rule.Annotations}))
			}).WithPolling(2*time.Millisecond).Should(Succeed(), what)
			AddReportEntry("Repair of "+what, time.Since(since).Round(time.Millisecond).String())
			GinkgoWriter.Printf("Repair of %s: %s\n", what, time.Since(since).Round(time.Millisecond))
		}
		peers := map[string]peerEdit{
			"PeerAuthentication: mode PERMISSIVE": func(p *securityv1.PeerAuthentication) {
				p.Spec.Mtls = peerIs(securityapi.PeerAuthentication_MutualTLS_PERMISSIVE)
			},
			"PeerAuthentication: mode DISABLE": func(p *securityv1.PeerAuthentication) {
				p.Spec.Mtls = peerIs(securityapi.PeerAuthentication_MutualTLS_DISABLE)
			},
			"PeerAuthentication: mode unset": func(p *securityv1.PeerAuthentication) { p.Spec.Mtls = nil },
			"PeerAuthentication: another selector": func(p *securityv1.PeerAuthentication) {
				p.Spec.Selector = &typeapi.WorkloadSelector{MatchLabels: map[string]string{"app": "other"}}
			},
			"PeerAuthentication: a longer selector": func(p *securityv1.PeerAuthentication) { p.Spec.Selector.MatchLabels["version"] = "v1" },
			"PeerAuthentication: no selector":       func(p *securityv1.PeerAuthentication) { p.Spec.Selector = nil },
			"PeerAuthentication: portLevelMtls": func(p *securityv1.PeerAuthentication) {
				p.Spec.PortLevelMtls = map[uint32]*securityapi.PeerAuthentication_MutualTLS{8080: peerIs(securityapi.PeerAuthentication_MutualTLS_DISABLE)}
			},
			"PeerAuthentication: labels": func(p *securityv1.PeerAuthentication) { p.Labels = nil },
			"PeerAuthentication: annotations": func(p *securityv1.PeerAuthentication) {
				p.Annotations = map[string]string{v1alpha1.AnnotationPreviousMode: "Disabled"}
			},
			"PeerAuthentication: no controller": func(p *securityv1.PeerAuthentication) {
				p.OwnerReferences[0].Controller, p.OwnerReferences[0].BlockOwnerDeletion = ptr.To(true), nil
			},
		}
		for what, change := range peers {
			update(ctx, peer, change)
			repaired(what, time.Now())
		}
		rules := map[string]ruleEdit{
			"DestinationRule: tls DISABLE": func(r *networkingv1.DestinationRule) {
				r.Spec.TrafficPolicy.Tls.Mode = networkingapi.ClientTLSSettings_DISABLE
			},
			"DestinationRule: tls SIMPLE": func(r *networkingv1.DestinationRule) {
				r.Spec.TrafficPolicy.Tls.Mode = networkingapi.ClientTLSSettings_SIMPLE
			},
			"DestinationRule: no trafficPolicy": func(r *networkingv1.DestinationRule) { r.Spec.TrafficPolicy = nil },
			"DestinationRule: host":             func(r *networkingv1.DestinationRule) { r.Spec.Host = "other.example.com" },
			"DestinationRule: sni":              func(r *networkingv1.DestinationRule) { r.Spec.TrafficPolicy.Tls.Sni = "x" },
			"DestinationRule: a port": func(r *networkingv1.DestinationRule) {
				r.Spec.TrafficPolicy.PortLevelSettings = []*networkingapi.TrafficPolicy_PortTrafficPolicy{{
					Port: &networkingapi.PortSelector{Number: 8000}, Tls: &networkingapi.ClientTLSSettings{Mode: networkingapi.ClientTLSSettings_DISABLE},
				}}
			},
			"DestinationRule: a subset":      func(r *networkingv1.DestinationRule) { r.Spec.Subsets = []*networkingapi.Subset{{Name: "v1"}} },
			"DestinationRule: exportTo":      func(r *networkingv1.DestinationRule) { r.Spec.ExportTo = []string{"."} },
			"DestinationRule: another label": func(r *networkingv1.DestinationRule) { r.Labels["app.kubernetes.io/managed-by"] = "me" },
		}
		for what, change := range rules {
			update(ctx, rule, change)
			repaired(what, time.Now())
		}
		By("deleting")
		Expect(k8s.Delete(ctx, peer)).To(Succeed())
		repairedAgain := func(what string, object client.Object, since time.Time) {
			GinkgoHelper()
			Eventually(func() error { return k8s.Get(ctx, client.ObjectKeyFromObject(object), object) }).WithPolling(2 * time.Millisecond).Should(Succeed())
			repaired(what, since)
		}
		repairedAgain("PeerAuthentication: deleted", &securityv1.PeerAuthentication{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "httpbin"}}, time.Now())
		Expect(k8s.Delete(ctx, rule)).To(Succeed())
		repairedAgain("DestinationRule: deleted", &networkingv1.DestinationRule{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "httpbin"}}, time.Now())
		Expect(stage(ssp)(ctx)).To(Equal(v1alpha1.StageEnforced))
		// What someone else weakens is restored, not rolled out again.
		Expect(stages(ssp)(ctx)).To(HaveExactElements("Observing", "Verifying", "Enforced"))
	})

	It("leaves alone what others added", func(ctx SpecContext) {
		ns, _ := workload(ctx)
		profile(ctx, ns, "httpbin", mtls(v1alpha1.MTLS{Mode: v1alpha1.ModePermissive}))
		Eventually(peerMode(ns, "httpbin")).WithContext(ctx).Should(Equal("PERMISSIVE"))
		peer, err := peerAuthentication(ctx, ns, "httpbin")
		Expect(err).NotTo(HaveOccurred())
		update(ctx, peer, func(p *securityv1.PeerAuthentication) {
			p.Labels["team"] = "a"
			p.Annotations = map[string]string{"note": "b"}
			p.Spec.Mtls = peerIs(securityapi.PeerAuthentication_MutualTLS_DISABLE)
		})
		Eventually(peerMode(ns, "httpbin")).WithContext(ctx).Should(Equal("PERMISSIVE"))
		peer, err = peerAuthentication(ctx, ns, "httpbin")
		Expect(err).NotTo(HaveOccurred())
		Expect(peer.Labels).To(HaveKeyWithValue("team", "a"))
		Expect(peer.Annotations).To(HaveKeyWithValue("note", "b"))
	})

	It("of a status that was wiped is repaired", func(ctx SpecContext) {
		_, _, ssp := enforced(ctx)
		Eventually(condition(ssp, v1alpha1.ConditionReady)).WithContext(ctx).Should(HavePrefix("True/Ready"))
		patchStatus(ctx, ssp, `{"status": null}`)
		Eventually(condition(ssp, v1alpha1.ConditionReady)).WithContext(ctx).Should(HavePrefix("True/Ready"))
		Expect(stage(ssp)(ctx)).To(Equal(v1alpha1.StageEnforced))
	})
})

var _ = Describe("An object of the same name that someone else made", func() {
	foreign := func(ctx SpecContext, ns string, mode securityapi.PeerAuthentication_MutualTLS_Mode, change ...peerEdit) *securityv1.PeerAuthentication {
		object := &securityv1.PeerAuthentication{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "httpbin"}}
		object.Spec.Selector = &typeapi.WorkloadSelector{MatchLabels: map[string]string{"app": "httpbin"}}
		object.Spec.Mtls = peerIs(mode)
		for _, c := range change {
			c(object)
		}
		Expect(k8s.Create(ctx, object)).To(Succeed())
		return object
	}

	It("is left alone, and taken over in place once its owner allows it", func(ctx SpecContext) {
		ns, _ := workload(ctx)
		object := foreign(ctx, ns, securityapi.PeerAuthentication_MutualTLS_STRICT)
		ssp := profile(ctx, ns, "httpbin")
		Eventually(condition(ssp, v1alpha1.ConditionProgrammed)).WithContext(ctx).Should(And(
			HavePrefix("False/ForeignObject"), ContainSubstring("PeerAuthentication "+ns+"/httpbin"), ContainSubstring("servicesecurity.dev/adopt: httpbin")))
		Expect(condition(ssp, v1alpha1.ConditionReady)(ctx)).To(HavePrefix("False/ForeignObject"))
		Consistently(func(g Gomega) {
			live, err := peerAuthentication(ctx, ns, "httpbin")
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(live.ResourceVersion).To(Equal(object.ResourceVersion))
		}).Should(Succeed())
		Expect(told(ssp)(ctx)).To(ContainElement(HavePrefix("ForeignObject: ")))

		update(ctx, object, func(p *securityv1.PeerAuthentication) {
			p.Annotations = map[string]string{v1alpha1.AnnotationAdopt: "httpbin"}
		})
		Eventually(condition(ssp, v1alpha1.ConditionProgrammed)).WithContext(ctx).Should(HavePrefix("True/Programmed"))
		live, err := peerAuthentication(ctx, ns, "httpbin")
		Expect(err).NotTo(HaveOccurred())
		Expect(live.UID).To(Equal(object.UID))
		Expect(metav1.IsControlledBy(live, ssp)).To(BeTrue())
		Expect(peerSequence(ns)()).To(Equal("STRICT"))
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageEnforced))
	})

	It("that is controlled by something else is left alone, adoption or not", func(ctx SpecContext) {
		ns, _ := workload(ctx)
		owner := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "chart"}}
		Expect(k8s.Create(ctx, owner)).To(Succeed())
		object := foreign(ctx, ns, securityapi.PeerAuthentication_MutualTLS_PERMISSIVE, func(p *securityv1.PeerAuthentication) {
			p.Annotations = map[string]string{v1alpha1.AnnotationAdopt: "httpbin"}
			p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "chart", UID: owner.UID, Controller: ptr.To(true)}}
		})
		ssp := profile(ctx, ns, "httpbin")
		Eventually(condition(ssp, v1alpha1.ConditionProgrammed)).WithContext(ctx).Should(And(
			HavePrefix("False/ForeignObject"), ContainSubstring("controlled by ConfigMap/chart")))
		live, err := peerAuthentication(ctx, ns, "httpbin")
		Expect(err).NotTo(HaveOccurred())
		Expect(live.ResourceVersion).To(Equal(object.ResourceVersion))
	})

	It("that says what a profile cannot is not taken over", func(ctx SpecContext) {
		ns, _ := workload(ctx)
		object := &networkingv1.DestinationRule{ObjectMeta: metav1.ObjectMeta{
			Namespace: ns, Name: "httpbin", Annotations: map[string]string{v1alpha1.AnnotationAdopt: "httpbin"},
		}}
		object.Spec.Host = fmt.Sprintf("httpbin.%s.svc.cluster.local", ns)
		object.Spec.Subsets = []*networkingapi.Subset{{Name: "v1", Labels: map[string]string{"version": "v1"}}}
		Expect(k8s.Create(ctx, object)).To(Succeed())
		ssp := profile(ctx, ns, "httpbin", func(p *v1alpha1.ServiceSecurityProfile) {
			p.Spec.MTLS.DestinationRule = v1alpha1.DestinationRuleAlways
		})
		Eventually(condition(ssp, v1alpha1.ConditionProgrammed)).WithContext(ctx).Should(And(
			HavePrefix("False/ForeignObject"), ContainSubstring("cannot be adopted"), ContainSubstring("subsets")))
		live, err := destinationRule(ctx, ns)
		Expect(err).NotTo(HaveOccurred())
		Expect(live.ResourceVersion).To(Equal(object.ResourceVersion))
	})
})
