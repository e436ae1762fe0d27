package status

import (
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/plan"
	"github.com/servicesecurity/operator/controllers/traffic"
)

func authorizationEnforced(r report) metav1.Condition {
	const kind = v1alpha1.ConditionAuthorizationEnforced
	a := r.Profile.Spec.Authorization
	switch {
	case !r.acted() || a != nil && r.Facts.Lost(v1alpha1.SectionAuthorization):
		return isFalse(kind, v1alpha1.ReasonNotAccepted, notAccepted)
	case a == nil:
		return isFalse(kind, v1alpha1.ReasonNotRequested, "The profile has no authorization section.")
	case r.Applied.PoliciesFailed:
		return isFalse(kind, applyReason(r.ApplyError), "The policies for the callers are not in force as the profile asks; see the condition Programmed.")
	case r.Applied.Settling > 0:
		return isFalse(kind, v1alpha1.ReasonSettling, "The policies for the callers follow when the proxies have taken the tokens; see the condition Programmed.")
	case a.Enforcement == v1alpha1.EnforcementDryRun:
		return isFalse(kind, v1alpha1.ReasonDryRun, "%s", counting(r))
	}
	if pods := outside(r.Facts.Pods); len(pods) > 0 {
		return isFalse(kind, v1alpha1.ReasonPodsNotInMesh, "These pods have no proxy that could refuse anybody, so everybody can call them: %s. Enable injection and restart them.", names(pods))
	}
	if ports := bypassing(r.Facts.Pods); len(ports) > 0 {
		return isFalse(kind, string(v1alpha1.BlockerPortsExcluded), "These ports bypass the proxy, so everybody can call them: %s. Take them out of the annotation traffic.sidecar.istio.io/excludeInboundPorts, or add them to includeInboundPorts, and restart the pods.", names(ports))
	}
	return isTrue(kind, kind, "%s", sentences(whoMayCall(*a), plaintextCallers(r), missingCallers(r.Facts)))
}

// whoMayCall names the callers.
func whoMayCall(a v1alpha1.Authorization) string {
	denied := ""
	if len(a.DeniedCallers) > 0 {
		denied = fmt.Sprintf("These callers are refused: %s.", names(callerNames(a.DeniedCallers)))
	}
	switch {
	case a.Default == v1alpha1.DefaultAllow:
		return sentences(denied, "All others are let in.")
	case len(a.AllowedCallers) == 0:
		return "The profile lets in nobody, because allowedCallers is empty. Policies of other profiles for the same pods, or made by hand, let callers in beside it."
	}
	return sentences(fmt.Sprintf("The profile lets in only these callers: %s.", names(callerNames(a.AllowedCallers))), denied)
}

// bypassing are the ports that the pods' proxies do not see, each once.
func bypassing(pods []facts.Pod) []string {
	var ports []string
	for _, pod := range pods {
		for _, port := range pod.ExcludedPorts {
			if text := pod.Name + " " + port; !slices.Contains(ports, text) {
				ports = append(ports, text)
			}
		}
	}
	return ports
}

func callerNames(callers []v1alpha1.Caller) []string {
	var all []string
	for _, caller := range callers {
		all = append(all, caller.Name)
	}
	return all
}

func byIdentity(c v1alpha1.Caller) bool {
	return len(c.ServiceAccounts)+len(c.Namespaces)+len(c.Principals) > 0
}

// plaintextCallers says what rules by identity do to callers that have none.
func plaintextCallers(r report) string {
	a := r.Profile.Spec.Authorization
	if r.mtls.EffectiveMode == v1alpha1.ModeStrict || r.Facts.Target.Scope == v1alpha1.ScopeGateway {
		return ""
	}
	allowed, denied := slices.ContainsFunc(a.AllowedCallers, byIdentity), slices.ContainsFunc(a.DeniedCallers, byIdentity)
	text := ""
	if a.Default != v1alpha1.DefaultAllow && allowed {
		text = "While plaintext is accepted, a caller in plaintext has no identity: it matches no caller that is named by one, and is refused unless another matches."
	}
	if denied {
		text = sentences(text, "A caller that is refused by its identity gets in by plaintext as long as that is accepted. Set mtls.mode to Strict.")
	}
	return text
}

func missingCallers(f facts.Facts) string {
	var texts []string
	if accounts := f.MissingServiceAccounts; len(accounts) > 0 {
		texts = append(texts, fmt.Sprintf("These service accounts do not exist: %s.", names(accounts)))
	}
	if namespaces := f.MissingNamespaces; len(namespaces) > 0 {
		texts = append(texts, fmt.Sprintf("These namespaces do not exist: %s.", names(namespaces)))
	}
	return sentences(texts...)
}

// callerWarnings say what the callers' section does besides what it says.
func callerWarnings(r report, add addWarning) {
	a := r.Profile.Spec.Authorization
	if text := plaintextCallers(r); text != "" {
		add(v1alpha1.WarningPlaintextRefusedByIdentity, "%s", text)
	}
	for _, foreign := range r.Facts.ForeignPolicies {
		if text := beside(foreign, *a); text != "" {
			add(v1alpha1.WarningForeignAuthorizationPolicy, "AuthorizationPolicy %s/%s is for the same pods: %s. Say what it says in this profile, and delete it.", foreign.Namespace, foreign.Name, text)
		}
	}
	if text := missingCallers(r.Facts); text != "" {
		add(v1alpha1.WarningCallerNotFound, "%s Rules for them match nobody until they do; see that the names are right.", text)
	}
	tcp, undeclared := portsOf(r.Facts, facts.ProtocolTCP), portsOf(r.Facts, facts.ProtocolUndeclared)
	onConnections := func(c v1alpha1.Caller) bool { return !readsRequests(c) }
	if denied := callerNames(slices.DeleteFunc(slices.Clone(a.DeniedCallers), onConnections)); len(denied) > 0 {
		if len(tcp) > 0 {
			add(v1alpha1.WarningCallerOnTCPPort, "What these denied callers say of requests cannot be told on workload %s, which speaks TCP, so they are not refused there: %s.", portsText(tcp), names(denied))
		}
		if len(undeclared) > 0 {
			add(v1alpha1.WarningCallerOnUndeclaredPort, "The protocol of workload %s is not declared, or not everywhere the same. What turns out not to be HTTP there is refused for whoever else these denied callers name, or for everybody, because what they say of requests cannot be told: %s. Name the Service's port by its protocol, or set appProtocol; where the pods' Sidecar has ingress listeners, these count instead: list the port there.", portsText(undeclared), names(denied))
		}
	}
	if closed := closedPorts(r.Facts, *a); len(closed) > 0 {
		add(v1alpha1.WarningCallerOnTCPPort, "Nobody gets in on workload %s, which speaks TCP, because every allowed caller says something of requests. Add a caller by service account, namespace or address for it.", portsText(closed))
	}
}

// beside says what somebody else's policy does to what the profile says; empty for nothing.
func beside(foreign facts.ForeignPolicy, a v1alpha1.Authorization) string {
	switch {
	case foreign.DryRun || foreign.Action == "AUDIT":
		return ""
	case foreign.Action == "ALLOW" && a.Default == v1alpha1.DefaultAllow:
		return "it lets in only what it names, although this profile lets in all but deniedCallers"
	case foreign.Action == "ALLOW":
		return "who it lets in gets in besides allowedCallers"
	case foreign.Action == "CUSTOM":
		return "its provider decides first, and may refuse who this profile lets in"
	}
	return "it may refuse who this profile lets in"
}

// readsRequests says whether something that a caller says can only be told of a request.
func readsRequests(c v1alpha1.Caller) bool {
	return slices.ContainsFunc(plan.Rules(c, ""), plan.Rule.AboutRequests)
}

// closedPorts are the TCP ports that no allowed caller can use.
func closedPorts(f facts.Facts, a v1alpha1.Authorization) []string {
	if a.Default == v1alpha1.DefaultAllow || len(a.AllowedCallers) == 0 {
		return nil
	}
	var closed []string
	for _, port := range f.Ports {
		opens := func(c v1alpha1.Caller) bool { return admits(c, port.Port) }
		if port.Protocol == facts.ProtocolTCP && !slices.ContainsFunc(a.AllowedCallers, opens) {
			closed = append(closed, fmt.Sprint(port.Port))
		}
	}
	return closed
}

// admits says whether a caller can get in on a TCP port, where Istio drops a rule about requests whole.
func admits(c v1alpha1.Caller, port int32) bool {
	return slices.ContainsFunc(plan.Rules(c, ""), func(rule plan.Rule) bool {
		return !rule.AboutRequests() && (len(rule.To) == 0 || slices.ContainsFunc(rule.To, func(o plan.Operation) bool {
			return len(o.Ports) == 0 || slices.Contains(o.Ports, port)
		}))
	})
}

// dryRun is what a dry run has counted. What was counted before stays until all proxies are read again.
func dryRun(in Input) *v1alpha1.AuthorizationStatus {
	a := in.Profile.Spec.Authorization
	if !in.acted() || a == nil || a.Enforcement != v1alpha1.EnforcementDryRun {
		return nil
	}
	if in.Shadow.Completeness != traffic.Complete {
		if before := in.Profile.Status.Authorization; before != nil {
			return before.DeepCopy()
		}
		return &v1alpha1.AuthorizationStatus{}
	}
	out := &v1alpha1.AuthorizationStatus{ObservedTime: instant(in.Now)}
	for _, port := range in.Shadow.Ports[:min(len(in.Shadow.Ports), traffic.MaxShadowPorts)] {
		out.DryRun = append(out.DryRun, v1alpha1.DryRunCount{Port: port.Port, Allowed: port.Allowed, Refused: port.Refused})
	}
	return out
}

// counting explains a dry run.
func counting(r report) string {
	text := "Nobody is refused while enforcement is DryRun. What would be is counted by the proxies, and summed up in status.authorization.dryRun. Set enforcement to Enforced to refuse it."
	switch r.Shadow.Completeness {
	case traffic.Incomplete, traffic.Unavailable:
		text = sentences(text, r.Shadow.Message)
	case traffic.Complete, traffic.Skipped:
	}
	return text
}
