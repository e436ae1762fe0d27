// Package playback plays a proxy's telemetry: an HTTP server that prints, where a sidecar would, the statistics that
// Istio's proxy prints for the traffic that it is told of. It is for tests and for the demo without a real mesh; what
// real proxies print is proven on the mesh.
package playback

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// Proxy is one sidecar's telemetry endpoint.
type Proxy struct {
	mu       sync.Mutex
	started  time.Time
	counters map[string]int64
	updates  int64
	draining int64
	answer   http.HandlerFunc
	server   *http.Server
	host     string
}

// Start listens on host:port. It fails if the address is taken.
func Start(host string, port int32) (*Proxy, error) {
	listener, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(int(port))))
	if err != nil {
		return nil, fmt.Errorf("playing a proxy: %w", err)
	}
	p := &Proxy{started: time.Now(), counters: map[string]int64{}, host: host}
	p.server = &http.Server{Handler: http.HandlerFunc(p.serve), ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = p.server.Serve(listener) }()
	return p, nil
}

// Stop closes the endpoint and its connections.
func (p *Proxy) Stop() { _ = p.server.Close() }

// Host is the address that the proxy listens on.
func (p *Proxy) Host() string { return p.host }

// MutualTLS counts requests by mutual TLS from a workload.
func (p *Proxy) MutualTLS(workload, namespace string, requests int64) {
	p.count(workload, namespace, "spiffe://cluster.local/ns/"+namespace+"/sa/"+workload, "mutual_tls", requests)
}

// Plaintext counts requests in plaintext from a caller outside the mesh, whose workload nobody knows.
func (p *Proxy) Plaintext(requests int64) {
	p.count("unknown", "unknown", "unknown", "none", requests)
}

// Calls counts requests that the proxy's own workload sent to a service, by the flags that came of them: "-" for an answer,
// "UC" for a connection that the server ended.
func (p *Proxy) Calls(service, flags string, requests int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	code := "200"
	if flags != "-" {
		code = "503"
	}
	p.counters[fmt.Sprintf(`istio_requests_total{reporter="source",destination_workload="unknown",destination_service="%s",request_protocol="http",response_code="%s",response_flags="%s",connection_security_policy="unknown"}`,
		service, code, flags)] += requests
}

func (p *Proxy) count(workload, namespace, principal, policy string, requests int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counters[fmt.Sprintf(`istio_requests_total{reporter="destination",source_workload="%s",source_canonical_service="%s",source_canonical_revision="latest",source_workload_namespace="%s",source_principal="%s",source_app="%s",source_version="",source_cluster="Kubernetes",destination_workload="httpbin",destination_workload_namespace="foo",destination_principal="spiffe://cluster.local/ns/foo/sa/httpbin",destination_app="httpbin",destination_version="v1",destination_service="httpbin.foo.svc.cluster.local",destination_canonical_service="httpbin",destination_canonical_revision="v1",destination_service_name="httpbin",destination_service_namespace="foo",destination_cluster="Kubernetes",request_protocol="http",response_code="200",grpc_response_status="",response_flags="-",connection_security_policy="%s"}`,
		workload, workload, namespace, principal, workload, policy)] += requests
}

// TakeConfiguration counts a change of the listeners, as a proxy does that takes a new PeerAuthentication.
func (p *Proxy) TakeConfiguration() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.updates++
}

// Age makes the proxy's process as old as that.
func (p *Proxy) Age(age time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.started = time.Now().Add(-age)
}

// Restart is another process in the same pod: its counters start again.
func (p *Proxy) Restart() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.started, p.counters, p.updates = time.Now(), map[string]int64{}, 0
}

// Answer makes the endpoint answer with something else; nil makes it a proxy again.
func (p *Proxy) Answer(with http.HandlerFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer = with
}

func (p *Proxy) serve(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	answer := p.answer
	p.mu.Unlock()
	if answer != nil {
		answer(w, r)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=UTF-8")
	_, _ = w.Write(p.print()) // who does not read to the end has what it wanted
}

// print writes the statistics in the form of Istio's proxy.
func (p *Proxy) print() []byte {
	w := &bytes.Buffer{}
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintln(w, "# TYPE istio_requests_total counter")
	for series, count := range p.counters {
		fmt.Fprintf(w, "%s %d\n", series, count)
	}
	fmt.Fprintf(w, "# TYPE envoy_listener_manager_listener_modified counter\nenvoy_listener_manager_listener_modified{} %d\n", p.updates)
	fmt.Fprintf(w, "# TYPE envoy_listener_manager_total_filter_chains_draining gauge\nenvoy_listener_manager_total_filter_chains_draining{} %d\n", p.draining)
	fmt.Fprintf(w, "# TYPE envoy_server_uptime gauge\nenvoy_server_uptime{} %d\n", int64(time.Since(p.started).Seconds()))
	return w.Bytes()
}
