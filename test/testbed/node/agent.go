//go:build linux

// Package node takes a cluster's API and runs the pods that are bound to one Node of it as processes: what a kubelet does, as far as Deployments,
// sidecars and probes need it.
package node

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	stdruntime "runtime"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/servicesecurity/operator/test/testbed/container"
	"github.com/servicesecurity/operator/test/testbed/netns"
)

// Options says what the node is and what it can run.
type Options struct {
	// Name is the Node's.
	Name string
	// Address is the Node's, and the source of its probes.
	Address string
	// PodAddress makes the n-th pod's address.
	PodAddress func(n int) string
	// ServiceIP is the cluster IP of the kubernetes Service.
	ServiceIP string
	// Images says what each container image stands for.
	Images map[string]Image
	// Dir is for volumes, LogDir for containers' output.
	Dir, LogDir string
	// Log is where the node says what it does.
	Log *slog.Logger
}

// Agent is the node.
type Agent struct {
	options Options
	client  kubernetes.Interface
	hosts   hosts
	stop    context.CancelFunc
	group   sync.WaitGroup

	mu       sync.Mutex
	networks int
	workers  map[types.UID]*worker
}

// Start registers the Node and runs its pods until Stop. ctx bounds the start only.
func Start(ctx context.Context, config *rest.Config, options Options) (*Agent, error) {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("making the node's client: %w", err)
	}
	for _, dir := range []string{options.Dir, options.LogDir} {
		if err := os.MkdirAll(dir, volumeDirMode); err != nil {
			return nil, fmt.Errorf("making the node's folders: %w", err)
		}
	}
	a := &Agent{options: options, client: client, workers: map[types.UID]*worker{}}
	if err := a.register(ctx); err != nil {
		return nil, err
	}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	a.stop = cancel
	if err := a.watch(ctx, running); err != nil {
		a.Stop()
		return nil, err
	}
	return a, nil
}

// Stop kills every pod's containers and removes their networks.
func (a *Agent) Stop() {
	a.stop()
	a.mu.Lock()
	workers := make([]*worker, 0, len(a.workers))
	for _, w := range a.workers {
		workers = append(workers, w)
	}
	a.mu.Unlock()
	for _, w := range workers {
		<-w.gone
	}
	a.group.Wait()
}

// LogFile is the path of a container's output, through all its restarts.
func (a *Agent) LogFile(namespace, pod, containerName string) string {
	return a.logFile(namespace, pod, containerName)
}

// Exec runs a command in a container of a pod; with no container's name in its first ordinary one.
func (a *Agent) Exec(ctx context.Context, namespace, pod, containerName string, root bool, command ...string) (container.Result, error) {
	u, err := a.find(namespace, pod, containerName)
	if err != nil {
		return container.Result{}, err
	}
	return u.exec(ctx, root, command...)
}

// Kill ends a container's program with SIGKILL, as a crash would; its restart policy applies.
func (a *Agent) Kill(namespace, pod, containerName string) error {
	u, err := a.find(namespace, pod, containerName)
	if err != nil {
		return err
	}
	return u.kill()
}

func (a *Agent) find(namespace, pod, containerName string) (*unit, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, w := range a.workers {
		if w.pod.Namespace != namespace || w.pod.Name != pod {
			continue
		}
		if containerName == "" {
			return w.apps[0], nil
		}
		for _, list := range [][]*unit{w.apps, w.inits} {
			for _, u := range list {
				if u.spec.Name == containerName {
					return u, nil
				}
			}
		}
	}
	return nil, fmt.Errorf("finding container %q of pod %s/%s: this node does not run it", containerName, namespace, pod)
}

// capacity is what the node says it has: enough for anything, since it limits nothing.
func capacity() corev1.ResourceList {
	return corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("64"), corev1.ResourceMemory: resource.MustParse("256Gi"),
		corev1.ResourceEphemeralStorage: resource.MustParse("256Gi"), corev1.ResourcePods: resource.MustParse("500"),
	}
}

func (a *Agent) register(ctx context.Context) error {
	nodes := a.client.CoreV1().Nodes()
	labels := map[string]string{corev1.LabelHostname: a.options.Name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: stdruntime.GOARCH}
	n, err := nodes.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: a.options.Name, Labels: labels}}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("registering the node: %w", err)
	}
	version, err := a.client.Discovery().ServerVersion()
	if err != nil {
		return fmt.Errorf("reading the server's version: %w", err)
	}
	now := metav1.Now()
	n.Status = corev1.NodeStatus{
		Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: a.options.Address}, {Type: corev1.NodeHostName, Address: a.options.Name}},
		Capacity:  capacity(), Allocatable: capacity(),
		// istiod injects its proxy as a native sidecar only where every kubelet is new enough.
		NodeInfo: corev1.NodeSystemInfo{KubeletVersion: version.GitVersion, OperatingSystem: "linux", Architecture: stdruntime.GOARCH},
		Conditions: []corev1.NodeCondition{{
			Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "TestbedReady", Message: "the test bed's node is ready",
			LastHeartbeatTime: now, LastTransitionTime: now,
		}},
	}
	if n, err = nodes.UpdateStatus(ctx, n, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("writing the node's status: %w", err)
	}
	// The API server taints every new node; the controller that would lift the taint does not run.
	n.Spec.Taints = nil
	if _, err = nodes.Update(ctx, n, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("lifting the node's taint: %w", err)
	}
	return nil
}

// watch follows the node's pods and everybody's Services; it returns when it knows the present ones.
func (a *Agent) watch(ctx, running context.Context) error {
	all := informers.NewSharedInformerFactory(a.client, 0)
	a.hosts.services, a.hosts.slices = all.Core().V1().Services().Lister(), all.Discovery().V1().EndpointSlices().Lister()
	own := informers.NewSharedInformerFactoryWithOptions(a.client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", a.options.Name).String()
	}))
	changed := handler(func(any) { a.hosts.changed() })
	pods := own.Core().V1().Pods().Informer()
	for _, add := range []struct {
		informer cache.SharedIndexInformer
		handler  cache.ResourceEventHandler
	}{
		{all.Core().V1().Services().Informer(), changed},
		{all.Discovery().V1().EndpointSlices().Informer(), changed},
		{pods, cache.ResourceEventHandlerFuncs{
			AddFunc:    func(o any) { a.sync(running, o) },
			UpdateFunc: func(_, o any) { a.sync(running, o) },
			DeleteFunc: a.forget,
		}},
	} {
		if _, err := add.informer.AddEventHandler(add.handler); err != nil {
			return fmt.Errorf("watching: %w", err)
		}
	}
	all.Start(running.Done())
	all.WaitForCacheSync(ctx.Done())
	own.Start(running.Done())
	own.WaitForCacheSync(ctx.Done())
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("listing the node's pods: %w", err)
	}
	return nil
}

func handler(f func(any)) cache.ResourceEventHandlerFuncs {
	return cache.ResourceEventHandlerFuncs{AddFunc: f, UpdateFunc: func(_, o any) { f(o) }, DeleteFunc: f}
}

// sync starts a pod that is new and ends one that is to go. A worker that finds its pod deleted before it began starts
// nothing: the pod may have ended here already, and only the last word of its object be late.
func (a *Agent) sync(ctx context.Context, object any) {
	pod, ok := object.(*corev1.Pod)
	if !ok {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if ctx.Err() != nil { // Stop ends ctx before it looks who is there
		return
	}
	w, known := a.workers[pod.UID]
	if !known {
		w = newWorker(a, pod.DeepCopy())
		a.workers[pod.UID] = w
	}
	if pod.DeletionTimestamp != nil {
		w.delete(time.Duration(or(pod.DeletionGracePeriodSeconds, 0)) * time.Second)
	}
	if known {
		return
	}
	a.group.Go(func() {
		w.run(ctx)
		a.mu.Lock()
		delete(a.workers, pod.UID)
		a.mu.Unlock()
	})
}

// forget ends a pod whose object went without asking.
func (a *Agent) forget(object any) {
	if gone, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = gone.Obj
	}
	pod, ok := object.(*corev1.Pod)
	if !ok {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if w := a.workers[pod.UID]; w != nil {
		w.delete(0)
	}
}

func (a *Agent) addNetwork(ctx context.Context) (*netns.Namespace, error) {
	a.mu.Lock()
	a.networks++
	n := a.networks
	a.mu.Unlock()
	return netns.Add(ctx, fmt.Sprintf("p%d", n), a.options.PodAddress(n), a.options.Address)
}
