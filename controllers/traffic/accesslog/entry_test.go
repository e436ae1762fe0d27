package accesslog

import (
	"net/netip"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	logv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

var epoch = time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)

func socket(address string, port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: address, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
	}}}
}

// from is what every entry has.
func from(address string, port uint32, kind logv3.AccessLogType, edit ...func(*logv3.AccessLogCommon)) *logv3.AccessLogCommon {
	common := &logv3.AccessLogCommon{
		DownstreamDirectRemoteAddress: socket(address, 40000), DownstreamRemoteAddress: socket("192.0.2.99", 0),
		DownstreamLocalAddress: socket("10.0.0.1", port), AccessLogType: kind, StartTime: timestamppb.New(epoch),
	}
	for _, e := range edit {
		e(common)
	}
	return common
}

func request(address string, port uint32) *accesslogv3.StreamAccessLogsMessage {
	return requests(&logv3.HTTPAccessLogEntry{CommonProperties: from(address, port, logv3.AccessLogType_DownstreamEnd)})
}

func requests(all ...*logv3.HTTPAccessLogEntry) *accesslogv3.StreamAccessLogsMessage {
	return &accesslogv3.StreamAccessLogsMessage{LogEntries: &accesslogv3.StreamAccessLogsMessage_HttpLogs{
		HttpLogs: &accesslogv3.StreamAccessLogsMessage_HTTPAccessLogEntries{LogEntry: all},
	}}
}

func connections(all ...*logv3.AccessLogCommon) *accesslogv3.StreamAccessLogsMessage {
	logs := &accesslogv3.StreamAccessLogsMessage_TCPAccessLogEntries{}
	for _, common := range all {
		logs.LogEntry = append(logs.LogEntry, &logv3.TCPAccessLogEntry{CommonProperties: common})
	}
	return &accesslogv3.StreamAccessLogsMessage{LogEntries: &accesslogv3.StreamAccessLogsMessage_TcpLogs{TcpLogs: logs}}
}

func noChain(common *logv3.AccessLogCommon) {
	common.ResponseFlags = &logv3.ResponseFlags{NoRouteFound: true}
}

func certificate(common *logv3.AccessLogCommon) {
	common.TlsProperties = &logv3.TLSProperties{PeerCertificateProperties: &logv3.TLSProperties_CertificateProperties{
		SubjectAltName: []*logv3.TLSProperties_CertificateProperties_SubjectAltName{{San: &logv3.TLSProperties_CertificateProperties_SubjectAltName_Uri{Uri: "spiffe://a/ns/b/sa/c"}}},
	}}
}

func grpcRequest(contentType string) *logv3.HTTPAccessLogEntry {
	return &logv3.HTTPAccessLogEntry{
		CommonProperties: from("10.0.0.9", 8000, logv3.AccessLogType_DownstreamEnd),
		Request:          &logv3.HTTPRequestProperties{RequestHeaders: map[string]string{"content-type": contentType}},
	}
}

// wired is a message as it comes.
func wired(t testing.TB, message *accesslogv3.StreamAccessLogsMessage) []byte {
	t.Helper()
	bytes, err := proto.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}

func TestEntries(t *testing.T) {
	t.Parallel()
	address, _ := addressOf(socket("10.0.0.9", 0))
	six, _ := addressOf(socket("2001:db8::9", 0))
	want := func(edit func(*entry)) entry {
		e := entry{address: address, port: 8000, protocol: protocolHTTP, ended: true, made: epoch}
		edit(&e)
		return e
	}
	same := func(*entry) {}
	tcp := func(e *entry) { e.protocol = protocolTCP }
	for name, tc := range map[string]struct {
		message *accesslogv3.StreamAccessLogsMessage
		want    entry
		outcome outcome
	}{
		"an HTTP request":          {request("10.0.0.9", 8000), want(same), counted},
		"a gRPC request":           {requests(grpcRequest("application/grpc+proto")), want(func(e *entry) { e.protocol = protocolGRPC }), counted},
		"an HTTP request of gRPC?": {requests(grpcRequest("application/json")), want(same), counted},
		"a stream that goes on":    {requests(&logv3.HTTPAccessLogEntry{CommonProperties: from("10.0.0.9", 8000, logv3.AccessLogType_DownstreamPeriodic)}), want(func(e *entry) { e.ended = false }), counted},
		"a request that begins":    {requests(&logv3.HTTPAccessLogEntry{CommonProperties: from("10.0.0.9", 8000, logv3.AccessLogType_DownstreamStart)}), entry{}, ignored},
		"a TCP connection":         {connections(from("10.0.0.9", 8000, logv3.AccessLogType_TcpConnectionEnd)), want(tcp), counted},
		"a TCP connection open":    {connections(from("10.0.0.9", 8000, logv3.AccessLogType_TcpPeriodic)), want(func(e *entry) { tcp(e); e.ended = false }), counted},
		"a connection's beginning": {connections(from("10.0.0.9", 8000, logv3.AccessLogType_TcpUpstreamConnected)), entry{}, ignored},
		"what STRICT refused":      {connections(from("10.0.0.9", 8000, logv3.AccessLogType_NotSet, noChain)), want(func(e *entry) { tcp(e); e.refused = true }), counted},
		"refused by TLS": {connections(from("10.0.0.9", 8000, logv3.AccessLogType_NotSet, noChain, func(c *logv3.AccessLogCommon) {
			c.TlsProperties = &logv3.TLSProperties{TlsSniHostname: "outbound_.8000_._.x"}
		})), entry{}, ignored},
		"a listener's other entries":  {connections(from("10.0.0.9", 8000, logv3.AccessLogType_NotSet)), entry{}, ignored},
		"a connection to no cluster":  {connections(from("10.0.0.9", 8000, logv3.AccessLogType_TcpConnectionEnd, noChain)), want(tcp), counted},
		"the request as a connection": {connections(from("10.0.0.9", 8000, logv3.AccessLogType_DownstreamEnd)), entry{}, ignored},
		"the connection as a request": {requests(&logv3.HTTPAccessLogEntry{CommonProperties: from("10.0.0.9", 8000, logv3.AccessLogType_TcpConnectionEnd)}), entry{}, ignored},
		"mutual TLS":                  {requests(&logv3.HTTPAccessLogEntry{CommonProperties: from("10.0.0.9", 8000, logv3.AccessLogType_DownstreamEnd, certificate)}), entry{protocol: protocolHTTP, ended: true}, mutual},
		"TLS without a certificate":   {requests(&logv3.HTTPAccessLogEntry{CommonProperties: from("10.0.0.9", 8000, logv3.AccessLogType_DownstreamEnd, func(c *logv3.AccessLogCommon) { c.TlsProperties = &logv3.TLSProperties{} })}), want(same), counted},
		"IPv6":                        {request("2001:db8::9", 8000), want(func(e *entry) { e.address = six }), counted},
		"IPv4 in IPv6":                {request("::ffff:10.0.0.9", 8000), want(same), counted},
		"an older proxy": {requests(&logv3.HTTPAccessLogEntry{CommonProperties: from("", 8000, logv3.AccessLogType_DownstreamEnd, func(c *logv3.AccessLogCommon) {
			c.DownstreamDirectRemoteAddress, c.DownstreamRemoteAddress = nil, socket("10.0.0.9", 1)
		})}), want(same), counted},
		"a clock that is ahead":         {requests(&logv3.HTTPAccessLogEntry{CommonProperties: from("10.0.0.9", 8000, logv3.AccessLogType_DownstreamEnd, func(c *logv3.AccessLogCommon) { c.StartTime = timestamppb.New(epoch.Add(time.Hour)) })}), want(func(e *entry) { e.made = epoch.Add(time.Minute) }), counted},
		"a request of a whole day":      {requests(&logv3.HTTPAccessLogEntry{CommonProperties: from("10.0.0.9", 8000, logv3.AccessLogType_DownstreamEnd, func(c *logv3.AccessLogCommon) { c.StartTime = timestamppb.New(epoch.Add(-24 * time.Hour)) })}), want(func(e *entry) { e.made = epoch.Add(time.Minute - maxDelay) }), counted},
		"a time that is none":           {requests(&logv3.HTTPAccessLogEntry{CommonProperties: from("10.0.0.9", 8000, logv3.AccessLogType_DownstreamEnd, func(c *logv3.AccessLogCommon) { c.StartTime = &timestamppb.Timestamp{Nanos: -1} })}), want(func(e *entry) { e.made = epoch.Add(time.Minute) }), counted},
		"no port":                       {request("10.0.0.9", 0), entry{protocol: protocolHTTP, ended: true}, malformed},
		"a port beyond all":             {request("10.0.0.9", 70000), entry{protocol: protocolHTTP, ended: true}, malformed},
		"an address that is none":       {request("legacy", 8000), entry{protocol: protocolHTTP, ended: true}, malformed},
		"an address that is everywhere": {request("0.0.0.0", 8000), entry{protocol: protocolHTTP, ended: true}, malformed},
		"an entry with nothing in it":   {requests(&logv3.HTTPAccessLogEntry{}), entry{}, ignored},
		"a nil entry":                   {requests(nil), entry{}, ignored},
	} {
		seen := 0
		err := entries(wired(t, tc.message), epoch.Add(time.Minute), func(got entry, what outcome) {
			seen++
			if what != tc.outcome {
				t.Errorf("%s: %s, want %s", name, what, tc.outcome)
			}
			if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(entry{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" && what == counted {
				t.Errorf("%s: (-want +got)\n%s", name, diff)
			}
		})
		if seen != 1 || err != nil {
			t.Errorf("%s: %d entries, %v", name, seen, err)
		}
	}
}
