package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/servicesecurity/operator/test/testbed"
)

const (
	outside  = "outside"
	overlay  = "test/overlay"
	callURL  = "http://httpbin.foo:8000/headers"
	nonrootU = 65532
)

// mesh is the story on a whole mesh.
type mesh struct {
	bed *testbed.Mesh
}

func newMesh() world { return &mesh{} }

func (m *mesh) start(ctx context.Context, out *printer) error {
	out.title("Starting a mesh: etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kube-proxy, istiod")
	manager, err := filepath.Abs(filepath.Join("bin", "manager"))
	if err != nil {
		return fmt.Errorf("finding the manager: %w", err)
	}
	if m.bed, err = testbed.StartMesh(ctx, testbed.MeshOptions{
		ConnectionStats: true,
		Images:          map[string]testbed.Image{"operator": {Command: []string{manager}, User: nonrootU}},
		// Istio lets connections drain for 45 s, which the story would wait out.
		MeshConfig: map[string]any{"defaultConfig": map[string]any{"drainDuration": "4s"}},
	}); err != nil {
		return err
	}
	out.title("Installing the operator, httpbin in the mesh, and a client on either side")
	if _, err := m.kubectl(ctx, "apply", "--server-side", "-k", overlay); err != nil {
		return err
	}
	return m.workloads(ctx)
}

// workloads are httpbin and a caller in the mesh, a caller outside that is going to join it, and one that is not.
func (m *mesh) workloads(ctx context.Context) error {
	steady, err := testbed.LoadClient(shop, "steady", "--url="+callURL, "--rate=50", "--new=5")
	if err != nil {
		return err
	}
	cron, err := testbed.LoadClient(legacy, "cron", "--url="+callURL, "--rate=5", "--connections=1")
	if err != nil {
		return err
	}
	manifests := map[string][]string{
		shop: {testbed.Httpbin(shop), steady}, legacy: {cron}, outside: {testbed.Sleep(outside)},
	}
	group, starting := errgroup.WithContext(ctx)
	for namespace, all := range manifests {
		group.Go(func() error {
			if err := m.bed.Namespace(starting, namespace, namespace == shop); err != nil {
				return err
			}
			for _, manifest := range all {
				if err := m.bed.Apply(starting, manifest); err != nil {
					return err
				}
			}
			return m.bed.WaitReady(starting, namespace, "")
		})
	}
	group.Go(func() error { return m.bed.WaitReady(starting, "servicesecurity-system", "") })
	if err := group.Wait(); err != nil {
		return err
	}
	for namespace, app := range map[string]string{shop: "steady", legacy: "cron"} {
		if err := m.bed.Served(ctx, namespace, app); err != nil {
			return err
		}
	}
	return nil
}

func (m *mesh) kubectl(ctx context.Context, args ...string) (string, error) {
	return m.bed.Kubectl(ctx, args...)
}

func (m *mesh) apply(ctx context.Context, manifest string) error { return m.bed.Apply(ctx, manifest) }

func (m *mesh) join(ctx context.Context) error {
	if err := m.bed.Namespace(ctx, legacy, true); err != nil {
		return err
	}
	if _, err := m.kubectl(ctx, "rollout", "restart", "deployment/cron", "-n", legacy); err != nil {
		return err
	}
	return m.bed.WaitReady(ctx, legacy, "")
}

func (m *mesh) proof(ctx context.Context) ([]string, error) {
	answer, err := m.bed.Curl(ctx, outside, "sleep", callURL)
	if err != nil {
		return nil, err
	}
	refused := fmt.Sprintf("A client outside the mesh: curl says %03d, exit code %d: %s", answer.HTTPCode, answer.CurlExit, answer.Stderr)
	totals, err := m.bed.Totals(ctx, shop, "steady")
	if err != nil {
		return nil, err
	}
	joined, err := m.bed.Totals(ctx, legacy, "cron")
	if err != nil {
		return nil, err
	}
	facts := []string{
		refused,
		fmt.Sprintf("The meshed client: %d requests and %d new connections since the start, %d failed", totals.Requests, totals.NewConnections, totals.Failed()),
		fmt.Sprintf("The client that joined the mesh: %d requests since then, %d failed", joined.Requests, joined.Failed()),
	}
	if answer.CurlExit == 0 || totals.Failed() > 0 || joined.Failed() > 0 {
		return facts, fmt.Errorf("this is not what should happen: %v %v", facts, totals.Errors)
	}
	return facts, nil
}

func (m *mesh) expose(path string) error { return m.bed.Expose(path) }

func (m *mesh) stop() error {
	if m.bed == nil {
		return nil
	}
	err := m.bed.Stop()
	if err != nil {
		return errors.Join(errors.New("stopping the mesh"), err)
	}
	return nil
}
