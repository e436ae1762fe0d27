package v1alpha1

// Annotations that people or the operator set.
const (
	// AnnotationAdopt on a hand-made Istio object, set by its owner, names the profile that may take it over.
	AnnotationAdopt = "servicesecurity.dev/adopt"
	// AnnotationApprove on a profile with Manual approval carries the value of status.mtls.approval.token.
	AnnotationApprove = "servicesecurity.dev/approve"
	// AnnotationSwitchedAt on an owned PeerAuthentication is the time (RFC 3339) of the switch to STRICT while its
	// verification is not over; a profile whose status was lost resumes Verifying from it.
	AnnotationSwitchedAt = "servicesecurity.dev/switched-at"
	// AnnotationPreviousMode beside AnnotationSwitchedAt is what was in force before and what a rollback returns to, such
	// as "Permissive" or "Strict,9443=Permissive".
	AnnotationPreviousMode = "servicesecurity.dev/previous-mode"
	// AnnotationRolledBack on an owned PeerAuthentication says when STRICT was last taken back, in JSON: generation of the spec,
	// attempts that had ended so, time (RFC 3339). It is written with the mode, and goes when STRICT has been verified.
	AnnotationRolledBack = "servicesecurity.dev/rolled-back"
)
