//go:build istio

package istio_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	// What else listeners have in them, to be read.
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_stats/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/http_inspector/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/path/match/uri_template/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/request_id/uuid/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/servicesecurity/operator/test/testbed"
)

const (
	listenerType = "type.googleapis.com/envoy.config.listener.v3.Listener"
	// biggest is more than the listeners of any profile take.
	biggest = 64 << 20
)

// proxy is whom istiod takes a connection for.
type proxy struct {
	// kind is sidecar or router.
	kind            string
	namespace, name string
	address         string
	labels          map[string]string
}

// targets counts them, so that each has a name and an address of its own.
var targets atomic.Uint32

func newProxy() proxy {
	n := targets.Add(1)
	return proxy{
		kind: "sidecar", namespace: fmt.Sprintf("target-%d", n), name: "target", labels: map[string]string{"app": "target"},
		address: netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}).String(),
	}
}

func (p proxy) node() (*corev3.Node, error) {
	labels := map[string]any{}
	for key, value := range p.labels {
		labels[key] = value
	}
	metadata, err := structpb.NewStruct(map[string]any{
		"NAMESPACE": p.namespace, "LABELS": labels, "CLUSTER_ID": "Kubernetes", "ISTIO_VERSION": testbed.IstioVersion,
		"SERVICE_ACCOUNT": "default", "INTERCEPTION_MODE": "REDIRECT", "INSTANCE_IPS": p.address, "MESH_ID": "cluster.local",
	})
	if err != nil {
		return nil, fmt.Errorf("making the node's metadata: %w", err)
	}
	id := fmt.Sprintf("%s~%s~%s.%s~%s.svc.cluster.local", p.kind, p.address, p.name, p.namespace, p.namespace)
	return &corev3.Node{Id: id, Cluster: p.name + "." + p.namespace, Metadata: metadata}, nil
}

// listeners are what istiod gives the proxy now.
func (p proxy) listeners(ctx context.Context) ([]*listenerv3.Listener, error) {
	return ask[listenerv3.Listener](ctx, p, listenerType)
}

// ask is what istiod tells the proxy now of things of one type; of endpoints it tells those of the clusters that are named.
func ask[T any, P interface {
	*T
	proto.Message
}](ctx context.Context, p proxy, typeURL string, names ...string) (_ []P, err error) {
	node, err := p.node()
	if err != nil {
		return nil, err
	}
	connection, err := grpc.NewClient(istiod.XDSAddress(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(biggest)))
	if err != nil {
		return nil, fmt.Errorf("connecting to istiod: %w", err)
	}
	defer func() { err = errors.Join(err, connection.Close()) }()
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(connection).StreamAggregatedResources(ctx)
	if err != nil {
		return nil, fmt.Errorf("opening a stream: %w", err)
	}
	if err := stream.Send(&discoveryv3.DiscoveryRequest{Node: node, TypeUrl: typeURL, ResourceNames: names}); err != nil {
		return nil, fmt.Errorf("asking for %s: %w", typeURL, err)
	}
	answer, err := stream.Recv()
	if err != nil {
		return nil, fmt.Errorf("receiving %s: %w", typeURL, err)
	}
	var all []P
	for _, resource := range answer.GetResources() {
		one := P(new(T))
		if err := resource.UnmarshalTo(one); err != nil {
			return nil, fmt.Errorf("reading %s: %w", typeURL, err)
		}
		all = append(all, one)
	}
	return all, nil
}
