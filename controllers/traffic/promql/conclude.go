package promql

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/traffic"
)

const (
	// maxListed is what status has room for.
	maxListed = 20
	// evidenceOf marks the evidence as this source's: it is not that of the sidecars. The workloads that were observed follow it.
	evidenceOf = "prometheus"
	// unlabelledFor is for how many intervals series without the labels that tell are a reason to doubt what is now.
	unlabelledFor = 3
)

// profile is what is remembered of one profile: which pods it had, so that one that goes is noticed.
type profile struct {
	// began is when it was first observed.
	began   translated
	live    map[object]string // UID
	unknown map[object]struct{}
	// ended are pods whose last word was heard: they never saw plaintext. By UID, as a StatefulSet's pods share their names.
	ended map[object]string
	// late says that one of them saw plaintext after all; empty once it was judged.
	late string
	// gap is when last something was lost, on the server's clock, and why.
	gap time.Time
	why string
	// told is the start that was last said to be new.
	told time.Time
	// hidden is when a request last said that a part of the target was not observed; zero once nothing is left of that. silent
	// says that this was told.
	hidden time.Time
	silent bool
	// scraped is when the last scrape was that is known of each pod, in the operator's time, as early as it may have been.
	scraped time.Time
	// beside are the workloads beside the target's that had plaintext, and seen is what was seen before.
	beside map[object]*neighbour
	seen   sight
	// start and plaintext are times as they were first put in the operator's time: they must not creep with the clocks.
	start, plaintext translated
}

// translated is a time on the server's clock and on the operator's.
type translated struct{ server, own time.Time }

// in gives the operator's time, the same as long as the server's is.
func (t *translated) in(server time.Time, translate func(time.Time) time.Time) time.Time {
	if server.IsZero() {
		return server
	}
	// What lies ahead was put so by a clock that has been set back since.
	if own := translate(server); !t.server.Equal(server) || t.own.After(own.Add(maxSkew)) {
		*t = translated{server, own}
	}
	return t.own
}

// view is one observation in the making, in times of the server's clock.
type view struct {
	req      traffic.Request
	history  *history
	poll     poll
	profile  *profile
	asked    time.Time // on the operator's clock: its pods were listed before
	now      time.Time
	interval time.Duration // between observations

	workloads map[object]*workload // nil for one without series
	pods      map[object]traffic.Proxy
	since     time.Time
	why       string
	until     time.Time // what the scrapes of the target's pods reach to
	problems  problems
}

// conclude says what the history means for a request. asked is when that came, and now the operator's time.
func conclude(req traffic.Request, h *history, last poll, remembered *profile, asked, now time.Time, interval time.Duration) traffic.Observation {
	v := &view{
		req: req, asked: asked, history: h, poll: last, profile: remembered, interval: interval,
		workloads: map[object]*workload{}, pods: map[object]traffic.Proxy{},
	}
	// From the answer on, both clocks ran; its own time is somewhere between the question and the answer.
	v.now = last.now.Add(now.Sub(last.sent))
	v.since = h.from
	v.bump(h.outage, "the server scraped no proxy at all")
	v.bump(last.jumped, "the clock of the server or of the operator jumped")
	if last.problem != "" {
		v.problems.say("%s", last.problem)
	}
	if v.behind() {
		v.problems.say("Prometheus' history is read in parts, the oldest first, one at each observation interval, and the last is not read yet. It goes on by itself.")
	}
	v.find()
	if remembered.began.server.IsZero() {
		remembered.began = translated{v.now, now}
		v.resume()
	}
	v.proxies()
	v.departed()
	if v.hides() {
		v.lost("a part of the target was not observed")
	}
	v.bump(remembered.gap, remembered.why)
	plain := v.traffic()
	v.neighbours()
	return v.observation(plain)
}

// drainDuration is Istio's default of the setting of that name: for so long a listener serves connections with the configuration
// that another one replaces.
const drainDuration = 45 * time.Second

// hides says that a part of the target is not observed, or that something may be left of what hid it: proxies take a moment to
// get another configuration, and the listeners that had the one before drain without counting.
func (v *view) hides() bool {
	p := v.profile
	switch {
	case v.req.Unobserved, p.hidden.After(v.now): // or the server's clock was set back since
		p.hidden = v.now
	case !p.hidden.IsZero() && v.now.Sub(p.hidden) >= 2*v.interval+drainDuration:
		p.hidden = time.Time{}
	}
	return !p.hidden.IsZero()
}

// behind says that there is history that was not read yet.
func (v *view) behind() bool { return v.history.to.Before(v.poll.now) }

// bump moves the start of the stretch on.
func (v *view) bump(t time.Time, why string) {
	if t.After(v.since) {
		v.since, v.why = t, why
	}
}

// find looks up the target's workloads and pods.
func (v *view) find() {
	for _, px := range v.req.Proxies {
		v.pods[object{px.Namespace, px.Name}] = px
		name := workloadOf(px)
		v.workloads[name] = v.history.workloads[name]
	}
	v.problems.noPods = len(v.req.Proxies) == 0
}

// proxies judges the scraping of the pods that there are.
func (v *view) proxies() {
	v.until = v.poll.now
	if v.behind() {
		v.predecessors()
		return // their events are not all read
	}
	first, reached := time.Time{}, v.until
	scraped := 0
	for _, px := range v.req.Proxies {
		name := object{px.Namespace, px.Name}
		p := v.history.pods[name]
		if p != nil {
			v.predecessor(px, p)
			v.elsewhere(p, name)
		}
		if !v.scraped(px, p) {
			continue
		}
		if p.at.Before(reached) {
			reached = p.at
		}
		// What came after a scrape is in the next; when that is late, the observation ends where it should have been.
		if due := p.at.Add(v.between(p)); due.Before(v.until) {
			v.until = due
		}
		if px.Restarts > 0 || !p.restarted.IsZero() {
			v.bump(p.started, fmt.Sprintf("the proxy of pod %s restarted, and what it saw last before went with it", name))
		}
		v.bump(p.appeared, fmt.Sprintf("the proxy of pod %s was not scraped before", name))
		v.bump(p.late, fmt.Sprintf("what was scraped of the proxy of pod %s was there too late to be read", name))
		if scraped == 0 || p.seen().Before(first) {
			first = p.seen()
		}
		scraped++
	}
	if scraped > 0 {
		v.bump(first, "none of the target's proxies was scraped before")
	}
	v.profile.scraped = v.early(reached)
}

// predecessors notes those of all pods while history is still being read: of what happens to a name the last is kept.
func (v *view) predecessors() {
	for _, px := range v.req.Proxies {
		if p := v.history.pods[object{px.Namespace, px.Name}]; p != nil {
			v.predecessor(px, p)
		}
	}
}

// elsewhere judges series of another cluster. As long as it has a pod of this name, nothing tells whose scrapes are missing.
func (v *view) elsewhere(p *proxy, name object) {
	if v.poll.now.Sub(p.elsewhere) < v.recent() {
		v.problems.clustered = append(v.problems.clustered, name.String())
	}
	v.missed(p.elsewhere, fmt.Sprintf("another cluster had a pod of the name of %s", name))
}

// recent is for how long something is a reason to doubt what is now.
func (v *view) recent() time.Duration { return unlabelledFor * max(v.interval, v.history.interval) }

// predecessor judges whether another pod had the name before, and went before anybody watched. Later on departed does.
func (v *view) predecessor(px traffic.Proxy, p *proxy) {
	known, name := v.profile, object{px.Namespace, px.Name}
	began, limit := known.began, known.began.server.Add(v.history.noticed)
	if _, had := known.live[name]; !had && known.ended[name] == "" {
		limit = v.poll.now // it is new to the target, and so is whatever had its name
	}
	why := fmt.Sprintf("another pod had the name of %s before, and what it saw last is not known", name)
	if !p.vanished.After(limit) {
		v.missed(p.vanished, why)
	}
	if v.behind() {
		return
	}
	// What was scraped by this name before it was made was another's. The API server has a clock of its own.
	created := began.server.Add(px.Created.Sub(began.own))
	if created.After(v.history.from) && px.Created.Before(began.own) && p.seen().Before(created.Add(-maxSkew)) {
		v.missed(created.Add(maxSkew), why)
	}
}

// missed remembers what was lost up to a time, also when the pod by whose name it was found has gone.
func (v *view) missed(t time.Time, why string) {
	if t.After(v.profile.gap) {
		v.profile.gap, v.profile.why = t, why
	}
}

// scraped says whether a proxy is scraped now. One that terminates need not be, once its last word was heard.
func (v *view) scraped(px traffic.Proxy, p *proxy) bool {
	name := object{px.Namespace, px.Name}
	foreign := v.foreign(px, p)
	switch {
	case !foreign && v.fresh(p):
		return true
	case px.Terminating && (v.profile.endedWell(name, px.UID) || px.Address == ""):
	case px.Terminating:
		v.problems.silent = append(v.problems.silent, name.String())
	case foreign:
		v.problems.others = append(v.problems.others, name.String())
	case p == nil || p.at.IsZero() && !p.gone:
		v.problems.absent = append(v.problems.absent, name.String())
	default:
		v.problems.stale = append(v.problems.stale, name.String())
	}
	return false
}

// fresh says whether the last scrape of a proxy is not long ago.
func (v *view) fresh(p *proxy) bool {
	return p != nil && p.present && v.poll.now.Sub(p.at) <= 2*v.between(p)+5*time.Second
}

// foreign says whether the series of a pod's name are of another pod: of a process that ran before the pod was made, by more
// than clocks may differ.
func (v *view) foreign(px traffic.Proxy, p *proxy) bool {
	return p != nil && p.present && v.own(p.started).Add(maxSkew+startTolerance).Before(px.Created)
}

// own is a time on the operator's clock, as late as it may have been.
func (v *view) own(t time.Time) time.Time { return v.poll.received.Add(-v.poll.now.Sub(t)) }

// early is a time on the operator's clock, as early as it may have been.
func (v *view) early(t time.Time) time.Time { return v.poll.sent.Add(-v.poll.now.Sub(t)) }

// between is the time between two scrapes of a proxy.
func (v *view) between(p *proxy) time.Duration { return cmp.Or(p.interval, v.history.interval) }

// departed judges pods of the target's workloads that are no more. What they saw after their last scrape nobody knows.
func (v *view) departed() {
	p := v.profile
	for name, uid := range p.live {
		if px, ok := v.pods[name]; (!ok || px.UID != uid) && !p.endedWell(name, uid) {
			v.lost("a pod went away, and what it saw last is not known")
		}
	}
	if p.late != "" {
		v.lost(p.late)
		p.late = ""
	}
	for _, name := range v.candidates() {
		if _, ok := v.pods[name]; !ok && !p.endedWell(name, p.ended[name]) {
			v.stranger(name)
		}
	}
	v.roll()
}

// roll remembers the pods that are there now, and forgets those that nobody knows any more.
func (v *view) roll() {
	p := v.profile
	p.live = make(map[object]string, len(v.pods))
	for name, px := range v.pods {
		p.live[name] = px.UID
		delete(p.unknown, name)
	}
	if v.behind() {
		return // who is not in what was read may be in the rest
	}
	for name := range p.unknown {
		if v.history.pods[name] == nil {
			delete(p.unknown, name)
		}
	}
	for name, uid := range p.ended {
		if now := v.pods[name].UID; now != uid && (now != "" || v.history.pods[name] == nil) {
			delete(p.ended, name)
		}
	}
}

// stranger judges a pod that the server knows, and the API server does not, or not any more.
func (v *view) stranger(name object) {
	p, known := v.profile, v.history.pods[name]
	if _, ok := p.unknown[name]; !ok && (known.present || known.gone) && !v.behind() {
		p.unknown[name] = struct{}{}
		if _, had := p.live[name]; !had {
			v.lost(fmt.Sprintf("pod %s, which seems to be of the same workload, was scraped until a moment ago", name))
		}
	}
	v.bump(known.vanished, fmt.Sprintf("pod %s went away, and what it saw last is not known", name))
}

func (p *profile) endedWell(name object, uid string) bool { return uid != "" && p.ended[name] == uid }

// lost remembers that something was lost until now.
func (v *view) lost(why string) {
	v.profile.gap, v.profile.why = v.now, why
}

// candidates are the pods that may belong to one of the target's workloads, in the order of their names.
func (v *view) candidates() []object {
	var found []object
	names := map[string][]object{} // by namespace
	for name := range v.named() {
		names[name.namespace] = append(names[name.namespace], name)
	}
	for namespace, names := range names {
		for _, pod := range v.history.names[namespace] {
			if slices.ContainsFunc(names, func(name object) bool { return belongs(pod, name) }) {
				found = append(found, pod)
			}
		}
	}
	slices.SortFunc(found, func(a, b object) int {
		return cmp.Or(cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.name, b.name))
	})
	return found
}

// named are the names that pods of the target's workloads have before theirs.
func (v *view) named() map[object]struct{} {
	names := make(map[object]struct{}, len(v.workloads))
	for name := range v.workloads {
		names[name] = struct{}{}
	}
	for pod, px := range v.pods {
		if !belongs(pod, workloadOf(px)) {
			names[stem(pod)] = struct{}{}
		}
	}
	return names
}

// workloadOf is a proxy's workload.
func workloadOf(px traffic.Proxy) object { return object{px.Namespace, cmp.Or(px.Workload, px.Name)} }

// traffic judges the workloads' series, and says when plaintext was last seen.
func (v *view) traffic() (plain time.Time) {
	recent := v.recent()
	clusters := map[string]struct{}{}
	series := false
	for name, w := range v.workloads {
		v.unnamed(name.namespace, recent)
		if w == nil {
			continue
		}
		for cluster := range w.clusters {
			clusters[cluster] = struct{}{}
		}
		plain = later(plain, w.lastPlaintext())
		if v.poll.now.Sub(w.unlabelled) < recent {
			v.problems.unlabelled = append(v.problems.unlabelled, name.String())
		}
		v.bump(w.unlabelled, fmt.Sprintf("the metrics of workload %s did not say how its traffic was secured", name))
		series = series || w.present || len(w.callers) > 0
	}
	if len(clusters) > 1 {
		for cluster := range clusters {
			v.problems.clusters = append(v.problems.clusters, cluster)
		}
	}
	if v.req.RequireSeries {
		v.problems.noSeries = !series
		v.bump(v.present(), "the target had no series before, so its metrics may have been off")
	}
	v.bump(plain, "plaintext was seen")
	return plain
}

// unnamed judges series of the namespace that do not say which workload they are of.
func (v *view) unnamed(namespace string, recent time.Duration) {
	w := v.history.workloads[object{namespace, ""}]
	if w == nil {
		return
	}
	last := later(w.unlabelled, w.lastPlaintext())
	if v.poll.now.Sub(last) < recent {
		v.problems.unnamed = append(v.problems.unnamed, namespace)
	}
	v.bump(last, fmt.Sprintf("metrics in namespace %s did not say which workload they were of", namespace))
}

// present is since when any of the workloads has series by mutual TLS. Without any there is only what is in callers.
func (v *view) present() (since time.Time) {
	found := false
	for _, w := range v.workloads {
		if w != nil && w.present && (!found || w.presentSince.Before(since)) {
			since, found = w.presentSince, true
		}
	}
	if !found {
		return v.poll.now
	}
	return since
}

// observation puts it in words, and in the operator's time. A start is taken as late as it may have been, and the reading as
// early.
func (v *view) observation(plain time.Time) traffic.Observation {
	o := traffic.Observation{}
	o.Completeness, o.Reason, o.Message = v.problems.judge()
	o.Time = v.early(v.until)
	o.LastPlaintext = v.profile.plaintext.in(plain, v.own)
	// What was counted within the window, give or take a part of it: a scrape tells what came since the one before.
	start := later(later(v.since, plain).Add(v.history.interval), v.poll.now.Add(-v.req.Window-2*v.req.Window/pointsApart-v.history.interval))
	for _, w := range v.workloads {
		if w != nil {
			if !v.behind() { // what was open then
				o.OpenPlaintext = add(o.OpenPlaintext, w.open)
			}
			o.MutualTLS = add(o.MutualTLS, w.mutualSince(start))
		}
	}
	o.NotAttributable = !v.req.Ports.All() && (o.OpenPlaintext > 0 || !plain.IsZero() && v.poll.now.Sub(plain) <= v.req.Window)
	o.Callers = v.callers(v.own)
	o.Gap = v.gap(plain)
	if o.Completeness == traffic.Complete {
		o.Since = v.begin(v.own)
		if o.MutualTLS == 0 && o.OpenPlaintext == 0 && o.LastPlaintext.Before(o.Time.Add(-v.req.Window)) {
			o.Reason = reasonNoTraffic
		}
		o.Evidence = v1alpha1.Evidence{
			ObservedTime: &metav1.Time{Time: o.Time}, Targets: v.req.Targets, Proxies: v.evidence(), MutualTLSInStretch: o.MutualTLS,
		}
	}
	return o
}

// gap says why the stretch began anew at this reading; empty if it did not, or plaintext says it, or it goes on and was told
// before.
func (v *view) gap(plain time.Time) (why string) {
	if v.behind() {
		return "" // what is read now is old
	}
	hidden := !v.profile.hidden.IsZero()
	before, goesOn := v.profile.told, hidden && v.profile.silent
	v.profile.told, v.profile.silent = later(before, v.since), hidden
	if !goesOn && !before.IsZero() && v.since.After(before) && v.since.After(plain) {
		return v.why
	}
	return ""
}

// begin is the start of the stretch in the operator's time. One that is as old as what was read goes on from where status
// says it began, if nothing lies between: it is longer than any window that is asked for either way.
func (v *view) begin(late func(time.Time) time.Time) time.Time {
	start := v.profile.start.in(v.since, late)
	before, e := v.req.CleanSince, v.req.Evidence
	whole := v.since.Equal(v.history.from) && !before.IsZero() && before.Before(start)
	if whole && e != nil && e.Targets == v.req.Targets && strings.HasPrefix(e.Proxies, evidenceOf) && e.ObservedTime != nil && e.ObservedTime.After(start) {
		return before
	}
	return start
}

// callers are those of the window, worst first.
func (v *view) callers(late func(time.Time) time.Time) []v1alpha1.PlaintextCaller {
	sum := map[caller]sent{}
	for _, w := range v.workloads {
		if w == nil {
			continue
		}
		for who, s := range w.callers {
			if v.req.Window > 0 && v.poll.now.Sub(s.last) > v.req.Window {
				continue
			}
			sum[who] = sent{last: later(sum[who].last, s.last), requests: add(sum[who].requests, s.requests)}
		}
	}
	list := make([]v1alpha1.PlaintextCaller, 0, len(sum))
	for who, s := range sum {
		list = append(list, v1alpha1.PlaintextCaller{
			Workload: who.workload, Namespace: who.namespace, Protocol: who.protocol,
			Requests: s.requests, LastSeenTime: &metav1.Time{Time: late(s.last)},
		})
	}
	slices.SortFunc(list, func(x, y v1alpha1.PlaintextCaller) int {
		return cmp.Or(cmp.Compare(y.Requests, x.Requests), cmp.Compare(x.Namespace, y.Namespace),
			cmp.Compare(x.Workload, y.Workload), cmp.Compare(x.Protocol, y.Protocol))
	})
	return list[:min(len(list), maxListed)]
}
