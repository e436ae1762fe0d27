// Package facts holds what the cluster says about a profile and its target: types only. It is filled by resolve and read
// by the pure packages.
package facts

import (
	"maps"
	"slices"
	"time"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

// Facts is everything that one reconcile knows of the cluster.
type Facts struct {
	// Live says that the facts were read from the API server itself, not from a cache that may lag.
	Live bool

	Mesh   Mesh
	Target Target

	// Problem is why the profile cannot be accepted; nil if it can.
	Problem *Problem
	// Conflicts are the sections that an older profile has, in the order mtls, jwt, authorization. If nothing graver is
	// wrong, the first of them is the Problem.
	Conflicts []Conflict
	// Handover are the sections that the profile does not set any more, and a younger one of the same target does, whose
	// objects are not in the cluster yet: the profile's own stay that long.
	Handover []v1alpha1.Section

	// Pods of the target that are not finished, ordered by namespace and name. For the mesh they are those with a part in
	// it, and those that would get one if they were made anew; all others are outside on purpose.
	Pods []Pod
	// Hosts that clients call to reach the target, ordered by name. A whole namespace and the mesh have none, but may have a
	// Wildcard.
	Hosts []Host
	// Wildcard is what clients of a whole namespace or the mesh call; nil where no rule of theirs is needed.
	Wildcard *Wildcard

	// Policy is the live PeerAuthentication of the profile's name.
	Policy Policy
	// Rules are the live DestinationRules that the profile owns or whose names it needs, ordered by name.
	Rules []Rule
	// UnchangedFor is how long the operator has seen the profile's own objects as they are now.
	UnchangedFor time.Duration

	// Effective is the weakest mode in force over the target's pods and ports without an exception; empty without pods
	// and parents to tell it from.
	Effective v1alpha1.Mode
	// Inherited is the mode that would be in force without the profile's own object, from the namespace or the mesh.
	Inherited v1alpha1.Mode
	// InheritedFrom names the object that Inherited comes from, "namespace/name"; empty for Istio's default.
	InheritedFrom string

	// What stands in the way of STRICT. Each is ordered, and empty when nothing does. WorkloadEntries, RemoteClusters,
	// SidecarIngress, ServiceEntries, TelemetryOverrides, Uncounted and ScheduledJobs are told only while Strict is on its way.

	// RollingOut are the workloads with a rollout of pods in flight; for the mesh as "namespace/name".
	RollingOut []string
	// WorkloadEntries that match the target, "namespace/name".
	WorkloadEntries []string
	// RemoteClusters whose pods cannot be listed.
	RemoteClusters []string
	// SidecarIngress are Sidecar resources that terminate TLS for the target, "namespace/name".
	SidecarIngress []string
	// ClientRules are DestinationRules of anyone that match a host of the target. For a whole namespace and the mesh they are
	// only those that break callers.
	ClientRules []ClientRule
	// ServiceEntries that make clients send plaintext, "namespace/name".
	ServiceEntries []string
	// Overrides are narrower PeerAuthentications, "namespace/name", that make a part of a whole namespace or the mesh weaker
	// than the profile asks: exceptions, meant or not.
	Overrides []string
	// CompetingPolicies are PeerAuthentications of the same scope that match a target pod.
	CompetingPolicies []CompetingPolicy
	// TelemetryOverrides are Telemetry objects that disable or retag the metrics used, "namespace/name".
	TelemetryOverrides []string
	// Uncounted says that istiod does not make all of the target's proxies count what plaintext is told from: neither the mesh
	// configuration nor a Telemetry names a provider of metrics.
	Uncounted bool
	// RemoteClustersHidden says that it cannot be told whether there are RemoteClusters.
	RemoteClustersHidden bool
	// IdentityDenials are AuthorizationPolicies of anyone else, "namespace/name", that keep callers out by their identity: they
	// would get in by plaintext. They are told while Strict is on its way or being verified.
	IdentityDenials []string
	// ScheduledJobs may call the target, and run less often than once in the observation window.
	ScheduledJobs []ScheduledJob

	// UnmappedPorts are ports of mtls.portLevel that no Service maps.
	UnmappedPorts []int32

	// What tokens and callers depend on.

	// Ports are the workload ports of the target that Services map, ordered by number. Of a port that several Services map,
	// or several workloads of a namespace have, Protocol is ProtocolTCP only if all of them declare it so.
	Ports []WorkloadPort
	// ForeignTokens are RequestAuthentications of anyone else that match a target pod: Istio adds their issuers to the
	// profile's.
	ForeignTokens []ForeignTokens
	// ForeignPolicies are AuthorizationPolicies of anyone else, of whatever scope, that match a target pod.
	ForeignPolicies []ForeignPolicy
	// MissingServiceAccounts that callers name, "namespace/name", and MissingNamespaces.
	MissingServiceAccounts, MissingNamespaces []string
	// Gateways are the gateway workloads that a Namespace or Mesh target reaches, "namespace/name".
	Gateways []string
}

// Actionable says whether something may be written: the profile is accepted, or only some of its sections are not.
func (f Facts) Actionable() bool {
	return f.Problem == nil || f.Problem.Reason == v1alpha1.ReasonConflicted
}

// InheritedMode is what would be in force without the profile's own object: Inherited, or Istio's default.
func (f Facts) InheritedMode() v1alpha1.Mode {
	if f.Inherited == "" {
		return v1alpha1.ModePermissive
	}
	return f.Inherited
}

// PlaintextInherited says that auto-mTLS makes clients of the target's Services send plaintext: it goes by the PeerAuthentication
// of the Service's namespace or the mesh alone, and leaves mutual TLS out where that is DISABLE, whatever one for the workload says.
func (f Facts) PlaintextInherited() bool {
	return f.Target.Scope == v1alpha1.ScopeWorkload && f.Inherited == v1alpha1.ModeDisabled
}

// Verifying says that STRICT is being verified, by the object or, where somebody has edited that, by the profile's status.
func (f Facts) Verifying(profile *v1alpha1.ServiceSecurityProfile) bool {
	mtls := profile.Status.MTLS
	return !f.Policy.SwitchedAt.IsZero() || mtls != nil && mtls.Stage == v1alpha1.StageVerifying
}

// InForce is what is in force for the target's ports: by the live PeerAuthentication of the profile's name, if it speaks for
// these pods, and what they inherit where it says nothing. Whose object it is makes no difference.
func (f Facts) InForce() Form {
	inherited := f.InheritedMode()
	if !f.Policy.Exists || !maps.Equal(f.Policy.Selector, f.Target.Selector) {
		return Form{Mode: inherited}
	}
	own := f.Policy.Form
	if own.Mode == "" {
		own.Mode = inherited
	}
	own.Ports = maps.Clone(own.Ports)
	for port, mode := range own.Ports {
		if mode == "" {
			own.Ports[port] = own.Mode
		}
	}
	return own
}

// Lost says whether the section is not acted upon, because an older profile has it.
func (f Facts) Lost(section v1alpha1.Section) bool {
	return f.Problem != nil && f.Problem.Section == section ||
		slices.ContainsFunc(f.Conflicts, func(c Conflict) bool { return c.Section == section })
}

// RequestSection is the section by which a profile says something of requests: jwt or, without that, authorization.
func RequestSection(profile *v1alpha1.ServiceSecurityProfile) v1alpha1.Section {
	if profile.Spec.JWT == nil {
		return v1alpha1.SectionAuthorization
	}
	return v1alpha1.SectionJWT
}

// Conflict is a section that an older profile of the same scope sets for some of the same pods, or jwt with other tokens
// at another scope.
type Conflict struct {
	Problem
	// WinnerAsks is what the winner asks of mutual TLS, if it is about that.
	WinnerAsks v1alpha1.Mode
	// WinnerLive says that the winner's objects for the section are in the cluster for every pod of the target and, for
	// mutual TLS, no weaker than the profile's own: these can go without weakening anything.
	WinnerLive bool
}

// Member is a workload of a whole namespace that gets STRICT by an object of its own, before the namespace does.
type Member struct {
	// Name of the workload; of several that no selector tells apart, all of them, with "+" between them.
	Name string
	// Profile is the namespace's as if it were for this workload, with the name of the workload's object and what status
	// kept of its rollout.
	Profile *v1alpha1.ServiceSecurityProfile
	// Facts of the workload.
	Facts Facts
	// Covered says that for every pod there is a policy of somebody else's with a mode, for single workloads.
	Covered bool
	// Unselectable says that no labels tell the workload's pods from those of others, so that it can have no object.
	Unselectable bool
}

// MemberObject is a PeerAuthentication that the profile of a whole namespace has for single workloads.
type MemberObject struct {
	Name string
	// Workloads are the names of the members whose pods it selects; none if these have no pods now.
	Workloads []string
	// Part says that it does not select all pods of one of them, which shares its labels with another since.
	Part bool
}

// Protocol is what Istio takes a port to speak.
type Protocol string

// The protocols, as far as policies care.
const (
	// ProtocolHTTP: Istio reads requests, so every condition can hold.
	ProtocolHTTP Protocol = "HTTP"
	// ProtocolTCP: Istio sees connections only. An ALLOW rule with a condition about requests never matches there, and a
	// DENY rule loses the condition.
	ProtocolTCP Protocol = "TCP"
	// ProtocolUndeclared: the proxy finds out per connection, and applies both kinds of rules.
	ProtocolUndeclared Protocol = "Undeclared"
)

// WorkloadPort is a port that the target's pods listen on.
type WorkloadPort struct {
	Port     int32
	Protocol Protocol
}

// ForeignTokens is a RequestAuthentication of someone else.
type ForeignTokens struct {
	Namespace, Name string
	// Issuers that it accepts, ordered.
	Issuers []string
}

// ForeignPolicy is an AuthorizationPolicy of someone else.
type ForeignPolicy struct {
	Namespace, Name string
	// Action is ALLOW, DENY, AUDIT or CUSTOM.
	Action string
	// DryRun says that it is not in force.
	DryRun bool
}

// Mesh is what the mesh's configuration says.
type Mesh struct {
	// PeerAuthentications says whether the API server knows that kind; the others likewise.
	PeerAuthentications, DestinationRules, RequestAuthentications, AuthorizationPolicies bool
	// RootNamespace of the mesh.
	RootNamespace string
	// TrustDomain of the mesh.
	TrustDomain string
	// AutoMTLS says whether clients choose mutual TLS per endpoint.
	AutoMTLS bool
	// PrivateRules says that a DestinationRule without exportTo is for clients of its own namespace only.
	PrivateRules bool
}

// Target is what the profile's target resolves to.
type Target struct {
	Scope v1alpha1.Scope
	// Selector of the pods, as the Service's or the profile's labels. Empty for a whole namespace or mesh, and for a Gateway.
	Selector map[string]string
	// Gateway is the name of the Gateway (gateway.networking.k8s.io) that policies attach to; empty for other targets.
	Gateway string
}

// Problem is why a profile is not accepted.
type Problem struct {
	// Reason of Accepted=False.
	Reason string
	// Section that it is about; empty for the whole profile.
	Section v1alpha1.Section
	// Message names the object and the remedy.
	Message string
}

// Membership is how a pod takes part in the mesh.
type Membership string

// The memberships. Only Sidecar can take STRICT.
const (
	// MemberSidecar: an Envoy sidecar that takes mutual TLS.
	MemberSidecar Membership = "Sidecar"
	// MemberNone: no sidecar container.
	MemberNone Membership = "None"
	// MemberAmbient: redirected to ztunnel.
	MemberAmbient Membership = "Ambient"
	// MemberProxyless: gRPC with xDS in the application.
	MemberProxyless Membership = "Proxyless"
	// MemberTLSDisabled: the label security.istio.io/tlsMode is not istio, so auto-mTLS makes clients send plaintext.
	MemberTLSDisabled Membership = "TLSDisabled"
	// MemberNoInterception: inbound traffic is not redirected to the proxy.
	MemberNoInterception Membership = "NoInterception"
)

// Pod is a target pod.
type Pod struct {
	Namespace, Name string
	// UID of the pod object.
	UID string
	// IP of the pod; empty before it has one.
	IP string
	// Workload as istiod names it: the Deployment, StatefulSet, … that controls the pod, or the pod.
	Workload string
	// Created is the pod's creation time.
	Created time.Time
	// Restarts of the istio-proxy container.
	Restarts int32
	Ready    bool
	// Terminating says that deletion has started.
	Terminating bool
	Membership  Membership
	// Excepted says that a narrower PeerAuthentication decides for the pod, whatever the mesh's says: what it takes is not
	// the mesh's to switch.
	Excepted bool
	// Secured says that a narrower PeerAuthentication, of a profile that follows the mesh, made the pod STRICT before the
	// mesh's did.
	Secured bool
	// Gateway says that the pod is a gateway: its Envoy enforces tokens and callers, and no PeerAuthentication governs its
	// listeners.
	Gateway bool
	// ExcludedPorts are inbound ports that bypass the proxy, as the annotation or its absence says it.
	ExcludedPorts []string
	// ExcludedStrict are those of them that are to be STRICT.
	ExcludedStrict []string
	// Refused says on which ports the pod refuses plaintext by the policies of anyone else: STRICT there, and PERMISSIVE elsewhere. It
	// is empty if on none, and told only while Strict is on its way.
	Refused Form
	// UnrewrittenProbes are container names whose HTTP, TCP or gRPC probes, or HTTP hooks, reach a port that is to be STRICT
	// through the proxy in plaintext.
	UnrewrittenProbes []string
	// StatsEviction is how long a series has to stand still before the pod's proxy may drop it; zero if it drops none.
	StatsEviction time.Duration
}

// Host is a name that clients call.
type Host struct {
	// Name is the FQDN.
	Name string
	// Service in the profile's namespace.
	Service string
	// Headless says that the Service has no cluster IP.
	Headless bool
	// Ports of the Service.
	Ports []ServicePort
	// UnmeshedEndpoints are ready endpoints without a sidecar, by pod name.
	UnmeshedEndpoints []string
	// Endpoints counts the ready endpoints.
	Endpoints int
}

// Wildcard stands for all hosts of a namespace or of the mesh.
type Wildcard struct {
	// Host is the wildcard, such as "*.foo.svc.cluster.local" or "*.local".
	Host string
	// Exempt are the hosts under it that must be left to auto-mTLS, ordered by name: nobody there takes mutual TLS, or not
	// everybody.
	Exempt []Exempt
}

// Exempt is a host, or a narrower wildcard, that a Wildcard must not cover.
type Exempt struct {
	Host string
	// Name is a DNS label that is unique among the Wildcard's and stays the same.
	Name string
}

// ServicePort is a port of a Service.
type ServicePort struct {
	// Port of the Service.
	Port int32
	// TargetPort is the workload port; 0 if it could not be resolved.
	TargetPort int32
	// OtherTargets are the numbers that more pods have for a target port that the Service gives by its name.
	OtherTargets []int32
	Name         string
}

// Targets are all workload ports that the Service's port leads to.
func (p ServicePort) Targets() []int32 { return append([]int32{p.TargetPort}, p.OtherTargets...) }

// Policy is the live PeerAuthentication of the profile's name.
type Policy struct {
	Exists bool
	// Owned says that the profile controls it.
	Owned bool
	// Former says that it has the name that the target had before.
	Former bool
	// Version is its resourceVersion.
	Version string
	// Form is what it says; its mode is empty if unset.
	Form Form
	// Selector is its selector's labels.
	Selector map[string]string
	// SwitchedAt is the time of the switch to STRICT while verification is not over; zero otherwise.
	SwitchedAt time.Time
	// Previous is what a rollback returns to; empty if not known.
	Previous Form
	// RolledBack is the last rollback, until STRICT has passed its verification; zero without one.
	RolledBack Rollback
}

// TLS is what a DestinationRule makes clients do.
type TLS string

// What clients do.
const (
	// TLSUnset leaves it to auto-mTLS.
	TLSUnset TLS = ""
	// TLSMutual is ISTIO_MUTUAL.
	TLSMutual TLS = "ISTIO_MUTUAL"
	// TLSDisable is DISABLE.
	TLSDisable TLS = "DISABLE"
)

// Rule is a live DestinationRule of a name that the profile needs.
type Rule struct {
	Name string
	// Owned says that the profile controls it.
	Owned bool
	Host  string
	TLS   TLS
	// Ports of the Service for which the rule has a tls of their own.
	Ports map[int32]TLS
}

// ClientRule is a DestinationRule of someone else that matches a host of the target.
type ClientRule struct {
	Namespace, Name string
	// Host is the host of the target that it matches.
	Host string
	// TLS is the mode that breaks callers under STRICT, such as DISABLE or SIMPLE; empty if it breaks none.
	TLS string
	// Where says at which part of the rule: "trafficPolicy", "trafficPolicy.portLevelSettings[9080]", "subset v1".
	Where string
}

// CompetingPolicy is another PeerAuthentication of the same scope.
type CompetingPolicy struct {
	Namespace, Name string
	// Pod is one of the pods that it matches.
	Pod string
	// Wins says that it is older than the profile's own object, or that there is none: Istio then ignores the profile's.
	Wins bool
}

// ScheduledJob is a CronJob.
type ScheduledJob struct {
	Namespace, Name string
	// Gap is the longest time between two of its runs.
	Gap time.Duration
}
