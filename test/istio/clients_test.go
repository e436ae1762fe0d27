//go:build istio

package istio_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/google/go-cmp/cmp"
	networkingapi "istio.io/api/networking/v1alpha3"
	securityapi "istio.io/api/security/v1beta1"
	typeapi "istio.io/api/type/v1beta1"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/istio"
	"github.com/servicesecurity/operator/controllers/plan"
	"github.com/servicesecurity/operator/controllers/resolve"
)

const (
	clusterType  = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	endpointType = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	socketMatch  = "envoy.transport_socket_match"
	tlsModeKey   = "tlsMode"
	tlsModeLabel = "security.istio.io/tlsMode"
	// Of the Services of clients' tests.
	plainPort, securePort = 80, 443
)

// What a client sends an endpoint.
const (
	sendsMutual    = "mutual TLS"
	sendsTLS       = "TLS"
	sendsPlaintext = "plaintext"
)

// sends is what a proxy sends each endpoint of its clusters, by the cluster's name and the endpoint's address.
func (p proxy) sends(ctx context.Context) (map[string]map[string]string, error) {
	clusters, err := ask[clusterv3.Cluster](ctx, p, clusterType)
	if err != nil {
		return nil, err
	}
	byName := map[string]*clusterv3.Cluster{}
	for _, one := range clusters {
		if one.GetType() == clusterv3.Cluster_EDS {
			byName[one.GetName()] = one
		}
	}
	if len(byName) == 0 {
		return nil, errors.New("the proxy knows no clusters")
	}
	loads, err := ask[endpointv3.ClusterLoadAssignment](ctx, p, endpointType, slices.Collect(maps.Keys(byName))...)
	if err != nil {
		return nil, err
	}
	sent := map[string]map[string]string{}
	for _, load := range loads {
		sent[load.GetClusterName()] = map[string]string{}
		for _, locality := range load.GetEndpoints() {
			for _, endpoint := range locality.GetLbEndpoints() {
				what, err := sends(byName[load.GetClusterName()], endpoint)
				if err != nil {
					return nil, err
				}
				sent[load.GetClusterName()][endpoint.GetEndpoint().GetAddress().GetSocketAddress().GetAddress()] = what
			}
		}
	}
	return sent, nil
}

// sends reads a cluster as Envoy does: the first socket whose match the endpoint's metadata has or, where there are none to
// choose from, the cluster's own.
func sends(to *clusterv3.Cluster, endpoint *endpointv3.LbEndpoint) (string, error) {
	socket := to.GetTransportSocket()
	has := endpoint.GetMetadata().GetFilterMetadata()[socketMatch].GetFields()
	for _, match := range to.GetTransportSocketMatches() {
		want, asks := match.GetMatch().GetFields()[tlsModeKey]
		if len(match.GetMatch().GetFields()) == 0 || asks && has[tlsModeKey].GetStringValue() == want.GetStringValue() {
			socket = match.GetTransportSocket()
			break
		}
	}
	var settings tlsv3.UpstreamTlsContext
	if !socket.GetTypedConfig().MessageIs(&settings) {
		return sendsPlaintext, nil
	}
	if err := socket.GetTypedConfig().UnmarshalTo(&settings); err != nil {
		return "", fmt.Errorf("cluster %s: %w", to.GetName(), err)
	}
	if len(settings.GetCommonTlsContext().GetTlsCertificateSdsSecretConfigs()) > 0 {
		return sendsMutual, nil
	}
	return sendsTLS, nil
}

// callers puts a pod in the mesh into a namespace of its own, whose proxy knows the Services of that namespace.
func callers(ctx context.Context) (proxy, error) {
	p := newProxy()
	p.labels[tlsModeLabel] = "istio"
	if err := kube.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: p.namespace}}); err != nil {
		return p, err
	}
	outbound := &networkingv1.Sidecar{ObjectMeta: metav1.ObjectMeta{Namespace: p.namespace, Name: "default"}}
	outbound.Spec.Egress = []*networkingapi.IstioEgressListener{{Hosts: []string{"./*"}}}
	return p, errors.Join(kube.Create(ctx, outbound), createPod(ctx, p))
}

// createService makes a Service of two ports for the namespace's pods, which are its endpoints: nobody else makes them here.
func createService(ctx context.Context, name string, pods ...proxy) (host string, err error) {
	in := metav1.ObjectMeta{Namespace: pods[0].namespace, Name: name}
	service := &corev1.Service{ObjectMeta: in}
	slice := &discoveryv1.EndpointSlice{ObjectMeta: in, AddressType: discoveryv1.AddressTypeIPv4}
	slice.Labels = map[string]string{discoveryv1.LabelServiceName: name}
	service.Spec.Selector = pods[0].labels
	for name, port := range map[string]corev1.ServicePort{
		"http": {Port: plainPort, TargetPort: intstr.FromInt32(8080)}, "https": {Port: securePort, TargetPort: intstr.FromInt32(9443)},
	} {
		port.Name = name
		service.Spec.Ports = append(service.Spec.Ports, port)
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &name, Port: &port.TargetPort.IntVal})
	}
	for _, pod := range pods {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{pod.address}, TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: pod.namespace, Name: pod.name},
		})
	}
	return resolve.Host(name, in.Namespace, "cluster.local"), errors.Join(kube.Create(ctx, service), kube.Create(ctx, slice))
}

// policies are all that a policy can say of TLS for one port.
func policies() map[string]*networkingapi.TrafficPolicy {
	tls := func(mode string) *networkingapi.ClientTLSSettings {
		value, known := networkingapi.ClientTLSSettings_TLSmode_value[mode]
		if !known {
			return nil
		}
		return &networkingapi.ClientTLSSettings{Mode: networkingapi.ClientTLSSettings_TLSmode(value)}
	}
	all := map[string]*networkingapi.TrafficPolicy{"": nil}
	for _, mode := range []string{"unset", "DISABLE", "SIMPLE", "ISTIO_MUTUAL"} {
		for _, entry := range []string{"none", "unset", "DISABLE", "ISTIO_MUTUAL"} {
			policy := &networkingapi.TrafficPolicy{
				Tls: tls(mode), OutlierDetection: &networkingapi.OutlierDetection{SplitExternalLocalOriginErrors: true},
			}
			if entry != "none" {
				policy.PortLevelSettings = []*networkingapi.TrafficPolicy_PortTrafficPolicy{{
					Port: &networkingapi.PortSelector{Number: plainPort}, Tls: tls(entry),
					OutlierDetection: &networkingapi.OutlierDetection{SplitExternalLocalOriginErrors: true},
				}}
			}
			all[mode+", port "+entry] = policy
		}
	}
	return all
}

// TestBreakingTLS asks istiod what clients do of whom a rule says this or that, and wants resolve to know which of them STRICT
// would refuse.
func TestBreakingTLS(t *testing.T) {
	ctx := testContext(t)
	caller, err := callers(ctx)
	if err != nil {
		t.Fatal(err)
	}
	rules := map[string]*networkingv1.DestinationRule{}
	for ofRule, policy := range policies() {
		for ofSubset, narrower := range policies() {
			name := fmt.Sprintf("s%d", len(rules))
			host, err := createService(ctx, name, caller)
			if err != nil {
				t.Fatal(err)
			}
			rule := &networkingv1.DestinationRule{ObjectMeta: metav1.ObjectMeta{
				Namespace: caller.namespace, Name: name, Annotations: map[string]string{"case": "rule " + ofRule + "; subset " + ofSubset},
			}}
			rule.Spec.Host, rule.Spec.TrafficPolicy = host, policy
			rule.Spec.Subsets = []*networkingapi.Subset{{Name: "v1", Labels: map[string]string{"app": "target"}, TrafficPolicy: narrower}}
			if err := kube.Create(ctx, rule); err != nil {
				t.Fatal(err)
			}
			rules[host] = rule
		}
	}
	if err := await(ctx, func() error {
		sent, err := caller.sends(ctx)
		if err != nil {
			return err
		}
		var errs []error
		for host, rule := range rules {
			errs = append(errs, agrees(host, rule, sent, caller.address))
		}
		return errors.Join(errs...)
	}); err != nil {
		t.Error(err)
	}
}

// agrees compares what clients send a Service's first port, by the rule and by its subset, with what is taken to break them.
func agrees(host string, rule *networkingv1.DestinationRule, sent map[string]map[string]string, address string) error {
	breaking := resolve.BreakingTLS(&rule.Spec, []facts.ServicePort{{Port: plainPort, TargetPort: 8080}}, func(int32) bool { return true })
	whole := slices.ContainsFunc(breaking, func(s resolve.TLSSetting) bool { return strings.HasPrefix(s.Where, "trafficPolicy") })
	byRule := sent[fmt.Sprintf("outbound|%d||%s", plainPort, host)][address]
	bySubset := sent[fmt.Sprintf("outbound|%d|v1|%s", plainPort, host)][address]
	if byRule == "" || bySubset == "" || whole != (byRule != sendsMutual) || len(breaking) > 0 != (byRule != sendsMutual || bySubset != sendsMutual) {
		return fmt.Errorf("%s: clients send %q, and %q by the subset, while %v is taken to break them", rule.Annotations["case"], byRule, bySubset, breaking)
	}
	return nil
}

// TestOneStrictPort: where one port is STRICT and the others take plaintext only, clients are told so while every endpoint is in
// the mesh, and of the one port they are told nothing once one is not.
func TestOneStrictPort(t *testing.T) {
	ctx := testContext(t)
	caller, err := callers(ctx)
	if err != nil {
		t.Fatal(err)
	}
	outside := newProxy()
	outside.namespace, outside.name = caller.namespace, "outside"
	if err := createPod(ctx, outside); err != nil {
		t.Fatal(err)
	}
	host, err := createService(ctx, "target", caller, outside)
	if err != nil {
		t.Fatal(err)
	}
	asked := facts.Form{Mode: v1alpha1.ModeDisabled, Ports: map[int32]v1alpha1.Mode{9443: v1alpha1.ModeStrict}}
	profile := &v1alpha1.ServiceSecurityProfile{ObjectMeta: metav1.ObjectMeta{Namespace: caller.namespace, Name: "target"}}
	profile.Spec.Target = v1alpha1.Target{Kind: v1alpha1.TargetService, Name: "target"}
	profile.Spec.MTLS = &v1alpha1.MTLS{Mode: v1alpha1.ModeDisabled, PortLevel: []v1alpha1.PortMTLS{{Port: 9443, Mode: v1alpha1.ModeStrict}}}
	c := told(profile, false)
	c.Facts.Policy = facts.Policy{Exists: true, Owned: true, Form: asked, Selector: c.Facts.Target.Selector}
	c.Facts.Hosts[0].Ports = []facts.ServicePort{{Port: plainPort, TargetPort: 8080}, {Port: securePort, TargetPort: 9443}}
	c.Facts.Rules = []facts.Rule{{Name: profile.Name, Owned: true, Host: host, TLS: facts.TLSDisable, Ports: map[int32]facts.TLS{securePort: facts.TLSMutual}}}
	for name, tc := range map[string]struct {
		unmeshed []string
		want     map[string]string
	}{
		"all in the mesh": {nil, map[string]string{caller.address: sendsMutual, outside.address: sendsMutual}},
		"one outside":     {[]string{"outside"}, map[string]string{caller.address: sendsMutual, outside.address: sendsPlaintext}},
	} {
		t.Run(name, func(t *testing.T) {
			c.Facts.Hosts[0].Endpoints, c.Facts.Hosts[0].UnmeshedEndpoints = 2, tc.unmeshed
			objects, err := render(c)
			if err != nil {
				t.Fatal(err)
			}
			for _, object := range listed(objects) {
				if err := kube.Create(ctx, object); err != nil {
					t.Fatal(err)
				}
				defer kube.Delete(ctx, object) //nolint:errcheck // the namespace is the test's alone
			}
			plain := map[string]string{caller.address: sendsPlaintext, outside.address: sendsPlaintext}
			if err := await(ctx, func() error {
				sent, err := caller.sends(ctx)
				if err != nil {
					return err
				}
				difference := cmp.Diff(plain, sent[fmt.Sprintf("outbound|%d||%s", plainPort, host)]) + cmp.Diff(tc.want, sent[fmt.Sprintf("outbound|%d||%s", securePort, host)])
				if difference != "" {
					return fmt.Errorf("unexpected of clients (-want +got):\n%s", difference)
				}
				return nil
			}); err != nil {
				t.Errorf("%v\n%s", err, yamls(objects))
			}
		})
	}
}

// TestDisabledAround: auto-mTLS goes by the namespace's PeerAuthentication and not by the workload's, so that STRICT in a namespace
// that is DISABLE needs a rule.
func TestDisabledAround(t *testing.T) {
	ctx := testContext(t)
	caller, err := callers(ctx)
	if err != nil {
		t.Fatal(err)
	}
	host, err := createService(ctx, "target", caller)
	if err != nil {
		t.Fatal(err)
	}
	around := &securityv1.PeerAuthentication{ObjectMeta: metav1.ObjectMeta{Namespace: caller.namespace, Name: "default"}}
	around.Spec.Mtls = &securityapi.PeerAuthentication_MutualTLS{Mode: securityapi.PeerAuthentication_MutualTLS_DISABLE}
	own := &securityv1.PeerAuthentication{ObjectMeta: metav1.ObjectMeta{Namespace: caller.namespace, Name: "target"}}
	own.Spec.Mtls = &securityapi.PeerAuthentication_MutualTLS{Mode: securityapi.PeerAuthentication_MutualTLS_STRICT}
	own.Spec.Selector = &typeapi.WorkloadSelector{MatchLabels: map[string]string{"app": "target"}}
	rule := istio.Render("target", plan.Intent{Namespace: caller.namespace, Clients: []plan.Client{{Name: "target", Host: host, TLS: facts.TLSMutual}}}).DestinationRules[0]
	for _, step := range []struct {
		name   string
		object client.Object
		want   string
	}{
		{"auto-mTLS", nil, sendsMutual}, {"the workload is STRICT", own, sendsMutual}, {"the namespace is DISABLE", around, sendsPlaintext}, {"a rule", rule, sendsMutual},
	} {
		if step.object != nil {
			if err := kube.Create(ctx, step.object); err != nil {
				t.Fatal(err)
			}
		}
		if err := await(ctx, func() error {
			sent, err := caller.sends(ctx)
			if got := sent[fmt.Sprintf("outbound|%d||%s", plainPort, host)][caller.address]; err == nil && got != step.want {
				return fmt.Errorf("clients send %q, want %s", got, step.want)
			}
			return err
		}); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
	}
}
