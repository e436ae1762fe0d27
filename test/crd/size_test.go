package crd_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

// etcd refuses a request of more than 1.5 MiB.
const largest = 1400 * 1024

// Checking CEL rules costs, and the API server gives up on an object that costs too much. None that etcd can store may.
var _ = DescribeTable("A profile as large as etcd takes it, with every list of its callers full, is checked to its end",
	func(ctx context.Context, width int) {
		var callers []any
		size := 0
		for size < largest && len(callers) < 128 {
			caller := fullCaller(len(callers), width)
			data, err := json.Marshal(caller)
			Expect(err).NotTo(HaveOccurred())
			size += len(data)
			callers = append(callers, caller)
		}
		object := profile()
		half := len(callers) / 2
		object.Object["spec"].(map[string]any)["authorization"] = map[string]any{"allowedCallers": callers[:half], "deniedCallers": callers[half:]}
		Expect(api.Create(ctx, object, client.DryRunAll)).To(Succeed(), "%d callers, %d bytes", len(callers), size)
	},
	Entry("many short strings", 3),
	Entry("strings of a usual length", 40),
	Entry("the longest strings", 256),
)

// fullCaller has 16 items in every list, each of about width characters, and 16 of 16 in those that are nested.
func fullCaller(number, width int) map[string]any {
	word := func(before, after string) []any {
		return sixteen(func(i int) any {
			return before + strings.Repeat("a", max(width-len(before)-len(after)-2, 1)) + fmt.Sprintf("%02d", i) + after
		})
	}
	name := func(i int) string { return fmt.Sprintf("a%02d", i) + strings.Repeat("-a", max(width-3, 0)/2) }
	address := func(i int) any { return fmt.Sprintf("10.0.%d.0/24", i) }
	return map[string]any{
		"name":              fmt.Sprintf("caller-%d", number),
		"serviceAccounts":   word("", ""),
		"namespaces":        sixteen(func(i int) any { return fmt.Sprintf("a%02d", i) + strings.Repeat("a", min(width, 63)-3) }),
		"principals":        word("a/", "/*"),
		"requestPrincipals": word("a/", "*"),
		"ipBlocks":          sixteen(address),
		"remoteIpBlocks":    sixteen(address),
		"claims":            sixteen(func(int) any { return map[string]any{"path": word("", ""), "values": word("", "*")} }),
		"headers":           sixteen(func(i int) any { return map[string]any{"name": name(i), "values": word("", "*")} }),
		"operations": sixteen(func(int) any {
			return map[string]any{
				"methods": sixteen(func(i int) any { return strings.Repeat("A", i+1) }),
				"paths":   word("/{*}/", ""),
				"hosts":   word("*.", ""),
				"ports":   sixteen(func(i int) any { return int64(i + 1) }),
			}
		}),
	}
}

func sixteen(item func(i int) any) []any {
	items := make([]any, 16)
	for i := range items {
		items[i] = item(i)
	}
	return items
}

// What the operator writes of a namespace with as many workloads as it takes there, each with everything, must fit: a status that does
// not is none, and the rollout stands still. The API server keeps with it who wrote which field, which is as much again.
var _ = It("stores the status of a namespace with as many workloads as there may be, and who wrote it", func(ctx SpecContext) {
	object := profile()
	object.Object["spec"] = map[string]any{"target": map[string]any{"kind": "Namespace"}, "mtls": map[string]any{"mode": "Strict"}}
	Expect(api.Create(ctx, object)).To(Succeed())
	DeferCleanup(func(ctx SpecContext) { Expect(api.Delete(ctx, object)).To(Succeed()) })
	digest := strings.Repeat("0123456789abcdef", 2)
	var rollouts []any
	for i := range v1alpha1.MaxRollouts {
		evidence := map[string]any{
			"observedTime": "2026-01-02T03:04:05Z", "sinceTime": "2026-01-02T03:04:05Z", "proxies": digest, "targets": digest, "plaintextSeries": digest,
			"plaintext": int64(1e12), "mutualTLS": int64(1e12), "mutualTLSInStretch": int64(1e12), "listenerUpdates": int64(1e6),
		}
		if i < maxConnections/v1alpha1.MaxPodConnections {
			var connections []any
			for j := range v1alpha1.MaxPodConnections {
				connections = append(connections, map[string]any{
					"pod": fmt.Sprintf("01234567-89ab-cdef-%04d-%012d", i, j), "opened": int64(1e9), "closed": int64(1e9 - 1), "uncounted": int64(1e6),
				})
			}
			evidence["connections"] = connections
		}
		rollouts = append(rollouts, map[string]any{
			"name": fmt.Sprintf("%063d", i), "stage": "Blocked", "blockers": []any{"PlaintextSeen", "PlaintextConnectionsOpen", "PlaintextDestinationRule"},
			"inheritedMode": "Permissive", "cleanSinceTime": "2026-01-02T03:04:05Z", "lastPlaintextTime": "2026-01-02T03:04:05Z", "attempts": int64(2),
			"nextAttemptTime": "2026-01-02T03:04:05Z", "evidence": evidence,
		})
	}
	status := &unstructured.Unstructured{Object: map[string]any{"status": map[string]any{"mtls": map[string]any{"stage": "Blocked", "rollouts": rollouts}}}}
	status.SetGroupVersionKind(object.GroupVersionKind())
	status.SetNamespace(object.GetNamespace())
	status.SetName(object.GetName())
	Expect(api.Status().Apply(ctx, client.ApplyConfigurationFromUnstructured(status), client.FieldOwner("servicesecurity-operator"), client.ForceOwnership)).To(Succeed())
	data, err := json.Marshal(status.Object)
	Expect(err).NotTo(HaveOccurred())
	GinkgoWriter.Printf("%d bytes\n", len(data))
	Expect(len(data)).To(BeNumerically("<", largest))
})

// maxConnections is how many pods with plaintext connections the operator writes of a namespace.
const maxConnections = 1024
