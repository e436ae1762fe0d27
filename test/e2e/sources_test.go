//go:build e2e

package e2e

import (
	"time"

	. "github.com/onsi/ginkgo/v2"

	"github.com/servicesecurity/operator/test/testbed"
)

// everyRow declares the rows of docs/scenarios.md that a source has no specs of its own for.
func everyRow(prefix string) {
	It("E5: a client's own DestinationRule with DISABLE, named", func(ctx SpecContext) {
		expectHeldByClientRule(ctx, prefix+"-e5")
	}, SpecTimeout(2*rollout))

	It("E6: a meshed caller that begins to fail is named, and STRICT is taken back", func(ctx SpecContext) {
		expectTakenBack(ctx, prefix+"-e6", func(string) {})
	}, SpecTimeout(2*rollout))

	It("E7: four of five workloads, the fifth named, and then all", func(ctx SpecContext) {
		f := startFive(ctx, prefix+"-e7")
		f.expectFour(ctx)
		f.expectAll(ctx)
	}, SpecTimeout(2*rollout))

	Context("the operator killed at any moment of a rollout", func() {
		operatorKilled(prefix+"-e8", []time.Duration{3 * time.Second, 7 * time.Second}, []time.Duration{3 * time.Second})
	})
}

// loggedRows declares all of them, with access logs.
func loggedRows(prefix, legacy string) {
	It("E1 and E2: names who sends plaintext, and goes to STRICT when it is in the mesh, without a failure", func(ctx SpecContext) {
		expectNamedThenMoved(ctx, prefix+"-e2")
	}, SpecTimeout(2*rollout))

	It("E3: one request in plaintext now and then never promotes", func(ctx SpecContext) {
		expectNeverPromoted(ctx, prefix+"-e3", legacy)
	}, SpecTimeout(rollout))

	It("E4: proxies that cannot be read hold it, and STRICT stays where it is", func(ctx SpecContext) {
		expectHeldByTelemetry(ctx, prefix+"-e4")
	}, SpecTimeout(2*rollout))

	everyRow(prefix)
}

var _ = Describe("Every row with Prometheus as the source", Ordered, ContinueOnFailure, Label("prometheus-rows"), func() {
	BeforeAll(func(ctx SpecContext) {
		setUp(ctx, space{name: monitoring, manifests: []string{testbed.Prometheus(monitoring)}})
		DeferCleanup(func(ctx SpecContext) { observeBy(ctx, "") }, NodeTimeout(2*patience))
		observeBy(ctx, "--prometheus-url=http://prometheus."+monitoring+":9090")
	}, NodeTimeout(rollout))

	everyRow("prom")
})

var _ = Describe("Every row with access logs beside", Ordered, ContinueOnFailure, Label("accesslog-rows"), func() {
	const legacy = "log-legacy"

	BeforeAll(func(ctx SpecContext) {
		receiveAccessLogs(ctx, "../overlay-accesslog")
		setUp(ctx, space{name: legacy, manifests: []string{testbed.Sleep(legacy)}})
	}, NodeTimeout(rollout))

	loggedRows("log", legacy)
})

var _ = Describe("Every row with Prometheus as the source and access logs beside", Ordered, ContinueOnFailure, Label("both-rows"), func() {
	const legacy = "both-legacy"

	BeforeAll(func(ctx SpecContext) {
		receiveAccessLogs(ctx, "../overlay-accesslog")
		setUp(ctx,
			space{name: monitoring, manifests: []string{testbed.Prometheus(monitoring)}}, space{name: legacy, manifests: []string{testbed.Sleep(legacy)}},
		)
		observeBy(ctx, "--prometheus-url=http://prometheus."+monitoring+":9090")
		expectLed(ctx)
	}, NodeTimeout(rollout))

	loggedRows("both", legacy)
})
