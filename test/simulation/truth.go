package simulation

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

// forever is later than everything.
const forever = time.Duration(math.MaxInt64)

// flush is how often Envoy reports what goes on inside streams and connections, and its uptime; drainTime is for how long a
// listener that was replaced lives on.
const (
	flush     = 5 * time.Second
	drainTime = 45 * time.Second
)

// kind is what a client does.
type kind string

const (
	request  kind = "request"    // counted when it ends, which is at once
	stream   kind = "stream"     // a WebSocket or long poll: counted when it ends
	messages kind = "gRPC"       // a stream whose messages are counted while it lasts
	tcp      kind = "connection" // counted a moment after it is opened
)

// client calls one of the target's pods now and then. Times are true: they are counted from the beginning of the history,
// and no clock of the operator's tells them.
type client struct {
	name  string
	named bool // the proxies know its workload
	kind  kind
	plain bool
	probe bool // the kubelet's, of pods whose probes are not rewritten
	port  int32
	// It calls from first until last, so often, in bursts, and what it opens lasts so long.
	first, last, every time.Duration
	burst              int
	lasts              time.Duration
	// idle says that nothing moves on what it opened.
	idle bool
	// broken says that it fails under STRICT although it is in the mesh.
	broken bool

	next      time.Duration
	left      int
	succeeded time.Duration // last; -1 for never
	refused   time.Duration // first since succeeded; -1 for never
}

// use is one plaintext request, stream or connection.
type use struct {
	client   *client
	pod      *pod
	proc     *process // nil where the pod has no sidecar
	port     int32
	from, to time.Duration
	shown    time.Duration // when the proxy's metrics first told of it, or will; forever if they do not
	metered  time.Duration // the same for its counters, without the connection statistics
	counted  telemetry     // as the listener that took it counts
	flushed  int64
}

func (u *use) String() string {
	return fmt.Sprintf("plaintext %s of %s to %s:%d at %s", u.client.kind, u.client.name, u.pod.name, u.port, stamp(u.from))
}

// pod of the target.
type pod struct {
	name, uid, address string
	number             int
	created            time.Duration
	meshed             bool
	probes             bool // not rewritten
	proc               *process
	restarts           int32 // as the kubelet has told
	terminating, gone  bool
	trouble            trouble // of whoever scrapes it
	listed             int     // the last operator that was told of it
	evidenced          bool    // it was part of a complete observation
	remembered         int     // the last memory of an observer that it is in
	lastWord           time.Duration
	// concealed says that it went before an operator heard of it: there was none, or its cache stood still when it came.
	concealed bool
}

// process is one run of a pod's proxy. What it counted goes with it.
type process struct {
	pod      *pod
	started  time.Duration
	ended    time.Duration
	lag      time.Duration // by which its uptime may be late
	push     int           // the last one that it took
	families [len(metricNames)][]*counter
	open     []*use
	exposes  bool // connection statistics
	cx       map[int32]*connections
	form     facts.Form
	updates  int64
	drained  time.Duration // when the listener before is gone
	changed  time.Duration
	evicts   time.Duration   // series that did not move for so long; zero for never
	read     []time.Duration // by the operator
	scraped  []scraped       // by Prometheus
	swept    []sweep         // series that went while the process lived
	taken    bool            // by an operator for the process before
	reader   int             // who read it last, since
	since    time.Duration
}

// sweep is a series of a client's that went.
type sweep struct {
	at     time.Duration
	client string
	metric int
}

// world is the whole truth.
type world struct {
	random *rand.Rand
	now    time.Duration
	diary  diary
	config config

	profile   *v1alpha1.ServiceSecurityProfile
	policy    facts.Policy
	version   int // of the policy
	parent    v1alpha1.Mode
	telemetry telemetry
	muted     [3]time.Duration // when a telemetry was last replaced by another
	// concealed is when one went of which the operator's cache, which stands still since concealedFrom, never heard.
	concealedFrom, concealed time.Duration
	// telemetryObject says that a Telemetry is in the cluster that says so.
	telemetryObject bool
	competing       []facts.CompetingPolicy
	rule            []facts.ClientRule
	pods            []*pod
	rolling         int // rollouts of pods in flight
	made            int
	pushes          int // of configuration

	clients []*client
	uses    []*use
	agenda  []entry

	source                source
	logs                  *logs         // nil without
	forgot                time.Duration // when the operator last had nothing to observe, and forgot what it had
	operator              *operator
	operators             int
	readers               int           // memories of whoever reads the proxies: it forgets what is not asked any more
	memories              int           // of an observer, likewise
	skew                  time.Duration // of the operator's clock
	stamps                time.Duration // by how much the API server's clock is off, which says when pods were made
	staleFrom, staleUntil time.Duration
	booted                time.Duration // when the operator started
	stale                 *cluster
	fault                 fault
	calmed                bool // the faults have ended, and whoever is in the mesh calls every pod
	oracle                oracle
}

// telemetry is what the proxies count.
type telemetry int

const (
	counted telemetry = iota
	notCounted
	unlabelled
)

// entry is something that will happen.
type entry struct {
	at time.Duration
	do func()
	// lasting says that it is no fault, and happens also when those have ended.
	lasting bool
}

func (w *world) at(when time.Duration, do func()) {
	w.agenda = append(w.agenda, entry{at: when, do: do})
}

func (w *world) chance(oneIn int) bool { return w.random.IntN(oneIn) == 0 }

// between is a random time of that length.
func (w *world) between(least, most time.Duration) time.Duration {
	return least + time.Duration(w.random.Int64N(int64(most-least)+1))
}

// advance lets everything happen up to a time.
func (w *world) advance(to time.Duration) {
	for {
		var who *client
		when, what := to, -1
		for _, c := range w.clients {
			if c.next <= when {
				who, when = c, c.next
			}
		}
		for i, e := range w.agenda {
			if e.at < when || e.at == when && who == nil {
				what, when = i, e.at
			}
		}
		switch {
		case what >= 0:
			do := w.agenda[what].do
			w.agenda = slices.Delete(w.agenda, what, what+1)
			w.now = max(w.now, when)
			do()
		case who != nil:
			w.now = max(w.now, when)
			w.call(who)
		default:
			w.now = max(w.now, to)
			return
		}
	}
}

// call lets a client do what it does, and says when it does it again.
func (w *world) call(c *client) {
	c.next = w.now + c.every
	switch {
	case c.left > 0:
		c.left--
		c.next = w.now + w.between(time.Second, 10*time.Second)
	case c.burst > 0:
		c.left = w.random.IntN(c.burst)
	}
	if w.now > c.last {
		c.next = forever
		return
	}
	p := w.endpoint(c)
	if p == nil {
		return
	}
	if p.proc != nil && p.proc.form.At(c.port) == v1alpha1.ModeStrict && (c.plain || c.broken) {
		w.refuse(c, p)
		return
	}
	c.succeeded, c.refused = w.now, -1
	switch {
	case c.plain:
		w.plaintext(c, p)
	case w.calmed:
		for _, p := range w.pods {
			p.proc.counts(w, w.telemetry, series{requestsTotal, "mutual_tls", c.name, true}, 1)
		}
	case p.proc != nil:
		p.proc.counts(w, w.telemetry, series{requestsTotal, "mutual_tls", c.name, true}, 1)
		p.proc.connection(c.port, true, 1, 0)
	}
}

func (w *world) refuse(c *client, p *pod) {
	if c.refused < 0 {
		w.diary.note(w.now, "truth", "%s is refused by %s", c.name, p.name)
		c.refused = w.now
	}
	if c.plain {
		w.log(c, p, c.port, true)
	}
	w.oracle.refused(w, c)
}

// endpoint is a pod that a client reaches: also one that goes away, until it is gone.
func (w *world) endpoint(c *client) *pod {
	var up []*pod
	for _, p := range w.pods {
		if p.address != "" && (!p.meshed || p.proc != nil) && (!c.probe || p.probes) {
			up = append(up, p)
		}
	}
	if len(up) == 0 {
		return nil
	}
	return up[w.random.IntN(len(up))]
}

// plaintext is what the whole matter is about.
func (w *world) plaintext(c *client, p *pod) {
	u := &use{client: c, pod: p, proc: p.proc, port: c.port, from: w.now, to: forever, shown: forever, metered: forever, counted: w.telemetry}
	w.uses = append(w.uses, u)
	w.diary.note(w.now, "truth", "%s", u)
	if p.proc == nil {
		u.to = w.now + c.lasts
		return
	}
	p.proc.open = append(p.proc.open, u)
	p.proc.connection(c.port, false, 1, 1)
	if (c.kind == tcp || c.kind == messages && !c.idle) && u.counted != notCounted {
		u.metered = w.now + flush
	}
	u.shown = u.metered
	if p.proc.exposes && c.kind != tcp {
		u.shown = w.now
	}
	if c.lasts == 0 {
		p.proc.end(w, u)
		return
	}
	w.at(w.now+c.lasts, func() { u.proc.end(w, u) })
}

// end counts what ends.
func (p *process) end(w *world, u *use) {
	i := slices.Index(p.open, u)
	if i < 0 || p.ended <= w.now {
		return
	}
	p.report(w)
	p.open = slices.Delete(p.open, i, i+1)
	u.to = w.now
	p.connection(u.port, false, 0, -1)
	w.log(u.client, u.pod, u.port, false)
	if u.counted == notCounted {
		return
	}
	who := u.client
	switch who.kind {
	case tcp:
		if u.flushed == 0 {
			p.counts(w, u.counted, series{openedTotal, "none", who.name, who.named}, 1)
		}
		p.counts(w, u.counted, series{closedTotal, "none", who.name, who.named}, 1)
	case request, stream, messages:
		p.counts(w, u.counted, series{requestsTotal, "none", who.name, who.named}, 1)
	}
	u.shown, u.metered = min(u.shown, w.now), min(u.metered, w.now)
}

// kill ends a process, and everything in it.
func (p *process) kill(w *world) {
	p.ended = w.now
	for _, u := range p.open {
		u.to = w.now
		if u.shown > w.now {
			u.shown = forever
		}
		if u.metered > w.now {
			u.metered = forever
		}
	}
	p.open, p.pod.proc = nil, nil
}

// start runs a pod's proxy.
func (w *world) start(p *pod) {
	p.proc = &process{
		pod: p, started: w.now, ended: forever, lag: w.between(0, flush), cx: map[int32]*connections{},
		exposes: w.config.exposes, form: w.inForce(), evicts: w.config.evicts, changed: w.now,
	}
	if p.address == "" {
		p.address = fmt.Sprintf("10.0.%d.%d", p.number/250, p.number%250+1)
	}
	w.wake()
}

// create makes a pod; its proxy runs a moment later.
func (w *world) create(meshed bool, after time.Duration) *pod {
	w.made++
	p := &pod{number: w.made, name: w.name(), uid: fmt.Sprintf("uid-%d", w.made), created: w.now, meshed: meshed, lastWord: -1}
	p.probes = meshed && w.config.probes
	w.pods = append(w.pods, p)
	w.diary.note(w.now, "truth", "pod %s is created, in the mesh: %t", p.name, meshed)
	up := func() {
		switch {
		case p.gone:
		case meshed:
			w.start(p)
			w.source.appeared(p)
		default:
			p.address = "10.1.0." + fmt.Sprint(p.number%250+1)
			w.wake()
		}
	}
	if after == 0 {
		up()
	} else {
		w.at(w.now+after, up)
	}
	w.wake()
	return p
}

// name is that of a new pod: as a Deployment gives it or, where names are kept, a StatefulSet.
func (w *world) name() string {
	if !w.config.keepsNames {
		return fmt.Sprintf("web-%d", w.made)
	}
	for n := 0; ; n++ {
		name := fmt.Sprintf("web-%d", n)
		if !slices.ContainsFunc(w.pods, func(p *pod) bool { return p.name == name }) {
			return name
		}
	}
}

// remove makes a pod vanish.
func (w *world) remove(p *pod) {
	if p.gone {
		return
	}
	w.diary.note(w.now, "truth", "pod %s is gone", p.name)
	p.gone = true
	p.concealed = p.listed == 0 && (w.operator == nil || p.created >= w.staleFrom && p.created < w.staleUntil)
	if p.proc != nil {
		p.proc.kill(w)
	}
	for _, u := range w.uses {
		if u.pod == p {
			u.to = min(u.to, w.now)
		}
	}
	w.pods = slices.DeleteFunc(w.pods, func(q *pod) bool { return q == p })
	w.source.disappeared(p)
	w.wake()
}

// terminate starts a pod's deletion, which takes its time.
func (w *world) terminate(p *pod, grace time.Duration) {
	if p.terminating || p.gone {
		return
	}
	w.diary.note(w.now, "truth", "pod %s is being deleted, for %s", p.name, grace)
	p.terminating = true
	w.at(w.now+grace, func() { w.remove(p) })
	w.wake()
}

// inForce is what the proxies are told.
func (w *world) inForce() facts.Form {
	if w.policy.Exists {
		return w.policy.Form
	}
	return facts.Form{Mode: w.parent}
}

// configure has every proxy take what is in force, a moment later.
func (w *world) configure() {
	form := w.inForce()
	w.pushes++
	push := w.pushes
	for _, p := range w.pods {
		proc := p.proc
		if proc == nil {
			continue
		}
		w.at(w.now+w.between(100*time.Millisecond, 3*time.Second), func() {
			if proc.ended != forever || proc.push > push {
				return // pushes come in the order in which they were made
			}
			proc.push = push
			if !proc.form.Equal(form) {
				proc.take(w, form)
			}
		})
	}
}

// take replaces the listener. What plaintext STRICT finds open is reset.
func (p *process) take(w *world, form facts.Form) {
	for _, u := range slices.Clone(p.open) {
		if form.At(u.port) == v1alpha1.ModeStrict {
			p.end(w, u)
		}
	}
	p.form = form
	p.update(w)
}

// update is a change of the listener. Once the old one has drained, series that the new one does not write may go.
func (p *process) update(w *world) {
	p.report(w)
	p.updates++
	p.changed, p.drained = w.now, w.now+drainTime
	since, before, vanish := p.changed, slices.Clone(p.open), w.chance(2)
	w.at(p.drained, func() {
		for _, u := range before {
			p.end(w, u)
		}
		if !vanish {
			return
		}
		for f := range p.families {
			p.sweep(w, f, since, p.holds)
		}
	})
}

// wake has a running operator look soon: it watches the cluster.
func (w *world) wake() {
	if w.operator != nil {
		w.operator.wake(w.now + w.between(0, time.Second))
	}
}

func stamp(t time.Duration) string {
	t = t.Round(100 * time.Millisecond)
	return fmt.Sprintf("%d:%02d:%04.1f", int(t.Hours()), int(t.Minutes())%60, (t % time.Minute).Seconds())
}
