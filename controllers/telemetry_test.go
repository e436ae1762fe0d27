package controllers_test

import (
	"net/http"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

var _ = Describe("A proxy that says nothing of use", func() {
	DescribeTable("keeps STRICT away until it is healed", func(ctx SpecContext, answer http.HandlerFunc, message string) {
		ns, proxy := workload(ctx)
		proxy.Answer(answer)
		ssp := profile(ctx, ns, "httpbin")
		Eventually(blockers(ssp)).WithContext(ctx).Should(ConsistOf(v1alpha1.BlockerTelemetryIncomplete))
		Eventually(condition(ssp, v1alpha1.ConditionReady)).WithContext(ctx).Should(And(
			HavePrefix("False/TelemetryIncomplete"), ContainSubstring("pod "+ns+"/httpbin-1"), ContainSubstring(message)))
		Expect(condition(ssp, v1alpha1.ConditionTrafficObserved)(ctx)).To(And(HavePrefix("False/SourceUnavailable"), ContainSubstring(message)))
		Consistently(peerSequence(ns)).Should(Equal("PERMISSIVE"))
		proxy.Answer(nil)
		healed := time.Now()
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageEnforced))
		Expect(switched(ns)).To(BeTemporally(">=", healed.Add(300*time.Millisecond)))
	},
		Entry("HTML", answer("text/html", "<html><body>welcome</body></html>"), "HTML"),
		Entry("HTML that says it is text", answer("text/plain", "<html><body>welcome</body></html>"), "cannot be read"),
		Entry("500", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }, "it answered 500"),
		Entry("an endless body", func(w http.ResponseWriter, r *http.Request) {
			line := []byte("istio_requests_total{reporter=\"destination\"} 1\n")
			for r.Context().Err() == nil {
				if _, err := w.Write(line); err != nil {
					return
				}
			}
		}, "longer than"),
		Entry("nothing at all", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "no answer within 1s"),
	)

	It("keeps STRICT away for a window more when it counts less than it did", func(ctx SpecContext) {
		ns, proxy := workload(ctx)
		proxy.MutualTLS("sleep", "clients", 100)
		ssp := profile(ctx, ns, "httpbin", staged(func(r *v1alpha1.Rollout) { r.ObservationWindow = "2s" }))
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageObserving))
		var fell time.Time
		for range 3 {
			time.Sleep(time.Second)
			proxy.MutualTLS("sleep", "clients", -30)
			fell = time.Now()
			Eventually(condition(ssp, v1alpha1.ConditionTrafficObserved)).WithContext(ctx).Should(And(
				HavePrefix("False/Incomplete"), ContainSubstring("Series of pod "+ns+"/httpbin-1 vanished while its proxy ran on")))
			Expect(peerSequence(ns)()).To(Equal("PERMISSIVE"))
		}
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageEnforced))
		Expect(switched(ns)).To(BeTemporally(">=", fell.Add(2*time.Second)))
	})

	It("keeps STRICT away when nobody listens there, and does not take away what is in force", func(ctx SpecContext) {
		ns, proxy, ssp := enforced(ctx)
		proxy.Stop()
		update(ctx, ssp, func(p *v1alpha1.ServiceSecurityProfile) { p.Spec.MTLS.Rollout.MinRequests = never })
		Eventually(func() int64 { return status(ctx, ssp).ObservedGeneration }).Should(Equal(int64(2)))
		Consistently(peerMode(ns, "httpbin")).WithContext(ctx).Should(Equal("STRICT"))
		Expect(stage(ssp)(ctx)).To(Equal(v1alpha1.StageEnforced))
	})
})

var _ = Describe("A clock that jumps", func() {
	DescribeTable("never brings STRICT early", func(ctx SpecContext, jump time.Duration) {
		clock := &skewed{}
		ns, _ := workload(ctx)
		shard := ns
		startOperator(forProfilesOf(shard), func(o *operator) { o.clock = clock })
		ssp := profile(ctx, ns, "httpbin", ofOperator(shard), staged(func(r *v1alpha1.Rollout) { r.ObservationWindow = "2s" }))
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageObserving))
		clock.offset.Store(int64(jump))
		jumped := time.Now()
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageEnforced))
		Expect(switched(ns)).To(BeTemporally(">=", jumped.Add(2*time.Second)))
	},
		Entry("an hour back", -time.Hour),
		Entry("a second back", -time.Second),
	)

	It("goes on in the stretch that it observed when the clock comes back", func(ctx SpecContext) {
		clock := &skewed{}
		ns, _ := workload(ctx)
		startOperator(forProfilesOf(ns), func(o *operator) { o.clock = clock })
		clock.offset.Store(int64(time.Hour))
		ssp := profile(ctx, ns, "httpbin", ofOperator(ns), staged(func(r *v1alpha1.Rollout) { r.ObservationWindow = "1s" }))
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageObserving))
		clock.offset.Store(0)
		back := time.Now()
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageEnforced))
		Expect(switched(ns)).To(BeTemporally(">=", back.Add(time.Second)))
		Expect(status(ctx, ssp).MTLS.EnforcedTime.Time).To(BeTemporally("<", time.Now().Add(time.Minute)))
	})
})

// skewed is a clock that is off by so much.
type skewed struct{ offset atomic.Int64 }

func (s *skewed) Now() time.Time                  { return time.Now().Add(time.Duration(s.offset.Load())) }
func (s *skewed) Since(t time.Time) time.Duration { return s.Now().Sub(t) }

func answer(contentType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		_, _ = w.Write([]byte(body))
	}
}
