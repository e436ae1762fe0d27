package resolve

import (
	"testing"

	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

// TestExceptedPodsHoldNothing: what is about pods alone for which a narrower policy decides is not looked at; it is as soon as
// one pod of the same place is the mesh's to switch.
func TestExceptedPodsHoldNothing(t *testing.T) {
	web, old := tags{"app": "web"}, tags{"app": "old"}
	mesh := in(root, newProfile("p", 0, toMesh, strict))
	const host = "old.legacy.svc.cluster.local"
	entry := located(&networkingv1.ServiceEntry{}, "shop", "out")
	entry.Spec.Hosts = []string{host}
	objects := []client.Object{
		newPod("web", web), newService("web", web, port(80, 8080)),
		in("legacy", newPod("old", old)), in("legacy", newPod("older", tags{"app": "old", labelTemplateHash: "h0"})), in("legacy", newService("old", old, port(80, 8080))),
		newRule(root, "legacy", "*.legacy.svc.cluster.local", "DISABLE"), entry,
		newSidecar("legacy", "in", 0, nil, ingress(8080, true)), newTelemetry("legacy", "off", 0, nil, drop()),
	}
	for name, tc := range map[string]struct {
		policies []client.Object
		held     bool
		mode     v1alpha1.Mode
	}{
		"all of them":       {[]client.Object{newPolicy("legacy", "default", 0, nil, disabled)}, false, disabled},
		"one pod is not":    {[]client.Object{newPolicy("legacy", "old", 0, tags{labelTemplateHash: "h0"}, disabled)}, true, disabled},
		"ports alone":       {[]client.Object{newPolicy("legacy", "default", 0, nil, "")}, true, permissive},
		"none":              {nil, true, permissive},
		"in another place":  {[]client.Object{newPolicy("foo", "default", 0, nil, disabled)}, true, disabled},
		"everywhere at all": {[]client.Object{newPolicy("foo", "default", 0, nil, disabled), newPolicy("legacy", "default", 0, nil, permissive)}, false, disabled},
	} {
		t.Run(name, func(t *testing.T) {
			got := mustResolve(t, cluster(t, append(tc.policies, objects...)...), mesh)
			var rules []string
			for _, rule := range got.ClientRules {
				rules = append(rules, rule.Namespace+"/"+rule.Name+" "+rule.Host)
			}
			want := map[string][]string{"rules": nil, "entries": nil, "sidecars": nil, "telemetries": nil}
			if tc.held {
				want = map[string][]string{"rules": {root + "/legacy " + host}, "entries": {"shop/out"}, "sidecars": {"legacy/in"}, "telemetries": {"legacy/off"}}
			}
			diff(t, "obstacles", want, map[string][]string{"rules": rules, "entries": got.ServiceEntries, "sidecars": got.SidecarIngress, "telemetries": got.TelemetryOverrides})
			if got.Effective != tc.mode {
				t.Errorf("in force is %s, want %s: exceptions count there", got.Effective, tc.mode)
			}
		})
	}
}

// TestExceptedPodsRoll: a rollout of excepted pods is not waited for.
func TestExceptedPodsRoll(t *testing.T) {
	mesh := in(root, newProfile("p", 0, toMesh, strict))
	starting := in("legacy", newPod("new", nil))
	starting.Status.PodIP = ""
	pods := []client.Object{in("legacy", newPod("old", nil)), starting}
	diff(t, "without an exception", []string{"legacy/web"}, mustResolve(t, cluster(t, pods...), mesh).RollingOut)
	pods = append(pods, newPolicy("legacy", "default", 0, nil, permissive))
	diff(t, "with one", []string(nil), mustResolve(t, cluster(t, pods...), mesh).RollingOut)
}
