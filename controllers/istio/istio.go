// Package istio turns an intent into the Istio objects that say it. It is pure: objects come out without owner, version or
// anything else that only the cluster knows.
package istio

import (
	"time"

	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/plan"
)

// Objects are what a profile wants the cluster to hold; those of these kinds that it owns and does not list must go.
type Objects struct {
	// PeerAuthentication is nil for none.
	PeerAuthentication *securityv1.PeerAuthentication
	// KeepPeerAuthentication says that the live one must be left exactly as it is.
	KeepPeerAuthentication bool
	// AfterDestinationRules says that the PeerAuthentication must outlive the DestinationRules when the profile goes.
	AfterDestinationRules bool
	// DestinationRules ordered by name.
	DestinationRules []*networkingv1.DestinationRule
}

// managedBy marks the objects for people; ownership is told by the controller reference alone.
const managedBy = "servicesecurity-operator"

// Render writes the intent as Istio objects.
func Render(intent plan.Intent) Objects {
	out := Objects{KeepPeerAuthentication: intent.KeepPeer}
	if intent.Peer != nil {
		out.PeerAuthentication = peerAuthentication(intent.Namespace, *intent.Peer)
		out.AfterDestinationRules = intent.Peer.AfterClients
	}
	for _, client := range intent.Clients {
		out.DestinationRules = append(out.DestinationRules, destinationRule(intent.Namespace, client))
	}
	return out
}

func meta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: namespace, Name: name,
		Labels: map[string]string{"app.kubernetes.io/managed-by": managedBy},
	}
}

func switchAnnotations(peer plan.Peer) map[string]string {
	if peer.SwitchedAt.IsZero() {
		return nil
	}
	annotations := map[string]string{v1alpha1.AnnotationSwitchedAt: peer.SwitchedAt.UTC().Format(time.RFC3339Nano)}
	if !peer.Previous.Empty() {
		annotations[v1alpha1.AnnotationPreviousMode] = peer.Previous.String()
	}
	return annotations
}
