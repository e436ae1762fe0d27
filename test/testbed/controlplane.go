package testbed

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/servicesecurity/operator/test/testbed/pki"
	"github.com/servicesecurity/operator/test/testbed/process"
)

const (
	loopback           = "127.0.0.1"
	defaultServiceCIDR = "10.96.0.0/16"
	firstServiceIP     = "10.96.0.1"
	superusers         = "system:masters"
	startAttempts      = 3
	startTimeout       = 2 * time.Minute
)

// auditPolicy records who called what, without bodies, once per call and once when a watch opens.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
`

// ControlPlaneOptions says what a control plane has. The zero value is etcd and an API server on loopback.
type ControlPlaneOptions struct {
	// CRDs are files or folders of CustomResourceDefinitions to install.
	CRDs []string
	// ControllerManager runs kube-controller-manager: EndpointSlices, garbage collection, Deployments, service accounts.
	ControllerManager bool
	// Scheduler runs kube-scheduler.
	Scheduler bool
	// Audit makes the API server log each call to AuditLog().
	Audit bool
	// APIServerArgs are added to the API server's flags.
	APIServerArgs []string
	// Dir is where data and logs go; empty means a temporary folder that Stop removes.
	Dir string

	// address is where the API server is reachable; empty means loopback only.
	address string
	// port is the API server's; 0 means a free one.
	port int
}

// ControlPlane is a running etcd and kube-apiserver, with the controller manager and the scheduler where asked for.
type ControlPlane struct {
	options   ControlPlaneOptions
	dir       string
	ownDir    bool
	server    string
	authority *pki.Authority
	config    *rest.Config
	config0   string
	binaries  map[string]string
	// api is the API server and apiArgs its flags, to start it again with.
	api       *process.Process
	apiArgs   []string
	mu        sync.Mutex
	processes []*process.Process
}

// StartControlPlane starts one and returns when it answers. ctx bounds the start only; Stop ends it, and so does the end of this process.
func StartControlPlane(ctx context.Context, options ControlPlaneOptions) (*ControlPlane, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	var err error
	for range startAttempts {
		var c *ControlPlane
		if c, err = startControlPlane(ctx, options); err == nil {
			return c, nil
		}
		// Free ports are found by asking for one and giving it back; another process may take it in between.
		if !strings.Contains(err.Error(), "address already in use") {
			return nil, err
		}
	}
	return nil, err
}

func startControlPlane(ctx context.Context, options ControlPlaneOptions) (_ *ControlPlane, err error) {
	c := &ControlPlane{options: options, dir: options.Dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Stop())
		}
	}()
	if err := c.prepare(); err != nil {
		return nil, err
	}
	if err := c.startServers(ctx); err != nil {
		return nil, err
	}
	// The garbage collector looks for new kinds every 30 s only.
	if err := c.InstallCRDs(options.CRDs...); err != nil {
		return nil, err
	}
	if options.ControllerManager {
		if err := c.startControllerManager(); err != nil {
			return nil, err
		}
	}
	if options.Scheduler {
		if err := c.startScheduler(); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// Config is a superuser's client configuration; a copy.
func (c *ControlPlane) Config() *rest.Config { return rest.CopyConfig(c.config) }

// Kubeconfig is the path of a superuser's kubeconfig.
func (c *ControlPlane) Kubeconfig() string { return c.config0 }

// AuditLog is the path of the API server's audit log, one JSON event a line. It exists with ControlPlaneOptions.Audit.
func (c *ControlPlane) AuditLog() string { return filepath.Join(c.dir, "log", "audit.log") }

// LogDir is where each part logs.
func (c *ControlPlane) LogDir() string { return filepath.Join(c.dir, "log") }

// InstallCRDs creates or updates the definitions in the files and folders and waits until they are served.
func (c *ControlPlane) InstallCRDs(paths ...string) error {
	if len(paths) == 0 {
		return nil
	}
	_, err := envtest.InstallCRDs(c.Config(), envtest.CRDInstallOptions{Paths: paths, ErrorIfPathMissing: true, MaxTime: time.Minute, PollInterval: 50 * time.Millisecond})
	if err != nil {
		return fmt.Errorf("installing CRDs: %w", err)
	}
	return nil
}

// KubeconfigFor writes a kubeconfig of a user in groups and returns its path.
func (c *ControlPlane) KubeconfigFor(user string, groups ...string) (string, error) {
	pair, err := c.authority.Issue(pki.Subject{Name: user, Groups: groups})
	if err != nil {
		return "", err
	}
	path := filepath.Join(c.dir, "kubeconfig-"+strings.ReplaceAll(user, ":", "-"))
	if err := c.writeKubeconfig(path, c.server, pair); err != nil {
		return "", err
	}
	return path, nil
}

// configFor is the client configuration of a user in groups.
func (c *ControlPlane) configFor(user string, groups ...string) (*rest.Config, error) {
	pair, err := c.authority.Issue(pki.Subject{Name: user, Groups: groups})
	if err != nil {
		return nil, err
	}
	config := c.Config()
	config.CertData, config.KeyData = pair.Cert, pair.Key
	return config, nil
}

// Stop ends every part at once and removes the folder if it made it. It may be called twice.
func (c *ControlPlane) Stop() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := len(c.processes) - 1; i >= 0; i-- {
		c.processes[i].Stop(0) // what they hold is thrown away, so there is nothing to wait for
	}
	c.processes = nil
	if !c.ownDir {
		return nil
	}
	if err := os.RemoveAll(c.dir); err != nil {
		return fmt.Errorf("removing the control plane's folder: %w", err)
	}
	return nil
}

func (c *ControlPlane) prepare() error {
	names := []string{"etcd", "kube-apiserver"}
	if c.options.ControllerManager {
		names = append(names, "kube-controller-manager")
	}
	if c.options.Scheduler {
		names = append(names, "kube-scheduler")
	}
	var err error
	if c.binaries, err = kubernetesBinaries(names...); err != nil {
		return err
	}
	if c.dir == "" {
		if c.dir, err = os.MkdirTemp("", "testbed-"); err != nil {
			return fmt.Errorf("making the control plane's folder: %w", err)
		}
		c.ownDir = true
	}
	for _, sub := range []string{"pki", "log"} {
		if err := os.MkdirAll(filepath.Join(c.dir, sub), 0o755); err != nil {
			return fmt.Errorf("making the control plane's folder: %w", err)
		}
	}
	return c.writeKeys()
}

func (c *ControlPlane) writeKeys() error {
	var err error
	if c.authority, err = pki.NewAuthority("testbed"); err != nil {
		return err
	}
	ips := []net.IP{net.ParseIP(loopback), net.ParseIP(firstServiceIP)}
	if c.options.address != "" {
		ips = append(ips, net.ParseIP(c.options.address))
	}
	names := []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}
	serving, err := c.authority.Issue(pki.Subject{Name: "kube-apiserver", Hosts: names, IPs: ips})
	if err != nil {
		return err
	}
	private, public, err := pki.SigningKey()
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{
		"ca.crt": c.authority.Certificate(), "apiserver.crt": serving.Cert, "apiserver.key": serving.Key,
		"sa.key": private, "sa.pub": public, "audit.yaml": []byte(auditPolicy),
	} {
		if err := os.WriteFile(c.key(name), content, 0o600); err != nil {
			return fmt.Errorf("writing %s: %w", name, err)
		}
	}
	return nil
}

func (c *ControlPlane) key(name string) string { return filepath.Join(c.dir, "pki", name) }

func (c *ControlPlane) startServers(ctx context.Context) error {
	ports, err := freePorts(3)
	if err != nil {
		return err
	}
	if c.options.port != 0 {
		ports[2] = c.options.port
	}
	etcd := "http://" + net.JoinHostPort(loopback, strconv.Itoa(ports[0]))
	peer := "http://" + net.JoinHostPort(loopback, strconv.Itoa(ports[1]))
	store, err := c.start("etcd", "--data-dir", filepath.Join(c.dir, "etcd"), "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls", etcd, "--advertise-client-urls", etcd,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer)
	if err != nil {
		return err
	}
	if err := store.AwaitReady(ctx, func(ctx context.Context) error { return probe(ctx, http.DefaultClient, etcd+"/health") }); err != nil {
		return err
	}
	address := c.options.address
	if address == "" {
		address = loopback
	}
	c.server = "https://" + net.JoinHostPort(address, strconv.Itoa(ports[2]))
	c.apiArgs = c.serverFlags(etcd, ports[2])
	if err := c.writeAdmin(); err != nil {
		return err
	}
	return c.StartServer(ctx)
}

func (c *ControlPlane) serverFlags(etcd string, port int) []string {
	flags := []string{
		"--etcd-servers=" + etcd, "--secure-port=" + strconv.Itoa(port), "--service-cluster-ip-range=" + defaultServiceCIDR,
		"--client-ca-file=" + c.key("ca.crt"), "--tls-cert-file=" + c.key("apiserver.crt"), "--tls-private-key-file=" + c.key("apiserver.key"),
		"--service-account-key-file=" + c.key("sa.pub"), "--service-account-signing-key-file=" + c.key("sa.key"),
		"--service-account-issuer=https://kubernetes.default.svc", "--authorization-mode=RBAC", "--allow-privileged",
		"--cert-dir=" + filepath.Join(c.dir, "pki"),
	}
	if c.options.address != "" {
		flags = append(flags, "--advertise-address="+c.options.address)
	} else {
		// Loopback cannot be an endpoint of the kubernetes Service, so that Service gets none.
		flags = append(flags, "--bind-address="+loopback, "--advertise-address="+loopback, "--endpoint-reconciler-type=none")
	}
	if !c.options.ControllerManager {
		// Nobody makes the service accounts that this admission asks for.
		flags = append(flags, "--disable-admission-plugins=ServiceAccount")
	}
	if c.options.Audit {
		flags = append(flags, "--audit-log-path="+c.AuditLog(), "--audit-policy-file="+c.key("audit.yaml"))
	}
	return append(flags, c.options.APIServerArgs...)
}

// writeAdmin makes the superuser's configuration.
func (c *ControlPlane) writeAdmin() error {
	admin, err := c.authority.Issue(pki.Subject{Name: "admin", Groups: []string{superusers}})
	if err != nil {
		return err
	}
	c.config = &rest.Config{
		Host:            c.server,
		TLSClientConfig: rest.TLSClientConfig{CAData: c.authority.Certificate(), CertData: admin.Cert, KeyData: admin.Key},
		// A test that waits for its own client's rate limit measures nothing.
		QPS: 1000, Burst: 2000,
	}
	c.config0 = filepath.Join(c.dir, "kubeconfig")
	return c.writeKubeconfig(c.config0, c.server, admin)
}

func (c *ControlPlane) startControllerManager() error {
	config, err := c.KubeconfigFor("kube-controller-manager", superusers)
	if err != nil {
		return err
	}
	// The node's own controllers would delete the pods of a node that no kubelet of theirs reports for, or write to it while it registers.
	_, err = c.start("kube-controller-manager", "--kubeconfig="+config, "--service-account-private-key-file="+c.key("sa.key"),
		"--root-ca-file="+c.key("ca.crt"), "--controllers=*,-node-lifecycle-controller,-taint-eviction-controller,-nodeipam,-ttl-controller",
		"--leader-elect=false", "--secure-port=0", "--cert-dir="+filepath.Join(c.dir, "pki"),
		"--kube-api-qps=200", "--kube-api-burst=400")
	return err
}

func (c *ControlPlane) startScheduler() error {
	config, err := c.KubeconfigFor("kube-scheduler", superusers)
	if err != nil {
		return err
	}
	_, err = c.start("kube-scheduler", "--kubeconfig="+config, "--leader-elect=false", "--secure-port=0",
		"--kube-api-qps=200", "--kube-api-burst=400")
	return err
}

func (c *ControlPlane) start(name string, args ...string) (*process.Process, error) {
	p, err := process.Start(process.Command{Name: name, Path: c.binaries[name], Args: args, Dir: c.dir, LogDir: c.LogDir()})
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.processes = append(c.processes, p)
	return p, nil
}

func (c *ControlPlane) writeKubeconfig(path, server string, pair pki.Pair) error {
	const name = "testbed"
	config := clientcmdapi.NewConfig()
	config.Clusters[name] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: c.authority.Certificate()}
	config.AuthInfos[name] = &clientcmdapi.AuthInfo{ClientCertificateData: pair.Cert, ClientKeyData: pair.Key}
	config.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	config.CurrentContext = name
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		return fmt.Errorf("writing a kubeconfig: %w", err)
	}
	return nil
}

// freePorts finds ports of the loopback address that nobody listens on.
func freePorts(n int) ([]int, error) {
	ports := make([]int, n)
	for i := range ports {
		l, err := net.Listen("tcp", net.JoinHostPort(loopback, "0"))
		if err != nil {
			return nil, fmt.Errorf("finding a free port: %w", err)
		}
		defer func() { _ = l.Close() }() // kept until all are found, so that none is found twice
		ports[i] = l.Addr().(*net.TCPAddr).Port
	}
	return ports, nil
}

// probe asks once and wants a 200.
func probe(ctx context.Context, client *http.Client, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("making a request: %w", err)
	}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("asking %s: %w", url, err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("asking %s: %s", url, response.Status)
	}
	return nil
}
