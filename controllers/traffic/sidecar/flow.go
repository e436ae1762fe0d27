package sidecar

import "time"

// flowParts is into how many parts a window is cut: what is older than it is counted for one of them longer.
const flowParts = 16

// flow is what was counted within a window, in parts, the oldest first.
type flow []part

// part is what was counted from a time on, by the ticking clock, until the next part began.
type part struct {
	from  time.Duration
	count int64
}

// add counts at a time, and forgets what no window reaches any more.
func (f flow) add(now time.Duration, count int64, window time.Duration) flow {
	for len(f) > 0 && now-f[0].from > window+window/flowParts {
		f = f[1:]
	}
	if count == 0 {
		return f
	}
	if n := len(f); n > 0 && now-f[n-1].from < window/flowParts {
		f[n-1].count = add(f[n-1].count, count)
		return f
	}
	return append(f, part{now, count})
}

// total is all that is counted.
func (f flow) total() (sum int64) {
	for _, p := range f {
		sum = add(sum, p.count)
	}
	return sum
}
