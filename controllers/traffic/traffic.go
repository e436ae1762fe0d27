// Package traffic says what an observer of a target's traffic is asked and what it answers. The package itself is types
// and pure logic; its subpackages do the reading.
package traffic

import (
	"context"
	"time"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

// Observer reads the telemetry of targets. It remembers, per profile, what it needs to tell new traffic from old.
type Observer interface {
	// Observe reads the target's telemetry now. It never fails: what could not be read is said in the observation.
	Observe(ctx context.Context, request Request) Observation
	// Forget drops what is remembered of a profile.
	Forget(profile string)
}

// Request asks for an observation.
type Request struct {
	// Profile identifies the profile across calls: its UID.
	Profile string
	// Created is when the profile was made: nobody read its proxies before.
	Created time.Time
	// Targets identifies the set of targets: another set starts another stretch.
	Targets string
	// Proxies are the sidecars of the target, terminating ones included.
	Proxies []Proxy
	// Ports says on which workload ports plaintext matters.
	Ports PortSet
	// RequireSeries says that a target without any destination series is not observed completely.
	RequireSeries bool
	// Window is how long callers are remembered.
	Window time.Duration
	// Refused says, in order, which workloads refuse plaintext by policies of others: nobody counts that, and whoever sends it comes
	// back when they go. Where an observer was there to see that, it is told as Unobserved.
	Refused []string
	// Unobserved says that a part of the target takes traffic that none of the proxies counts: no stretch goes on over that.
	Unobserved bool
	// Readings says that what the proxies say of their own configuration is needed: the switch is near, or was just made.
	Readings bool

	// What the profile's status kept, for the first reading after a restart of the operator.

	// CleanSince is the start of the stretch so far; zero if there was none.
	CleanSince time.Time
	// Evidence is what the counters were.
	Evidence *v1alpha1.Evidence
	// Callers are those already known.
	Callers []v1alpha1.PlaintextCaller
}

// Proxy is one sidecar.
type Proxy struct {
	Namespace, Name string
	// UID of the pod.
	UID string
	// Workload as the proxy's series name it: the Deployment, StatefulSet, … that controls the pod, or the pod, at its injection.
	Workload string
	// Address is the pod's IP; empty before it has one.
	Address string
	// Created is the pod's creation time.
	Created time.Time
	// Restarts of the proxy's container.
	Restarts int32
	// Terminating says that the pod's deletion has started.
	Terminating bool
	// Eviction is how long a series has to stand still before the proxy may drop it; zero if it drops none.
	Eviction time.Duration
}

// MostDraining is Envoy's own default for how long a listener drains. Istio's is 45 s; where listeners change all the time,
// one or the other drains at each reading, also of those that have nothing to do with the target.
const MostDraining = 10 * time.Minute

// PortSet is a set of workload ports: those listed, or, if Except is set, all but those listed.
type PortSet struct {
	Except bool
	Ports  []int32
}

// All says that the set has every port.
func (s PortSet) All() bool { return s.Except && len(s.Ports) == 0 }

// Has says whether the set has the port.
func (s PortSet) Has(port int32) bool {
	for _, p := range s.Ports {
		if p == port {
			return !s.Except
		}
	}
	return s.Except
}

// Completeness says whether an observation can be concluded from.
type Completeness string

// The completenesses.
const (
	// Complete: every proxy of the target was read, and what it said can be concluded from.
	Complete Completeness = "Complete"
	// Incomplete: something was not read, or said too little.
	Incomplete Completeness = "Incomplete"
	// Unavailable: the source could not be reached at all.
	Unavailable Completeness = "Unavailable"
	// Skipped: nobody asked.
	Skipped Completeness = "Skipped"
)

// Observation is what is known of a target's traffic.
type Observation struct {
	Completeness Completeness
	// Reason when not complete: SourceUnavailable, Incomplete or NoTelemetry. NoTraffic may go with a complete one.
	Reason string
	// Message says what was missing and what to do; empty when complete.
	Message string

	// Awaits says what has to be seen yet before a switch can rest on a complete observation; empty if nothing.
	Awaits string
	// Time of the reading.
	Time time.Time
	// Since is the start of the stretch that was observed without a gap up to Time; zero if not complete.
	Since time.Time
	// Gap says why the stretch restarted at this reading; empty if it did not.
	Gap string
	// LastPlaintext is when plaintext on a port that matters was last seen, an open connection included; zero if never.
	LastPlaintext time.Time
	// OpenPlaintext counts plaintext connections that are open now on ports that matter.
	OpenPlaintext int64
	// NotAttributable says that plaintext was seen since LastPlaintext's stretch began that cannot be told to be only on
	// ports that do not matter. It counts as plaintext.
	NotAttributable bool
	// ConnectionsVisible says that every proxy exposes its connection statistics.
	ConnectionsVisible bool
	// MutualTLS counts requests and connections by mutual TLS since the later of Since and LastPlaintext.
	MutualTLS int64
	// Callers that sent plaintext within the window, worst first, at most 20.
	Callers []v1alpha1.PlaintextCaller
	// Meshed are those that called by mutual TLS within the window, the one with the most calls first, at most
	// MaxMeshedCallers. At the first reading all that the proxies ever counted is taken for the window's.
	Meshed []MeshedCaller
	// Proxies that were read.
	Proxies []Reading
	// Evidence to keep in status.
	Evidence v1alpha1.Evidence
	// Void says that the evidence which status keeps proves nothing any more: something was missed since, and there is no other
	// yet. Evidence has no digest of the proxies then.
	Void bool
}

// Reading is what one proxy says of its own configuration.
type Reading struct {
	Namespace, Name, UID string
	// Started is when the proxy's process started, and Restarts how often it was started anew in its pod.
	Started  time.Time
	Restarts int32
	// ListenerUpdates counts the changes of listeners that the proxy took.
	ListenerUpdates int64
	// Draining counts listeners and filter chains that still drain.
	Draining int64
}

// WholeSecond rounds a time up, as status keeps it: what has lasted since then has lasted at least that long.
func WholeSecond(t time.Time) time.Time {
	return t.Add(time.Second - time.Nanosecond).Truncate(time.Second)
}
