//go:build istio

// Package istio_test asks a real istiod about everything that the operator's golden cases write.
package istio_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/yaml"

	"github.com/servicesecurity/operator/test/testbed"
)

const deadline = 5 * time.Minute

// bed is a control plane with an istiod beside it.
func bed(t *testing.T) (context.Context, client.Client, *testbed.Istiod) {
	t.Helper()
	log.SetLogger(zap.New())
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	t.Cleanup(cancel)
	plane, err := testbed.StartControlPlane(ctx, testbed.ControlPlaneOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := plane.Stop(); err != nil {
			t.Error(err)
		}
	})
	istiod, err := testbed.StartIstiod(ctx, plane, testbed.IstiodOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(istiod.Stop)
	kube, err := client.New(plane.Config(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return ctx, kube, istiod
}

// TestGolden asks istiod's own validation and the API server (Istio's CRDs with their CEL rules) about every object of
// every golden case, and expects neither a refusal nor a warning, nor a field that is dropped.
func TestGolden(t *testing.T) {
	ctx, kube, istiod := bed(t)
	cases := map[string][]*unstructured.Unstructured{}
	for _, pattern := range []string{"../../controllers/istio/testdata/*/out.yaml", "../../controllers/status/testdata/*/out.yaml"} {
		paths, err := filepath.Glob(pattern)
		if err != nil || len(paths) == 0 {
			t.Fatalf("no golden cases at %s: %v", pattern, err)
		}
		for _, path := range paths {
			cases[strings.TrimPrefix(path, "../../controllers/")] = objects(t, path)
		}
	}
	asked := 0
	for name, list := range cases {
		t.Run(name, func(t *testing.T) {
			for i, object := range list {
				asked++
				verdict, err := istiod.Validate(ctx, object)
				if err != nil {
					t.Fatal(err)
				}
				if !verdict.Allowed || len(verdict.Warnings) > 0 {
					t.Errorf("object %d, %s %s: istiod says %+v", i, object.GetKind(), object.GetName(), verdict)
				}
				served := object.DeepCopy()
				served.SetNamespace("default")
				if err := kube.Create(ctx, served, client.DryRunAll, client.FieldValidation("Strict")); err != nil {
					t.Errorf("object %d, %s %s: the API server says %v", i, object.GetKind(), object.GetName(), err)
				}
			}
		})
	}
	if asked < len(cases) {
		t.Errorf("%d objects in %d cases: were they read?", asked, len(cases))
	}
	t.Logf("%d objects of %d cases", asked, len(cases))
}

// TestRefusals shows that both would say so if something were wrong.
func TestRefusals(t *testing.T) {
	ctx, kube, istiod := bed(t)
	parse := func(text string) *unstructured.Unstructured {
		object := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(text), object); err != nil {
			t.Fatal(err)
		}
		return object
	}
	noPort := parse("{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: a, namespace: default}, spec: {host: a.default.svc.cluster.local, trafficPolicy: {portLevelSettings: [{tls: {mode: ISTIO_MUTUAL}}]}}}")
	verdict, err := istiod.Validate(ctx, noPort)
	if err != nil || verdict.Allowed {
		t.Errorf("istiod takes a port's settings without a port: %+v %v", verdict, err)
	}
	noSelector := parse("{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: a, namespace: default}, spec: {portLevelMtls: {\"80\": {mode: STRICT}}}}")
	if err := kube.Create(ctx, noSelector, client.DryRunAll); err == nil {
		t.Error("the API server takes port exceptions without a selector")
	}
}

// objects are all objects in a golden file: documents of their own, or in the list of a step.
func objects(t *testing.T, path string) []*unstructured.Unstructured {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []*unstructured.Unstructured
	for _, document := range strings.Split(string(text), "\n---\n") {
		var content map[string]any
		if err := yaml.Unmarshal([]byte(document), &content); err != nil {
			t.Fatal(err)
		}
		if content["kind"] != nil {
			all = append(all, &unstructured.Unstructured{Object: content})
		}
		listed, _ := content["objects"].([]any)
		for _, one := range listed {
			all = append(all, &unstructured.Unstructured{Object: one.(map[string]any)})
		}
	}
	return all
}
