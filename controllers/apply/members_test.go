package apply

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	securityapi "istio.io/api/security/v1beta1"
	typeapi "istio.io/api/type/v1beta1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/istio"
)

// TestMembers: the objects of single workloads go when they are neither wanted nor kept, and not before what takes their
// place could be written.
func TestMembers(t *testing.T) {
	member := func(name string) *securityv1.PeerAuthentication {
		object := &securityv1.PeerAuthentication{ObjectMeta: metav1.ObjectMeta{Namespace: "foo", Name: name}}
		object.Spec.Selector = &typeapi.WorkloadSelector{MatchLabels: map[string]string{"app": name}}
		object.Spec.Mtls = &securityapi.PeerAuthentication_MutualTLS{Mode: securityapi.PeerAuthentication_MutualTLS_STRICT}
		return object
	}
	peers := func(mode securityapi.PeerAuthentication_MutualTLS_Mode) istio.Objects {
		desired := objects(mode)
		desired.DestinationRules = nil
		desired.PeerAuthentication.Spec.Selector = nil
		return desired
	}
	for name, tc := range map[string]struct {
		edit   func(*istio.Objects)
		refuse bool
		want   []string
	}{
		"wanted":                          {func(o *istio.Objects) { o.Members = []*securityv1.PeerAuthentication{member("a"), member("b")} }, false, []string{"a", "b", "web"}},
		"one is kept":                     {func(o *istio.Objects) { o.KeepMembers = []string{"b"} }, false, []string{"b", "web"}},
		"all are kept":                    {func(o *istio.Objects) { o.KeepAllMembers = true }, false, []string{"a", "b", "web"}},
		"none":                            {func(*istio.Objects) {}, false, []string{"web"}},
		"the namespace cannot be written": {func(*istio.Objects) {}, true, []string{"a", "b", "web"}},
	} {
		t.Run(name, func(t *testing.T) {
			refuse := false
			c := interceptor.NewClient(fake.NewClientBuilder().WithScheme(scheme(t)).Build(), interceptor.Funcs{
				Update: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.UpdateOption) error {
					if refuse {
						return errors.New("injected")
					}
					return c.Update(ctx, o, opts...)
				},
			})
			a := Applier{Client: c, Mesh: facts.Mesh{PeerAuthentications: true}}
			before := peers(securityapi.PeerAuthentication_MutualTLS_PERMISSIVE)
			before.Members = []*securityv1.PeerAuthentication{member("a"), member("b")}
			if _, err := a.Apply(t.Context(), profile(), before); err != nil {
				t.Fatal(err)
			}
			refuse = tc.refuse
			desired := peers(securityapi.PeerAuthentication_MutualTLS_STRICT)
			tc.edit(&desired)
			result, err := a.Apply(t.Context(), profile(), desired)
			if (err != nil) != tc.refuse {
				t.Fatal(err)
			}
			var list securityv1.PeerAuthenticationList
			if err := c.List(t.Context(), &list); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, object := range list.Items {
				got = append(got, object.Name)
				if held := result.Holds(PeerAuthentication, object.Name); held == (tc.refuse && object.Name == "web") {
					t.Errorf("%s: held %t", object.Name, held)
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("objects (-want +got):\n%s", diff)
			}
		})
	}
}
