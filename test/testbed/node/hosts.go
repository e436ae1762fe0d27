//go:build linux

package node

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
)

// settle gathers changes that come together into one rewrite.
const settle = 50 * time.Millisecond

// hosts stands for a cluster's DNS: it keeps a hosts file in every pod that knows all Services.
type hosts struct {
	services corelisters.ServiceLister
	slices   discoverylisters.EndpointSliceLister

	mu      sync.Mutex
	workers map[*worker]bool
	pending bool
}

func (h *hosts) add(w *worker) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.workers == nil {
		h.workers = map[*worker]bool{}
	}
	h.workers[w] = true
	return h.write(w, h.entries())
}

func (h *hosts) remove(w *worker) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.workers, w)
}

// changed rewrites every pod's file soon.
func (h *hosts) changed() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.pending {
		return
	}
	h.pending = true
	time.AfterFunc(settle, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.pending = false
		entries := h.entries()
		for w := range h.workers {
			_ = h.write(w, entries) // the pod may be going; a later change tries again
		}
	})
}

// write rewrites a pod's file in place: what the pod sees is this very file, so it may not be replaced. Nor may it be empty for
// a moment, in which every name would be unknown: what is too much at its end goes last.
func (h *hosts) write(w *worker, all []entry) error {
	content := fmt.Sprintf("127.0.0.1 localhost\n%s %s\n%s", w.net.Address, hostname(w.pod), render(all, w.pod.Namespace))
	old, err := os.ReadFile(w.hostsFile())
	if err == nil && string(old) == content {
		return nil
	}
	if err := overwrite(w.hostsFile(), content); err != nil {
		return fmt.Errorf("writing a hosts file: %w", err)
	}
	return nil
}

func overwrite(path, content string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o644) // every user of the pod reads it
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	if err == nil {
		err = f.Truncate(int64(len(content)))
	}
	return errors.Join(err, f.Close())
}

// entry is a Service's addresses, which are its pods' when it is headless.
type entry struct {
	namespace, name string
	addresses       []string
}

func (h *hosts) entries() []entry {
	services, err := h.services.List(labels.Everything())
	if err != nil {
		return nil // a lister over a cache does not fail
	}
	var all []entry
	for _, s := range services {
		e := entry{namespace: s.Namespace, name: s.Name}
		switch s.Spec.ClusterIP {
		case "": // an ExternalName has no address here
		case corev1.ClusterIPNone:
			e.addresses = h.endpoints(s)
		default:
			e.addresses = []string{s.Spec.ClusterIP}
		}
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.name, b.name))
	})
	return all
}

func (h *hosts) endpoints(s *corev1.Service) []string {
	found, err := h.slices.EndpointSlices(s.Namespace).List(labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: s.Name}))
	if err != nil {
		return nil
	}
	var addresses []string
	for _, slice := range found {
		for _, e := range slice.Endpoints {
			if e.Conditions.Ready == nil || *e.Conditions.Ready || s.Spec.PublishNotReadyAddresses {
				addresses = append(addresses, e.Addresses...)
			}
		}
	}
	slices.Sort(addresses)
	return addresses
}

func render(all []entry, namespace string) string {
	var b strings.Builder
	for _, e := range all {
		names := fmt.Sprintf("%[1]s.%[2]s.svc.cluster.local %[1]s.%[2]s.svc %[1]s.%[2]s", e.name, e.namespace)
		if e.namespace == namespace {
			names += " " + e.name
		}
		for _, address := range e.addresses {
			fmt.Fprintf(&b, "%s %s\n", address, names)
		}
	}
	return b.String()
}
