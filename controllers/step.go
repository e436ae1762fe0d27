package controllers

import (
	"time"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/rollout"
	"github.com/servicesecurity/operator/controllers/traffic"
)

// What one reconcile hands to the next by way of status, for whoever drives the pure core without a cluster: test/simulation.

// RequestOf is what a reconcile asks the observer, of a profile as it was read.
func RequestOf(profile *v1alpha1.ServiceSecurityProfile, spec rollout.Spec, f facts.Facts, now time.Time) traffic.Request {
	return request(profile, spec, f, now)
}

// Near says that the window is full, or almost, by a decision before the reading: then the proxies' own word is asked for, too.
func Near(profile *v1alpha1.ServiceSecurityProfile, spec rollout.Spec, eligible, now time.Time, interval time.Duration) bool {
	return near(profile, spec, eligible, now, interval)
}
