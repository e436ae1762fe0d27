package accesslog

import (
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
)

const prefix = "servicesecurity_"

// meters are the server's metrics. None has a label that a proxy decides about.
type meters struct {
	entries *prometheus.CounterVec
	refused *prometheus.CounterVec
	streams *prometheus.CounterVec
	open    prometheus.GaugeFunc
	callers prometheus.GaugeFunc
}

// Bounded values of labels.
const (
	yes = "true"
	no  = "false"
)

// refusals are the codes that streams are refused with.
var refusals = []codes.Code{codes.Unauthenticated, codes.PermissionDenied, codes.InvalidArgument, codes.Unavailable, codes.ResourceExhausted}

func newMeters(s *Server) *meters {
	m := &meters{
		// entries counts log entries by what became of them (counted, mutual_tls, ignored, malformed, dropped).
		entries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: prefix + "accesslog_entries_total", Help: "Access log entries received, by what became of them.",
		}, []string{"outcome"}),
		// refused counts connections in plaintext that STRICT refused, as proxies logged them.
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: prefix + "plaintext_refused_total", Help: "Plaintext connections that STRICT refused, as access logs tell, by whether the proxy that logged them was authenticated.",
		}, []string{"authenticated"}),
		// streams counts streams that were turned away, by gRPC status.
		streams: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: prefix + "accesslog_streams_refused_total", Help: "Access log streams that were turned away, by gRPC status.",
		}, []string{"code"}),
		open: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: prefix + "accesslog_streams", Help: "Access log streams that are open.",
		}, func() float64 { return float64(s.streams.inUse()) }),
		callers: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: prefix + "accesslog_callers", Help: "Callers that are remembered from access logs, by address, port, protocol and outcome.",
		}, func() float64 { return float64(s.store.size()) }),
	}
	// What can be counted is there from the start, as zero, so that a rate over it is defined.
	for _, o := range outcomes {
		m.entries.WithLabelValues(string(o))
	}
	for _, c := range refusals {
		m.streams.WithLabelValues(c.String())
	}
	m.refused.WithLabelValues(yes)
	m.refused.WithLabelValues(no)
	return m
}

// Collectors are the server's metrics, to be registered.
func (s *Server) Collectors() []prometheus.Collector {
	return []prometheus.Collector{s.meters.entries, s.meters.refused, s.meters.streams, s.meters.open, s.meters.callers}
}
