package controllers

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/rollout"
	"github.com/servicesecurity/operator/controllers/traffic"
)

// windowIntervals is how many observation intervals a window has at the least: fewer could not tell quiet from unseen.
const windowIntervals = 3

// tooShort refuses a window that this operator's interval cannot fill with evidence; nil if it is long enough.
func (r *Reconciler) tooShort(spec rollout.Spec) *facts.Problem {
	least := windowIntervals * r.Interval
	if !spec.AsksStrict() || spec.Strategy != v1alpha1.StrategyStaged || spec.ObservationWindow >= least {
		return nil
	}
	return &facts.Problem{
		Reason: v1alpha1.ReasonInvalid, Section: v1alpha1.SectionMTLS,
		Message: fmt.Sprintf("mtls.rollout.observationWindow %s is shorter than three observation intervals of this operator. Write %s or more, or start the operator with a shorter --observation-interval.", spec.ObservationWindow, least),
	}
}

// request asks for an observation of the target's proxies.
func request(profile *v1alpha1.ServiceSecurityProfile, spec rollout.Spec, f facts.Facts, now time.Time) traffic.Request {
	out := traffic.Request{
		Profile: observerKey(profile.UID, profile.Name), Created: profile.CreationTimestamp.Time, Targets: digest(f.Target.Selector), Ports: spec.StrictPorts(),
		RequireSeries: spec.MinRequests > 0, Window: spec.ObservationWindow,
		Proxies: proxies(f.Pods), Readings: f.Live || f.Verifying(profile),
		Refused: rollout.RefusalsOf(f.Pods, now).Text(),
		// What STRICT refuses nobody counts, also where status does not know of the switch.
		Unobserved: rollout.Hidden(f) || rollout.Refused(f),
	}
	if mtls := profile.Status.MTLS; mtls != nil {
		previous := rollout.PreviousOf(profile.Status)
		out.Unobserved = out.Unobserved || previous.Unobserved // up to now
		out.CleanSince, out.Evidence, out.Callers = previous.CleanSince, mtls.Evidence, mtls.PlaintextCallers
		if out.CleanSince.After(now) {
			// Status rounds it up to the second. A clock that is behind is told by the evidence's own time.
			out.CleanSince = now
		}
	}
	return out
}

// proxies are those of a target's pods.
func proxies(pods []facts.Pod) []traffic.Proxy {
	var out []traffic.Proxy
	for _, pod := range pods {
		if pod.Membership == facts.MemberSidecar && !pod.Excepted {
			out = append(out, traffic.Proxy{
				Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, Workload: pod.Workload, Address: pod.IP, Created: pod.Created,
				Restarts: pod.Restarts, Terminating: pod.Terminating, Eviction: pod.StatsEviction,
			})
		}
	}
	return out
}

func digest(selector map[string]string) string {
	sum := sha256.Sum256(fmt.Append(nil, selector))
	return hex.EncodeToString(sum[:8])
}
