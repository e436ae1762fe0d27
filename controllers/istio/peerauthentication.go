package istio

import (
	"maps"

	securityapi "istio.io/api/security/v1beta1"
	typeapi "istio.io/api/type/v1beta1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/plan"
)

// peerAuthentication says what a workload accepts. Istio counts port exceptions only beside a selector, and its CRD
// refuses an empty map of them.
func peerAuthentication(namespace string, peer plan.Peer) *securityv1.PeerAuthentication {
	object := &securityv1.PeerAuthentication{ObjectMeta: meta(namespace, peer.Name)}
	object.Annotations = switchAnnotations(peer)
	if len(peer.Selector) > 0 {
		object.Spec.Selector = &typeapi.WorkloadSelector{MatchLabels: maps.Clone(peer.Selector)}
	}
	object.Spec.Mtls = mutualTLS(peer.Form.Mode)
	for port, mode := range peer.Form.Ports {
		if object.Spec.PortLevelMtls == nil {
			object.Spec.PortLevelMtls = map[uint32]*securityapi.PeerAuthentication_MutualTLS{}
		}
		object.Spec.PortLevelMtls[uint32(port)] = mutualTLS(mode) //nolint:gosec // ports are 1 to 65535
	}
	return object
}

func mutualTLS(mode v1alpha1.Mode) *securityapi.PeerAuthentication_MutualTLS {
	return &securityapi.PeerAuthentication_MutualTLS{Mode: peerMode(mode)}
}

func peerMode(mode v1alpha1.Mode) securityapi.PeerAuthentication_MutualTLS_Mode {
	switch mode {
	case v1alpha1.ModeStrict:
		return securityapi.PeerAuthentication_MutualTLS_STRICT
	case v1alpha1.ModePermissive:
		return securityapi.PeerAuthentication_MutualTLS_PERMISSIVE
	case v1alpha1.ModeDisabled:
		return securityapi.PeerAuthentication_MutualTLS_DISABLE
	}
	return securityapi.PeerAuthentication_MutualTLS_UNSET
}
