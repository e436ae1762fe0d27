package rollout_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/rollout"
	"github.com/servicesecurity/operator/controllers/traffic"
)

// history plays bytes against a world, and holds the invariants.
type history struct {
	t   *testing.T
	w   *world
	log strings.Builder
	// A history that fails is played again with its log.
	replay  func()
	verbose bool
	calls   int
	// What was reached.
	switched, enforced, rolledBack int
}

func (h *history) failf(format string, args ...any) {
	h.t.Helper()
	if !h.verbose {
		h.replay()
	}
	h.t.Fatalf("%s\nhistory:\n%s", fmt.Sprintf(format, args...), h.log.String())
}

func (h *history) note(format string, args ...any) {
	if !h.verbose {
		return
	}
	fmt.Fprintf(&h.log, "%8s ", h.w.uptime-1000*time.Hour)
	fmt.Fprintf(&h.log, format+"\n", args...)
}

// next calls Next and checks the invariants that hold for every call.
func (h *history) next(in rollout.Input) rollout.Decision {
	// Copying is slower than deciding, so not each time.
	h.calls++
	sample := h.verbose || h.calls%8 == 0
	var before rollout.Input
	if sample {
		before = clone(in)
	}
	d := rollout.Next(in)
	if sample {
		if again := rollout.Next(in); !reflect.DeepEqual(d, again) {
			h.failf("(f) the same input gave two answers:\n%+v\n%+v", d, again)
		}
		if !reflect.DeepEqual(before, in) {
			h.failf("(f) the input was changed")
		}
	}
	h.gates(in, d)
	for _, b := range d.Blockers {
		if len([]rune(b.Message)) > 1024 || !strings.HasSuffix(b.Message, ".") {
			h.failf("(c) not a bounded sentence: %q", b.Message)
		}
	}
	if len(d.Blockers) > 32 {
		h.failf("(c) %d blockers", len(d.Blockers))
	}
	return d
}

// gates: every gate that is closed is listed, and nothing is switched through it.
func (h *history) gates(in rollout.Input, d rollout.Decision) {
	if in.Spec.Strategy != v1alpha1.StrategyStaged || d.Stage == "" || d.Stage == v1alpha1.StageEnforced && !d.Switched ||
		d.Stage == v1alpha1.StageVerifying && !d.Switched || d.Stage == v1alpha1.StageRolledBack && len(in.FailingCallers) > 0 {
		return
	}
	if h.strictEverywhere() || h.w.turned && h.w.inherited == v1alpha1.ModeStrict {
		return
	}
	closed := map[v1alpha1.BlockerType]bool{
		v1alpha1.BlockerCompetingPeerAuthentication: len(in.Facts.CompetingPolicies) > 0,
		v1alpha1.BlockerNoPods:                      len(in.Facts.Pods) == 0,
		v1alpha1.BlockerPlaintextDestinationRule:    len(in.Facts.ClientRules) > 0,
		v1alpha1.BlockerTelemetryIncomplete:         in.Seen.Completeness != traffic.Complete && len(in.Facts.Pods) > 0,
		v1alpha1.BlockerPlaintextConnectionsOpen:    in.Seen.OpenPlaintext > 0,
		v1alpha1.BlockerPlaintextSeen:               !in.Seen.LastPlaintext.IsZero() && in.Seen.Time.Sub(in.Seen.LastPlaintext) < 3*interval,
		v1alpha1.BlockerPodsNotInMesh:               slices.ContainsFunc(in.Facts.Pods, func(p facts.Pod) bool { return p.Membership == facts.MemberNone }),
		v1alpha1.BlockerAmbientUnsupported:          slices.ContainsFunc(in.Facts.Pods, func(p facts.Pod) bool { return p.Membership == facts.MemberAmbient }),
	}
	ambient := !slices.ContainsFunc(in.Facts.Pods, func(p facts.Pod) bool { return p.Membership != facts.MemberAmbient })
	if ambient && len(in.Facts.Pods) > 0 {
		closed = map[v1alpha1.BlockerType]bool{v1alpha1.BlockerAmbientUnsupported: true}
	}
	for kind, is := range closed {
		if is && !slices.Contains(types(d.Blockers), kind) {
			h.failf("(c) %s is closed, and not listed at stage %s: %v", kind, d.Stage, types(d.Blockers))
		}
		if is && d.Switched {
			h.failf("(a) switched although %s is closed", kind)
		}
	}
	if d.Switched && (len(in.Facts.RollingOut) > 0 || in.Spec.Suspend || in.Seen.MutualTLS < in.Spec.MinRequests || !in.Facts.Live ||
		in.Spec.Approval == v1alpha1.ApprovalManual && (d.Approval == nil || d.Approval.ApprovedToken != d.Approval.Token)) {
		h.failf("(a) switched although a late gate is closed: %+v", in)
	}
}

func (h *history) strictEverywhere() bool {
	for _, port := range worldPorts {
		if h.w.spec.Asked.At(port) == v1alpha1.ModeStrict && h.w.live(port) != v1alpha1.ModeStrict && h.w.held.Form.At(port) != v1alpha1.ModeStrict {
			return false
		}
	}
	return true
}

// reconcile is one pass of the controller.
func (h *history) reconcile() bool {
	w := h.w
	in := w.input(false)
	d := h.next(in)
	if d.Confirm {
		in = w.input(true)
		d = h.next(in)
		if d.Confirm && in.Seen.Completeness == traffic.Complete && !in.Seen.Time.After(in.Now) {
			h.failf("a fresh reading and live facts are asked for again")
		}
	}
	h.evidence(in, d)
	h.strength(in, d)
	_, clashed := w.clash()
	before := w.policy.Form
	fault := w.fault
	rollbacks := w.status.Attempts
	changed := w.apply(in, d)
	if h.verbose {
		h.note("%s form=%q keep=%t switched=%t live=%q rule=%v blockers=%v fault=%d waiting=%q", d.Stage, d.Form, d.Keep, d.Switched, before, w.rule, types(d.Blockers), fault, d.Waiting)
	}
	if port, clash := w.clash(); clash && !clashed && fault != faultBefore {
		h.failf("(h) port %d now refuses what the rule makes clients do: %q with %v", port, w.policy.Form, w.rule)
	}
	if w.status.Attempts > rollbacks {
		h.rolledBack++
	}
	if w.status.Attempts > 3 || w.status.Attempts < 0 {
		h.failf("%d attempts", w.status.Attempts)
	}
	if d.Switched {
		h.switched++
	}
	if d.Stage == v1alpha1.StageEnforced {
		h.enforced++
	}
	return changed
}

// evidence: (a) no port becomes STRICT without complete evidence over the whole window.
func (h *history) evidence(in rollout.Input, d rollout.Decision) {
	w := h.w
	if d.Keep || d.Form.Empty() {
		return
	}
	for _, port := range worldPorts {
		if d.Form.At(port) != v1alpha1.ModeStrict || w.live(port) == v1alpha1.ModeStrict {
			continue
		}
		switch {
		case in.Spec.Strategy == v1alpha1.StrategyImmediate && !in.Spec.Suspend:
		case w.inherited == v1alpha1.ModeStrict && w.turned:
		case w.tampered && w.held.Form.At(port) == v1alpha1.ModeStrict:
		default:
			since := max(w.plaintext[port], w.unobserved[port])
			if clean := w.uptime - since; clean < in.Spec.ObservationWindow {
				h.failf("(a) port %d becomes STRICT after %s of evidence, not %s", port, clean, in.Spec.ObservationWindow)
			}
			if over := w.rest.over(in.Spec.Generation); w.uptime < over {
				h.failf("(a) port %d becomes STRICT again %s before the back-off is over", port, over-w.uptime)
			}
			if !d.Switched {
				h.failf("(a) port %d becomes STRICT, and the decision is no switch", port)
			}
			if w.policy.Exists && w.uptime-w.changed < settle {
				h.failf("(h) switched %s after a change of the objects", w.uptime-w.changed)
			}
		}
	}
}

var strength = map[v1alpha1.Mode]int{v1alpha1.ModeDisabled: 0, v1alpha1.ModePermissive: 1, v1alpha1.ModeStrict: 2}

// strength: (b) what is in force is never weakened unless the spec or a failed verification says so; (h) DISABLE and
// STRICT do not follow one another.
func (h *history) strength(in rollout.Input, d rollout.Decision) {
	w := h.w
	other := w.policy.Exists && !maps.Equal(w.policy.Selector, w.target)
	if other && !d.Keep && !d.Switched && w.policy.Form.Equal(strict) && in.Spec.Asked.Equal(strict) && w.inherited != v1alpha1.ModeStrict {
		h.failf("(b) the other set of pods lost STRICT before this one has passed: %+v", d)
	}
	if d.Keep || d.Form.Empty() {
		return
	}
	for _, port := range worldPorts {
		live, next, asked := w.live(port), d.Form.At(port), in.Spec.Asked.At(port)
		if in.Spec.Asked.Empty() {
			asked = w.inherited
		}
		direct := live == v1alpha1.ModeStrict && next == v1alpha1.ModeDisabled ||
			live == v1alpha1.ModeDisabled && next == v1alpha1.ModeStrict && !w.tampered && !w.turned
		if direct {
			h.failf("(h) port %d goes from %s to %s", port, live, next)
		}
		if strength[next] >= strength[live] || strength[asked] < strength[live] {
			continue
		}
		failed := d.Stage == v1alpha1.StageRolledBack && (len(in.FailingCallers) > 0 || in.Previous.Stage == v1alpha1.StageRolledBack)
		if !failed || w.inherited == v1alpha1.ModeStrict {
			h.failf("(b) port %d is weakened from %s to %s at stage %s, and %s is asked for", port, live, next, d.Stage, asked)
		}
	}
}

// fixedPoint: (d) with nothing new, applying what was decided leads to rest.
func (h *history) fixedPoint() {
	w := h.w.copy()
	in := w.input(true)
	in.Facts.UnchangedFor = time.Hour
	var last rollout.Decision
	for range 12 {
		d := rollout.Next(in)
		w.fault = faultNone
		changed := w.apply(in, d)
		seen := in.Seen
		in = w.input(true)
		in.Seen, in.Facts.UnchangedFor = seen, time.Hour
		if !changed && d.Stage == last.Stage && d.Form.Equal(last.Form) && d.Keep == last.Keep && reflect.DeepEqual(d.Rules, last.Rules) {
			return
		}
		last = d
	}
	h.failf("(d) no rest; the last decision is %+v", last)
}

func (h *history) settle() {
	for range 4 {
		if !h.reconcile() {
			return
		}
	}
}

func (h *history) tick(n int) {
	for range n {
		h.w.uptime += interval
		h.settle()
	}
}

var askedForms = []facts.Form{
	strict, form(v1alpha1.ModeStrict, 9443, v1alpha1.ModePermissive), form(v1alpha1.ModeStrict, 9443, v1alpha1.ModeDisabled),
	form(v1alpha1.ModePermissive, 9443, v1alpha1.ModeStrict), form(v1alpha1.ModeDisabled, 9443, v1alpha1.ModeStrict),
	permissive, disabled, form(v1alpha1.ModeDisabled, 9443, v1alpha1.ModePermissive),
	{},
	strict, strict,
}

func pick[T any](all []T, arg byte) T { return all[int(arg)%len(all)] }

func (h *history) edit(what string, change func(*rollout.Spec)) {
	change(&h.w.spec)
	h.w.spec.Generation++
	h.note("spec: %s", what)
}

// tamper is someone else's write to the profile's object.
func (h *history) tamper(policy facts.Policy) {
	w := h.w
	w.policy, w.changed, w.tampered = policy, w.uptime, true
	w.rest.object = w.rest.object || !policy.Exists
	for _, port := range worldPorts {
		w.unobserved[port] = w.uptime
	}
	w.stretch = -1
	h.note("tamper: %q exists=%t", policy.Form, policy.Exists)
}

// actions are what may happen; arg says how.
var actions = []func(*history, byte){
	func(h *history, arg byte) { h.tick(int(arg%24) + 1) },
	func(h *history, arg byte) { h.tick(int(arg%4) + 1) },
	func(h *history, _ byte) { h.tick(12) },
	func(h *history, arg byte) {
		h.w.send(pick(worldPorts, arg))
		h.note("plaintext on %d", pick(worldPorts, arg))
	},
	func(h *history, arg byte) {
		p := pick(worldPorts, arg)
		h.w.open[p] = !h.w.open[p]
		h.note("open %v", h.w.open)
	},
	func(h *history, arg byte) { h.w.scrapeFails = arg%3 == 0; h.note("scrape fails: %t", h.w.scrapeFails) },
	func(h *history, arg byte) { h.w.fault = fault(arg % 4); h.note("fault %d", h.w.fault) },
	func(h *history, _ byte) { h.note("restart"); h.w.restart() },
	func(h *history, _ byte) {
		h.note("status lost")
		h.w.status, h.w.rest.status = rollout.Previous{}, true
	},
	func(h *history, arg byte) {
		jumps := []time.Duration{-24 * time.Hour, -time.Hour, -time.Minute, time.Minute, time.Hour, 24 * time.Hour, -10 * time.Second}
		h.w.ahead += pick(jumps, arg)
		h.w.rest.clock = true
		h.note("clock jumps %s", pick(jumps, arg))
	},
	func(h *history, arg byte) {
		h.edit("asked", func(s *rollout.Spec) { s.Asked = pick(askedForms, arg) })
		h.note("asked %q", h.w.spec.Asked)
	},
	func(h *history, arg byte) {
		h.edit("strategy", func(s *rollout.Spec) {
			s.Strategy = v1alpha1.StrategyStaged
			if arg%5 == 0 {
				s.Strategy = v1alpha1.StrategyImmediate
			}
		})
	},
	func(h *history, arg byte) {
		h.edit("window", func(s *rollout.Spec) {
			s.ObservationWindow = pick([]time.Duration{time.Minute, 2 * time.Minute, 5 * time.Minute}, arg)
		})
	},
	func(h *history, arg byte) {
		h.edit("verification", func(s *rollout.Spec) {
			s.VerificationWindow = pick([]time.Duration{0, time.Minute, 3 * time.Minute}, arg)
		})
	},
	func(h *history, arg byte) {
		h.edit("flags", func(s *rollout.Spec) {
			s.Suspend, s.DeniesIdentities, s.MinRequests = arg&1 > 0 && arg&8 > 0, arg&2 > 0, int64(arg%3)
			s.Rollback, s.Approval = v1alpha1.RollbackAutomatic, v1alpha1.ApprovalAutomatic
			if arg&16 > 0 {
				s.Rollback = v1alpha1.RollbackNever
			}
			if arg&32 > 0 && arg&64 > 0 {
				s.Approval = v1alpha1.ApprovalManual
			}
		})
	},
	func(h *history, arg byte) {
		policies := []v1alpha1.DestinationRulePolicy{v1alpha1.DestinationRuleAuto, v1alpha1.DestinationRuleAlways, v1alpha1.DestinationRuleNever}
		h.edit("rule "+string(pick(policies, arg)), func(s *rollout.Spec) { s.DestinationRule = pick(policies, arg) })
	},
	func(h *history, arg byte) {
		h.w.annotation = ""
		if arg%4 > 0 {
			h.w.annotation = h.w.status.Approval.Token
		}
		h.note("approve %q", h.w.annotation)
	},
	func(h *history, arg byte) {
		mode := pick([]v1alpha1.Mode{v1alpha1.ModePermissive, v1alpha1.ModeStrict, v1alpha1.ModeDisabled, v1alpha1.ModePermissive}, arg)
		h.w.turned = mode == v1alpha1.ModeStrict && (h.w.turned || h.w.inherited != mode)
		h.w.inherited = mode
		h.note("parent %s", mode)
	},
	func(h *history, arg byte) {
		h.w.target, h.w.rest.object = map[string]string{"app": "httpbin", "version": fmt.Sprint(arg % 3)}, true
		h.note("selector %v", h.w.target)
	},
	func(h *history, arg byte) {
		h.w.pods = nil
		members := []facts.Membership{facts.MemberSidecar, facts.MemberSidecar, facts.MemberNone, facts.MemberAmbient}
		for i := range int(arg % 3) {
			pod := sidecar(fmt.Sprintf("httpbin-%d", i))
			pod.Membership = pick(members, arg>>(2*i))
			h.w.pods = append(h.w.pods, pod)
		}
		h.w.host.Endpoints, h.w.host.UnmeshedEndpoints = len(h.w.pods), nil
		for _, pod := range h.w.pods {
			if pod.Membership == facts.MemberNone {
				h.w.host.UnmeshedEndpoints = append(h.w.host.UnmeshedEndpoints, pod.Name)
			}
		}
		h.note("pods %d", len(h.w.pods))
	},
	func(h *history, arg byte) {
		h.w.failing = pick([][]string{nil, {"bar/sleep"}, nil}, arg)
		h.note("failing %v", h.w.failing)
	},
	func(h *history, arg byte) {
		if !h.w.policy.Exists {
			return
		}
		policy := h.w.policy
		policy.Form = pick([]facts.Form{permissive, disabled, permissive}, arg)
		h.tamper(policy)
	},
	func(h *history, _ byte) { h.tamper(facts.Policy{}) },
	func(h *history, arg byte) {
		h.w.rule, h.w.changed = pick([]map[int32]facts.TLS{nil, {0: facts.TLSMutual}, {0: facts.TLSDisable}}, arg), h.w.uptime
		h.w.rule = maps.Clone(h.w.rule)
		h.note("rule tampered: %v", h.w.rule)
	},
	func(h *history, arg byte) {
		h.w.competing, h.w.client, h.w.rolling = nil, nil, nil
		if arg&3 == 1 {
			h.w.competing = []facts.CompetingPolicy{{Namespace: "foo", Name: "other", Pod: "httpbin-0", Wins: arg&4 > 0}}
		}
		if arg&24 == 8 {
			h.w.client = []facts.ClientRule{{Namespace: "bar", Name: "legacy", Host: hostName, TLS: "DISABLE", Where: "trafficPolicy"}}
		}
		if arg&96 == 32 {
			h.w.rolling = []string{"Deployment httpbin"}
		}
		h.note("others %v %v %v", h.w.competing, h.w.client, h.w.rolling)
	},
	func(h *history, arg byte) {
		h.w.autoMTLS, h.w.host.Headless = arg&1 == 0, arg&6 == 2
		h.note("autoMTLS %t headless %t", h.w.autoMTLS, h.w.host.Headless)
	},
}

// play runs a history, and then lets the faults end: (e) a clean target makes progress.
func play(t *testing.T, data []byte, verbose bool) *history {
	t.Helper()
	h := &history{t: t, w: newWorld(), verbose: verbose, replay: func() { play(t, data, true) }}
	h.settle()
	if len(data) > 0 {
		// The window is eight intervals: many histories start where it gets interesting.
		h.tick(int(data[0] % 16))
	}
	for i := 0; i+1 < len(data) && i < 160; i += 2 {
		pick(actions, data[i])(h, data[i+1])
		h.settle()
		if data[i+1]%8 == 0 {
			h.fixedPoint()
		}
	}
	h.progress()
	return h
}

func (h *history) progress() {
	w := h.w
	h.note("the faults end")
	w.pods, w.host.Endpoints, w.host.UnmeshedEndpoints = []facts.Pod{sidecar("httpbin-1")}, 1, nil
	w.scrapeFails, w.open, w.failing, w.competing, w.client, w.rolling, w.fault = false, map[int32]bool{}, nil, nil, nil, nil, faultNone
	h.edit("released", func(s *rollout.Spec) { s.Suspend, s.Approval = false, v1alpha1.ApprovalAutomatic })
	// A selector that changed under STRICT keeps the old object, so that pods under an inherited DISABLE cannot show mutual TLS.
	if w.inherited == v1alpha1.ModeDisabled {
		w.inherited = v1alpha1.ModePermissive
	}
	most := w.spec.ObservationWindow + w.spec.VerificationWindow + 4*settle + 10*interval
	h.tick(int(most / interval))
	for _, port := range worldPorts {
		want := w.spec.Asked.At(port)
		if w.spec.Asked.Empty() {
			want = w.inherited
		}
		if w.live(port) != want {
			h.failf("(e) port %d is %s, not %s, %s after the last fault", port, w.live(port), want, most)
		}
	}
	if w.spec.AsksStrict() && w.status.Stage != v1alpha1.StageEnforced {
		h.failf("(e) stage %s, not Enforced, %s after the last fault", w.status.Stage, most)
	}
	h.fixedPoint()
}

func FuzzNext(f *testing.F) {
	f.Add([]byte{0, 20, 3, 0, 0, 23, 7, 0, 0, 23})
	f.Add([]byte{0, 23, 20, 1, 1, 1, 20, 0, 0, 23, 0, 23})
	f.Fuzz(func(t *testing.T, data []byte) { play(t, data, false) })
}

// TestHistories plays random histories, the same ones each time.
func TestHistories(t *testing.T) {
	const histories = 1500
	random := rand.New(rand.NewPCG(1, 2))
	var switched, enforced, rolledBack int
	for range histories {
		data := make([]byte, 8+random.IntN(56))
		for i := range data {
			data[i] = byte(random.Uint32())
		}
		h := play(t, data, false)
		switched, enforced, rolledBack = switched+h.switched, enforced+h.enforced, rolledBack+h.rolledBack
	}
	t.Logf("%d histories: %d switches, %d rollbacks", histories, switched, rolledBack)
	// Histories that never get anywhere would hold every invariant.
	if switched < histories/4 || rolledBack < histories/100 {
		t.Errorf("only %d switches and %d rollbacks in %d histories", switched, rolledBack, histories)
	}
}
