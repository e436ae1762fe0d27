package resolve

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// source reads for one resolution, by the cache's indexes or, live, by plain lists.
type source struct {
	reader    client.Reader
	live      bool
	installed func(schema.GroupVersionKind) bool
	// absent are the kinds that turned out not to be served.
	absent map[schema.GroupVersionKind]bool
	// lists are those read so far, if several resolutions share them; nil if not.
	lists map[string][]runtime.Object
}

// has says whether the API server knows the kind, as far as it is known yet.
func (s *source) has(kind schema.GroupVersionKind) bool {
	if kind.Empty() {
		return true
	}
	return !s.absent[kind] && (s.installed == nil || s.installed(kind))
}

// get reads one object and says whether it exists.
func (s *source) get(ctx context.Context, kind schema.GroupVersionKind, namespace, name string, obj client.Object) (bool, error) {
	if !s.has(kind) {
		return false, nil
	}
	err := s.reader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, obj)
	switch {
	case err == nil:
		return true, nil
	case apierrors.IsNotFound(err):
		return false, nil
	case !kind.Empty() && meta.IsNoMatchError(err):
		s.absent[kind] = true
		return false, nil
	default:
		return false, fmt.Errorf("reading %T %s/%s: %w", obj, namespace, name, err)
	}
}

// list reads a list. Nobody may change what it returns: a cache hands out its own objects.
func (s *source) list(ctx context.Context, kind schema.GroupVersionKind, list client.ObjectList, opts ...client.ListOption) ([]runtime.Object, error) {
	if !s.has(kind) {
		return nil, nil
	}
	key := ""
	if s.lists != nil {
		asked := (&client.ListOptions{}).ApplyOptions(opts)
		key = fmt.Sprintf("%T in %q by %v and %v", list, asked.Namespace, asked.LabelSelector, asked.FieldSelector)
		if items, ok := s.lists[key]; ok {
			return items, nil
		}
	}
	err := s.reader.List(ctx, list, append(opts, client.UnsafeDisableDeepCopy)...)
	if err != nil {
		// A definition that went away a moment ago answers 404.
		if !kind.Empty() && (meta.IsNoMatchError(err) || apierrors.IsNotFound(err)) {
			s.absent[kind] = true
			return nil, nil
		}
		return nil, fmt.Errorf("listing %T: %w", list, err)
	}
	items, err := meta.ExtractList(list)
	if err != nil {
		return nil, fmt.Errorf("reading %T: %w", list, err)
	}
	if s.lists != nil {
		s.lists[key] = items
	}
	return items, nil
}

// find returns the objects of a namespace, or of all if it is empty, that have one of the keys, ordered by namespace and
// name.
func find[T client.Object](ctx context.Context, s *source, ix index[T], namespace string, keys ...string) ([]T, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	var found []T
	seen := map[client.ObjectKey]bool{}
	collect := func(items []runtime.Object, wanted func(T) bool) {
		for _, item := range items {
			obj, ok := item.(T)
			if !ok || seen[client.ObjectKeyFromObject(obj)] || !wanted(obj) {
				continue
			}
			seen[client.ObjectKeyFromObject(obj)] = true
			found = append(found, obj)
		}
	}
	if s.live {
		items, err := s.list(ctx, ix.kind, ix.newList(), client.InNamespace(namespace))
		if err != nil {
			return nil, err
		}
		collect(items, func(obj T) bool {
			return slices.ContainsFunc(ix.keys(obj), func(key string) bool { return slices.Contains(keys, key) })
		})
	} else {
		for _, key := range keys {
			items, err := s.list(ctx, ix.kind, ix.newList(), client.InNamespace(namespace), client.MatchingFields{ix.name: key})
			if err != nil {
				return nil, err
			}
			collect(items, func(T) bool { return true })
		}
	}
	sortByName(found)
	return found, nil
}

// listAll returns all objects of a namespace, or of all if it is empty, ordered by namespace and name.
func listAll[T client.Object](ctx context.Context, s *source, ix index[T], namespace string) ([]T, error) {
	items, err := s.list(ctx, ix.kind, ix.newList(), client.InNamespace(namespace))
	if err != nil {
		return nil, err
	}
	found := make([]T, 0, len(items))
	for _, item := range items {
		if obj, ok := item.(T); ok {
			found = append(found, obj)
		}
	}
	sortByName(found)
	return found, nil
}

// findPods returns the pods of a namespace that a selector matches and that are not finished, ordered by name. An empty
// selector matches nothing, as a Service's does.
func findPods(ctx context.Context, s *source, namespace string, selector map[string]string) ([]*corev1.Pod, error) {
	if len(selector) == 0 {
		return nil, nil
	}
	valid, possible := podSelector(selector)
	if !possible {
		return nil, nil
	}
	opts := []client.ListOption{client.InNamespace(namespace), client.MatchingLabelsSelector{Selector: valid}}
	if !s.live {
		indexed := map[string]string{}
		for k, v := range selector {
			if !perPodLabels[k] {
				indexed[k] = v
			}
		}
		if len(indexed) > 0 {
			opts = append(opts, client.MatchingFields{podsByLabel.name: anchor(indexed)})
		}
	}
	items, err := s.list(ctx, schema.GroupVersionKind{}, &corev1.PodList{}, opts...)
	if err != nil {
		return nil, err
	}
	return unfinished(items), nil
}

// unfinished are the pods of a list that are not finished, ordered by namespace and name.
func unfinished(items []runtime.Object) []*corev1.Pod {
	pods := make([]*corev1.Pod, 0, len(items))
	for _, item := range items {
		if pod, ok := item.(*corev1.Pod); ok && !finished(pod) {
			pods = append(pods, pod)
		}
	}
	sortByName(pods)
	return pods
}

// podSelector is a selector of labels, and whether a pod can have them at all: the API server refuses to be asked for
// others.
func podSelector(set map[string]string) (labels.Selector, bool) {
	selector, err := labels.ValidatedSelectorFromSet(set)
	return selector, err == nil
}

func sortByName[T client.Object](objects []T) {
	slices.SortFunc(objects, func(a, b T) int {
		if c := strings.Compare(a.GetNamespace(), b.GetNamespace()); c != 0 {
			return c
		}
		return strings.Compare(a.GetName(), b.GetName())
	})
}

// olderThan orders by creation time, then name, then namespace, as Istio does where only one object counts.
func olderThan(a, b client.Object) bool {
	at, bt := a.GetCreationTimestamp(), b.GetCreationTimestamp()
	if !at.Equal(&bt) {
		return at.Before(&bt)
	}
	if a.GetName() != b.GetName() {
		return a.GetName() < b.GetName()
	}
	return a.GetNamespace() < b.GetNamespace()
}

// matches says whether labels have every pair of a selector that has any.
func matches(selector, set map[string]string) bool {
	if len(selector) == 0 {
		return false
	}
	for k, v := range selector {
		if got, ok := set[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// labelSets are the labels of pods.
func labelSets(pods []*corev1.Pod) []map[string]string {
	sets := make([]map[string]string, 0, len(pods))
	for _, pod := range pods {
		sets = append(sets, pod.Labels)
	}
	return sets
}

// pairs are the distinct label pairs of some sets of labels, in order.
func pairs(sets []map[string]string) []string {
	seen := map[string]bool{}
	var all []string
	for _, set := range sets {
		for k, v := range set {
			if p := pair(k, v); !seen[p] {
				seen[p] = true
				all = append(all, p)
			}
		}
	}
	slices.Sort(all)
	return all
}

// matchesAny says whether a selector matches one of the sets of labels.
func matchesAny(selector map[string]string, sets []map[string]string) bool {
	return slices.ContainsFunc(sets, func(set map[string]string) bool { return matches(selector, set) })
}

// servicesSelecting returns the Services of a namespace that select one of the sets of labels.
func servicesSelecting(ctx context.Context, s *source, namespace string, sets []map[string]string) ([]*corev1.Service, error) {
	services, err := find(ctx, s, servicesBySelector, namespace, pairs(sets)...)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(services, func(service *corev1.Service) bool {
		return !matchesAny(serviceSelector(service), sets)
	}), nil
}
