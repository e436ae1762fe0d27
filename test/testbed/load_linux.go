package testbed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/servicesecurity/operator/test/testbed/container"
	"github.com/servicesecurity/operator/test/testbed/testapp"
)

const (
	// defaultControl is where a client pod's own client answers, and firstControl where those answer that StartLoad starts.
	defaultControl = "127.0.0.1:9091"
	firstControl   = 9100
)

// Load is a client that runs in a pod, beside the pod's own program.
type Load struct {
	mesh           *Mesh
	namespace, pod string
	control        string
	cancel         context.CancelFunc
	done           chan error
}

// StartLoad runs the client of testapp with flags in a ready pod of the app, until Stop.
func (m *Mesh) StartLoad(ctx context.Context, namespace, app string, flags ...string) (*Load, error) {
	pod, err := m.ReadyPod(ctx, namespace, app)
	if err != nil {
		return nil, err
	}
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	port := firstControl + int(m.loads.Add(1))
	l := &Load{
		mesh: m, namespace: namespace, pod: pod.Name, cancel: cancel, done: make(chan error, 1),
		control: net.JoinHostPort(loopback, strconv.Itoa(port)),
	}
	command := append([]string{filepath.Join(container.ImageDir, filepath.Base(program)), appArgument, "client", "--control=" + l.control}, flags...)
	go func() {
		result, err := m.agent.Exec(running, namespace, pod.Name, "", true, command...)
		if err == nil {
			err = fmt.Errorf("the client ended with exit code %d: %s", result.ExitCode, result.Stderr)
		}
		l.done <- err
	}()
	return l, nil
}

// Stop ends the client.
func (l *Load) Stop() {
	l.cancel()
	<-l.done // that it was killed is no news
}

// Totals is what the client has counted so far.
func (l *Load) Totals(ctx context.Context) (testapp.Totals, error) {
	return l.mesh.totals(ctx, l.namespace, l.pod, l.control)
}

// Served waits until the client got what it expects for a second, and makes it count from there.
func (l *Load) Served(ctx context.Context) error {
	return l.mesh.served(ctx, fmt.Sprintf("the client in %s/%s", l.namespace, l.pod), func() (string, error) { return l.pod, nil }, l.namespace, l.control)
}

// Totals is what a load client, a pod of the app, has counted so far.
func (m *Mesh) Totals(ctx context.Context, namespace, app string) (testapp.Totals, error) {
	pod, err := m.ReadyPod(ctx, namespace, app)
	if err != nil {
		return testapp.Totals{}, err
	}
	return m.totals(ctx, namespace, pod.Name, defaultControl)
}

// Served waits until a load client has been served for a second without a failure, and makes it count from there: what
// failed while its server or its own proxy was coming up is nobody's fault.
func (m *Mesh) Served(ctx context.Context, namespace, app string) error {
	find := func() (string, error) {
		pod, err := m.ReadyPod(ctx, namespace, app)
		if err != nil {
			return "", err
		}
		return pod.Name, nil
	}
	return m.served(ctx, fmt.Sprintf("client %s in %s", app, namespace), find, namespace, defaultControl)
}

func (m *Mesh) served(ctx context.Context, what string, find func() (string, error), namespace, control string) error {
	return await(ctx, what+" to be served", func(ctx context.Context) error {
		pod, err := find()
		if err != nil {
			return err
		}
		if err := m.resetTotals(ctx, namespace, pod, control); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
		totals, err := m.totals(ctx, namespace, pod, control)
		switch {
		case err != nil:
			return err
		case totals.Failed() > 0, len(totals.Errors) > 0: // a stream that breaks is an error, and no failure
			return fmt.Errorf("it had %d failures, and these errors first: %v", totals.Failed(), totals.Errors)
		case totals.Requests == 0 && totals.Stream.BytesReceived == 0:
			return errors.New("it got no answer yet")
		}
		return m.resetTotals(ctx, namespace, pod, control)
	})
}

func (m *Mesh) totals(ctx context.Context, namespace, pod, control string) (testapp.Totals, error) {
	var totals testapp.Totals
	answer, err := m.CurlFrom(ctx, namespace, pod, "http://"+control+"/totals")
	if err != nil {
		return totals, err
	}
	if answer.HTTPCode != http.StatusOK {
		return totals, fmt.Errorf("asking the client for its totals: status %d: %s", answer.HTTPCode, answer.Stderr)
	}
	if err := json.Unmarshal([]byte(answer.Body), &totals); err != nil {
		return totals, fmt.Errorf("reading the client's totals: %w", err)
	}
	return totals, nil
}

func (m *Mesh) resetTotals(ctx context.Context, namespace, pod, control string) error {
	answer, err := m.CurlFrom(ctx, namespace, pod, "http://"+control+"/reset")
	if err != nil {
		return err
	}
	if answer.HTTPCode != http.StatusOK {
		return fmt.Errorf("resetting the client's totals: status %d: %s", answer.HTTPCode, answer.Stderr)
	}
	return nil
}
