package controllers_test

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	securityapi "istio.io/api/security/v1beta1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

// sections replaces all of a profile's spec but its target.
func sections(jwt *v1alpha1.JWT, authorization *v1alpha1.Authorization) edit {
	return func(p *v1alpha1.ServiceSecurityProfile) {
		p.Spec.MTLS, p.Spec.JWT, p.Spec.Authorization = nil, jwt, authorization
	}
}

func issuers(names ...v1alpha1.Text) *v1alpha1.JWT {
	jwt := &v1alpha1.JWT{}
	for _, name := range names {
		jwt.Issuers = append(jwt.Issuers, v1alpha1.Issuer{Issuer: name})
	}
	return jwt
}

// callers allows some methods to each caller, and denies others to everybody.
func callers(allowed map[string]v1alpha1.Method, denied ...v1alpha1.Method) *v1alpha1.Authorization {
	a := &v1alpha1.Authorization{}
	for name, method := range allowed {
		a.AllowedCallers = append(a.AllowedCallers, v1alpha1.Caller{
			Name: name, ServiceAccounts: []v1alpha1.ServiceAccountRef{v1alpha1.ServiceAccountRef(name)},
			Operations: []v1alpha1.Operation{{Methods: []v1alpha1.Method{method}}},
		})
	}
	if len(denied) > 0 {
		a.DeniedCallers = []v1alpha1.Caller{{Name: "nobody", Operations: []v1alpha1.Operation{{Methods: denied}}}}
	}
	return a
}

func authorizationPolicy(ns, name string) *securityv1.AuthorizationPolicy {
	return &securityv1.AuthorizationPolicy{ObjectMeta: objectMeta(ns, name)}
}

var _ = Describe("Tokens and callers", func() {
	It("are written and taken away in an order that breaks nobody, with a pause in between", func(ctx SpecContext) {
		ns, _ := workload(ctx)
		ssp := profile(ctx, ns, "httpbin", sections(issuers("https://a.example.com", "https://b.example.com"), nil))
		Eventually(condition(ssp, v1alpha1.ConditionProgrammed)).WithContext(ctx).Should(HavePrefix("True/Programmed"))
		Expect(generated(ns)(ctx)).To(ConsistOf("RequestAuthentication/httpbin", "AuthorizationPolicy/httpbin-token"))
		Expect(condition(ssp, v1alpha1.ConditionAuthorizationEnforced)(ctx)).To(HavePrefix("False/NotRequested"))
		tokens := &securityv1.RequestAuthentication{ObjectMeta: objectMeta(ns, "httpbin")}
		Eventually(func(g Gomega) {
			g.Expect(k8s.Get(ctx, client.ObjectKeyFromObject(tokens), tokens)).To(Succeed())
			g.Expect(tokens.OwnerReferences).To(ContainElement(HaveField("Name", "httpbin-token")))
		}).Should(Succeed())

		update(ctx, ssp, func(p *v1alpha1.ServiceSecurityProfile) {
			p.Spec.JWT = nil
			p.Spec.MTLS = &v1alpha1.MTLS{Mode: v1alpha1.ModePermissive}
		})
		Eventually(generated(ns)).WithContext(ctx).Should(ConsistOf("PeerAuthentication/httpbin"))
		Eventually(policySequence(ns)).Should(Equal([]string{
			"httpbin: 2 issuers", "httpbin-token: DENY 2 rules", "httpbin-token: gone", "httpbin: gone",
		}))
		var times []time.Time
		for _, v := range istiod.of(ns) {
			if v.kind == "AuthorizationPolicy" || v.kind == "RequestAuthentication" && (len(times) == 0 || v.says == gone) {
				times = append(times, v.seen)
			}
		}
		Expect(times).To(HaveLen(4))
		Expect(times[1].Sub(times[0])).To(BeNumerically(">=", settle*9/10))
		Expect(times[3].Sub(times[2])).To(BeNumerically(">=", settle*9/10))
	})

	It("go from old to new without a moment in which a door is open", func(ctx SpecContext) {
		ns, _ := workload(ctx)
		ssp := profile(ctx, ns, "httpbin", sections(nil, callers(map[string]v1alpha1.Method{"a": "GET"}, "POST")))
		Eventually(condition(ssp, v1alpha1.ConditionAuthorizationEnforced)).WithContext(ctx).Should(HavePrefix("True/"))
		Eventually(told(ssp)).WithContext(ctx).Should(ContainElement(HavePrefix("AuthorizationEnforced: The profile lets in only these callers: a. These callers are refused: nobody.")))
		update(ctx, ssp, sections(nil, callers(map[string]v1alpha1.Method{"a": "PUT", "b": "GET"}, "DELETE")))
		Eventually(policySequence(ns)).Should(Equal([]string{
			"httpbin-deny: DENY 1 rules", "httpbin: ALLOW 1 rules",
			"httpbin-deny: DENY 2 rules", "httpbin: ALLOW 2 rules", "httpbin-deny: DENY 1 rules",
		}))
	})

	It("are written all or not at all", func(ctx SpecContext) {
		ns, _ := workload(ctx)
		foreign := authorizationPolicy(ns, "httpbin-deny")
		foreign.Spec.Action = securityapi.AuthorizationPolicy_AUDIT
		Expect(k8s.Create(ctx, foreign)).To(Succeed())
		ssp := profile(ctx, ns, "httpbin", sections(issuers("https://a.example.com"), callers(map[string]v1alpha1.Method{"a": "GET"}, "POST")))
		Eventually(condition(ssp, v1alpha1.ConditionProgrammed)).WithContext(ctx).Should(And(
			HavePrefix("False/ForeignObject"), ContainSubstring("AuthorizationPolicy "+ns+"/httpbin-deny")))
		Expect(condition(ssp, v1alpha1.ConditionAuthorizationEnforced)(ctx)).To(HavePrefix("False/ForeignObject"))
		Expect(generated(ns)(ctx)).To(BeEmpty())
		Expect(k8s.Delete(ctx, foreign)).To(Succeed())
		Eventually(condition(ssp, v1alpha1.ConditionReady)).WithContext(ctx).Should(HavePrefix("True/Ready"))
		Expect(generated(ns)(ctx)).To(ConsistOf("RequestAuthentication/httpbin", "AuthorizationPolicy/httpbin-token",
			"AuthorizationPolicy/httpbin-deny", "AuthorizationPolicy/httpbin"))
	})

	It("stay as they are when the profile is edited into nonsense", func(ctx SpecContext) {
		ns, _ := workload(ctx)
		ssp := profile(ctx, ns, "httpbin", sections(issuers("https://a.example.com"), callers(map[string]v1alpha1.Method{"a": "GET"})))
		Eventually(condition(ssp, v1alpha1.ConditionReady)).WithContext(ctx).Should(HavePrefix("True/Ready"))
		before := policySequence(ns)()
		update(ctx, ssp, func(p *v1alpha1.ServiceSecurityProfile) {
			p.Spec.JWT.Issuers[0].JWKS = `{"keys": [{}]}`
			p.Spec.Authorization = nil
		})
		Eventually(condition(ssp, v1alpha1.ConditionAccepted)).WithContext(ctx).Should(HavePrefix("False/Invalid"))
		Consistently(policySequence(ns), while).Should(Equal(before))
	})

	It("are repaired, whatever is edited and whatever is deleted", func(ctx SpecContext) {
		ns, _ := workload(ctx)
		ssp := profile(ctx, ns, "httpbin", sections(issuers("https://a.example.com"), callers(map[string]v1alpha1.Method{"a": "GET"}, "POST")))
		Eventually(condition(ssp, v1alpha1.ConditionReady)).WithContext(ctx).Should(HavePrefix("True/Ready"))
		edits := map[string]func(*securityv1.AuthorizationPolicy){
			"action":       func(p *securityv1.AuthorizationPolicy) { p.Spec.Action = securityapi.AuthorizationPolicy_AUDIT },
			"rules":        func(p *securityv1.AuthorizationPolicy) { p.Spec.Rules = []*securityapi.Rule{{}} },
			"selector":     func(p *securityv1.AuthorizationPolicy) { p.Spec.Selector = nil },
			"dry run":      func(p *securityv1.AuthorizationPolicy) { p.Annotations = map[string]string{"istio.io/dry-run": "true"} },
			"ownership":    func(p *securityv1.AuthorizationPolicy) { p.OwnerReferences[0].BlockOwnerDeletion = nil },
			"what deletes": nil,
		}
		for _, name := range []string{"httpbin", "httpbin-deny", "httpbin-token"} {
			want := authorizationPolicy(ns, name)
			Expect(k8s.Get(ctx, client.ObjectKeyFromObject(want), want)).To(Succeed())
			for what, change := range edits {
				if change == nil {
					Expect(k8s.Delete(ctx, want.DeepCopy())).To(Succeed())
				} else {
					update(ctx, want, change)
				}
				Eventually(func(g Gomega) {
					live := authorizationPolicy(ns, name)
					g.Expect(k8s.Get(ctx, client.ObjectKeyFromObject(live), live)).To(Succeed())
					g.Expect(live.Spec.String()).To(Equal(want.Spec.String()))
					g.Expect(live.Annotations).To(BeEmpty())
					g.Expect(live.OwnerReferences).To(Equal(want.OwnerReferences))
				}).Should(Succeed(), "%s of %s", what, name)
			}
		}
		tokens := &securityv1.RequestAuthentication{ObjectMeta: objectMeta(ns, "httpbin")}
		update(ctx, tokens, func(r *securityv1.RequestAuthentication) { r.Spec.JwtRules[0].Issuer = "https://evil.example.com" })
		Eventually(func(g Gomega) {
			g.Expect(k8s.Get(ctx, client.ObjectKeyFromObject(tokens), tokens)).To(Succeed())
			g.Expect(tokens.Spec.JwtRules[0].Issuer).To(Equal("https://a.example.com"))
		}).Should(Succeed())
	})

	It("go with the profile, the tokens last", func(ctx SpecContext) {
		ns, _ := workload(ctx)
		ssp := profile(ctx, ns, "httpbin", sections(issuers("https://a.example.com"), callers(map[string]v1alpha1.Method{"a": "GET"})))
		Eventually(condition(ssp, v1alpha1.ConditionReady)).WithContext(ctx).Should(HavePrefix("True/Ready"))
		Expect(k8s.Delete(ctx, ssp)).To(Succeed())
		Eventually(generated(ns)).WithContext(ctx).Should(BeEmpty())
		// The garbage collector takes the tokens' owners off one by one, the profile first.
		Eventually(func(g Gomega) {
			versions := istiod.of(ns)
			last := versions[len(versions)-1]
			g.Expect([]string{last.kind, last.says}).To(Equal([]string{"RequestAuthentication", gone}))
		}).Should(Succeed())
	})

	It("of two profiles are told apart by section: the loser keeps what it has until the winner's is in force", func(ctx SpecContext) {
		ns, _ := workload(ctx)
		loser := profile(ctx, ns, "httpbin", named("zzz"), sections(issuers("https://a.example.com"), callers(map[string]v1alpha1.Method{"a": "GET"})))
		Eventually(condition(loser, v1alpha1.ConditionReady)).WithContext(ctx).Should(HavePrefix("True/Ready"))
		winner := profile(ctx, ns, "httpbin", named("aaa"), sections(nil, callers(map[string]v1alpha1.Method{"b": "GET"})))
		if older(ctx, loser, winner) {
			loser, winner = winner, loser
		}
		Eventually(condition(loser, v1alpha1.ConditionAccepted)).WithContext(ctx).Should(And(HavePrefix("False/Conflicted"), ContainSubstring("authorization")))
		Eventually(condition(winner, v1alpha1.ConditionReady)).WithContext(ctx).Should(HavePrefix("True/Ready"))
		// One policy lets callers in, and it is the winner's; the tokens stay, whoever has them.
		Eventually(generated(ns)).WithContext(ctx).Should(ConsistOf("RequestAuthentication/zzz", "AuthorizationPolicy/zzz-token",
			"AuthorizationPolicy/"+winner.Name))
		Expect(k8s.Delete(ctx, winner)).To(Succeed())
		Eventually(generated(ns)).WithContext(ctx).Should(ContainElement("AuthorizationPolicy/" + loser.Name))
		Eventually(condition(loser, v1alpha1.ConditionAuthorizationEnforced)).WithContext(ctx).Should(HavePrefix("True/"))
	})
})

func older(ctx context.Context, a, b *v1alpha1.ServiceSecurityProfile) bool {
	GinkgoHelper()
	for _, p := range []*v1alpha1.ServiceSecurityProfile{a, b} {
		Expect(k8s.Get(ctx, client.ObjectKeyFromObject(p), p)).To(Succeed())
	}
	at, bt := a.CreationTimestamp, b.CreationTimestamp
	return at.Before(&bt) || at.Equal(&bt) && a.Name < b.Name
}
