//go:build linux

package node

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

// report writes the pod's status whenever something changed, until ctx ends.
func (w *worker) report(ctx context.Context) {
	var written corev1.PodStatus
	for {
		status := w.status(written.Conditions)
		if !equality.Semantic.DeepEqual(status, written) {
			if err := w.patchStatus(ctx, status); err != nil {
				if ctx.Err() == nil {
					w.log.Error("pod status not written", "error", err)
				}
				w.poke()
				if !pause(ctx, retryPause) {
					return
				}
				continue
			}
			written = status
		}
		select {
		case <-ctx.Done():
			return
		case <-w.changed:
		}
	}
}

// writeStatus writes the status once, for a pod whose reporter does not run yet.
func (w *worker) writeStatus(ctx context.Context) {
	if err := w.patchStatus(ctx, w.status(nil)); err != nil && ctx.Err() == nil {
		w.log.Error("pod status not written", "error", err)
	}
}

func (w *worker) patchStatus(ctx context.Context, status corev1.PodStatus) error {
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&status)
	if err != nil {
		return fmt.Errorf("encoding the status: %w", err)
	}
	if status.Message == "" {
		fields["message"] = nil // an absent field would leave the old message
	}
	// The UID keeps a status from a pod that came after it under the same name.
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": w.pod.UID}, "status": fields})
	if err != nil {
		return fmt.Errorf("encoding the status: %w", err)
	}
	_, err = w.agent.client.CoreV1().Pods(w.pod.Namespace).Patch(ctx, w.pod.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // there is nobody to tell
	}
	if err != nil {
		return fmt.Errorf("writing the status: %w", err)
	}
	return nil
}

// status is the pod as the API shows it. Times of conditions that have not changed are kept from previous.
func (w *worker) status(previous []corev1.PodCondition) corev1.PodStatus {
	status := corev1.PodStatus{StartTime: &w.began, HostIP: w.agent.options.Address, HostIPs: []corev1.HostIP{{IP: w.agent.options.Address}}}
	if w.net != nil {
		status.PodIP, status.PodIPs = w.net.Address, []corev1.PodIP{{IP: w.net.Address}}
	}
	w.mu.Lock()
	status.Message = w.problem
	complete := w.complete
	w.mu.Unlock()
	initialized, ready := true, true
	for _, u := range w.inits {
		s := u.status()
		status.InitContainerStatuses = append(status.InitContainerStatuses, s)
		initialized = initialized && (s.Ready || u.kind == sidecar && *s.Started)
		ready = ready && (u.kind != sidecar || s.Ready)
	}
	for _, u := range w.apps {
		s := u.status()
		status.ContainerStatuses = append(status.ContainerStatuses, s)
		ready = ready && s.Ready
	}
	status.Phase = w.phase(&status, complete)
	ready = ready && initialized && status.Phase == corev1.PodRunning
	for _, c := range []struct {
		kind corev1.PodConditionType
		is   bool
	}{
		{corev1.PodReadyToStartContainers, w.net != nil},
		{corev1.PodInitialized, initialized},
		{corev1.ContainersReady, ready},
		{corev1.PodReady, ready},
		{corev1.PodScheduled, true},
	} {
		status.Conditions = append(status.Conditions, condition(c.kind, c.is, previous))
	}
	return status
}

func (w *worker) phase(status *corev1.PodStatus, complete bool) corev1.PodPhase {
	failed, begun := false, true
	for _, s := range status.ContainerStatuses {
		failed = failed || s.State.Terminated != nil && s.State.Terminated.ExitCode != 0
		begun = begun && (s.State.Running != nil || s.State.Terminated != nil || s.RestartCount > 0 || s.LastTerminationState.Terminated != nil)
	}
	switch {
	case complete && failed:
		return corev1.PodFailed
	case complete:
		return corev1.PodSucceeded
	case begun:
		return corev1.PodRunning
	}
	return corev1.PodPending
}

func condition(kind corev1.PodConditionType, is bool, previous []corev1.PodCondition) corev1.PodCondition {
	c := corev1.PodCondition{Type: kind, Status: corev1.ConditionFalse, LastTransitionTime: metav1.Now()}
	if is {
		c.Status = corev1.ConditionTrue
	}
	for _, p := range previous {
		if p.Type == kind && p.Status == c.Status {
			c.LastTransitionTime = p.LastTransitionTime
		}
	}
	return c
}
