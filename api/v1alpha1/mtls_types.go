package v1alpha1

// Mode is a mutual-TLS mode, as in Istio's PeerAuthentication.
//
// +kubebuilder:validation:Enum=Strict;Permissive;Disabled
type Mode string

// The modes.
const (
	// ModeStrict accepts mutual TLS only (Istio: STRICT).
	ModeStrict Mode = "Strict"
	// ModePermissive accepts both mutual TLS and plaintext (Istio: PERMISSIVE).
	ModePermissive Mode = "Permissive"
	// ModeDisabled accepts plaintext only (Istio: DISABLE).
	ModeDisabled Mode = "Disabled"
)

// DestinationRulePolicy says whether the client side gets a DestinationRule.
//
// +kubebuilder:validation:Enum=Auto;Always;Never
type DestinationRulePolicy string

// The DestinationRule policies.
const (
	// DestinationRuleAuto writes a rule only where it is needed or cannot harm.
	DestinationRuleAuto DestinationRulePolicy = "Auto"
	// DestinationRuleAlways writes it whatever the endpoints are; one outside
	// the mesh is then never reached again.
	DestinationRuleAlways DestinationRulePolicy = "Always"
	// DestinationRuleNever writes none.
	DestinationRuleNever DestinationRulePolicy = "Never"
)

// Strategy is how Strict is reached.
//
// +kubebuilder:validation:Enum=Staged;Immediate
type Strategy string

// The strategies.
const (
	// StrategyStaged switches when the observed traffic shows that no plaintext
	// caller is left.
	StrategyStaged Strategy = "Staged"
	// StrategyImmediate switches at once.
	StrategyImmediate Strategy = "Immediate"
)

// RollbackPolicy is what happens when verification fails after the switch.
//
// +kubebuilder:validation:Enum=Automatic;Never
type RollbackPolicy string

// The rollback policies.
const (
	// RollbackAutomatic returns to what was in force before.
	RollbackAutomatic RollbackPolicy = "Automatic"
	// RollbackNever stays Strict and reports.
	RollbackNever RollbackPolicy = "Never"
)

// ApprovalPolicy is who lets the switch happen once nothing stands in its
// way.
//
// +kubebuilder:validation:Enum=Automatic;Manual
type ApprovalPolicy string

// The approval policies.
const (
	// ApprovalAutomatic switches without asking.
	ApprovalAutomatic ApprovalPolicy = "Automatic"
	// ApprovalManual waits for the annotation servicesecurity.dev/approve.
	ApprovalManual ApprovalPolicy = "Manual"
)

// The values that a rollout has where the profile does not say otherwise.
// They are the schema's defaults inside rollout, and what holds when a
// profile that asks for Strict has no rollout at all.
const (
	DefaultStrategy                    = StrategyStaged
	DefaultObservationWindow  Duration = "24h"
	DefaultMinRequests        int64    = 1
	DefaultVerificationWindow Duration = "10m"
	DefaultRollback                    = RollbackAutomatic
	DefaultApproval                    = ApprovalAutomatic
	DefaultSuspend                     = false
	// DefaultMaxConcurrent holds for target kind Namespace and is not written
	// into the profile.
	DefaultMaxConcurrent int32 = 5
)

// Duration is a length of time in Gateway API's form (GEP-2257), such as
// 24h, 10m, 1h30m or 500ms.
//
// +kubebuilder:validation:MaxLength=32
// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$')",message="write a duration such as 24h, 10m, 1h30m or 500ms: up to four whole numbers of at most five digits, each with its unit h, m, s or ms, and no sign"
type Duration string

// MTLS asks for a mutual-TLS mode.
//
// +kubebuilder:validation:XValidation:rule="!has(self.portLevel) || self.portLevel.all(p, p.mode != self.mode)",message="a port exception must have another mode than mtls.mode: remove the entry, or change its mode",fieldPath=".portLevel"
type MTLS struct {
	// mode is the mutual-TLS mode that is asked for. Strict accepts mutual TLS
	// only, and is reached as rollout says. Permissive accepts mutual TLS and
	// plaintext. Disabled accepts plaintext only. Permissive and Disabled are
	// reached without a rollout.
	// +required
	Mode Mode `json:"mode"`

	// portLevel holds exceptions for single ports. A Strict port under mode
	// Permissive or Disabled is rolled out like mode Strict. Target kinds
	// Namespace and Mesh cannot have exceptions. At most 16.
	// +optional
	// +listType=map
	// +listMapKey=port
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	PortLevel []PortMTLS `json:"portLevel,omitempty"`

	// destinationRule says whether clients are told by a DestinationRule to use
	// mutual TLS. Auto, the default, leaves it to Istio's auto-mTLS, which
	// decides for each endpoint, and writes a rule only where one is needed or
	// cannot harm. Always writes it whatever the endpoints are: one without a
	// sidecar is then never reached again. Never writes none.
	// +optional
	// +kubebuilder:default=Auto
	DestinationRule DestinationRulePolicy `json:"destinationRule,omitempty"`

	// rollout says how Strict is reached. It is idle where neither mode nor a
	// port is Strict. A profile that asks for Strict and has no rollout gets
	// every default below: Staged, with an observation window of 24h.
	// +optional
	Rollout *Rollout `json:"rollout,omitempty"`
}

// PortMTLS is the mutual-TLS mode of one workload port.
type PortMTLS struct {
	// port is the port that the container listens on (1 to 65535), not the port
	// of a Service.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port"`

	// mode is the mode of this port: Strict, Permissive or Disabled. It must
	// differ from mtls.mode.
	// +required
	Mode Mode `json:"mode"`
}

// Rollout is how Strict is reached.
//
// +kubebuilder:validation:XValidation:rule="self.strategy != 'Immediate' || self.approval != 'Manual'",message="strategy Immediate waits for nobody: remove approval, or set strategy to Staged",fieldPath=".approval"
type Rollout struct {
	// strategy says when the switch to STRICT is made. Staged, the default,
	// keeps PERMISSIVE and switches when the traffic that the target's own
	// proxies report shows that no plaintext caller is left. Immediate switches
	// at once, refuses the plaintext callers that remain, and ignores the
	// observation and verification settings.
	// +optional
	// +kubebuilder:default=Staged
	Strategy Strategy `json:"strategy,omitempty"`

	// observationWindow is how long plaintext must have been absent, under
	// complete observation, before the switch. The default is 24h, the most is
	// 8760h. Make it longer than the period of the rarest caller: a job that
	// runs each night needs more than 24h. The operator refuses a window shorter
	// than three of its observation intervals.
	// +optional
	// +kubebuilder:default="24h"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') || (duration(self) > duration('0s') && duration(self) <= duration('8760h'))",message="observationWindow must be longer than 0s and at most 8760h (a year), for example 24h; to switch without observation set strategy to Immediate"
	ObservationWindow Duration `json:"observationWindow,omitempty"`

	// minRequests is how many requests or connections by mutual TLS must have
	// been seen within the observation window, so that silence is not taken for
	// proof. The default is 1, the most is 1000000000. 0 lets an idle workload
	// switch.
	// +optional
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000000000
	MinRequests *int64 `json:"minRequests,omitempty"`

	// verificationWindow is how long callers are watched after the switch. The
	// default is 10m, the most is 168h. 0s turns verification off.
	// +optional
	// +kubebuilder:default="10m"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') || duration(self) <= duration('168h')",message="verificationWindow must be at most 168h (a week), for example 10m; 0s turns verification off"
	VerificationWindow Duration `json:"verificationWindow,omitempty"`

	// rollback says what happens when callers fail within the verification
	// window. Automatic, the default, returns to what was in force before and
	// tries again later, unless callers are denied by their identity, whom
	// plaintext would let in: the warning RollbackWithheld says so. Never stays
	// STRICT and reports.
	// +optional
	// +kubebuilder:default=Automatic
	Rollback RollbackPolicy `json:"rollback,omitempty"`

	// approval says who lets the switch happen once nothing stands in its way.
	// Automatic, the default, asks nobody. Manual waits at stage
	// AwaitingApproval until the profile has the annotation
	// servicesecurity.dev/approve with the value of status.mtls.approval.token.
	// Manual needs strategy Staged.
	// +optional
	// +kubebuilder:default=Automatic
	Approval ApprovalPolicy `json:"approval,omitempty"`

	// suspend holds the switch to STRICT, and new attempts after a rollback,
	// while it is true. Observation, rollback and the repair of drifted objects
	// go on. The default is false.
	// +optional
	// +kubebuilder:default=false
	Suspend *bool `json:"suspend,omitempty"`

	// maxConcurrent is how many workloads of a Namespace may be under
	// verification at once, from 1 to 100. Without it 5 may. It is not allowed
	// for other kinds of target.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	MaxConcurrent *int32 `json:"maxConcurrent,omitempty"`
}
