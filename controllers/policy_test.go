package controllers_test

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	networkingapi "istio.io/api/networking/v1alpha3"
	securityapi "istio.io/api/security/v1beta1"
	typeapi "istio.io/api/type/v1beta1"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

func objectMeta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name}
}

// policy makes a PeerAuthentication of someone else, and takes it away after the spec.
func policy(ctx context.Context, ns, name string, mode securityapi.PeerAuthentication_MutualTLS_Mode, selector map[string]string) *securityv1.PeerAuthentication {
	GinkgoHelper()
	object := &securityv1.PeerAuthentication{ObjectMeta: objectMeta(ns, name)}
	object.Spec.Mtls = peerIs(mode)
	if selector != nil {
		object.Spec.Selector = &typeapi.WorkloadSelector{MatchLabels: selector}
	}
	Expect(k8s.Create(ctx, object)).To(Succeed())
	DeferCleanup(func(ctx SpecContext) { Expect(client.IgnoreNotFound(k8s.Delete(ctx, object))).To(Succeed()) })
	return object
}

// said is what the profile's own PeerAuthentication said one after another.
func said(ns, name string) []string {
	var out []string
	for _, v := range istiod.of(ns) {
		if v.kind == "PeerAuthentication" && v.name == name && (len(out) == 0 || out[len(out)-1] != v.says) {
			out = append(out, v.says)
		}
	}
	return out
}

const (
	permissive = securityapi.PeerAuthentication_MutualTLS_PERMISSIVE
	strict     = securityapi.PeerAuthentication_MutualTLS_STRICT
)

var _ = Describe("What is in force already", func() {
	for _, where := range []string{"the namespace", "the mesh"} {
		It("for "+where+" is never weakened", func(ctx SpecContext) {
			ns, proxy := workload(ctx)
			proxy.Plaintext(1)
			root := ns
			if where == "the mesh" {
				root = istioSystem
			}
			policy(ctx, root, "default", strict, nil)
			ssp := profile(ctx, ns, "httpbin")
			Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageEnforced))
			Eventually(peerMode(ns, "httpbin")).WithContext(ctx).Should(Equal("STRICT"))
			Expect(said(ns, "httpbin")).To(Equal([]string{"STRICT"}))
			Eventually(condition(ssp, v1alpha1.ConditionMutualTLSEnforced)).WithContext(ctx).Should(HavePrefix("True/MutualTLSEnforced"))
		})
	}

	It("is handed over to another profile that asks for it", func(ctx SpecContext) {
		ns, proxy := workload(ctx)
		proxy.MutualTLS("sleep", "clients", 100)
		giver := profile(ctx, ns, "httpbin")
		Eventually(stage(giver)).WithContext(ctx).Should(Equal(v1alpha1.StageEnforced))
		taker := profile(ctx, ns, "httpbin", func(p *v1alpha1.ServiceSecurityProfile) { p.Name = "taker" })
		Eventually(condition(taker, v1alpha1.ConditionAccepted)).WithContext(ctx).Should(HavePrefix("False/Conflicted"))
		update(ctx, giver, func(p *v1alpha1.ServiceSecurityProfile) {
			p.Spec.MTLS, p.Spec.JWT = nil, &v1alpha1.JWT{Issuers: []v1alpha1.Issuer{{Issuer: "https://issuer.example.com", JWKSURI: "https://issuer.example.com/keys"}}}
		})
		Eventually(stage(taker)).WithContext(ctx).Should(Equal(v1alpha1.StageEnforced))
		Eventually(func() []string { return said(ns, "httpbin") }).Should(Equal([]string{"PERMISSIVE", "STRICT", gone}))
		Expect(said(ns, "taker")).To(Equal([]string{"PERMISSIVE", "STRICT"}))
	})

	It("is followed when a parent becomes STRICT while observing", func(ctx SpecContext) {
		ns, proxy := workload(ctx)
		ssp := profile(ctx, ns, "httpbin")
		Eventually(func(g Gomega) {
			proxy.Plaintext(1)
			g.Expect(blockers(ssp)(ctx)).To(ContainElement(v1alpha1.BlockerPlaintextSeen))
		}).Should(Succeed())
		policy(ctx, ns, "default", strict, nil)
		Eventually(func(g Gomega) {
			proxy.Plaintext(1)
			g.Expect(stage(ssp)(ctx)).To(Equal(v1alpha1.StageEnforced))
		}).Should(Succeed())
		Expect(said(ns, "httpbin")).To(Equal([]string{"PERMISSIVE", "STRICT"}))
	})
})

var _ = Describe("What stands in the way", func() {
	// heals demands that the blocker is named, that nothing is switched while it is there, and that it goes.
	heals := func(ctx SpecContext, ns string, ssp *v1alpha1.ServiceSecurityProfile, kind v1alpha1.BlockerType, message string, mend func()) {
		GinkgoHelper()
		Eventually(blockers(ssp)).WithContext(ctx).Should(ContainElement(kind))
		Expect(status(ctx, ssp).MTLS.Blockers).To(ContainElement(HaveField("Message", ContainSubstring(message))))
		Consistently(func() []string { return said(ns, "httpbin") }).ShouldNot(ContainElement("STRICT"))
		Expect(stage(ssp)(ctx)).To(Equal(v1alpha1.StageBlocked))
		mend()
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageEnforced))
	}

	It("is an older PeerAuthentication for the same pods", func(ctx SpecContext) {
		ns, _ := workload(ctx)
		other := policy(ctx, ns, "aaa", permissive, map[string]string{"app": "httpbin"})
		ssp := profile(ctx, ns, "httpbin")
		heals(ctx, ns, ssp, v1alpha1.BlockerCompetingPeerAuthentication, "PeerAuthentication "+ns+"/aaa selects pod httpbin-1 too; Istio uses it instead",
			func() { Expect(k8s.Delete(ctx, other)).To(Succeed()) })
	})

	It("is what somebody else's STRICT refused, for a whole window after it", func(ctx SpecContext) {
		ns, _ := workload(ctx)
		other := policy(ctx, ns, "aaa", strict, map[string]string{"app": "httpbin"})
		ssp := profile(ctx, ns, "httpbin", staged(func(r *v1alpha1.Rollout) { r.ObservationWindow = "2s" }))
		Eventually(blockers(ssp)).WithContext(ctx).Should(ConsistOf(v1alpha1.BlockerCompetingPeerAuthentication))
		time.Sleep(2 * time.Second)
		Expect(k8s.Delete(ctx, other)).To(Succeed())
		Consistently(peerMode(ns, "httpbin"), "2s").WithContext(ctx).Should(Equal("PERMISSIVE"))
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageEnforced))
	})

	It("is a younger PeerAuthentication for the same pods", func(ctx SpecContext) {
		ns, _ := workload(ctx)
		ssp := profile(ctx, ns, "httpbin", staged(func(r *v1alpha1.Rollout) { r.ObservationWindow = "3s" }))
		Eventually(peerMode(ns, "httpbin")).WithContext(ctx).Should(Equal("PERMISSIVE"))
		other := policy(ctx, ns, "zzz", permissive, map[string]string{"app": "httpbin"})
		heals(ctx, ns, ssp, v1alpha1.BlockerCompetingPeerAuthentication, "PeerAuthentication "+ns+"/zzz selects pod httpbin-1 too; Istio ignores it",
			func() { Expect(k8s.Delete(ctx, other)).To(Succeed()) })
	})

	It("is a client's DestinationRule without TLS", func(ctx SpecContext) {
		ns, _ := workload(ctx)
		clients := namespace(ctx)
		rule := &networkingv1.DestinationRule{ObjectMeta: objectMeta(clients, "legacy")}
		rule.Spec.Host = "httpbin." + ns + ".svc.cluster.local"
		rule.Spec.TrafficPolicy = &networkingapi.TrafficPolicy{Tls: &networkingapi.ClientTLSSettings{Mode: networkingapi.ClientTLSSettings_DISABLE}}
		Expect(k8s.Create(ctx, rule)).To(Succeed())
		ssp := profile(ctx, ns, "httpbin")
		heals(ctx, ns, ssp, v1alpha1.BlockerPlaintextDestinationRule, "DestinationRule "+clients+"/legacy makes clients of httpbin."+ns,
			func() { Expect(k8s.Delete(ctx, rule)).To(Succeed()) })
	})

	It("is a pod without a sidecar, which no rule must cut off", func(ctx SpecContext) {
		ns, _ := workload(ctx)
		plain, _ := pod(ctx, ns, "httpbin", "plain", false)
		ssp := profile(ctx, ns, "httpbin")
		heals(ctx, ns, ssp, v1alpha1.BlockerPodsNotInMesh, "plain", func() {
			Expect(ruleMode(ns)(ctx)).To(BeEmpty())
			Expect(status(ctx, ssp).Pods).To(HaveValue(Equal(v1alpha1.PodCount{Total: 2, InMesh: 1})))
			Expect(condition(ssp, v1alpha1.ConditionReady)(ctx)).To(And(HavePrefix("False/PodsNotInMesh"), ContainSubstring("plain")))
			Expect(k8s.Delete(ctx, plain)).To(Succeed())
		})
	})
})
