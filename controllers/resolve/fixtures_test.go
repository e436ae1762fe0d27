package resolve

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	networkingv1alpha3 "istio.io/api/networking/v1alpha3"
	securityv1beta1 "istio.io/api/security/v1beta1"
	typev1beta1 "istio.io/api/type/v1beta1"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

const (
	strict     = v1alpha1.ModeStrict
	permissive = v1alpha1.ModePermissive
	disabled   = v1alpha1.ModeDisabled
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// at is a creation time, some minutes after another.
func at(minute int) metav1.Time {
	return metav1.NewTime(epoch.Add(time.Duration(minute) * time.Minute))
}

type tags = map[string]string

func newPod(name string, set tags, edits ...func(*corev1.Pod)) *corev1.Pod {
	all := tags{labelTLSMode: "istio", labelTemplateHash: "h1"}
	for k, v := range set {
		all[k] = v
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, GenerateName: "web-h1-", Namespace: "foo", UID: types.UID("uid-" + name), Labels: all,
			Annotations: map[string]string{annotationStatus: "{}"}, CreationTimestamp: at(0),
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web-h1", UID: "rs", Controller: new(true)}},
		},
		Spec: corev1.PodSpec{Containers: []corev1.Container{
			{Name: "app", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}},
			{Name: proxyContainer, Ports: []corev1.ContainerPort{{ContainerPort: 15090}}},
		}},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: "10.0.0.1",
			Conditions:        []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
			ContainerStatuses: []corev1.ContainerStatus{{Name: proxyContainer, RestartCount: 2}},
		},
	}
	for _, edit := range edits {
		edit(pod)
	}
	return pod
}

func withoutSidecar(pod *corev1.Pod) {
	pod.Spec.Containers = pod.Spec.Containers[:1]
	pod.Status.ContainerStatuses = nil
	pod.Annotations = nil
	delete(pod.Labels, labelTLSMode)
}

func newService(name string, selector tags, ports ...corev1.ServicePort) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "foo"},
		Spec:       corev1.ServiceSpec{Selector: selector, ClusterIP: "10.1.0.1", Ports: ports},
	}
}

func port(number int32, target any) corev1.ServicePort {
	p := corev1.ServicePort{Name: fmt.Sprintf("http-%d", number), Port: number}
	switch target := target.(type) {
	case int:
		p.TargetPort = intstr.FromInt(target)
	case string:
		p.TargetPort = intstr.FromString(target)
	}
	return p
}

func newProfile(name string, minute int, target v1alpha1.Target, mode v1alpha1.Mode, ports ...v1alpha1.PortMTLS) *v1alpha1.ServiceSecurityProfile {
	return &v1alpha1.ServiceSecurityProfile{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "foo", UID: types.UID("uid-" + name), CreationTimestamp: at(minute)},
		Spec:       v1alpha1.ServiceSecurityProfileSpec{Target: target, MTLS: &v1alpha1.MTLS{Mode: mode, PortLevel: ports}},
	}
}

func toService(name string) v1alpha1.Target {
	return v1alpha1.Target{Kind: v1alpha1.TargetService, Name: name}
}

func toWorkload(set tags) v1alpha1.Target {
	selector := map[string]v1alpha1.LabelValue{}
	for k, v := range set {
		selector[k] = v1alpha1.LabelValue(v)
	}
	return v1alpha1.Target{Kind: v1alpha1.TargetWorkload, Selector: &v1alpha1.WorkloadSelector{MatchLabels: selector}}
}

// istioMode is a mode as Istio has it; anything else is unset.
func istioMode(mode v1alpha1.Mode) *securityv1beta1.PeerAuthentication_MutualTLS {
	modes := map[v1alpha1.Mode]securityv1beta1.PeerAuthentication_MutualTLS_Mode{
		strict:     securityv1beta1.PeerAuthentication_MutualTLS_STRICT,
		permissive: securityv1beta1.PeerAuthentication_MutualTLS_PERMISSIVE,
		disabled:   securityv1beta1.PeerAuthentication_MutualTLS_DISABLE,
	}
	return &securityv1beta1.PeerAuthentication_MutualTLS{Mode: modes[mode]}
}

func newPolicy(namespace, name string, minute int, selector tags, mode v1alpha1.Mode, edits ...func(*securityv1.PeerAuthentication)) *securityv1.PeerAuthentication {
	policy := &securityv1.PeerAuthentication{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, CreationTimestamp: at(minute)}}
	policy.Spec.Mtls = istioMode(mode)
	if selector != nil {
		policy.Spec.Selector = &typev1beta1.WorkloadSelector{MatchLabels: selector}
	}
	for _, edit := range edits {
		edit(policy)
	}
	return policy
}

func withPorts(ports map[uint32]v1alpha1.Mode) func(*securityv1.PeerAuthentication) {
	return func(policy *securityv1.PeerAuthentication) {
		policy.Spec.PortLevelMtls = map[uint32]*securityv1beta1.PeerAuthentication_MutualTLS{}
		for number, mode := range ports {
			policy.Spec.PortLevelMtls[number] = istioMode(mode)
		}
	}
}

func owned[T client.Object](obj T, profile *v1alpha1.ServiceSecurityProfile) T {
	obj.SetOwnerReferences([]metav1.OwnerReference{{
		APIVersion: v1alpha1.SchemeGroupVersion.String(), Kind: v1alpha1.Kind, Name: profile.Name, UID: profile.UID, Controller: new(true),
	}})
	return obj
}

func tlsOf(mode string) *networkingv1alpha3.ClientTLSSettings {
	return &networkingv1alpha3.ClientTLSSettings{
		Mode: networkingv1alpha3.ClientTLSSettings_TLSmode(networkingv1alpha3.ClientTLSSettings_TLSmode_value[mode]),
	}
}

// newRule is a rule with a tls mode at the top, or none if it is empty.
func newRule(namespace, name, host, mode string, edits ...func(*networkingv1.DestinationRule)) *networkingv1.DestinationRule {
	rule := &networkingv1.DestinationRule{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}}
	rule.Spec.Host = host
	if mode != "" {
		rule.Spec.TrafficPolicy = &networkingv1alpha3.TrafficPolicy{Tls: tlsOf(mode)}
	}
	for _, edit := range edits {
		edit(rule)
	}
	return rule
}

func exportTo(to ...string) func(*networkingv1.DestinationRule) {
	return func(rule *networkingv1.DestinationRule) { rule.Spec.ExportTo = to }
}

func newNamespace(name string, edits ...func(*corev1.Namespace)) *corev1.Namespace {
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, edit := range edits {
		edit(namespace)
	}
	return namespace
}

func meshMap(name, mesh string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "istio-system"}, Data: map[string]string{meshConfigKey: mesh}}
}

func scheme(t testing.TB) *runtime.Scheme {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		clientgoscheme.AddToScheme, v1alpha1.AddToScheme, securityv1.AddToScheme, networkingv1.AddToScheme, AddToScheme,
	} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	return scheme
}

// builderIndexer registers indexes with a fake client, which refuses a question by field without one.
type builderIndexer struct{ *fake.ClientBuilder }

func (b builderIndexer) IndexField(_ context.Context, obj client.Object, field string, extract client.IndexerFunc) error {
	b.WithIndex(obj, field, extract)
	return nil
}

// cluster is a Resolver over some objects: its reader answers by the indexes, its live reader knows none.
func cluster(t testing.TB, objects ...client.Object) *Resolver {
	t.Helper()
	build := func(indexed bool) client.WithWatch {
		builder := fake.NewClientBuilder().WithScheme(scheme(t))
		for _, obj := range objects {
			builder.WithObjects(obj.DeepCopyObject().(client.Object))
		}
		if indexed {
			for _, register := range []func(context.Context, client.FieldIndexer) error{
				Index, IndexPeerAuthentications, IndexDestinationRules, IndexRequestAuthentications, IndexAuthorizationPolicies,
				IndexWorkloadEntries, IndexServiceEntries, IndexSidecars, IndexTelemetries, IndexCronJobs, IndexRemoteSecrets,
			} {
				if err := register(t.Context(), builderIndexer{builder}); err != nil {
					t.Fatal(err)
				}
			}
		}
		return builder.Build()
	}
	return &Resolver{Reader: build(true), LiveReader: build(false), RootNamespace: "istio-system"}
}

// mustResolve resolves by the cache and live, and demands that both say the same.
func mustResolve(t testing.TB, r *Resolver, profile *v1alpha1.ServiceSecurityProfile) facts.Facts {
	t.Helper()
	cached, err := r.Resolve(t.Context(), profile)
	if err != nil {
		t.Fatalf("Resolve: %v", err)
	}
	live, err := r.Live().Resolve(t.Context(), profile)
	if err != nil {
		t.Fatalf("Resolve live: %v", err)
	}
	if cached.Live || !live.Live {
		t.Errorf("Live is %t by the cache and %t live, want false and true", cached.Live, live.Live)
	}
	live.Live = false
	if diff := cmp.Diff(cached, live); diff != "" {
		t.Errorf("the cache and the API server say different things (-cache +live):\n%s", diff)
	}
	return cached
}

func diff(t testing.TB, what string, want, got any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

var (
	toNamespace = v1alpha1.Target{Kind: v1alpha1.TargetNamespace}
	toMesh      = v1alpha1.Target{Kind: v1alpha1.TargetMesh}
)

func toGatewayAPI(name string) v1alpha1.Target {
	return v1alpha1.Target{Kind: v1alpha1.TargetGateway, Name: name}
}

func asProfile(obj client.Object) *v1alpha1.ServiceSecurityProfile {
	return obj.(*v1alpha1.ServiceSecurityProfile)
}

// router makes a pod a gateway's, as the injection template has it.
func router(pod *corev1.Pod) {
	pod.Spec.Containers = []corev1.Container{{
		Name: proxyContainer, Args: []string{"proxy", "router", "--domain", "$(POD_NAMESPACE).svc.cluster.local"},
		Ports: []corev1.ContainerPort{{ContainerPort: 15090}},
	}}
	delete(pod.Labels, labelTLSMode)
}

// waypoint makes a pod a waypoint's.
func waypoint(pod *corev1.Pod) {
	router(pod)
	pod.Spec.Containers[0].Args[1] = roleWaypoint
}

// placed is where a policy applies: by selector, by reference, or without either.
type placed struct {
	selector tags
	gateways []string
}

func (p placed) workloads() *typev1beta1.WorkloadSelector {
	if p.selector == nil {
		return nil
	}
	return &typev1beta1.WorkloadSelector{MatchLabels: p.selector}
}

func (p placed) refs() []*typev1beta1.PolicyTargetReference {
	var refs []*typev1beta1.PolicyTargetReference
	for _, name := range p.gateways {
		refs = append(refs, &typev1beta1.PolicyTargetReference{Group: gatewayGroup, Kind: gatewayKind, Name: name})
	}
	return refs
}

func newTokens(namespace, name string, at placed, issuers ...string) *securityv1.RequestAuthentication {
	tokens := &securityv1.RequestAuthentication{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}}
	tokens.Spec.Selector, tokens.Spec.TargetRefs = at.workloads(), at.refs()
	for _, issuer := range issuers {
		tokens.Spec.JwtRules = append(tokens.Spec.JwtRules, &securityv1beta1.JWTRule{Issuer: issuer})
	}
	return tokens
}

func newAccess(namespace, name string, at placed, action securityv1beta1.AuthorizationPolicy_Action) *securityv1.AuthorizationPolicy {
	policy := &securityv1.AuthorizationPolicy{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}}
	policy.Spec.Selector, policy.Spec.TargetRefs, policy.Spec.Action = at.workloads(), at.refs(), action
	return policy
}

// issuing gives a profile a section jwt with these issuers.
func issuing(requirement v1alpha1.TokenRequirement, issuers ...string) func(*v1alpha1.ServiceSecurityProfile) {
	return func(profile *v1alpha1.ServiceSecurityProfile) {
		profile.Spec.JWT = &v1alpha1.JWT{Requirement: requirement}
		for _, issuer := range issuers {
			profile.Spec.JWT.Issuers = append(profile.Spec.JWT.Issuers, v1alpha1.Issuer{Issuer: v1alpha1.Text(issuer)})
		}
	}
}

func withoutMTLS(profile *v1alpha1.ServiceSecurityProfile) { profile.Spec.MTLS = nil }

func newGateway(name string, listeners ...Listener) *Gateway {
	gateway := &Gateway{Spec: GatewaySpec{GatewayClassName: "istio", Listeners: listeners}}
	gateway.Name, gateway.Namespace = name, "foo"
	return gateway
}
