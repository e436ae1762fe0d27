package apply

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	networkingapi "istio.io/api/networking/v1alpha3"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

// kind is what the writer must know of a kind of object.
type kind struct {
	name  string
	empty func() client.Object
	list  func() client.ObjectList
	// same compares two specs in full.
	same func(a, b client.Object) bool
	// take gives live the spec of want.
	take func(live, want client.Object)
	// foreign names the fields of a spec that a profile cannot say.
	foreign func(client.Object) []string
}

// writer makes the writes of one Apply and remembers them.
type writer struct {
	client  client.Client
	profile *v1alpha1.ServiceSecurityProfile
	result  Result
	errs    []error
}

func (w *writer) fail(err error) { w.errs = append(w.errs, err) }

func (w *writer) done(verb Verb, k kind, name string) {
	w.result.Changes = append(w.result.Changes, Change{Verb: verb, Kind: k.name, Name: name})
}

func (w *writer) owns(k kind, name string) {
	w.result.Resources = append(w.result.Resources, v1alpha1.ResourceRef{Kind: k.name, Name: name})
}

// converge makes the profile's objects of a kind those that are wanted.
func (w *writer) converge(ctx context.Context, k kind, want []client.Object) {
	wanted := map[string]bool{}
	for _, object := range want {
		wanted[object.GetName()] = true
		if err := w.write(ctx, k, object); err != nil {
			w.fail(err)
		}
	}
	owned, err := w.owned(ctx, k)
	if err != nil {
		w.fail(err)
		return
	}
	for _, object := range owned {
		if !wanted[object.GetName()] {
			if err := w.remove(ctx, k, object); err != nil {
				w.fail(err)
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
	live := k.empty()
	err := w.client.Get(ctx, client.ObjectKeyFromObject(want), live)
	if apierrors.IsNotFound(err) {
		return w.create(ctx, k, want)
	}
	if err != nil {
		return fmt.Errorf("reading %s %s: %w", k.name, want.GetName(), err)
	}
	verb := Updated
	if !metav1.IsControlledBy(live, w.profile) {
		if err := w.adoptable(k, live); err != nil {
			return err
		}
		verb = Adopted
	}
	merged := live.DeepCopyObject().(client.Object)
	k.take(merged, want)
	if err := w.dress(merged, want); err != nil {
		return err
	}
	if k.same(live, want) && equality.Semantic.DeepEqual(metadata(live), metadata(merged)) {
		w.owns(k, want.GetName())
		return nil
	}
	if err := w.client.Update(ctx, merged, client.FieldValidation(metav1.FieldValidationStrict)); err != nil {
		return explain(k, want.GetName(), "updating", err)
	}
	w.done(verb, k, want.GetName())
	w.owns(k, want.GetName())
	return nil
}

func (w *writer) create(ctx context.Context, k kind, want client.Object) error {
	object := want.DeepCopyObject().(client.Object)
	if err := w.dress(object, want); err != nil {
		return err
	}
	if err := w.client.Create(ctx, object, client.FieldValidation(metav1.FieldValidationStrict)); err != nil {
		return explain(k, want.GetName(), "creating", err)
	}
	w.done(Created, k, want.GetName())
	w.owns(k, want.GetName())
	return nil
}

// remove deletes an object that is still the one that was looked at.
func (w *writer) remove(ctx context.Context, k kind, object client.Object) error {
	if object.GetDeletionTimestamp() != nil {
		return nil
	}
	uid, version := object.GetUID(), object.GetResourceVersion()
	err := w.client.Delete(ctx, object, client.Preconditions{UID: &uid, ResourceVersion: &version})
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("deleting %s %s: %w", k.name, object.GetName(), err)
	}
	w.done(Deleted, k, object.GetName())
	return nil
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
var ownAnnotations = []string{v1alpha1.AnnotationSwitchedAt, v1alpha1.AnnotationPreviousMode}

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

func equal(a, b proto.Message) bool { return proto.Equal(a, b) }

// inexpressible names what a DestinationRule says and a profile cannot.
func inexpressible(spec *networkingapi.DestinationRule) []string {
	rest := proto.Clone(spec).(*networkingapi.DestinationRule)
	var fields []string
	policy := rest.GetTrafficPolicy()
	for i, port := range policy.GetPortLevelSettings() {
		port.Tls, port.Port = nil, nil
		if !proto.Equal(port, &networkingapi.TrafficPolicy_PortTrafficPolicy{}) {
			fields = append(fields, fmt.Sprintf("trafficPolicy.portLevelSettings[%d]", i))
		}
	}
	if policy != nil {
		policy.Tls, policy.PortLevelSettings = nil, nil
		policy.ProtoReflect().Range(named(&fields, "trafficPolicy."))
	}
	rest.Host, rest.TrafficPolicy = "", nil
	rest.ProtoReflect().Range(named(&fields, ""))
	slices.Sort(fields)
	return fields
}

func named(fields *[]string, prefix string) func(protoreflect.FieldDescriptor, protoreflect.Value) bool {
	return func(field protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		*fields = append(*fields, prefix+field.JSONName())
		return true
	}
}
