// Package resolve reads from a cluster what is to be known of a profile and its target, and returns it as facts.Facts. It
// reads and never writes; what it makes of what it read is told by pure functions.
package resolve

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

// DefaultClusterDomain is the cluster's DNS domain unless it was set otherwise. It is not the trust domain.
const DefaultClusterDomain = "cluster.local"

// Resolver reads facts. Its fields are set once; it may be used concurrently.
type Resolver struct {
	// Reader is the manager's cache, with the indexes of Index.
	Reader client.Reader
	// LiveReader reads from the API server itself; only Live needs it.
	LiveReader client.Reader
	// RootNamespace is where Istio's mesh configuration is, and the mesh's root namespace where it names no other.
	RootNamespace string
	// ClusterDomain is the cluster's DNS domain; DefaultClusterDomain if empty.
	ClusterDomain string
	// Installed says whether the API server serves one of the kinds that may be absent, and for a cache, that it is
	// indexed. If it is nil, or says so of a kind that is gone, the reader's answer is believed.
	Installed func(schema.GroupVersionKind) bool

	live bool
	// member says that the profile is a whole namespace's, made to be about one of its workloads.
	member bool
	// shared is what the resolutions of a namespace's workloads read together.
	shared *source
}

// Live returns a Resolver that reads from the API server instead of a cache that may lag, and says so in its facts. It
// needs no indexes, so it costs a list of each kind: it is for the moment before a switch.
func (r *Resolver) Live() *Resolver {
	live := *r
	live.live = true
	return &live
}

func (r *Resolver) source() *source {
	if r.shared != nil {
		return r.shared
	}
	s := &source{reader: r.Reader, live: r.live, installed: r.Installed, absent: map[schema.GroupVersionKind]bool{}}
	if r.live {
		s.reader = r.LiveReader
	}
	return s
}

func (r *Resolver) clusterDomain() string {
	if r.ClusterDomain == "" {
		return DefaultClusterDomain
	}
	return r.ClusterDomain
}

// resolution is one call of Resolve: what was asked, what is known so far, and what only the next steps need.
type resolution struct {
	*source
	resolver *Resolver
	profile  *v1alpha1.ServiceSecurityProfile
	facts    facts.Facts

	// revision of the control plane that the profile's namespace asks for; empty for the default one.
	revision string
	// misplaced says that the profile is for the mesh, and not in a root namespace.
	misplaced bool
	// gateway is the Gateway that is the target.
	gateway *Gateway
	// pods of the target.
	pods []*corev1.Pod
	// excepted are those for which a narrower policy than the mesh's decides.
	excepted map[*corev1.Pod]bool
	// everyPod is every pod of the target's namespace or, for the mesh, of the cluster, that is not finished. It is not
	// needed for other targets.
	everyPod []*corev1.Pod
	// services select a target pod, or are the target; for a whole namespace or the mesh they are all there are.
	services []*corev1.Service
	// endpoints are the pods of each of these Services.
	endpoints map[types.NamespacedName][]*corev1.Pod
	// rivals are the profiles that are in conflict with this one, winners and losers, by UID.
	rivals map[types.UID]bool
	// exceptions by port are those of a workload's own profile, where the resolution is a whole namespace's of that workload.
	exceptions []v1alpha1.PortMTLS
	// meshes are the mesh configurations of the pods' revisions, as they are written.
	meshes []string
	// tokenRivals are those in conflict about tokens.
	tokenRivals map[types.UID]bool
}

// Resolve reads what is to be known of a profile. It fails only for what may pass, such as an API server that does not
// answer; what the profile's author has to mend is the facts' Problem, and the rest of the facts is filled in
// nevertheless, as far as it can be told.
func (r *Resolver) Resolve(ctx context.Context, profile *v1alpha1.ServiceSecurityProfile) (facts.Facts, error) {
	res := &resolution{source: r.source(), resolver: r, profile: profile, facts: facts.Facts{Live: r.live}}
	steps := []func(context.Context) error{
		res.resolveTarget,
		res.resolvePods,
		res.resolveMesh,
		res.resolveReach,
		res.resolveHosts,
		res.resolvePorts,
		res.resolveProtocols,
		res.resolveConflicts,
		res.resolvePolicies,
		res.resolveRollingOut,
		res.resolveWildcard,
		res.resolveRules,
		res.resolveForeign,
		res.resolveCallers,
		res.resolveRollout,
		res.resolveDenials,
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return facts.Facts{}, err
		}
	}
	res.facts.Mesh.PeerAuthentications = res.has(PeerAuthenticationKind)
	res.facts.Mesh.DestinationRules = res.has(DestinationRuleKind)
	res.facts.Mesh.RequestAuthentications = res.has(RequestAuthenticationKind)
	res.facts.Mesh.AuthorizationPolicies = res.has(AuthorizationPolicyKind)
	return res.facts, nil
}

// problem notes why the profile is not accepted. The first one counts: what comes later may only follow from it.
func (res *resolution) problem(reason string, section v1alpha1.Section, message string) {
	if res.facts.Problem == nil {
		res.facts.Problem = &facts.Problem{Reason: reason, Section: section, Message: message}
	}
}
