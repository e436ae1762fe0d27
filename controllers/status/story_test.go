package status_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/apply"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/istio"
	"github.com/servicesecurity/operator/controllers/plan"
	"github.com/servicesecurity/operator/controllers/rollout"
	"github.com/servicesecurity/operator/controllers/status"
	"github.com/servicesecurity/operator/controllers/traffic"
)

// A story takes one profile through the pure part of the pipeline, step by step: what a step decides is what the next one
// finds in the cluster and in status. testdata/<case>/in.yaml tells it, and out.yaml has what comes of each step.
//
// A step is laid over what was before it (a JSON merge patch: null takes something away). Times are offsets from start.

var start = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

const (
	interval = 15 * time.Second
	settle   = 5 * time.Second
)

// story is an in.yaml.
type story struct {
	Steps []map[string]any `json:"steps"`
}

// scene is what a step is decided from.
type scene struct {
	// Step says what happens.
	Step string `json:"step"`
	// At is when; it stays until it is said anew.
	At      metav1.Duration `json:"at"`
	Profile struct {
		Namespace   string                              `json:"namespace"`
		Name        string                              `json:"name"`
		Annotations map[string]string                   `json:"annotations"`
		Spec        v1alpha1.ServiceSecurityProfileSpec `json:"spec"`
	} `json:"profile"`
	// Facts but for what the story itself knows: the profile's own objects, and what is in force. A step may say these
	// too, which is then someone else's doing.
	Facts facts.Facts `json:"facts"`
	Seen  seen        `json:"seen"`
	// Logged are the callers that access logs have.
	Logged []v1alpha1.PlaintextCaller `json:"logged"`
	// FailingCallers are those that fail after the switch.
	FailingCallers []string `json:"failingCallers"`
	// Sight is what verification sees of the callers' side.
	Sight rollout.Sight `json:"sight"`
	// Fails are the kinds that cannot be written in this step, and why.
	Fails []failure `json:"fails"`
	// Approves says that the annotation carries the token in status.
	Approves bool `json:"approves"`
}

// seen is an observation: complete, of every sidecar, unless it says otherwise.
type seen struct {
	Completeness     traffic.Completeness       `json:"completeness"`
	Reason           string                     `json:"reason"`
	Message          string                     `json:"message"`
	Since            metav1.Duration            `json:"since"`
	LastPlaintext    *metav1.Duration           `json:"lastPlaintext"`
	OpenPlaintext    int64                      `json:"openPlaintext"`
	NotAttributable  bool                       `json:"notAttributable"`
	StreamsInvisible bool                       `json:"streamsInvisible"`
	MutualTLS        int64                      `json:"mutualTLS"`
	Callers          []v1alpha1.PlaintextCaller `json:"callers"`
	// Updates of the listeners that every proxy took; the switch is seen when it grows.
	Updates int64 `json:"updates"`
}

type failure struct {
	Kind string `json:"kind"`
	// Why is Foreign, NotInstalled, Unsupported, or the API server's words.
	Why string `json:"why"`
}

// world is what the steps leave behind.
type world struct {
	merged     map[string]any
	status     v1alpha1.ServiceSecurityProfileStatus
	generation int64
	spec       string
	policy     facts.Policy
	held       facts.Policy
	rules      []facts.Rule
	changed    time.Time
	baseline   map[string]traffic.Reading
}

// outcome is what came of a step.
type outcome struct {
	step    string
	input   status.Input
	objects istio.Objects
	status  v1alpha1.ServiceSecurityProfileStatus
}

// stories are the names of all cases.
func stories(t testing.TB) []string {
	t.Helper()
	paths, err := filepath.Glob("testdata/*/in.yaml")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no stories found: %v", err)
	}
	var names []string
	for _, path := range paths {
		names = append(names, filepath.Base(filepath.Dir(path)))
	}
	return names
}

// tell runs a case.
func tell(t testing.TB, name string) []outcome {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name, "in.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var told story
	if err := yaml.UnmarshalStrict(text, &told); err != nil {
		t.Fatal(err)
	}
	w := &world{merged: map[string]any{}}
	var all []outcome
	for _, step := range told.Steps {
		all = append(all, w.play(t, step))
	}
	return all
}

// logged are callers as access logs have them.
func logged(callers []v1alpha1.PlaintextCaller) traffic.Logged {
	var l traffic.Logged
	for _, c := range callers {
		l.Callers = append(l.Callers, traffic.LoggedCaller{PlaintextCaller: c, Pod: c.Workload != "unknown"})
	}
	return l
}

// play makes one reconcile.
func (w *world) play(t testing.TB, step map[string]any) outcome {
	t.Helper()
	for _, once := range []string{"fails", "approves", "failingCallers"} {
		delete(w.merged, once)
	}
	w.merged = merge(w.merged, step).(map[string]any)
	s := decode(t, w.merged)
	now := start.Add(s.At.Duration)
	profile := w.profile(t, s)
	found := w.facts(s, step, now)
	spec, err := rollout.SpecOf(profile)
	if err != nil {
		t.Fatal(err)
	}
	in := status.Input{Profile: profile, Spec: spec, Facts: found, Sight: s.Sight, Now: now}
	out := outcome{step: s.Step}
	if found.Actionable() {
		if !found.Lost(v1alpha1.SectionMTLS) {
			in.Logged = logged(s.Logged)
			in.Seen = observation(s, found, now).With(in.Logged)
			in.Decision = w.decide(&in, s)
		}
		out.objects = istio.Render(profile.Name, plan.Build(profile, in.Facts, in.Decision))
		in.Applied, in.ApplyError = w.apply(s, in, out.objects)
	}
	w.status = status.Compute(in)
	out.input, out.status = in, w.status
	return out
}

func (w *world) profile(t testing.TB, s scene) *v1alpha1.ServiceSecurityProfile {
	t.Helper()
	spec, err := json.Marshal(s.Profile.Spec)
	if err != nil {
		t.Fatal(err)
	}
	if string(spec) != w.spec {
		w.generation++
		w.spec = string(spec)
	}
	profile := &v1alpha1.ServiceSecurityProfile{Spec: s.Profile.Spec, Status: *w.status.DeepCopy()}
	profile.Namespace, profile.Name, profile.Generation = s.Profile.Namespace, s.Profile.Name, w.generation
	profile.Annotations = s.Profile.Annotations
	if s.Approves {
		profile.Annotations = map[string]string{v1alpha1.AnnotationApprove: w.status.MTLS.Approval.Token}
	}
	return profile
}

// facts are those of the scene, with what needs not be said.
func (w *world) facts(s scene, step map[string]any, now time.Time) facts.Facts {
	found := s.Facts
	if found.Mesh == (facts.Mesh{}) {
		found.Mesh = facts.Mesh{PeerAuthentications: true, DestinationRules: true, RequestAuthentications: true, AuthorizationPolicies: true, RootNamespace: "istio-system", TrustDomain: "cluster.local", AutoMTLS: true}
	}
	if found.Target.Scope == "" {
		found.Target.Scope = v1alpha1.ScopeWorkload
	}
	for i := range found.Pods {
		pod := &found.Pods[i]
		pod.Namespace, pod.UID, pod.Ready = s.Profile.Namespace, pod.Name, true
		pod.Membership = cmp.Or(pod.Membership, facts.MemberSidecar)
	}
	for i := range found.Hosts {
		found.Hosts[i].Name = found.Hosts[i].Service + "." + s.Profile.Namespace + ".svc.cluster.local"
	}
	if said, ok := step["facts"].(map[string]any); ok {
		if _, ok := said["policy"]; ok {
			w.policy, w.changed = found.Policy, now
		}
		if _, ok := said["rules"]; ok {
			w.rules, w.changed = found.Rules, now
		}
	}
	found.Policy, found.Rules, found.UnchangedFor = w.policy, slices.Clone(w.rules), now.Sub(w.changed)
	found.Inherited = cmp.Or(found.Inherited, v1alpha1.ModePermissive)
	if found.Effective == "" {
		found.Effective = found.Inherited
		if found.Policy.Exists && maps.Equal(found.Policy.Selector, found.Target.Selector) {
			found.Effective = cmp.Or(found.Policy.Form.Mode, found.Inherited)
		}
	}
	return found
}

func observation(s scene, found facts.Facts, now time.Time) traffic.Observation {
	o := traffic.Observation{
		Completeness: cmp.Or(s.Seen.Completeness, traffic.Complete), Reason: s.Seen.Reason, Message: s.Seen.Message,
		Time: now, Since: start.Add(s.Seen.Since.Duration), OpenPlaintext: s.Seen.OpenPlaintext,
		NotAttributable: s.Seen.NotAttributable, ConnectionsVisible: !s.Seen.StreamsInvisible, MutualTLS: s.Seen.MutualTLS,
		Callers: s.Seen.Callers,
	}
	o.Evidence = v1alpha1.Evidence{ObservedTime: &metav1.Time{Time: now}, MutualTLS: s.Seen.MutualTLS, MutualTLSInStretch: s.Seen.MutualTLS}
	if s.Seen.LastPlaintext != nil {
		o.LastPlaintext = start.Add(s.Seen.LastPlaintext.Duration)
	}
	for _, pod := range found.Pods {
		if pod.Membership == facts.MemberSidecar {
			o.Proxies = append(o.Proxies, traffic.Reading{
				Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, Started: start.Add(-48 * time.Hour), ListenerUpdates: s.Seen.Updates,
			})
		}
	}
	return o
}

// decide asks as the controller does: a decision to switch is made again from facts read live.
func (w *world) decide(in *status.Input, s scene) rollout.Decision {
	next := func() rollout.Decision {
		return rollout.Next(rollout.Input{
			Spec: in.Spec, Facts: in.Facts, Seen: in.Seen, Previous: rollout.PreviousOf(w.status), Held: w.held,
			Baseline: w.baseline, FailingCallers: s.FailingCallers, Now: in.Now, Interval: interval, Settle: settle,
		})
	}
	d := next()
	if d.Confirm {
		in.Facts.Live = true
		d = next()
	}
	return d
}

// apply does what is not in the way of a failure.
func (w *world) apply(s scene, in status.Input, objects istio.Objects) (apply.Result, error) {
	failed := map[string]error{}
	var errs []error
	for _, f := range s.Fails {
		failed[f.Kind] = f.err(s)
		errs = append(errs, failed[f.Kind])
	}
	var result apply.Result
	if failed["PeerAuthentication"] == nil {
		w.held = in.Decision.Held(in.Facts.Target, w.policy)
		if fmt.Sprint(w.held) != fmt.Sprint(w.policy) {
			w.policy, w.changed = w.held, in.Now
		}
		if w.policy.Exists {
			result.Resources = append(result.Resources, v1alpha1.ResourceRef{Kind: "PeerAuthentication", Name: facts.PeerName(in.Profile)})
		}
		if in.Decision.Switched {
			w.baseline = map[string]traffic.Reading{}
			for _, reading := range in.Seen.Proxies {
				w.baseline[reading.UID] = reading
			}
		}
	}
	if failed["DestinationRule"] == nil {
		var rules []facts.Rule
		for i, rule := range in.Decision.Rules {
			name := objects.DestinationRules[i].Name
			live := facts.Rule{Name: name, Owned: true, Host: rule.Host.Name, TLS: rule.TLS, Ports: map[int32]facts.TLS{}}
			for _, port := range rule.Ports {
				live.Ports[port.Port] = port.TLS
			}
			rules = append(rules, live)
			result.Resources = append(result.Resources, v1alpha1.ResourceRef{Kind: "DestinationRule", Name: name})
		}
		if fmt.Sprint(rules) != fmt.Sprint(w.rules) {
			w.rules, w.changed = rules, in.Now
		}
	}
	w.policies(&result, failed, objects)
	return result, errors.Join(errs...)
}

// policies are written all or not at all.
func (w *world) policies(result *apply.Result, failed map[string]error, objects istio.Objects) {
	if failed[apply.RequestAuthentication] != nil || failed[apply.AuthorizationPolicy] != nil {
		result.PoliciesFailed = true
		return
	}
	if ra := objects.RequestAuthentication; ra != nil {
		result.Resources = append(result.Resources, v1alpha1.ResourceRef{Kind: apply.RequestAuthentication, Name: ra.Name})
	}
	for _, ap := range objects.AuthorizationPolicies {
		result.Resources = append(result.Resources, v1alpha1.ResourceRef{Kind: apply.AuthorizationPolicy, Name: ap.Name})
	}
}

func (f failure) err(s scene) error {
	switch f.Why {
	case "Foreign":
		return &apply.ForeignObjectError{Kind: f.Kind, Namespace: s.Profile.Namespace, Name: s.Profile.Name, Profile: s.Profile.Name}
	case "NotInstalled":
		return &apply.NotInstalledError{Kind: f.Kind}
	case "Unsupported":
		return &apply.UnsupportedError{Kind: f.Kind, Name: s.Profile.Name, Err: errors.New(`unknown field "spec.portLevelMtls"`)}
	}
	return fmt.Errorf("updating %s %s: %w", f.Kind, s.Profile.Name, errors.New(f.Why))
}

// merge lays a JSON merge patch over a document.
func merge(document, patch any) any {
	changes, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	out, ok := document.(map[string]any)
	if !ok {
		out = map[string]any{}
	}
	out = maps.Clone(out)
	for key, value := range changes {
		if value == nil {
			delete(out, key)
		} else {
			out[key] = merge(out[key], value)
		}
	}
	return out
}

func decode(t testing.TB, document map[string]any) scene {
	t.Helper()
	text, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	var s scene
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&s); err != nil {
		t.Fatalf("step %q: %v", document["step"], err)
	}
	return s
}

// yaml writes an outcome as a document of out.yaml. Conditions and objects that are as in the step before are left out.
func (o outcome) yaml(t testing.TB, before *outcome) string {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "step: %q\nnow: %q\n", o.step, o.input.Now.Format(time.RFC3339))
	var changed []string
	for i, c := range o.status.Conditions {
		text := fmt.Sprintf("%s=%s, %s: %s", c.Type, c.Status, c.Reason, c.Message)
		if before != nil {
			was := before.status.Conditions[i]
			if text == fmt.Sprintf("%s=%s, %s: %s", was.Type, was.Status, was.Reason, was.Message) {
				continue
			}
		}
		changed = append(changed, fmt.Sprintf("- %q\n", text))
	}
	if len(changed) > 0 {
		b.WriteString("conditions:\n" + strings.Join(changed, ""))
	}
	rest := o.status.DeepCopy()
	rest.Conditions = nil
	if rest.MTLS != nil {
		rest.MTLS.Evidence = nil // not for people
	}
	block(t, &b, "status", rest)
	objects := o.written(t)
	if before == nil || objects != before.written(t) {
		b.WriteString(objects)
	}
	return b.String()
}

// written are the objects of an outcome.
func (o outcome) written(t testing.TB) string {
	t.Helper()
	var b strings.Builder
	if o.objects.KeepPeerAuthentication {
		b.WriteString("keepsPeerAuthentication: true\n")
	}
	for _, name := range o.objects.KeepAuthorizationPolicies {
		fmt.Fprintf(&b, "keepsAuthorizationPolicy: %s\n", name)
	}
	if o.objects.AfterDestinationRules {
		b.WriteString("peerAuthenticationGoesAfterDestinationRules: true\n")
	}
	objects := []any{}
	if pa := o.objects.PeerAuthentication; pa != nil {
		pa = pa.DeepCopy()
		pa.TypeMeta = metav1.TypeMeta{APIVersion: "security.istio.io/v1", Kind: "PeerAuthentication"}
		objects = append(objects, pa)
	}
	for _, dr := range o.objects.DestinationRules {
		dr = dr.DeepCopy()
		dr.TypeMeta = metav1.TypeMeta{APIVersion: "networking.istio.io/v1", Kind: "DestinationRule"}
		objects = append(objects, dr)
	}
	if ra := o.objects.RequestAuthentication; ra != nil {
		ra = ra.DeepCopy()
		ra.TypeMeta = metav1.TypeMeta{APIVersion: "security.istio.io/v1", Kind: "RequestAuthentication"}
		objects = append(objects, ra)
	}
	for _, ap := range o.objects.AuthorizationPolicies {
		ap = ap.DeepCopy()
		ap.TypeMeta = metav1.TypeMeta{APIVersion: "security.istio.io/v1", Kind: "AuthorizationPolicy"}
		objects = append(objects, ap)
	}
	block(t, &b, "objects", objects)
	return strings.ReplaceAll(b.String(), "  status: {}\n", "")
}

func block(t testing.TB, b *strings.Builder, key string, value any) {
	t.Helper()
	text, err := yaml.Marshal(map[string]any{key: value})
	if err != nil {
		t.Fatal(err)
	}
	b.Write(text)
}
