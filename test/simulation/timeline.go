package simulation

import (
	"fmt"
	"strings"
	"time"
)

// diary tells a history: what happened in truth, what the operator saw and what it decided. It is kept only where it will be
// read, since most histories end well; its sum stands for it otherwise.
type diary struct {
	keep  bool
	lines strings.Builder
}

// note adds a line at a true time.
func (d *diary) note(at time.Duration, who, format string, args ...any) {
	if d.keep {
		fmt.Fprintf(&d.lines, "%11s  %-8s  %s\n", stamp(at), who, fmt.Sprintf(format, args...))
	}
}
