//go:build linux

package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servicesecurity/operator/test/testbed/container"
)

// Files of volumes are readable by every user of the pod, whose containers may run as different ones.
const (
	volumeFileMode = 0o644
	volumeDirMode  = 0o755
	emptyDirMode   = 0o777
)

// prepareVolumes fills the pod's volumes in its folder.
func (w *worker) prepareVolumes(ctx context.Context) error {
	for i := range w.pod.Spec.Volumes {
		v := &w.pod.Spec.Volumes[i]
		dir := w.volumeDir(v.Name)
		if err := os.MkdirAll(dir, volumeDirMode); err != nil {
			return fmt.Errorf("making volume %s: %w", v.Name, err)
		}
		if v.EmptyDir != nil {
			if err := os.Chmod(dir, emptyDirMode); err != nil {
				return fmt.Errorf("making volume %s: %w", v.Name, err)
			}
			continue
		}
		files, err := w.volumeFiles(ctx, v)
		if err != nil {
			return fmt.Errorf("filling volume %s: %w", v.Name, err)
		}
		if err := writeFiles(dir, files); err != nil {
			return fmt.Errorf("filling volume %s: %w", v.Name, err)
		}
	}
	return nil
}

func (w *worker) volumeDir(name string) string { return filepath.Join(w.dir, "volumes", name) }

func writeFiles(dir string, files map[string]string) error {
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), volumeDirMode); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(content), volumeFileMode); err != nil {
			return err
		}
	}
	return nil
}

func (w *worker) volumeFiles(ctx context.Context, v *corev1.Volume) (map[string]string, error) {
	switch {
	case v.ConfigMap != nil:
		data, err := w.configMap(ctx, v.ConfigMap.Name, or(v.ConfigMap.Optional, false))
		return items(data, v.ConfigMap.Items), err
	case v.Secret != nil:
		data, err := w.secret(ctx, v.Secret.SecretName, or(v.Secret.Optional, false))
		return items(data, v.Secret.Items), err
	case v.DownwardAPI != nil:
		return w.downward(v.DownwardAPI.Items)
	case v.Projected != nil:
		all := map[string]string{}
		for i := range v.Projected.Sources {
			files, err := w.projection(ctx, &v.Projected.Sources[i])
			if err != nil {
				return nil, err
			}
			for name, content := range files {
				all[name] = content
			}
		}
		return all, nil
	}
	return nil, fmt.Errorf("its kind is not supported here")
}

func (w *worker) projection(ctx context.Context, source *corev1.VolumeProjection) (map[string]string, error) {
	switch {
	case source.ServiceAccountToken != nil:
		return w.token(ctx, source.ServiceAccountToken)
	case source.ConfigMap != nil:
		data, err := w.configMap(ctx, source.ConfigMap.Name, or(source.ConfigMap.Optional, false))
		return items(data, source.ConfigMap.Items), err
	case source.Secret != nil:
		data, err := w.secret(ctx, source.Secret.Name, or(source.Secret.Optional, false))
		return items(data, source.Secret.Items), err
	case source.DownwardAPI != nil:
		return w.downward(source.DownwardAPI.Items)
	}
	return nil, fmt.Errorf("its projection is not supported here")
}

// token asks for a service-account token that is bound to the pod. A bed ends before one expires, so none is renewed.
func (w *worker) token(ctx context.Context, source *corev1.ServiceAccountTokenProjection) (map[string]string, error) {
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: source.ExpirationSeconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: w.pod.Name, UID: w.pod.UID},
	}}
	if source.Audience != "" {
		request.Spec.Audiences = []string{source.Audience}
	}
	answer, err := w.agent.client.CoreV1().ServiceAccounts(w.pod.Namespace).CreateToken(ctx, w.pod.Spec.ServiceAccountName, request, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("requesting a token: %w", err)
	}
	return map[string]string{source.Path: answer.Status.Token}, nil
}

func (w *worker) downward(fields []corev1.DownwardAPIVolumeFile) (map[string]string, error) {
	files := map[string]string{}
	for _, f := range fields {
		var value string
		var err error
		switch {
		case f.FieldRef != nil:
			value, err = field(w.podWithAddress(), f.FieldRef.FieldPath)
		case f.ResourceFieldRef != nil:
			value, err = w.containerResource(f.ResourceFieldRef)
		}
		if err != nil {
			return nil, err
		}
		files[f.Path] = value
	}
	return files, nil
}

func (w *worker) containerResource(ref *corev1.ResourceFieldSelector) (string, error) {
	for _, list := range [][]corev1.Container{w.pod.Spec.InitContainers, w.pod.Spec.Containers} {
		for i := range list {
			if list[i].Name == ref.ContainerName {
				return resourceField(&list[i], ref)
			}
		}
	}
	return "", fmt.Errorf("container %s is not in the pod", ref.ContainerName)
}

// items selects and renames keys; with no items every key is a file.
func items(data map[string]string, selected []corev1.KeyToPath) map[string]string {
	if len(selected) == 0 {
		return data
	}
	files := map[string]string{}
	for _, item := range selected {
		if value, ok := data[item.Key]; ok {
			files[item.Path] = value
		}
	}
	return files
}

// mounts are what the container sees beside the host's programs: its volumes, its image's files and the pod's hosts file.
func (w *worker) mounts(image Image, c *corev1.Container) []container.Mount {
	mounts := []container.Mount{{Source: w.hostsFile(), Target: "/etc/hosts"}}
	for target, source := range image.Files {
		mounts = append(mounts, container.Mount{Source: source, Target: target, ReadOnly: true})
	}
	for _, m := range c.VolumeMounts {
		mounts = append(mounts, container.Mount{Source: filepath.Join(w.volumeDir(m.Name), m.SubPath), Target: m.MountPath, ReadOnly: m.ReadOnly})
	}
	return mounts
}
