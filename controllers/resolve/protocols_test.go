package resolve

import (
	"testing"

	networkingv1alpha3 "istio.io/api/networking/v1alpha3"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/controllers/facts"
)

func TestInferProtocol(t *testing.T) {
	const http, tcp, undeclared, none = facts.ProtocolHTTP, facts.ProtocolTCP, facts.ProtocolUndeclared, facts.Protocol("")
	for name, tc := range map[string]struct {
		port        int32
		name, app   string
		transport   corev1.Protocol
		want        facts.Protocol
		noNameWants facts.Protocol
	}{
		"http":                       {80, "http", "", "", http, undeclared},
		"HTTP, upper case":           {80, "HTTP-web", "", corev1.ProtocolTCP, http, undeclared},
		"http2":                      {80, "http2", "", "", http, undeclared},
		"http_proxy":                 {80, "http_proxy", "", "", http, undeclared},
		"grpc":                       {80, "grpc-api", "", "", http, undeclared},
		"grpc-web":                   {80, "grpc-web", "", "", http, undeclared},
		"grpc-web, and more":         {80, "gRPC-Webbed", "", "", http, undeclared},
		"tcp":                        {80, "tcp-db", "", "", tcp, undeclared},
		"tls":                        {80, "tls", "", "", tcp, undeclared},
		"https":                      {80, "https", "", "", tcp, undeclared},
		"mongo":                      {80, "mongo", "", "", tcp, undeclared},
		"redis":                      {80, "redis", "", "", tcp, undeclared},
		"mysql":                      {80, "mysql", "", "", tcp, undeclared},
		"no prefix that is known":    {80, "web", "", "", undeclared, undeclared},
		"http without a hyphen":      {80, "httpweb", "", "", undeclared, undeclared},
		"MySQL's port":               {3306, "db", "", "", tcp, tcp},
		"MySQL's port, as http":      {3306, "http", "", "", http, tcp},
		"MongoDB's port":             {27017, "", "", "", tcp, tcp},
		"SMTP's port":                {25, "", "", "", tcp, tcp},
		"DNS's port":                 {53, "dns", "", "", tcp, tcp},
		"UDP":                        {53, "dns", "", corev1.ProtocolUDP, none, none},
		"UDP by name":                {80, "udp-x", "", "", none, undeclared},
		"SCTP":                       {80, "http", "", corev1.ProtocolSCTP, none, none},
		"appProtocol over the name":  {80, "tcp-db", "http", "", http, http},
		"appProtocol with a hyphen":  {80, "http", "tcp-x", "", tcp, tcp},
		"appProtocol, unknown":       {80, "http", "example.com/x", "", undeclared, undeclared},
		"appProtocol on a known one": {3306, "http", "example.com/x", "", tcp, tcp},
		"h2c":                        {80, "tcp", "kubernetes.io/h2c", "", http, http},
		"ws":                         {80, "tcp", "kubernetes.io/ws", "", http, http},
		"wss":                        {80, "http", "kubernetes.io/wss", "", tcp, tcp},
		"h2c over UDP":               {80, "", "kubernetes.io/h2c", corev1.ProtocolUDP, none, none},
		"h2c as a name":              {80, "kubernetes.io/h2c", "", "", undeclared, undeclared},
	} {
		t.Run(name, func(t *testing.T) {
			port := corev1.ServicePort{Name: tc.name, Port: tc.port, Protocol: tc.transport}
			if tc.app != "" {
				port.AppProtocol = &tc.app
			}
			if got := InferProtocol(port); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			port.Name = ""
			if got := InferProtocol(port); got != tc.noNameWants {
				t.Errorf("without a name got %q, want %q", got, tc.noNameWants)
			}
		})
	}
}

// as names a Service's port.
func as(name string, port corev1.ServicePort) corev1.ServicePort {
	port.Name = name
	return port
}

// listening declares container ports in place of the one that a pod has.
func listening(ports ...int32) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		pod.Spec.Containers[0].Ports = nil
		for _, port := range ports {
			pod.Spec.Containers[0].Ports = append(pod.Spec.Containers[0].Ports, corev1.ContainerPort{Name: "main", ContainerPort: port})
		}
	}
}

// speaking is a Sidecar's ingress listener.
func speaking(port uint32, protocol string) *networkingv1alpha3.IstioIngressListener {
	return &networkingv1alpha3.IstioIngressListener{Port: &networkingv1alpha3.SidecarPort{Number: port, Protocol: protocol, Name: "x"}}
}

func in[T client.Object](namespace string, obj T) T {
	obj.SetNamespace(namespace)
	return obj
}

func TestResolveProtocols(t *testing.T) {
	web, db := tags{"app": "web"}, tags{"app": "db"}
	const http, tcp, undeclared = facts.ProtocolHTTP, facts.ProtocolTCP, facts.ProtocolUndeclared
	service, workload, space := edited(newProfile("p", 0, toService("web"), strict), sections(false, true, false)),
		edited(newProfile("p", 0, toWorkload(web), strict), sections(false, false, true)),
		edited(newProfile("p", 0, toNamespace, strict), sections(false, true, false))
	mesh := in("istio-system", edited(newProfile("p", 0, toMesh, strict), sections(false, true, false)))
	mtls := in("istio-system", newProfile("p", 0, toMesh, strict))
	alias := newService("alias", web, as("tcp", port(80, 8080)))
	alias.Spec.Type = corev1.ServiceTypeExternalName
	type ports = map[int32]facts.Protocol
	for name, tc := range map[string]struct {
		profile client.Object
		objects []client.Object
		want    ports
	}{
		"none":             {workload, []client.Object{newPod("a", web)}, nil},
		"by number":        {service, []client.Object{newService("web", web, as("http", port(80, 8080)), as("tcp", port(81, 9090)), as("x", port(82, 7070))), newPod("a", web, listening(8080))}, ports{7070: undeclared, 8080: http, 9090: tcp}},
		"without pods":     {service, []client.Object{newService("web", web, as("http", port(80, 8080)), as("tcp", port(81, "main")))}, ports{8080: http}},
		"by name":          {service, []client.Object{newService("web", web, as("http", port(80, "main"))), newPod("a", web, listening(8080)), newPod("b", web, listening(9090))}, ports{8080: http, 9090: http}},
		"UDP is left out":  {service, []client.Object{newService("web", web, corev1.ServicePort{Port: 53, Protocol: corev1.ProtocolUDP}), newPod("a", web)}, nil},
		"two that agree":   {workload, []client.Object{newService("web", web, as("tcp", port(80, 8080))), newService("too", web, as("redis", port(81, 8080))), newPod("a", web)}, ports{8080: tcp}},
		"two that differ":  {workload, []client.Object{newService("web", web, as("tcp", port(80, 8080))), newService("too", web, as("http", port(81, 8080))), newPod("a", web)}, ports{8080: undeclared}},
		"three of which":   {workload, []client.Object{newService("a", web, as("tcp", port(80, 8080))), newService("b", web, as("http", port(81, 8080))), newService("c", web, as("tcp", port(80, 8080))), newPod("a", web)}, ports{8080: undeclared}},
		"one undeclared":   {workload, []client.Object{newService("web", web, as("tcp", port(80, 8080))), newService("too", web, as("x", port(81, 8080))), newPod("a", web)}, ports{8080: undeclared}},
		"of another's pod": {workload, []client.Object{newService("both", tags{"tier": "x"}, as("tcp", port(80, "main"))), newPod("a", tags{"app": "web", "tier": "x"}, listening(8080)), newPod("b", tags{"app": "db", "tier": "x"}, listening(9090))}, ports{8080: tcp}},
		"not every pod has a Service": {workload, []client.Object{
			newService("v1", tags{"app": "web", "version": "v1"}, as("tcp", port(80, 8080))),
			newPod("a", tags{"app": "web", "version": "v1"}), newPod("b", tags{"app": "web", "version": "v2"}),
		}, ports{8080: undeclared}},
		"two workloads of a namespace": {space, []client.Object{
			newService("web", web, as("tcp", port(80, 8080)), as("http", port(81, 9090))), newService("db", db, as("http", port(80, 8080)), as("http", port(81, 9090))),
			newPod("a", web), newPod("b", db),
		}, ports{8080: undeclared, 9090: http}},
		"a namespace's alias and Service without a selector": {space, []client.Object{alias, newService("none", nil, as("tcp", port(80, 8080))), newPod("a", web)}, nil},
		"a namespace's gateway":                              {space, []client.Object{newService("gw", db, as("https", port(443, 8443))), newPod("a", db, router)}, nil},
		"a gateway":                                          {service, []client.Object{newService("web", web, as("https", port(443, 8443))), newPod("a", web, router)}, nil},
		"the mesh's": {mesh, []client.Object{
			newService("web", web, as("tcp", port(80, 8080))), newPod("a", web), in("bar", newService("web", web, as("tcp", port(80, 8080)))), in("bar", newPod("a", web)),
			in("legacy", newService("web", web, as("http", port(80, 8080)))), in("legacy", newPod("a", web, withoutSidecar)),
		}, ports{8080: tcp}},
		"a Sidecar's listeners count, and not the Services": {service, []client.Object{
			newService("web", web, as("tcp-api", port(80, 9000)), as("http", port(81, 9001)), as("tcp", port(82, 9002)), as("tcp", port(83, 9003)), as("tcp", port(84, 9004))),
			newPod("a", web, listening(9000)), newSidecar("foo", "in", 0, nil, speaking(9000, "HTTP"), speaking(9001, "tcp"), speaking(9002, "x"), speaking(9005, "MONGO"), speaking(9006, "HTTPS"), ingress(9003, true)),
		}, ports{9000: http, 9001: tcp, 9002: undeclared, 9003: undeclared, 9004: undeclared, 9005: tcp, 9006: tcp}},
		"a Sidecar without listeners":     {service, []client.Object{newService("web", web, as("tcp", port(80, 9000))), newPod("a", web), newSidecar("foo", "out", 0, nil)}, ports{9000: tcp}},
		"a Sidecar of other pods":         {service, []client.Object{newService("web", web, as("tcp", port(80, 9000))), newPod("a", web), newSidecar("foo", "in", 0, db, speaking(9000, "HTTP"))}, ports{9000: tcp}},
		"a Sidecar of some of the pods":   {service, []client.Object{newService("web", web, as("tcp", port(80, 9000))), newPod("a", web), newPod("b", tags{"app": "web", "version": "v2"}), newSidecar("foo", "in", 0, tags{"version": "v2"}, speaking(9000, "HTTP"))}, ports{9000: undeclared}},
		"a Sidecar that another replaces": {service, []client.Object{newService("web", web, as("tcp", port(80, 9000))), newPod("a", web), newSidecar("foo", "in", 0, nil, speaking(9000, "HTTP")), newSidecar("foo", "own", 1, web)}, ports{9000: tcp}},
		"a Sidecar of the mesh": {mesh, []client.Object{
			newService("web", web, as("tcp", port(80, 8080))), newPod("a", web), in("bar", newService("web", web, as("tcp", port(80, 9090)))), in("bar", newPod("a", web, listening(9090))),
			newSidecar("istio-system", "in", 0, nil, speaking(9090, "HTTP")), newSidecar("foo", "out", 0, nil),
		}, ports{8080: tcp, 9090: http}},
		"a Sidecar is nothing to a gateway": {space, []client.Object{newService("web", web, as("tcp", port(80, 9000))), newPod("a", web, listening(9000)), newPod("gw", db, router, listening(7000)), newSidecar("foo", "in", 0, db, speaking(9000, "HTTP"))}, ports{9000: tcp}},
		"not asked of the mesh":             {mtls, []client.Object{newService("web", web, as("tcp", port(80, 8080))), newPod("a", web)}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got := mustResolve(t, cluster(t, tc.objects...), asProfile(tc.profile))
			diff(t, "ports", declarations(tc.want).ports(), got.Ports)
		})
	}
}
