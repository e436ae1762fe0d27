package apply

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/istio"
)

// writer makes the writes of one Apply and remembers them.
type writer struct {
	client  client.Client
	profile *v1alpha1.ServiceSecurityProfile
	result  Result
	errs    []error
}

func (w *writer) fail(err error) { w.errs = append(w.errs, err) }

func (w *writer) owns(k kind, name string) {
	if ref := (v1alpha1.ResourceRef{Kind: k.name, Name: name}); !slices.Contains(w.result.Resources, ref) {
		w.result.Resources = append(w.result.Resources, ref)
	}
}

// stay says that objects are the profile's as they are, whatever was to become of them.
func (w *writer) stay(k kind, changes []change) {
	for _, c := range changes {
		deleted := slices.ContainsFunc(w.result.Changes, func(made Change) bool {
			return made.Verb == Deleted && made.Kind == k.name && made.Name == c.name()
		})
		if c.live != nil && c.verb != Adopted && !deleted {
			w.owns(k, c.name())
		}
	}
}

// converge makes the profile's objects of a kind those that are wanted, and leaves those to keep as they are. One that is
// broader than others waits for them, and goes before them.
func (w *writer) converge(ctx context.Context, k kind, want []client.Object, keep ...string) {
	wanted := map[string]bool{}
	failed := false
	for _, object := range want {
		wanted[object.GetName()] = true
		if failed && k.broad(object) {
			continue
		}
		if err := w.write(ctx, k, object); err != nil {
			w.fail(err)
			failed = true
		}
	}
	stays := func(name string) bool {
		// What another object is to take the place of stays while that one cannot be written.
		return slices.Contains(keep, name) || failed && k.name == PeerAuthentication
	}
	w.prune(ctx, k, func(name string) bool { return wanted[name] }, stays)
}

// prune removes the profile's objects of a kind that are neither wanted nor to stay.
func (w *writer) prune(ctx context.Context, k kind, wanted, stays func(name string) bool) {
	owned, err := w.owned(ctx, k)
	if err != nil {
		w.fail(err)
		return
	}
	slices.SortStableFunc(owned, func(a, b client.Object) int { return k.breadth(b) - k.breadth(a) })
	for _, object := range owned {
		if wanted(object.GetName()) {
			continue
		}
		if stays(object.GetName()) {
			w.owns(k, object.GetName())
			continue
		}
		if err := w.remove(ctx, k, object); err != nil {
			w.fail(err)
			if k.broad(object) {
				return
			}
		}
	}
}

// keep leaves the profile's objects of a kind as they are.
func (w *writer) keep(ctx context.Context, k kind) {
	owned, err := w.owned(ctx, k)
	if err != nil {
		w.fail(err)
		return
	}
	for _, object := range owned {
		w.owns(k, object.GetName())
	}
}

func (w *writer) owned(ctx context.Context, k kind) ([]client.Object, error) {
	list := k.list()
	// Of all that is listed only what is the profile's is copied.
	if err := w.client.List(ctx, list, client.InNamespace(w.profile.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("listing %s objects: %w", k.name, err)
	}
	var owned []client.Object
	err := meta.EachListItem(list, func(item runtime.Object) error {
		if object := item.(client.Object); metav1.IsControlledBy(object, w.profile) {
			owned = append(owned, object.DeepCopyObject().(client.Object))
		}
		return nil
	})
	slices.SortFunc(owned, func(a, b client.Object) int { return strings.Compare(a.GetName(), b.GetName()) })
	return owned, err
}

// write creates, adopts or updates one object, if it differs.
func (w *writer) write(ctx context.Context, k kind, want client.Object) error {
	c, err := w.compare(ctx, k, want)
	if err != nil {
		return err
	}
	_, err = w.put(ctx, k, c)
	return err
}

// remove deletes an object that is still the one that was looked at.
func (w *writer) remove(ctx context.Context, k kind, object client.Object) error {
	if object.GetDeletionTimestamp() != nil {
		return nil
	}
	_, err := w.put(ctx, k, change{live: object, verb: Deleted, unlike: true})
	return err
}

// adoptable says why a foreign object may not be taken over; nil if its owner allowed it.
func (w *writer) adoptable(k kind, live client.Object) error {
	foreign := &ForeignObjectError{Kind: k.name, Namespace: live.GetNamespace(), Name: live.GetName(), Profile: w.profile.Name}
	if owner := metav1.GetControllerOf(live); owner != nil {
		foreign.Owner = owner.Kind + "/" + owner.Name
		return foreign
	}
	if live.GetAnnotations()[v1alpha1.AnnotationAdopt] != w.profile.Name {
		return foreign
	}
	if foreign.Fields = k.foreign(live); len(foreign.Fields) > 0 {
		return foreign
	}
	return nil
}

// ownAnnotations are those that only the operator sets on its objects.
var ownAnnotations = []string{
	v1alpha1.AnnotationSwitchedAt, v1alpha1.AnnotationPreviousMode, v1alpha1.AnnotationRolledBack, istio.AnnotationDryRun,
}

// dress gives an object the owners, labels and annotations that it must have, and leaves those of others alone.
func (w *writer) dress(object, want client.Object) error {
	labels := maps.Clone(object.GetLabels())
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, want.GetLabels())
	object.SetLabels(labels)
	annotations := maps.Clone(object.GetAnnotations())
	for _, key := range ownAnnotations {
		delete(annotations, key)
	}
	if len(want.GetAnnotations()) > 0 && annotations == nil {
		annotations = map[string]string{}
	}
	maps.Copy(annotations, want.GetAnnotations())
	object.SetAnnotations(annotations)
	object.SetOwnerReferences(want.GetOwnerReferences())
	if err := controllerutil.SetControllerReference(w.profile, object, w.client.Scheme()); err != nil {
		return fmt.Errorf("owning %s: %w", object.GetName(), err)
	}
	return nil
}
