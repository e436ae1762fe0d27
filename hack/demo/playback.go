package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/test/playback"
	"github.com/servicesecurity/operator/test/testbed"
	"github.com/servicesecurity/operator/test/testbed/process"
)

const (
	statsPort = 15090
	// tick is how often the callers call.
	tick = 200 * time.Millisecond
)

// workload is httpbin as the API server knows it; nothing runs it.
const workload = `apiVersion: v1
kind: Namespace
metadata: {name: foo}
---
apiVersion: v1
kind: Namespace
metadata: {name: istio-system}
---
apiVersion: v1
kind: Service
metadata: {name: httpbin, namespace: foo}
spec:
  selector: {app: httpbin}
  ports: [{name: http, port: 8000, targetPort: 8000}]
---
apiVersion: v1
kind: Pod
metadata:
  name: httpbin-1
  namespace: foo
  labels: {app: httpbin, security.istio.io/tlsMode: istio}
spec:
  automountServiceAccountToken: false
  containers:
  - {name: httpbin, image: httpbin, ports: [{containerPort: 8000}]}
  - {name: istio-proxy, image: proxyv2}
`

// played is the story on a control plane, with a played-back proxy and callers that only its telemetry knows.
type played struct {
	plane    *testbed.ControlPlane
	client   client.Client
	operator *process.Process
	proxy    *playback.Proxy
	joined   atomic.Bool
	end      context.CancelFunc
}

func newPlayback() world { return &played{} }

func (p *played) start(ctx context.Context, out *printer) error {
	out.title("Starting a control plane: etcd, kube-apiserver, kube-controller-manager")
	istio, err := istioCRDs(ctx)
	if err != nil {
		return err
	}
	p.plane, err = testbed.StartControlPlane(ctx, testbed.ControlPlaneOptions{
		ControllerManager: true, CRDs: []string{filepath.Join("config", "crd", "bases"), istio},
	})
	if err != nil {
		return err
	}
	if p.client, err = client.New(p.plane.Config(), client.Options{}); err != nil {
		return fmt.Errorf("making a client: %w", err)
	}
	out.title("Starting the operator, and a proxy's telemetry in place of httpbin")
	p.operator, err = process.Start(process.Command{
		Name: "manager", Path: filepath.Join("bin", "manager"), LogDir: p.plane.LogDir(),
		Env: []string{"KUBECONFIG=" + p.plane.Kubeconfig()},
		Args: []string{
			"--metrics-bind-address=0", "--health-probe-bind-address=0", "--observation-interval=1s", "--settle-time=2s",
		},
	})
	if err != nil {
		return err
	}
	return p.workload(ctx)
}

// workload makes httpbin known, and ready at the address of its played-back proxy.
func (p *played) workload(ctx context.Context) error {
	// An address of its own on loopback lets several demos run side by side on the proxy's fixed port.
	host := fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
	var err error
	if p.proxy, err = playback.Start(host, statsPort); err != nil {
		return err
	}
	if err := p.apply(ctx, workload); err != nil {
		return err
	}
	pod := &corev1.Pod{}
	if err := p.client.Get(ctx, client.ObjectKey{Namespace: shop, Name: "httpbin-1"}, pod); err != nil {
		return fmt.Errorf("reading the pod: %w", err)
	}
	pod.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: host, PodIPs: []corev1.PodIP{{IP: host}},
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
	}
	if err := p.client.Status().Update(ctx, pod); err != nil {
		return fmt.Errorf("making the pod ready: %w", err)
	}
	// The callers go on while a shell is kept, until the demo stops.
	var calling context.Context
	calling, p.end = context.WithCancel(context.WithoutCancel(ctx))
	go p.call(calling)
	return nil
}

// call counts what the callers send, and plays the proxy's taking of another PeerAuthentication.
func (p *played) call(ctx context.Context) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	mode := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		p.proxy.MutualTLS("steady", shop, 1)
		if p.joined.Load() {
			p.proxy.MutualTLS("cron", legacy, 1)
		} else {
			p.proxy.Plaintext(1)
		}
		now, err := p.kubectl(ctx, "get", "peerauthentication", "httpbin", "-n", shop, "-o", "jsonpath={.spec.mtls.mode}")
		if err == nil && now != mode {
			mode = now
			p.proxy.TakeConfiguration()
		}
	}
}

func (p *played) kubectl(ctx context.Context, args ...string) (string, error) {
	binary, err := testbed.Kubectl()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+p.plane.Kubeconfig())
	text, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("running kubectl %s: %w", strings.Join(args, " "), err)
	}
	return string(text), nil
}

func (p *played) apply(ctx context.Context, manifest string) error {
	objects, err := testbed.Objects([]byte(manifest))
	if err != nil {
		return err
	}
	return testbed.Apply(ctx, p.client, objects...)
}

func (p *played) join(context.Context) error {
	p.joined.Store(true)
	return nil
}

func (p *played) proof(context.Context) ([]string, error) {
	return []string{"Without a real mesh nobody is refused here; as root on Linux the demo shows curl's own answers."}, nil
}

func (p *played) expose(path string) error {
	config, err := os.ReadFile(p.plane.Kubeconfig())
	if err != nil {
		return fmt.Errorf("reading the kubeconfig: %w", err)
	}
	if err := os.WriteFile(path, config, 0o600); err != nil {
		return fmt.Errorf("writing the kubeconfig: %w", err)
	}
	return nil
}

func (p *played) stop() error {
	if p.end != nil {
		p.end()
	}
	if p.operator != nil {
		p.operator.Stop(5 * time.Second)
	}
	if p.proxy != nil {
		p.proxy.Stop()
	}
	if p.plane == nil {
		return nil
	}
	if err := p.plane.Stop(); err != nil {
		return errors.Join(errors.New("stopping the control plane"), err)
	}
	return nil
}

// istioCRDs is the file of Istio's own definitions, in the module that its types come from.
func istioCRDs(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "istio.io/api").Output()
	if err != nil {
		return "", fmt.Errorf("finding Istio's CRDs: %w", err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "kubernetes", "customresourcedefinitions.gen.yaml"), nil
}
