package promserver

import (
	"bytes"
	"errors"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/storage"
)

// Sample is one of a scrape.
type Sample struct {
	Labels labels.Labels
	Value  float64
}

// Target is what a server scrapes, and what it remembers of that.
type Target struct {
	// Up is the series that says whether scrapes succeed. Its labels are on every series of the target.
	Up labels.Labels
	// Last are the series of the last scrape.
	Last []labels.Labels
}

// NewTarget makes one that was never scraped.
func NewTarget(own map[string]string) Target {
	own = maps.Clone(own)
	own[model.MetricNameLabel] = "up"
	return Target{Up: labels.FromMap(own)}
}

// stale marks the end of a series.
var stale = math.Float64frombits(value.StaleNaN)

// Scrape stores what a scrape brought, of the time at which it began: also a marker for every series that is no longer there. It
// says how many samples the storage refused, which has later ones.
func (s *Server) Scrape(t *Target, at time.Time, samples ...Sample) (refused int) {
	return s.end(t, at, Sample{t.Up, 1}, samples)
}

// ScrapeText does so with what a proxy printed. A text that cannot be read is a scrape that failed.
func (s *Server) ScrapeText(t *Target, at time.Time, text []byte) (refused int, ok bool) {
	samples, err := t.parse(text)
	if err != nil {
		s.Fail(t, at)
		return 0, false
	}
	return s.Scrape(t, at, samples...), true
}

// Fail stores a scrape that failed.
func (s *Server) Fail(t *Target, at time.Time) (refused int) {
	return s.end(t, at, Sample{t.Up, 0}, nil)
}

// Leave marks the end of a target.
func (s *Server) Leave(t *Target, at time.Time) (refused int) {
	return s.end(t, at, Sample{t.Up, stale}, nil)
}

// end stores samples, and ends the series that are not among them.
func (s *Server) end(t *Target, at time.Time, up Sample, samples []Sample) int {
	here := make(map[uint64]bool, len(samples))
	all := make([]Sample, 0, len(samples)+1)
	for _, one := range samples {
		here[one.Labels.Hash()] = true
		all = append(all, one)
	}
	for _, before := range t.Last {
		if !here[before.Hash()] {
			all = append(all, Sample{before, stale})
		}
	}
	t.Last = t.Last[:0]
	for _, one := range samples {
		t.Last = append(t.Last, one.Labels)
	}
	return s.append(at, append(all, up))
}

// append stores samples of one time. One that comes too late is left out, as Prometheus does.
func (s *Server) append(at time.Time, samples []Sample) (refused int) {
	appender := s.Appender()
	for _, one := range samples {
		_, err := appender.Append(0, one.Labels, at.UnixMilli(), one.Value)
		switch {
		case errors.Is(err, storage.ErrOutOfOrderSample), errors.Is(err, storage.ErrOutOfBounds), errors.Is(err, storage.ErrDuplicateSampleForTimestamp):
			refused++
		case err != nil:
			s.Complain("storing %s: %v", one.Labels, err)
		}
	}
	if err := appender.Commit(); err != nil {
		s.Complain("storing a scrape: %v", err)
	}
	return refused
}

// parse reads a text with the target's labels on every series. Proxies print counters and gauges.
func (t *Target) parse(text []byte) ([]Sample, error) {
	reader := expfmt.NewTextParser(model.UTF8Validation)
	families, err := reader.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	var all []Sample
	for _, name := range slices.Sorted(maps.Keys(families)) {
		for _, m := range families[name].GetMetric() {
			b := labels.NewScratchBuilder(len(m.GetLabel()) + 1)
			b.Add(model.MetricNameLabel, name)
			for _, l := range m.GetLabel() {
				b.Add(l.GetName(), l.GetValue())
			}
			b.Sort()
			all = append(all, Sample{t.on(b.Labels()), m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetUntyped().GetValue()})
		}
	}
	return all, nil
}

// on puts the target's labels on a series. They win.
func (t *Target) on(own labels.Labels) labels.Labels {
	b := labels.NewBuilder(own)
	t.Up.Range(func(l labels.Label) {
		if l.Name == model.MetricNameLabel {
			return
		}
		if v := own.Get(l.Name); v != "" {
			b.Set("exported_"+l.Name, v)
		}
		b.Set(l.Name, l.Value)
	})
	return b.Labels()
}
