// Package istio turns an intent into the Istio objects that say it. It is pure: objects come out without owner, version or
// anything else that only the cluster knows.
package istio

import (
	"maps"
	"time"

	securityapi "istio.io/api/security/v1beta1"
	typeapi "istio.io/api/type/v1beta1"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/plan"
)

// Objects are what a profile wants the cluster to hold; those of these kinds that it owns and does not list must go.
type Objects struct {
	// PeerAuthentication is nil for none.
	PeerAuthentication *securityv1.PeerAuthentication
	// Members are the PeerAuthentications of single workloads that go before a whole namespace, ordered by name.
	Members []*securityv1.PeerAuthentication
	// KeepMembers are the names of those that must be left exactly as they are, and KeepAllMembers says so of all.
	KeepMembers    []string
	KeepAllMembers bool
	// KeepPeerAuthentication says that the live one must be left exactly as it is; the others likewise.
	KeepPeerAuthentication, KeepDestinationRules, KeepRequestAuthentication bool
	// Loosens says that an edit of the profile makes the PeerAuthentication weaker than what is in force.
	Loosens bool
	// AfterDestinationRules says that the PeerAuthentication must outlive the DestinationRules when the profile goes.
	AfterDestinationRules bool
	// DestinationRules ordered by name.
	DestinationRules []*networkingv1.DestinationRule
	// RequestAuthentication is nil for none.
	RequestAuthentication *securityv1.RequestAuthentication
	// AuthorizationPolicies ordered by name.
	AuthorizationPolicies []*securityv1.AuthorizationPolicy
	// KeepAuthorizationPolicies are the names of those that must be left exactly as they are.
	KeepAuthorizationPolicies []string
}

// managedBy marks the objects for people; ownership is told by the controller reference alone.
const managedBy = "servicesecurity-operator"

// Render writes the intent of a profile as Istio objects.
func Render(profile string, intent plan.Intent) Objects {
	out := Objects{
		KeepPeerAuthentication:    intent.KeepPeer || intent.Keeps(v1alpha1.SectionMTLS),
		KeepDestinationRules:      intent.Keeps(v1alpha1.SectionMTLS),
		KeepRequestAuthentication: intent.Keeps(v1alpha1.SectionJWT),
		Loosens:                   intent.Loosens,
	}
	if intent.Keeps(v1alpha1.SectionJWT) {
		out.KeepAuthorizationPolicies = append(out.KeepAuthorizationPolicies, facts.TokenName(profile))
	}
	if intent.Keeps(v1alpha1.SectionAuthorization) {
		out.KeepAuthorizationPolicies = append(out.KeepAuthorizationPolicies, facts.AllowName(profile), facts.DenyName(profile))
	}
	if intent.Peer != nil {
		out.PeerAuthentication = peerAuthentication(intent.Namespace, *intent.Peer)
		out.AfterDestinationRules = intent.Peer.AfterClients
	}
	out.KeepMembers, out.KeepAllMembers = intent.KeepMembers, intent.KeepAllMembers
	for _, member := range intent.Members {
		out.Members = append(out.Members, peerAuthentication(intent.Namespace, member))
	}
	for _, client := range intent.Clients {
		out.DestinationRules = append(out.DestinationRules, destinationRule(intent.Namespace, client))
	}
	if intent.Tokens != nil {
		out.RequestAuthentication = requestAuthentication(intent.Namespace, *intent.Tokens)
	}
	for _, policy := range intent.Policies {
		out.AuthorizationPolicies = append(out.AuthorizationPolicies, authorizationPolicy(intent.Namespace, intent.TrustDomain, policy))
	}
	return out
}

func meta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: namespace, Name: name,
		Labels: map[string]string{"app.kubernetes.io/managed-by": managedBy},
	}
}

// attach says which proxies a policy is for.
func attach(a plan.Attachment) (*typeapi.WorkloadSelector, []*typeapi.PolicyTargetReference) {
	switch {
	case a.Gateway != "":
		return nil, []*typeapi.PolicyTargetReference{{Group: "gateway.networking.k8s.io", Kind: "Gateway", Name: a.Gateway}}
	case len(a.Selector) > 0:
		return &typeapi.WorkloadSelector{MatchLabels: maps.Clone(a.Selector)}, nil
	}
	return nil, nil
}

func switchAnnotations(peer plan.Peer) map[string]string {
	var annotations map[string]string
	note := func(key, value string) {
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations[key] = value
	}
	if !peer.SwitchedAt.IsZero() {
		note(v1alpha1.AnnotationSwitchedAt, peer.SwitchedAt.UTC().Format(time.RFC3339Nano))
		if !peer.Previous.Empty() {
			note(v1alpha1.AnnotationPreviousMode, peer.Previous.String())
		}
	}
	if !peer.RolledBack.Time.IsZero() {
		note(v1alpha1.AnnotationRolledBack, peer.RolledBack.String())
	}
	return annotations
}

var actions = map[bool]securityapi.AuthorizationPolicy_Action{
	false: securityapi.AuthorizationPolicy_ALLOW, true: securityapi.AuthorizationPolicy_DENY,
}
