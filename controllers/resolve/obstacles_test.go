package resolve

import (
	"testing"

	networkingv1alpha3 "istio.io/api/networking/v1alpha3"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

func newEntry(namespace, name string, spec, meta tags) *networkingv1.WorkloadEntry {
	entry := &networkingv1.WorkloadEntry{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: meta}}
	entry.Spec.Labels = spec
	return entry
}

func TestWorkloadEntries(t *testing.T) {
	web, v1 := tags{"app": "web"}, tags{"app": "web", "version": "v1"}
	entries := []client.Object{
		newEntry("foo", "spec", web, nil), newEntry("foo", "metadata", nil, v1), newEntry("foo", "both", tags{"app": "db"}, web),
		newEntry("foo", "other", tags{"app": "db"}, nil), newEntry("foo", "bare", nil, nil), newEntry("bar", "elsewhere", web, nil),
	}
	for name, tc := range map[string]struct {
		profile *v1alpha1.ServiceSecurityProfile
		want    []string
	}{
		"a Service":           {newProfile("p", 0, toService("web"), strict), []string{"foo/both", "foo/metadata", "foo/spec"}},
		"a Workload":          {newProfile("p", 0, toWorkload(v1), strict), []string{"foo/metadata"}},
		"a Service that left": {newProfile("p", 0, toService("gone"), strict), nil},
		"a namespace":         {newProfile("p", 0, toNamespace, strict), []string{"foo/bare", "foo/both", "foo/metadata", "foo/other", "foo/spec"}},
		"the mesh": {in("istio-system", newProfile("p", 0, toMesh, strict)), []string{
			"bar/elsewhere", "foo/bare", "foo/both", "foo/metadata", "foo/other", "foo/spec",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			r := cluster(t, append(entries, newService("web", web, port(80, 8080)), newPod("web-a", web))...)
			diff(t, "entries", tc.want, mustResolve(t, r, tc.profile).WorkloadEntries)
		})
	}
}

func TestServiceEntries(t *testing.T) {
	const internal, external = networkingv1alpha3.ServiceEntry_MESH_INTERNAL, networkingv1alpha3.ServiceEntry_MESH_EXTERNAL
	web := tags{"app": "web"}
	type spec = networkingv1alpha3.ServiceEntry
	endpoint := func(address, account string, labels tags) []*networkingv1alpha3.WorkloadEntry {
		return []*networkingv1alpha3.WorkloadEntry{{Address: address, ServiceAccount: account, Labels: labels}}
	}
	selecting := func(labels tags) *networkingv1alpha3.WorkloadSelector {
		return &networkingv1alpha3.WorkloadSelector{Labels: labels}
	}
	service := newProfile("p", 0, toService("web"), strict)
	legacy := []string{"web.legacy"}
	for name, tc := range map[string]struct {
		namespace string
		profile   *v1alpha1.ServiceSecurityProfile
		spec      *spec
		plaintext bool
	}{
		"the host, location unset":              {spec: &spec{Hosts: []string{webHost}}, plaintext: true},
		"the host, external":                    {spec: &spec{Hosts: []string{"a.b", webHost}, Location: external}, plaintext: true},
		"the host, internal":                    {spec: &spec{Hosts: []string{webHost}, Location: internal}},
		"another host":                          {spec: &spec{Hosts: []string{"web.bar.svc.cluster.local"}}},
		"the host of a Service without sidecar": {spec: &spec{Hosts: []string{"plain.foo.svc.cluster.local"}}},
		"to all":                                {spec: &spec{Hosts: []string{webHost}, ExportTo: []string{"*"}}, plaintext: true},
		"to its namespace":                      {spec: &spec{Hosts: []string{webHost}, ExportTo: []string{"."}}, plaintext: true},
		"to nobody":                             {spec: &spec{Hosts: []string{webHost}, ExportTo: []string{"~"}}},
		"to nobody and all":                     {spec: &spec{Hosts: []string{webHost}, ExportTo: []string{"~", "*"}}, plaintext: true},
		"the pods":                              {namespace: "foo", spec: &spec{Hosts: legacy, WorkloadSelector: selecting(web)}, plaintext: true},
		"the pods, internal":                    {namespace: "foo", spec: &spec{Hosts: legacy, WorkloadSelector: selecting(web), Location: internal}},
		"pods of another namespace":             {spec: &spec{Hosts: legacy, WorkloadSelector: selecting(web)}},
		"other pods":                            {namespace: "foo", spec: &spec{Hosts: legacy, WorkloadSelector: selecting(tags{"app": "db"})}},
		"an address":                            {spec: &spec{Hosts: legacy, Endpoints: endpoint("10.0.0.1", "web", nil)}, plaintext: true},
		"an address, internal":                  {spec: &spec{Hosts: legacy, Location: internal, Endpoints: endpoint("10.0.0.1", "", nil)}, plaintext: true},
		"an address with an account":            {spec: &spec{Hosts: legacy, Location: internal, Endpoints: endpoint("10.0.0.1", "web", nil)}},
		"an address with the label":             {spec: &spec{Hosts: legacy, Location: internal, Endpoints: endpoint("10.0.0.1", "", tags{labelTLSMode: "istio"})}},
		"an address with another label":         {spec: &spec{Hosts: legacy, Location: internal, Endpoints: endpoint("10.0.0.1", "web", tags{labelTLSMode: "disabled"})}, plaintext: true},
		"the cluster's address":                 {spec: &spec{Hosts: legacy, Endpoints: endpoint("10.1.0.1", "", nil)}, plaintext: true},
		"the address of the other family":       {spec: &spec{Hosts: legacy, Endpoints: endpoint("2001:db8::1", "", nil)}, plaintext: true},
		"the cluster's of the other family":     {spec: &spec{Hosts: legacy, Endpoints: endpoint("2001:db8::2", "", nil)}, plaintext: true},
		"the host as an endpoint":               {spec: &spec{Hosts: legacy, Resolution: networkingv1alpha3.ServiceEntry_DNS, Endpoints: endpoint(webHost, "", nil)}, plaintext: true},
		"another address":                       {spec: &spec{Hosts: legacy, Endpoints: endpoint("10.9.9.9", "", nil)}},
		"of a namespace":                        {profile: newProfile("p", 0, toNamespace, strict), spec: &spec{Hosts: []string{webHost}}, plaintext: true},
		"of a namespace, another's":             {profile: newProfile("p", 0, toNamespace, strict), spec: &spec{Hosts: []string{"web.bar.svc.cluster.local"}}},
		"of the mesh":                           {profile: in("istio-system", newProfile("p", 0, toMesh, strict)), spec: &spec{Hosts: []string{webHost}}, plaintext: true},
	} {
		t.Run(name, func(t *testing.T) {
			entry := &networkingv1.ServiceEntry{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "out"}}
			tc.spec.DeepCopyInto(&entry.Spec)
			if tc.namespace != "" {
				entry.Namespace = tc.namespace
			}
			profile := tc.profile
			if profile == nil {
				profile = service
			}
			headless := newService("web-headless", web, port(80, 8080))
			headless.Spec.ClusterIP = "None"
			unaddressed := newPod("web-b", web)
			unaddressed.Status.PodIP = ""
			plain := newService("plain", tags{"app": "plain"}, port(80, 8080))
			plain.Spec.ClusterIP = "10.1.0.9"
			dual := newService("web", web, port(80, 8080))
			dual.Spec.ClusterIPs = []string{dual.Spec.ClusterIP, "2001:db8::2"}
			both := newPod("web-a", web, func(p *corev1.Pod) {
				p.Status.PodIPs = []corev1.PodIP{{IP: p.Status.PodIP}, {IP: "2001:db8::1"}}
			})
			r := cluster(t, entry, dual, headless, plain, both, unaddressed,
				newPod("plain-a", tags{"app": "plain"}, withoutSidecar, func(p *corev1.Pod) { p.Status.PodIP = "10.0.0.9" }), newNamespace("foo"))
			var want []string
			if tc.plaintext {
				want = []string{entry.Namespace + "/out"}
			}
			diff(t, "entries", want, mustResolve(t, r, profile).ServiceEntries)
		})
	}
}

func ingress(port uint32, tls bool) *networkingv1alpha3.IstioIngressListener {
	listener := &networkingv1alpha3.IstioIngressListener{Port: &networkingv1alpha3.SidecarPort{Number: port, Protocol: "HTTPS", Name: "https"}}
	if tls {
		listener.Tls = &networkingv1alpha3.ServerTLSSettings{Mode: networkingv1alpha3.ServerTLSSettings_SIMPLE}
	}
	return listener
}

func newSidecar(namespace, name string, minute int, selector tags, listeners ...*networkingv1alpha3.IstioIngressListener) *networkingv1.Sidecar {
	s := &networkingv1.Sidecar{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, CreationTimestamp: at(minute)}}
	s.Spec.Ingress = listeners
	if selector != nil {
		s.Spec.WorkloadSelector = &networkingv1alpha3.WorkloadSelector{Labels: selector}
	}
	return s
}

func TestSidecarIngress(t *testing.T) {
	web, v1, v2 := tags{"app": "web"}, tags{"app": "web", "version": "v1"}, tags{"app": "web", "version": "v2"}
	tls, plain := ingress(8443, true), ingress(8443, false)
	service, space, mesh := newProfile("p", 0, toService("web"), strict), newProfile("p", 0, toNamespace, strict), in("istio-system", newProfile("p", 0, toMesh, strict))
	elsewhere := newPod("other", web)
	elsewhere.Namespace = "bar"
	for name, tc := range map[string]struct {
		profile *v1alpha1.ServiceSecurityProfile
		objects []client.Object
		want    []string
	}{
		"by selector":                         {service, []client.Object{newSidecar("foo", "in", 0, v1, tls)}, []string{"foo/in"}},
		"by an empty selector":                {service, []client.Object{newSidecar("foo", "in", 0, tags{}, tls)}, []string{"foo/in"}},
		"for the namespace":                   {service, []client.Object{newSidecar("foo", "in", 0, nil, plain, tls)}, []string{"foo/in"}},
		"for the mesh":                        {service, []client.Object{newSidecar("istio-system", "in", 0, nil, tls)}, []string{"istio-system/in"}},
		"without tls":                         {service, []client.Object{newSidecar("foo", "in", 0, nil, plain)}, nil},
		"no pod's":                            {service, []client.Object{newSidecar("foo", "in", 0, tags{"app": "db"}, tls)}, nil},
		"another namespace's":                 {service, []client.Object{newSidecar("bar", "in", 0, nil, tls)}, nil},
		"the mesh's, with a selector":         {service, []client.Object{newSidecar("istio-system", "in", 0, web, tls)}, nil},
		"the workload's before the namespace": {service, []client.Object{newSidecar("foo", "in", 0, nil, tls), newSidecar("foo", "own", 1, web, plain)}, nil},
		"the namespace's before the mesh's":   {service, []client.Object{newSidecar("istio-system", "in", 0, nil, tls), newSidecar("foo", "own", 1, nil)}, nil},
		"for one of the pods":                 {service, []client.Object{newSidecar("foo", "in", 0, nil, tls), newSidecar("foo", "own", 1, v1, plain)}, []string{"foo/in"}},
		"the older of two":                    {service, []client.Object{newSidecar("foo", "a", 1, nil, tls), newSidecar("foo", "b", 0, nil, plain)}, nil},
		"a port excepted from STRICT":         {newProfile("p", 0, toService("web"), strict, v1alpha1.PortMTLS{Port: 8443, Mode: permissive}), []client.Object{newSidecar("foo", "in", 0, nil, tls)}, nil},
		"two":                                 {service, []client.Object{newSidecar("foo", "b", 0, v1, tls), newSidecar("foo", "a", 0, v2, tls)}, []string{"foo/a", "foo/b"}},
		"of a namespace":                      {space, []client.Object{newSidecar("foo", "in", 0, v2, tls), newSidecar("bar", "in", 0, nil, tls)}, []string{"foo/in"}},
		"of the mesh":                         {mesh, []client.Object{newSidecar("foo", "in", 0, v2, tls), newSidecar("bar", "in", 0, nil, tls)}, []string{"bar/in", "foo/in"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := cluster(t, append(tc.objects, tc.profile, newService("web", web, port(80, 8080)), newPod("web-a", v1), newPod("web-b", v2),
				elsewhere, newNamespace("foo"), newNamespace("bar"))...)
			diff(t, "Sidecars", tc.want, mustResolve(t, r, tc.profile).SidecarIngress)
		})
	}
}
