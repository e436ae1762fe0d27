package traffic

import (
	"context"
	"math"
	"slices"
	"strings"
	"time"
)

const (
	// MaxMeshedCallers bounds Observation.Meshed.
	MaxMeshedCallers = 50
	// MaxCallerProxies bounds the proxies of one caller that are read.
	MaxCallerProxies = 5
)

// MeshedCaller called a target by mutual TLS.
type MeshedCaller struct {
	// Principal is its identity, as its certificate has it: spiffe://cluster.local/ns/shop/sa/checkout.
	Principal string
	// Workload as the caller's own proxy calls it; empty where it does not say.
	Workload string
	// Calls are its requests and connections within the window.
	Calls int64
}

// Identity reads the namespace and the service account in the principal. It says no for one that is not Istio's.
func (c MeshedCaller) Identity() (namespace, serviceAccount string, ok bool) {
	_, path, spiffe := strings.Cut(c.Principal, "spiffe://")
	parts := strings.Split(path, "/")
	if !spiffe || len(parts) != 5 || parts[1] != "ns" || parts[3] != "sa" || parts[2] == "" || parts[4] == "" {
		return "", "", false
	}
	return parts[2], parts[4], true
}

// Name is what people call it: "namespace/workload", or with the service account where the workload is not known.
func (c MeshedCaller) Name() string {
	namespace, account, ok := c.Identity()
	switch {
	case !ok:
		return c.Principal
	case c.Workload != "":
		return namespace + "/" + c.Workload
	}
	return namespace + "/" + account
}

// CallObserver reads what callers' own proxies have counted of their calls to a target. What the target's proxies refuse in
// the handshake, they do not count: only the caller knows.
type CallObserver interface {
	// Calls reads the counters now. It never fails: what could not be read is said in the answer.
	Calls(ctx context.Context, request CallsRequest) Calls
}

// CallsRequest asks for the calls of some callers to a target.
type CallsRequest struct {
	// Profile identifies the profile across calls: its UID.
	Profile string
	// Services are the target's.
	Services Services
	Callers  []CallerProxies
}

// Unserved is the answer for a target that no Service leads to: the callers' metrics name nothing else.
func (r CallsRequest) Unserved(now time.Time) Calls {
	return r.Unread(now, "no Service leads to the target, by which its calls could be told")
}

// Unread is the answer when nothing could be read, and why.
func (r CallsRequest) Unread(now time.Time, why string) Calls {
	out := Calls{Time: now}
	for _, caller := range r.Callers {
		out.Callers = append(out.Callers, CallerCalls{Name: caller.Name, Unread: why})
	}
	return out
}

// CallerProxies is a caller with the proxies that send its calls.
type CallerProxies struct {
	// Name of the caller, "namespace/workload".
	Name string
	// Proxies to read, at most MaxCallerProxies.
	Proxies []Proxy
}

// Services are those that clients call to reach a target, by FQDN.
type Services struct {
	// Names are single ones.
	Names []string
	// Suffix stands for all that end in it; empty for none.
	Suffix string
}

// Empty says that there is none.
func (s Services) Empty() bool { return len(s.Names) == 0 && s.Suffix == "" }

// Has says whether a service is one of them.
func (s Services) Has(name string) bool {
	return slices.Contains(s.Names, name) || s.Suffix != "" && strings.HasSuffix(name, s.Suffix)
}

// Calls is what callers' proxies have counted.
type Calls struct {
	// Time of the reading.
	Time    time.Time
	Callers []CallerCalls
}

// CallerCalls is what the proxies of one caller have counted.
type CallerCalls struct {
	// Name of the caller.
	Name string
	// Pods that were read.
	Pods []PodCalls
	// Unread says of one of those that were not why; empty if all were.
	Unread string
}

// PodCalls are the calls of one pod to the target since its proxy started.
type PodCalls struct {
	// UID of the pod.
	UID string
	// Created is the pod's creation time.
	Created time.Time
	// Arrived are the calls that some proxy or application answered, with whatever, and the connections that were opened.
	Arrived int64
	// Failed are those that found no connection, or lost it before there was an answer. What was never sent, because there
	// was no endpoint or a limit was reached, is neither.
	Failed int64
}

// lostFlags are UF, no connection or no TLS handshake, and UC, a connection that the server ended. Of a request in plaintext
// STRICT makes UC, of a connection of TCP it makes resetFlag, and of TLS that is not the mesh's UF, with URX for the retries.
// URX alone is an answer that was asked for again in vain, and a request that is reset had a connection.
//
// unsentFlags say nothing of the server: no endpoint, a limit, no route, a client that went away, a timeout.
var (
	lostFlags   = []string{"UF", "UC"}
	unsentFlags = []string{"UH", "UO", "NR", "NC", "RL", "RLSE", "DC", "DT", "UT", "SI", "DPE", "IH", "FI", "DI", "OM"}
)

const resetFlag = "UR"

// CallTally sums up what a proxy has counted of its own calls, series by series. The zero value is empty.
type CallTally struct{ arrived, failed, opened, lost int64 }

// Requests takes in a series of istio_requests_total with these response_flags.
func (t *CallTally) Requests(flags string, n int64) {
	all := strings.Split(flags, ",")
	switch {
	case anyOf(all, lostFlags):
		t.failed = sum(t.failed, n)
	case !anyOf(all, unsentFlags):
		t.arrived = sum(t.arrived, n)
	}
}

// Opened takes in a series of istio_tcp_connections_opened_total with these response_flags.
func (t *CallTally) Opened(flags string, n int64) {
	if all := strings.Split(flags, ","); severed(all) || !anyOf(all, unsentFlags) {
		t.opened = sum(t.opened, n)
	}
}

// Closed takes in a series of istio_tcp_connections_closed_total with these response_flags.
func (t *CallTally) Closed(flags string, n int64) {
	if severed(strings.Split(flags, ",")) {
		t.lost = sum(t.lost, n)
	}
}

// severed says that a connection of TCP was lost.
func severed(flags []string) bool {
	return anyOf(flags, lostFlags) || slices.Contains(flags, resetFlag)
}

// Calls takes requests and connections together. A connection is counted when it opens, and once more when it closes.
func (t *CallTally) Calls() PodCalls {
	return PodCalls{Arrived: sum(t.arrived, max(0, t.opened-t.lost)), Failed: sum(t.failed, t.lost)}
}

func anyOf(some, of []string) bool {
	return slices.ContainsFunc(some, func(one string) bool { return slices.Contains(of, one) })
}

// sum stays at the largest number instead of going over it. What is below zero is no count.
func sum(a, b int64) int64 {
	b = max(0, b)
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}
