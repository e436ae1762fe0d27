package simulation_test

import (
	"bytes"
	"context"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/rollout"
	"github.com/servicesecurity/operator/controllers/traffic"
	"github.com/servicesecurity/operator/test/simulation"
)

// seer changes what an observer answers.
type seer struct {
	traffic.Observer
	change func(*traffic.Observation)
}

func (s seer) Observe(ctx context.Context, request traffic.Request) traffic.Observation {
	o := s.Observer.Observe(ctx, request)
	s.change(&o)
	return o
}

func sees(change func() func(*traffic.Observation)) simulation.Core {
	return simulation.Core{Observer: func(o traffic.Observer) traffic.Observer { return seer{o, change()} }}
}

func decides(change func(in *rollout.Input, d *rollout.Decision)) simulation.Core {
	return simulation.Core{Next: func(in rollout.Input) rollout.Decision {
		given := in
		change(&in, nil)
		d := rollout.Next(in)
		change(&given, &d)
		return d
	}}
}

// before changes what is decided of, after what is decided.
func before(change func(*rollout.Input)) simulation.Core {
	return decides(func(in *rollout.Input, d *rollout.Decision) {
		if d == nil {
			change(in)
		}
	})
}

func after(change func(rollout.Input, *rollout.Decision)) simulation.Core {
	return decides(func(in *rollout.Input, d *rollout.Decision) {
		if d != nil {
			change(*in, d)
		}
	})
}

// lines changes the samples of what a proxy answers.
func lines(change func(uid, series string, age time.Duration, value int64) int64) simulation.Core {
	return simulation.Core{Exposition: func(uid string, age time.Duration, text []byte) []byte {
		var out bytes.Buffer
		for line := range strings.Lines(string(text)) {
			at := strings.LastIndexByte(line, ' ')
			value, err := strconv.ParseInt(strings.TrimSpace(line[at+1:]), 10, 64)
			if err != nil {
				out.WriteString(line)
				continue
			}
			out.WriteString(line[:at+1] + strconv.FormatInt(change(uid, line[:at], age, value), 10) + "\n")
		}
		return out.Bytes()
	}}
}

// The promises, as their violations begin or end.
const (
	inSpite   = "STRICT in spite of"
	early     = "STRICT"
	concealed = "not among the blockers"
	weakened  = "is weakened"
	unneeded  = "no caller fails"
	late      = "after the last fault"
)

// mutant is a broken core, made anew for every history, with how many histories may pass before it is caught, and by which
// promise.
type mutant struct {
	within int64
	by     string
	core   func() simulation.Core
}

// mutants are those that the sidecars are the source of.
var mutants = map[string]mutant{
	"ignores gaps": {300, inSpite, func() simulation.Core {
		return sees(func() func(*traffic.Observation) {
			var first time.Time
			return func(o *traffic.Observation) {
				if o.Completeness != traffic.Complete {
					return
				}
				if first.IsZero() {
					first = o.Since
				}
				o.Since, o.Gap = first, ""
			}
		})
	}},
	"takes what was not read for zero": {100, inSpite, func() simulation.Core {
		return sees(func() func(*traffic.Observation) {
			return func(o *traffic.Observation) {
				if o.Completeness != traffic.Complete {
					o.Completeness, o.Message, o.Since, o.MutualTLS = traffic.Complete, "", o.Time.Add(-24*time.Hour), 100
				}
			}
		})
	}},
	"counts increases alone, and none of a series that is born": {50, concealed, func() simulation.Core {
		born := map[string]int64{}
		return lines(func(uid, series string, _ time.Duration, value int64) int64 {
			if !strings.HasPrefix(series, "istio_") || strings.Contains(series, "mutual_tls") {
				return value
			}
			if _, known := born[uid+series]; !known {
				born[uid+series] = value
			}
			return max(0, value-born[uid+series])
		})
	}},
	"forgets open connections": {300, concealed, func() simulation.Core {
		last := time.Time{}
		return sees(func() func(*traffic.Observation) {
			return func(o *traffic.Observation) {
				// What an open connection says of the last plaintext goes with it.
				if o.OpenPlaintext > 0 {
					o.OpenPlaintext, o.LastPlaintext = 0, last
				}
				last = o.LastPlaintext
			}
		})
	}},
	"does not see that a counter began again": {300, concealed, func() simulation.Core {
		highest := map[string]int64{}
		core := lines(func(uid, series string, age time.Duration, value int64) int64 {
			switch {
			case strings.HasPrefix(series, "envoy_server_uptime"):
				return int64(age / time.Second)
			case !strings.HasPrefix(series, "istio_"):
				return value
			}
			highest[uid+series] = max(highest[uid+series], value)
			return highest[uid+series]
		})
		core.Request = func(r *traffic.Request) {
			for i := range r.Proxies {
				r.Proxies[i].Restarts = 0
			}
		}
		return core
	}},
	"trusts status": {300, inSpite, func() simulation.Core {
		return before(func(in *rollout.Input) {
			if !in.Previous.CleanSince.IsZero() {
				in.Seen.Since, in.Seen.LastPlaintext = in.Previous.CleanSince, in.Previous.LastPlaintext
			}
		})
	}},
	"believes that it is Enforced": {300, early, func() simulation.Core {
		return after(func(in rollout.Input, d *rollout.Decision) {
			if in.Previous.Stage == v1alpha1.StageEnforced && in.Spec.AsksStrict() {
				d.Form, d.Stage, d.Keep = in.Spec.Asked, v1alpha1.StageEnforced, false
			}
		})
	}},
	"takes half a window": {100, inSpite, func() simulation.Core {
		return before(func(in *rollout.Input) { in.Spec.ObservationWindow /= 2 })
	}},
	"does not know of hidden pods": {500, inSpite, func() simulation.Core {
		return simulation.Core{
			Request: func(r *traffic.Request) { r.Unobserved = false },
			Next: func(in rollout.Input) rollout.Decision {
				in.Previous.Unobserved = false
				d := rollout.Next(in)
				if d.CleanSince.IsZero() {
					d.CleanSince = in.Seen.Since
				}
				return d
			},
		}
	}},
	"opens when it is blind": {200, weakened, func() simulation.Core {
		return after(func(in rollout.Input, d *rollout.Decision) {
			if in.Seen.Completeness == traffic.Incomplete && d.Stage == v1alpha1.StageVerifying {
				d.Form = facts.Form{Mode: v1alpha1.ModePermissive}
			}
		})
	}},
	"rolls back for no reason": {50, unneeded, func() simulation.Core {
		return before(func(in *rollout.Input) {
			if !in.Facts.Policy.SwitchedAt.IsZero() {
				in.FailingCallers = []string{"clients/nobody"}
			}
		})
	}},
	"conceals a blocker": {50, concealed, func() simulation.Core {
		return after(func(_ rollout.Input, d *rollout.Decision) {
			d.Blockers = slices.DeleteFunc(d.Blockers, func(b v1alpha1.Blocker) bool { return b.Type == v1alpha1.BlockerPodsNotInMesh })
		})
	}},
	"conceals plaintext": {50, concealed, func() simulation.Core {
		return before(func(in *rollout.Input) { in.Seen.LastPlaintext, in.Previous.LastPlaintext = time.Time{}, time.Time{} })
	}},
	"asks nobody for approval": {300, "nobody approved", func() simulation.Core {
		return before(func(in *rollout.Input) { in.Spec.Approval = v1alpha1.ApprovalAutomatic })
	}},
	"forgets its rollbacks": {600, "after rollback", func() simulation.Core {
		return before(func(in *rollout.Input) {
			in.Facts.Policy.RolledBack, in.Previous.Attempts = facts.Rollback{}, 0
			if in.Previous.Stage == v1alpha1.StageRolledBack {
				in.Previous.Stage, in.Previous.CleanSince = v1alpha1.StageObserving, in.Now
			}
		})
	}},
	"never switches": {10, late, func() simulation.Core {
		return before(func(in *rollout.Input) { in.Spec.Suspend = true })
	}},
}

// TestMutants: a simulator that cannot fail proves nothing.
func TestMutants(t *testing.T) {
	for from, all := range map[simulation.Source]map[string]mutant{simulation.Sidecars: mutants, simulation.Prometheus: serverMutants} {
		for name, mutant := range all {
			t.Run(string(from)+"/"+name, func(t *testing.T) {
				t.Parallel()
				first := int64(0)
				if from == simulation.Prometheus {
					first = serverMutantsFrom[name]
				}
				for seed := first; seed < first+mutant.within; seed++ {
					if report, _ := simulation.Run(from, seed, mutant.core(), false); strings.Contains(report.Violation, mutant.by) {
						t.Logf("caught by history %d: %s", seed, report.Violation)
						return
					}
				}
				t.Errorf("not caught by %d histories", mutant.within)
			})
		}
	}
}
