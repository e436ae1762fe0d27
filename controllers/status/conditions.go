package status

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/rollout"
	"github.com/servicesecurity/operator/controllers/traffic"
)

// conditions are all conditions, in the order of v1alpha1.ConditionTypes.
func conditions(r report) []metav1.Condition {
	all := []metav1.Condition{
		accepted(r), programmed(r), trafficObserved(r), plaintextFree(r), mutualTLSEnforced(r), authorizationEnforced(r),
	}
	return append(all, ready(r, all))
}

func isTrue(kind, reason, format string, args ...any) metav1.Condition {
	return condition(metav1.ConditionTrue, kind, reason, format, args...)
}

func isFalse(kind, reason, format string, args ...any) metav1.Condition {
	return condition(metav1.ConditionFalse, kind, reason, format, args...)
}

func unknown(kind, reason, format string, args ...any) metav1.Condition {
	return condition(metav1.ConditionUnknown, kind, reason, format, args...)
}

func condition(status metav1.ConditionStatus, kind, reason, format string, args ...any) metav1.Condition {
	return metav1.Condition{Type: kind, Status: status, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

const (
	nothingWritten = "The profile is not accepted, so nothing is written and nothing removed; what is in force stays."
	notAccepted    = "This is not told of a profile that is not accepted; see the condition Accepted."
)

func accepted(r report) metav1.Condition {
	const kind = v1alpha1.ConditionAccepted
	if problem := r.Facts.Problem; problem != nil {
		return isFalse(kind, problem.Reason, "%s", problem.Message)
	}
	return isTrue(kind, kind, "The profile is understood, and %s.", resolved(r))
}

// handedOver says what stays although the profile does not ask for it any more.
func handedOver(r report) string {
	var sections []string
	for _, section := range r.Facts.Handover {
		sections = append(sections, string(section))
	}
	if len(sections) == 0 {
		return ""
	}
	return fmt.Sprintf("What it had for %s stays until the objects of the profile that takes that over are in force.", and(sections))
}

// lostSections says what becomes of the objects for sections that an older profile has.
func lostSections(r report) string {
	var texts []string
	for _, c := range r.Facts.Conflicts {
		what := "its objects, if it has any, stay as they are until the older profile's are in force"
		if c.WinnerLive {
			what = "it has no objects"
		}
		texts = append(texts, fmt.Sprintf("The section %s is left to an older profile, and %s.", c.Section, what))
	}
	asked := 0
	for _, section := range []bool{r.Profile.Spec.MTLS != nil, r.Profile.Spec.JWT != nil, r.Profile.Spec.Authorization != nil} {
		if section {
			asked++
		}
	}
	if asked > len(r.Facts.Conflicts) {
		texts = append(texts, "The rest of the profile is written.")
	}
	return sentences(texts...)
}

// resolved says what the target is.
func resolved(r report) string {
	t, namespace := r.Profile.Spec.Target, r.Profile.Namespace
	switch t.Kind {
	case v1alpha1.TargetService:
		return fmt.Sprintf("its target is Service %s in namespace %s, whose pods have the labels %s", t.Name, namespace, labels(r.Facts.Target.Selector))
	case v1alpha1.TargetWorkload:
		return fmt.Sprintf("its target is the pods of namespace %s with the labels %s", namespace, labels(targetLabels(t)))
	case v1alpha1.TargetGateway:
		return fmt.Sprintf("its target is Gateway %s in namespace %s", t.Name, namespace)
	case v1alpha1.TargetNamespace:
		return fmt.Sprintf("its target is namespace %s", namespace)
	case v1alpha1.TargetMesh:
	}
	return "its target is the whole mesh"
}

func programmed(r report) metav1.Condition {
	const kind = v1alpha1.ConditionProgrammed
	switch {
	case !r.acted():
		return isFalse(kind, v1alpha1.ReasonNotAccepted, nothingWritten)
	case r.ApplyError != nil:
		return isFalse(kind, applyReason(r.ApplyError), "%s", applyMessage(r.ApplyError))
	case r.Applied.Settling > 0:
		return unknown(kind, v1alpha1.ReasonSettling, "Tokens and the policies that rest on them are written one after the other, with a pause in which the proxies take the first. The rest follows by itself.")
	case !r.accepted():
		return isFalse(kind, v1alpha1.ReasonNotAccepted, "%s", or(lostSections(r), nothingWritten))
	case len(r.resources) == 0:
		return isTrue(kind, kind, "The profile asks for no Istio object now, and has none.")
	}
	var objects []string
	for _, resource := range r.resources {
		objects = append(objects, resource.Kind+" "+resource.Name)
	}
	verb := "are"
	if len(objects) == 1 {
		verb = "is"
	}
	text := fmt.Sprintf("%s in namespace %s %s what the profile asks for now.", and(objects), r.Profile.Namespace, verb)
	return isTrue(kind, kind, "%s", sentences(text, handedOver(r)))
}

// observed says whether the rollout needs to know the traffic, and if not, with what reason.
func observed(r report) (needed bool, reason, message string) {
	switch {
	case !r.secures():
		return false, v1alpha1.ReasonNotAccepted, notAccepted
	case !r.Spec.AsksStrict():
		return false, v1alpha1.ReasonNotNeeded, "Strict is not asked for, so the traffic is not observed."
	case r.Decision.Observe:
		return true, "", ""
	case r.Spec.Strategy == v1alpha1.StrategyImmediate:
		return false, v1alpha1.ReasonNotNeeded, "The traffic is not observed, because rollout.strategy is Immediate."
	case r.mtls.Stage == v1alpha1.StageEnforced:
		return false, v1alpha1.ReasonNotNeeded, "STRICT is in force for good, so the traffic is not observed any more."
	}
	return false, v1alpha1.ReasonNotNeeded, "The traffic is not observed while something else holds the switch to STRICT; see status.mtls.blockers."
}

// unobserved says what is missing of an observation, in the words of the blocker that comes of it if it has none.
func unobserved(r report) string {
	for _, b := range r.mtls.Blockers {
		if r.Seen.Message == "" && b.Type == v1alpha1.BlockerTelemetryIncomplete {
			return b.Message
		}
	}
	return or(r.Seen.Message, "The target's proxies were not read.")
}

func trafficObserved(r report) metav1.Condition {
	const kind = v1alpha1.ConditionTrafficObserved
	if needed, reason, message := observed(r); !needed {
		return unknown(kind, reason, "%s", message)
	}
	switch {
	case r.Seen.Completeness != traffic.Complete:
		return isFalse(kind, or(r.Seen.Reason, v1alpha1.ReasonIncomplete), "%s", unobserved(r))
	case r.Seen.Reason == v1alpha1.ReasonNoTraffic && r.Spec.MinRequests > 0 && r.mtls.Stage != v1alpha1.StageVerifying:
		return isFalse(kind, v1alpha1.ReasonNoTraffic, "Every proxy of the target is read, and nobody calls it by mutual TLS. Send traffic, or set rollout.minRequests to 0 to let an idle workload switch.")
	}
	return isTrue(kind, kind, "Every proxy of the target is read, and nothing is missing from what it counts.")
}

func plaintextFree(r report) metav1.Condition {
	const kind = v1alpha1.ConditionPlaintextFree
	if refused := refusedCallers(r); len(refused) > 0 {
		return isFalse(kind, v1alpha1.ReasonPlaintextRefused, "STRICT refused plaintext within rollout.observationWindow: %s. Move these callers into the mesh, or except the port by mtls.portLevel; status.mtls.plaintextCallers counts them.", names(refused))
	}
	if needed, reason, message := observed(r); !needed {
		return unknown(kind, reason, "%s", message)
	}
	switch {
	case seenInWindow(r):
		return isFalse(kind, v1alpha1.ReasonPlaintextSeen, "Plaintext was seen within rollout.observationWindow, from %s", whoCalls(r.mtls.PlaintextCallers))
	case r.Seen.Completeness != traffic.Complete:
		return unknown(kind, or(r.Seen.Reason, v1alpha1.ReasonIncomplete), "Whether callers send plaintext cannot be told; see the condition TrafficObserved.")
	case rollout.Unobserved(r.mtls.Blockers):
		hides := slices.DeleteFunc(slices.Clone(r.mtls.Blockers), func(b v1alpha1.Blocker) bool {
			return !rollout.Unobserved([]v1alpha1.Blocker{b})
		})
		return unknown(kind, v1alpha1.ReasonIncomplete, "No plaintext was seen, but a part of the target takes traffic that no proxy counts, because of %s. status.mtls.blockers says what to do.", typesOf(hides))
	case r.mtls.CleanSinceTime == nil:
		return isTrue(kind, kind, "No plaintext was seen within rollout.observationWindow.")
	}
	return isTrue(kind, kind, "No plaintext was seen since status.mtls.cleanSinceTime.")
}

func seenInWindow(r report) bool {
	last := r.Decision.LastPlaintext
	return !last.IsZero() && r.Now.Sub(last) < r.Spec.ObservationWindow
}

func mutualTLSEnforced(r report) metav1.Condition {
	const kind = v1alpha1.ConditionMutualTLSEnforced
	switch {
	case !r.secures():
		return isFalse(kind, v1alpha1.ReasonNotAccepted, "The profile is not accepted, so it changes nothing of what is in force, which is status.mtls.effectiveMode.")
	case !r.Spec.AsksStrict():
		return isFalse(kind, v1alpha1.ReasonNotRequested, "%s", sentences("The profile does not ask for Strict.", r.Decision.Waiting))
	case overruled(r):
		return isFalse(kind, string(v1alpha1.StageBlocked), "%s", overruledBy(r))
	}
	switch stage := r.mtls.Stage; stage {
	case v1alpha1.StageEnforced, v1alpha1.StageVerifying:
		return inForce(r)
	case v1alpha1.StageBlocked:
		return isFalse(kind, string(stage), "%s", blocked(r))
	case v1alpha1.StageAwaitingApproval:
		return isFalse(kind, string(stage), "%s", awaiting(r))
	case v1alpha1.StageRolledBack:
		return isFalse(kind, string(stage), "%s", rolledBack(r))
	case v1alpha1.StageObserving:
	}
	return isFalse(kind, string(v1alpha1.StageObserving), "%s", observing(r))
}

// overruled says that STRICT is written, and that Istio uses something else.
func overruled(r report) bool {
	return winner(r.Input) != nil && strictIn(r.Input, r.Decision.Form)
}

func overruledBy(r report) string {
	w := winner(r.Input)
	where := "for pod " + w.Pod + " Istio"
	if w.Pod == "" {
		where = "Istio"
	}
	return fmt.Sprintf("PeerAuthentication %s says STRICT, but %s uses PeerAuthentication %s/%s, because it is older. Delete that one, or say what it says in this profile.",
		facts.PeerName(r.Profile), where, w.Namespace, w.Name)
}

// inForce is MutualTLSEnforced once STRICT was written.
func inForce(r report) metav1.Condition {
	const kind = v1alpha1.ConditionMutualTLSEnforced
	switch {
	case !written(r.Input) && !strictIn(r.Input, r.Facts.InForce()):
		return isFalse(kind, applyReason(r.ApplyError), "STRICT is not in force any more, and cannot be written again; see the condition Programmed.")
	case len(r.Facts.Pods) > 0 && pods(r.Facts.Pods).InMesh == 0:
		return isFalse(kind, v1alpha1.ReasonPodsNotInMesh, "STRICT is written, but no pod of the target has a sidecar that could demand mutual TLS. Enable injection and restart the pods.")
	case len(r.Facts.Overrides) > 0:
		return isFalse(kind, v1alpha1.ReasonOverridden, "STRICT is written, but narrower PeerAuthentications are weaker for a part of the target: %s. If they are no exceptions that are meant, delete them, or the profiles that own them; status.mtls.effectiveMode is the weakest.", names(r.Facts.Overrides))
	case r.mtls.Stage == v1alpha1.StageEnforced:
		return isTrue(kind, kind, "%s", sentences(fmt.Sprintf("STRICT is in force on %s.", strictPorts(r)), unsecured(r), failedForGood(r)))
	case r.Decision.Stage == v1alpha1.StageRolledBack:
		return isTrue(kind, string(r.mtls.Stage), "%s", sentences("Verification failed, but what was in force before cannot be written; see the condition Programmed.", failedCallers(r)))
	}
	if !strictIn(r.Input, r.Decision.Form) {
		text := fmt.Sprintf("STRICT is written for the ports for which it was asked before the last edit of the spec, and is watched for rollout.verificationWindow (%s). The others are observed after that.", r.Spec.VerificationWindow)
		return isFalse(kind, string(r.mtls.Stage), "%s", sentences(text, watched(r), unsecured(r), r.Decision.Waiting))
	}
	text := fmt.Sprintf("STRICT is written for %s, and is watched for rollout.verificationWindow (%s).", strictPorts(r), r.Spec.VerificationWindow)
	return isTrue(kind, string(r.mtls.Stage), "%s", sentences(text, watched(r), unsecured(r), r.Decision.Waiting))
}

// watched says whose calls verification sees.
func watched(r report) string {
	if len(r.Sight.Callers) == 0 {
		return ""
	}
	return "The callers' own proxies tell whether their calls fail: " + names(r.Sight.Callers) + "."
}

// unsecured qualifies what is said of STRICT where not every pod has a sidecar.
func unsecured(r report) string {
	if len(outside(r.Facts.Pods)) == 0 {
		return ""
	}
	return "Pods without a sidecar take plaintext nevertheless; see status.warnings."
}

// strictPorts says where STRICT is in force.
func strictPorts(r report) string {
	asked := r.Spec.StrictPorts()
	var list []string
	for _, port := range asked.Ports {
		list = append(list, fmt.Sprint(port))
	}
	text := "the workload port " + and(list)
	if len(list) > 1 {
		text = "the workload ports " + and(list)
	}
	switch {
	case len(list) == 0:
		return "every port"
	case asked.Except:
		return "every port but " + text
	}
	return text
}

func observing(r report) string {
	d := r.Decision
	if d.Switched {
		return "STRICT is due, but could not be written; see the condition Programmed."
	}
	text := or(d.Waiting, "Nothing holds the switch to STRICT. It is written once no plaintext was seen for the whole of rollout.observationWindow, at status.mtls.eligibleTime at the earliest.")
	if r.Spec.Suspend {
		text = "Nothing else holds the switch to STRICT, but it is not written while rollout.suspend is true."
	}
	return sentences(kept(r), text)
}

func blocked(r report) string {
	text := fmt.Sprintf("STRICT is not written because of %s. status.mtls.blockers says what to do.", typesOf(r.mtls.Blockers))
	if len(r.Members) > 0 {
		return sentences(text, r.Decision.Waiting)
	}
	return sentences(kept(r), text)
}

// typesOf lists the types of blockers.
func typesOf(blockers []v1alpha1.Blocker) string {
	var all []string
	for _, kind := range kinds(blockers) {
		all = append(all, string(kind))
	}
	return strings.Join(all, ", ")
}

// kinds are the types of blockers, each once.
func kinds(blockers []v1alpha1.Blocker) []v1alpha1.BlockerType {
	var out []v1alpha1.BlockerType
	for _, b := range blockers {
		if !slices.Contains(out, b.Type) {
			out = append(out, b.Type)
		}
	}
	return out
}

// kept explains an object that stays although it speaks for other pods.
func kept(r report) string {
	if !r.Decision.Keep || !selectsOthers(r.Input) {
		return ""
	}
	return fmt.Sprintf("The target selects pods with the labels %s now. PeerAuthentication %s stays as it is, for the labels %s, until STRICT can be written for the new ones.",
		labels(r.Facts.Target.Selector), facts.PeerName(r.Profile), labels(r.Facts.Policy.Selector))
}

func awaiting(r report) string {
	text := fmt.Sprintf("Nothing but approval is missing: kubectl annotate ssp %s -n %s --overwrite %s=%s approves what status.mtls.approval.summary says.",
		r.Profile.Name, r.Profile.Namespace, v1alpha1.AnnotationApprove, r.token())
	if r.Spec.Suspend {
		text += " Set rollout.suspend to false, too."
	}
	return text
}

func (r report) token() string {
	if r.mtls.Approval == nil {
		return ""
	}
	return r.mtls.Approval.Token
}

// rolledBack explains a rollback. The callers that failed are known only when it happens, so what was said then stays as long
// as it is about the same workloads.
func rolledBack(r report) string {
	d := r.Decision
	before := meta.FindStatusCondition(r.Profile.Status.Conditions, v1alpha1.ConditionMutualTLSEnforced)
	if len(d.FailedCallers) == 0 && before != nil && before.Reason == string(v1alpha1.StageRolledBack) && before.ObservedGeneration == r.Profile.Generation && sameRollbacks(r) {
		return before.Message
	}
	next := "The next attempt starts at status.mtls.nextAttemptTime."
	switch {
	case d.NextAttempt.IsZero():
		next = "Nothing is tried again until the spec changes."
	case r.Spec.Suspend:
		next = "Nothing is tried again while rollout.suspend is true."
	}
	who := ""
	if len(r.Members) > 0 {
		who = d.Waiting
	}
	return sentences("Verification failed, and what was in force before is in force again.", failedCallers(r), who, next)
}

// sameRollbacks says that the same workloads of a namespace are rolled back as status has it, and that one of them is tried again
// if one was to be.
func sameRollbacks(r report) bool {
	was := r.Profile.Status.MTLS
	if was == nil {
		return true
	}
	return slices.Equal(rolledBackOf(was.Rollouts), rolledBackOf(r.mtls.Rollouts)) && (was.NextAttemptTime == nil) == (r.mtls.NextAttemptTime == nil)
}

// rolledBackOf are the names of the workloads that are rolled back, in order.
func rolledBackOf(rollouts []v1alpha1.WorkloadRollout) []string {
	var all []string
	for _, one := range rollouts {
		if one.Stage == v1alpha1.StageRolledBack {
			all = append(all, one.Name)
		}
	}
	slices.Sort(all)
	return all
}

func failedCallers(r report) string {
	if len(r.Decision.FailedCallers) == 0 {
		return ""
	}
	return "Callers that failed: " + names(r.Decision.FailedCallers) + "."
}

// ready is false with the first reason that needs a person.
func ready(r report, others []metav1.Condition) metav1.Condition {
	const kind = v1alpha1.ConditionReady
	for _, c := range others[:2] {
		if c.Status != metav1.ConditionTrue {
			return isFalse(kind, c.Reason, "%s", c.Message)
		}
	}
	switch stage := r.mtls.Stage; {
	case stage == v1alpha1.StageAwaitingApproval:
		return isFalse(kind, string(stage), "%s", awaiting(r))
	case stage == v1alpha1.StageRolledBack:
		return isFalse(kind, string(stage), "%s", rolledBack(r))
	case len(r.mtls.Blockers) > 0:
		first, more := r.mtls.Blockers[0], ""
		if len(r.mtls.Blockers) > 1 {
			more = "There is more to do; see status.mtls.blockers."
		}
		return isFalse(kind, string(first.Type), "%s", sentences(first.Message, more))
	case r.Spec.AsksStrict() && overruled(r):
		return isFalse(kind, string(v1alpha1.BlockerCompetingPeerAuthentication), "%s", overruledBy(r))
	}
	if c := meta.FindStatusCondition(others, v1alpha1.ConditionAuthorizationEnforced); c != nil && c.Reason == v1alpha1.ReasonPodsNotInMesh {
		return isFalse(kind, c.Reason, "%s", c.Message)
	}
	return isTrue(kind, kind, "Everything is accepted and programmed, and nothing waits for a person.")
}

// sentences joins those that say something.
func sentences(all ...string) string {
	return strings.Join(slices.DeleteFunc(all, func(s string) bool { return s == "" }), " ")
}

func or(text, fallback string) string {
	if text == "" {
		return fallback
	}
	return text
}
