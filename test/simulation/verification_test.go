package simulation_test

import (
	"runtime/debug"
	"testing"

	"github.com/servicesecurity/operator/test/simulation"
)

// verifications is how many histories TestVerifications plays.
const verifications = 1000

// verify plays a verification; one in which a promise is broken is told.
func verify(t *testing.T, seed int64) simulation.VerificationReport {
	t.Helper()
	report, _ := simulation.Verify(seed, simulation.Verifier{}, false)
	if report.Violation != "" {
		_, diary := simulation.Verify(seed, simulation.Verifier{}, true)
		t.Errorf("SIMULATION_SEED=%d: %s\n%s", seed, report.Violation, diary)
	}
	return report
}

// TestVerifications plays verifications of so many seeds: SIMULATIONS=n says how many, SIMULATION_SEED=n tells one,
// SIMULATION_FROM=n begins with another.
func TestVerifications(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	if seed, ok := number(t, "SIMULATION_SEED"); ok {
		report, diary := simulation.Verify(seed, simulation.Verifier{}, true)
		t.Logf("\n%s%s", diary, &report)
		if report.Violation != "" {
			t.Error(report.Violation)
		}
		return
	}
	count, ok := number(t, "SIMULATIONS")
	if !ok {
		count = verifications
	}
	first, _ := number(t, "SIMULATION_FROM")
	var all simulation.VerificationReport
	playAll(t, following(first, count), func(seed int64) simulation.VerificationReport { return verify(t, seed) }, all.Add)
	t.Logf("%s", &all)
	// Histories in which nobody is cut off would keep every promise.
	if all.Unneeded+all.Missed > 0 || count >= 100 && (int64(all.Needed) < count/10 || int64(all.Cut) < count/50) {
		t.Errorf("%d rollbacks needed, %d callers cut off at the end; unneeded: %d, missed: %d", all.Needed, all.Cut, all.Unneeded, all.Missed)
	}
}

// TestSameVerification: a seed is a verification, told to the letter.
func TestSameVerification(t *testing.T) {
	for seed := range int64(10) {
		_, diary := simulation.Verify(seed, simulation.Verifier{}, true)
		if _, again := simulation.Verify(seed, simulation.Verifier{}, true); diary != again {
			t.Errorf("seed %d tells two verifications:\n%s\n%s", seed, diary, again)
		}
	}
}
