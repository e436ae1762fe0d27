package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ServiceSecurityProfileStatus is what is in force, and what stands in the
// way of what is asked.
type ServiceSecurityProfileStatus struct {
	// observedGeneration is the generation of the spec that this status speaks
	// of.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// conditions are always all of these: Accepted, Programmed, TrafficObserved,
	// PlaintextFree, MutualTLSEnforced, AuthorizationEnforced and Ready.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=16
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// scope is the reach of the profile in Istio's terms, which decides
	// precedence: Workload goes before Namespace, and Namespace before Mesh.
	// +optional
	Scope Scope `json:"scope,omitempty"`

	// target is the kind and name of what the profile secures, such as
	// Service/reviews.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Target string `json:"target,omitempty"`

	// pods counts the target's pods.
	// +optional
	Pods *PodCount `json:"pods,omitempty"`

	// mtls says which mutual-TLS mode is in force, how far the rollout to STRICT
	// is, and what holds it.
	// +optional
	MTLS *MTLSStatus `json:"mtls,omitempty"`

	// authorization says what a dry run of the callers has counted. Absent
	// unless enforcement is DryRun.
	// +optional
	Authorization *AuthorizationStatus `json:"authorization,omitempty"`

	// resources are the Istio objects that the profile owns, in its own
	// namespace.
	// +optional
	// +listType=map
	// +listMapKey=kind
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=256
	Resources []ResourceRef `json:"resources,omitempty"`

	// warnings are what works but should be known. They never change Ready. At
	// most 16.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	Warnings []Warning `json:"warnings,omitempty"`
}

// PodCount counts the target's pods.
type PodCount struct {
	// total is the number of pods that the target selects and that are not
	// finished.
	// +required
	Total int32 `json:"total"`

	// inMesh is the number of those pods that have an Envoy sidecar.
	// +required
	InMesh int32 `json:"inMesh"`
}

// Stage is how far the rollout to STRICT is.
//
// +kubebuilder:validation:Enum=Observing;Blocked;AwaitingApproval;Verifying;Enforced;RolledBack
type Stage string

// The stages.
const (
	// StageObserving: no gate is closed, and the plaintext-free stretch is
	// shorter than the observation window, or the switch waits for something
	// that the condition MutualTLSEnforced names, such as suspend.
	StageObserving Stage = "Observing"
	// StageBlocked: at least one gate is closed.
	StageBlocked Stage = "Blocked"
	// StageAwaitingApproval: nothing but a person's approval is missing.
	StageAwaitingApproval Stage = "AwaitingApproval"
	// StageVerifying: STRICT is written, and the callers are watched.
	StageVerifying Stage = "Verifying"
	// StageEnforced: STRICT is in force for good.
	StageEnforced Stage = "Enforced"
	// StageRolledBack: verification failed, and what was in force before is in
	// force again.
	StageRolledBack Stage = "RolledBack"
)

// MTLSStatus is how mutual TLS stands.
type MTLSStatus struct {
	// effectiveMode is the weakest mode that is in force over the target's pods
	// and ports without an exception, wherever it comes from.
	// +optional
	EffectiveMode Mode `json:"effectiveMode,omitempty"`

	// inheritedMode is the mode that would be in force without the profile, from
	// the namespace, the mesh or Istio's default. While the profile is not
	// accepted it is what it was before.
	// +optional
	InheritedMode Mode `json:"inheritedMode,omitempty"`

	// stage is how far the rollout to STRICT is. It is absent unless Strict is
	// asked for.
	// +optional
	Stage Stage `json:"stage,omitempty"`

	// cleanSinceTime is the start of the present plaintext-free, fully observed
	// stretch.
	// +optional
	CleanSinceTime *metav1.Time `json:"cleanSinceTime,omitempty"`

	// eligibleTime is the earliest time of the switch to STRICT if it stays
	// clean.
	// +optional
	EligibleTime *metav1.Time `json:"eligibleTime,omitempty"`

	// lastPlaintextTime is when plaintext was last seen.
	// +optional
	LastPlaintextTime *metav1.Time `json:"lastPlaintextTime,omitempty"`

	// enforcedTime is when STRICT was written, or first found in force where
	// the parent turned STRICT or status missed the switch.
	// +optional
	EnforcedTime *metav1.Time `json:"enforcedTime,omitempty"`

	// nextAttemptTime is when the next attempt starts after a rollback.
	// +optional
	NextAttemptTime *metav1.Time `json:"nextAttemptTime,omitempty"`

	// attempts is the number of attempts that ended in a rollback since the spec
	// last changed.
	// +optional
	Attempts int32 `json:"attempts,omitempty"`

	// approval is what Manual approval approves.
	// +optional
	Approval *ApprovalStatus `json:"approval,omitempty"`

	// plaintextCallers are the callers that still send plaintext and must be
	// fixed, worst first. At most 20.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=20
	PlaintextCallers []PlaintextCaller `json:"plaintextCallers,omitempty"`

	// blockers are everything that holds the switch to STRICT, not only the
	// first. At most 32.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	Blockers []Blocker `json:"blockers,omitempty"`

	// workloads counts the workloads of a Namespace or Mesh by stage. The stage
	// of the profile is that of the least advanced.
	// +optional
	Workloads *WorkloadCount `json:"workloads,omitempty"`

	// rollouts are those of the single workloads of a Namespace, by name, until
	// the namespace as a whole is STRICT.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=1000
	Rollouts []WorkloadRollout `json:"rollouts,omitempty"`

	// evidence is what must be known after a restart of the operator to tell
	// whether plaintext was missed. It is not for people.
	// +optional
	Evidence *Evidence `json:"evidence,omitempty"`
}

// MaxRollouts is how many workloads of a Namespace can be taken to STRICT in
// stages: status has room for so many.
const MaxRollouts = 1000

// WorkloadRollout is how far one workload of a Namespace is.
type WorkloadRollout struct {
	// name is the name of the workload, as Istio tells it.
	// +required
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`

	// stage is how far it is.
	// +optional
	Stage Stage `json:"stage,omitempty"`

	// inheritedMode is the mode that would be in force without an object of its
	// own.
	// +optional
	InheritedMode Mode `json:"inheritedMode,omitempty"`

	// cleanSinceTime is the start of its plaintext-free, fully observed stretch.
	// +optional
	CleanSinceTime *metav1.Time `json:"cleanSinceTime,omitempty"`

	// lastPlaintextTime is when plaintext to it was last seen.
	// +optional
	LastPlaintextTime *metav1.Time `json:"lastPlaintextTime,omitempty"`

	// enforcedTime is when STRICT was written for it.
	// +optional
	EnforcedTime *metav1.Time `json:"enforcedTime,omitempty"`

	// nextAttemptTime is when its next attempt starts after a rollback.
	// +optional
	NextAttemptTime *metav1.Time `json:"nextAttemptTime,omitempty"`

	// attempts is the number of its attempts that ended in a rollback since the
	// spec last changed.
	// +optional
	Attempts int32 `json:"attempts,omitempty"`

	// blockers are the types of what holds it; status.mtls.blockers says what to
	// do.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	Blockers []BlockerType `json:"blockers,omitempty"`

	// evidence is what must be known after a restart of the operator. It is not
	// for people.
	// +optional
	Evidence *Evidence `json:"evidence,omitempty"`
}

// ApprovalStatus is what Manual approval approves.
type ApprovalStatus struct {
	// token is the value for the annotation servicesecurity.dev/approve. It
	// stands for the generation and the evidence in summary.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Token string `json:"token,omitempty"`

	// summary says in words what the token approves.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Summary string `json:"summary,omitempty"`

	// approvedToken is the token that was approved. It is kept, so that removing
	// the annotation does not undo the approval.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	ApprovedToken string `json:"approvedToken,omitempty"`
}

// PlaintextCaller is a caller that does not use mutual TLS.
type PlaintextCaller struct {
	// workload is the workload of the caller, from peer metadata or from the
	// access log's address, and "unknown" otherwise.
	// +required
	// +kubebuilder:validation:MaxLength=253
	Workload string `json:"workload"`

	// namespace is the namespace of the caller, if it is known.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	Namespace string `json:"namespace,omitempty"`

	// address is the address of the caller. Only access logs tell it.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Address string `json:"address,omitempty"`

	// port is the workload port that was called. Only access logs tell it.
	// +optional
	Port int32 `json:"port,omitempty"`

	// protocol is HTTP, GRPC or TCP.
	// +optional
	// +kubebuilder:validation:MaxLength=16
	Protocol string `json:"protocol,omitempty"`

	// requests is the number of requests, messages or connections seen in the
	// window.
	// +optional
	Requests int64 `json:"requests,omitempty"`

	// lastSeenTime is when it was last seen.
	// +optional
	LastSeenTime *metav1.Time `json:"lastSeenTime,omitempty"`

	// refused says that STRICT refused it.
	// +optional
	Refused bool `json:"refused,omitempty"`
}

// BlockerType is a kind of thing that holds the switch to STRICT.
//
// +kubebuilder:validation:Enum=PodsNotInMesh;NoPods;AmbientUnsupported;WorkloadEntry;RemoteCluster;PodsRollingOut;PortsExcluded;UnrewrittenProbes;SidecarIngressTLS;PortNotAttributable;PlaintextDestinationRule;PlaintextServiceEntry;CompetingPeerAuthentication;TelemetryOverridden;TelemetryIncomplete;PlaintextSeen;PlaintextConnectionsOpen;InsufficientTraffic;ApprovalMissing
type BlockerType string

// The blocker types, by gate.
const (
	// BlockerPodsNotInMesh: a target pod has no Envoy sidecar that could take
	// mutual TLS.
	BlockerPodsNotInMesh BlockerType = "PodsNotInMesh"
	// BlockerNoPods: the target has no pods.
	BlockerNoPods BlockerType = "NoPods"
	// BlockerAmbientUnsupported: a target pod is in ambient mode.
	BlockerAmbientUnsupported BlockerType = "AmbientUnsupported"
	// BlockerWorkloadEntry: a WorkloadEntry matches, whose proxy cannot be
	// observed.
	BlockerWorkloadEntry BlockerType = "WorkloadEntry"
	// BlockerRemoteCluster: a remote cluster has pods that cannot be listed.
	BlockerRemoteCluster BlockerType = "RemoteCluster"
	// BlockerPodsRollingOut: a rollout of the target's pods is in flight.
	BlockerPodsRollingOut BlockerType = "PodsRollingOut"

	// BlockerPortsExcluded: inbound ports bypass the proxy.
	BlockerPortsExcluded BlockerType = "PortsExcluded"
	// BlockerUnrewrittenProbes: the kubelet's probes reach the application in
	// plaintext.
	BlockerUnrewrittenProbes BlockerType = "UnrewrittenProbes"
	// BlockerSidecarIngressTLS: a Sidecar resource terminates TLS of its own.
	BlockerSidecarIngressTLS BlockerType = "SidecarIngressTLS"
	// BlockerPortNotAttributable: plaintext was seen, and it cannot be told on
	// which port.
	BlockerPortNotAttributable BlockerType = "PortNotAttributable"

	// BlockerPlaintextDestinationRule: a DestinationRule makes clients send
	// plaintext.
	BlockerPlaintextDestinationRule BlockerType = "PlaintextDestinationRule"
	// BlockerPlaintextServiceEntry: a ServiceEntry makes clients send plaintext:
	// it is MESH_EXTERNAL, or lists endpoints that do not say that they take
	// mutual TLS.
	BlockerPlaintextServiceEntry BlockerType = "PlaintextServiceEntry"

	// BlockerCompetingPeerAuthentication: another PeerAuthentication of the same
	// scope matches the pods.
	BlockerCompetingPeerAuthentication BlockerType = "CompetingPeerAuthentication"
	// BlockerTelemetryOverridden: a Telemetry disables or retags the metrics
	// used.
	BlockerTelemetryOverridden BlockerType = "TelemetryOverridden"

	// BlockerTelemetryIncomplete: the target's traffic could not be observed
	// completely.
	BlockerTelemetryIncomplete BlockerType = "TelemetryIncomplete"

	// BlockerPlaintextSeen: plaintext was seen lately.
	BlockerPlaintextSeen BlockerType = "PlaintextSeen"
	// BlockerPlaintextConnectionsOpen: plaintext connections are open.
	BlockerPlaintextConnectionsOpen BlockerType = "PlaintextConnectionsOpen"

	// BlockerInsufficientTraffic: too little mutual-TLS traffic was seen.
	BlockerInsufficientTraffic BlockerType = "InsufficientTraffic"
	// BlockerApprovalMissing: Manual approval was not given.
	BlockerApprovalMissing BlockerType = "ApprovalMissing"
)

// Blocker holds the switch to STRICT.
type Blocker struct {
	// type is the kind of blocker.
	// +required
	Type BlockerType `json:"type"`

	// message says what holds the switch, by name, and what to do about it.
	// +required
	// +kubebuilder:validation:MaxLength=1024
	Message string `json:"message"`
}

// WorkloadCount counts workloads by stage.
type WorkloadCount struct {
	// rolledBack is the number of workloads at stage RolledBack.
	// +required
	RolledBack int32 `json:"rolledBack"`
	// blocked is the number of workloads at stage Blocked.
	// +required
	Blocked int32 `json:"blocked"`
	// observing is the number of workloads at stage Observing.
	// +required
	Observing int32 `json:"observing"`
	// awaitingApproval is the number of workloads at stage AwaitingApproval.
	// +required
	AwaitingApproval int32 `json:"awaitingApproval"`
	// verifying is the number of workloads at stage Verifying.
	// +required
	Verifying int32 `json:"verifying"`
	// enforced is the number of workloads at stage Enforced.
	// +required
	Enforced int32 `json:"enforced"`
}

// MaxPodConnections is how many pods with plaintext connections status has room for.
const MaxPodConnections = 64

// Evidence is what the observed counters were when they were last complete.
// After an absence the operator compares it with the proxies: if it is the
// same proxies, and no plaintext was added, nothing was missed. Without
// proxies it proves nothing.
type Evidence struct {
	// observedTime is when the counters were read.
	// +optional
	ObservedTime *metav1.Time `json:"observedTime,omitempty"`

	// sinceTime is since when these counters have shown no plaintext. After a
	// restart no stretch is taken up that began before, whatever cleanSinceTime
	// says.
	// +optional
	SinceTime *metav1.Time `json:"sinceTime,omitempty"`

	// proxies is a digest of the identities of the proxies that were read: pod
	// and start of the process. With Prometheus as the source it is a digest of
	// the workloads that were observed, and of who else refused them plaintext.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Proxies string `json:"proxies,omitempty"`

	// targets is a digest of the target's selector. Another set of targets
	// starts another stretch.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Targets string `json:"targets,omitempty"`

	// plaintext is the sum of the plaintext counters of these proxies (requests,
	// messages, connections opened and closed, bytes).
	// +optional
	Plaintext int64 `json:"plaintext,omitempty"`

	// plaintextSeries is a digest of these counters, one by one: a sum may be
	// the same although some went and others came. It is empty without any.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	PlaintextSeries string `json:"plaintextSeries,omitempty"`

	// mutualTLS is the sum of the mutual-TLS counters of these proxies (requests
	// and connections).
	// +optional
	MutualTLS int64 `json:"mutualTLS,omitempty"`

	// mutualTLSInStretch is the number of mutual-TLS requests and connections
	// counted in the present stretch, and within the observation window.
	// +optional
	MutualTLSInStretch int64 `json:"mutualTLSInStretch,omitempty"`

	// listenerUpdates is how often the listeners of these proxies had changed. A
	// change in between may have hidden traffic.
	// +optional
	ListenerUpdates int64 `json:"listenerUpdates,omitempty"`

	// connections are the plaintext TCP connections by pod, for pods that have
	// had any: Envoy may drop the count of beginnings, or of ends.
	// +optional
	// +listType=map
	// +listMapKey=pod
	// +kubebuilder:validation:MaxItems=64
	Connections []PodConnections `json:"connections,omitempty"`
}

// Proves says whether the evidence is that of any proxies, so that something may rest on it. There may be none.
func (e *Evidence) Proves() bool { return e != nil && e.Proxies != "" }

// PodConnections are plaintext TCP connections to a pod.
type PodConnections struct {
	// pod is the UID of the pod.
	// +required
	// +kubebuilder:validation:MaxLength=63
	Pod string `json:"pod"`

	// opened is how many the proxy counts as opened.
	// +optional
	Opened int64 `json:"opened,omitempty"`

	// closed is how many the proxy counts as closed.
	// +optional
	Closed int64 `json:"closed,omitempty"`

	// uncounted is how many more are open than these two say, because of counts
	// that Envoy has dropped. It may be negative.
	// +optional
	Uncounted int64 `json:"uncounted,omitempty"`
}

// ResourceRef names an Istio object in the profile's namespace.
type ResourceRef struct {
	// kind is the kind of the object.
	// +required
	// +kubebuilder:validation:MaxLength=63
	Kind string `json:"kind"`

	// name is the name of the object.
	// +required
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
}

// AuthorizationStatus says what a dry run of the callers has counted.
type AuthorizationStatus struct {
	// observedTime is when the proxies were last read, all of them. Absent while
	// they never were.
	// +optional
	ObservedTime *metav1.Time `json:"observedTime,omitempty"`

	// dryRun is what would have been let in and what would have been refused, by
	// port, as the target's present proxies have counted since they started. At
	// most 64 ports.
	// +optional
	// +listType=map
	// +listMapKey=port
	// +kubebuilder:validation:MaxItems=64
	DryRun []DryRunCount `json:"dryRun,omitempty"`
}

// DryRunCount is what a dry run has counted on one port.
type DryRunCount struct {
	// port is the workload port; 0 stands for ports that no Service maps, and for
	// all TCP connections, which the proxies count together.
	// +required
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port"`

	// allowed are the requests, or connections of a TCP port, that would have
	// been let in; at most, where both allowedCallers and deniedCallers are
	// counted.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Allowed int64 `json:"allowed,omitempty"`

	// refused are the requests, or connections of a TCP port, that would have
	// been refused; at least, where both allowedCallers and deniedCallers are
	// counted.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Refused int64 `json:"refused,omitempty"`
}

// WarningType is a kind of thing that works but should be known.
//
// +kubebuilder:validation:Enum=PortNotMapped;PodsNotInMesh;PodsNotReachable;ClientsSendPlaintext;DestinationRuleReplaced;DestinationRuleWithheld;PlaintextRefusedByIdentity;StreamsNotVisible;CallersNotVisible;RemoteClustersNotVisible;ScheduledJobOutsideWindow;ObservationSkipped;RollbackWithheld;VerificationFailed;ForeignRequestAuthentication;ForeignAuthorizationPolicy;CallerNotFound;TokenOnTCPPort;TokenOnUndeclaredPort;CallerOnTCPPort;CallerOnUndeclaredPort;ExemptPathDead;RequiredPathsEvadable;InsecureKeys
type WarningType string

// The warning types.
const (
	// WarningPortNotMapped: a port of mtls.portLevel is mapped by no Service.
	WarningPortNotMapped WarningType = "PortNotMapped"
	// WarningPodsNotInMesh: a pod outside the mesh takes plaintext although
	// STRICT is in force for the others.
	WarningPodsNotInMesh WarningType = "PodsNotInMesh"
	// WarningPodsNotReachable: a pod outside the mesh is never reached while the
	// DestinationRule demands mutual TLS.
	WarningPodsNotReachable WarningType = "PodsNotReachable"
	// WarningClientsSendPlaintext: a DestinationRule or ServiceEntry makes
	// clients send plaintext, which the STRICT in force refuses.
	WarningClientsSendPlaintext WarningType = "ClientsSendPlaintext"
	// WarningDestinationRuleReplaced: the generated rule replaces a wildcard or
	// root rule with settings of its own.
	WarningDestinationRuleReplaced WarningType = "DestinationRuleReplaced"
	// WarningDestinationRuleWithheld: a rule is needed, and another rule for the
	// host keeps it from being written.
	WarningDestinationRuleWithheld WarningType = "DestinationRuleWithheld"
	// WarningPlaintextRefusedByIdentity: callers are named by identity while
	// plaintext, which has none, is accepted.
	WarningPlaintextRefusedByIdentity WarningType = "PlaintextRefusedByIdentity"
	// WarningStreamsNotVisible: plaintext streams older than the window cannot
	// be seen.
	WarningStreamsNotVisible WarningType = "StreamsNotVisible"
	// WarningCallersNotVisible: verification cannot see failures on the callers'
	// side.
	WarningCallersNotVisible WarningType = "CallersNotVisible"
	// WarningRemoteClustersNotVisible: the operator may not see whether the mesh
	// has remote clusters.
	WarningRemoteClustersNotVisible WarningType = "RemoteClustersNotVisible"
	// WarningScheduledJobOutsideWindow: a scheduled job that may call the target
	// runs less often than once in the observation window.
	WarningScheduledJobOutsideWindow WarningType = "ScheduledJobOutsideWindow"
	// WarningObservationSkipped: STRICT was written without observation.
	WarningObservationSkipped WarningType = "ObservationSkipped"
	// WarningRollbackWithheld: rollback is Automatic, and a failed verification
	// would not be rolled back, since plaintext has no identity that could be
	// denied.
	WarningRollbackWithheld WarningType = "RollbackWithheld"
	// WarningVerificationFailed: verification failed, and nothing is rolled back.
	WarningVerificationFailed WarningType = "VerificationFailed"
	// WarningForeignRequestAuthentication: somebody else's RequestAuthentication
	// adds issuers to the target's pods.
	WarningForeignRequestAuthentication WarningType = "ForeignRequestAuthentication"
	// WarningForeignAuthorizationPolicy: somebody else's AuthorizationPolicy is in
	// force for the target's pods too.
	WarningForeignAuthorizationPolicy WarningType = "ForeignAuthorizationPolicy"
	// WarningCallerNotFound: a caller names a service account or a namespace that
	// does not exist.
	WarningCallerNotFound WarningType = "CallerNotFound"
	// WarningTokenOnTCPPort: a declared TCP port, which has no requests, takes
	// connections without a token.
	WarningTokenOnTCPPort WarningType = "TokenOnTCPPort" //nolint:gosec // it names a warning
	// WarningTokenOnUndeclaredPort: a port without a declared protocol refuses
	// what turns out not to be HTTP.
	WarningTokenOnUndeclaredPort WarningType = "TokenOnUndeclaredPort"
	// WarningCallerOnTCPPort: what a caller says of requests cannot be said of a
	// TCP port.
	WarningCallerOnTCPPort WarningType = "CallerOnTCPPort"
	// WarningCallerOnUndeclaredPort: what a denied caller says of requests refuses
	// everybody on a port that turns out not to be HTTP.
	WarningCallerOnUndeclaredPort WarningType = "CallerOnUndeclaredPort"
	// WarningExemptPathDead: no caller can use an exempt path, since every allowed
	// caller needs a token.
	WarningExemptPathDead WarningType = "ExemptPathDead"
	// WarningRequiredPathsEvadable: requiredPaths is a list of what is closed,
	// which an application that reads paths otherwise may see through.
	WarningRequiredPathsEvadable WarningType = "RequiredPathsEvadable"
	// WarningInsecureKeys: keys are fetched over http.
	WarningInsecureKeys WarningType = "InsecureKeys"
)

// Section is a section of the spec.
//
// +kubebuilder:validation:Enum=mtls;jwt;authorization
type Section string

// The sections.
const (
	SectionMTLS          Section = "mtls"
	SectionJWT           Section = "jwt"
	SectionAuthorization Section = "authorization"
)

// Warning is something that works but should be known.
type Warning struct {
	// type is the kind of warning.
	// +required
	Type WarningType `json:"type"`

	// section is the section of the spec that it speaks of.
	// +required
	Section Section `json:"section"`

	// message is the warning in words.
	// +required
	// +kubebuilder:validation:MaxLength=1024
	Message string `json:"message"`
}
