package promql

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/prometheus/common/model"
)

const (
	// maxPoints are kept of a workload's counts; beyond it those are thinned out that are closer together than one in
	// pointsApart of their age.
	maxPoints   = 256
	pointsApart = 16
	// maxKept bounds the callers that are remembered of a workload: names that a caller gives itself are not to be trusted.
	maxKept = 200
	// maxRemembered are the pods, and the workloads, from which on those that are no more are dropped.
	maxRemembered = 20_000
	// maxName is what the CRD allows for a caller's workload and namespace.
	maxName = 253
)

// object names a pod or a workload.
type object struct{ namespace, name string }

func (o object) String() string { return o.namespace + "/" + o.name }

// history is what was learned from the server, in times of its clock. Every time is the last of its kind.
type history struct {
	// from and to are the ends of what was read. A history is read from its begin on: to is before now while more is to come.
	from, to time.Time
	// interval between scrapes, and copies of each proxy's series.
	interval time.Duration
	copies   int64
	// noticed is how long it takes at the most until it is noticed that a proxy is not scraped any more.
	noticed time.Duration

	outage    time.Time
	pods      map[object]*proxy
	names     map[string][]object // of the pods, by namespace
	workloads map[object]*workload
	// suspects are the workloads that had plaintext, by namespace, the last to have had it first.
	suspects map[string][]suspect
	// serving are those for which a pod counts now.
	serving map[object][]object
}

// proxy is what is known of the proxy of one pod.
type proxy struct {
	// present says that it was scraped when last it should have been, at at.
	present     bool
	at, started time.Time
	// interval between its scrapes; zero if there were too few to tell.
	interval time.Duration
	// gone says that it was scraped in the last minutes, but not last.
	gone bool

	restarted, vanished, appeared, born time.Time
	// elsewhere is when last it had series of another cluster.
	elsewhere time.Time
	// late is up to when samples may have come after they should have been read.
	late time.Time
}

// seen is when scraping it last began; zero if that was before what was read.
func (p *proxy) seen() time.Time { return later(p.appeared, p.born) }

// workload is what is known of the traffic to one workload.
type workload struct {
	callers map[caller]*sent
	// plaintext is when callers that are no longer listed last sent any.
	plaintext time.Time
	// unlabelled is when traffic last moved whose series do not say how it was secured.
	unlabelled time.Time
	open       int64
	clusters   map[string]struct{}
	// pods that count for it now, if it is a suspect.
	pods []object
	// present says that it has series by mutual TLS, without a break since presentSince.
	present      bool
	presentSince time.Time
	mutual       int64
	points       []point
}

// point is how much was counted up to a time.
type point struct {
	at     time.Time
	mutual int64
}

// caller is who sent plaintext, as far as the metrics know.
type caller struct{ workload, namespace, protocol string }

type sent struct {
	last     time.Time
	requests int64
}

// answer has the results of one poll.
type answer struct {
	asked  asked
	labels schema
	// proxies that are scraped now.
	scraped int64
	// window is how far back anything may be wanted.
	window time.Duration
	now    time.Time
	// interval between most scrapes, the longest between any, and copies of each proxy's series.
	interval, longest time.Duration
	copies            int64

	proxies, events, times, counts, mutual model.Vector
	steps                                  model.Matrix
}

func newHistory() *history {
	return &history{pods: map[object]*proxy{}, workloads: map[object]*workload{}}
}

// begin reads what the first query says of the server itself, which the others need.
func (a *answer) begin() error {
	var intervals []time.Duration
	for _, s := range a.proxies {
		v := float64(s.Value)
		switch s.Metric[part] {
		case partNow:
			a.now = instant(v)
		case partInterval:
			if v > 0 && v < 3600 {
				intervals = append(intervals, max(seconds(v), time.Second))
			}
		case partCopies:
			a.copies = count(s.Value)
		case partAt:
			a.scraped++
		}
	}
	if a.now.IsZero() {
		return fmt.Errorf("its answer lacks the time")
	}
	slices.Sort(intervals)
	a.interval, a.longest, a.copies = time.Second, time.Second, max(a.copies, 1)
	if n := len(intervals); n > 0 {
		a.interval, a.longest = intervals[n/2], intervals[n-1]
	}
	return nil
}

func seconds(v float64) time.Duration { return time.Duration(v * float64(time.Second)) }

// learn takes in a poll.
func (h *history) learn(a *answer) {
	if a.asked.afresh {
		h.from = a.asked.at.Add(-a.asked.span)
	}
	h.interval, h.copies, h.noticed = a.interval, a.copies, max(h.noticed, a.asked.gap+a.asked.step)
	h.learnEvents(a)
	h.learnProxies(a)
	h.learnTimes(a)
	h.learnCounts(a)
	h.learnServing(a)
	h.learnMutual(a)
	h.to = a.asked.at
	h.prune(h.to.Add(-a.window - a.asked.gap))
	h.names = map[string][]object{}
	for name := range h.pods {
		h.names[name.namespace] = append(h.names[name.namespace], name)
	}
	h.listSuspects()
}

func (h *history) learnProxies(a *answer) {
	for _, p := range h.pods {
		p.present, p.gone = false, false
	}
	for _, s := range a.proxies {
		switch s.Metric[part] {
		case partAt:
			p := h.proxy(a, s.Metric)
			p.late = later(p.late, p.unread(a))
			p.present, p.at = true, instant(float64(s.Value))
		case partStarted:
			h.proxy(a, s.Metric).started = instant(float64(s.Value))
		case partInterval:
			if v := float64(s.Value); v > 0 && v < 3600 {
				h.proxy(a, s.Metric).interval = max(seconds(v), time.Second)
			}
		case partGone:
			p := h.proxy(a, s.Metric)
			p.gone = true
			if p.at.IsZero() && !p.vanished.After(p.seen()) {
				p.at = a.asked.at.Add(-a.asked.gap) // at the earliest
			}
		}
	}
}

// unread is the end of what may have been written too late to be read, of a proxy that is scraped: its samples did not reach
// as far as this poll reads back when last there was one, and nothing says that its scraping began since. Zero if nothing was.
func (p *proxy) unread(a *answer) time.Time {
	start := a.asked.at.Add(-a.asked.span)
	if a.asked.afresh || !later(p.at, p.seen()).Before(start) {
		return time.Time{}
	}
	return start
}

func (h *history) learnEvents(a *answer) {
	for _, s := range a.events {
		at := instant(float64(s.Value))
		if s.Metric[part] == partOutage {
			h.outage = later(h.outage, at)
			continue
		}
		p := h.proxy(a, s.Metric)
		switch s.Metric[part] {
		case partRestart:
			p.restarted = later(p.restarted, at)
		case partVanish:
			p.vanished = later(p.vanished, at)
		case partAppear:
			p.appeared = later(p.appeared, at)
		case partBirth:
			p.born = later(p.born, at)
		case partCluster:
			p.elsewhere = later(p.elsewhere, at)
		}
	}
}

func (h *history) learnTimes(a *answer) {
	for _, s := range a.times {
		w, at := h.workload(a, s.Metric), instant(float64(s.Value))
		if s.Metric[reporterLabel] == "" || s.Metric[policyLabel] == "" {
			w.unlabelled = later(w.unlabelled, at)
			continue
		}
		who := w.caller(s.Metric)
		who.last = later(who.last, at)
	}
}

func (h *history) learnCounts(a *answer) {
	for _, w := range h.workloads {
		w.open = 0
	}
	for _, s := range a.counts {
		w, n := h.workload(a, s.Metric), count(s.Value)/a.copies
		switch {
		case s.Metric[part] == partOpen:
			w.open = add(w.open, max(1, n))
		case s.Metric[reporterLabel] != "" && s.Metric[policyLabel] != "":
			who := w.caller(s.Metric)
			who.requests = add(who.requests, n)
			if who.last.IsZero() {
				// Its time is not among those listed: it is no later than they are, and no later than now.
				who.last = a.asked.at
			}
		}
	}
}

func (h *history) learnMutual(a *answer) {
	for _, w := range h.workloads {
		w.present = false
	}
	step := cmp.Or(a.asked.trafficStep, a.asked.since)
	for _, series := range a.steps {
		h.workload(a, series.Metric).steps(a, series.Values, step)
	}
	for _, s := range a.mutual {
		h.workload(a, s.Metric).steps(a, []model.SamplePair{{Timestamp: model.TimeFromUnixNano(a.asked.at.UnixNano()), Value: s.Value}}, step)
	}
	for _, w := range h.workloads {
		if !w.present {
			w.presentSince = time.Time{}
		}
	}
}

// steps takes in counts up to times that are a step apart. A break is a step that is missing.
func (w *workload) steps(a *answer, values []model.SamplePair, step time.Duration) {
	last := a.asked.at.Add(-a.asked.since)
	for _, v := range values {
		at := v.Timestamp.Time()
		if !at.After(last) {
			continue // Prometheus 2 takes the begin of a range for a part of it
		}
		switch {
		case at.Sub(last) > step+step/2:
			w.presentSince = later(w.presentSince, at)
		case w.presentSince.IsZero() && a.asked.afresh:
			w.presentSince = last
		case w.presentSince.IsZero():
			w.presentSince = at
		}
		last = at
		w.counted(at, count(v.Value)/a.copies)
	}
	w.present = w.present || a.asked.at.Sub(last) <= step+step/2
}

// counted takes in what was counted up to a time. Several clusters may answer for one.
func (w *workload) counted(at time.Time, n int64) {
	w.mutual = add(w.mutual, n)
	if last := len(w.points) - 1; last >= 0 && !w.points[last].at.Before(at) {
		w.points[last].mutual = w.mutual
		return
	}
	w.points = append(w.points, point{at: at, mutual: w.mutual})
	if len(w.points) > maxPoints {
		w.thin(at)
	}
}

// thin keeps points that are no further apart than a part of their age.
func (w *workload) thin(now time.Time) {
	kept := w.points[:1]
	for i, p := range w.points[1:] {
		last := i+2 == len(w.points)
		if !last && w.points[i+2].at.Sub(kept[len(kept)-1].at) <= now.Sub(p.at)/pointsApart {
			continue
		}
		kept = append(kept, p)
	}
	if len(kept) > maxPoints {
		kept = kept[len(kept)-maxPoints:]
	}
	w.points = kept
}

// mutualSince is how much was counted after a time, but for what a long step before it may have counted twice.
func (w *workload) mutualSince(t time.Time) int64 {
	i, _ := slices.BinarySearchFunc(w.points, t, func(p point, t time.Time) int { return p.at.Compare(t) })
	if i == len(w.points) {
		return 0
	}
	return w.mutual - w.points[i].mutual
}

// prune drops callers that no window reaches any more, but not when they were last seen. Pods and workloads that are no more
// are kept until there are too many: then what was read begins where the last of them ended.
func (h *history) prune(horizon time.Time) {
	for _, w := range h.workloads {
		for who, s := range w.callers {
			if s.last.Before(horizon) {
				w.plaintext = later(w.plaintext, s.last)
				delete(w.callers, who)
			}
		}
	}
	if len(h.pods) > maxRemembered || len(h.workloads) > maxRemembered {
		h.prunePods(horizon)
		h.pruneWorkloads(horizon)
	}
}

func (h *history) prunePods(horizon time.Time) {
	for name, p := range h.pods {
		last := later(later(p.at, p.vanished), later(p.restarted, p.seen()))
		if !p.present && !p.gone && last.Before(horizon) {
			h.from = later(h.from, last)
			delete(h.pods, name)
		}
	}
}

func (h *history) pruneWorkloads(horizon time.Time) {
	for name, w := range h.workloads {
		last := later(w.plaintext, w.unlabelled)
		if !w.present && len(w.callers) == 0 && w.open == 0 && last.Before(horizon) {
			h.from = later(h.from, last)
			delete(h.workloads, name)
		}
	}
}

// named is the pod that a series is of.
func (a *answer) named(m model.Metric) object {
	return object{string(m[model.LabelName(a.labels.namespace)]), string(m[model.LabelName(a.labels.pod)])}
}

// workload is the workload that a series is of; without a name if it does not say.
func (a *answer) workload(m model.Metric) object {
	name := string(m[destinationWorkload])
	if name == unknown {
		name = ""
	}
	return object{string(m[model.LabelName(a.labels.namespace)]), name}
}

func (h *history) proxy(a *answer, m model.Metric) *proxy {
	key := a.named(m)
	if h.pods[key] == nil {
		h.pods[key] = &proxy{}
	}
	return h.pods[key]
}

func (h *history) workload(a *answer, m model.Metric) *workload {
	key := a.workload(m)
	w := h.workloads[key]
	if w == nil {
		w = &workload{callers: map[caller]*sent{}, clusters: map[string]struct{}{}}
		h.workloads[key] = w
	}
	if cluster := string(m[destinationCluster]); cluster != "" && cluster != unknown && len(w.clusters) < maxKept {
		w.clusters[cluster] = struct{}{}
	}
	return w
}

const unknown = "unknown"

func (w *workload) caller(m model.Metric) *sent {
	who := caller{workload: bounded(string(m[sourceWorkload])), namespace: bounded(string(m[sourceNamespace])), protocol: "HTTP"}
	if who.workload == "" || who.workload == "-" {
		who.workload = unknown
	}
	if who.namespace == unknown || who.namespace == "-" {
		who.namespace = ""
	}
	switch m[protocolLabel] {
	case "tcp":
		who.protocol = "TCP"
	case "grpc":
		who.protocol = "GRPC"
	}
	if w.callers[who] == nil && len(w.callers) >= maxKept {
		who = caller{workload: unknown, protocol: who.protocol}
	}
	if w.callers[who] == nil {
		w.callers[who] = &sent{}
	}
	return w.callers[who]
}

// lastPlaintext is when any caller's plaintext last moved.
func (w *workload) lastPlaintext() time.Time {
	last := w.plaintext
	for _, s := range w.callers {
		last = later(last, s.last)
	}
	return last
}

// moved is when last anything moved that was not by mutual TLS, or did not say.
func (w *workload) moved() time.Time { return later(w.lastPlaintext(), w.unlabelled) }

// bounded cuts a name to what the CRD allows, never inside a character.
func bounded(s string) string {
	for len(s) > maxName {
		_, size := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-size]
	}
	return s
}

// instant is a time as PromQL computes it.
func instant(seconds float64) time.Time {
	if math.IsNaN(seconds) || math.Abs(seconds) > 1<<40 {
		return time.Time{}
	}
	return time.UnixMilli(int64(math.Ceil(seconds * 1000)))
}

// count is a whole number that a sample stands for at the least.
func count(v model.SampleValue) int64 {
	switch f := float64(v); {
	case math.IsNaN(f) || f < 0:
		return 0
	case f >= 1<<62:
		return 1 << 62
	default:
		return int64(f)
	}
}

// add stays at the largest number instead of going over it.
func add(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
