package simulation

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// ledger is what is known of a pod's calls from reading to reading.
type ledger struct {
	young   bool // it was made after the switch: all that it did is after it
	entries []page
	// Of the ledger of what was shown: the operator's process that read it, and the run of the proxy that was read last.
	memory int
	proc   *callerProcess
	last   truth
	sum    truth
	life   truth // what that run had counted at the base
	// restarted says that another run was read before.
	restarted bool
}

// page is one reading: what was known then.
type page struct {
	reading int
	after   bool // the switch
	sum     truth
}

// since is what happened after an earlier page.
func (e page) since(before page) truth { return e.sum.minus(before.sum) }

// heard takes in what a good reading showed: all that the process counted since the last one. What one that ended had counted
// after that, nobody saw; and what one that is new to the operator had, is its life until then.
func (p *callerPod) heard(v *verification) {
	l := &p.shown
	if l.memory != v.memory {
		*l = ledger{young: l.young, memory: v.memory}
	}
	now := p.proc.sum
	switch {
	case l.proc == nil && !l.young:
		l.life = now
	case l.proc == p.proc:
		l.sum = l.sum.plus(now.minus(l.last))
	default:
		l.sum, l.restarted = l.sum.plus(now), l.restarted || l.proc != nil
	}
	if v.switched < 0 {
		l.life = now
	}
	l.proc, l.last = p.proc, now
	l.entries = append(l.entries, page{v.readings, v.switched >= 0, l.sum})
}

// spans are what a pod did before the switch, since then, and in the last readings.
func (l *ledger) spans(reading int) (life, before, since, recent truth, after bool) {
	first := slices.IndexFunc(l.entries, func(e page) bool { return e.after })
	if first < 0 {
		return life, before, since, recent, after
	}
	last, life := l.entries[len(l.entries)-1], l.life
	switch {
	case first > 0:
		base := l.entries[first-1]
		since, before = last.since(base), base.since(l.entries[max(0, first-keptPages)])
	case l.young:
		since = last.since(page{})
	default:
		since = last.since(l.entries[0])
	}
	if n := len(l.entries); n-first >= keptPages && last.reading == reading {
		recent = last.since(l.entries[n-keptPages])
	}
	return life, before, since, recent, true
}

const (
	// keptPages and least are of the promise in docs/rollout.md: so many readings, and lost calls.
	keptPages = 5
	least     = 5
)

// rise is what a caller's pods lost before the switch and since.
type rise struct {
	before, since   truth
	fails           bool
	pods, failing   int
	recent          truth
	lately, lapsing int // pods that called in the last readings, and those of them that lost half
	hit             int // pods that lost calls by the switch
}

// rose says whether a caller's calls began to fail with the switch, by one ledger of its pods: at least five lost since, at least
// half of them, of at least half of the pods that called; or all of the last five readings'. And twice the share of the last
// readings before it or, if those had too few calls, of all before.
func (v *verification) rose(c *meshCaller, of func(*callerPod) *ledger) rise {
	return v.reckoned(c, of, fairly)
}

// reckoning is how calls are counted.
type reckoning int

const (
	fairly    reckoning = iota
	withDrain           // what the drain cost counts as lost, which no proxy tells apart
)

func (v *verification) reckoned(c *meshCaller, of func(*callerPod) *ledger, how reckoning) rise {
	var r rise
	var life truth
	for _, p := range c.pods {
		l := of(p)
		if l.memory != v.memory && l == &p.shown {
			continue
		}
		lived, before, since, recent, after := l.spans(v.readings)
		if !after {
			continue
		}
		if how != fairly {
			for _, t := range []*truth{&lived, &before, &since, &recent} {
				t.lost[ofOld], t.lost[byDrain] = t.lost[ofOld]+t.lost[byDrain], 0
			}
		}
		life, r.before, r.since, r.recent = life.plus(lived), r.before.plus(before), r.since.plus(since), r.recent.plus(recent)
		if since.lost[bySwitch] > 0 {
			r.hit++
		}
		count(since, &r.pods, &r.failing)
		count(recent, &r.lately, &r.lapsing)
	}
	if r.before.total() < least {
		r.before = life
	}
	now := r.since.failed() >= least && r.since.failed() >= r.since.arrived && 2*r.failing >= r.pods && r.before.betterThan(r.since)
	lately := r.recent.failed() >= least && r.recent.arrived == 0 && 2*r.lapsing >= r.lately && r.before.betterThan(r.recent)
	r.fails = now || lately
	return r
}

// cutOff says that the switch cut off at least half of the pods, that this is the most of what is lost, and more than before.
func (r rise) cutOff() bool {
	lost := r.since.lost
	more := r.before.total() == 0 || float64(r.before.failed())*float64(r.since.total()) < float64(r.since.failed())*float64(r.before.total())
	return more && lost[bySwitch] >= least && 2*r.hit >= r.pods && lost[bySwitch] > lost[byOutage] && lost[bySwitch] > lost[ofOld]
}

// count says of a pod whether it called, and whether at least half of that was lost.
func count(t truth, calling, failing *int) {
	if t.total() > 0 {
		*calling++
	}
	if t.failed() > 0 && t.failed() >= t.arrived {
		*failing++
	}
}

// betterThan says that less than half of the share was lost.
func (t truth) betterThan(later truth) bool {
	return t.total() == 0 || 2*float64(t.failed())*float64(later.total()) < float64(later.failed())*float64(t.total())
}

func ofTruth(p *callerPod) *ledger { return &p.whole }
func shown(p *callerPod) *ledger   { return &p.shown }

func (r rise) String() string {
	return fmt.Sprintf("before %d of %d lost, since %d of %d (by the switch %d), pods %d of %d", r.before.failed(), r.before.total(),
		r.since.failed(), r.since.total(), r.since.lost[bySwitch], r.failing, r.pods)
}

// VerificationReport is what came of one history or, added up, of many.
type VerificationReport struct {
	Histories, Readings int
	// Needed are rollbacks for a caller that the switch cut off.
	Needed int
	// Apart are callers that were named though not the switch cut them off, or that it was not needed by the truth, and nothing
	// that was read could tell that. By kind.
	Apart map[string]int
	// Unneeded are callers named although neither the truth nor what was read gives a reason.
	Unneeded int
	// Cut are callers that were cut off wholly, in histories that ended; Missed those that what was read would have told.
	Cut, Named, Missed int
	// Invisible are those that were not named because of what was not read, by kind.
	Invisible map[string]int
	// Violation is the first broken promise; empty if all were kept.
	Violation string
}

// Add sums up.
func (r *VerificationReport) Add(other VerificationReport) {
	r.Histories, r.Readings, r.Needed, r.Unneeded = r.Histories+other.Histories, r.Readings+other.Readings, r.Needed+other.Needed, r.Unneeded+other.Unneeded
	r.Cut, r.Named, r.Missed = r.Cut+other.Cut, r.Named+other.Named, r.Missed+other.Missed
	for kind, n := range other.Apart {
		increase(&r.Apart, kind, n)
	}
	for kind, n := range other.Invisible {
		increase(&r.Invisible, kind, n)
	}
}

func increase(m *map[string]int, kind string, n int) {
	if *m == nil {
		*m = map[string]int{}
	}
	(*m)[kind] += n
}

func (r *VerificationReport) String() string {
	list := func(m map[string]int) string {
		var all []string
		for _, kind := range slices.Sorted(maps.Keys(m)) {
			all = append(all, fmt.Sprintf("%s: %d", kind, m[kind]))
		}
		return "{" + strings.Join(all, "; ") + "}"
	}
	return fmt.Sprintf("%d histories with %d readings: %d rollbacks needed and done; callers named without need: %d, and apart %s; wholly cut off: %d callers, named %d, missed %d, not to be seen %s",
		r.Histories, r.Readings, r.Needed, r.Unneeded, list(r.Apart), r.Cut, r.Named, r.Missed, list(r.Invisible))
}

func (v *verification) violate(format string, args ...any) {
	if v.report.Violation == "" {
		v.report.Violation = stamp(v.now) + ": " + fmt.Sprintf(format, args...)
		v.diary.note(v.now, "oracle", "%s", v.report.Violation)
	}
}

// named judges a rollback.
func (v *verification) named(names []string) {
	needed := false
	for _, name := range names {
		i := slices.IndexFunc(v.callers, func(c *meshCaller) bool { return "clients/"+c.name == name })
		if i < 0 {
			v.violate("unneeded: %s is nobody", name)
			continue
		}
		needed = v.judge(v.callers[i]) || needed
	}
	if needed {
		v.report.Needed++
	}
	if len(names) == 0 {
		v.violate("unneeded: rolled back, and nobody is named")
	}
	for _, c := range v.callers {
		switch {
		case !v.cut(c):
		case slices.Contains(names, "clients/"+c.name):
			v.report.Cut, v.report.Named = v.report.Cut+1, v.report.Named+1
		case c.watched && !c.liar && v.rose(c, shown).fails:
			v.miss(c)
		}
	}
}

// miss notes a caller that is not named, although what was read tells.
func (v *verification) miss(c *meshCaller) {
	if kind := v.known(); kind != "" {
		increase(&v.report.Invisible, kind, 1)
		return
	}
	v.report.Missed++
	v.violate("missed: %s is cut off and not named: in truth %s; as shown %s", c.name, v.rose(c, ofTruth), v.rose(c, shown))
}

// known is what explains that a caller is named, or is not, although the readings showed otherwise; empty if nothing does.
func (v *verification) known() string {
	if v.evicts > 0 {
		return "a series was evicted" // the sums of a pod fall as if its proxy had restarted
	}
	return ""
}

// judge says whether the switch cut off a caller that is named.
func (v *verification) judge(c *meshCaller) bool {
	inTruth, asShown := v.rose(c, ofTruth), v.rose(c, shown)
	v.diary.note(v.now, "oracle", "%s is named: in truth %s; as shown %s", c.name, inTruth, asShown)
	since := inTruth.since
	switch {
	case c.liar:
		increase(&v.report.Apart, "a liar", 1)
	case inTruth.cutOff():
		return true
	case inTruth.fails && since.lost[byOutage] > since.lost[ofOld]:
		increase(&v.report.Apart, "began to fail then for another reason", 1)
	case inTruth.fails:
		increase(&v.report.Apart, "lost more then by chance", 1)
	case asShown.fails:
		increase(&v.report.Apart, v.hidden(c), 1)
	case v.reckoned(c, shown, withDrain).fails:
		increase(&v.report.Apart, "lost more then by chance, with what the drain cost", 1)
	default:
		if kind := v.known(); kind != "" {
			increase(&v.report.Apart, kind, 1)
			break
		}
		v.report.Unneeded++
		v.violate("unneeded: %s is named: in truth %s; as shown %s", c.name, inTruth, asShown)
	}
	return false
}

// stale says that the last reading before the switch did not have the pod, and an earlier one had.
func (l *ledger) stale(last int) bool {
	first := slices.IndexFunc(l.entries, func(e page) bool { return e.after })
	return first > 0 && l.entries[first-1].reading < last
}

// hidden is why what was shown of a caller is not the truth.
func (v *verification) hidden(c *meshCaller) string {
	some := func(is func(*callerPod) bool) bool { return slices.ContainsFunc(c.pods, is) }
	switch {
	case v.memory > 0:
		return "the operator restarted"
	case some(func(p *callerPod) bool { return p.shown.stale(v.readBefore) }):
		return "what was lost before the switch, while a proxy could not be read, counts as lost since"
	case some(func(p *callerPod) bool { return len(p.shown.entries) < len(p.whole.entries)-1 }):
		return "a proxy could not be read at times"
	case some(func(p *callerPod) bool { return p.shown.restarted }):
		return "a proxy restarted"
	}
	return "between two readings"
}

// passed judges the callers that are not named at the end.
func (v *verification) passed() {
	for _, c := range v.callers {
		if !v.cut(c) {
			continue
		}
		v.report.Cut++
		inTruth, asShown := v.rose(c, ofTruth), v.rose(c, shown)
		kind := ""
		switch {
		case c.liar:
			kind = "a liar"
		case !c.watched:
			kind = "did not succeed within the window"
		case !inTruth.fails && inTruth.since.failed() < least:
			kind = "too few calls"
		case !inTruth.fails && !inTruth.before.betterThan(inTruth.since):
			kind = "failed before"
		case !inTruth.fails:
			kind = "more arrived in the drain than were lost"
		case !asShown.fails:
			kind = v.hidden(c)
		default:
			v.miss(c)
			continue
		}
		increase(&v.report.Invisible, kind, 1)
	}
}

// cut says that the switch cut a caller off wholly: no call of any of its pods has arrived since the listener before drained.
func (v *verification) cut(c *meshCaller) bool {
	e := c.effect
	return e.share == 1 && e.part == wholly && e.service < 0 && e.to == forever && v.now > v.switched+drainTime
}

// noted enters the truth of a moment.
func (v *verification) noted(reading int, after bool) {
	for _, c := range v.callers {
		for _, p := range c.pods {
			l := &p.whole
			if !after {
				l.life = p.sum
			}
			l.entries = append(l.entries, page{reading, after, p.sum})
		}
	}
}

// sighted: who could not be read is said.
func (v *verification) sighted(unseen []string) {
	for _, c := range v.callers {
		var unread bool
		for _, p := range v.asked(c) {
			if v.now < p.addressed {
				continue // it has only begun
			}
			unread = unread || p.shown.memory != v.memory || len(p.shown.entries) == 0 || p.shown.entries[len(p.shown.entries)-1].reading != v.readings
		}
		told := slices.ContainsFunc(unseen, func(s string) bool { return strings.HasPrefix(s, "clients/"+c.name+" (") })
		if c.watched && unread && !told && !c.liar {
			v.violate("concealed: a proxy of %s could not be read, and only %v are told", c.name, unseen)
		}
	}
}
