package controllers_test

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/test/playback"
)

// sender is a caller with a sidecar of its own: a pod of this name under a service account of this name.
func sender(ctx context.Context, namespace, name string) *playback.Proxy {
	GinkgoHelper()
	Expect(k8s.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}})).To(Succeed())
	_, proxy := pod(ctx, namespace, name, name, true, func(p *corev1.Pod) { p.Spec.ServiceAccountName = name })
	return proxy
}

// long is a verification window that outlasts a spec.
func long(r *v1alpha1.Rollout) { r.VerificationWindow = "1h" }

var _ = Describe("Verification by the callers' own proxies", func() {
	// shop is a workload with one caller that is watched.
	shop := func(ctx context.Context) (ns, host string, web *playback.Proxy) {
		GinkgoHelper()
		ns, target := workload(ctx)
		host = "httpbin." + ns + ".svc.cluster.local"
		web = sender(ctx, ns, "web")
		every(func() { target.MutualTLS("web", ns, 1) })
		web.Calls(host, "-", 1000)
		return ns, host, web
	}
	warning := func(ssp *v1alpha1.ServiceSecurityProfile, kind v1alpha1.WarningType) func(context.Context) string {
		return func(ctx context.Context) string {
			for _, w := range status(ctx, ssp).Warnings {
				if w.Type == kind {
					return w.Message
				}
			}
			return ""
		}
	}
	fails := func(web *playback.Proxy, host string) func() {
		return func() { web.Calls(host, "UC", 3) }
	}

	It("takes STRICT back when a caller of the window fails, names it, and tries again later", func(ctx SpecContext) {
		ns, host, web := shop(ctx)
		clock := &skewed{}
		startOperator(forProfilesOf(ns), func(o *operator) { o.clock = clock })
		ssp := profile(ctx, ns, "httpbin", ofOperator(ns), staged(long))
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageVerifying))
		Eventually(condition(ssp, v1alpha1.ConditionMutualTLSEnforced)).WithContext(ctx).Should(ContainSubstring("whether their calls fail: " + ns + "/web."))
		Expect(warning(ssp, v1alpha1.WarningCallersNotVisible)(ctx)).To(ContainSubstring("clients/sleep (no pod with a sidecar in this cluster has its identity)"))
		fail, rollbacks := fails(web, host), counter("servicesecurity_rollbacks_total")
		Eventually(func(g Gomega) {
			fail()
			g.Expect(stage(ssp)(ctx)).To(Equal(v1alpha1.StageRolledBack))
		}).Should(Succeed())
		Eventually(peerMode(ns, "httpbin")).WithContext(ctx).Should(Equal("PERMISSIVE"))
		Expect(counter("servicesecurity_rollbacks_total")).To(Equal(rollbacks + 1))
		Expect(condition(ssp, v1alpha1.ConditionReady)(ctx)).To(And(HavePrefix("False/RolledBack"), ContainSubstring("Callers that failed: "+ns+"/web.")))
		mtls := status(ctx, ssp).MTLS
		Expect(mtls.Attempts).To(Equal(int32(1)))
		Eventually(told(ssp)).WithContext(ctx).Should(ContainElement(And(
			HavePrefix("RolledBack: "), ContainSubstring(ns+"/web"), ContainSubstring(mtls.NextAttemptTime.UTC().Format(time.RFC3339)))))
		Consistently(peerMode(ns, "httpbin")).WithContext(ctx).Should(Equal("PERMISSIVE"))

		By("trying again when it is time, with the cause gone")
		web.Calls(host, "-", 1000)
		clock.offset.Store(int64(time.Until(mtls.NextAttemptTime.Add(time.Second))))
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageVerifying))
		web.Calls(host, "-", 1000)
		Consistently(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageVerifying))
		Expect(peerSequence(ns)()).To(Equal("PERMISSIVE STRICT PERMISSIVE STRICT"))
	})

	It("does not hold the switch against who failed before it", func(ctx SpecContext) {
		ns, host, web := shop(ctx)
		web.Calls(host, "UC", 600)
		ssp := profile(ctx, ns, "httpbin", staged(long))
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageVerifying))
		Consistently(func(g Gomega) {
			web.Calls(host, "UC", 3)
			web.Calls(host, "-", 2)
			g.Expect(stage(ssp)(ctx)).To(Equal(v1alpha1.StageVerifying))
		}, "1s").Should(Succeed())
	})

	It("does not count who never called before the switch, nor another's calls", func(ctx SpecContext) {
		ns, host, web := shop(ctx)
		stranger := sender(ctx, ns, "stranger")
		ssp := profile(ctx, ns, "httpbin", staged(long))
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageVerifying))
		Consistently(func(g Gomega) {
			stranger.Calls(host, "UC", 3)
			web.Calls("other."+ns+".svc.cluster.local", "UC", 3)
			web.Calls(host, "-", 1)
			g.Expect(stage(ssp)(ctx)).To(Equal(v1alpha1.StageVerifying))
		}, "1s").Should(Succeed())
	})

	It("sees a caller fail across a restart of the operator", func(ctx SpecContext) {
		ns, host, web := shop(ctx)
		o := startOperator(forProfilesOf(ns))
		ssp := profile(ctx, ns, "httpbin", ofOperator(ns), staged(long))
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageVerifying))
		o.stop()
		web.Calls(host, "UC", 10)
		o.another()
		Consistently(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageVerifying))
		fail := fails(web, host)
		Eventually(func(g Gomega) {
			fail()
			g.Expect(stage(ssp)(ctx)).To(Equal(v1alpha1.StageRolledBack))
		}).Should(Succeed())
	})

	It("reports and keeps STRICT with rollback Never, and once it is Enforced", func(ctx SpecContext) {
		ns, host, web := shop(ctx)
		ssp := profile(ctx, ns, "httpbin", staged(long), staged(func(r *v1alpha1.Rollout) { r.Rollback = v1alpha1.RollbackNever }))
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageVerifying))
		fail := fails(web, host)
		Eventually(func(g Gomega) {
			fail()
			g.Expect(stage(ssp)(ctx)).To(Equal(v1alpha1.StageEnforced))
		}).Should(Succeed())
		said := "Callers fail since the switch to STRICT, and nothing is rolled back: " + ns + "/web."
		Eventually(told(ssp)).WithContext(ctx).Should(ContainElement(And(HavePrefix("Enforced: "), ContainSubstring(said))))
		update(ctx, ssp, func(p *v1alpha1.ServiceSecurityProfile) { p.Annotations = map[string]string{"example.com/look": "now"} })
		Consistently(func(g Gomega) {
			fail()
			g.Expect(warning(ssp, v1alpha1.WarningVerificationFailed)(ctx)).To(Equal(said))
			g.Expect(peerMode(ns, "httpbin")(ctx)).To(Equal("STRICT"))
		}).Should(Succeed())
	})

	It("says which callers it cannot see", func(ctx SpecContext) {
		ns, _, web := shop(ctx)
		web.Stop()
		ssp := profile(ctx, ns, "httpbin", staged(long))
		Eventually(warning(ssp, v1alpha1.WarningCallersNotVisible)).WithContext(ctx).Should(ContainSubstring(
			fmt.Sprintf("%s/web (the proxy of pod %s/web cannot be read: connection refused)", ns, ns)))
	})

	It("says the same of the workloads of a whole namespace", func(ctx SpecContext) {
		ns, target := workload(ctx)
		clients := namespace(ctx)
		web := sender(ctx, clients, "web")
		every(func() { target.MutualTLS("web", clients, 1) })
		web.Calls("httpbin."+ns+".svc.cluster.local", "-", 1000)
		ssp := profile(ctx, ns, "all", whole(v1alpha1.TargetNamespace), staged(long))
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageVerifying))
		Eventually(warning(ssp, v1alpha1.WarningCallersNotVisible)).WithContext(ctx).Should(Equal(
			"Verification cannot see whether the calls of these callers fail: clients/sleep (no pod with a sidecar in this cluster has its identity). " +
				"The target's own proxies are watched, but they do not know whom they refuse in the handshake."))
	})

	It("goes on for a workload of a namespace that is told apart in another way, and so does the back-off", func(ctx SpecContext) {
		ns, target := workload(ctx)
		clients := namespace(ctx)
		web, host := sender(ctx, clients, "web"), "httpbin."+ns+".svc.cluster.local"
		every(func() { target.MutualTLS("web", clients, 1) })
		web.Calls(host, "-", 1000)
		ssp := profile(ctx, ns, "all", whole(v1alpha1.TargetNamespace), staged(long))
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageVerifying))
		rollouts := func(ctx context.Context) []string {
			var out []string
			for _, r := range status(ctx, ssp).MTLS.Rollouts {
				out = append(out, fmt.Sprintf("%s %s %d", r.Name, r.Stage, r.Attempts))
			}
			return out
		}

		By("a pod of the same labels that something else made")
		extra, _ := pod(ctx, ns, "httpbin", "httpbin-debug", true)
		Eventually(rollouts).WithContext(ctx).Should(ConsistOf("httpbin-1+httpbin-debug Verifying 0"))
		Consistently(members(ns)).WithContext(ctx).Should(ConsistOf("httpbin"))
		Eventually(func(g Gomega) {
			web.Calls(host, "UC", 3)
			g.Expect(rollouts(ctx)).To(ConsistOf("httpbin-1+httpbin-debug RolledBack 1"))
		}).Should(Succeed())
		Eventually(members(ns)).WithContext(ctx).Should(BeEmpty())

		By("without it")
		rollbacks := counter("servicesecurity_rollbacks_total")
		Expect(k8s.Delete(ctx, extra, client.GracePeriodSeconds(0))).To(Succeed())
		Eventually(rollouts).WithContext(ctx).Should(ConsistOf("httpbin-1 RolledBack 1"))
		Consistently(members(ns)).WithContext(ctx).Should(BeEmpty())
		Expect(counter("servicesecurity_rollbacks_total")).To(Equal(rollbacks))
	})

	It("reads no caller's proxy but around the switch", func(ctx SpecContext) {
		ns, host, web := shop(ctx)
		var asked atomic.Int32
		web.Answer(func(w http.ResponseWriter, _ *http.Request) {
			asked.Add(1)
			w.WriteHeader(http.StatusServiceUnavailable)
		})
		edit := func(window v1alpha1.Duration) func(*v1alpha1.ServiceSecurityProfile) {
			return staged(func(r *v1alpha1.Rollout) { r.ObservationWindow = window })
		}
		ssp := profile(ctx, ns, "httpbin", edit("1h"))
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageObserving))
		Consistently(asked.Load).Should(BeZero())
		update(ctx, ssp, edit("300ms"))
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageEnforced))
		before := asked.Load()
		Expect(before).NotTo(BeZero())
		web.Calls(host, "UC", 100)
		Consistently(asked.Load).Should(Equal(before))
		Expect(peerMode(ns, "httpbin")(ctx)).To(Equal("STRICT"))
	})
})
