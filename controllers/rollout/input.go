package rollout

import (
	"fmt"
	"regexp"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/traffic"
)

// Input is everything that a decision depends on.
type Input struct {
	Spec     Spec
	Facts    facts.Facts
	Seen     traffic.Observation
	Previous Previous
	// Held is the profile's own PeerAuthentication as this process last wrote it, whatever became of it since: STRICT that
	// someone else weakens or deletes is restored from it. It is kept in memory only, and never read from status, which
	// anyone may have edited: zero after a restart, before a write that changes it, and when there is none. See
	// Decision.Held.
	Held facts.Policy
	// Hold says why STRICT must not be written now, although nothing of the target itself may stand in the way; empty if it
	// may be.
	Hold string
	// Baseline is what each proxy's listener counters were just before STRICT was written, by pod UID; nil if not known.
	Baseline map[string]traffic.Reading
	// FailingCallers are callers that worked before the switch and now fail at connection level.
	FailingCallers []string

	Now time.Time
	// Interval between observations.
	Interval time.Duration
	// Settle is how long clients are given to take a change of their side.
	Settle time.Duration
}

// Spec is what a profile asks of mutual TLS, with defaults applied.
type Spec struct {
	// UID and generation of the profile.
	UID        string
	Generation int64
	// Asked is the mode that is asked for, with its port exceptions; empty if the profile has no mtls section.
	Asked facts.Form

	DestinationRule    v1alpha1.DestinationRulePolicy
	Strategy           v1alpha1.Strategy
	ObservationWindow  time.Duration
	VerificationWindow time.Duration
	MinRequests        int64
	Rollback           v1alpha1.RollbackPolicy
	Approval           v1alpha1.ApprovalPolicy
	Suspend            bool
	// MaxConcurrent is how many workloads of a whole namespace may be verified at once.
	MaxConcurrent int32
	// Member says that it is for one workload of a whole namespace, whose profile can have no exceptions by port.
	Member bool
	// Approved is the token that the profile's approve annotation carries.
	Approved string
	// DeniesIdentities says that deniedCallers name identities, which plaintext does not have.
	DeniesIdentities bool
}

// Previous is what status kept of the decision before.
type Previous struct {
	Generation    int64
	Stage         v1alpha1.Stage
	Inherited     v1alpha1.Mode
	CleanSince    time.Time
	LastPlaintext time.Time
	Enforced      time.Time
	NextAttempt   time.Time
	Attempts      int32
	Approval      v1alpha1.ApprovalStatus
	// NotRequested says that the spec did not ask for STRICT.
	NotRequested bool
	// Unobserved says that a part of the target took traffic that no proxy counts; see Unobserved.
	Unobserved bool
}

// Undecided says that the profile was decided for before, and then not any more: it was not accepted, or another one was.
func (p Previous) Undecided() bool { return p.Stage == "" && p.Inherited != "" }

// PreviousOf reads what status kept.
func PreviousOf(status v1alpha1.ServiceSecurityProfileStatus) Previous {
	out := Previous{Generation: status.ObservedGeneration, NotRequested: slices.ContainsFunc(status.Conditions, func(c metav1.Condition) bool {
		return c.Type == v1alpha1.ConditionMutualTLSEnforced && c.Reason == v1alpha1.ReasonNotRequested
	})}
	mtls := status.MTLS
	if mtls == nil {
		return out
	}
	out.Stage, out.Inherited, out.Attempts = mtls.Stage, mtls.InheritedMode, mtls.Attempts
	out.CleanSince, out.LastPlaintext = instant(mtls.CleanSinceTime), instant(mtls.LastPlaintextTime)
	out.Enforced, out.NextAttempt = instant(mtls.EnforcedTime), instant(mtls.NextAttemptTime)
	out.Unobserved = Unobserved(mtls.Blockers)
	if mtls.Approval != nil {
		out.Approval = *mtls.Approval
	}
	return out
}

func instant(t *metav1.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.Time
}

// The bounds of the windows, as the CRD has them.
const (
	maxObservationWindow  = 8760 * time.Hour
	maxVerificationWindow = 168 * time.Hour
)

// SpecOf reads a profile's mtls section. It fails on a duration that the CRD would not have let pass.
func SpecOf(profile *v1alpha1.ServiceSecurityProfile) (Spec, error) {
	spec := Spec{
		UID:              string(profile.UID),
		Generation:       profile.Generation,
		Approved:         profile.Annotations[v1alpha1.AnnotationApprove],
		DeniesIdentities: deniesIdentities(profile.Spec.Authorization),
	}
	mtls := profile.Spec.MTLS
	if mtls == nil {
		return spec, nil
	}
	spec.Asked.Mode = mtls.Mode
	for _, p := range mtls.PortLevel {
		if spec.Asked.Ports == nil {
			spec.Asked.Ports = map[int32]v1alpha1.Mode{}
		}
		spec.Asked.Ports[p.Port] = p.Mode
	}
	spec.DestinationRule = or(mtls.DestinationRule, v1alpha1.DestinationRuleAuto)
	rollout := mtls.Rollout
	if rollout == nil {
		rollout = &v1alpha1.Rollout{}
	}
	spec.Strategy = or(rollout.Strategy, v1alpha1.DefaultStrategy)
	spec.Rollback = or(rollout.Rollback, v1alpha1.DefaultRollback)
	spec.Approval = or(rollout.Approval, v1alpha1.DefaultApproval)
	spec.Suspend = rollout.Suspend != nil && *rollout.Suspend
	spec.MaxConcurrent = v1alpha1.DefaultMaxConcurrent
	if rollout.MaxConcurrent != nil {
		spec.MaxConcurrent = *rollout.MaxConcurrent
	}
	spec.MinRequests = v1alpha1.DefaultMinRequests
	if rollout.MinRequests != nil {
		spec.MinRequests = *rollout.MinRequests
	}
	var err error
	if spec.ObservationWindow, err = duration("observationWindow", or(rollout.ObservationWindow, v1alpha1.DefaultObservationWindow), time.Millisecond, maxObservationWindow); err != nil {
		return Spec{}, err
	}
	if spec.VerificationWindow, err = duration("verificationWindow", or(rollout.VerificationWindow, v1alpha1.DefaultVerificationWindow), 0, maxVerificationWindow); err != nil {
		return Spec{}, err
	}
	return spec, nil
}

// durationForm is the CRD's.
var durationForm = regexp.MustCompile(`^([0-9]{1,5}(h|m|s|ms)){1,4}$`)

func duration(field string, text v1alpha1.Duration, least, most time.Duration) (time.Duration, error) {
	d, err := time.ParseDuration(string(text))
	if err != nil {
		return 0, fmt.Errorf("parsing %s: %w", field, err)
	}
	if !durationForm.MatchString(string(text)) || d < least || d > most {
		return 0, fmt.Errorf("parsing %s: %q is not a duration between %s and %s, such as 24h, 10m or 1h30m", field, text, least, most)
	}
	return d, nil
}

func deniesIdentities(authorization *v1alpha1.Authorization) bool {
	if authorization == nil {
		return false
	}
	return slices.ContainsFunc(authorization.DeniedCallers, func(c v1alpha1.Caller) bool {
		return len(c.ServiceAccounts)+len(c.Namespaces)+len(c.Principals) > 0
	})
}

// AsksStrict says whether STRICT is asked for on any port.
func (s Spec) AsksStrict() bool {
	if s.Asked.Mode == v1alpha1.ModeStrict {
		return true
	}
	for _, mode := range s.Asked.Ports {
		if mode == v1alpha1.ModeStrict {
			return true
		}
	}
	return false
}

// StrictPorts are the workload ports on which STRICT is asked for, and so on which plaintext matters.
func (s Spec) StrictPorts() traffic.PortSet { return s.TurnedStrict(facts.Form{}) }

// TurnedStrict are those of them that were not STRICT in a form before.
func (s Spec) TurnedStrict(before facts.Form) traffic.PortSet {
	turned := func(port int32) bool {
		return s.Asked.At(port) == v1alpha1.ModeStrict && before.At(port) != v1alpha1.ModeStrict
	}
	set := traffic.PortSet{Except: turned(0)}
	for _, port := range reach(Input{Spec: s}, before)[1:] {
		if turned(port) != set.Except {
			set.Ports = append(set.Ports, port)
		}
	}
	return set
}

func or[T ~string](value, fallback T) T {
	if value == "" {
		return fallback
	}
	return value
}
