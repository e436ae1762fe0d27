//go:build linux

package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// environment resolves a container's variables. Later ones see earlier ones as $(NAME).
func (w *worker) environment(ctx context.Context, image Image, c *corev1.Container) (map[string]string, error) {
	env := map[string]string{
		"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/", "HOSTNAME": w.pod.Name,
		"KUBERNETES_SERVICE_HOST": w.agent.options.ServiceIP, "KUBERNETES_SERVICE_PORT": "443", "KUBERNETES_SERVICE_PORT_HTTPS": "443",
	}
	maps.Copy(env, image.Env)
	for _, from := range c.EnvFrom {
		values, err := w.envFrom(ctx, from)
		if err != nil {
			return nil, err
		}
		maps.Copy(env, values)
	}
	for i := range c.Env {
		value, found, err := w.variable(ctx, &c.Env[i], c, env)
		if err != nil {
			return nil, fmt.Errorf("resolving variable %s: %w", c.Env[i].Name, err)
		}
		if found {
			env[c.Env[i].Name] = value
		}
	}
	return env, nil
}

func (w *worker) envFrom(ctx context.Context, from corev1.EnvFromSource) (map[string]string, error) {
	values := map[string]string{}
	var data map[string]string
	var err error
	switch {
	case from.ConfigMapRef != nil:
		data, err = w.configMap(ctx, from.ConfigMapRef.Name, or(from.ConfigMapRef.Optional, false))
	case from.SecretRef != nil:
		data, err = w.secret(ctx, from.SecretRef.Name, or(from.SecretRef.Optional, false))
	}
	for key, value := range data {
		values[from.Prefix+key] = value
	}
	return values, err
}

func (w *worker) variable(ctx context.Context, v *corev1.EnvVar, c *corev1.Container, env map[string]string) (string, bool, error) {
	from := v.ValueFrom
	switch {
	case from == nil:
		return expand(v.Value, env), true, nil
	case from.FieldRef != nil:
		value, err := field(w.podWithAddress(), from.FieldRef.FieldPath)
		return value, true, err
	case from.ResourceFieldRef != nil:
		value, err := resourceField(c, from.ResourceFieldRef)
		return value, true, err
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		data, err := w.configMap(ctx, ref.Name, or(ref.Optional, false))
		return pick(data, ref.Key, or(ref.Optional, false), err)
	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef
		data, err := w.secret(ctx, ref.Name, or(ref.Optional, false))
		return pick(data, ref.Key, or(ref.Optional, false), err)
	}
	return "", false, errors.New("its source is not supported here")
}

func pick(data map[string]string, key string, optional bool, err error) (string, bool, error) {
	if err != nil {
		return "", false, err
	}
	value, ok := data[key]
	if !ok && !optional {
		return "", false, fmt.Errorf("key %s is missing", key)
	}
	return value, ok, nil
}

func (w *worker) configMap(ctx context.Context, name string, optional bool) (map[string]string, error) {
	object, err := w.agent.client.CoreV1().ConfigMaps(w.pod.Namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) && optional {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading config map %s: %w", name, err)
	}
	data := maps.Clone(object.Data)
	for key, value := range object.BinaryData {
		if data == nil {
			data = map[string]string{}
		}
		data[key] = string(value)
	}
	return data, nil
}

func (w *worker) secret(ctx context.Context, name string, optional bool) (map[string]string, error) {
	object, err := w.agent.client.CoreV1().Secrets(w.pod.Namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) && optional {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading secret %s: %w", name, err)
	}
	data := map[string]string{}
	for key, value := range object.Data {
		data[key] = string(value)
	}
	return data, nil
}

// podWithAddress is the pod with what its status will say, which its containers may ask for before it says so.
func (w *worker) podWithAddress() *corev1.Pod {
	pod := w.pod.DeepCopy()
	pod.Status.PodIP, pod.Status.PodIPs = w.net.Address, []corev1.PodIP{{IP: w.net.Address}}
	pod.Status.HostIP = w.agent.options.Address
	return pod
}

// field is the downward API's value of a field path.
func field(pod *corev1.Pod, path string) (string, error) {
	if base, key, ok := strings.Cut(path, "['"); ok {
		key = strings.TrimSuffix(key, "']")
		switch base {
		case "metadata.labels":
			return pod.Labels[key], nil
		case "metadata.annotations":
			return pod.Annotations[key], nil
		}
	}
	values := map[string]func() string{
		"metadata.name":           func() string { return pod.Name },
		"metadata.namespace":      func() string { return pod.Namespace },
		"metadata.uid":            func() string { return string(pod.UID) },
		"metadata.labels":         func() string { return keyValues(pod.Labels) },
		"metadata.annotations":    func() string { return keyValues(pod.Annotations) },
		"spec.nodeName":           func() string { return pod.Spec.NodeName },
		"spec.serviceAccountName": func() string { return pod.Spec.ServiceAccountName },
		"status.podIP":            func() string { return pod.Status.PodIP },
		"status.podIPs":           func() string { return pod.Status.PodIP },
		"status.hostIP":           func() string { return pod.Status.HostIP },
		"status.hostIPs":          func() string { return pod.Status.HostIP },
	}
	if value, ok := values[path]; ok {
		return value(), nil
	}
	return "", fmt.Errorf("field %s is not supported here", path)
}

func keyValues(m map[string]string) string {
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(m)) {
		fmt.Fprintf(&b, "%s=%s\n", key, strconv.Quote(m[key]))
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// resourceField is the downward API's value of a container's request or limit; without one it is what the node has.
func resourceField(c *corev1.Container, ref *corev1.ResourceFieldSelector) (string, error) {
	kind, name, _ := strings.Cut(ref.Resource, ".")
	list := c.Resources.Limits
	if kind == "requests" {
		list = c.Resources.Requests
	}
	quantity, ok := list[corev1.ResourceName(name)]
	if !ok {
		if quantity, ok = capacity()[corev1.ResourceName(name)]; !ok {
			return "", fmt.Errorf("resource %s is not supported here", ref.Resource)
		}
	}
	divisor := ref.Divisor
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	return strconv.FormatInt(int64(math.Ceil(quantity.AsApproximateFloat64()/divisor.AsApproximateFloat64())), 10), nil
}

// expand replaces $(NAME) by the variable where there is one; $$ stands for $.
func expand(text string, env map[string]string) string {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '$' || i+1 == len(text) {
			b.WriteByte(text[i])
			continue
		}
		switch text[i+1] {
		case '$':
			b.WriteByte('$')
			i++
		case '(':
			end := strings.IndexByte(text[i:], ')')
			if end < 0 {
				b.WriteByte('$')
				continue
			}
			reference := text[i : i+end+1]
			value, ok := env[reference[2:len(reference)-1]]
			if !ok {
				value = reference
			}
			b.WriteString(value)
			i += end
		default:
			b.WriteByte('$')
		}
	}
	return b.String()
}

func lines(env map[string]string) []string {
	list := make([]string, 0, len(env))
	for _, name := range slices.Sorted(maps.Keys(env)) {
		list = append(list, name+"="+env[name])
	}
	return list
}
