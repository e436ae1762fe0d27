package simulation

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/rollout"
	"github.com/servicesecurity/operator/controllers/traffic"
)

// targetPorts are the ports that clients call.
var targetPorts = []int32{8080, 9443}

// Report is what came of one history or, added up, of many.
type Report struct {
	Histories int
	Readings  int
	// Switches to STRICT by evidence. Immediate ones, those with the parent and the repair of STRICT are not among them.
	Switches int
	// False are switches in spite of plaintext that a source could have shown.
	False int
	// Invisible counts what no source shows, by kind.
	Invisible map[string]int
	// Late are switches later than an interval after the earliest moment that the truth would have allowed, by the reason.
	Late map[string]int
	// Rollbacks that failing callers made necessary, and others.
	Rollbacks, Unneeded int
	// Violation is the first broken promise; empty if all were kept.
	Violation string
}

// Add sums up.
func (r *Report) Add(other Report) {
	r.Histories, r.Readings, r.Switches, r.False = r.Histories+other.Histories, r.Readings+other.Readings, r.Switches+other.Switches, r.False+other.False
	r.Rollbacks, r.Unneeded = r.Rollbacks+other.Rollbacks, r.Unneeded+other.Unneeded
	for _, sum := range []struct {
		into *map[string]int
		from map[string]int
	}{{&r.Invisible, other.Invisible}, {&r.Late, other.Late}} {
		if *sum.into == nil {
			*sum.into = map[string]int{}
		}
		for kind, n := range sum.from {
			(*sum.into)[kind] += n
		}
	}
}

func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d histories with %d readings: %d switches, of them false: %d; rollbacks needed: %d, unneeded: %d\n",
		r.Histories, r.Readings, r.Switches, r.False, r.Rollbacks, r.Unneeded)
	for _, table := range []struct {
		title string
		rows  map[string]int
	}{{"what no source shows", r.Invisible}, {"later than an interval after the earliest moment, because", r.Late}} {
		fmt.Fprintf(&b, "%s:\n", table.title)
		for _, kind := range slices.SortedFunc(maps.Keys(table.rows), func(x, y string) int {
			if table.rows[x] != table.rows[y] {
				return table.rows[y] - table.rows[x]
			}
			return strings.Compare(x, y)
		}) {
			fmt.Fprintf(&b, "  %6d  %s\n", table.rows[kind], kind)
		}
	}
	return b.String()
}

// crossed: nobody can read one object and write another in one step.
const crossed = "a parent that changed while the write that rests on it was on its way"

// oracle knows the truth, and holds the operator to it.
type oracle struct {
	report Report
	began  time.Duration // of the last pass over the proxies
	fresh  []*use        // that the last pass showed for the first time
	// noticed is when an operator last knew that a part of the target was not observed.
	noticed noticed
	holds   map[string]time.Duration
	// strict is when STRICT was last written by evidence; -1 before that. rested is when it was last taken back, by port.
	strict time.Duration
	rested map[int32]time.Duration
	unseen string // why nobody knew that it had been in force; empty if somebody did
	// writer is the operator that knows STRICT to be in force; tampered says that somebody changed the object since.
	writer   int
	tampered bool
	turned   bool // the parent became STRICT under the profile
	crossed  bool // it changed while a write was on its way
	judged   map[*client]bool
	// unrecorded says that STRICT was written and status did not live to see it.
	unrecorded bool
	// approved are the tokens that people have given.
	approved map[string]bool
	rest     rest
	// owed says that callers failed when a rollback was decided, which is not written yet: they need not fail until it is.
	owed bool
	// jumps of the operator's clock ahead, small ones and those that it was away for.
	steps []step
}

// rest is what is owed to callers after a rollback.
type rest struct {
	generation int64
	rollbacks  int
	at         time.Duration // of the last
	ahead      time.Duration // by which the operator's clock was set ahead since
	// status and object would tell of it, and were lost or edited since.
	status, object bool
}

// least is how long the rest takes.
func (r rest) least() time.Duration {
	switch r.rollbacks {
	case 1:
		return 15 * time.Minute
	case 2:
		return time.Hour
	}
	return forever
}

// step is a change of the operator's clock that nothing tells it of.
type step struct {
	at, by  time.Duration
	process int  // of the operator, or the last one
	away    bool // it is
	large   bool // so that the next reading shows it
}

func (o *oracle) violate(w *world, format string, args ...any) {
	if o.report.Violation == "" {
		o.report.Violation = stamp(w.now) + ": " + fmt.Sprintf(format, args...)
		w.diary.note(w.now, "oracle", "%s", o.report.Violation)
	}
}

// hold notes why a switch may come later than the truth would have allowed.
func (o *oracle) hold(at time.Duration, reason string) { o.holds[reason] = at }

// pass begins a pass over the proxies.
func (o *oracle) pass(w *world, asked traffic.Request) {
	o.report.Readings++
	o.steps = slices.DeleteFunc(o.steps, func(s step) bool { return s.large })
	o.began, o.fresh = w.now, nil
	if asked.Unobserved {
		o.noticed = noticed{at: w.now, memory: w.memories}
	}
}

// died: what no reading has shown yet may as well have happened while the operator was away.
func (o *oracle) died() {
	for i := range o.steps {
		o.steps[i].away, o.steps[i].large = o.steps[i].away || o.steps[i].at > o.began, false
	}
}

// noticed is that a part of the target was not observed: an observer remembers it, and status, once it was written.
type noticed struct {
	at       time.Duration
	memory   int
	recorded bool
}

// since says whether that is known of a time after one.
func (n noticed) since(at time.Duration, memory int) bool {
	return n.at >= at && (n.memory == memory || n.recorded)
}

// news is what a reading of a proxy shows that the one before, by the same operator, did not.
func (o *oracle) news(w *world, p *process, since time.Duration) {
	for _, u := range w.uses {
		if u.proc == p && u.counted == counted && !p.reborn(u, p.read, len(p.read)-1) && u.shown > since && u.shown <= p.read[len(p.read)-1] {
			o.fresh = append(o.fresh, u)
		}
	}
}

// gap notes why an observation is not complete, or its stretch began anew.
func (o *oracle) gap(at time.Duration, seen traffic.Observation) {
	for _, known := range []string{
		"clock was set back", "clock jumped", "restarted, and what", "restarted before it was read", "went away", "vanished", "secured",
		"joined", "excepted", "scraped no proxy", "clock of the server", "not scraped before", "scraped until", "had no series", "did not say how", "did not say which", "behind that of", "other pods", "may have restarted", "fell in", "drops series",
	} {
		if strings.Contains(seen.Gap, known) {
			o.hold(at, "gap: … "+known+" …")
			return
		}
	}
	if seen.Gap != "" {
		o.hold(at, "gap: "+seen.Gap)
	}
}

// lingers notes that no stretch goes on yet after something had hidden traffic, or may have before the operator started: nothing
// may be left of that.
func (o *oracle) lingers(w *world, seen traffic.Observation) {
	if !seen.Since.Before(seen.Time) && w.now-max(o.noticed.at, w.booted) < 3*w.config.interval+drainTime {
		o.hold(w.now, "what had hidden traffic was not over for long")
	}
}

// decided holds what is decided of an input to what is known.
func (o *oracle) decided(w *world, in rollout.Input, d rollout.Decision) {
	for _, b := range types(d.Blockers) {
		o.hold(w.now, "blocker: "+string(b))
	}
	if d.Waiting != "" {
		o.hold(w.now, "waiting: "+d.Waiting)
	}
	if d.Stage == v1alpha1.StageRolledBack {
		o.hold(w.now, "rolled back")
	}
	o.owed = d.Stage == v1alpha1.StageRolledBack && (o.owed || len(in.FailingCallers) > 0)
	if d.Attempts < 0 || d.Attempts > 3 {
		o.violate(w, "%d attempts", d.Attempts)
	}
	if o.report.Readings%16 == 0 && w.operator.core.Next == nil && !reflect.DeepEqual(rollout.Next(in), rollout.Next(in)) {
		o.violate(w, "the same input gave two answers")
	}
	if d.Stage == v1alpha1.StageObserving || d.Stage == v1alpha1.StageBlocked || d.Stage == v1alpha1.StageAwaitingApproval {
		o.blockers(w, in, d)
	}
}

// blockers: every open reason is listed.
func (o *oracle) blockers(w *world, in rollout.Input, d rollout.Decision) {
	f := in.Facts
	if in.Spec.Strategy == v1alpha1.StrategyImmediate {
		return
	}
	member := func(m facts.Membership) bool {
		return slices.ContainsFunc(f.Pods, func(p facts.Pod) bool { return p.Membership == m })
	}
	listed := types(d.Blockers)
	plaintext := slices.ContainsFunc(listed, func(b v1alpha1.BlockerType) bool {
		return b == v1alpha1.BlockerPlaintextSeen || b == v1alpha1.BlockerPortNotAttributable || b == v1alpha1.BlockerPlaintextConnectionsOpen ||
			b == v1alpha1.BlockerTelemetryIncomplete
	})
	for kind, closed := range map[v1alpha1.BlockerType]bool{
		v1alpha1.BlockerNoPods:                      len(f.Pods) == 0,
		v1alpha1.BlockerPodsNotInMesh:               member(facts.MemberNone),
		v1alpha1.BlockerUnrewrittenProbes:           slices.ContainsFunc(f.Pods, func(p facts.Pod) bool { return len(p.UnrewrittenProbes) > 0 }),
		v1alpha1.BlockerTelemetryOverridden:         len(f.TelemetryOverrides) > 0,
		v1alpha1.BlockerCompetingPeerAuthentication: len(f.CompetingPolicies) > 0,
		v1alpha1.BlockerPlaintextDestinationRule:    len(f.ClientRules) > 0,
		v1alpha1.BlockerTelemetryIncomplete:         in.Seen.Completeness != traffic.Complete && len(f.Pods) > 0,
	} {
		if closed && !slices.Contains(listed, kind) {
			o.violate(w, "%s holds the switch and is not among the blockers %v", kind, listed)
		}
	}
	if in.Seen.Completeness != traffic.Complete || in.Seen.Gap != "" {
		return
	}
	for _, u := range o.fresh {
		// A stretch that begins after it says as much.
		if !plaintext && in.Spec.StrictPorts().Has(u.port) && !in.Seen.Since.After(epoch.Add(u.shown+w.skew)) {
			o.violate(w, "%s was read, and is not among the blockers %v", u, listed)
		}
	}
}

// wrote judges a write of the PeerAuthentication.
func (o *oracle) wrote(w *world, in rollout.Input, d rollout.Decision, before facts.Form) {
	after := w.inForce()
	o.left(w, before)
	var tightened []int32
	for _, port := range targetPorts {
		was, is := before.At(port), after.At(port)
		switch {
		case was != v1alpha1.ModeStrict && is == v1alpha1.ModeStrict:
			tightened = append(tightened, port)
		case was == v1alpha1.ModeStrict && is != v1alpha1.ModeStrict:
			o.weakened(w, in, d, port)
		}
	}
	if len(tightened) > 0 {
		o.tightened(w, in, d, tightened)
	}
	o.owed = false
	o.tampered, o.turned = false, o.turned && w.parent == v1alpha1.ModeStrict
}

// knows notes which operator has seen to it that STRICT is in force: it puts that back when somebody changes it.
func (o *oracle) knows(operator int, form facts.Form) {
	o.writer = 0
	if form.Mode == v1alpha1.ModeStrict {
		o.writer = operator
	}
}

// weakened: never below what was in force, unless the spec or a failed verification says so.
func (o *oracle) weakened(w *world, in rollout.Input, d rollout.Decision, port int32) {
	asked := in.Spec.Asked.At(port)
	if in.Spec.Asked.Empty() {
		asked = w.parent
	}
	switch {
	case asked != v1alpha1.ModeStrict:
	case d.Stage == v1alpha1.StageRolledBack && w.parent != v1alpha1.ModeStrict && (o.owed || len(w.failingCallers()) > 0):
		if port == targetPorts[0] {
			o.report.Rollbacks++
		}
		if o.rest.generation != w.profile.Generation {
			o.rest = rest{generation: w.profile.Generation}
		}
		if o.rest.at != w.now || o.rest.rollbacks == 0 {
			o.rest = rest{generation: o.rest.generation, rollbacks: o.rest.rollbacks + 1, at: w.now}
		}
	case o.crossed && rollout.ByParent(in, d):
		o.report.Invisible[crossed]++
	case d.Stage == v1alpha1.StageRolledBack:
		o.report.Unneeded++
		o.violate(w, "rolled back, and no caller fails")
	default:
		o.violate(w, "port %d is weakened at stage %q although STRICT is asked for", port, d.Stage)
	}
}

// tightened judges STRICT on ports that did not have it.
func (o *oracle) tightened(w *world, in rollout.Input, d rollout.Decision, ports []int32) {
	o.judged = map[*client]bool{}
	switch {
	case in.Spec.Strategy == v1alpha1.StrategyImmediate && !in.Spec.Suspend:
		o.strict = -1
		return
	case !d.Switched && w.parent == v1alpha1.ModeStrict && o.turned:
		return
	case o.crossed && rollout.ByParent(in, d):
		o.report.Invisible[crossed]++
		return
	case o.tampered && o.writer == w.operators:
		return
	}
	o.report.Switches++
	o.unrecorded = true
	f := in.Facts
	if !d.Switched || in.Spec.Suspend || len(f.RollingOut)+len(f.CompetingPolicies)+len(f.TelemetryOverrides)+len(f.ClientRules) > 0 || len(f.Pods) == 0 {
		o.violate(w, "STRICT through a closed gate")
	}
	for _, p := range f.Pods {
		if p.Membership != facts.MemberSidecar {
			o.violate(w, "STRICT with pod %s outside the mesh", p.Name)
		}
	}
	o.permitted(w, in, d)
	window := in.Spec.ObservationWindow
	last := o.takenBack(w, ports, window)
	for _, u := range w.uses {
		if !slices.Contains(ports, u.port) || u.from > w.now {
			continue
		}
		if u.to > w.now-window {
			if excuse := w.source.excuse(u, window); excuse != "" {
				o.report.Invisible[excuse]++
			} else {
				o.report.False++
				o.violate(w, "STRICT in spite of %s, until %s, shown at %s", u, stamp(u.to), stamp(u.shown))
			}
		} else {
			last = max(last, u.to)
		}
	}
	o.late(w, last, window)
	o.strict = w.now
}

// takenBack: what STRICT refused on these ports was seen by nobody, so a whole window is over since it was taken back there. It
// says when it was last taken back anywhere.
func (o *oracle) takenBack(w *world, ports []int32, window time.Duration) (last time.Duration) {
	for _, port := range targetPorts {
		at, was := o.rested[port]
		last = max(last, at)
		switch {
		case !was || !slices.Contains(ports, port) || at <= w.now-window+o.stepped(w, w.now-window):
		case o.unseen != "":
			o.report.Invisible[o.unseen]++
		default:
			o.violate(w, "STRICT %s after it was taken back, and what it had refused was not seen", w.now-at)
		}
	}
	o.unseen = ""
	return last
}

// permitted: a person approved it, if one was to, and the back-off after a rollback is over.
func (o *oracle) permitted(w *world, in rollout.Input, d rollout.Decision) {
	if in.Spec.Approval == v1alpha1.ApprovalManual && (d.Approval == nil || !o.approved[d.Approval.Token]) {
		o.violate(w, "STRICT that nobody approved")
	}
	// It is a time on the clock: one that is set ahead makes it shorter, and the window after it is observed in full.
	if r := o.rest; r.rollbacks > 0 && r.generation == w.profile.Generation && (!r.status || !r.object) &&
		(r.rollbacks > 2 || w.now-r.at+r.ahead+time.Second < r.least()) {
		o.violate(w, "STRICT %s after rollback %d", w.now-r.at, r.rollbacks)
	}
}

// firstRead is which reading was the first after a time; -1 if none was.
func (p *process) firstRead(after time.Duration) int {
	return slices.IndexFunc(p.read, func(at time.Duration) bool { return at >= after })
}

// reborn says that series went between the reading before a use and the one after it, so that both may say the same.
func (p *process) reborn(u *use, read []time.Duration, next int) bool {
	since := time.Duration(0)
	if next > 0 {
		since = read[next-1]
	}
	return slices.ContainsFunc(p.swept, func(s sweep) bool { return s.at > since && s.at <= read[next] && s.client == u.client.name })
}

// dropped says that the count of a connection went before a time. It may be that of another one, whose end is counted later and
// makes up for this one.
func (p *process) dropped(before time.Duration) bool {
	return slices.ContainsFunc(p.swept, func(s sweep) bool { return s.metric == openedTotal && s.at <= before })
}

// left notes when STRICT was taken back, whoever did it.
func (o *oracle) left(w *world, before facts.Form) {
	for _, port := range targetPorts {
		if before.At(port) == v1alpha1.ModeStrict && w.inForce().At(port) != v1alpha1.ModeStrict {
			o.rested[port], o.unseen = w.now, ""
			switch {
			case o.unrecorded:
				o.unseen = "under STRICT that somebody took back before status knew of it"
			case w.now < w.staleUntil && w.stale.facts.InForce().At(port) != v1alpha1.ModeStrict:
				o.unseen = "under STRICT that came and went while the cache stood still"
			}
		}
	}
}

// stepped is by how much a clock that was set ahead made windows shorter that reach back to a time: for each process of the operator
// by an interval at the most, but for steps that happened while it was away.
func (o *oracle) stepped(w *world, since time.Duration) time.Duration {
	var sum time.Duration
	for process := range w.operators + 1 {
		others := func(s step) bool { return s.process != process }
		seen, unseen := sumSteps(slices.DeleteFunc(slices.Clone(o.steps), others), since)
		sum += unseen + min(seen, w.config.interval)
	}
	return sum
}

// sumSteps sums up the steps that reach windows back to a time: those that the operator was there for, and the others.
func sumSteps(steps []step, since time.Duration) (seen, unseen time.Duration) {
	for _, s := range steps {
		switch {
		case s.at < since-s.by:
		case s.away:
			unseen += s.by
		default:
			seen += s.by
		}
	}
	return seen, unseen
}

// recorded notes that a status was written.
func (o *oracle) recorded(w *world) {
	if o.noticed.memory == w.memories {
		o.noticed.recorded = true
	}
	if m := w.profile.Status.MTLS; m != nil && (m.Stage == v1alpha1.StageVerifying || m.Stage == v1alpha1.StageEnforced) {
		o.unrecorded = false
	}
}

// late: the switch comes an interval after the earliest moment at the latest, or there was a reason.
func (o *oracle) late(w *world, clean, window time.Duration) {
	earliest := clean + window
	if w.now <= earliest+w.config.interval*6/5+5*time.Second+w.source.slack() {
		return
	}
	why, when := "", clean
	for reason, at := range o.holds {
		if at > when || at == when && reason < why {
			why, when = reason, at
		}
	}
	if why == "" {
		o.violate(w, "the switch comes %s after its earliest moment for no reason", w.now-earliest)
		return
	}
	if o.report.Late == nil {
		o.report.Late = map[string]int{}
	}
	o.report.Late[why]++
}

// refused is a caller that STRICT cuts off.
func (o *oracle) refused(w *world, c *client) {
	if o.strict < 0 || o.judged[c] {
		return
	}
	o.judged[c] = true
	switch {
	case c.succeeded < 0:
		o.report.Invisible["the caller's first call came after the switch"]++
	case c.succeeded < o.strict-w.window():
		o.report.Invisible["the caller calls more rarely than the window"]++
	}
}

// failingCallers are those that worked within the window before the switch and are refused now. It stands for the callers'
// side of the counters.
func (w *world) failingCallers() []string {
	var names []string
	for _, c := range w.clients {
		if c.refused >= 0 && c.succeeded >= 0 && c.refused-c.succeeded < w.window() {
			names = append(names, "clients/"+c.name)
		}
	}
	return names
}

func (w *world) window() time.Duration {
	spec, err := rollout.SpecOf(w.profile)
	if err != nil {
		panic(err)
	}
	return spec.ObservationWindow
}

// listed notes which pods an operator was told of.
func (w *world) listed(pods []facts.Pod) {
	for _, p := range w.pods {
		if slices.ContainsFunc(pods, func(q facts.Pod) bool { return q.UID == p.uid }) {
			p.listed = w.operators
		}
	}
}

// evidenced notes which pods a complete observation was of.
func (w *world) evidenced(pods []facts.Pod) {
	for _, p := range w.pods {
		if p.proc != nil && slices.ContainsFunc(pods, func(q facts.Pod) bool { return q.UID == p.uid }) {
			p.evidenced = true
		}
	}
}
