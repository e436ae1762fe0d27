package controllers_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers"
	"github.com/servicesecurity/operator/controllers/traffic"
	"github.com/servicesecurity/operator/controllers/traffic/sidecar"
	"github.com/servicesecurity/operator/test/testbed"
)

// Times that make a rollout take a second or two.
const (
	interval = 100 * time.Millisecond
	settle   = 200 * time.Millisecond
	patience = 20 * time.Second
	poll     = 20 * time.Millisecond
	// A while is long enough for several observations, to see that nothing happens.
	while = 5 * interval

	istioSystem       = "istio-system"
	operatorNamespace = "system"
	operatorUser      = "operator"
	// operatorLabel on a profile keeps the suite's own operator away from it: a spec runs one for it.
	operatorLabel = "spec.servicesecurity.dev/operator"
)

var (
	shared    *cluster
	k8s       client.WithWatch
	proxyPort int32
)

func TestControllers(t *testing.T) {
	RegisterFailHandler(Fail)
	EnforceDefaultTimeoutsWhenUsingContexts()
	SetDefaultEventuallyTimeout(patience)
	SetDefaultEventuallyPollingInterval(poll)
	SetDefaultConsistentlyDuration(while)
	SetDefaultConsistentlyPollingInterval(poll)
	RunSpecs(t, "Controllers")
}

var _ = BeforeSuite(func(ctx SpecContext) {
	ctrl.SetLogger(zap.New(zap.WriteTo(GinkgoWriter), zap.UseDevMode(true)))
	proxyPort = freePort()
	shared = startCluster(ctx, testbed.ControlPlaneOptions{CRDs: []string{istioCRDs()}})
	k8s = shared.client
	startRecorder(shared)
	startOperator()
})

// cluster is a control plane on which an operator may run with no more than its own ClusterRole.
type cluster struct {
	plane    *testbed.ControlPlane
	client   client.WithWatch
	operator *rest.Config
}

// startCluster starts one with the profile's CRD, the garbage collector and the admission of owner references.
func startCluster(ctx context.Context, options testbed.ControlPlaneOptions) *cluster {
	GinkgoHelper()
	options.CRDs = append(options.CRDs, filepath.Join("..", "config", "crd", "bases"))
	options.ControllerManager = true
	options.APIServerArgs = []string{"--enable-admission-plugins=OwnerReferencesPermissionEnforcement"}
	start := time.Now()
	plane, err := testbed.StartControlPlane(ctx, options)
	Expect(err).NotTo(HaveOccurred(), "these tests need a kube-apiserver: run them by make test")
	DeferCleanup(plane.Stop)
	GinkgoWriter.Printf("The control plane is ready after %s.\n", time.Since(start))
	scheme, err := controllers.NewScheme()
	Expect(err).NotTo(HaveOccurred())
	c := &cluster{plane: plane}
	c.client, err = client.NewWithWatch(plane.Config(), client.Options{Scheme: scheme})
	Expect(err).NotTo(HaveOccurred())
	for _, name := range []string{istioSystem, operatorNamespace} {
		Expect(c.client.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})).To(Succeed())
	}
	c.authorize(ctx)
	return c
}

// authorize gives the operator's user the roles that config/ installs, and nothing else.
func (c *cluster) authorize(ctx context.Context) {
	GinkgoHelper()
	for _, file := range []string{"rbac/role.yaml", "rbac/leader_election_role.yaml", "remote-clusters/role.yaml"} {
		text, err := os.ReadFile(filepath.Join("..", "config", file))
		Expect(err).NotTo(HaveOccurred())
		objects, err := testbed.Objects(text)
		Expect(err).NotTo(HaveOccurred())
		Expect(testbed.Apply(ctx, c.client, objects...)).To(Succeed())
	}
	subjects := []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: operatorUser}}
	Expect(c.client.Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: operatorUser}, Subjects: subjects,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "manager-role"},
	})).To(Succeed())
	for namespace, role := range map[string]string{operatorNamespace: "leader-election-role", istioSystem: "servicesecurity-remote-clusters"} {
		Expect(c.client.Create(ctx, &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: operatorUser, Namespace: namespace}, Subjects: subjects,
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role},
		})).To(Succeed())
	}
	path, err := c.plane.KubeconfigFor(operatorUser)
	Expect(err).NotTo(HaveOccurred())
	c.operator, err = clientcmd.BuildConfigFromFlags("", path)
	Expect(err).NotTo(HaveOccurred())
	c.operator.QPS = -1
}

// operator is one that runs for some profiles.
type operator struct {
	cluster *cluster
	// shard is the value of operatorLabel on the profiles that it works on; empty for those without the label.
	shard    string
	clock    clock.PassiveClock
	observer traffic.Observer
	// accessLogs that it receives.
	accessLogs controllers.AccessLogOptions
	// intercept its calls.
	intercept interceptor.Funcs
	elect     bool
	metrics   *prometheus.Registry

	cancel context.CancelFunc
	done   chan error
}

// startOperator runs one until the spec or suite that started it ends, or until it is stopped.
func startOperator(edit ...func(*operator)) *operator {
	GinkgoHelper()
	o := &operator{cluster: shared, clock: clock.RealClock{}, metrics: prometheus.NewRegistry()}
	for _, e := range edit {
		e(o)
	}
	o.start()
	DeferCleanup(func() { o.stop() })
	return o
}

// another starts an operator like this one, with nothing of its memory.
func (o *operator) another() {
	GinkgoHelper()
	startOperator(func(n *operator) {
		n.cluster, n.shard, n.clock, n.intercept, n.elect = o.cluster, o.shard, o.clock, o.intercept, o.elect
	})
}

func (o *operator) start() {
	GinkgoHelper()
	scheme, err := controllers.NewScheme()
	Expect(err).NotTo(HaveOccurred())
	caches := controllers.CacheOptions(istioSystem)
	caches.ByObject[&v1alpha1.ServiceSecurityProfile{}] = cache.ByObject{Label: o.selector()}
	skip := true
	options := ctrl.Options{
		Scheme: scheme, Cache: caches, Metrics: metricsserver.Options{BindAddress: "0"},
		LeaderElection: o.elect, LeaderElectionID: "spec-" + o.shard, LeaderElectionNamespace: operatorNamespace,
		NewClient: func(config *rest.Config, options client.Options) (client.Client, error) {
			c, err := client.NewWithWatch(config, options)
			if err != nil {
				return nil, err
			}
			return interceptor.NewClient(c, o.intercept), nil
		},
	}
	if o.elect {
		lease, renew, retry := 2*time.Second, time.Second, 200*time.Millisecond
		options.LeaseDuration, options.RenewDeadline, options.RetryPeriod = &lease, &renew, &retry
	}
	options.Controller.SkipNameValidation = &skip
	mgr, err := ctrl.NewManager(o.cluster.operator, options)
	Expect(err).NotTo(HaveOccurred())
	proxies := sidecar.New(sidecar.Options{Clock: o.clock, Interval: interval, Timeout: time.Second, Port: proxyPort})
	if o.observer == nil {
		o.observer = proxies
	}
	var ctx context.Context
	ctx, o.cancel = context.WithCancel(context.Background())
	Expect(controllers.Setup(ctx, mgr, controllers.Options{
		ObservationInterval: interval, SettleTime: settle, IstioNamespace: istioSystem, ClusterDomain: "cluster.local",
		Concurrency: 4, Observer: o.observer, DryRuns: proxies, Calls: proxies, Clock: o.clock, Registerer: o.metrics,
		AccessLogs: o.accessLogs,
	})).To(Succeed())
	o.done = make(chan error, 1)
	go func() { o.done <- mgr.Start(ctx) }()
}

func (o *operator) selector() labels.Selector {
	GinkgoHelper()
	text := "!" + operatorLabel
	if o.shard != "" {
		text = operatorLabel + "=" + o.shard
	}
	selector, err := labels.Parse(text)
	Expect(err).NotTo(HaveOccurred())
	return selector
}

// stop ends the operator, and returns when nothing of it runs any more.
func (o *operator) stop() {
	GinkgoHelper()
	if o.cancel == nil {
		return
	}
	o.cancel()
	o.cancel = nil
	var err error
	Eventually(o.done).Should(Receive(&err))
	if !o.elect {
		Expect(err).NotTo(HaveOccurred())
	}
}

// forProfilesOf makes an operator that works on the profiles of one shard only.
func forProfilesOf(shard string) func(*operator) {
	return func(o *operator) { o.shard = shard }
}

// ofOperator gives a profile to a spec's own operator.
func ofOperator(shard string) func(*v1alpha1.ServiceSecurityProfile) {
	return func(p *v1alpha1.ServiceSecurityProfile) { p.Labels = map[string]string{operatorLabel: shard} }
}

// istioCRDs are Istio's own.
func istioCRDs() string {
	GinkgoHelper()
	path, err := istioDefinitions()
	Expect(err).NotTo(HaveOccurred())
	return path
}

// istioDefinitions is the file of Istio's CRDs, from the module that its types come from.
func istioDefinitions() (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "istio.io/api").Output()
	return filepath.Join(strings.TrimSpace(string(out)), "kubernetes", "customresourcedefinitions.gen.yaml"), err
}
