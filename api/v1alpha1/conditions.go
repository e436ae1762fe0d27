package v1alpha1

// The condition types. All of them are always present.
const (
	// ConditionAccepted says whether the spec is understood, its target resolves and nothing conflicts.
	//
	// Reasons when True: Accepted. When False: TargetNotFound, Conflicted, Invalid, Unsupported, AffectsGateways. While not
	// accepted nothing is written and nothing removed.
	ConditionAccepted = "Accepted"

	// ConditionProgrammed says whether the objects in the cluster are exactly what the profile asks now.
	//
	// Reasons when True: Programmed. When False: ForeignObject, IstioNotInstalled, UnsupportedByIstio, ApplyFailed,
	// NotAccepted. When Unknown: Settling, for the seconds between two writes of which the second rests on the first.
	ConditionProgrammed = "Programmed"

	// ConditionTrafficObserved says whether the telemetry of the target is complete enough to conclude from.
	//
	// Reasons when True: TrafficObserved. When False: SourceUnavailable, Incomplete, NoTelemetry, NoTraffic. When Unknown:
	// NotNeeded, NotAccepted.
	ConditionTrafficObserved = "TrafficObserved"

	// ConditionPlaintextFree says whether no plaintext was seen in the observation window.
	//
	// Reasons when True: PlaintextFree. When False: PlaintextSeen, PlaintextRefused. When Unknown: NotNeeded, NotAccepted,
	// and the reasons of TrafficObserved.
	ConditionPlaintextFree = "PlaintextFree"

	// ConditionMutualTLSEnforced says whether STRICT is in force on every port without an exception.
	//
	// Reasons when True: MutualTLSEnforced, Verifying. When False: Observing, Blocked, AwaitingApproval, RolledBack, Verifying,
	// PodsNotInMesh (none of the pods is), Overridden (of a namespace or the mesh: narrower policies are weaker),
	// NotRequested, NotAccepted, and the reasons of Programmed while STRICT was weakened by someone and cannot be written
	// again.
	ConditionMutualTLSEnforced = "MutualTLSEnforced"

	// ConditionAuthorizationEnforced says whether the callers are enforced on every target pod.
	//
	// Reasons when True: AuthorizationEnforced. When False: DryRun, PodsNotInMesh, PortsExcluded, NotRequested, NotAccepted,
	// Settling, and the reasons of Programmed while the policies cannot be written.
	ConditionAuthorizationEnforced = "AuthorizationEnforced"

	// ConditionReady says whether all is accepted and programmed, and nothing waits for a person.
	//
	// Reasons when True: Ready. When False: the first reason that needs a person.
	ConditionReady = "Ready"
)

// ConditionTypes are all condition types, in the order in which they read best.
var ConditionTypes = []string{
	ConditionAccepted, ConditionProgrammed, ConditionTrafficObserved, ConditionPlaintextFree,
	ConditionMutualTLSEnforced, ConditionAuthorizationEnforced, ConditionReady,
}

// The reasons of Accepted=False.
const (
	ReasonTargetNotFound  = "TargetNotFound"
	ReasonConflicted      = "Conflicted"
	ReasonInvalid         = "Invalid"
	ReasonUnsupported     = "Unsupported"
	ReasonAffectsGateways = "AffectsGateways"
)

// The reasons of Programmed=False.
const (
	ReasonForeignObject      = "ForeignObject"
	ReasonIstioNotInstalled  = "IstioNotInstalled"
	ReasonUnsupportedByIstio = "UnsupportedByIstio"
	ReasonApplyFailed        = "ApplyFailed"
)

// ReasonSettling is why Programmed is Unknown.
const ReasonSettling = "Settling"

// The reasons of TrafficObserved and PlaintextFree when they are not True.
const (
	ReasonSourceUnavailable = "SourceUnavailable"
	ReasonIncomplete        = "Incomplete"
	ReasonNoTelemetry       = "NoTelemetry"
	ReasonNoTraffic         = "NoTraffic"
	ReasonPlaintextSeen     = "PlaintextSeen"
	ReasonPlaintextRefused  = "PlaintextRefused"
	ReasonNotNeeded         = "NotNeeded"
)

// Reasons of several conditions.
const (
	ReasonNotAccepted   = "NotAccepted"
	ReasonNotRequested  = "NotRequested"
	ReasonPodsNotInMesh = "PodsNotInMesh"
	ReasonDryRun        = "DryRun"
	ReasonOverridden    = "Overridden"
)
