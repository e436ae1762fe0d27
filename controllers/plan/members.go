package plan

import (
	"maps"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/rollout"
)

// members are the objects of single workloads. One that is not STRICT yet has none: the namespace's says PERMISSIVE. One
// that was STRICT and may be no more keeps its own, which says so.
func (i *Intent) members(d rollout.Decision) {
	i.KeepAllMembers = d.KeepMembers
	for _, m := range d.Members {
		name := m.Object
		switch {
		case m.Keeps():
			i.KeepMembers = append(i.KeepMembers, name)
		case m.Follows(), len(m.Facts.Target.Selector) == 0:
		case m.Decision.Form.Mode == v1alpha1.ModeStrict, m.Facts.Policy.Owned && !m.Decision.Form.Empty():
			i.Members = append(i.Members, Peer{
				Name: name, Selector: maps.Clone(m.Facts.Target.Selector), Form: m.Decision.Form,
				SwitchedAt: m.Decision.SwitchedAt, Previous: m.Decision.Previous,
			})
		}
	}
}
