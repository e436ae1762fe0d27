package apply

import (
	"context"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/controllers/istio"
)

// change is an object as it is to be beside what is live.
type change struct {
	// live is nil if there is none, and object is what is to be there; nil if the live one is to go.
	live, object client.Object
	// verb is empty if nothing is to be written.
	verb Verb
	// unlike says that something differs that Istio reads.
	unlike bool
}

func (c change) none() bool { return c.verb == "" }

func (c change) name() string {
	if c.object == nil {
		return c.live.GetName()
	}
	return c.object.GetName()
}

// compare says what must be written to have an object. It fails if the live one of its name is not the profile's.
func (w *writer) compare(ctx context.Context, k kind, want client.Object) (change, error) {
	live := k.empty()
	err := w.client.Get(ctx, client.ObjectKeyFromObject(want), live)
	if apierrors.IsNotFound(err) {
		object := want.DeepCopyObject().(client.Object)
		return change{object: object, verb: Created, unlike: true}, w.dress(object, want)
	}
	if err != nil {
		return change{}, fmt.Errorf("reading %s %s: %w", k.name, want.GetName(), err)
	}
	return w.difference(k, live, want)
}

// difference says what must be written to make the live object the wanted one.
func (w *writer) difference(k kind, live, want client.Object) (change, error) {
	c := change{live: live, object: live.DeepCopyObject().(client.Object), verb: Updated}
	if !metav1.IsControlledBy(live, w.profile) {
		if err := w.adoptable(k, live); err != nil {
			return change{}, err
		}
		c.verb = Adopted
	}
	k.take(c.object, want)
	if err := w.dress(c.object, want); err != nil {
		return change{}, err
	}
	c.unlike = !k.same(live, want) || live.GetAnnotations()[istio.AnnotationDryRun] != want.GetAnnotations()[istio.AnnotationDryRun]
	if !c.unlike && equality.Semantic.DeepEqual(metadata(live), metadata(c.object)) {
		c.verb = ""
	}
	return c, nil
}

// put makes the write of a change, if there is one, and gives the object as the API server has it then.
func (w *writer) put(ctx context.Context, k kind, c change) (client.Object, error) {
	if !c.none() {
		if err := w.send(ctx, k, c, c.object); err != nil {
			return nil, err
		}
		made := Change{Verb: c.verb, Kind: k.name, Name: c.name(), Unlike: c.unlike}
		if c.object != nil {
			made.Version = c.object.GetResourceVersion()
		} else {
			made.Version = c.live.GetResourceVersion()
		}
		w.result.Changes = append(w.result.Changes, made)
	}
	if c.object != nil {
		w.owns(k, c.name())
	}
	return c.object, nil
}

// try asks the API server, and with it Istio's own validation, whether it would take a change.
func (w *writer) try(ctx context.Context, k kind, c change) error {
	if c.none() || c.object == nil {
		return nil
	}
	return w.send(ctx, k, c, c.object.DeepCopyObject().(client.Object), metav1.DryRunAll)
}

// send makes the call of a change. What else may be about the object may have changed, but not since it was looked at.
func (w *writer) send(ctx context.Context, k kind, c change, object client.Object, dryRun ...string) error {
	switch {
	case object == nil:
		uid, version := c.live.GetUID(), c.live.GetResourceVersion()
		if err := w.client.Delete(ctx, c.live, client.Preconditions{UID: &uid, ResourceVersion: &version}); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("deleting %s %s: %w", k.name, c.name(), err)
		}
	case c.live == nil:
		if err := w.client.Create(ctx, object, &client.CreateOptions{DryRun: dryRun, FieldValidation: metav1.FieldValidationStrict}); err != nil {
			return explain(k, c.name(), "creating", err)
		}
	default:
		if err := w.client.Update(ctx, object, &client.UpdateOptions{DryRun: dryRun, FieldValidation: metav1.FieldValidationStrict}); err != nil {
			return explain(k, c.name(), "updating", err)
		}
	}
	return nil
}

// metadata is the part of an object's metadata that is compared.
func metadata(object client.Object) []any {
	return []any{object.GetLabels(), object.GetAnnotations(), object.GetOwnerReferences()}
}

// explain tells a field that the live CRD does not know from other failures.
func explain(k kind, name, verb string, err error) error {
	if (apierrors.IsBadRequest(err) || apierrors.IsInvalid(err)) && strings.Contains(err.Error(), "unknown field") {
		return &UnsupportedError{Kind: k.name, Name: name, Err: err}
	}
	return fmt.Errorf("%s %s %s: %w", verb, k.name, name, err)
}
