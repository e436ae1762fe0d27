package accesslog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/traffic"
)

// Options of a Server.
type Options struct {
	// Address to listen on, such as ":9095".
	Address string
	// RequireMTLS refuses streams that did not come through the operator's own sidecar by mutual TLS.
	RequireMTLS bool
	// Directory tells who pods are.
	Directory Directory
	// Refused is told, once per interval at the most, which pods refused somebody since; may be nil. It must not block for
	// long.
	Refused func(ctx context.Context, pods []types.NamespacedName)
	// Interval between two calls of Refused: 15 s.
	Interval time.Duration
	// Clock; the system's by default.
	Clock clock.PassiveClock
	// Limits of what proxies can use up.
	Limits Limits
}

// Server is Envoy's access log service. It is a traffic.AccessLogs of what it received.
type Server struct {
	accesslogv3.UnimplementedAccessLogServiceServer

	options Options
	clock   clock.PassiveClock
	store   *store
	streams quota
	pods    quota
	// late are the streams that are turned away as soon as it is known whose they are.
	late   quota
	meters *meters
	// decoding has room for so many messages at once, whose entries take more memory than their bytes.
	decoding chan struct{}
}

var _ traffic.AccessLogs = (*Server)(nil)

// New makes a Server that does not listen yet.
func New(options Options) *Server {
	options.Limits = options.Limits.withDefaults()
	options.Interval = cmp.Or(options.Interval, 15*time.Second)
	s := &Server{options: options, clock: options.Clock, store: newStore(options.Limits), decoding: make(chan struct{}, decoders)}
	if s.clock == nil {
		s.clock = clock.RealClock{}
	}
	s.meters = newMeters(s)
	return s
}

// Logged implements traffic.AccessLogs.
func (s *Server) Logged(ctx context.Context, request traffic.LogRequest) traffic.Logged {
	return s.store.logged(ctx, s.options.Directory, request, s.clock.Now())
}

const (
	// maxHeaders bounds the headers of a stream, in bytes.
	maxHeaders = 16 << 10
	// window of flow control of a stream and of a connection, in bytes: the smallest that there is.
	window = 64 << 10
	// buffer for reading from a connection and for writing to it, in bytes.
	buffer = 8 << 10
	// decoders is how many messages are decoded at once, each entry by entry.
	decoders = 4
	// latecomers, and those of one service account or address, are how many streams beyond the bounds are asked whose they are
	// at once.
	latecomers, latecomersPerIdentity = 256, 8
	// streamsPerConnection leaves room for all threads of a proxy.
	streamsPerConnection = 64
	// connectionIdle is how long a connection may be open without a stream.
	connectionIdle = time.Minute
	// ping and pong: a connection that is silent for so long is asked whether anybody is there, and closed if not.
	ping, pong = time.Minute, 20 * time.Second
	// minPing is how often a client may ask.
	minPing = 10 * time.Second
)

// Start implements manager.Runnable: it serves until ctx ends. Only the leader does, since it alone uses what comes in.
func (s *Server) Start(ctx context.Context) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.options.Address)
	if err != nil {
		return fmt.Errorf("listening for access logs: %w", err)
	}
	return s.serve(ctx, listener)
}

func (s *Server) serve(ctx context.Context, listener net.Listener) error {
	limits := s.options.Limits
	server := grpc.NewServer(
		grpc.ForceServerCodecV2(wire{}),
		grpc.MaxRecvMsgSize(limits.MessageBytes), grpc.MaxSendMsgSize(1<<10), grpc.MaxHeaderListSize(maxHeaders),
		grpc.MaxConcurrentStreams(streamsPerConnection), grpc.ConnectionTimeout(limits.Identify),
		grpc.InitialWindowSize(window), grpc.InitialConnWindowSize(window), grpc.ReadBufferSize(buffer), grpc.WriteBufferSize(buffer),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: connectionIdle, Time: ping, Timeout: pong}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPing}),
	)
	accesslogv3.RegisterAccessLogServiceServer(server, s)
	within, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	group.Go(func() { s.tick(within) })
	group.Go(func() {
		<-within.Done()
		// Whoever streams does so for ever: there is nothing to wait for.
		server.Stop()
	})
	err := server.Serve(&boundedListener{Listener: listener, limits: limits, over: func(address netip.Addr, all bool) { s.missed(within, address, all) }})
	cancel()
	group.Wait()
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("serving access logs: %w", err)
	}
	return nil
}

// tick forgets what is old, and tells who refused somebody.
func (s *Server) tick(ctx context.Context) {
	ticker := time.NewTicker(s.options.Interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		s.store.sweep(s.clock.Now())
		if pods := s.store.refusing(); len(pods) > 0 && s.options.Refused != nil {
			s.options.Refused(ctx, pods)
		}
	}
}

// StreamAccessLogs implements Envoy's access log service.
func (s *Server) StreamAccessLogs(stream accesslogv3.AccessLogService_StreamAccessLogsServer) error {
	err := s.take(stream)
	if code := status.Code(err); err != nil && code != codes.Canceled {
		s.meters.streams.WithLabelValues(code.String()).Inc()
	}
	return err
}

func (s *Server) take(stream accesslogv3.AccessLogService_StreamAccessLogsServer) error {
	ctx, limits := stream.Context(), s.options.Limits
	from, err := s.peer(ctx)
	if err != nil {
		return err
	}
	if !s.streams.acquire(from.key(), limits.perIdentity(from), limits.Streams) {
		s.turnAway(ctx, from, stream)
		return status.Error(codes.ResourceExhausted, "there are too many streams of access logs")
	}
	defer s.streams.release(from.key())

	messages := receive(ctx, stream)
	session, message, err := s.begin(ctx, from, messages)
	if session == nil {
		return err
	}
	if !s.pods.acquire(session.pod.UID, limits.StreamsPerPod, 0) {
		s.store.truncate(session.pod, s.clock.Now())
		return status.Error(codes.ResourceExhausted, "there are too many streams of this pod's access logs")
	}
	defer s.pods.release(session.pod.UID)

	for {
		if err := session.record(ctx, message); err != nil {
			return err
		}
		if err := session.rest(ctx); err != nil {
			return err
		}
		if message, err = next(ctx, messages, limits.Idle); err != nil {
			return ended(err)
		}
	}
}

// begin waits for a stream's first message, and believes what it claims as far as its connection shows it. There is no
// session if the stream is over.
func (s *Server) begin(ctx context.Context, from peer, messages <-chan received) (*session, []byte, error) {
	first, err := next(ctx, messages, s.options.Limits.Identify)
	if err != nil {
		return nil, nil, ended(err)
	}
	node, err := nodeOf(first)
	if err != nil {
		return nil, nil, status.Error(codes.InvalidArgument, err.Error())
	}
	session, err := s.identify(ctx, from, node)
	if err != nil {
		pause(ctx, s.options.Limits.Penalty)
		return nil, nil, err
	}
	return session, first, nil
}

// turnAway finds out which pod a stream beyond the bounds is of, to note that something of it is left out. Where too many
// of one account or address are turned away at once that is noted of all its pods, and where too many are altogether, of all.
func (s *Server) turnAway(ctx context.Context, from peer, stream accesslogv3.AccessLogService_StreamAccessLogsServer) {
	if !s.late.acquire(from.key(), latecomersPerIdentity, latecomers) {
		s.unasked(ctx, from, s.late.inUse() >= latecomers)
		return
	}
	defer s.late.release(from.key())
	if session, _, _ := s.begin(ctx, from, receive(ctx, stream)); session != nil {
		s.store.truncate(session.pod, s.clock.Now())
	}
}

// unasked notes that a stream was turned away of which nobody asked whose it is.
func (s *Server) unasked(ctx context.Context, from peer, all bool) {
	if of := from.identity; !all && of != (spiffe{}) {
		s.store.truncateAccount(account{of.namespace, of.account}, s.clock.Now())
		return
	}
	s.missed(ctx, from.address, all)
}

// missed notes that a connection was closed at once: something of the pod that has the address is left out, or of any.
func (s *Server) missed(ctx context.Context, address netip.Addr, all bool) {
	now := s.clock.Now()
	if all {
		s.store.truncateAll(now)
	} else if pod, ok := s.options.Directory.At(ctx, address.String(), now); ok {
		s.store.truncate(pod, now)
	}
}

// peer is what the connection shows of who streams.
func (s *Server) peer(ctx context.Context) (peer, error) {
	p, ok := grpcpeer.FromContext(ctx)
	if !ok {
		return peer{}, status.Error(codes.Unauthenticated, "the connection has no address")
	}
	address, ok := remote(p.Addr)
	if !ok {
		return peer{}, status.Error(codes.Unauthenticated, "the connection has no IP address")
	}
	out := peer{address: address}
	if !bySidecar(address) {
		if s.options.RequireMTLS {
			return peer{}, status.Error(codes.Unauthenticated, "streams must come by mutual TLS, through the operator's own sidecar")
		}
		return out, nil
	}
	headers := metadata.ValueFromIncomingContext(ctx, "x-forwarded-client-cert")
	if len(headers) == 0 {
		return peer{}, status.Error(codes.Unauthenticated, "the stream came to the operator's sidecar without mutual TLS")
	}
	identity, err := parseXFCC(headers[len(headers)-1])
	if err != nil {
		return peer{}, status.Error(codes.Unauthenticated, err.Error())
	}
	out.identity = identity
	return out, nil
}

// identify believes a stream's claim as far as its connection shows it.
func (s *Server) identify(ctx context.Context, from peer, node string) (*session, error) {
	who, err := parseNode(node)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	pod, ok := s.options.Directory.Named(ctx, who.namespace, who.pod)
	if !ok {
		// It may have started a moment ago; Envoy tries again.
		return nil, status.Error(codes.Unavailable, "the pod that the stream says it comes from is not known")
	}
	authenticated, err := from.verify(pod)
	if err != nil {
		return nil, status.Error(codes.PermissionDenied, err.Error())
	}
	entries, messages := s.store.buckets(pod, s.clock.Now())
	return &session{Server: s, node: node, pod: pod, authenticated: authenticated, entries: entries, messages: messages}, nil
}

// pause waits a while, or until ctx ends.
func pause(ctx context.Context, duration time.Duration) {
	timer := time.NewTimer(duration)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// session is a stream whose pod is known.
type session struct {
	*Server
	node              string
	pod               facts.Identity
	authenticated     bool
	entries, messages *rate.Limiter
}

// record takes in a message.
func (s *session) record(ctx context.Context, message []byte) error {
	s.decoding <- struct{}{}
	defer func() { <-s.decoding }()
	if again, err := nodeOf(message); err != nil || again != "" && again != s.node {
		return status.Error(codes.InvalidArgument, "the stream changes the pod that it says it comes from")
	}
	now := s.clock.Now()
	err := entries(message, now, func(e entry, what outcome) {
		if what == counted && !s.entries.Allow() {
			what = dropped
		}
		s.meters.entries.WithLabelValues(string(what)).Inc()
		switch what {
		case dropped:
			s.store.truncate(s.pod, now)
		case counted:
			if e.refused {
				s.meters.refused.WithLabelValues(text(s.authenticated)).Inc()
			}
			who, _ := s.options.Directory.At(ctx, e.address.String(), e.made)
			s.store.add(s.pod, s.authenticated, e, who, now)
		case mutual, ignored, malformed:
		}
	})
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	return nil
}

// rest has a pod's streams wait that send more often than they may.
func (s *session) rest(ctx context.Context) error {
	if s.messages.Allow() {
		return nil
	}
	// The proxy drops what it cannot send.
	s.store.truncate(s.pod, s.clock.Now())
	if err := s.messages.Wait(ctx); err != nil {
		return status.FromContextError(err).Err()
	}
	return nil
}

func text(b bool) string {
	if b {
		return yes
	}
	return no
}

// received is a message, or why there are no more.
type received struct {
	message []byte
	err     error
}

// receive reads messages one by one; the next is read when the one before was taken. It ends with the stream.
func receive(ctx context.Context, stream accesslogv3.AccessLogService_StreamAccessLogsServer) <-chan received {
	out := make(chan received)
	go func() {
		for {
			var message frame
			err := stream.RecvMsg(&message)
			select {
			case out <- received{message.bytes, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return out
}

// errIdle says that a stream was silent for too long.
var errIdle = errors.New("waiting for a message: none came in time")

// next waits for a message.
func next(ctx context.Context, messages <-chan received, patience time.Duration) ([]byte, error) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case r := <-messages:
		return r.message, r.err
	case <-timer.C:
		return nil, errIdle
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// ended is what the other end hears of the end of its stream. An idle one may come again whenever there is something to say.
func ended(err error) error {
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, errIdle):
		return nil
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	}
	return err
}
