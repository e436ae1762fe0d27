package controllers

import (
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/apply"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/rollout"
	"github.com/servicesecurity/operator/controllers/traffic"
)

// memory is what is known of profiles beyond one reconcile. What is lost of it makes the operator wait, never hurry.
type memory struct {
	mu       sync.Mutex
	profiles map[types.NamespacedName]*knowledge
}

// knowledge is what is known of one profile. The queue never gives one profile to two workers, so it needs no lock.
type knowledge struct {
	uid types.UID
	// objects as they were last seen, and since when they are so.
	objects string
	since   time.Time
	// began is when the operator first saw the profile.
	began time.Time
	// changed is when something that Istio reads was last written, by kind.
	changed map[string]time.Time
	// observed is the key by which the observer knows the profile.
	observed string
	// members are the workloads of a whole namespace, by name.
	members map[string]*knowledge
	// callers are those that the status of a whole namespace had when its workloads were first looked at. It does not say to
	// which of these they sent plaintext, so they are no workload's.
	callers []v1alpha1.PlaintextCaller
	// counted is when the counts of a dry run were last read.
	counted time.Time
	// held is the profile's PeerAuthentication as it was last written.
	held facts.Policy
	// peer is the resourceVersion of that write or, if gone, of what was deleted. Doubt says that the last writes may not all have
	// been made.
	peer  string
	gone  bool
	doubt bool
	// baseline is what the proxies' listener counters were when STRICT was written; nil unless that is being verified.
	baseline map[string]traffic.Reading
	// meshed are the callers by mutual TLS whose calls are watched, and calls is what their proxies count; nil unless a
	// switch is near or being verified.
	meshed []traffic.MeshedCaller
	calls  *rollout.CallHistory
	// refused is what plaintext the target's workloads refused by policies of others.
	refused rollout.Refusals
	// status as it was last written, as of version, until the cache has it.
	status        v1alpha1.ServiceSecurityProfileStatus
	version       string
	statusWritten time.Time
	// untold is the status since which nothing was announced, if a write of status failed; the write may have been made
	// all the same.
	untold *v1alpha1.ServiceSecurityProfileStatus
}

// newKnowledge is what is known at first of a profile, or of a workload whose object has the name.
func newKnowledge(uid types.UID, name string, now time.Time) *knowledge {
	return &knowledge{uid: uid, began: now, observed: observerKey(uid, name), refused: rollout.Refusals{}}
}

func (r *Reconciler) remember(name types.NamespacedName, uid types.UID, now time.Time) *knowledge {
	r.memory.mu.Lock()
	defer r.memory.mu.Unlock()
	if r.memory.profiles == nil {
		r.memory.profiles = map[types.NamespacedName]*knowledge{}
	}
	known, ok := r.memory.profiles[name]
	if ok && known.uid != uid {
		r.forgetTraffic(known)
		ok = false
	}
	if !ok {
		known = newKnowledge(uid, name.Name, now)
		r.memory.profiles[name] = known
	}
	return known
}

func (r *Reconciler) forget(name types.NamespacedName) {
	r.memory.mu.Lock()
	defer r.memory.mu.Unlock()
	if known, ok := r.memory.profiles[name]; ok {
		r.forgetTraffic(known)
		delete(r.memory.profiles, name)
	}
}

// forgetTraffic drops what the observer remembers of a profile and of its workloads.
func (r *Reconciler) forgetTraffic(known *knowledge) {
	r.Observer.Forget(known.observed)
	for _, member := range known.members {
		r.Observer.Forget(member.observed)
	}
}

// unchangedFor is how long the profile's own objects have been seen as they are.
func (k *knowledge) unchangedFor(f facts.Facts, now time.Time) time.Duration {
	// Maps are printed in the order of their keys, so the text tells the objects apart.
	if objects := fmt.Sprint(f.Policy.Exists, f.Policy.Form, f.Policy.Selector, f.Rules); objects != k.objects || now.Before(k.since) {
		k.objects, k.since = objects, now
	}
	return now.Sub(k.since)
}

// touch notes that something was written that Istio reads.
func (k *knowledge) touch(kind string, now time.Time) {
	if k.changed == nil {
		k.changed = map[string]time.Time{}
	}
	k.changed[kind] = now
}

// age is how long ago something that Istio reads was last written, or may have been: another operator may have done so a
// moment before this one started.
func (k *knowledge) age(kind string, now time.Time) time.Duration {
	if changed, ok := k.changed[kind]; ok {
		return now.Sub(changed)
	}
	return now.Sub(k.began)
}

// expect prepares for the write of a decision. What is about to change must not be taken for drift afterwards, and what the
// proxies count before STRICT is written tells later whether they took it.
func (k *knowledge) expect(d rollout.Decision, readings []traffic.Reading) {
	if !d.Keep && !d.Form.Equal(k.held.Form) {
		k.held = facts.Policy{}
	}
	if !d.Switched {
		return
	}
	k.baseline = make(map[string]traffic.Reading, len(readings))
	for _, reading := range readings {
		k.baseline[reading.UID] = reading
	}
}

// wrote remembers the versions of what was written.
func (k *knowledge) wrote(name string, changes []apply.Change) {
	for _, change := range changes {
		if change.Kind == apply.PeerAuthentication && change.Name == name {
			k.peer, k.gone = change.Version, change.Verb == apply.Deleted
		}
	}
}

// behind says that an object, as a cache has it, may be older than what was written last, or deleted: STRICT that was taken back a
// moment ago must not be taken for STRICT that is in force.
func (k *knowledge) behind(policy facts.Policy) bool {
	if !policy.Exists || k.peer == "" {
		return false
	}
	order, err := resourceversion.CompareResourceVersion(policy.Version, k.peer)
	return err == nil && (order < 0 || k.gone && order == 0)
}

// written remembers a status that the cache may not have yet.
func (k *knowledge) written(version string, status v1alpha1.ServiceSecurityProfileStatus, now time.Time) {
	k.version, k.status, k.statusWritten = version, *status.DeepCopy(), now
}

// current is the profile with the status that was last written, if the cache still has an older one: a decision must not
// rest on what was already replaced.
func (k *knowledge) current(cached *v1alpha1.ServiceSecurityProfile) *v1alpha1.ServiceSecurityProfile {
	if k.version == "" {
		return cached
	}
	if order, err := resourceversion.CompareResourceVersion(cached.ResourceVersion, k.version); err != nil || order >= 0 {
		k.version, k.status = "", v1alpha1.ServiceSecurityProfileStatus{}
		return cached
	}
	profile := cached.DeepCopy()
	profile.Status = *k.status.DeepCopy()
	return profile
}
