package sidecar

import (
	"math"
	"testing"
	"time"
)

// TestFlow: what was counted in the window is there, and what was counted a sixteenth of it earlier is not.
func TestFlow(t *testing.T) {
	const window, interval = 16 * time.Minute, 15 * time.Second
	var f flow
	counts := map[time.Duration]int64{}
	for now := time.Duration(0); now < 4*window; now += interval {
		if now < window || now > 2*window+window/2 { // nobody calls in between
			counts[now] = int64(now/interval)%3 + 1
		}
		f = f.add(now, counts[now], window)
		var least, most int64
		for at, count := range counts {
			if at >= now-window {
				least += count
			}
			if at >= now-window-2*window/flowParts {
				most += count
			}
		}
		if got := f.total(); got < least || got > most {
			t.Fatalf("after %s: %d, want %d to %d", now, got, least, most)
		}
		if len(f) > flowParts+2 {
			t.Fatalf("after %s there are %d parts", now, len(f))
		}
	}
	if f = f.add(5*window, math.MaxInt64, window).add(5*window, 1, window); f.total() != math.MaxInt64 {
		t.Errorf("it overflows to %d", f.total())
	}
}
