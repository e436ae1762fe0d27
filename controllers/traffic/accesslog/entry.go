package accesslog

import (
	"net/netip"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	logv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// The protocols, as status calls them.
const (
	protocolHTTP = "HTTP"
	protocolGRPC = "GRPC"
	protocolTCP  = "TCP"
)

// outcome is what becomes of an entry.
type outcome string

const (
	// counted: it tells of plaintext.
	counted outcome = "counted"
	// mutual: it is by mutual TLS, which the proxy should not have sent.
	mutual outcome = "mutual_tls"
	// ignored: it tells nothing that another entry does not, such as the beginning of a connection.
	ignored outcome = "ignored"
	// malformed: it lacks an address or a port.
	malformed outcome = "malformed"
	// dropped: it came faster than the limits allow.
	dropped outcome = "dropped"
)

var outcomes = []outcome{counted, mutual, ignored, malformed, dropped}

// entry is one request or connection without mutual TLS.
type entry struct {
	address  netip.Addr
	port     int32
	protocol string
	// refused by STRICT.
	refused bool
	// ended requests and connections count; one that goes on is only seen.
	ended bool
	// made is when it began, by the proxy's clock as far as that can be.
	made time.Time
}

// maxDelay is how long ago an entry may say that it began; a request that takes longer is known to have begun by then.
const maxDelay = 5 * time.Minute

// maxEntries of a message are read. Envoy sends after 16 KiB, which are some hundred.
const maxEntries = 4096

// entries are those of a message. Istio gives every provider to every filter chain, so one event may come as an entry for
// HTTP and as one for TCP: requests are taken from the first, connections and what was refused from the second.
func entries(message []byte, now time.Time, each func(entry, outcome)) error {
	count := 0
	return fields(message, func(kind protowire.Number, logs []byte) error {
		if kind != fieldHTTPLogs && kind != fieldTCPLogs {
			return nil
		}
		return fields(logs, func(number protowire.Number, value []byte) error {
			if number != fieldFirst {
				return nil
			}
			if count++; count > maxEntries {
				each(entry{}, dropped)
				return nil
			}
			each(decode(kind, value, now))
			return nil
		})
	})
}

// decode reads one entry.
func decode(kind protowire.Number, value []byte, now time.Time) (entry, outcome) {
	options := proto.UnmarshalOptions{DiscardUnknown: true}
	if kind == fieldTCPLogs {
		e := &logv3.TCPAccessLogEntry{}
		if options.Unmarshal(value, e) != nil {
			return entry{}, malformed
		}
		return fromTCP(e, now)
	}
	e := &logv3.HTTPAccessLogEntry{}
	if options.Unmarshal(value, e) != nil {
		return entry{}, malformed
	}
	return fromHTTP(e, now)
}

func fromHTTP(e *logv3.HTTPAccessLogEntry, now time.Time) (entry, outcome) {
	common := e.GetCommonProperties()
	out, what := fromCommon(common, now)
	switch common.GetAccessLogType() {
	case logv3.AccessLogType_DownstreamEnd:
		out.ended = true
	case logv3.AccessLogType_DownstreamPeriodic:
	default:
		return entry{}, ignored
	}
	out.protocol = protocolHTTP
	if strings.HasPrefix(e.GetRequest().GetRequestHeaders()["content-type"], "application/grpc") {
		out.protocol = protocolGRPC
	}
	return out, what
}

func fromTCP(e *logv3.TCPAccessLogEntry, now time.Time) (entry, outcome) {
	common := e.GetCommonProperties()
	out, what := fromCommon(common, now)
	out.protocol = protocolTCP
	switch common.GetAccessLogType() {
	case logv3.AccessLogType_TcpConnectionEnd:
		out.ended = true
	case logv3.AccessLogType_TcpPeriodic:
	case logv3.AccessLogType_NotSet:
		// The listener's own log: no filter chain takes plaintext. STRICT lets any TLS as far as the handshake, so where TLS was
		// recognised something else refused it.
		if !common.GetResponseFlags().GetNoRouteFound() || common.GetTlsProperties().GetTlsSniHostname() != "" {
			return entry{}, ignored
		}
		out.refused, out.ended = true, true
	default:
		// At the beginning of a connection the proxy does not know its handshake yet, and calls everything plaintext.
		return entry{}, ignored
	}
	return out, what
}

// fromCommon reads who called which port. A caller that presented a certificate is not what is looked for, whatever the
// filter in the proxy made of it.
func fromCommon(common *logv3.AccessLogCommon, now time.Time) (entry, outcome) {
	certificate := common.GetTlsProperties().GetPeerCertificateProperties()
	if certificate.GetSubject() != "" || len(certificate.GetSubjectAltName()) > 0 {
		return entry{}, mutual
	}
	// What x-forwarded-for says may be anything; the connection's own address is the caller.
	from := common.GetDownstreamDirectRemoteAddress()
	if from.GetSocketAddress() == nil {
		from = common.GetDownstreamRemoteAddress()
	}
	address, ok := addressOf(from)
	port := common.GetDownstreamLocalAddress().GetSocketAddress().GetPortValue()
	if !ok || port == 0 || port > 65535 {
		return entry{}, malformed
	}
	made := now
	if start := common.GetStartTime(); start.IsValid() && start.AsTime().Before(now) {
		made = start.AsTime()
		if earliest := now.Add(-maxDelay); made.Before(earliest) {
			made = earliest
		}
	}
	return entry{address: address, port: int32(port), made: made}, counted
}

// addressOf reads an IP. An IPv4 address inside an IPv6 one is that address, and interfaces' names are left off.
func addressOf(a *corev3.Address) (netip.Addr, bool) {
	address, err := netip.ParseAddr(a.GetSocketAddress().GetAddress())
	if err != nil || address.IsUnspecified() {
		return netip.Addr{}, false
	}
	return address.Unmap().WithZone(""), true
}
