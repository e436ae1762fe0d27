package faults

import (
	"context"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

func labelSet(set map[string]string) labels.Set { return set }

// Way is what happens to a call.
type Way string

// The ways.
const (
	// Fails: the call is not made.
	Fails Way = "fails"
	// Conflicts: a write is not made, since the object has changed.
	Conflicts Way = "conflicts"
	// Unanswered: a write is made, and its answer gets lost.
	Unanswered Way = "is made, and its answer gets lost"
	// KilledBefore and KilledAfter: the operator is killed before the write is made, or after, and starts anew.
	KilledBefore Way = "is not made, since the operator is killed"
	KilledAfter  Way = "is made, and the operator is killed"
	// Lags: the cache has not got the last write of that kind yet, and gets it after this reconcile.
	Lags Way = "comes from a cache one write behind"
	// LagsMore: the cache has not got the last three writes of that kind yet, and gets them two reconciles later.
	LagsMore Way = "comes from a cache three writes behind"
	// StandsStill: no cache gets anything new from here on, until three reconciles later.
	StandsStill Way = "comes from a cache that stands still"
)

// class of a call.
type class int

const (
	cachedRead class = iota
	liveRead
	write
	trial // a write as a dry run
)

// ways are what may happen to a call of a class.
var ways = [...][]Way{
	cachedRead: {Fails, Lags, LagsMore, StandsStill},
	liveRead:   {Fails},
	write:      {Fails, Conflicts, Unanswered, KilledBefore, KilledAfter},
	trial:      {Fails, KilledBefore},
}

// Call is one call to the API server, or to the cache of it.
type Call struct {
	class class
	// first says that the kind was not read before in this reconcile, or not since the last write. What lags at a later read
	// lags as much as if it had begun there.
	first bool
	// What it asks for, such as "update PeerAuthentication web".
	What string
}

// Fault is what happens to the call of a number, from 1.
type Fault struct {
	Call int
	Way  Way
}

// meet counts a call and says what happens to it; empty for nothing.
func (w *world) meet(c class, what string, object runtime.Object, name string) Way {
	kind := w.store.kind(object)
	w.calls = append(w.calls, Call{class: c, first: !w.read[kind], What: strings.TrimSpace(what + " " + kind.Kind + " " + name)})
	w.read[kind] = true
	if c == write {
		clear(w.read)
	}
	at := slices.IndexFunc(w.plan, func(f Fault) bool { return f.Call == len(w.calls) })
	if at < 0 {
		return ""
	}
	way := w.plan[at].Way
	w.met++
	w.note("call %d, %s: %s", len(w.calls), w.calls[len(w.calls)-1].What, way)
	return way
}

var (
	errInjected = apierrors.NewInternalError(fmt.Errorf("injected"))
	errKilled   = fmt.Errorf("the operator is killed: %w", context.Canceled)
	errLost     = apierrors.NewTimeoutError("injected", 0)
)

// change makes a write, or does to it what is planned.
func (w *world) change(what string, object runtime.Object, name string, dry bool, do func() error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.killed {
		return errKilled
	}
	c := write
	if dry {
		c, what = trial, "try to "+what
	}
	way := w.meet(c, what, object, name)
	switch way {
	case Fails:
		return errInjected
	case Conflicts:
		return apierrors.NewConflict(schema.GroupResource{}, name, fmt.Errorf("injected"))
	case KilledBefore:
		w.killed = true
		return errKilled
	case Unanswered, KilledAfter, Lags, LagsMore, StandsStill, "":
	}
	if err := do(); err != nil {
		w.note("%s: %v", w.calls[len(w.calls)-1].What, err)
		return err
	}
	if !dry {
		w.wrote(w.calls[len(w.calls)-1].What)
	}
	switch way {
	case KilledAfter:
		w.killed = true
		return errKilled
	case Unanswered:
		return errLost
	case Fails, Conflicts, KilledBefore, Lags, LagsMore, StandsStill:
	}
	return nil
}

// cached is the manager's client: it reads from caches, and writes.
type cached struct {
	client.Client // knows the scheme, and has no objects
	w             *world
}

func (c cached) Get(_ context.Context, key client.ObjectKey, object client.Object, _ ...client.GetOption) error {
	return c.w.fromCache("get", object, key.Name, func(number int) error { return c.w.store.get(number, key, object) })
}

func (c cached) List(_ context.Context, list client.ObjectList, opts ...client.ListOption) error {
	return c.w.fromCache("list", list, "", func(number int) error { return c.w.store.list(number, list, opts...) })
}

func (c cached) Create(_ context.Context, object client.Object, opts ...client.CreateOption) error {
	options := client.CreateOptions{}
	options.ApplyOptions(opts)
	dry := len(options.DryRun) > 0
	return c.w.change("create", object, object.GetName(), dry, func() error { return c.w.store.create(object, dry) })
}

func (c cached) Update(_ context.Context, object client.Object, opts ...client.UpdateOption) error {
	options := client.UpdateOptions{}
	options.ApplyOptions(opts)
	dry := len(options.DryRun) > 0
	return c.w.change("update", object, object.GetName(), dry, func() error { return c.w.store.update(object, dry) })
}

func (c cached) Delete(_ context.Context, object client.Object, opts ...client.DeleteOption) error {
	options := client.DeleteOptions{}
	options.ApplyOptions(opts)
	return c.w.change("delete", object, object.GetName(), false, func() error { return c.w.store.remove(object, options.Preconditions) })
}

func (c cached) Status() client.SubResourceWriter { return statusWriter{c.Client.Status(), c.w} }

type statusWriter struct {
	client.SubResourceWriter
	w *world
}

func (s statusWriter) Apply(_ context.Context, object runtime.ApplyConfiguration, _ ...client.SubResourceApplyOption) error {
	status := object.(applied)
	return s.w.change("apply the status of", s.w.profile, status.GetName(), false, func() error { return s.w.store.applyStatus(status) })
}

// live reads from the API server itself.
type live struct{ w *world }

func (l live) Get(_ context.Context, key client.ObjectKey, object client.Object, _ ...client.GetOption) error {
	return l.w.fromServer("get live", object, key.Name, func(number int) error { return l.w.store.get(number, key, object) })
}

func (l live) List(_ context.Context, list client.ObjectList, opts ...client.ListOption) error {
	return l.w.fromServer("list live", list, "", func(number int) error { return l.w.store.list(number, list, opts...) })
}

func (w *world) fromServer(what string, object runtime.Object, name string, read func(int) error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.killed {
		return errKilled
	}
	if w.meet(liveRead, what, object, name) == Fails {
		return errInjected
	}
	return read(w.store.latest(w.store.kind(object)))
}

// cache is how far the operator's cache of a kind is.
type cache struct {
	// shown is the number of the last table that it answered from: it never goes back.
	shown int
	// held says that it stays there, until a reconcile is over that has the number.
	held  bool
	until int
}

func (w *world) cacheOf(kind schema.GroupVersionKind) *cache {
	if w.caches[kind] == nil {
		w.caches[kind] = &cache{}
	}
	return w.caches[kind]
}

func (w *world) fromCache(what string, object runtime.Object, name string, read func(int) error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.killed {
		return errKilled
	}
	kind := w.store.kind(object)
	c := w.cacheOf(kind)
	switch way := w.meet(cachedRead, what, object, name); way {
	case Fails:
		return errInjected
	case Lags:
		w.lag(kind, c, 1, w.reconciles)
	case LagsMore:
		w.lag(kind, c, 3, w.reconciles+2)
	case StandsStill:
		for other := range w.store.past {
			w.lag(other, w.cacheOf(other), 1, w.reconciles+3)
		}
	case Conflicts, Unanswered, KilledBefore, KilledAfter, "":
	}
	if !c.held {
		c.shown = w.store.latest(kind)
	}
	return read(c.shown)
}

// lag holds a cache so many writes back, but not behind what it has shown.
func (w *world) lag(kind schema.GroupVersionKind, c *cache, writes, until int) {
	c.shown = max(c.shown, w.store.latest(kind)-writes)
	c.held, c.until = true, until
}

// catchUp lets go of the caches whose time is over. It says whether any of them gets something new by it.
func (w *world) catchUp() bool {
	news := false
	for kind, c := range w.caches {
		if c.held && w.reconciles >= c.until {
			c.held = false
			news = news || c.shown < w.store.latest(kind)
		}
	}
	return news
}
