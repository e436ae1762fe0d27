package rollout

import (
	"time"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

// Decision is what must be now.
type Decision struct {
	// Form is what the profile's PeerAuthentication must say; empty if the profile wants none.
	Form facts.Form
	// Keep says that the live PeerAuthentication must be left exactly as it is, selector included.
	Keep bool
	// SwitchedAt and Previous are kept with STRICT while its verification is not over; SwitchedAt is zero otherwise.
	SwitchedAt time.Time
	Previous   facts.Form
	// RolledBack is kept on the object from a rollback until STRICT has been verified; zero otherwise.
	RolledBack facts.Rollback
	// Rules are the DestinationRules that must be there, ordered by host; others of the profile must go.
	Rules []Rule
	// Exempt are the hosts that need rules without tls beside the one for a wildcard.
	Exempt []facts.Exempt

	// Members are the decisions for single workloads of a whole namespace, ordered by name; none once it is STRICT itself.
	Members []Member
	// KeepObjects are the names of other objects for single workloads that must be left as they are.
	KeepObjects []string
	// KeepMembers says that the objects of single workloads must be left as they are.
	KeepMembers bool

	// Ripe says that the window is full and every gate is open, whatever else STRICT waits for.
	Ripe bool
	// Confirm says that every gate is open by what is known: STRICT follows if the answer is the same for facts read live
	// and a reading of the proxies taken after that.
	Confirm bool
	// Switched says that this decision is the switch to STRICT.
	Switched bool

	// What status says.

	Stage         v1alpha1.Stage
	Blockers      []v1alpha1.Blocker
	CleanSince    time.Time
	Eligible      time.Time
	LastPlaintext time.Time
	Enforced      time.Time
	NextAttempt   time.Time
	Attempts      int32
	Approval      *v1alpha1.ApprovalStatus
	// Waiting says in a sentence what happens next; empty where stage and blockers say it.
	Waiting string
	// FailedCallers are those that made a verification fail.
	FailedCallers []string
	// Skipped are the kinds of the gates that were closed at a switch without observation, each once.
	Skipped []v1alpha1.BlockerType

	// Observe says that the target's traffic must be read again after the interval.
	Observe bool
	// After is when to decide again although nothing changes; zero if never.
	After time.Duration
}

// Held is what Input.Held is after this decision was applied; before is what it was.
func (d Decision) Held(target facts.Target, before facts.Policy) facts.Policy {
	switch {
	case d.Keep:
		return before
	case d.Form.Empty():
		return facts.Policy{}
	}
	return facts.Policy{
		Exists: true, Owned: true, Form: d.Form, Selector: target.Selector, SwitchedAt: d.SwitchedAt, Previous: d.Previous,
		RolledBack: d.RolledBack,
	}
}

// Rule is a DestinationRule that must be there.
type Rule struct {
	Host facts.Host
	TLS  facts.TLS
	// Ports that differ, by Service port, in the order of the Service. None is unset: a port is left to auto-mTLS by a rule without
	// tls that does not list it.
	Ports []RulePort
}

// RulePort is a Service port whose clients do something else.
type RulePort struct {
	Port int32
	TLS  facts.TLS
}
