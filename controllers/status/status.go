// Package status says in a profile's status what is in force and what stands in the way of what is asked. Compute takes
// what one reconcile found, decided and did, and returns the status; it is pure. Every condition is set here and nowhere
// else.
package status

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/apply"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/rollout"
	"github.com/servicesecurity/operator/controllers/traffic"
)

// What the CRD allows at most. Texts are counted in bytes, which are never fewer than the characters that it counts.
const (
	maxBlockers  = 32
	maxWarnings  = 16
	maxCallers   = 20
	maxResources = 256
	maxMessage   = 1024
	maxName      = 253
	maxAddress   = 64
	maxProtocol  = 16
)

// Input is what one reconcile found, decided and did.
type Input struct {
	// Profile with its spec and its status before.
	Profile *v1alpha1.ServiceSecurityProfile
	Spec    rollout.Spec
	Facts   facts.Facts
	// Sight is what verification sees of the callers' side.
	Sight rollout.Sight
	Seen  traffic.Observation
	// Logged is what access logs tell, in the observation window and, under STRICT, since it was written.
	Logged   traffic.Logged
	Decision rollout.Decision
	// Members are the single workloads of a whole namespace, while they go to STRICT one by one.
	Members []Member
	// Shadow is what a dry run has counted.
	Shadow  traffic.Shadow
	Applied apply.Result
	// ApplyError is why the objects are not as they should be; nil if they are.
	ApplyError error
	Now        time.Time
}

// accepted says whether the whole profile is acted upon, acted whether some of it is, and secures whether its mtls is.
func (in Input) accepted() bool { return in.Facts.Problem == nil }
func (in Input) acted() bool    { return in.Facts.Actionable() }
func (in Input) secures() bool  { return in.acted() && !in.Facts.Lost(v1alpha1.SectionMTLS) }

// report is an input with what was made of it already, which the conditions and warnings explain.
type report struct {
	Input
	mtls      *v1alpha1.MTLSStatus
	resources []v1alpha1.ResourceRef
}

// Compute says what is in force and what stands in the way.
func Compute(in Input) v1alpha1.ServiceSecurityProfileStatus {
	r := report{Input: in, mtls: mtls(in), resources: resources(in)}
	return v1alpha1.ServiceSecurityProfileStatus{
		ObservedGeneration: in.Profile.Generation,
		Conditions:         transitions(in, conditions(r)),
		Scope:              in.Facts.Target.Scope,
		Target:             target(in.Profile.Spec.Target),
		Pods:               pods(in.Facts.Pods),
		MTLS:               r.mtls,
		Authorization:      dryRun(in),
		Resources:          r.resources,
		Warnings:           warnings(r),
	}
}

// transitions gives the conditions their generation and times. They keep their order, whatever the order was before.
func transitions(in Input, all []metav1.Condition) []metav1.Condition {
	for i := range all {
		c := &all[i]
		c.ObservedGeneration, c.Message = in.Profile.Generation, clip(c.Message, maxMessage)
		c.LastTransitionTime = metav1.NewTime(in.Now.Truncate(time.Second))
		was := meta.FindStatusCondition(in.Profile.Status.Conditions, c.Type)
		if was != nil && was.Status == c.Status && !was.LastTransitionTime.IsZero() {
			c.LastTransitionTime = was.LastTransitionTime
		}
	}
	return all
}

func target(t v1alpha1.Target) string {
	switch t.Kind {
	case v1alpha1.TargetService, v1alpha1.TargetGateway:
		return fmt.Sprintf("%s/%s", t.Kind, t.Name)
	case v1alpha1.TargetWorkload:
		return clip(fmt.Sprintf("%s/%s", t.Kind, labels(targetLabels(t))), maxMessage)
	case v1alpha1.TargetNamespace, v1alpha1.TargetMesh:
	}
	return string(t.Kind)
}

func targetLabels(t v1alpha1.Target) map[string]string {
	out := map[string]string{}
	if t.Selector != nil {
		for key, value := range t.Selector.MatchLabels {
			out[key] = string(value)
		}
	}
	return out
}

// labels writes labels as kubectl's option --selector takes them.
func labels(set map[string]string) string {
	var pairs []string
	for _, key := range slices.Sorted(maps.Keys(set)) {
		pairs = append(pairs, key+"="+set[key])
	}
	return strings.Join(pairs, ",")
}

func pods(all []facts.Pod) *v1alpha1.PodCount {
	count := &v1alpha1.PodCount{Total: int32(len(all))} //nolint:gosec // a namespace has fewer pods than that
	for _, pod := range all {
		if pod.Membership == facts.MemberSidecar {
			count.InMesh++
		}
	}
	return count
}

// resources are the objects that the profile owns. What could not be written is no reason to forget those that it had.
func resources(in Input) []v1alpha1.ResourceRef {
	out := slices.Clone(in.Applied.Resources)
	if !in.accepted() || in.ApplyError != nil {
		for _, had := range in.Profile.Status.Resources {
			if !slices.Contains(out, had) && !gone(in, had) {
				out = append(out, had)
			}
		}
	}
	slices.SortFunc(out, func(a, b v1alpha1.ResourceRef) int {
		return cmp.Or(strings.Compare(a.Kind, b.Kind), strings.Compare(a.Name, b.Name))
	})
	return out[:min(len(out), maxResources)]
}

// gone says that an object which the profile had is certainly not its own any more.
func gone(in Input, had v1alpha1.ResourceRef) bool {
	deleted := apply.Change{Verb: apply.Deleted, Kind: had.Kind, Name: had.Name}
	if slices.Contains(in.Applied.Changes, deleted) {
		return true
	}
	return slices.ContainsFunc(flatten(in.ApplyError), func(err error) bool {
		var foreign *apply.ForeignObjectError
		var absent *apply.NotInstalledError
		return errors.As(err, &foreign) && foreign.Kind == had.Kind && foreign.Name == had.Name ||
			errors.As(err, &absent) && absent.Kind == had.Kind
	})
}

// clip shortens a text to so many bytes, between characters. What the cluster calls itself may be no valid text.
func clip(text string, most int) string {
	text = strings.ToValidUTF8(text, "?")
	if len(text) <= most {
		return text
	}
	cut := most - len("…")
	for cut > 0 && text[cut]&0xC0 == 0x80 {
		cut--
	}
	return text[:cut] + "…"
}

// maxNames is how many names a message lists.
const maxNames = 3

// names lists a few names. It does not count the others: a message with a number in it changes all the time.
func names(all []string) string {
	if len(all) > maxNames {
		return strings.Join(all[:maxNames], ", ") + " and others"
	}
	return strings.Join(all, ", ")
}

// and joins a few names as a sentence does.
func and(all []string) string {
	if len(all) < 2 || len(all) > maxNames {
		return names(all)
	}
	return strings.Join(all[:len(all)-1], ", ") + " and " + all[len(all)-1]
}
