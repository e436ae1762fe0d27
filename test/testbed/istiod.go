package testbed

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/servicesecurity/operator/test/testbed/process"
)

const (
	istioNamespace = "istio-system"
	istiodHost     = "istiod.istio-system.svc"
	istiodStart    = time.Minute
)

// IstiodOptions says how an istiod is configured.
type IstiodOptions struct {
	// MeshConfig is laid over the bed's mesh configuration, key by key at the top and inside defaultConfig.
	MeshConfig map[string]any
	// Env is added to istiod's environment.
	Env map[string]string

	// inMesh makes istiod serve its fixed ports on every address and manage its webhooks.
	inMesh bool
}

// Istiod is a real istiod that runs outside the cluster it serves.
type Istiod struct {
	process *process.Process
	client  client.Client
	ports   istiodPorts

	mu      sync.Mutex
	webhook *http.Client // nil until somebody asks
}

type istiodPorts struct {
	host                           string
	http, grpc, secure, web, stats int
}

// StartIstiod installs Istio's CRDs, starts istiod for the control plane and returns when it is ready. It needs no privilege.
func StartIstiod(ctx context.Context, c *ControlPlane, options IstiodOptions) (*Istiod, error) {
	ctx, cancel := context.WithTimeout(ctx, istiodStart)
	defer cancel()
	binaries, err := istioBinaries("pilot-discovery", "crds.yaml", "manifests.yaml")
	if err != nil {
		return nil, err
	}
	if err := c.InstallCRDs(binaries["crds.yaml"]); err != nil {
		return nil, err
	}
	k, err := client.New(c.Config(), client.Options{})
	if err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	if err := Apply(ctx, k, namespace(istioNamespace, nil)); err != nil {
		return nil, err
	}
	if options.inMesh {
		if err := installIstioObjects(ctx, k, c.options.address, binaries["manifests.yaml"]); err != nil {
			return nil, err
		}
	}
	i := &Istiod{client: k}
	if err := i.start(c, options, binaries["pilot-discovery"]); err != nil {
		return nil, err
	}
	if err := i.process.AwaitReady(ctx, i.ready); err != nil {
		i.Stop()
		return nil, err
	}
	return i, nil
}

// Stop ends istiod.
func (i *Istiod) Stop() { i.process.Stop(0) }

// DebugURL is where istiod answers /debug/… and /metrics.
func (i *Istiod) DebugURL() string { return "http://" + i.ports.address(i.ports.http) }

// XDSAddress is where istiod serves xDS in plaintext.
func (i *Istiod) XDSAddress() string { return i.ports.address(i.ports.grpc) }

func (i *Istiod) ready(ctx context.Context) error {
	return probe(ctx, http.DefaultClient, i.DebugURL()+"/ready")
}

func (i *Istiod) start(c *ControlPlane, options IstiodOptions, path string) error {
	var err error
	if i.ports, err = choosePorts(options.inMesh); err != nil {
		return err
	}
	dir := filepath.Join(c.dir, "istiod")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("making istiod's folder: %w", err)
	}
	config, err := yaml.Marshal(meshConfig(options.MeshConfig))
	if err != nil {
		return fmt.Errorf("encoding the mesh configuration: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "mesh.yaml"), config, 0o600); err != nil {
		return fmt.Errorf("writing the mesh configuration: %w", err)
	}
	kubeconfig, err := c.KubeconfigFor("istiod", superusers)
	if err != nil {
		return err
	}
	listen := i.ports.listen(options.inMesh)
	i.process, err = process.Start(process.Command{
		Name: "istiod", Path: path, Dir: dir, LogDir: c.LogDir(), Env: istiodEnv(options),
		Args: []string{
			"discovery", "--kubeconfig", kubeconfig, "--meshConfig", filepath.Join(dir, "mesh.yaml"), "--networksConfig", "/nonexistent",
			"--httpAddr", listen(i.ports.http), "--grpcAddr", listen(i.ports.grpc), "--secureGRPCAddr", listen(i.ports.secure),
			"--httpsAddr", listen(i.ports.web), "--monitoringAddr", listen(i.ports.stats), "--ctrlz_port", "0",
		},
	})
	return err
}

// istiodEnv is the environment of the Deployment's container, plus what an upstream Envoy and a quick test need.
func istiodEnv(options IstiodOptions) []string {
	env := map[string]string{
		"REVISION": "default", "PILOT_CERT_PROVIDER": "istiod", "CLUSTER_ID": "Kubernetes",
		"POD_NAMESPACE": istioNamespace, "POD_NAME": "istiod-0", "SERVICE_ACCOUNT": "istiod",
		"VALIDATION_WEBHOOK_CONFIG_NAME": "", "INJECTION_WEBHOOK_CONFIG_NAME": "",
		// Filters of Istio's own that an upstream Envoy does not have.
		"PILOT_ENABLE_METADATA_EXCHANGE": "false", "PILOT_ENABLE_ALPN_FILTER": "false",
		"PILOT_DEBOUNCE_AFTER": "50ms", "UNSAFE_ENABLE_ADMIN_ENDPOINTS": "true",
	}
	if options.inMesh {
		env["VALIDATION_WEBHOOK_CONFIG_NAME"] = "istio-validator-istio-system"
		env["INJECTION_WEBHOOK_CONFIG_NAME"] = "istio-sidecar-injector"
	}
	maps.Copy(env, options.Env)
	var list []string
	for _, name := range slices.Sorted(maps.Keys(env)) {
		list = append(list, name+"="+env[name])
	}
	return list
}

func meshConfig(overlay map[string]any) map[string]any {
	defaults := map[string]any{
		"discoveryAddress": istiodHost + ":15012",
		"concurrency":      1,
		// A bed's pods come and go; nobody waits for their last connections.
		"terminationDrainDuration": "1s",
	}
	config := map[string]any{
		"trustDomain": "cluster.local", "rootNamespace": istioNamespace, "enablePrometheusMerge": true,
		"defaultProviders": map[string]any{"metrics": []any{}},
		"defaultConfig":    defaults,
	}
	for key, value := range overlay {
		nested, ok := value.(map[string]any)
		if key == "defaultConfig" && ok {
			maps.Copy(defaults, nested)
			continue
		}
		config[key] = value
	}
	return config
}

func choosePorts(fixed bool) (istiodPorts, error) {
	if fixed {
		return istiodPorts{host: loopback, http: 15080, grpc: 15010, secure: 15012, web: 15017, stats: 15014}, nil
	}
	free, err := freePorts(5)
	if err != nil {
		return istiodPorts{}, err
	}
	return istiodPorts{host: loopback, http: free[0], grpc: free[1], secure: free[2], web: free[3], stats: free[4]}, nil
}

func (p istiodPorts) address(port int) string { return net.JoinHostPort(p.host, strconv.Itoa(port)) }

// listen returns the flag value for a port: on every address in a mesh, whose network is its own, and on loopback otherwise.
func (p istiodPorts) listen(everywhere bool) func(int) string {
	if everywhere {
		return func(port int) string { return ":" + strconv.Itoa(port) }
	}
	return p.address
}

// installIstioObjects applies what istioctl generates, except for what would run istiod in the cluster: it runs beside it.
func installIstioObjects(ctx context.Context, k client.Client, address, path string) error {
	manifests, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading Istio's objects: %w", err)
	}
	objects, err := Objects(manifests)
	if err != nil {
		return err
	}
	for _, object := range objects {
		switch object.GetKind() {
		case "CustomResourceDefinition", "Deployment", "HorizontalPodAutoscaler":
			continue
		case "Service":
			unstructured.RemoveNestedField(object.Object, "spec", "selector")
		}
		if err := Apply(ctx, k, object); err != nil {
			return err
		}
	}
	slice, err := Objects(fmt.Appendf(nil, istiodEndpoints, address))
	if err != nil {
		return err
	}
	return Apply(ctx, k, slice...)
}

const istiodEndpoints = `apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: istiod-testbed
  namespace: istio-system
  labels: {kubernetes.io/service-name: istiod}
addressType: IPv4
endpoints:
- addresses: [%s]
  conditions: {ready: true}
ports:
- {name: grpc-xds, port: 15010, protocol: TCP}
- {name: https-dns, port: 15012, protocol: TCP}
- {name: https-webhook, port: 15017, protocol: TCP}
- {name: http-monitoring, port: 15014, protocol: TCP}
`

func namespace(name string, labels map[string]string) *unstructured.Unstructured {
	object := &unstructured.Unstructured{}
	object.SetAPIVersion("v1")
	object.SetKind("Namespace")
	object.SetName(name)
	object.SetLabels(labels)
	return object
}
