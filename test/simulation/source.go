package simulation

import (
	"math/rand/v2"
	"time"

	"github.com/servicesecurity/operator/controllers/traffic"
	"github.com/servicesecurity/operator/controllers/traffic/sidecar"
)

// Source is what the operator sees of the traffic.
type Source string

// The sources.
const (
	Sidecars   Source = "sidecars"
	Prometheus Source = "prometheus"
	// Logs are the sidecars, with access logs beside.
	Logs Source = "access-logs"
)

// source is where the operator's observer reads, with what may happen to it alone, and what it cannot show.
type source interface {
	// begin makes what happens to the source in a history with a window of that length, before anything does.
	begin(window time.Duration)
	// observer is that of a new operator process.
	observer(clock clock, core Core) traffic.Observer
	// appeared and disappeared tell of a pod that has an address, and of one that is gone.
	appeared(*pod)
	disappeared(*pod)
	// clockSet tells that the operator's clock was set.
	clockSet()
	// asked tells what the observer is about to be asked.
	asked(traffic.Request)
	// compares says whether the operator remembers the reading of a proxy before the last.
	compares(*process) bool
	// excuse says why a use that lies in the window could not have been shown; empty if it could.
	excuse(u *use, window time.Duration) string
	// slack is by how much later than with readings of the proxies a switch may come.
	slack() time.Duration
	// calm ends what goes wrong, and says how long it takes until everything is told again.
	calm() time.Duration
	close()
}

func newSource(from Source, w *world, seed int64) source {
	switch from {
	case Prometheus:
		return newPrometheus(w, seed)
	case Logs:
		w.logs = &logs{random: rand.New(rand.NewPCG(uint64(seed), 2))}
	case Sidecars:
	}
	return sidecars{w}
}

// sidecars are read by the operator itself: all that goes wrong is in the world.
type sidecars struct{ w *world }

func (sidecars) begin(time.Duration)    {}
func (sidecars) appeared(*pod)          {}
func (sidecars) disappeared(*pod)       {}
func (sidecars) clockSet()              {}
func (sidecars) asked(traffic.Request)  {}
func (sidecars) compares(*process) bool { return true }
func (sidecars) slack() time.Duration   { return 0 }
func (sidecars) calm() time.Duration    { return 0 }
func (sidecars) close()                 {}

func (s sidecars) observer(clock clock, core Core) traffic.Observer {
	return readProxies(s.w, clock, core)
}

// readProxies is the observer that reads the proxies directly.
func readProxies(w *world, clock clock, core Core) *sidecar.Observer {
	return sidecar.New(sidecar.Options{Clock: clock, Transport: network{w, core}, Concurrency: 1, Interval: w.config.interval})
}

func (s sidecars) excuse(u *use, window time.Duration) string {
	w, o := s.w, &s.w.oracle
	gone, terminated, to := u.pod.gone, u.pod.lastWord >= 0, u.to
	if gone && terminated && u.pod.lastWord < to {
		to = u.pod.lastWord
		if u.client.kind == messages && !u.proc.exposes {
			to -= max(0, to-u.from) % flush // what it did after that is counted at the next flush
		}
	}
	sum := o.stepped(w, w.now-window)
	switch {
	case to <= w.now-window:
		return "after a pod's last word"
	case sum > 0 && to <= w.now-window+sum:
		return "before a window that a clock set ahead made shorter"
	case u.proc == nil && u.pod.concealed:
		return "in a pod outside the mesh that went before the operator heard of it"
	case u.proc == nil:
		return "" // no proxy counts it, but that is known
	}
	next := u.proc.firstRead(u.shown)
	switch {
	case u.counted != counted && max(w.muted[notCounted], w.muted[unlabelled]) <= w.now-window+sum && o.noticed.memory != w.memories:
		return "on a listener that did not count, and that drained when the observation began"
	case u.counted != counted && w.concealed > 0 && u.from >= w.concealedFrom && u.from < w.concealed+drainTime:
		return "on a listener that did not count, because of a Telemetry that went before the cache had it"
	case u.counted != counted:
		return ""
	case u.client.kind == tcp && u.proc.dropped(w.forgot):
		return "a connection whose count was evicted before the observation began anew"
	case next >= 0 && u.proc.reborn(u, u.proc.read, next):
		return "in a series that went with its listener and was born again before it was missed"
	case next >= 0:
		return ""
	case u.proc.ended == forever && u.to == forever && u.shown == forever:
		return "a stream that is open, and no connection statistics"
	case u.shown != forever && u.shown >= o.began, u.shown == forever && u.to >= o.began:
		return "after the last reading"
	case (gone || u.pod.terminating) && terminated:
		return "after a pod's last word"
	case gone && !u.pod.evidenced:
		return "in a pod that came and went unread"
	}
	return ""
}
