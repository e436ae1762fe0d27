package istio

import (
	networkingapi "istio.io/api/networking/v1alpha3"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"

	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/plan"
)

// destinationRule says what clients of a host do. A port is left to auto-mTLS by what has no tls and no entry for it.
func destinationRule(namespace string, client plan.Client) *networkingv1.DestinationRule {
	object := &networkingv1.DestinationRule{ObjectMeta: meta(namespace, client.Name)}
	object.Spec.Host = client.Host
	if client.Export {
		object.Spec.ExportTo = []string{"*"}
	}
	if client.TLS == facts.TLSUnset && len(client.Ports) == 0 {
		return object // the host alone, so that auto-mTLS decides whatever wider rules say
	}
	object.Spec.TrafficPolicy = &networkingapi.TrafficPolicy{Tls: clientTLS(client.TLS)}
	for _, port := range client.Ports {
		object.Spec.TrafficPolicy.PortLevelSettings = append(object.Spec.TrafficPolicy.PortLevelSettings, &networkingapi.TrafficPolicy_PortTrafficPolicy{
			Port: &networkingapi.PortSelector{Number: uint32(port.Port)}, //nolint:gosec // ports are 1 to 65535
			Tls:  clientTLS(port.TLS),
		})
	}
	return object
}

func clientTLS(tls facts.TLS) *networkingapi.ClientTLSSettings {
	switch tls {
	case facts.TLSMutual:
		return &networkingapi.ClientTLSSettings{Mode: networkingapi.ClientTLSSettings_ISTIO_MUTUAL}
	case facts.TLSDisable:
		return &networkingapi.ClientTLSSettings{Mode: networkingapi.ClientTLSSettings_DISABLE}
	case facts.TLSUnset:
	}
	return nil
}
