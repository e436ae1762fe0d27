package plan

import (
	"maps"
	"slices"

	"github.com/servicesecurity/operator/controllers/rollout"
)

// members are the objects of single workloads.
func (i *Intent) members(d rollout.Decision) {
	i.KeepAllMembers, i.KeepMembers = d.KeepMembers, slices.Clone(d.KeepObjects)
	for _, m := range d.Members {
		switch {
		case m.Keeps():
			i.KeepMembers = append(i.KeepMembers, m.Object)
		case m.Written():
			i.Members = append(i.Members, Peer{
				Name: m.Object, Selector: maps.Clone(m.Facts.Target.Selector), Form: m.Decision.Form,
				SwitchedAt: m.Decision.SwitchedAt, Previous: m.Decision.Previous, RolledBack: m.Decision.RolledBack,
			})
		}
	}
}
