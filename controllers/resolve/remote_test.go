package resolve

import (
	"context"
	"errors"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
)

func newSecret(namespace, name string, labels, annotations tags) *metav1.PartialObjectMetadata {
	secret := RemoteSecret()
	secret.ObjectMeta = metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels, Annotations: annotations}
	return secret
}

// refusing makes every list of Secrets fail.
func refusing(t *testing.T, reader client.Reader, err error) client.Reader {
	t.Helper()
	return interceptor.NewClient(reader.(client.WithWatch), interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			if _, ok := list.(*metav1.PartialObjectMetadataList); ok {
				return err
			}
			return c.List(ctx, list, opts...)
		},
	})
}

func TestRemoteClusters(t *testing.T) {
	remote := tags{labelMultiCluster: "true"}
	profile := newProfile("p", 0, toService("web"), strict)
	r := cluster(t, profile,
		newSecret("istio-system", "istio-remote-secret-west", remote, tags{annotationClusterName: "west"}),
		newSecret("istio-system", "by-hand", remote, nil), newSecret("istio-system", "else", nil, nil),
		newSecret("foo", "elsewhere", remote, nil))
	got := mustResolve(t, r, profile)
	diff(t, "clusters", []string{"by-hand", "west"}, got.RemoteClusters)
	if got.RemoteClustersHidden {
		t.Error("clusters are hidden, and told")
	}
	may, err := MayListRemoteSecrets(t.Context(), r.LiveReader, "istio-system")
	if err != nil || !may {
		t.Errorf("they may be listed: %t, %v", may, err)
	}
}

func TestRemoteClustersForbidden(t *testing.T) {
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "secrets"}, "", errors.New("no"))
	profile := newProfile("p", 0, toService("web"), strict)
	base := cluster(t, profile)
	r := *base
	r.Reader, r.LiveReader = refusing(t, base.Reader, forbidden), refusing(t, base.LiveReader, forbidden)
	if may, err := MayListRemoteSecrets(t.Context(), r.LiveReader, "istio-system"); may || err != nil {
		t.Errorf("they may be listed: %t, %v, want neither", may, err)
	}
	if !mustResolve(t, &r, profile).RemoteClustersHidden {
		t.Error("the clusters are not hidden")
	}
	without := *base
	without.Installed = func(kind schema.GroupVersionKind) bool { return kind != SecretKind }
	if !mustResolve(t, &without, profile).RemoteClustersHidden {
		t.Error("the clusters are not hidden while the kind is not watched")
	}
	r.Installed = func(schema.GroupVersionKind) bool { return true }
	if _, err := r.Live().Resolve(t.Context(), profile); !apierrors.IsForbidden(errors.Unwrap(err)) {
		t.Errorf("a permission that was taken away is told as %v", err)
	}
	broken := errors.New("away")
	if _, err := MayListRemoteSecrets(t.Context(), refusing(t, base.LiveReader, broken), "istio-system"); !errors.Is(err, broken) {
		t.Errorf("an API server that is away is told as %v", err)
	}
}

func TestTrimRemoteSecret(t *testing.T) {
	remote := tags{labelMultiCluster: "true"}
	got, err := TrimRemoteSecret(newSecret("istio-system", "s", remote, tags{annotationClusterName: "west", "kubectl": "long"}))
	if err != nil {
		t.Fatal(err)
	}
	diff(t, "secret", newSecret("istio-system", "s", remote, tags{annotationClusterName: "west"}), got.(*metav1.PartialObjectMetadata))
	got, err = TrimRemoteSecret(newSecret("istio-system", "s", remote, tags{"kubectl": "long"}))
	if err != nil {
		t.Fatal(err)
	}
	diff(t, "secret without a name", newSecret("istio-system", "s", remote, nil), got.(*metav1.PartialObjectMetadata))
	if other, err := TrimRemoteSecret("other"); other != "other" || err != nil {
		t.Errorf("what is no Secret becomes %v, %v", other, err)
	}
}
