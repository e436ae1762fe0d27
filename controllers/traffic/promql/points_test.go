package promql

import (
	"testing"
	"time"
)

// TestPoints: however long it goes on, what is counted of a window is what was in it, and a part of it more at the most.
func TestPoints(t *testing.T) {
	const every = 15 * time.Second
	w := &workload{}
	at := epoch
	for range 3 * 24 * time.Hour / every {
		at = at.Add(every)
		w.counted(at, 1)
		if len(w.points) > maxPoints {
			t.Fatalf("%d points", len(w.points))
		}
		for _, window := range []time.Duration{2 * time.Minute, time.Hour, 24 * time.Hour} {
			if at.Sub(epoch) < 2*window {
				continue
			}
			least := int64(window / every)
			got := w.mutualSince(at.Add(-window - 2*window/pointsApart))
			if got < least || got > least+2*least/pointsApart {
				t.Fatalf("after %s, of %s: %d, want %d or some more", at.Sub(epoch), window, got, least)
			}
		}
	}
}
