package resolve

import (
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

func TestResolveGateway(t *testing.T) {
	profile := edited(newProfile("p", 10, toGatewayAPI("gw"), strict), sections(false, true, true))
	set := tags{"app": "gw", labelGatewayName: "gw"}
	gateway := newGateway(
		"gw", Listener{80, "HTTP"}, Listener{443, "HTTPS"}, Listener{8443, "TLS"}, Listener{9000, "TCP"}, Listener{9443, "TLS"}, Listener{9443, "HTTPS"}, Listener{9443, "TLS"},
	)
	got := mustResolve(t, cluster(t, profile, gateway, newService("gw-istio", set, as("https", port(443, 443))), newPod("gw-a", set, router), newPod("other", tags{labelGatewayName: "other"}, router),
		in("bar", newPod("gw-b", set, router)), newPolicy("foo", "default", 0, nil, strict), newRule("foo", "r", "gw-istio", "DISABLE")), profile)
	diff(t, "facts", facts.Facts{
		Mesh:   facts.Mesh{PeerAuthentications: true, DestinationRules: true, RequestAuthentications: true, AuthorizationPolicies: true, RootNamespace: root, TrustDomain: "cluster.local", AutoMTLS: true},
		Target: facts.Target{Scope: v1alpha1.ScopeGateway, Gateway: "gw"},
		Pods: []facts.Pod{{
			Namespace: "foo", Name: "gw-a", UID: "uid-gw-a", IP: "10.0.0.1", Workload: "web", Created: epoch, Restarts: 2, Ready: true,
			Membership: facts.MemberSidecar, Gateway: true,
		}},
		ClientRules: []facts.ClientRule{{Namespace: "foo", Name: "r", Host: "gw-istio.foo.svc.cluster.local"}},
		Ports:       []facts.WorkloadPort{{Port: 8443, Protocol: facts.ProtocolTCP}, {Port: 9000, Protocol: facts.ProtocolTCP}},
	}, got)
}

func TestGatewayProblems(t *testing.T) {
	profile := edited(newProfile("p", 10, toGatewayAPI("gw"), strict), sections(false, true, false))
	waypointGateway := newGateway("gw")
	waypointGateway.Spec.GatewayClassName = waypointClass
	pod := newPod("gw-a", tags{labelGatewayName: "gw"}, router)
	for name, tc := range map[string]struct {
		resolver *Resolver
		absent   bool
		want     facts.Problem
	}{
		"missing": {cluster(t, pod), false, facts.Problem{
			Reason: v1alpha1.ReasonTargetNotFound, Message: `Gateway "gw" does not exist in namespace "foo": create it, or delete the profile.`,
		}},
		"no Gateway API": {cluster(t, pod, newGateway("gw")), true, facts.Problem{
			Reason:  v1alpha1.ReasonTargetNotFound,
			Message: "The cluster does not have the Gateway API (gateway.networking.k8s.io/v1): install it, or create the profile with target kind Workload and the labels of the gateway's pods.",
		}},
		"waypoint": {cluster(t, pod, waypointGateway), false, facts.Problem{
			Reason:  v1alpha1.ReasonUnsupported,
			Message: `Gateway "gw" in namespace "foo" is a waypoint of ambient mode, which is not supported: target the workloads behind it once they have sidecars.`,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			tc.resolver.Installed = func(kind schema.GroupVersionKind) bool { return kind != GatewayKind || !tc.absent }
			got := mustResolve(t, tc.resolver, profile)
			diff(t, "problem", &tc.want, got.Problem)
			if got.Pods != nil || got.Ports != nil || got.Target.Gateway != "" {
				t.Errorf("pods are %v, ports %v, gateway %q, want none", got.Pods, got.Ports, got.Target.Gateway)
			}
		})
	}
	t.Run("found out", func(t *testing.T) {
		r, _ := watched(cluster(t), func(_ int, obj any) error {
			if _, ok := obj.(*Gateway); ok {
				return &meta.NoKindMatchError{GroupKind: GatewayKind.GroupKind()}
			}
			return nil
		})
		if got := mustResolve(t, r, profile).Problem; got == nil || got.Reason != v1alpha1.ReasonTargetNotFound {
			t.Errorf("problem is %v", got)
		}
	})
}

func TestTargetsGateways(t *testing.T) {
	for want, target := range map[bool]v1alpha1.Target{true: toGatewayAPI("gw"), false: toService("gw")} {
		got, err := TargetsGateways(t.Context(), cluster(t, newProfile("p", 0, target, strict)).Reader)
		if got != want || err != nil {
			t.Errorf("%s: got %t and %v", target.Kind, got, err)
		}
	}
	broken := errors.New("no cache")
	r, _ := watched(cluster(t), func(int, any) error { return broken })
	if got, err := TargetsGateways(t.Context(), r.Reader); got || !errors.Is(err, broken) {
		t.Errorf("got %t and %v", got, err)
	}
}

func TestGatewayCopies(t *testing.T) {
	list := &GatewayList{Items: []Gateway{*newGateway("gw", Listener{80, "HTTP"})}}
	list.ResourceVersion = "7"
	copied := list.DeepCopyObject().(*GatewayList)
	diff(t, "list", list, copied)
	copied.Items[0].Spec.Listeners[0].Port, copied.Items[0].Labels = 81, tags{"a": "b"}
	single := list.Items[0].DeepCopyObject().(*Gateway)
	diff(t, "gateway", &list.Items[0], single)
	single.Spec.Listeners[0].Port = 82
	if list.Items[0].Spec.Listeners[0].Port != 80 || list.Items[0].Labels != nil {
		t.Errorf("the original is %+v", list.Items[0])
	}
	if err := IndexGateways(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

func TestProxyRole(t *testing.T) {
	for name, tc := range map[string]struct {
		edit    func(*corev1.Pod)
		role    string
		gateway bool
		member  facts.Membership
	}{
		"gateway":        {router, roleRouter, true, facts.MemberSidecar},
		"waypoint":       {waypoint, roleWaypoint, false, facts.MemberAmbient},
		"sidecar":        {func(pod *corev1.Pod) { pod.Spec.Containers[1].Args = []string{"proxy", "sidecar"} }, "sidecar", false, facts.MemberSidecar},
		"no arguments":   {func(*corev1.Pod) {}, "", false, facts.MemberSidecar},
		"other argument": {func(pod *corev1.Pod) { pod.Spec.Containers[1].Args = []string{"router", "proxy"} }, "", false, facts.MemberSidecar},
		"no sidecar":     {withoutSidecar, "", false, facts.MemberNone},
	} {
		t.Run(name, func(t *testing.T) {
			pod := newPod("a", nil, tc.edit)
			trimmed, err := TrimPod(pod)
			if err != nil {
				t.Fatal(err)
			}
			if got := proxyRole(sidecar(pod)); got != tc.role {
				t.Errorf("role is %q, want %q", got, tc.role)
			}
			for _, pod := range []*corev1.Pod{pod, trimmed.(*corev1.Pod)} {
				if isGateway(pod) != tc.gateway || membership(pod) != tc.member {
					t.Errorf("it is a gateway: %t, and its membership is %s, want %t and %s", isGateway(pod), membership(pod), tc.gateway, tc.member)
				}
			}
		})
	}
}
