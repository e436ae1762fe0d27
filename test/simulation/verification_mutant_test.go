package simulation_test

import (
	"bytes"
	"cmp"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/servicesecurity/operator/controllers/traffic"
	"github.com/servicesecurity/operator/test/simulation"
)

// counts changes what every pod is read to have counted.
func counts(change func(pod *traffic.PodCalls, switchedAt time.Time)) simulation.Verifier {
	return simulation.Verifier{Calls: func(calls traffic.Calls, switchedAt time.Time) traffic.Calls {
		for _, caller := range calls.Callers {
			for i := range caller.Pods {
				change(&caller.Pods[i], switchedAt)
			}
		}
		return calls
	}}
}

// rewrites changes the lines of what a caller's proxy answers.
func rewrites(change func(line string) string) simulation.Verifier {
	return simulation.Verifier{Exposition: func(_ string, text []byte) []byte {
		var out bytes.Buffer
		for line := range strings.Lines(string(text)) {
			out.WriteString(change(line))
		}
		return out.Bytes()
	}}
}

var arrivedFlags = regexp.MustCompile(`response_code="503",response_flags="(?:-|UR|URX)"`)

// verificationMutants are broken chains, made anew for every history.
var verificationMutants = map[string]struct {
	within int64
	by     string
	core   func() simulation.Verifier
}{
	"takes errors of the application for lost calls": {100, "unneeded", func() simulation.Verifier {
		return rewrites(func(line string) string {
			return arrivedFlags.ReplaceAllString(line, `response_code="503",response_flags="UF"`)
		})
	}},
	"counts calls to other services": {100, "unneeded", func() simulation.Verifier {
		return rewrites(func(line string) string { return strings.ReplaceAll(line, "web.data.svc", "web.shop.svc") })
	}},
	"counts calls that others send to the target": {100, "unneeded", func() simulation.Verifier {
		return rewrites(func(line string) string {
			return strings.Replace(line, `reporter="destination"`, `reporter="source",of="others"`, 1)
		})
	}},
	"ignores what was lost before the switch": {200, "unneeded", func() simulation.Verifier {
		before := map[string]int64{}
		return counts(func(pod *traffic.PodCalls, switchedAt time.Time) {
			if switchedAt.IsZero() {
				before[pod.UID] = pod.Failed
			}
			pod.Failed = max(0, pod.Failed-before[pod.UID])
		})
	}},
	"finds one broken pod enough": {200, "unneeded", func() simulation.Verifier {
		return simulation.Verifier{Calls: func(calls traffic.Calls, switchedAt time.Time) traffic.Calls {
			if switchedAt.IsZero() {
				return calls
			}
			for i, caller := range calls.Callers {
				if len(caller.Pods) > 0 {
					calls.Callers[i].Pods = []traffic.PodCalls{slices.MaxFunc(caller.Pods, func(a, b traffic.PodCalls) int {
						return cmp.Compare(a.Failed, b.Failed)
					})}
				}
			}
			return calls
		}}
	}},
	"takes a counter that began again for lost calls": {300, "unneeded", func() simulation.Verifier {
		highest, lost := map[string]int64{}, map[string]int64{}
		return counts(func(pod *traffic.PodCalls, _ time.Time) {
			if pod.Arrived < highest[pod.UID] {
				lost[pod.UID] += highest[pod.UID] - pod.Arrived
			}
			highest[pod.UID] = pod.Arrived
			pod.Failed += lost[pod.UID]
		})
	}},
	"does not know connections that are reset": {100, "missed", func() simulation.Verifier {
		return rewrites(func(line string) string {
			return strings.ReplaceAll(line, `response_flags="UR"`, `response_flags="-",was="UR"`)
		})
	}},
	"does not see that STRICT was written": {100, "missed", func() simulation.Verifier {
		return simulation.Verifier{SwitchedAt: func(time.Time) time.Time { return time.Time{} }}
	}},
	"conceals what could not be read": {50, "concealed", func() simulation.Verifier {
		return simulation.Verifier{Calls: func(calls traffic.Calls, _ time.Time) traffic.Calls {
			for i := range calls.Callers {
				calls.Callers[i].Unread = ""
			}
			return calls
		}}
	}},
}

// TestVerificationMutants: an oracle that nothing fails proves nothing.
func TestVerificationMutants(t *testing.T) {
	for name, mutant := range verificationMutants {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range mutant.within {
				if report, _ := simulation.Verify(seed, mutant.core(), false); strings.Contains(report.Violation, mutant.by) {
					t.Logf("caught by history %d: %s", seed, report.Violation)
					return
				}
			}
			t.Errorf("not caught by %d histories", mutant.within)
		})
	}
}
