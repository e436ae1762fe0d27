package traffic

import (
	"cmp"
	"context"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

// AccessLogs knows who called without mutual TLS, as far as proxies have logged it. A stream of logs may drop: that nothing
// was logged never means that nothing happened.
type AccessLogs interface {
	// Logged reads what is known now. It calls nobody.
	Logged(ctx context.Context, request LogRequest) Logged
}

// LogRequest asks for what the proxies of a target have logged.
type LogRequest struct {
	// Proxies are the sidecars of the target; what others logged is left out.
	Proxies []Proxy
	// Ports says on which workload ports plaintext matters; what came to others is left out.
	Ports PortSet
	// Since leaves out callers that were last seen before.
	Since time.Time
}

// Logged is what proxies have logged.
type Logged struct {
	// Callers, worst first. A workload has one for each port, protocol and outcome, an address without a pod likewise.
	Callers []LoggedCaller
	// LastAccepted is when plaintext was last let in; zero if never.
	LastAccepted time.Time
	// Truncated says that something was left out to keep within bounds since the time asked for.
	Truncated bool
}

// LoggedCaller is a caller without mutual TLS.
type LoggedCaller struct {
	v1alpha1.PlaintextCaller
	// Pod says that the caller is a pod of the cluster, whose workload is known.
	Pod bool
	// Authenticated is when it was last told over a stream by mutual TLS under the identity of the proxy that logged it; zero
	// if never. Without that, nothing may rest on it but a name.
	Authenticated time.Time
}

// maxCallers is what status has room for.
const maxCallers = 20

// UnknownWorkload stands for the workload of a caller that nobody can name.
const UnknownWorkload = "unknown"

// With adds to an observation what was logged. Callers that the metrics cannot name are replaced by the log's, so that
// nobody is counted twice, and plaintext that was let in counts from the moment it was logged. Completeness stays what it
// is: a log never proves that nobody called.
func (o Observation) With(l Logged) Observation {
	if l.LastAccepted.After(o.LastPlaintext) {
		o.LastPlaintext = l.LastAccepted
	}
	if len(l.Callers) > 0 {
		o.Callers = l.merge(o.Callers)
	}
	return o
}

// inFlight is the part of a count, one in so many, that the log may be behind: proxies send their entries a second late.
const inFlight = 10

// workloadKey is a workload and what it speaks.
type workloadKey struct{ namespace, name, family string }

func keyOf(c v1alpha1.PlaintextCaller) workloadKey {
	return workloadKey{c.Namespace, c.Workload, family(c.Protocol)}
}

// merge puts the log's callers in the place of those of the metrics that they are.
func (l Logged) merge(counted []v1alpha1.PlaintextCaller) []v1alpha1.PlaintextCaller {
	logged, told := l.tell(counted)
	all := l.rows()
	for _, c := range counted {
		f := family(c.Protocol)
		sum, tells := told[f]
		switch {
		case c.Workload != UnknownWorkload:
			if !logged[keyOf(c)] {
				all = append(all, c)
			}
		case l.Truncated || !tells:
			all = append(all, c)
		case c.Requests > sum+c.Requests/inFlight:
			// Somebody else is among them, whose proxy's stream may be down.
			told[f], c.Requests = 0, c.Requests-sum
			all = append(all, c)
		default:
			told[f] = max(0, sum-c.Requests)
		}
	}
	return worst(all)
}

// tell says which workloads the log has, and what it has, by family, of those whom the metrics cannot name.
func (l Logged) tell(counted []v1alpha1.PlaintextCaller) (logged map[workloadKey]bool, told map[string]int64) {
	named := map[workloadKey]bool{}
	for _, c := range counted {
		named[keyOf(c)] = true
	}
	logged, told = map[workloadKey]bool{}, map[string]int64{}
	for _, c := range l.Callers {
		if c.Refused {
			continue
		}
		key := keyOf(c.PlaintextCaller)
		logged[key] = true
		if c.Workload == UnknownWorkload || !named[key] {
			told[key.family] += c.Requests
		}
	}
	return logged, told
}

func (l Logged) rows() []v1alpha1.PlaintextCaller {
	var all []v1alpha1.PlaintextCaller
	for _, c := range l.Callers {
		all = append(all, c.PlaintextCaller)
	}
	return all
}

// family of a protocol: a log tells gRPC from other HTTP only where it is configured to have the content type.
func family(protocol string) string {
	if protocol == "TCP" {
		return protocol
	}
	return "HTTP"
}

// Refused are the callers that STRICT refused, worst first, as many as status has room for.
func (l Logged) Refused() []v1alpha1.PlaintextCaller {
	return worst(slices.DeleteFunc(l.rows(), func(c v1alpha1.PlaintextCaller) bool { return !c.Refused }))
}

// Failing names the pods' workloads whose plaintext was refused at a time or later, as authenticated streams told, as
// "namespace/workload": callers that worked until the switch and fail since. Only these may take STRICT back. An address
// outside the cluster never does, or anyone who can send a packet could.
func (l Logged) Failing(since time.Time) []string {
	var names []string
	for _, c := range l.Callers {
		if c.Refused && c.Pod && !c.Authenticated.IsZero() && !c.Authenticated.Before(since) {
			names = append(names, c.Namespace+"/"+c.Workload)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Keep adds the callers that status knows from access logs and that the log does not have any more, after a restart of the
// operator, say, if the request asks for them. They are names and nothing else: plaintext does not count again because of
// them.
func (l Logged) Keep(before []v1alpha1.PlaintextCaller, request LogRequest, now time.Time) Logged {
	l.Callers = slices.Clone(l.Callers)
	current := l.rows()
	for _, c := range before {
		if c.Address == "" || c.LastSeenTime == nil || c.LastSeenTime.Time.Before(request.Since) || c.LastSeenTime.After(now) {
			continue
		}
		if request.Ports.Has(c.Port) && !slices.ContainsFunc(current, func(other v1alpha1.PlaintextCaller) bool { return same(c, other) }) {
			l.Callers = append(l.Callers, LoggedCaller{PlaintextCaller: c})
		}
	}
	return l
}

// same says that two rows are about one caller. An address may have got a name since.
func same(a, b v1alpha1.PlaintextCaller) bool {
	if a.Port != b.Port || a.Refused != b.Refused || a.Protocol != b.Protocol {
		return false
	}
	return a.Address == b.Address || a.Workload != UnknownWorkload && a.Workload == b.Workload && a.Namespace == b.Namespace
}

// worst orders callers by what they sent, and has no more of them than status has room for.
func worst(all []v1alpha1.PlaintextCaller) []v1alpha1.PlaintextCaller {
	slices.SortFunc(all, func(x, y v1alpha1.PlaintextCaller) int {
		return cmp.Or(cmp.Compare(y.Requests, x.Requests), compareCallers(x, y))
	})
	return all[:min(len(all), maxCallers)]
}

func compareCallers(x, y v1alpha1.PlaintextCaller) int {
	return cmp.Or(cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Workload, y.Workload), cmp.Compare(x.Address, y.Address),
		cmp.Compare(x.Port, y.Port), cmp.Compare(x.Protocol, y.Protocol), cmp.Compare(refusal(x), refusal(y)))
}

func refusal(c v1alpha1.PlaintextCaller) int {
	if c.Refused {
		return 1
	}
	return 0
}

// Collapse makes one caller of those that are the same workload on the same port, protocol and outcome, or the same
// address, and orders them, worst first. Of several addresses the first is kept, whoever sends most: status must not change
// with every count.
func Collapse(all []LoggedCaller) []LoggedCaller {
	type who struct {
		namespace, workload, address, protocol string
		port                                   int32
		refused                                bool
	}
	found := map[who]*LoggedCaller{}
	for _, c := range all {
		key := who{c.Namespace, c.Workload, "", c.Protocol, c.Port, c.Refused}
		if !c.Pod {
			key.address = c.Address
		}
		one := found[key]
		if one == nil {
			first := c
			found[key] = &first
			continue
		}
		one.Address = min(one.Address, c.Address)
		one.Requests += c.Requests
		one.LastSeenTime = later(one.LastSeenTime, c.LastSeenTime)
		if c.Authenticated.After(one.Authenticated) {
			one.Authenticated = c.Authenticated
		}
	}
	out := make([]LoggedCaller, 0, len(found))
	for _, one := range found {
		out = append(out, *one)
	}
	slices.SortFunc(out, func(x, y LoggedCaller) int {
		return cmp.Or(cmp.Compare(y.Requests, x.Requests), compareCallers(x.PlaintextCaller, y.PlaintextCaller))
	})
	return out
}

func later(a, b *metav1.Time) *metav1.Time {
	if a == nil || b != nil && b.After(a.Time) {
		return b
	}
	return a
}

// NameOf is what a caller is called in messages, as "namespace/workload" or by its address; empty for one that neither
// metrics nor logs can name.
func NameOf(c v1alpha1.PlaintextCaller) string {
	unknown := c.Workload == "" || c.Workload == UnknownWorkload
	switch {
	case unknown && c.Address == "":
		return ""
	case unknown:
		return "address " + c.Address
	case c.Namespace == "" || c.Namespace == UnknownWorkload:
		return c.Workload
	}
	return c.Namespace + "/" + c.Workload
}
