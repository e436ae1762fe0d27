//go:build istio

package istio_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/servicesecurity/operator/test/testbed"
)

// firstPort of the listeners that Envoy reads, which need addresses of their own. It does not open them.
const firstPort = 20000

// loadable asks a real Envoy whether it would take the listeners, all at once. It is there where the mesh was built.
func loadable(ctx context.Context, t *testing.T, listeners []*listenerv3.Listener) error {
	t.Helper()
	envoy := filepath.Join("..", "..", "bin", "envoy-"+testbed.EnvoyVersion, "envoy")
	if _, err := os.Stat(envoy); err != nil {
		t.Logf("no Envoy is asked: %v; make testbed builds it", err)
		return nil
	}
	config, err := bootstrap(listeners)
	if err != nil {
		return err
	}
	path := filepath.Join(t.TempDir(), "bootstrap.json")
	if err := os.WriteFile(path, config, 0o600); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, envoy, "--mode", "validate", "-c", path, "--log-level", "error", "--disable-hot-restart").CombinedOutput()
	if err != nil {
		return fmt.Errorf("envoy does not take them: %w\n%s", err, out)
	}
	if said := strings.ReplaceAll(string(out), fmt.Sprintf("configuration '%s' OK\n", path), ""); said != "" {
		return fmt.Errorf("envoy says:\n%s", said)
	}
	return nil
}

// bootstrap is a configuration with all listeners, and with the sources of certificates and routes that they name.
func bootstrap(listeners []*listenerv3.Listener) ([]byte, error) {
	var all []json.RawMessage
	for i, from := range listeners {
		one := proto.CloneOf(from)
		one.Name = fmt.Sprintf("%s-%d", one.GetName(), i)
		one.Address.GetSocketAddress().PortSpecifier = &corev3.SocketAddress_PortValue{PortValue: uint32(firstPort + i)}
		text, err := protojson.Marshal(one)
		if err != nil {
			return nil, fmt.Errorf("writing a listener: %w", err)
		}
		all = append(all, text)
	}
	cluster := func(name string) map[string]any {
		return map[string]any{
			"name": name, "type": "STATIC", "connect_timeout": "1s", "http2_protocol_options": map[string]any{},
			"load_assignment": map[string]any{"cluster_name": name, "endpoints": []any{map[string]any{"lb_endpoints": []any{map[string]any{
				"endpoint": map[string]any{"address": map[string]any{"pipe": map[string]any{"path": name + ".sock"}}},
			}}}}},
		}
	}
	return json.Marshal(map[string]any{
		"node": map[string]any{"id": "sidecar~10.0.0.1~target.target~target.svc.cluster.local", "cluster": "target"},
		"dynamic_resources": map[string]any{"ads_config": map[string]any{
			"api_type": "GRPC", "transport_api_version": "V3",
			"grpc_services": []any{map[string]any{"envoy_grpc": map[string]any{"cluster_name": "xds-grpc"}}},
		}},
		"static_resources": map[string]any{"listeners": all, "clusters": []any{cluster("sds-grpc"), cluster("xds-grpc")}},
	})
}
