//go:build linux

package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servicesecurity/operator/test/testbed/container"
)

const (
	firstBackoff = 250 * time.Millisecond
	lastBackoff  = 5 * time.Second
	// settled is how long a container must have run for its next restart to be immediate.
	settled = 10 * time.Second
)

var errNotRunning = errors.New("the container is not running")

// kind is what a container is to its pod.
type kind int

const (
	ordinary kind = iota
	initial
	sidecar
)

// unit is one container of a pod through all its runs.
type unit struct {
	worker *worker
	spec   *corev1.Container
	kind   kind

	mu       sync.Mutex
	state    corev1.ContainerState
	last     corev1.ContainerState
	restarts int32
	ready    bool
	started  bool
	current  *container.Container
	stopping bool

	stop     chan struct{}
	finished chan struct{}
}

func newUnit(w *worker, spec *corev1.Container, k kind) *unit {
	return &unit{worker: w, spec: spec, kind: k, state: waiting("PodInitializing", ""), stop: make(chan struct{}), finished: make(chan struct{})}
}

func waiting(reason, message string) corev1.ContainerState {
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
}

// run keeps the container running as its pod's restart policy asks, until it is stopped or finished.
func (u *unit) run(ctx context.Context) {
	defer close(u.finished)
	backoff := time.Duration(0)
	for !u.isStopping() && ctx.Err() == nil {
		began := time.Now()
		code, err := u.once(ctx)
		if err != nil {
			u.worker.log.Error("container not started", "container", u.spec.Name, "error", err)
			u.update(func() { u.state = waiting("CreateContainerError", err.Error()) })
		}
		if u.isStopping() || ctx.Err() != nil || (err == nil && !u.restart(code)) {
			return
		}
		backoff = nextBackoff(backoff, err == nil && time.Since(began) >= settled)
		if err == nil && backoff > 0 {
			u.update(func() {
				u.last, u.state = u.state, waiting("CrashLoopBackOff", fmt.Sprintf("restarting after exit code %d", code))
			})
		}
		select {
		case <-u.stop:
			return
		case <-ctx.Done():
			return
		case <-time.After(backoff):
		}
		if err == nil {
			u.update(func() {
				if u.state.Terminated != nil {
					u.last = u.state
				}
				u.restarts++
			})
		}
	}
}

func nextBackoff(backoff time.Duration, ranLong bool) time.Duration {
	if ranLong {
		return 0
	}
	return min(max(firstBackoff, 2*backoff), lastBackoff)
}

// restart tells whether the container is to run again after it ended with code.
func (u *unit) restart(code int) bool {
	policy := u.worker.pod.Spec.RestartPolicy
	switch {
	case u.kind == sidecar:
		return true
	case u.kind == initial:
		return code != 0 && policy != corev1.RestartPolicyNever
	case policy == corev1.RestartPolicyAlways:
		return true
	}
	return policy == corev1.RestartPolicyOnFailure && code != 0
}

// once runs the container once, with its probes, to its end.
func (u *unit) once(ctx context.Context) (code int, err error) {
	c, err := u.launch(ctx)
	if err != nil {
		return 0, err
	}
	began := metav1.Now()
	u.worker.log.Info("container started", "container", u.spec.Name, "pid", c.Pid())
	u.update(func() {
		u.current = c
		u.state = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: began}}
	})
	if u.isStopping() { // it may have been asked to stop while it started
		c.Signal(syscall.SIGKILL)
	}
	defer context.AfterFunc(ctx, func() { c.Signal(syscall.SIGKILL) })()
	probing, cancel := context.WithCancel(ctx)
	var probes sync.WaitGroup
	probes.Go(func() { u.probe(probing) })
	<-c.Done()
	cancel()
	probes.Wait()
	code = c.ExitCode()
	u.worker.log.Info("container ended", "container", u.spec.Name, "code", code)
	reason := "Completed"
	if code != 0 {
		reason = "Error"
	}
	u.update(func() {
		u.current, u.ready, u.started = nil, false, false
		u.state = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
			ExitCode: int32(code), Reason: reason, StartedAt: began, FinishedAt: metav1.Now(), // exit codes are small
		}}
	})
	return code, nil
}

func (u *unit) launch(ctx context.Context) (*container.Container, error) {
	w := u.worker
	image, ok := findImage(w.agent.options.Images, u.spec.Image)
	if !ok {
		return nil, fmt.Errorf("finding image %s: this bed has none of that name", u.spec.Image)
	}
	env, err := w.environment(ctx, image, u.spec)
	if err != nil {
		return nil, err
	}
	uid, gid, err := userOf(image, w.pod, u.spec)
	if err != nil {
		return nil, err
	}
	dir := u.spec.WorkingDir
	if dir == "" {
		dir = "/"
	}
	return container.Start(container.Spec{
		Command: commandLine(image, u.spec, func(word string) string { return expand(word, env) }),
		Env:     lines(env), Dir: dir, UID: uid, GID: gid, NetNS: w.net.Path(), Hostname: hostname(w.pod),
		Mounts: w.mounts(image, u.spec), Log: u.logFile(),
	})
}

func hostname(pod *corev1.Pod) string {
	name := pod.Name
	if pod.Spec.Hostname != "" {
		name = pod.Spec.Hostname
	}
	const limit = 63
	return name[:min(len(name), limit)]
}

func (u *unit) logFile() string {
	return u.worker.agent.logFile(u.worker.pod.Namespace, u.worker.pod.Name, u.spec.Name)
}

// probe drives started and ready, and ends the container when it fails to start or to live.
func (u *unit) probe(ctx context.Context) {
	if p := u.spec.StartupProbe; p != nil && !u.awaitStartup(ctx, p) {
		return
	}
	u.update(func() { u.started = true })
	var probes sync.WaitGroup
	if p := u.spec.LivenessProbe; p != nil {
		probes.Go(func() {
			u.watchProbe(ctx, p, func(ok bool) {
				if !ok {
					u.end()
				}
			})
		})
	}
	if p := u.spec.ReadinessProbe; p != nil {
		u.watchProbe(ctx, p, func(ok bool) { u.update(func() { u.ready = ok }) })
	} else {
		u.update(func() { u.ready = true })
	}
	probes.Wait()
}

func (u *unit) awaitStartup(ctx context.Context, p *corev1.Probe) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	started := false
	u.watchProbe(ctx, p, func(ok bool) {
		if started = ok; !ok {
			u.end()
		}
		cancel() // the first verdict is the last
	})
	return started
}

// end asks a container that fails its probe to go and makes it go after the pod's grace.
func (u *unit) end() {
	c := u.running()
	if c == nil {
		return
	}
	c.Signal(syscall.SIGTERM)
	grace := time.Duration(or(u.worker.pod.Spec.TerminationGracePeriodSeconds, corev1.DefaultTerminationGracePeriodSeconds)) * time.Second
	go func() {
		select {
		case <-c.Done():
		case <-time.After(grace):
			c.Signal(syscall.SIGKILL)
		}
	}()
}

// terminate stops the container for good: SIGTERM, and SIGKILL when the deadline passes.
func (u *unit) terminate(deadline <-chan struct{}) {
	u.mu.Lock()
	if !u.stopping {
		u.stopping = true
		close(u.stop)
	}
	c := u.current
	u.mu.Unlock()
	if c != nil {
		c.Signal(syscall.SIGTERM)
	}
	select {
	case <-u.finished:
		return
	case <-deadline:
	}
	if c := u.running(); c != nil {
		c.Signal(syscall.SIGKILL)
	}
	<-u.finished
}

func (u *unit) exec(ctx context.Context, root bool, command ...string) (container.Result, error) {
	c := u.running()
	if c == nil {
		return container.Result{}, fmt.Errorf("running in container %s: %w", u.spec.Name, errNotRunning)
	}
	return c.Exec(ctx, root, command...)
}

func (u *unit) running() *container.Container {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.current
}

func (u *unit) isStopping() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.stopping
}

func (u *unit) isStarted() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.started
}

// update changes the unit's state and has the pod's status written.
func (u *unit) update(change func()) {
	u.mu.Lock()
	change()
	u.mu.Unlock()
	u.worker.poke()
}

// status is the unit as the API shows it.
func (u *unit) status() corev1.ContainerStatus {
	u.mu.Lock()
	defer u.mu.Unlock()
	started := u.started
	ready := u.ready
	if u.kind == initial {
		ready = u.state.Terminated != nil && u.state.Terminated.ExitCode == 0
	}
	return corev1.ContainerStatus{
		Name: u.spec.Name, Image: u.spec.Image, ImageID: u.spec.Image, State: u.state, LastTerminationState: u.last,
		RestartCount: u.restarts, Ready: ready, Started: &started,
	}
}

func (a *Agent) logFile(namespace, pod, containerName string) string {
	dir := filepath.Join(a.options.LogDir, namespace)
	_ = os.MkdirAll(dir, 0o755) // opening the file in it reports the failure
	return filepath.Join(dir, pod+"_"+containerName+".log")
}

func (u *unit) kill() error {
	c := u.running()
	if c == nil {
		return fmt.Errorf("killing container %s: %w", u.spec.Name, errNotRunning)
	}
	c.Signal(syscall.SIGKILL)
	return nil
}
