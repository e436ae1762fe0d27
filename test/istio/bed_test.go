//go:build istio

// Package istio_test asks a real istiod about everything that the operator writes: the golden cases, the samples, and
// thousands of random profiles; its validation, and what it would tell proxies.
package istio_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/test/builder"
	"github.com/servicesecurity/operator/test/testbed"
)

const (
	// startDeadline bounds the start of the bed, and testDeadline a test.
	startDeadline = 3 * time.Minute
	testDeadline  = 10 * time.Minute
	// asking is how many questions are asked at once.
	asking = 8
)

// The one control plane with an istiod that all tests ask, each in namespaces of its own.
var (
	kube   client.Client
	istiod *testbed.Istiod
)

func TestMain(m *testing.M) {
	flag.Parse()
	log.SetLogger(zap.New(zap.WriteTo(os.Stderr)))
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), startDeadline)
	defer cancel()
	plane, err := testbed.StartControlPlane(ctx, testbed.ControlPlaneOptions{CRDs: []string{"../../config/crd/bases"}})
	if err != nil {
		return 0, err
	}
	defer func() {
		if stopped := plane.Stop(); err == nil {
			err = stopped
		}
	}()
	istiod, err = testbed.StartIstiod(ctx, plane, testbed.IstiodOptions{
		// In a mesh, so many proxies do not come and go, and objects are not written without a pause: istiod would wait.
		Env: map[string]string{"PILOT_MAX_REQUESTS_PER_SECOND": "100000", "PILOT_DEBOUNCE_MAX": "500ms"},
	})
	if err != nil {
		return 0, err
	}
	defer istiod.Stop()
	if kube, err = connect(plane.Config()); err != nil {
		return 0, err
	}
	if err := onlyInbound(ctx); err != nil {
		return 0, err
	}
	return m.Run(), nil
}

func connect(config *rest.Config) (client.Client, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, discoveryv1.AddToScheme, v1alpha1.AddToScheme, networkingv1.AddToScheme, securityv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	return client.New(config, client.Options{Scheme: scheme})
}

// onlyInbound keeps what proxies are told of other services away: nobody looks at it here.
func onlyInbound(ctx context.Context) error {
	sidecar := &networkingv1.Sidecar{ObjectMeta: metav1.ObjectMeta{Namespace: builder.RootNamespace, Name: "only-inbound"}}
	sidecar.Spec.Egress = noEgress
	return kube.Create(ctx, sidecar)
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testDeadline)
	t.Cleanup(cancel)
	return ctx
}
