//go:build linux

package node

import (
	"fmt"
	"path"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Image is what stands for a container image: programs and files of the host.
type Image struct {
	// Command is the entry point: a program's path on the host and its fixed arguments. A container's own command that
	// has the program's base name means the same program.
	Command []string
	// Env is the image's environment, which a container's may override.
	Env map[string]string
	// Files are shown to the container: its path to the host's.
	Files map[string]string
	// User is whom it runs as unless the pod says otherwise.
	User int64
}

// findImage looks an image up by its whole name, then without tag and digest, then by the last part of its name.
func findImage(images map[string]Image, name string) (Image, bool) {
	repository, _, _ := strings.Cut(name, "@")
	if colon := strings.LastIndex(repository, ":"); colon > strings.LastIndex(repository, "/") {
		repository = repository[:colon]
	}
	for _, key := range []string{name, repository, path.Base(repository)} {
		if image, ok := images[key]; ok {
			return image, true
		}
	}
	return Image{}, false
}

// commandLine is what the container runs: Kubernetes' rules for command and args over the image's entry point.
func commandLine(image Image, c *corev1.Container, expand func(string) string) []string {
	line := image.Command
	if len(c.Command) > 0 {
		line = make([]string, len(c.Command))
		for i, word := range c.Command {
			line[i] = expand(word)
		}
		if filepath.Base(line[0]) == filepath.Base(image.Command[0]) {
			line = append(append([]string{}, image.Command...), line[1:]...)
		}
	}
	line = append([]string{}, line...)
	for _, word := range c.Args {
		line = append(line, expand(word))
	}
	return line
}

// userOf is whom a container runs as.
func userOf(image Image, pod *corev1.Pod, c *corev1.Container) (uid, gid uint32, err error) {
	user, group := image.User, int64(0)
	nonRoot := false
	if s := pod.Spec.SecurityContext; s != nil {
		user, group = or(s.RunAsUser, user), or(s.RunAsGroup, group)
		nonRoot = or(s.RunAsNonRoot, nonRoot)
	}
	if s := c.SecurityContext; s != nil {
		user, group = or(s.RunAsUser, user), or(s.RunAsGroup, group)
		nonRoot = or(s.RunAsNonRoot, nonRoot)
	}
	if nonRoot && user == 0 {
		return 0, 0, fmt.Errorf("container %s has runAsNonRoot and its image runs as root", c.Name)
	}
	return uint32(user), uint32(group), nil // the API server has checked their range
}

func or[T any](value *T, fallback T) T {
	if value == nil {
		return fallback
	}
	return *value
}
