//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/test/testbed"
	"github.com/servicesecurity/operator/test/testbed/token"
)

const (
	samples = "../../config/samples"
	// issuer is whom the samples trust.
	issuer = "testing@secure.istio.io"
	// rootNamespace is Istio's.
	rootNamespace = "istio-system"
)

// users signs the tokens that are good, and forger those that only look so.
var users, forger *token.Mint

func makeMints() {
	GinkgoHelper()
	for _, mint := range []**token.Mint{&users, &forger} {
		made, err := token.NewMint()
		Expect(err).NotTo(HaveOccurred())
		*mint = made
	}
}

// claims are those of a good token, which last for an hour.
func claims() token.Claims {
	return token.Claims{"iss": issuer, "sub": issuer, "iat": time.Now().Unix()}.Expiring(time.Hour)
}

// bearer are curl's arguments that send a token with these claims.
func bearer(mint *token.Mint, c token.Claims) []string {
	GinkgoHelper()
	signed, err := mint.Sign(c)
	Expect(err).NotTo(HaveOccurred())
	return []string{"-H", "Authorization: Bearer " + signed}
}

// ask is a request from a namespace's sleep, and the status that curl is expected to print; 0 stands for its 000, a reset connection.
type ask struct {
	from string
	url  string
	args []string
	want int
}

// expectAnswers expects each answer in the end: what was written takes a moment to reach the proxies.
func expectAnswers(ctx context.Context, asks ...ask) {
	GinkgoHelper()
	for _, a := range asks {
		Eventually(func(g Gomega) {
			answer, err := mesh.Curl(ctx, a.from, "sleep", a.url, a.args...)
			g.Expect(err).NotTo(HaveOccurred())
			expectAnswer(g, answer, a.want, fmt.Sprintf("%s asks %s %s", a.from, a.url, brief(a.args)))
		}).WithContext(ctx).Should(Succeed())
	}
}

// expectAnswer knows what each status is made of, so that an application's 403 is not taken for a refusal.
func expectAnswer(g Gomega, answer testbed.Answer, want int, what string) {
	GinkgoHelper()
	got := fmt.Sprintf("%s: %+v", what, answer)
	g.Expect(answer.HTTPCode).To(Equal(want), got)
	switch want {
	case 0:
		g.Expect(answer.CurlExit).To(Equal(reset), got)
	case 401:
		g.Expect(answer.Body).To(HavePrefix("Jwt "), got)
	case 403:
		g.Expect(answer.Body).To(Equal("RBAC: access denied"), got)
	}
}

// brief leaves tokens out.
func brief(args []string) string {
	var words []string
	for _, word := range args {
		if strings.HasPrefix(word, "Authorization:") {
			word = "a token"
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}

// applySample applies a file of config/samples by kubectl, as a user does, and waits until it is in force. Only what a user would
// change is changed: the issuer's keys, and what the edits change.
func applySample(ctx context.Context, file string, edits ...func(*unstructured.Unstructured)) *v1alpha1.ServiceSecurityProfile {
	GinkgoHelper()
	profile := submitSample(ctx, file, edits...)
	expectInForce(ctx, profile)
	return profile
}

// submitSample applies a sample that may not be accepted.
func submitSample(ctx context.Context, file string, edits ...func(*unstructured.Unstructured)) *v1alpha1.ServiceSecurityProfile {
	GinkgoHelper()
	path := filepath.Join(samples, file)
	text, err := os.ReadFile(path)
	Expect(err).NotTo(HaveOccurred())
	object := &unstructured.Unstructured{}
	Expect(yaml.Unmarshal(text, &object.Object)).To(Succeed())
	if own, _, err := unstructured.NestedSlice(object.Object, "spec", "jwt", "issuers"); err == nil && len(own) > 0 {
		edits = append([]func(*unstructured.Unstructured){ownKeys}, edits...)
	}
	if len(edits) > 0 {
		for _, edit := range edits {
			edit(object)
		}
		text, err = yaml.Marshal(object.Object)
		Expect(err).NotTo(HaveOccurred())
		path = filepath.Join(GinkgoT().TempDir(), file)
		Expect(os.WriteFile(path, text, 0o600)).To(Succeed())
	}
	_, err = mesh.Kubectl(ctx, "apply", "-f", path)
	Expect(err).NotTo(HaveOccurred())
	profile := &v1alpha1.ServiceSecurityProfile{}
	profile.Namespace, profile.Name = object.GetNamespace(), object.GetName()
	return profile
}

// ownKeys puts the suite's keys in place of each issuer's.
func ownKeys(object *unstructured.Unstructured) {
	GinkgoHelper()
	issuers, _, err := unstructured.NestedSlice(object.Object, "spec", "jwt", "issuers")
	Expect(err).NotTo(HaveOccurred())
	for _, one := range issuers {
		fields := one.(map[string]any)
		delete(fields, "jwksUri")
		fields["jwks"] = users.JWKS()
	}
	Expect(unstructured.SetNestedSlice(object.Object, issuers, "spec", "jwt", "issuers")).To(Succeed())
}

// set is an edit of one field.
func set(value any, path ...string) func(*unstructured.Unstructured) {
	return func(object *unstructured.Unstructured) {
		GinkgoHelper()
		Expect(unstructured.SetNestedField(object.Object, value, path...)).To(Succeed())
	}
}

// expectInForce waits until the latest spec is accepted and written.
func expectInForce(ctx context.Context, profile *v1alpha1.ServiceSecurityProfile) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		live := read(ctx, profile)
		g.Expect(live.Status.ObservedGeneration).To(Equal(live.Generation))
		accepted := condition(ctx, profile, v1alpha1.ConditionAccepted)
		if strings.HasPrefix(accepted, "False/"+v1alpha1.ReasonUnsupported) {
			StopTrying(accepted).Now()
		}
		g.Expect(accepted).To(HavePrefix("True/"))
		g.Expect(condition(ctx, profile, v1alpha1.ConditionProgrammed)).To(HavePrefix("True/"), "%s", describe(ctx, profile))
	}).WithContext(ctx).Should(Succeed())
}

// renamed is a manifest's app under another name, with its account, so that there are two of it.
func renamed(manifest, app, name string) string {
	text := strings.ReplaceAll(manifest, app, name)
	return strings.ReplaceAll(text, "image: "+name, "image: "+app)
}
