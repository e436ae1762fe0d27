package apply

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	networkingapi "istio.io/api/networking/v1alpha3"
	securityapi "istio.io/api/security/v1beta1"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/istio"
)

func TestInexpressible(t *testing.T) {
	mutual := &networkingapi.ClientTLSSettings{Mode: networkingapi.ClientTLSSettings_ISTIO_MUTUAL}
	port := &networkingapi.PortSelector{Number: 80}
	for name, tc := range map[string]struct {
		spec *networkingapi.DestinationRule
		want []string
	}{
		"what a profile says": {
			&networkingapi.DestinationRule{Host: "a", TrafficPolicy: &networkingapi.TrafficPolicy{
				Tls: mutual, PortLevelSettings: []*networkingapi.TrafficPolicy_PortTrafficPolicy{{Port: port, Tls: mutual}},
			}}, nil,
		},
		"nothing but a host": {&networkingapi.DestinationRule{Host: "a"}, nil},
		"subsets and exportTo": {
			&networkingapi.DestinationRule{Host: "a", Subsets: []*networkingapi.Subset{{Name: "v1"}}, ExportTo: []string{"."}},
			[]string{"exportTo", "subsets"},
		},
		"load balancing and outlier detection": {
			&networkingapi.DestinationRule{TrafficPolicy: &networkingapi.TrafficPolicy{
				LoadBalancer: &networkingapi.LoadBalancerSettings{}, OutlierDetection: &networkingapi.OutlierDetection{}, Tls: mutual,
			}}, []string{"trafficPolicy.loadBalancer", "trafficPolicy.outlierDetection"},
		},
		"a port's connection pool": {
			&networkingapi.DestinationRule{TrafficPolicy: &networkingapi.TrafficPolicy{
				PortLevelSettings: []*networkingapi.TrafficPolicy_PortTrafficPolicy{
					{Port: port, Tls: mutual}, {Port: port, ConnectionPool: &networkingapi.ConnectionPoolSettings{}},
				},
			}}, []string{"trafficPolicy.portLevelSettings[1]"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			before := tc.spec.String()
			if diff := cmp.Diff(tc.want, inexpressible(tc.spec)); diff != "" {
				t.Errorf("fields (-want +got):\n%s", diff)
			}
			if tc.spec.String() != before {
				t.Error("the spec was changed")
			}
		})
	}
}

func TestErrorTexts(t *testing.T) {
	for name, tc := range map[string]struct {
		err  error
		want []string
	}{
		"made by someone else": {
			&ForeignObjectError{Kind: PeerAuthentication, Namespace: "foo", Name: "web", Profile: "web"},
			[]string{"PeerAuthentication foo/web", "not made by this profile", v1alpha1.AnnotationAdopt + ": web"},
		},
		"controlled by something else": {
			&ForeignObjectError{Kind: PeerAuthentication, Namespace: "foo", Name: "web", Profile: "web", Owner: "HelmRelease/x"},
			[]string{"controlled by HelmRelease/x", "Rename"},
		},
		"not to be adopted": {
			&ForeignObjectError{Kind: DestinationRule, Namespace: "foo", Name: "web", Profile: "web", Fields: []string{"exportTo", "subsets"}},
			[]string{"DestinationRule foo/web", "exportTo, subsets"},
		},
		"an older Istio": {
			&UnsupportedError{Kind: PeerAuthentication, Name: "web", Err: errors.New(`unknown field "spec.x"`)},
			[]string{"PeerAuthentication web", `unknown field "spec.x"`, "Upgrade"},
		},
		"no Istio": {&NotInstalledError{Kind: PeerAuthentication}, []string{"kind PeerAuthentication", "Install Istio's CRDs"}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, part := range tc.want {
				if !strings.Contains(tc.err.Error(), part) {
					t.Errorf("%q does not say %q", tc.err, part)
				}
			}
		})
	}
}

func TestExplain(t *testing.T) {
	unknown := apierrors.NewBadRequest(`strict decoding error: unknown field "spec.portLevelMtls"`)
	var unsupported *UnsupportedError
	if err := explain(peerKind, "web", "creating", unknown); !errors.As(err, &unsupported) || !apierrors.IsBadRequest(err) {
		t.Errorf("an unknown field is %v", err)
	}
	other := apierrors.NewBadRequest("the webhook says no")
	if err := explain(peerKind, "web", "creating", other); errors.As(err, &unsupported) || !strings.HasPrefix(err.Error(), "creating PeerAuthentication web: ") {
		t.Errorf("another refusal is %v", err)
	}
	conflict := apierrors.NewConflict(schema.GroupResource{}, "web", errors.New("stale"))
	if err := explain(peerKind, "web", "updating", conflict); !apierrors.IsConflict(err) {
		t.Errorf("a conflict is hidden: %v", err)
	}
}

// TestApplyOrder: clients are told before the server demands it, and after it has become lenient. What one kind cannot
// write does not keep the other from being written.
func TestApplyOrder(t *testing.T) {
	for name, tc := range map[string]struct {
		mode   securityapi.PeerAuthentication_MutualTLS_Mode
		fail   string
		absent bool
		want   []string
		errs   string
	}{
		"stricter":           {mode: securityapi.PeerAuthentication_MutualTLS_STRICT, want: []string{DestinationRule, PeerAuthentication}},
		"more lenient":       {mode: securityapi.PeerAuthentication_MutualTLS_PERMISSIVE, want: []string{PeerAuthentication, DestinationRule}},
		"a rule that fails":  {mode: securityapi.PeerAuthentication_MutualTLS_STRICT, fail: DestinationRule, want: []string{PeerAuthentication}, errs: "creating DestinationRule web"},
		"no DestinationRule": {mode: securityapi.PeerAuthentication_MutualTLS_STRICT, absent: true, want: []string{PeerAuthentication}, errs: "does not know the kind DestinationRule"},
	} {
		t.Run(name, func(t *testing.T) {
			c := interceptor.NewClient(fake.NewClientBuilder().WithScheme(scheme(t)).Build(), interceptor.Funcs{
				Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
					if _, rule := o.(*networkingv1.DestinationRule); rule && tc.fail == DestinationRule {
						return errors.New("injected")
					}
					return c.Create(ctx, o, opts...)
				},
			})
			a := Applier{Client: c, Mesh: facts.Mesh{PeerAuthentications: true, DestinationRules: !tc.absent}}
			result, err := a.Apply(t.Context(), profile(), objects(tc.mode))
			var got []string
			for _, change := range result.Changes {
				got = append(got, change.Kind)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("writes (-want +got):\n%s", diff)
			}
			if (err == nil) != (tc.errs == "") || err != nil && !strings.Contains(err.Error(), tc.errs) {
				t.Errorf("error %v, want %q", err, tc.errs)
			}
			if result.Holds(DestinationRule, "web") != slices.Contains(tc.want, DestinationRule) {
				t.Error("a rule that was not written is said to be held")
			}
		})
	}
}

// TestRemoveChanged: what changed after it was looked at is not deleted.
func TestRemoveChanged(t *testing.T) {
	owned := objects(securityapi.PeerAuthentication_MutualTLS_STRICT).PeerAuthentication
	owned.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: v1alpha1.Kind, Name: "web", UID: "1", Controller: ptr.To(true)}}
	c := fake.NewClientBuilder().WithScheme(scheme(t)).WithObjects(owned).Build()
	w := &writer{client: c, profile: profile()}
	listed, err := w.owned(t.Context(), peerKind)
	if err != nil || len(listed) != 1 {
		t.Fatalf("owned: %v, %v", listed, err)
	}
	live := &securityv1.PeerAuthentication{}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(owned), live); err != nil {
		t.Fatal(err)
	}
	live.Labels = map[string]string{"changed": "yes"}
	if err := c.Update(t.Context(), live); err != nil {
		t.Fatal(err)
	}
	if err := w.remove(t.Context(), peerKind, listed[0]); !apierrors.IsConflict(err) {
		t.Errorf("deleting an object that has changed: %v", err)
	}
}

func scheme(t *testing.T) *runtime.Scheme {
	t.Helper()
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{v1alpha1.AddToScheme, securityv1.AddToScheme, networkingv1.AddToScheme} {
		if err := add(s); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func profile() *v1alpha1.ServiceSecurityProfile {
	return &v1alpha1.ServiceSecurityProfile{ObjectMeta: metav1.ObjectMeta{Namespace: "foo", Name: "web", UID: "1"}}
}

func objects(mode securityapi.PeerAuthentication_MutualTLS_Mode) istio.Objects {
	peer := &securityv1.PeerAuthentication{ObjectMeta: metav1.ObjectMeta{Namespace: "foo", Name: "web"}}
	peer.Spec.Mtls = &securityapi.PeerAuthentication_MutualTLS{Mode: mode}
	rule := &networkingv1.DestinationRule{ObjectMeta: metav1.ObjectMeta{Namespace: "foo", Name: "web"}}
	rule.Spec.Host = "web.foo.svc.cluster.local"
	return istio.Objects{PeerAuthentication: peer, DestinationRules: []*networkingv1.DestinationRule{rule}}
}
