package resolve

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

func deleting(profile *v1alpha1.ServiceSecurityProfile) {
	now := at(99)
	profile.DeletionTimestamp = &now
	profile.Finalizers = []string{"example.org/hold"}
}

func sections(mtls, jwt, authorization bool) func(*v1alpha1.ServiceSecurityProfile) {
	return func(profile *v1alpha1.ServiceSecurityProfile) {
		profile.Spec.MTLS, profile.Spec.JWT, profile.Spec.Authorization = nil, nil, nil
		if mtls {
			profile.Spec.MTLS = &v1alpha1.MTLS{Mode: strict}
		}
		if jwt {
			profile.Spec.JWT = &v1alpha1.JWT{}
		}
		if authorization {
			profile.Spec.Authorization = &v1alpha1.Authorization{}
		}
	}
}

func edited(profile *v1alpha1.ServiceSecurityProfile, edits ...func(*v1alpha1.ServiceSecurityProfile)) *v1alpha1.ServiceSecurityProfile {
	for _, edit := range edits {
		edit(profile)
	}
	return profile
}

func TestConflicts(t *testing.T) {
	web, v1 := toService("web"), toWorkload(tags{"app": "web", "version": "v1"})
	for name, tc := range map[string]struct {
		profile *v1alpha1.ServiceSecurityProfile
		rivals  []Rival
		want    []facts.Problem
	}{
		"no rival": {newProfile("b", 10, web, strict), nil, nil},
		"older rival": {newProfile("b", 10, web, strict), []Rival{{Profile: newProfile("a", 5, web, permissive), SameTarget: true}}, []facts.Problem{{
			Reason: v1alpha1.ReasonConflicted, Section: v1alpha1.SectionMTLS,
			Message: `Profile "a" in namespace "foo" is older and sets mtls for the same target: remove mtls from one of the two profiles, or delete one of them.`,
		}}},
		"older rival of another target": {newProfile("b", 10, web, strict), []Rival{{Profile: newProfile("a", 5, v1, permissive), SameTarget: false}}, []facts.Problem{{
			Reason: v1alpha1.ReasonConflicted, Section: v1alpha1.SectionMTLS,
			Message: `Profile "a" in namespace "foo" is older and sets mtls for some of the same pods (its target is Workload "app=web,version=v1"): remove mtls from one of the two profiles, or delete one of them.`,
		}}},
		"older rival of another Service": {newProfile("b", 10, v1, strict), []Rival{{Profile: newProfile("a", 5, web, permissive), SameTarget: false}}, []facts.Problem{{
			Reason: v1alpha1.ReasonConflicted, Section: v1alpha1.SectionMTLS,
			Message: `Profile "a" in namespace "foo" is older and sets mtls for some of the same pods (its target is Service "web"): remove mtls from one of the two profiles, or delete one of them.`,
		}}},
		"younger rival":               {newProfile("b", 10, web, strict), []Rival{{Profile: newProfile("a", 15, web, strict), SameTarget: true}}, nil},
		"same age, later name":        {newProfile("b", 10, web, strict), []Rival{{Profile: newProfile("c", 10, web, strict), SameTarget: true}}, nil},
		"rival that is being deleted": {newProfile("b", 10, web, strict), []Rival{{Profile: edited(newProfile("a", 5, web, strict), deleting), SameTarget: true}}, nil},
		"rival with other sections":   {edited(newProfile("b", 10, web, strict), sections(true, false, false)), []Rival{{Profile: edited(newProfile("a", 5, web, strict), sections(false, true, true)), SameTarget: true}}, nil},
		"same age, earlier name, and the oldest is named": {newProfile("c", 10, web, strict), []Rival{{Profile: newProfile("b", 10, web, strict), SameTarget: true}, {Profile: newProfile("a", 10, web, strict), SameTarget: true}}, []facts.Problem{{
			Reason: v1alpha1.ReasonConflicted, Section: v1alpha1.SectionMTLS,
			Message: `Profile "a" in namespace "foo" is older and sets mtls for the same target: remove mtls from one of the two profiles, or delete one of them.`,
		}}},
		"each section has its own winner": {
			edited(newProfile("c", 10, web, strict), sections(true, true, true)),
			[]Rival{{Profile: edited(newProfile("a", 5, web, strict), sections(false, true, false)), SameTarget: true}, {Profile: edited(newProfile("b", 7, web, strict), sections(false, true, true)), SameTarget: true}},
			[]facts.Problem{
				{Reason: v1alpha1.ReasonConflicted, Section: v1alpha1.SectionJWT, Message: `Profile "a" in namespace "foo" is older and sets jwt for the same target: remove jwt from one of the two profiles, or delete one of them.`},
				{Reason: v1alpha1.ReasonConflicted, Section: v1alpha1.SectionAuthorization, Message: `Profile "b" in namespace "foo" is older and sets authorization for the same target: remove authorization from one of the two profiles, or delete one of them.`},
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var got []facts.Problem
			for _, contest := range Conflicts(tc.profile, tc.rivals) {
				got = append(got, contest.Problem)
			}
			diff(t, "conflicts", tc.want, got)
		})
	}
}

func TestResolveConflicts(t *testing.T) {
	web := tags{"app": "web"}
	profile := newProfile("m", 10, toService("web"), strict)
	service, pod := newService("web", web, port(80, 8080)), newPod("web-a", tags{"app": "web", "version": "v1"})
	elsewhere := newProfile("a", 5, toService("web"), strict)
	elsewhere.Namespace = "bar"
	for name, tc := range map[string]struct {
		profile *v1alpha1.ServiceSecurityProfile
		objects []client.Object
		// winner of mtls; empty for none.
		winner string
	}{
		"alone":                                 {profile, []client.Object{service, pod}, ""},
		"same Service":                          {profile, []client.Object{service, pod, newProfile("a", 5, toService("web"), strict)}, "a"},
		"same Service, which is not there":      {profile, []client.Object{newProfile("a", 5, toService("web"), strict)}, "a"},
		"same Service in another namespace":     {profile, []client.Object{service, pod, elsewhere}, ""},
		"another Service of the same pods":      {profile, []client.Object{service, pod, newService("too", web), newProfile("a", 5, toService("too"), strict)}, "a"},
		"another Service of other pods":         {profile, []client.Object{service, pod, newService("db", tags{"app": "db"}), newProfile("a", 5, toService("db"), strict)}, ""},
		"Workload with a pod in common":         {profile, []client.Object{service, pod, newProfile("a", 5, toWorkload(tags{"version": "v1"}), strict)}, "a"},
		"Workload without a pod in common":      {profile, []client.Object{service, pod, newProfile("a", 5, toWorkload(tags{"version": "v2"}), strict)}, ""},
		"Workload whose pod has finished":       {profile, []client.Object{service, newPod("x", tags{"app": "web", "v": "1"}, func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }), newProfile("a", 5, toWorkload(tags{"v": "1"}), strict)}, ""},
		"target Namespace":                      {profile, []client.Object{service, pod, newProfile("a", 5, v1alpha1.Target{Kind: v1alpha1.TargetNamespace}, strict)}, ""},
		"Workload against the same, no pods":    {newProfile("m", 10, toWorkload(web), strict), []client.Object{newProfile("a", 5, toWorkload(web), strict)}, "a"},
		"Workload against a like one, no pods":  {newProfile("m", 10, toWorkload(web), strict), []client.Object{newProfile("a", 5, toWorkload(tags{"app": "web", "v": "1"}), strict)}, ""},
		"rival of the same target that is gone": {profile, []client.Object{service, pod, edited(newProfile("a", 5, toService("web"), strict), deleting)}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := mustResolve(t, cluster(t, append(tc.objects, tc.profile)...), tc.profile)
			winner := ""
			for _, problem := range got.Conflicts {
				name, _, _ := strings.Cut(strings.TrimPrefix(problem.Message, `Profile "`), `"`)
				winner += name
			}
			if winner != tc.winner {
				t.Errorf("conflicts are %v, want profile %q to win", got.Conflicts, tc.winner)
			}
		})
	}
	t.Run("a lost Service is told before the conflict", func(t *testing.T) {
		got := mustResolve(t, cluster(t, profile, newProfile("a", 5, toService("web"), strict)), profile)
		if got.Problem == nil || got.Problem.Reason != v1alpha1.ReasonTargetNotFound || len(got.Conflicts) != 1 {
			t.Errorf("problem is %v with conflicts %v, want TargetNotFound and one conflict", got.Problem, got.Conflicts)
		}
	})
}
