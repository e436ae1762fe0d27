package resolve

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

func TestJudgePorts(t *testing.T) {
	mappings := []ServiceMapping{
		{Service: "web", Port: 80, Targets: []int32{8080}},
		{Service: "web", Port: 9090, Targets: []int32{9090}},
		{Service: "web", Port: 443, Targets: nil},
		{Service: "other", Port: 81, Targets: []int32{8080, 8081}},
		{Service: "third", Port: 81, Targets: []int32{8080}},
	}
	const prefix = "Ports in mtls.portLevel are workload ports, and Istio ignores others: "
	for name, tc := range map[string]struct {
		ports    []int32
		mappings []ServiceMapping
		declared []int32
		unmapped []int32
		message  string
	}{
		"none":                             {nil, mappings, nil, nil, ""},
		"workload port":                    {[]int32{8080}, mappings, nil, nil, ""},
		"both":                             {[]int32{9090}, mappings, nil, nil, ""},
		"Service port":                     {[]int32{80}, mappings, []int32{8080}, nil, prefix + `80 is a port of Service "web" whose workload port is 8080, so write 8080.`},
		"Service port, several answers":    {[]int32{81}, mappings, nil, nil, prefix + `81 is a port of Service "other", "third" whose workload port is 8080 or 8081, so write 8080 or 8081.`},
		"two Service ports":                {[]int32{81, 80}, mappings, nil, nil, prefix + `81 is a port of Service "other", "third" whose workload port is 8080 or 8081, so write 8080 or 8081; 80 is a port of Service "web" whose workload port is 8080, so write 8080.`},
		"Service port that a pod declares": {[]int32{80}, mappings, []int32{80, 8080}, []int32{80}, ""},
		"Service port, target not known":   {[]int32{443}, mappings, nil, []int32{443}, ""},
		"declared, not mapped":             {[]int32{7000}, mappings, []int32{7000}, []int32{7000}, ""},
		"nobody's, in order":               {[]int32{7001, 7000}, mappings, nil, []int32{7000, 7001}, ""},
		"no Service":                       {[]int32{80}, nil, []int32{80}, []int32{80}, ""},
		"nothing to tell from":             {[]int32{80}, nil, nil, []int32{80}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var exceptions []v1alpha1.PortMTLS
			for _, port := range tc.ports {
				exceptions = append(exceptions, v1alpha1.PortMTLS{Port: port, Mode: permissive})
			}
			unmapped, message := JudgePorts(exceptions, tc.mappings, tc.declared)
			diff(t, "unmapped ports", tc.unmapped, unmapped)
			diff(t, "message", tc.message, message)
		})
	}
}

func TestResolvePorts(t *testing.T) {
	web := tags{"app": "web"}
	exception := func(port int32) v1alpha1.PortMTLS { return v1alpha1.PortMTLS{Port: port, Mode: permissive} }
	udp := port(53, 5353)
	udp.Protocol = corev1.ProtocolUDP
	service := newService("web", web, port(80, "http"), udp)
	pod := newPod("web-a", web)
	for name, tc := range map[string]struct {
		target   v1alpha1.Target
		ports    []v1alpha1.PortMTLS
		objects  []client.Object
		unmapped []int32
		problem  *facts.Problem
	}{
		"named port resolved by the pod": {toService("web"), []v1alpha1.PortMTLS{exception(8080)}, []client.Object{service, pod}, nil, nil},
		"Service port": {toService("web"), []v1alpha1.PortMTLS{exception(80)}, []client.Object{service, pod}, nil, &facts.Problem{
			Reason: v1alpha1.ReasonInvalid, Section: v1alpha1.SectionMTLS,
			Message: `Ports in mtls.portLevel are workload ports, and Istio ignores others: 80 is a port of Service "web" whose workload port is 8080, so write 8080.`,
		}},
		"UDP port":         {toService("web"), []v1alpha1.PortMTLS{exception(53), exception(5353)}, []client.Object{service, pod}, []int32{53, 5353}, nil},
		"no pods":          {toService("web"), []v1alpha1.PortMTLS{exception(80)}, []client.Object{service}, []int32{80}, nil},
		"another Service":  {toService("web"), []v1alpha1.PortMTLS{exception(9999)}, []client.Object{service, pod, newService("too", web, port(1, 9999))}, nil, nil},
		"no Service":       {toWorkload(web), []v1alpha1.PortMTLS{exception(8080)}, []client.Object{pod}, []int32{8080}, nil},
		"neither":          {toWorkload(web), []v1alpha1.PortMTLS{exception(80)}, nil, []int32{80}, nil},
		"without mtls":     {toService("web"), nil, []client.Object{service, pod}, nil, nil},
		"of other pods":    {toWorkload(web), []v1alpha1.PortMTLS{exception(7000)}, []client.Object{pod, newService("db", tags{"app": "db"}, port(70, 7000))}, []int32{7000}, nil},
		"Workload, mapped": {toWorkload(web), []v1alpha1.PortMTLS{exception(8080)}, []client.Object{pod, service}, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			profile := newProfile("p", 0, tc.target, strict, tc.ports...)
			if tc.ports == nil {
				profile.Spec.MTLS = nil
			}
			got := mustResolve(t, cluster(t, append(tc.objects, profile)...), profile)
			diff(t, "unmapped ports", tc.unmapped, got.UnmappedPorts)
			diff(t, "problem", tc.problem, got.Problem)
		})
	}
}

func TestTargetsOf(t *testing.T) {
	renamed := newPod("b", nil, func(pod *corev1.Pod) { pod.Spec.Containers[0].Ports[0].ContainerPort = 9090 })
	udp := newPod("c", nil, func(pod *corev1.Pod) {
		pod.Spec.Containers[0].Ports = []corev1.ContainerPort{{Name: "http", ContainerPort: 1, Protocol: corev1.ProtocolUDP}}
	})
	pods := []*corev1.Pod{newPod("a", nil), renamed, udp}
	for name, tc := range map[string]struct {
		port corev1.ServicePort
		want []int32
	}{
		"number":               {port(80, 8080), []int32{8080}},
		"none is the same":     {corev1.ServicePort{Port: 80}, []int32{80}},
		"name":                 {port(80, "http"), []int32{8080, 9090}},
		"name that nobody has": {port(80, "grpc"), nil},
	} {
		t.Run(name, func(t *testing.T) {
			diff(t, "targets", tc.want, targetsOf(tc.port, pods))
		})
	}
	service := newService("web", nil, port(80, "http"), port(81, 9090))
	diff(t, "ports", []facts.ServicePort{
		{Name: "http-80", Port: 80, TargetPort: 8080, OtherTargets: []int32{9090}}, {Name: "http-81", Port: 81, TargetPort: 9090},
	}, describePorts(service, pods))
}
