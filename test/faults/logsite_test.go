package faults

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	logv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/controllers/resolve"
	"github.com/servicesecurity/operator/controllers/traffic/accesslog"
)

// Where the pods are that stream: on loopback, which clients can call from. A connection of the operator's own sidecar comes
// from an address of its own.
const (
	webAt, payAt, sidecarAt = "127.1.0.1", "127.1.0.2", "127.0.0.6"
	// legacyAt is a pod's, and strangerAt nobody's.
	legacyAt, strangerAt = "10.0.2.1", "203.0.113.9"
)

// site is a world whose Reconciler has the real server of access logs, with pods that stream to it.
type site struct {
	*world
	t       *testing.T
	edit    func(*accesslog.Options)
	server  *accesslog.Server
	address string
}

func newSite(t *testing.T, s script, edit func(*accesslog.Options)) *site {
	t.Helper()
	w, err := newWorld(&s, Core{}, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := resolve.IndexAddresses(t.Context(), w.store); err != nil {
		t.Fatal(err)
	}
	w.rehouse(t, "web-0", webAt)
	for _, pod := range []*corev1.Pod{newPod("pay-0", "pay", payAt), newPod("legacy-0", "legacy", legacyAt)} {
		if err := w.store.create(pod, false); err != nil {
			t.Fatal(err)
		}
	}
	out := &site{world: w, t: t, edit: edit}
	out.serve()
	return out
}

// rehouse gives a pod another address.
func (w *world) rehouse(t *testing.T, name, address string) {
	t.Helper()
	pod := &corev1.Pod{}
	if err := w.store.get(w.store.latest(w.store.kind(pod)), client.ObjectKey{Namespace: namespace, Name: name}, pod); err != nil {
		t.Fatal(err)
	}
	pod.Status.PodIP, pod.Status.PodIPs = address, []corev1.PodIP{{IP: address}}
	w.edit(t, pod)
}

// plain reads the store as it is, past what is planned for the operator's calls.
type plain struct{ w *world }

func (p plain) Get(_ context.Context, key client.ObjectKey, object client.Object, _ ...client.GetOption) error {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	return p.w.store.get(p.w.store.latest(p.w.store.kind(object)), key, object)
}

func (p plain) List(_ context.Context, list client.ObjectList, opts ...client.ListOption) error {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	return p.w.store.list(p.w.store.latest(p.w.store.kind(list)), list, opts...)
}

// serve starts a server that has heard nothing yet, as a new operator does.
func (s *site) serve() {
	s.t.Helper()
	free, err := (&net.ListenConfig{}).Listen(s.t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	s.address = free.Addr().String()
	_ = free.Close() // the server takes it
	options := accesslog.Options{
		Address: s.address, Clock: s.clock, Interval: 10 * time.Millisecond, Directory: resolve.Directory{Reader: plain{s.world}},
		Limits: accesslog.Limits{Penalty: time.Millisecond, ConnectionsPerAddress: 1000},
	}
	if s.edit != nil {
		s.edit(&options)
	}
	s.server = accesslog.New(options)
	s.reconciler.AccessLogs = s.server
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan error, 1)
	go func() { done <- s.server.Start(ctx) }()
	s.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Errorf("the server ended by %v", err)
		}
	})
}

// restart has another operator take over, which knows what status knows.
func (s *site) restart() {
	s.boot()
	s.serve()
}

// dial connects from an address, once the server is there.
func (s *site) dial(ctx context.Context, from string) (net.Conn, error) {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	for range 1000 {
		if connection, err := dialer.DialContext(ctx, "tcp", s.address); err == nil {
			return connection, nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	return nil, errors.New("the server does not listen")
}

// stream sends messages from an address, and is over once the server has read them. It says what it ended with.
func (s *site) stream(from string, headers []string, messages ...*accesslogv3.StreamAccessLogsMessage) codes.Code {
	s.t.Helper()
	connection, err := grpc.NewClient("passthrough:"+s.address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return s.dial(ctx, from) }))
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = connection.Close() }()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(s.t.Context(), headers...), 20*time.Second)
	defer cancel()
	stream, err := accesslogv3.NewAccessLogServiceClient(connection).StreamAccessLogs(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, message := range messages {
		if stream.Send(message) != nil {
			break // the end says why
		}
	}
	_, err = stream.CloseAndRecv()
	if code := status.Code(err); code != codes.Internal {
		return code
	}
	return codes.OK // the service never answers, which gRPC takes for a mistake
}

// hears sends messages from an address, and holds the server to what it makes of them.
func (s *site) hears(want codes.Code, from string, headers []string, messages ...*accesslogv3.StreamAccessLogsMessage) {
	s.t.Helper()
	if got := s.stream(from, headers, messages...); got != want {
		s.t.Errorf("the stream ends with %s, want %s", got, want)
	}
}

// remembered is how many callers the server keeps.
func (s *site) remembered() int {
	s.t.Helper()
	registry := prometheus.NewRegistry()
	for _, c := range s.server.Collectors() {
		registry.MustRegister(c)
	}
	families, err := registry.Gather()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == "servicesecurity_accesslog_callers" {
			return int(family.GetMetric()[0].GetGauge().GetValue())
		}
	}
	s.t.Fatal("there is no such metric")
	return 0
}

// xfcc is what the operator's own sidecar says of a caller by mutual TLS.
func xfcc(account string) []string {
	return []string{
		"x-forwarded-client-cert",
		"By=spiffe://cluster.local/ns/servicesecurity-system/sa/operator;Hash=00;URI=spiffe://cluster.local/ns/" + namespace + "/sa/" + account,
	}
}

// of is a message of a pod's proxy.
func of(pod string, message *accesslogv3.StreamAccessLogsMessage) *accesslogv3.StreamAccessLogsMessage {
	message.Identifier = &accesslogv3.StreamAccessLogsMessage_Identifier{
		Node: &corev3.Node{Id: fmt.Sprintf("sidecar~10.0.0.1~%s.%s~%s.svc.cluster.local", pod, namespace, namespace)},
	}
	return message
}

func socket(address string, port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: address, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
	}}}
}

// plaintext is an HTTP request from an address in plaintext.
func (w *world) plaintext(from string, edit ...func(*logv3.AccessLogCommon)) *logv3.HTTPAccessLogEntry {
	common := &logv3.AccessLogCommon{
		DownstreamDirectRemoteAddress: socket(from, 40000), DownstreamLocalAddress: socket(webAt, 8080),
		AccessLogType: logv3.AccessLogType_DownstreamEnd, StartTime: timestamppb.New(w.now()),
	}
	for _, e := range edit {
		e(common)
	}
	return &logv3.HTTPAccessLogEntry{CommonProperties: common}
}

func requests(all ...*logv3.HTTPAccessLogEntry) *accesslogv3.StreamAccessLogsMessage {
	return &accesslogv3.StreamAccessLogsMessage{LogEntries: &accesslogv3.StreamAccessLogsMessage_HttpLogs{
		HttpLogs: &accesslogv3.StreamAccessLogsMessage_HTTPAccessLogEntries{LogEntry: all},
	}}
}

// refusal is a connection that STRICT refused.
func (w *world) refusal(from string) *accesslogv3.StreamAccessLogsMessage {
	common := w.plaintext(from).CommonProperties
	common.AccessLogType, common.ResponseFlags = logv3.AccessLogType_NotSet, &logv3.ResponseFlags{NoRouteFound: true}
	return &accesslogv3.StreamAccessLogsMessage{LogEntries: &accesslogv3.StreamAccessLogsMessage_TcpLogs{
		TcpLogs: &accesslogv3.StreamAccessLogsMessage_TCPAccessLogEntries{LogEntry: []*logv3.TCPAccessLogEntry{{CommonProperties: common}}},
	}}
}

// strangers makes addresses that nobody has had before.
var strangers atomic.Uint64

func stranger() string {
	n := strangers.Add(1)
	return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, byte(n >> 32), byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}).String()
}
