package controllers

import (
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/resolve"
)

// CacheOptions keep the manager's cache small: nobody's managed fields, of pods and scheduled jobs only what resolve reads,
// of service accounts that they exist, and configuration maps of Istio's namespace only. Of Secrets there are only the
// metadata of those of Istio's namespace that stand for remote clusters.
func CacheOptions(istioNamespace string) cache.Options {
	return cache.Options{
		DefaultTransform: cache.TransformStripManagedFields(),
		ByObject: map[client.Object]cache.ByObject{
			&corev1.Pod{}:            {Transform: resolve.TrimPod},
			&corev1.Namespace{}:      {Transform: slimNamespace},
			&corev1.ServiceAccount{}: {Transform: slimServiceAccount},
			&corev1.ConfigMap{}:      {Namespaces: map[string]cache.Config{istioNamespace: {}}},
			&batchv1.CronJob{}:       {Transform: resolve.TrimCronJob},
			&appsv1.Deployment{}:     {Transform: resolve.TrimController},
			&appsv1.StatefulSet{}:    {Transform: resolve.TrimController},
			&appsv1.DaemonSet{}:      {Transform: resolve.TrimController},
			resolve.RemoteSecret(): {
				Namespaces: map[string]cache.Config{istioNamespace: {LabelSelector: resolve.RemoteSecrets()}},
				Transform:  resolve.TrimRemoteSecret,
			},
		},
	}
}

// slimNamespace keeps of a namespace its labels and its phase.
func slimNamespace(object any) (any, error) {
	if namespace, ok := object.(*corev1.Namespace); ok {
		namespace.ManagedFields, namespace.Annotations, namespace.Spec = nil, nil, corev1.NamespaceSpec{}
	}
	return object, nil
}

// slimServiceAccount keeps of a service account, which is cached as metadata only, its name.
func slimServiceAccount(object any) (any, error) {
	if account, ok := object.(*metav1.PartialObjectMetadata); ok {
		account.ObjectMeta = metav1.ObjectMeta{
			Namespace: account.Namespace, Name: account.Name, UID: account.UID, ResourceVersion: account.ResourceVersion,
		}
	}
	return object, nil
}

// existence lets no update pass: that the object is there is all that counts.
func existence() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(event.UpdateEvent) bool { return false }}
}

// statusLost lets an update pass that takes conditions away: the operator always writes all of them.
func statusLost() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		before, ok1 := e.ObjectOld.(*v1alpha1.ServiceSecurityProfile)
		after, ok2 := e.ObjectNew.(*v1alpha1.ServiceSecurityProfile)
		return ok1 && ok2 && len(after.Status.Conditions) < len(before.Status.Conditions)
	}}
}

// changed lets an update pass only if something of what the cache keeps is different.
func changed() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		before, after := e.ObjectOld.DeepCopyObject().(client.Object), e.ObjectNew.DeepCopyObject().(client.Object)
		before.SetResourceVersion("")
		after.SetResourceVersion("")
		return !equality.Semantic.DeepEqual(before, after)
	}}
}
