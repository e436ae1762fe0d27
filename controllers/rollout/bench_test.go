package rollout_test

import (
	"testing"

	"github.com/servicesecurity/operator/controllers/rollout"
)

func BenchmarkNext(b *testing.B) {
	for _, state := range states {
		b.Run(state.title, func(b *testing.B) {
			in := state.input()
			b.ReportAllocs()
			for b.Loop() {
				rollout.Next(in)
			}
		})
	}
}
