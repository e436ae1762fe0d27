package traffic

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

var noon = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

// from is a caller of n requests, as a source has it; namespace/workload or unknown.
func from(namespace, workload, protocol string, n int64) v1alpha1.PlaintextCaller {
	return v1alpha1.PlaintextCaller{Namespace: namespace, Workload: workload, Protocol: protocol, Requests: n, LastSeenTime: &metav1.Time{Time: noon}}
}

// at adds what only a log knows.
func at(c v1alpha1.PlaintextCaller, address string, port int32) v1alpha1.PlaintextCaller {
	c.Address, c.Port = address, port
	return c
}

func refused(c v1alpha1.PlaintextCaller) v1alpha1.PlaintextCaller {
	c.Refused = true
	return c
}

func logged(callers ...v1alpha1.PlaintextCaller) Logged {
	l := Logged{}
	for _, c := range callers {
		l.Callers = append(l.Callers, LoggedCaller{PlaintextCaller: c, Pod: c.Workload != UnknownWorkload})
	}
	return l
}

func list(callers ...v1alpha1.PlaintextCaller) []v1alpha1.PlaintextCaller { return callers }

func TestWithAccessLogs(t *testing.T) {
	t.Parallel()
	cron := at(from("legacy", "cron", "HTTP", 40), "10.0.0.9", 8000)
	outside := at(from("", "unknown", "HTTP", 2), "192.0.2.7", 8000)
	for name, tc := range map[string]struct {
		metrics []v1alpha1.PlaintextCaller
		log     Logged
		want    []v1alpha1.PlaintextCaller
	}{
		"no log":                               {metrics: list(from("", "unknown", "HTTP", 42)), want: list(from("", "unknown", "HTTP", 42))},
		"the log names whom the metrics count": {metrics: list(from("", "unknown", "HTTP", 42)), log: logged(cron, outside), want: list(cron, outside)},
		"the log knows of more":                {metrics: list(from("", "unknown", "HTTP", 1)), log: logged(cron, outside), want: list(cron, outside)},
		"somebody else is among them": {
			metrics: list(from("", "unknown", "HTTP", 50)), log: logged(cron, outside), want: list(cron, from("", "unknown", "HTTP", 8), outside),
		},
		"the log is a second behind": {
			metrics: list(from("", "unknown", "HTTP", 46)), log: logged(cron, outside), want: list(cron, outside),
		},
		"the log is truncated": {
			metrics: list(from("", "unknown", "HTTP", 42)), log: Logged{Callers: logged(cron).Callers, Truncated: true}, want: list(from("", "unknown", "HTTP", 42), cron),
		},
		"another protocol stays": {
			metrics: list(from("", "unknown", "TCP", 3), from("", "unknown", "HTTP", 40)), log: logged(cron), want: list(cron, from("", "unknown", "TCP", 3)),
		},
		"gRPC without its content type": {
			metrics: list(from("", "unknown", "GRPC", 40)), log: logged(cron), want: list(cron),
		},
		"a caller that the metrics name, too": {
			metrics: list(from("legacy", "cron", "HTTP", 41), from("", "unknown", "HTTP", 7)), log: logged(cron), want: list(cron, from("", "unknown", "HTTP", 7)),
		},
		"a caller that only the metrics name": {
			metrics: list(from("legacy", "job", "HTTP", 41)), log: logged(cron), want: list(from("legacy", "job", "HTTP", 41), cron),
		},
		"an open connection without a request": {
			metrics: list(from("", "unknown", "TCP", 0)), log: logged(cron), want: list(cron, from("", "unknown", "TCP", 0)),
		},
		"what was refused is not what was counted": {
			metrics: list(from("", "unknown", "HTTP", 42)), log: logged(refused(cron)), want: list(from("", "unknown", "HTTP", 42), refused(cron)),
		},
	} {
		if diff := cmp.Diff(tc.want, Observation{Callers: tc.metrics}.With(tc.log).Callers); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", name, diff)
		}
	}
}

func TestWithAccessLogsCountsAtOnceAndProvesNothing(t *testing.T) {
	t.Parallel()
	before := Observation{Completeness: Incomplete, Message: "a proxy was not read", LastPlaintext: noon}
	later := before.With(Logged{LastAccepted: noon.Add(time.Second)})
	if !later.LastPlaintext.Equal(noon.Add(time.Second)) || later.Completeness != Incomplete || later.Message != before.Message {
		t.Errorf("got %+v", later)
	}
	if got := before.With(Logged{LastAccepted: noon.Add(-time.Second)}); !got.LastPlaintext.Equal(noon) {
		t.Errorf("an older entry makes it %s", got.LastPlaintext)
	}
	if got := (Observation{Completeness: Complete}).With(Logged{}); !got.LastPlaintext.IsZero() || got.Completeness != Complete {
		t.Errorf("an empty log makes it %+v", got)
	}
}

func TestAtMostTwentyCallers(t *testing.T) {
	t.Parallel()
	var all []v1alpha1.PlaintextCaller
	for i := range 50 {
		all = append(all, at(from("", "unknown", "HTTP", int64(i)), fmt.Sprint("192.0.2.", i), 8000))
	}
	got := Observation{}.With(logged(all...)).Callers
	if len(got) != 20 || got[0].Requests != 49 || got[19].Requests != 30 {
		t.Errorf("got %d callers, from %d to %d", len(got), got[0].Requests, got[len(got)-1].Requests)
	}
}

func TestFailing(t *testing.T) {
	t.Parallel()
	cron := refused(at(from("legacy", "cron", "TCP", 1), "10.0.0.9", 8000))
	for name, tc := range map[string]struct {
		caller LoggedCaller
		want   int
	}{
		"a pod, over an authenticated stream": {LoggedCaller{cron, true, noon}, 1},
		"before that time":                    {LoggedCaller{cron, true, noon.Add(-time.Second)}, 0},
		"over a stream that proves nothing":   {LoggedCaller{cron, true, time.Time{}}, 0},
		"an address outside the cluster":      {LoggedCaller{refused(at(from("", "unknown", "TCP", 1), "192.0.2.7", 8000)), false, noon}, 0},
		"plaintext that was let in":           {LoggedCaller{at(from("legacy", "cron", "TCP", 1), "10.0.0.9", 8000), true, noon}, 0},
	} {
		got := Logged{Callers: []LoggedCaller{tc.caller, tc.caller}}.Failing(noon)
		if len(got) != tc.want || len(got) > 0 && got[0] != "legacy/cron" {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestKeep(t *testing.T) {
	t.Parallel()
	cron := refused(at(from("legacy", "cron", "TCP", 9), "10.0.0.9", 8000))
	unnamed := refused(at(from("", "unknown", "TCP", 9), "10.0.0.9", 8000))
	moved := refused(at(from("legacy", "cron", "TCP", 1), "10.0.0.10", 8000))
	for name, tc := range map[string]struct {
		before v1alpha1.PlaintextCaller
		log    Logged
		now    time.Time
		want   int
	}{
		"what a restart lost":               {before: cron, want: 1},
		"older than the window":             {before: cron, now: noon.Add(2 * time.Hour), want: 0},
		"from the future":                   {before: cron, now: noon.Add(-time.Minute), want: 0},
		"the metrics' own":                  {before: from("", "unknown", "TCP", 9), want: 0},
		"seen again":                        {before: cron, log: logged(cron), want: 1},
		"seen again at another address":     {before: cron, log: logged(moved), want: 1},
		"an address that has a name by now": {before: unnamed, log: logged(cron), want: 1},
		"another port":                      {before: cron, log: logged(refused(at(from("legacy", "cron", "TCP", 9), "10.0.0.9", 9000))), want: 2},
		"a port that is excepted by now":    {before: refused(at(from("legacy", "cron", "TCP", 9), "10.0.0.9", 9443)), want: 0},
		"let in before":                     {before: cron, log: logged(at(from("legacy", "cron", "TCP", 9), "10.0.0.9", 8000)), want: 2},
	} {
		now := tc.now
		if now.IsZero() {
			now = noon.Add(time.Minute)
		}
		got := tc.log.Keep(list(tc.before), LogRequest{Ports: PortSet{Except: true, Ports: []int32{9443}}, Since: now.Add(-time.Hour)}, now)
		if len(got.Callers) != tc.want {
			t.Errorf("%s: %+v", name, got.Callers)
		}
		if names := got.Failing(time.Time{}); len(names) != 0 {
			t.Errorf("%s: what status says makes %v fail", name, names)
		}
	}
}

func TestCollapse(t *testing.T) {
	t.Parallel()
	pod := func(c v1alpha1.PlaintextCaller, authenticated time.Time) LoggedCaller {
		return LoggedCaller{PlaintextCaller: c, Pod: c.Workload != UnknownWorkload, Authenticated: authenticated}
	}
	late := at(from("legacy", "cron", "HTTP", 3), "10.0.0.10", 8000)
	late.LastSeenTime = &metav1.Time{Time: noon.Add(time.Minute)}
	sum := at(from("legacy", "cron", "HTTP", 8), "10.0.0.10", 8000)
	sum.LastSeenTime = late.LastSeenTime
	got := Collapse([]LoggedCaller{
		pod(at(from("legacy", "cron", "HTTP", 5), "10.0.0.9", 8000), noon),
		pod(late, time.Time{}),
		pod(at(from("legacy", "cron", "HTTP", 1), "10.0.0.9", 9000), time.Time{}),
		pod(refused(at(from("legacy", "cron", "HTTP", 1), "10.0.0.9", 8000)), noon),
		pod(at(from("", "unknown", "HTTP", 2), "192.0.2.7", 8000), time.Time{}),
		pod(at(from("", "unknown", "HTTP", 2), "192.0.2.8", 8000), time.Time{}),
	})
	want := []LoggedCaller{
		pod(sum, noon),
		pod(at(from("", "unknown", "HTTP", 2), "192.0.2.7", 8000), time.Time{}),
		pod(at(from("", "unknown", "HTTP", 2), "192.0.2.8", 8000), time.Time{}),
		pod(refused(at(from("legacy", "cron", "HTTP", 1), "10.0.0.9", 8000)), noon),
		pod(at(from("legacy", "cron", "HTTP", 1), "10.0.0.9", 9000), time.Time{}),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if diff := cmp.Diff(list(refused(at(from("legacy", "cron", "HTTP", 1), "10.0.0.9", 8000))), Logged{Callers: got}.Refused()); diff != "" {
		t.Errorf("refused (-want +got)\n%s", diff)
	}
}

func TestNameOf(t *testing.T) {
	t.Parallel()
	for want, c := range map[string]v1alpha1.PlaintextCaller{
		"legacy/cron":       at(from("legacy", "cron", "HTTP", 1), "10.0.0.9", 8000),
		"cron":              from("", "cron", "HTTP", 1),
		"job":               from("unknown", "job", "HTTP", 1),
		"address 192.0.2.7": at(from("", "unknown", "HTTP", 1), "192.0.2.7", 8000),
		"":                  from("", "unknown", "HTTP", 1),
	} {
		if got := NameOf(c); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
