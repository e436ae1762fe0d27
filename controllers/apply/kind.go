package apply

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	networkingapi "istio.io/api/networking/v1alpha3"
	securityapi "istio.io/api/security/v1beta1"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// kind is what the writer must know of a kind of object.
type kind struct {
	name  string
	empty func() client.Object
	list  func() client.ObjectList
	// spec is the object's own, not a copy.
	spec func(client.Object) proto.Message
	// foreign names the fields of a spec that a profile cannot say.
	foreign func(client.Object) []string
	// breadth orders objects of which broad ones speak for what narrower ones are exceptions from.
	breadth func(client.Object) int
}

// same compares two specs in full.
func (k kind) same(a, b client.Object) bool { return proto.Equal(k.spec(a), k.spec(b)) }

// take gives live a copy of want's spec.
func (k kind) take(live, want client.Object) {
	into := k.spec(live)
	proto.Reset(into)
	proto.Merge(into, k.spec(want))
}

// broad says whether other objects are exceptions from this one.
func (k kind) broad(object client.Object) bool { return k.breadth(object) > 0 }

func alike(client.Object) int { return 0 }

var (
	peerKind = kind{
		breadth: alike,
		name:    PeerAuthentication,
		empty:   func() client.Object { return &securityv1.PeerAuthentication{} },
		list:    func() client.ObjectList { return &securityv1.PeerAuthenticationList{} },
		spec:    func(o client.Object) proto.Message { return &o.(*securityv1.PeerAuthentication).Spec },
		foreign: func(client.Object) []string { return nil },
	}
	ruleKind = kind{
		breadth: breadth,
		name:    DestinationRule,
		empty:   func() client.Object { return &networkingv1.DestinationRule{} },
		list:    func() client.ObjectList { return &networkingv1.DestinationRuleList{} },
		spec:    func(o client.Object) proto.Message { return &o.(*networkingv1.DestinationRule).Spec },
		foreign: func(object client.Object) []string {
			return inexpressible(&object.(*networkingv1.DestinationRule).Spec)
		},
	}
	tokenKind = kind{
		breadth: alike,
		name:    RequestAuthentication,
		empty:   func() client.Object { return &securityv1.RequestAuthentication{} },
		list:    func() client.ObjectList { return &securityv1.RequestAuthenticationList{} },
		spec:    func(o client.Object) proto.Message { return &o.(*securityv1.RequestAuthentication).Spec },
		foreign: func(object client.Object) []string {
			return inexpressibleTokens(&object.(*securityv1.RequestAuthentication).Spec)
		},
	}
	policyKind = kind{
		breadth: alike,
		name:    AuthorizationPolicy,
		empty:   func() client.Object { return &securityv1.AuthorizationPolicy{} },
		list:    func() client.ObjectList { return &securityv1.AuthorizationPolicyList{} },
		spec:    func(o client.Object) proto.Message { return &o.(*securityv1.AuthorizationPolicy).Spec },
		foreign: func(object client.Object) []string {
			return inexpressiblePolicy(&object.(*securityv1.AuthorizationPolicy).Spec)
		},
	}
)

// inexpressible names what a DestinationRule says and a profile cannot.
func inexpressible(spec *networkingapi.DestinationRule) []string {
	rest := proto.Clone(spec).(*networkingapi.DestinationRule)
	var fields []string
	policy := rest.GetTrafficPolicy()
	for i, port := range policy.GetPortLevelSettings() {
		port.Tls, port.Port = nil, nil
		if !proto.Equal(port, &networkingapi.TrafficPolicy_PortTrafficPolicy{}) {
			fields = append(fields, fmt.Sprintf("trafficPolicy.portLevelSettings[%d]", i))
		}
	}
	if policy != nil {
		policy.Tls, policy.PortLevelSettings = nil, nil
		policy.ProtoReflect().Range(named(&fields, "trafficPolicy."))
	}
	rest.Host, rest.TrafficPolicy = "", nil
	rest.ProtoReflect().Range(named(&fields, ""))
	slices.Sort(fields)
	return fields
}

func named(fields *[]string, prefix string) func(protoreflect.FieldDescriptor, protoreflect.Value) bool {
	return func(field protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		*fields = append(*fields, prefix+field.JSONName())
		return true
	}
}

// inexpressibleTokens names what a RequestAuthentication says and a profile cannot.
func inexpressibleTokens(spec *securityapi.RequestAuthentication) []string {
	var fields []string
	for i, rule := range spec.GetJwtRules() {
		if len(rule.GetSpaceDelimitedClaims()) > 0 {
			fields = append(fields, fmt.Sprintf("jwtRules[%d].spaceDelimitedClaims", i))
		}
	}
	return fields
}

// inexpressiblePolicy names what an AuthorizationPolicy says and a profile's callers cannot.
func inexpressiblePolicy(spec *securityapi.AuthorizationPolicy) []string {
	var fields []string
	note := func(there bool, format string, args ...any) {
		if there {
			fields = append(fields, fmt.Sprintf(format, args...))
		}
	}
	action := spec.GetAction()
	note(action != securityapi.AuthorizationPolicy_ALLOW && action != securityapi.AuthorizationPolicy_DENY, "action %s", action)
	note(spec.GetProvider() != nil, "provider")
	for i, rule := range spec.GetRules() {
		for j, from := range rule.GetFrom() {
			s := from.GetSource()
			not := len(s.GetNotPrincipals()) + len(s.GetNotRequestPrincipals()) + len(s.GetNotNamespaces()) +
				len(s.GetNotIpBlocks()) + len(s.GetNotRemoteIpBlocks()) + len(s.GetNotServiceAccounts())
			note(not > 0, "rules[%d].from[%d]", i, j)
		}
		for j, to := range rule.GetTo() {
			o := to.GetOperation()
			not := len(o.GetNotHosts()) + len(o.GetNotMethods()) + len(o.GetNotPaths()) + len(o.GetNotPorts())
			note(not > 0, "rules[%d].to[%d]", i, j)
		}
		for j, when := range rule.GetWhen() {
			note(len(when.GetNotValues()) > 0, "rules[%d].when[%d]", i, j)
		}
	}
	return fields
}

// breadth orders DestinationRules by how many hosts they are for: single hosts, and then wildcards, the longest first.
func breadth(object client.Object) int {
	host := object.(*networkingv1.DestinationRule).Spec.GetHost()
	if !strings.HasPrefix(host, "*") {
		return 0
	}
	return maxHost - len(host)
}

// maxHost is longer than a host can be.
const maxHost = 1 << 10
