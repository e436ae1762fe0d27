package resolve

import (
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	telemetryv1alpha1 "istio.io/api/telemetry/v1alpha1"
	typev1beta1 "istio.io/api/type/v1beta1"
	telemetryv1 "istio.io/client-go/pkg/apis/telemetry/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

type (
	metrics  = telemetryv1alpha1.Metrics
	override = telemetryv1alpha1.MetricsOverrides
)

func newTelemetry(namespace, name string, minute int, selector tags, entries ...*metrics) *telemetryv1.Telemetry {
	t := &telemetryv1.Telemetry{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, CreationTimestamp: at(minute)}}
	t.Spec.Metrics = entries
	if selector != nil {
		t.Spec.Selector = &typev1beta1.WorkloadSelector{MatchLabels: selector}
	}
	return t
}

// drop disables every metric.
func drop() *metrics { return overriding(disable("", true)) }

func overriding(overrides ...*override) *metrics { return &metrics{Overrides: overrides} }

func sentTo(m *metrics, providers ...string) *metrics {
	for _, name := range providers {
		m.Providers = append(m.Providers, &telemetryv1alpha1.ProviderRef{Name: name})
	}
	return m
}

// metric selects a metric of Istio's by name, a custom one by one that Istio does not know, all if it is empty.
func metric(name string) *telemetryv1alpha1.MetricSelector {
	if name == "" {
		return nil
	}
	if number, ok := telemetryv1alpha1.MetricSelector_IstioMetric_value[name]; ok {
		return &telemetryv1alpha1.MetricSelector{MetricMatch: &telemetryv1alpha1.MetricSelector_Metric{Metric: telemetryv1alpha1.MetricSelector_IstioMetric(number)}}
	}
	return &telemetryv1alpha1.MetricSelector{MetricMatch: &telemetryv1alpha1.MetricSelector_CustomMetric{CustomMetric: name}}
}

func disable(name string, disabled bool) *override {
	return &override{Match: metric(name), Disabled: wrapperspb.Bool(disabled)}
}

func retag(name, tag string) *override {
	return &override{Match: metric(name), TagOverrides: map[string]*telemetryv1alpha1.MetricsOverrides_TagOverride{
		tag: {Operation: telemetryv1alpha1.MetricsOverrides_TagOverride_REMOVE},
	}}
}

func onlyFor(mode telemetryv1alpha1.WorkloadMode, o *override) *override {
	if o.Match == nil {
		o.Match = &telemetryv1alpha1.MetricSelector{}
	}
	o.Match.Mode = mode
	return o
}

// TestHiding follows istiod's mergeMetrics.
func TestHiding(t *testing.T) {
	const server, clientMode, both = telemetryv1alpha1.WorkloadMode_SERVER, telemetryv1alpha1.WorkloadMode_CLIENT, telemetryv1alpha1.WorkloadMode_CLIENT_AND_SERVER
	const (
		noDefault  = "defaultProviders: {metrics: []}"
		elsewhere  = "defaultProviders: {metrics: [stackdriver]}"
		another    = "defaultProviders: {metrics: [mine]}\nextensionProviders: [{name: mine, prometheus: {}}]"
		redefined  = "extensionProviders: [{name: Prometheus, stackdriver: {}}]"
		withoutAny = "accessLogFile: /dev/stdout"
	)
	late := func(d time.Duration) *metrics { return &metrics{ReportingInterval: durationpb.New(d)} }
	for name, tc := range map[string]struct {
		mesh string
		// entries by object: a is the mesh's, b the namespace's, c and d the workload's.
		a, b, c, d []*metrics
		want       []string
	}{
		"nothing":                            {},
		"all disabled":                       {a: []*metrics{drop()}, want: []string{"a"}},
		"all disabled by name":               {a: []*metrics{overriding(disable("ALL_METRICS", true))}, want: []string{"a"}},
		"all disabled for servers":           {a: []*metrics{overriding(onlyFor(server, disable("", true)))}, want: []string{"a"}},
		"all disabled for both":              {a: []*metrics{overriding(onlyFor(both, disable("", true)))}, want: []string{"a"}},
		"all disabled for clients":           {a: []*metrics{overriding(onlyFor(clientMode, disable("", true)))}},
		"all enabled":                        {a: []*metrics{overriding(disable("", false))}},
		"disabled above, enabled below":      {a: []*metrics{drop()}, b: []*metrics{overriding(disable("", false))}},
		"enabled above, disabled below":      {a: []*metrics{overriding(disable("", false))}, c: []*metrics{drop()}, want: []string{"c"}},
		"disabled, and any override below":   {a: []*metrics{drop()}, b: []*metrics{overriding(retag("REQUEST_DURATION", "x"))}},
		"disabled, enabled for clients":      {a: []*metrics{drop()}, b: []*metrics{overriding(onlyFor(clientMode, disable("", false)))}, want: []string{"a"}},
		"disabled, enabled, disabled":        {a: []*metrics{drop()}, b: []*metrics{overriding(disable("", false))}, d: []*metrics{drop()}, want: []string{"d"}},
		"requests disabled":                  {b: []*metrics{overriding(disable("REQUEST_COUNT", true))}, want: []string{"b"}},
		"requests disabled by another name":  {b: []*metrics{overriding(disable("requests_total", true))}, want: []string{"b"}},
		"TCP disabled":                       {b: []*metrics{overriding(disable("TCP_CLOSED_CONNECTIONS", true))}, want: []string{"b"}},
		"durations disabled":                 {b: []*metrics{overriding(disable("REQUEST_DURATION", true))}},
		"a metric of somebody's disabled":    {b: []*metrics{overriding(disable("mine", true))}},
		"requests disabled, enabled below":   {a: []*metrics{overriding(disable("REQUEST_COUNT", true))}, b: []*metrics{overriding(disable("REQUEST_COUNT", false))}},
		"requests disabled, all enabled":     {a: []*metrics{overriding(disable("REQUEST_COUNT", true))}, b: []*metrics{overriding(disable("", false))}},
		"requests disabled, TCP enabled":     {a: []*metrics{overriding(disable("REQUEST_COUNT", true))}, b: []*metrics{overriding(disable("TCP_SENT_BYTES", false))}, want: []string{"a"}},
		"the tag removed":                    {b: []*metrics{overriding(retag("REQUEST_COUNT", "connection_security_policy"))}, want: []string{"b"}},
		"the tag removed everywhere":         {b: []*metrics{overriding(retag("", "source_principal"))}, want: []string{"b"}},
		"the tag removed for clients":        {b: []*metrics{overriding(onlyFor(clientMode, retag("", "reporter")))}},
		"the tag removed, and enabled below": {a: []*metrics{overriding(retag("", "reporter"))}, b: []*metrics{overriding(disable("", false))}, want: []string{"a"}},
		"the tag overridden twice":           {a: []*metrics{overriding(retag("", "reporter"))}, b: []*metrics{overriding(retag("", "reporter"))}, want: []string{"b"}},
		"another tag removed":                {b: []*metrics{overriding(retag("", "response_flags"))}},
		"the tag of a metric that is unused": {b: []*metrics{overriding(retag("REQUEST_SIZE", "reporter"))}},
		"several at once":                    {a: []*metrics{overriding(disable("REQUEST_COUNT", true))}, c: []*metrics{overriding(retag("", "reporter"))}, want: []string{"a", "c"}},
		"sent elsewhere":                     {b: []*metrics{sentTo(&metrics{}, "stackdriver")}, want: []string{"b"}},
		"sent elsewhere, and back":           {a: []*metrics{sentTo(&metrics{}, "stackdriver")}, c: []*metrics{sentTo(&metrics{}, "prometheus")}},
		"disabled for somebody else":         {a: []*metrics{sentTo(drop(), "stackdriver")}, b: []*metrics{sentTo(&metrics{}, "prometheus", "stackdriver")}},
		"disabled for who is named above":    {a: []*metrics{sentTo(&metrics{}, "stackdriver", "prometheus")}, b: []*metrics{drop()}, want: []string{"b"}},
		"disabled for who is out of scope":   {a: []*metrics{sentTo(drop(), "stackdriver")}, b: []*metrics{drop()}, c: []*metrics{sentTo(&metrics{}, "prometheus")}},
		"two entries of one object":          {a: []*metrics{drop(), overriding(disable("", false))}},
		"another Prometheus, all disabled":   {mesh: another, a: []*metrics{drop()}, want: []string{"a"}},
		"another Prometheus, sent elsewhere": {mesh: another, a: []*metrics{sentTo(&metrics{}, "prometheus")}},
		"no default, all disabled":           {mesh: noDefault, a: []*metrics{drop()}},
		"no default, named and disabled":     {mesh: noDefault, a: []*metrics{sentTo(drop(), "prometheus")}, want: []string{"a"}},
		"no default, sent elsewhere":         {mesh: noDefault, a: []*metrics{sentTo(&metrics{}, "stackdriver")}},
		"elsewhere by default":               {mesh: elsewhere, a: []*metrics{drop()}},
		"a provider that is none":            {mesh: redefined, a: []*metrics{drop()}},
		"a mesh that does not say":           {mesh: withoutAny, a: []*metrics{drop()}, want: []string{"a"}},
		"a mesh that cannot be read":         {mesh: "][", a: []*metrics{drop()}, want: []string{"a"}},
		"reported late":                      {a: []*metrics{late(9 * time.Hour)}, want: []string{"a"}},
		"reported late, mended below":        {a: []*metrics{late(9 * time.Hour)}, b: []*metrics{late(time.Minute)}},
		"reported in time":                   {a: []*metrics{late(8 * time.Hour)}},
	} {
		t.Run(name, func(t *testing.T) {
			var entries []entry
			for i, level := range [][]*metrics{tc.a, tc.b, tc.c, tc.d} {
				for _, m := range level {
					entries = append(entries, entry{m, string(rune('a' + i))})
				}
			}
			got := hiding(parseProviders(tc.mesh), entries, day)
			slices.Sort(got)
			diff(t, "objects", tc.want, slices.Compact(got))
		})
	}
}

// TestUncounted follows istiod's telemetryFilters: without a provider in scope there is no statistics filter.
func TestUncounted(t *testing.T) {
	web := tags{"app": "web"}
	toPrometheus, elsewhere := sentTo(&metrics{}, "prometheus"), sentTo(&metrics{}, "stackdriver")
	const chart, nobody = "defaultProviders: {metrics: [prometheus]}", "defaultProviders: {metrics: []}"
	for name, tc := range map[string]struct {
		objects []client.Object
		want    bool
	}{
		"the chart's":                       {[]client.Object{meshMap("istio", chart)}, false},
		"no configuration to be seen":       {nil, false},
		"one that says nothing of it":       {[]client.Object{meshMap("istio", "trustDomain: cluster.local")}, true},
		"one that names nobody":             {[]client.Object{meshMap("istio", nobody)}, true},
		"only providers of other telemetry": {[]client.Object{meshMap("istio", "defaultProviders: {tracing: [zipkin]}")}, true},
		"one that cannot be read":           {[]client.Object{meshMap("istio", "][")}, true},
		"somebody else":                     {[]client.Object{meshMap("istio", "defaultProviders: {metrics: [stackdriver]}")}, true},
		"somebody else, too":                {[]client.Object{meshMap("istio", "defaultProviders: {metrics: [stackdriver, prometheus]}")}, false},
		"a Prometheus of another name":      {[]client.Object{meshMap("istio", "defaultProviders: {metrics: [mine]}\nextensionProviders: [{name: mine, prometheus: {}}]")}, false},
		"prometheus is something else":      {[]client.Object{meshMap("istio", chart+"\nextensionProviders: [{name: prometheus, stackdriver: {}}]")}, true},
		"nobody, and the mesh's Telemetry":  {[]client.Object{meshMap("istio", nobody), newTelemetry("istio-system", "on", 0, nil, toPrometheus)}, false},
		"silent, and the mesh's Telemetry":  {[]client.Object{meshMap("istio", "trustDomain: td"), newTelemetry("istio-system", "on", 0, nil, toPrometheus)}, false},
		"nobody, and the namespace's":       {[]client.Object{meshMap("istio", nobody), newTelemetry("foo", "on", 0, nil, toPrometheus)}, false},
		"nobody, and another namespace's":   {[]client.Object{meshMap("istio", nobody), newTelemetry("bar", "on", 0, nil, toPrometheus)}, true},
		"nobody, and for one pod of two":    {[]client.Object{meshMap("istio", nobody), newTelemetry("foo", "on", 0, tags{"version": "v1"}, toPrometheus)}, true},
		"nobody, and a Telemetry without":   {[]client.Object{meshMap("istio", nobody), newTelemetry("foo", "quiet", 0, nil, overriding(disable("REQUEST_SIZE", true)))}, true},
		"the chart's, and a Telemetry":      {[]client.Object{meshMap("istio", chart), newTelemetry("foo", "else", 0, nil, elsewhere)}, true},
		"one of two revisions": {[]client.Object{
			meshMap("istio", chart), meshMap("istio-canary", nobody), newPod("canary", web, annotate(annotationRevision, "canary")), newPod("stable", web, annotate(annotationRevision, "default")),
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			profile := newProfile("p", 0, toService("web"), strict)
			r := cluster(t, append(tc.objects, profile, newService("web", web, port(80, 8080)), newPod("web-a", tags{"app": "web", "version": "v1"}),
				newPod("web-b", tags{"app": "web", "version": "v2"}), newNamespace("foo"), newNamespace("bar"))...)
			if got := mustResolve(t, r, profile).Uncounted; got != tc.want {
				t.Errorf("uncounted is %t", got)
			}
		})
	}
}

func TestTelemetryOverrides(t *testing.T) {
	web, v1, v2 := tags{"app": "web"}, tags{"app": "web", "version": "v1"}, tags{"app": "web", "version": "v2"}
	enable := overriding(disable("", false))
	reference := newTelemetry("foo", "reference", 0, nil, drop())
	reference.Spec.TargetRefs = placed{gateways: []string{"gw"}}.refs()
	service, space, mesh := newProfile("p", 0, toService("web"), strict), newProfile("p", 0, toNamespace, strict), in("istio-system", newProfile("p", 0, toMesh, strict))
	elsewhere := newPod("other", web)
	elsewhere.Namespace = "bar"
	for name, tc := range map[string]struct {
		profile *v1alpha1.ServiceSecurityProfile
		objects []client.Object
		want    []string
	}{
		"the mesh's":                            {service, []client.Object{newTelemetry("istio-system", "off", 0, nil, drop())}, []string{"istio-system/off"}},
		"the mesh's younger one is not used":    {service, []client.Object{newTelemetry("istio-system", "on", 0, nil), newTelemetry("istio-system", "off", 1, nil, drop())}, nil},
		"the mesh's with a selector":            {service, []client.Object{newTelemetry("istio-system", "off", 0, web, drop())}, nil},
		"the namespace's":                       {service, []client.Object{newTelemetry("foo", "off", 0, nil, drop())}, []string{"foo/off"}},
		"another namespace's":                   {service, []client.Object{newTelemetry("bar", "off", 0, nil, drop())}, nil},
		"the namespace's lifts the mesh's":      {service, []client.Object{newTelemetry("istio-system", "off", 0, nil, drop()), newTelemetry("foo", "on", 0, nil, enable)}, nil},
		"the workload's":                        {service, []client.Object{newTelemetry("foo", "off", 0, v1, drop())}, []string{"foo/off"}},
		"the workload's lifts all above":        {service, []client.Object{newTelemetry("istio-system", "off", 0, nil, drop()), newTelemetry("foo", "off", 0, nil, drop()), newTelemetry("foo", "on", 0, web, enable)}, nil},
		"lifted for one pod alone":              {service, []client.Object{newTelemetry("foo", "off", 0, nil, drop()), newTelemetry("foo", "on", 0, v1, enable)}, []string{"foo/off"}},
		"two of the workload, the later counts": {service, []client.Object{newTelemetry("foo", "a-off", 1, web, drop()), newTelemetry("foo", "b-on", 0, web, enable)}, []string{"foo/a-off"}},
		"two of the workload, lifted":           {service, []client.Object{newTelemetry("foo", "a-off", 0, web, drop()), newTelemetry("foo", "b-on", 1, web, enable)}, nil},
		"no pod's":                              {service, []client.Object{newTelemetry("foo", "off", 0, tags{"app": "db"}, drop())}, nil},
		"a gateway's":                           {service, []client.Object{reference}, nil},
		"tracing":                               {service, []client.Object{newTelemetry("foo", "tracing", 0, nil)}, nil},
		"of a namespace":                        {space, []client.Object{newTelemetry("foo", "off", 0, v2, drop()), newTelemetry("bar", "off", 0, nil, drop())}, []string{"foo/off"}},
		"of the mesh":                           {mesh, []client.Object{newTelemetry("foo", "off", 0, v2, drop()), newTelemetry("bar", "off", 0, nil, drop())}, []string{"bar/off", "foo/off"}},
		"by the mesh configuration":             {service, []client.Object{newTelemetry("foo", "off", 0, nil, drop()), meshMap("istio", "defaultProviders: {metrics: []}")}, nil},
		"by one of two revisions' mesh configurations": {service, []client.Object{
			newTelemetry("foo", "off", 0, nil, drop()), meshMap("istio", "defaultProviders: {metrics: []}"), meshMap("istio-canary", "defaultProviders: {metrics: [prometheus]}"),
			newPod("canary", v2, annotate(annotationRevision, "canary")), newPod("stable", v2, annotate(annotationRevision, "default")),
		}, []string{"foo/off"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := cluster(t, append(tc.objects, tc.profile, newService("web", web, port(80, 8080)), newPod("web-a", v1), newPod("web-b", v2),
				elsewhere, newNamespace("foo"), newNamespace("bar"))...)
			diff(t, "objects", tc.want, mustResolve(t, r, tc.profile).TelemetryOverrides)
		})
	}
}
