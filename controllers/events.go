package controllers

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/resolve"
)

// notice is something that happened once and is told once.
type notice struct {
	kind, reason, action, note string
	// related is the object that it is about beside the profile, if there is one: events that differ in their note alone
	// are counted as one.
	related runtime.Object
}

const maxNote = 1000

// announce tells what changed between two statuses, in events and metrics.
func (p *run) announce(before, after v1alpha1.ServiceSecurityProfileStatus) {
	var told []notice
	if stage, was := stageOf(after), stageOf(before); stage != was && !resumed(before, after) {
		told = append(told, stageEvent(was, stage, after))
	}
	for _, stage := range transitions(before, after) {
		countTransition(stage)
	}
	told = append(told, p.rolloutEvents(before, after)...)
	for _, kind := range []string{v1alpha1.ConditionAccepted, v1alpha1.ConditionProgrammed} {
		if e, ok := conditionEvent(kind, before.Conditions, after.Conditions); ok {
			told = append(told, e)
		}
	}
	if e, ok := callersEvent(before.Conditions, after.Conditions); ok {
		told = append(told, e)
	}
	if e, ok := refusedEvent(before.Conditions, after.Conditions); ok {
		told = append(told, e)
	}
	for _, e := range told {
		p.Recorder.Eventf(p.profile, e.related, e.kind, e.reason, e.action, "%s", clip(e.note, maxNote))
	}
}

// resumed says that a back-off goes on that was begun before nothing was decided for a while. It was told then.
func resumed(before, after v1alpha1.ServiceSecurityProfileStatus) bool {
	return stageOf(before) == "" && stageOf(after) == v1alpha1.StageRolledBack && before.MTLS != nil && before.MTLS.Attempts == after.MTLS.Attempts
}

func stageOf(status v1alpha1.ServiceSecurityProfileStatus) v1alpha1.Stage {
	if status.MTLS == nil {
		return ""
	}
	return status.MTLS.Stage
}

// stageEvent tells that the rollout went from one stage to another.
func stageEvent(was, stage v1alpha1.Stage, after v1alpha1.ServiceSecurityProfileStatus) notice {
	e := notice{kind: corev1.EventTypeNormal, reason: string(stage), action: "Rollout"}
	switch stage {
	case v1alpha1.StageBlocked, v1alpha1.StageRolledBack:
		e.kind = corev1.EventTypeWarning
	case "":
		e.reason, e.note = "RolloutEnded", "The rollout ended in stage "+string(was)+"; Strict is not asked for any more, or the profile is not accepted."
		return e
	case v1alpha1.StageObserving, v1alpha1.StageAwaitingApproval, v1alpha1.StageVerifying, v1alpha1.StageEnforced:
	}
	if c := meta.FindStatusCondition(after.Conditions, v1alpha1.ConditionMutualTLSEnforced); c != nil {
		e.note = c.Message
	}
	switch {
	case stage == v1alpha1.StageEnforced && warns(after, v1alpha1.WarningVerificationFailed):
		e.kind = corev1.EventTypeWarning
	case after.MTLS == nil:
	case stage == v1alpha1.StageRolledBack && after.MTLS.NextAttemptTime != nil:
		e.note += " That is " + after.MTLS.NextAttemptTime.UTC().Format(time.RFC3339) + "."
	case stage == v1alpha1.StageBlocked:
		e.note = remedies(after.MTLS.Blockers)
	}
	return e
}

// transitions are the stages that rollouts came to: those of a namespace's workloads, and that of the profile itself unless
// it is the stage of one of them.
func transitions(before, after v1alpha1.ServiceSecurityProfileStatus) []v1alpha1.Stage {
	var stages []v1alpha1.Stage
	for _, r := range moved(before, after) {
		stages = append(stages, r.Stage)
	}
	stage := stageOf(after)
	if stage == "" || stage == stageOf(before) || resumed(before, after) {
		return stages
	}
	if slices.ContainsFunc(after.MTLS.Rollouts, func(r v1alpha1.WorkloadRollout) bool { return r.Stage == stage }) {
		return stages
	}
	return append(stages, stage)
}

// moved are the rollouts of single workloads of a namespace that came to another stage.
func moved(before, after v1alpha1.ServiceSecurityProfileStatus) []v1alpha1.WorkloadRollout {
	if after.MTLS == nil {
		return nil
	}
	was := map[string]v1alpha1.Stage{}
	if before.MTLS != nil {
		for _, r := range before.MTLS.Rollouts {
			was[r.Name] = r.Stage
		}
	}
	return slices.DeleteFunc(slices.Clone(after.MTLS.Rollouts), func(r v1alpha1.WorkloadRollout) bool {
		renamed := r.Stage == v1alpha1.StageRolledBack && was[r.Name] == "" // it had another name then
		return r.Stage == "" || r.Stage == was[r.Name] || renamed
	})
}

// rolloutEvents tell that single workloads of a namespace went to another stage.
func (p *run) rolloutEvents(before, after v1alpha1.ServiceSecurityProfileStatus) []notice {
	var told []notice
	all := moved(before, after)
	for _, r := range all[:min(len(all), maxRolloutEvents)] {
		own := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: p.profile.Namespace, Name: facts.MemberName(p.profile.Name, r.Name)}}
		own.SetGroupVersionKind(resolve.PeerAuthenticationKind)
		e := notice{
			kind: corev1.EventTypeNormal, reason: string(r.Stage), action: "Rollout", related: own,
			note: fmt.Sprintf("Workload %s is at stage %s.%s", r.Name, r.Stage, because(r.Blockers)),
		}
		if r.Stage == v1alpha1.StageBlocked || r.Stage == v1alpha1.StageRolledBack {
			e.kind = corev1.EventTypeWarning
		}
		told = append(told, e)
	}
	return told
}

// remedies are what the blockers say, one after the other.
func remedies(blockers []v1alpha1.Blocker) string {
	var messages []string
	for _, blocker := range blockers {
		messages = append(messages, blocker.Message)
	}
	return strings.Join(messages, " ")
}

func warns(status v1alpha1.ServiceSecurityProfileStatus, kind v1alpha1.WarningType) bool {
	return slices.ContainsFunc(status.Warnings, func(w v1alpha1.Warning) bool { return w.Type == kind })
}

// maxRolloutEvents bounds what one status tells: the queue of events is for all profiles, and drops what is too much.
const maxRolloutEvents = 50

func because(blockers []v1alpha1.BlockerType) string {
	if len(blockers) == 0 {
		return ""
	}
	var names []string
	for _, kind := range blockers {
		names = append(names, string(kind))
	}
	return " It is held by " + strings.Join(names, ", ") + "."
}

// conditionEvent tells that a condition became false, with another reason than before, or true again.
func conditionEvent(kind string, before, after []metav1.Condition) (notice, bool) {
	now, was := meta.FindStatusCondition(after, kind), meta.FindStatusCondition(before, kind)
	switch {
	case now == nil || was != nil && was.Status == now.Status && was.Reason == now.Reason:
		return notice{}, false
	case now.Status == metav1.ConditionTrue && (was == nil || was.Status == metav1.ConditionTrue):
		return notice{}, false
	case now.Reason == v1alpha1.ReasonNotAccepted:
		return notice{}, false
	case now.Status == metav1.ConditionTrue:
		return notice{kind: corev1.EventTypeNormal, reason: now.Reason, action: kind, note: now.Message}, true
	}
	return notice{kind: corev1.EventTypeWarning, reason: now.Reason, action: kind, note: now.Message}, true
}

// callersEvent tells who may call now, by name, when that is something else than before.
func callersEvent(before, after []metav1.Condition) (notice, bool) {
	const kind = v1alpha1.ConditionAuthorizationEnforced
	now, was := meta.FindStatusCondition(after, kind), meta.FindStatusCondition(before, kind)
	if now == nil || was != nil && was.Reason == now.Reason && was.Message == now.Message {
		return notice{}, false
	}
	e := notice{kind: corev1.EventTypeNormal, reason: now.Reason, action: "Authorization", note: now.Message}
	switch now.Reason {
	case kind, v1alpha1.ReasonDryRun:
		return e, true
	case v1alpha1.ReasonPodsNotInMesh, string(v1alpha1.BlockerPortsExcluded):
		e.kind = corev1.EventTypeWarning
		return e, true
	}
	return notice{}, false // it is told by Accepted or Programmed, or nothing was asked
}

// refusedEvent tells that STRICT began to refuse somebody.
func refusedEvent(before, after []metav1.Condition) (notice, bool) {
	const kind = v1alpha1.ConditionPlaintextFree
	now, was := meta.FindStatusCondition(after, kind), meta.FindStatusCondition(before, kind)
	if now == nil || now.Reason != v1alpha1.ReasonPlaintextRefused || was != nil && was.Reason == now.Reason {
		return notice{}, false
	}
	return notice{kind: corev1.EventTypeWarning, reason: now.Reason, action: kind, note: now.Message}, true
}

// clip shortens a text to so many bytes, and a mark that it was shortened.
func clip(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}
