//go:build e2e

package e2e

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

// annotate sets an annotation of a profile, or takes it away with a value of "".
func annotate(ctx context.Context, profile *v1alpha1.ServiceSecurityProfile, key, value string) {
	GinkgoHelper()
	change := key + "=" + value
	if value == "" {
		change = key + "-"
	}
	_, err := mesh.Kubectl(ctx, "annotate", "ssp", profile.Name, "-n", profile.Namespace, "--overwrite", change)
	Expect(err).NotTo(HaveOccurred())
}

var _ = Describe("Who decides on the switch", Label("verification"), func() {
	It("approval Manual waits with a token and a summary, and what was approved stays so", func(ctx SpecContext) {
		const name = "approval"
		meshedShop(ctx, name)
		profile := applyProfile(ctx, name, "httpbin", `{mode: Strict, rollout: {observationWindow: 5s, verificationWindow: 10s, approval: Manual}}`)
		expectStage(ctx, profile, v1alpha1.StageAwaitingApproval)
		approval := read(ctx, profile).Status.MTLS.Approval
		Expect(approval.Token).To(MatchRegexp(`^[0-9a-f]{16}$`))
		Expect(approval.Summary).To(And(ContainSubstring("no plaintext since "), ContainSubstring("the whole window of 5s")))
		Expect(condition(ctx, profile, v1alpha1.ConditionReady)).To(And(
			HavePrefix("False/AwaitingApproval"), ContainSubstring("kubectl annotate ssp httpbin -n approval --overwrite "+v1alpha1.AnnotationApprove+"="+approval.Token)))

		By("waiting on with a token that is not its own")
		annotate(ctx, profile, v1alpha1.AnnotationApprove, "0123456789abcdef")
		Consistently(func() string { return peerMode(ctx, name, "httpbin") }, longerThanTheWindow, poll).Should(Equal("PERMISSIVE"))
		Expect(read(ctx, profile).Status.MTLS.Approval.Token).To(Equal(approval.Token), "the stretch went on")

		By("switching with it, and staying there without it")
		annotate(ctx, profile, v1alpha1.AnnotationApprove, approval.Token)
		expectStage(ctx, profile, v1alpha1.StageVerifying)
		annotate(ctx, profile, v1alpha1.AnnotationApprove, "")
		expectStage(ctx, profile, v1alpha1.StageEnforced)
		Consistently(func() string { return peerMode(ctx, name, "httpbin") }, "3s", poll).Should(Equal("STRICT"))
		Expect(eventsOf(ctx, profile)).To(And(ContainSubstring("AwaitingApproval: "), ContainSubstring("Enforced: ")))
	}, SpecTimeout(rollout))

	It("suspend holds a switch for which all is ready, and lets it go", func(ctx SpecContext) {
		const name = "suspended"
		meshedShop(ctx, name)
		profile := applyProfile(ctx, name, "httpbin", `{mode: Strict, rollout: {observationWindow: 5s, verificationWindow: 3s, suspend: true}}`)
		Eventually(func() string { return condition(ctx, profile, v1alpha1.ConditionMutualTLSEnforced) }).WithContext(ctx).Should(
			And(HavePrefix("False/Observing"), ContainSubstring("rollout.suspend is true")))
		Consistently(func() string { return peerMode(ctx, name, "httpbin") }, longerThanTheWindow, poll).Should(Equal("PERMISSIVE"))
		Expect(blockers(ctx, profile)).To(BeEmpty())
		applyProfile(ctx, name, "httpbin", `{mode: Strict, rollout: {observationWindow: 5s, verificationWindow: 3s, suspend: false}}`)
		expectStage(ctx, profile, v1alpha1.StageEnforced)
		Expect(peerMode(ctx, name, "httpbin")).To(Equal("STRICT"))
	}, SpecTimeout(rollout))

	It("Immediate switches at once, and says what it skipped", func(ctx SpecContext) {
		const name = "immediate"
		meshedShop(ctx, name)
		Expect(mesh.Apply(ctx, clientRule(name, "httpbin."+name+".svc.cluster.local", "DISABLE"))).To(Succeed())
		profile := applyProfile(ctx, name, "httpbin", `{mode: Strict, rollout: {strategy: Immediate}}`)
		expectStage(ctx, profile, v1alpha1.StageEnforced)
		Expect(peerMode(ctx, name, "httpbin")).To(Equal("STRICT"))
		said := And(ContainSubstring("does not wait until it is known who calls"), ContainSubstring("These gates were closed when STRICT was written, and held nothing: PlaintextDestinationRule."))
		Expect(warning(ctx, profile, v1alpha1.WarningObservationSkipped)).To(said)

		By("still saying so when it was looked at again")
		Expect(mesh.Delete(ctx, clientRule(name, "httpbin."+name+".svc.cluster.local", "DISABLE"))).To(Succeed())
		Eventually(func() string { return warning(ctx, profile, v1alpha1.WarningClientsSendPlaintext) }).WithContext(ctx).Should(BeEmpty())
		Expect(warning(ctx, profile, v1alpha1.WarningObservationSkipped)).To(said)
	}, SpecTimeout(rollout))
})
