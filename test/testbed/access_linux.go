package testbed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	curlTimeout = "10"
	statsPort   = "15090"
	maxStats    = 16 << 20
)

// Answer is what curl got.
type Answer struct {
	// HTTPCode is the status; 0 when there was no answer, as curl's 000.
	HTTPCode int
	// CurlExit is curl's exit code: 56 is a connection reset, 52 an empty answer, 28 a timeout, 7 a refused connection.
	CurlExit int
	// Body is what came.
	Body string
	// Stderr is curl's own message.
	Stderr string
}

// Namespace makes a namespace, with injection where meshed.
func (m *Mesh) Namespace(ctx context.Context, name string, meshed bool) error {
	marks := map[string]string{}
	if meshed {
		marks["istio-injection"] = "enabled"
	}
	return Apply(ctx, m.client, namespace(name, marks))
}

// DeleteNamespaces deletes namespaces together and waits until they are gone with all that was in them; one takes as long as ten, about seven seconds.
func (m *Mesh) DeleteNamespaces(ctx context.Context, names ...string) error {
	for _, name := range names {
		if err := m.client.Delete(ctx, namespace(name, nil)); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("deleting namespace %s: %w", name, err)
		}
	}
	for _, name := range names {
		err := await(ctx, "the end of namespace "+name, func(ctx context.Context) error {
			err := m.client.Get(ctx, client.ObjectKey{Name: name}, &corev1.Namespace{})
			switch {
			case apierrors.IsNotFound(err):
				return nil
			case err != nil:
				return fmt.Errorf("reading the namespace: %w", err)
			}
			return errors.New("it is still there")
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Apply writes every object of the YAML by server-side apply.
func (m *Mesh) Apply(ctx context.Context, manifests string) error {
	objects, err := Objects([]byte(manifests))
	if err != nil {
		return err
	}
	return Apply(ctx, m.client, objects...)
}

// Delete deletes every object of the YAML that is there.
func (m *Mesh) Delete(ctx context.Context, manifests string) error {
	objects, err := Objects([]byte(manifests))
	if err != nil {
		return err
	}
	for _, object := range objects {
		if err := m.client.Delete(ctx, object, client.PropagationPolicy("Background")); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("deleting %s %s/%s: %w", object.GetKind(), object.GetNamespace(), object.GetName(), err)
		}
	}
	return nil
}

// Kubectl runs kubectl and returns what it printed; when it fails that is in the error.
func (m *Mesh) Kubectl(ctx context.Context, args ...string) (string, error) {
	binaries, err := kubernetesBinaries("kubectl")
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, binaries["kubectl"], args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+m.Kubeconfig())
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("running kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// Exec runs a command in a pod's first container, as root, and returns what it printed and its exit code. An error means that it could not run.
func (m *Mesh) Exec(ctx context.Context, namespace, pod string, command ...string) (stdout string, exit int, err error) {
	result, err := m.agent.Exec(ctx, namespace, pod, "", true, command...)
	return string(result.Stdout), result.ExitCode, err
}

// Curl gets a URL from a ready pod of the app; args are added to curl's.
func (m *Mesh) Curl(ctx context.Context, namespace, app, url string, args ...string) (Answer, error) {
	pod, err := m.ReadyPod(ctx, namespace, app)
	if err != nil {
		return Answer{}, err
	}
	return m.CurlFrom(ctx, namespace, pod.Name, url, args...)
}

// CurlFrom gets a URL from a pod; args are added to curl's.
func (m *Mesh) CurlFrom(ctx context.Context, namespace, pod, url string, args ...string) (Answer, error) {
	command := append([]string{"curl", "-sS", "-m", curlTimeout, "-w", "\n%{http_code}"}, args...)
	result, err := m.agent.Exec(ctx, namespace, pod, "", true, append(command, url)...)
	if err != nil {
		return Answer{}, err
	}
	body, code := string(result.Stdout), ""
	if at := strings.LastIndexByte(body, '\n'); at >= 0 {
		body, code = body[:at], body[at+1:]
	}
	status, err := strconv.Atoi(code)
	if err != nil {
		return Answer{}, fmt.Errorf("reading curl's status: %w", err)
	}
	return Answer{HTTPCode: status, CurlExit: result.ExitCode, Body: body, Stderr: string(result.Stderr)}, nil
}

// ReadyPod finds a ready pod with the label app that is not being deleted.
func (m *Mesh) ReadyPod(ctx context.Context, namespace, app string) (*corev1.Pod, error) {
	var pods corev1.PodList
	if err := m.client.List(ctx, &pods, client.InNamespace(namespace), client.MatchingLabels{"app": app}); err != nil {
		return nil, fmt.Errorf("listing pods: %w", err)
	}
	for i := range pods.Items {
		if pods.Items[i].DeletionTimestamp == nil && podReady(&pods.Items[i]) {
			return &pods.Items[i], nil
		}
	}
	return nil, fmt.Errorf("finding a ready pod of app %s in %s: none of %d is", app, namespace, len(pods.Items))
}

// WaitReady waits until every Deployment whose pods the selector matches is rolled out, and every pod that it matches is
// ready; there has to be one. An empty selector matches all.
func (m *Mesh) WaitReady(ctx context.Context, namespace, selector string) error {
	parsed, err := labels.Parse(selector)
	if err != nil {
		return fmt.Errorf("parsing the selector: %w", err)
	}
	return await(ctx, fmt.Sprintf("pods %q in %s", selector, namespace), func(ctx context.Context) error {
		var deployments appsv1.DeploymentList
		if err := m.client.List(ctx, &deployments, client.InNamespace(namespace)); err != nil {
			return fmt.Errorf("listing deployments: %w", err)
		}
		for i := range deployments.Items {
			if d := &deployments.Items[i]; parsed.Matches(labels.Set(d.Spec.Template.Labels)) && !rolledOut(d) {
				return fmt.Errorf("deployment %s has %d of %d updated pods available", d.Name, d.Status.AvailableReplicas, *d.Spec.Replicas)
			}
		}
		return m.podsReady(ctx, namespace, parsed)
	})
}

func (m *Mesh) podsReady(ctx context.Context, namespace string, selector labels.Selector) error {
	var pods corev1.PodList
	if err := m.client.List(ctx, &pods, client.InNamespace(namespace), client.MatchingLabelsSelector{Selector: selector}); err != nil {
		return fmt.Errorf("listing pods: %w", err)
	}
	found := false
	for i := range pods.Items {
		pod := &pods.Items[i]
		if pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodSucceeded {
			continue
		}
		found = true
		if !podReady(pod) {
			return fmt.Errorf("pod %s is not ready: %s", pod.Name, why(pod))
		}
	}
	if !found {
		return errors.New("there is none")
	}
	return nil
}

func rolledOut(d *appsv1.Deployment) bool {
	want := *d.Spec.Replicas
	return d.Status.ObservedGeneration >= d.Generation && d.Status.UpdatedReplicas == want && d.Status.Replicas == want && d.Status.AvailableReplicas == want
}

func podReady(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// why names what a pod waits for.
func why(pod *corev1.Pod) string {
	if pod.Status.Message != "" {
		return pod.Status.Message
	}
	var reasons []string
	for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for _, s := range list {
			switch {
			case s.State.Waiting != nil:
				reasons = append(reasons, fmt.Sprintf("%s: %s %s", s.Name, s.State.Waiting.Reason, s.State.Waiting.Message))
			case s.State.Terminated != nil && s.State.Terminated.ExitCode != 0:
				reasons = append(reasons, fmt.Sprintf("%s: exit code %d", s.Name, s.State.Terminated.ExitCode))
			case !s.Ready && s.State.Running != nil:
				reasons = append(reasons, s.Name+": running, not ready")
			}
		}
	}
	return string(pod.Status.Phase) + "; " + strings.Join(reasons, "; ")
}

// Logs is what a container printed, through all its restarts.
func (m *Mesh) Logs(namespace, pod, containerName string) (string, error) {
	raw, err := os.ReadFile(m.agent.LogFile(namespace, pod, containerName))
	if err != nil {
		return "", fmt.Errorf("reading the container's log: %w", err)
	}
	return string(raw), nil
}

// Kill ends a container's program with SIGKILL, as a crash would.
func (m *Mesh) Kill(namespace, pod, containerName string) error {
	return m.agent.Kill(namespace, pod, containerName)
}

// Stats is what the proxy of a ready pod of the app exposes on 15090; the query is Envoy's, such as usedonly&filter=istio_.
func (m *Mesh) Stats(ctx context.Context, namespace, app, query string) (string, error) {
	pod, err := m.ReadyPod(ctx, namespace, app)
	if err != nil {
		return "", err
	}
	url := "http://" + net.JoinHostPort(pod.Status.PodIP, statsPort) + "/stats/prometheus?" + query
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", fmt.Errorf("making the request for statistics: %w", err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", fmt.Errorf("asking for statistics: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxStats))
	if err != nil {
		return "", fmt.Errorf("reading statistics: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("asking for statistics: %s", response.Status)
	}
	return string(body), nil
}
