package resolve

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	telemetryv1alpha1 "istio.io/api/telemetry/v1alpha1"
	telemetryv1 "istio.io/client-go/pkg/apis/telemetry/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// TelemetryKind is Istio's Telemetry as it is read here.
var TelemetryKind = telemetryv1.SchemeGroupVersion.WithKind("Telemetry")

var telemetryByPlace = index[*telemetryv1.Telemetry]{
	name:    "servicesecurity.dev/telemetry-place",
	object:  &telemetryv1.Telemetry{},
	newList: func() client.ObjectList { return &telemetryv1.TelemetryList{} },
	keys:    func(t *telemetryv1.Telemetry) []string { return placeKeys(&t.Spec) },
	kind:    TelemetryKind,
}

// IndexTelemetries registers the indexes of Telemetry, whose CustomResourceDefinition may arrive late.
func IndexTelemetries(ctx context.Context, indexer client.FieldIndexer) error {
	return telemetryByPlace.register(ctx, indexer)
}

// The metrics and the tags that plaintext and its callers are told from, by whichever source. A metric may be named as the
// API does or, as a custom one, as the proxy does.
var (
	usedMetrics = []string{
		"REQUEST_COUNT", "requests_total", "GRPC_REQUEST_MESSAGES", "request_messages_total",
		"GRPC_RESPONSE_MESSAGES", "response_messages_total", "TCP_OPENED_CONNECTIONS", "tcp_connections_opened_total",
		"TCP_CLOSED_CONNECTIONS", "tcp_connections_closed_total", "TCP_RECEIVED_BYTES", "tcp_received_bytes_total",
		"TCP_SENT_BYTES", "tcp_sent_bytes_total",
	}
	usedTags = []string{
		"reporter", "connection_security_policy", "source_principal", "source_workload", "source_workload_namespace",
		"destination_workload", "destination_workload_namespace", "request_protocol",
	}
)

const prometheusProvider = "prometheus"

// metricProviders is what a mesh configuration says of where metrics go.
type metricProviders struct {
	DefaultProviders *struct {
		Metrics []string `json:"metrics"`
	} `json:"defaultProviders"`
	ExtensionProviders []struct {
		Name       string    `json:"name"`
		Prometheus *struct{} `json:"prometheus"`
	} `json:"extensionProviders"`

	// silent says that there is a mesh configuration, and that it has no default providers.
	silent bool
}

// counts says whether istiod makes a proxy count at all: only for a provider in scope that makes proxies expose metrics. A
// mesh configuration that names none by default means none, whereas nothing is known of one that was not found.
func (p metricProviders) counts(entries []entry) bool {
	names, setter := inScope(p, entries)
	if setter == "" && p.silent {
		return false
	}
	return slices.ContainsFunc(names, p.reports)
}

// parseProviders reads a mesh configuration. Where it does not say that Prometheus gets metrics by default, as Istio's chart
// makes it say, that is assumed: an override is then never overlooked.
func parseProviders(text string) metricProviders {
	p := parseMesh(text).metricProviders
	p.silent = text != "" && p.DefaultProviders == nil
	return p
}

func (p metricProviders) defaults() []string {
	if p.DefaultProviders == nil {
		return []string{prometheusProvider}
	}
	return p.DefaultProviders.Metrics
}

// reports says whether a provider makes proxies expose metrics: Istio has one of that name unless the mesh says otherwise.
func (p metricProviders) reports(name string) bool {
	for _, provider := range p.ExtensionProviders {
		if strings.EqualFold(provider.Name, name) {
			return provider.Prometheus != nil
		}
	}
	return strings.EqualFold(name, prometheusProvider)
}

// telemetryFor are the Telemetries that istiod merges for a pod, in its order: the oldest of the root namespace without a
// selector, the oldest such of the pod's namespace, then all of that namespace that select the pod. What is attached by
// reference is for gateways and waypoints.
func telemetryFor(root string, pod subject, all []*telemetryv1.Telemetry) []*telemetryv1.Telemetry {
	var mesh, space *telemetryv1.Telemetry
	var selected []*telemetryv1.Telemetry
	for _, t := range all {
		selector := t.Spec.GetSelector().GetMatchLabels()
		switch {
		case len(references(&t.Spec)) > 0:
		case len(selector) > 0:
			if t.Namespace == pod.namespace && matches(selector, pod.labels) {
				selected = append(selected, t)
			}
		case t.Namespace == root:
			mesh = oldest(mesh, t)
		case t.Namespace == pod.namespace:
			space = oldest(space, t)
		}
	}
	slices.SortFunc(selected, func(a, b *telemetryv1.Telemetry) int {
		if olderThan(a, b) {
			return -1
		}
		return 1
	})
	merged := append([]*telemetryv1.Telemetry{mesh, space}, selected...)
	return slices.DeleteFunc(merged, func(t *telemetryv1.Telemetry) bool { return t == nil })
}

// entry is one entry of a Telemetry's metrics, and the object that it is in.
type entry struct {
	*telemetryv1alpha1.Metrics
	object string
}

func (e entry) providers() []string {
	var names []string
	for _, provider := range e.GetProviders() {
		names = append(names, provider.GetName())
	}
	return names
}

// hidden is what one provider does not get of the metrics of inbound traffic, each with the object that says so.
type hidden struct {
	// all of them; empty if they are not disabled as a whole.
	all string
	// metrics that are dropped, and tags that are removed or replaced, by metric.
	metrics map[string]string
	tags    map[string]map[string]string
	// late is who makes the proxy report TCP connections in intervals of their own.
	late     string
	interval time.Duration
}

// merge adds an entry to what those before it say (istiod's mergeMetrics). What comes later counts: any override lifts
// what disabled all metrics before, and a metric that is disabled can be enabled again; a tag can only be overridden anew.
func (h *hidden) merge(e entry) {
	if interval := e.GetReportingInterval(); interval != nil {
		h.late, h.interval = e.object, interval.AsDuration()
	}
	for _, override := range e.GetOverrides() {
		match := override.GetMatch()
		if match.GetMode() == telemetryv1alpha1.WorkloadMode_CLIENT {
			continue
		}
		if allMetrics(match) && override.GetDisabled().GetValue() {
			h.all = e.object
			continue
		}
		h.all = ""
		for _, metric := range matchedMetrics(match) {
			h.override(metric, override, e.object)
		}
	}
}

func (h *hidden) override(metric string, override *telemetryv1alpha1.MetricsOverrides, object string) {
	switch disabled := override.GetDisabled(); {
	case disabled == nil:
	case disabled.GetValue():
		h.metrics[metric] = object
	default:
		delete(h.metrics, metric)
	}
	for tag := range override.GetTagOverrides() {
		if h.tags[metric] == nil {
			h.tags[metric] = map[string]string{}
		}
		h.tags[metric][tag] = object
	}
}

// allMetrics says whether a selector means every metric, as it does if it names none.
func allMetrics(match *telemetryv1alpha1.MetricSelector) bool {
	return match.GetCustomMetric() == "" && match.GetMetric() == telemetryv1alpha1.MetricSelector_ALL_METRICS
}

func matchedMetrics(match *telemetryv1alpha1.MetricSelector) []string {
	switch {
	case !allMetrics(match) && match.GetCustomMetric() != "":
		return []string{match.GetCustomMetric()}
	case !allMetrics(match):
		return []string{match.GetMetric().String()}
	}
	return slices.Collect(maps.Values(telemetryv1alpha1.MetricSelector_IstioMetric_name))
}

// culprits are the objects that hide what is used.
func (h *hidden) culprits(window time.Duration) []string {
	if h.all != "" {
		return []string{h.all}
	}
	var objects []string
	for _, metric := range usedMetrics {
		if object, ok := h.metrics[metric]; ok {
			objects = append(objects, object)
		}
		for _, tag := range usedTags {
			if object, ok := h.tags[metric][tag]; ok {
				objects = append(objects, object)
			}
		}
	}
	// A window is three readings at least, and each must have something to read.
	if h.late != "" && h.interval > window/3 {
		objects = append(objects, h.late)
	}
	return objects
}

// inScope are the providers that get metrics, and the object that says so; empty if it is the mesh configuration.
func inScope(mesh metricProviders, entries []entry) (names []string, setter string) {
	names = mesh.defaults()
	for _, e := range entries {
		if own := e.providers(); len(own) > 0 {
			names, setter = own, e.object
		}
	}
	return names, setter
}

// hiding are the objects among the entries, in the order of their merging, that keep proxies from exposing what plaintext is
// told from. An entry without providers is for those of the entry before it; the last that names any decides which get
// metrics at all.
func hiding(mesh metricProviders, entries []entry, window time.Duration) []string {
	scope, setter := inScope(mesh, entries)
	states := map[string]*hidden{}
	for _, name := range scope {
		if mesh.reports(name) {
			states[name] = &hidden{metrics: map[string]string{}, tags: map[string]map[string]string{}}
		}
	}
	// Where nobody got metrics by Telemetry before, they come from elsewhere, and none of this matters.
	if len(states) == 0 && setter != "" && slices.ContainsFunc(mesh.defaults(), mesh.reports) {
		return []string{setter}
	}
	names := mesh.defaults()
	for _, e := range entries {
		if own := e.providers(); len(own) > 0 {
			names = own
		}
		for _, name := range names {
			if state, ok := states[name]; ok {
				state.merge(e)
			}
		}
	}
	var objects []string
	for _, state := range states {
		objects = append(objects, state.culprits(window)...)
	}
	return objects
}

// resolveTelemetry finds the Telemetries that hide what plaintext is told from, and whether it is counted at all.
func (res *resolution) resolveTelemetry(ctx context.Context) error {
	pods := res.governed(res.concerned())
	telemetries, err := configurations(ctx, res, telemetryByPlace, pods)
	if err != nil {
		return err
	}
	providers := make([]metricProviders, 0, len(res.meshes))
	for _, text := range res.meshes {
		providers = append(providers, parseProviders(text))
	}
	window := observationWindow(res.profile)
	objects := map[string]bool{}
	judged := map[string]bool{}
	for _, pod := range pods {
		var entries []entry
		var key strings.Builder
		for _, t := range telemetryFor(res.facts.Mesh.RootNamespace, pod, telemetries) {
			key.WriteString(qualified(t) + " ")
			for _, metrics := range t.Spec.GetMetrics() {
				entries = append(entries, entry{metrics, qualified(t)})
			}
		}
		if judged[key.String()] {
			continue
		}
		judged[key.String()] = true
		for _, mesh := range providers {
			res.facts.Uncounted = res.facts.Uncounted || !mesh.counts(entries)
			for _, object := range hiding(mesh, entries, window) {
				objects[object] = true
			}
		}
	}
	if len(objects) > 0 {
		res.facts.TelemetryOverrides = slices.Sorted(maps.Keys(objects))
	}
	return nil
}
