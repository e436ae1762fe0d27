package rollout_test

import (
	"maps"
	"math"
	"slices"
	"time"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/rollout"
	"github.com/servicesecurity/operator/controllers/traffic"
)

// world is a simulated cluster with one profile, an operator that drives Next as the controller does, and the truth about
// what evidence there was. Truth is kept in uptime, which no clock jump touches.
type world struct {
	uptime time.Duration
	ahead  time.Duration // of the wall clock

	// The cluster.
	spec       rollout.Spec
	target     map[string]string
	inherited  v1alpha1.Mode
	policy     facts.Policy
	rule       map[int32]facts.TLS // by Service port, 0 for the rule itself; nil if there is none
	pods       []facts.Pod
	host       facts.Host
	autoMTLS   bool
	competing  []facts.CompetingPolicy
	client     []facts.ClientRule
	rolling    []string
	failing    []string
	open       map[int32]bool
	status     rollout.Previous
	annotation string

	// Faults.
	scrapeFails bool
	fault       fault

	// The operator's memory.
	held      facts.Policy
	changed   time.Duration // when it saw its objects change
	stretch   time.Duration
	lastSeen  time.Duration // of plaintext on a port that matters; negative for never
	observed  traffic.PortSet
	targetKey string
	mtls      int64

	// The truth.
	plaintext  map[int32]time.Duration // last on the port, uptime
	unobserved map[int32]time.Duration // last moment at which the port was not observed completely
	turned     bool                    // the parent became STRICT since status was last written
	tampered   bool                    // the object was weakened by someone else, and the operator has not written since
	rest       rest
}

// rest is what is owed to callers after a rollback.
type rest struct {
	at         time.Duration // uptime of the last rollback
	rollbacks  int           // under the generation
	generation int64
	// What would tell of it: the clock was set, status was lost or not written, the object was deleted or is for other pods.
	clock, status, object bool
}

// over is when the next attempt may begin at the earliest, in uptime.
func (r rest) over(generation int64) time.Duration {
	switch {
	case r.generation != generation || r.rollbacks == 0 || r.clock || r.status && r.object:
		return 0
	case r.rollbacks == 1:
		return r.at + 15*time.Minute
	case r.rollbacks == 2:
		return r.at + time.Hour
	}
	return math.MaxInt64
}

type fault byte

const (
	faultNone fault = iota
	faultBefore
	faultAfter
	faultStatus
)

var worldPorts = []int32{8080, 9443, 7777}

func newWorld() *world {
	in := base()
	w := &world{
		uptime: 1000 * time.Hour, spec: in.Spec, target: maps.Clone(selector), inherited: v1alpha1.ModePermissive,
		pods: in.Facts.Pods, host: in.Facts.Hosts[0], autoMTLS: true, open: map[int32]bool{},
		plaintext: map[int32]time.Duration{}, unobserved: map[int32]time.Duration{},
	}
	w.spec.ObservationWindow, w.spec.VerificationWindow = 2*time.Minute, time.Minute
	w.restart()
	return w
}

func (w *world) now() time.Time { return noon.Add(w.uptime - 1000*time.Hour + w.ahead) }

func (w *world) wall(uptime time.Duration) time.Time { return w.now().Add(uptime - w.uptime) }

func (w *world) restart() {
	w.held, w.changed = facts.Policy{}, w.uptime
	w.forget()
}

// forget makes the observer start anew.
func (w *world) forget() {
	w.stretch, w.lastSeen, w.mtls, w.targetKey = -1, -1, 0, ""
	for _, port := range worldPorts {
		w.unobserved[port] = w.uptime
	}
}

// live is what is in force, told independently of the code under test.
func (w *world) live(port int32) v1alpha1.Mode {
	if w.policy.Exists && maps.Equal(w.policy.Selector, w.target) {
		return w.policy.Form.At(port)
	}
	return w.inherited
}

// send is plaintext to a port: STRICT refuses it, and then nobody sees it.
func (w *world) send(port int32) {
	if w.live(port) == v1alpha1.ModeStrict {
		return
	}
	w.plaintext[port] = w.uptime
	if w.observed.Has(port) {
		w.lastSeen = w.uptime
	}
}

// observe is a sidecar observer: it measures its stretch by what really elapsed, and starts anew after a gap, with another
// set of targets, and with other ports that matter.
func (w *world) observe() traffic.Observation {
	for port, open := range w.open {
		if open && w.live(port) != v1alpha1.ModeStrict {
			w.plaintext[port] = w.uptime
			if w.observed.Has(port) {
				w.lastSeen = w.uptime
			}
		}
	}
	ports := w.spec.StrictPorts()
	key := w.target["version"] + "/" + facts.Form{Mode: w.spec.Asked.Mode, Ports: w.spec.Asked.Ports}.String()
	if w.scrapeFails || len(w.pods) == 0 {
		w.forget()
		return traffic.Observation{Completeness: traffic.Incomplete, Message: "Proxy httpbin-1 was not read.", Time: w.now()}
	}
	if w.stretch < 0 || key != w.targetKey {
		w.forget()
		w.stretch, w.targetKey, w.observed = w.uptime, key, ports
	}
	for _, port := range worldPorts {
		if !ports.Has(port) {
			w.unobserved[port] = w.uptime
		}
	}
	w.mtls++
	seen := traffic.Observation{
		Completeness: traffic.Complete, Time: w.now(), Since: w.wall(w.stretch), MutualTLS: w.mtls,
		Proxies: []traffic.Reading{{Name: "httpbin-1", UID: "httpbin-1", Started: noon, ListenerUpdates: 1}},
	}
	if w.lastSeen >= 0 {
		seen.LastPlaintext = w.wall(w.lastSeen)
	}
	for port, open := range w.open {
		if open && ports.Has(port) && w.live(port) != v1alpha1.ModeStrict {
			seen.OpenPlaintext++
		}
	}
	return seen
}

func (w *world) input(live bool) rollout.Input {
	in := rollout.Input{
		Spec: w.spec,
		Facts: facts.Facts{
			Live: live, Mesh: facts.Mesh{AutoMTLS: w.autoMTLS, PeerAuthentications: true, DestinationRules: true},
			Target: facts.Target{Scope: v1alpha1.ScopeWorkload, Selector: w.target},
			Pods:   w.pods, Hosts: []facts.Host{w.host}, Policy: w.policy, UnchangedFor: w.uptime - w.changed,
			Inherited: w.inherited, RollingOut: w.rolling, ClientRules: w.client, CompetingPolicies: w.competing,
		},
		Previous: w.status, Held: w.held, FailingCallers: w.failing,
		Now: w.now(), Interval: interval, Settle: settle,
	}
	in.Spec.Approved = w.annotation
	if w.rule != nil {
		ports := maps.Clone(w.rule)
		delete(ports, 0)
		in.Facts.Rules = []facts.Rule{{Name: "httpbin", Owned: true, Host: w.host.Name, TLS: w.rule[0], Ports: ports}}
	}
	in.Seen = w.observe()
	return in
}

// apply does what the controller does with a decision: write, then status, each of which may fail.
func (w *world) apply(in rollout.Input, d rollout.Decision) (changed bool) {
	f := w.fault
	w.fault = faultNone
	if !d.Keep && !d.Form.Equal(w.held.Form) {
		w.held = facts.Policy{}
	}
	if f == faultBefore {
		return false
	}
	w.rests(in, d)
	changed = w.write(d)
	if f == faultAfter {
		return changed
	}
	w.held = d.Held(in.Facts.Target, w.held)
	if !d.Observe {
		w.forget()
	}
	if f == faultStatus {
		return changed
	}
	w.turned, w.rest.status = false, false
	w.status = rollout.Previous{
		Generation: in.Spec.Generation, Stage: d.Stage, Inherited: in.Facts.Inherited,
		CleanSince: d.CleanSince.Truncate(time.Second), LastPlaintext: d.LastPlaintext.Truncate(time.Second), Enforced: d.Enforced.Truncate(time.Second),
		NextAttempt: d.NextAttempt.Truncate(time.Second), Attempts: d.Attempts,
	}
	if d.Approval != nil {
		w.status.Approval = *d.Approval
	}
	return changed
}

// rests notes a rollback, of which status does not know yet.
func (w *world) rests(in rollout.Input, d rollout.Decision) {
	weaker := slices.ContainsFunc(worldPorts, func(port int32) bool {
		return w.live(port) == v1alpha1.ModeStrict && d.Form.At(port) != v1alpha1.ModeStrict && in.Spec.Asked.At(port) == v1alpha1.ModeStrict
	})
	if d.Keep || d.Stage != v1alpha1.StageRolledBack || !weaker {
		return
	}
	if w.rest.generation != in.Spec.Generation {
		w.rest = rest{generation: in.Spec.Generation}
	}
	w.rest = rest{at: w.uptime, rollbacks: w.rest.rollbacks + 1, generation: in.Spec.Generation, status: true}
}

func (w *world) write(d rollout.Decision) bool {
	policy := w.policy
	switch {
	case d.Keep:
	case d.Form.Empty():
		policy = facts.Policy{}
	default:
		// Annotations hold whole seconds, as RFC 3339 has them.
		policy = facts.Policy{
			Exists: true, Owned: true, Form: facts.Form{Mode: d.Form.Mode, Ports: maps.Clone(d.Form.Ports)}, Selector: maps.Clone(w.target),
			SwitchedAt: d.SwitchedAt.Truncate(time.Second), Previous: d.Previous, RolledBack: d.RolledBack,
		}
		w.tampered = false
	}
	rule := ruleOf(d)
	same := policy.Exists == w.policy.Exists && policy.Form.Equal(w.policy.Form) && maps.Equal(policy.Selector, w.policy.Selector) &&
		policy.SwitchedAt.Equal(w.policy.SwitchedAt) && policy.RolledBack == w.policy.RolledBack && maps.Equal(rule, w.rule) && (rule == nil) == (w.rule == nil)
	w.policy, w.rule = policy, rule
	if !same {
		w.changed = w.uptime
	}
	return !same
}

func ruleOf(d rollout.Decision) map[int32]facts.TLS {
	if len(d.Rules) == 0 {
		return nil
	}
	rule := map[int32]facts.TLS{0: d.Rules[0].TLS}
	for _, p := range d.Rules[0].Ports {
		rule[p.Port] = p.TLS
	}
	return rule
}

// clash says on which workload port the server refuses what the profile's rule makes clients do.
func (w *world) clash() (int32, bool) {
	for _, p := range w.host.Ports {
		tls := w.rule[p.Port]
		if tls == facts.TLSUnset { // an entry without tls leaves the rule's in force
			tls = w.rule[0]
		}
		mode := w.live(p.TargetPort)
		if tls == facts.TLSDisable && mode == v1alpha1.ModeStrict || tls == facts.TLSMutual && mode == v1alpha1.ModeDisabled {
			return p.TargetPort, true
		}
	}
	return 0, false
}

func (w *world) copy() *world {
	c := *w
	c.rule, c.open = maps.Clone(w.rule), maps.Clone(w.open)
	c.plaintext, c.unobserved = maps.Clone(w.plaintext), maps.Clone(w.unobserved)
	c.pods = slices.Clone(w.pods)
	return &c
}
