//go:build linux

package node

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servicesecurity/operator/test/testbed/netns"
)

// retryPause is between attempts at what fails for a while, such as a config map that istiod has yet to make.
const retryPause = 200 * time.Millisecond

// worker runs one pod from its binding to its end.
type worker struct {
	agent *Agent
	// pod is as it was when it was bound. What may change later is not used from it.
	pod *corev1.Pod
	dir string
	net *netns.Namespace
	log *slog.Logger

	inits, apps []*unit

	mu       sync.Mutex
	problem  string
	complete bool
	grace    time.Duration

	began    metav1.Time
	changed  chan struct{}
	deletion chan struct{}
	once     sync.Once
	gone     chan struct{}
}

func newWorker(a *Agent, pod *corev1.Pod) *worker {
	w := &worker{
		agent: a, pod: pod, dir: filepath.Join(a.options.Dir, string(pod.UID)), began: metav1.Now(),
		log:     a.options.Log.With("namespace", pod.Namespace, "pod", pod.Name),
		changed: make(chan struct{}, 1), deletion: make(chan struct{}), gone: make(chan struct{}),
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		k := initial
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			k = sidecar
		}
		w.inits = append(w.inits, newUnit(w, c, k))
	}
	for i := range pod.Spec.Containers {
		w.apps = append(w.apps, newUnit(w, &pod.Spec.Containers[i], ordinary))
	}
	return w
}

// run is the pod's whole life.
func (w *worker) run(ctx context.Context) {
	defer close(w.gone)
	if w.deleting() || w.retry(ctx, w.deletion, w.prepare) != nil {
		w.remove(ctx)
		return
	}
	w.log.Info("pod prepared", "address", w.net.Address)
	reporting, stop := context.WithCancel(ctx)
	var reporter sync.WaitGroup
	reporter.Go(func() { w.report(reporting) })

	running, cancel := context.WithCancel(ctx)
	var containers sync.WaitGroup
	containers.Go(func() { w.containers(running, &containers) })
	select {
	case <-w.deletion:
	case <-ctx.Done():
	}
	w.terminate(cancel)
	containers.Wait()
	stop()
	reporter.Wait()
	w.remove(ctx)
}

// delete asks the pod to end within the grace. Only the first call counts, and a later, shorter grace is not needed here.
func (w *worker) delete(grace time.Duration) {
	w.once.Do(func() {
		w.mu.Lock()
		w.grace = grace
		w.mu.Unlock()
		close(w.deletion)
	})
}

// prepare makes what the containers share: the network namespace, the volumes and the hosts file.
func (w *worker) prepare(ctx context.Context) error {
	if w.net == nil {
		network, err := w.agent.addNetwork(ctx)
		if err != nil {
			return err
		}
		w.net = network
	}
	if err := os.MkdirAll(w.dir, volumeDirMode); err != nil {
		return fmt.Errorf("making the pod's folder: %w", err)
	}
	if err := w.agent.hosts.add(w); err != nil {
		return err
	}
	return w.prepareVolumes(ctx)
}

func (w *worker) hostsFile() string { return filepath.Join(w.dir, "hosts") }

// containers starts the init containers in order and then the others; restarts are each unit's own business.
func (w *worker) containers(ctx context.Context, group *sync.WaitGroup) {
	for _, u := range w.inits {
		group.Go(func() { u.run(ctx) })
		if !w.awaitInit(ctx, u) {
			return
		}
	}
	for _, u := range w.apps {
		group.Go(func() { u.run(ctx) })
	}
	for _, u := range w.apps {
		<-u.finished
	}
	if ctx.Err() != nil || w.deleting() {
		return
	}
	// The pod has run to completion; its sidecars have nobody left to serve.
	w.mu.Lock()
	w.complete = true
	w.mu.Unlock()
	w.stopSidecars(time.Duration(or(w.pod.Spec.TerminationGracePeriodSeconds, corev1.DefaultTerminationGracePeriodSeconds)) * time.Second)
	w.poke()
}

// awaitInit waits until the next container may start.
func (w *worker) awaitInit(ctx context.Context, u *unit) bool {
	const poll = 20 * time.Millisecond
	for {
		select {
		case <-ctx.Done():
			return false
		case <-w.deletion:
			return false
		case <-u.finished:
			status := u.status()
			return status.State.Terminated != nil && status.State.Terminated.ExitCode == 0
		case <-time.After(poll):
			if u.kind == sidecar && u.isStarted() {
				return true
			}
		}
	}
}

func (w *worker) deleting() bool {
	select {
	case <-w.deletion:
		return true
	default:
		return false
	}
}

// terminate ends the ordinary containers, then the sidecars in reverse order, all within the grace.
func (w *worker) terminate(cancel context.CancelFunc) {
	w.mu.Lock()
	grace := w.grace
	w.mu.Unlock()
	deadline := after(grace)
	var apps sync.WaitGroup
	for _, u := range w.apps {
		apps.Go(func() { w.stop(u, deadline) })
	}
	apps.Wait()
	for i := len(w.inits) - 1; i >= 0; i-- {
		w.stop(w.inits[i], deadline)
	}
	cancel()
}

func (w *worker) stopSidecars(grace time.Duration) {
	deadline := after(grace)
	for i := len(w.inits) - 1; i >= 0; i-- {
		if w.inits[i].kind == sidecar {
			w.stop(w.inits[i], deadline)
		}
	}
}

// stop ends a unit that was ever started.
func (w *worker) stop(u *unit, deadline <-chan struct{}) {
	if s := u.status().State; s.Waiting != nil && s.Waiting.Reason == "PodInitializing" {
		return
	}
	u.terminate(deadline)
}

func after(d time.Duration) <-chan struct{} {
	passed := make(chan struct{})
	time.AfterFunc(d, func() { close(passed) })
	return passed
}

// remove takes everything of the pod away, and the pod from the API.
func (w *worker) remove(ctx context.Context) {
	w.agent.hosts.remove(w)
	if w.net != nil {
		if err := w.net.Delete(context.WithoutCancel(ctx)); err != nil {
			w.log.Error("the pod's network remains", "error", err)
		}
	}
	if err := os.RemoveAll(w.dir); err != nil {
		w.log.Error("the pod's folder remains", "error", err)
	}
	w.log.Info("pod removed")
	if ctx.Err() != nil {
		return // the bed ends; there may be no API any more
	}
	if err := w.retry(ctx, nil, w.deleteObject); err != nil && ctx.Err() == nil {
		w.log.Error("the pod's object remains", "error", err)
	}
}

func (w *worker) deleteObject(ctx context.Context) error {
	options := metav1.DeleteOptions{GracePeriodSeconds: new(int64), Preconditions: &metav1.Preconditions{UID: &w.pod.UID}}
	err := w.agent.client.CoreV1().Pods(w.pod.Namespace).Delete(ctx, w.pod.Name, options)
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// retry repeats f until it succeeds, until is closed or ctx ends. What fails is shown in the pod's status.
func (w *worker) retry(ctx context.Context, until <-chan struct{}, f func(context.Context) error) error {
	for {
		err := f(ctx)
		if err == nil {
			w.setProblem("")
			return nil
		}
		w.log.Error("to be tried again", "error", err)
		w.setProblem(err.Error())
		w.writeStatus(ctx)
		select {
		case <-ctx.Done():
			return err
		case <-until:
			return err
		case <-time.After(retryPause):
		}
	}
}

func (w *worker) setProblem(problem string) {
	w.mu.Lock()
	w.problem = problem
	w.mu.Unlock()
}

// poke has the status written soon.
func (w *worker) poke() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}
