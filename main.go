// The operator: it makes ServiceSecurityProfiles true. Flags become options, and the manager runs.
package main

import (
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics/filters"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/servicesecurity/operator/controllers"
	"github.com/servicesecurity/operator/controllers/resolve"
	"github.com/servicesecurity/operator/controllers/traffic"
	"github.com/servicesecurity/operator/controllers/traffic/promql"
	"github.com/servicesecurity/operator/controllers/traffic/sidecar"
)

// version is set by the linker.
var version = "development"

type flags struct {
	controllers.Options
	metricsAddress, probeAddress, leaderElectionNamespace string
	leaderElect                                           bool
	scrapeTimeout                                         time.Duration
	scrapeConcurrency                                     int
	prometheus                                            promql.Options
}

func main() {
	var f flags
	flag.StringVar(&f.metricsAddress, "metrics-bind-address", ":8443", "Address of the metrics endpoint, over TLS with authentication; 0 turns it off.")
	flag.StringVar(&f.probeAddress, "health-probe-bind-address", ":8081", "Address of /healthz and /readyz.")
	flag.BoolVar(&f.leaderElect, "leader-elect", false, "Elect a leader, so that several replicas can run.")
	flag.StringVar(&f.leaderElectionNamespace, "leader-election-namespace", "", "Namespace of the lease; the operator's own if empty.")
	flag.DurationVar(&f.ObservationInterval, "observation-interval", 15*time.Second, "Time between two readings of a target's proxies.")
	flag.DurationVar(&f.SettleTime, "settle-time", 10*time.Second, "How long clients are given to take a DestinationRule before the server's side follows.")
	flag.StringVar(&f.IstioNamespace, "istio-root-namespace", "istio-system", "Namespace of Istio's mesh configuration.")
	flag.StringVar(&f.ClusterDomain, "cluster-domain", resolve.DefaultClusterDomain, "DNS domain of the cluster.")
	flag.IntVar(&f.Concurrency, "concurrency", 8, "How many profiles are worked on at once.")
	flag.IntVar(&f.scrapeConcurrency, "scrape-concurrency", 64, "How many proxies are read at once, over all profiles.")
	flag.DurationVar(&f.scrapeTimeout, "scrape-timeout", 3*time.Second, "How long reading one proxy may take.")
	flag.StringVar(&f.prometheus.URL, "prometheus-url", "", "Address of a Prometheus-compatible server to observe traffic by, such as http://prometheus.monitoring:9090; empty to read the targets' proxies.")
	flag.StringVar(&f.prometheus.ConfigFile, "prometheus-config-file", "", "File with a Prometheus HTTP client configuration (TLS, credentials, headers), read anew when it changes.")
	flag.StringVar(&f.prometheus.Cluster, "prometheus-cluster", "", "This cluster's name in the label destination_cluster: a check beside --prometheus-matchers, for a server that has several clusters' series.")
	flag.StringVar(&f.prometheus.Matchers, "prometheus-matchers", "", `Label matchers that every query gets, such as cluster="east".`)
	flag.StringVar(&f.prometheus.NamespaceLabel, "prometheus-namespace-label", "namespace", "Label that scraping gives the namespace of a pod in.")
	flag.StringVar(&f.prometheus.PodLabel, "prometheus-pod-label", "pod", "Label that scraping gives the name of a pod in.")
	flag.DurationVar(&f.prometheus.Timeout, "prometheus-timeout", 2*time.Minute, "How long all the queries of an interval may take together.")
	flag.StringVar(&f.AccessLogs.BindAddress, "accesslog-bind-address", "", "Address to receive Envoy's access logs of plaintext on, such as :9095; empty to receive none.")
	flag.BoolVar(&f.AccessLogs.RequireMTLS, "accesslog-require-mtls", false, "Take access logs only by mutual TLS under the service account of the pod that they come from, through a sidecar of the operator's own.")
	flag.IntVar(&f.AccessLogs.MaxStreams, "accesslog-max-streams", controllers.DefaultAccessLogStreams, "How many streams of access logs there may be at once. A proxy has two for each of its threads.")
	flag.StringVar(&f.AccessLogs.Service, "accesslog-service", "", "Service without a selector, in the operator's namespace, that is to lead access logs to the leader.")
	f.AccessLogs.Pod = controllers.Endpoint{Namespace: os.Getenv("POD_NAMESPACE"), Name: os.Getenv("POD_NAME"), IP: os.Getenv("POD_IP")}
	logging := zap.Options{}
	logging.BindFlags(flag.CommandLine)
	flag.Parse()
	ctrl.SetLogger(zap.New(zap.UseFlagOptions(&logging)))
	if err := run(f); err != nil {
		ctrl.Log.Error(err, "The operator stopped")
		os.Exit(1)
	}
}

func run(f flags) error {
	ctx := ctrl.SetupSignalHandler()
	ctrl.Log.Info("Starting", "version", version)
	proxies := sidecar.New(sidecar.Options{
		Clock: clock.RealClock{}, Interval: f.ObservationInterval, Timeout: f.scrapeTimeout, Concurrency: f.scrapeConcurrency,
	})
	var err error
	f.DryRuns = proxies
	if f.Observer, f.Calls, err = newObserver(f, proxies); err != nil {
		return err
	}
	mgr, err := newManager(f)
	if err != nil {
		return err
	}
	if err := controllers.Setup(ctx, mgr, f.Options); err != nil {
		return err
	}
	if err := mgr.AddHealthzCheck("ping", healthz.Ping); err != nil {
		return fmt.Errorf("adding the health check: %w", err)
	}
	if err := mgr.AddReadyzCheck("ping", healthz.Ping); err != nil {
		return fmt.Errorf("adding the readiness check: %w", err)
	}
	return mgr.Start(ctx)
}

// newObserver chooses the source: a Prometheus-compatible server if one is named, otherwise the targets' proxies.
func newObserver(f flags, proxies *sidecar.Observer) (traffic.Observer, traffic.CallObserver, error) {
	options := f.prometheus
	if options.URL == "" {
		if options.ConfigFile != "" || options.Cluster != "" || options.Matchers != "" {
			return nil, nil, errors.New("reading the flags: those of Prometheus need --prometheus-url")
		}
		return proxies, proxies, nil
	}
	options.Clock, options.Interval, options.Direct, options.Log = clock.RealClock{}, f.ObservationInterval, proxies, ctrl.Log.WithName("prometheus")
	server, err := promql.New(options)
	return server, server, err
}

func newManager(f flags) (manager.Manager, error) {
	scheme, err := controllers.NewScheme()
	if err != nil {
		return nil, err
	}
	config, err := ctrl.GetConfig()
	if err != nil {
		return nil, fmt.Errorf("finding the cluster: %w", err)
	}
	mgr, err := ctrl.NewManager(config, ctrl.Options{
		Scheme: scheme,
		Cache:  controllers.CacheOptions(f.IstioNamespace),
		Metrics: metricsserver.Options{
			BindAddress: f.metricsAddress, SecureServing: true, FilterProvider: filters.WithAuthenticationAndAuthorization,
			// HTTP/2 brings its rapid-reset weaknesses, and a scrape needs none of it.
			TLSOpts: []func(*tls.Config){func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} }},
		},
		HealthProbeBindAddress:        f.probeAddress,
		LeaderElection:                f.leaderElect,
		LeaderElectionID:              "leader.servicesecurity.dev",
		LeaderElectionNamespace:       f.leaderElectionNamespace,
		LeaderElectionReleaseOnCancel: true,
	})
	if err != nil {
		return nil, fmt.Errorf("setting up the manager: %w", err)
	}
	return mgr, nil
}
