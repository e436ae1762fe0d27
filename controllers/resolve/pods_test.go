package resolve

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

func annotate(key, value string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		if pod.Annotations == nil {
			pod.Annotations = map[string]string{}
		}
		pod.Annotations[key] = value
	}
}

func proxyEnv(name, value string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		pod.Spec.Containers[1].Env = append(pod.Spec.Containers[1].Env, corev1.EnvVar{Name: name, Value: value})
	}
}

func native(pod *corev1.Pod) {
	pod.Spec.InitContainers = []corev1.Container{{Name: proxyContainer, RestartPolicy: new(corev1.ContainerRestartPolicyAlways)}}
	pod.Spec.Containers = pod.Spec.Containers[:1]
	pod.Status.InitContainerStatuses = pod.Status.ContainerStatuses
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "app", RestartCount: 7}}
}

func TestMembership(t *testing.T) {
	for name, tc := range map[string]struct {
		edits []func(*corev1.Pod)
		want  facts.Membership
	}{
		"sidecar":                               {nil, facts.MemberSidecar},
		"native sidecar":                        {[]func(*corev1.Pod){native}, facts.MemberSidecar},
		"no sidecar":                            {[]func(*corev1.Pod){withoutSidecar}, facts.MemberNone},
		"injection asked for, not done":         {[]func(*corev1.Pod){withoutSidecar, func(p *corev1.Pod) { p.Labels["sidecar.istio.io/inject"] = "true" }}, facts.MemberNone},
		"host network":                          {[]func(*corev1.Pod){withoutSidecar, func(p *corev1.Pod) { p.Spec.HostNetwork = true }}, facts.MemberNone},
		"host network, proxy by hand":           {[]func(*corev1.Pod){func(p *corev1.Pod) { p.Spec.HostNetwork = true }}, facts.MemberNone},
		"ambient":                               {[]func(*corev1.Pod){withoutSidecar, annotate(annotationAmbient, "enabled")}, facts.MemberAmbient},
		"ambient turned off":                    {[]func(*corev1.Pod){withoutSidecar, annotate(annotationAmbient, "disabled")}, facts.MemberNone},
		"sidecar in an ambient namespace":       {[]func(*corev1.Pod){annotate(annotationAmbient, "enabled")}, facts.MemberSidecar},
		"grpc-agent by template":                {[]func(*corev1.Pod){annotate(annotationTemplates, "sidecar, grpc-agent")}, facts.MemberProxyless},
		"grpc-agent by environment":             {[]func(*corev1.Pod){proxyEnv(envGenerator, "grpc")}, facts.MemberProxyless},
		"grpc-simple":                           {[]func(*corev1.Pod){withoutSidecar, annotate(annotationStatus, "{}"), annotate(annotationTemplates, "grpc-simple")}, facts.MemberProxyless},
		"grpc-simple asked for, not injected":   {[]func(*corev1.Pod){withoutSidecar, annotate(annotationTemplates, "grpc-simple")}, facts.MemberNone},
		"another template":                      {[]func(*corev1.Pod){annotate(annotationTemplates, "sidecar,custom-grpc-agent")}, facts.MemberSidecar},
		"tlsMode disabled":                      {[]func(*corev1.Pod){func(p *corev1.Pod) { p.Labels[labelTLSMode] = "disabled" }}, facts.MemberTLSDisabled},
		"tlsMode missing":                       {[]func(*corev1.Pod){func(p *corev1.Pod) { delete(p.Labels, labelTLSMode) }}, facts.MemberTLSDisabled},
		"interception NONE by annotation":       {[]func(*corev1.Pod){annotate(annotationInterception, "NONE")}, facts.MemberNoInterception},
		"interception NONE by mesh default":     {[]func(*corev1.Pod){proxyEnv(envInterception, "NONE")}, facts.MemberNoInterception},
		"interception TPROXY":                   {[]func(*corev1.Pod){annotate(annotationInterception, "TPROXY")}, facts.MemberSidecar},
		"annotation changed after injection":    {[]func(*corev1.Pod){annotate(annotationInterception, "NONE"), proxyEnv(envInterception, "REDIRECT")}, facts.MemberSidecar},
		"interception says more than the label": {[]func(*corev1.Pod){proxyEnv(envInterception, "NONE"), func(p *corev1.Pod) { delete(p.Labels, labelTLSMode) }}, facts.MemberNoInterception},
	} {
		t.Run(name, func(t *testing.T) {
			pod := newPod("p", nil, tc.edits...)
			if got := membership(pod); got != tc.want {
				t.Errorf("membership is %s, want %s", got, tc.want)
			}
			trimmed, err := TrimPod(pod)
			if err != nil {
				t.Fatal(err)
			}
			if got := membership(trimmed.(*corev1.Pod)); got != tc.want {
				t.Errorf("membership of the trimmed pod is %s, want %s", got, tc.want)
			}
		})
	}
}

func initArgs(args ...string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		pod.Spec.InitContainers = append(pod.Spec.InitContainers, corev1.Container{Name: "other", Args: []string{"-b", "1"}},
			corev1.Container{Name: initContainer, Args: args})
	}
}

func TestStatsEviction(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"": 0, "1h": time.Hour, "90s": 90 * time.Second, "often": time.Nanosecond, "0s": time.Nanosecond, "-1m": time.Nanosecond,
	} {
		pod, err := TrimPod(newPod("p", nil, annotate(annotationEviction, text)))
		if err != nil {
			t.Fatal(err)
		}
		if got := statsEviction(pod.(*corev1.Pod)); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

func TestExcludedPorts(t *testing.T) {
	// The pod declares 8080, a Service maps 9090 too.
	served := []int32{9090, 8080}
	for name, tc := range map[string]struct {
		edits  []func(*corev1.Pod)
		served []int32
		want   []string
	}{
		"nothing said":                  {nil, served, nil},
		"no sidecar":                    {[]func(*corev1.Pod){withoutSidecar, annotate(annotationExclude, "8080")}, served, nil},
		"declared port":                 {[]func(*corev1.Pod){annotate(annotationExclude, "8080")}, nil, []string{"8080"}},
		"served port":                   {[]func(*corev1.Pod){annotate(annotationExclude, " 9090, 8080 ")}, served, []string{"8080", "9090"}},
		"port that nobody knows":        {[]func(*corev1.Pod){annotate(annotationExclude, "7777")}, served, nil},
		"Istio's own ports":             {[]func(*corev1.Pod){annotate(annotationExclude, "15020,15021,15090")}, []int32{15020, 15021, 15090}, nil},
		"status port moved":             {[]func(*corev1.Pod){annotate(annotationStatusPort, "9090"), annotate(annotationExclude, "9090")}, served, nil},
		"garbage":                       {[]func(*corev1.Pod){annotate(annotationExclude, "x,,-1,70000,8080a")}, served, nil},
		"include all":                   {[]func(*corev1.Pod){annotate(annotationInclude, "*")}, served, nil},
		"include one":                   {[]func(*corev1.Pod){annotate(annotationInclude, "8080")}, served, []string{"9090"}},
		"include both":                  {[]func(*corev1.Pod){annotate(annotationInclude, "8080,9090")}, served, nil},
		"include none":                  {[]func(*corev1.Pod){annotate(annotationInclude, "")}, served, []string{"8080", "9090"}},
		"include none, none declared":   {[]func(*corev1.Pod){annotate(annotationInclude, ""), func(p *corev1.Pod) { p.Spec.Containers[0].Ports = nil }}, nil, []string{"*"}},
		"exclude counts only under *":   {[]func(*corev1.Pod){annotate(annotationInclude, "8080"), annotate(annotationExclude, "8080")}, nil, nil},
		"mesh default by istio-init":    {[]func(*corev1.Pod){initArgs("-p", "15001", "-b", "*", "-d", "15090,15021,8080")}, served, []string{"8080"}},
		"include default by istio-init": {[]func(*corev1.Pod){initArgs("-b", "8080", "-d")}, served, []string{"9090"}},
		"annotation over istio-init":    {[]func(*corev1.Pod){initArgs("-b", "*", "-d", "8080"), annotate(annotationExclude, "")}, served, nil},
		"UDP port":                      {[]func(*corev1.Pod){annotate(annotationExclude, "8080"), func(p *corev1.Pod) { p.Spec.Containers[0].Ports[0].Protocol = corev1.ProtocolUDP }}, nil, nil},
		"port of a native helper": {[]func(*corev1.Pod){annotate(annotationExclude, "6000,6001"), func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{
				{Name: "helper", RestartPolicy: new(corev1.ContainerRestartPolicyAlways), Ports: []corev1.ContainerPort{{ContainerPort: 6000}}},
				{Name: "once", Ports: []corev1.ContainerPort{{ContainerPort: 6001}}},
			}
		}}, nil, []string{"6000"}},
	} {
		t.Run(name, func(t *testing.T) {
			pod := newPod("p", nil, tc.edits...)
			diff(t, "excluded ports", tc.want, excludedPorts(pod, tc.served, anyPort))
			trimmed, _ := TrimPod(pod)
			diff(t, "excluded ports of the trimmed pod", tc.want, excludedPorts(trimmed.(*corev1.Pod), tc.served, anyPort))
		})
	}
}

// TestExcludedStrict: a port that is excepted may bypass the proxy, since nothing is asked of it.
func TestExcludedStrict(t *testing.T) {
	web := tags{"app": "web"}
	on := func(port int32, mode v1alpha1.Mode) v1alpha1.PortMTLS {
		return v1alpha1.PortMTLS{Port: port, Mode: mode}
	}
	for name, tc := range map[string]struct {
		profile *v1alpha1.ServiceSecurityProfile
		edits   []func(*corev1.Pod)
		want    []string
	}{
		"nothing excepted":          {newProfile("p", 0, toService("web"), strict), []func(*corev1.Pod){annotate(annotationExclude, "8080,9102")}, []string{"8080", "9102"}},
		"excepted":                  {newProfile("p", 0, toService("web"), strict, on(9102, permissive)), []func(*corev1.Pod){annotate(annotationExclude, "9102")}, nil},
		"another one is excepted":   {newProfile("p", 0, toService("web"), strict, on(9102, disabled)), []func(*corev1.Pod){annotate(annotationExclude, "8080,9102")}, []string{"8080"}},
		"the one that is STRICT":    {newProfile("p", 0, toService("web"), permissive, on(8080, strict)), []func(*corev1.Pod){annotate(annotationExclude, "8080,9102")}, []string{"8080"}},
		"none is STRICT":            {newProfile("p", 0, toService("web"), permissive), []func(*corev1.Pod){annotate(annotationInclude, "")}, nil},
		"all, of which some are":    {newProfile("p", 0, toService("web"), strict, on(9102, permissive)), []func(*corev1.Pod){annotate(annotationInclude, "")}, []string{"8080"}},
		"all, and those are others": {newProfile("p", 0, toService("web"), strict, on(8080, permissive), on(9102, permissive)), []func(*corev1.Pod){annotate(annotationInclude, "")}, []string{"*"}},
	} {
		t.Run(name, func(t *testing.T) {
			pod := newPod("web-a", web, tc.edits...)
			got := mustResolve(t, cluster(t, newService("web", web, port(80, 8080), port(9102, 9102)), pod), tc.profile).Pods
			if len(got) != 1 {
				t.Fatalf("%d pods", len(got))
			}
			diff(t, "excluded ports that are to be STRICT", tc.want, got[0].ExcludedStrict)
		})
	}
}

func TestWorkloadName(t *testing.T) {
	injectedAs := func(variable corev1.EnvVar) func(*corev1.Pod) {
		return func(pod *corev1.Pod) {
			variable.Name = "ISTIO_META_WORKLOAD_NAME"
			pod.Spec.Containers[1].Env = append(pod.Spec.Containers[1].Env, variable)
		}
	}
	owner := func(kind, name string) func(*corev1.Pod) {
		return func(pod *corev1.Pod) {
			pod.OwnerReferences = []metav1.OwnerReference{
				{Kind: "Node", Name: "not-the-controller"}, {Kind: kind, Name: name, Controller: new(true)},
			}
		}
	}
	for name, tc := range map[string]struct {
		set   tags
		edits []func(*corev1.Pod)
		want  string
	}{
		"Deployment":                  {nil, []func(*corev1.Pod){owner("ReplicaSet", "web-h1")}, "web"},
		"ReplicaSet of its own":       {nil, []func(*corev1.Pod){owner("ReplicaSet", "web")}, "web"},
		"Argo Rollout":                {tags{labelTemplateHash: "", labelRolloutHash: "r1"}, []func(*corev1.Pod){owner("ReplicaSet", "web-r1")}, "web"},
		"DeploymentConfig":            {tags{"deploymentconfig": "shop"}, []func(*corev1.Pod){owner("ReplicationController", "shop-3")}, "shop"},
		"ReplicationController":       {nil, []func(*corev1.Pod){owner("ReplicationController", "shop-3")}, "shop-3"},
		"StatefulSet":                 {nil, []func(*corev1.Pod){owner("StatefulSet", "db")}, "db"},
		"DaemonSet":                   {nil, []func(*corev1.Pod){owner("DaemonSet", "agent")}, "agent"},
		"CronJob":                     {nil, []func(*corev1.Pod){owner("Job", "report-27812345")}, "report"},
		"Job":                         {nil, []func(*corev1.Pod){owner("Job", "migrate-2")}, "migrate-2"},
		"no controller":               {nil, []func(*corev1.Pod){func(p *corev1.Pod) { p.OwnerReferences = nil }}, "p"},
		"controller, name not made":   {nil, []func(*corev1.Pod){owner("StatefulSet", "db"), func(p *corev1.Pod) { p.GenerateName = "" }}, "p"},
		"label over everything":       {tags{labelWorkloadName: "canary"}, nil, "canary"},
		"hash that is not the suffix": {tags{labelTemplateHash: "zz"}, []func(*corev1.Pod){owner("ReplicaSet", "web-h1")}, "web-h1"},
		"as it was injected":          {tags{labelWorkloadName: "shop"}, []func(*corev1.Pod){injectedAs(corev1.EnvVar{Value: "web-2"})}, "web-2"},
		"from elsewhere":              {tags{labelWorkloadName: "shop"}, []func(*corev1.Pod){injectedAs(corev1.EnvVar{ValueFrom: &corev1.EnvVarSource{}})}, "shop"},
		"without a sidecar":           {tags{labelWorkloadName: "shop"}, []func(*corev1.Pod){withoutSidecar}, "shop"},
	} {
		t.Run(name, func(t *testing.T) {
			pod := newPod("p", tc.set, tc.edits...)
			trimmed, _ := TrimPod(pod)
			for _, one := range []*corev1.Pod{pod, trimmed.(*corev1.Pod)} {
				if got := workloadName(one); got != tc.want {
					t.Errorf("workload is %q, want %q", got, tc.want)
				}
			}
		})
	}
}

func TestRollingOut(t *testing.T) {
	revision := func(hash string) func(*corev1.Pod) {
		return func(pod *corev1.Pod) {
			pod.Labels[labelTemplateHash] = hash
			pod.OwnerReferences[0].Name = "web-" + hash
		}
	}
	noAddress := func(pod *corev1.Pod) { pod.Status.PodIP = "" }
	statefulSet := func(hash string) func(*corev1.Pod) {
		return func(pod *corev1.Pod) {
			pod.Labels = tags{labelRevisionHash: hash}
			pod.OwnerReferences[0].Kind, pod.OwnerReferences[0].Name = "StatefulSet", "db"
		}
	}
	for name, tc := range map[string]struct {
		pods []*corev1.Pod
		want []string
	}{
		"no pods":         {nil, nil},
		"no revision":     {[]*corev1.Pod{newPod("a", nil, func(pod *corev1.Pod) { delete(pod.Labels, labelTemplateHash) })}, nil},
		"one revision":    {[]*corev1.Pod{newPod("a", nil), newPod("b", nil)}, nil},
		"two revisions":   {[]*corev1.Pod{newPod("a", nil), newPod("b", nil, revision("h2")), newPod("c", nil, revision("h2"))}, []string{"web"}},
		"without address": {[]*corev1.Pod{newPod("a", nil), newPod("b", nil, noAddress)}, []string{"web"}},
		"StatefulSet":     {[]*corev1.Pod{newPod("a", nil, statefulSet("1")), newPod("b", nil, statefulSet("2"))}, []string{"db"}},
		"both, in order":  {[]*corev1.Pod{newPod("a", nil), newPod("b", nil, revision("h2")), newPod("c", nil, statefulSet("1"), noAddress)}, []string{"db", "web"}},
		"one name, two Deployments": {[]*corev1.Pod{
			newPod("a", tags{labelWorkloadName: "web"}), newPod("b", tags{labelWorkloadName: "web"}, func(pod *corev1.Pod) {
				pod.Labels[labelTemplateHash] = "c1"
				pod.OwnerReferences[0].Name = "canary-c1"
			}),
		}, nil},
	} {
		t.Run(name, func(t *testing.T) { diff(t, "rolling out", tc.want, rollingOut(tc.pods, false)) })
	}
}

func TestDescribePod(t *testing.T) {
	pod := newPod("web-h1-a", nil, func(pod *corev1.Pod) {
		now := at(5)
		pod.DeletionTimestamp = &now
	})
	want := facts.Pod{
		Namespace: "foo", Name: "web-h1-a", UID: "uid-web-h1-a", IP: "10.0.0.1", Workload: "web", Created: epoch,
		Restarts: 2, Ready: true, Terminating: true, Membership: facts.MemberSidecar,
	}
	diff(t, "pod", want, describePod(pod, nil))
	trimmed, _ := TrimPod(pod)
	diff(t, "trimmed pod", want, describePod(trimmed.(*corev1.Pod), nil))

	asInit := newPod("web-h1-a", nil, native, func(pod *corev1.Pod) { pod.Status.Conditions = nil })
	want.Terminating, want.Ready = false, false
	diff(t, "pod with a native sidecar", want, describePod(asInit, nil))
	trimmed, _ = TrimPod(asInit)
	diff(t, "trimmed pod with a native sidecar", want, describePod(trimmed.(*corev1.Pod), nil))

	want.Restarts = 0
	asInit.Status.InitContainerStatuses = nil
	diff(t, "pod before its containers started", want, describePod(asInit, nil))
}

func TestTrimPod(t *testing.T) {
	pod := newPod("p", nil, annotate("kubectl.kubernetes.io/last-applied-configuration", "long"), annotate(annotationStatus, "long"),
		initArgs("-b", "*"), proxyEnv("PROXY_CONFIG", "long"), proxyEnv(envGenerator, "grpc"))
	pod.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "x"}}
	pod.Spec.Containers[0].Image, pod.Spec.NodeName = "app:1", "node"
	pod.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "SECRET", Value: "x"}}
	pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: corev1.PodScheduled})

	got, err := TrimPod(pod)
	if err != nil {
		t.Fatal(err)
	}
	want := newPod("p", nil, annotate(annotationStatus, ""), proxyEnv(envGenerator, "grpc"))
	want.Spec.InitContainers = []corev1.Container{{Name: "other"}, {Name: initContainer, Args: []string{"-b", "*"}}}
	diff(t, "trimmed pod", any(want), got)

	other := newService("s", nil)
	if got, err := TrimPod(other); err != nil || got != any(other) {
		t.Errorf("TrimPod of a Service is %v, %v, want it as it was", got, err)
	}
}
