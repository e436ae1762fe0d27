package simulation_test

import (
	"os"
	"runtime/debug"
	"strconv"
	"testing"

	"github.com/servicesecurity/operator/test/simulation"
)

// cases are seeds that once failed, and what they were about.
var cases = map[int64]string{
	35:   "a pod without a sidecar takes plaintext, and goes",
	52:   "somebody weakens STRICT after the operator restarted",
	87:   "STRICT long after a parent had it",
	114:  "a Telemetry comes and goes",
	120:  "an idle connection goes with its pod",
	507:  "a stream goes with its pod after its last word",
	1006: "a series goes with its listener and is born again the same",
	1225: "status is lost just after a Telemetry went",
	1299: "an idle connection goes with its pod, and ports are excepted",
	1497: "status is edited a moment before the operator is killed",
	2078: "a clock is set ahead in small steps",
}

// histories is how many TestHistories plays.
func histories(t *testing.T) int64 {
	t.Helper()
	text := os.Getenv("SIMULATIONS")
	if text == "" {
		return 1500
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		t.Fatalf("SIMULATIONS: %v", err)
	}
	return n
}

// play runs a history; one in which a promise is broken is told.
func play(t *testing.T, seed int64) simulation.Report {
	t.Helper()
	report, _ := simulation.Run(seed, simulation.Core{}, false)
	if report.Violation != "" {
		_, diary := simulation.Run(seed, simulation.Core{}, true)
		t.Errorf("SIMULATION_SEED=%d: %s\n%s", seed, report.Violation, diary)
	}
	return report
}

// TestHistories plays the cases, and the histories of so many seeds: SIMULATIONS=n says how many, SIMULATION_SEED=n tells one.
func TestHistories(t *testing.T) {
	// Histories are short-lived garbage; collecting it less often saves a third of the time.
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	if text := os.Getenv("SIMULATION_SEED"); text != "" {
		seed, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			t.Fatalf("SIMULATION_SEED: %v", err)
		}
		report, diary := simulation.Run(seed, simulation.Core{}, true)
		t.Logf("\n%s%s", diary, &report)
		if report.Violation != "" {
			t.Error(report.Violation)
		}
		return
	}
	var all simulation.Report
	for seed := range cases {
		all.Add(play(t, seed))
	}
	count := histories(t)
	for seed := range count {
		all.Add(play(t, seed))
		if t.Failed() {
			break
		}
	}
	t.Logf("%s", &all)
	// Histories that lead nowhere would keep every promise.
	if all.False > 0 || all.Unneeded > 0 || count >= 500 && (int64(all.Switches) < count/2 || all.Rollbacks == 0) {
		t.Errorf("%d switches, %d of them false, and %d rollbacks, %d of them unneeded", all.Switches, all.False, all.Rollbacks, all.Unneeded)
	}
}

// TestSameSeed: a seed is a history, told to the letter.
func TestSameSeed(t *testing.T) {
	for seed := range int64(5) {
		first, diary := simulation.Run(seed, simulation.Core{}, true)
		second, again := simulation.Run(seed, simulation.Core{}, true)
		if diary != again || first.String() != second.String() {
			t.Errorf("seed %d tells two histories:\n%s\n%s", seed, diary, again)
		}
	}
}

func FuzzHistories(f *testing.F) {
	for seed := range cases {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed int64) { play(t, seed) })
}
