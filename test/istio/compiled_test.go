//go:build istio

package istio_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	rbachttpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	rbactcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
)

const inboundName = "virtualInbound"

// chain is what a listener does with some of its connections.
type chain struct {
	name string
	// port that they are for; 0 for those that no other chain is for.
	port uint32
	// tls says that the chain takes mutual TLS; otherwise it takes plaintext, or TLS that is not the mesh's.
	tls bool
	// http says that it sees requests.
	http bool
	// rules by name, in the order of the filters: those enforced, and those only counted.
	rules, shadow map[string]rule
	// allows says that something is enforced that lets in what one of its rules matches and nothing else.
	allows bool
	// tokens is nil where none are looked at.
	tokens *jwtv3.JwtAuthentication
}

// rule is one rule of an AuthorizationPolicy.
type rule struct {
	action rbacv3.RBAC_Action
	policy *rbacv3.Policy
}

// chains are what the proxy would do with what comes in: the sidecar's one inbound listener, or all of a gateway.
func (p proxy) chains(ctx context.Context) ([]chain, []*listenerv3.Listener, error) {
	all, err := p.listeners(ctx)
	if err != nil {
		return nil, nil, err
	}
	var inbound []*listenerv3.Listener
	for _, one := range all {
		if p.kind == "router" || one.GetName() == inboundName {
			inbound = append(inbound, one)
		}
	}
	var chains []chain
	for _, one := range inbound {
		for _, c := range one.GetFilterChains() {
			if c.GetName() == inboundName+"-blackhole" {
				continue // what is sent to the listener's own port
			}
			read, err := readChain(c)
			if err != nil {
				return nil, nil, fmt.Errorf("chain %s: %w", c.GetName(), err)
			}
			chains = append(chains, read)
		}
	}
	return chains, inbound, nil
}

func readChain(from *listenerv3.FilterChain) (chain, error) {
	c := chain{
		name: from.GetName(), port: from.GetFilterChainMatch().GetDestinationPort().GetValue(), tls: from.GetTransportSocket() != nil,
		rules: map[string]rule{}, shadow: map[string]rule{},
	}
	for _, filter := range from.GetFilters() {
		var requests hcmv3.HttpConnectionManager
		var connections rbactcpv3.RBAC
		config := filter.GetTypedConfig()
		switch {
		case config.MessageIs(&requests):
			c.http = true
			if err := config.UnmarshalTo(&requests); err != nil {
				return c, err
			}
			for _, inner := range requests.GetHttpFilters() {
				if err := c.add(inner); err != nil {
					return c, err
				}
			}
		case config.MessageIs(&connections):
			if err := config.UnmarshalTo(&connections); err != nil {
				return c, err
			}
			c.addRules(connections.GetRules(), connections.GetShadowRules())
		}
	}
	return c, nil
}

func (c *chain) add(filter *hcmv3.HttpFilter) error {
	var rules rbachttpv3.RBAC
	var tokens jwtv3.JwtAuthentication
	config := filter.GetTypedConfig()
	switch {
	case config.MessageIs(&rules):
		if err := config.UnmarshalTo(&rules); err != nil {
			return err
		}
		c.addRules(rules.GetRules(), rules.GetShadowRules())
	case config.MessageIs(&tokens):
		c.tokens = &tokens
		return config.UnmarshalTo(&tokens)
	}
	return nil
}

func (c *chain) addRules(enforced, counted *rbacv3.RBAC) {
	c.allows = c.allows || enforced != nil && enforced.GetAction() == rbacv3.RBAC_ALLOW
	for name, policy := range enforced.GetPolicies() {
		c.rules[name] = rule{action: enforced.GetAction(), policy: policy}
	}
	for name, policy := range counted.GetPolicies() {
		c.shadow[name] = rule{action: counted.GetAction(), policy: policy}
	}
}

// sees are the kinds of chains that there are for a port: "TLS HTTP", "plaintext TCP", ….
func sees(chains []chain, port uint32) []string {
	kinds := map[string]bool{}
	for _, c := range chains {
		if c.port != port {
			continue
		}
		kind := []string{"plaintext", "TCP"}
		if c.tls {
			kind[0] = "TLS"
		}
		if c.http {
			kind[1] = "HTTP"
		}
		kinds[strings.Join(kind, " ")] = true
	}
	return slices.Sorted(maps.Keys(kinds))
}

// couldMatch says whether a rule could match some connection to the port: everything but the port is taken for unknown.
func couldMatch(policy *rbacv3.Policy, port uint32) bool {
	return slices.ContainsFunc(policy.GetPermissions(), func(p *rbacv3.Permission) bool { return permits(p, port) != never }) &&
		slices.ContainsFunc(policy.GetPrincipals(), func(p *rbacv3.Principal) bool { return isNobody(p) != never })
}

// match is whether something matches.
type match int

const (
	never match = iota
	perhaps
	always
)

func permits(p *rbacv3.Permission, port uint32) match {
	switch of := p.GetRule().(type) {
	case *rbacv3.Permission_Any:
		return always
	case *rbacv3.Permission_DestinationPort:
		if of.DestinationPort == port {
			return always
		}
		return never
	case *rbacv3.Permission_NotRule:
		return always - permits(of.NotRule, port)
	case *rbacv3.Permission_AndRules:
		out := always
		for _, inner := range of.AndRules.GetRules() {
			out = min(out, permits(inner, port))
		}
		return out
	case *rbacv3.Permission_OrRules:
		out := never
		for _, inner := range of.OrRules.GetRules() {
			out = max(out, permits(inner, port))
		}
		return out
	}
	return perhaps
}

func isNobody(p *rbacv3.Principal) match {
	switch of := p.GetIdentifier().(type) {
	case *rbacv3.Principal_Any:
		return always
	case *rbacv3.Principal_NotId:
		return always - isNobody(of.NotId)
	case *rbacv3.Principal_AndIds:
		out := always
		for _, inner := range of.AndIds.GetIds() {
			out = min(out, isNobody(inner))
		}
		return out
	case *rbacv3.Principal_OrIds:
		out := never
		for _, inner := range of.OrIds.GetIds() {
			out = max(out, isNobody(inner))
		}
		return out
	}
	return perhaps
}

// acceptable says what Envoy's own rules for messages, which its API declares, have against a message or one inside it.
func acceptable(message proto.Message) error {
	if holder, ok := message.(*anypb.Any); ok {
		inner, err := holder.UnmarshalNew()
		if err != nil {
			return fmt.Errorf("%s: %w", holder.GetTypeUrl(), err)
		}
		return acceptable(inner)
	}
	var errs []error
	if checked, ok := message.(interface{ ValidateAll() error }); ok {
		errs = append(errs, checked.ValidateAll())
	}
	message.ProtoReflect().Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		errs = append(errs, acceptableField(field, value))
		return true
	})
	return errors.Join(errs...)
}

// acceptableField looks into what is inside a message for others that are packed: their rules are not its own.
func acceptableField(field protoreflect.FieldDescriptor, value protoreflect.Value) error {
	var errs []error
	switch {
	case field.IsMap():
		if field.MapValue().Message() != nil {
			value.Map().Range(func(_ protoreflect.MapKey, one protoreflect.Value) bool {
				errs = append(errs, packed(one.Message().Interface()))
				return true
			})
		}
	case field.Message() == nil:
	case field.IsList():
		for i := range value.List().Len() {
			errs = append(errs, packed(value.List().Get(i).Message().Interface()))
		}
	default:
		errs = append(errs, packed(value.Message().Interface()))
	}
	return errors.Join(errs...)
}

func packed(message proto.Message) error {
	if _, ok := message.(*anypb.Any); ok {
		return acceptable(message)
	}
	var errs []error
	message.ProtoReflect().Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		errs = append(errs, acceptableField(field, value))
		return true
	})
	return errors.Join(errs...)
}
