package faults

import (
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

// forgery edits what status says of a rollout: of the whole, or of one workload of a namespace.
type forgery func(*v1alpha1.WorkloadRollout)

// between is younger than a profile that is an hour older than its pods, and older than these.
var between = metav1.NewTime(epoch.Add(-30 * time.Minute))

// stretches are edits that have a stretch begin before its pods did.
func stretches() map[string]forgery {
	return map[string]forgery{
		"the start": func(r *v1alpha1.WorkloadRollout) { r.CleanSinceTime = &between },
		"the start, and that of the evidence": func(r *v1alpha1.WorkloadRollout) {
			r.CleanSinceTime = &between
			if r.Evidence != nil {
				r.Evidence.SinceTime = &between
			}
		},
		"all that says when": func(r *v1alpha1.WorkloadRollout) {
			r.CleanSinceTime, r.LastPlaintextTime = &between, nil
			if r.Evidence != nil {
				r.Evidence.SinceTime, r.Evidence.ObservedTime = &between, &between
			}
		},
	}
}

// forge edits the status of a whole profile.
func (f forgery) forge(m *v1alpha1.MTLSStatus) {
	r := v1alpha1.WorkloadRollout{
		Stage: m.Stage, CleanSinceTime: m.CleanSinceTime, LastPlaintextTime: m.LastPlaintextTime, EnforcedTime: m.EnforcedTime,
		Attempts: m.Attempts, Evidence: m.Evidence,
	}
	f(&r)
	m.Stage, m.CleanSinceTime, m.LastPlaintextTime, m.EnforcedTime, m.Attempts, m.Evidence = r.Stage, r.CleanSinceTime, r.LastPlaintextTime, r.EnforcedTime, r.Attempts, r.Evidence
}

// soon is so early that no window is full for long.
const soon = 10 * time.Second

// young is how old the pods and their proxies are when the rollout begins.
const young = time.Minute

// newYoungWorld has a profile that is an hour older than its pods, and proxies that started with these.
func newYoungWorld(t *testing.T, s script) *world {
	t.Helper()
	w, err := newWorld(&s, Core{}, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	w.aged = young
	w.born(t, w.profile, epoch.Add(-young-time.Hour))
	for _, name := range s.workloads {
		w.born(t, newPod(name+"-0", name, ""), epoch.Add(-young))
	}
	return w
}

// born has an object be of another age than the world.
func (w *world) born(t *testing.T, object client.Object, at time.Time) {
	t.Helper()
	kind := w.store.kind(object)
	aged := duplicate(w.store.present(kind)[client.ObjectKeyFromObject(object)])
	aged.SetCreationTimestamp(metav1.NewTime(at))
	w.edit(t, aged)
}

// soon does some reconciles in a row, before any window is full.
func (w *world) soon(t *testing.T, times int) {
	t.Helper()
	for range times {
		w.reconcile(t)
		w.clock.SetTime(w.now().Add(soon - interval))
	}
}

// edit is somebody's.
func (w *world) edit(t *testing.T, object client.Object) {
	t.Helper()
	if err := w.store.update(object, false); err != nil {
		t.Fatal(err)
	}
}

// TestForgedStretch: a stretch that somebody has begin before the target's pods did brings no switch before these were observed for
// a whole window. Where a server has their history, that decides.
func TestForgedStretch(t *testing.T) {
	for _, tc := range []struct {
		name      string
		plaintext time.Duration
		server    bool
		after     int           // so many reconciles comes the edit
		apart     time.Duration // these are; after it many follow one another before any window is full
	}{
		{name: "by the proxies", after: 1, apart: soon},
		{name: "by the proxies, later", after: 2, apart: soon},
		{name: "by a server", server: true, after: 1, apart: interval},
		{name: "by a server, later", server: true, after: 2, apart: interval},
		{name: "by a server that has seen plaintext", server: true, plaintext: 3 * interval / 2, after: 3, apart: interval},
	} {
		for name, f := range stretches() {
			for _, away := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, %s, the operator away: %t", tc.name, name, away), func(t *testing.T) {
					t.Parallel()
					script := quiet()
					script.plaintext = tc.plaintext
					w := newYoungWorld(t, script)
					scrape := func() {}
					if tc.server {
						s := newServer(t, w, 0)
						s.observe()
						scrape = func() { s.scrape(t, epoch.Add(-young), 0) }
					}
					look := func(times int, apart time.Duration) {
						for range times {
							scrape()
							w.reconcile(t)
							w.clock.SetTime(w.now().Add(apart - interval))
						}
					}
					look(tc.after, tc.apart)
					forged := w.stored().DeepCopy()
					f.forge(forged.Status.MTLS)
					w.edit(t, forged)
					if away {
						w.boot()
					}
					look(rounds, soon)
					look(rounds, interval)
					expect(t, w, "Enforced", "")
				})
			}
		}
	}
}

// TestForgedRollouts: nor does an edit of what status says of the workloads of a namespace.
func TestForgedRollouts(t *testing.T) {
	edits := stretches()
	for _, stage := range []v1alpha1.Stage{v1alpha1.StageVerifying, v1alpha1.StageEnforced, v1alpha1.StageAwaitingApproval, "Sleeping", ""} {
		edits[fmt.Sprintf("the stage %q, and the start", stage)] = func(r *v1alpha1.WorkloadRollout) {
			r.Stage, r.CleanSinceTime, r.EnforcedTime, r.InheritedMode = stage, &between, &between, v1alpha1.ModeStrict
			if r.Evidence != nil {
				r.Evidence.SinceTime = &between
			}
		}
	}
	edits["no evidence"] = func(r *v1alpha1.WorkloadRollout) { r.CleanSinceTime, r.Evidence = &between, nil }
	edits["rubbish"] = func(r *v1alpha1.WorkloadRollout) {
		far := metav1.NewTime(epoch.Add(1000 * time.Hour))
		r.Stage, r.Attempts, r.CleanSinceTime, r.NextAttemptTime = "Sleeping", -7, &far, &far
		r.Evidence = &v1alpha1.Evidence{ObservedTime: &far, SinceTime: &far, Proxies: "?", Plaintext: -1, MutualTLS: -1 << 62}
	}
	edits["another's name"] = func(r *v1alpha1.WorkloadRollout) { r.Name, r.CleanSinceTime = "elsewhere-"+r.Name, &between }
	for name, f := range edits {
		for _, away := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, the operator away: %t", name, away), func(t *testing.T) {
				t.Parallel()
				w := newYoungWorld(t, *scripts()[2])
				w.soon(t, 2) // the first changes the listeners, which is a gap
				forged := w.stored().DeepCopy()
				if len(forged.Status.MTLS.Rollouts) != len(w.script.workloads) {
					t.Fatalf("there are %d workloads", len(forged.Status.MTLS.Rollouts))
				}
				for i := range forged.Status.MTLS.Rollouts {
					f(&forged.Status.MTLS.Rollouts[i])
				}
				w.edit(t, forged)
				if away {
					w.boot()
				}
				w.soon(t, rounds)
				for range 2 * rounds {
					w.reconcile(t)
				}
				expect(t, w, "Enforced", "")
				for _, r := range w.stored().Status.MTLS.Rollouts {
					if r.Stage != v1alpha1.StageEnforced {
						t.Errorf("%s is %s", r.Name, r.Stage)
					}
				}
			})
		}
	}
}
