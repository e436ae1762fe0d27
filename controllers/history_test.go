package controllers_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/test/playback"
)

// recorder sees every version of every Istio object in the cluster. It also stands for istiod: when a PeerAuthentication
// changes, the played-back proxies of its namespace take it.
type recorder struct {
	mu       sync.Mutex
	versions []version
	proxies  map[string][]*playback.Proxy
	deaf     map[string]bool
}

// version is an object as it was from one write to the next.
type version struct {
	kind, namespace, name string
	// says is the mode of a PeerAuthentication or the tls mode of a DestinationRule; "gone" after the deletion.
	says    string
	written int64
	seen    time.Time
	object  client.Object
}

const gone = "gone"

var istiod = &recorder{proxies: map[string][]*playback.Proxy{}, deaf: map[string]bool{}}

func startRecorder(c *cluster) {
	GinkgoHelper()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, list := range []client.ObjectList{
		&securityv1.PeerAuthenticationList{}, &networkingv1.DestinationRuleList{},
		&securityv1.RequestAuthenticationList{}, &securityv1.AuthorizationPolicyList{},
	} {
		w, err := c.client.Watch(ctx, list)
		Expect(err).NotTo(HaveOccurred())
		running.Go(func() {
			for event := range w.ResultChan() {
				istiod.take(event)
			}
		})
	}
	DeferCleanup(func() {
		cancel()
		running.Wait()
	})
}

func (r *recorder) take(event watch.Event) {
	object, ok := event.Object.(client.Object)
	if !ok {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	v := version{namespace: object.GetNamespace(), name: object.GetName(), seen: time.Now(), object: object}
	v.written, _ = strconv.ParseInt(object.GetResourceVersion(), 10, 64)
	switch object := object.(type) {
	case *securityv1.PeerAuthentication:
		v.kind, v.says = "PeerAuthentication", object.Spec.GetMtls().GetMode().String()
		if !r.deaf[v.namespace] {
			for _, proxy := range r.proxies[v.namespace] {
				proxy.TakeConfiguration()
			}
		}
	case *networkingv1.DestinationRule:
		v.kind, v.says = "DestinationRule", object.Spec.GetTrafficPolicy().GetTls().GetMode().String()
	case *securityv1.RequestAuthentication:
		v.kind, v.says = "RequestAuthentication", fmt.Sprintf("%d issuers", len(object.Spec.GetJwtRules()))
	case *securityv1.AuthorizationPolicy:
		v.kind, v.says = "AuthorizationPolicy", fmt.Sprintf("%s %d rules", object.Spec.GetAction(), len(object.Spec.GetRules()))
	}
	if event.Type == watch.Deleted {
		v.says = gone
	}
	r.versions = append(r.versions, v)
}

func (r *recorder) serve(namespace string, proxy *playback.Proxy) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.proxies[namespace] = append(r.proxies[namespace], proxy)
}

// ignore makes the proxies of a namespace take no configuration, until it is made again with false.
func (r *recorder) ignore(namespace string, deaf bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deaf[namespace] = deaf
}

// of are the versions of the objects in a namespace, in the order in which they were written.
func (r *recorder) of(namespace string) []version {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []version
	for _, v := range r.versions {
		if v.namespace == namespace {
			out = append(out, v)
		}
	}
	slices.SortStableFunc(out, func(a, b version) int { return int(a.written - b.written) })
	return out
}

// sequence is what objects of a kind said one after another, without repetitions: "PERMISSIVE STRICT". With both kinds it
// tells them apart: "peer:PERMISSIVE rule:ISTIO_MUTUAL peer:STRICT".
func sequence(namespace string, kinds ...string) func() string {
	return func() string {
		var out []string
		last := map[string]string{}
		for _, v := range istiod.of(namespace) {
			if !slices.Contains(kinds, v.kind) || last[v.kind] == v.says {
				continue
			}
			last[v.kind] = v.says
			text := v.says
			if len(kinds) > 1 {
				text = map[string]string{"PeerAuthentication": "peer:", "DestinationRule": "rule:"}[v.kind] + text
			}
			out = append(out, text)
		}
		return strings.Join(out, " ")
	}
}

// policySequence is what tokens and policies said one after another, by name: "httpbin:2 issuers httpbin-token:DENY 2 rules".
func policySequence(namespace string) func() []string {
	return func() []string {
		var out []string
		last := map[string]string{}
		for _, v := range istiod.of(namespace) {
			if v.kind != "RequestAuthentication" && v.kind != "AuthorizationPolicy" || last[v.kind+v.name] == v.says {
				continue
			}
			last[v.kind+v.name] = v.says
			out = append(out, v.name+": "+v.says)
		}
		return out
	}
}

func peerSequence(namespace string) func() string { return sequence(namespace, "PeerAuthentication") }

func bothSequence(namespace string) func() string {
	return sequence(namespace, "PeerAuthentication", "DestinationRule")
}

// switched is when STRICT was first seen in a namespace; zero if it was not.
func switched(namespace string) time.Time {
	for _, v := range istiod.of(namespace) {
		if v.kind == "PeerAuthentication" && v.says == "STRICT" {
			return v.seen
		}
	}
	return time.Time{}
}
