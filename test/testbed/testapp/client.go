package testapp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	dialTimeout    = 5 * time.Second
	keptErrors     = 20
	streamInterval = time.Second
)

// Totals is what a client did and what failed. Nothing is tried twice: each failure is counted and named once.
type Totals struct {
	// Requests over kept connections, and those that got no answer or an unexpected one.
	Requests int `json:"requests"`
	Failures int `json:"failures"`
	// Statuses counts answers, of both kinds of requests, by status.
	Statuses map[int]int `json:"statuses"`
	// Reconnects counts connections opened for the requests above, beyond the first of each kept one.
	Reconnects int `json:"reconnects"`
	// NewConnections are requests on a connection of their own.
	NewConnections        int `json:"newConnections"`
	NewConnectionFailures int `json:"newConnectionFailures"`
	// Stream is the held TCP connection.
	Stream StreamTotals `json:"stream"`
	// Errors are the first failures.
	Errors []Failure `json:"errors,omitempty"`
}

// StreamTotals is what the held TCP connection saw.
type StreamTotals struct {
	Connected bool `json:"connected"`
	// Reconnects counts connections after the first, ConnectFailures what could not be connected.
	Reconnects      int   `json:"reconnects"`
	ConnectFailures int   `json:"connectFailures"`
	BytesSent       int64 `json:"bytesSent"`
	BytesReceived   int64 `json:"bytesReceived"`
}

// Failure is one thing that failed.
type Failure struct {
	Time  time.Time `json:"time"`
	What  string    `json:"what"`
	Error string    `json:"error"`
}

// Failed is the number of everything that failed.
func (t Totals) Failed() int {
	return t.Failures + t.NewConnectionFailures + t.Stream.ConnectFailures
}

type clientOptions struct {
	url         string
	rate        float64
	connections int
	fresh       float64
	stream      string
	duration    time.Duration
	timeout     time.Duration
	control     string
	method      string
	headers     headerFlag
	expect      int
}

// headerFlag is a flag "Name: value" that may be given more than once.
type headerFlag http.Header

// String prints the flag's value.
func (h headerFlag) String() string { return fmt.Sprint(http.Header(h)) }

// Set adds a header.
func (h headerFlag) Set(text string) error {
	name, value, ok := strings.Cut(text, ":")
	if !ok {
		return errors.New("write NAME: VALUE")
	}
	http.Header(h).Add(strings.TrimSpace(name), strings.TrimSpace(value))
	return nil
}

type load struct {
	options clientOptions
	target  *url.URL

	mu     sync.Mutex
	totals Totals
}

// client makes requests at a steady rate over kept connections, others on fresh ones, and holds a TCP connection, as asked; it ends by signal or duration and prints its totals.
func client(ctx context.Context, args []string) error {
	o := clientOptions{headers: headerFlag{"User-Agent": {"testbed-client"}}}
	flags := flag.NewFlagSet("client", flag.ContinueOnError)
	flags.StringVar(&o.url, "url", "", "what to get")
	flags.Float64Var(&o.rate, "rate", 10, "requests a second over kept connections")
	flags.IntVar(&o.connections, "connections", 2, "kept connections")
	flags.Float64Var(&o.fresh, "new", 0, "requests a second on fresh connections")
	flags.StringVar(&o.stream, "stream", "", "host:port of an echo server to hold a TCP connection to")
	flags.DurationVar(&o.duration, "duration", 0, "how long to run; 0 means until a signal")
	// What a policy refuses is refused at once; a machine whose cores are all taken answers seconds late.
	flags.DurationVar(&o.timeout, "timeout", 15*time.Second, "how long to wait for an answer")
	flags.StringVar(&o.control, "control", "127.0.0.1:9091", "where to serve /totals and /reset")
	flags.StringVar(&o.method, "method", http.MethodGet, "how to ask")
	flags.Var(o.headers, "header", `header "Name: value" to send; may be repeated`)
	flags.IntVar(&o.expect, "expect", 0, "the only status that is no failure; 0 means any below 400")
	if err := flags.Parse(args); err != nil {
		return fmt.Errorf("reading the flags: %w", err)
	}
	target, err := url.Parse(o.url)
	if err != nil {
		return fmt.Errorf("parsing the URL: %w", err)
	}
	if o.duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.duration)
		defer cancel()
	}
	l := &load{options: o, target: target, totals: Totals{Statuses: map[int]int{}}}
	if err := l.run(ctx); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(l.snapshot())
}

func (l *load) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	o := l.options
	control := &http.Server{Addr: o.control, Handler: l.control(), ReadHeaderTimeout: headerTimeout}
	group.Go(func() error { return serve(ctx, control) })
	if o.url != "" && o.rate > 0 {
		for range o.connections {
			group.Go(func() error { l.keep(ctx, o.rate/float64(o.connections)); return nil })
		}
	}
	if o.url != "" && o.fresh > 0 {
		group.Go(func() error { l.renew(ctx, o.fresh); return nil })
	}
	if o.stream != "" {
		group.Go(func() error { l.hold(ctx); return nil })
	}
	return group.Wait()
}

func (l *load) control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/totals", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(l.snapshot()) // the caller may have gone
	})
	mux.HandleFunc("/reset", func(http.ResponseWriter, *http.Request) {
		l.count(func(t *Totals) {
			*t = Totals{Statuses: map[int]int{}, Stream: StreamTotals{Connected: t.Stream.Connected}}
		})
	})
	return mux
}

func (l *load) snapshot() Totals {
	l.mu.Lock()
	defer l.mu.Unlock()
	copied := l.totals
	copied.Statuses = map[int]int{}
	for status, n := range l.totals.Statuses {
		copied.Statuses[status] = n
	}
	copied.Errors = append([]Failure{}, l.totals.Errors...)
	return copied
}

func (l *load) count(f func(*Totals)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(&l.totals)
}

func (l *load) fail(what string, err error, f func(*Totals)) {
	l.count(func(t *Totals) {
		f(t)
		if len(t.Errors) < keptErrors {
			t.Errors = append(t.Errors, Failure{Time: time.Now(), What: what, Error: err.Error()})
		}
	})
}

// keep sends requests one after the other over one connection. It opens another only when an answer said that the
// connection would close, or after a failure, which counts; net/http's client would repeat some requests in silence.
func (l *load) keep(ctx context.Context, rate float64) {
	var c *connection
	opened := false
	defer func() {
		if c != nil {
			_ = c.Close()
		}
	}()
	every(ctx, rate, func() {
		var err error
		if c == nil {
			if opened {
				l.count(func(t *Totals) { t.Reconnects++ })
			}
			if c, err = l.dial(ctx, l.address()); err == nil {
				opened = true
			}
		}
		var closes bool
		if err == nil {
			closes, err = l.request(c, false)
		}
		if ctx.Err() != nil {
			return // the end interrupted it
		}
		l.count(func(t *Totals) { t.Requests++ })
		if err != nil {
			l.fail("request", err, func(t *Totals) { t.Failures++ })
		}
		if c != nil && (closes || c.broken) {
			_ = c.Close()
			c = nil
		}
	})
}

// renew sends requests on connections of their own.
func (l *load) renew(ctx context.Context, rate float64) {
	var group sync.WaitGroup
	defer group.Wait()
	every(ctx, rate, func() {
		group.Go(func() {
			c, err := l.dial(ctx, l.address())
			if err == nil {
				defer func() { _ = c.Close() }()
				_, err = l.request(c, true)
			}
			if ctx.Err() != nil {
				return
			}
			l.count(func(t *Totals) { t.NewConnections++ })
			if err != nil {
				l.fail("new connection", err, func(t *Totals) { t.NewConnectionFailures++ })
			}
		})
	})
}

type connection struct {
	net.Conn

	reader *bufio.Reader
	broken bool
}

func (l *load) address() string {
	port := l.target.Port()
	if port == "" {
		port = "80"
	}
	return net.JoinHostPort(l.target.Hostname(), port)
}

func (l *load) dial(ctx context.Context, address string) (*connection, error) {
	conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("connecting: %w", err)
	}
	return &connection{Conn: conn, reader: bufio.NewReader(conn)}, nil
}

// request sends one and reads its whole answer; closes tells that the server will close the connection.
func (l *load) request(c *connection, last bool) (closes bool, err error) {
	c.broken = true // until proven otherwise
	request := &http.Request{
		Method: l.options.method, URL: l.target, Host: l.target.Host, Close: last, Header: http.Header(l.options.headers),
	}
	if err := c.SetDeadline(time.Now().Add(l.options.timeout)); err != nil {
		return false, fmt.Errorf("setting a deadline: %w", err)
	}
	if err := request.Write(c); err != nil {
		return false, fmt.Errorf("sending: %w", err)
	}
	response, err := http.ReadResponse(c.reader, request)
	if err != nil {
		return false, fmt.Errorf("reading the answer: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return false, fmt.Errorf("reading the answer's body: %w", err)
	}
	c.broken = false
	l.count(func(t *Totals) { t.Statuses[response.StatusCode]++ })
	if l.unexpected(response.StatusCode) {
		err = fmt.Errorf("the answer is %s", response.Status)
	}
	return response.Close, err
}

func (l *load) unexpected(status int) bool {
	if l.options.expect != 0 {
		return status != l.options.expect
	}
	return status >= http.StatusBadRequest
}

// hold keeps one TCP connection on which a line goes out and comes back every second.
func (l *load) hold(ctx context.Context) {
	s := stream{load: l}
	defer s.close()
	every(ctx, 1/streamInterval.Seconds(), func() { s.step(ctx) })
}

// stream is the held TCP connection.
type stream struct {
	load       *load
	connection *connection
	connected  bool
}

// step exchanges a line, over a new connection when there is none.
func (s *stream) step(ctx context.Context) {
	const line = "still there, and moving bytes\n"
	if s.connection == nil && !s.connect(ctx) {
		return
	}
	if err := s.load.exchange(s.connection, line); err != nil && ctx.Err() == nil {
		// A stream that breaks is no failure of its own: how often it had to reconnect is what counts.
		s.load.fail("stream", err, func(t *Totals) { t.Stream.Connected = false })
		s.close()
	}
}

func (s *stream) connect(ctx context.Context) bool {
	c, err := s.load.dial(ctx, s.load.options.stream)
	if err != nil {
		if ctx.Err() == nil {
			s.load.fail("stream connection", err, func(t *Totals) { t.Stream.ConnectFailures++ })
		}
		return false
	}
	s.load.count(func(t *Totals) {
		t.Stream.Connected = true
		if s.connected {
			t.Stream.Reconnects++
		}
	})
	s.connection, s.connected = c, true
	return true
}

func (s *stream) close() {
	if s.connection != nil {
		_ = s.connection.Close()
	}
	s.connection = nil
}

func (l *load) exchange(c *connection, line string) error {
	if err := c.SetDeadline(time.Now().Add(l.options.timeout)); err != nil {
		return fmt.Errorf("setting a deadline: %w", err)
	}
	n, err := io.WriteString(c, line)
	l.count(func(t *Totals) { t.Stream.BytesSent += int64(n) })
	if err != nil {
		return fmt.Errorf("sending: %w", err)
	}
	back, err := c.reader.ReadString('\n')
	l.count(func(t *Totals) { t.Stream.BytesReceived += int64(len(back)) })
	if err != nil {
		return fmt.Errorf("receiving: %w", err)
	}
	return nil
}

// every calls f at the rate until ctx ends, first at once. A call that takes long delays the next.
func every(ctx context.Context, rate float64, f func()) {
	ticker := time.NewTicker(time.Duration(float64(time.Second) / rate))
	defer ticker.Stop()
	for ctx.Err() == nil {
		f()
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
}
