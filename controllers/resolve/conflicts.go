package resolve

import (
	"context"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

// Rival is a profile that reaches a pod that this one reaches.
type Rival struct {
	Profile *v1alpha1.ServiceSecurityProfile
	// SameTarget says that it names the same target, so that it is a rival even without pods.
	SameTarget bool
	// Across says that it is of another scope. Istio then knows which of two objects counts, but for tokens: each policy
	// that demands one refuses the other profile's.
	Across bool
}

// Contest is a section that an older rival has.
type Contest struct {
	facts.Problem
	Winner Rival
}

// allSections in the order in which they are told.
var allSections = []v1alpha1.Section{v1alpha1.SectionMTLS, v1alpha1.SectionJWT, v1alpha1.SectionAuthorization}

// Conflicts are the sections of a profile that an older rival sets too: of two, the older has it, by creation time and
// then by name. A rival that is being deleted has nothing any more.
func Conflicts(profile *v1alpha1.ServiceSecurityProfile, rivals []Rival) []Contest {
	var conflicts []Contest
	for _, section := range allSections {
		var winner *Rival
		for i := range rivals {
			rival := &rivals[i]
			if !contends(profile, *rival, section) || !olderThan(rival.Profile, profile) {
				continue
			}
			if winner == nil || olderThan(rival.Profile, winner.Profile) {
				winner = rival
			}
		}
		if winner != nil {
			conflicts = append(conflicts, Contest{Problem: conflict(section, *winner), Winner: *winner})
		}
	}
	return conflicts
}

func conflict(section v1alpha1.Section, winner Rival) facts.Problem {
	problem := facts.Problem{Reason: v1alpha1.ReasonConflicted, Section: section}
	other := winner.Profile
	switch {
	case winner.Across:
		problem.Message = fmt.Sprintf("Profile %q in namespace %q, whose target is %s, is older and accepts other tokens for some of the same pods, and Istio would not keep the two apart: list the same issuers with the same keys and audiences in both profiles, or remove jwt from one of them.",
			other.Name, other.Namespace, describeTarget(other))
	case winner.SameTarget:
		problem.Message = fmt.Sprintf("Profile %q in namespace %q is older and sets %s for the same target: remove %s from one of the two profiles, or delete one of them.",
			other.Name, other.Namespace, section, section)
	default:
		problem.Message = fmt.Sprintf("Profile %q in namespace %q is older and sets %s for some of the same pods (its target is %s): remove %s from one of the two profiles, or delete one of them.",
			other.Name, other.Namespace, section, describeTarget(other), section)
	}
	return problem
}

func describeTarget(profile *v1alpha1.ServiceSecurityProfile) string {
	switch target := profile.Spec.Target; target.Kind {
	case v1alpha1.TargetWorkload:
		text := ""
		selector := workloadSelector(target)
		for _, key := range slices.Sorted(maps.Keys(selector)) {
			if text != "" {
				text += ","
			}
			text += pair(key, selector[key])
		}
		return fmt.Sprintf("%s %q", target.Kind, text)
	case v1alpha1.TargetNamespace:
		return fmt.Sprintf("%s %q", target.Kind, profile.Namespace)
	case v1alpha1.TargetMesh:
		return "the mesh"
	case v1alpha1.TargetService, v1alpha1.TargetGateway:
	}
	return fmt.Sprintf("%s %q", profile.Spec.Target.Kind, profile.Spec.Target.Name)
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

// contends says whether a rival's section stands against the profile's.
func contends(profile *v1alpha1.ServiceSecurityProfile, rival Rival, section v1alpha1.Section) bool {
	if !rival.Profile.DeletionTimestamp.IsZero() || !sets(rival.Profile, section) || !sets(profile, section) {
		return false
	}
	return !rival.Across || section == v1alpha1.SectionJWT && tokensClash(profile, rival.Profile)
}

// tokensClash says whether one of two profiles demands a token that the other's issuers cannot all give, or whether they
// say different things of one issuer: Istio takes a token that either of them takes.
func tokensClash(a, b *v1alpha1.ServiceSecurityProfile) bool {
	if (demandsToken(a) || demandsToken(b)) && !slices.Equal(profileIssuers(a), profileIssuers(b)) {
		return true
	}
	return slices.ContainsFunc(a.Spec.JWT.Issuers, func(mine v1alpha1.Issuer) bool {
		return slices.ContainsFunc(b.Spec.JWT.Issuers, func(theirs v1alpha1.Issuer) bool {
			return mine.Issuer == theirs.Issuer && !equality.Semantic.DeepEqual(mine, theirs)
		})
	})
}

// demandsToken says whether the profile's tokens are required, as they are by default.
func demandsToken(profile *v1alpha1.ServiceSecurityProfile) bool {
	return profile.Spec.JWT != nil && profile.Spec.JWT.Requirement != v1alpha1.TokenOptional
}

func sameTarget(a, b v1alpha1.Target) bool {
	return a.Kind == b.Kind && a.Name == b.Name && maps.Equal(workloadSelector(a), workloadSelector(b))
}

func (res *resolution) resolveConflicts(ctx context.Context) error {
	if res.misplaced {
		return nil
	}
	found, err := rivals(ctx, res.source, res.profile, labelSets(res.pods), res.facts.Mesh.RootNamespace)
	if err != nil {
		return err
	}
	if found, err = res.sharing(ctx, found); err != nil {
		return err
	}
	res.rivals, res.tokenRivals = map[types.UID]bool{}, map[types.UID]bool{}
	for _, rival := range found {
		leaves := rival.SameTarget && sets(res.profile, v1alpha1.SectionMTLS) && !sets(rival.Profile, v1alpha1.SectionMTLS)
		if leaves || contends(res.profile, rival, v1alpha1.SectionMTLS) {
			res.rivals[rival.Profile.UID] = true
		}
		if contends(res.profile, rival, v1alpha1.SectionJWT) {
			res.tokenRivals[rival.Profile.UID] = true
		}
	}
	if err := res.resolveHandover(ctx, found); err != nil {
		return err
	}
	return res.resolveContests(ctx, found)
}

// resolveContests finds the sections that others have.
func (res *resolution) resolveContests(ctx context.Context, found []Rival) error {
	mine := res.profile
	if res.resolver.member {
		mine = mine.DeepCopy()
		mine.CreationTimestamp = lastBorn
	}
	for _, contest := range Conflicts(mine, found) {
		live, err := res.winnerLive(ctx, contest)
		if err != nil {
			return err
		}
		lost := facts.Conflict{Problem: contest.Problem, WinnerLive: live}
		if contest.Section == v1alpha1.SectionMTLS {
			lost.WinnerAsks = contest.Winner.Profile.Spec.MTLS.Mode
			if res.resolver.member {
				res.exceptions = contest.Winner.Profile.Spec.MTLS.PortLevel
			}
		}
		res.facts.Conflicts = append(res.facts.Conflicts, lost)
	}
	if len(res.facts.Conflicts) > 0 {
		first := res.facts.Conflicts[0]
		res.problem(first.Reason, first.Section, first.Message)
	}
	return nil
}

// sharing leaves out the rivals of other scopes that have no pod in common with the profile: one without pods must not keep
// the tokens of a whole mesh from being written.
func (res *resolution) sharing(ctx context.Context, found []Rival) ([]Rival, error) {
	var sharing []Rival
	for _, rival := range found {
		shares, err := res.shares(ctx, rival)
		if err != nil {
			return nil, err
		}
		if shares {
			sharing = append(sharing, rival)
		}
	}
	return sharing, nil
}

func (res *resolution) shares(ctx context.Context, rival Rival) (bool, error) {
	target := rival.Profile.Spec.Target
	if !rival.Across {
		return true, nil
	}
	if wide(target.Kind) && !wide(res.profile.Spec.Target.Kind) {
		return len(res.pods) > 0, nil // the rival has them all
	}
	selector := workloadSelector(target)
	switch target.Kind {
	case v1alpha1.TargetService:
		var service corev1.Service
		if _, err := res.get(ctx, core, rival.Profile.Namespace, target.Name, &service); err != nil {
			return false, err
		}
		selector = serviceSelector(&service)
	case v1alpha1.TargetGateway:
		selector = map[string]string{labelGatewayName: target.Name}
	case v1alpha1.TargetWorkload, v1alpha1.TargetNamespace, v1alpha1.TargetMesh:
	}
	return slices.ContainsFunc(res.pods, func(pod *corev1.Pod) bool {
		near := target.Kind == v1alpha1.TargetMesh || pod.Namespace == rival.Profile.Namespace
		return near && (wide(target.Kind) || matches(selector, pod.Labels))
	}), nil
}

// resolveHandover finds the sections that the profile has given up, and that another one of the same target takes up: what
// it had stays until the objects of one of those are there.
func (res *resolution) resolveHandover(ctx context.Context, found []Rival) error {
	for _, section := range allSections {
		if sets(res.profile, section) {
			continue
		}
		takers := slices.DeleteFunc(slices.Clone(found), func(rival Rival) bool {
			return !rival.SameTarget || !rival.Profile.DeletionTimestamp.IsZero() || !sets(rival.Profile, section)
		})
		live := len(takers) == 0
		for _, taker := range takers {
			taken, err := res.taken(ctx, taker, section)
			if err != nil {
				return err
			}
			live = live || taken
		}
		if !live {
			res.facts.Handover = append(res.facts.Handover, section)
		}
	}
	return nil
}

// taken says whether what another profile takes over of a section is in the cluster.
func (res *resolution) taken(ctx context.Context, taker Rival, section v1alpha1.Section) (bool, error) {
	if section == v1alpha1.SectionMTLS {
		return res.peerTaken(ctx, taker.Profile)
	}
	return res.winnerLive(ctx, Contest{Problem: facts.Problem{Section: section}, Winner: taker})
}

// anyRoot stands for the root namespace where it does not matter which it is.
const anyRoot = "*"

// rivals are the profiles of the same namespace with the same target, or with a target that has a pod with one of the
// sets of labels, and those of other scopes with tokens, in this order and each ordered by name. A profile for the mesh
// counts only in the root namespace.
func rivals(ctx context.Context, s *source, profile *v1alpha1.ServiceSecurityProfile, sets []map[string]string, root string) ([]Rival, error) {
	same, err := find(ctx, s, profilesByTarget, profile.Namespace, targetKey(profile.Spec.Target))
	if err != nil {
		return nil, err
	}
	same = slices.DeleteFunc(same, func(p *v1alpha1.ServiceSecurityProfile) bool {
		return !sameTarget(p.Spec.Target, profile.Spec.Target)
	})
	var overlapping []*v1alpha1.ServiceSecurityProfile
	if !wide(profile.Spec.Target.Kind) {
		if overlapping, err = profilesSelecting(ctx, s, profile.Namespace, sets); err != nil {
			return nil, err
		}
	}
	across, err := tokensAcross(ctx, s, profile)
	if err != nil {
		return nil, err
	}
	var found []Rival
	seen := map[client.ObjectKey]bool{client.ObjectKeyFromObject(profile): true}
	for _, p := range slices.Concat(same, overlapping, across) {
		key := client.ObjectKeyFromObject(p)
		misplaced := p.Spec.Target.Kind == v1alpha1.TargetMesh && root != anyRoot && p.Namespace != root
		if seen[key] || misplaced {
			continue
		}
		seen[key] = true
		found = append(found, Rival{
			Profile: p, SameTarget: p.Namespace == profile.Namespace && sameTarget(p.Spec.Target, profile.Spec.Target),
			Across: scopeRank(p.Spec.Target.Kind) != scopeRank(profile.Spec.Target.Kind),
		})
	}
	return found, nil
}

// wide says that a target is more than a Service, a Workload or a Gateway.
func wide(kind v1alpha1.TargetKind) bool { return scopeRank(kind) > 0 }

// scopeRank is the same for kinds of target whose objects are of one scope: a Gateway may be a Workload by another name.
func scopeRank(kind v1alpha1.TargetKind) int {
	switch kind {
	case v1alpha1.TargetNamespace:
		return 1
	case v1alpha1.TargetMesh:
		return 2
	case v1alpha1.TargetService, v1alpha1.TargetWorkload, v1alpha1.TargetGateway:
	}
	return 0
}

// tokensAcross are the profiles with tokens whose scope is wider or narrower than the profile's, if it has any itself.
func tokensAcross(ctx context.Context, s *source, profile *v1alpha1.ServiceSecurityProfile) ([]*v1alpha1.ServiceSecurityProfile, error) {
	if profile.Spec.JWT == nil {
		return nil, nil
	}
	namespace, key := profile.Namespace, sectionKey(v1alpha1.SectionJWT)
	switch scopeRank(profile.Spec.Target.Kind) {
	case 0:
		key = wholeNamespace
	case 2:
		namespace = ""
	}
	near, err := find(ctx, s, profilesByTarget, namespace, key)
	if err != nil || profile.Spec.Target.Kind == v1alpha1.TargetMesh {
		return othersScope(profile, near), err
	}
	mesh, err := find(ctx, s, profilesByTarget, "", wholeMesh)
	return othersScope(profile, append(near, mesh...)), err
}

func othersScope(profile *v1alpha1.ServiceSecurityProfile, profiles []*v1alpha1.ServiceSecurityProfile) []*v1alpha1.ServiceSecurityProfile {
	return slices.DeleteFunc(profiles, func(p *v1alpha1.ServiceSecurityProfile) bool {
		return p.Spec.JWT == nil || scopeRank(p.Spec.Target.Kind) == scopeRank(profile.Spec.Target.Kind)
	})
}

// profilesSelecting returns the profiles of a namespace whose target has a pod with one of the sets of labels; those of
// the whole namespace and of the mesh are not among them.
func profilesSelecting(ctx context.Context, s *source, namespace string, sets []map[string]string) ([]*v1alpha1.ServiceSecurityProfile, error) {
	services, err := servicesSelecting(ctx, s, namespace, sets)
	if err != nil {
		return nil, err
	}
	var keys []string
	for _, service := range services {
		keys = append(keys, serviceTargetKey(service.Name))
	}
	for _, p := range pairs(sets) {
		keys = append(keys, selectorTargetKey(p))
	}
	gateways := map[string]bool{}
	for _, set := range sets {
		if name := set[labelGatewayName]; name != "" && !gateways[name] {
			gateways[name] = true
			keys = append(keys, gatewayTargetKey(name))
		}
	}
	profiles, err := find(ctx, s, profilesByTarget, namespace, keys...)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(profiles, func(p *v1alpha1.ServiceSecurityProfile) bool {
		target := p.Spec.Target
		switch target.Kind {
		case v1alpha1.TargetService:
			return !slices.ContainsFunc(services, func(s *corev1.Service) bool { return s.Name == target.Name })
		case v1alpha1.TargetGateway:
			return !gateways[target.Name]
		default:
			return !matchesAny(workloadSelector(target), sets)
		}
	}), nil
}
