package crd_test

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	workload  = `{target: {kind: Workload, name: null, selector: {matchLabels: {app: reviews, version: v1}}}}`
	namespace = `{target: {kind: Namespace, name: null}}`
	gateway   = `{target: {kind: Gateway}, mtls: null, authorization: {}}`

	fixedKind     = "target.kind cannot be changed: delete the profile and create one for the new target"
	fixedName     = "target.name cannot be changed: delete the profile and create one for the new target"
	fixedSelector = "target.selector cannot be changed: delete the profile and create one for the new target"
)

// transition is a change of a stored profile, from one spec to another. Without want it is let pass.
type transition struct {
	name, from, to string
	field, want    string
}

var transitions = []transition{
	{"another kind with a name", `{authorization: {}}`, `{target: {kind: Gateway}, mtls: null}`, "spec.target.kind", fixedKind},
	{"a Service to its namespace", `{}`, `{target: {kind: Namespace, name: null}}`, "spec.target.kind", fixedKind},
	{"a Service to its namespace, by the name", `{}`, `{target: {kind: Namespace, name: null}}`, "spec.target.name", fixedName},
	{"a namespace to the mesh", namespace, `{target: {kind: Mesh}}`, "spec.target.kind", fixedKind},
	{"another Service", `{}`, `{target: {name: ratings}}`, "spec.target.name", fixedName},
	{"another Gateway", gateway, `{target: {name: ratings}}`, "spec.target.name", fixedName},
	{"another value of a label", workload, `{target: {selector: {matchLabels: {version: v2}}}}`, "spec.target.selector", fixedSelector},
	{"a label more", workload, `{target: {selector: {matchLabels: {tier: backend}}}}`, "spec.target.selector", fixedSelector},
	{"a label less, which would widen", workload, `{target: {selector: {matchLabels: {version: null}}}}`, "spec.target.selector", fixedSelector},
	{"a Workload to its namespace", workload, `{target: {kind: Namespace, selector: null}}`, "spec.target.selector", fixedSelector},
	{"a Service to a Workload", `{}`, workload, "spec.target.selector", fixedSelector},

	{"the same again", `{}`, `{}`, "", ""},
	{"includeGateways said", namespace, `{target: {includeGateways: true}}`, "", ""},
	{"includeGateways unsaid", `{target: {kind: Namespace, name: null, includeGateways: true}}`, `{target: {includeGateways: null}}`, "", ""},
	{"includeGateways turned", `{target: {kind: Mesh, name: null, includeGateways: true}}`, `{target: {includeGateways: false}}`, "", ""},
	{"a stricter mode", `{}`, `{mtls: {mode: Strict}}`, "", ""},
	{"a weaker mode", `{mtls: {mode: Strict}}`, `{mtls: {mode: Disabled}}`, "", ""},
	{"a rollout said later", `{mtls: {mode: Strict}}`, `{mtls: {rollout: {observationWindow: 1h}}}`, "", ""},
	{"a rollout taken away", `{mtls: {mode: Strict, rollout: {observationWindow: 1h}}}`, `{mtls: {rollout: null}}`, "", ""},
	{"a weaker mode without its rollout", `{mtls: {mode: Strict, rollout: {}}}`, `{mtls: {mode: Permissive, rollout: null}}`, "", ""},
	{"a weaker mode with a rollout that is idle then", `{mtls: {mode: Strict, rollout: {}}}`, `{mtls: {mode: Permissive}}`, "", ""},
	{"port exceptions taken away", `{mtls: {mode: Strict, portLevel: [{port: 1, mode: Disabled}]}}`, `{mtls: {portLevel: null}}`, "", ""},
	{"a section more", `{}`, `{authorization: {}}`, "", ""},
	{"a section less", `{authorization: {}}`, `{mtls: null}`, "", ""},
	{"the last section taken away", `{}`, `{mtls: null}`, "spec", "the profile says nothing"},
	{"one section for another", `{}`, `{mtls: null, authorization: {}}`, "", ""},
	{"another set of callers", `{authorization: {allowedCallers: [{name: a, namespaces: [a]}, {name: b, namespaces: [b]}]}}`, `{authorization: {allowedCallers: [{name: b, namespaces: [c]}]}}`, "", ""},
	{"a caller emptied, which would widen", `{authorization: {allowedCallers: [{name: a, namespaces: [a]}]}}`, `{authorization: {allowedCallers: [{name: a, namespaces: []}]}}`, "spec.authorization.allowedCallers[*]", "a caller without any condition is everybody"},
}

var _ = Describe("A change", func() {
	for _, t := range transitions {
		It(t.name, func(ctx context.Context) {
			object := profile(t.from)
			create(ctx, object)

			changed := object.DeepCopy()
			changed.Object["spec"] = merge(object.Object["spec"].(map[string]any), parse(t.to))
			err := api.Update(ctx, changed, client.DryRunAll)
			if t.want == "" {
				Expect(err).NotTo(HaveOccurred())
				return
			}
			expectCause(err, t.field, t.want)
		})
	}
})
