package promql

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/api"
	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
)

// client asks one server.
type client struct {
	api     v1.API
	timeout time.Duration
}

func newClient(options Options, timeout time.Duration, most int64) (*client, error) {
	address := options.URL
	u, err := url.Parse(address)
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading --prometheus-url: %w", err)
	case u.Scheme != "http" && u.Scheme != "https", u.Host == "":
		return nil, fmt.Errorf("reading --prometheus-url: %q is not the address of a server, such as http://prometheus.monitoring:9090", address)
	case u.User != nil, u.RawQuery != "", u.Fragment != "":
		return nil, errors.New("reading --prometheus-url: it has credentials, a query or a fragment; credentials go into --prometheus-config-file")
	}
	transport := options.Transport
	if transport == nil {
		if transport, err = newTransport(options.ConfigFile); err != nil {
			return nil, err
		}
	}
	c, err := api.NewClient(api.Config{Address: address, Client: &http.Client{
		Transport: &bound{next: transport, most: most},
		// Credentials are for this server, not for whoever it names.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}})
	if err != nil {
		return nil, fmt.Errorf("reading --prometheus-url: %w", err)
	}
	return &client{api: v1.NewAPI(c), timeout: timeout}, nil
}

// query asks once. Without a time the server takes its own.
func (c *client) query(ctx context.Context, query string, at time.Time) (model.Value, []string, error) {
	value, warnings, err := c.api.Query(ctx, query, at, v1.WithTimeout(c.timeout))
	if err != nil {
		return nil, warnings, words(err)
	}
	return value, warnings, nil
}

// words says what went wrong without what changes from one try to the next.
func words(err error) error {
	var answer *v1.Error
	var network *url.Error
	switch {
	case errors.Is(err, errTooLong):
		return overtaxed{errTooLong}
	case errors.Is(err, context.DeadlineExceeded):
		return overtaxed{errors.New("it did not answer in time")} // of the poll, or of whoever asked
	case errors.As(err, &answer) && answer.Type == v1.ErrBadResponse:
		return fmt.Errorf("its answer is not that of Prometheus' query API (%s)", clip(answer.Msg))
	case errors.As(err, &answer):
		refused := fmt.Errorf("it refused the query: %s (%s)", clip(answer.Msg), answer.Type)
		switch answer.Type {
		case v1.ErrExec, v1.ErrTimeout, v1.ErrCanceled, v1.ErrServer:
			return overtaxed{refused}
		}
		return refused
	case errors.As(err, &network):
		return fmt.Errorf("it cannot be reached: %s", clip(network.Err.Error()))
	}
	return fmt.Errorf("its answer cannot be read: %s", clip(err.Error()))
}

// overtaxed is a failure that the server may not have with a smaller question: of its limits, or of ours.
type overtaxed struct{ error }

// clip keeps a server's words short, and on one line.
func clip(s string) string {
	const most = 200
	runes := []rune(strings.Join(strings.Fields(s), " "))
	if len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return string(runes)
}

var errTooLong = errors.New("its answer is longer than the operator takes")

// bound breaks off answers that are too long.
type bound struct {
	next http.RoundTripper
	most int64
}

func (b *bound) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := b.next.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	response.Body = &limited{ReadCloser: response.Body, left: b.most}
	return response, nil
}

type limited struct {
	io.ReadCloser
	left int64
}

func (l *limited) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, errTooLong
	}
	if int64(len(p)) > l.left {
		p = p[:l.left]
	}
	n, err := l.ReadCloser.Read(p)
	l.left -= int64(n)
	return n, err
}

// transport reads the client's configuration anew when its file changes. Files that the configuration names are read by
// Prometheus' own library for each request, or when they change.
type transport struct {
	file string

	mu      sync.Mutex
	content []byte
	next    http.RoundTripper
}

func newTransport(file string) (http.RoundTripper, error) {
	t := &transport{file: file}
	if file == "" {
		next, err := config.NewRoundTripperFromConfig(config.DefaultHTTPClientConfig, "prometheus")
		if err != nil {
			return nil, fmt.Errorf("setting up the Prometheus client: %w", err)
		}
		return next, nil
	}
	if _, err := t.current(); err != nil {
		return nil, fmt.Errorf("reading --prometheus-config-file: %w", err)
	}
	return t, nil
}

func (t *transport) RoundTrip(request *http.Request) (*http.Response, error) {
	next, err := t.current()
	if err != nil {
		if request.Body != nil {
			_ = request.Body.Close()
		}
		return nil, fmt.Errorf("reading the client configuration: %w", err)
	}
	return next.RoundTrip(request)
}

// current makes a new client when the file says something new. One that is no longer valid is an error, not a reason to go
// on with credentials that someone took back.
func (t *transport) current() (http.RoundTripper, error) {
	content, err := os.ReadFile(t.file)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.next != nil && bytes.Equal(content, t.content) {
		return t.next, nil
	}
	cfg, _, err := config.LoadHTTPConfigFile(t.file)
	if err != nil {
		return nil, redact(err)
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	next, err := config.NewRoundTripperFromConfig(*cfg, "prometheus")
	if err != nil {
		return nil, err
	}
	if old, ok := t.next.(interface{ CloseIdleConnections() }); ok {
		old.CloseIdleConnections()
	}
	t.content, t.next = content, next
	return next, nil
}

// redact drops what the YAML parser quotes of the file, which may be a credential.
func redact(err error) error {
	lines := strings.Split(err.Error(), "\n")
	for i, line := range lines {
		if at := strings.Index(line, "`"); at >= 0 {
			lines[i] = line[:at] + "…"
		}
	}
	return errors.New(strings.Join(lines, " "))
}
