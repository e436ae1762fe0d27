//go:build e2e

package e2e

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/test/testbed"
	"github.com/servicesecurity/operator/test/testbed/testapp"
	"github.com/servicesecurity/operator/test/testbed/token"
)

// sent is a kind of request: from which namespace, for what, and with which further headers.
type sent struct {
	from, path string
	header     string
}

// update is a rule that is loosened and tightened: what both forms allow, what both refuse, and what only the loose one allows.
type update struct {
	rule         string
	fixed        string // a profile that stays as it is
	kind         string // of the target that the rule is for, a Service unless said otherwise
	tight, loose string
	always       sent
	never        sent
	sometimes    sent
	refusal      int // what never is answered
	tightAnswer  int // what sometimes is answered by the tight form, 403 unless said otherwise
}

const updates, updatesOther, updatesLegacy = "updates", "updates-other", "updates-legacy"

// updateProfile is a profile of the namespace updates.
func updateProfile(name, kind, spec string) string {
	target := "{kind: Service, name: httpbin}"
	if kind != "" {
		target = "{kind: " + kind + "}"
	}
	return fmt.Sprintf("apiVersion: servicesecurity.dev/v1alpha1\nkind: ServiceSecurityProfile\nmetadata: {name: %s, namespace: %s}\nspec:\n  target: %s\n  %s\n",
		name, updates, target, strings.ReplaceAll(spec, "\n", "\n  "))
}

// issuers trusts the suite's issuer.
func issuers() string {
	return fmt.Sprintf("issuers: [{issuer: %s, jwks: '%s'}]", issuer, users.JWKS())
}

func as(role string, mint *token.Mint) string {
	return bearer(mint, claims().With(token.Claims{"role": role}))[1]
}

// allRules has one update for every kind of rule. It needs the suite's mints.
func allRules() []update {
	reader := sent{from: updates, path: "/ip"}
	allowed := func(list string) string { return "authorization: {allowedCallers: [" + list + "]}" }
	const hello = "{name: greeters, headers: [{name: hello, values: [%s]}]}"
	const role = "{name: learners, claims: [{name: role, values: [%s]}]}"
	const second = "https://accounts.example.com"
	optional := "jwt: {requirement: Optional, " + issuers() + "}\n"
	return []update{
		{
			rule: "a token's requirement", tight: "jwt: {requirement: Required, " + issuers() + "}", loose: "jwt: {requirement: Optional, " + issuers() + "}",
			always: sent{from: updates, path: "/ip", header: as("any", users)}, never: sent{from: updates, path: "/ip", header: as("any", forger)}, refusal: 401,
			sometimes: reader,
		},
		{
			rule: "an exempt path", tight: "jwt: {exemptPaths: [/ip], " + issuers() + "}", loose: "jwt: {exemptPaths: [/ip, /user-agent], " + issuers() + "}",
			always: reader, never: sent{from: updates, path: "/headers"}, refusal: 403, sometimes: sent{from: updates, path: "/user-agent"},
		},
		{
			rule: "a caller by service account", tight: allowed("{name: a, serviceAccounts: [sleep]}"), loose: allowed("{name: a, serviceAccounts: [sleep, updates-other/sleep]}"),
			always: reader, never: sent{from: updatesLegacy, path: "/ip"}, refusal: 403, sometimes: sent{from: updatesOther, path: "/ip"},
		},
		{
			rule: "a caller by header", tight: allowed(fmt.Sprintf(hello, "world")), loose: allowed(fmt.Sprintf(hello, "world, moon")),
			always: sent{from: updates, path: "/ip", header: "hello: world"}, never: reader, refusal: 403, sometimes: sent{from: updates, path: "/ip", header: "hello: moon"},
		},
		{
			rule: "a caller by claim", tight: optional + allowed(fmt.Sprintf(role, "learner")), loose: optional + allowed(fmt.Sprintf(role, "learner, teacher")),
			always: sent{from: updates, path: "/ip", header: as("learner", users)}, never: sent{from: updates, path: "/ip", header: as("juice-hater", users)}, refusal: 403,
			sometimes: sent{from: updates, path: "/ip", header: as("teacher", users)},
		},
		{
			rule:  "a denied caller",
			tight: "authorization: {default: Allow, deniedCallers: [{name: a, headers: [{name: banned, values: [\"yes\"]}]}, {name: b, serviceAccounts: [updates-other/sleep]}]}",
			loose: "authorization: {default: Allow, deniedCallers: [{name: a, headers: [{name: banned, values: [\"yes\"]}]}]}", always: reader,
			never: sent{from: updates, path: "/ip", header: "banned: yes"}, refusal: 403, sometimes: sent{from: updatesOther, path: "/ip"},
		},
		{
			rule: "denied callers in place of allowed ones", tight: allowed("{name: a, serviceAccounts: [sleep]}"),
			loose: "authorization: {default: Allow, deniedCallers: [{name: a, headers: [{name: banned, values: [\"yes\"]}]}]}", always: reader,
			never: sent{from: updatesLegacy, path: "/ip", header: "banned: yes"}, refusal: 403, sometimes: sent{from: updatesOther, path: "/ip"},
		},
		{
			rule: "the issuers", tight: "jwt: {" + issuers() + "}",
			loose:  "jwt: {" + strings.TrimSuffix(issuers(), "]") + fmt.Sprintf(", {issuer: %s, jwks: '%s'}]}", second, users.JWKS()),
			always: sent{from: updates, path: "/ip", header: as("any", users)}, never: reader, refusal: 403, tightAnswer: 401,
			sometimes: sent{from: updates, path: "/ip", header: bearer(users, claims().With(token.Claims{"iss": second}))[1]},
		},
		{
			rule: "a namespace's default", fixed: allowed("{name: a, serviceAccounts: [sleep]}"), kind: "Namespace", tight: "authorization: {default: Deny}",
			loose: allowed(fmt.Sprintf(hello, "world")), always: reader, never: sent{from: updatesLegacy, path: "/ip"}, refusal: 403,
			sometimes: sent{from: updatesLegacy, path: "/ip", header: "hello: world"},
		},
	}
}

var _ = Describe("An update under load", Ordered, ContinueOnFailure, Label("update"), func() {
	BeforeAll(func(ctx SpecContext) {
		setUp(ctx,
			space{name: updates, meshed: true, manifests: []string{testbed.Httpbin(updates), testbed.Sleep(updates)}},
			space{name: updatesOther, meshed: true, manifests: []string{testbed.Sleep(updatesOther)}},
			space{name: updatesLegacy, manifests: []string{testbed.Sleep(updatesLegacy)}},
		)
	}, NodeTimeout(2*patience))

	AfterEach(func(ctx SpecContext) { deleteProfiles(ctx, updates) }, NodeTimeout(patience))

	for i, rule := range []string{
		"a token's requirement", "an exempt path", "a caller by service account", "a caller by header", "a caller by claim", "a denied caller",
		"denied callers in place of allowed ones", "the issuers", "a namespace's default",
	} {
		It("of "+rule+" fails nobody whom both forms allow, and lets nobody in whom both refuse", func(ctx SpecContext) {
			u := allRules()[i]
			Expect(u.rule).To(Equal(rule))
			if u.fixed != "" {
				applyUpdate(ctx, "fixed", "", u.fixed)
			}
			refused := u.sometimes.ask(cmp.Or(u.tightAnswer, 403))
			applyUpdate(ctx, "changing", u.kind, u.tight)
			expectAnswers(ctx, u.always.ask(200), u.never.ask(u.refusal), refused)
			always, never := startLoad(ctx, u.always.from, u.always.flags(200)...), startLoad(ctx, u.never.from, u.never.flags(u.refusal)...)
			for range 3 {
				applyUpdate(ctx, "changing", u.kind, u.loose)
				expectAnswers(ctx, u.sometimes.ask(200))
				applyUpdate(ctx, "changing", u.kind, u.tight)
				expectAnswers(ctx, refused)
			}
			for what, load := range map[string]*testbed.Load{"allowed by both": always, "refused by both": never} {
				var totals testapp.Totals
				Eventually(func(g Gomega) {
					var err error
					totals, err = load.Totals(ctx)
					g.Expect(err).NotTo(HaveOccurred())
					g.Expect(totals.Requests).To(BeNumerically(">=", 200), "some of them after the last change")
				}).WithContext(ctx).Should(Succeed())
				GinkgoWriter.Printf("%s: %d requests, %d new connections, %d failures, statuses %v\n", what, totals.Requests, totals.NewConnections, totals.Failed(), totals.Statuses)
				Expect(totals.Failed()).To(BeZero(), "%s: %+v", what, totals.Errors)
			}
		}, SpecTimeout(rollout))
	}
})

var _ = Describe("A profile that comes and goes under load", Label("update"), func() {
	It("never fails a caller whom it allows", func(ctx SpecContext) {
		setUp(ctx,
			space{name: updates, meshed: true, manifests: []string{testbed.Httpbin(updates), testbed.Sleep(updates)}},
			space{name: updatesLegacy, manifests: []string{testbed.Sleep(updatesLegacy)}},
		)
		allowed := sent{from: updates, path: "/ip", header: as("learner", users)}
		load := startLoad(ctx, updates, allowed.flags(200)...)
		for range 3 {
			applyUpdate(ctx, "comes-and-goes", "", "jwt: {"+issuers()+"}\nauthorization: {allowedCallers: [{name: a, serviceAccounts: [sleep]}]}")
			expectAnswers(ctx, sent{from: updates, path: "/ip"}.ask(403), sent{from: updatesLegacy, path: "/ip", header: allowed.header}.ask(403))
			deleteProfiles(ctx, updates)
			expectAnswers(ctx, sent{from: updates, path: "/ip"}.ask(200), sent{from: updatesLegacy, path: "/ip"}.ask(200))
		}
		totals, err := load.Totals(ctx)
		Expect(err).NotTo(HaveOccurred())
		GinkgoWriter.Printf("%d requests, %d new connections, statuses %v\n", totals.Requests, totals.NewConnections, totals.Statuses)
		Expect(totals.Failed()).To(BeZero(), "%+v", totals.Errors)
	}, SpecTimeout(2*rollout))
})

func applyUpdate(ctx context.Context, name, kind, spec string) {
	GinkgoHelper()
	Expect(mesh.Apply(ctx, updateProfile(name, kind, spec))).To(Succeed())
	profile := &v1alpha1.ServiceSecurityProfile{}
	profile.Namespace, profile.Name = updates, name
	expectInForce(ctx, profile)
}

func (s sent) url() string { return "http://httpbin." + updates + ":8000" + s.path }

func (s sent) ask(want int) ask {
	a := ask{from: s.from, url: s.url(), want: want}
	if s.header != "" {
		a.args = []string{"-H", s.header}
	}
	return a
}

func (s sent) flags(expect int) []string {
	flags := []string{"--url=" + s.url(), "--rate=50", "--connections=2", "--new=5", fmt.Sprintf("--expect=%d", expect)}
	if s.header != "" {
		flags = append(flags, "--header="+s.header)
	}
	return flags
}
