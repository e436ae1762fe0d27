package traffic

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

// MaxCallers is how many callers an observation has.
const MaxCallers = 20

// Gather makes one observation of those of several workloads, by name: no more complete than the least complete of them.
// Its times are the latest of theirs. Of those that were not made only the callers count, which access logs may tell. What is needed to go on observing is not in it.
func Gather(names []string, all []Observation) Observation {
	out := Observation{Completeness: Skipped, ConnectionsVisible: true}
	for i, o := range all {
		out.Callers = merge(out.Callers, o.Callers)
		if o.Completeness == Skipped {
			continue
		}
		if out.Completeness == Skipped || severity[o.Completeness] > severity[out.Completeness] {
			out.Completeness, out.Reason, out.Message = o.Completeness, o.Reason, o.Message
			if o.Message != "" {
				out.Message = fmt.Sprintf("Workload %s: %s", names[i], o.Message)
			}
		}
		if out.Gap == "" {
			out.Gap = o.Gap
		}
		if o.Time.After(out.Time) {
			out.Time = o.Time
		}
		if o.LastPlaintext.After(out.LastPlaintext) {
			out.LastPlaintext = o.LastPlaintext
		}
		out.OpenPlaintext += o.OpenPlaintext
		out.MutualTLS += o.MutualTLS
		out.NotAttributable = out.NotAttributable || o.NotAttributable
		out.ConnectionsVisible = out.ConnectionsVisible && o.ConnectionsVisible
	}
	slices.SortStableFunc(out.Callers, func(a, b v1alpha1.PlaintextCaller) int { return cmp.Compare(b.Requests, a.Requests) })
	out.Callers = out.Callers[:min(len(out.Callers), MaxCallers)]
	return out
}

// CallerID is what tells one plaintext caller from another: a caller without what is counted of it.
func CallerID(c v1alpha1.PlaintextCaller) v1alpha1.PlaintextCaller {
	c.Requests, c.LastSeenTime = 0, nil
	return c
}

// merge counts a caller of several workloads once.
func merge(into, callers []v1alpha1.PlaintextCaller) []v1alpha1.PlaintextCaller {
	for _, c := range callers {
		at := slices.IndexFunc(into, func(k v1alpha1.PlaintextCaller) bool {
			return CallerID(k) == CallerID(c)
		})
		if at < 0 {
			into = append(into, c)
			continue
		}
		into[at].Requests += c.Requests
		if into[at].LastSeenTime.Before(c.LastSeenTime) {
			into[at].LastSeenTime = c.LastSeenTime
		}
	}
	return into
}

// Keep adds the callers that status had before a restart of the operator, as far as they were seen since a time and nobody
// told of them since. They are names and nothing else: plaintext does not count again because of them.
func (o Observation) Keep(before []v1alpha1.PlaintextCaller, since, now time.Time) Observation {
	told := slices.Clone(o.Callers)
	o.Callers = slices.Clone(o.Callers)
	for _, c := range before {
		if c.LastSeenTime == nil || c.LastSeenTime.Time.Before(since) || c.LastSeenTime.After(now) {
			continue
		}
		if !slices.ContainsFunc(told, func(other v1alpha1.PlaintextCaller) bool { return again(c, other) }) {
			o.Callers = append(o.Callers, c)
		}
	}
	o.Callers = worst(o.Callers)
	return o
}

// again says that a row tells of a caller that is known already. Without an address it is known by its name alone, which
// says nothing where that is unknown.
func again(known, told v1alpha1.PlaintextCaller) bool {
	if known.Address == "" {
		return keyOf(known) == keyOf(told) && known.Refused == told.Refused && (told.Address == "" || known.Workload != UnknownWorkload)
	}
	return told.Address != "" && same(known, told)
}

var severity = map[Completeness]int{Complete: 0, Incomplete: 1, Unavailable: 2}
