package testbed

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
)

// idleConnections to the webhook are kept for as many questions at once.
const idleConnections = 16

// Verdict is what Istio's own validation says of an object.
type Verdict struct {
	// Allowed tells whether Istio would take it.
	Allowed bool
	// Message is the reason of a refusal.
	Message string
	// Warnings are what Istio says of an object that it takes.
	Warnings []string
}

// Validate asks istiod's validating webhook about an object, as the API server would when it is created.
func (i *Istiod) Validate(ctx context.Context, object client.Object) (Verdict, error) {
	review, err := i.review(object)
	if err != nil {
		return Verdict{}, err
	}
	body, err := json.Marshal(review)
	if err != nil {
		return Verdict{}, fmt.Errorf("encoding the review: %w", err)
	}
	httpClient, err := i.webhookClient(ctx)
	if err != nil {
		return Verdict{}, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+i.ports.address(i.ports.web)+"/validate", bytes.NewReader(body))
	if err != nil {
		return Verdict{}, fmt.Errorf("making the review's request: %w", err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := httpClient.Do(request)
	if err != nil {
		return Verdict{}, fmt.Errorf("asking istiod: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	var answer admissionv1.AdmissionReview
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return Verdict{}, fmt.Errorf("reading istiod's verdict (%s): %w", response.Status, err)
	}
	if answer.Response == nil {
		return Verdict{}, fmt.Errorf("reading istiod's verdict (%s): it is empty", response.Status)
	}
	verdict := Verdict{Allowed: answer.Response.Allowed, Warnings: answer.Response.Warnings}
	if answer.Response.Result != nil {
		verdict.Message = answer.Response.Result.Message
	}
	return verdict, nil
}

func (i *Istiod) review(object client.Object) (*admissionv1.AdmissionReview, error) {
	gvk, err := apiutil.GVKForObject(object, i.client.Scheme())
	if err != nil {
		if gvk = object.GetObjectKind().GroupVersionKind(); gvk.Empty() {
			return nil, fmt.Errorf("finding the object's kind: %w", err)
		}
	}
	mapping, err := i.client.RESTMapper().RESTMapping(gvk.GroupKind(), gvk.Version)
	if err != nil {
		return nil, fmt.Errorf("finding the object's resource: %w", err)
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	if err != nil {
		return nil, fmt.Errorf("encoding the object: %w", err)
	}
	content["apiVersion"], content["kind"] = gvk.ToAPIVersionAndKind()
	raw, err := json.Marshal(content)
	if err != nil {
		return nil, fmt.Errorf("encoding the object: %w", err)
	}
	return &admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: admissionv1.SchemeGroupVersion.String(), Kind: "AdmissionReview"},
		Request: &admissionv1.AdmissionRequest{
			UID:       types.UID("testbed"),
			Kind:      metav1.GroupVersionKind{Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind},
			Resource:  metav1.GroupVersionResource{Group: mapping.Resource.Group, Version: mapping.Resource.Version, Resource: mapping.Resource.Resource},
			Name:      object.GetName(),
			Namespace: object.GetNamespace(),
			Operation: admissionv1.Create,
			Object:    runtime.RawExtension{Raw: raw},
		},
	}, nil
}

// webhookClient trusts what pods trust: the root that istiod publishes. It is made once, so that thousands of questions need
// a few connections.
func (i *Istiod) webhookClient(ctx context.Context) (*http.Client, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.webhook != nil {
		return i.webhook, nil
	}
	const pause = 50 * time.Millisecond
	var published corev1.ConfigMap
	for {
		err := i.client.Get(ctx, client.ObjectKey{Namespace: istioNamespace, Name: "istio-ca-root-cert"}, &published)
		if err == nil {
			break
		}
		if client.IgnoreNotFound(err) != nil {
			return nil, fmt.Errorf("reading istiod's root certificate: %w", err)
		}
		select { // istiod publishes it a moment after it is ready
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for istiod's root certificate: %w", ctx.Err())
		case <-time.After(pause):
		}
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(published.Data["root-cert.pem"])) {
		return nil, errors.New("parsing istiod's root certificate: there is none in the config map")
	}
	i.webhook = &http.Client{Transport: &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: roots, ServerName: istiodHost, MinVersion: tls.VersionTLS12},
		MaxIdleConnsPerHost: idleConnections,
	}}
	return i.webhook, nil
}
