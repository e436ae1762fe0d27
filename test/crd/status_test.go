package crd_test

import (
	"context"
	"fmt"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	applymeta "k8s.io/client-go/applyconfigurations/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	apply "github.com/servicesecurity/operator/api/applyconfiguration/api/v1alpha1"
	"github.com/servicesecurity/operator/api/v1alpha1"
)

// statusRules are the rules of the status: patches over an empty one.
func statusRules() []rule {
	condition := func(patch string) string {
		return `{conditions: [` + with(`{type: Ready, status: "True", reason: Ready, message: "", lastTransitionTime: "2026-01-02T03:04:05Z"}`, patch) + `]}`
	}
	rules := []rule{
		{name: "the scope exists", field: "status.scope", want: wantEnum, accept: []string{`{scope: Workload}`}, reject: []string{`{scope: Service}`}},
		{name: "the mode exists", field: "status.mtls.effectiveMode", want: wantEnum, accept: []string{`{mtls: {effectiveMode: Strict}}`}, reject: []string{`{mtls: {effectiveMode: STRICT}}`}},
		{name: "the mode exists", field: "status.mtls.inheritedMode", want: wantEnum, accept: []string{`{mtls: {inheritedMode: Disabled}}`}, reject: []string{`{mtls: {inheritedMode: UNSET}}`}},
		{name: "the stage exists", field: "status.mtls.stage", want: wantEnum, accept: []string{`{mtls: {stage: AwaitingApproval}}`}, reject: []string{`{mtls: {stage: Pending}}`}},
		{name: "the blocker exists", field: "status.mtls.blockers[*].type", want: wantEnum, accept: []string{`{mtls: {blockers: [{type: NoPods, message: a}]}}`}, reject: []string{`{mtls: {blockers: [{type: Weather, message: a}]}}`}},
		{name: "the warning exists", field: "status.warnings[*].type", want: wantEnum, accept: []string{`{warnings: [{type: PortNotMapped, section: mtls, message: a}]}`}, reject: []string{`{warnings: [{type: Weather, section: mtls, message: a}]}`}},
		{name: "the section exists", field: "status.warnings[*].section", want: wantEnum, accept: []string{`{warnings: [{type: PortNotMapped, section: jwt, message: a}]}`}, reject: []string{`{warnings: [{type: PortNotMapped, section: spec, message: a}]}`}},
		{name: "the condition's status exists", field: "status.conditions[*].status", want: wantEnum, accept: []string{condition(`{}`)}, reject: []string{condition(`{status: Maybe}`)}},
		{name: "the condition's type is one", field: "status.conditions[*].type", want: wantPattern, reject: []string{condition(`{type: "not ready"}`)}},
		{name: "the condition's reason is one", field: "status.conditions[*].reason", want: wantPattern, reject: []string{condition(`{reason: "no reason"}`)}},
		{name: "the condition has a reason", field: "status.conditions[*].reason", want: wantMinLength, reject: []string{condition(`{reason: ""}`)}},
		{name: "the condition's generation is one", field: "status.conditions[*].observedGeneration", want: wantMinimum, reject: []string{condition(`{observedGeneration: -1}`)}},
		{name: "a condition stands once", field: "status.conditions[*]", want: wantDuplicate, reject: []string{`{conditions: [` + strings.TrimSuffix(strings.TrimPrefix(condition(`{}`), `{conditions: [`), `]}`) + `, ` + strings.TrimPrefix(condition(`{}`), `{conditions: [`)}},
		{name: "a dry run's port is one", field: "status.authorization.dryRun[*].port", want: wantMinimum, accept: []string{`{authorization: {dryRun: [{port: 0}, {port: 65535}]}}`}, reject: []string{`{authorization: {dryRun: [{port: -1}]}}`}},
		{name: "a dry run's port is one", field: "status.authorization.dryRun[*].port", want: wantMaximum, reject: []string{`{authorization: {dryRun: [{port: 65536}]}}`}},
		{name: "a dry run's count is one", field: "status.authorization.dryRun[*].allowed", want: wantMinimum, reject: []string{`{authorization: {dryRun: [{port: 1, allowed: -1}]}}`}},
		{name: "a dry run's count is one", field: "status.authorization.dryRun[*].refused", want: wantMinimum, reject: []string{`{authorization: {dryRun: [{port: 1, refused: -1}]}}`}},
		{name: "a port is counted once", field: "status.authorization.dryRun[*]", want: wantDuplicate, reject: []string{`{authorization: {dryRun: [{port: 1}, {port: 1}]}}`}},
		{name: "a pod stands once", field: "status.mtls.evidence.connections[*]", want: wantDuplicate, accept: []string{`{mtls: {evidence: {connections: [{pod: a, uncounted: -1}, {pod: b}]}}}`}, reject: []string{`{mtls: {evidence: {connections: [{pod: a}, {pod: a}]}}}`}},
		{name: "a pod stands once", field: "status.mtls.rollouts[*].evidence.connections[*]", want: wantDuplicate, reject: []string{`{mtls: {rollouts: [{name: a, evidence: {connections: [{pod: a}, {pod: a}]}}]}}`}},
		{name: "a workload stands once", field: "status.mtls.rollouts[*]", want: wantDuplicate, reject: []string{`{mtls: {rollouts: [{name: a}, {name: a}]}}`}},
		{name: "the stage exists", field: "status.mtls.rollouts[*].stage", want: wantEnum, accept: []string{`{mtls: {rollouts: [{name: a, stage: Blocked}]}}`}, reject: []string{`{mtls: {rollouts: [{name: a, stage: Pending}]}}`}},
		{name: "the blocker exists", field: "status.mtls.rollouts[*].blockers[*]", want: wantEnum, accept: []string{`{mtls: {rollouts: [{name: a, blockers: [NoPods]}]}}`}, reject: []string{`{mtls: {rollouts: [{name: a, blockers: [Weather]}]}}`}},
		{name: "the mode exists", field: "status.mtls.rollouts[*].inheritedMode", want: wantEnum, reject: []string{`{mtls: {rollouts: [{name: a, inheritedMode: STRICT}]}}`}},
		{name: "an object stands once", field: "status.resources[*]", want: wantDuplicate, accept: []string{`{resources: [{kind: A, name: a}, {kind: A, name: b}, {kind: B, name: a}]}`}, reject: []string{`{resources: [{kind: A, name: a}, {kind: A, name: a}]}`}},
	}
	for _, required := range []struct{ field, patch string }{
		{"status.pods.total", `{pods: {inMesh: 1}}`},
		{"status.pods.inMesh", `{pods: {total: 1}}`},
		{"status.mtls.blockers[*].type", `{mtls: {blockers: [{message: a}]}}`},
		{"status.mtls.blockers[*].message", `{mtls: {blockers: [{type: NoPods}]}}`},
		{"status.mtls.rollouts[*].name", `{mtls: {rollouts: [{stage: Blocked}]}}`},
		{"status.mtls.evidence.connections[*].pod", `{mtls: {evidence: {connections: [{opened: 1}]}}}`},
		{"status.mtls.rollouts[*].evidence.connections[*].pod", `{mtls: {rollouts: [{name: a, evidence: {connections: [{opened: 1}]}}]}}`},
		{"status.mtls.plaintextCallers[*].workload", `{mtls: {plaintextCallers: [{namespace: a}]}}`},
		{"status.authorization.dryRun[*].port", `{authorization: {dryRun: [{refused: 1}]}}`},
		{"status.resources[*].kind", `{resources: [{name: a}]}`},
		{"status.resources[*].name", `{resources: [{kind: a}]}`},
		{"status.warnings[*].type", `{warnings: [{section: jwt, message: a}]}`},
		{"status.warnings[*].section", `{warnings: [{type: PortNotMapped, message: a}]}`},
		{"status.warnings[*].message", `{warnings: [{type: PortNotMapped, section: jwt}]}`},
		{"status.conditions[*].type", condition(`{type: null}`)},
		{"status.conditions[*].status", condition(`{status: null}`)},
		{"status.conditions[*].reason", condition(`{reason: null}`)},
		{"status.conditions[*].message", condition(`{message: null}`)},
		{"status.conditions[*].lastTransitionTime", condition(`{lastTransitionTime: null}`)},
	} {
		rules = append(rules, rule{name: "it must be said", field: required.field, want: wantRequired, reject: []string{required.patch}})
	}
	for _, stage := range stages {
		rules = append(rules, rule{name: "every stage is counted", field: "status.mtls.workloads." + stage, want: wantRequired, reject: []string{`{mtls: {workloads: ` + with(everyStage, `{`+stage+`: null}`) + `}}`}})
	}
	for _, b := range []bound{
		{place{"status.conditions", `{conditions: VALUE}`}, 0, 16, item(`{type: C%d, status: "True", reason: R, message: "", lastTransitionTime: "2026-01-02T03:04:05Z"}`)},
		{place{"status.mtls.plaintextCallers", `{mtls: {plaintextCallers: VALUE}}`}, 0, 20, item("{workload: a%d}")},
		{place{"status.mtls.blockers", `{mtls: {blockers: VALUE}}`}, 0, 32, item("{type: NoPods, message: a%d}")},
		{place{"status.mtls.rollouts", `{mtls: {rollouts: VALUE}}`}, 0, 1000, item("{name: a%d}")},
		{place{"status.mtls.rollouts[*].blockers", `{mtls: {rollouts: [{name: a, blockers: VALUE}]}}`}, 0, 32, func(int) string { return "NoPods" }},
		{place{"status.mtls.evidence.connections", `{mtls: {evidence: {connections: VALUE}}}`}, 0, 64, item("{pod: a%d}")},
		{place{"status.mtls.rollouts[*].evidence.connections", `{mtls: {rollouts: [{name: a, evidence: {connections: VALUE}}]}}`}, 0, 64, item("{pod: a%d}")},
		{place{"status.authorization.dryRun", `{authorization: {dryRun: VALUE}}`}, 0, 64, item("{port: %d}")},
		{place{"status.resources", `{resources: VALUE}`}, 0, 256, item("{kind: A, name: a%d}")},
		{place{"status.warnings", `{warnings: VALUE}`}, 0, 16, item("{type: PortNotMapped, section: mtls, message: a%d}")},
	} {
		rules = append(rules, rule{
			name: fmt.Sprintf("the list has at most %d items", b.max), field: b.field, want: fmt.Sprintf("%s: %d: must have at most %d items", wantMaxItems, b.max+1, b.max),
			accept: []string{b.list(0), b.list(b.max)}, reject: []string{b.list(b.max + 1)},
		})
	}
	for _, l := range []struct {
		place
		max int
	}{
		{place{"status.target", `{target: VALUE}`}, 1024},
		{place{"status.mtls.approval.token", `{mtls: {approval: {token: VALUE}}}`}, 64},
		{place{"status.mtls.approval.approvedToken", `{mtls: {approval: {approvedToken: VALUE}}}`}, 64},
		{place{"status.mtls.approval.summary", `{mtls: {approval: {summary: VALUE}}}`}, 1024},
		{place{"status.mtls.blockers[*].message", `{mtls: {blockers: [{type: NoPods, message: VALUE}]}}`}, 1024},
		{place{"status.mtls.evidence.proxies", `{mtls: {evidence: {proxies: VALUE}}}`}, 64},
		{place{"status.mtls.evidence.targets", `{mtls: {evidence: {targets: VALUE}}}`}, 64},
		{place{"status.mtls.evidence.plaintextSeries", `{mtls: {evidence: {plaintextSeries: VALUE}}}`}, 64},
		{place{"status.mtls.evidence.connections[*].pod", `{mtls: {evidence: {connections: [{pod: VALUE}]}}}`}, 63},
		{place{"status.mtls.rollouts[*].name", `{mtls: {rollouts: [{name: VALUE}]}}`}, 253},
		{place{"status.mtls.rollouts[*].evidence.plaintextSeries", `{mtls: {rollouts: [{name: a, evidence: {plaintextSeries: VALUE}}]}}`}, 64},
		{place{"status.mtls.rollouts[*].evidence.connections[*].pod", `{mtls: {rollouts: [{name: a, evidence: {connections: [{pod: VALUE}]}}]}}`}, 63},
		{place{"status.mtls.rollouts[*].evidence.proxies", `{mtls: {rollouts: [{name: a, evidence: {proxies: VALUE}}]}}`}, 64},
		{place{"status.mtls.rollouts[*].evidence.targets", `{mtls: {rollouts: [{name: a, evidence: {targets: VALUE}}]}}`}, 64},
		{place{"status.mtls.plaintextCallers[*].workload", `{mtls: {plaintextCallers: [{workload: VALUE}]}}`}, 253},
		{place{"status.mtls.plaintextCallers[*].namespace", `{mtls: {plaintextCallers: [{workload: a, namespace: VALUE}]}}`}, 253},
		{place{"status.mtls.plaintextCallers[*].address", `{mtls: {plaintextCallers: [{workload: a, address: VALUE}]}}`}, 64},
		{place{"status.mtls.plaintextCallers[*].protocol", `{mtls: {plaintextCallers: [{workload: a, protocol: VALUE}]}}`}, 16},
		{place{"status.resources[*].kind", `{resources: [{kind: VALUE, name: a}]}`}, 63},
		{place{"status.resources[*].name", `{resources: [{kind: a, name: VALUE}]}`}, 253},
		{place{"status.warnings[*].message", `{warnings: [{type: PortNotMapped, section: mtls, message: VALUE}]}`}, 1024},
		{place{"status.conditions[*].type", condition(`{type: VALUE}`)}, 316},
		{place{"status.conditions[*].reason", condition(`{reason: VALUE}`)}, 1024},
		{place{"status.conditions[*].message", condition(`{message: VALUE}`)}, 32768},
	} {
		rules = append(rules, rule{
			name: fmt.Sprintf("it has at most %d characters", l.max), field: l.field, want: fmt.Sprintf("%s %d", wantMaxLength, l.max),
			accept: l.fill(letters(l.max)), reject: l.fill(letters(l.max + 1)),
		})
	}
	return rules
}

var stages = []string{"rolledBack", "blocked", "observing", "awaitingApproval", "verifying", "enforced"}

const everyStage = `{rolledBack: 0, blocked: 1, observing: 0, awaitingApproval: 0, verifying: 0, enforced: 4}`

var _ = Describe("The status", Ordered, func() {
	object := profile()
	BeforeAll(func(ctx context.Context) {
		Expect(api.Create(ctx, object)).To(Succeed())
		DeferCleanup(func(ctx context.Context) { Expect(api.Delete(ctx, object)).To(Succeed()) })
	})

	write := func(ctx context.Context, status string) error {
		changed := object.DeepCopy()
		changed.Object["status"] = parse(status)
		return api.Status().Update(ctx, changed, &client.SubResourceUpdateOptions{UpdateOptions: client.UpdateOptions{DryRun: []string{metav1.DryRunAll}}})
	}
	for _, r := range statusRules() {
		for _, text := range r.accept {
			It(fmt.Sprintf("%s: %s accepts %s", r.name, r.field, short(text)), func(ctx context.Context) {
				Expect(write(ctx, text)).To(Succeed())
			})
		}
		for _, text := range r.reject {
			It(fmt.Sprintf("%s: %s refuses %s", r.name, r.field, short(text)), func(ctx context.Context) {
				expectCause(write(ctx, text), r.field, r.want)
			})
		}
	}

	It("counts the workloads of every stage", func(ctx context.Context) {
		Expect(write(ctx, `{mtls: {workloads: `+everyStage+`}}`)).To(Succeed())
	})
})

var _ = Describe("The status subresource", func() {
	It("keeps users out of the status", func(ctx context.Context) {
		object := profile()
		object.Object["status"] = map[string]any{"scope": "Mesh"}
		create(ctx, object)
		Expect(object.Object).NotTo(HaveKey("status"))

		object.Object["status"] = map[string]any{"scope": "Mesh"}
		Expect(api.Update(ctx, object)).To(Succeed())
		Expect(object.Object).NotTo(HaveKey("status"))
		Expect(object.GetGeneration()).To(BeEquivalentTo(1))
	})

	It("keeps the operator's status writes out of the spec", func(ctx context.Context) {
		object := profile()
		create(ctx, object)
		object.Object["spec"] = merge(parse(minimal), parse(strict))
		object.Object["status"] = map[string]any{"scope": "Workload"}
		Expect(api.Status().Update(ctx, object)).To(Succeed())
		Expect(object.Object["spec"]).To(HaveKeyWithValue("mtls", HaveKeyWithValue("mode", "Permissive")))
		Expect(object.Object["status"]).To(HaveKeyWithValue("scope", "Workload"))
		Expect(object.GetGeneration()).To(BeEquivalentTo(1))
	})

	It("is written by server-side apply, and what is no longer applied goes", func(ctx context.Context) {
		object := profile()
		create(ctx, object)
		now := metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
		ready := func(status metav1.ConditionStatus) *applymeta.ConditionApplyConfiguration {
			return applymeta.Condition().WithType(v1alpha1.ConditionReady).WithStatus(status).WithReason("Ready").WithMessage("").WithLastTransitionTime(now)
		}
		write := func(status *apply.ServiceSecurityProfileStatusApplyConfiguration) v1alpha1.ServiceSecurityProfileStatus {
			GinkgoHelper()
			wanted := apply.ServiceSecurityProfile(object.GetName(), object.GetNamespace()).WithStatus(status)
			Expect(api.Status().Apply(ctx, wanted, client.FieldOwner("operator"), client.ForceOwnership)).To(Succeed())
			var got v1alpha1.ServiceSecurityProfile
			Expect(api.Get(ctx, client.ObjectKeyFromObject(object), &got)).To(Succeed())
			return got.Status
		}

		got := write(apply.ServiceSecurityProfileStatus().
			WithConditions(ready(metav1.ConditionFalse)).
			WithMTLS(apply.MTLSStatus().WithStage(v1alpha1.StageObserving).WithCleanSinceTime(now).WithAttempts(0).
				WithBlockers(apply.Blocker().WithType(v1alpha1.BlockerNoPods).WithMessage("a"), apply.Blocker().WithType(v1alpha1.BlockerNoPods).WithMessage("b"))).
			WithResources(apply.ResourceRef().WithKind("PeerAuthentication").WithName("reviews")))
		Expect(got.MTLS.Stage).To(Equal(v1alpha1.StageObserving))
		Expect(got.MTLS.CleanSinceTime.Time.Equal(now.Time)).To(BeTrue())
		Expect(got.MTLS.Blockers).To(HaveLen(2))
		Expect(got.Resources).To(HaveLen(1))

		got = write(apply.ServiceSecurityProfileStatus().
			WithConditions(ready(metav1.ConditionTrue)).
			WithMTLS(apply.MTLSStatus().WithStage(v1alpha1.StageEnforced)))
		Expect(got.MTLS).To(Equal(&v1alpha1.MTLSStatus{Stage: v1alpha1.StageEnforced}))
		Expect(got.Resources).To(BeEmpty())
		Expect(got.Conditions).To(HaveLen(1))
		Expect(got.Conditions[0].Status).To(Equal(metav1.ConditionTrue))
	})
})
