package faults

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	securityapi "istio.io/api/security/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/resolve"
)

// oracle judges the writes of a run by what is true.
type oracle struct {
	w *world
	// strict says of each workload whether STRICT is in force, and disturbed when it last was, or when plaintext came.
	strict    map[string]bool
	disturbed map[string]time.Time
	// peer is the PeerAuthentications' modes as last seen, and changes how often they changed, which the proxies count.
	peer    string
	changes int64
	// wholeSince is when the namespace's own object became STRICT.
	wholeSince time.Time
	// born is when each object was made.
	born map[string]time.Time
	// mended says that STRICT was taken back once, upon which the caller was mended.
	mended     bool
	violations []string
}

func (o *oracle) begin(w *world) {
	*o = oracle{w: w, strict: map[string]bool{}, disturbed: map[string]time.Time{}, born: map[string]time.Time{}}
	for _, name := range w.script.workloads {
		o.disturbed[name] = w.now()
	}
}

func (o *oracle) refuses() bool {
	return o.w.script.breaks && !o.mended && o.strict[o.w.script.workloads[0]]
}

func (o *oracle) fail(format string, args ...any) {
	o.violations = append(o.violations, fmt.Sprintf("%s: ", o.w.now().Sub(epoch))+fmt.Sprintf(format, args...))
	o.w.note("VIOLATION: "+format, args...)
}

func peers(w *world) []*securityv1.PeerAuthentication {
	var all []*securityv1.PeerAuthentication
	for _, object := range w.store.present(resolve.PeerAuthenticationKind) {
		all = append(all, object.(*securityv1.PeerAuthentication))
	}
	slices.SortFunc(all, func(a, b *securityv1.PeerAuthentication) int { return strings.Compare(a.Name, b.Name) })
	return all
}

func isStrict(p *securityv1.PeerAuthentication) bool {
	return p.Spec.GetMtls().GetMode() == securityapi.PeerAuthentication_MutualTLS_STRICT
}

// wrote judges a write that was just made.
func (w *world) wrote(what string) {
	w.note("%s", what)
	o := &w.oracle
	text, now := "", w.now()
	whole, inForce := false, map[string]bool{}
	for _, p := range peers(w) {
		text += fmt.Sprintf(" %s=%s", p.Name, p.Spec.GetMtls().GetMode())
		selected := p.Spec.GetSelector().GetMatchLabels()["app"]
		if selected == "" {
			whole = isStrict(p)
			continue
		}
		inForce[selected] = isStrict(p)
	}
	if text != o.peer {
		o.peer = text
		o.changes++
		w.note("PeerAuthentications:%s", text)
	}
	for _, name := range w.script.workloads {
		narrow, own := inForce[name]
		o.judge(name, own && narrow || !own && whole, now)
		if own && !o.strict[name] && whole {
			o.fail("%s has an object of its own that is weaker than its namespace", name)
		}
	}
	o.judgeWhole(whole, len(inForce), now)
	o.judgePolicies(now)
}

// judge holds one workload to the promises: never early, never weaker.
func (o *oracle) judge(name string, strict bool, now time.Time) {
	spec := o.w.spec()
	asked := spec.MTLS != nil && spec.MTLS.Mode == v1alpha1.ModeStrict
	last := o.disturbed[name]
	if at := epoch.Add(o.w.script.plaintext); o.w.script.plaintext > 0 && !now.Before(at) && at.After(last) {
		last = at
	}
	was := o.strict[name]
	switch {
	case strict && !was && !asked:
		o.fail("%s is STRICT, which nobody asks for", name)
	case strict && !was && spec.MTLS.Rollout.Approval == v1alpha1.ApprovalManual && !o.w.approved:
		o.fail("UNAPPROVED: %s is STRICT", name)
	case strict && !was && spec.MTLS.Rollout.Strategy == v1alpha1.StrategyStaged && now.Sub(last) < window:
		o.fail("EARLY: %s is STRICT %s after what was last against it, and the window is %s", name, now.Sub(last), window)
	case was && !strict && name == o.w.script.workloads[0] && o.refuses():
		o.mended = true
		o.w.note("the caller that fails is mended")
	case was && !strict && asked:
		o.fail("WEAKER: STRICT of %s is taken back, although the profile asks for it and no caller fails", name)
	}
	if was || strict {
		o.disturbed[name] = now
	}
	o.strict[name] = strict
}

// judgeWhole: the workloads' own objects outlive the moment in which the namespace's becomes STRICT.
func (o *oracle) judgeWhole(whole bool, own int, now time.Time) {
	if len(o.w.script.workloads) == 1 {
		return
	}
	switch {
	case !whole:
		o.wholeSince = time.Time{}
	case o.wholeSince.IsZero():
		o.wholeSince = now
	}
	if whole && own < len(o.w.script.workloads) && now.Sub(o.wholeSince) < settle {
		o.fail("an object of a workload is gone %s after the namespace became STRICT, which proxies may not have yet", now.Sub(o.wholeSince))
	}
}

// judgePolicies: a policy that asks for a token has the tokens it asks for, and both keep out whom the profile keeps out.
func (o *oracle) judgePolicies(now time.Time) {
	there := map[string]bool{}
	for _, kind := range []schema.GroupVersionKind{resolve.RequestAuthenticationKind, resolve.AuthorizationPolicyKind} {
		for key := range o.w.store.present(kind) {
			there[kind.Kind+"/"+key.Name] = true
		}
	}
	tokens, demands := "RequestAuthentication/web", "AuthorizationPolicy/web-token"
	for name := range there {
		if o.born[name].IsZero() {
			o.born[name] = now
		}
	}
	for name := range o.born {
		if there[name] {
			continue
		}
		delete(o.born, name)
		if spec := o.w.spec(); name == tokens && spec.JWT != nil || name != tokens && spec.Authorization != nil {
			o.fail("WEAKER: %s is gone, although the profile asks for it", name)
		}
	}
	switch {
	case !there[demands]:
	case !there[tokens]:
		o.fail("%s asks for tokens of which nothing is known: nobody gets in", demands)
	case o.born[demands].Sub(o.born[tokens]) < settle:
		o.fail("%s came %s after the tokens, which proxies may not have yet", demands, o.born[demands].Sub(o.born[tokens]))
	}
}

func (w *world) stored() *v1alpha1.ServiceSecurityProfile {
	object := w.store.present(v1alpha1.SchemeGroupVersion.WithKind(v1alpha1.Kind))[client.ObjectKeyFromObject(w.profile)]
	return object.(*v1alpha1.ServiceSecurityProfile)
}

func (w *world) spec() v1alpha1.ServiceSecurityProfileSpec { return w.stored().Spec }

// owned are the objects that the profile controls, as "kind/name".
func (w *world) owned() map[string]client.Object {
	out := map[string]client.Object{}
	for kind := range w.store.past {
		for key, object := range w.store.present(kind) {
			if metav1.IsControlledBy(object, w.stored()) {
				out[kind.Kind+"/"+key.Name] = object
			}
		}
	}
	return out
}

// orphans are the objects that the profile controls and does not know of, and the reverse.
func (w *world) orphans() []string {
	owned := w.owned()
	var wrong []string
	for _, ref := range w.stored().Status.Resources {
		if owned[ref.Kind+"/"+ref.Name] == nil {
			wrong = append(wrong, "status lists "+ref.Kind+"/"+ref.Name+", which is not there")
		}
		delete(owned, ref.Kind+"/"+ref.Name)
	}
	for name := range owned {
		wrong = append(wrong, "ORPHAN: "+name+" is not in status.resources")
	}
	slices.Sort(wrong)
	return wrong
}

// end is how a run ended: all objects and the status, without times and what goes with them.
func (w *world) end() string {
	var lines []string
	owned := w.owned()
	for _, name := range slices.Sorted(maps.Keys(owned)) {
		var spec any
		switch o := owned[name].(type) {
		case *securityv1.PeerAuthentication:
			spec = &o.Spec
		case *networkingv1.DestinationRule:
			spec = &o.Spec
		case *securityv1.RequestAuthentication:
			spec = &o.Spec
		case *securityv1.AuthorizationPolicy:
			spec = &o.Spec
		}
		var owners []string
		for _, ref := range owned[name].GetOwnerReferences() {
			owners = append(owners, ref.Kind+"/"+ref.Name)
		}
		lines = append(lines, name, printed(spec), printed(owned[name].GetLabels()), printed(owned[name].GetAnnotations()), printed(owners))
	}
	status := w.stored().Status
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&status)
	if err != nil {
		return err.Error()
	}
	return strings.Join(append(lines, printed(timeless(fields))), "\n")
}

func printed(value any) string {
	text, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// timeless drops what differs from run to run: times, the counters as they were, and the order that follows from them.
func timeless(value any) any {
	switch v := value.(type) {
	case map[string]any:
		for key, inner := range v {
			// An approval stands for a time, and once STRICT is written nothing rests on it.
			if strings.HasSuffix(key, "Time") || key == "evidence" || key == "approval" {

				delete(v, key)
				continue
			}
			v[key] = timeless(inner)
		}
	case []any:
		for i := range v {
			v[i] = timeless(v[i])
		}
	}
	return value
}
