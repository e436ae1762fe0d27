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
	//go:embed manifests/bookinfo.yaml
	bookinfoManifest string
	//go:embed manifests/online-shop.yaml
	onlineShopManifest string
	//go:embed manifests/fruits-api.yaml
	fruitsAPIManifest string
	//go:embed manifests/ingressgateway.yaml
	ingressGatewayManifest string
	//go:embed manifests/prometheus.yaml
	prometheusManifest string
	//go:embed manifests/telemetry.yaml
	telemetryManifest string
)

// Httpbin is the YAML of a ServiceAccount, Service and Deployment httpbin, which serves HTTP on port 8000.
func Httpbin(namespace string) string { return in(namespace, httpbinManifest) }

// Sleep is the YAML of a ServiceAccount, Service and Deployment sleep, which does nothing and is there to call from.
func Sleep(namespace string) string { return in(namespace, sleepManifest) }

// TCPEcho is the YAML of a ServiceAccount, Service and Deployment tcp-echo, which sends back what it receives on port 9000.
func TCPEcho(namespace string) string { return in(namespace, tcpEchoManifest) }

// Bookinfo is the YAML of productpage, details, reviews v1 to v3 and ratings, each on port 9080 with an account of its own; reviews-v2 has no sidecar.
func Bookinfo(namespace string) string { return in(namespace, bookinfoManifest) }

// OnlineShop is the YAML of a frontend and three services behind it.
func OnlineShop(namespace string) string { return in(namespace, onlineShopManifest) }

// FruitsAPI is the YAML of a Service and Deployment on port 80, and of the Service bookclub, which has no sidecar.
func FruitsAPI(namespace string) string { return in(namespace, fruitsAPIManifest) }

// IngressGateway is the YAML of a classic ingress gateway, istio: ingressgateway, whose Deployment is filled by injection.
func IngressGateway(namespace string) string { return in(namespace, ingressGatewayManifest) }

// Prometheus is the YAML of a Prometheus server on port 9090 that scrapes every proxy of the mesh once a second. It needs
// MeshOptions.Prometheus.
func Prometheus(namespace string) string {
	return strings.ReplaceAll(in(namespace, prometheusManifest), "NAMESPACE", namespace)
}

// demoImages are the images of the demos and what the service program is told to be for each.
var demoImages = map[string][]string{
	"examples-bookinfo-productpage-v1": {
		"--name=productpage", "--version=v1", "--page=/productpage", "--call=details=http://details:9080/details/0", "--call=reviews=http://reviews:9080/reviews/0",
	},
	"examples-bookinfo-details-v1": {"--name=details", "--version=v1"},
	"examples-bookinfo-ratings-v1": {"--name=ratings", "--version=v1"},
	"examples-bookinfo-reviews-v1": {"--name=reviews", "--version=v1"},
	"examples-bookinfo-reviews-v2": {"--name=reviews", "--version=v2", "--page=/reviews", "--call=ratings=http://ratings:9080/ratings/0"},
	"examples-bookinfo-reviews-v3": {"--name=reviews", "--version=v3", "--page=/reviews", "--call=ratings=http://ratings:9080/ratings/0"},
	"frontend": {
		"--name=frontend", "--port=8080", "--page=/product", "--call=productcatalogservice=http://$PRODUCT_CATALOG_SERVICE_ADDR/products",
		"--call=currencyservice=http://$CURRENCY_SERVICE_ADDR/currencies", "--call=cartservice=http://$CART_SERVICE_ADDR/cart",
	},
	"productcatalogservice": {"--name=productcatalogservice", "--port=3550"},
	"currencyservice":       {"--name=currencyservice", "--port=7000"},
	"cartservice":           {"--name=cartservice", "--port=7070"},
	"fruits-api":            {"--name=fruits-api", "--version=1", "--port=3000"},
	"book-club":             {"--name=bookclub", "--port=3000"},
}

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
