package sidecar

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servicesecurity/operator/controllers/traffic"
)

const refusedA = "Unavailable/SourceUnavailable: The proxy of pod foo/a cannot be read: connection refused. See whether its istio-proxy container " +
	"runs, and whether a NetworkPolicy must allow the operator's namespace to reach port 15090."

const vanishedA = "series of the proxy of pod foo/a vanished"

const (
	unreadA   = "the proxy of pod foo/a drops series that do not move, and some may have come and gone unread"
	evictingA = "Series may have come and gone between two readings of pod foo/a: remove the annotation sidecar.istio.io/statsEvictionInterval, " +
		"or make it several times the operator's --observation-interval."
)

func except(ports ...int32) step {
	return request(func(r *traffic.Request) { r.Ports = traffic.PortSet{Except: true, Ports: ports} })
}

func TestTracker(t *testing.T) {
	t.Parallel()
	const port8000, port9000 = "inbound_0.0.0.0_8000", "inbound_0.0.0.0_9000"
	for name, tc := range map[string]struct {
		steps []step
		want  []string
	}{
		// What counts as plaintext.

		"a quiet workload is complete, and nothing flows": {
			steps: []step{pod("a"), after(time.Minute), read, next},
			want:  []string{"Complete/NoTraffic, since 1m0s", "Complete/NoTraffic, since 1m0s"},
		},
		"traffic by mutual TLS is counted from the first complete reading on": {
			steps: []step{pod("a"), plus("a", mtlsHTTP, 100), plus("a", mtlsOpened, 10), read, plus("a", mtlsHTTP, 3), plus("a", mtlsOpened, 2), plus("a", mtlsMessages, 9), next, next},
			want:  []string{"Complete/NoTraffic, since 0s", "Complete, since 0s, mutual 5", "Complete, since 0s, mutual 5"},
		},
		"plaintext before the first reading happened earlier": {
			steps: []step{pod("a"), plus("a", plainHTTP, 7), read, next},
			want:  []string{"Complete/NoTraffic, since 0s", "Complete/NoTraffic, since 0s"},
		},
		"plaintext of a known caller is seen": {
			steps: []step{pod("a"), plus("a", plainHTTP, 7), read, plus("a", plainHTTP, 2), next, next},
			want: []string{
				"Complete/NoTraffic, since 0s",
				"Complete, since 0s, plaintext 10s, legacy/cron HTTP 2",
				"Complete, since 0s, plaintext 10s, legacy/cron HTTP 2",
			},
		},
		"a series born between two readings is plaintext, though no counter moved": {
			steps: []step{pod("a"), read, plus("a", plainHTTP, 1), next},
			want:  []string{"Complete/NoTraffic, since 0s", "Complete, since 0s, plaintext 10s, legacy/cron HTTP 1"},
		},
		"a series born with zero is no traffic": {
			steps: []step{pod("a"), read, plus("a", plainTCPBytes, 0), next},
			want:  []string{"Complete/NoTraffic, since 0s", "Complete/NoTraffic, since 0s"},
		},
		"what the workload itself sends does not matter": {
			steps: []step{pod("a"), read, plus("a", sourceHTTP, 50), plus("a", waypointHTTP, 5), next},
			want:  []string{"Complete/NoTraffic, since 0s", "Complete/NoTraffic, since 0s"},
		},
		"messages of a plaintext gRPC stream are plaintext before it ends": {
			steps: []step{pod("a"), read, plus("a", plainMessage, 4), next, plus("a", plainAnswer, 1), next},
			want: []string{
				"Complete/NoTraffic, since 0s",
				"Complete, since 0s, plaintext 10s, legacy/feed GRPC 4",
				"Complete, since 0s, plaintext 20s, legacy/feed GRPC 4",
			},
		},
		"a gRPC call is one request, however many messages it has": {
			steps: []step{pod("a"), read, plus("a", plainGRPC, 1), plus("a", `istio_request_messages_total{reporter="destination",source_principal="-",request_protocol="grpc"}`, 6), next},
			want:  []string{"Complete/NoTraffic, since 0s", "Complete, since 0s, plaintext 10s, /unknown GRPC 1"},
		},
		"a plaintext TCP connection is open until it is closed": {
			steps: []step{pod("a"), read, plus("a", plainTCPOpen, 1), next, next, plus("a", plainTCPClose, 1), next},
			want: []string{
				"Complete/NoTraffic, since 0s",
				"Complete, since 0s, plaintext 10s, open 1, legacy/db-client TCP 1",
				"Complete, since 0s, plaintext 20s, open 1, legacy/db-client TCP 1",
				"Complete, since 0s, plaintext 30s, legacy/db-client TCP 1",
			},
		},
		"a plaintext TCP connection from before the first reading is open, and its caller named": {
			steps: []step{pod("a"), plus("a", plainTCPOpen, 3), plus("a", plainTCPClose, 1), read},
			want:  []string{"Complete/NoTraffic, since 0s, plaintext 0s, open 2, legacy/db-client TCP 0"},
		},
		"no stretch goes on over what no proxy counts, nor over what is left of it for an interval, and it is told once": {
			steps: []step{
				pod("a"), read, next, request(func(r *traffic.Request) { r.Unobserved = true }), next, next,
				request(func(r *traffic.Request) { r.Unobserved = false }), next, next, next,
			},
			want: []string{
				"Complete/NoTraffic, since 0s",
				"Complete/NoTraffic, since 0s",
				"Complete/NoTraffic, since 20s, gap: a part of the target was not observed",
				"Complete/NoTraffic, since 30s",
				"Complete/NoTraffic, since 40s",
				"Complete/NoTraffic, since 50s",
				"Complete/NoTraffic, since 50s",
			},
		},
		"nor while a listener drains that did not count": {
			steps: []step{
				pod("a"), request(func(r *traffic.Request) { r.Unobserved = true }), read, request(func(r *traffic.Request) { r.Unobserved = false }),
				next, gauge("a", draining, 1), next, next, gauge("a", draining, 0), next, next, gauge("a", draining, 1), next,
			},
			want: []string{
				"Complete/NoTraffic, since 0s, gap: a part of the target was not observed",
				"Complete/NoTraffic, since 10s",
				"Complete/NoTraffic, since 20s",
				"Complete/NoTraffic, since 30s",
				"Complete/NoTraffic, since 40s",
				"Complete/NoTraffic, since 40s",
				"Complete/NoTraffic, since 40s",
			},
		},
		"nor while one that may drain is not read": {
			steps: []step{
				pod("a"), pod("b"), request(func(r *traffic.Request) { r.Unobserved = true }), read, request(func(r *traffic.Request) { r.Unobserved = false }),
				next, refuses("b"), next, answers("b"), gauge("b", draining, 1), next, after(10 * time.Minute), next, next,
			},
			want: []string{
				"Complete/NoTraffic, since 0s, gap: a part of the target was not observed",
				"Complete/NoTraffic, since 10s",
				"Incomplete/Incomplete: The proxy of pod foo/b cannot be read: connection refused. See whether its istio-proxy container runs, and whether a NetworkPolicy must allow the operator's namespace to reach port 15090.",
				"Complete/NoTraffic, since 30s",
				"Complete/NoTraffic, since 10m40s",
				"Complete/NoTraffic, since 10m40s",
			},
		},
		"what the next process of the operator finds then proves nothing": {
			steps: []step{
				pod("a"), after(time.Minute), request(func(r *traffic.Request) { r.Unobserved = true }), read, request(func(r *traffic.Request) { r.Unobserved = false }),
				next, func(w *world) {
					if w.last.Evidence.Proxies != "" || w.last.Evidence.SinceTime != nil || !w.last.Void {
						w.told = append(w.told, fmt.Sprintf("evidence %v, void: %v", w.last.Evidence, w.last.Void))
					}
				}, operatorRestarts, next, next, next, next,
			},
			want: []string{
				"Complete/NoTraffic, since 1m0s, gap: a part of the target was not observed",
				"Complete/NoTraffic, since 1m10s",
				"Complete/NoTraffic, since 1m20s", // nor to it does a stretch begin before an interval is over
				"Complete/NoTraffic, since 1m30s",
				"Complete/NoTraffic, since 1m40s",
				"Complete/NoTraffic, since 1m40s",
			},
		},
		"nor does the evidence of the time before reach over it": {
			steps: []step{
				pod("a"), read, next, operatorRestarts, request(func(r *traffic.Request) { r.Unobserved = true }), next,
			},
			want: []string{
				"Complete/NoTraffic, since 0s",
				"Complete/NoTraffic, since 0s",
				"Complete/NoTraffic, since 20s, gap: a part of the target was not observed",
			},
		},
		"a clock that strays in small steps has jumped in the end": {
			steps: []step{pod("a"), read, clockSet(6 * time.Second), next, clockSet(6 * time.Second), next, clockSet(6 * time.Second), next, next},
			want: []string{
				"Complete/NoTraffic, since 0s",
				"Complete/NoTraffic, since 0s",
				"Complete/NoTraffic, since 0s",
				"Complete/NoTraffic, since 48s, gap: the operator's clock jumped",
				"Complete/NoTraffic, since 48s",
			},
		},
		"and so has one that strays since plaintext, whatever it did before": {
			steps: []step{
				pod("a"), read, clockSet(-8 * time.Second), next, plus("a", plainHTTP, 1), next, clockSet(8 * time.Second), next, clockSet(8 * time.Second), next,
			},
			want: []string{
				"Complete/NoTraffic, since 0s",
				"Complete/NoTraffic, since 0s",
				"Complete, since 0s, plaintext 12s, legacy/cron HTTP 1",
				"Complete, since 0s, plaintext 12s, legacy/cron HTTP 1",
				"Complete/NoTraffic, since 48s, plaintext 12s, legacy/cron HTTP 1, gap: the operator's clock jumped",
			},
		},
		"a stretch in status that is older than the profile is not taken up": {
			steps: []step{
				pod("a"), read, next, operatorRestarts, request(func(r *traffic.Request) {
					r.Created, r.CleanSince = epoch, epoch.Add(-8760*time.Hour)
					r.Evidence.SinceTime = &metav1.Time{Time: r.CleanSince}
				}), next,
			},
			want: []string{
				"Complete/NoTraffic, since 0s",
				"Complete/NoTraffic, since 0s",
				"Complete/NoTraffic, since 20s, gap: the stretch in status is older than the profile",
			},
		},
		"a stretch in status is taken up from when the oldest process began": {
			steps: []step{
				pod("a"), read, after(time.Minute), pod("b"), plus("b", mtlsHTTP, 2), read, terminating("a"), next, gone("a"), next,
				plus("b", mtlsHTTP, 3), next, operatorRestarts, plus("b", mtlsHTTP, 1), next,
			},
			want: []string{
				"Complete/NoTraffic, since 0s",
				"Complete, since 0s, mutual 2",
				"Complete, since 0s, mutual 2",
				"Complete, since 0s, mutual 2",
				"Complete, since 0s, mutual 5",
				"Complete, since 1m0s, mutual 1",
			},
		},
		"a stretch in status that is edited begins where the evidence says": {
			steps: []step{
				pod("a"), read, next, plus("a", plainHTTP, 1), next, next, operatorRestarts, request(func(r *traffic.Request) {
					r.CleanSince = epoch.Add(time.Second)
				}), next,
			},
			want: []string{
				"Complete/NoTraffic, since 0s",
				"Complete/NoTraffic, since 0s",
				"Complete, since 0s, plaintext 20s, legacy/cron HTTP 1",
				"Complete, since 0s, plaintext 20s, legacy/cron HTTP 1",
				"Complete/NoTraffic, since 20s, legacy/cron HTTP 1",
			},
		},
		"a stretch that began in this second is taken up, and plaintext of the time without an operator is seen": {
			steps: []step{
				pod("a"), after(time.Minute + 100*time.Millisecond), read, plus("a", plainHTTP, 1), operatorRestarts, after(200 * time.Millisecond), read,
			},
			want: []string{"Complete/NoTraffic, since 1m0.1s", "Complete, since 1m0.3s, plaintext 1m0.3s"},
		},
		"without evidence of its start there is no stretch": {
			steps: []step{
				pod("a"), read, next, operatorRestarts, request(func(r *traffic.Request) { r.Evidence.SinceTime = nil }), next,
			},
			want: []string{"Complete/NoTraffic, since 0s", "Complete/NoTraffic, since 0s", "Complete/NoTraffic, since 20s, gap: the evidence in status does not say since when it holds"},
		},
		"a plaintext connection that goes with its pod was there until then": {
			steps: []step{
				pod("a"), pod("b"), plus("a", plainTCPOpen, 1), read, next, next, terminating("a"), next, gone("a"), next,
			},
			want: []string{
				"Complete/NoTraffic, since 0s, plaintext 0s, open 1, legacy/db-client TCP 0",
				"Complete/NoTraffic, since 0s, plaintext 10s, open 1, legacy/db-client TCP 0",
				"Complete/NoTraffic, since 0s, plaintext 20s, open 1, legacy/db-client TCP 0",
				"Complete/NoTraffic, since 0s, plaintext 30s, open 1, legacy/db-client TCP 0",
				"Complete/NoTraffic, since 0s, plaintext 40s, legacy/db-client TCP 0",
			},
		},
		"a plaintext TCP connection that only moves bytes is plaintext": {
			steps: []step{pod("a"), plus("a", plainTCPBytes, 100), read, plus("a", plainTCPBytes, 1), next},
			want:  []string{"Complete/NoTraffic, since 0s", "Complete, since 0s, plaintext 10s, legacy/db-client TCP 0"},
		},
		"plaintext HTTP connections are open where the proxy exposes them": {
			steps: []step{pod("a"), exposes("a", port8000, 9, 7, 3, 2), exposes("a", "InboundPassthroughCluster", 1, 0, 1, 0), read},
			want:  []string{"Complete/NoTraffic, since 0s, plaintext 0s, open 2"},
		},
		"mutual TLS is counted anew after plaintext": {
			steps: []step{pod("a"), read, plus("a", mtlsHTTP, 5), next, plus("a", mtlsHTTP, 5), plus("a", plainHTTP, 1), next, plus("a", mtlsHTTP, 2), next},
			want: []string{
				"Complete/NoTraffic, since 0s",
				"Complete, since 0s, mutual 5",
				"Complete, since 0s, plaintext 20s, legacy/cron HTTP 1",
				"Complete, since 0s, plaintext 20s, mutual 2, legacy/cron HTTP 1",
			},
		},

		// What makes a reading incomplete.

		"a failed scrape is made good by the next of the same process": {
			steps: []step{pod("a"), read, plus("a", mtlsHTTP, 1), refuses("a"), next, answers("a"), next},
			want:  []string{"Complete/NoTraffic, since 0s", refusedA, "Complete, since 0s, mutual 1"},
		},
		"plaintext during a failed scrape is seen by the next": {
			steps: []step{pod("a"), read, plus("a", plainHTTP, 1), refuses("a"), next, answers("a"), next},
			want:  []string{"Complete/NoTraffic, since 0s", refusedA, "Complete, since 0s, plaintext 20s, legacy/cron HTTP 1"},
		},
		"a process that restarts between a failed scrape and the next is a gap": {
			steps: []step{pod("a"), after(time.Minute), read, refuses("a"), next, restart("a"), answers("a"), next},
			want: []string{
				"Complete/NoTraffic, since 1m0s", refusedA,
				"Complete/NoTraffic, since 1m20s, gap: the proxy of pod foo/a restarted, and what it saw before went with it",
			},
		},
		"the stretch begins with the first complete reading": {
			steps: []step{pod("a"), refuses("a"), read, answers("a"), next},
			want:  []string{refusedA, "Complete/NoTraffic, since 10s"},
		},
		"some proxies that cannot be read make it incomplete, and the first is named": {
			steps: []step{pod("c"), pod("b"), pod("a"), with("c", func(p *simulated) { p.err = errHTML }), with("b", func(p *simulated) { p.err = errHTML }), read, with("c", func(p *simulated) { p.err = nil }), next, refuses("c"), pod("d"), refuses("d"), next},
			want: []string{
				"Incomplete/Incomplete: The proxy of pod foo/b cannot be read, nor that of 1 more pod: it answered with HTML, not with metrics. See what answers on port 15090 of the pod: it should be its istio-proxy container.",
				"Incomplete/Incomplete: The proxy of pod foo/b cannot be read: it answered with HTML, not with metrics. See what answers on port 15090 of the pod: it should be its istio-proxy container.",
				"Incomplete/Incomplete: The proxy of pod foo/b cannot be read, nor those of 2 more pods: it answered with HTML, not with metrics. See what answers on port 15090 of the pod: it should be its istio-proxy container.",
			},
		},
		"a pod without an address is incomplete": {
			steps: []step{pod("a"), pod("b"), with("b", func(p *simulated) { p.Address = "" }), read, with("b", func(p *simulated) { p.Address = "10.0.0.2" }), next},
			want:  []string{"Incomplete/Incomplete: The proxy cannot be read before there is an address of pod foo/b.", "Complete/NoTraffic, since 10s"},
		},
		"a pod that goes away before it had an address is no gap": {
			steps: []step{pod("a"), read, pod("b"), pod("c"), with("b", func(p *simulated) { p.Address = "" }), with("c", func(p *simulated) { p.Address = "" }), next, gone("b"), terminating("c"), next, gone("c"), next},
			want: []string{
				"Complete/NoTraffic, since 0s",
				"Incomplete/Incomplete: The proxy cannot be read before there is an address of pod foo/b and 1 more.",
				"Complete/NoTraffic, since 0s", "Complete/NoTraffic, since 0s",
			},
		},
		"without pods there is nothing to read, and no gap": {
			steps: []step{pod("a"), read, terminating("a"), next, gone("a"), next, pod("b"), next},
			want: []string{
				"Complete/NoTraffic, since 0s", "Complete/NoTraffic, since 0s",
				"Incomplete/NoTelemetry: There is no pod with a sidecar to read.",
				"Complete/NoTraffic, since 0s",
			},
		},
		"no series is not enough where series are required": {
			steps: []step{pod("a"), request(func(r *traffic.Request) { r.RequireSeries = true }), read, plus("a", mtlsHTTP, 1), next},
			want: []string{
				"Incomplete/NoTelemetry: No proxy of the target has counted a request or connection: send traffic by mutual TLS, see whether a Telemetry resource disables the metrics, or set minRequests to 0.",
				"Complete/NoTraffic, since 10s",
			},
		},
		"series without the security policy say nothing until others say it again": {
			steps: []step{pod("a"), read, plus("a", noPolicy, 1), next, next, plus("a", mtlsHTTP, 1), next, plus("a", mtlsHTTP, 1), next},
			want: []string{
				"Complete/NoTraffic, since 0s",
				"Incomplete/Incomplete, gap: the metrics of the proxy of pod foo/a do not say how its traffic was secured: In the metrics of pod foo/a the label connection_security_policy of istio_requests_total is missing: a Telemetry resource removes it. Remove that override; the proxy is trusted again once traffic is counted with the label, or after a restart of the pod.",
				"Incomplete/Incomplete: In the metrics of pod foo/a the label connection_security_policy of istio_requests_total is missing: a Telemetry resource removes it. Remove that override; the proxy is trusted again once traffic is counted with the label, or after a restart of the pod.",
				"Complete/NoTraffic, since 30s",
				"Complete, since 30s, mutual 1",
			},
		},
		"series without the reporter say nothing either, and a restart mends it": {
			steps: []step{pod("a"), pod("b"), plus("a", noReporter, 1), plus("b", noReporter, 1), plus("b", noPolicy, 1), read, after(time.Minute), restart("a"), restart("b"), next},
			want: []string{
				"Incomplete/Incomplete, gap: the metrics of the proxy of pod foo/a do not say how its traffic was secured: In the metrics of pod foo/a and 1 more the label connection_security_policy of istio_requests_total is missing: a Telemetry resource removes it. Remove that override; the proxy is trusted again once traffic is counted with the label, or after a restart of the pod.",
				"Complete/NoTraffic, since 1m10s, gap: the proxy of pod foo/a restarted, and what it saw before went with it",
			},
		},
		"the end of a connection whose series was evicted does not hide another": {
			steps: []step{
				pod("a"), plus("a", plainTCPOpen, 1), read, next, next, evicts(plainTCPOpen), next,
				plus("a", plainTCPClose, 1), plus("a", plainTCPOpen, 1), next, plus("a", plainTCPClose, 1), next,
			},
			want: []string{
				"Complete/NoTraffic, since 0s, plaintext 0s, open 1, legacy/db-client TCP 0",
				"Complete/NoTraffic, since 0s, plaintext 10s, open 1, legacy/db-client TCP 0",
				"Complete/NoTraffic, since 0s, plaintext 20s, open 1, legacy/db-client TCP 0",
				"Incomplete/Incomplete, plaintext 30s, open 1, legacy/db-client TCP 0, gap: series of the proxy of pod foo/a vanished: Series of pod foo/a vanished while its proxy ran on, and what they would have counted with them: remove the annotation sidecar.istio.io/statsEvictionInterval.",
				"Complete, since 40s, plaintext 40s, open 1, legacy/db-client TCP 1",
				"Complete, since 40s, plaintext 50s, legacy/db-client TCP 1",
			},
		},
		"connections that series born again in the operator's absence count are open": {
			steps: []step{
				pod("a"), after(time.Minute), plus("a", plainTCPOpen, 5), plus("a", plainTCPClose, 5), read, operatorRestarts,
				evicts(plainTCPOpen), evicts(plainTCPClose), plus("a", plainTCPOpen, 3), plus("a", plainTCPClose, 1), next,
			},
			want: []string{
				"Complete/NoTraffic, since 1m0s",
				"Complete/NoTraffic, since 1m10s, plaintext 1m10s, open 2, legacy/db-client TCP 0, gap: counters of a proxy fell in the operator's absence",
			},
		},
		"what status kept of a proxy that cannot be read is kept for the process after": {
			steps: []step{
				pod("a"), evicting(time.Hour), pod("b"), after(time.Minute), plus("a", plainTCPOpen, 1), read, next, evicts(plainTCPOpen), next,
				request(func(r *traffic.Request) { r.Unobserved = true }), next, operatorRestarts, refuses("a"), next, operatorRestarts, answers("a"), next,
			},
			want: []string{
				"Complete/NoTraffic, since 1m0s, plaintext 1m0s, open 1, legacy/db-client TCP 0",
				"Complete/NoTraffic, since 1m0s, plaintext 1m10s, open 1, legacy/db-client TCP 0",
				"Incomplete/Incomplete, plaintext 1m20s, open 1, legacy/db-client TCP 0, gap: series of the proxy of pod foo/a vanished: Series of pod foo/a vanished while its proxy ran on, and what they would have counted with them: remove the annotation sidecar.istio.io/statsEvictionInterval.",
				"Complete/NoTraffic, since 1m30s, plaintext 1m30s, open 1, legacy/db-client TCP 0, gap: a part of the target was not observed",
				"Incomplete/Incomplete, legacy/db-client TCP 0: " + strings.TrimPrefix(refusedA, "Unavailable/SourceUnavailable: "),
				"Complete/NoTraffic, since 1m50s, plaintext 1m50s, open 1, legacy/db-client TCP 0",
			},
		},
		"a connection whose series was evicted is open until its end is counted, whoever reads that": {
			steps: []step{
				pod("a"), after(time.Minute), plus("a", plainTCPOpen, 1), read, next, next, evicts(plainTCPOpen), next, next,
				operatorRestarts, next, plus("a", plainTCPClose, 1), next,
			},
			want: []string{
				"Complete/NoTraffic, since 1m0s, plaintext 1m0s, open 1, legacy/db-client TCP 0",
				"Complete/NoTraffic, since 1m0s, plaintext 1m10s, open 1, legacy/db-client TCP 0",
				"Complete/NoTraffic, since 1m0s, plaintext 1m20s, open 1, legacy/db-client TCP 0",
				"Incomplete/Incomplete, plaintext 1m30s, open 1, legacy/db-client TCP 0, gap: series of the proxy of pod foo/a vanished: Series of pod foo/a vanished while its proxy ran on, and what they would have counted with them: remove the annotation sidecar.istio.io/statsEvictionInterval.",
				"Complete/NoTraffic, since 1m40s, plaintext 1m40s, open 1, legacy/db-client TCP 0",
				"Complete/NoTraffic, since 1m40s, plaintext 1m50s, open 1, legacy/db-client TCP 0",
				"Complete, since 1m40s, plaintext 2m0s, legacy/db-client TCP 0",
			},
		},
		"connections of a listener that was replaced have ended with it": {
			steps: []step{
				pod("a"), plus("a", plainTCPOpen, 1), read, gauge("a", draining, 1), next, gauge("a", draining, 0), evicts(plainTCPOpen), next,
			},
			want: []string{
				"Complete/NoTraffic, since 0s, plaintext 0s, open 1, legacy/db-client TCP 0",
				"Complete/NoTraffic, since 0s, plaintext 10s, open 1, legacy/db-client TCP 0",
				"Complete/NoTraffic, since 20s, plaintext 10s, legacy/db-client TCP 0, gap: series of the proxy of pod foo/a vanished",
			},
		},
		"those of the listener after it have not": {
			steps: []step{
				pod("a"), plus("a", unnamedTCPOpen, 5), plus("a", plainTCPClose, 5), read, gauge("a", draining, 1), next,
				gauge("a", draining, 0), evicts(unnamedTCPOpen), plus("a", plainTCPOpen, 2), next,
			},
			want: []string{
				"Complete/NoTraffic, since 0s",
				"Complete/NoTraffic, since 0s",
				"Complete, since 20s, plaintext 20s, open 2, legacy/db-client TCP 2, gap: series of the proxy of pod foo/a vanished",
			},
		},
		"nor have those that came to it while the one before drained": {
			steps: []step{
				pod("a"), plus("a", unnamedTCPOpen, 5), plus("a", plainTCPClose, 5), read, gauge("a", draining, 1), plus("a", plainTCPOpen, 2), next,
				gauge("a", draining, 0), evicts(unnamedTCPOpen), next,
			},
			want: []string{
				"Complete/NoTraffic, since 0s",
				"Complete, since 0s, plaintext 10s, open 2, legacy/db-client TCP 2, /unknown TCP 0",
				"Complete/NoTraffic, since 20s, plaintext 20s, open 2, legacy/db-client TCP 2, /unknown TCP 0, gap: series of the proxy of pod foo/a vanished",
			},
		},
		"the end of one that drained is not that of another": {
			steps: []step{
				pod("a"), plus("a", unnamedTCPOpen, 3), plus("a", plainTCPClose, 2), read, gauge("a", draining, 1), plus("a", plainTCPOpen, 1), next,
				gauge("a", draining, 0), evicts(unnamedTCPOpen), plus("a", plainTCPClose, 1), next,
			},
			want: []string{
				"Complete/NoTraffic, since 0s, plaintext 0s, open 1, /unknown TCP 0",
				"Complete, since 0s, plaintext 10s, open 2, legacy/db-client TCP 1, /unknown TCP 0",
				"Complete, since 20s, plaintext 20s, open 1, legacy/db-client TCP 1, /unknown TCP 0, gap: series of the proxy of pod foo/a vanished",
			},
		},
		"a proxy that evicts may do so while a listener drains": {
			steps: []step{
				pod("a"), with("a", func(p *simulated) { p.Eviction = time.Hour }), plus("a", plainTCPOpen, 1), gauge("a", draining, 1), read, next, evicts(plainTCPOpen), next,
				operatorRestarts, next,
			},
			want: []string{
				"Complete/NoTraffic, since 0s, plaintext 0s, open 1, legacy/db-client TCP 0",
				"Complete/NoTraffic, since 0s, plaintext 10s, open 1, legacy/db-client TCP 0",
				"Incomplete/Incomplete, plaintext 20s, open 1, legacy/db-client TCP 0, gap: series of the proxy of pod foo/a vanished: Series of pod foo/a vanished while its proxy ran on, and what they would have counted with them: remove the annotation sidecar.istio.io/statsEvictionInterval.",
				"Complete/NoTraffic, since 30s, plaintext 30s, open 1, legacy/db-client TCP 0",
			},
		},
		"ends that are not counted any more leave nothing open": {
			steps: []step{
				pod("a"), plus("a", plainTCPOpen, 5), plus("a", plainTCPClose, 5), after(time.Minute), read, gauge("a", draining, 1), next,
				gauge("a", draining, 0), evicts(plainTCPClose), next, operatorRestarts, next,
			},
			want: []string{
				"Complete/NoTraffic, since 1m0s",
				"Complete/NoTraffic, since 1m0s",
				"Complete/NoTraffic, since 1m20s, gap: series of the proxy of pod foo/a vanished",
				"Complete/NoTraffic, since 1m20s",
			},
		},
		"series that vanish from a process that runs on are a gap, and not complete": {
			steps: []step{pod("a"), plus("a", mtlsHTTP, 1), read, next, next, evicts(mtlsHTTP), next, next},
			want: []string{
				"Complete/NoTraffic, since 0s", "Complete/NoTraffic, since 0s", "Complete/NoTraffic, since 0s",
				"Incomplete/Incomplete, gap: " + vanishedA + ": Series of pod foo/a vanished while its proxy ran on, and what they would have counted with them: remove the annotation sidecar.istio.io/statsEvictionInterval.",
				"Complete/NoTraffic, since 40s",
			},
		},
		"what a proxy that evicts series counted between readings that are too far apart may be gone": {
			steps: []step{
				pod("a"), evicting(15 * time.Second), read, next, refuses("a"), next, answers("a"), next, next,
				evicting(5 * time.Second), next, evicting(0), next,
			},
			want: []string{
				"Complete/NoTraffic, since 0s", "Complete/NoTraffic, since 0s", refusedA,
				"Incomplete/Incomplete, gap: " + unreadA + ": " + evictingA, "Complete/NoTraffic, since 40s",
				"Incomplete/Incomplete, gap: " + unreadA + ": " + evictingA, "Complete/NoTraffic, since 1m0s",
			},
		},
		"and what one counted in the operator's absence": {
			steps: []step{
				pod("a"), evicting(15 * time.Second), after(time.Minute), read, next, operatorRestarts, next, operatorRestarts, after(20 * time.Second), read,
			},
			want: []string{
				"Complete/NoTraffic, since 1m0s", "Complete/NoTraffic, since 1m0s", "Complete/NoTraffic, since 1m0s",
				"Complete/NoTraffic, since 1m40s, gap: a proxy drops series that do not move, and some may have come and gone in the operator's absence",
			},
		},
		"and what one counted before it joined": {
			steps: []step{pod("b"), after(time.Minute), read, olderPod("a", 20*time.Second), evicting(15 * time.Second), next, next},
			want: []string{
				"Complete/NoTraffic, since 1m0s", "Complete/NoTraffic, since 1m10s, gap: " + unreadA, "Complete/NoTraffic, since 1m10s",
			},
		},
		"series that vanish with the filter chain that wrote them are a gap, but complete": {
			steps: []step{
				pod("a"), plus("a", plainHTTP, 1), read, next, next, gauge("a", updates, 1), gauge("a", draining, 1), next,
				gauge("a", draining, 0), evicts(plainHTTP), next,
			},
			want: []string{
				"Complete/NoTraffic, since 0s", "Complete/NoTraffic, since 0s", "Complete/NoTraffic, since 0s", "Complete/NoTraffic, since 0s",
				"Complete/NoTraffic, since 40s, gap: " + vanishedA,
			},
		},
		"a counter that falls was born again, and all it counts is new": {
			steps: []step{
				pod("a"), plus("a", plainHTTP, 9), gauge("a", draining, 1), read, evicts(plainHTTP), plus("a", plainHTTP, 2), next,
			},
			want: []string{
				"Complete/NoTraffic, since 0s",
				"Complete, since 10s, plaintext 10s, legacy/cron HTTP 2, gap: " + vanishedA,
			},
		},

		// Pods that come and go.

		"a new pod in the stretch has its whole life counted": {
			steps: []step{pod("a"), read, after(time.Minute), pod("b"), after(20 * time.Second), plus("b", mtlsHTTP, 4), next},
			want:  []string{"Complete/NoTraffic, since 0s", "Complete, since 0s, mutual 4"},
		},
		"plaintext in a new pod's life is plaintext now": {
			steps: []step{pod("a"), read, pod("b"), plus("b", plainHTTP, 4), next},
			want:  []string{"Complete/NoTraffic, since 0s", "Complete, since 0s, plaintext 10s, legacy/cron HTTP 4"},
		},
		"a new pod whose proxy restarted before it was read is a gap": {
			steps: []step{pod("a"), after(time.Minute), read, pod("b"), restart("b"), with("b", func(p *simulated) { p.Restarts++ }), next},
			want: []string{
				"Complete/NoTraffic, since 1m0s",
				"Complete/NoTraffic, since 1m10s, gap: the proxy of pod foo/b restarted before it was read, and what it saw before went with it",
			},
		},
		"an older pod that joins without plaintext in its life changes nothing": {
			steps: []step{pod("a"), after(time.Hour), read, olderPod("b", time.Hour), plus("b", mtlsHTTP, 4), next},
			want:  []string{"Complete/NoTraffic, since 1h0m0s", "Complete/NoTraffic, since 1h0m0s"},
		},
		"an older pod that joins with plaintext in its life restarts the stretch": {
			steps: []step{pod("a"), after(time.Hour), read, olderPod("b", time.Hour), plus("b", plainHTTP, 4), next},
			want: []string{
				"Complete/NoTraffic, since 1h0m0s",
				"Complete/NoTraffic, since 1h0m10s, gap: pod foo/b joined the target, and its proxy saw plaintext before",
			},
		},
		"plaintext in a pod that started since the first reading is told even before a stretch began": {
			steps: []step{pod("a"), refuses("a"), read, pod("b"), plus("b", plainHTTP, 1), next, answers("a"), plus("a", plainHTTP, 8), next},
			want: []string{
				refusedA,
				"Incomplete/Incomplete, plaintext 10s, legacy/cron HTTP 1: The proxy of pod foo/a cannot be read: connection refused. See whether its istio-proxy container runs, and whether a NetworkPolicy must allow the operator's namespace to reach port 15090.",
				"Complete, since 20s, plaintext 20s, legacy/cron HTTP 9",
			},
		},
		"an older pod first read before a stretch began is where it begins": {
			steps: []step{pod("a"), after(time.Hour), refuses("a"), read, answers("a"), plus("a", plainHTTP, 8), next},
			want:  []string{refusedA, "Complete/NoTraffic, since 1h0m10s"},
		},
		"a pod that was read after its deletion began may go": {
			steps: []step{pod("a"), pod("b"), read, terminating("b"), next, refuses("b"), next, gone("b"), next},
			want:  []string{"Complete/NoTraffic, since 0s", "Complete/NoTraffic, since 0s", "Complete/NoTraffic, since 0s", "Complete/NoTraffic, since 0s"},
		},
		"plaintext in the last reading of a pod is seen": {
			steps: []step{pod("a"), pod("b"), read, terminating("b"), plus("b", plainHTTP, 1), next, gone("b"), next},
			want: []string{
				"Complete/NoTraffic, since 0s",
				"Complete, since 0s, plaintext 10s, legacy/cron HTTP 1",
				"Complete, since 0s, plaintext 10s, legacy/cron HTTP 1",
			},
		},
		"a pod that refuses its last reading holds the stretch, and is a gap when it is gone": {
			steps: []step{pod("a"), pod("b"), read, terminating("b"), refuses("b"), next, gone("b"), next},
			want: []string{
				"Complete/NoTraffic, since 0s",
				"Incomplete/Incomplete: The proxy of pod foo/b cannot be read: connection refused. See whether its istio-proxy container runs, and whether a NetworkPolicy must allow the operator's namespace to reach port 15090.",
				"Complete/NoTraffic, since 20s, gap: pod foo/b went away before what it saw last was read",
			},
		},
		"pods that vanish without a last reading are a gap": {
			steps: []step{pod("a"), pod("b"), pod("c"), read, plus("a", mtlsHTTP, 1), next, gone("b"), gone("c"), next},
			want: []string{
				"Complete/NoTraffic, since 0s", "Complete, since 0s, mutual 1",
				"Complete/NoTraffic, since 20s, gap: pod foo/b and 1 more went away before what it saw last was read",
			},
		},
		"mutual TLS of pods that went away stays counted": {
			steps: []step{pod("a"), pod("b"), read, plus("b", mtlsHTTP, 5), terminating("b"), next, gone("b"), next},
			want:  []string{"Complete/NoTraffic, since 0s", "Complete, since 0s, mutual 5", "Complete, since 0s, mutual 5"},
		},

		// Processes that restart.

		"a process that restarts counts from zero, and what it counts is now": {
			steps: []step{pod("a"), plus("a", plainHTTP, 9), after(time.Minute), read, restart("a"), plus("a", plainHTTP, 1), next},
			want: []string{
				"Complete/NoTraffic, since 1m0s",
				"Complete, since 1m10s, plaintext 1m10s, legacy/cron HTTP 1, gap: the proxy of pod foo/a restarted, and what it saw before went with it",
			},
		},
		"a restart is told by the start of the process, though its uptime is longer than before": {
			steps: []step{pod("a"), after(20 * time.Second), read, after(time.Second), restart("a"), after(time.Minute), read},
			want: []string{
				"Complete/NoTraffic, since 20s",
				"Complete/NoTraffic, since 1m21s, gap: the proxy of pod foo/a restarted, and what it saw before went with it",
			},
		},
		"a restart right after the start is told by the pod's count of restarts": {
			steps: []step{pod("a"), after(2 * time.Second), read, after(time.Second), restart("a"), with("a", func(p *simulated) { p.Restarts++ }), after(5 * time.Second), read},
			want: []string{
				"Complete/NoTraffic, since 2s",
				"Complete/NoTraffic, since 8s, gap: the proxy of pod foo/a restarted, and what it saw before went with it",
			},
		},
		"a count of restarts that comes late is no second restart": {
			steps: []step{pod("a"), after(time.Minute), read, restart("a"), next, next, with("a", func(p *simulated) { p.Restarts++ }), next},
			want: []string{
				"Complete/NoTraffic, since 1m0s",
				"Complete/NoTraffic, since 1m10s, gap: the proxy of pod foo/a restarted, and what it saw before went with it",
				"Complete/NoTraffic, since 1m10s", "Complete/NoTraffic, since 1m10s",
			},
		},
		"an uptime that lags is no restart": {
			steps: []step{
				pod("a"), after(time.Second), read, with("a", func(p *simulated) { p.stale = 6 * time.Second }), after(8 * time.Second), read,
				with("a", func(p *simulated) { p.stale = 0 }), next, with("a", func(p *simulated) { p.stale = 5 * time.Second }), next, after(time.Hour), next, with("a", func(p *simulated) { p.stale = 55 * time.Second }), after(time.Minute), next,
			},
			want: []string{
				"Complete/NoTraffic, since 1s", "Complete/NoTraffic, since 1s", "Complete/NoTraffic, since 1s", "Complete/NoTraffic, since 1s", "Complete/NoTraffic, since 1s", "Complete/NoTraffic, since 1s",
			},
		},

		// What else interrupts.

		"another set of targets is another stretch": {
			steps: []step{pod("a"), read, plus("a", mtlsHTTP, 1), next, request(func(r *traffic.Request) { r.Targets = "other" }), next},
			want: []string{
				"Complete/NoTraffic, since 0s", "Complete, since 0s, mutual 1",
				"Complete/NoTraffic, since 20s, gap: the target now selects other pods",
			},
		},
		"a clock that is set back is a gap, and no time lies in the future": {
			steps: []step{pod("a"), after(time.Minute), read, plus("a", plainHTTP, 1), next, clockSet(-20 * time.Second), next},
			want: []string{
				"Complete/NoTraffic, since 1m0s", "Complete, since 1m0s, plaintext 1m10s, legacy/cron HTTP 1",
				"Complete/NoTraffic, since 1m0s, plaintext 1m0s, legacy/cron HTTP 1, gap: the operator's clock was set back",
			},
		},
		"a clock that jumps forward by more than an interval is a gap": {
			steps: []step{pod("a"), read, clockSet(time.Hour), next, clockSet(5 * time.Second), next},
			want: []string{
				"Complete/NoTraffic, since 0s", "Complete/NoTraffic, since 1h0m10s, gap: the operator's clock jumped",
				"Complete/NoTraffic, since 1h0m10s",
			},
		},
		"a clock that is set back by less than passed is put right without a gap": {
			steps: []step{pod("a"), read, clockSet(-4 * time.Second), next},
			want:  []string{"Complete/NoTraffic, since 0s", "Complete/NoTraffic, since 0s"},
		},
		"a gap during an incomplete reading is made good by nothing": {
			steps: []step{pod("a"), pod("b"), read, gone("b"), refuses("a"), next, answers("a"), next},
			want: []string{
				"Complete/NoTraffic, since 0s",
				"Unavailable/SourceUnavailable, gap: pod foo/b went away before what it saw last was read: The proxy of pod foo/a cannot be read: connection refused. See whether its istio-proxy container runs, and whether a NetworkPolicy must allow the operator's namespace to reach port 15090.",
				"Complete/NoTraffic, since 20s",
			},
		},

		// Ports.

		"plaintext on an excepted port does not matter": {
			steps: []step{pod("a"), except(9000), exposes("a", port8000, 9, 9, 2, 2), exposes("a", port9000, 1, 0, 1, 0), read, plus("a", plainHTTP, 3), next},
			want:  []string{"Complete/NoTraffic, since 0s", "Complete/NoTraffic, since 0s"},
		},
		"plaintext beside that on an excepted port matters": {
			steps: []step{pod("a"), except(9000), exposes("a", port8000, 9, 9, 2, 2), exposes("a", port9000, 1, 0, 1, 0), read, plus("a", plainHTTP, 3), exposes("a", port8000, 10, 9, 2, 2), next},
			want:  []string{"Complete/NoTraffic, since 0s", "Complete, since 0s, plaintext 10s, legacy/cron HTTP 3"},
		},
		"plaintext on a connection that was open before matters, though it is closed now": {
			steps: []step{pod("a"), except(9000), exposes("a", port8000, 9, 8, 1, 0), read, plus("a", plainHTTP, 1), exposes("a", port8000, 9, 8, 0, 0), next},
			want:  []string{"Complete/NoTraffic, since 0s, plaintext 0s, open 1", "Complete, since 0s, plaintext 10s, legacy/cron HTTP 1"},
		},
		"plaintext on a port that no Service knows always matters": {
			steps: []step{pod("a"), except(9000), exposes("a", "InboundPassthroughCluster", 0, 0, 0, 0), read, plus("a", plainHTTP, 1), exposes("a", "InboundPassthroughCluster", 1, 0, 0, 0), next},
			want:  []string{"Complete/NoTraffic, since 0s", "Complete, since 0s, plaintext 10s, legacy/cron HTTP 1"},
		},
		"a plaintext connection on a port that matters counts before its request does": {
			steps: []step{pod("a"), except(9000), exposes("a", port8000, 9, 9, 0, 0), read, exposes("a", port8000, 10, 9, 1, 0), next},
			want:  []string{"Complete/NoTraffic, since 0s", "Complete, since 0s, plaintext 10s, open 1"},
		},
		"plaintext that no connection explains counts, and cannot be attributed": {
			steps: []step{pod("a"), except(9000), exposes("a", port9000, 9, 9, 0, 0), read, plus("a", plainHTTP, 1), next},
			want:  []string{"Complete/NoTraffic, since 0s", "Complete, since 0s, plaintext 10s, not attributable, legacy/cron HTTP 1"},
		},
		"plaintext of a proxy that does not expose its connections cannot be attributed, for the window": {
			steps: []step{
				pod("a"), except(9000), exposes("a", port9000, 9, 9, 0, 0), gauge("a", `envoy_http_downstream_cx_active{http_conn_manager_prefix="inbound_0.0.0.0_8000"}`, 3), read, plus("a", plainHTTP, 1), next,
				exposes("a", port8000, 0, 0, 0, 0), next, exposes("a", port8000, 1, 0, 0, 0), next, after(2 * time.Hour), next,
			},
			want: []string{
				"Complete/NoTraffic, since 0s",
				"Complete, since 0s, plaintext 10s, not attributable, legacy/cron HTTP 1",
				"Complete, since 0s, plaintext 10s, not attributable, legacy/cron HTTP 1",
				"Complete, since 0s, plaintext 30s, not attributable, legacy/cron HTTP 1",
				"Complete, since 0s, plaintext 30s",
			},
		},
		"plaintext TCP can never be attributed": {
			steps: []step{pod("a"), except(9000), exposes("a", port9000, 0, 0, 0, 0), read, plus("a", plainTCPOpen, 1), next},
			want:  []string{"Complete/NoTraffic, since 0s", "Complete, since 0s, plaintext 10s, open 1, not attributable, legacy/db-client TCP 1"},
		},
		"only the open connections of ports that matter count": {
			steps: []step{pod("a"), except(9000), exposes("a", port8000, 5, 2, 3, 1), exposes("a", port9000, 5, 2, 3, 1), read},
			want:  []string{"Complete/NoTraffic, since 0s, plaintext 0s, open 2"},
		},
		"of ports that are listed only those matter": {
			steps: []step{pod("a"), request(func(r *traffic.Request) { r.Ports = traffic.PortSet{Ports: []int32{8000}} }), exposes("a", port8000, 5, 2, 3, 1), exposes("a", port9000, 5, 2, 3, 1), read},
			want:  []string{"Complete/NoTraffic, since 0s, plaintext 0s, open 2"},
		},
		"excepting a port less is a gap if plaintext was seen on it": {
			steps: []step{
				pod("a"), except(9000), exposes("a", port9000, 1, 0, 0, 0), read, plus("a", plainHTTP, 3), exposes("a", port9000, 2, 0, 0, 0), next,
				except(), next, except(9000), next,
			},
			want: []string{
				"Complete/NoTraffic, since 0s", "Complete/NoTraffic, since 0s",
				"Complete/NoTraffic, since 20s, gap: other ports are excepted now, and plaintext was seen on those excepted before",
				"Complete/NoTraffic, since 20s",
			},
		},
		"and if a stream is open on it that is not counted before it ends": {
			steps: []step{pod("a"), except(9000), exposes("a", port9000, 1, 0, 1, 0), read, next, except(), next},
			want: []string{
				"Complete/NoTraffic, since 0s", "Complete/NoTraffic, since 0s",
				"Complete/NoTraffic, since 20s, plaintext 20s, open 1, gap: other ports are excepted now, and plaintext was seen on those excepted before",
			},
		},
		"an older pod that joins with plaintext on an excepted port only changes nothing": {
			steps: []step{
				pod("a"), except(9000), exposes("a", port9000, 0, 0, 0, 0), after(time.Hour), read,
				olderPod("b", time.Hour), plus("b", plainHTTP, 1), exposes("b", port9000, 1, 0, 0, 0), next, except(), next,
			},
			want: []string{
				"Complete/NoTraffic, since 1h0m0s", "Complete/NoTraffic, since 1h0m0s",
				"Complete/NoTraffic, since 1h0m20s, gap: other ports are excepted now, and plaintext was seen on those excepted before",
			},
		},
		"connection statistics that start again from zero are new connections": {
			steps: []step{pod("a"), except(9000), exposes("a", port8000, 9, 0, 0, 0), read, exposes("a", port8000, 2, 0, 0, 0), next},
			want:  []string{"Complete/NoTraffic, since 0s", "Complete, since 0s, plaintext 10s"},
		},

		// The operator restarts.

		"after the operator's absence nothing was missed": {
			steps: []step{pod("a"), plus("a", plainHTTP, 3), after(time.Minute), read, plus("a", mtlsHTTP, 2), next, operatorRestarts, after(time.Minute), plus("a", mtlsHTTP, 3), read, next},
			want: []string{
				"Complete/NoTraffic, since 1m0s", "Complete, since 1m0s, mutual 2",
				"Complete, since 1m0s, mutual 5", "Complete, since 1m0s, mutual 5",
			},
		},
		"plaintext in the operator's absence is plaintext now": {
			steps: []step{pod("a"), plus("a", plainHTTP, 3), after(time.Minute), read, operatorRestarts, after(time.Minute), plus("a", plainHTTP, 1), read},
			want:  []string{"Complete/NoTraffic, since 1m0s", "Complete, since 1m0s, plaintext 2m0s"},
		},
		"plaintext in the operator's absence has no port any more": {
			steps: []step{pod("a"), except(9000), after(time.Minute), read, operatorRestarts, after(time.Minute), plus("a", plainHTTP, 1), read},
			want:  []string{"Complete/NoTraffic, since 1m0s", "Complete, since 1m0s, plaintext 2m0s, not attributable"},
		},
		"a first reading that is incomplete keeps the evidence for the next": {
			steps: []step{pod("a"), pod("b"), after(time.Minute), read, operatorRestarts, refuses("b"), next, answers("b"), next},
			want: []string{
				"Complete/NoTraffic, since 1m0s",
				"Incomplete/Incomplete: The proxy of pod foo/b cannot be read: connection refused. See whether its istio-proxy container runs, and whether a NetworkPolicy must allow the operator's namespace to reach port 15090.",
				"Complete/NoTraffic, since 1m0s",
			},
		},
		"a proxy that went away in the operator's absence is a gap": {
			steps: []step{pod("a"), pod("b"), after(time.Minute), read, operatorRestarts, gone("b"), next},
			want:  []string{"Complete/NoTraffic, since 1m0s", "Complete/NoTraffic, since 1m10s, gap: other pods or ports are observed than before the operator's absence"},
		},
		"a proxy that restarted in the operator's absence is a gap": {
			steps: []step{pod("a"), after(time.Minute), read, operatorRestarts, after(time.Second), restart("a"), after(time.Hour), read},
			want:  []string{"Complete/NoTraffic, since 1m0s", "Complete/NoTraffic, since 1h1m1s, gap: a proxy may have restarted in the operator's absence"},
		},
		"a proxy whose count of restarts moved is a gap": {
			steps: []step{pod("a"), after(time.Minute), read, operatorRestarts, with("a", func(p *simulated) { p.Restarts++ }), next},
			want:  []string{"Complete/NoTraffic, since 1m0s", "Complete/NoTraffic, since 1m10s, gap: other pods or ports are observed than before the operator's absence"},
		},
		"counters that fell in the operator's absence are a gap": {
			steps: []step{pod("a"), plus("a", mtlsHTTP, 3), after(time.Minute), read, operatorRestarts, evicts(mtlsHTTP), next},
			want:  []string{"Complete/NoTraffic, since 1m0s", "Complete/NoTraffic, since 1m10s, gap: counters of a proxy fell in the operator's absence"},
		},
		"another target in the operator's absence is a gap": {
			steps: []step{pod("a"), after(time.Minute), read, operatorRestarts, request(func(r *traffic.Request) { r.Targets = "other" }), next},
			want:  []string{"Complete/NoTraffic, since 1m0s", "Complete/NoTraffic, since 1m10s, gap: the target selects other pods than before the operator's absence"},
		},
		"a clock behind status is a gap": {
			steps: []step{pod("a"), after(time.Minute), read, operatorRestarts, clockSet(-30 * time.Second), next},
			want:  []string{"Complete/NoTraffic, since 1m0s", "Complete/NoTraffic, since 40s, gap: the operator's clock is behind that of the readings in status"},
		},
		"a proxy younger than its uptime's lag is not known for the same after the operator's absence": {
			steps: []step{pod("a"), read, operatorRestarts, next},
			want:  []string{"Complete/NoTraffic, since 0s", "Complete/NoTraffic, since 10s, gap: a proxy may have restarted in the operator's absence"},
		},
		"callers are known after a restart, but not those of the access logs": {
			steps: []step{pod("a"), read, plus("a", plainHTTP, 3), next, operatorRestarts, request(func(r *traffic.Request) {
				more := r.Callers[0]
				more.Address = "10.9.9.9"
				r.Callers = append(r.Callers, more)
			}), next},
			want: []string{
				"Complete/NoTraffic, since 0s", "Complete, since 0s, plaintext 10s, legacy/cron HTTP 3",
				"Complete/NoTraffic, since 10s, legacy/cron HTTP 3",
			},
		},
		"a listener that changed in the operator's absence is a gap": {
			steps: []step{pod("a"), after(time.Minute), read, operatorRestarts, gauge("a", updates, 1), next},
			want:  []string{"Complete/NoTraffic, since 1m0s", "Complete/NoTraffic, since 1m10s, gap: listeners of a proxy changed in the operator's absence, and may not have counted in between"},
		},
		"series that went in the operator's absence do not make up for others that came": {
			steps: []step{
				pod("a"), plus("a", plainHTTP, 3), after(time.Minute), read, operatorRestarts, evicts(plainHTTP), plus("a", plainGRPC, 3), next,
			},
			want: []string{"Complete/NoTraffic, since 1m0s", "Complete/NoTraffic, since 1m10s, gap: counters of a proxy fell in the operator's absence"},
		},
		"without a clean stretch before there is nothing to go on with": {
			steps: []step{pod("a"), after(time.Minute), read, operatorRestarts, request(func(r *traffic.Request) { r.CleanSince = time.Time{} }), next},
			want:  []string{"Complete/NoTraffic, since 1m0s", "Complete/NoTraffic, since 1m10s"},
		},
		"evidence does not outlive a gap before the first complete reading": {
			steps: []step{pod("a"), pod("b"), after(time.Minute), read, operatorRestarts, refuses("b"), next, clockSet(-time.Minute), answers("b"), next},
			want: []string{
				"Complete/NoTraffic, since 1m0s",
				"Incomplete/Incomplete: The proxy of pod foo/b cannot be read: connection refused. See whether its istio-proxy container runs, and whether a NetworkPolicy must allow the operator's namespace to reach port 15090.",
				"Complete/NoTraffic, since 20s, gap: the operator's clock was set back",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			for _, s := range tc.steps {
				s(w)
			}
			if diff := cmp.Diff(tc.want, w.told); diff != "" {
				t.Errorf("observations (-want +got):\n%s", diff)
			}
		})
	}
}

// The evidence of a reading is what the next process of the operator needs, and no more.
func TestEvidence(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, s := range []step{pod("a"), pod("b"), after(time.Minute), plus("a", plainHTTP, 2), plus("b", plainTCPBytes, 5), plus("a", mtlsHTTP, 7), read, plus("b", mtlsOpened, 1), next} {
		s(w)
	}
	first := w.last.Evidence
	if first.Plaintext != 7 || first.MutualTLS != 8 || first.MutualTLSInStretch != 1 || first.Targets != "t" || len(first.Proxies) != 32 {
		t.Errorf("evidence is %+v", first)
	}
	w.pods[0], w.pods[1] = w.pods[1], w.pods[0]
	w.pods[0].stale = 4 * time.Second
	next(w)
	if w.last.Evidence.Proxies != first.Proxies {
		t.Error("the digest changes with the order of the proxies or an uptime that lags")
	}
	refuses("a")(w)
	next(w)
	if diff := cmp.Diff(2, len(w.pods)); diff != "" || w.last.Completeness != traffic.Incomplete {
		t.Fatal(diff, w.last.Completeness)
	}
	if w.last.Evidence.ObservedTime.Sub(epoch) != 80*time.Second {
		t.Errorf("an incomplete reading changed the evidence: %+v", w.last.Evidence)
	}
	gone("b")(w)
	next(w)
	if diff := cmp.Diff(w.last.Evidence, w.tracker.evidence); diff != "" || w.last.Evidence.Proxies != "" {
		t.Errorf("a gap left evidence: %+v", w.last.Evidence)
	}
}

// Readings carry what the switch waits for.
func TestReadings(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, s := range []step{
		pod("a"), pod("b"), with("b", func(p *simulated) { p.err = errors.New("no") }), after(time.Minute), gauge("a", updates, 2),
		gauge("a", `envoy_listener_manager_listener_in_place_updated{}`, 1), gauge("a", draining, 1), gauge("a", `envoy_listener_manager_total_listeners_draining{}`, 2), read,
	} {
		s(w)
	}
	want := []traffic.Reading{{Namespace: "foo", Name: "a", UID: "uid-a", Started: epoch, ListenerUpdates: 3, Draining: 3}}
	if diff := cmp.Diff(want, w.last.Proxies); diff != "" {
		t.Errorf("readings (-want +got):\n%s", diff)
	}
	if w.last.ConnectionsVisible {
		t.Error("connections are visible that are not exposed")
	}
	exposes("a", "inbound_0.0.0.0_8000", 0, 0, 0, 0)(w)
	if next(w); !w.last.ConnectionsVisible {
		t.Error("connections are exposed, and not visible")
	}
}
