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

// chapter is what happens at a stage of the rollout.
type chapter struct {
	stage, title string
	// shown are kubectl commands.
	shown []string
	// then is what somebody does next; nil for nothing.
	then func(ctx context.Context, out *printer, w world) error
}

var chapters = []chapter{
	{
		stage: "Blocked", title: "Blocked: the proxies see plaintext, so nothing is switched and nobody is cut off",
		shown: []string{"get ssp -n foo", "describe ssp httpbin -n foo", "get peerauthentication -n foo"},
		then: func(ctx context.Context, out *printer, w world) error {
			out.title("The client joins the mesh")
			return w.join(ctx)
		},
	},
	{
		stage: "Observing", title: "Observing: no plaintext any more; the window fills",
		shown: []string{"get ssp -n foo -o wide"},
	},
	{
		stage: "Verifying", title: "STRICT: no plaintext for the whole window, every gate read once more, and written",
		shown: []string{"get ssp -n foo", "get peerauthentication,destinationrule -n foo"},
	},
	{
		stage: "Enforced", title: "Enforced: every proxy has taken it and drained, and the verification window is over",
		shown: []string{"get ssp -n foo", "describe ssp httpbin -n foo"},
		then:  prove,
	},
}

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
	for _, c := range chapters {
		if err := c.tell(ctx, out, w); err != nil {
			return err
		}
	}
	out.title("Done")
	return nil
}

func (c chapter) tell(ctx context.Context, out *printer, w world) error {
	if err := await(ctx, w, c.stage); err != nil {
		return err
	}
	out.title(c.title)
	if err := show(ctx, out, w, c.shown...); err != nil || c.then == nil {
		return err
	}
	return c.then(ctx, out, w)
}

func prove(ctx context.Context, out *printer, w world) error {
	facts, err := w.proof(ctx)
	if err != nil {
		return err
	}
	for _, fact := range facts {
		out.fact("%s", fact)
	}
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
