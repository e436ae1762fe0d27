package resolve

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

// Rival is a profile of the same scope and namespace that reaches a pod that this one reaches.
type Rival struct {
	Profile *v1alpha1.ServiceSecurityProfile
	// SameTarget says that it names the same target, so that it is a rival even without pods.
	SameTarget bool
}

// Conflicts are the sections of a profile that an older rival sets too: of two, the older has it, by creation time and
// then by name. A rival that is being deleted has nothing any more.
func Conflicts(profile *v1alpha1.ServiceSecurityProfile, rivals []Rival) []facts.Problem {
	var conflicts []facts.Problem
	for _, section := range []v1alpha1.Section{v1alpha1.SectionMTLS, v1alpha1.SectionJWT, v1alpha1.SectionAuthorization} {
		if !sets(profile, section) {
			continue
		}
		var winner *Rival
		for i := range rivals {
			rival := &rivals[i]
			if !contends(rival.Profile, section) || !olderThan(rival.Profile, profile) {
				continue
			}
			if winner == nil || olderThan(rival.Profile, winner.Profile) {
				winner = rival
			}
		}
		if winner != nil {
			conflicts = append(conflicts, conflict(profile, section, *winner))
		}
	}
	return conflicts
}

func conflict(profile *v1alpha1.ServiceSecurityProfile, section v1alpha1.Section, winner Rival) facts.Problem {
	what := "for the same target"
	if !winner.SameTarget {
		what = fmt.Sprintf("for some of the same pods (its target is %s)", describeTarget(winner.Profile.Spec.Target))
	}
	return facts.Problem{
		Reason: v1alpha1.ReasonConflicted, Section: section,
		Message: fmt.Sprintf("Profile %q in namespace %q is older and sets %s %s: remove %s from one of the two profiles, or delete one of them.",
			winner.Profile.Name, profile.Namespace, section, what, section),
	}
}

func describeTarget(target v1alpha1.Target) string {
	if target.Kind != v1alpha1.TargetWorkload {
		return fmt.Sprintf("%s %q", target.Kind, target.Name)
	}
	text := ""
	selector := workloadSelector(target)
	for _, key := range slices.Sorted(maps.Keys(selector)) {
		if text != "" {
			text += ","
		}
		text += pair(key, selector[key])
	}
	return fmt.Sprintf("%s %q", target.Kind, text)
}

func sets(profile *v1alpha1.ServiceSecurityProfile, section v1alpha1.Section) bool {
	switch section {
	case v1alpha1.SectionMTLS:
		return profile.Spec.MTLS != nil
	case v1alpha1.SectionJWT:
		return profile.Spec.JWT != nil
	default:
		return profile.Spec.Authorization != nil
	}
}

func contends(profile *v1alpha1.ServiceSecurityProfile, section v1alpha1.Section) bool {
	return profile.DeletionTimestamp.IsZero() && sets(profile, section)
}

func sameTarget(a, b v1alpha1.Target) bool {
	return a.Kind == b.Kind && a.Name == b.Name && maps.Equal(workloadSelector(a), workloadSelector(b))
}

func (res *resolution) resolveConflicts(ctx context.Context) error {
	found, err := rivals(ctx, res.source, res.profile, labelSets(res.pods))
	if err != nil {
		return err
	}
	res.rivals = map[types.UID]bool{}
	for _, rival := range found {
		if contends(rival.Profile, v1alpha1.SectionMTLS) && sets(res.profile, v1alpha1.SectionMTLS) {
			res.rivals[rival.Profile.UID] = true
		}
	}
	for _, problem := range Conflicts(res.profile, found) {
		res.facts.Conflicts = append(res.facts.Conflicts, facts.Conflict{Problem: problem})
	}
	if len(res.facts.Conflicts) > 0 {
		first := res.facts.Conflicts[0]
		res.problem(first.Reason, first.Section, first.Message)
	}
	return nil
}

// rivals are the profiles of the same namespace with the same target, or with a target that has a pod with one of the
// sets of labels, ordered by name.
func rivals(ctx context.Context, s *source, profile *v1alpha1.ServiceSecurityProfile, sets []map[string]string) ([]Rival, error) {
	same, err := find(ctx, s, profilesByTarget, profile.Namespace, profileKeys(profile)...)
	if err != nil {
		return nil, err
	}
	same = slices.DeleteFunc(same, func(p *v1alpha1.ServiceSecurityProfile) bool {
		return !sameTarget(p.Spec.Target, profile.Spec.Target)
	})
	overlapping, err := profilesSelecting(ctx, s, profile.Namespace, sets)
	if err != nil {
		return nil, err
	}
	var found []Rival
	seen := map[string]bool{profile.Name: true}
	for _, p := range slices.Concat(same, overlapping) {
		if !seen[p.Name] {
			seen[p.Name] = true
			found = append(found, Rival{Profile: p, SameTarget: sameTarget(p.Spec.Target, profile.Spec.Target)})
		}
	}
	return found, nil
}

// profilesSelecting returns the profiles of a namespace whose target has a pod with one of the sets of labels.
func profilesSelecting(ctx context.Context, s *source, namespace string, sets []map[string]string) ([]*v1alpha1.ServiceSecurityProfile, error) {
	services, err := servicesSelecting(ctx, s, namespace, sets)
	if err != nil {
		return nil, err
	}
	var keys []string
	selecting := map[string]bool{}
	for _, service := range services {
		selecting[service.Name] = true
		keys = append(keys, serviceTargetKey(service.Name))
	}
	for _, p := range pairs(sets) {
		keys = append(keys, selectorTargetKey(p))
	}
	profiles, err := find(ctx, s, profilesByTarget, namespace, keys...)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(profiles, func(p *v1alpha1.ServiceSecurityProfile) bool {
		if p.Spec.Target.Kind == v1alpha1.TargetService {
			return !selecting[p.Spec.Target.Name]
		}
		return !matchesAny(workloadSelector(p.Spec.Target), sets)
	}), nil
}
