// Package apply makes the cluster hold what was rendered: it compares the live objects in full, and creates, updates and
// deletes what differs. It is the only writer of Istio objects, and it does I/O.
package apply

import (
	"context"
	"errors"
	"fmt"
	"slices"

	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	securityapi "istio.io/api/security/v1beta1"

	"github.com/servicesecurity/operator/api/v1alpha1"
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
	PeerAuthentication = "PeerAuthentication"
	DestinationRule    = "DestinationRule"
)

// Change is one write.
type Change struct {
	Verb       Verb
	Kind, Name string
}

// Result is what was done, and what there is now.
type Result struct {
	// Changes in the order in which they were made.
	Changes []Change
	// Resources are the objects that the profile owns now.
	Resources []v1alpha1.ResourceRef
}

// Holds says whether the profile owns an object of the kind, as it is to be.
func (r Result) Holds(kind string) bool {
	return slices.ContainsFunc(r.Resources, func(ref v1alpha1.ResourceRef) bool { return ref.Kind == kind })
}

// Applier writes Istio objects.
type Applier struct {
	// Client reads from the cache and writes to the API server.
	Client client.Client
	// PeerAuthentications and DestinationRules say whether the API server knows the kind.
	PeerAuthentications, DestinationRules bool
}

// Apply makes the cluster hold the desired objects, for a profile in whose name they are owned. Clients are told to use
// mutual TLS before the server demands it, and to stop before it refuses it. What cannot be written does not keep the
// rest from being written; the errors are joined, and are ForeignObjectError, UnsupportedError, NotInstalledError or the
// API server's.
func (a *Applier) Apply(ctx context.Context, profile *v1alpha1.ServiceSecurityProfile, desired istio.Objects) (Result, error) {
	w := &writer{client: a.Client, profile: profile}
	steps := []func(context.Context){
		func(ctx context.Context) { a.destinationRules(ctx, w, desired) },
		func(ctx context.Context) { a.peerAuthentication(ctx, w, desired) },
	}
	if serverFirst(desired) {
		steps[0], steps[1] = steps[1], steps[0]
	}
	for _, step := range steps {
		step(ctx)
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
	if !a.PeerAuthentications {
		if desired.PeerAuthentication != nil {
			w.fail(&NotInstalledError{Kind: PeerAuthentication})
		}
		return
	}
	var want []client.Object
	if desired.PeerAuthentication != nil {
		object := desired.PeerAuthentication.DeepCopy()
		if desired.AfterDestinationRules {
			object.OwnerReferences = a.ruleOwners(ctx, w, desired)
		}
		want = append(want, object)
	}
	if desired.KeepPeerAuthentication {
		w.keep(ctx, peerKind)
		return
	}
	w.converge(ctx, peerKind, want)
}

func (a *Applier) destinationRules(ctx context.Context, w *writer, desired istio.Objects) {
	if !a.DestinationRules {
		if len(desired.DestinationRules) > 0 {
			w.fail(&NotInstalledError{Kind: DestinationRule})
		}
		return
	}
	var want []client.Object
	for _, rule := range desired.DestinationRules {
		want = append(want, rule.DeepCopy())
	}
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

var (
	peerKind = kind{
		name:  PeerAuthentication,
		empty: func() client.Object { return &securityv1.PeerAuthentication{} },
		list:  func() client.ObjectList { return &securityv1.PeerAuthenticationList{} },
		same: func(a, b client.Object) bool {
			return equal(&a.(*securityv1.PeerAuthentication).Spec, &b.(*securityv1.PeerAuthentication).Spec)
		},
		take: func(live, want client.Object) {
			want.(*securityv1.PeerAuthentication).Spec.DeepCopyInto(&live.(*securityv1.PeerAuthentication).Spec)
		},
		foreign: func(client.Object) []string { return nil },
	}
	ruleKind = kind{
		name:  DestinationRule,
		empty: func() client.Object { return &networkingv1.DestinationRule{} },
		list:  func() client.ObjectList { return &networkingv1.DestinationRuleList{} },
		same: func(a, b client.Object) bool {
			return equal(&a.(*networkingv1.DestinationRule).Spec, &b.(*networkingv1.DestinationRule).Spec)
		},
		take: func(live, want client.Object) {
			want.(*networkingv1.DestinationRule).Spec.DeepCopyInto(&live.(*networkingv1.DestinationRule).Spec)
		},
		foreign: func(object client.Object) []string {
			return inexpressible(&object.(*networkingv1.DestinationRule).Spec)
		},
	}
)
