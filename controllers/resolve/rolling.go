package resolve

import (
	"context"
	"maps"
	"slices"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

// rolls says whether a profile asks for STRICT in stages: only then do the facts of this file's steps matter.
func rolls(profile *v1alpha1.ServiceSecurityProfile) bool {
	mtls := profile.Spec.MTLS
	if mtls == nil || mtls.Rollout != nil && mtls.Rollout.Strategy == v1alpha1.StrategyImmediate {
		return false
	}
	return strictPorts(profile)(0)
}

// underWay says whether a profile's rollout is worth waking, as far as its status tells. A status that is wrong makes no
// difference for long: what is not in force is looked at in intervals.
func underWay(profile *v1alpha1.ServiceSecurityProfile) bool {
	mtls := profile.Status.MTLS
	return rolls(profile) && (mtls == nil || mtls.Stage != v1alpha1.StageEnforced)
}

// RollsOut says whether any profile is on its way to STRICT.
func RollsOut(ctx context.Context, reader client.Reader) (bool, error) {
	found, err := find(ctx, &source{reader: reader}, profilesByTarget, "", rolling)
	return slices.ContainsFunc(found, underWay), err
}

// observationWindow of a profile; zero if it cannot be read, which is somebody else's to report.
func observationWindow(profile *v1alpha1.ServiceSecurityProfile) time.Duration {
	text := v1alpha1.DefaultObservationWindow
	if rollout := profile.Spec.MTLS.Rollout; rollout != nil && rollout.ObservationWindow != "" {
		text = rollout.ObservationWindow
	}
	window, err := time.ParseDuration(string(text))
	if err != nil {
		return 0
	}
	return window
}

// onItsWay says whether STRICT is asked for in stages and not in force yet. What is in force is told by the live objects and
// never by status, which anyone may have edited.
func (res *resolution) onItsWay() bool {
	return rolls(res.profile) && !res.misplaced && res.facts.Target.Scope != v1alpha1.ScopeGateway && !res.strictInForce()
}

// strictInForce says whether every port that is to be STRICT is, by the profile's own object or by what it inherits.
func (res *resolution) strictInForce() bool {
	now := res.facts.InForce()
	asked := askedForm(res.profile)
	ports := slices.AppendSeq(slices.AppendSeq([]int32{0}, maps.Keys(now.Ports)), maps.Keys(asked.Ports))
	return !slices.ContainsFunc(ports, func(port int32) bool {
		return asked.At(port) == v1alpha1.ModeStrict && now.At(port) != v1alpha1.ModeStrict
	})
}

// resolveRollout finds what only a rollout on its way needs to know, so that nothing else pays for it.
func (res *resolution) resolveRollout(ctx context.Context) error {
	if !res.onItsWay() {
		return nil
	}
	for _, step := range []func(context.Context) error{
		res.resolveWorkloadEntries,
		res.resolveServiceEntries,
		res.resolveSidecars,
		res.resolveTelemetry,
		res.resolveRemoteClusters,
		res.resolveScheduledJobs,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// within lists the objects of the target's namespace or, for the mesh, of all.
func within[T client.Object](ctx context.Context, res *resolution, ix index[T]) ([]T, error) {
	namespace := res.profile.Namespace
	if res.facts.Target.Scope == v1alpha1.ScopeMesh {
		namespace = ""
	}
	return listAll(ctx, res.source, ix, namespace)
}

// qualified is an object's "namespace/name".
func qualified(obj client.Object) string { return obj.GetNamespace() + "/" + obj.GetName() }
