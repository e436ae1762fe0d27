//go:build linux

package node

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

func TestFindImage(t *testing.T) {
	images := map[string]Image{
		"manager": {User: 1}, "example.com:5000/team/manager": {User: 2}, "example.com:5000/team/manager:v2": {User: 3},
	}
	tests := map[string]struct {
		name string
		want int64
	}{
		"by its last part":        {"ghcr.io/other/manager:v1", 1},
		"by its repository":       {"example.com:5000/team/manager:v1", 2},
		"by its whole name":       {"example.com:5000/team/manager:v2", 3},
		"with a digest":           {"example.com:5000/team/manager@sha256:00", 2},
		"with a tag and a digest": {"example.com:5000/team/manager:v1@sha256:00", 2},
		"bare":                    {"manager", 1},
		"unknown":                 {"example.com:5000/manager2", 0},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			image, ok := findImage(images, tc.name)
			if image.User != tc.want || ok != (tc.want != 0) {
				t.Errorf("got image %d, found %t, want %d", image.User, ok, tc.want)
			}
		})
	}
}

func TestCommandLine(t *testing.T) {
	image := Image{Command: []string{"/host/bin/manager", "fixed"}}
	tests := map[string]struct {
		command, args, want []string
	}{
		"the entry point":        {nil, nil, []string{"/host/bin/manager", "fixed"}},
		"with arguments":         {nil, []string{"$(A)"}, []string{"/host/bin/manager", "fixed", "1"}},
		"the same program":       {[]string{"/manager", "x"}, []string{"y"}, []string{"/host/bin/manager", "fixed", "x", "y"}},
		"a program of the host":  {[]string{"/bin/sleep", "$(A)"}, nil, []string{"/bin/sleep", "1"}},
		"one with arguments too": {[]string{"/bin/sleep"}, []string{"2"}, []string{"/bin/sleep", "2"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			c := &corev1.Container{Command: tc.command, Args: tc.args}
			got := commandLine(image, c, func(word string) string { return expand(word, map[string]string{"A": "1"}) })
			if !slices.Equal(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestUserOf(t *testing.T) {
	tests := map[string]struct {
		image            int64
		pod              *corev1.PodSecurityContext
		container        *corev1.SecurityContext
		wantUID, wantGID uint32
		wantErr          bool
	}{
		"the image's":             {image: 65532, wantUID: 65532},
		"the pod's":               {pod: &corev1.PodSecurityContext{RunAsUser: ptr.To[int64](5), RunAsGroup: ptr.To[int64](6)}, wantUID: 5, wantGID: 6},
		"the container's":         {pod: &corev1.PodSecurityContext{RunAsUser: ptr.To[int64](5)}, container: &corev1.SecurityContext{RunAsUser: ptr.To[int64](7)}, wantUID: 7},
		"root though it must not": {pod: &corev1.PodSecurityContext{RunAsNonRoot: ptr.To(true)}, wantErr: true},
		"the container may":       {pod: &corev1.PodSecurityContext{RunAsNonRoot: ptr.To(true)}, container: &corev1.SecurityContext{RunAsNonRoot: ptr.To(false)}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{Spec: corev1.PodSpec{SecurityContext: tc.pod}}
			uid, gid, err := userOf(Image{User: tc.image}, pod, &corev1.Container{SecurityContext: tc.container})
			if uid != tc.wantUID || gid != tc.wantGID || (err != nil) != tc.wantErr {
				t.Errorf("got %d:%d and %v, want %d:%d", uid, gid, err, tc.wantUID, tc.wantGID)
			}
		})
	}
}

func TestRender(t *testing.T) {
	all := []entry{
		{namespace: "bar", name: "db", addresses: []string{"10.244.0.2", "10.244.0.3"}},
		{namespace: "foo", name: "web", addresses: []string{"10.96.0.2"}},
		{namespace: "foo", name: "external"},
	}
	const want = "10.244.0.2 db.bar.svc.cluster.local db.bar.svc db.bar\n" +
		"10.244.0.3 db.bar.svc.cluster.local db.bar.svc db.bar\n" +
		"10.96.0.2 web.foo.svc.cluster.local web.foo.svc web.foo web\n"
	if got := render(all, "foo"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
