package sidecar

import (
	"testing"
	"time"
)

// twoClocks are one on the wall, which is set, and one that ticks.
type twoClocks struct {
	wall time.Time
	mono time.Duration
}

func (c *twoClocks) Now() time.Time                { return c.wall }
func (c *twoClocks) Since(time.Time) time.Duration { return c.mono }
func (c *twoClocks) pass(d, set time.Duration)     { c.wall, c.mono = c.wall.Add(d+set), c.mono+d }

// TestLastStep holds that a clock which is set is noticed, also in steps that are small, and what only ticks is not.
func TestLastStep(t *testing.T) {
	clock := &twoClocks{wall: epoch}
	o := New(Options{Clock: clock})
	for i, tc := range []struct {
		set     time.Duration
		stepped bool
	}{
		{0, false}, {time.Hour, true}, {0, false}, {-time.Minute, true}, {clockStep / 2, false}, {clockStep / 2, false}, {clockStep / 2, true}, {0, false},
	} {
		before := o.lastStep(o.now())
		clock.pass(15*time.Second, tc.set)
		if after := o.lastStep(o.now()); after == clock.mono != tc.stepped || !tc.stepped && after != before {
			t.Errorf("%d: set by %s, stepped at %s, before %s", i, tc.set, after, before)
		}
	}
}
