package traffic

import "context"

// DryRunObserver reads what the proxies of a target have counted of authorization in dry run.
type DryRunObserver interface {
	// DryRun reads the counts now. It never fails: what could not be read is said in the answer, and so is what was.
	DryRun(ctx context.Context, request DryRunRequest) Shadow
}

// DryRunRequest asks for the counts of a dry run.
type DryRunRequest struct {
	// Proxies are the sidecars of the target. Those that terminate are left out: their counts go with them.
	Proxies []Proxy
	// Denies and Allows say whether a DENY and an ALLOW policy are in dry run. What a proxy counts of the other kind is not
	// this profile's: it belongs to somebody else's policy, or is left from one that went.
	Denies, Allows bool
}

// Shadow is what a dry run has counted since the proxies took its policies or, if that was later, since they started. A
// proxy goes on counting when a policy changes: the counts are then of the old and of the new one together.
//
// A proxy counts by the kind of policy, not by the policy: dry runs of other policies on the same workload are in it, too. And
// it judges the dry run alone: that another ALLOW policy, in force, would still let a request in is not seen.
type Shadow struct {
	// Completeness is Complete if every proxy was read that does not terminate, and Skipped if no policy is in dry run.
	Completeness Completeness
	// Message says what was missing and what to do; empty when complete.
	Message string
	// Ports on which the proxies that were read have counters, in order. Beyond MaxShadowPorts those are kept on which most
	// would have been refused.
	Ports []ShadowCount
}

// MaxShadowPorts is what status has room for.
const MaxShadowPorts = 64

// ShadowCount is what a dry run has counted on one port.
//
// With policies of both kinds a request is judged and counted twice, and the counts do not say which refusals were of one
// request. So each number is a bound: not fewer were refused and not more let in; at the most, twice as many were refused as
// said here. That none was refused is certain. With policies of one kind the numbers are exact.
type ShadowCount struct {
	// Port is the workload port. Zero stands for ports that no Service knows, and for all connections of TCP: a proxy counts
	// those without their port.
	Port int32
	// Allowed requests, or connections of TCP, are at most those that would have been let in. What other policies refuse
	// may be among them.
	Allowed int64
	// Refused requests, or connections of TCP, are at least those that would have been refused.
	Refused int64
}
