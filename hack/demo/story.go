package main

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// world is where the story takes place.
type world interface {
	// start brings up the cluster, the operator, and the callers: a meshed one, and one outside the mesh.
	start(ctx context.Context, out *printer) error
	// kubectl runs kubectl and returns what it printed.
	kubectl(ctx context.Context, args ...string) (string, error)
	// apply applies a manifest as kubectl apply does.
	apply(ctx context.Context, manifest string) error
	// join moves the caller outside the mesh into it.
	join(ctx context.Context) error
	// proof says what plaintext gets now, and how the meshed caller fared all the while.
	proof(ctx context.Context) ([]string, error)
	// expose writes a kubeconfig that works outside the demo.
	expose(path string) error
	stop() error
}

const (
	shop   = "foo"
	legacy = "legacy"
	// profile is what the story applies.
	profile = `apiVersion: servicesecurity.dev/v1alpha1
kind: ServiceSecurityProfile
metadata:
  name: httpbin
  namespace: foo
spec:
  target: {kind: Service, name: httpbin}
  mtls:
    mode: Strict
    rollout: {observationWindow: 8s, verificationWindow: 5s}
`
)

// tell is the story.
func tell(ctx context.Context, out *printer, w world) error {
	if err := w.start(ctx, out); err != nil {
		return err
	}
	out.title("A team asks for Strict, while a client outside the mesh still calls httpbin in plaintext")
	out.output("kubectl apply -f -", profile)
	if err := w.apply(ctx, profile); err != nil {
		return err
	}
	if err := await(ctx, w, "Blocked"); err != nil {
		return err
	}
	out.title("Blocked: the proxies see plaintext, so nothing is switched and nobody is cut off")
	if err := show(ctx, out, w, "get ssp -n foo", "describe ssp httpbin -n foo", "get peerauthentication -n foo"); err != nil {
		return err
	}
	out.title("The client joins the mesh")
	if err := w.join(ctx); err != nil {
		return err
	}
	if err := await(ctx, w, "Observing"); err != nil {
		return err
	}
	if err := show(ctx, out, w, "get ssp -n foo -o wide"); err != nil {
		return err
	}
	if err := await(ctx, w, "Verifying"); err != nil {
		return err
	}
	out.title("STRICT: no plaintext for the whole window, every gate read once more, and written")
	if err := show(ctx, out, w, "get ssp -n foo", "get peerauthentication,destinationrule -n foo"); err != nil {
		return err
	}
	if err := await(ctx, w, "Enforced"); err != nil {
		return err
	}
	out.title("Enforced: every proxy has taken it and drained, and the verification window is over")
	if err := show(ctx, out, w, "get ssp -n foo", "describe ssp httpbin -n foo"); err != nil {
		return err
	}
	facts, err := w.proof(ctx)
	if err != nil {
		return err
	}
	for _, fact := range facts {
		out.fact("%s", fact)
	}
	out.title("Done")
	return nil
}

func show(ctx context.Context, out *printer, w world, commands ...string) error {
	for _, command := range commands {
		text, err := w.kubectl(ctx, strings.Fields(command)...)
		if err != nil {
			return err
		}
		out.output("kubectl "+command, text)
	}
	return nil
}

// await waits for the profile's stage.
func await(ctx context.Context, w world, stage string) error {
	const every = 200 * time.Millisecond
	for {
		text, err := w.kubectl(ctx, "get", "ssp", "httpbin", "-n", shop, "-o", "jsonpath={.status.mtls.stage}")
		if err == nil && strings.TrimSpace(text) == stage {
			return nil
		}
		select {
		case <-ctx.Done():
			described, _ := w.kubectl(context.WithoutCancel(ctx), "describe", "ssp", "-n", shop)
			return fmt.Errorf("waiting for stage %s: %w\n%s", stage, ctx.Err(), described)
		case <-time.After(every):
		}
	}
}
