package status

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/rollout"
	"github.com/servicesecurity/operator/controllers/traffic"
)

// warnings are what works but should be known, the gravest first.
func warnings(r report) []v1alpha1.Warning {
	var out []v1alpha1.Warning
	of := func(section v1alpha1.Section) addWarning {
		return func(kind v1alpha1.WarningType, format string, args ...any) {
			w := v1alpha1.Warning{Type: kind, Section: section, Message: clip(fmt.Sprintf(format, args...), maxMessage)}
			if len(out) < maxWarnings && !slices.Contains(out, w) {
				out = append(out, w)
			}
		}
	}
	if r.secures() {
		mtlsWarnings(r, of(v1alpha1.SectionMTLS))
	}
	if r.acted() && r.Profile.Spec.JWT != nil && !r.Facts.Lost(v1alpha1.SectionJWT) {
		tokenWarnings(r, of(v1alpha1.SectionJWT))
	}
	if r.acted() && r.Profile.Spec.Authorization != nil && !r.Facts.Lost(v1alpha1.SectionAuthorization) {
		callerWarnings(r, of(v1alpha1.SectionAuthorization))
	}
	return out
}

func mtlsWarnings(r report, add addWarning) {
	strictWarnings(r, add)
	for _, host := range r.Facts.Hosts {
		hostWarnings(r, host, add)
	}
	rolloutWarnings(r, add)
	for _, port := range r.Facts.UnmappedPorts {
		add(v1alpha1.WarningPortNotMapped, "No Service maps workload port %d of mtls.portLevel. See that it is the container's port, not the Service's.", port)
	}
}

type addWarning func(kind v1alpha1.WarningType, format string, args ...any)

// strictWarnings say who is cut off by STRICT, and whom it does not secure.
func strictWarnings(r report, add addWarning) {
	if text := failedForGood(r); text != "" {
		add(v1alpha1.WarningVerificationFailed, "%s", text)
	}
	if r.mtls.Stage != v1alpha1.StageEnforced && r.mtls.Stage != v1alpha1.StageVerifying {
		return
	}
	if pods := outside(r.Facts.Pods); len(pods) > 0 {
		add(v1alpha1.WarningPodsNotInMesh, "STRICT is in force, but these pods have no sidecar that could demand it, and take plaintext: %s. Enable injection and restart them.", names(pods))
	}
	for _, rule := range r.Facts.ClientRules {
		if rule.TLS != "" {
			add(v1alpha1.WarningClientsSendPlaintext, "DestinationRule %s/%s makes clients of %s use tls mode %s (%s), which STRICT refuses. Set it to ISTIO_MUTUAL, or remove the tls settings.",
				rule.Namespace, rule.Name, rule.Host, rule.TLS, rule.Where)
		}
	}
	if entries := r.Facts.ServiceEntries; len(entries) > 0 {
		add(v1alpha1.WarningClientsSendPlaintext, "ServiceEntries lead clients to the target as if it were outside the mesh, with plaintext, which STRICT refuses: %s. Set their location to MESH_INTERNAL and the serviceAccount of endpoints that they list, or remove them.", names(entries))
	}
}

// hostWarnings say what the profile's DestinationRule for a host, or its absence, does to clients.
func hostWarnings(r report, host facts.Host, add addWarning) {
	if !demandsMutual(r.Decision.Rules, host) {
		withheld(r, host, add)
		return
	}
	if pods := host.UnmeshedEndpoints; len(pods) > 0 {
		remedy := "Enable injection and restart them"
		if r.Spec.DestinationRule == v1alpha1.DestinationRuleAlways {
			remedy += ", or set destinationRule to Auto"
		}
		add(v1alpha1.WarningPodsNotReachable, "The DestinationRule for %s demands mutual TLS, so clients never reach these pods, which have no sidecar: %s. %s.", host.Name, names(pods), remedy)
	}
	for _, foreign := range r.Facts.ClientRules {
		if foreign.Host == host.Name {
			add(v1alpha1.WarningDestinationRuleReplaced, "DestinationRule %s/%s is for %s too. Istio does not merge the two: where the profile's rule applies, that one has no effect, and the reverse. Set destinationRule to Never, or remove that rule.", foreign.Namespace, foreign.Name, foreign.Host)
		}
	}
}

func demandsMutual(rules []rollout.Rule, host facts.Host) bool {
	return slices.ContainsFunc(rules, func(rule rollout.Rule) bool {
		ports := slices.ContainsFunc(rule.Ports, func(p rollout.RulePort) bool { return p.TLS == facts.TLSMutual })
		return rule.Host.Name == host.Name && (rule.TLS == facts.TLSMutual || ports)
	})
}

// withheld warns where auto-mTLS makes clients send plaintext, and no rule of the profile makes them do otherwise.
func withheld(r report, host facts.Host, add addWarning) {
	why := "Auto-mTLS is off in the mesh configuration"
	switch {
	case !r.Spec.AsksStrict():
		return
	case !r.Facts.Mesh.AutoMTLS:
	case r.Facts.PlaintextInherited():
		why = "Because PeerAuthentication " + r.Facts.InheritedFrom + " says DISABLE, clients without a rule send plaintext whatever the workload's own says"
	case !host.Headless:
		return
	default:
		why = "Service " + host.Service + " is headless, so that clients send plaintext to all of its pods while one has no sidecar"
	}
	if r.Spec.DestinationRule == v1alpha1.DestinationRuleNever {
		add(v1alpha1.WarningDestinationRuleWithheld, "%s, and destinationRule is Never: clients use mutual TLS for %s only if a rule of their own says so. Set destinationRule to Auto, or write such a rule.", why, host.Name)
		return
	}
	for _, foreign := range r.Facts.ClientRules {
		if foreign.Host == host.Name {
			add(v1alpha1.WarningDestinationRuleWithheld, "%s, and DestinationRule %s/%s keeps the profile from writing a rule for %s. See that it says tls mode ISTIO_MUTUAL.", why, foreign.Namespace, foreign.Name, host.Name)
		}
	}
}

// rolloutWarnings say what the rollout cannot see.
func rolloutWarnings(r report, add addWarning) {
	if r.Spec.AsksStrict() && r.Spec.Strategy == v1alpha1.StrategyImmediate {
		add(v1alpha1.WarningObservationSkipped, "%s", skipped(r))
	}
	if r.Decision.Observe && r.Seen.Completeness == traffic.Complete && !r.Seen.ConnectionsVisible {
		add(v1alpha1.WarningStreamsNotVisible, "The proxies do not expose their connection statistics, so a plaintext stream that was opened before the observation window and is still open cannot be seen. Expose them by proxyStatsMatcher with inclusionSuffixes downstream_cx_active and downstream_cx_ssl_active.")
	}
	if r.Facts.RemoteClustersHidden {
		add(v1alpha1.WarningRemoteClustersNotVisible, "The operator may not list the Secrets of Istio's namespace by which istiod reaches other clusters, so it cannot tell whether the target has pods there. If the mesh has other clusters, apply config/remote-clusters; docs/install.md says what that allows.")
	}
	scheduledWarning(r, add)
	rollbackWarning(r, add)
	if r.mtls.Stage == v1alpha1.StageVerifying {
		sightWarning(r, add)
	}
}

// rollbackWarning says, before it matters, that STRICT would not be taken back although the profile asks for that.
func rollbackWarning(r report, add addWarning) {
	spec := r.Spec
	if !spec.AsksStrict() || spec.Strategy != v1alpha1.StrategyStaged || spec.Rollback != v1alpha1.RollbackAutomatic ||
		spec.VerificationWindow == 0 || r.mtls.Stage == v1alpha1.StageEnforced {
		return
	}
	who, denials := identityDenials(r)
	if spec.DeniesIdentities {
		who, denials = "", append([]string{"deniedCallers of this profile"}, denials...)
	}
	if len(denials) > 0 {
		add(v1alpha1.WarningRollbackWithheld, "STRICT%s will not be rolled back if callers fail after the switch, although rollout.rollback is Automatic: in plaintext, callers would get in who are kept out by their identity, by %s.", who, names(denials))
	}
}

// identityDenials are those for the target or, of a whole namespace, for the workloads that it takes to STRICT, and for which.
func identityDenials(r report) (who string, denials []string) {
	if len(r.Members) == 0 {
		return "", r.Facts.IdentityDenials
	}
	var workloads []string
	for _, m := range r.Members {
		if of := m.Facts.IdentityDenials; len(of) > 0 && !m.Follows() {
			workloads, denials = append(workloads, m.Name), append(denials, of...)
		}
	}
	slices.Sort(denials)
	return " of " + names(workloads), slices.Compact(denials)
}

// sightWarning says whose failures verification cannot see.
func sightWarning(r report, add addWarning) {
	const besides = "The target's own proxies are watched, but they do not know whom they refuse in the handshake."
	switch {
	case len(r.Sight.Unseen) > 0:
		add(v1alpha1.WarningCallersNotVisible, "Verification cannot see whether the calls of these callers fail: %s. %s", names(r.Sight.Unseen), besides)
	case len(r.Sight.Callers) == 0:
		add(v1alpha1.WarningCallersNotVisible, "Verification cannot see whether calls fail, because no caller by mutual TLS is known from the observation window. %s", besides)
	}
}

// failedForGood names the callers that failed although nothing is rolled back. They are known only when it happens, so what
// was said then stays as long as this STRICT does.
func failedForGood(r report) string {
	if r.mtls.Stage != v1alpha1.StageEnforced {
		return ""
	}
	if failed := r.Decision.FailedCallers; len(failed) > 0 {
		said := "Callers fail since the switch to STRICT, and nothing is rolled back: " + names(failed) + "."
		if denials := r.Facts.IdentityDenials; len(denials) > 0 {
			said = sentences(said, "In plaintext, callers would get in whom these AuthorizationPolicies keep out by their identity: "+names(denials)+".")
		}
		return said
	}
	return remembers(r, v1alpha1.WarningVerificationFailed)
}

// skipped says what a switch without observation rests on: nothing but the gates that were open in that moment.
func skipped(r report) string {
	text := "With rollout.strategy Immediate STRICT does not wait until it is known who calls: plaintext callers, if there are any, are refused."
	if !r.Decision.Switched || !written(r.Input) {
		return or(remembers(r, v1alpha1.WarningObservationSkipped), text)
	}
	var kinds []string
	for _, kind := range r.Decision.Skipped {
		kinds = append(kinds, string(kind))
	}
	held := "None of the gates that can be judged without observation was closed when STRICT was written."
	if len(kinds) > 0 {
		held = "These gates were closed when STRICT was written, and held nothing: " + strings.Join(kinds, ", ") + "."
	}
	return sentences(text, held)
}

// remembers is what a warning said before, if it was about the same STRICT; empty otherwise.
func remembers(r report, kind v1alpha1.WarningType) string {
	before := r.Profile.Status
	if before.MTLS == nil || before.MTLS.Stage != v1alpha1.StageEnforced || r.mtls.Stage != v1alpha1.StageEnforced ||
		before.ObservedGeneration != r.Profile.Generation || !before.MTLS.EnforcedTime.Equal(r.mtls.EnforcedTime) {
		return ""
	}
	for _, w := range before.Warnings {
		if w.Type == kind {
			return w.Message
		}
	}
	return ""
}

// scheduledWarning names the jobs that the window may have missed.
func scheduledWarning(r report, add addWarning) {
	var jobs []string
	var longest time.Duration
	for _, job := range r.Facts.ScheduledJobs {
		jobs = append(jobs, job.Namespace+"/"+job.Name)
		longest = max(longest, job.Gap)
	}
	if len(jobs) > 0 {
		hours := int64((longest + time.Hour - 1) / time.Hour)
		add(v1alpha1.WarningScheduledJobOutsideWindow, "Scheduled jobs that may call the target run less often than once in rollout.observationWindow, so the plaintext that they may send is not known: %s. Lengthen observationWindow to more than %dh, or see that their pods have a sidecar.", names(jobs), hours)
	}
}

func outside(pods []facts.Pod) []string {
	var names []string
	for _, pod := range pods {
		if pod.Membership != facts.MemberSidecar {
			names = append(names, pod.Name)
		}
	}
	return names
}
