package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ServiceSecurityProfile declares for a service, a workload, a gateway, a
// namespace or the mesh how its traffic is secured: the mutual-TLS mode, the
// JWT issuers and the allowed callers. The operator generates and owns the
// Istio objects that say so, and takes a workload from PERMISSIVE to STRICT
// mutual TLS in stages, when the traffic that its own proxies report shows
// that no plaintext caller is left.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=servicesecurityprofiles,scope=Namespaced,shortName=ssp,categories=istio-io
// +kubebuilder:printcolumn:name="Target",type=string,JSONPath=`.status.target`,description="Kind and name of what the profile secures"
// +kubebuilder:printcolumn:name="mTLS",type=string,JSONPath=`.status.mtls.effectiveMode`,description="The mutual-TLS mode in force now, wherever it comes from"
// +kubebuilder:printcolumn:name="Stage",type=string,JSONPath=`.status.mtls.stage`,description="How far the rollout to STRICT is"
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`,description="Whether all is accepted and programmed, and nothing waits for a person"
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`,description="Why it is ready, or what needs a person"
// +kubebuilder:printcolumn:name="Clean Since",type=date,JSONPath=`.status.mtls.cleanSinceTime`,priority=1,description="Start of the present plaintext-free, fully observed stretch"
// +kubebuilder:printcolumn:name="In Mesh",type=integer,JSONPath=`.status.pods.inMesh`,priority=1,description="Target pods with an Envoy sidecar"
// +kubebuilder:printcolumn:name="Pods",type=integer,JSONPath=`.status.pods.total`,priority=1,description="Target pods"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`,description="Time since the profile was created"
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 189",message="the name may have at most 189 characters, because the names of the generated objects are made from it"
type ServiceSecurityProfile struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the standard object metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is what the profile asks for: at least one of mtls, jwt and
	// authorization, for one target.
	// +required
	Spec ServiceSecurityProfileSpec `json:"spec"`

	// status is what is in force, and what stands in the way of what is asked.
	// The operator writes it.
	// +optional
	Status ServiceSecurityProfileStatus `json:"status,omitempty"`
}

// ServiceSecurityProfileList is a list of profiles.
//
// +kubebuilder:object:root=true
type ServiceSecurityProfileList struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the standard list metadata.
	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`

	// items are the profiles.
	// +required
	Items []ServiceSecurityProfile `json:"items"`
}

// ServiceSecurityProfileSpec is what a profile asks for: at least one of
// mtls, jwt and authorization, for one target.
//
// +kubebuilder:validation:XValidation:rule="has(self.mtls) || has(self.jwt) || has(self.authorization)",message="the profile says nothing: set at least one of mtls, jwt and authorization"
// +kubebuilder:validation:XValidation:rule="!has(self.mtls) || self.target.kind != 'Gateway'",message="mtls is not for gateways, whose listeners have TLS settings of their own: remove mtls, or target the Service behind the gateway",fieldPath=".mtls"
// +kubebuilder:validation:XValidation:rule="!has(self.mtls) || !has(self.mtls.portLevel) || !(self.target.kind in ['Namespace', 'Mesh'])",message="mtls.portLevel needs target kind Service or Workload: Istio ignores port exceptions of a namespace or the mesh; write a profile for each workload that needs one",fieldPath=".mtls.portLevel"
// +kubebuilder:validation:XValidation:rule="!has(self.mtls) || !has(self.mtls.rollout) || !has(self.mtls.rollout.maxConcurrent) || self.target.kind == 'Namespace'",message="mtls.rollout.maxConcurrent is for target kind Namespace only: remove it",fieldPath=".mtls.rollout.maxConcurrent"
type ServiceSecurityProfileSpec struct {
	// target is what the profile secures. Its kind, name and selector cannot be
	// changed, so that leaving something out can never widen a profile: delete
	// the profile and create another. includeGateways can be changed.
	// +required
	Target Target `json:"target"`

	// mtls says whether callers must prove who they are by mutual TLS. Without
	// it mutual TLS is left as it is.
	// +optional
	MTLS *MTLS `json:"mtls,omitempty"`

	// jwt says which end-user tokens (JWT) are accepted or demanded. Without it
	// this profile does not look at tokens.
	// +optional
	JWT *JWT `json:"jwt,omitempty"`

	// authorization says who may call. Without it this profile restricts nobody;
	// an empty one, {}, lets nobody in.
	// +optional
	Authorization *Authorization `json:"authorization,omitempty"`
}

// TargetKind is the kind of thing that a profile secures.
//
// +kubebuilder:validation:Enum=Service;Workload;Gateway;Namespace;Mesh
type TargetKind string

// The kinds of target.
const (
	// TargetService is the pods that a Service of the profile's namespace
	// selects.
	TargetService TargetKind = "Service"
	// TargetWorkload is the pods of the profile's namespace that match
	// target.selector.
	TargetWorkload TargetKind = "Workload"
	// TargetGateway is a Gateway of gateway.networking.k8s.io in the profile's
	// namespace.
	TargetGateway TargetKind = "Gateway"
	// TargetNamespace is all workloads of the profile's namespace.
	TargetNamespace TargetKind = "Namespace"
	// TargetMesh is all workloads of the mesh; the profile must be in Istio's
	// root namespace.
	TargetMesh TargetKind = "Mesh"
)

// Target names what a profile secures.
//
// +kubebuilder:validation:XValidation:rule="has(self.name) || !(self.kind in ['Service', 'Gateway'])",message="kind Service and Gateway need name: set it to the one that is meant, in the profile's namespace",fieldPath=".name"
// +kubebuilder:validation:XValidation:rule="!has(self.name) || self.kind in ['Service', 'Gateway']",message="name is for kind Service and Gateway only: remove it; kind Workload takes selector",fieldPath=".name"
// +kubebuilder:validation:XValidation:rule="has(self.selector) || self.kind != 'Workload'",message="kind Workload needs selector.matchLabels with at least one label of its pods; for all pods of the namespace use kind Namespace",fieldPath=".selector"
// +kubebuilder:validation:XValidation:rule="!has(self.selector) || self.kind == 'Workload'",message="selector is for kind Workload only: remove it, or set kind to Workload",fieldPath=".selector"
// +kubebuilder:validation:XValidation:rule="!has(self.includeGateways) || self.kind in ['Namespace', 'Mesh']",message="includeGateways is for kind Namespace and Mesh only: remove it",fieldPath=".includeGateways"
// +kubebuilder:validation:XValidation:rule="self.kind == oldSelf.kind",message="target.kind cannot be changed: delete the profile and create one for the new target",fieldPath=".kind"
// +kubebuilder:validation:XValidation:rule="has(self.name) == has(oldSelf.name) && (!has(self.name) || self.name == oldSelf.name)",message="target.name cannot be changed: delete the profile and create one for the new target",fieldPath=".name"
// +kubebuilder:validation:XValidation:rule="has(self.selector) == has(oldSelf.selector) && (!has(self.selector) || self.selector == oldSelf.selector)",message="target.selector cannot be changed: delete the profile and create one for the new target",fieldPath=".selector"
type Target struct {
	// kind is the kind of the target. Service is the pods that a Service of the
	// profile's namespace selects. Workload is the pods of that namespace which
	// match selector. Gateway is a Gateway of gateway.networking.k8s.io in that
	// namespace. Namespace is all workloads of that namespace, which must not be
	// Istio's root namespace. Mesh is all workloads of the mesh, and is allowed
	// in Istio's root namespace only. It cannot be changed.
	// +required
	Kind TargetKind `json:"kind"`

	// name is the name of the Service or Gateway, in the profile's namespace. It
	// is required for these two kinds, not allowed for the others, and cannot be
	// changed.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')",message="write the name alone, as kubectl get shows it: lower-case letters, digits, - and ."
	Name string `json:"name,omitempty"`

	// selector selects the pods of a Workload in the profile's namespace. It is
	// required for kind Workload, not allowed for the others, and cannot be
	// changed.
	// +optional
	Selector *WorkloadSelector `json:"selector,omitempty"`

	// includeGateways says that jwt and authorization of a Namespace or Mesh
	// profile are meant for ingress gateways too. Without it a profile that
	// would reach one is not accepted, with reason AffectsGateways.
	// +optional
	IncludeGateways *bool `json:"includeGateways,omitempty"`
}

// LabelValue is the value of a pod label.
//
// +kubebuilder:validation:MaxLength=63
// +kubebuilder:validation:XValidation:rule="self.matches('^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$')",message="write a label's value as on the pod: letters, digits, -, _ and ., beginning and ending with a letter or digit, without wildcards"
type LabelValue string

// WorkloadSelector selects pods by labels, all of which must match.
type WorkloadSelector struct {
	// matchLabels are the labels that a pod must have, all of them with these
	// values. From 1 to 16.
	// +required
	// +mapType=atomic
	// +kubebuilder:validation:MinProperties=1
	// +kubebuilder:validation:MaxProperties=16
	// +kubebuilder:validation:XValidation:rule="self.all(k, size(k) <= 317 && k.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$'))",message="write a label's key as on the pod, such as app or app.kubernetes.io/name, of at most 317 characters"
	MatchLabels map[string]LabelValue `json:"matchLabels"`
}

// Scope is the reach of a profile in Istio's terms, which decides
// precedence.
//
// +kubebuilder:validation:Enum=Workload;Gateway;Namespace;Mesh
type Scope string

// The scopes.
const (
	ScopeWorkload  Scope = "Workload"
	ScopeGateway   Scope = "Gateway"
	ScopeNamespace Scope = "Namespace"
	ScopeMesh      Scope = "Mesh"
)
