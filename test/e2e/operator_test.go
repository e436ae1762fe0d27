//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

const (
	// overlay is installed as a user installs config/default.
	overlay         = "../overlay"
	systemNamespace = "servicesecurity-system"
	managerApp      = "app.kubernetes.io/component=manager"
	// rollout is how long a whole one may take on a slow machine; its own times are seconds.
	rollout = 3 * time.Minute
)

// manager is the operator's program, which make e2e builds.
var manager = filepath.Join("..", "..", "bin", "manager")

// installOperator installs the operator by kubectl apply -k and waits until it runs.
func installOperator(ctx context.Context) {
	GinkgoHelper()
	_, err := mesh.Kubectl(ctx, "apply", "--server-side", "-k", overlay)
	Expect(err).NotTo(HaveOccurred())
	Expect(mesh.WaitReady(ctx, systemNamespace, managerApp)).To(Succeed())
}

// profileOptions are what specs vary in a profile.
type profileOptions struct {
	namespace, name, service string
	mtls                     string
}

// staged is Strict with times of seconds.
const staged = `{mode: Strict, rollout: {observationWindow: 5s, verificationWindow: 3s}}`

func (o profileOptions) yaml() string {
	return fmt.Sprintf(`apiVersion: servicesecurity.dev/v1alpha1
kind: ServiceSecurityProfile
metadata: {name: %s, namespace: %s}
spec:
  target: {kind: Service, name: %s}
  mtls: %s
`, o.name, o.namespace, o.service, o.mtls)
}

// applyProfile applies a profile for a Service of the same name.
func applyProfile(ctx context.Context, namespace, service, mtls string) *v1alpha1.ServiceSecurityProfile {
	GinkgoHelper()
	Expect(mesh.Apply(ctx, profileOptions{namespace: namespace, name: service, service: service, mtls: mtls}.yaml())).To(Succeed())
	profile := &v1alpha1.ServiceSecurityProfile{}
	profile.Namespace, profile.Name = namespace, service
	return profile
}

// read gives a profile as it is now.
func read(ctx context.Context, profile *v1alpha1.ServiceSecurityProfile) *v1alpha1.ServiceSecurityProfile {
	GinkgoHelper()
	live := &v1alpha1.ServiceSecurityProfile{}
	Expect(mesh.Client().Get(ctx, client.ObjectKeyFromObject(profile), live)).To(Succeed())
	return live
}

// stage reads a profile's stage, and expectStage waits for it.
func stage(ctx context.Context, profile *v1alpha1.ServiceSecurityProfile) v1alpha1.Stage {
	if mtls := read(ctx, profile).Status.MTLS; mtls != nil {
		return mtls.Stage
	}
	return ""
}

func expectStage(ctx context.Context, profile *v1alpha1.ServiceSecurityProfile, want v1alpha1.Stage) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		g.Expect(stage(ctx, profile)).To(Equal(want), func() string { return describe(ctx, profile) })
	}).WithContext(ctx).WithTimeout(rollout).Should(Succeed())
}

// describe is what kubectl describe says, for a failure's message.
func describe(ctx context.Context, profile *v1alpha1.ServiceSecurityProfile) string {
	text, err := mesh.Kubectl(ctx, "describe", "ssp", "-n", profile.Namespace, profile.Name)
	if err != nil {
		return err.Error()
	}
	return text
}

// blockers reads what holds a profile, as "Type: message".
func blockers(ctx context.Context, profile *v1alpha1.ServiceSecurityProfile) []string {
	var all []string
	if mtls := read(ctx, profile).Status.MTLS; mtls != nil {
		for _, blocker := range mtls.Blockers {
			all = append(all, fmt.Sprintf("%s: %s", blocker.Type, blocker.Message))
		}
	}
	return all
}

// condition reads a condition as "Status/Reason: message".
func condition(ctx context.Context, profile *v1alpha1.ServiceSecurityProfile, kind string) string {
	c := meta.FindStatusCondition(read(ctx, profile).Status.Conditions, kind)
	if c == nil {
		return ""
	}
	return fmt.Sprintf("%s/%s: %s", c.Status, c.Reason, c.Message)
}

// peerMode reads what a PeerAuthentication says, as kubectl shows it.
func peerMode(ctx context.Context, namespace, name string) string {
	text, err := mesh.Kubectl(ctx, "get", "peerauthentication", "-n", namespace, name, "-o", "jsonpath={.spec.mtls.mode}")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(text)
}
