package rollout_test

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/servicesecurity/operator/controllers/rollout"
	"github.com/servicesecurity/operator/controllers/traffic"
)

// pods are the cumulative counts of shop/web's pods at one reading: arrived and failed, by pod. A pod named new was made after
// the switch.
type pods map[string][2]int64

func reading(all pods) traffic.Calls {
	caller := traffic.CallerCalls{Name: "shop/web"}
	for uid, counts := range all {
		created := noon.Add(-time.Hour)
		if uid == "new" {
			created = noon.Add(time.Minute)
		}
		caller.Pods = append(caller.Pods, traffic.PodCalls{UID: uid, Created: created, Arrived: counts[0], Failed: counts[1]})
	}
	return traffic.Calls{Callers: []traffic.CallerCalls{caller}}
}

func TestCallHistory(t *testing.T) {
	tests := map[string]struct {
		before, after []pods
		want          bool
	}{
		"nothing was ever read":                            {nil, nil, false},
		"nothing fails":                                    {[]pods{{"a": {100, 0}}}, []pods{{"a": {200, 0}}}, false},
		"all fails":                                        {[]pods{{"a": {100, 0}}}, []pods{{"a": {100, 5}}}, true},
		"four calls are too few":                           {[]pods{{"a": {100, 0}}}, []pods{{"a": {100, 4}}}, false},
		"half of them":                                     {[]pods{{"a": {100, 0}}}, []pods{{"a": {105, 5}}}, true},
		"less than half":                                   {[]pods{{"a": {100, 0}}}, []pods{{"a": {106, 5}}}, false},
		"what a drained connection costs":                  {[]pods{{"a": {1000, 0}}}, []pods{{"a": {1400, 6}}}, false},
		"it recovers":                                      {[]pods{{"a": {100, 0}}}, []pods{{"a": {101, 4}}, {"a": {150, 5}}}, false},
		"it failed all its life":                           {[]pods{{"a": {100, 100}}}, []pods{{"a": {100, 200}}}, false},
		"it failed a little all its life":                  {[]pods{{"a": {100, 10}}}, []pods{{"a": {100, 30}}}, true},
		"it has failed lately":                             {[]pods{{"a": {1e6, 0}}, {"a": {1e6, 20}}}, []pods{{"a": {1e6, 60}}}, false},
		"it failed long ago":                               {[]pods{{"a": {100, 1e6}}, {"a": {200, 1e6}}}, []pods{{"a": {200, 1e6 + 50}}}, true},
		"too little was seen lately to tell":               {[]pods{{"a": {1000, 0}}, {"a": {1000, 4}}}, []pods{{"a": {1000, 60}}}, true},
		"it never called before":                           {[]pods{{"a": {0, 0}}}, []pods{{"a": {0, 9}}}, true},
		"the proxy restarted and fails":                    {[]pods{{"a": {500, 0}}}, []pods{{"a": {0, 9}}}, true},
		"the proxy restarted and works":                    {[]pods{{"a": {500, 9}}}, []pods{{"a": {20, 0}}}, false},
		"what it counted before it restarted counts":       {[]pods{{"a": {100, 0}}}, []pods{{"a": {200, 0}}, {"a": {1, 9}}}, false},
		"connections that arrived are lost later":          {[]pods{{"a": {200, 0}}}, []pods{{"a": {202, 8}}, {"a": {201, 19}}, {"a": {203, 27}}, {"a": {205, 35}}}, true},
		"a pod read late is no late reading before":        {[]pods{{"a": {0, 0}}, {"a": {0, 50}}}, []pods{{"a": {0, 60}, "b": {9000, 0}}}, false},
		"one pod of three":                                 {[]pods{{"a": {100, 0}, "b": {100, 0}, "c": {100, 0}}}, []pods{{"a": {100, 900}, "b": {110, 0}, "c": {110, 0}}}, false},
		"two pods of three":                                {[]pods{{"a": {100, 0}, "b": {100, 0}, "c": {100, 0}}}, []pods{{"a": {100, 90}, "b": {100, 90}, "c": {110, 0}}}, true},
		"one pod of three, the others are idle":            {[]pods{{"a": {100, 0}, "b": {100, 0}, "c": {100, 0}}}, []pods{{"a": {100, 90}, "b": {100, 0}, "c": {100, 0}}}, true},
		"a pod that came after the switch":                 {[]pods{{"a": {100, 0}}}, []pods{{"new": {0, 7}}}, true},
		"a pod that nobody read before the switch":         {[]pods{{"a": {100, 0}}}, []pods{{"b": {100, 7}}}, false},
		"after a restart of the operator":                  {nil, []pods{{"a": {1000, 20}}, {"a": {1000, 26}}}, true},
		"after one, of a caller that only fails":           {nil, []pods{{"a": {20, 20}}, {"a": {20, 40}}}, false},
		"after one, with a pod that came after the switch": {nil, []pods{{"new": {0, 20}}}, true},
		"late, and all of the last readings": {
			[]pods{{"a": {100, 0}}}, []pods{{"a": {9000, 0}}, {"a": {9000, 2}}, {"a": {9000, 4}}, {"a": {9000, 5}}, {"a": {9000, 6}}}, true,
		},
		"late, and a call comes through": {
			[]pods{{"a": {100, 0}}}, []pods{{"a": {9000, 0}}, {"a": {9000, 20}}, {"a": {9000, 40}}, {"a": {9001, 50}}, {"a": {9001, 60}}}, false,
		},
		"late, and fewer readings than it takes": {
			[]pods{{"a": {100, 0}}}, []pods{{"a": {9000, 0}}, {"a": {9000, 20}}, {"a": {9000, 40}}, {"a": {9000, 50}}}, false,
		},
		"counts beyond all sense":   {[]pods{{"a": {100, 0}}}, []pods{{"a": {100, math.MaxInt64}, "b": {math.MaxInt64, 0}}}, true},
		"counts below all sense":    {[]pods{{"a": {-5, -5}}}, []pods{{"a": {-9, -9}}}, false},
		"fewer successes than were": {[]pods{{"a": {100, 3}}}, []pods{{"a": {40, 9}}}, false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var h rollout.CallHistory
			for _, r := range tc.before {
				h.Note(reading(r), time.Time{})
			}
			if got := h.Failing(); got != nil {
				t.Errorf("before the switch %v fail", got)
			}
			for _, r := range tc.after {
				h.Note(reading(r), noon)
			}
			if got := len(h.Failing()) > 0; got != tc.want {
				t.Errorf("it fails: %t, want %t", got, tc.want)
			}
		})
	}
}

func TestCallHistoryForgets(t *testing.T) {
	var h rollout.CallHistory
	h.Note(reading(pods{"a": {100, 0}}), time.Time{})
	for i := range 1000 {
		h.Note(reading(pods{fmt.Sprint("b", i): {1, 0}, fmt.Sprint("c", i): {1, 0}, "new": {0, int64(i)}}), noon)
	}
	h.Note(traffic.Calls{Callers: []traffic.CallerCalls{{Name: "shop/other"}}}, noon)
	if diff := cmp.Diff([]string{"shop/other (no pod with a sidecar in this cluster has its identity)"}, h.Sight().Unseen); diff != "" {
		t.Errorf("a caller that is not asked for is forgotten (-want +got):\n%s", diff)
	}
}

func TestSight(t *testing.T) {
	var none *rollout.CallHistory
	if diff := cmp.Diff(rollout.Sight{}, none.Sight()); diff != "" || none.Failing() != nil {
		t.Errorf("without a history nothing is seen (-want +got):\n%s", diff)
	}
	var h rollout.CallHistory
	h.Note(traffic.Calls{Callers: []traffic.CallerCalls{
		{Name: "shop/web", Pods: []traffic.PodCalls{{UID: "a", Arrived: 1}}},
		{Name: "shop/api", Pods: []traffic.PodCalls{{UID: "b", Failed: 1}}},
		{Name: "shop/quiet", Pods: []traffic.PodCalls{{UID: "c"}}},
		{Name: "shop/half", Pods: []traffic.PodCalls{{UID: "d", Arrived: 1}}, Unread: "the proxy of pod shop/half-2 cannot be read: connection refused"},
		{Name: "far/away"},
	}}, time.Time{})
	want := rollout.Sight{
		Callers: []string{"shop/api", "shop/web"},
		Unseen: []string{
			"far/away (no pod with a sidecar in this cluster has its identity)",
			"shop/half (the proxy of pod shop/half-2 cannot be read: connection refused)",
			"shop/quiet (its proxies count no calls to the target)",
		},
	}
	if diff := cmp.Diff(want, h.Sight()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestEvidence(t *testing.T) {
	var many, twenty []string
	for i := range 30 {
		many = append(many, fmt.Sprintf("shop/%02d", 29-i))
	}
	for i := range 20 {
		twenty = append(twenty, fmt.Sprintf("shop/%02d", i))
	}
	for name, tc := range map[string]struct {
		evidence rollout.Evidence
		want     []string
	}{
		"none":             {rollout.Evidence{}, nil},
		"in order, once":   {rollout.Evidence{Failing: []string{"b/b", "a/a", "b/b"}}, []string{"a/a", "b/b"}},
		"of both kinds":    {rollout.Evidence{Failing: []string{"b/b"}, Refused: []string{"a/a", "b/b"}}, []string{"a/a", "b/b"}},
		"no more than fit": {rollout.Evidence{Failing: many}, twenty},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, tc.evidence.FailingCallers()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
