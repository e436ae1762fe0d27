package accesslog

import (
	"context"
	"sync"
	"time"

	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/traffic"
)

// cluster is a Directory of pods that come and go.
type cluster struct {
	mu   sync.Mutex
	pods []member
}

type member struct {
	facts.Identity
	created time.Time
}

func (c *cluster) add(created time.Time, pods ...facts.Identity) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, pod := range pods {
		c.pods = append(c.pods, member{Identity: pod, created: created})
	}
}

func (c *cluster) Named(_ context.Context, namespace, name string) (facts.Identity, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, pod := range c.pods {
		if pod.Namespace == namespace && pod.Name == name {
			return pod.Identity, true
		}
	}
	return facts.Identity{}, false
}

func (c *cluster) At(_ context.Context, address string, at time.Time) (facts.Identity, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, pod := range c.pods {
		if pod.Address == address && !pod.created.After(at) {
			return pod.Identity, true
		}
	}
	return facts.Identity{}, false
}

// identify makes a pod of a Deployment of the same name.
func identify(namespace, name, address string) facts.Identity {
	return facts.Identity{Namespace: namespace, Name: name + "-1", UID: namespace + "/" + name, Address: address, ServiceAccount: name, Workload: name}
}

// every asks for all that was logged for pods.
func every(since time.Time, pods ...facts.Identity) traffic.LogRequest {
	request := traffic.LogRequest{Ports: traffic.PortSet{Except: true}, Since: since}
	for _, pod := range pods {
		request.Proxies = append(request.Proxies, traffic.Proxy{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID})
	}
	return request
}
