package rollout_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/rollout"
	"github.com/servicesecurity/operator/controllers/traffic"
)

// The search visits every state that so many events can lead to. It counts time in ticks of one observation interval, and a
// state has only ages: two that differ in when they are reached are one.
const (
	searchDepth   = 4
	searchFaults  = 2 // failing writes in a history
	tick          = 5 * time.Minute
	searchWindow  = 4
	searchVerify  = 2
	searchBackOff = 3 // 15 minutes
	// oldest is an age beyond which all are alike: longer than the window and the first back-off.
	oldest  = searchWindow + 1
	nothing = int8(127)
)

// node is a state: the cluster, the spec, what status and the operator remember, and the truth, as small numbers.
type node struct {
	own      uint8 // the PeerAuthentication: none, PERMISSIVE, STRICT
	switched int8  // age of its annotation
	rolled   int8  // and of the one that tells of the last rollback
	rolledN  int8  // how many there were
	rolledIn bool  // under the spec as it is now
	fresh    bool  // it has not settled
	parent   bool  // STRICT is inherited

	permissive, manual, suspended, immediate, never, unverified bool // spec
	annotated                                                   int8 // age of the stretch that the annotation approves

	stage                       v1alpha1.Stage
	clean, plain, attempt       int8 // ages in status; an attempt in the future is negative
	attempts                    int8
	approved                    int8 // age of the stretch that was approved
	edited, parentWas, hidWas   bool // the spec changed since; the parent was STRICT; a part was unobserved
	lost                        bool // there is no status
	undecided                   int8 // age of the last time without a decision, as far as status tells of it
	held                        uint8
	baseline                    bool
	since, seen                 int8 // the observer's stretch, and the last plaintext that it saw
	open, gap, outsider, rival  bool
	failing, deaf               bool // callers fail; a proxy has not taken the change
	truth                       int8 // ticks under complete observation without plaintext
	turned, tampered, sawStrict bool
	unrecorded                  bool // STRICT was written, and status did not live to see it
	faults                      int8 // writes that failed
}

const (
	ownNone uint8 = iota
	ownPermissive
	ownStrict
)

func (n node) strict() bool { return n.own == ownStrict || n.own == ownNone && n.parent }

// age lets ticks go by.
func (n node) age(ticks int8) node {
	for _, a := range []*int8{&n.switched, &n.rolled, &n.clean, &n.plain, &n.attempt, &n.annotated, &n.approved, &n.since, &n.seen, &n.undecided} {
		if *a != nothing {
			*a = min(*a+ticks, oldest)
		}
	}
	if n.undecided == oldest {
		n.undecided = nothing
	}
	if ticks > 0 {
		n.fresh = false
	}
	if n.open && !n.strict() && !n.gap {
		n.seen = 0
	}
	n.truth = min(n.truth+ticks, oldest)
	return n.spoil()
}

// spoil is truth that is none: nobody could have seen plaintext, or there was some.
func (n node) spoil() node {
	if n.open || n.outsider || n.strict() || n.gap {
		n.truth = 0
	}
	return n
}

func when(age int8) time.Time {
	if age == nothing {
		return time.Time{}
	}
	return noon.Add(-time.Duration(age) * tick)
}

func ageOf(t time.Time) int8 {
	if t.IsZero() {
		return nothing
	}
	return int8(max(-127, min(noon.Sub(t)/tick, oldest)))
}

func (n node) asked() facts.Form {
	if n.permissive {
		return permissive
	}
	return strict
}

func (n node) policy(own uint8) facts.Policy {
	switch own {
	case ownPermissive:
		return ownPolicy(permissive)
	case ownStrict:
		return ownPolicy(strict)
	}
	return facts.Policy{}
}

// choose is one of two.
func choose[T any](first bool, a, b T) T {
	if first {
		return a
	}
	return b
}

// input is what the controller would ask in this state.
func (n node) input(live bool) rollout.Input {
	in := rollout.Input{
		Spec: rollout.Spec{
			Generation: 2, Asked: n.asked(), DestinationRule: v1alpha1.DestinationRuleNever,
			Strategy:          choose(n.immediate, v1alpha1.StrategyImmediate, v1alpha1.StrategyStaged),
			ObservationWindow: searchWindow * tick, VerificationWindow: choose(n.unverified, 0, searchVerify*tick), MinRequests: 1,
			Rollback: choose(n.never, v1alpha1.RollbackNever, v1alpha1.RollbackAutomatic),
			Approval: choose(n.manual, v1alpha1.ApprovalManual, v1alpha1.ApprovalAutomatic), Suspend: n.suspended,
			Approved: tokenOf(n.annotated),
		},
		Facts: facts.Facts{
			Live: live, Mesh: facts.Mesh{PeerAuthentications: true, AutoMTLS: true},
			Target: facts.Target{Scope: v1alpha1.ScopeWorkload, Selector: selector}, Pods: searchPods[:1],
			Policy: n.policy(n.own), Inherited: choose(n.parent, v1alpha1.ModeStrict, v1alpha1.ModePermissive),
			UnchangedFor: choose(n.fresh, 0, time.Hour),
		},
		Held: n.policy(n.held), Now: noon, Interval: tick, Settle: settle,
	}
	in.Facts.Policy.SwitchedAt = when(n.switched)
	if n.rolled != nothing {
		in.Facts.Policy.RolledBack = facts.Rollback{Generation: choose[int64](n.rolledIn, 2, 1), Attempts: int32(n.rolledN), Time: when(n.rolled)}
	}
	if n.switched != nothing {
		in.Facts.Policy.Previous = permissive
		if n.held == ownStrict {
			in.Held.SwitchedAt, in.Held.Previous = in.Facts.Policy.SwitchedAt, permissive
		}
	}
	if n.outsider {
		in.Facts.Pods = searchPods
	}
	if n.rival {
		in.Facts.CompetingPolicies = searchRivals
	}
	if n.failing {
		in.FailingCallers = []string{"bar/sleep"}
	}
	if !n.lost {
		in.Previous = rollout.Previous{
			Generation: choose[int64](n.edited, 1, 2), Stage: n.stage, Inherited: choose(n.parentWas, v1alpha1.ModeStrict, v1alpha1.ModePermissive),
			CleanSince: when(n.clean), LastPlaintext: when(n.plain), NextAttempt: when(n.attempt), Attempts: int32(n.attempts),
			Approval: v1alpha1.ApprovalStatus{ApprovedToken: tokenOf(n.approved)}, Unobserved: n.hidWas,
		}
	}
	in.Seen = n.observation()
	if n.baseline {
		in.Baseline = searchBaseline
	}
	return in
}

var (
	searchPods = func() []facts.Pod {
		outside := sidecar("httpbin-2")
		outside.Membership = facts.MemberNone
		return []facts.Pod{sidecar("httpbin-1"), outside}
	}()
	searchRivals   = []facts.CompetingPolicy{{Namespace: "foo", Name: "other", Pod: "httpbin-1", Wins: true}}
	searchReading  = traffic.Reading{Namespace: "foo", Name: "httpbin-1", UID: "httpbin-1", Started: noon.Add(-48 * time.Hour), ListenerUpdates: 7}
	searchBaseline = map[string]traffic.Reading{"httpbin-1": searchReading}
	searchTokens   = map[int8]string{}
)

// tokenOf is the token of a stretch of that age.
func tokenOf(age int8) string {
	if age == nothing {
		return ""
	}
	if searchTokens[age] == "" {
		in := full()
		in.Spec.Generation, in.Previous.Generation = 2, 2
		in.Spec.Approval, in.Spec.ObservationWindow = v1alpha1.ApprovalManual, time.Minute
		in.Seen.Since, in.Previous.CleanSince, in.Now, in.Seen.Time = when(age), when(age), noon.Add(24*time.Hour), noon.Add(24*time.Hour)
		searchTokens[age] = rollout.Next(in).Approval.Token
	}
	return searchTokens[age]
}

func (n node) observation() traffic.Observation {
	if n.gap {
		return traffic.Observation{Completeness: traffic.Incomplete, Message: "Proxy httpbin-1 was not read.", Time: noon, LastPlaintext: when(n.seen)}
	}
	reading := searchReading
	if !n.deaf {
		reading.ListenerUpdates++
	}
	seen := traffic.Observation{
		Completeness: traffic.Complete, Time: noon, Since: when(n.since), LastPlaintext: when(n.seen), MutualTLS: 10, Proxies: []traffic.Reading{reading},
	}
	if n.open && !n.strict() {
		seen.OpenPlaintext = 1
	}
	return seen
}

// happening is an event of the search: what becomes of a state, and which writes of the reconcile after it fail.
type happening struct {
	name  string
	do    func(n *node)
	fault fault
}

func spec(change func(n *node)) func(n *node) {
	return func(n *node) {
		change(n)
		n.edited, n.annotated, n.approved, n.rolledIn = true, nothing, nothing, false
	}
}

func passes(ticks int8) func(n *node) { return func(n *node) { *n = n.age(ticks) } }

// restarts is an operator that starts anew; the counters say that it missed something, or not.
func restarts(missed bool) func(n *node) {
	return func(n *node) {
		n.held, n.baseline, n.fresh, n.sawStrict = ownNone, false, true, false
		if *n = n.forget(); missed {
			n.since, n.truth = 0, 0
		}
	}
}

func becomes(own uint8) func(n *node) {
	return func(n *node) {
		if n.own == ownNone && own == ownPermissive || n.unrecorded && (own == ownNone || n.switched == nothing && n.rolled == nothing) {
			// Nobody can know of STRICT that went before anything noted it.
			return
		}
		n.own, n.fresh, n.tampered = own, true, true
		if own == ownNone {
			n.switched, n.rolled, n.rolledN, n.rolledIn = nothing, nothing, 0, false
		}
	}
}

// happenings are the alphabet of the search.
var happenings = []happening{
	{"a tick", passes(1), faultNone},
	{"a window", passes(searchWindow), faultNone},
	{"a window, and the write fails", passes(searchWindow), faultBefore},
	{"a window, and the answer is lost", passes(searchWindow), faultAfter},
	{"a window, and status is not written", passes(searchWindow), faultStatus},
	{"plaintext", func(n *node) {
		*n = n.age(1)
		if !n.strict() {
			n.seen, n.truth = 0, 0
		}
	}, faultNone},
	{"a connection opens or closes", func(n *node) { n.open = !n.open }, faultNone},
	{"a gap opens or ends", func(n *node) {
		n.gap = !n.gap
		if n.since = 0; !n.gap {
			n.truth = 0
		}
	}, faultNone},
	{"the operator restarts", restarts(false), faultNone},
	{"the operator restarts, and missed something", restarts(true), faultNone},
	{"status is lost", func(n *node) { n.lost, n.undecided = true, nothing }, faultNone},
	{"the profile is not accepted for a tick", func(n *node) {
		if *n = n.age(1); !n.lost {
			// Nobody decides, and nobody looks at what no proxy counts.
			n.stage, n.hidWas, n.undecided = "", false, 0
		}
	}, faultNone},
	{"status says Enforced", func(n *node) { n.stage, n.lost = v1alpha1.StageEnforced, false }, faultNone},
	{"status says clean for ever", func(n *node) { n.clean, n.plain, n.undecided, n.lost = oldest, nothing, nothing, false }, faultNone},
	{"mode", spec(func(n *node) { n.permissive = !n.permissive }), faultNone},
	{"approval", spec(func(n *node) { n.manual = !n.manual }), faultNone},
	{"suspend", spec(func(n *node) { n.suspended = !n.suspended }), faultNone},
	{"strategy", spec(func(n *node) { n.immediate = !n.immediate }), faultNone},
	{"rollback", spec(func(n *node) { n.never = !n.never }), faultNone},
	{"verificationWindow", spec(func(n *node) { n.unverified = !n.unverified }), faultNone},
	{"somebody approves", func(n *node) { n.annotated = n.clean }, faultNone},
	{"somebody approves, and the answer is lost", func(n *node) { n.annotated = n.clean }, faultAfter},
	{"the parent changes", func(n *node) { n.parent = !n.parent; n.turned = n.parent }, faultNone},
	{"the object is made PERMISSIVE", becomes(ownPermissive), faultNone},
	{"the object is deleted", becomes(ownNone), faultNone},
	{"callers begin or cease to fail", func(n *node) { n.failing = !n.failing }, faultNone},
	{"a proxy does not hear, or does", func(n *node) { n.deaf = !n.deaf }, faultNone},
	{"a pod without a sidecar comes or goes", func(n *node) { n.outsider = !n.outsider }, faultNone},
	{"an older policy comes or goes", func(n *node) { n.rival = !n.rival }, faultNone},
	{"the clock goes back an hour", func(n *node) {
		for _, a := range []*int8{&n.switched, &n.rolled, &n.clean, &n.plain, &n.attempt, &n.annotated, &n.approved, &n.seen} {
			if *a != nothing {
				*a -= 12
			}
		}
		if n.seen != nothing {
			n.seen = 0
		}
		n.since, n.truth = 0, 0
	}, faultNone},
}

// reconcile is what the controller makes of a state, with what it decided.
func (n node) reconcile(f fault) (node, rollout.Input, rollout.Decision) {
	n = n.spoil()
	if n.switched != nothing || n.outsider {
		n.since = 0 // the observer is told that nobody counts it all
	}
	if n.open && !n.strict() && !n.gap {
		n.seen = 0 // and that it remembers what it saw open
	}
	in := n.input(false)
	d := rollout.Next(in)
	if d.Confirm {
		in = n.input(true)
		d = rollout.Next(in)
	}
	next := n
	if !d.Keep && !d.Form.Equal(in.Held.Form) {
		next.held = ownNone
	}
	if f == faultBefore {
		return next, in, d
	}
	next = next.write(d)
	if f == faultAfter {
		return next, in, d
	}
	if next.held = next.own; d.Switched {
		next.baseline = true
	}
	if next.own == ownStrict {
		next.sawStrict = true
	}
	if d.SwitchedAt.IsZero() {
		next.baseline = false
	}
	if f != faultStatus {
		next = next.remember(d)
	}
	if !d.Observe {
		next = next.forget()
	}
	return next, in, d
}

// forget makes the observer begin again from what status has.
func (n node) forget() node {
	n.since, n.seen = 0, nothing
	if !n.lost && n.clean != nothing {
		n.since = max(n.clean, 0)
	}
	return n
}

// write puts what was decided into the cluster.
func (n node) write(d rollout.Decision) node {
	if d.Keep {
		return n
	}
	own := ownNone
	switch {
	case d.Form.Equal(strict):
		own = ownStrict
	case !d.Form.Empty():
		own = ownPermissive
	}
	if own != n.own {
		n.fresh = true
	}
	n.unrecorded = n.unrecorded || own == ownStrict
	n.own, n.switched, n.tampered, n.turned = own, ageOf(d.SwitchedAt), false, n.turned && n.parent && own != ownStrict
	n.rolled, n.rolledN, n.rolledIn = nothing, 0, false
	if last := d.RolledBack; own != ownNone && !last.Time.IsZero() {
		n.rolled, n.rolledN, n.rolledIn = ageOf(last.Time), int8(last.Attempts), last.Generation == 2
	}
	return n.spoil()
}

// remember writes status.
func (n node) remember(d rollout.Decision) node {
	n.unrecorded = false
	n.lost, n.stage, n.edited, n.parentWas, n.hidWas = false, d.Stage, false, n.parent, rollout.Unobserved(d.Blockers)
	n.clean, n.plain, n.attempt, n.attempts = ageOf(d.CleanSince), ageOf(d.LastPlaintext), ageOf(d.NextAttempt), int8(d.Attempts)
	n.approved = nothing
	if a := d.Approval; a != nil && a.ApprovedToken != "" && (a.Token == "" || a.Token == a.ApprovedToken) {
		n.approved = n.clean
	}
	return n
}

// edge holds the promises to one step.
func (n node) edge(in rollout.Input, d rollout.Decision) string {
	if d.Keep || d.Form.Empty() {
		return ""
	}
	was, is := n.strict(), d.Form.Mode == v1alpha1.ModeStrict
	switch {
	case is && !was:
		return n.tightened(d)
	case was && !is && !n.permissive && (len(in.FailingCallers) == 0 || d.Stage != v1alpha1.StageRolledBack || n.parent):
		return "weakened without a reason"
	}
	if d.Stage != v1alpha1.StageObserving && d.Stage != v1alpha1.StageBlocked && d.Stage != v1alpha1.StageAwaitingApproval || n.immediate || is {
		return ""
	}
	for kind, closed := range map[v1alpha1.BlockerType]bool{
		v1alpha1.BlockerTelemetryIncomplete: n.gap, v1alpha1.BlockerPodsNotInMesh: n.outsider, v1alpha1.BlockerCompetingPeerAuthentication: n.rival,
		v1alpha1.BlockerPlaintextConnectionsOpen: n.open && !n.gap,
	} {
		if closed && !slices.Contains(types(d.Blockers), kind) {
			return string(kind) + " is not among the blockers"
		}
	}
	return ""
}

func (n node) tightened(d rollout.Decision) string {
	switch {
	case n.immediate && !n.suspended, n.turned && n.parent, n.tampered && n.sawStrict:
		return ""
	case !d.Switched:
		return "STRICT, and it is no switch"
	case n.truth < searchWindow:
		return fmt.Sprintf("STRICT after %d clean ticks", n.truth)
	case n.undecided < searchWindow:
		return fmt.Sprintf("STRICT %d ticks after a time without a decision", n.undecided)
	case n.gap || n.open || n.outsider || n.rival || n.suspended:
		return "STRICT through a closed gate"
	case n.manual && (d.Approval == nil || d.Approval.ApprovedToken != d.Approval.Token):
		return "STRICT without approval"
	}
	return ""
}

// rest says whether the rollout reaches its end once nothing happens any more; a spec that is released counts as one.
func (n node) rest() bool {
	n.open, n.gap, n.outsider, n.rival, n.failing, n.deaf = false, false, false, false, false, false
	n.permissive, n.manual, n.suspended, n.immediate, n.edited, n.rolledIn = false, false, false, false, true, false
	n, _, _ = n.reconcile(faultNone)
	for range 16 {
		n, _, _ = n.age(1).reconcile(faultNone)
	}
	return n.strict() && n.stage == v1alpha1.StageEnforced
}

// searchBegins are a new profile, and what becomes of it on the straight way to each of the other stages.
func searchBegins() []node {
	n := node{
		switched: nothing, rolled: nothing, annotated: nothing, clean: nothing, plain: nothing, attempt: nothing, approved: nothing, seen: nothing, undecided: nothing, lost: true,
	}
	begins := []node{n}
	step := func(change func(*node)) {
		change(&n)
		n, _, _ = n.reconcile(faultNone)
		begins = append(begins, n)
	}
	step(func(n *node) { *n = n.age(1) })
	observing := n
	step(func(n *node) { n.open = true })
	n = observing
	step(spec(func(n *node) { n.manual = true }))
	step(passes(searchWindow))
	n = observing
	step(passes(searchWindow))
	verifying := n
	step(passes(searchVerify))
	n = verifying
	step(func(n *node) { n.failing = true })
	return begins
}

// path tells how a state was reached.
type path struct {
	from  node
	event int
}

func story(reached map[node]path, n node) string {
	var steps []string
	for {
		p, ok := reached[n]
		if !ok || p.event < 0 {
			steps = append(steps, fmt.Sprintf("from %q", n.stage))
			break
		}
		steps = append(steps, fmt.Sprintf("%s → %s", happenings[p.event].name, n.stage))
		n = p.from
	}
	slices.Reverse(steps)
	return strings.Join(steps, "\n")
}

func (n node) title() string { return choose(n.lost || n.stage == "", "(new)", string(n.stage)) }

func titleOf(stage v1alpha1.Stage) string { return choose(stage == "", "none", string(stage)) }

// TestSearch visits every state that searchDepth events can lead to from each stage, holds the promises on every edge, and
// finds the transitions that docs/rollout.md publishes, and no others.
func TestSearch(t *testing.T) {
	reached, found := map[node]path{}, map[string]string{}
	var layer []node
	for _, n := range searchBegins() {
		reached[n], layer = path{event: -1}, append(layer, n)
	}
	edges := 0
	for range searchDepth {
		var deeper []node
		for _, n := range layer {
			for i, h := range happenings {
				moved := n
				h.do(&moved)
				if h.fault != faultNone {
					moved.faults++
				}
				if moved.faults > searchFaults {
					continue
				}
				next, in, d := moved.reconcile(h.fault)
				edges++
				if wrong := moved.spoil().edge(in, d); wrong != "" {
					t.Fatalf("%s:\n%s\n%s → %s", wrong, story(reached, n), h.name, d.Stage)
				}
				for _, from := range []node{n, moved} { // an event may be an edit of status
					if step := from.title() + " → " + titleOf(d.Stage); found[step] == "" {
						found[step] = story(reached, n) + "\n" + h.name
					}
				}
				if _, ok := reached[next]; !ok {
					reached[next] = path{n, i}
					deeper = append(deeper, next)
				}
			}
		}
		for _, n := range layer {
			if !n.rest() {
				t.Fatalf("no rest after:\n%s\n%+v", story(reached, n), n)
			}
		}
		layer = deeper
		t.Logf("%d states, %d edges", len(reached), edges)
	}
	want := published()
	for step, how := range found {
		if !want[step] {
			t.Errorf("docs/rollout.md does not have %s:\n%s", step, how)
		}
	}
	for step := range want {
		if found[step] == "" {
			t.Errorf("docs/rollout.md has %s, which nothing leads to", step)
		}
	}
}

// published are the transitions of the table in docs/rollout.md, by stage.
func published() map[string]bool {
	all := map[string]bool{}
	for _, event := range events {
		for i, state := range states {
			from, _, _ := strings.Cut(state.title, ",")
			from, _, _ = strings.Cut(from, " by")
			to, _, _ := strings.Cut(strings.TrimSuffix(event.want[i], " (kept)"), " →")
			all[from+" → "+to] = true
			if event.name == "status is edited: Enforced" {
				all["Enforced → "+to] = true // as it looks to whoever reads the status
			}
		}
	}
	return all
}
