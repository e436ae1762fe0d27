package testapp

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync/atomic"
	"testing"
	"time"
)

// TestClientCounts holds that nothing is repeated in silence: what the server breaks is what the client counts.
func TestClientCounts(t *testing.T) {
	var served, broken atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		switch served.Add(1) % 5 {
		case 2: // end the connection without an answer, as a reset does
			broken.Add(1)
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			_ = conn.Close()
		case 4: // close the connection politely, which is no failure
			w.Header().Set("Connection", "close")
		case 0:
			broken.Add(1)
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	target, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	l := &load{options: clientOptions{timeout: time.Second}, target: target, totals: Totals{Statuses: map[int]int{}}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.keep(ctx, 1000)
	}()
	for l.snapshot().Requests < 50 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	<-done
	got := l.snapshot()
	if got.Requests == 0 || got.Failures == 0 || broken.Load()-int64(got.Failures) > 1 || int64(got.Failures) > broken.Load() {
		t.Errorf("got %d failures of %d requests, the server broke %d of %d", got.Failures, got.Requests, broken.Load(), served.Load())
	}
	if served.Load()-int64(got.Requests) > 1 {
		t.Errorf("got %d requests, the server saw %d: some were repeated", got.Requests, served.Load())
	}
	if got.Reconnects == 0 || got.Statuses[http.StatusServiceUnavailable] == 0 || len(got.Errors) == 0 {
		t.Errorf("got %+v, want reconnects, statuses and errors", got)
	}
}

func TestClientCountsStreamReconnects(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { // each connection echoes one line and ends
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			buffer := make([]byte, 1024)
			n, _ := conn.Read(buffer)
			_, _ = conn.Write(buffer[:n])
			_ = conn.Close()
		}
	}()
	defer func() { _ = listener.Close() }()
	l := &load{options: clientOptions{timeout: time.Second, stream: listener.Addr().String()}, totals: Totals{Statuses: map[int]int{}}}
	held := stream{load: l}
	defer held.close()
	for range 6 {
		held.step(context.Background())
	}
	got := l.snapshot().Stream
	if got.Reconnects != 2 || got.ConnectFailures != 0 || got.BytesReceived == 0 {
		t.Errorf("got %+v, want two reconnects in six steps: connect and echo, break, and again", got)
	}
}

func TestHandler(t *testing.T) {
	tests := map[string]int{"/status/418": 418, "/status/x": 400, "/headers": 200, "/ip": 200, "/user-agent": 200, "/get": 200, "/delay/0": 200, "/delay/x": 400}
	for path, want := range tests {
		t.Run(path, func(t *testing.T) {
			recorder := httptest.NewRecorder()
			Handler().ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, path, nil))
			if recorder.Code != want {
				t.Errorf("got %d, want %d", recorder.Code, want)
			}
		})
	}
}

func TestClientAsksAsToldAndExpectsOneStatus(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.Header.Get("Hello") != "world" {
			w.WriteHeader(http.StatusForbidden)
		}
	}))
	defer server.Close()
	target, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	header := headerFlag{}
	if header.Set("no colon") == nil {
		t.Error("a header without a value passed")
	}
	if err := header.Set("hello: world"); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		method         string
		expect, failed int
	}{{http.MethodPost, http.StatusOK, 0}, {http.MethodPost, 0, 0}, {http.MethodGet, http.StatusOK, 1}, {http.MethodGet, 0, 1}, {http.MethodGet, http.StatusForbidden, 0}} {
		l := &load{
			options: clientOptions{timeout: time.Second, method: test.method, headers: header, expect: test.expect},
			target:  target, totals: Totals{Statuses: map[int]int{}},
		}
		c, err := l.dial(t.Context(), l.address())
		if err != nil {
			t.Fatal(err)
		}
		_, err = l.request(c, true)
		_ = c.Close()
		if (err != nil) != (test.failed == 1) {
			t.Errorf("%+v: got %v", test, err)
		}
	}
}
