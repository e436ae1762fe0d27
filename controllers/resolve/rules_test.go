package resolve

import (
	"strings"
	"testing"

	networkingv1alpha3 "istio.io/api/networking/v1alpha3"
	typev1beta1 "istio.io/api/type/v1beta1"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

const webHost = "web.foo.svc.cluster.local"

func TestExpandAndMatchHost(t *testing.T) {
	for _, tc := range []struct {
		host, namespace string
		want            bool
	}{
		{webHost, "bar", true},
		{"web", "foo", true},
		{"web", "bar", false},
		{"web.foo", "foo", false},
		{"web.foo.svc", "foo", false},
		{"*", "bar", true},
		{"*.local", "bar", true},
		{"*.cluster.local", "bar", true},
		{"*.foo.svc.cluster.local", "bar", true},
		{"*.bar.svc.cluster.local", "bar", false},
		{"*.web.foo.svc.cluster.local", "foo", false},
		{"*web.foo.svc.cluster.local", "foo", true},
		{"*-web.foo.svc.cluster.local", "foo", false},
		{"*eb.foo.svc.cluster.local", "foo", true},
		{"WEB.foo.svc.cluster.local", "foo", false},
		{"", "foo", false},
		{"10.0.0.1", "foo", false},
		{"::1", "foo", false},
	} {
		expanded := ExpandHost(tc.host, tc.namespace, "cluster.local")
		if got := MatchHost(expanded, webHost); got != tc.want {
			t.Errorf("host %q in namespace %s, expanded %q, matches: %t, want %t", tc.host, tc.namespace, expanded, got, tc.want)
		}
		// The index must offer every rule that matches.
		offered := false
		for _, key := range hostKeys(webHost, "web", "foo") {
			offered = offered || key == hostKey(tc.host, tc.namespace)
		}
		if tc.want && !offered {
			t.Errorf("host %q in namespace %s matches and is not found by its key %q", tc.host, tc.namespace, hostKey(tc.host, tc.namespace))
		}
	}
}

func FuzzMatchHost(f *testing.F) {
	for _, seed := range []string{"", "*", "*.", ".", "web", "*.local", webHost, "*web.foo.svc.cluster.local", "::1", "é.b"} {
		f.Add(seed, "foo")
	}
	f.Fuzz(func(t *testing.T, host, namespace string) {
		expanded := ExpandHost(host, namespace, "cluster.local")
		if host != "" && !MatchHost(expanded, expanded) && !strings.HasPrefix(expanded, "*") {
			t.Errorf("%q does not match itself", expanded)
		}
		if strings.Contains(host, ".") && expanded != host {
			t.Errorf("%q with a dot was expanded to %q", host, expanded)
		}
		if moreSpecific(expanded, webHost) && moreSpecific(webHost, expanded) {
			t.Errorf("%q and %q are each more specific than the other", expanded, webHost)
		}
		if !MatchHost(expanded, webHost) {
			return
		}
		for _, key := range hostKeys(webHost, "web", "foo") {
			if key == hostKey(host, namespace) {
				return
			}
		}
		t.Errorf("%q in namespace %q matches %s and is not found by its key", host, namespace, webHost)
	})
}

func TestApplyingRules(t *testing.T) {
	forWorkload := func(rule *networkingv1.DestinationRule) {
		rule.Spec.WorkloadSelector = &typev1beta1.WorkloadSelector{MatchLabels: tags{"app": "client"}}
	}
	type list = []*networkingv1.DestinationRule
	for name, tc := range map[string]struct {
		rules list
		want  []string
	}{
		"none":                                  {nil, nil},
		"other host":                            {list{newRule("foo", "a", "db", "")}, nil},
		"service's namespace":                   {list{newRule("foo", "a", "web", "")}, []string{"foo/a"}},
		"client's namespace":                    {list{newRule("shop", "a", webHost, "")}, []string{"shop/a"}},
		"root namespace":                        {list{newRule("root", "a", "*.local", "")}, []string{"root/a"}},
		"every namespace":                       {list{newRule("foo", "a", "web", ""), newRule("root", "b", "*", ""), newRule("shop", "c", "*.local", "")}, []string{"foo/a", "root/b", "shop/c"}},
		"exact hides wildcard":                  {list{newRule("foo", "wild", "*.foo.svc.cluster.local", "DISABLE"), newRule("foo", "exact", "web", "")}, []string{"foo/exact"}},
		"longer wildcard hides shorter":         {list{newRule("foo", "short", "*.local", ""), newRule("foo", "long", "*.foo.svc.cluster.local", "")}, []string{"foo/long"}},
		"only within one namespace":             {list{newRule("shop", "wild", "*.local", ""), newRule("foo", "exact", "web", "")}, []string{"shop/wild", "foo/exact"}},
		"same host twice":                       {list{newRule("foo", "a", "web", ""), newRule("foo", "b", webHost, "")}, []string{"foo/a", "foo/b"}},
		"private exact hides only for its own":  {list{newRule("foo", "wild", "*.foo.svc.cluster.local", ""), newRule("foo", "exact", "web", "", exportTo("."))}, []string{"foo/wild", "foo/exact"}},
		"private wildcard hidden":               {list{newRule("foo", "wild", "*.foo.svc.cluster.local", "", exportTo("foo")), newRule("foo", "exact", "web", "")}, []string{"foo/exact"}},
		"private in another namespace":          {list{newRule("shop", "a", webHost, "", exportTo("."))}, []string{"shop/a"}},
		"exported elsewhere from nowhere":       {list{newRule("shop", "a", webHost, "", exportTo("other"))}, nil},
		"exported elsewhere from the service's": {list{newRule("foo", "a", webHost, "", exportTo("other"))}, []string{"foo/a"}},
		"exported to all":                       {list{newRule("shop", "a", webHost, "", exportTo("other", "*"))}, []string{"shop/a"}},
		"private in the root namespace":         {list{newRule("root", "a", webHost, "", exportTo("."))}, []string{"root/a"}},
		"workload selector":                     {list{newRule("shop", "a", webHost, "", forWorkload)}, []string{"shop/a"}},
		"workload selector hides for its own":   {list{newRule("foo", "a", webHost, "", forWorkload), newRule("foo", "b", "*.local", "")}, []string{"foo/a", "foo/b"}},
		"unlike wildcards of one length":        {list{newRule("foo", "a", "*eb.foo.svc.cluster.local", ""), newRule("foo", "b", "*eb.foo.svc.cluster.local", "")}, []string{"foo/a", "foo/b"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, rule := range ApplyingRules(webHost, "foo", "cluster.local", facts.Mesh{RootNamespace: "root"}, tc.rules) {
				got = append(got, rule.Namespace+"/"+rule.Name)
			}
			diff(t, "applying rules", tc.want, got)
		})
	}
}

func TestApplyingRulesInRootNamespace(t *testing.T) {
	// Clients in the root namespace see first what it keeps for itself; all others see what it exports.
	rules := []*networkingv1.DestinationRule{newRule("root", "wild", "*.local", "", exportTo(".")), newRule("root", "exact", webHost, "")}
	if got := ApplyingRules(webHost, "foo", "cluster.local", facts.Mesh{RootNamespace: "root"}, rules); len(got) != 2 {
		t.Errorf("%d rules apply, want both", len(got))
	}
}

func TestApplyingRulesWithoutExport(t *testing.T) {
	// Where the mesh says that rules are private, the exact one without exportTo is no reason for clients elsewhere to leave the other.
	rules := []*networkingv1.DestinationRule{newRule("foo", "wild", "*.local", "", exportTo("*")), newRule("foo", "exact", webHost, "")}
	for private, want := range map[bool]int{false: 1, true: 2} {
		mesh := facts.Mesh{RootNamespace: "root", PrivateRules: private}
		if got := ApplyingRules(webHost, "foo", "cluster.local", mesh, rules); len(got) != want {
			t.Errorf("private %t: %d rules apply, want %d", private, len(got), want)
		}
	}
}

func TestMoreSpecific(t *testing.T) {
	ordered := []string{"b.example.com", "a.local", "b.local", "*.a.local", "*.b.local", "*.local", "*"}
	for i, a := range ordered {
		for j, b := range ordered {
			if got := moreSpecific(a, b); got != (i < j) {
				t.Errorf("%q is more specific than %q: %t, want %t", a, b, got, i < j)
			}
		}
	}
}

func TestBreakingTLS(t *testing.T) {
	portEntry := func(number uint32, mode string) *networkingv1alpha3.TrafficPolicy_PortTrafficPolicy {
		entry := &networkingv1alpha3.TrafficPolicy_PortTrafficPolicy{Port: &networkingv1alpha3.PortSelector{Number: number}}
		if mode != "" {
			entry.Tls = tlsOf(mode)
		}
		return entry
	}
	policy := func(mode string, entries ...*networkingv1alpha3.TrafficPolicy_PortTrafficPolicy) *networkingv1alpha3.TrafficPolicy {
		p := &networkingv1alpha3.TrafficPolicy{PortLevelSettings: entries}
		if mode != "" {
			p.Tls = tlsOf(mode)
		}
		return p
	}
	subset := func(name string, p *networkingv1alpha3.TrafficPolicy) *networkingv1alpha3.Subset {
		return &networkingv1alpha3.Subset{Name: name, TrafficPolicy: p}
	}
	noPort := &networkingv1alpha3.TrafficPolicy_PortTrafficPolicy{Tls: tlsOf("DISABLE")}
	type rule = networkingv1alpha3.DestinationRule
	type subsets = []*networkingv1alpha3.Subset
	// Port 80 leads to 8080 and 81 to 9090.
	ports := []facts.ServicePort{{Port: 80, TargetPort: 8080}, {Port: 81, TargetPort: 9090}}
	all := func(int32) bool { return true }
	only := func(port int32) func(int32) bool { return func(p int32) bool { return p == port } }
	for name, tc := range map[string]struct {
		rule   *rule
		strict func(int32) bool
		want   []TLSSetting
	}{
		"no policy":                      {&rule{}, all, nil},
		"no tls":                         {&rule{TrafficPolicy: policy("")}, all, nil},
		"ISTIO_MUTUAL":                   {&rule{TrafficPolicy: policy("ISTIO_MUTUAL")}, all, nil},
		"DISABLE":                        {&rule{TrafficPolicy: policy("DISABLE")}, all, []TLSSetting{{"DISABLE", "trafficPolicy"}}},
		"SIMPLE":                         {&rule{TrafficPolicy: policy("SIMPLE")}, all, []TLSSetting{{"SIMPLE", "trafficPolicy"}}},
		"MUTUAL":                         {&rule{TrafficPolicy: policy("MUTUAL")}, all, []TLSSetting{{"MUTUAL", "trafficPolicy"}}},
		"nothing strict":                 {&rule{TrafficPolicy: policy("DISABLE")}, func(int32) bool { return false }, nil},
		"port":                           {&rule{TrafficPolicy: policy("", portEntry(80, "DISABLE"))}, all, []TLSSetting{{"DISABLE", "trafficPolicy.portLevelSettings[80]"}}},
		"port that is not strict":        {&rule{TrafficPolicy: policy("", portEntry(80, "DISABLE"))}, only(9090), nil},
		"port that the Service has not":  {&rule{TrafficPolicy: policy("", portEntry(8080, "DISABLE"))}, all, nil},
		"entry without a port":           {&rule{TrafficPolicy: policy("", noPort)}, all, nil},
		"one port overridden":            {&rule{TrafficPolicy: policy("DISABLE", portEntry(80, "ISTIO_MUTUAL"))}, all, []TLSSetting{{"DISABLE", "trafficPolicy"}}},
		"the strict port overridden":     {&rule{TrafficPolicy: policy("DISABLE", portEntry(80, "ISTIO_MUTUAL"))}, only(8080), nil},
		"all ports overridden":           {&rule{TrafficPolicy: policy("DISABLE", portEntry(80, "ISTIO_MUTUAL"), portEntry(81, "ISTIO_MUTUAL"))}, all, nil},
		"an entry without tls under it":  {&rule{TrafficPolicy: policy("SIMPLE", portEntry(80, ""))}, only(8080), []TLSSetting{{"SIMPLE", "trafficPolicy"}}},
		"port breaks under ISTIO_MUTUAL": {&rule{TrafficPolicy: policy("ISTIO_MUTUAL", portEntry(81, "SIMPLE"))}, all, []TLSSetting{{"SIMPLE", "trafficPolicy.portLevelSettings[81]"}}},
		"two places":                     {&rule{TrafficPolicy: policy("DISABLE", portEntry(81, "SIMPLE"))}, all, []TLSSetting{{"DISABLE", "trafficPolicy"}, {"SIMPLE", "trafficPolicy.portLevelSettings[81]"}}},
		"subset":                         {&rule{Subsets: subsets{subset("v1", nil), subset("v2", policy("DISABLE"))}}, all, []TLSSetting{{"DISABLE", "subset v2"}}},
		"subset inherits, told once":     {&rule{TrafficPolicy: policy("DISABLE"), Subsets: subsets{subset("v1", nil), subset("v2", policy(""))}}, all, []TLSSetting{{"DISABLE", "trafficPolicy"}}},
		"subset's port":                  {&rule{Subsets: subsets{subset("v1", policy("ISTIO_MUTUAL", portEntry(80, "DISABLE")))}}, all, []TLSSetting{{"DISABLE", "subset v1.portLevelSettings[80]"}}},
		"subset's entry without tls":     {&rule{Subsets: subsets{subset("v1", policy("DISABLE", portEntry(80, "")))}}, only(8080), []TLSSetting{{"DISABLE", "subset v1"}}},
		"subset's port replaces":         {&rule{Subsets: subsets{subset("v1", policy("DISABLE", portEntry(80, "ISTIO_MUTUAL")))}}, only(8080), nil},
	} {
		t.Run(name, func(t *testing.T) { diff(t, "settings", tc.want, BreakingTLS(tc.rule, ports, tc.strict)) })
	}
	named := []facts.ServicePort{{Port: 80, TargetPort: 8080, OtherTargets: []int32{9090}}}
	for port, want := range map[int32][]TLSSetting{8080: {{"DISABLE", "trafficPolicy"}}, 9090: {{"DISABLE", "trafficPolicy"}}, 7070: nil} {
		diff(t, "settings for a port that pods number differently", want, BreakingTLS(&rule{TrafficPolicy: policy("DISABLE")}, named, only(port)))
	}
}

func TestStrictPorts(t *testing.T) {
	exception := func(port int32, mode v1alpha1.Mode) v1alpha1.PortMTLS {
		return v1alpha1.PortMTLS{Port: port, Mode: mode}
	}
	for name, tc := range map[string]struct {
		mtls *v1alpha1.MTLS
		want map[int32]bool
	}{
		"no mtls":              {nil, map[int32]bool{0: false, 80: false}},
		"strict":               {&v1alpha1.MTLS{Mode: strict}, map[int32]bool{0: true, 80: true}},
		"strict but one":       {&v1alpha1.MTLS{Mode: strict, PortLevel: []v1alpha1.PortMTLS{exception(80, permissive)}}, map[int32]bool{0: true, 80: false, 81: true}},
		"permissive":           {&v1alpha1.MTLS{Mode: permissive}, map[int32]bool{0: false, 80: false}},
		"permissive but one":   {&v1alpha1.MTLS{Mode: permissive, PortLevel: []v1alpha1.PortMTLS{exception(80, strict)}}, map[int32]bool{0: true, 80: true, 81: false}},
		"permissive, one none": {&v1alpha1.MTLS{Mode: permissive, PortLevel: []v1alpha1.PortMTLS{exception(80, disabled)}}, map[int32]bool{0: false, 80: false}},
	} {
		t.Run(name, func(t *testing.T) {
			profile := &v1alpha1.ServiceSecurityProfile{Spec: v1alpha1.ServiceSecurityProfileSpec{MTLS: tc.mtls}}
			for port, want := range tc.want {
				if got := strictPorts(profile)(port); got != want {
					t.Errorf("port %d is strict: %t, want %t", port, got, want)
				}
			}
		})
	}
}

func adopt(profile string) func(*networkingv1.DestinationRule) {
	return func(rule *networkingv1.DestinationRule) {
		rule.Annotations = map[string]string{v1alpha1.AnnotationAdopt: profile}
	}
}

func withPortTLS(number uint32, mode string) func(*networkingv1.DestinationRule) {
	return func(rule *networkingv1.DestinationRule) {
		entry := &networkingv1alpha3.TrafficPolicy_PortTrafficPolicy{Port: &networkingv1alpha3.PortSelector{Number: number}}
		if mode != "" {
			entry.Tls = tlsOf(mode)
		}
		rule.Spec.TrafficPolicy.PortLevelSettings = append(rule.Spec.TrafficPolicy.PortLevelSettings, entry)
	}
}

func TestResolveRules(t *testing.T) {
	web := tags{"app": "web"}
	service := newService("web", web, port(80, 8080))
	second := newService("web-admin", web, port(81, 8080))
	pod := newPod("web-a", web)
	forService := newProfile("secure", 10, toService("web"), strict)
	forWorkload := newProfile("secure", 10, toWorkload(web), strict)
	other := newProfile("other", 20, toService("web-admin"), permissive)
	const adminHost = "web-admin.foo.svc.cluster.local"
	for name, tc := range map[string]struct {
		profile *v1alpha1.ServiceSecurityProfile
		objects []client.Object
		rules   []facts.Rule
		clients []facts.ClientRule
	}{
		"none": {forService, nil, nil, nil},
		"own rule": {
			forService,
			[]client.Object{owned(newRule("foo", "secure", webHost, "ISTIO_MUTUAL"), forService)},
			[]facts.Rule{{Name: "secure", Owned: true, Host: webHost, TLS: facts.TLSMutual}},
			nil,
		},
		"own rule of another name": {
			forService,
			[]client.Object{owned(newRule("foo", "left-over", webHost, "DISABLE"), forService)},
			[]facts.Rule{{Name: "left-over", Owned: true, Host: webHost, TLS: facts.TLSDisable}},
			nil,
		},
		"rule that waits for its adoption": {
			forService,
			[]client.Object{newRule("foo", "secure", webHost, "ISTIO_MUTUAL", adopt("secure"))},
			[]facts.Rule{{Name: "secure", Owned: true, Host: webHost, TLS: facts.TLSMutual}},
			nil,
		},
		"rule for adoption of another name, or namespace, or profile": {
			forService,
			[]client.Object{
				newRule("foo", "other", webHost, "DISABLE", adopt("secure")), newRule("shop", "secure", webHost, "DISABLE", adopt("secure")),
				newRule("foo", "secure", "db", "", adopt("another")),
			},
			[]facts.Rule{{Name: "secure", Host: "db"}},
			[]facts.ClientRule{
				{Namespace: "foo", Name: "other", Host: webHost, TLS: "DISABLE", Where: "trafficPolicy"},
				{Namespace: "shop", Name: "secure", Host: webHost, TLS: "DISABLE", Where: "trafficPolicy"},
			},
		},
		"own rule with ports": {
			forService,
			[]client.Object{owned(newRule("foo", "secure", webHost, "ISTIO_MUTUAL", withPortTLS(80, "DISABLE"), withPortTLS(81, ""), withPortTLS(99999, "DISABLE")), forService)},
			[]facts.Rule{{Name: "secure", Owned: true, Host: webHost, TLS: facts.TLSMutual, Ports: map[int32]facts.TLS{80: facts.TLSDisable}}},
			nil,
		},
		"foreign rule of the name": {
			forService,
			[]client.Object{newRule("foo", "secure", "db", "")},
			[]facts.Rule{{Name: "secure", Host: "db"}},
			nil,
		},
		"a Workload's rules": {
			forWorkload,
			[]client.Object{
				owned(newRule("foo", "secure-web", webHost, "ISTIO_MUTUAL"), forWorkload), newRule("foo", "secure-web-admin", "elsewhere", "SIMPLE"),
				newRule("foo", "secure", "elsewhere", ""),
			},
			[]facts.Rule{{Name: "secure-web", Owned: true, Host: webHost, TLS: facts.TLSMutual}, {Name: "secure-web-admin", Host: "elsewhere", TLS: "SIMPLE"}},
			nil,
		},
		"a meshed client's own rule": {
			forService,
			[]client.Object{newRule("shop", "off", webHost, "DISABLE"), newRule("shop", "db", "db", "DISABLE")},
			nil,
			[]facts.ClientRule{{Namespace: "shop", Name: "off", Host: webHost, TLS: "DISABLE", Where: "trafficPolicy"}},
		},
		"harmless rules are noted": {
			forService,
			[]client.Object{newRule("foo", "lb", "web", ""), newRule("istio-system", "all", "*.local", "ISTIO_MUTUAL")},
			nil,
			[]facts.ClientRule{{Namespace: "foo", Name: "lb", Host: webHost}, {Namespace: "istio-system", Name: "all", Host: webHost}, {Namespace: "istio-system", Name: "all", Host: adminHost}},
		},
		"another host that leads to the same pods": {
			forService,
			[]client.Object{newRule("shop", "off", adminHost, "DISABLE")},
			nil,
			[]facts.ClientRule{{Namespace: "shop", Name: "off", Host: adminHost, TLS: "DISABLE", Where: "trafficPolicy"}},
		},
		"generated rules are no one else's, and hide none": {
			forService,
			[]client.Object{
				owned(newRule("foo", "secure", webHost, "ISTIO_MUTUAL"), forService), owned(newRule("foo", "other", adminHost, "DISABLE"), other),
				newRule("foo", "wild", "*.foo.svc.cluster.local", "DISABLE"),
			},
			[]facts.Rule{{Name: "secure", Owned: true, Host: webHost, TLS: facts.TLSMutual}},
			[]facts.ClientRule{
				{Namespace: "foo", Name: "wild", Host: webHost, TLS: "DISABLE", Where: "trafficPolicy"},
				{Namespace: "foo", Name: "wild", Host: adminHost, TLS: "DISABLE", Where: "trafficPolicy"},
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := mustResolve(t, cluster(t, append(tc.objects, service, second, pod, tc.profile)...), tc.profile)
			diff(t, "rules", tc.rules, got.Rules)
			diff(t, "client rules", tc.clients, got.ClientRules)
		})
	}
}

func TestResolveRulesWithAnotherDomain(t *testing.T) {
	web := tags{"app": "web"}
	profile := newProfile("web", 0, toService("web"), strict)
	r := cluster(t, profile, newService("web", web, port(80, "http")), newPod("web-a", web),
		newRule("foo", "short", "web", "DISABLE"), newRule("shop", "wrong", webHost, "DISABLE"), newRule("shop", "wild", "*.example.org", "DISABLE"))
	r.ClusterDomain = "example.org"
	got := mustResolve(t, r, profile)
	diff(t, "client rules", []facts.ClientRule{
		{Namespace: "foo", Name: "short", Host: "web.foo.svc.example.org", TLS: "DISABLE", Where: "trafficPolicy"},
		{Namespace: "shop", Name: "wild", Host: "web.foo.svc.example.org", TLS: "DISABLE", Where: "trafficPolicy"},
	}, got.ClientRules)
	diff(t, "ports", []facts.ServicePort{{Name: "http-80", Port: 80, TargetPort: 8080}}, got.Hosts[0].Ports)
	if headless := got.Hosts[0].Headless; headless {
		t.Error("a Service with a cluster IP is headless")
	}
}
