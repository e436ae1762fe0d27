//go:build e2e

package e2e

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/servicesecurity/operator/test/testbed/testapp"
)

// enoughRequests is how many requests of meshed clients the clean rollouts of a whole run have to see.
const enoughRequests = 20_000

// clean sums up what meshed clients sent through rollouts in which nobody was to be cut off.
var clean struct{ clients, requests, newConnections, failures int }

// expectClean expects that a meshed client, a pod of the app, lost nothing in a rollout, and adds up what it sent. It is asked once for each
// client, after the rollout.
func expectClean(ctx context.Context, namespace string, apps ...string) {
	GinkgoHelper()
	for _, app := range apps {
		totals, err := mesh.Totals(ctx, namespace, app)
		Expect(err).NotTo(HaveOccurred())
		clean.clients++
		clean.requests += totals.Requests + totals.NewConnections
		clean.newConnections += totals.NewConnections
		clean.failures += totals.Failed()
		Expect(totals.Requests).To(BeNumerically(">", 0), "%s/%s", namespace, app)
		expectUnharmed(Default, totals)
	}
}

// expectUnharmed: no request and no new connection failed, and the stream reconnected once at the most.
func expectUnharmed(g Gomega, totals testapp.Totals) {
	g.Expect(totals.Failed()).To(BeZero(), "%+v", totals.Errors)
	g.Expect(totals.Stream.Reconnects).To(BeNumerically("<=", 1))
}

var _ = ReportAfterSuite("Meshed clients in clean rollouts", func(report Report) {
	GinkgoWriter.Printf("%d meshed clients in clean rollouts: %d requests, %d of them on new connections, %d failures\n",
		clean.clients, clean.requests, clean.newConnections, clean.failures)
	Expect(clean.failures).To(BeZero())
	if whole := report.PreRunStats.SpecsThatWillRun == report.PreRunStats.TotalSpecs; whole && report.SuiteSucceeded && !report.SuiteConfig.DryRun {
		Expect(clean.requests).To(BeNumerically(">=", enoughRequests))
	}
})
