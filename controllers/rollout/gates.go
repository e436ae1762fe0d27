package rollout

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/traffic"
)

// settledReadings is how many complete intervals the plaintext gate stays closed after the last plaintext, so that the
// stage does not flap with a caller that comes now and then.
const settledReadings = 3

const (
	// maxNames is how many names a message lists.
	maxNames = 3
	// maxObjects is how many objects get a blocker of their own; what is more is summed up in one.
	maxObjects = 4
	// maxMessage and maxName bound messages and the names in them, in characters.
	maxMessage = 1024
	maxName    = 140
)

// A gate says what holds the switch; nothing when it is open.
type gate func(Input) []v1alpha1.Blocker

// standing are the gates that need no observation.
var standing = []gate{podsGate, entriesGate, portsGate, clientsGate, policiesGate, overridesGate}

// gates are judged all the time.
var gates = append(slices.Clone(standing), telemetryGate, plaintextGate)

// lateGates are judged once the observation window is full; approval comes after them.
var lateGates = []gate{rollingOutGate, trafficGate}

func closed(in Input, gates []gate) []v1alpha1.Blocker {
	var blockers []v1alpha1.Blocker
	for _, g := range gates {
		blockers = append(blockers, g(in)...)
	}
	return blockers
}

func blocker(kind v1alpha1.BlockerType, format string, args ...any) []v1alpha1.Blocker {
	return []v1alpha1.Blocker{{Type: kind, Message: clip(fmt.Sprintf(format, args...), maxMessage)}}
}

// names lists a few names. It does not count the others: a message with a number in it changes all the time.
func names(all []string) string {
	few := make([]string, 0, maxNames)
	for _, name := range all[:min(len(all), maxNames)] {
		few = append(few, clip(name, maxName))
	}
	list := strings.Join(few, ", ")
	if len(all) > maxNames {
		list += " and others"
	}
	return list
}

// clip shortens a text to so many characters.
func clip(text string, most int) string {
	if text = strings.TrimSpace(text); len(text) <= most && utf8.ValidString(text) {
		return text // characters are no more than bytes
	}
	runes := []rune(text)
	if len(runes) <= most {
		return string(runes)
	}
	return string(runes[:most-1]) + "…"
}

// each gives one blocker for each of the first objects, and one for all others.
func each[T any](all []T, one func(T) []v1alpha1.Blocker, rest func([]T) []v1alpha1.Blocker) []v1alpha1.Blocker {
	var blockers []v1alpha1.Blocker
	for _, object := range all[:min(len(all), maxObjects)] {
		blockers = append(blockers, one(object)...)
	}
	if len(all) > maxObjects {
		blockers = append(blockers, rest(all[maxObjects:])...)
	}
	return blockers
}

// podsGate: STRICT on a pod without an Envoy sidecar would be a promise that nobody keeps, and its callers are not seen.
func podsGate(in Input) []v1alpha1.Blocker {
	if len(in.Facts.Pods) == 0 {
		return blocker(v1alpha1.BlockerNoPods, "The target has no pods, so there is nothing to observe. Start the workload, or use rollout.strategy Immediate.")
	}
	remedies := []struct {
		membership facts.Membership
		kind       v1alpha1.BlockerType
		format     string
	}{
		{facts.MemberNone, v1alpha1.BlockerPodsNotInMesh, "Pods without a sidecar cannot take mutual TLS: %s. Enable injection (label the namespace istio-injection=enabled, or the pod sidecar.istio.io/inject=true) and restart them, or take them out of the target."},
		{facts.MemberAmbient, v1alpha1.BlockerAmbientUnsupported, "Pods in ambient mode are not supported: %s. Target a workload with sidecars."},
		{facts.MemberProxyless, v1alpha1.BlockerPodsNotInMesh, "Pods with proxyless gRPC have no Envoy to observe: %s. Use the sidecar injection template, or rollout.strategy Immediate."},
		{facts.MemberTLSDisabled, v1alpha1.BlockerPodsNotInMesh, "Callers send plaintext to pods without the label security.istio.io/tlsMode: istio: %s. Let the injector set the label, and restart them."},
		{facts.MemberNoInterception, v1alpha1.BlockerPodsNotInMesh, "Inbound traffic of pods with interception mode NONE bypasses the proxy: %s. Use interception mode REDIRECT or TPROXY and restart them."},
	}
	var blockers []v1alpha1.Blocker
	for _, r := range remedies {
		var pods []string
		for _, pod := range in.Facts.Pods {
			if pod.Membership == r.membership {
				pods = append(pods, pod.Name)
			}
		}
		if len(pods) > 0 {
			blockers = append(blockers, blocker(r.kind, r.format, names(pods))...)
		}
	}
	return blockers
}

// entriesGate: proxies that cannot be listed cannot be observed.
func entriesGate(in Input) []v1alpha1.Blocker {
	var blockers []v1alpha1.Blocker
	if entries := in.Facts.WorkloadEntries; len(entries) > 0 {
		blockers = append(blockers, blocker(v1alpha1.BlockerWorkloadEntry, "WorkloadEntries belong to the target, and their proxies cannot be observed: %s. Take them out of the target, or use rollout.strategy Immediate.", names(entries))...)
	}
	if clusters := in.Facts.RemoteClusters; len(clusters) > 0 {
		blockers = append(blockers, blocker(v1alpha1.BlockerRemoteCluster, "The mesh has remote clusters whose pods cannot be listed from here: %s. Use rollout.strategy Immediate when their callers are known to be meshed.", names(clusters))...)
	}
	return blockers
}

// portsGate: what does not pass the proxy is neither seen nor secured.
func portsGate(in Input) []v1alpha1.Blocker {
	var blockers []v1alpha1.Blocker
	var excluded, probes []string
	for _, pod := range in.Facts.Pods {
		if len(pod.ExcludedStrict) > 0 {
			excluded = append(excluded, fmt.Sprintf("%s (%s)", pod.Name, names(pod.ExcludedStrict)))
		}
		for _, container := range pod.UnrewrittenProbes {
			probes = append(probes, pod.Name+"/"+container)
		}
	}
	if len(excluded) > 0 {
		blockers = append(blockers, blocker(v1alpha1.BlockerPortsExcluded, "Inbound ports bypass the proxy, so neither STRICT nor observation applies to them: %s. Remove the annotation traffic.sidecar.istio.io/excludeInboundPorts (or widen includeInboundPorts) and restart the pods.", names(excluded))...)
	}
	if len(probes) > 0 {
		blockers = append(blockers, blocker(v1alpha1.BlockerUnrewrittenProbes, "The kubelet's probes or hooks reach the application through the proxy in plaintext: %s. Set the annotation sidecar.istio.io/rewriteAppHTTPProbers: \"true\" and restart the pods.", names(probes))...)
	}
	if sidecars := in.Facts.SidecarIngress; len(sidecars) > 0 {
		blockers = append(blockers, blocker(v1alpha1.BlockerSidecarIngressTLS, "Sidecar resources terminate TLS of their own for the target: %s. Remove tls from their ingress listeners.", names(sidecars))...)
	}
	return blockers
}

// clientsGate: a client that is told to send plaintext is cut off by STRICT.
func clientsGate(in Input) []v1alpha1.Blocker {
	var plaintext []facts.ClientRule
	for _, rule := range in.Facts.ClientRules {
		if rule.TLS != "" {
			plaintext = append(plaintext, rule)
		}
	}
	blockers := each(plaintext, func(rule facts.ClientRule) []v1alpha1.Blocker {
		return blocker(v1alpha1.BlockerPlaintextDestinationRule, "DestinationRule %s makes clients of %s use tls mode %s (%s), which STRICT refuses. Set it to ISTIO_MUTUAL, or remove the tls settings.",
			clip(rule.Namespace+"/"+rule.Name, maxName), clip(rule.Host, maxName), clip(rule.TLS, maxName), clip(rule.Where, maxName))
	}, func(rest []facts.ClientRule) []v1alpha1.Blocker {
		return blocker(v1alpha1.BlockerPlaintextDestinationRule, "More DestinationRules make clients use tls modes that STRICT refuses: %s. Set them to ISTIO_MUTUAL, or remove the tls settings.",
			names(unique(rest, func(r facts.ClientRule) string { return r.Namespace + "/" + r.Name })))
	})
	if entries := in.Facts.ServiceEntries; len(entries) > 0 {
		blockers = append(blockers, blocker(v1alpha1.BlockerPlaintextServiceEntry, "ServiceEntries lead clients to the target as if it were outside the mesh, with plaintext: %s. Set their location to MESH_INTERNAL and the serviceAccount of endpoints that they list, or remove them.", names(entries))...)
	}
	return blockers
}

// unique are the names of objects, each once, in their order.
func unique[T any](all []T, name func(T) string) []string {
	var out []string
	for _, object := range all {
		if n := name(object); !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

// policiesGate: Istio takes the oldest policy of a scope whole.
func policiesGate(in Input) []v1alpha1.Blocker {
	return competing(in.Facts.CompetingPolicies)
}

// winners are the policies that Istio uses instead of the profile's.
func winners(in Input) []v1alpha1.Blocker {
	var wins []facts.CompetingPolicy
	for _, policy := range in.Facts.CompetingPolicies {
		if policy.Wins {
			wins = append(wins, policy)
		}
	}
	return competing(wins)
}

func competing(policies []facts.CompetingPolicy) []v1alpha1.Blocker {
	return each(policies, func(policy facts.CompetingPolicy) []v1alpha1.Blocker {
		verdict := "Istio ignores it, because the profile's object is older"
		if policy.Wins {
			verdict = "Istio uses it instead of the profile's object, because it is older"
		}
		what := "selects pod " + clip(policy.Pod, maxName) + " too"
		if policy.Pod == "" {
			what = "is for the whole target too"
		}
		return blocker(v1alpha1.BlockerCompetingPeerAuthentication, "PeerAuthentication %s %s; %s. Delete it, or say what it says in this profile.",
			clip(policy.Namespace+"/"+policy.Name, maxName), what, verdict)
	}, func(rest []facts.CompetingPolicy) []v1alpha1.Blocker {
		return blocker(v1alpha1.BlockerCompetingPeerAuthentication, "More PeerAuthentications select the target's pods: %s. Delete them, or say what they say in this profile.",
			names(unique(rest, func(p facts.CompetingPolicy) string { return p.Namespace + "/" + p.Name })))
	})
}

// overridesGate: a changed Telemetry hides what is asked of it, and what nobody counts nobody shows.
func overridesGate(in Input) []v1alpha1.Blocker {
	var blockers []v1alpha1.Blocker
	if len(in.Facts.TelemetryOverrides) > 0 {
		blockers = blocker(v1alpha1.BlockerTelemetryOverridden, "Telemetry objects disable or change the metrics that plaintext is told from: %s. Remove what they disable for SERVER, their overrides of the tags reporter, connection_security_policy, source_*, destination_workload* and request_protocol, and a reportingInterval longer than a third of the window.", names(in.Facts.TelemetryOverrides))
	}
	if in.Facts.Uncounted {
		blockers = append(blockers, blocker(v1alpha1.BlockerTelemetryOverridden, "The target's proxies count nothing, because neither the mesh configuration nor a Telemetry names prometheus as their provider of metrics. Add prometheus to meshConfig.defaultProviders.metrics, or to metrics.providers of a Telemetry in the root namespace.")...)
	}
	return blockers
}

// telemetryGate: no data is not no plaintext.
func telemetryGate(in Input) []v1alpha1.Blocker {
	// Without a proxy to ask, the pods gate says what is missing.
	if in.Seen.Completeness == traffic.Complete || len(in.Facts.Pods) == 0 {
		return nil
	}
	message := strings.TrimSpace(in.Seen.Message)
	if message == "" {
		message = "The target's traffic was not observed yet. The operator reads its proxies at the next observation interval; nothing needs to be done unless this stays."
	}
	return blocker(v1alpha1.BlockerTelemetryIncomplete, "%s", message)
}

func recent(in Input) bool {
	last := lastPlaintext(in)
	at := seenTime(in)
	if at.IsZero() {
		at = in.Now
	}
	return !last.IsZero() && at.Sub(last) < settledReadings*in.Interval
}

// lastPlaintext is when plaintext was last there; an open connection is plaintext now, whether it moves or not.
func lastPlaintext(in Input) time.Time {
	last := latest(in.Seen.LastPlaintext, in.Previous.LastPlaintext)
	if in.Seen.OpenPlaintext > 0 {
		last = latest(last, in.Seen.Time)
	}
	return notAfter(last, in.Now)
}

// rollingOutGate: pods that come and go take their configuration from two sides at once.
func rollingOutGate(in Input) []v1alpha1.Blocker {
	if len(in.Facts.RollingOut) == 0 {
		return nil
	}
	return blocker(v1alpha1.BlockerPodsRollingOut, "A rollout of pods is in flight: %s. The switch waits for its end; if it does not end, see kubectl rollout status. By updateStrategy OnDelete, or with a partition, pods of an older revision stay: delete the pods, or set the partition to 0.", names(in.Facts.RollingOut))
}

// trafficGate: a workload that nobody calls has not shown that its callers use mutual TLS.
func trafficGate(in Input) []v1alpha1.Blocker {
	if in.Seen.MutualTLS >= in.Spec.MinRequests {
		return nil
	}
	return blocker(v1alpha1.BlockerInsufficientTraffic, "Fewer requests and connections by mutual TLS than rollout.minRequests (%d) were seen in the observation window. Send traffic, lengthen observationWindow, or set minRequests to 0 to let an idle workload switch.", in.Spec.MinRequests)
}
