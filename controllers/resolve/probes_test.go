package resolve

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func httpProbe(path string, port any, edits ...func(*corev1.HTTPGetAction)) *corev1.Probe {
	get := &corev1.HTTPGetAction{Path: path}
	switch port := port.(type) {
	case int:
		get.Port = intstr.FromInt(port)
	case string:
		get.Port = intstr.FromString(port)
	}
	for _, edit := range edits {
		edit(get)
	}
	return &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: get}}
}

func tcpProbe(port int, host string) *corev1.Probe {
	return &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt(port), Host: host}}}
}

// app edits the application's container.
func app(edit func(*corev1.Container)) func(*corev1.Pod) {
	return func(pod *corev1.Pod) { edit(&pod.Spec.Containers[0]) }
}

func ready8080(c *corev1.Container) { c.ReadinessProbe = httpProbe("/healthz", 8080) }

func TestUnrewrittenProbes(t *testing.T) {
	everyPort := func(int32) bool { return true }
	restarts := corev1.ContainerRestartPolicyAlways
	helper := func(policy *corev1.ContainerRestartPolicy) func(*corev1.Pod) {
		return func(pod *corev1.Pod) {
			pod.Spec.InitContainers = append(pod.Spec.InitContainers, corev1.Container{
				Name: "helper", RestartPolicy: policy, StartupProbe: tcpProbe(9000, ""),
			})
		}
	}
	for name, tc := range map[string]struct {
		edits  []func(*corev1.Pod)
		strict func(int32) bool
		want   []string
	}{
		"none":                            {},
		"HTTP":                            {edits: []func(*corev1.Pod){app(ready8080)}, want: []string{"app"}},
		"HTTP, by name":                   {edits: []func(*corev1.Pod){app(func(c *corev1.Container) { c.LivenessProbe = httpProbe("/", "http") })}, want: []string{"app"}},
		"HTTP, by a name that is nowhere": {edits: []func(*corev1.Pod){app(func(c *corev1.Container) { c.LivenessProbe = httpProbe("/", "admin") })}},
		"HTTPS": {edits: []func(*corev1.Pod){app(func(c *corev1.Container) {
			c.LivenessProbe = httpProbe("/", 8080, func(get *corev1.HTTPGetAction) { get.Scheme = corev1.URISchemeHTTPS })
		})}, want: []string{"app"}},
		"TCP": {edits: []func(*corev1.Pod){app(func(c *corev1.Container) { c.StartupProbe = tcpProbe(8080, "") })}, want: []string{"app"}},
		"gRPC": {edits: []func(*corev1.Pod){app(func(c *corev1.Container) {
			c.LivenessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: 8080}}}
		})}, want: []string{"app"}},
		"exec": {edits: []func(*corev1.Pod){app(func(c *corev1.Container) {
			c.LivenessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}}}
		})}},
		"a hook": {edits: []func(*corev1.Pod){app(func(c *corev1.Container) {
			c.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt(8080)}}}
		})}, want: []string{"app"}},
		"a hook that is rewritten, and one that executes": {edits: []func(*corev1.Pod){app(func(c *corev1.Container) {
			c.Lifecycle = &corev1.Lifecycle{
				PreStop:   &corev1.LifecycleHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/app-lifecycle/app/prestopz", Port: intstr.FromInt(15020)}},
				PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{}},
			}
		})}},
		"all five, each to a port of its own": {edits: []func(*corev1.Pod){app(func(c *corev1.Container) {
			c.LivenessProbe, c.ReadinessProbe, c.StartupProbe = tcpProbe(1, ""), tcpProbe(2, ""), tcpProbe(3, "")
			c.Lifecycle = &corev1.Lifecycle{
				PostStart: &corev1.LifecycleHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt(4)}},
				PreStop:   &corev1.LifecycleHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt(5)}},
			}
		})}, strict: func(port int32) bool { return port == 5 }, want: []string{"app"}},
		"rewritten":                       {edits: []func(*corev1.Pod){app(func(c *corev1.Container) { c.ReadinessProbe = httpProbe("/app-health/app/readyz", 15020) })}},
		"rewritten, another status port":  {edits: []func(*corev1.Pod){app(func(c *corev1.Container) { c.ReadinessProbe = httpProbe("/app-health/app/readyz", 16020) })}},
		"the proxy's own port":            {edits: []func(*corev1.Pod){app(func(c *corev1.Container) { c.ReadinessProbe = httpProbe("/healthz/ready", 15021) })}},
		"the proxy's port by annotation":  {edits: []func(*corev1.Pod){annotate(annotationStatusPort, "16020"), app(func(c *corev1.Container) { c.ReadinessProbe = httpProbe("/", 16020) })}},
		"an excluded port":                {edits: []func(*corev1.Pod){annotate(annotationExclude, "8080"), app(ready8080)}},
		"a port that is not included":     {edits: []func(*corev1.Pod){annotate(annotationInclude, "9090"), app(ready8080)}},
		"an included port":                {edits: []func(*corev1.Pod){annotate(annotationInclude, "8080"), app(ready8080)}, want: []string{"app"}},
		"a port excepted from STRICT":     {edits: []func(*corev1.Pod){app(ready8080)}, strict: func(port int32) bool { return port != 8080 }},
		"a host of its own":               {edits: []func(*corev1.Pod){app(func(c *corev1.Container) { c.LivenessProbe = tcpProbe(8080, "127.0.0.1") })}},
		"of the proxy":                    {edits: []func(*corev1.Pod){func(p *corev1.Pod) { p.Spec.Containers[1].ReadinessProbe = httpProbe("/", 8080) }}},
		"a native sidecar's":              {edits: []func(*corev1.Pod){helper(&restarts)}, want: []string{"helper"}},
		"an init container's":             {edits: []func(*corev1.Pod){helper(nil)}},
		"two containers":                  {edits: []func(*corev1.Pod){helper(&restarts), app(ready8080)}, want: []string{"app", "helper"}},
		"a pod on the host's network":     {edits: []func(*corev1.Pod){app(ready8080), func(p *corev1.Pod) { p.Spec.HostNetwork = true }}},
		"a pod without a sidecar":         {edits: []func(*corev1.Pod){app(ready8080), withoutSidecar}},
		"a gateway, whose proxy is asked": {edits: []func(*corev1.Pod){router, func(p *corev1.Pod) { p.Spec.Containers[0].ReadinessProbe = httpProbe("/", 8080) }}},
	} {
		t.Run(name, func(t *testing.T) {
			strict := tc.strict
			if strict == nil {
				strict = everyPort
			}
			pod := newPod("a", nil, tc.edits...)
			diff(t, "containers", tc.want, unrewrittenProbes(pod, strict))
			trimmed, err := TrimPod(pod)
			if err != nil {
				t.Fatal(err)
			}
			diff(t, "containers of the trimmed pod", tc.want, unrewrittenProbes(trimmed.(*corev1.Pod), strict))
			again, err := TrimPod(trimmed)
			if err != nil {
				t.Fatal(err)
			}
			diff(t, "pod that is trimmed twice", trimmed, again)
		})
	}
}

func TestTrimProbes(t *testing.T) {
	pod := newPod("a", nil, app(func(c *corev1.Container) {
		c.ReadinessProbe = httpProbe("/app-health/app/readyz", 15020)
		c.LivenessProbe = httpProbe("/app-health/app/livez", 15020)
		c.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{
			HTTPGet: &corev1.HTTPGetAction{Path: "/app-lifecycle/app/prestopz", Port: intstr.FromInt(15020)},
		}}
	}))
	trimmed, err := TrimPod(pod)
	if err != nil {
		t.Fatal(err)
	}
	if got := trimmed.(*corev1.Pod).Spec.Containers[0]; got.ReadinessProbe != nil || got.LivenessProbe != nil || got.Lifecycle != nil {
		t.Errorf("the cache keeps rewritten probes: %v", got)
	}
}
