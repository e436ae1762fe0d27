//go:build linux

package node

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestExpand(t *testing.T) {
	env := map[string]string{"A": "1", "EMPTY": ""}
	tests := map[string]struct{ text, want string }{
		"a variable":              {"x$(A)y", "x1y"},
		"an empty one":            {"x$(EMPTY)y", "xy"},
		"an unknown one stays":    {"$(B)", "$(B)"},
		"escaped":                 {"$$(A)", "$(A)"},
		"a dollar stays":          {"$A $", "$A $"},
		"an open bracket stays":   {"$(A", "$(A"},
		"two":                     {"$(A)$(A)", "11"},
		"escaped before variable": {"$$$(A)", "$1"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := expand(tc.text, env); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestField(t *testing.T) {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: "p", Namespace: "n", UID: "u", Labels: map[string]string{"b": "2", "a": `1"`}, Annotations: map[string]string{"istio.io/rev": "default"},
		},
		Spec:   corev1.PodSpec{NodeName: "node1", ServiceAccountName: "sa"},
		Status: corev1.PodStatus{PodIP: "10.0.0.1", HostIP: "10.0.0.2"},
	}
	tests := map[string]struct {
		want    string
		wantErr bool
	}{
		"metadata.name":                          {want: "p"},
		"metadata.namespace":                     {want: "n"},
		"metadata.uid":                           {want: "u"},
		"metadata.labels['b']":                   {want: "2"},
		"metadata.labels['missing']":             {want: ""},
		"metadata.annotations['istio.io/rev']":   {want: "default"},
		"metadata.labels":                        {want: "a=\"1\\\"\"\nb=\"2\""},
		"spec.nodeName":                          {want: "node1"},
		"spec.serviceAccountName":                {want: "sa"},
		"status.podIP":                           {want: "10.0.0.1"},
		"status.hostIP":                          {want: "10.0.0.2"},
		"status.phase":                           {wantErr: true},
		"spec.tolerations['no such thing here']": {wantErr: true},
	}
	for path, tc := range tests {
		t.Run(path, func(t *testing.T) {
			got, err := field(pod, path)
			if (err != nil) != tc.wantErr || got != tc.want {
				t.Errorf("got %q and %v, want %q", got, err, tc.want)
			}
		})
	}
}

func TestResourceField(t *testing.T) {
	c := &corev1.Container{Resources: corev1.ResourceRequirements{
		Limits:   corev1.ResourceList{"cpu": resource.MustParse("1500m"), "memory": resource.MustParse("1Gi")},
		Requests: corev1.ResourceList{"cpu": resource.MustParse("100m")},
	}}
	tests := map[string]struct{ resource, divisor, want string }{
		"rounded up":                  {"limits.cpu", "", "2"},
		"in thousandths":              {"limits.cpu", "1m", "1500"},
		"memory in bytes":             {"limits.memory", "", "1073741824"},
		"memory in mebibytes":         {"limits.memory", "1Mi", "1024"},
		"a request":                   {"requests.cpu", "1m", "100"},
		"without one, what there is":  {"requests.memory", "1Gi", "256"},
		"the API server's zero means": {"requests.cpu", "0", "1"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			ref := &corev1.ResourceFieldSelector{Resource: tc.resource}
			if tc.divisor != "" {
				ref.Divisor = resource.MustParse(tc.divisor)
			}
			got, err := resourceField(c, ref)
			if err != nil || got != tc.want {
				t.Errorf("got %q and %v, want %q", got, err, tc.want)
			}
		})
	}
}
