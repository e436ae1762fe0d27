package resolve

import (
	"context"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

// serviceAccountKind is read as metadata only: that a service account exists is all that counts.
var serviceAccountKind = corev1.SchemeGroupVersion.WithKind("ServiceAccount")

// ServiceAccount is a service account as it is read here: its metadata alone.
func ServiceAccount() *metav1.PartialObjectMetadata {
	account := &metav1.PartialObjectMetadata{}
	account.SetGroupVersionKind(serviceAccountKind)
	return account
}

// named are the service accounts, as "namespace/name", and the namespaces that a profile's callers name, in order.
func named(profile *v1alpha1.ServiceSecurityProfile) (accounts, namespaces []string) {
	authorization := profile.Spec.Authorization
	if authorization == nil {
		return nil, nil
	}
	allAccounts, allNamespaces := map[string]bool{}, map[string]bool{}
	for _, caller := range slices.Concat(authorization.AllowedCallers, authorization.DeniedCallers) {
		for _, account := range caller.ServiceAccounts {
			name := string(account)
			if !strings.Contains(name, "/") {
				name = profile.Namespace + "/" + name
			}
			allAccounts[name] = true
		}
		for _, namespace := range caller.Namespaces {
			allNamespaces[string(namespace)] = true
		}
	}
	return slices.Sorted(maps.Keys(allAccounts)), slices.Sorted(maps.Keys(allNamespaces))
}

// callerKeys are the keys of a profile by what its callers name. A namespace's key has no slash.
func callerKeys(profile *v1alpha1.ServiceSecurityProfile) []string {
	accounts, namespaces := named(profile)
	return append(accounts, namespaces...)
}

// resolveCallers finds out which of the callers that the profile names do not exist.
func (res *resolution) resolveCallers(ctx context.Context) error {
	accounts, namespaces := named(res.profile)
	for _, account := range accounts {
		namespace, name, _ := strings.Cut(account, "/")
		found, err := res.get(ctx, core, namespace, name, ServiceAccount())
		if err != nil {
			return err
		}
		if !found {
			res.facts.MissingServiceAccounts = append(res.facts.MissingServiceAccounts, account)
		}
	}
	for _, namespace := range namespaces {
		found, err := res.get(ctx, core, "", namespace, &corev1.Namespace{})
		if err != nil {
			return err
		}
		if !found {
			res.facts.MissingNamespaces = append(res.facts.MissingNamespaces, namespace)
		}
	}
	return nil
}
