package resolve

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/controllers/facts"
)

// podsByAddress finds pods by the addresses that are theirs alone.
var podsByAddress = index[*corev1.Pod]{
	name:    "servicesecurity.dev/pod-address",
	object:  &corev1.Pod{},
	newList: func() client.ObjectList { return &corev1.PodList{} },
	keys:    podAddresses,
}

// IndexAddresses registers the index that a Directory needs beside Index.
func IndexAddresses(ctx context.Context, indexer client.FieldIndexer) error {
	return podsByAddress.register(ctx, indexer)
}

// podAddresses are none for a pod on its node's network: others there have the same.
func podAddresses(pod *corev1.Pod) []string {
	if pod.Spec.HostNetwork || pod.Status.PodIP == "" {
		return nil
	}
	addresses := []string{pod.Status.PodIP}
	for _, ip := range pod.Status.PodIPs {
		if ip.IP != "" && ip.IP != pod.Status.PodIP {
			addresses = append(addresses, ip.IP)
		}
	}
	return addresses
}

// finishedSlack is for how long after it finished a pod may be the one that a proxy tells of: what it sent last is logged
// when it ends, and clocks of nodes differ a little.
const finishedSlack = 10 * time.Second

// Directory tells pods by name and by address. Its Reader is a cache with Index and IndexAddresses.
type Directory struct {
	Reader client.Reader
}

func (d Directory) source() *source { return &source{reader: d.Reader} }

// Named is the pod of a name as it is now; false if none is known.
func (d Directory) Named(ctx context.Context, namespace, name string) (facts.Identity, bool) {
	pod := &corev1.Pod{}
	if found, err := d.source().get(ctx, core, namespace, name, pod); err != nil || !found {
		return facts.Identity{}, false
	}
	return identity(pod), true
}

// At is the pod that had an address at a time. It is false for an address that no known pod had then: a pod that came
// later, or was finished by then, does not give its name to another's calls.
func (d Directory) At(ctx context.Context, address string, at time.Time) (facts.Identity, bool) {
	pods, err := find(ctx, d.source(), podsByAddress, "", address)
	if err != nil {
		return facts.Identity{}, false
	}
	var newest *corev1.Pod
	for _, pod := range pods {
		if pod.CreationTimestamp.After(at) || finished(pod) && at.After(finishedTime(pod).Add(finishedSlack)) {
			continue
		}
		if newest == nil || newest.CreationTimestamp.Before(&pod.CreationTimestamp) {
			newest = pod
		}
	}
	if newest == nil {
		return facts.Identity{}, false
	}
	return identity(newest), true
}

// finishedTime is when a finished pod ceased to be ready, or, if it never was, to be made ready.
func finishedTime(pod *corev1.Pod) time.Time {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.LastTransitionTime.Time
		}
	}
	return pod.CreationTimestamp.Time
}

func identity(pod *corev1.Pod) facts.Identity {
	account := pod.Spec.ServiceAccountName
	if account == "" {
		account = "default"
	}
	who := facts.Identity{
		Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.UID), ServiceAccount: account, Workload: workloadName(pod),
	}
	if !pod.Spec.HostNetwork {
		who.Address = pod.Status.PodIP
	}
	return who
}
