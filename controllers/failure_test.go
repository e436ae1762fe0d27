package controllers_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	securityapi "istio.io/api/security/v1beta1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/traffic"
)

// faults make one write of each namespace fail.
type faults struct {
	mu     sync.Mutex
	plans  map[string]fault
	writes map[string]int
}

type fault struct {
	// nth write that fails, from 1.
	nth int
	how string
}

const (
	failsBefore = "fails"
	failsAfter  = "is made, and its answer gets lost"
	conflicts   = "conflicts"
)

// around makes a write, or not.
func (f *faults) around(namespace string, write func() error) error {
	f.mu.Lock()
	f.writes[namespace]++
	plan, planned := f.plans[namespace]
	hit := planned && f.writes[namespace] == plan.nth
	f.mu.Unlock()
	if !hit {
		return write()
	}
	switch plan.how {
	case failsAfter:
		if err := write(); err != nil {
			return err
		}
		return apierrors.NewTimeoutError("injected", 0)
	case conflicts:
		return apierrors.NewConflict(schema.GroupResource{}, "injected", fmt.Errorf("injected"))
	}
	return apierrors.NewInternalError(fmt.Errorf("injected"))
}

func (f *faults) funcs() interceptor.Funcs {
	return interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			return f.around(o.GetNamespace(), func() error { return c.Create(ctx, o, opts...) })
		},
		Update: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.UpdateOption) error {
			return f.around(o.GetNamespace(), func() error { return c.Update(ctx, o, opts...) })
		},
		Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			return f.around(o.GetNamespace(), func() error { return c.Delete(ctx, o, opts...) })
		},
		SubResourceApply: func(ctx context.Context, c client.Client, sub string, o runtime.ApplyConfiguration, opts ...client.SubResourceApplyOption) error {
			namespace := o.(interface{ GetNamespace() string }).GetNamespace()
			return f.around(namespace, func() error { return c.SubResource(sub).Apply(ctx, o, opts...) })
		},
	}
}

var _ = Describe("An API server that fails", func() {
	It("at any one write changes nothing about the end", func(ctx SpecContext) {
		const writes = 8
		f := &faults{plans: map[string]fault{}, writes: map[string]int{}}
		type attempt struct {
			ns    string
			fault fault
			ssp   *v1alpha1.ServiceSecurityProfile
		}
		var attempts []attempt
		shard := namespace(ctx)
		for nth := 1; nth <= writes; nth++ {
			for _, how := range []string{failsBefore, failsAfter, conflicts} {
				ns, _ := workload(ctx)
				f.plans[ns] = fault{nth, how}
				attempts = append(attempts, attempt{ns: ns, fault: f.plans[ns]})
			}
		}
		startOperator(forProfilesOf(shard), func(o *operator) { o.intercept = f.funcs() })
		start := time.Now()
		for i := range attempts {
			attempts[i].ssp = profile(ctx, attempts[i].ns, "httpbin", ofOperator(shard), staged(func(r *v1alpha1.Rollout) {
				r.VerificationWindow = "5s" // longer than any retry
			}))
		}
		for _, a := range attempts {
			what := fmt.Sprintf("write %d %s", a.fault.nth, a.fault.how)
			Eventually(stage(a.ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageEnforced), what)
			Eventually(condition(a.ssp, v1alpha1.ConditionReady)).WithContext(ctx).Should(HavePrefix("True/Ready"), what)
			Eventually(bothSequence(a.ns)).Should(Equal("peer:PERMISSIVE rule:ISTIO_MUTUAL peer:STRICT"), what)
			Expect(generated(a.ns)(ctx)).To(ConsistOf("PeerAuthentication/httpbin", "DestinationRule/httpbin"), what)
			Expect(switched(a.ns)).To(BeTemporally(">=", start.Add(300*time.Millisecond)), what)
			Eventually(stages(a.ssp)).WithContext(ctx).Should(HaveExactElements("Observing", "Verifying", "Enforced"), what)
			Eventually(func(g Gomega) {
				peer, err := peerAuthentication(ctx, a.ns, "httpbin")
				g.Expect(err).NotTo(HaveOccurred())
				g.Expect(peer.Annotations).NotTo(HaveKey(v1alpha1.AnnotationSwitchedAt), what)
			}).Should(Succeed())
			f.mu.Lock()
			Expect(f.writes[a.ns]).To(BeNumerically(">=", a.fault.nth), what+": never came to it")
			f.mu.Unlock()
		}
	})

	It("does not make a wanted PERMISSIVE look like drift from STRICT when an answer gets lost", func(ctx SpecContext) {
		ns, _ := workload(ctx)
		var armed sync.Map
		strictAgain := func(p *v1alpha1.ServiceSecurityProfile) {
			p.Spec.MTLS = &v1alpha1.MTLS{Mode: v1alpha1.ModeStrict, Rollout: &v1alpha1.Rollout{ObservationWindow: "1h"}}
		}
		var ssp *v1alpha1.ServiceSecurityProfile
		startOperator(forProfilesOf(ns), func(o *operator) {
			o.intercept = interceptor.Funcs{Update: func(ctx context.Context, c client.WithWatch, object client.Object, opts ...client.UpdateOption) error {
				_, hit := armed.LoadAndDelete("yes")
				if err := c.Update(ctx, object, opts...); err != nil || !hit {
					return err
				}
				// The write is made, its answer gets lost, and the spec asks for Strict again before anything is tried again.
				update(ctx, ssp, strictAgain)
				return apierrors.NewTimeoutError("injected", 0)
			}}
		})
		ssp = profile(ctx, ns, "httpbin", ofOperator(ns), mtls(v1alpha1.MTLS{
			Mode: v1alpha1.ModeStrict, DestinationRule: v1alpha1.DestinationRuleNever,
			Rollout: &v1alpha1.Rollout{Strategy: v1alpha1.StrategyImmediate},
		}))
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageEnforced))
		armed.Store("yes", true)
		update(ctx, ssp, func(p *v1alpha1.ServiceSecurityProfile) {
			p.Spec.MTLS = &v1alpha1.MTLS{Mode: v1alpha1.ModePermissive, DestinationRule: v1alpha1.DestinationRuleNever}
		})
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageObserving))
		Consistently(peerMode(ns, "httpbin")).WithContext(ctx).Should(Equal("PERMISSIVE"))
	})

	It("is reported while it lasts, and tried again", func(ctx SpecContext) {
		ns, _ := workload(ctx)
		var broken sync.Map
		broken.Store("yes", true)
		startOperator(forProfilesOf(ns), func(o *operator) {
			o.intercept = interceptor.Funcs{Create: func(ctx context.Context, c client.WithWatch, object client.Object, opts ...client.CreateOption) error {
				if _, yes := broken.Load("yes"); yes {
					return apierrors.NewInternalError(fmt.Errorf("the webhook is away"))
				}
				return c.Create(ctx, object, opts...)
			}}
		})
		ssp := profile(ctx, ns, "httpbin", ofOperator(ns), mtls(v1alpha1.MTLS{Mode: v1alpha1.ModePermissive}))
		Eventually(condition(ssp, v1alpha1.ConditionProgrammed)).WithContext(ctx).Should(And(
			HavePrefix("False/ApplyFailed"), ContainSubstring("reating PeerAuthentication httpbin"), ContainSubstring("the webhook is away")))
		Eventually(told(ssp)).WithContext(ctx).Should(ContainElement(HavePrefix("ApplyFailed: ")))
		broken.Delete("yes")
		Eventually(condition(ssp, v1alpha1.ConditionReady)).WithContext(ctx).Should(HavePrefix("True/Ready"))
	})
})

var _ = Describe("A cache that lags", func() {
	It("brings no early switch and no way back", func(ctx SpecContext) {
		const lag = 300 * time.Millisecond
		ns, proxy := workload(ctx)
		lagging := &laggard{lag: lag, seen: map[string][]dated{}}
		startOperator(forProfilesOf(ns), func(o *operator) {
			o.intercept = interceptor.Funcs{Get: lagging.get}
		})
		ssp := profile(ctx, ns, "httpbin", ofOperator(ns))
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageEnforced))
		proxy.Plaintext(1)
		Eventually(condition(ssp, v1alpha1.ConditionReady)).WithContext(ctx).Should(HavePrefix("True/Ready"))
		Consistently(bothSequence(ns)).Should(Equal("peer:PERMISSIVE rule:ISTIO_MUTUAL peer:STRICT"))
		Expect(lagging.old).To(BeNumerically(">", 0), "no read was old")
		Eventually(stages(ssp)).WithContext(ctx).Should(HaveExactElements("Observing", "Verifying", "Enforced"))
	})
})

// laggard answers reads of PeerAuthentications with what was there some time ago.
type laggard struct {
	mu   sync.Mutex
	lag  time.Duration
	seen map[string][]dated
	old  int
}

type dated struct {
	since  time.Time
	object *securityv1.PeerAuthentication
}

func (l *laggard) get(ctx context.Context, c client.WithWatch, key client.ObjectKey, object client.Object, opts ...client.GetOption) error {
	err := c.Get(ctx, key, object, opts...)
	peer, ok := object.(*securityv1.PeerAuthentication)
	if !ok || err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	seen := l.seen[key.String()]
	if len(seen) == 0 || seen[len(seen)-1].object.ResourceVersion != peer.ResourceVersion {
		seen = append(seen, dated{time.Now(), peer.DeepCopy()})
		l.seen[key.String()] = seen
	}
	for i := len(seen) - 1; i >= 0; i-- {
		if i == 0 || time.Since(seen[i].since) >= l.lag {
			if i < len(seen)-1 {
				l.old++
			}
			seen[i].object.DeepCopyInto(peer)
			break
		}
	}
	return nil
}

var _ = Describe("A parent that changed, which the cache does not have yet", func() {
	// A parent in force by the cache, and one by the API server.
	parent := func(namespace string, mode securityapi.PeerAuthentication_MutualTLS_Mode) *securityv1.PeerAuthentication {
		return &securityv1.PeerAuthentication{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "default"}, Spec: securityapi.PeerAuthentication{Mtls: peerIs(mode)},
		}
	}
	lagging := func(ns string, cached *securityv1.PeerAuthentication) (caughtUp *atomic.Bool) {
		GinkgoHelper()
		caughtUp = &atomic.Bool{}
		startOperator(forProfilesOf(ns), func(o *operator) {
			o.intercept = interceptor.Funcs{List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
				err := c.List(ctx, list, opts...)
				if peers, ok := list.(*securityv1.PeerAuthenticationList); ok && !caughtUp.Load() {
					peers.Items = slices.DeleteFunc(slices.Clone(peers.Items), func(p *securityv1.PeerAuthentication) bool { return p.Namespace == ns })
					if cached != nil {
						peers.Items = append(peers.Items, cached)
					}
				}
				return err
			}}
		})
		return caughtUp
	}

	It("is not undone where it became STRICT", func(ctx SpecContext) {
		ns, _ := workload(ctx)
		Expect(k8s.Create(ctx, parent(ns, securityapi.PeerAuthentication_MutualTLS_STRICT))).To(Succeed())
		caughtUp := lagging(ns, nil)
		ssp := profile(ctx, ns, "httpbin", ofOperator(ns))
		Consistently(peerMode(ns, "httpbin")).WithContext(ctx).Should(BeEmpty())
		caughtUp.Store(true)
		Eventually(peerMode(ns, "httpbin")).WithContext(ctx).Should(Equal("STRICT"))
		Expect(stage(ssp)(ctx)).To(BeElementOf(v1alpha1.Stage(""), v1alpha1.StageEnforced))
	})

	It("is no reason for STRICT where it is STRICT no more", func(ctx SpecContext) {
		ns, proxy := workload(ctx)
		every(func() { proxy.Plaintext(1) })
		caughtUp := lagging(ns, parent(ns, securityapi.PeerAuthentication_MutualTLS_STRICT))
		ssp := profile(ctx, ns, "httpbin", ofOperator(ns))
		Consistently(peerMode(ns, "httpbin")).WithContext(ctx).Should(BeEmpty())
		caughtUp.Store(true)
		Eventually(peerMode(ns, "httpbin")).WithContext(ctx).Should(Equal("PERMISSIVE"))
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageBlocked))
	})
})

var _ = Describe("An observation that takes too long", func() {
	It("is a gap in the telemetry, and status says so", func(ctx SpecContext) {
		ns, _ := workload(ctx)
		startOperator(forProfilesOf(ns), func(o *operator) { o.observer = bounded{} })
		ssp := profile(ctx, ns, "httpbin", ofOperator(ns))
		Eventually(condition(ssp, v1alpha1.ConditionReady)).WithContext(ctx).Should(And(
			HavePrefix("False/TelemetryIncomplete"), ContainSubstring("the reading was given 45s")))
	})
})

// bounded tells how long a reading may take instead of using it up.
type bounded struct{}

func (bounded) Observe(ctx context.Context, _ traffic.Request) traffic.Observation {
	o := traffic.Observation{Completeness: traffic.Unavailable, Reason: v1alpha1.ReasonSourceUnavailable, Message: "the reading had no end"}
	if deadline, ok := ctx.Deadline(); ok {
		o.Message = fmt.Sprintf("the reading was given %s", time.Until(deadline).Round(time.Second))
	}
	return o
}

func (bounded) Forget(string) {}
