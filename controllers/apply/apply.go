// Package apply makes the cluster hold what was rendered: it compares the live objects in full, and creates, updates and
// deletes what differs. It is the only writer of Istio objects, and it does I/O.
package apply

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	securityapi "istio.io/api/security/v1beta1"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/istio"
)

// Verb is what was done to an object.
type Verb string

// The verbs.
const (
	Created Verb = "Created"
	Adopted Verb = "Adopted"
	Updated Verb = "Updated"
	Deleted Verb = "Deleted"
)

// The kinds.
const (
	PeerAuthentication    = "PeerAuthentication"
	DestinationRule       = "DestinationRule"
	RequestAuthentication = "RequestAuthentication"
	AuthorizationPolicy   = "AuthorizationPolicy"
)

// Change is one write.
type Change struct {
	Verb       Verb
	Kind, Name string
	// Unlike says that something changed that Istio reads; otherwise it is owners or labels only.
	Unlike bool
	// Version is the object's resourceVersion after it or, if it was deleted, before.
	Version string
}

// Result is what was done, and what there is now.
type Result struct {
	// Changes in the order in which they were made.
	Changes []Change
	// Resources are the objects that the profile owns now.
	Resources []v1alpha1.ResourceRef
	// PoliciesFailed says that tokens and callers are not as they are to be, because something could not be written.
	PoliciesFailed bool
	// PeerHeld says that mutual TLS was left as it is, so that nothing gets in before the policies can refuse it.
	PeerHeld bool
	// Settling is how long it takes until the rest may be written, since it rests on what was written a moment ago; 0 if
	// there is no rest.
	Settling time.Duration
}

// Holds says whether the profile owns an object, as it is to be.
func (r Result) Holds(kind, name string) bool {
	return slices.Contains(r.Resources, v1alpha1.ResourceRef{Kind: kind, Name: name})
}

// Applier writes Istio objects.
type Applier struct {
	// Client reads from the cache and writes to the API server.
	Client client.Client
	// Mesh says which kinds the API server knows.
	Mesh facts.Mesh
	// Settle is how long proxies are given to take tokens before policies rest on them, and the reverse: Istio watches the
	// two kinds apart.
	Settle time.Duration
	// TokensAge and PoliciesAge are how long ago the operator last changed the profile's objects of the kind.
	TokensAge, PoliciesAge time.Duration
}

// Apply makes the cluster hold the desired objects, for a profile in whose name they are owned. Clients are told to use
// mutual TLS before the server demands it, and to stop before it refuses it; policies and tokens are explained at policies.
// What cannot be written of mutual TLS does not keep the rest from being written; the server does not become more lenient
// by an edit of the profile while its policies cannot be written. The errors are joined, and are ForeignObjectError,
// UnsupportedError, NotInstalledError or the API server's.
func (a *Applier) Apply(ctx context.Context, profile *v1alpha1.ServiceSecurityProfile, desired istio.Objects) (Result, error) {
	w := &writer{client: a.Client, profile: profile}
	if serverFirst(desired) {
		// What is refused in the end is refused by the policies before the server takes more.
		a.policies(ctx, w, desired)
		if pending := w.result.Settling > 0 || w.result.PoliciesFailed; pending && desired.Loosens {
			desired.KeepPeerAuthentication, desired.KeepDestinationRules = true, true
			w.result.PeerHeld = true
		}
		a.peerAuthentication(ctx, w, desired)
		a.destinationRules(ctx, w, desired)
	} else {
		a.destinationRules(ctx, w, desired)
		a.peerAuthentication(ctx, w, desired)
		a.policies(ctx, w, desired)
	}
	return w.result, errors.Join(w.errs...)
}

// serverFirst: a server that becomes more lenient goes before its clients.
func serverFirst(desired istio.Objects) bool {
	peer := desired.PeerAuthentication
	if peer == nil {
		return true
	}
	return peer.Spec.GetMtls().GetMode() == securityapi.PeerAuthentication_MutualTLS_PERMISSIVE
}

func (a *Applier) peerAuthentication(ctx context.Context, w *writer, desired istio.Objects) {
	if !a.Mesh.PeerAuthentications {
		if desired.PeerAuthentication != nil {
			w.fail(&NotInstalledError{Kind: PeerAuthentication})
		}
		return
	}
	if desired.KeepPeerAuthentication {
		w.keep(ctx, peerKind)
		return
	}
	var want []client.Object
	keep := desired.KeepMembers
	if desired.PeerAuthentication != nil {
		object := desired.PeerAuthentication.DeepCopy()
		if desired.AfterDestinationRules {
			object.OwnerReferences = a.ruleOwners(ctx, w, desired)
		}
		want = append(want, object)
	}
	for _, member := range desired.Members {
		want = append(want, member.DeepCopy())
	}
	if desired.KeepAllMembers {
		members, err := w.members(ctx)
		if err != nil {
			// What is to stay must not go because it is not known.
			w.fail(err)
			return
		}
		keep = append(slices.Clone(keep), members...)
	}
	w.converge(ctx, peerKind, want, keep...)
}

// members are the names of the profile's PeerAuthentications for single workloads.
func (w *writer) members(ctx context.Context) ([]string, error) {
	owned, err := w.owned(ctx, peerKind)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, object := range owned {
		if len(object.(*securityv1.PeerAuthentication).Spec.GetSelector().GetMatchLabels()) > 0 {
			names = append(names, object.GetName())
		}
	}
	return names, nil
}

func (a *Applier) destinationRules(ctx context.Context, w *writer, desired istio.Objects) {
	if !a.Mesh.DestinationRules {
		if len(desired.DestinationRules) > 0 {
			w.fail(&NotInstalledError{Kind: DestinationRule})
		}
		return
	}
	if desired.KeepDestinationRules {
		w.keep(ctx, ruleKind)
		return
	}
	var want []client.Object
	for _, rule := range desired.DestinationRules {
		want = append(want, rule.DeepCopy())
	}
	// What a wildcard must not cover has its rule before it does, and until it does no more.
	slices.SortStableFunc(want, func(x, y client.Object) int { return breadth(x) - breadth(y) })
	w.converge(ctx, ruleKind, want)
}

// ruleOwners are the live DestinationRules as owners: what they own goes after them.
func (a *Applier) ruleOwners(ctx context.Context, w *writer, desired istio.Objects) []metav1.OwnerReference {
	var owners []metav1.OwnerReference
	for _, want := range desired.DestinationRules {
		live := &networkingv1.DestinationRule{}
		err := a.Client.Get(ctx, client.ObjectKeyFromObject(want), live)
		if client.IgnoreNotFound(err) != nil {
			w.fail(fmt.Errorf("reading DestinationRule %s: %w", want.Name, err))
		}
		if err == nil && metav1.IsControlledBy(live, w.profile) {
			owners = append(owners, metav1.OwnerReference{
				APIVersion: networkingv1.SchemeGroupVersion.String(), Kind: DestinationRule, Name: live.Name, UID: live.UID,
			})
		}
	}
	return owners
}
