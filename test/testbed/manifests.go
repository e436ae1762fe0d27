package testbed

import (
	_ "embed"
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"
)

var (
	//go:embed manifests/httpbin.yaml
	httpbinManifest string
	//go:embed manifests/sleep.yaml
	sleepManifest string
	//go:embed manifests/tcp-echo.yaml
	tcpEchoManifest string
	//go:embed manifests/telemetry.yaml
	telemetryManifest string
)

// Httpbin is the YAML of a ServiceAccount, Service and Deployment httpbin, which serves HTTP on port 8000.
func Httpbin(namespace string) string { return in(namespace, httpbinManifest) }

// Sleep is the YAML of a ServiceAccount, Service and Deployment sleep, which does nothing and is there to call from.
func Sleep(namespace string) string { return in(namespace, sleepManifest) }

// TCPEcho is the YAML of a ServiceAccount, Service and Deployment tcp-echo, which sends back what it receives on port 9000.
func TCPEcho(namespace string) string { return in(namespace, tcpEchoManifest) }

// LoadClient is the YAML of a ServiceAccount and Deployment name that runs the client image with flags; see testapp.
func LoadClient(namespace, name string, flags ...string) (string, error) {
	labels := map[string]string{"app": name}
	meta := metav1.ObjectMeta{Name: name, Namespace: namespace}
	account := &corev1.ServiceAccount{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"}, ObjectMeta: meta}
	deployment := &appsv1.Deployment{
		TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"}, ObjectMeta: meta,
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					ServiceAccountName: name,
					// A namespace is deleted only after half its pods' grace, however soon they are gone.
					TerminationGracePeriodSeconds: ptr.To[int64](2),
					Containers:                    []corev1.Container{{Name: "client", Image: "client", Args: flags}},
				},
			},
		},
	}
	documents := make([]string, 0, 2)
	for _, object := range []any{account, deployment} {
		document, err := yaml.Marshal(object)
		if err != nil {
			return "", fmt.Errorf("encoding the client's objects: %w", err)
		}
		documents = append(documents, string(document))
	}
	return strings.Join(documents, "---\n"), nil
}

// in puts every object of a manifest into a namespace. The manifests name none, and start their metadata with the name.
func in(namespace, manifest string) string {
	return strings.ReplaceAll(manifest, "\nmetadata:\n", "\nmetadata:\n  namespace: "+namespace+"\n")
}
