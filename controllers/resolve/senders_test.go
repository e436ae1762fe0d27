package resolve

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/servicesecurity/operator/controllers/facts"
)

func TestSenders(t *testing.T) {
	runs := func(account string) func(*corev1.Pod) {
		return func(pod *corev1.Pod) { pod.Spec.ServiceAccountName = account }
	}
	in := func(namespace string) func(*corev1.Pod) {
		return func(pod *corev1.Pod) { pod.Namespace = namespace }
	}
	r := cluster(t,
		newPod("b", nil, runs("web")), newPod("a", nil, runs("web")),
		newPod("router", nil, runs("web"), router),
		newPod("unlabelled", tags{labelTLSMode: "disabled"}, runs("web")),
		newPod("outside", nil, runs("web"), withoutSidecar),
		newPod("waypoint", nil, runs("web"), waypoint),
		newPod("done", nil, runs("web"), func(pod *corev1.Pod) { pod.Status.Phase = corev1.PodSucceeded }),
		newPod("nameless", nil), newPod("other", nil, runs("api")),
		newPod("elsewhere", nil, runs("web"), in("bar")),
	)
	for name, tc := range map[string]struct {
		namespace, account string
		want               []string
	}{
		"by account":  {"foo", "web", []string{"a", "b", "router", "unlabelled"}},
		"another":     {"foo", "api", []string{"other"}},
		"the default": {"foo", "default", []string{"nameless"}},
		"elsewhere":   {"bar", "web", []string{"elsewhere"}},
		"nobody":      {"foo", "nobody", nil},
	} {
		t.Run(name, func(t *testing.T) {
			pods, err := r.Senders(t.Context(), tc.namespace, tc.account)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, pod := range pods {
				got = append(got, pod.Name)
			}
			diff(t, "senders", tc.want, got)
			if len(pods) > 0 {
				diff(t, "workload and address", facts.Pod{Workload: "web", IP: "10.0.0.1"}, facts.Pod{Workload: pods[0].Workload, IP: pods[0].IP})
			}
		})
	}
}

// The cache keeps what tells whose pod it is.
func TestTrimPodKeepsItsAccount(t *testing.T) {
	pod := newPod("p", nil)
	pod.Spec.ServiceAccountName = "web"
	trimmed, err := TrimPod(pod)
	if err != nil {
		t.Fatal(err)
	}
	diff(t, "service account", "web", account(trimmed.(*corev1.Pod)))
}
