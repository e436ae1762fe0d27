package simulation_test

import (
	"maps"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/servicesecurity/operator/test/simulation"
)

// sources are what the operator may see of a history, with the seeds that once failed, what those were about, and how many
// histories TestHistories plays of each.
var sources = map[simulation.Source]struct {
	histories int64
	cases     map[int64]string
}{
	simulation.Sidecars: {histories: 3000, cases: map[int64]string{
		35:     "a pod without a sidecar takes plaintext, and goes",
		52:     "somebody weakens STRICT after the operator restarted",
		87:     "STRICT long after a parent had it",
		114:    "a Telemetry comes and goes",
		120:    "an idle connection goes with its pod",
		507:    "a stream goes with its pod after its last word",
		1006:   "a series goes with its listener and is born again the same",
		1225:   "status is lost just after a Telemetry went",
		1299:   "an idle connection goes with its pod, and ports are excepted",
		1497:   "status is edited a moment before the operator is killed",
		2078:   "a clock is set ahead in small steps",
		20741:  "a series goes, and others make up its count, while the operator is away",
		28923:  "a clock is set ahead just before the observation ends and begins anew",
		29921:  "status is edited in a back-off",
		34351:  "a parent becomes STRICT while the first object is on its way",
		37161:  "a Telemetry went, and proxies do not have that yet",
		44887:  "a connection ends whose series was evicted, and another one is open",
		48044:  "a cache still has a parent that is STRICT no more",
		49539:  "a series goes, and another with the same count comes, while the operator is away",
		56152:  "the end of a connection is counted after its opening went with the listener",
		56557:  "a Telemetry comes and goes while the operator is away",
		65595:  "a stream that is open goes with its pod a moment after its last word",
		118424: "a stream is open on a port that is excepted no more",
		144866: "a parent becomes STRICT after somebody deleted the object",
		209175: "a stream that is open goes with its pod, and told of messages before",
		246714: "a series comes and is evicted while the operator is away",
		259995: "a request comes between the two scrapes of a reading",
		278684: "a proxy restarts just after the last status of an operator that is killed",
		319828: "a cache stands still over a rollback",
		322974: "a clock is set ahead in small steps, under two processes and in between",
		346552: "a stream ends between the two scrapes of a reading",
		428700: "a clock is set back, and ahead in small steps after plaintext",
		444629: "a clock is set ahead just before the operator is killed, after small steps",
		457174: "a connection is evicted before the profile asks for STRICT again",
		473175: "a proxy restarts and a clock is set back while the operator is away",
		501905: "a pod outside the mesh comes and goes while the operator is away",
		514341: "the end of a connection, evicted before STRICT was asked for again, makes up for another",
		535778: "STRICT is asked for on more ports while it is verified, and status is lost",
		541577: "a pod goes between the two readings of one look",
		554328: "a parent is STRICT for a moment in which the cache stands still",
		579447: "a pod outside the mesh comes and goes while the cache stands still, which ends just then",
		636396: "a pod outside the mesh comes while the cache stands still, and goes a moment after that",
		639369: "two pushes of configuration within a moment, which come in their order",
		677490: "a proxy restarts just after the switch, and just after it started",
		758709: "a caller fails until a rollback is decided, and no more when it is written",
	}},
	simulation.Logs: {histories: 500, cases: map[int64]string{
		17: "a clock is set back after an entry was logged",
	}},
	simulation.Prometheus: {histories: 60, cases: map[int64]string{
		303: "a process that counts what the one before did, while nobody reads it",
		394: "a clock that was an hour ahead when plaintext was seen",
	}},
}

// number of an environment variable; the second says whether it is set.
func number(t *testing.T, name string) (int64, bool) {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return 0, false
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n, true
}

// play runs a history; one in which a promise is broken is told.
func play(t *testing.T, from simulation.Source, seed int64) simulation.Report {
	t.Helper()
	report, _ := simulation.Run(from, seed, simulation.Core{}, false)
	if report.Violation != "" {
		_, diary := simulation.Run(from, seed, simulation.Core{}, true)
		t.Errorf("SIMULATION_SEED=%d: %s\n%s", seed, report.Violation, diary)
	}
	return report
}

// playAll plays seeds, as many at a time as there are processors, and hands over what came of each, one after another. After one that
// fails it begins no other.
func playAll[R any](t *testing.T, seeds []int64, play func(int64) R, add func(R)) {
	t.Helper()
	var mu sync.Mutex
	group := errgroup.Group{}
	group.SetLimit(runtime.GOMAXPROCS(0))
	for _, seed := range seeds {
		if t.Failed() {
			break
		}
		group.Go(func() error {
			report := play(seed)
			mu.Lock()
			defer mu.Unlock()
			add(report)
			return nil
		})
	}
	_ = group.Wait() // nothing fails but the test
}

// following are so many seeds from a first one.
func following(first, count int64) []int64 {
	var seeds []int64
	for seed := first; seed < first+count; seed++ {
		seeds = append(seeds, seed)
	}
	return seeds
}

// TestHistories plays the cases of each source, and the histories of so many seeds: SIMULATIONS=n says how many,
// SIMULATION_SEED=n tells one, SIMULATION_FROM=n begins with another; -run TestHistories/prometheus chooses the source.
func TestHistories(t *testing.T) {
	// Histories are short-lived garbage; collecting it less often saves a third of the time.
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	for from, source := range sources {
		t.Run(string(from), func(t *testing.T) {
			if seed, ok := number(t, "SIMULATION_SEED"); ok {
				tell(t, from, seed)
				return
			}
			seeds := slices.Sorted(maps.Keys(source.cases))
			count, ok := number(t, "SIMULATIONS")
			if !ok {
				count = source.histories
			}
			first, _ := number(t, "SIMULATION_FROM")
			var all simulation.Report
			playAll(t, append(seeds, following(first, count)...), func(seed int64) simulation.Report { return play(t, from, seed) }, all.Add)
			t.Logf("%s", &all)
			// Histories that lead nowhere would keep every promise.
			if all.False > 0 || all.Unneeded > 0 || count >= 100 && (int64(all.Switches) < count/2 || all.Rollbacks == 0) {
				t.Errorf("%d switches, %d of them false, and %d rollbacks, %d of them unneeded", all.Switches, all.False, all.Rollbacks, all.Unneeded)
			}
		})
	}
}

// tell plays one history, line by line.
func tell(t *testing.T, from simulation.Source, seed int64) {
	t.Helper()
	report, diary := simulation.Run(from, seed, simulation.Core{}, true)
	t.Logf("\n%s%s", diary, &report)
	if report.Violation != "" {
		t.Error(report.Violation)
	}
}

// TestSameSeed: a seed is a history, told to the letter.
func TestSameSeed(t *testing.T) {
	for from := range sources {
		for seed := range int64(5) {
			first, diary := simulation.Run(from, seed, simulation.Core{}, true)
			second, again := simulation.Run(from, seed, simulation.Core{}, true)
			if diary != again || first.String() != second.String() {
				t.Errorf("seed %d tells two histories by %s:\n%s\n%s", seed, from, diary, again)
			}
		}
	}
}

func FuzzHistories(f *testing.F)  { fuzz(f, simulation.Sidecars) }
func FuzzPrometheus(f *testing.F) { fuzz(f, simulation.Prometheus) }
func FuzzLogs(f *testing.F)       { fuzz(f, simulation.Logs) }

func fuzz(f *testing.F, from simulation.Source) {
	for seed := range sources[from].cases {
		f.Add(seed)
	}
	f.Add(int64(0))
	f.Fuzz(func(t *testing.T, seed int64) { play(t, from, seed) })
}
