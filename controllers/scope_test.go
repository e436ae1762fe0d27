package controllers_test

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

// whole makes a profile one for its whole namespace, or for the mesh.
func whole(kind v1alpha1.TargetKind) edit {
	return func(p *v1alpha1.ServiceSecurityProfile) { p.Spec.Target = v1alpha1.Target{Kind: kind} }
}

func at(mode v1alpha1.Mode) edit {
	return func(p *v1alpha1.ServiceSecurityProfile) {
		p.Spec.MTLS = &v1alpha1.MTLS{Mode: mode, Rollout: &v1alpha1.Rollout{Strategy: v1alpha1.StrategyImmediate}}
	}
}

var _ = Describe("A whole namespace", func() {
	It("comes to STRICT by one policy, and says which workload is an exception", func(ctx SpecContext) {
		ns, _ := workload(ctx)
		ssp := profile(ctx, ns, "all", whole(v1alpha1.TargetNamespace), at(v1alpha1.ModeStrict))
		Eventually(peerMode(ns, "default")).WithContext(ctx).Should(Equal("STRICT"))
		Eventually(condition(ssp, v1alpha1.ConditionMutualTLSEnforced)).WithContext(ctx).Should(HavePrefix("True/MutualTLSEnforced"))
		Expect(generated(ns)(ctx)).To(ConsistOf("PeerAuthentication/default"))
		Expect(status(ctx, ssp).Scope).To(Equal(v1alpha1.ScopeNamespace))

		exception := profile(ctx, ns, "httpbin", at(v1alpha1.ModePermissive))
		Eventually(condition(ssp, v1alpha1.ConditionMutualTLSEnforced)).WithContext(ctx).Should(And(
			HavePrefix("False/Overridden"), ContainSubstring(ns+"/httpbin")))
		Expect(status(ctx, ssp).MTLS.EffectiveMode).To(Equal(v1alpha1.ModePermissive))
		Expect(condition(ssp, v1alpha1.ConditionReady)(ctx)).To(HavePrefix("True/Ready"))
		Expect(status(ctx, exception).MTLS.InheritedMode).To(Equal(v1alpha1.ModeStrict))
		Expect(k8s.Delete(ctx, exception)).To(Succeed())
		Eventually(condition(ssp, v1alpha1.ConditionMutualTLSEnforced)).WithContext(ctx).Should(HavePrefix("True/"))

		Expect(k8s.Delete(ctx, ssp)).To(Succeed())
		Eventually(generated(ns)).WithContext(ctx).Should(BeEmpty())
	})

	It("has a rule for all its hosts with destinationRule Always, which spares what is outside the mesh", func(ctx SpecContext) {
		ns, _ := workload(ctx)
		service(ctx, ns, "old")
		pod(ctx, ns, "old", "old-1", false)
		ssp := profile(ctx, ns, "all", whole(v1alpha1.TargetNamespace), at(v1alpha1.ModeStrict), func(p *v1alpha1.ServiceSecurityProfile) {
			p.Spec.MTLS.DestinationRule = v1alpha1.DestinationRuleAlways
		})
		Eventually(generated(ns)).WithContext(ctx).Should(ConsistOf("PeerAuthentication/default", "DestinationRule/all", "DestinationRule/all-old"))
		var wide, narrow int64
		for _, v := range istiod.of(ns) {
			switch {
			case v.kind == "DestinationRule" && v.name == "all" && wide == 0:
				wide = v.written
			case v.kind == "DestinationRule" && v.name == "all-old" && narrow == 0:
				narrow = v.written
			}
		}
		Expect(narrow).To(BeNumerically("<", wide), "the exception is there first")
		Expect(k8s.Delete(ctx, &corev1.Pod{ObjectMeta: objectMeta(ns, "old-1")}, client.GracePeriodSeconds(0))).To(Succeed())
		Eventually(generated(ns)).WithContext(ctx).Should(ConsistOf("PeerAuthentication/default", "DestinationRule/all"))
		update(ctx, ssp, func(p *v1alpha1.ServiceSecurityProfile) { p.Spec.MTLS.DestinationRule = v1alpha1.DestinationRuleAuto })
		Eventually(generated(ns)).WithContext(ctx).Should(ConsistOf("PeerAuthentication/default"))
	})

	It("with another profile's tokens inside it says which of two sets of issuers cannot be", func(ctx SpecContext) {
		ns, _ := workload(ctx)
		wide := profile(ctx, ns, "all", whole(v1alpha1.TargetNamespace), sections(issuers("https://a.example.com"), nil))
		Eventually(condition(wide, v1alpha1.ConditionReady)).WithContext(ctx).Should(HavePrefix("True/Ready"))
		narrow := profile(ctx, ns, "httpbin", sections(issuers("https://b.example.com"), callers(map[string]v1alpha1.Method{"a": "GET"})))
		if older(ctx, narrow, wide) {
			wide, narrow = narrow, wide
		}
		Eventually(condition(narrow, v1alpha1.ConditionAccepted)).WithContext(ctx).Should(And(HavePrefix("False/Conflicted"), ContainSubstring("jwt")))
		Consistently(condition(wide, v1alpha1.ConditionAccepted), while).WithContext(ctx).Should(HavePrefix("True/"))
	})

	It("does not reach gateways unless that is said", func(ctx SpecContext) {
		ns, _ := workload(ctx)
		gateway(ctx, ns, "istio-ingressgateway")
		ssp := profile(ctx, ns, "all", whole(v1alpha1.TargetNamespace), sections(issuers("https://a.example.com"), nil))
		Eventually(condition(ssp, v1alpha1.ConditionAccepted)).WithContext(ctx).Should(And(
			HavePrefix("False/AffectsGateways"), ContainSubstring("istio-ingressgateway"), ContainSubstring("includeGateways")))
		Expect(generated(ns)(ctx)).To(BeEmpty())
		update(ctx, ssp, func(p *v1alpha1.ServiceSecurityProfile) { p.Spec.Target.IncludeGateways = ptr.To(true) })
		Eventually(generated(ns)).WithContext(ctx).Should(ConsistOf("RequestAuthentication/all", "AuthorizationPolicy/all-token"))
	})
})

// gateway makes a pod that runs a gateway's proxy.
func gateway(ctx context.Context, ns, name string) {
	GinkgoHelper()
	object := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Labels: map[string]string{"istio": "ingressgateway"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "istio-proxy", Image: "proxy", Args: []string{"proxy", "router", "--domain", "$(POD_NAMESPACE).svc.cluster.local"},
		}}},
	}
	Eventually(func() error { return k8s.Create(ctx, object) }).WithContext(ctx).Should(Succeed())
}

var _ = Describe("The mesh", func() {
	It("is governed from its root namespace only", func(ctx SpecContext) {
		ns, _ := workload(ctx)
		elsewhere := profile(ctx, ns, "mesh", whole(v1alpha1.TargetMesh), at(v1alpha1.ModePermissive))
		Eventually(condition(elsewhere, v1alpha1.ConditionAccepted)).WithContext(ctx).Should(And(HavePrefix("False/Invalid"), ContainSubstring(istioSystem)))
		Expect(generated(ns)(ctx)).To(BeEmpty())
		ssp := profile(ctx, istioSystem, "mesh", whole(v1alpha1.TargetMesh), at(v1alpha1.ModePermissive))
		Eventually(condition(ssp, v1alpha1.ConditionReady)).WithContext(ctx).Should(HavePrefix("True/Ready"))
		Expect(peerMode(istioSystem, "default")(ctx)).To(Equal("PERMISSIVE"))
		Expect(k8s.Delete(ctx, ssp)).To(Succeed())
		Eventually(func() error {
			_, err := peerAuthentication(ctx, istioSystem, "default")
			return client.IgnoreNotFound(err)
		}).Should(Succeed())
	})
})

var _ = Describe("A gateway", func() {
	It("is a workload of its own, without a say in mutual TLS", func(ctx SpecContext) {
		ns := namespace(ctx)
		gateway(ctx, ns, "entry")
		ssp := profile(ctx, ns, "entry", sections(issuers("https://a.example.com"), nil), func(p *v1alpha1.ServiceSecurityProfile) {
			p.Spec.Target = v1alpha1.Target{Kind: v1alpha1.TargetWorkload, Selector: &v1alpha1.WorkloadSelector{
				MatchLabels: map[string]v1alpha1.LabelValue{"istio": "ingressgateway"},
			}}
		})
		Eventually(condition(ssp, v1alpha1.ConditionReady)).WithContext(ctx).Should(HavePrefix("True/Ready"))
		Expect(status(ctx, ssp).Scope).To(Equal(v1alpha1.ScopeGateway))
		policy := &securityv1.AuthorizationPolicy{ObjectMeta: objectMeta(ns, "entry-token")}
		Expect(k8s.Get(ctx, client.ObjectKeyFromObject(policy), policy)).To(Succeed())
		Expect(policy.Spec.GetSelector().GetMatchLabels()).To(HaveKeyWithValue("istio", "ingressgateway"))
		update(ctx, ssp, at(v1alpha1.ModePermissive))
		Eventually(condition(ssp, v1alpha1.ConditionAccepted)).WithContext(ctx).Should(HavePrefix("False/Invalid"))
		Expect(generated(ns)(ctx)).To(ConsistOf("RequestAuthentication/entry", "AuthorizationPolicy/entry-token"))
	})

	It("of the Gateway API is not found where that API is not installed", func(ctx SpecContext) {
		ns := namespace(ctx)
		ssp := profile(ctx, ns, "entry", sections(issuers("https://a.example.com"), nil), func(p *v1alpha1.ServiceSecurityProfile) {
			p.Spec.Target = v1alpha1.Target{Kind: v1alpha1.TargetGateway, Name: "entry"}
		})
		Eventually(condition(ssp, v1alpha1.ConditionAccepted)).WithContext(ctx).Should(And(HavePrefix("False/TargetNotFound"), ContainSubstring("Gateway")))
	})
})
