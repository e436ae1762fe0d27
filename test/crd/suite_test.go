// Package crd_test puts the CustomResourceDefinition before a real kube-apiserver: every rule with an object that passes
// and one that fails, every default, every transition, and the schema itself against the conventions that it must keep.
package crd_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

var (
	bases = filepath.Join("..", "..", "config", "crd", "bases")

	config *rest.Config
	api    client.Client
)

func TestCRD(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "CustomResourceDefinition")
}

var _ = BeforeSuite(func() {
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		Fail("KUBEBUILDER_ASSETS is not set, so there is no kube-apiserver to test with: run these tests through `make test`")
	}
	environment := &envtest.Environment{CRDDirectoryPaths: []string{bases}, ErrorIfCRDPathMissing: true}
	var err error
	config, err = environment.Start()
	Expect(err).NotTo(HaveOccurred(), "starting the API server and installing the CRD")
	DeferCleanup(environment.Stop)

	scheme := runtime.NewScheme()
	Expect(v1alpha1.AddToScheme(scheme)).To(Succeed())
	api, err = client.New(config, client.Options{Scheme: scheme})
	Expect(err).NotTo(HaveOccurred())
})

// minimal is the smallest spec that is valid. The cases are merge patches over it.
const minimal = `{target: {kind: Service, name: reviews}, mtls: {mode: Permissive}}`

// profile returns a profile whose spec is the minimal one with the patches merged into it, one after the other.
func profile(patches ...string) *unstructured.Unstructured {
	spec := parse(minimal)
	for _, patch := range patches {
		spec = merge(spec, parse(patch))
	}
	object := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
	object.SetGroupVersionKind(v1alpha1.SchemeGroupVersion.WithKind(v1alpha1.Kind))
	object.SetNamespace(metav1.NamespaceDefault)
	object.SetGenerateName("case-")
	return object
}

// parse reads a case's YAML. A table with broken YAML is a mistake of the table, also while it is built.
func parse(text string) map[string]any {
	object := map[string]any{}
	if err := yaml.Unmarshal([]byte(text), &object); err != nil {
		panic(fmt.Sprintf("%s: %v", text, err))
	}
	return object
}

// merge applies a merge patch (RFC 7396): null removes, lists are replaced.
func merge(object, patch map[string]any) map[string]any {
	merged := maps.Clone(object)
	for key, value := range patch {
		inner, isMap := value.(map[string]any)
		switch old, wasMap := merged[key].(map[string]any); {
		case value == nil:
			delete(merged, key)
		case isMap && wasMap:
			merged[key] = merge(old, inner)
		default:
			merged[key] = value
		}
	}
	return merged
}

// dryCreate asks the API server what it would make of the object.
func dryCreate(ctx context.Context, object *unstructured.Unstructured) error {
	return api.Create(ctx, object, client.DryRunAll, client.FieldValidation(metav1.FieldValidationStrict))
}

// create stores the object for the time of the spec.
func create(ctx context.Context, object *unstructured.Unstructured) {
	GinkgoHelper()
	Expect(api.Create(ctx, object)).To(Succeed())
	DeferCleanup(func(ctx context.Context) { Expect(api.Delete(ctx, object)).To(Succeed()) })
}

var (
	index = regexp.MustCompile(`\[[0-9]+\]`)
	key   = regexp.MustCompile(`\[([A-Za-z]+)\]`)
)

// plain writes a field as the tables do: [*] for any index, and a dot before the key of a map, for which the API server has two ways.
func plain(field string) string {
	return key.ReplaceAllString(index.ReplaceAllString(field, "[*]"), ".$1")
}

// expectCause asserts that the API server refused with this message at this field.
func expectCause(err error, field, message string) {
	GinkgoHelper()
	Expect(apierrors.IsInvalid(err)).To(BeTrue(), "want the object to be invalid at %s: %s; got: %v", field, message, err)
	var status *apierrors.StatusError
	Expect(errors.As(err, &status)).To(BeTrue())
	for _, cause := range status.ErrStatus.Details.Causes {
		if plain(cause.Field) == field && strings.Contains(cause.Message, message) {
			return
		}
	}
	Fail("want " + field + ": " + message + "\ngot  " + err.Error())
}
