package controllers

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/traffic"
)

const prefix = "servicesecurity_"

var (
	// writes counts writes of Istio objects by kind and verb (Created, Adopted, Updated, Deleted).
	writes = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: prefix + "writes_total", Help: "Writes of Istio objects, by kind and verb.",
	}, []string{"kind", "verb"})
	// observations counts readings of a target by completeness (Complete, Incomplete, Unavailable).
	observations = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: prefix + "observations_total", Help: "Readings of a target's proxies, by completeness.",
	}, []string{"completeness"})
	// promotions counts switches to STRICT.
	promotions = prometheus.NewCounter(prometheus.CounterOpts{
		Name: prefix + "promotions_total", Help: "Switches to STRICT.",
	})
	// rollbacks counts failed verifications that were taken back.
	rollbacks = prometheus.NewCounter(prometheus.CounterOpts{
		Name: prefix + "rollbacks_total", Help: "Switches to STRICT that were taken back.",
	})
	// blocked counts how often a rollout became blocked.
	blocked = prometheus.NewCounter(prometheus.CounterOpts{
		Name: prefix + "blocked_total", Help: "How often a rollout became blocked.",
	})
)

func init() {
	// What can be counted is there from the start, as zero, so that a rate over it is defined.
	for _, c := range []traffic.Completeness{traffic.Complete, traffic.Incomplete, traffic.Unavailable} {
		observations.WithLabelValues(string(c))
	}
	metrics.Registry.MustRegister(writes, observations, promotions, rollbacks, blocked)
}

func countTransition(stage v1alpha1.Stage) {
	switch stage {
	case v1alpha1.StageRolledBack:
		rollbacks.Inc()
	case v1alpha1.StageBlocked:
		blocked.Inc()
	case v1alpha1.StageObserving, v1alpha1.StageAwaitingApproval, v1alpha1.StageVerifying, v1alpha1.StageEnforced:
	}
}

// profileCollector counts profiles from the cache when it is asked, so that nothing has to be kept in step.
type profileCollector struct {
	reader     client.Reader
	stages     *prometheus.Desc
	conditions *prometheus.Desc
	callers    *prometheus.Desc
	age        *prometheus.Desc
	clock      clock.PassiveClock
}

func newProfileCollector(reader client.Reader, clock clock.PassiveClock) *profileCollector {
	return &profileCollector{
		reader:     reader,
		clock:      clock,
		stages:     prometheus.NewDesc(prefix+"profiles", "Profiles, by stage of their rollout (empty without one).", []string{"stage"}, nil),
		conditions: prometheus.NewDesc(prefix+"profile_conditions", "Profiles, by condition and its status.", []string{"condition", "status"}, nil),
		callers:    prometheus.NewDesc(prefix+"plaintext_callers", "Callers without mutual TLS within the observation windows, over all profiles.", nil, nil),
		age:        prometheus.NewDesc(prefix+"observation_age_seconds", "Age of the oldest complete reading that a rollout rests on, as status has it, which is written at most once a minute; 0 without one.", nil, nil),
	}
}

// Describe implements prometheus.Collector.
func (c *profileCollector) Describe(out chan<- *prometheus.Desc) {
	out <- c.stages
	out <- c.conditions
	out <- c.callers
	out <- c.age
}

// since is the age of a reading that a rollout rests on; zero without one.
func (c *profileCollector) since(stage v1alpha1.Stage, evidence *v1alpha1.Evidence) time.Duration {
	if stage == "" || !evidence.Proves() || evidence.ObservedTime == nil {
		return 0
	}
	return c.clock.Since(evidence.ObservedTime.Time)
}

// Collect implements prometheus.Collector.
func (c *profileCollector) Collect(out chan<- prometheus.Metric) {
	profiles := &v1alpha1.ServiceSecurityProfileList{}
	if err := c.reader.List(context.Background(), profiles, client.UnsafeDisableDeepCopy); err != nil {
		out <- prometheus.NewInvalidMetric(c.stages, err)
		return
	}
	stages, conditions, callers, age := map[v1alpha1.Stage]int{}, map[[2]string]int{}, 0, time.Duration(0)
	for i := range profiles.Items {
		status := &profiles.Items[i].Status
		stages[stageOf(*status)]++
		for _, condition := range status.Conditions {
			conditions[[2]string{condition.Type, string(condition.Status)}]++
		}
		if status.MTLS == nil {
			continue
		}
		callers += len(status.MTLS.PlaintextCallers)
		age = max(age, c.since(status.MTLS.Stage, status.MTLS.Evidence))
		for _, rollout := range status.MTLS.Rollouts {
			age = max(age, c.since(rollout.Stage, rollout.Evidence))
		}
	}
	for stage, count := range stages {
		out <- prometheus.MustNewConstMetric(c.stages, prometheus.GaugeValue, float64(count), string(stage))
	}
	for key, count := range conditions {
		out <- prometheus.MustNewConstMetric(c.conditions, prometheus.GaugeValue, float64(count), key[0], key[1])
	}
	out <- prometheus.MustNewConstMetric(c.callers, prometheus.GaugeValue, float64(callers))
	out <- prometheus.MustNewConstMetric(c.age, prometheus.GaugeValue, age.Seconds())
}
