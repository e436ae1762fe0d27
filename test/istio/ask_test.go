//go:build istio

package istio_test

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"

	"sigs.k8s.io/controller-runtime/pkg/client"
)

// tcpWarning is what istiod says of a DENY rule about requests that is not kept away from TCP ports. Where none is declared,
// such a rule closes undeclared ports that turn out to speak something else than HTTP, which is meant.
const tcpWarning = "will deny all traffic to TCP ports under its scope due to the use of only HTTP attributes in a DENY rule"

// complaint asks istiod's own validation about an object; empty if it takes it.
func complaint(ctx context.Context, object client.Object) (string, error) {
	verdict, err := istiod.Validate(ctx, object)
	switch {
	case err != nil:
		return "", err
	case !verdict.Allowed:
		return "istiod refuses it: " + verdict.Message, nil
	}
	for _, warning := range verdict.Warnings {
		if !expected(object, warning) {
			return "istiod warns: " + warning, nil
		}
	}
	return "", nil
}

// expected says whether the warning is meant.
func expected(object client.Object, warning string) bool {
	name := object.GetName()
	if !strings.Contains(warning, tcpWarning) || !strings.HasSuffix(name, "-token") && !strings.HasSuffix(name, "-deny") {
		return false
	}
	sent, err := json.Marshal(object)
	return err == nil && !bytes.Contains(sent, []byte(`"notPorts"`))
}

// served asks the API server, with the CRDs' rules, and minds fields that it does not know.
func served(ctx context.Context, object client.Object) error {
	one := object.DeepCopyObject().(client.Object)
	one.SetNamespace("default")
	return kube.Create(ctx, one, client.DryRunAll, client.FieldValidation("Strict"))
}
