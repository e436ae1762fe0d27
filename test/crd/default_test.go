package crd_test

import (
	"context"
	"encoding/json"
	"fmt"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

// Each row is a spec as written, and as the API server completes it. Both are merge patches over the minimal spec, and what
// the second does not name must not appear.
var _ = DescribeTable("A default", func(ctx context.Context, written, completed string) {
	object := profile(written)
	Expect(dryCreate(ctx, object)).To(Succeed())
	want := merge(merge(parse(minimal), parse(written)), parse(completed))
	Expect(normal(object.Object["spec"])).To(Equal(normal(want)))
},
	Entry("mode Permissive gets no rollout",
		`{mtls: {mode: Permissive}}`,
		`{mtls: {destinationRule: Auto}}`),
	Entry("mode Disabled gets no rollout",
		`{mtls: {mode: Disabled}}`,
		`{mtls: {destinationRule: Auto}}`),
	Entry("mode Strict without rollout stays without: its description says what holds",
		`{mtls: {mode: Strict}}`,
		`{mtls: {destinationRule: Auto}}`),
	Entry("an empty rollout is completed",
		`{mtls: {mode: Strict, rollout: {}}}`,
		`{mtls: {destinationRule: Auto, rollout: {strategy: Staged, observationWindow: 24h, minRequests: 1, verificationWindow: 10m, rollback: Automatic, approval: Automatic, suspend: false}}}`),
	Entry("what a rollout says is kept",
		`{mtls: {mode: Strict, destinationRule: Never, rollout: {strategy: Immediate, observationWindow: 1h, minRequests: 0, verificationWindow: 0s, rollback: Never, suspend: true}}}`,
		`{mtls: {rollout: {approval: Automatic}}}`),
	Entry("maxConcurrent is not written, since most kinds of target may not have it",
		`{target: {kind: Namespace, name: null}, mtls: {mode: Strict, rollout: {approval: Manual}}}`,
		`{mtls: {destinationRule: Auto, rollout: {strategy: Staged, observationWindow: 24h, minRequests: 1, verificationWindow: 10m, rollback: Automatic, suspend: false}}}`),
	Entry("a token is required",
		`{mtls: null, jwt: {issuers: [{issuer: "https://a.example"}]}}`,
		`{jwt: {requirement: Required}}`),
	Entry("nobody is allowed, and that is enforced",
		`{mtls: null, authorization: {}}`,
		`{authorization: {enforcement: Enforced, default: Deny}}`),
	Entry("a token that is not required stays so",
		`{mtls: null, jwt: {requirement: Optional, issuers: [{issuer: "https://a.example"}]}}`,
		`{}`),
	Entry("a dry run stays one",
		`{mtls: null, authorization: {enforcement: DryRun, default: Allow, deniedCallers: [{name: a, namespaces: [a]}]}}`,
		`{}`),
)

var _ = It("has the defaults in its schema that the constants say", func(ctx context.Context) {
	object := profile(`{mtls: {mode: Strict, rollout: {}}}`)
	Expect(dryCreate(ctx, object)).To(Succeed())
	rollout := object.Object["spec"].(map[string]any)["mtls"].(map[string]any)["rollout"]
	Expect(normal(rollout)).To(Equal(normal(map[string]any{
		"strategy":           v1alpha1.DefaultStrategy,
		"observationWindow":  v1alpha1.DefaultObservationWindow,
		"minRequests":        v1alpha1.DefaultMinRequests,
		"verificationWindow": v1alpha1.DefaultVerificationWindow,
		"rollback":           v1alpha1.DefaultRollback,
		"approval":           v1alpha1.DefaultApproval,
		"suspend":            v1alpha1.DefaultSuspend,
	})))
	Expect(describe("spec.mtls.rollout.maxConcurrent")).To(ContainSubstring(fmt.Sprintf("Without it %d may", v1alpha1.DefaultMaxConcurrent)))
	Expect(describe("spec.mtls.rollout")).To(ContainSubstring(fmt.Sprintf("%s, with an observation window of %s", v1alpha1.DefaultStrategy, v1alpha1.DefaultObservationWindow)))
})

// normal makes numbers and typed strings comparable.
func normal(value any) any {
	GinkgoHelper()
	data, err := json.Marshal(value)
	Expect(err).NotTo(HaveOccurred())
	var out any
	Expect(json.Unmarshal(data, &out)).To(Succeed())
	return out
}

var _ = It("takes null for not said", func(ctx context.Context) {
	object := profile()
	spec := object.Object["spec"].(map[string]any)
	spec["jwt"] = nil
	spec["mtls"] = map[string]any{"mode": "Strict", "rollout": map[string]any{"approval": nil, "minRequests": nil}}
	Expect(dryCreate(ctx, object)).To(Succeed())
	spec = object.Object["spec"].(map[string]any)
	Expect(spec).NotTo(HaveKey("jwt"))
	Expect(spec["mtls"]).To(HaveKeyWithValue("rollout", And(HaveKeyWithValue("approval", "Automatic"), HaveKeyWithValue("minRequests", BeEquivalentTo(1)))))
})
