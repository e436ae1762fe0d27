package faults

import (
	"fmt"
	"testing"

	"github.com/go-logr/logr"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/resolve"
)

// TestDeleted: STRICT that was asked for no more, and whose object was deleted, is not in force because a cache still has it when it
// is asked for again.
func TestDeleted(t *testing.T) {
	for _, tc := range []struct {
		script script
		stage  v1alpha1.Stage // at which STRICT is given up
		meant  *v1alpha1.MTLS // instead
	}{
		{quiet(), v1alpha1.StageEnforced, nil},
		{*scripts()[2], v1alpha1.StageVerifying, nil},
		{*scripts()[2], v1alpha1.StageVerifying, &v1alpha1.MTLS{Mode: v1alpha1.ModePermissive}},
	} {
		for reconciles := 1; reconciles <= 3; reconciles++ {
			t.Run(fmt.Sprintf("%s, at %s, %d times", tc.script.name, tc.stage, reconciles), func(t *testing.T) {
				t.Parallel()
				w, err := newWorld(&tc.script, Core{}, nil, false)
				if err != nil {
					t.Fatal(err)
				}
				for range rounds {
					if w.reconcile(t); w.stored().Status.MTLS.Stage == tc.stage {
						break
					}
				}
				if w.stored().Status.MTLS.Stage != tc.stage || len(peers(w)) == 0 {
					t.Fatalf("the rollout is %s", w.stored().Status.MTLS.Stage)
				}
				before := len(peers(w))
				asked := w.stored().Spec.MTLS
				w.respec(t, tc.meant)
				c := w.cacheOf(resolve.PeerAuthenticationKind)
				c.shown = w.store.latest(resolve.PeerAuthenticationKind)
				c.held, c.until = true, w.reconciles+1+reconciles
				w.reconcile(t)
				if len(peers(w)) == before {
					t.Fatal("nothing was deleted")
				}
				w.respec(t, asked)
				for range reconciles {
					// What cannot be written, because the object that the cache has is no more, is tried again.
					_, _ = w.reconciler.Reconcile(log.IntoContext(t.Context(), logr.Discard()), w.request())
					w.reconciles++
				}
				w.catchUp()
				w.reconcile(t)
				for _, violation := range w.oracle.violations {
					t.Error(violation)
				}
				if m := w.stored().Status.MTLS; m.Stage != v1alpha1.StageObserving {
					t.Errorf("it is %s", m.Stage)
				}
			})
		}
	}
}

// respec is somebody's edit of mtls.
func (w *world) respec(t *testing.T, mtls *v1alpha1.MTLS) {
	t.Helper()
	edited := w.stored().DeepCopy()
	edited.Spec.MTLS = mtls
	edited.Generation++
	w.edit(t, edited)
}
