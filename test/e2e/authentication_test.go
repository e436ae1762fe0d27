//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/test/testbed"
)

// reset is curl's exit code for a connection that the other side reset.
const reset = 56

// other is httpbin under another name, to see that what is done to one service leaves the others alone.
func other(namespace string) string {
	renamed := strings.ReplaceAll(testbed.Httpbin(namespace), "httpbin", "httpbin2")
	return strings.ReplaceAll(renamed, "image: httpbin2", "image: httpbin")
}

var _ = Describe("A: the authentication policy task", Ordered, func() {
	const foo, bar, legacy = "a-foo", "a-bar", "a-legacy"
	everybody := []string{foo, bar, legacy}

	BeforeAll(func(ctx SpecContext) {
		setUp(ctx,
			space{name: foo, meshed: true, manifests: []string{testbed.Httpbin(foo), testbed.Sleep(foo)}},
			space{name: bar, meshed: true, manifests: []string{testbed.Httpbin(bar), testbed.Sleep(bar), other(bar)}},
			space{name: legacy, manifests: []string{testbed.Httpbin(legacy), testbed.Sleep(legacy)}},
		)
	}, NodeTimeout(patience))

	// matrix expects every pair to answer 200, but for the refused ones.
	matrix := func(ctx SpecContext, refused ...reach) {
		GinkgoHelper()
		want := refused
		for _, from := range everybody {
			for _, to := range everybody {
				isRefused := false
				for _, r := range refused {
					isRefused = isRefused || r.from == from && r.to == to
				}
				if !isRefused {
					want = append(want, reach{from: from, to: to, status: 200})
				}
			}
		}
		expectReach(ctx, want...)
	}

	It("A1: without a profile everybody reaches everybody", func(ctx SpecContext) {
		matrix(ctx)
	}, SpecTimeout(patience))

	It("A3: with Strict on each workload of foo only legacy to foo fails", func(ctx SpecContext) {
		for _, service := range []string{"httpbin", "sleep"} {
			expectStage(ctx, applyProfile(ctx, foo, service, immediate), v1alpha1.StageEnforced)
		}
		matrix(ctx, reach{from: legacy, to: foo, exit: reset})
		deleteProfiles(ctx, foo)
	}, SpecTimeout(rollout))

	It("A4: with Strict on httpbin in bar only legacy to it fails, and other services of bar are untouched", func(ctx SpecContext) {
		expectStage(ctx, applyProfile(ctx, bar, "httpbin", immediate), v1alpha1.StageEnforced)
		matrix(ctx, reach{from: legacy, to: bar, exit: reset})
		answer, err := mesh.Curl(ctx, legacy, "sleep", fmt.Sprintf("http://httpbin2.%s:8000/ip", bar))
		Expect(err).NotTo(HaveOccurred())
		Expect(answer.HTTPCode).To(Equal(200))
		deleteProfiles(ctx, bar)
	}, SpecTimeout(rollout))

	It("A5: with Strict on port 1234 alone, port 8000 takes plaintext", func(ctx SpecContext) {
		profile := applyProfile(ctx, bar, "httpbin", `{mode: Permissive, portLevel: [{port: 1234, mode: Strict}], rollout: {strategy: Immediate}}`)
		expectStage(ctx, profile, v1alpha1.StageEnforced)
		ports, err := mesh.Kubectl(ctx, "get", "peerauthentication", "-n", bar, "httpbin", "-o", "jsonpath={.spec.portLevelMtls['1234'].mode}")
		Expect(err).NotTo(HaveOccurred())
		Expect(ports).To(Equal("STRICT"))
		Expect(read(ctx, profile).Status.Warnings).To(ContainElement(HaveField("Type", v1alpha1.WarningPortNotMapped)))
		matrix(ctx)
		deleteProfiles(ctx, bar)
	}, SpecTimeout(rollout))

	It("A12: when the profiles are deleted everything is as before, and no object is left", func(ctx SpecContext) {
		for _, namespace := range []string{foo, bar} {
			Eventually(func() (string, error) {
				return mesh.Kubectl(ctx, "get", "peerauthentications,destinationrules", "-n", namespace, "-o", "name")
			}).WithContext(ctx).Should(BeEmpty())
		}
		matrix(ctx)
	}, SpecTimeout(patience))
})

// immediate is Strict without observation.
const immediate = `{mode: Strict, rollout: {strategy: Immediate}}`

func deleteProfiles(ctx context.Context, namespace string) {
	GinkgoHelper()
	_, err := mesh.Kubectl(ctx, "delete", "ssp", "--all", "-n", namespace)
	Expect(err).NotTo(HaveOccurred())
}
