package resolve

import (
	"context"
	"maps"

	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

// WorkloadEntryKind is Istio's WorkloadEntry as it is read here.
var WorkloadEntryKind = networkingv1.SchemeGroupVersion.WithKind("WorkloadEntry")

// An entry is indexed by its labels, as pods are.
var entriesByLabel = index[*networkingv1.WorkloadEntry]{
	name:    "servicesecurity.dev/workload-entry-label",
	object:  &networkingv1.WorkloadEntry{},
	newList: func() client.ObjectList { return &networkingv1.WorkloadEntryList{} },
	keys: func(e *networkingv1.WorkloadEntry) []string {
		return pairs([]map[string]string{entryLabels(e)})
	},
	kind: WorkloadEntryKind,
}

// IndexWorkloadEntries registers the indexes of WorkloadEntry, whose CustomResourceDefinition may arrive late.
func IndexWorkloadEntries(ctx context.Context, indexer client.FieldIndexer) error {
	return entriesByLabel.register(ctx, indexer)
}

// entryLabels are the labels by which istiod selects an entry: those of its metadata count before those of its spec.
func entryLabels(entry *networkingv1.WorkloadEntry) map[string]string {
	labels := maps.Clone(entry.Spec.GetLabels())
	if labels == nil {
		return entry.Labels
	}
	maps.Copy(labels, entry.Labels)
	return labels
}

// resolveWorkloadEntries finds the machines outside the cluster that are a part of the target.
func (res *resolution) resolveWorkloadEntries(ctx context.Context) error {
	var entries []*networkingv1.WorkloadEntry
	var err error
	selector := res.facts.Target.Selector
	whole := res.facts.Target.Scope != v1alpha1.ScopeWorkload
	switch {
	case whole:
		entries, err = within(ctx, res, entriesByLabel)
	case len(selector) > 0:
		entries, err = find(ctx, res.source, entriesByLabel, res.profile.Namespace, anchor(selector))
	}
	for _, entry := range entries {
		if whole || matches(selector, entryLabels(entry)) {
			res.facts.WorkloadEntries = append(res.facts.WorkloadEntries, qualified(entry))
		}
	}
	return err
}
