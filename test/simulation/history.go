package simulation

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/rollout"
)

// config is what stays the same in a history.
type config struct {
	interval time.Duration
	// horizon is when the faults end.
	horizon time.Duration
	// exposes says that the proxies expose connection statistics, probes that those of pods are not rewritten at first.
	exposes, probes bool
	evicts          time.Duration
	// before is how long the world is older than the operator; keepsNames says that a new pod takes the name of one that went.
	before     time.Duration
	keepsNames bool
}

// Run plays the history of a seed, as the operator sees it by a source: the same one each time. A verbose one also returns its
// diary.
func Run(from Source, seed int64, core Core, verbose bool) (Report, string) {
	w := newWorld(seed)
	w.diary.keep = verbose
	w.source = newSource(from, w, seed)
	defer w.source.close()
	w.begin(core)
	w.play(w.config.horizon)
	w.calm(core)
	w.oracle.report.Histories = 1
	return w.oracle.report, w.diary.lines.String()
}

func newWorld(seed int64) *world {
	w := &world{random: rand.New(rand.NewPCG(uint64(seed), 1)), parent: v1alpha1.ModePermissive}
	w.oracle = oracle{strict: -1, rested: map[int32]time.Duration{}, holds: map[string]time.Duration{}, report: Report{Invisible: map[string]int{}}, judged: map[*client]bool{}, approved: map[string]bool{}}
	return w
}

// one of a few, the first ones more often.
func one[T any](w *world, all ...T) T {
	return all[min(w.random.IntN(len(all)), w.random.IntN(len(all)))]
}

// begin makes a target, its profile, its clients and what will happen to them.
func (w *world) begin(core Core) {
	w.config.interval = one(w, 15*time.Second, 30*time.Second, time.Minute, 5*time.Minute)
	window := w.config.interval * time.Duration(4+w.random.IntN(16))
	w.config.horizon = window * time.Duration(2+w.random.IntN(3))
	w.source.begin(window)
	w.config.horizon += w.config.before
	w.config.exposes, w.config.probes = w.chance(3), w.chance(12)
	if w.chance(12) {
		w.config.evicts = w.between(w.config.interval, window)
	}
	w.profile = &v1alpha1.ServiceSecurityProfile{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "profile", Generation: 1, ResourceVersion: "1", CreationTimestamp: metav1.NewTime(epoch.Add(w.config.before))},
		Spec: v1alpha1.ServiceSecurityProfileSpec{
			Target: v1alpha1.Target{Kind: v1alpha1.TargetWorkload, Selector: &v1alpha1.WorkloadSelector{MatchLabels: map[string]v1alpha1.LabelValue{"app": "web"}}},
			MTLS:   &v1alpha1.MTLS{Mode: v1alpha1.ModeStrict, Rollout: &v1alpha1.Rollout{ObservationWindow: v1alpha1.Duration(window.String())}},
		},
	}
	rollout := w.profile.Spec.MTLS.Rollout
	rollout.VerificationWindow = one[v1alpha1.Duration](w, "2m", "10m", "0s")
	rollout.MinRequests = one(w, new(int64(1)), new(int64(3)), new(int64(0)))
	if w.chance(8) {
		rollout.Rollback = v1alpha1.RollbackNever
	}
	if w.chance(4) {
		w.profile.Spec.MTLS.PortLevel = []v1alpha1.PortMTLS{{Port: 9443, Mode: v1alpha1.ModePermissive}}
	}
	for range 1 + w.random.IntN(2) {
		w.create(true, 0)
	}
	w.meshed(window)
	for range w.random.IntN(4) {
		w.legacy(window)
	}
	for range 2 + w.random.IntN(14) {
		fault := faults[w.random.IntN(len(faults))]
		w.at(w.between(0, w.config.horizon), func() { fault(w) })
	}
	if w.config.before == 0 {
		w.boot(core)
	} else {
		w.at(w.config.before, func() { w.boot(core) })
	}
	w.at(0, func() {}) // so that the agenda is never empty
}

// meshed clients call all the time, but not so often that nothing else happens.
func (w *world) meshed(window time.Duration) {
	w.clients = append(w.clients, &client{
		name: "front", named: true, kind: request, port: 8080, last: forever, every: w.config.interval * time.Duration(1+w.random.IntN(3)),
		succeeded: -1, refused: -1,
	})
	if w.chance(3) {
		w.clients = append(w.clients, &client{
			name: "reports", named: true, kind: request, port: 8080, last: forever, every: w.between(window/4, 2*window), broken: w.chance(2),
			succeeded: -1, refused: -1,
		})
	}
}

// legacy is a client outside the mesh: seldom enough that the window nearly fills.
func (w *world) legacy(window time.Duration) {
	c := &client{
		name: fmt.Sprintf("legacy-%d", len(w.clients)), named: w.chance(3), plain: true, port: one(w, int32(8080), 9443),
		kind: one(w, request, tcp, stream, messages), every: w.between(window/3, window*5/4), burst: w.random.IntN(3),
		first: w.between(0, w.config.horizon), succeeded: -1, refused: -1,
	}
	switch w.random.IntN(6) {
	case 0:
		c.every = w.between(window, 3*window) // once a week, with a window of a day
	case 1:
		c.every, c.burst = forever/2, 0 // once
	case 2:
		c.first = -w.between(0, window) // it was there before
	}
	if c.kind != request {
		c.lasts = one(w, w.between(time.Second, time.Minute), w.between(time.Second, window), w.between(window, 3*window))
		c.idle = w.chance(2)
		c.every = max(c.every, c.lasts)
		c.burst = 0
	}
	c.next = max(0, c.first)
	c.last = one(w, w.config.horizon, c.next+w.between(0, 2*window), w.config.horizon)
	if w.config.probes && w.chance(2) {
		c.name, c.named, c.probe, c.kind, c.every, c.lasts, c.port = "kubelet", false, true, request, w.config.interval, 0, 8080
	}
	w.clients = append(w.clients, c)
}

// play lets a history go on until a time, or until a promise is broken.
func (w *world) play(until time.Duration) {
	for w.now < until && w.oracle.report.Violation == "" {
		next := until
		if w.operator != nil {
			next = min(next, max(w.now, w.operator.due))
		}
		for _, c := range w.clients {
			next = min(next, c.next)
		}
		for _, e := range w.agenda {
			next = min(next, e.at)
		}
		w.advance(max(next, w.now))
		if o := w.operator; o != nil && o.due <= w.now {
			o.reconcile()
		}
	}
}

// calm ends all faults, and demands that the rollout reaches its end.
func (w *world) calm(core Core) {
	if w.oracle.report.Violation != "" {
		return
	}
	w.diary.note(w.now, "truth", "the faults end")
	w.agenda = slices.DeleteFunc(w.agenda, func(e entry) bool { return !e.lasting })
	w.rolling, w.calmed = 0, true
	recovery := w.source.calm()
	w.conceal()
	w.fault, w.telemetry, w.telemetryObject, w.competing, w.rule = fault{}, counted, false, nil, nil
	w.config.probes, w.config.evicts = false, 0
	for _, c := range w.clients {
		if c.plain {
			c.last, c.next = w.now, forever
		}
		c.broken, c.refused = false, -1
		if !c.plain {
			c.every = min(c.every, w.config.interval/2) // more than minRequests in any window
		}
	}
	for _, p := range slices.Clone(w.pods) {
		p.trouble, p.probes = answers, false
		if p.proc == nil || p.terminating || p.proc.evicts > 0 {
			w.remove(p) // a proxy evicts until its pod goes
			continue
		}
		for _, u := range slices.Clone(p.proc.open) {
			p.proc.end(w, u)
		}
	}
	w.staleUntil = 0 // of what went until now the operator need not have heard
	if len(w.pods) == 0 {
		w.create(true, 0)
	}
	w.configure()
	if w.operator == nil {
		w.boot(core)
	}
	w.respec("released", func(m *v1alpha1.MTLS) {
		m.Mode = v1alpha1.ModeStrict
		m.Rollout.Suspend, m.Rollout.Approval, m.Rollout.Strategy = new(false), v1alpha1.ApprovalAutomatic, v1alpha1.StrategyStaged
	})
	spec, _ := rollout.SpecOf(w.profile)
	end := spec.ObservationWindow + spec.VerificationWindow + 8*w.config.interval + 2*drainTime + 2*time.Minute + recovery
	if !w.policy.SwitchedAt.IsZero() {
		end += spec.VerificationWindow // of fewer ports, perhaps: the others come after it
	}
	w.play(w.now + end)
	if w.seemsOpen() {
		w.diary.note(w.now, "truth", "the pods are restarted, because a connection seems open whose end went uncounted")
		w.oracle.hold(w.now, "the end of a connection went uncounted")
		for _, p := range slices.Clone(w.pods) {
			w.create(true, 0)
			w.remove(p)
		}
		w.play(w.now + end)
	}
	if w.oracle.report.Violation != "" {
		return
	}
	if got := w.inForce().Mode; got != v1alpha1.ModeStrict || w.profile.Status.MTLS.Stage != v1alpha1.StageEnforced {
		w.oracle.violate(w, "%s and %s, a window and a verification after the last fault", got, w.profile.Status.MTLS.Stage)
	}
}

// seemsOpen says that nothing but connections holds the rollout which are not there, to a proxy that dropped the count of some, or
// that was taken for the process before it.
func (w *world) seemsOpen() bool {
	mtls := w.profile.Status.MTLS
	if mtls == nil || mtls.Stage != v1alpha1.StageBlocked {
		return false
	}
	dropped := func(s sweep) bool { return s.metric == openedTotal || s.metric == closedTotal }
	other := func(b v1alpha1.Blocker) bool {
		return b.Type != v1alpha1.BlockerPlaintextConnectionsOpen && b.Type != v1alpha1.BlockerPlaintextSeen && b.Type != v1alpha1.BlockerPortNotAttributable
	}
	return !slices.ContainsFunc(mtls.Blockers, other) && slices.ContainsFunc(w.pods, func(p *pod) bool {
		return p.proc != nil && (p.proc.taken || slices.ContainsFunc(p.proc.swept, dropped))
	})
}

// mistake notes the processes that a new operator may take for those before them, whose connections status tells of: starts are
// estimated, and a clock that was set back says of all that they are older.
func (w *world) mistake() {
	mtls := w.profile.Status.MTLS
	if mtls == nil || mtls.Evidence == nil || mtls.Evidence.ObservedTime == nil {
		return
	}
	for _, p := range w.pods {
		if p.proc == nil || len(p.proc.read) > 0 {
			continue
		}
		younger := epoch.Add(p.proc.started + w.skew).Sub(mtls.Evidence.ObservedTime.Time)
		told := slices.ContainsFunc(mtls.Evidence.Connections, func(c v1alpha1.PodConnections) bool { return c.Pod == p.uid })
		p.proc.taken = p.proc.taken || told && younger < 10*time.Second
	}
}

func (w *world) respec(what string, change func(*v1alpha1.MTLS)) {
	w.diary.note(w.now, "truth", "the spec is edited: %s", what)
	before := w.profile.Spec
	w.edit(func(p *v1alpha1.ServiceSecurityProfile) {
		change(p.Spec.MTLS)
		p.Generation++
	})
	if !equality.Semantic.DeepEqual(before, w.profile.Spec) {
		w.oracle.hold(w.now, "the spec was edited")
	}
	w.wake()
}

// any pod; nil if there is none.
func (w *world) any() *pod {
	if len(w.pods) == 0 {
		return nil
	}
	return w.pods[w.random.IntN(len(w.pods))]
}

// a while is a length that matters to the operator: moments, intervals, or windows.
func (w *world) while() time.Duration {
	return one(w, w.between(time.Second, w.config.interval), w.between(0, 4*w.config.interval), w.between(0, w.window()), w.between(w.window(), 2*w.window()))
}

// faults are what happens to a world; what is listed twice happens more often.
var faults = []func(*world){
	crash, crash, rollPods, rollPods, vanish, evict, evict, addPod, outsider, scaleDown, scrape, scrape, scrape,
	restart, restart, restart, setClock, driftClock, loseStatus, forgeStatus, forgeStatus, tamper, tamper, changeParent, muteTelemetry, dropLabel,
	listenerUpdate, failWrite, failWrite, staleCache, staleCache, editWindow, editMode, editPorts, suspend, approve, immediate,
	compete, breakCaller, breakCaller, breakCaller, another, another, another,
}

func crash(w *world) {
	p := w.any()
	if p == nil || p.proc == nil {
		return
	}
	w.diary.note(w.now, "truth", "the proxy of %s restarts", p.name)
	p.proc.kill(w)
	w.at(w.now+w.between(0, 20*time.Second), func() {
		if p.gone || p.proc != nil {
			return
		}
		w.start(p)
		w.at(w.now+w.between(0, 20*time.Second), func() { p.restarts++; w.wake() })
	})
}

// rollPods replaces every pod, as a rollout of a Deployment does.
func rollPods(w *world) {
	w.rolling++
	w.diary.note(w.now, "truth", "a rollout of pods begins")
	old := slices.Clone(w.pods)
	for range max(1, len(old)) {
		if len(w.pods) < 5 {
			w.create(true, w.between(time.Second, 20*time.Second))
		}
	}
	w.at(w.now+w.between(20*time.Second, time.Minute), func() {
		for _, p := range old {
			w.terminate(p, w.between(2*time.Second, 40*time.Second))
		}
		w.at(w.now+45*time.Second, func() { w.rolling--; w.wake() })
	})
}

func vanish(w *world) {
	if p := w.any(); p != nil {
		w.create(true, w.between(0, 10*time.Second))
		w.remove(p)
	}
}

func evict(w *world) {
	if p := w.any(); p != nil {
		w.create(true, w.between(time.Second, 30*time.Second))
		w.terminate(p, w.between(0, time.Minute))
	}
}

func addPod(w *world) {
	if len(w.pods) < 5 {
		w.create(true, w.between(0, time.Minute))
	}
}

// outsider is a pod that injection missed.
func outsider(w *world) {
	p := w.create(false, w.between(0, 20*time.Second))
	w.at(w.now+w.while(), func() { w.remove(p) })
}

func scaleDown(w *world) {
	for _, p := range slices.Clone(w.pods) {
		w.terminate(p, w.between(0, 30*time.Second))
	}
	w.at(w.now+w.while(), func() { w.create(true, time.Second) })
}

func scrape(w *world) {
	p := w.any()
	if p == nil {
		return
	}
	p.trouble = trouble(1 + w.random.IntN(int(troubles)-1))
	w.diary.note(w.now, "truth", "the proxy of %s %s when it is scraped", p.name, p.trouble)
	w.at(w.now+w.while(), func() { p.trouble = answers })
}

func restart(w *world) {
	if w.operator == nil {
		return
	}
	w.diary.note(w.now, "truth", "the operator is killed")
	core := w.operator.core
	w.operator = nil
	w.oracle.died()
	w.at(w.now+w.while(), func() {
		if w.operator == nil {
			w.boot(core)
		}
	})
}

func setClock(w *world) {
	by := one(w, time.Minute, -time.Minute, time.Hour, -time.Hour, 24*time.Hour, -24*time.Hour)
	w.jump(by)
	w.source.clockSet()
}

// driftClock sets the clock by less than an observer can tell from a slow reading.
func driftClock(w *world) {
	for i := range 1 + w.random.IntN(6) {
		by := w.between(-w.config.interval*2/3, w.config.interval*2/3)
		if w.chance(2) {
			by = by.Abs() // a clock that is disciplined goes one way
		}
		w.at(w.now+time.Duration(i)*w.config.interval, func() { w.jump(by) })
	}
}

func (w *world) jump(by time.Duration) {
	w.diary.note(w.now, "truth", "the operator's clock is set by %s", by)
	w.skew += by
	w.oracle.rest.ahead += max(0, by)
	if by > 0 {
		w.oracle.steps = append(w.oracle.steps, step{at: w.now, by: by, process: w.operators, away: w.operator == nil, large: w.operator != nil && by > w.config.interval})
	}
}

func loseStatus(w *world) {
	w.diary.note(w.now, "truth", "the status is lost")
	w.oracle.hold(w.now, "status was lost or edited")
	w.oracle.rest.status = true
	w.oracle.noticed.recorded = false
	w.edit(func(p *v1alpha1.ServiceSecurityProfile) { p.Status = v1alpha1.ServiceSecurityProfileStatus{} })
	w.wake()
}

// forgeStatus is someone's edit by hand.
func forgeStatus(w *world) {
	w.oracle.hold(w.now, "status was lost or edited")
	w.oracle.rest.status = true
	w.oracle.noticed.recorded = false
	now := epoch.Add(w.now + w.skew)
	which := w.random.IntN(6)
	w.diary.note(w.now, "truth", "the status is edited (%d)", which)
	at := func(by time.Duration) *metav1.Time { return &metav1.Time{Time: now.Add(by).Truncate(time.Second)} }
	w.edit(func(p *v1alpha1.ServiceSecurityProfile) {
		if p.Status.MTLS == nil {
			p.Status.MTLS = &v1alpha1.MTLSStatus{}
		}
		m := p.Status.MTLS
		switch which {
		case 0:
			m.Stage, m.EnforcedTime = v1alpha1.StageEnforced, at(-time.Hour)
		case 1:
			m.CleanSinceTime, m.EligibleTime, m.LastPlaintextTime = at(one(w, -8760*time.Hour, -w.between(0, w.now))), at(-time.Hour), nil
		case 2:
			m.CleanSinceTime, m.LastPlaintextTime, m.NextAttemptTime, m.Attempts = at(8760*time.Hour), at(8760*time.Hour), at(8760*time.Hour), -7
		case 3:
			m.Evidence, m.Blockers = nil, nil
		case 4:
			m.Stage, m.InheritedMode = v1alpha1.StageObserving, v1alpha1.ModePermissive
		default:
			m.Stage, m.Attempts = v1alpha1.StageVerifying, 99
		}
	})
	w.wake()
}

// tamper is someone's edit of the PeerAuthentication.
func tamper(w *world) {
	before := w.inForce()
	switch w.random.IntN(3) {
	case 0:
		w.policy = facts.Policy{}
	case 1:
		if !w.policy.Exists {
			return
		}
		w.policy.Form = facts.Form{Mode: v1alpha1.ModePermissive}
	default:
		if !w.policy.Exists {
			return
		}
		w.policy.SwitchedAt, w.policy.Previous, w.policy.RolledBack = time.Time{}, facts.Form{}, facts.Rollback{}
	}
	w.version++
	w.diary.note(w.now, "truth", "somebody changes the PeerAuthentication from %s to %s", before, w.inForce())
	w.oracle.tampered, w.oracle.rest.object = true, true
	w.oracle.left(w, before)
	w.configure()
	w.wake()
}

func changeParent(w *world) {
	w.setParent(v1alpha1.ModeStrict)
	w.at(w.now+w.while(), func() { w.setParent(v1alpha1.ModePermissive) })
}

func (w *world) setParent(mode v1alpha1.Mode) {
	w.diary.note(w.now, "truth", "the parent becomes %s", mode)
	w.oracle.turned = w.oracle.turned || mode == v1alpha1.ModeStrict && w.parent != mode
	before := w.inForce()
	w.parent = mode
	w.oracle.left(w, before)
	w.configure()
	w.wake()
}

// muteTelemetry is a Telemetry that turns the metrics off.
func muteTelemetry(w *world) { w.retag(notCounted) }

// dropLabel is a Telemetry that removes the label which tells plaintext from mutual TLS.
func dropLabel(w *world) { w.retag(unlabelled) }

func (w *world) retag(to telemetry) {
	set := func(to telemetry) {
		w.diary.note(w.now, "truth", "a Telemetry makes the metrics %d", to)
		if to == counted {
			w.conceal()
		}
		w.telemetryObject = to != counted
		w.at(w.now+w.between(0, 2*time.Second), func() {
			w.muted[w.telemetry], w.telemetry = w.now, to
			for _, p := range w.pods {
				if p.proc != nil {
					p.proc.update(w)
				}
			}
		})
		w.wake()
	}
	set(to)
	w.at(w.now+w.while()+5*time.Second, func() { set(counted) })
}

// conceal notes that a Telemetry goes of which the operator's cache never heard.
func (w *world) conceal() {
	if w.telemetryObject && w.now < w.staleUntil && len(w.stale.facts.TelemetryOverrides) == 0 {
		w.concealedFrom, w.concealed = w.staleFrom, w.now
	}
}

func listenerUpdate(w *world) {
	for _, p := range w.pods {
		if p.proc != nil {
			p.proc.update(w)
		}
	}
	w.diary.note(w.now, "truth", "the listeners change")
}

func failWrite(w *world) {
	w.fault = fault{one(w, "PeerAuthentication", "answer", "status", "status answer"), 1 + w.random.IntN(4)}
}

func staleCache(w *world) {
	w.stale, w.staleFrom, w.staleUntil = w.look(), w.now, w.now+w.between(0, 3*w.config.interval)
	w.diary.note(w.now, "truth", "the cache stands still until %s", stamp(w.staleUntil))
	w.at(w.staleUntil, func() {
		w.oracle.hold(w.now, "the cache stood still")
		w.wake()
	})
}

func editWindow(w *world) {
	window := w.config.interval * time.Duration(4+w.random.IntN(16))
	w.respec("window "+window.String(), func(m *v1alpha1.MTLS) { m.Rollout.ObservationWindow = v1alpha1.Duration(window.String()) })
}

func editMode(w *world) {
	w.respec("Permissive", func(m *v1alpha1.MTLS) { m.Mode = v1alpha1.ModePermissive })
	w.at(w.now+w.while(), func() { w.respec("Strict", func(m *v1alpha1.MTLS) { m.Mode = v1alpha1.ModeStrict }) })
}

func editPorts(w *world) {
	w.respec("ports", func(m *v1alpha1.MTLS) {
		if m.PortLevel != nil {
			m.PortLevel = nil
			return
		}
		m.PortLevel = []v1alpha1.PortMTLS{{Port: 9443, Mode: v1alpha1.ModePermissive}}
	})
}

func suspend(w *world) {
	w.respec("suspend", func(m *v1alpha1.MTLS) { m.Rollout.Suspend = new(true) })
	w.at(w.now+w.while(), func() { w.respec("resume", func(m *v1alpha1.MTLS) { m.Rollout.Suspend = new(false) }) })
}

func approve(w *world) {
	w.respec("approval Manual", func(m *v1alpha1.MTLS) { m.Rollout.Approval = v1alpha1.ApprovalManual })
	for range 3 {
		w.at(w.now+w.while(), func() {
			mtls := w.profile.Status.MTLS
			if mtls == nil || mtls.Approval == nil {
				return
			}
			token := mtls.Approval.Token
			w.edit(func(p *v1alpha1.ServiceSecurityProfile) {
				p.Annotations = map[string]string{v1alpha1.AnnotationApprove: token}
			})
			w.oracle.approved[token] = true
			w.diary.note(w.now, "truth", "somebody approves %s", token)
			w.wake()
		})
	}
}

func immediate(w *world) {
	if !w.chance(4) {
		return
	}
	w.respec("Immediate", func(m *v1alpha1.MTLS) { m.Rollout.Strategy = v1alpha1.StrategyImmediate })
	w.at(w.now+w.while(), func() {
		w.respec("Staged", func(m *v1alpha1.MTLS) { m.Rollout.Strategy = v1alpha1.StrategyStaged })
	})
}

func compete(w *world) {
	if w.chance(2) {
		w.competing = []facts.CompetingPolicy{{Namespace: "shop", Name: "other", Pod: "web-1"}}
	} else {
		w.rule = []facts.ClientRule{{Namespace: "bar", Name: "legacy", Host: "web.shop.svc.cluster.local", TLS: "DISABLE", Where: "trafficPolicy"}}
	}
	w.diary.note(w.now, "truth", "another policy or rule appears")
	w.wake()
	w.at(w.now+w.while(), func() { w.competing, w.rule = nil, nil; w.wake() })
}

// breakCaller has a caller in the mesh fail from now on, under STRICT.
func breakCaller(w *world) {
	for _, c := range w.clients {
		if !c.plain && w.chance(2) {
			c.broken = true
			w.at(w.now+w.while(), func() { c.broken = false })
		}
	}
}

// another client outside the mesh appears.
func another(w *world) {
	w.legacy(w.window())
	c := w.clients[len(w.clients)-1]
	c.first, c.next = w.now, w.now
}
