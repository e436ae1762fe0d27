package resolve

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

// Namespace is what is known of the workloads of a whole namespace.
type Namespace struct {
	// Members are those that the profile takes to STRICT one by one, ordered by name.
	Members []facts.Member
	// Idle are those that cannot be observed: they have no pods, or only those of jobs.
	Idle []string
	// Objects that the profile has for single workloads, ordered by name.
	Objects []facts.MemberObject
}

// Members finds the workloads of a profile's namespace and what is to be known of each. Of more than MaxRollouts only the
// names are told.
func (r *Resolver) Members(ctx context.Context, profile *v1alpha1.ServiceSecurityProfile) (Namespace, error) {
	r = r.Sharing()
	s := r.source()
	pods, err := listPods(ctx, s, profile.Namespace)
	if err != nil {
		return Namespace{}, err
	}
	controllers, err := podControllers(ctx, s, profile.Namespace)
	if err != nil {
		return Namespace{}, err
	}
	policies, err := listAll(ctx, s, policiesBySelector, profile.Namespace)
	if err != nil {
		return Namespace{}, err
	}
	groups, idle := workloadsOf(pods, controllers)
	form, kept := memberForm(profile), rollouts(profile)
	out := Namespace{Idle: idle, Objects: memberObjects(profile, policies, groups, idleOf(controllers, idle))}
	for _, g := range groups {
		member := facts.Member{Name: g.name, Profile: memberProfile(form, g, kept), Covered: covered(profile, policies, g), Unselectable: len(g.selector) == 0}
		if len(groups) <= v1alpha1.MaxRollouts {
			if member.Facts, err = r.Member(ctx, member.Profile); err != nil {
				return Namespace{}, err
			}
		}
		out.Members = append(out.Members, member)
	}
	return out, nil
}

// idleOf are the controllers of those names.
func idleOf(controllers []podController, names []string) []podController {
	return slices.DeleteFunc(slices.Clone(controllers), func(c podController) bool {
		_, idle := slices.BinarySearch(names, c.name)
		return !idle
	})
}

// memberObjects are the profile's own policies with a selector, and whom they select, now or once there are pods again.
func memberObjects(profile *v1alpha1.ServiceSecurityProfile, policies []*securityv1.PeerAuthentication, groups []*workload, idle []podController) []facts.MemberObject {
	var objects []facts.MemberObject
	having := byPair(groups)
	for _, policy := range policies {
		selector := policy.Spec.GetSelector().GetMatchLabels()
		if len(selector) == 0 || !metav1.IsControlledBy(policy, profile) {
			continue
		}
		object := facts.MemberObject{Name: policy.Name}
		for _, g := range candidates(groups, having, selector) {
			if some, all := g.picked(selector); some {
				object.Workloads, object.Part = append(object.Workloads, g.name), object.Part || !all
			}
		}
		for _, c := range idle {
			if matches(selector, c.selector) {
				object.Workloads = append(object.Workloads, c.name)
			}
		}
		objects = append(objects, object)
	}
	return objects
}

// covered says whether for every pod of a workload there is somebody else's policy with a mode and a selector.
func covered(profile *v1alpha1.ServiceSecurityProfile, policies []*securityv1.PeerAuthentication, g *workload) bool {
	others := slices.DeleteFunc(slices.Clone(policies), func(policy *securityv1.PeerAuthentication) bool {
		return modeOf(policy.Spec.GetMtls()) == "" || metav1.IsControlledBy(policy, profile)
	})
	return !slices.ContainsFunc(g.pods, func(pod *corev1.Pod) bool {
		return !slices.ContainsFunc(others, func(policy *securityv1.PeerAuthentication) bool {
			return matches(policy.Spec.GetSelector().GetMatchLabels(), pod.Labels)
		})
	})
}

// Member resolves one workload of a whole namespace, by the profile that Members made of the namespace's. A profile of the
// workload's own is narrower, and so goes before it whatever its age.
func (r *Resolver) Member(ctx context.Context, profile *v1alpha1.ServiceSecurityProfile) (facts.Facts, error) {
	if len(workloadSelector(profile.Spec.Target)) == 0 {
		return facts.Facts{Live: r.live, Target: facts.Target{Scope: v1alpha1.ScopeWorkload}}, nil
	}
	member := *r
	member.member = true
	found, err := member.Resolve(ctx, profile)
	if err == nil && !found.Policy.Exists && found.Effective == v1alpha1.ModeStrict {
		// Other objects make it STRICT already: what is new must not be weaker.
		found.Inherited = v1alpha1.ModeStrict
	}
	return found, err
}

// Sharing returns a Resolver that reads each list once, for several resolutions at about the same time, one after another.
func (r *Resolver) Sharing() *Resolver {
	s := r.source()
	s.lists = map[string][]runtime.Object{}
	return r.sharing(s)
}

// sharing returns a Resolver that reads from what was read before.
func (r *Resolver) sharing(s *source) *Resolver {
	shares := *r
	shares.shared = s
	return &shares
}

// lastBorn loses every conflict.
var lastBorn = metav1.NewTime(time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC))

// memberForm is what the profiles of all members are copied from: without a status that has room for a thousand of them.
func memberForm(profile *v1alpha1.ServiceSecurityProfile) *v1alpha1.ServiceSecurityProfile {
	form := *profile
	form.Spec.JWT, form.Spec.Authorization = nil, nil
	form.Status = v1alpha1.ServiceSecurityProfileStatus{ObservedGeneration: profile.Status.ObservedGeneration, MTLS: wholeStatus(profile)}
	if c := meta.FindStatusCondition(profile.Status.Conditions, v1alpha1.ConditionMutualTLSEnforced); c != nil {
		form.Status.Conditions = []metav1.Condition{*c} // whether STRICT was asked for before
	}
	return &form
}

// rollouts are what status kept of workloads, by name.
func rollouts(profile *v1alpha1.ServiceSecurityProfile) map[string]v1alpha1.WorkloadRollout {
	kept := map[string]v1alpha1.WorkloadRollout{}
	if mtls := profile.Status.MTLS; mtls != nil {
		for _, rollout := range mtls.Rollouts {
			kept[rollout.Name] = rollout
		}
	}
	return kept
}

// memberProfile is a whole namespace's profile as if it were for one of its workloads.
func memberProfile(form *v1alpha1.ServiceSecurityProfile, g *workload, kept map[string]v1alpha1.WorkloadRollout) *v1alpha1.ServiceSecurityProfile {
	member := form.DeepCopy()
	member.Name = facts.MemberName(form.Name, g.name)
	labels := map[string]v1alpha1.LabelValue{}
	for key, value := range g.selector {
		labels[key] = v1alpha1.LabelValue(value)
	}
	member.Spec.Target = v1alpha1.Target{Kind: v1alpha1.TargetWorkload, Selector: &v1alpha1.WorkloadSelector{MatchLabels: labels}}
	if rollout, ok := kept[g.name]; ok {
		member.Status.MTLS = memberStatus(rollout)
	}
	return member
}

// wholeStatus is what status kept of every workload of a namespace that had got past them: they stand where it stands.
func wholeStatus(profile *v1alpha1.ServiceSecurityProfile) *v1alpha1.MTLSStatus {
	mtls := profile.Status.MTLS
	if mtls == nil || len(mtls.Rollouts) > 0 || mtls.Stage != "" && mtls.Stage != v1alpha1.StageEnforced {
		return nil
	}
	return &v1alpha1.MTLSStatus{Stage: mtls.Stage, InheritedMode: mtls.InheritedMode}
}

// memberStatus is what status kept of a workload's rollout, as a profile of its own would have kept it.
func memberStatus(rollout v1alpha1.WorkloadRollout) *v1alpha1.MTLSStatus {
	kept := &v1alpha1.MTLSStatus{
		Stage: rollout.Stage, InheritedMode: rollout.InheritedMode, CleanSinceTime: rollout.CleanSinceTime,
		LastPlaintextTime: rollout.LastPlaintextTime, EnforcedTime: rollout.EnforcedTime,
		NextAttemptTime: rollout.NextAttemptTime, Attempts: rollout.Attempts, Evidence: rollout.Evidence,
	}
	for _, kind := range rollout.Blockers {
		kept.Blockers = append(kept.Blockers, v1alpha1.Blocker{Type: kind})
	}
	return kept
}

// maxName bounds the name of several workloads together; the first of them are enough to tell which.
const maxName = 240

// workload is what one selector picks exactly: the pods of one workload or, where no selector tells them apart, of
// several.
type workload struct {
	name string
	pods []*corev1.Pod
	// selector matches these pods and no others; empty if there is none.
	selector map[string]string
}

// workloadsOf sorts pods by the workloads that they are of. Idle are those that have none, and jobs.
func workloadsOf(pods []*corev1.Pod, controllers []podController) (found []*workload, idle []string) {
	selectors := map[string]map[string]string{}
	busy := map[string]bool{}
	for _, c := range controllers {
		selectors[c.kind+"/"+c.name] = c.selector
	}
	byName := map[string]*workload{}
	for _, pod := range pods {
		kind, name := controller(pod)
		key := kind + "/" + name
		busy[key] = true
		switch {
		case isGateway(pod):
			continue // no PeerAuthentication governs its listeners
		case kind == CronJobKind.Kind, kind == "Job":
			idle = append(idle, name)
			continue
		}
		selector, known := selectors[key]
		if !known {
			selector = lasting(pod.Labels)
		}
		w, ok := byName[workloadName(pod)]
		if !ok {
			w = &workload{name: workloadName(pod), selector: selector}
			byName[w.name] = w
		}
		w.pods, w.selector = append(w.pods, pod), shared(w.selector, selector)
	}
	for _, c := range controllers {
		if !busy[c.kind+"/"+c.name] {
			idle = append(idle, c.name)
		}
	}
	slices.Sort(idle)
	return apart(byName), slices.Compact(idle)
}

// picked says whether a selector picks a pod of the workload.
func (w *workload) picked(selector map[string]string) (some, all bool) {
	all = true
	for _, pod := range w.pods {
		picks := matches(selector, pod.Labels)
		some, all = some || picks, all && picks
	}
	return some, all
}

// apart unites workloads until the selector of each picks no pod of another. A selector is looked at again only when it
// became broader.
func apart(byName map[string]*workload) []*workload {
	all := make([]*workload, 0, len(byName))
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		all = append(all, byName[name])
	}
	having, into := byPair(all), map[*workload]*workload{}
	for queue := slices.Clone(all); len(queue) > 0; queue = queue[1:] {
		w := queue[0]
		if into[w] == nil && w.unite(candidates(all, having, w.selector), into) {
			queue = append(queue, w)
		}
	}
	return slices.DeleteFunc(all, func(w *workload) bool { return into[w] != nil })
}

// unite takes in the workloads of which the selector picks a pod, and says whether there were any. Into says what was taken
// in by which.
func (w *workload) unite(candidates []*workload, into map[*workload]*workload) bool {
	selector, grown := w.selector, false
	for _, candidate := range candidates {
		other := candidate
		for into[other] != nil {
			other = into[other]
		}
		if some, _ := candidate.picked(selector); other == w || !some {
			continue
		}
		if len(w.name)+len(other.name) < maxName {
			w.name += "+" + other.name
		}
		w.pods, w.selector = append(w.pods, other.pods...), shared(w.selector, other.selector)
		into[other], grown = w, true
	}
	return grown
}

// byPair says which workloads have a pod with a label.
func byPair(all []*workload) map[[2]string][]*workload {
	having := map[[2]string][]*workload{}
	for _, w := range all {
		for _, pod := range w.pods {
			for key, value := range pod.Labels {
				pair := [2]string{key, value}
				if with := having[pair]; len(with) == 0 || with[len(with)-1] != w {
					having[pair] = append(with, w)
				}
			}
		}
	}
	return having
}

// candidates are the workloads of which a selector may pick pods: those that have the rarest of its labels.
func candidates(all []*workload, having map[[2]string][]*workload, selector map[string]string) []*workload {
	rarest := all
	for key, value := range selector {
		if with := having[[2]string{key, value}]; len(with) < len(rarest) {
			rarest = with
		}
	}
	return rarest
}

// shared are the pairs that both have.
func shared(a, b map[string]string) map[string]string {
	out := map[string]string{}
	for key, value := range a {
		if got, ok := b[key]; ok && got == value {
			out[key] = value
		}
	}
	return out
}

// naming are the labels by which people tell workloads apart, as Kubernetes recommends them or as they were before.
var naming = []string{"app", "k8s-app", "app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component"}

// lasting are the labels of a pod without a known controller that its successor will have, too: those that name it or, if
// it has none of these, all but those that somebody gives to each pod anew.
func lasting(labels map[string]string) map[string]string {
	out := map[string]string{}
	for _, key := range naming {
		if value, ok := labels[key]; ok {
			out[key] = value
		}
	}
	if len(out) > 0 {
		return out
	}
	for key, value := range labels {
		if !strings.Contains(key, "hash") && !strings.Contains(key, "istio.io/") && !strings.HasPrefix(key, "apps.kubernetes.io/") &&
			!strings.HasPrefix(key, "statefulset.kubernetes.io/") && !strings.Contains(key, "uid") {
			out[key] = value
		}
	}
	return out
}

// yields says that a policy is no competitor: it is the profile's own, or that of a profile in conflict with it, which says
// so itself, or one of a wider profile's.
func (res *resolution) yields(ctx context.Context, policy *securityv1.PeerAuthentication) (bool, error) {
	if metav1.IsControlledBy(policy, res.profile) || res.ofRival(policy) {
		return true, nil
	}
	return res.ofWider(ctx, policy)
}

// ofWider says that a policy is one of those that a whole namespace's profile has for its workloads: a profile of the
// workload's own goes before it, and takes its place.
func (res *resolution) ofWider(ctx context.Context, policy metav1.Object) (bool, error) {
	owner := metav1.GetControllerOfNoCopy(policy)
	if owner == nil || owner.Kind != v1alpha1.Kind {
		return false, nil
	}
	var profile v1alpha1.ServiceSecurityProfile
	found, err := res.get(ctx, core, policy.GetNamespace(), owner.Name, &profile)
	return found && profile.UID == owner.UID && profile.UID != res.profile.UID && wide(profile.Spec.Target.Kind), err
}
