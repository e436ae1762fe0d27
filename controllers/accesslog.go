package controllers

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/resolve"
	"github.com/servicesecurity/operator/controllers/traffic"
	"github.com/servicesecurity/operator/controllers/traffic/accesslog"
)

// AccessLogOptions say how access logs are received; the zero value, that they are not.
type AccessLogOptions struct {
	// BindAddress to serve Envoy's access log service on; empty for no access logs.
	BindAddress string
	// RequireMTLS refuses streams that do not come by mutual TLS, through a sidecar of the operator's own.
	RequireMTLS bool
	// MaxStreams bounds the streams of all proxies together; the default if it is zero.
	MaxStreams int
	// Service without a selector, in the pod's namespace, whose one endpoint is the leader; empty to leave it to others how
	// streams get here.
	Service string
	// Pod is the operator's own.
	Pod Endpoint
}

// DefaultAccessLogStreams is how many streams there may be if nothing else is said.
const DefaultAccessLogStreams = accesslog.DefaultStreams

// Endpoint is where a pod is.
type Endpoint struct {
	Namespace, Name, IP string
}

// Validate says what is missing.
func (o AccessLogOptions) Validate() error {
	switch {
	case o.BindAddress == "" && (o.RequireMTLS || o.Service != ""):
		return errors.New("reading the flags: those of access logs need --accesslog-bind-address")
	case o.MaxStreams < 0:
		return errors.New("reading the flags: --accesslog-max-streams is less than nothing")
	case o.Service != "" && (o.Pod.Namespace == "" || o.Pod.Name == "" || o.Pod.IP == ""):
		return errors.New("reading the environment: --accesslog-service needs POD_NAMESPACE, POD_NAME and POD_IP")
	}
	return nil
}

// setupAccessLogs has the leader receive access logs. Every stream ends at the leader, which alone needs what it says, so
// that replicas have nothing to tell each other. The channel has the profiles whose pods refused somebody.
func (r *Reconciler) setupAccessLogs(ctx context.Context, mgr manager.Manager, opts Options) (<-chan event.GenericEvent, error) {
	refusals := make(chan event.GenericEvent)
	if opts.AccessLogs.BindAddress == "" {
		return refusals, opts.AccessLogs.Validate()
	}
	if err := opts.AccessLogs.Validate(); err != nil {
		return nil, err
	}
	if err := resolve.IndexAddresses(ctx, mgr.GetFieldIndexer()); err != nil {
		return nil, fmt.Errorf("setting up access logs: %w", err)
	}
	server := accesslog.New(accesslog.Options{
		Address: opts.AccessLogs.BindAddress, RequireMTLS: opts.AccessLogs.RequireMTLS, Clock: opts.Clock, Interval: opts.ObservationInterval,
		Directory: resolve.Directory{Reader: mgr.GetClient()}, Limits: accesslog.Limits{Streams: opts.AccessLogs.MaxStreams},
		Refused: func(ctx context.Context, pods []types.NamespacedName) {
			r.tellRefusals(ctx, pods, refusals)
		},
	})
	for _, collector := range server.Collectors() {
		if err := opts.Registerer.Register(collector); err != nil {
			return nil, fmt.Errorf("registering metrics: %w", err)
		}
	}
	r.AccessLogs = server
	if err := mgr.Add(server); err != nil {
		return nil, fmt.Errorf("setting up access logs: %w", err)
	}
	if opts.AccessLogs.Service == "" {
		return refusals, nil
	}
	leading, err := newPublisher(mgr, opts.AccessLogs)
	if err != nil {
		return nil, err
	}
	return refusals, mgr.Add(leading)
}

// tellRefusals has the profiles looked at whose pods refused somebody, each once: nothing else tells when STRICT is in
// force for good.
func (r *Reconciler) tellRefusals(ctx context.Context, pods []types.NamespacedName, out chan<- event.GenericEvent) {
	told := map[types.NamespacedName]bool{}
	for _, name := range pods {
		pod := &corev1.Pod{}
		if err := r.Client.Get(ctx, name, pod); err != nil {
			continue // it went away, and with it what it logged
		}
		for _, profile := range r.Resolver.Affected(ctx, pod) {
			if told[profile] {
				continue
			}
			told[profile] = true
			object := &v1alpha1.ServiceSecurityProfile{}
			object.Namespace, object.Name = profile.Namespace, profile.Name
			select {
			case out <- event.GenericEvent{Object: object}:
			case <-ctx.Done():
				return
			}
		}
	}
	log.FromContext(ctx).V(1).Info("Plaintext was refused", "pods", len(pods), "profiles", len(told))
}

// log reads what access logs tell of the target, in the window and, under STRICT, since that was written.
func (p *run) log(ctx context.Context) {
	if p.AccessLogs == nil || !p.out.Spec.AsksStrict() {
		return
	}
	since := p.out.Now.Add(-p.out.Spec.ObservationWindow)
	// Status rounds it up to the second.
	if enforced := p.out.Decision.Enforced.Add(-time.Second); enforced.After(since) {
		since = enforced
	}
	request := traffic.LogRequest{Proxies: proxies(p.out.Facts.Pods), Ports: p.out.Spec.StrictPorts(), Since: since}
	p.out.Logged, p.refused = p.AccessLogs.Logged(ctx, request), p.cutOff(ctx)
	if mtls := p.profile.Status.MTLS; mtls != nil {
		p.out.Logged = p.out.Logged.Keep(mtls.PlaintextCallers, request, p.out.Now)
	}
}

// refusalEnds is when the first of the refused callers of a settled profile, or of a namespace of which nothing is observed,
// leaves the window; zero if there is none.
func (p *run) refusalEnds() time.Duration {
	if p.out.Decision.Observe {
		return 0
	}
	refused := p.out.Logged.Refused()
	if len(p.members) > 0 {
		refused = p.out.Seen.Callers
	}
	var ends time.Duration
	for _, c := range refused {
		if c.LastSeenTime == nil {
			continue
		}
		// Status has whole seconds.
		left := max(c.LastSeenTime.Add(p.out.Spec.ObservationWindow).Sub(p.out.Now), 0) + time.Second
		if ends == 0 || left < ends {
			ends = left
		}
	}
	return ends
}
