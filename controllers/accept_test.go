package controllers_test

import (
	"context"
	"fmt"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

type edit = func(*v1alpha1.ServiceSecurityProfile)

var _ = Describe("A profile that cannot be accepted", func() {
	DescribeTable("says why and what to do, and writes nothing", func(ctx SpecContext, prepare func(ctx context.Context, ns string), change edit, reason, message string) {
		ns := namespace(ctx)
		prepare(ctx, ns)
		ssp := profile(ctx, ns, "httpbin", change)
		Eventually(condition(ssp, v1alpha1.ConditionAccepted)).WithContext(ctx).Should(And(
			HavePrefix("False/"+reason+": "), ContainSubstring(message)))
		Expect(condition(ssp, v1alpha1.ConditionProgrammed)(ctx)).To(HavePrefix("False/NotAccepted"))
		Expect(condition(ssp, v1alpha1.ConditionReady)(ctx)).To(And(HavePrefix("False/"+reason), ContainSubstring(message)))
		Expect(status(ctx, ssp).Conditions).To(HaveLen(len(v1alpha1.ConditionTypes)))
		Expect(generated(ns)(ctx)).To(BeEmpty())
		Eventually(told(ssp)).WithContext(ctx).Should(ConsistOf(And(HavePrefix(reason+": "), ContainSubstring(message))))
	},
		Entry("an unknown Service", nothing, same, "TargetNotFound", `Service "httpbin" does not exist`),
		Entry("an ExternalName Service", func(ctx context.Context, ns string) {
			serviceLike(ctx, ns, func(s *corev1.Service) {
				s.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "example.com"}
			})
		}, same, "TargetNotFound", "of type ExternalName"),
		Entry("a Service without a selector", func(ctx context.Context, ns string) {
			serviceLike(ctx, ns, func(s *corev1.Service) { s.Spec.Selector = nil })
		}, same, "TargetNotFound", "has no selector"),
		Entry("a port exception by the Service's port", ready, func(p *v1alpha1.ServiceSecurityProfile) {
			p.Spec.MTLS.PortLevel = []v1alpha1.PortMTLS{{Port: 8000, Mode: v1alpha1.ModePermissive}}
		}, "Invalid", "so write 8080"),
		Entry("a window of less than three intervals", ready, staged(func(r *v1alpha1.Rollout) { r.ObservationWindow = "299ms" }),
			"Invalid", "Write 300ms or more"),
		Entry("keys that are none", ready, func(p *v1alpha1.ServiceSecurityProfile) {
			p.Spec.JWT = &v1alpha1.JWT{Issuers: []v1alpha1.Issuer{{Issuer: "https://example.com", JWKS: `{"keys": [{"kty": "none"}]}`}}}
		}, "Invalid", `the jwks of issuer "https://example.com" is no JSON Web Key Set`),
		Entry("keys without any", ready, func(p *v1alpha1.ServiceSecurityProfile) {
			p.Spec.JWT = &v1alpha1.JWT{Issuers: []v1alpha1.Issuer{{Issuer: "https://example.com", JWKS: `{"keys": []}`}}}
		}, "Invalid", "has no key"),
		Entry("a private key", ready, func(p *v1alpha1.ServiceSecurityProfile) {
			p.Spec.JWT = &v1alpha1.JWT{Issuers: []v1alpha1.Issuer{{Issuer: "https://example.com", JWKS: `{"keys": [{"kty": "OKP", "crv": "Ed25519", "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`}}}
		}, "Invalid", "has a private or symmetric key"),
		Entry("tokens for a pod in ambient mode", func(ctx context.Context, ns string) {
			ready(ctx, ns)
			ambient := &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{
					Namespace: ns, Name: "ambient", Labels: map[string]string{"app": "httpbin"},
					Annotations: map[string]string{"ambient.istio.io/redirection": "enabled"},
				},
				Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "app"}}},
			}
			Eventually(func() error { return k8s.Create(ctx, ambient) }).WithContext(ctx).Should(Succeed())
		}, func(p *v1alpha1.ServiceSecurityProfile) {
			p.Spec.JWT = &v1alpha1.JWT{Issuers: []v1alpha1.Issuer{{Issuer: "https://example.com"}}}
		}, "Unsupported", "is in ambient mode"),
		Entry("a symmetric key", ready, func(p *v1alpha1.ServiceSecurityProfile) {
			p.Spec.JWT = &v1alpha1.JWT{Issuers: []v1alpha1.Issuer{{Issuer: "https://example.com", JWKS: `{"keys": [{"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"}]}`}}}
		}, "Invalid", "has a private or symmetric key"),
	)

	It("is accepted as soon as what was missing is there", func(ctx SpecContext) {
		ns := namespace(ctx)
		ssp := profile(ctx, ns, "httpbin")
		Eventually(condition(ssp, v1alpha1.ConditionAccepted)).WithContext(ctx).Should(HavePrefix("False/TargetNotFound"))
		service(ctx, ns, "httpbin")
		Eventually(condition(ssp, v1alpha1.ConditionAccepted)).WithContext(ctx).Should(HavePrefix("True/Accepted"))
		Eventually(blockers(ssp)).WithContext(ctx).Should(ContainElement(v1alpha1.BlockerNoPods))
		Eventually(condition(ssp, v1alpha1.ConditionReady)).WithContext(ctx).Should(HavePrefix("False/NoPods"))
		Eventually(peerMode(ns, "httpbin")).WithContext(ctx).Should(Equal("PERMISSIVE"))
	})

	It("gives way to an older one for the same target, and takes over when that goes", func(ctx SpecContext) {
		ns, _ := workload(ctx)
		winner := profile(ctx, ns, "httpbin", mtls(v1alpha1.MTLS{Mode: v1alpha1.ModePermissive}))
		Eventually(condition(winner, v1alpha1.ConditionReady)).WithContext(ctx).Should(HavePrefix("True/Ready"))
		// Of two of the same second the name decides.
		loser := profile(ctx, ns, "httpbin", named("zzz"), mtls(v1alpha1.MTLS{Mode: v1alpha1.ModeDisabled}))
		Eventually(condition(loser, v1alpha1.ConditionAccepted)).WithContext(ctx).Should(And(
			HavePrefix("False/Conflicted"), ContainSubstring(`Profile "httpbin"`), ContainSubstring("mtls")))
		Expect(condition(winner, v1alpha1.ConditionAccepted)(ctx)).To(HavePrefix("True/Accepted"))
		Expect(generated(ns)(ctx)).To(ConsistOf("PeerAuthentication/httpbin"))
		Expect(k8s.Delete(ctx, winner)).To(Succeed())
		Eventually(condition(loser, v1alpha1.ConditionReady)).WithContext(ctx).Should(HavePrefix("True/Ready"))
		Eventually(peerMode(ns, "zzz")).WithContext(ctx).Should(Equal("DISABLE"))
		Eventually(generated(ns)).WithContext(ctx).Should(ConsistOf("PeerAuthentication/zzz", "DestinationRule/zzz"))
	})

	It("is left alone while its namespace is being deleted", func(ctx SpecContext) {
		ns := namespace(ctx)
		held := service(ctx, ns, "httpbin")
		update(ctx, held, func(s *corev1.Service) { s.Finalizers = []string{"spec.servicesecurity.dev/hold"} })
		ssp := profile(ctx, ns, "httpbin", func(p *v1alpha1.ServiceSecurityProfile) {
			p.Finalizers = []string{"spec.servicesecurity.dev/hold"}
		})
		Eventually(generated(ns)).WithContext(ctx).ShouldNot(BeEmpty())
		Expect(k8s.Delete(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}})).To(Succeed())
		Eventually(generated(ns)).WithContext(ctx).Should(BeEmpty())
		Consistently(generated(ns)).WithContext(ctx).Should(BeEmpty())
		update(ctx, ssp, func(p *v1alpha1.ServiceSecurityProfile) { p.Finalizers = nil })
		update(ctx, held, func(s *corev1.Service) { s.Finalizers = nil })
		Eventually(func() error {
			return k8s.Get(ctx, client.ObjectKeyFromObject(ssp), &v1alpha1.ServiceSecurityProfile{})
		}).Should(MatchError(ContainSubstring("not found")))
	})
})

func nothing(context.Context, string) {}

func same(*v1alpha1.ServiceSecurityProfile) {}

func named(name string) edit {
	return func(p *v1alpha1.ServiceSecurityProfile) { p.Name = name }
}

func ready(ctx context.Context, ns string) {
	service(ctx, ns, "httpbin")
	pod(ctx, ns, "httpbin", "httpbin-1", true)
}

func serviceLike(ctx context.Context, ns string, change func(*corev1.Service)) {
	object := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "httpbin"},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "httpbin"}, Ports: []corev1.ServicePort{{Port: 8000}}},
	}
	change(object)
	Expect(k8s.Create(ctx, object)).To(Succeed(), fmt.Sprint(object.Spec))
}

var never = ptr.To[int64](0)
