//go:build istio

package istio_test

import (
	"fmt"
	"slices"
	"testing"

	networkingapi "istio.io/api/networking/v1alpha3"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/resolve"
	"github.com/servicesecurity/operator/test/builder"
)

// TestSidecarListeners: where a Sidecar has ingress listeners, what the operator takes a port to speak is what istiod makes the
// proxy serve there, whatever the Service says.
func TestSidecarListeners(t *testing.T) {
	ctx := testContext(t)
	const http, tcp, undeclared = facts.ProtocolHTTP, facts.ProtocolTCP, facts.ProtocolUndeclared
	c := told(&v1alpha1.ServiceSecurityProfile{ObjectMeta: metav1.ObjectMeta{Name: "in"}, Spec: v1alpha1.ServiceSecurityProfileSpec{
		Target: v1alpha1.Target{Kind: v1alpha1.TargetWorkload, Selector: &v1alpha1.WorkloadSelector{MatchLabels: map[string]v1alpha1.LabelValue{"app": "target"}}},
		JWT:    &v1alpha1.JWT{Issuers: []v1alpha1.Issuer{{Issuer: "https://issuer.example"}}},
	}}, false)
	c.Facts.Ports = []facts.WorkloadPort{{Port: 9000, Protocol: tcp}, {Port: 9001, Protocol: http}, {Port: 9002, Protocol: tcp}, {Port: 9003, Protocol: tcp}}
	target, err := settle(ctx, &c)
	if err != nil {
		t.Fatal(err)
	}
	sidecar := &networkingv1.Sidecar{ObjectMeta: metav1.ObjectMeta{Namespace: target.namespace, Name: "in"}}
	sidecar.Spec.Egress = noEgress
	for port, protocol := range map[uint32]string{9000: "HTTP", 9001: "MONGO", 9002: "HTTPS"} {
		sidecar.Spec.Ingress = append(sidecar.Spec.Ingress, &networkingapi.IstioIngressListener{
			Port: &networkingapi.SidecarPort{Number: port, Protocol: protocol, Name: fmt.Sprint("port-", port)}, DefaultEndpoint: fmt.Sprintf("127.0.0.1:%d", port),
		})
	}
	if err := kube.Create(ctx, sidecar); err != nil {
		t.Fatal(err)
	}
	found, err := (&resolve.Resolver{LiveReader: kube, RootNamespace: builder.RootNamespace}).Live().Resolve(ctx, c.Profile)
	if err != nil {
		t.Fatal(err)
	}
	want := []facts.WorkloadPort{{Port: 9000, Protocol: http}, {Port: 9001, Protocol: tcp}, {Port: 9002, Protocol: tcp}, {Port: 9003, Protocol: undeclared}}
	if !slices.Equal(found.Ports, want) {
		t.Errorf("the operator takes the ports for %v, want %v", found.Ports, want)
	}
	err = await(ctx, func() error {
		chains, _, err := target.chains(ctx)
		if err != nil {
			return err
		}
		for _, port := range want {
			served := map[bool]bool{}
			for _, one := range chains {
				if one.port == uint32(port.Port) {
					served[one.http] = true
				}
			}
			if served[true] != (port.Protocol == http) || served[false] != (port.Protocol == tcp) {
				return fmt.Errorf("port %d is %s, and has chains for requests: %t, for connections: %t", port.Port, port.Protocol, served[true], served[false])
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
