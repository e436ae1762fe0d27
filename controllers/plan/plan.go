// Package plan turns a decision into an intent: which objects must be there and what they must say, in terms that are not
// Istio's. It is pure.
package plan

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/rollout"
)

// Intent is what a profile wants the cluster to hold. What it does not list, and the profile owns, must go, unless its
// section is kept.
type Intent struct {
	// Namespace of all objects, the profile's.
	Namespace string
	// TrustDomain of the mesh, which service accounts are identities of.
	TrustDomain string
	// Keep are the sections whose objects must be left exactly as they are.
	Keep []v1alpha1.Section
	// KeepPeer says so of the server's side alone.
	KeepPeer bool
	// Loosens says that the server's side becomes weaker than what is in force, because the profile says so.
	Loosens bool
	// Peer is the server's side; nil for none.
	Peer *Peer
	// Members are single workloads of a whole namespace that go before it, ordered by name.
	Members []Peer
	// KeepMembers are the names of those whose objects must be left exactly as they are, and KeepAllMembers says so of all.
	KeepMembers    []string
	KeepAllMembers bool
	// Clients are the clients' side, ordered by name.
	Clients []Client
	// Tokens are those that are accepted; nil for no say in it.
	Tokens *Tokens
	// Policies say who may call, ordered by name.
	Policies []Policy
}

// Keeps says whether a section's objects are left as they are.
func (i Intent) Keeps(section v1alpha1.Section) bool { return slices.Contains(i.Keep, section) }

// Attachment says which proxies something is for: those of the pods with the labels, those of the Gateway, or, with
// neither, those of the whole namespace, or mesh.
type Attachment struct {
	Selector map[string]string
	// Gateway is the name of a Gateway of gateway.networking.k8s.io.
	Gateway string
}

// Peer is what a workload accepts.
type Peer struct {
	Name string
	// Selector of the pods; empty for a whole namespace or mesh.
	Selector map[string]string
	Form     facts.Form
	// SwitchedAt and Previous are noted on the object while its verification is not over, and RolledBack until one has passed.
	SwitchedAt time.Time
	Previous   facts.Form
	RolledBack facts.Rollback
	// AfterClients says that it must outlive the client side when the profile is deleted.
	AfterClients bool
}

// Client is what clients of a host do.
type Client struct {
	Name string
	Host string
	// TLS of all ports that are not among Ports; unset leaves them to auto-mTLS.
	TLS facts.TLS
	// Ports that differ, by Service port, ordered. None of them is unset: a rule with tls cannot leave a port to auto-mTLS.
	Ports []rollout.RulePort
	// Export says that it is said to clients of all namespaces, where the mesh would keep it to its own.
	Export bool
}

// Build says what the profile wants, given what was decided.
func Build(profile *v1alpha1.ServiceSecurityProfile, f facts.Facts, d rollout.Decision) Intent {
	intent := Intent{Namespace: profile.Namespace, TrustDomain: f.Mesh.TrustDomain, KeepPeer: d.Keep}
	lost := map[v1alpha1.Section]bool{}
	for _, conflict := range f.Conflicts {
		lost[conflict.Section] = true
		if !conflict.WinnerLive {
			intent.Keep = append(intent.Keep, conflict.Section)
		}
	}
	intent.Keep = append(intent.Keep, f.Handover...)
	if !lost[v1alpha1.SectionMTLS] {
		intent.mutualTLS(profile, f, d)
	}
	if !lost[v1alpha1.SectionJWT] {
		intent.tokens(profile, f)
	}
	if !lost[v1alpha1.SectionAuthorization] {
		intent.callers(profile, f)
	}
	slices.SortFunc(intent.Policies, func(a, b Policy) int { return strings.Compare(a.Name, b.Name) })
	return intent
}

func (i *Intent) mutualTLS(profile *v1alpha1.ServiceSecurityProfile, f facts.Facts, d rollout.Decision) {
	for _, rule := range d.Rules {
		i.Clients = append(i.Clients, Client{
			Name: facts.RuleName(profile.Name, profile.Spec.Target.Kind, rule.Host.Service),
			Host: rule.Host.Name, TLS: rule.TLS, Ports: slices.Clone(rule.Ports), Export: f.Mesh.PrivateRules,
		})
	}
	for _, host := range d.Exempt {
		i.Clients = append(i.Clients, Client{
			Name: facts.RuleName(profile.Name, profile.Spec.Target.Kind, host.Name), Host: host.Host, Export: f.Mesh.PrivateRules,
		})
	}
	slices.SortFunc(i.Clients, func(a, b Client) int { return strings.Compare(a.Name, b.Name) })
	i.Loosens = loosens(f, d)
	i.members(d)
	if d.Form.Empty() || d.Keep {
		return
	}
	i.Peer = &Peer{
		Name: facts.PeerName(profile), Selector: maps.Clone(f.Target.Selector), Form: d.Form,
		SwitchedAt: d.SwitchedAt, Previous: d.Previous, RolledBack: d.RolledBack,
		AfterClients: d.Form.Mode == v1alpha1.ModeDisabled && len(i.Clients) > 0,
	}
}

// loosens says whether the decision is to be weaker than what is in force. The way back from a failed verification is none
// of the profile's wishes, and must not wait.
func loosens(f facts.Facts, d rollout.Decision) bool {
	if d.Keep || d.Stage == v1alpha1.StageRolledBack {
		return false
	}
	then := d.Form
	if then.Empty() {
		then.Mode = f.InheritedMode()
	}
	return !then.NoWeaker(f.InForce())
}

func attachment(f facts.Facts) Attachment {
	if f.Target.Gateway != "" {
		return Attachment{Gateway: f.Target.Gateway}
	}
	return Attachment{Selector: maps.Clone(f.Target.Selector)}
}
