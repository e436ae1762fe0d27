// Command demo shows the operator's main job on real parts: a workload goes from PERMISSIVE to STRICT because its proxies
// stopped seeing plaintext. As root on Linux it runs a whole mesh in namespaces of its own; otherwise a control plane with
// played-back proxies, and it says so. KEEP=1 leaves it running, with a KUBECONFIG to try things.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/servicesecurity/operator/test/testbed"
)

// patience is how long the whole story may take on a slow machine.
const patience = 10 * time.Minute

func main() {
	err := testbed.Enter()
	var missing *testbed.MissingError
	if err != nil && !errors.As(err, &missing) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	out := newPrinter(os.Stdout)
	if err := run(out, missing); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(out *printer, missing *testbed.MissingError) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	telling, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	w := newMesh()
	if missing != nil {
		out.note("No real mesh here: %v.", missing)
		out.note("The same story on a real control plane, with played-back telemetry in place of the proxies.")
		w = newPlayback()
	}
	defer func() { err = errors.Join(err, w.stop()) }()
	if err := tell(telling, out, w); err != nil {
		return err
	}
	if os.Getenv("KEEP") == "" {
		return nil
	}
	return keep(ctx, out, w)
}

// keep leaves the demo running for whoever wants to try things.
func keep(ctx context.Context, out *printer, w world) error {
	path, err := filepath.Abs(filepath.Join("bin", "demo.kubeconfig"))
	if err != nil {
		return fmt.Errorf("finding a place for the kubeconfig: %w", err)
	}
	if err := w.expose(path); err != nil {
		return err
	}
	defer func() { _ = os.Remove(path) }()
	kubectl, err := testbed.Kubectl()
	if err != nil {
		return err
	}
	out.title("It is still running, until Ctrl-C. In another terminal:")
	out.fact("export KUBECONFIG=%s", path)
	out.fact("%s get ssp -A", kubectl)
	<-ctx.Done()
	return nil
}
