package faults

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

const (
	// maxReconciles is more than any rollout here needs with two faults; the longest takes about twenty without.
	maxReconciles = 100
	// maxFailures in a row is a loop: no fault is longer than a few reconciles.
	maxFailures = 6
	// pause before a reconcile that failed is tried again, or one of a new operator.
	pause = time.Second
)

// Report tells how a run went.
type Report struct {
	// Calls in their order.
	Calls []Call
	// Met is how many of the faults came to happen.
	Met int
	// Reconciles that it took.
	Reconciles int
	// End is the objects and the status that it ended with, without times.
	End string
	// Violations of the promises; none if all held.
	Violations []string
	// Diary tells the run, if it was asked for.
	Diary string
}

// run plays a script with some faults.
func run(s *script, core Core, plan []Fault, keep bool) (Report, error) {
	w, err := newWorld(s, core, plan, keep)
	if err != nil {
		return Report{}, fmt.Errorf("making the cluster: %w", err)
	}
	w.play()
	if len(w.oracle.violations) == 0 {
		w.oracle.violations = w.orphans()
	}
	return Report{
		Calls: w.calls, Met: w.met, Reconciles: w.reconciles, End: w.end(), Violations: w.oracle.violations, Diary: w.diary.String(),
	}, nil
}

// play reconciles as a manager does, upon events, failures and the time that was asked for, until nothing is left to do.
func (w *world) play() {
	ctx := log.IntoContext(context.Background(), logr.Discard())
	failures := 0
	for w.reconciles < maxReconciles && len(w.oracle.violations) == 0 {
		before := w.written()
		w.read = map[schema.GroupVersionKind]bool{}
		result, err := w.reconciler.Reconcile(ctx, w.request())
		w.reconciles++
		news := w.catchUp() || w.written() != before
		switch {
		case w.killed:
			w.note("another operator starts")
			w.clock.SetTime(w.now().Add(pause))
			w.boot()
		case err != nil:
			if failures++; failures > maxFailures {
				w.oracle.fail("LOOP: %v", err)
				return
			}
			w.note("error: %v", err)
			w.clock.SetTime(w.now().Add(pause))
			continue
		case w.approve():
		case news:
		case result.RequeueAfter > 0:
			// Whole intervals: what a manager adds at random must not make two runs differ.
			w.clock.SetTime(w.now().Truncate(interval).Add(interval))
		case w.lagging():
		case !w.next():
			return
		}
		failures = 0
	}
	if len(w.oracle.violations) == 0 {
		w.oracle.fail("LOOP: no end after %d reconciles", w.reconciles)
	}
}

// written is how often objects were written whose changes the operator is told of: its own writes of status are not.
func (w *world) written() int {
	n := 0
	for kind, past := range w.store.past {
		if kind.Kind != v1alpha1.Kind {
			n += len(past)
		}
	}
	return n
}

// lagging says that a cache has yet to get what was written.
func (w *world) lagging() bool {
	for kind, c := range w.caches {
		if c.held && c.shown < w.store.latest(kind) {
			return true
		}
	}
	return false
}

// approve does what the operator asks for, if it does.
func (w *world) approve() bool {
	stored := w.stored()
	if mtls := stored.Status.MTLS; mtls == nil || mtls.Stage != v1alpha1.StageAwaitingApproval || mtls.Approval == nil ||
		stored.Annotations[v1alpha1.AnnotationApprove] == mtls.Approval.Token {
		return false
	}
	edited := stored.DeepCopy()
	edited.Annotations = map[string]string{v1alpha1.AnnotationApprove: stored.Status.MTLS.Approval.Token}
	w.note("somebody approves")
	if err := w.store.update(edited, false); err != nil {
		w.oracle.fail("approving: %v", err)
	}
	w.approved = true
	return true
}

// next edits the profile, once it rests. It says no if nothing is left to be edited.
func (w *world) next() bool {
	stage := v1alpha1.Stage("")
	if mtls := w.stored().Status.MTLS; mtls != nil {
		stage = mtls.Stage
	}
	if w.phase == len(w.script.phases) {
		return false
	}
	if want := w.script.phases[w.phase].stage; stage != want {
		w.oracle.fail("it rests at stage %q, before %q", stage, want)
		return false
	}
	w.note("edit: %s", w.script.phases[w.phase].name)
	edited := w.stored().DeepCopy()
	w.script.phases[w.phase].edit(&edited.Spec)
	edited.Generation++
	w.phase++
	if err := w.store.update(edited, false); err != nil {
		w.oracle.fail("editing the profile: %v", err)
	}
	return true
}

// Tell is a plan in words, by the calls of the run that it was made for.
func Tell(plan []Fault, calls []Call) string {
	var told []string
	for _, f := range plan {
		what := "is never made"
		if f.Call <= len(calls) {
			what = calls[f.Call-1].What
		}
		told = append(told, fmt.Sprintf("call %d (%s) %s", f.Call, what, f.Way))
	}
	return strings.Join(told, "; ")
}

// sites are the faults that may happen to the calls after one of them. Essential ones are those of writes and of what is read
// live; what lags in a cache counts among the others, and so does a cache that does not answer.
func sites(calls []Call, after int) (essential, others []Fault) {
	for i := after; i < len(calls); i++ {
		c := calls[i]
		for _, way := range ways[c.class] {
			switch f := (Fault{i + 1, way}); {
			case c.class != cachedRead:
				essential = append(essential, f)
			case way == Fails || c.first:
				others = append(others, f)
			}
		}
	}
	return essential, others
}
