package promql

import (
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
	reasonNoTraffic         = "NoTraffic"
)

// problems is why an observation is not complete. The texts change only with what they speak of.
type problems struct {
	general    []string
	absent     []string // pods without a series
	stale      []string // pods that are not scraped now
	silent     []string // pods that terminate, and are not scraped, and whose last word is not known
	others     []string // pods whose series are of another pod
	clustered  []string // pods that have series of another cluster
	unlabelled []string // workloads
	unnamed    []string // namespaces
	beside     []string // workloads that may have been the target's
	clusters   []string
	noPods     bool
	noSeries   bool
}

func (p *problems) say(format string, args ...any) {
	p.general = append(p.general, fmt.Sprintf(format, args...))
}

// foreign says of which pods the series are not.
func (p *problems) foreign() (texts []string) {
	if len(p.others) > 0 {
		texts = append(texts, fmt.Sprintf("The series in Prometheus are of another pod of the name of %s, of a process that ran before this one was made: where the server has those of other clusters, "+
			"start the operator with --prometheus-matchers for the label that tells the clusters' scrapes apart. A pod that has just started is found within a scrape interval or two; else see that the clocks of the servers are right.", few("pod", p.others)))
	}
	if len(p.clustered) > 0 {
		texts = append(texts, fmt.Sprintf("Prometheus has series of %s that are of another cluster than --prometheus-cluster says: correct it, "+
			"or start the operator with --prometheus-matchers for the label that tells the clusters' scrapes apart.", few("pod", p.clustered)))
	}
	return texts
}

// judge says how complete the observation is, why, and what to do.
func (p *problems) judge() (traffic.Completeness, string, string) {
	texts := append(slices.Clone(p.general), p.foreign()...)
	if len(p.absent) > 0 {
		texts = append(texts, fmt.Sprintf("Prometheus has no envoy_server_uptime of the proxy of %s: scrape port 15090 of the target's pods, with the labels namespace and pod, "+
			"and do not drop that series; docs/observation.md has the scrape configuration. A pod that has just started is found within a scrape interval or two.", few("pod", p.absent)))
	}
	if len(p.stale) > 0 {
		texts = append(texts, fmt.Sprintf("Prometheus does not scrape the proxy of %s now: see the target's error in its /targets page, and whether a NetworkPolicy must allow it to reach port 15090.",
			few("pod", p.stale)))
	}
	if len(p.silent) > 0 {
		texts = append(texts, fmt.Sprintf("The proxy of %s, which terminates, is not scraped any more, and did not say on port 15090 that it never saw plaintext, or the operator cannot reach it there: see that a NetworkPolicy lets it. The stretch restarts when the pod has gone.",
			few("pod", p.silent)))
	}
	if len(p.unlabelled) > 0 {
		texts = append(texts, fmt.Sprintf("The metrics of %s move without the labels reporter and connection_security_policy: remove the Telemetry override or the relabelling that drops them.",
			few("workload", p.unlabelled)))
	}
	if len(p.unnamed) > 0 {
		texts = append(texts, fmt.Sprintf("Traffic in %s moves without the label destination_workload: remove the Telemetry override or the relabelling that drops it.", few("namespace", p.unnamed)))
	}
	if len(p.beside) > 0 {
		texts = append(texts, fmt.Sprintf("Plaintext was seen at pods of %s in the target's namespace, and it is not known yet whether that is another's: it is as soon as one of them has been scraped for more than a minute beside the target's. "+
			"If none is within five minutes, they may have been of the target, and their plaintext counts.", few("workload", p.beside)))
	}
	if len(p.clusters) > 0 {
		slices.Sort(p.clusters)
		texts = append(texts, fmt.Sprintf("Prometheus has series of workloads of these names from several clusters (%s): start the operator with --prometheus-cluster, "+
			"and with --prometheus-matchers for the label that tells the clusters' scrapes apart.", strings.Join(slices.Compact(p.clusters), ", ")))
	}
	switch {
	case len(texts) > 0:
		return traffic.Incomplete, reasonIncomplete, strings.Join(texts, " ")
	case p.noPods:
		return traffic.Incomplete, reasonNoTelemetry, "There is no pod with a sidecar to look for."
	case p.noSeries:
		return traffic.Incomplete, reasonNoTelemetry, "Prometheus has no request or connection by mutual TLS to the target: send traffic by mutual TLS, see whether a Telemetry resource or " +
			"a relabelling drops istio_requests_total, or set minRequests to 0."
	}
	return traffic.Complete, "", ""
}

// few names the first and says how many more there are.
func few(kind string, names []string) string {
	slices.Sort(names)
	names = slices.Compact(names)
	switch n := len(names) - 1; n {
	case 0:
		return kind + " " + names[0]
	default:
		return fmt.Sprintf("%s %s and %d more", kind, names[0], n)
	}
}
