package resolve

import (
	"slices"
	"testing"
	"time"

	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

const unset v1alpha1.Mode = ""

func noMTLS(policy *securityv1.PeerAuthentication) { policy.Spec.Mtls = nil }

func TestComposePeerMode(t *testing.T) {
	web := tags{"app": "web"}
	type list = []*securityv1.PeerAuthentication
	mesh := func(minute int, mode v1alpha1.Mode) *securityv1.PeerAuthentication {
		return newPolicy("root", "mesh", minute, nil, mode)
	}
	space := func(minute int, mode v1alpha1.Mode) *securityv1.PeerAuthentication {
		return newPolicy("foo", "space", minute, nil, mode)
	}
	for name, tc := range map[string]struct {
		policies list
		mode     v1alpha1.Mode
		ports    map[int32]v1alpha1.Mode
		from     string
	}{
		"nothing":                               {nil, permissive, nil, ""},
		"mesh":                                  {list{mesh(0, strict)}, strict, nil, "root/mesh"},
		"mesh, disabled":                        {list{mesh(0, disabled)}, disabled, nil, "root/mesh"},
		"mesh, unset":                           {list{mesh(0, unset)}, permissive, nil, ""},
		"mesh without mtls":                     {list{newPolicy("root", "mesh", 0, nil, unset, noMTLS)}, permissive, nil, ""},
		"namespace":                             {list{space(0, strict)}, strict, nil, "foo/space"},
		"namespace over mesh":                   {list{mesh(0, strict), space(1, disabled)}, disabled, nil, "foo/space"},
		"namespace over mesh, stronger":         {list{mesh(0, disabled), space(1, strict)}, strict, nil, "foo/space"},
		"namespace unset inherits":              {list{mesh(0, strict), space(1, unset)}, strict, nil, "root/mesh"},
		"namespace unset, no mesh":              {list{space(1, unset)}, permissive, nil, ""},
		"workload":                              {list{newPolicy("foo", "w", 0, web, strict)}, strict, nil, "foo/w"},
		"workload over namespace and mesh":      {list{mesh(0, strict), space(0, strict), newPolicy("foo", "w", 9, web, permissive)}, permissive, nil, "foo/w"},
		"workload unset inherits the namespace": {list{mesh(0, disabled), space(0, strict), newPolicy("foo", "w", 9, web, unset)}, strict, nil, "foo/space"},
		"workload unset inherits the mesh":      {list{mesh(0, strict), newPolicy("foo", "w", 9, web, unset)}, strict, nil, "root/mesh"},
		"workload without mtls":                 {list{newPolicy("foo", "w", 9, web, unset, noMTLS)}, permissive, nil, ""},
		"all unset":                             {list{mesh(0, unset), space(0, unset), newPolicy("foo", "w", 0, web, unset)}, permissive, nil, ""},
		"another workload":                      {list{newPolicy("foo", "w", 0, tags{"app": "db"}, strict)}, permissive, nil, ""},
		"selector with more than the pod has":   {list{newPolicy("foo", "w", 0, tags{"app": "web", "version": "v1"}, strict)}, permissive, nil, ""},
		"another namespace":                     {list{newPolicy("bar", "w", 0, web, strict), newPolicy("bar", "space", 0, nil, strict)}, permissive, nil, ""},
		"selector in the root namespace":        {list{newPolicy("root", "w", 0, web, strict)}, permissive, nil, ""},
		"empty selector is the namespace's":     {list{newPolicy("foo", "space", 0, tags{}, strict)}, strict, nil, "foo/space"},
		"oldest of the mesh":                    {list{newPolicy("root", "b", 2, nil, strict), newPolicy("root", "c", 1, nil, disabled), newPolicy("root", "a", 3, nil, strict)}, disabled, nil, "root/c"},
		"oldest of the namespace":               {list{newPolicy("foo", "a", 2, nil, strict), newPolicy("foo", "b", 1, nil, permissive)}, permissive, nil, "foo/b"},
		"oldest of the workload":                {list{newPolicy("foo", "a", 2, web, strict), newPolicy("foo", "b", 1, web, disabled)}, disabled, nil, "foo/b"},
		"of the same age, by name":              {list{newPolicy("foo", "b", 1, web, strict), newPolicy("foo", "a", 1, web, disabled)}, disabled, nil, "foo/a"},
		"oldest is unset":                       {list{newPolicy("foo", "a", 2, web, strict), newPolicy("foo", "b", 1, web, unset)}, permissive, nil, ""},
		"oldest namespace policy is unset":      {list{mesh(0, permissive), newPolicy("foo", "a", 2, nil, strict), newPolicy("foo", "b", 1, nil, unset)}, permissive, nil, "root/mesh"},
		"ports":                                 {list{newPolicy("foo", "w", 0, web, strict, withPorts(map[uint32]v1alpha1.Mode{8080: permissive, 9090: disabled}))}, strict, map[int32]v1alpha1.Mode{8080: permissive, 9090: disabled}, "foo/w"},
		"unset port is the workload's":          {list{newPolicy("foo", "w", 0, web, strict, withPorts(map[uint32]v1alpha1.Mode{8080: unset}))}, strict, nil, "foo/w"},
		"ports under an unset mode":             {list{space(0, strict), newPolicy("foo", "w", 0, web, unset, withPorts(map[uint32]v1alpha1.Mode{8080: permissive}))}, strict, map[int32]v1alpha1.Mode{8080: permissive}, "foo/space"},
		"the younger's ports are dropped":       {list{newPolicy("foo", "a", 0, web, strict), newPolicy("foo", "b", 1, web, strict, withPorts(map[uint32]v1alpha1.Mode{8080: disabled}))}, strict, nil, "foo/a"},
		"port that is none":                     {list{newPolicy("foo", "w", 0, web, strict, withPorts(map[uint32]v1alpha1.Mode{99999: disabled}))}, strict, nil, "foo/w"},
	} {
		t.Run(name, func(t *testing.T) {
			want := PeerMode{Form: facts.Form{Mode: tc.mode, Ports: tc.ports}, From: tc.from}
			diff(t, "mode", want, ComposePeerMode("root", "foo", tags{"app": "web", "tier": "front"}, tc.policies))
		})
	}
	t.Run("pod of the root namespace", func(t *testing.T) {
		policies := list{newPolicy("root", "w", 0, web, strict), newPolicy("root", "mesh", 5, nil, disabled)}
		want := PeerMode{Form: facts.Form{Mode: disabled}, From: "root/mesh"}
		diff(t, "mode", want, ComposePeerMode("root", "root", web, policies))
	})
}

func TestWeakest(t *testing.T) {
	type ports = map[int32]v1alpha1.Mode
	for name, tc := range map[string]struct {
		form     facts.Form
		excepted []v1alpha1.PortMTLS
		want     v1alpha1.Mode
	}{
		"no ports":               {facts.Form{Mode: strict}, nil, strict},
		"weaker port":            {facts.Form{Mode: strict, Ports: ports{80: permissive}}, nil, permissive},
		"weakest of some":        {facts.Form{Mode: strict, Ports: ports{80: permissive, 81: disabled, 82: strict}}, nil, disabled},
		"stronger port":          {facts.Form{Mode: permissive, Ports: ports{80: strict}}, nil, permissive},
		"excepted port":          {facts.Form{Mode: strict, Ports: ports{80: permissive}}, []v1alpha1.PortMTLS{{Port: 80, Mode: permissive}}, strict},
		"one excepted, one not":  {facts.Form{Mode: strict, Ports: ports{80: disabled, 81: permissive}}, []v1alpha1.PortMTLS{{Port: 80}}, permissive},
		"exception without port": {facts.Form{Mode: disabled}, []v1alpha1.PortMTLS{{Port: 80, Mode: strict}}, disabled},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Weakest(tc.form, tc.excepted); got != tc.want {
				t.Errorf("weakest is %q, want %q", got, tc.want)
			}
		})
	}
}

func annotated(pairs ...string) func(*securityv1.PeerAuthentication) {
	return func(policy *securityv1.PeerAuthentication) {
		policy.Annotations = map[string]string{}
		for i := 0; i < len(pairs); i += 2 {
			policy.Annotations[pairs[i]] = pairs[i+1]
		}
	}
}

func TestDescribePolicy(t *testing.T) {
	profile := newProfile("web", 0, toService("web"), strict)
	switched, previous := v1alpha1.AnnotationSwitchedAt, v1alpha1.AnnotationPreviousMode
	both := annotated(switched, "2026-01-01T00:07:00Z", previous, "Strict,9443=Permissive")
	web := tags{"app": "web"}
	for name, tc := range map[string]struct {
		policy *securityv1.PeerAuthentication
		want   facts.Policy
	}{
		"owned": {
			owned(newPolicy("foo", "web", 0, web, strict, withPorts(map[uint32]v1alpha1.Mode{9443: permissive, 1: unset})), profile),
			facts.Policy{Exists: true, Owned: true, Selector: web, Form: facts.Form{Mode: strict, Ports: map[int32]v1alpha1.Mode{9443: permissive}}},
		},
		"annotations": {
			owned(newPolicy("foo", "web", 0, web, strict, both), profile),
			facts.Policy{
				Exists: true, Owned: true, Selector: web, Form: facts.Form{Mode: strict}, SwitchedAt: epoch.Add(7 * time.Minute),
				Previous: facts.Form{Mode: strict, Ports: map[int32]v1alpha1.Mode{9443: permissive}},
			},
		},
		"rolled back": {
			owned(newPolicy("foo", "web", 0, web, permissive, annotated(v1alpha1.AnnotationRolledBack, `{"generation":2,"attempts":1,"time":"2026-01-01T00:07:00Z"}`)), profile),
			facts.Policy{
				Exists: true, Owned: true, Selector: web, Form: facts.Form{Mode: permissive},
				RolledBack: facts.Rollback{Generation: 2, Attempts: 1, Time: epoch.Add(7 * time.Minute)},
			},
		},
		"annotations that cannot be read": {
			owned(newPolicy("foo", "web", 0, web, strict, annotated(switched, "yesterday", previous, "PERMISSIVE", v1alpha1.AnnotationRolledBack, "yesterday")), profile),
			facts.Policy{Exists: true, Owned: true, Selector: web, Form: facts.Form{Mode: strict}},
		},
		"waits for its adoption; its annotations are its owner's": {
			newPolicy("foo", "web", 0, web, strict, both, annotated(switched, "2026-01-01T00:07:00Z", v1alpha1.AnnotationAdopt, "web")),
			facts.Policy{Exists: true, Owned: true, Selector: web, Form: facts.Form{Mode: strict}},
		},
		"for the adoption of another profile": {
			newPolicy("foo", "web", 0, nil, unset, annotated(v1alpha1.AnnotationAdopt, "other")), facts.Policy{Exists: true},
		},
		"another's, who cannot give it away": {
			owned(newPolicy("foo", "web", 0, nil, unset, annotated(v1alpha1.AnnotationAdopt, "web")), newProfile("other", 0, toService("web"), strict)),
			facts.Policy{Exists: true},
		},
		"foreign, with annotations": {
			newPolicy("foo", "web", 0, nil, unset, both), facts.Policy{Exists: true},
		},
		"owned by a profile of the same name from before": {
			owned(newPolicy("foo", "web", 0, nil, permissive, both), &v1alpha1.ServiceSecurityProfile{}),
			facts.Policy{Exists: true, Form: facts.Form{Mode: permissive}},
		},
	} {
		t.Run(name, func(t *testing.T) { diff(t, "policy", tc.want, describePolicy(tc.policy, profile)) })
	}
}

func TestResolvePolicies(t *testing.T) {
	web := tags{"app": "web"}
	profile := newProfile("web", 10, toService("web"), strict)
	own := owned(newPolicy("foo", "web", 10, web, permissive), profile)
	service := newService("web", web, port(80, 8080))
	pod := newPod("web-a", web)
	rival := newProfile("rival", 20, toWorkload(web), strict)
	unrelated := newProfile("unrelated", 20, toWorkload(tags{"app": "db"}), strict)
	for name, tc := range map[string]struct {
		objects       []client.Object
		effective     v1alpha1.Mode
		inherited     v1alpha1.Mode
		inheritedFrom string
		competing     []facts.CompetingPolicy
	}{
		"nothing": {[]client.Object{service, pod}, permissive, permissive, "", nil},
		"own object over the namespace": {
			[]client.Object{service, pod, own, newPolicy("foo", "default", 0, nil, strict)}, permissive, strict, "foo/default", nil,
		},
		"inherited from the mesh": {
			[]client.Object{service, pod, newPolicy("istio-system", "default", 0, nil, strict)}, strict, strict, "istio-system/default", nil,
		},
		"own object that lost its selector is not its own parent": {
			[]client.Object{service, pod, owned(newPolicy("foo", "web", 10, nil, disabled), profile), newPolicy("istio-system", "default", 0, nil, strict)},
			disabled, strict, "istio-system/default", nil,
		},
		"foreign object of the profile's name is a parent": {
			[]client.Object{service, pod, newPolicy("foo", "web", 10, nil, strict)}, strict, strict, "foo/web", nil,
		},
		"object that waits for its adoption is no parent": {
			[]client.Object{service, pod, newPolicy("foo", "web", 10, nil, strict, annotated(v1alpha1.AnnotationAdopt, "web"))}, strict, permissive, "", nil,
		},
		"object that waits for its adoption is the older one": {
			[]client.Object{service, pod, newPolicy("foo", "web", 10, web, strict, annotated(v1alpha1.AnnotationAdopt, "web")), newPolicy("foo", "other", 15, web, disabled)},
			strict, permissive, "",
			[]facts.CompetingPolicy{{Namespace: "foo", Name: "other", Pod: "web-a"}},
		},
		"older competitor wins": {
			[]client.Object{service, pod, own, newPolicy("foo", "other", 5, web, disabled)},
			disabled, permissive, "",
			[]facts.CompetingPolicy{{Namespace: "foo", Name: "other", Pod: "web-a", Wins: true}},
		},
		"younger competitor loses": {
			[]client.Object{service, pod, own, newPolicy("foo", "other", 15, web, disabled)},
			permissive, permissive, "",
			[]facts.CompetingPolicy{{Namespace: "foo", Name: "other", Pod: "web-a"}},
		},
		"without an own object every competitor wins, by name": {
			[]client.Object{service, pod, newPolicy("foo", "z", 15, web, strict), newPolicy("foo", "a", 16, web, strict), newPolicy("foo", "no", 1, tags{"app": "db"}, strict)},
			strict, permissive, "",
			[]facts.CompetingPolicy{{Namespace: "foo", Name: "a", Pod: "web-a", Wins: true}, {Namespace: "foo", Name: "z", Pod: "web-a", Wins: true}},
		},
		"the object of a profile in conflict is told by the conflict": {
			[]client.Object{service, pod, own, rival, owned(newPolicy("foo", "rival", 1, web, strict), rival)}, strict, permissive, "", nil,
		},
		"the object of a profile that is gone competes": {
			[]client.Object{service, pod, own, owned(newPolicy("foo", "rival", 1, web, strict), rival)},
			strict, permissive, "",
			[]facts.CompetingPolicy{{Namespace: "foo", Name: "rival", Pod: "web-a", Wins: true}},
		},
		"the object of a profile of another target that reaches in competes": {
			[]client.Object{service, pod, own, unrelated, owned(newPolicy("foo", "unrelated", 1, web, strict), unrelated)},
			strict, permissive, "",
			[]facts.CompetingPolicy{{Namespace: "foo", Name: "unrelated", Pod: "web-a", Wins: true}},
		},
		"weakest of the pods": {
			[]client.Object{
				service, pod, newPod("web-b", tags{"app": "web", "version": "v2"}), newPolicy("foo", "default", 0, nil, strict),
				newPolicy("foo", "v2", 0, tags{"version": "v2"}, permissive),
			},
			permissive, strict, "foo/default",
			[]facts.CompetingPolicy{{Namespace: "foo", Name: "v2", Pod: "web-b", Wins: true}},
		},
		"a pod outside the mesh does not count": {
			[]client.Object{
				service, pod, newPod("web-b", tags{"app": "web", "version": "v2"}, withoutSidecar), newPolicy("foo", "default", 0, nil, strict),
				newPolicy("foo", "v2", 0, tags{"version": "v2"}, disabled),
			},
			strict, strict, "foo/default",
			[]facts.CompetingPolicy{{Namespace: "foo", Name: "v2", Pod: "web-b", Wins: true}},
		},
		"no pods": {[]client.Object{service, own}, permissive, permissive, "", nil},
		"no Service, what is in force stays": {
			[]client.Object{owned(newPolicy("foo", "web", 10, web, strict), profile)}, strict, permissive, "", nil,
		},
		"no Service and nothing": {[]client.Object{newPolicy("foo", "default", 0, nil, strict)}, "", strict, "foo/default", nil},
	} {
		t.Run(name, func(t *testing.T) {
			got := mustResolve(t, cluster(t, append(tc.objects, profile)...), profile)
			if got.Effective != tc.effective || got.Inherited != tc.inherited || got.InheritedFrom != tc.inheritedFrom {
				t.Errorf("effective %q, inherited %q from %q, want %q, %q from %q",
					got.Effective, got.Inherited, got.InheritedFrom, tc.effective, tc.inherited, tc.inheritedFrom)
			}
			diff(t, "competing policies", tc.competing, got.CompetingPolicies)
		})
	}
}

// TestInherited: what is read of the parent by itself, and live, is what resolving everything says.
func TestInherited(t *testing.T) {
	web := tags{"app": "web"}
	strictMesh, strictSpace := newPolicy("istio-system", "default", 0, nil, strict), newPolicy("foo", "default", 0, nil, strict)
	wholeNamespace := newProfile("all", 10, v1alpha1.Target{Kind: v1alpha1.TargetNamespace}, strict)
	of := func(p *v1alpha1.ServiceSecurityProfile, objects ...client.Object) []client.Object {
		return append(objects, p)
	}
	profile := newProfile("web", 10, toService("web"), strict)
	for name, tc := range map[string]struct {
		profile *v1alpha1.ServiceSecurityProfile
		objects []client.Object
		want    v1alpha1.Mode
	}{
		"nothing":                   {profile, of(profile), permissive},
		"the mesh":                  {profile, of(profile, strictMesh), strict},
		"the namespace":             {profile, of(profile, strictSpace), strict},
		"another workload's":        {profile, of(profile, newPolicy("foo", "db", 0, tags{"app": "db"}, strict)), permissive},
		"its own, without selector": {profile, of(profile, owned(newPolicy("foo", "web", 10, nil, strict), profile)), permissive},
		"of a namespace, the mesh":  {wholeNamespace, of(wholeNamespace, strictMesh, newPolicy("foo", "default", 0, nil, permissive)), strict},
		"of a namespace, its own":   {wholeNamespace, of(wholeNamespace, owned(newPolicy("foo", "default", 0, nil, strict), wholeNamespace)), permissive},
	} {
		t.Run(name, func(t *testing.T) {
			resolver := cluster(t, slices.Concat(tc.objects, []client.Object{newService("web", web, port(80, 8080)), newPod("web-a", web)})...)
			found := mustResolve(t, resolver, tc.profile)
			got, err := resolver.Live().Inherited(t.Context(), tc.profile, found)
			if err != nil || got != tc.want || got != found.Inherited {
				t.Errorf("live %q (%v), resolved %q, want %q", got, err, found.Inherited, tc.want)
			}
		})
	}
}

// TestRefused: what plaintext pods refuse by the policies of others while the profile is on its way to STRICT.
func TestRefused(t *testing.T) {
	web, v2 := tags{"app": "web"}, tags{"version": "v2"}
	profile := newProfile("web", 10, toService("web"), strict)
	own := owned(newPolicy("foo", "web", 10, web, permissive), profile)
	wider := newProfile("all", 10, v1alpha1.Target{Kind: v1alpha1.TargetNamespace}, strict)
	on := func(mode, port v1alpha1.Mode) facts.Form {
		return facts.Form{Mode: mode, Ports: map[int32]v1alpha1.Mode{8080: port}}
	}
	port := func(mode v1alpha1.Mode) func(*securityv1.PeerAuthentication) {
		return withPorts(map[uint32]v1alpha1.Mode{8080: mode})
	}
	none, all := facts.Form{}, facts.Form{Mode: strict}
	for name, tc := range map[string]struct {
		objects []client.Object
		a, b    facts.Form // of pods of versions 1 and 2
	}{
		"its own says PERMISSIVE under a STRICT parent": {[]client.Object{own, newPolicy("foo", "default", 0, nil, strict)}, none, none},
		"an older one":                    {[]client.Object{own, newPolicy("foo", "a", 0, web, strict)}, all, all},
		"an older one, on a port":         {[]client.Object{own, newPolicy("foo", "a", 0, web, permissive, port(strict))}, on(permissive, strict), on(permissive, strict)},
		"an older one, but on a port":     {[]client.Object{own, newPolicy("foo", "a", 0, web, strict, port(disabled))}, on(strict, permissive), on(strict, permissive)},
		"an older one that is PERMISSIVE": {[]client.Object{own, newPolicy("foo", "a", 0, web, permissive)}, none, none},
		"a younger one":                   {[]client.Object{own, newPolicy("foo", "a", 20, web, strict)}, none, none},
		"an older one without a mode":     {[]client.Object{own, newPolicy("foo", "a", 0, web, unset), newPolicy("istio-system", "default", 0, nil, strict)}, all, all},
		"for some pods":                   {[]client.Object{own, newPolicy("foo", "a", 0, v2, strict)}, none, all},
		"of a whole namespace's profile":  {[]client.Object{own, wider, owned(newPolicy("foo", "all-web", 0, web, strict), wider)}, all, all},
		"STRICT is there":                 {[]client.Object{owned(newPolicy("foo", "web", 10, web, strict), profile), newPolicy("foo", "a", 0, v2, strict)}, none, none},
	} {
		t.Run(name, func(t *testing.T) {
			target := []client.Object{newService("web", web), newPod("web-a", web), newPod("web-b", tags{"app": "web", "version": "v2"}), profile}
			pods := mustResolve(t, cluster(t, append(target, tc.objects...)...), profile).Pods
			diff(t, "version 1", tc.a, pods[0].Refused)
			diff(t, "version 2", tc.b, pods[1].Refused)
		})
	}
}

func TestEffectiveExceptions(t *testing.T) {
	web := tags{"app": "web"}
	profile := newProfile("web", 10, toService("web"), strict, v1alpha1.PortMTLS{Port: 8080, Mode: permissive})
	own := owned(newPolicy("foo", "web", 10, web, strict, withPorts(map[uint32]v1alpha1.Mode{8080: permissive})), profile)
	objects := []client.Object{newService("web", web, port(80, 8080)), newPod("web-a", web, func(*corev1.Pod) {}), own, profile}
	if got := mustResolve(t, cluster(t, objects...), profile); got.Effective != strict {
		t.Errorf("effective is %q with the port excepted, want Strict", got.Effective)
	}
	profile.Spec.MTLS = nil
	if got := mustResolve(t, cluster(t, objects...), profile); got.Effective != permissive {
		t.Errorf("effective is %q with no port excepted, want Permissive", got.Effective)
	}
}
