package resolve

import (
	"fmt"
	"maps"
	"testing"

	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

// ofDeployment makes a pod one of a Deployment.
func ofDeployment(name string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) { pod.OwnerReferences[0].Name = name + "-h1" }
}

func bare(pod *corev1.Pod) { pod.OwnerReferences, pod.GenerateName = nil, "" }

func ofJob(pod *corev1.Pod) {
	pod.OwnerReferences[0].Kind, pod.OwnerReferences[0].Name = "Job", "backup-28000000"
}

func deployed(name string, selector tags) podController {
	return podController{kind: "Deployment", name: name, selector: selector}
}

func TestWorkloads(t *testing.T) {
	web, v1, v2 := tags{"app": "web"}, tags{"app": "web", "version": "v1"}, tags{"app": "web", "version": "v2"}
	for name, tc := range map[string]struct {
		pods        []*corev1.Pod
		controllers []podController
		want, idle  []string
	}{
		"by the selector of its controller": {
			pods:        []*corev1.Pod{newPod("a", tags{"app": "web", "chart": "web-1.2"}, ofDeployment("web"))},
			controllers: []podController{deployed("web", web)}, want: []string{"web map[app:web]"},
		},
		"several that a label tells apart": {
			pods:        []*corev1.Pod{newPod("a", v1, ofDeployment("one")), newPod("b", v2, ofDeployment("two")), newPod("c", v2, ofDeployment("two"))},
			controllers: []podController{deployed("one", v1), deployed("two", v2)},
			want:        []string{"one map[app:web version:v1]", "two map[app:web version:v2]"},
		},
		"one selector picks the other's pods": {
			pods:        []*corev1.Pod{newPod("a", v1, ofDeployment("one")), newPod("b", v2, ofDeployment("two")), newPod("c", tags{"app": "db"}, ofDeployment("db"))},
			controllers: []podController{deployed("one", web), deployed("two", v2), deployed("db", tags{"app": "db"})},
			want:        []string{"db map[app:db]", "one+two map[app:web]"},
		},
		"three in a chain": {
			pods: []*corev1.Pod{
				newPod("a", tags{"x": "1", "y": "1", "z": "1"}, ofDeployment("one")), newPod("b", tags{"x": "1", "y": "1", "z": "2"}, ofDeployment("two")),
				newPod("c", tags{"x": "1", "y": "2", "z": "3"}, ofDeployment("three")),
			},
			controllers: []podController{deployed("one", tags{"x": "1", "y": "1"}), deployed("two", tags{"x": "1", "z": "2"}), deployed("three", tags{"z": "3"})},
			want:        []string{"one+two+three map[]"},
		},
		"an unknown controller": {
			pods: []*corev1.Pod{newPod("a", tags{"app": "web", "version": "v7"}, bare), newPod("b", tags{"tier": "back", "apps.kubernetes.io/pod-index": "0"}, bare)},
			want: []string{"a map[app:web]", "b map[tier:back]"},
		},
		"no labels": {pods: []*corev1.Pod{newPod("a", nil, bare)}, want: []string{"a map[]"}},
		"none to observe": {
			pods:        []*corev1.Pod{newPod("a", tags{"app": "backup"}, ofJob), newPod("b", tags{"app": "gw"}, router)},
			controllers: []podController{deployed("idle", web), {kind: "CronJob", name: "backup"}, {kind: "CronJob", name: "monthly"}},
			idle:        []string{"backup", "idle", "monthly"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			found, idle := workloadsOf(tc.pods, tc.controllers)
			var got []string
			for _, w := range found {
				got = append(got, fmt.Sprintf("%s %v", w.name, w.selector))
				for _, pod := range tc.pods {
					picked := matches(w.selector, pod.Labels)
					own := false
					for _, p := range w.pods {
						own = own || p == pod
					}
					if picked && !own || len(w.selector) > 0 && own && !picked {
						t.Errorf("%s: pod %s, own %t, picked %t", w.name, pod.Name, own, picked)
					}
				}
			}
			diff(t, "workloads", tc.want, got)
			diff(t, "idle", tc.idle, idle)
		})
	}
}

// TestMembers: what is known of one workload of a namespace is what is known of it as a target, and a profile of its own
// goes before.
func TestMembers(t *testing.T) {
	web, db := tags{"app": "web"}, tags{"app": "db"}
	all := newProfile("all", 0, toNamespace, strict)
	all.UID = "all"
	all.Status.MTLS = &v1alpha1.MTLSStatus{Rollouts: []v1alpha1.WorkloadRollout{{Name: "web", Stage: v1alpha1.StageVerifying, Attempts: 2}}}
	object := facts.MemberName("all", "web")
	deployment := func(name string, selector tags) *appsv1.Deployment {
		return &appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Namespace: "foo", Name: name},
			Spec:       appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: selector}},
		}
	}
	base := []client.Object{
		all, newService("web", web, port(80, 8080)), newPod("web-1", web, ofDeployment("web")), newPod("db-1", db, ofDeployment("db")),
		deployment("web", web), deployment("db", db), deployment("idle", tags{"app": "idle"}),
	}
	of := func(t *testing.T, objects ...client.Object) map[string]facts.Member {
		t.Helper()
		found, err := cluster(t, append(objects, base...)...).Members(t.Context(), all)
		if err != nil {
			t.Fatal(err)
		}
		diff(t, "idle", []string{"idle"}, found.Idle)
		out := map[string]facts.Member{}
		for _, m := range found.Members {
			out[m.Name] = m
		}
		return out
	}
	t.Run("alone", func(t *testing.T) {
		got := of(t, owned(newPolicy("foo", "default", 0, nil, permissive), all), owned(newPolicy("foo", object, 1, web, strict), all))
		member := got["web"]
		diff(t, "name", object, member.Profile.Name)
		diff(t, "status", v1alpha1.StageVerifying, member.Profile.Status.MTLS.Stage)
		diff(t, "effective", strict, member.Facts.Effective)
		diff(t, "own", true, member.Facts.Policy.Owned)
		diff(t, "competing", 0, len(member.Facts.CompetingPolicies))
		diff(t, "hosts", 1, len(member.Facts.Hosts))
		diff(t, "other", permissive, got["db"].Facts.Effective)
	})
	t.Run("the namespace had got past its workloads", func(t *testing.T) {
		before := all.Status
		defer func() { all.Status = before }()
		for _, stage := range []v1alpha1.Stage{v1alpha1.StageEnforced, ""} {
			all.Status.MTLS = &v1alpha1.MTLSStatus{Stage: stage, InheritedMode: permissive, EnforcedTime: &metav1.Time{}}
			diff(t, "status", &v1alpha1.MTLSStatus{Stage: stage, InheritedMode: permissive}, of(t)["web"].Profile.Status.MTLS)
		}
		all.Status.MTLS.Stage = v1alpha1.StageObserving
		diff(t, "status on the way", (*v1alpha1.MTLSStatus)(nil), of(t)["web"].Profile.Status.MTLS)
	})
	t.Run("the namespace is an exception from a STRICT mesh", func(t *testing.T) {
		mesh := newPolicy("istio-system", "default", 0, nil, strict)
		for name, exception := range map[string]*securityv1.PeerAuthentication{
			"of its own": owned(newPolicy("foo", "default", 1, nil, permissive), all), "by hand": newPolicy("foo", "default", 1, nil, permissive),
		} {
			got := of(t, mesh, exception)["web"].Facts
			diff(t, name+", inherited", permissive, got.Inherited)
			diff(t, name+", effective", permissive, got.Effective)
		}
		diff(t, "without one", strict, of(t, mesh)["web"].Facts.Inherited)
	})
	t.Run("STRICT by an object of another name", func(t *testing.T) {
		got := of(t, newPolicy("foo", "hand", 1, web, strict))
		diff(t, "inherited", strict, got["web"].Facts.Inherited)
	})
	t.Run("its object by the name that it had before", func(t *testing.T) {
		old := owned(newPolicy("foo", "all-web+api-0", 1, web, strict), all)
		old.Annotations = map[string]string{
			v1alpha1.AnnotationSwitchedAt: "2026-01-02T03:04:05Z", v1alpha1.AnnotationPreviousMode: "Permissive",
		}
		got := of(t, old)["web"].Facts
		diff(t, "inherited", permissive, got.Inherited)
		diff(t, "in force", facts.Form{Mode: strict}, got.InForce())
		diff(t, "verifying", true, got.Policy.Owned && !got.Policy.SwitchedAt.IsZero())
		diff(t, "previous", facts.Form{Mode: permissive}, got.Policy.Previous)
		younger := of(t, old, newPolicy("foo", "hand", 2, web, permissive))["web"].Facts
		diff(t, "somebody else's is not in force", false, younger.CompetingPolicies[0].Wins)
		diff(t, "under its former name", true, younger.Policy.Former)
		older := newPolicy("foo", "hand", 0, web, strict)
		diff(t, "somebody else's is in force", false, of(t, old, older)["web"].Facts.Policy.Exists)
		part := maps.Clone(web)
		part["version"] = "none"
		old.Spec.Selector.MatchLabels = part
		diff(t, "for none of its pods", false, of(t, old)["web"].Facts.Policy.Exists)
	})
	t.Run("objects, and who is covered", func(t *testing.T) {
		portsOnly := newPolicy("foo", "hand", 0, db, "", withPorts(map[uint32]v1alpha1.Mode{80: permissive}))
		objects := []client.Object{owned(newPolicy("foo", "gone", 1, tags{"app": "gone"}, strict), all), owned(newPolicy("foo", object, 1, web, strict), all), owned(newPolicy("foo", "sleeping", 1, tags{"app": "idle"}, strict), all), portsOnly}
		found, err := cluster(t, append(objects, base...)...).Members(t.Context(), all)
		if err != nil {
			t.Fatal(err)
		}
		diff(t, "objects", []facts.MemberObject{{Name: object, Workloads: []string{"web"}}, {Name: "gone"}, {Name: "sleeping", Workloads: []string{"idle"}}}, found.Objects)
		narrower := owned(newPolicy("foo", "blue", 1, tags{"app": "web", "colour": "blue"}, strict), all)
		united, err := cluster(t, append([]client.Object{newPod("web-blue", tags{"app": "web", "colour": "blue"}), narrower}, base...)...).Members(t.Context(), all)
		if err != nil {
			t.Fatal(err)
		}
		diff(t, "part", []facts.MemberObject{{Name: "blue", Workloads: []string{united.Members[1].Name}, Part: true}}, united.Objects)
		diff(t, "covered", []bool{false, false}, []bool{found.Members[0].Covered, found.Members[1].Covered})
		got := of(t, newPolicy("foo", "hand", 0, db, permissive))
		diff(t, "covered", true, got["db"].Covered)
		diff(t, "covered", false, got["web"].Covered)
	})
	t.Run("a profile of its own", func(t *testing.T) {
		own := newProfile("web", 9, toService("web"), permissive)
		own.UID = "own"
		got := of(t, own, owned(newPolicy("foo", "web", 9, web, permissive), own), owned(newPolicy("foo", object, 1, web, strict), all))
		diff(t, "lost", true, got["web"].Facts.Lost(v1alpha1.SectionMTLS))
		diff(t, "winner", permissive, got["web"].Facts.Conflicts[0].WinnerAsks)
		diff(t, "exception", true, got["web"].Facts.Conflicts[0].WinnerLive)
		// The one that waits for its evidence does not take STRICT away meanwhile.
		own.Spec.MTLS.Mode = strict
		got = of(t, own, owned(newPolicy("foo", "web", 9, web, permissive), own), owned(newPolicy("foo", object, 1, web, strict), all))
		diff(t, "weaker", false, got["web"].Facts.Conflicts[0].WinnerLive)
		got = of(t, own, owned(newPolicy("foo", "web", 9, web, permissive), own), owned(newPolicy("foo", "all-before", 1, web, strict), all))
		diff(t, "weaker than what it had under another name", false, got["web"].Facts.Conflicts[0].WinnerLive)
		got = of(t, own, owned(newPolicy("foo", "web", 9, web, permissive), own), owned(newPolicy("foo", "all-db", 1, db, strict), all))
		diff(t, "weaker than another workload's", true, got["web"].Facts.Conflicts[0].WinnerLive)
		// STRICT on all ports but those that it excepts is all that it asks for.
		own.Spec.MTLS.PortLevel = []v1alpha1.PortMTLS{{Port: 8080, Mode: permissive}}
		excepting := withPorts(map[uint32]v1alpha1.Mode{8080: permissive})
		got = of(t, own, owned(newPolicy("foo", "web", 9, web, strict, excepting), own))
		diff(t, "STRICT but for its exception", strict, got["web"].Facts.Effective)
		own.Spec.MTLS.PortLevel[0].Port = 9090
		got = of(t, own, owned(newPolicy("foo", "web", 9, web, strict, excepting), own))
		diff(t, "weaker on another port", permissive, got["web"].Facts.Effective)
		own.Spec.MTLS.PortLevel = nil
		r := cluster(t, append(base, own, owned(newPolicy("foo", object, 1, web, strict), all))...)
		diff(t, "competing", 0, len(mustResolve(t, r, own).CompetingPolicies))
	})
}

// TestApartScales: pairs of workloads that share a selector are no reason to look at all of them again and again.
func TestApartScales(t *testing.T) {
	var pods []*corev1.Pod
	var controllers []podController
	for i := range 1000 {
		name := fmt.Sprintf("d%d", i)
		set := tags{"app": fmt.Sprintf("pair%d", i/2), "side": fmt.Sprint(i % 2)}
		pods = append(pods, newPod(name, set, ofDeployment(name)))
		controllers = append(controllers, deployed(name, tags{"app": set["app"]}))
	}
	found, _ := workloadsOf(pods, controllers)
	diff(t, "workloads", 500, len(found))
}
