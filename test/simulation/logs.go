package simulation

import (
	"fmt"
	"math/rand/v2"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/traffic"
)

// logs are the proxies' access logs as the operator gets them, beside what it reads: what comes without mutual TLS alone, once it
// has ended, a moment late, and not all of it.
type logs struct {
	random  *rand.Rand
	entries []logged
}

// logged is an entry. It is of the time at which the operator got it.
type logged struct {
	client  *client
	pod     *pod
	port    int32
	at      time.Time
	refused bool
}

// log sends an entry, unless it is lost. What a process of the operator was told goes with it.
func (w *world) log(c *client, p *pod, port int32, refused bool) {
	if w.logs == nil || w.logs.random.IntN(4) == 0 {
		return
	}
	to := w.operator
	w.at(w.now+time.Second+time.Duration(w.logs.random.Int64N(int64(2*time.Second))), func() {
		if to != nil && to.alive() {
			w.logs.entries = append(w.logs.entries, logged{c, p, port, to.clock.Now(), refused})
		}
	})
}

// answer is what is known of some proxies. A client is a pod of the cluster, or an address outside it.
func (l *logs) answer(request traffic.LogRequest, now time.Time) traffic.Logged {
	var out traffic.Logged
	asked := map[string]bool{}
	for _, px := range request.Proxies {
		asked[px.UID] = true
	}
	for i := range l.entries {
		e := &l.entries[i]
		if e.at.After(now) {
			e.at = now
		}
		if !asked[e.pod.uid] || !request.Ports.Has(e.port) || e.at.Before(request.Since) {
			continue
		}
		if !e.refused && e.at.After(out.LastAccepted) {
			out.LastAccepted = e.at
		}
		caller := traffic.LoggedCaller{Pod: e.client.named, PlaintextCaller: v1alpha1.PlaintextCaller{
			Namespace: traffic.UnknownWorkload, Workload: traffic.UnknownWorkload, Address: fmt.Sprintf("10.9.0.%d", e.client.name[len(e.client.name)-1]),
			Port: e.port, Protocol: "HTTP", Requests: 1, LastSeenTime: &metav1.Time{Time: e.at}, Refused: e.refused,
		}}
		if caller.Pod {
			caller.Namespace, caller.Workload = "clients", e.client.name
		}
		out.Callers = append(out.Callers, caller)
	}
	out.Callers = traffic.Collapse(out.Callers)
	return out
}

// log adds what was logged to what was read, as the controller does.
func (r *run) log() {
	l := r.w.logs
	if l == nil || !r.out.Spec.AsksStrict() {
		return
	}
	since := r.out.Now.Add(-r.out.Spec.ObservationWindow)
	if enforced := r.out.Decision.Enforced.Add(-time.Second); enforced.After(since) {
		since = enforced
	}
	var proxies []traffic.Proxy
	for _, p := range r.out.Facts.Pods {
		proxies = append(proxies, traffic.Proxy{UID: p.UID})
	}
	request := traffic.LogRequest{Proxies: proxies, Ports: r.out.Spec.StrictPorts(), Since: since}
	r.out.Logged = l.answer(request, r.out.Now)
	if mtls := r.out.Profile.Status.MTLS; mtls != nil {
		r.out.Logged = r.out.Logged.Keep(mtls.PlaintextCallers, request, r.out.Now)
	}
	r.out.Seen = r.out.Seen.With(r.out.Logged)
}
