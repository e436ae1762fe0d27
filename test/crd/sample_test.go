package crd_test

import (
	"context"
	"os"
	"path/filepath"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

var _ = It("accepts every sample", func(ctx context.Context) {
	names, err := filepath.Glob(filepath.Join("..", "..", "config", "samples", "*.yaml"))
	Expect(err).NotTo(HaveOccurred())
	accepted := 0
	for _, name := range names {
		data, err := os.ReadFile(name)
		Expect(err).NotTo(HaveOccurred())
		object := &unstructured.Unstructured{}
		Expect(yaml.Unmarshal(data, &object.Object)).To(Succeed(), name)
		if object.GetKind() != v1alpha1.Kind {
			continue // kustomization.yaml
		}
		object.SetNamespace("default")
		Expect(dryCreate(ctx, object)).To(Succeed(), name)
		accepted++
	}
	Expect(accepted).NotTo(BeZero())
})
