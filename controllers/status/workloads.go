package status

import (
	"cmp"
	"slices"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/apply"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/rollout"
)

// Member is one workload of a whole namespace: what was decided for it, and the input as if it had a profile of its own.
type Member struct {
	rollout.Member
	Input Input
}

// rollouts are those of the single workloads, given how they stood. One that somebody keeps an exception has none.
func rollouts(in Input, before []v1alpha1.WorkloadRollout) []v1alpha1.WorkloadRollout {
	var all []v1alpha1.WorkloadRollout
	for _, m := range in.Members {
		switch {
		case m.Excepted():
			continue
		case m.Follows():
			all = append(all, v1alpha1.WorkloadRollout{Name: clip(m.Name, maxName), Stage: m.Stage()})
			continue
		}
		one := m.Input
		one.Applied, one.ApplyError = in.Applied, in.ApplyError
		stands := mtls(one)
		if one.Facts.Lost(v1alpha1.SectionMTLS) {
			stands.Blockers = m.Decision.Blockers // it has no stage while another profile is for a part of it
		}
		all = append(all, v1alpha1.WorkloadRollout{
			Blockers: kinds(stands.Blockers),
			Name:     clip(m.Name, maxName), Stage: stands.Stage, InheritedMode: stands.InheritedMode,
			CleanSinceTime: stands.CleanSinceTime, LastPlaintextTime: stands.LastPlaintextTime, EnforcedTime: stands.EnforcedTime,
			NextAttemptTime: stands.NextAttemptTime, Attempts: stands.Attempts, Evidence: stands.Evidence,
		})
	}
	bound(all)
	return append(all, absent(in, before, all)...)
}

// maxConnections is how many pods with plaintext connections a whole namespace's status has room for: etcd takes 1.5 MiB.
const maxConnections = 1024

// bound leaves out the connections of pods that are counted in full and closed, and of the others what there is no room for.
func bound(rollouts []v1alpha1.WorkloadRollout) {
	room := maxConnections
	for i := range rollouts {
		evidence := rollouts[i].Evidence
		if evidence == nil || len(evidence.Connections) == 0 {
			continue
		}
		evidence = evidence.DeepCopy()
		kept := slices.DeleteFunc(evidence.Connections, func(c v1alpha1.PodConnections) bool { return c.Uncounted == 0 && c.Opened == c.Closed })
		evidence.Connections = kept[:min(len(kept), room)]
		room -= len(evidence.Connections)
		rollouts[i].Evidence = evidence
	}
}

// absent are the rollouts of workloads that have no pods now, and whose objects stay: what was counted of them is not lost.
func absent(in Input, before, present []v1alpha1.WorkloadRollout) []v1alpha1.WorkloadRollout {
	if len(in.Members) == 0 {
		return nil
	}
	told := map[string]bool{}
	for _, one := range present {
		told[one.Name] = true
	}
	var all []v1alpha1.WorkloadRollout
	for _, one := range before {
		if !told[one.Name] && len(present)+len(all) < v1alpha1.MaxRollouts && in.Applied.Holds(apply.PeerAuthentication, facts.MemberName(in.Profile.Name, one.Name)) {
			one.Evidence = nil // it is that of processes which are no more
			all = append(all, one)
		}
	}
	return all
}

// workloads counts those of a whole namespace or of the mesh by stage; nil for other targets. Without rollouts of their own
// they are all where the whole is.
func workloads(in Input, stage v1alpha1.Stage, all []v1alpha1.WorkloadRollout) *v1alpha1.WorkloadCount {
	scope := in.Facts.Target.Scope
	if stage == "" || scope != v1alpha1.ScopeNamespace && scope != v1alpha1.ScopeMesh {
		return nil
	}
	count := &v1alpha1.WorkloadCount{}
	for _, one := range all {
		tally(count, cmp.Or(one.Stage, v1alpha1.StageBlocked))
	}
	if len(in.Members) > 0 {
		return count
	}
	told := map[string]bool{}
	for _, pod := range in.Facts.Pods {
		if key := pod.Namespace + "/" + pod.Workload; !told[key] && !pod.Gateway {
			told[key] = true
			tally(count, stage)
		}
	}
	return count
}

func tally(count *v1alpha1.WorkloadCount, stage v1alpha1.Stage) {
	switch stage {
	case v1alpha1.StageRolledBack:
		count.RolledBack++
	case v1alpha1.StageBlocked:
		count.Blocked++
	case v1alpha1.StageObserving:
		count.Observing++
	case v1alpha1.StageAwaitingApproval:
		count.AwaitingApproval++
	case v1alpha1.StageVerifying:
		count.Verifying++
	case v1alpha1.StageEnforced:
		count.Enforced++
	}
}
