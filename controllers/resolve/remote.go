package resolve

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// SecretKind is read as metadata only, in Istio's namespace, of the Secrets by which istiod reaches other clusters. The
// operator may not be allowed to.
var SecretKind = corev1.SchemeGroupVersion.WithKind("Secret")

const (
	labelMultiCluster     = "istio/multiCluster"
	annotationClusterName = "networking.istio.io/cluster"
)

// RemoteSecrets select the Secrets by which istiod reaches other clusters.
func RemoteSecrets() labels.Selector {
	return labels.SelectorFromSet(labels.Set{labelMultiCluster: "true"})
}

// RemoteSecret is such a Secret as it is read here: its metadata alone.
func RemoteSecret() *metav1.PartialObjectMetadata {
	secret := &metav1.PartialObjectMetadata{}
	secret.SetGroupVersionKind(SecretKind)
	return secret
}

// IndexRemoteSecrets registers the indexes of these Secrets, of which there are none: they are few.
func IndexRemoteSecrets(context.Context, client.FieldIndexer) error { return nil }

// TrimRemoteSecret is a cache transform that keeps of a Secret's metadata what is read here.
func TrimRemoteSecret(obj any) (any, error) {
	if secret, ok := obj.(*metav1.PartialObjectMetadata); ok {
		trimmed := metav1.ObjectMeta{
			Namespace: secret.Namespace, Name: secret.Name, UID: secret.UID, ResourceVersion: secret.ResourceVersion, Labels: secret.Labels,
		}
		if name, ok := secret.Annotations[annotationClusterName]; ok {
			trimmed.Annotations = map[string]string{annotationClusterName: name}
		}
		secret.ObjectMeta = trimmed
	}
	return obj, nil
}

func remoteSecrets(namespace string) []client.ListOption {
	return []client.ListOption{client.InNamespace(namespace), client.MatchingLabelsSelector{Selector: RemoteSecrets()}}
}

func remoteSecretList() *metav1.PartialObjectMetadataList {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(SecretKind.GroupVersion().WithKind(SecretKind.Kind + "List"))
	return list
}

// MayListRemoteSecrets asks the API server whether the operator may read the remote clusters' Secrets of a namespace: an
// informer that may not would never be ready.
func MayListRemoteSecrets(ctx context.Context, live client.Reader, namespace string) (bool, error) {
	err := live.List(ctx, remoteSecretList(), append(remoteSecrets(namespace), client.Limit(1))...)
	if apierrors.IsForbidden(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("listing the secrets of remote clusters: %w", err)
	}
	return true, nil
}

// resolveRemoteClusters finds the clusters whose pods istiod knows and the operator does not. That it may not look is told
// apart, unless it could before: then it must not look as if they were gone.
func (res *resolution) resolveRemoteClusters(ctx context.Context) error {
	if !res.has(SecretKind) {
		res.facts.RemoteClustersHidden = true
		return nil
	}
	items, err := res.list(ctx, SecretKind, remoteSecretList(), remoteSecrets(res.resolver.RootNamespace)...)
	if apierrors.IsForbidden(err) && res.installed == nil {
		res.facts.RemoteClustersHidden = true
		return nil
	}
	if err != nil {
		return err
	}
	for _, item := range items {
		if secret, ok := item.(*metav1.PartialObjectMetadata); ok {
			res.facts.RemoteClusters = append(res.facts.RemoteClusters, cmp.Or(secret.Annotations[annotationClusterName], secret.Name))
		}
	}
	slices.Sort(res.facts.RemoteClusters)
	return nil
}
