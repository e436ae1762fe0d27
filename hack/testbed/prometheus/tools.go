//go:build tools

// Package prometheus pins the Prometheus server that the test bed runs.
package prometheus

import (
	_ "github.com/prometheus/prometheus/cmd/prometheus"
)
