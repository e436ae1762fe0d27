package accesslog

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	logv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/types"

	"github.com/servicesecurity/operator/controllers/facts"
)

const patience = 20 * time.Second

// site is a server with the pods of its cluster. Pods have addresses on loopback, which clients can call from.
type site struct {
	t       testing.TB
	server  *Server
	cluster *cluster
	address string
	refused chan []types.NamespacedName
}

func newSite(t testing.TB, edit func(*Options), pods ...facts.Identity) *site {
	t.Helper()
	s := &site{t: t, cluster: &cluster{}, refused: make(chan []types.NamespacedName, 100)}
	s.cluster.add(epoch, pods...)
	options := Options{
		Directory: s.cluster, Interval: 20 * time.Millisecond,
		Refused: func(_ context.Context, pods []types.NamespacedName) { s.refused <- pods },
	}
	if edit != nil {
		edit(&options)
	}
	options.Limits.Penalty = 10 * time.Millisecond
	s.server = New(options)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = listener.Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.server.serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the server ended by %v", err)
		}
	})
	return s
}

// client calls from an address.
func (s *site) client(from string) accesslogv3.AccessLogServiceClient {
	s.t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	connection, err := grpc.NewClient("passthrough:"+s.address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", address)
		}))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = connection.Close() })
	return accesslogv3.NewAccessLogServiceClient(connection)
}

func (s *site) stream(from string, headers ...string) accesslogv3.AccessLogService_StreamAccessLogsClient {
	s.t.Helper()
	stream, err := s.client(from).StreamAccessLogs(metadata.AppendToOutgoingContext(s.t.Context(), headers...))
	if err != nil {
		s.t.Fatal(err)
	}
	return stream
}

// introduce puts the identifier of a pod before a message.
func introduce(pod facts.Identity, message *accesslogv3.StreamAccessLogsMessage) *accesslogv3.StreamAccessLogsMessage {
	message.Identifier = &accesslogv3.StreamAccessLogsMessage_Identifier{
		Node: &corev3.Node{Id: fmt.Sprintf("sidecar~%s~%s.%s~%s.svc.cluster.local", pod.Address, pod.Name, pod.Namespace, pod.Namespace)},
	}
	return message
}

// code is what a stream ends with.
func code(stream accesslogv3.AccessLogService_StreamAccessLogsClient) codes.Code {
	return status.Code(stream.RecvMsg(&accesslogv3.StreamAccessLogsResponse{}))
}

// log sends messages and waits until the stream was read to its end.
func (s *site) log(from string, pod facts.Identity, messages ...*accesslogv3.StreamAccessLogsMessage) {
	s.t.Helper()
	stream := s.stream(from)
	for i, message := range messages {
		if i == 0 {
			introduce(pod, message)
		}
		if err := stream.Send(message); err != nil {
			break
		}
	}
	_, err := stream.CloseAndRecv()
	if got := status.Code(err); got != codes.OK && got != codes.Internal {
		s.t.Fatalf("the stream ended with %s: %v", got, err)
	}
}

func (s *site) logged(pods ...facts.Identity) []string {
	return texts(s.server.Logged(s.t.Context(), every(epoch, pods...)))
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}

var (
	web    = identify("foo", "web", "127.1.0.1")
	shop   = identify("shop", "cart", "127.1.0.2")
	legacy = identify("legacy", "cron", "127.1.0.9")
)

func xfcc(pod facts.Identity) []string {
	return []string{"x-forwarded-client-cert", own + "URI=spiffe://cluster.local/ns/" + pod.Namespace + "/sa/" + pod.ServiceAccount}
}

func TestAStreamIsBelievedAsFarAsItsConnectionShows(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		from    string
		headers []string
		require bool
		pod     facts.Identity
		want    codes.Code
		logged  string
	}{
		"the pod's own address": {
			from: "127.1.0.1", pod: web, logged: "legacy/cron 127.1.0.9 8000 HTTP 1",
		},
		"another's address": {
			from: "127.1.0.2", pod: web, want: codes.PermissionDenied,
		},
		"a header of its own making does not help": {
			from: "127.1.0.2", headers: xfcc(web), pod: web, want: codes.PermissionDenied,
		},
		"loopback is nobody": {
			from: "127.0.0.1", headers: xfcc(web), pod: web, want: codes.PermissionDenied,
		},
		"mutual TLS under the pod's account": {
			from: "127.0.0.6", headers: xfcc(web), pod: web, require: true, logged: "legacy/cron 127.1.0.9 8000 HTTP 1 authenticated",
		},
		"mutual TLS, although it is not required": {
			from: "127.0.0.6", headers: xfcc(web), pod: web, logged: "legacy/cron 127.1.0.9 8000 HTTP 1 authenticated",
		},
		"mutual TLS under another account": {
			from: "127.0.0.6", headers: xfcc(shop), pod: web, require: true, want: codes.PermissionDenied,
		},
		"plaintext through the operator's sidecar": {
			from: "127.0.0.6", pod: web, want: codes.Unauthenticated,
		},
		"rubbish in the sidecar's header": {
			from: "127.0.0.6", headers: []string{"x-forwarded-client-cert", `URI="`}, pod: web, want: codes.Unauthenticated,
		},
		"past the sidecar where mutual TLS is required": {
			from: "127.1.0.1", headers: xfcc(web), pod: web, require: true, want: codes.Unauthenticated,
		},
		"a pod that there is not": {
			from: "127.1.0.1", pod: identify("foo", "nobody", "127.1.0.1"), want: codes.Unavailable,
		},
		"no name at all": {
			from: "127.1.0.1", pod: facts.Identity{}, want: codes.InvalidArgument,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, func(o *Options) { o.RequireMTLS = tc.require }, web, shop, legacy)
			stream := s.stream(tc.from, tc.headers...)
			_ = stream.Send(introduce(tc.pod, request("127.1.0.9", 8000))) // it may have been ended already
			if tc.want != codes.OK {
				if got := code(stream); got != tc.want {
					t.Errorf("the stream ends with %s, want %s", got, tc.want)
				}
				if got := s.logged(web, shop); len(got) != 0 {
					t.Errorf("it was believed: %v", got)
				}
				if got := testutil.ToFloat64(s.server.meters.streams.WithLabelValues(tc.want.String())); got != 1 {
					t.Errorf("%g refused streams are counted", got)
				}
				return
			}
			eventually(t, tc.logged, func() bool { return strings.Join(s.logged(web), ";") == tc.logged })
		})
	}
}

// TestEntriesOfAnotherService: whatever a proxy says of others' addresses, it concerns its own pod alone.
func TestEntriesOfAnotherService(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, web, shop, legacy)
	message := requests(&logv3.HTTPAccessLogEntry{CommonProperties: from("127.1.0.9", 8000, logv3.AccessLogType_DownstreamEnd, func(c *logv3.AccessLogCommon) {
		c.DownstreamLocalAddress = socket(shop.Address, 8000)
	})})
	s.log(web.Address, web, message)
	if got := s.logged(shop); len(got) != 0 {
		t.Errorf("the other has %v", got)
	}
	if got := s.logged(web); len(got) != 1 {
		t.Errorf("the pod itself has %v", got)
	}
	stream := s.stream(web.Address)
	for _, pod := range []facts.Identity{web, shop} {
		_ = stream.Send(introduce(pod, request("127.1.0.9", 9000))) // what it ends with says the rest
	}
	if got := code(stream); got != codes.InvalidArgument {
		t.Errorf("a stream that turns into another's ends with %s", got)
	}
}

func TestTellsWhoRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, web, legacy)
	s.log(web.Address, web, connections(from("127.1.0.9", 8000, logv3.AccessLogType_NotSet, noChain)))
	select {
	case got := <-s.refused:
		if len(got) != 1 || got[0] != (types.NamespacedName{Namespace: "foo", Name: "web-1"}) {
			t.Errorf("%v refused somebody", got)
		}
	case <-time.After(patience):
		t.Fatal("nobody was told")
	}
	if got := testutil.ToFloat64(s.server.meters.refused.WithLabelValues(no)); got != 1 {
		t.Errorf("%g refused connections are counted", got)
	}
	if got := s.logged(web); len(got) != 1 || got[0] != "legacy/cron 127.1.0.9 8000 TCP 1 refused" {
		t.Errorf("it has %v", got)
	}
}

func TestAFloodIsCutAndSaid(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(o *Options) { o.Limits = Limits{EntriesPerSecond: 1, EntriesBurst: 50} }, web, shop)
	one := func() *accesslogv3.StreamAccessLogsMessage {
		var all []*logv3.HTTPAccessLogEntry
		for range 100 {
			all = append(all, &logv3.HTTPAccessLogEntry{CommonProperties: from("192.0.2.1", 8000, logv3.AccessLogType_DownstreamEnd)})
		}
		return requests(all...)
	}
	s.log(web.Address, web, one(), one(), one(), one())
	got := s.server.Logged(t.Context(), every(epoch, web))
	if len(got.Callers) != 1 || got.Callers[0].Requests < 50 || got.Callers[0].Requests > 100 || !got.Truncated {
		t.Errorf("it has %v, truncated %t", texts(got), got.Truncated)
	}
	if lost := testutil.ToFloat64(s.server.meters.entries.WithLabelValues(string(dropped))); lost < 300 {
		t.Errorf("%g entries are counted as left out", lost)
	}
	s.log(shop.Address, shop, request("192.0.2.1", 8000))
	if got := s.server.Logged(t.Context(), every(epoch, shop)); len(got.Callers) != 1 || got.Truncated {
		t.Errorf("another has %v, truncated %t", texts(got), got.Truncated)
	}
}

func TestANewStreamBringsNoNewMeasure(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(o *Options) { o.Limits = Limits{ConnectionsPerAddress: 100, EntriesPerSecond: 1, EntriesBurst: 5} }, web)
	for range 20 {
		s.log(web.Address, web, request("192.0.2.1", 8000))
	}
	got := s.server.Logged(t.Context(), every(epoch, web))
	if len(got.Callers) != 1 || got.Callers[0].Requests > 15 || !got.Truncated {
		t.Errorf("it has %v, truncated %t", texts(got), got.Truncated)
	}
}

func TestAnEndlessStreamIsReadSlowly(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(o *Options) { o.Limits = Limits{MessagesPerSecond: 20, MessagesBurst: 1} }, web)
	begin := time.Now()
	messages := make([]*accesslogv3.StreamAccessLogsMessage, 10)
	for i := range messages {
		messages[i] = request("192.0.2.1", 8000)
	}
	s.log(web.Address, web, messages...)
	got := s.server.Logged(t.Context(), every(epoch, web))
	if took := time.Since(begin); took < 400*time.Millisecond {
		t.Errorf("ten messages took %s", took)
	}
	if len(got.Callers) != 1 || got.Callers[0].Requests != 10 || !got.Truncated {
		t.Errorf("it has %v, truncated %t", texts(got), got.Truncated)
	}
}

// TestAMessageOfManyEntries: bytes that would take fifty times the memory are not decoded all at once, nor all.
func TestAMessageOfManyEntries(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, web)
	many := make([]*logv3.HTTPAccessLogEntry, 60000)
	for i := range many {
		many[i] = &logv3.HTTPAccessLogEntry{}
	}
	s.log(web.Address, web, requests(many...))
	of := func(what outcome) float64 {
		return testutil.ToFloat64(s.server.meters.entries.WithLabelValues(string(what)))
	}
	if of(ignored) != maxEntries || of(dropped) != float64(len(many)-maxEntries) {
		t.Errorf("%g entries were read, and %g left out", of(ignored), of(dropped))
	}
}

func TestAnOversizedMessageEndsItsStreamAlone(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, web, shop)
	big := requests(&logv3.HTTPAccessLogEntry{Request: &logv3.HTTPRequestProperties{Path: strings.Repeat("a", 1<<20)}})
	stream := s.stream(web.Address)
	_ = stream.Send(introduce(web, big)) // the answer says it
	if got := code(stream); got != codes.ResourceExhausted {
		t.Errorf("the stream ends with %s", got)
	}
	s.log(shop.Address, shop, request("192.0.2.1", 8000))
	if got := s.logged(shop); len(got) != 1 {
		t.Errorf("another has %v", got)
	}
}

func TestStreamsAreBounded(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(o *Options) { o.Limits = Limits{Streams: 12, StreamsPerIdentity: 8, StreamsPerPod: 4} }, web, shop)
	open := func(client accesslogv3.AccessLogServiceClient, pod facts.Identity, n int) {
		for range n {
			stream, err := client.StreamAccessLogs(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			_ = stream.Send(introduce(pod, request("192.0.2.1", 8000))) // what was refused is told by the metric
		}
	}
	open(s.client(web.Address), web, 40)
	over := func() float64 {
		return testutil.ToFloat64(s.server.meters.streams.WithLabelValues(codes.ResourceExhausted.String()))
	}
	eventually(t, "all but four are turned away", func() bool { return over() == 36 })
	if got := s.server.streams.inUse(); got != 4 {
		t.Errorf("%d streams are open", got)
	}
	open(s.client(shop.Address), shop, 2)
	eventually(t, "another has its own", func() bool { return len(s.logged(shop)) == 1 && s.server.streams.inUse() == 6 })
	truncated := func(pod facts.Identity) bool { return s.server.Logged(t.Context(), every(epoch, pod)).Truncated }
	if !truncated(web) || truncated(shop) {
		t.Errorf("lists are taken for incomplete: %t, and of another %t", truncated(web), truncated(shop))
	}
}

// TestStreamsBeyondTheBounds: whose a stream is that is turned away is found out where that can be.
func TestStreamsBeyondTheBounds(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(o *Options) { o.Limits = Limits{Streams: 2, Connections: 100} }, web, shop)
	open := func(pod facts.Identity) accesslogv3.AccessLogService_StreamAccessLogsClient {
		stream := s.stream(pod.Address)
		_ = stream.Send(introduce(pod, request("192.0.2.1", 8000))) // the answer says it
		return stream
	}
	truncated := func(pod facts.Identity) bool { return s.server.Logged(t.Context(), every(epoch, pod)).Truncated }
	open(web)
	open(web)
	eventually(t, "all streams are taken", func() bool { return s.server.streams.inUse() == 2 && len(s.logged(web)) == 1 })
	if got := code(open(shop)); got != codes.ResourceExhausted {
		t.Errorf("one more ends with %s", got)
	}
	if truncated(web) || !truncated(shop) {
		t.Errorf("lists are taken for incomplete: %t, and of whom was turned away %t", truncated(web), truncated(shop))
	}
	for range latecomers {
		s.server.late.acquire("somebody", 0, 0)
	}
	_ = code(open(shop))
	if !truncated(web) {
		t.Error("nobody's list is taken for incomplete, although it is not known whose stream was turned away")
	}
}

// TestStreamsThatNobodyAsks: where too many of one account or address are turned away to ask each whose it is, something is left
// out of the lists of its pods, and of no others.
func TestStreamsThatNobodyAsks(t *testing.T) {
	t.Parallel()
	second := shop
	second.Name, second.UID = "cart-2", "shop/cart-2"
	for name, tc := range map[string]struct {
		from    string
		headers []string
		key     string
		second  bool // whether a list of another pod of the same account is incomplete, too
	}{
		"by address":       {from: shop.Address, key: shop.Address},
		"by mutual TLS":    {from: "127.0.0.6", headers: xfcc(shop), key: "spiffe://cluster.local/ns/shop/sa/cart", second: true},
		"by another's key": {from: web.Address, key: web.Address},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, func(o *Options) { o.Limits = Limits{Streams: 1, Connections: 100} }, web, shop, second)
			truncated := func(pod facts.Identity) bool { return s.server.Logged(t.Context(), every(epoch, pod)).Truncated }
			s.server.streams.acquire("somebody", 0, 0)
			for range latecomersPerIdentity {
				s.server.late.acquire(tc.key, 0, 0)
			}
			if got := code(s.stream(tc.from, tc.headers...)); got != codes.ResourceExhausted {
				t.Fatalf("the stream ends with %s", got)
			}
			ofWeb := tc.key == web.Address
			if truncated(web) != ofWeb || truncated(shop) == ofWeb || truncated(second) != tc.second {
				t.Errorf("lists are taken for incomplete: %t, %t, %t", truncated(web), truncated(shop), truncated(second))
			}
		})
	}
}

// TestAThousandReplicas: the pods of one service account share what is a quarter of all.
func TestAThousandReplicas(t *testing.T) {
	t.Parallel()
	limits := Limits{}.withDefaults()
	account := peer{identity: spiffe{"cluster.local", "foo", "web"}}
	if got := limits.perIdentity(account); got < 500*4 || got > limits.Streams/4 {
		t.Errorf("one service account has %d streams", got)
	}
	if got := limits.perIdentity(peer{address: netip.MustParseAddr(web.Address)}); got != limits.StreamsPerPod {
		t.Errorf("one address has %d streams", got)
	}
	if limits.Streams < 2000*4 || limits.Connections < 2000*2 {
		t.Errorf("%d streams and %d connections are not enough for 2,000 proxies", limits.Streams, limits.Connections)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(o *Options) { o.Limits = Limits{Connections: 10, ConnectionsPerAddress: 4} }, web, shop)
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(web.Address)}}
	for range 30 {
		connection, err := dialer.DialContext(t.Context(), "tcp", s.address)
		if err != nil {
			continue
		}
		defer func() { _ = connection.Close() }()
	}
	s.log(shop.Address, shop, request("192.0.2.1", 8000))
	if got := s.logged(shop); len(got) != 1 {
		t.Errorf("another has %v", got)
	}
	for pod, want := range map[facts.Identity]bool{web: true, shop: false} {
		if got := s.server.Logged(t.Context(), every(epoch, pod)).Truncated; got != want {
			t.Errorf("the list of %s is taken for incomplete: %t", pod.Name, got)
		}
	}
}

func TestSilentStreamsAreClosed(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(o *Options) { o.Limits = Limits{Identify: 50 * time.Millisecond, Idle: 50 * time.Millisecond} }, web)
	silent, idle := s.stream(web.Address), s.stream(web.Address)
	if err := idle.Send(introduce(web, request("192.0.2.1", 8000))); err != nil {
		t.Fatal(err)
	}
	for _, stream := range []accesslogv3.AccessLogService_StreamAccessLogsClient{silent, idle} {
		_ = code(stream)
	}
	eventually(t, "no stream is open", func() bool { return s.server.streams.inUse() == 0 })
}

// TestRubbish: random messages and random bytes never end the server, and what is kept stays within its bounds.
func TestRubbish(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 2))
	limits := Limits{ConnectionsPerAddress: 1000, CallersPerProxy: 20, Callers: 30, MessagesPerSecond: 1 << 20, MessagesBurst: 1 << 20, EntriesPerSecond: 1 << 20, EntriesBurst: 1 << 20}
	s := newSite(t, func(o *Options) { o.Limits = limits }, web, shop)
	for range 60 {
		pod := []facts.Identity{web, shop}[random.IntN(2)]
		stream := s.stream(pod.Address)
		for i := range 20 {
			message := rubbish(random)
			if i == 0 && random.IntN(4) > 0 {
				introduce(pod, message)
			}
			if err := stream.Send(message); err != nil {
				break
			}
		}
		_ = stream.CloseSend() // it may have been ended
		_ = code(stream)
		if random.IntN(4) == 0 {
			connection, err := net.Dial("tcp", s.address)
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			bytes := make([]byte, 100)
			for i := range bytes {
				bytes[i] = byte(random.IntN(256))
			}
			_, _ = connection.Write(bytes)
			_ = connection.Close()
		}
	}
	if got := s.server.store.size(); got > 30 {
		t.Errorf("seed %d: %d callers are kept", seed, got)
	}
	eventually(t, "no stream is open", func() bool { return s.server.streams.inUse() == 0 })
	s.server.store.sweep(time.Now().Add(48 * time.Hour))
	if got := s.server.store.size(); got != 0 {
		t.Errorf("seed %d: %d callers are left", seed, got)
	}
	s.log(web.Address, web, request("192.0.2.1", 8000))
	if got := s.logged(web); len(got) != 1 {
		t.Errorf("seed %d: a good one has %v afterwards", seed, got)
	}
}

// rubbish is a message with anything in it, or bytes of one, changed here and there.
func rubbish(random *rand.Rand) *accesslogv3.StreamAccessLogsMessage {
	address := func() string {
		return []string{"", "x", "0.0.0.0", "::", "fe80::1%eth0", fmt.Sprint(netip.AddrFrom4([4]byte{10, 0, byte(random.IntN(8)), byte(random.IntN(256))}))}[random.IntN(6)]
	}
	kind := func() logv3.AccessLogType { return logv3.AccessLogType(random.IntN(20) - 2) }
	message := request(address(), uint32(random.IntN(1<<17)))
	if random.IntN(2) == 0 {
		message = connections(nil, from(address(), uint32(random.IntN(1<<17)), kind(), noChain), from(address(), 80, kind()))
	}
	bytes, err := proto.Marshal(message)
	if err != nil || len(bytes) == 0 || random.IntN(2) == 0 {
		return message
	}
	bytes[random.IntN(len(bytes))] = byte(random.IntN(256))
	changed := &accesslogv3.StreamAccessLogsMessage{}
	if proto.Unmarshal(bytes, changed) != nil {
		return message
	}
	return changed
}

func TestCollectors(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewPedanticRegistry()
	for _, c := range newSite(t, nil).server.Collectors() {
		if err := registry.Register(c); err != nil {
			t.Fatal(err)
		}
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
}
