//go:build e2e

// Package e2e proves on a real mesh, with real proxies and curl's own answers, what the operator does to reachability. One mesh serves all specs; each
// spec has namespaces of its own.
package e2e

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/servicesecurity/operator/controllers"
	"github.com/servicesecurity/operator/test/testbed"
)

const (
	startTimeout = 2 * time.Minute
	poll         = 200 * time.Millisecond
	patience     = time.Minute
)

// mesh is the one that every spec uses.
var mesh *testbed.Mesh

func TestMain(m *testing.M) { testbed.Main(m) }

func TestE2E(t *testing.T) {
	RegisterFailHandler(Fail)
	SetDefaultEventuallyTimeout(patience)
	SetDefaultEventuallyPollingInterval(poll)
	RunSpecs(t, "E2E")
}

var _ = BeforeSuite(func(ctx SpecContext) {
	begin := time.Now()
	makeMints()
	scheme, err := controllers.NewScheme()
	Expect(err).NotTo(HaveOccurred())
	binary, err := filepath.Abs(manager)
	Expect(err).NotTo(HaveOccurred())
	mesh, err = testbed.StartMesh(ctx, testbed.MeshOptions{
		Audit: true, ConnectionStats: true, GatewayAPI: true, Prometheus: true, Scheme: scheme,
		Images: map[string]testbed.Image{"operator": {Command: []string{binary}, User: 65532}},
		// Istio lets connections drain for 45 s; the specs would wait for it.
		MeshConfig: map[string]any{"defaultConfig": map[string]any{"drainDuration": "4s"}, "extensionProviders": accessLogProviders()},
	})
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(stopMesh)
	installOperator(ctx)
	GinkgoWriter.Printf("mesh ready after %s\n", time.Since(begin).Round(time.Millisecond))
}, NodeTimeout(startTimeout))

// stopMesh keeps the logs first when something failed: the mesh takes them with it.
func stopMesh() {
	if dir := os.Getenv("E2E_LOGS"); dir != "" {
		if err := mesh.CopyLogs(filepath.Join(dir, time.Now().Format("20060102-150405"))); err != nil {
			GinkgoWriter.Printf("the logs are lost: %v\n", err)
		}
	}
	Expect(mesh.Stop()).To(Succeed())
}

// space is a namespace of a spec and what is in it.
type space struct {
	name      string
	meshed    bool
	manifests []string
}

// setUp makes the running spec's namespaces, waits until their pods are ready, and deletes them afterwards.
func setUp(ctx context.Context, spaces ...space) {
	GinkgoHelper()
	names := make([]string, 0, len(spaces))
	for _, s := range spaces {
		names = append(names, s.name)
	}
	DeferCleanup(func(ctx SpecContext) {
		Expect(mesh.DeleteNamespaces(ctx, names...)).To(Succeed())
	}, NodeTimeout(patience))
	for _, s := range spaces {
		Expect(mesh.Namespace(ctx, s.name, s.meshed)).To(Succeed())
		for _, manifest := range s.manifests {
			Expect(mesh.Apply(ctx, manifest)).To(Succeed())
		}
	}
	for _, s := range spaces {
		if len(s.manifests) > 0 {
			Expect(mesh.WaitReady(ctx, s.name, "")).To(Succeed())
		}
	}
}
