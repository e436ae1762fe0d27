package rollout_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/rollout"
	"github.com/servicesecurity/operator/controllers/traffic"
)

// A switch without observation says which of the gates that need none it went through.
func TestSkipped(t *testing.T) {
	immediately := func(in *rollout.Input) { in.Spec.Strategy = v1alpha1.StrategyImmediate }
	tests := map[string]struct {
		edit func(*rollout.Input)
		want []v1alpha1.BlockerType
	}{
		"nothing was closed":            {func(*rollout.Input) {}, nil},
		"what is observed is not known": {func(in *rollout.Input) { incomplete(in, traffic.Unavailable) }, nil},
		"no pods":                       {func(in *rollout.Input) { in.Facts.Pods = nil }, []v1alpha1.BlockerType{v1alpha1.BlockerNoPods}},
		"each once": {func(in *rollout.Input) {
			in.Facts.ClientRules = []facts.ClientRule{{Name: "a", TLS: "DISABLE"}, {Name: "b", TLS: "SIMPLE"}}
			in.Facts.RollingOut = []string{"httpbin"}
		}, []v1alpha1.BlockerType{v1alpha1.BlockerPlaintextDestinationRule, v1alpha1.BlockerPodsRollingOut}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := rollout.Next(with(full(), immediately, tc.edit))
			if !got.Switched || got.Stage != v1alpha1.StageEnforced {
				t.Fatalf("no switch: %+v", got)
			}
			if diff := cmp.Diff(tc.want, got.Skipped); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if got := rollout.Next(with(full())); got.Skipped != nil {
		t.Errorf("a staged rollout skips %v", got.Skipped)
	}
}
