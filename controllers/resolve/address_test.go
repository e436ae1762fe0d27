package resolve

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/servicesecurity/operator/controllers/facts"
)

// addressed is a pod as the cache has it.
func addressed(t *testing.T, name, address string, created metav1.Time, edits ...func(*corev1.Pod)) *corev1.Pod {
	t.Helper()
	pod := newPod(name, nil, edits...)
	pod.CreationTimestamp, pod.Status.PodIP, pod.Status.PodIPs = created, address, append([]corev1.PodIP{{IP: address}}, pod.Status.PodIPs...)
	trimmed, err := TrimPod(pod)
	if err != nil {
		t.Fatal(err)
	}
	return trimmed.(*corev1.Pod)
}

func completed(when metav1.Time) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		pod.Status.Phase = corev1.PodSucceeded
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse, LastTransitionTime: when}}
	}
}

func newDirectory(t *testing.T, pods ...client.Object) Directory {
	t.Helper()
	builder := fake.NewClientBuilder().WithScheme(scheme(t)).WithObjects(pods...)
	if err := IndexAddresses(t.Context(), builderIndexer{builder}); err != nil {
		t.Fatal(err)
	}
	return Directory{Reader: builder.Build()}
}

func TestDirectoryAt(t *testing.T) {
	t.Parallel()
	onHost := func(pod *corev1.Pod) { pod.Spec.HostNetwork = true }
	dual := func(pod *corev1.Pod) { pod.Status.PodIPs = []corev1.PodIP{{IP: "2001:db8::1"}} }
	for name, tc := range map[string]struct {
		pods    []client.Object
		address string
		at      time.Time
		want    string
	}{
		"the pod with the address":          {pods: []client.Object{addressed(t, "a", "10.0.0.1", at(0))}, want: "a"},
		"its other address":                 {pods: []client.Object{addressed(t, "a", "10.0.0.1", at(0), dual)}, address: "2001:db8::1", want: "a"},
		"an address that no pod has":        {pods: []client.Object{addressed(t, "a", "10.0.0.2", at(0))}},
		"a node's":                          {pods: []client.Object{addressed(t, "a", "10.0.0.1", at(0), onHost)}},
		"a pod that came later":             {pods: []client.Object{addressed(t, "a", "10.0.0.1", at(6))}},
		"the newer of two":                  {pods: []client.Object{addressed(t, "a", "10.0.0.1", at(0), completed(at(9))), addressed(t, "b", "10.0.0.1", at(1))}, want: "b"},
		"one that came before the newer":    {pods: []client.Object{addressed(t, "a", "10.0.0.1", at(0), completed(at(5))), addressed(t, "b", "10.0.0.1", at(6))}, want: "a"},
		"a job that ended a moment ago":     {pods: []client.Object{addressed(t, "a", "10.0.0.1", at(0), completed(metav1.NewTime(at(5).Add(-finishedSlack))))}, want: "a"},
		"a job that ended some time ago":    {pods: []client.Object{addressed(t, "a", "10.0.0.1", at(0), completed(metav1.NewTime(at(5).Add(-finishedSlack-time.Second))))}},
		"a job that was never made ready":   {pods: []client.Object{addressed(t, "a", "10.0.0.1", at(0), func(pod *corev1.Pod) { pod.Status.Phase, pod.Status.Conditions = corev1.PodFailed, nil })}},
		"a pod that has no address of late": {pods: []client.Object{addressed(t, "a", "", at(0))}, address: ""},
	} {
		address := tc.address
		if address == "" {
			address = "10.0.0.1"
		}
		got, ok := newDirectory(t, tc.pods...).At(t.Context(), address, at(5).Time)
		if got.Name != tc.want || ok != (tc.want != "") {
			t.Errorf("%s: %q, want %q", name, got.Name, tc.want)
		}
	}
}

func TestDirectoryNamed(t *testing.T) {
	t.Parallel()
	account := func(pod *corev1.Pod) { pod.Spec.ServiceAccountName = "httpbin" }
	d := newDirectory(t,
		addressed(t, "a", "10.0.0.1", at(0), account), addressed(t, "b", "10.0.0.2", at(0)),
		addressed(t, "c", "10.1.0.1", at(0), func(pod *corev1.Pod) { pod.Spec.HostNetwork = true }),
	)
	want := map[string]facts.Identity{
		"a": {Namespace: "foo", Name: "a", UID: "uid-a", Address: "10.0.0.1", ServiceAccount: "httpbin", Workload: "web"},
		"b": {Namespace: "foo", Name: "b", UID: "uid-b", Address: "10.0.0.2", ServiceAccount: "default", Workload: "web"},
		"c": {Namespace: "foo", Name: "c", UID: "uid-c", ServiceAccount: "default", Workload: "web"},
		"d": {},
	}
	for name, identity := range want {
		if got, ok := d.Named(t.Context(), "foo", name); got != identity || ok != (identity != facts.Identity{}) {
			t.Errorf("%s: %+v, want %+v", name, got, identity)
		}
	}
	if got, ok := d.Named(t.Context(), "bar", "a"); ok {
		t.Errorf("another namespace has %+v", got)
	}
}
