package rollout_test

import (
	"time"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/rollout"
	"github.com/servicesecurity/operator/controllers/traffic"
)

// events are the rows of the transition table. Columns are the states, in their order.
var events = []event{
	{"a clean, complete reading", func(*rollout.Input) {}, [8]string{
		"Observing → PERMISSIVE", "Observing", "Verifying → STRICT", "Blocked", "AwaitingApproval", "Verifying", "Enforced", "RolledBack",
	}},
	{"a quarter of an hour without plaintext", func(in *rollout.Input) { pass(in, 15*time.Minute) }, [8]string{
		"Observing → PERMISSIVE", "Observing", "Verifying → STRICT", "Observing", "AwaitingApproval", "Enforced", "Enforced", "Observing",
	}},
	{"a whole window without plaintext", func(in *rollout.Input) { pass(in, window) }, [8]string{
		"Observing → PERMISSIVE", "Observing", "Verifying → STRICT", "Observing", "AwaitingApproval", "Enforced", "Enforced", "Observing",
	}},
	{"the same, confirmed by facts read live", func(in *rollout.Input) { pass(in, window); in.Facts.Live = true }, [8]string{
		"Observing → PERMISSIVE", "Verifying → STRICT", "Verifying → STRICT", "Verifying → STRICT", "AwaitingApproval", "Enforced", "Enforced", "Observing",
	}},
	{"plaintext is seen", func(in *rollout.Input) {
		in.Seen.LastPlaintext = in.Now
		in.Seen.Completeness = traffic.Complete
		in.Seen.Time = in.Now
	}, [8]string{
		"Blocked → PERMISSIVE", "Blocked", "Blocked", "Blocked", "Blocked", "Verifying", "Enforced", "RolledBack",
	}},
	{"a plaintext connection is open", func(in *rollout.Input) { in.Seen.OpenPlaintext = 1 }, [8]string{
		"Blocked → PERMISSIVE", "Blocked", "Blocked", "Blocked", "Blocked", "Verifying", "Enforced", "RolledBack",
	}},
	{"plaintext of no known port", func(in *rollout.Input) { in.Seen.LastPlaintext, in.Seen.NotAttributable = in.Now, true }, [8]string{
		"Blocked → PERMISSIVE", "Blocked", "Blocked", "Blocked", "Blocked", "Verifying", "Enforced", "RolledBack",
	}},
	{"one proxy could not be read", func(in *rollout.Input) { incomplete(in, traffic.Incomplete) }, [8]string{
		"Blocked → PERMISSIVE", "Blocked", "Blocked", "Blocked", "Blocked", "Verifying", "Enforced", "RolledBack",
	}},
	{"the source is away", func(in *rollout.Input) { incomplete(in, traffic.Unavailable) }, [8]string{
		"Blocked → PERMISSIVE", "Blocked", "Blocked", "Blocked", "Blocked", "Verifying", "Enforced", "RolledBack",
	}},
	{"nothing was read yet", func(in *rollout.Input) { in.Seen = traffic.Observation{Completeness: traffic.Skipped} }, [8]string{
		"Blocked → PERMISSIVE", "Blocked", "Blocked", "Blocked", "Blocked", "Verifying", "Enforced", "RolledBack",
	}},
	{"the first complete reading after a gap", func(in *rollout.Input) { in.Seen.Since = in.Now }, [8]string{
		"Observing → PERMISSIVE", "Observing", "Observing", "Blocked", "Observing", "Verifying", "Enforced", "RolledBack",
	}},
	{"a complete reading that proves nothing", func(in *rollout.Input) { in.Seen.Since = time.Time{} }, [8]string{
		"Observing → PERMISSIVE", "Observing", "Observing", "Blocked", "Observing", "Verifying", "Enforced", "RolledBack",
	}},
	{"the clock jumps back a day", func(in *rollout.Input) { shift(in, -24*time.Hour) }, [8]string{
		"Observing → PERMISSIVE", "Observing", "Observing", "Blocked", "Observing", "Verifying", "Enforced", "RolledBack",
	}},
	{"the clock jumps ahead a day", func(in *rollout.Input) { shift(in, 24*time.Hour) }, [8]string{
		"Observing → PERMISSIVE", "Observing", "Verifying → STRICT", "Blocked", "AwaitingApproval", "Enforced", "Enforced", "Observing",
	}},
	{"the clock jumps back after the reading", func(in *rollout.Input) { in.Now = in.Now.Add(-2 * time.Hour) }, [8]string{
		"Observing → PERMISSIVE", "Observing", "Observing", "Blocked", "Observing", "Verifying", "Enforced", "RolledBack",
	}},
	{"too little mutual TLS was seen", func(in *rollout.Input) { in.Seen.MutualTLS = 0 }, [8]string{
		"Observing → PERMISSIVE", "Observing", "Blocked", "Blocked", "Blocked", "Verifying", "Enforced", "RolledBack",
	}},
	{"no traffic, and minRequests is 0", func(in *rollout.Input) { in.Seen.MutualTLS, in.Spec.MinRequests = 0, 0 }, [8]string{
		"Observing → PERMISSIVE", "Observing", "Verifying → STRICT", "Blocked", "AwaitingApproval", "Verifying", "Enforced", "RolledBack",
	}},
	{"approval: Manual, and nobody approved", func(in *rollout.Input) { in.Spec.Approval = v1alpha1.ApprovalManual }, [8]string{
		"Observing → PERMISSIVE", "Observing", "AwaitingApproval", "Blocked", "AwaitingApproval", "Verifying", "Enforced", "RolledBack",
	}},
	{"it is approved", func(in *rollout.Input) { in.Spec.Approved = token(*in) }, [8]string{
		"Observing → PERMISSIVE", "Observing", "Verifying → STRICT", "Blocked", "Verifying → STRICT", "Verifying", "Enforced", "RolledBack",
	}},
	{"another token is approved", func(in *rollout.Input) {
		in.Spec.Approval, in.Spec.Approved = v1alpha1.ApprovalManual, "0123456789abcdef"
	}, [8]string{
		"Observing → PERMISSIVE", "Observing", "AwaitingApproval", "Blocked", "AwaitingApproval", "Verifying", "Enforced", "RolledBack",
	}},
	{"suspend: true", func(in *rollout.Input) { in.Spec.Suspend = true; in.Spec.Approval = v1alpha1.ApprovalAutomatic }, [8]string{
		"Observing → PERMISSIVE", "Observing", "Observing", "Blocked", "Observing", "Verifying", "Enforced", "RolledBack",
	}},
	{"the window is made shorter (20m)", func(in *rollout.Input) { edited(in); in.Spec.ObservationWindow = 20 * time.Minute }, [8]string{
		"Observing → PERMISSIVE", "Observing", "Verifying → STRICT", "Blocked", "AwaitingApproval", "Verifying", "Enforced", "Observing",
	}},
	{"the window is made longer (2h)", func(in *rollout.Input) { edited(in); in.Spec.ObservationWindow = 2 * time.Hour }, [8]string{
		"Observing → PERMISSIVE", "Observing", "Observing", "Blocked", "Observing", "Verifying", "Enforced", "Observing",
	}},
	{"verificationWindow: 0s", func(in *rollout.Input) { edited(in); in.Spec.VerificationWindow = 0 }, [8]string{
		"Observing → PERMISSIVE", "Observing", "Enforced → STRICT", "Blocked", "AwaitingApproval", "Enforced", "Enforced", "Observing",
	}},
	{"port 9443 is excepted (Permissive)", func(in *rollout.Input) {
		edited(in)
		in.Spec.Asked = form(v1alpha1.ModeStrict, 9443, v1alpha1.ModePermissive)
	}, [8]string{
		"Observing → PERMISSIVE", "Observing", "Verifying → STRICT,9443=PERMISSIVE", "Blocked", "AwaitingApproval", "Verifying → STRICT,9443=PERMISSIVE", "Enforced → STRICT,9443=PERMISSIVE", "Observing",
	}},
	{"port 9443 is excepted (Disabled)", func(in *rollout.Input) {
		edited(in)
		in.Spec.Asked = form(v1alpha1.ModeStrict, 9443, v1alpha1.ModeDisabled)
	}, [8]string{
		"Observing → PERMISSIVE", "Observing", "Observing", "Blocked", "AwaitingApproval", "Verifying → STRICT,9443=PERMISSIVE", "Enforced → STRICT,9443=PERMISSIVE", "Observing",
	}},
	{"mode: Permissive, port 9443 Strict", func(in *rollout.Input) {
		edited(in)
		in.Spec.Asked = form(v1alpha1.ModePermissive, 9443, v1alpha1.ModeStrict)
	}, [8]string{
		"Observing → PERMISSIVE", "Observing", "Verifying → PERMISSIVE,9443=STRICT", "Blocked", "AwaitingApproval", "Verifying → PERMISSIVE,9443=STRICT", "Enforced → PERMISSIVE,9443=STRICT", "Observing",
	}},
	{"mode: Permissive", func(in *rollout.Input) { edited(in); in.Spec.Asked = permissive }, [8]string{
		"none → PERMISSIVE", "none", "none", "none", "none", "none → PERMISSIVE", "none → PERMISSIVE", "none",
	}},
	{"mode: Disabled", func(in *rollout.Input) { edited(in); in.Spec.Asked = disabled }, [8]string{
		"none → PERMISSIVE", "none", "none", "none", "none", "none → PERMISSIVE", "none → PERMISSIVE", "none",
	}},
	{"the mtls section is removed", func(in *rollout.Input) { edited(in); in.Spec.Asked = facts.Form{} }, [8]string{
		"none", "none → removed", "none → removed", "none → removed", "none → removed", "none → removed", "none → removed", "none → removed",
	}},
	{"strategy: Immediate", func(in *rollout.Input) {
		edited(in)
		in.Spec.Strategy, in.Spec.Approval = v1alpha1.StrategyImmediate, v1alpha1.ApprovalAutomatic
	}, [8]string{
		"Observing → PERMISSIVE", "Enforced → STRICT", "Enforced → STRICT", "Enforced → STRICT", "Enforced → STRICT", "Enforced", "Enforced", "Enforced → STRICT",
	}},
	{"strategy: Immediate, suspended", func(in *rollout.Input) {
		edited(in)
		in.Spec.Strategy, in.Spec.Approval, in.Spec.Suspend = v1alpha1.StrategyImmediate, v1alpha1.ApprovalAutomatic, true
	}, [8]string{
		"Observing → PERMISSIVE", "Observing", "Observing", "Observing", "Observing", "Enforced", "Enforced", "Observing",
	}},
	{"the operator restarts; nothing was missed", func(in *rollout.Input) { restarted(in) }, [8]string{
		"Observing → PERMISSIVE", "Observing", "Observing", "Blocked", "AwaitingApproval", "Verifying", "Enforced", "RolledBack",
	}},
	{"the operator restarts; the counters moved", func(in *rollout.Input) { restarted(in); in.Seen.Since = in.Now }, [8]string{
		"Observing → PERMISSIVE", "Observing", "Observing", "Blocked", "Observing", "Verifying", "Enforced", "RolledBack",
	}},
	{"status is lost", func(in *rollout.Input) { in.Previous = rollout.Previous{} }, [8]string{
		"Observing → PERMISSIVE", "Observing", "Verifying → STRICT", "Blocked", "AwaitingApproval", "Verifying", "Enforced", "RolledBack",
	}},
	{"the profile was not accepted for a while", func(in *rollout.Input) { in.Previous.Stage = "" }, [8]string{
		"Observing → PERMISSIVE", "Observing", "Observing", "Blocked", "Observing", "Verifying", "Enforced", "RolledBack",
	}},
	{"the same for a whole window", func(in *rollout.Input) { wholeWindow(in); in.Previous.Stage = "" }, [8]string{
		"Verifying → STRICT", "Observing", "Observing", "Observing", "Observing", "Verifying", "Enforced", "RolledBack",
	}},
	{"status is lost in a restart", func(in *rollout.Input) { restarted(in); in.Previous, in.Seen.Since = rollout.Previous{}, in.Now }, [8]string{
		"Observing → PERMISSIVE", "Observing", "Observing", "Blocked", "Observing", "Verifying", "Enforced", "RolledBack",
	}},
	{"status is edited: Enforced", func(in *rollout.Input) { in.Previous.Stage = v1alpha1.StageEnforced }, [8]string{
		"Observing → PERMISSIVE", "Observing", "Observing", "Blocked", "Observing", "Verifying", "Enforced", "RolledBack",
	}},
	{"status is edited: clean for a year", func(in *rollout.Input) { in.Previous.CleanSince = in.Now.Add(-8760 * time.Hour) }, [8]string{
		"Observing → PERMISSIVE", "Observing", "Verifying → STRICT", "Blocked", "AwaitingApproval", "Verifying", "Enforced", "RolledBack",
	}},
	{"status is edited: times a year ahead", func(in *rollout.Input) {
		ahead := in.Now.Add(8760 * time.Hour)
		in.Previous.CleanSince, in.Previous.LastPlaintext, in.Previous.Enforced = ahead, ahead, ahead
		in.Previous.NextAttempt, in.Previous.Attempts = ahead, -7
	}, [8]string{
		"Blocked → PERMISSIVE", "Blocked", "Blocked", "Blocked", "Blocked", "Verifying", "Enforced", "RolledBack",
	}},
	{"a pod is added", func(in *rollout.Input) { in.Facts.Pods = append(in.Facts.Pods, sidecar("httpbin-2")) }, [8]string{
		"Observing → PERMISSIVE", "Observing", "Verifying → STRICT", "Blocked", "AwaitingApproval", "Verifying", "Enforced", "RolledBack",
	}},
	{"a pod without a sidecar is added", func(in *rollout.Input) {
		pod := sidecar("httpbin-2")
		pod.Membership = facts.MemberNone
		in.Facts.Pods = append(in.Facts.Pods, pod)
		in.Facts.Hosts[0].UnmeshedEndpoints = []string{pod.Name}
	}, [8]string{
		"Blocked → PERMISSIVE", "Blocked", "Blocked", "Blocked", "Blocked", "Verifying", "Enforced", "RolledBack",
	}},
	{"a pod in ambient mode is added", func(in *rollout.Input) {
		pod := sidecar("httpbin-2")
		pod.Membership = facts.MemberAmbient
		in.Facts.Pods = append(in.Facts.Pods, pod)
	}, [8]string{
		"Blocked → PERMISSIVE", "Blocked", "Blocked", "Blocked", "Blocked", "Verifying", "Enforced", "RolledBack",
	}},
	{"all pods are in ambient mode", func(in *rollout.Input) { in.Facts.Pods[0].Membership = facts.MemberAmbient }, [8]string{
		"Blocked", "Blocked (kept)", "Blocked (kept)", "Blocked (kept)", "Blocked (kept)", "Blocked (kept)", "Blocked (kept)", "Blocked (kept)",
	}},
	{"the last pod goes", func(in *rollout.Input) {
		in.Facts.Pods, in.Facts.Hosts[0].Endpoints = nil, 0
		incomplete(in, traffic.Incomplete)
	}, [8]string{
		"Blocked → PERMISSIVE", "Blocked", "Blocked", "Blocked", "Blocked", "Verifying", "Enforced", "RolledBack",
	}},
	{"a rollout of pods is in flight", func(in *rollout.Input) { in.Facts.RollingOut = []string{"Deployment httpbin"} }, [8]string{
		"Observing → PERMISSIVE", "Observing", "Blocked", "Blocked", "Blocked", "Verifying", "Enforced", "RolledBack",
	}},
	{"the source proves the whole window by its history", wholeWindow, [8]string{
		"Verifying → STRICT", "Observing", "Verifying → STRICT", "Observing", "AwaitingApproval", "Verifying", "Enforced", "RolledBack",
	}},
	{"the same with approval: Manual", func(in *rollout.Input) { wholeWindow(in); in.Spec.Approval = v1alpha1.ApprovalManual }, [8]string{
		"AwaitingApproval → PERMISSIVE", "Observing", "AwaitingApproval", "Observing", "AwaitingApproval", "Verifying", "Enforced", "RolledBack",
	}},
	{"approval: Manual, and status is lost after a whole window", func(in *rollout.Input) {
		wholeWindow(in)
		in.Spec.Approval, in.Previous = v1alpha1.ApprovalManual, rollout.Previous{}
	}, [8]string{
		"AwaitingApproval → PERMISSIVE", "AwaitingApproval", "AwaitingApproval", "AwaitingApproval", "AwaitingApproval", "Verifying", "Enforced", "RolledBack",
	}},
	{"a whole window without plaintext, with approval: Manual", func(in *rollout.Input) {
		pass(in, window)
		in.Spec.Approval = v1alpha1.ApprovalManual
	}, [8]string{
		"AwaitingApproval → PERMISSIVE", "AwaitingApproval", "AwaitingApproval", "AwaitingApproval", "AwaitingApproval", "Enforced", "Enforced", "Observing",
	}},
	{"status is lost after a whole window", func(in *rollout.Input) { wholeWindow(in); in.Previous = rollout.Previous{} }, [8]string{
		"Verifying → STRICT", "Verifying → STRICT", "Verifying → STRICT", "Verifying → STRICT", "AwaitingApproval", "Verifying", "Enforced", "RolledBack",
	}},
	{"STRICT was written, and status was not", switchedUnseen, [8]string{
		"Verifying", "Verifying", "Verifying", "Verifying", "Verifying", "Verifying", "Verifying", "RolledBack → PERMISSIVE",
	}},
	{"STRICT was written, status was not, and callers fail", func(in *rollout.Input) { switchedUnseen(in); in.FailingCallers = []string{"bar/sleep"} }, [8]string{
		"RolledBack → PERMISSIVE", "RolledBack → PERMISSIVE", "RolledBack → PERMISSIVE", "RolledBack → PERMISSIVE", "RolledBack → PERMISSIVE", "RolledBack → PERMISSIVE", "RolledBack → PERMISSIVE", "RolledBack → PERMISSIVE",
	}},
	{"STRICT was written, status was not, and it is edited to PERMISSIVE", func(in *rollout.Input) { switchedUnseen(in); in.Facts.Policy.Form = permissive }, [8]string{
		"Observing", "Observing", "Observing", "Blocked", "Observing", "RolledBack", "Blocked", "RolledBack",
	}},
	{"the Service selects other pods", func(in *rollout.Input) {
		in.Facts.Target.Selector = map[string]string{"app": "httpbin", "version": "v2"}
		in.Seen.Since = in.Now
	}, [8]string{
		"Observing → PERMISSIVE", "Observing → PERMISSIVE", "Observing → PERMISSIVE", "Blocked → PERMISSIVE", "Observing → PERMISSIVE", "Observing (kept)", "Blocked (kept)", "RolledBack → PERMISSIVE",
	}},
	{"the parent becomes STRICT", func(in *rollout.Input) { in.Facts.Inherited = v1alpha1.ModeStrict }, [8]string{
		"Enforced → STRICT", "Enforced → STRICT", "Enforced → STRICT", "Enforced → STRICT", "Enforced → STRICT", "Verifying", "Enforced", "Enforced → STRICT",
	}},
	{"the parent was STRICT before", func(in *rollout.Input) {
		in.Facts.Inherited, in.Previous.Inherited = v1alpha1.ModeStrict, v1alpha1.ModeStrict
	}, [8]string{
		"Enforced → STRICT", "Observing", "Verifying → STRICT", "Blocked", "AwaitingApproval", "Verifying", "Enforced", "RolledBack",
	}},
	{"the parent becomes DISABLE", func(in *rollout.Input) { in.Facts.Inherited = v1alpha1.ModeDisabled }, [8]string{
		"Observing → PERMISSIVE", "Observing", "Verifying → STRICT", "Blocked", "AwaitingApproval", "Verifying", "Enforced", "RolledBack",
	}},
	{"a younger competing policy", func(in *rollout.Input) {
		in.Facts.CompetingPolicies = []facts.CompetingPolicy{{Namespace: "foo", Name: "other", Pod: "httpbin-1"}}
	}, [8]string{
		"Blocked → PERMISSIVE", "Blocked", "Blocked", "Blocked", "Blocked", "Verifying", "Enforced", "RolledBack",
	}},
	{"an older competing policy", func(in *rollout.Input) {
		in.Facts.CompetingPolicies = []facts.CompetingPolicy{{Namespace: "foo", Name: "other", Pod: "httpbin-1", Wins: true}}
	}, [8]string{
		"Blocked → PERMISSIVE", "Blocked", "Blocked", "Blocked", "Blocked", "Blocked", "Blocked", "RolledBack",
	}},
	{"a client's DestinationRule says DISABLE", func(in *rollout.Input) {
		in.Facts.ClientRules = []facts.ClientRule{{Namespace: "bar", Name: "legacy", Host: hostName, TLS: "DISABLE", Where: "trafficPolicy"}}
	}, [8]string{
		"Blocked → PERMISSIVE", "Blocked", "Blocked", "Blocked", "Blocked", "Verifying", "Enforced", "RolledBack",
	}},
	{"callers fail", func(in *rollout.Input) { in.FailingCallers = []string{"bar/sleep"} }, [8]string{
		"Observing → PERMISSIVE", "Observing", "Verifying → STRICT", "Blocked", "AwaitingApproval", "RolledBack → PERMISSIVE", "Enforced", "RolledBack",
	}},
	{"callers fail, suspended", func(in *rollout.Input) {
		in.FailingCallers, in.Spec.Suspend, in.Spec.Approval = []string{"bar/sleep"}, true, v1alpha1.ApprovalAutomatic
	}, [8]string{
		"Observing → PERMISSIVE", "Observing", "Observing", "Blocked", "Observing", "RolledBack → PERMISSIVE", "Enforced", "RolledBack",
	}},
	{"callers fail, rollback: Never", func(in *rollout.Input) {
		in.FailingCallers, in.Spec.Rollback = []string{"bar/sleep"}, v1alpha1.RollbackNever
	}, [8]string{
		"Observing → PERMISSIVE", "Observing", "Verifying → STRICT", "Blocked", "AwaitingApproval", "Enforced", "Enforced", "RolledBack",
	}},
	{"callers fail, deniedCallers by identity", func(in *rollout.Input) { in.FailingCallers, in.Spec.DeniesIdentities = []string{"bar/sleep"}, true }, [8]string{
		"Observing → PERMISSIVE", "Observing", "Verifying → STRICT", "Blocked", "AwaitingApproval", "Enforced", "Enforced", "RolledBack",
	}},
	{"callers fail, the parent became STRICT", func(in *rollout.Input) {
		in.FailingCallers, in.Facts.Inherited = []string{"bar/sleep"}, v1alpha1.ModeStrict
	}, [8]string{
		"Enforced → STRICT", "Enforced → STRICT", "Enforced → STRICT", "Enforced → STRICT", "Enforced → STRICT", "Enforced", "Enforced", "Enforced → STRICT",
	}},
	{"a proxy has not taken the change", func(in *rollout.Input) {
		pass(in, 15*time.Minute)
		in.Baseline = map[string]traffic.Reading{"httpbin-1": {UID: "httpbin-1", Started: noon.Add(-48 * time.Hour), ListenerUpdates: 7}}
	}, [8]string{
		"Observing → PERMISSIVE", "Observing", "Verifying → STRICT", "Observing", "AwaitingApproval", "Verifying", "Enforced", "Observing",
	}},
	{"a proxy still drains", func(in *rollout.Input) {
		pass(in, 10*time.Minute)
		for i := range in.Seen.Proxies {
			in.Seen.Proxies[i].Draining = 1
		}
	}, [8]string{
		"Observing → PERMISSIVE", "Observing", "Verifying → STRICT", "Observing", "AwaitingApproval", "Verifying", "Enforced", "Observing",
	}},
	{"the object is edited to PERMISSIVE", func(in *rollout.Input) {
		in.Facts.Policy, in.Facts.UnchangedFor = ownPolicy(permissive), 0
	}, [8]string{
		"Observing", "Observing", "Observing", "Blocked", "AwaitingApproval", "Verifying → STRICT", "Enforced → STRICT", "RolledBack",
	}},
	{"the same while the operator is away", func(in *rollout.Input) {
		restarted(in)
		in.Facts.Policy = ownPolicy(permissive)
	}, [8]string{
		"Observing", "Observing", "Observing", "Blocked", "AwaitingApproval", "RolledBack", "Blocked", "RolledBack",
	}},
	{"the object is deleted", func(in *rollout.Input) { in.Facts.Policy, in.Facts.UnchangedFor = facts.Policy{}, 0 }, [8]string{
		"Observing → PERMISSIVE", "Observing → PERMISSIVE", "Observing → PERMISSIVE", "Blocked → PERMISSIVE", "AwaitingApproval → PERMISSIVE", "Verifying → STRICT", "Enforced → STRICT", "RolledBack → PERMISSIVE",
	}},
	{"the object is edited to STRICT", func(in *rollout.Input) { in.Facts.Policy, in.Facts.UnchangedFor = ownPolicy(strict), 0 }, [8]string{
		"Enforced", "Enforced", "Enforced", "Enforced", "Enforced", "Verifying", "Enforced", "Enforced",
	}},
	{"the DestinationRule is deleted", func(in *rollout.Input) { in.Facts.Rules, in.Facts.UnchangedFor = nil, 0 }, [8]string{
		"Observing → PERMISSIVE", "Observing", "Observing", "Blocked", "AwaitingApproval", "Verifying", "Enforced", "RolledBack",
	}},
}

// wholeWindow is a source that proves the window at once, where no rule is wanted.
func wholeWindow(in *rollout.Input) {
	in.Seen.Since, in.Seen.LastPlaintext, in.Previous.LastPlaintext = in.Now.Add(-window), time.Time{}, time.Time{}
	in.Facts.Live, in.Spec.DestinationRule, in.Facts.Rules = true, v1alpha1.DestinationRuleNever, nil
}

// switchedUnseen is an operator that was killed between the switch and its status.
func switchedUnseen(in *rollout.Input) {
	restarted(in)
	in.Facts.Policy = ownPolicy(strict)
	in.Facts.Policy.SwitchedAt, in.Facts.Policy.Previous = in.Now.Add(-time.Minute), permissive
}

func restarted(in *rollout.Input) {
	in.Held, in.Baseline, in.Facts.UnchangedFor = facts.Policy{}, nil, 0
}
