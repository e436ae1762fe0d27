package sidecar

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// filter selects the statistics that are read. Envoy matches it anywhere in a statistic's own name, in which the tags are
// still: istiocustom.istio_requests_total.response_code.200.reporter.source.…, http.inbound_0.0.0.0_8000;.downstream_cx_total.
//
// A proxy may have thousands of series of what its own application sends. RE2 cannot say "not source", so the filter spells
// out the first tag, or the second after response_code: anything that does not begin as reporter.source does.
//
// There is no usedonly beside it. It would save a kilobyte, and hide the zeros that tell a proxy that exposes its connection
// statistics, and has seen no TLS yet, from one that does not expose them.
const filter = `istio_(?:requests|re(?:quest|sponse)_messages|tcp_(?:connections_(?:opened|closed)|(?:received|sent)_bytes))_total` +
	`(?:$|\.(?:` + notSource + `|res[^p]|resp[^o]|response_[^c]|response_code(?:\.=)?\.[^.]*(?:$|\.(?:` + notSource + `|res))))` +
	`|^http\.(?:inbound_|InboundPassthroughCluster).*\.downstream_cx_(?:ssl_)?(?:total|active)$` +
	`|^listener_manager\.(?:listener_(?:modified|in_place_updated)|total_(?:listeners|filter_chains)_draining)$` +
	`|^server\.uptime$`

// notSource begins a tag that is neither reporter with the value source nor response_code.
const notSource = `reporter(?:\.=)?\.(?:[^s=]|s[^o])|[^r]|r[^e]|re[^ps]|rep[^o]`

var query = asks(filter)

// asks is the request for the statistics that a filter selects.
func asks(filter string) string { return "/stats/prometheus?filter=" + url.QueryEscape(filter) }

// scraper reads proxies.
type scraper struct {
	client  *http.Client
	port    int32
	timeout time.Duration
	maxBody int64
}

// scrape reads one proxy.
func (s *scraper) scrape(ctx context.Context, address string) (*counters, error) {
	body, err := s.get(ctx, address, query)
	if err != nil {
		return nil, err
	}
	return parse(body)
}

// get asks one proxy. The error is in words for a person, without anything that changes from one try to the next.
func (s *scraper) get(ctx context.Context, address, query string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	return s.fetch(ctx, "http://"+net.JoinHostPort(address, strconv.Itoa(int(s.port)))+query)
}

func (s *scraper) fetch(ctx context.Context, address string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, fmt.Errorf("its address is not one: %w", err)
	}
	request.Header.Set("Accept", "text/plain;version=0.0.4")
	response, err := s.client.Do(request)
	if err != nil {
		return nil, unreachable{s.words(err)}
	}
	defer response.Body.Close() //nolint:errcheck // nothing was written
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answered %d %s", response.StatusCode, http.StatusText(response.StatusCode))
	}
	if strings.HasPrefix(response.Header.Get("Content-Type"), "text/html") {
		return nil, errHTML
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, s.maxBody+1))
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, fmt.Errorf("its answer did not end within %s", s.timeout)
	case err != nil:
		return nil, fmt.Errorf("its answer broke off: %w", s.words(err))
	}
	if int64(len(body)) > s.maxBody {
		return nil, fmt.Errorf("its answer is longer than %d bytes", s.maxBody)
	}
	return body, nil
}

// words drops the addresses and ports from a network error: they change, and the message goes into status.
func (s *scraper) words(err error) error {
	var errno syscall.Errno
	var timeout net.Error
	var op *net.OpError
	switch {
	case errors.As(err, &errno):
		return errno
	case errors.Is(err, context.Canceled):
		return context.Canceled
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("no answer within %s", s.timeout)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the connection was closed")
	case errors.As(err, &op):
		return op.Err
	}
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}

// newTransport is for many hosts that are called seldom: one idle connection each, kept beyond the interval.
func newTransport(timeout, interval time.Duration) *http.Transport {
	return &http.Transport{
		Proxy:                  nil, // pods are called directly, whatever the environment says
		DialContext:            (&net.Dialer{Timeout: timeout}).DialContext,
		MaxIdleConnsPerHost:    1,
		IdleConnTimeout:        3 * interval,
		ResponseHeaderTimeout:  timeout,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true, // a compressed body of any size would be read as one of this size
	}
}
