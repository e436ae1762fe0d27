//go:build linux

package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// eager is the pace at which a probe that has not succeeded yet is tried, so that a bed does not wait out periods that
// are meant for production. Failures count at the probe's own pace.
const eager = 200 * time.Millisecond

// watchProbe runs a probe until ctx ends and reports each change of its verdict, with nothing reported before the first success or the first counted failure.
func (u *unit) watchProbe(ctx context.Context, probe *corev1.Probe, report func(ok bool)) {
	if !pause(ctx, seconds(probe.InitialDelaySeconds, 0)) {
		return
	}
	period := seconds(probe.PeriodSeconds, 10)
	var ok, known bool
	var good, bad int32
	counted := time.Now()
	for {
		err := u.try(ctx, probe)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			good, bad = good+1, 0
		} else {
			good = 0
			if ok || time.Since(counted) >= period {
				bad, counted = bad+1, time.Now()
			}
		}
		switch {
		case good >= max(1, probe.SuccessThreshold) && (!ok || !known):
			ok, known = true, true
			report(true)
		case bad >= atLeast(probe.FailureThreshold, 3) && (ok || !known):
			ok, known = false, true
			report(false)
		}
		next := period
		if !ok {
			next = min(eager, period)
		}
		if !pause(ctx, next) {
			return
		}
	}
}

func (u *unit) try(ctx context.Context, probe *corev1.Probe) error {
	ctx, cancel := context.WithTimeout(ctx, seconds(probe.TimeoutSeconds, 1))
	defer cancel()
	switch {
	case probe.HTTPGet != nil:
		return u.tryHTTP(ctx, probe.HTTPGet)
	case probe.TCPSocket != nil:
		port, err := u.port(probe.TCPSocket.Port)
		if err != nil {
			return err
		}
		host := probe.TCPSocket.Host
		if host == "" {
			host = u.worker.net.Address
		}
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(host, port))
		if err != nil {
			return fmt.Errorf("connecting: %w", err)
		}
		return conn.Close()
	case probe.Exec != nil:
		result, err := u.exec(ctx, false, probe.Exec.Command...)
		if err == nil && result.ExitCode != 0 {
			err = fmt.Errorf("running the probe: exit code %d", result.ExitCode)
		}
		return err
	}
	return errors.New("probing: its kind is not supported here")
}

func (u *unit) tryHTTP(ctx context.Context, get *corev1.HTTPGetAction) error {
	port, err := u.port(get.Port)
	if err != nil {
		return err
	}
	host := get.Host
	if host == "" {
		host = u.worker.net.Address
	}
	scheme := "http"
	if get.Scheme == corev1.URISchemeHTTPS {
		scheme = "https"
	}
	path := get.Path
	if path == "" || path[0] != '/' {
		path = "/" + path
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+net.JoinHostPort(host, port)+path, nil)
	if err != nil {
		return fmt.Errorf("making the probe's request: %w", err)
	}
	for _, h := range get.HTTPHeaders {
		request.Header.Add(h.Name, h.Value)
	}
	response, err := probeClient.Do(request)
	if err != nil {
		return fmt.Errorf("asking: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode < 200 || response.StatusCode >= 400 {
		return fmt.Errorf("asking: %s", response.Status)
	}
	return nil
}

// probeClient does as a kubelet does: it follows no redirect, keeps no connection and verifies no certificate.
var probeClient = &http.Client{
	Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, // as a kubelet's probes
	},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

func (u *unit) port(port intstr.IntOrString) (string, error) {
	if port.Type == intstr.Int {
		return strconv.Itoa(port.IntValue()), nil
	}
	for _, p := range u.spec.Ports {
		if p.Name == port.StrVal {
			return strconv.Itoa(int(p.ContainerPort)), nil
		}
	}
	return "", fmt.Errorf("finding port %s: the container has none of that name", port.StrVal)
}

func seconds(n int32, fallback int32) time.Duration {
	if n == 0 {
		n = fallback
	}
	return time.Duration(n) * time.Second
}

func atLeast(n, fallback int32) int32 {
	if n < 1 {
		return fallback
	}
	return n
}

// pause waits, or returns false when ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
