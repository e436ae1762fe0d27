package testbed

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/test/testbed/container"
	"github.com/servicesecurity/operator/test/testbed/netns"
	"github.com/servicesecurity/operator/test/testbed/node"
	"github.com/servicesecurity/operator/test/testbed/process"
)

const (
	// runDir is a file system in memory once Enter has returned.
	runDir = "/run"
	// nodeAddress is where the API server, istiod and the node are, inside the bed's own network namespace.
	nodeAddress = "10.1.0.1"
	nodeName    = "node1"
	podCIDR     = "10.244.0.0/16"
	apiPort     = 6443
	poll        = 50 * time.Millisecond
)

// Image is what stands for a container image.
type Image = node.Image

// MeshOptions says what a mesh has beside Istio and one node.
type MeshOptions struct {
	// Images are added to the bed's own: Istio's proxy, httpbin, sleep, tcp-echo, client, and those of the demos.
	Images map[string]Image
	// CRDs are files or folders of CustomResourceDefinitions to install.
	CRDs []string
	// GatewayAPI installs the CRDs of gateway.networking.k8s.io, for whose Gateways istiod makes Deployments.
	GatewayAPI bool
	// MeshConfig is laid over the bed's mesh configuration.
	MeshConfig map[string]any
	// Prometheus adds the image of a Prometheus server; see Prometheus.
	Prometheus bool
	// ConnectionStats makes proxies expose their open connections and what STRICT refused, which they do not by default.
	ConnectionStats bool
	// IstiodEnv is added to istiod's environment.
	IstiodEnv map[string]string
	// Audit makes the API server log each call to AuditLog().
	Audit bool
	// APIServerArgs are added to the API server's flags.
	APIServerArgs []string
	// Scheme is the client's; nil means that of client-go, which unstructured objects do not need either.
	Scheme *runtime.Scheme
}

// Mesh is a cluster with Istio and one node, whose pods are processes. All of it is in the namespaces that Enter made.
type Mesh struct {
	dir          string
	controlPlane *ControlPlane
	istiod       *Istiod
	agent        *node.Agent
	nodeLog      *os.File
	proxy        *process.Process
	client       client.Client
	loads        atomic.Int32
}

// StartMesh starts a mesh and returns when it can take Deployments. It needs Enter to have returned.
func StartMesh(ctx context.Context, options MeshOptions) (_ *Mesh, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	m := &Mesh{}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Stop())
		}
	}()
	if m.dir, err = os.MkdirTemp(runDir, "testbed-"); err != nil {
		return nil, fmt.Errorf("making the mesh's folder: %w", err)
	}
	// Cluster IPs are routed to loopback, where kube-proxy's rules redirect the control plane's own calls to them.
	if err := netns.Batch(ctx, "addr add "+nodeAddress+"/32 dev lo", "route add "+defaultServiceCIDR+" dev lo src "+nodeAddress); err != nil {
		return nil, err
	}
	crds := options.CRDs
	if options.GatewayAPI {
		dir, err := gatewayAPICRDs()
		if err != nil {
			return nil, err
		}
		crds = append([]string{dir}, crds...)
	}
	m.controlPlane, err = StartControlPlane(ctx, ControlPlaneOptions{
		CRDs: crds, ControllerManager: true, Scheduler: true, Audit: options.Audit, APIServerArgs: options.APIServerArgs,
		Dir: m.dir, address: nodeAddress, port: apiPort,
	})
	if err != nil {
		return nil, err
	}
	if m.client, err = client.New(m.Config(), client.Options{Scheme: options.Scheme}); err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { return m.startNode(groupCtx, options) })
	group.Go(func() (err error) {
		m.istiod, err = StartIstiod(groupCtx, m.controlPlane, IstiodOptions{MeshConfig: proxyConfig(options), Env: options.IstiodEnv, inMesh: true})
		return err
	})
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if err := m.awaitWebhooks(ctx); err != nil {
		return nil, err
	}
	if err := m.Apply(ctx, telemetryManifest); err != nil {
		return nil, err
	}
	return m, nil
}

// Stop ends everything and removes what is left in memory.
func (m *Mesh) Stop() error {
	if m.agent != nil {
		m.agent.Stop()
	}
	if m.proxy != nil {
		m.proxy.Stop(0)
	}
	if m.istiod != nil {
		m.istiod.Stop()
	}
	var errs []error
	if m.nodeLog != nil {
		errs = append(errs, m.nodeLog.Close())
	}
	if m.controlPlane != nil {
		errs = append(errs, m.controlPlane.Stop())
	}
	ctx, cancel := startContext()
	defer cancel()
	if m.dir != "" {
		errs = append(errs, os.RemoveAll(m.dir),
			netns.Batch(ctx, "route del "+defaultServiceCIDR+" dev lo", "addr del "+nodeAddress+"/32 dev lo"))
	}
	return errors.Join(errs...)
}

// Client is a superuser's client.
func (m *Mesh) Client() client.Client { return m.client }

// Config is a superuser's client configuration; a copy.
func (m *Mesh) Config() *rest.Config { return m.controlPlane.Config() }

// Kubeconfig is the path of a superuser's kubeconfig, which only processes inside the bed can use.
func (m *Mesh) Kubeconfig() string { return m.controlPlane.Kubeconfig() }

// ControlPlane is the mesh's.
func (m *Mesh) ControlPlane() *ControlPlane { return m.controlPlane }

// Istiod is the mesh's.
func (m *Mesh) Istiod() *Istiod { return m.istiod }

// AuditLog is the path of the API server's audit log, one JSON event a line. It exists with MeshOptions.Audit.
func (m *Mesh) AuditLog() string { return m.controlPlane.AuditLog() }

// LogDir is where each part logs, and each container in NAMESPACE/POD_CONTAINER.log below pods.
func (m *Mesh) LogDir() string { return m.controlPlane.LogDir() }

// CopyLogs copies all logs into a folder, which must not have them yet.
func (m *Mesh) CopyLogs(dir string) error {
	if err := os.CopyFS(dir, os.DirFS(m.LogDir())); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("copying the logs: %w", err)
	}
	return nil
}

func (m *Mesh) startNode(ctx context.Context, options MeshOptions) error {
	images, err := m.images(options)
	if err != nil {
		return err
	}
	config, err := m.controlPlane.configFor("system:node:"+nodeName, "system:nodes", superusers)
	if err != nil {
		return err
	}
	if m.nodeLog, err = os.Create(filepath.Join(m.LogDir(), "node.log")); err != nil {
		return fmt.Errorf("opening the node's log: %w", err)
	}
	m.agent, err = node.Start(ctx, config, node.Options{
		Name: nodeName, Address: nodeAddress, ServiceIP: firstServiceIP, Images: images,
		PodAddress: func(n int) string { return fmt.Sprintf("10.244.%d.%d", n/250%256, n%250+2) },
		Dir:        filepath.Join(m.dir, "pods"), LogDir: filepath.Join(m.LogDir(), "pods"),
		Log: slog.New(slog.NewTextHandler(m.nodeLog, nil)),
	})
	if err != nil {
		return err
	}
	return m.startProxy()
}

// startProxy runs kube-proxy, after the Node has an address: otherwise it waits for one for half a minute.
func (m *Mesh) startProxy() error {
	binaries, err := kubernetesBinaries("kube-proxy")
	if err != nil {
		return err
	}
	kubeconfig, err := m.controlPlane.KubeconfigFor("system:kube-proxy", superusers)
	if err != nil {
		return err
	}
	m.proxy, err = process.Start(process.Command{
		Name: "kube-proxy", Path: binaries["kube-proxy"], LogDir: m.LogDir(),
		Args: []string{
			"--kubeconfig=" + kubeconfig, "--hostname-override=" + nodeName, "--proxy-mode=iptables", "--cluster-cidr=" + podCIDR,
			"--iptables-min-sync-period=20ms", "--metrics-bind-address=" + loopback + ":10249", "--healthz-bind-address=" + loopback + ":10256",
			// Sizes and timeouts of connection tracking belong to the host's own network namespace.
			"--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0",
		},
	})
	return err
}

// images are the bed's own and the caller's, which win.
func (m *Mesh) images(options MeshOptions) (map[string]Image, error) {
	files, err := meshFiles()
	if err != nil {
		return nil, err
	}
	envoy, err := envoyBinary()
	if err != nil {
		return nil, err
	}
	template, err := os.ReadFile(files["envoy_bootstrap.json"])
	if err != nil {
		return nil, fmt.Errorf("reading the proxy's bootstrap: %w", err)
	}
	changed, err := bootstrap(string(template))
	if err != nil {
		return nil, err
	}
	bootstrapFile := filepath.Join(m.dir, "envoy_bootstrap.json")
	if err := os.WriteFile(bootstrapFile, []byte(changed), 0o644); err != nil { // the proxy's user reads it
		return nil, fmt.Errorf("writing the proxy's bootstrap: %w", err)
	}
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	images := map[string]Image{"proxyv2": {
		Command: []string{files["pilot-agent"]},
		Env:     map[string]string{"ISTIO_META_ISTIO_VERSION": IstioVersion, "ISTIO_BOOTSTRAP": bootstrapPath},
		Files:   map[string]string{envoyPath: envoy, bootstrapPath: bootstrapFile},
	}}
	for _, app := range []string{"httpbin", "sleep", "tcp-echo", "client"} {
		images[app] = Image{Command: []string{program, appArgument, app}}
	}
	for name, flags := range demoImages {
		images[name] = Image{Command: append([]string{program, appArgument, "service"}, flags...)}
	}
	if options.Prometheus {
		server, err := prometheusBinary()
		if err != nil {
			return nil, err
		}
		images["prometheus"] = Image{Command: []string{server}, User: nobody}
	}
	var absent missing
	for name, image := range options.Images {
		if len(image.Command) == 0 {
			return nil, fmt.Errorf("reading image %s: it has no command", name)
		}
		if _, err := os.Stat(image.Command[0]); err != nil {
			absent.add(fmt.Sprintf("the program of image %s, %s", name, image.Command[0]), "build it")
		}
		images[name] = image
	}
	return images, absent.err()
}

const nobody = 65534

const (
	envoyPath     = container.ImageDir + "/envoy"
	bootstrapPath = container.ImageDir + "/envoy_bootstrap.json"
)

// proxyConfig is the caller's mesh configuration with what the bed's proxies need.
func proxyConfig(options MeshOptions) map[string]any {
	defaults := map[string]any{"binaryPath": envoyPath}
	if options.ConnectionStats {
		defaults["proxyStatsMatcher"] = map[string]any{"inclusionSuffixes": []any{
			"downstream_cx_active", "downstream_cx_ssl_active", "downstream_cx_total", "downstream_cx_ssl_total", "no_filter_chain_match",
		}}
	}
	config := map[string]any{"defaultConfig": defaults}
	for key, value := range options.MeshConfig {
		nested, ok := value.(map[string]any)
		if key != "defaultConfig" || !ok {
			config[key] = value
			continue
		}
		for k, v := range nested {
			defaults[k] = v
		}
	}
	return config
}

// bootstrap makes the proxy's statistics listener take off the prefix that Envoy adds to the bed's metrics.
func bootstrap(template string) (string, error) {
	const filter = `{"name": "envoy.filters.http.lua", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",` +
		` "default_source_code": {"inline_string": "function envoy_on_response(h) local b = h:body(); if b then` +
		` local s = string.gsub(b:getBytes(0, b:length()), 'envoy_istiocustom_istio_', 'istio_'); b:setBytes(s) end end"}}},`
	// The last filter before the router is the first to see a response: before one that compresses it.
	const listener, router = `"prefix": "/stats/prometheus"`, `"name": "envoy.filters.http.router"`
	at := strings.Index(template, listener)
	if at < 0 {
		return "", fmt.Errorf("finding the statistics listener in the proxy's bootstrap: there is no %s", listener)
	}
	offset := strings.Index(template[at:], router)
	if offset < 0 {
		return "", fmt.Errorf("finding the statistics listener in the proxy's bootstrap: there is no %s", router)
	}
	at = strings.LastIndexByte(template[:at+offset], '{')
	return template[:at] + filter + template[at:], nil
}

// awaitWebhooks waits until istiod has made its webhooks binding, so that no pod slips by without a sidecar.
func (m *Mesh) awaitWebhooks(ctx context.Context) error {
	return await(ctx, "istiod's webhooks", func(ctx context.Context) error {
		var injection admissionregistrationv1.MutatingWebhookConfiguration
		if err := m.client.Get(ctx, client.ObjectKey{Name: "istio-sidecar-injector"}, &injection); err != nil {
			return fmt.Errorf("reading the injection webhook: %w", err)
		}
		for _, w := range injection.Webhooks {
			if len(w.ClientConfig.CABundle) == 0 {
				return fmt.Errorf("webhook %s has no CA bundle", w.Name)
			}
		}
		var validations admissionregistrationv1.ValidatingWebhookConfigurationList
		if err := m.client.List(ctx, &validations); err != nil {
			return fmt.Errorf("listing the validation webhooks: %w", err)
		}
		for _, v := range validations.Items {
			for _, w := range v.Webhooks {
				if w.FailurePolicy == nil || *w.FailurePolicy != admissionregistrationv1.Fail {
					return fmt.Errorf("webhook %s of %s lets everything pass", w.Name, v.Name)
				}
			}
		}
		return nil
	})
}

// await polls f until it succeeds or ctx ends.
func await(ctx context.Context, what string, f func(context.Context) error) error {
	for {
		err := f(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, errors.Join(ctx.Err(), err))
		case <-time.After(poll):
		}
	}
}

func startContext() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), time.Minute)
}
