package sidecar

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/servicesecurity/operator/controllers/traffic"
)

// The reasons of the condition TrafficObserved that an observation gives.
const (
	reasonSourceUnavailable = "SourceUnavailable"
	reasonIncomplete        = "Incomplete"
	reasonNoTelemetry       = "NoTelemetry"
)

// problems is why a reading is not complete.
type problems struct {
	unread      []unread
	unaddressed []string
	missing     string // label and metric
	unlabelled  []string
	vanished    []string
	evicting    []string
	uncounted   []string
}

// unread is a proxy that could not be read.
type unread struct {
	pod string
	err error
}

// unreachable marks an error of a proxy that could not be reached at all, rather than said something wrong.
type unreachable struct{ err error }

func (u unreachable) Error() string { return u.err.Error() }
func (u unreachable) Unwrap() error { return u.err }

func (p *problems) failed(pod string, err error) {
	p.unread = append(p.unread, unread{pod, err})
}

func (p *problems) label(pod, missing string) {
	p.unlabelled = append(p.unlabelled, pod)
	if p.missing == "" || missing < p.missing {
		p.missing = missing
	}
}

// judge says how complete the reading is, why, and what to do. The message changes only with what it speaks of.
func (p *problems) judge(req traffic.Request, read int, series bool, port int32) (traffic.Completeness, string, string) {
	texts := p.texts(port)
	switch {
	case len(p.unread) > 0 && read == 0:
		return traffic.Unavailable, reasonSourceUnavailable, strings.Join(texts, " ")
	case len(texts) > 0:
		return traffic.Incomplete, reasonIncomplete, strings.Join(texts, " ")
	case read == 0:
		return traffic.Incomplete, reasonNoTelemetry, "There is no pod with a sidecar to read."
	case req.RequireSeries && !series:
		return traffic.Incomplete, reasonNoTelemetry, "No proxy of the target has counted a request or connection: send traffic by " +
			"mutual TLS, see whether a Telemetry resource disables the metrics, or set minRequests to 0."
	}
	return traffic.Complete, "", ""
}

// texts has a sentence or two for each problem.
func (p *problems) texts(port int32) (texts []string) {
	if len(p.unread) > 0 {
		texts = append(texts, p.unreadText(port))
	}
	if len(p.unaddressed) > 0 {
		slices.Sort(p.unaddressed)
		texts = append(texts, "The proxy cannot be read before there is an address of "+pods(p.unaddressed)+".")
	}
	if len(p.unlabelled) > 0 {
		slices.Sort(p.unlabelled)
		texts = append(texts, fmt.Sprintf("In the metrics of %s %s: a Telemetry resource removes it. Remove that override; the proxy is "+
			"trusted again once traffic is counted with the label, or after a restart of the pod.", pods(p.unlabelled), p.missing))
	}
	if len(p.vanished) > 0 {
		slices.Sort(p.vanished)
		texts = append(texts, fmt.Sprintf("Series of %s vanished while its proxy ran on, and what they would have counted with them: "+
			"remove the annotation sidecar.istio.io/statsEvictionInterval.", pods(p.vanished)))
	}
	if len(p.evicting) > 0 {
		slices.Sort(p.evicting)
		texts = append(texts, fmt.Sprintf("Series may have come and gone between two readings of %s: remove the annotation "+
			"sidecar.istio.io/statsEvictionInterval, or make it several times the operator's --observation-interval.", pods(p.evicting)))
	}
	if len(p.uncounted) > 0 {
		slices.Sort(p.uncounted)
		texts = append(texts, fmt.Sprintf("The dry run is not counted by the proxy of %s: it has not taken the policy yet, or its statistics "+
			"lack those that end in shadow_allowed and shadow_denied.", pods(p.uncounted)))
	}
	return texts
}

// unreadText names the first proxy that could not be read, and the remedy that fits its error.
func (p *problems) unreadText(port int32) string {
	slices.SortFunc(p.unread, func(a, b unread) int { return strings.Compare(a.pod, b.pod) })
	first := p.unread[0]
	more := ""
	switch n := len(p.unread) - 1; {
	case n == 1:
		more = ", nor that of 1 more pod"
	case n > 1:
		more = fmt.Sprintf(", nor those of %d more pods", n)
	}
	remedy := fmt.Sprintf("See what answers on port %d of the pod: it should be its istio-proxy container.", port)
	if errors.As(first.err, &unreachable{}) {
		remedy = fmt.Sprintf("See whether its istio-proxy container runs, and whether a NetworkPolicy must allow the operator's "+
			"namespace to reach port %d.", port)
	}
	return fmt.Sprintf("The proxy of pod %s cannot be read%s: %v. %s", first.pod, more, first.err, remedy)
}

// pods names the first pod and says how many more there are.
func pods(names []string) string {
	switch n := len(names) - 1; n {
	case 0:
		return "pod " + names[0]
	case 1:
		return "pod " + names[0] + " and 1 more"
	default:
		return fmt.Sprintf("pod %s and %d more", names[0], n)
	}
}
