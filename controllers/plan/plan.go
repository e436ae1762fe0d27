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

// Intent is what a profile wants the cluster to hold. What it does not list, and the profile owns, must go.
type Intent struct {
	// Namespace of all objects, the profile's.
	Namespace string
	// Peer is the server's side; nil for none.
	Peer *Peer
	// KeepPeer says that the server's side must be left exactly as it is.
	KeepPeer bool
	// Clients are the clients' side, ordered by name.
	Clients []Client
}

// Peer is what a workload accepts.
type Peer struct {
	Name string
	// Selector of the pods.
	Selector map[string]string
	Form     facts.Form
	// SwitchedAt and Previous are noted on the object while its verification is not over.
	SwitchedAt time.Time
	Previous   facts.Form
	// AfterClients says that it must outlive the client side when the profile is deleted.
	AfterClients bool
}

// Client is what clients of a host do.
type Client struct {
	Name string
	Host string
	TLS  facts.TLS
	// Ports that differ, by Service port, ordered.
	Ports []rollout.RulePort
}

// Build says what the profile wants, given what was decided.
func Build(profile *v1alpha1.ServiceSecurityProfile, f facts.Facts, d rollout.Decision) Intent {
	intent := Intent{Namespace: profile.Namespace, KeepPeer: d.Keep}
	for _, rule := range d.Rules {
		intent.Clients = append(intent.Clients, Client{
			Name: facts.RuleName(profile.Name, profile.Spec.Target.Kind, rule.Host.Service),
			Host: rule.Host.Name, TLS: rule.TLS, Ports: slices.Clone(rule.Ports),
		})
	}
	slices.SortFunc(intent.Clients, func(a, b Client) int { return strings.Compare(a.Name, b.Name) })
	if d.Form.Empty() || d.Keep {
		return intent
	}
	intent.Peer = &Peer{
		Name: profile.Name, Selector: maps.Clone(f.Target.Selector), Form: d.Form,
		SwitchedAt: d.SwitchedAt, Previous: d.Previous,
		AfterClients: d.Form.Mode == v1alpha1.ModeDisabled && len(intent.Clients) > 0,
	}
	return intent
}
