package faults

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

// table has the objects of a kind at one moment. Neither it nor they are ever changed.
type table map[client.ObjectKey]client.Object

// store is an API server that remembers everything that it ever had, so that a cache can lag behind it. It does what the
// operator's writes rest on: versions, preconditions, names that are taken, dry runs and the status that is applied.
type store struct {
	scheme  *runtime.Scheme
	indexes map[schema.GroupVersionKind]map[string]client.IndexerFunc
	// past are the tables of each kind, the last one as it is now.
	past    map[schema.GroupVersionKind][]table
	version int64
	now     func() time.Time
}

func (s *store) kind(object runtime.Object) schema.GroupVersionKind {
	gvk, err := apiutil.GVKForObject(object, s.scheme)
	if err != nil {
		panic(err) // a kind that the operator's scheme does not have is a mistake in this package
	}
	gvk.Kind = strings.TrimSuffix(gvk.Kind, "List")
	return gvk
}

// latest is the number of the present table of a kind.
func (s *store) latest(kind schema.GroupVersionKind) int { return max(0, len(s.past[kind])-1) }

// at is the table of a kind that has the number.
func (s *store) at(kind schema.GroupVersionKind, number int) table {
	if all := s.past[kind]; number < len(all) {
		return all[number]
	}
	return nil
}

func (s *store) present(kind schema.GroupVersionKind) table { return s.at(kind, s.latest(kind)) }

func resource(kind schema.GroupVersionKind) schema.GroupResource {
	return schema.GroupResource{Group: kind.Group, Resource: kind.Kind}
}

// put replaces the object of a name; nil removes it.
func (s *store) put(kind schema.GroupVersionKind, key client.ObjectKey, object client.Object) {
	next := make(table, len(s.present(kind))+1)
	for k, o := range s.present(kind) {
		next[k] = o
	}
	delete(next, key)
	if object != nil {
		next[key] = object
	}
	s.past[kind] = append(s.past[kind], next)
}

func (s *store) stamp(object client.Object) {
	s.version++
	object.SetResourceVersion(strconv.FormatInt(s.version, 10))
}

func duplicate[T client.Object](object T) T { return object.DeepCopyObject().(T) }

// create adds an object, and gives the caller's what the API server sets.
func (s *store) create(object client.Object, dryRun bool) error {
	kind, key := s.kind(object), client.ObjectKeyFromObject(object)
	if s.present(kind)[key] != nil {
		return apierrors.NewAlreadyExists(resource(kind), key.Name)
	}
	if object.GetResourceVersion() != "" {
		return apierrors.NewBadRequest("resourceVersion should not be set on objects to be created")
	}
	if dryRun {
		return nil
	}
	s.stamp(object)
	object.SetUID(types.UID("uid-" + object.GetResourceVersion()))
	object.SetCreationTimestamp(metav1.NewTime(s.now()))
	s.put(kind, key, duplicate(object))
	return nil
}

// update replaces an object, of the version that the caller has.
func (s *store) update(object client.Object, dryRun bool) error {
	kind, key := s.kind(object), client.ObjectKeyFromObject(object)
	live := s.present(kind)[key]
	switch {
	case live == nil:
		return apierrors.NewNotFound(resource(kind), key.Name)
	case object.GetUID() != live.GetUID(), object.GetResourceVersion() != live.GetResourceVersion():
		return apierrors.NewConflict(resource(kind), key.Name, errors.New("the object has been modified"))
	case dryRun:
		return nil
	}
	s.stamp(object)
	s.put(kind, key, duplicate(object))
	return nil
}

// remove deletes an object, if the preconditions hold.
func (s *store) remove(object client.Object, conditions *metav1.Preconditions) error {
	kind, key := s.kind(object), client.ObjectKeyFromObject(object)
	live := s.present(kind)[key]
	if live == nil {
		return apierrors.NewNotFound(resource(kind), key.Name)
	}
	if p := conditions; p != nil && (p.UID != nil && *p.UID != live.GetUID() || p.ResourceVersion != nil && *p.ResourceVersion != live.GetResourceVersion()) {
		return apierrors.NewConflict(resource(kind), key.Name, errors.New("the precondition does not hold"))
	}
	s.put(kind, key, nil)
	return nil
}

// applied is a status that is written by server-side apply, by the only one who writes it.
type applied interface {
	UnstructuredContent() map[string]any
	GetNamespace() string
	GetName() string
	GetUID() types.UID
	SetResourceVersion(string)
}

func (s *store) applyStatus(object applied) error {
	kind := v1alpha1.SchemeGroupVersion.WithKind(v1alpha1.Kind)
	key := client.ObjectKey{Namespace: object.GetNamespace(), Name: object.GetName()}
	live, ok := s.present(kind)[key].(*v1alpha1.ServiceSecurityProfile)
	switch {
	case !ok:
		return apierrors.NewNotFound(resource(kind), key.Name)
	case object.GetUID() != live.UID:
		return apierrors.NewConflict(resource(kind), key.Name, errors.New("the UID is another one"))
	}
	written := struct {
		Status v1alpha1.ServiceSecurityProfileStatus `json:"status"`
	}{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(map[string]any{"status": object.UnstructuredContent()["status"]}, &written); err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	next := live.DeepCopy()
	next.Status = written.Status
	s.stamp(next)
	object.SetResourceVersion(next.ResourceVersion)
	s.put(kind, key, next)
	return nil
}

// get answers from the table of a number.
func (s *store) get(number int, key client.ObjectKey, into client.Object) error {
	kind := s.kind(into)
	found := s.at(kind, number)[key]
	if found == nil {
		return apierrors.NewNotFound(resource(kind), key.Name)
	}
	if partial, ok := into.(*metav1.PartialObjectMetadata); ok {
		partial.ObjectMeta = *metadataOf(found)
		return nil
	}
	reflect.ValueOf(into).Elem().Set(reflect.ValueOf(duplicate(found)).Elem())
	return nil
}

func metadataOf(object client.Object) *metav1.ObjectMeta {
	return object.(metav1.ObjectMetaAccessor).GetObjectMeta().(*metav1.ObjectMeta).DeepCopy()
}

// list answers from the table of a number.
func (s *store) list(number int, into client.ObjectList, opts ...client.ListOption) error {
	options := client.ListOptions{}
	options.ApplyOptions(opts)
	kind := s.kind(into)
	var found []runtime.Object
	for key, object := range s.at(kind, number) {
		if options.Namespace != "" && key.Namespace != options.Namespace {
			continue
		}
		if options.LabelSelector != nil && !options.LabelSelector.Matches(labelSet(object.GetLabels())) {
			continue
		}
		indexed, err := s.indexed(kind, object, options)
		if err != nil {
			return err
		}
		if indexed {
			found = append(found, listed(object, into, options))
		}
	}
	slices.SortFunc(found, func(a, b runtime.Object) int {
		x, y := a.(client.Object), b.(client.Object)
		return strings.Compare(x.GetNamespace()+"/"+x.GetName(), y.GetNamespace()+"/"+y.GetName())
	})
	if len(found) == 0 {
		return nil
	}
	return meta.SetList(into, found)
}

// listed is an object as an item of the list: a copy, unless who asks wants the cache's own, as the operator does to read it.
func listed(object client.Object, into client.ObjectList, options client.ListOptions) runtime.Object {
	if _, ok := into.(*metav1.PartialObjectMetadataList); ok {
		return &metav1.PartialObjectMetadata{ObjectMeta: *metadataOf(object)}
	}
	if unsafe := options.UnsafeDisableDeepCopy; unsafe != nil && *unsafe {
		return object
	}
	return object.DeepCopyObject()
}

// indexed says whether an object has the values of the indexes that are asked for.
func (s *store) indexed(kind schema.GroupVersionKind, object client.Object, options client.ListOptions) (bool, error) {
	if options.FieldSelector == nil {
		return true, nil
	}
	for _, want := range options.FieldSelector.Requirements() {
		extract := s.indexes[kind][want.Field]
		if extract == nil {
			return false, fmt.Errorf("there is no index %s of %s", want.Field, kind.Kind)
		}
		if !slices.Contains(extract(object), want.Value) {
			return false, nil
		}
	}
	return true, nil
}

// IndexField registers an index. It implements client.FieldIndexer.
func (s *store) IndexField(_ context.Context, object client.Object, field string, extract client.IndexerFunc) error {
	kind := s.kind(object)
	if s.indexes[kind] == nil {
		s.indexes[kind] = map[string]client.IndexerFunc{}
	}
	s.indexes[kind][field] = extract
	return nil
}
