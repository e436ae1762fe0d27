package apply

import (
	"cmp"
	"context"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	securityapi "istio.io/api/security/v1beta1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/controllers/istio"
)

// policies writes who may call, and what tokens are valid. On the way from the old profile to the new one no request that
// both let in is refused, and none that both refuse gets in:
//
//   - Tokens come before the policies that ask for them, and go after them, with a time to settle in between.
//   - A request is let in if the ALLOW policy matches it and no DENY policy does. So first every DENY policy refuses what
//     either the old or the new one refuses, then the ALLOW policy changes, and then each DENY policy becomes the new one.
//
// It is all or nothing: if one of several objects is not the profile's, or would be refused by the API server or by Istio,
// none is written, and what is in force stays.
func (a *Applier) policies(ctx context.Context, w *writer, desired istio.Objects) {
	before := len(w.errs)
	defer func() { w.result.PoliciesFailed = len(w.errs) > before }()
	if !a.installed(w, desired) {
		return
	}
	p := &policyWriter{writer: w, Applier: a, desired: desired}
	if !p.look(ctx) || !p.try(ctx) {
		p.stay()
		return
	}
	if err := p.write(ctx); err != nil {
		w.fail(err)
		p.stay()
	}
}

// installed says whether there are the kinds to write.
func (a *Applier) installed(w *writer, desired istio.Objects) bool {
	before := len(w.errs)
	if desired.RequestAuthentication != nil && !a.Mesh.RequestAuthentications {
		w.fail(&NotInstalledError{Kind: RequestAuthentication})
	}
	if len(desired.AuthorizationPolicies) > 0 && !a.Mesh.AuthorizationPolicies {
		w.fail(&NotInstalledError{Kind: AuthorizationPolicy})
	}
	return len(w.errs) == before
}

// policyWriter writes one profile's tokens and policies.
type policyWriter struct {
	*writer
	*Applier
	desired istio.Objects
	// tokens and rules are what is to become of each object, those that go included.
	tokens, rules []change
}

// stay says that what is there is left as it is.
func (p *policyWriter) stay() {
	p.writer.stay(tokenKind, p.tokens)
	p.writer.stay(policyKind, p.rules)
}

// look compares everything with what is live.
func (p *policyWriter) look(ctx context.Context) bool {
	var want []client.Object
	for _, policy := range p.desired.AuthorizationPolicies {
		want = append(want, policy.DeepCopy())
	}
	ok := p.survey(ctx, policyKind, want, p.desired.KeepAuthorizationPolicies, &p.rules)
	if p.desired.KeepRequestAuthentication {
		return p.survey(ctx, tokenKind, nil, []string{p.profile.Name}, &p.tokens) && ok
	}
	var tokens []client.Object
	if p.desired.RequestAuthentication != nil {
		object := p.desired.RequestAuthentication.DeepCopy()
		object.OwnerReferences = p.dependents()
		tokens = append(tokens, object)
	}
	return p.survey(ctx, tokenKind, tokens, nil, &p.tokens) && ok
}

// survey says what is to become of each object of a kind: those that are wanted, and those that are the profile's already.
func (p *policyWriter) survey(ctx context.Context, k kind, want []client.Object, keep []string, into *[]change) bool {
	if !p.there(k) {
		return true // there can be none
	}
	ok := true
	names := map[string]bool{}
	for _, object := range want {
		names[object.GetName()] = true
		c, err := p.compare(ctx, k, object)
		if err != nil {
			p.fail(err)
			ok = false
			continue
		}
		*into = append(*into, c)
	}
	owned, err := p.owned(ctx, k)
	if err != nil {
		p.fail(err)
		return false
	}
	for _, object := range owned {
		if !names[object.GetName()] && object.GetDeletionTimestamp() == nil {
			*into = append(*into, rest(object, keep))
		}
	}
	return ok
}

// rest is what becomes of an object that is not wanted.
func rest(object client.Object, keep []string) change {
	if slices.Contains(keep, object.GetName()) {
		return change{live: object, object: object}
	}
	return change{live: object, verb: Deleted, unlike: true}
}

// there says whether the API server knows the kind.
func (p *policyWriter) there(k kind) bool {
	if k.name == RequestAuthentication {
		return p.Mesh.RequestAuthentications
	}
	return p.Mesh.AuthorizationPolicies
}

// try has the API server look at several writes before the first is made.
func (p *policyWriter) try(ctx context.Context) bool {
	several := 0
	for _, c := range slices.Concat(p.tokens, p.rules) {
		if !c.none() {
			several++
		}
	}
	if several < 2 {
		return true
	}
	ok := true
	check := func(k kind, changes []change) {
		for _, c := range changes {
			if err := p.writer.try(ctx, k, c); err != nil {
				p.fail(err)
				ok = false
			}
		}
	}
	check(tokenKind, p.tokens)
	check(policyKind, p.rules)
	return ok
}

// write makes the writes in order, and stops at the first that fails.
func (p *policyWriter) write(ctx context.Context) error {
	coming := slices.DeleteFunc(slices.Clone(p.tokens), func(c change) bool { return c.object == nil })
	going := slices.DeleteFunc(slices.Clone(p.tokens), func(c change) bool { return c.object != nil })
	for _, c := range coming {
		if _, err := p.put(ctx, tokenKind, c); err != nil {
			return err
		}
	}
	if wait := p.settling(coming, p.TokensAge); wait > 0 && len(coming) > 0 && moves(p.rules) {
		p.stay()
		p.result.Settling = wait
		return nil
	}
	if err := p.order(ctx); err != nil {
		return err
	}
	if wait := p.settling(p.rules, p.PoliciesAge); wait > 0 && moves(going) {
		p.stay()
		p.result.Settling = wait
		return nil
	}
	for _, c := range going {
		if _, err := p.put(ctx, tokenKind, c); err != nil {
			return err
		}
	}
	return p.chain(ctx)
}

// settling is how long what changed just now, or at an age, needs to settle.
func (p *policyWriter) settling(changes []change, age time.Duration) time.Duration {
	if moves(changes) {
		return p.Settle
	}
	return max(0, p.Settle-age)
}

// moves says whether Istio sees a difference in any of the changes.
func moves(changes []change) bool {
	return slices.ContainsFunc(changes, func(c change) bool { return !c.none() && c.unlike })
}

// order writes the policies.
func (p *policyWriter) order(ctx context.Context) error {
	moving := slices.DeleteFunc(slices.Clone(p.rules), func(c change) bool { return !moves([]change{c}) })
	for i := range p.rules {
		// One object by itself changes from old to new in one moment.
		if c := &p.rules[i]; len(moving) > 1 && !c.none() && denies(*c) {
			if err := p.widen(ctx, c); err != nil {
				return err
			}
		}
	}
	// What lets in goes before what refuses.
	slices.SortStableFunc(p.rules, func(a, b change) int { return cmp.Compare(rank(a), rank(b)) })
	for _, c := range p.rules {
		if _, err := p.put(ctx, policyKind, c); err != nil {
			return err
		}
	}
	return nil
}

func rank(c change) int {
	if denies(c) {
		return 1
	}
	return 0
}

// denies says whether a policy refuses, as it is or as it is to be.
func denies(c change) bool {
	object := c.object
	if object == nil {
		object = c.live
	}
	return object.(*securityv1.AuthorizationPolicy).Spec.GetAction() == securityapi.AuthorizationPolicy_DENY
}

// widen has a DENY policy refuse what either the live or the new one refuses. One that is counted only refuses nothing.
func (p *policyWriter) widen(ctx context.Context, c *change) error {
	if c.object == nil {
		return nil // all that it refuses stays refused until it goes
	}
	before, after := refusals(c.live), refusals(c.object)
	lost, added := without(before, after), without(after, before)
	switch {
	case len(added) == 0:
		return nil
	case len(lost) == 0:
		object, err := p.put(ctx, policyKind, *c)
		if err != nil {
			return err
		}
		*c = change{live: object, object: object}
		return nil
	}
	wide := change{live: c.live, object: c.object.DeepCopyObject().(client.Object), verb: c.verb, unlike: true}
	wide.object.(*securityv1.AuthorizationPolicy).Spec.Rules = slices.Concat(after, lost)
	delete(wide.object.GetAnnotations(), istio.AnnotationDryRun)
	object, err := p.put(ctx, policyKind, wide)
	if err != nil {
		return err
	}
	c.live = object
	c.object.SetResourceVersion(object.GetResourceVersion())
	c.verb = Updated
	return nil
}

// without are the rules that are not among others.
func without(rules, others []*securityapi.Rule) []*securityapi.Rule {
	return slices.DeleteFunc(slices.Clone(rules), func(rule *securityapi.Rule) bool {
		return slices.ContainsFunc(others, func(other *securityapi.Rule) bool { return proto.Equal(rule, other) })
	})
}

// refusals are the rules by which a policy refuses.
func refusals(object client.Object) []*securityapi.Rule {
	policy, ok := object.(*securityv1.AuthorizationPolicy)
	if !ok || policy == nil || policy.Annotations[istio.AnnotationDryRun] == "true" || policy.Spec.GetAction() != securityapi.AuthorizationPolicy_DENY {
		return nil
	}
	return policy.Spec.GetRules()
}

// chain has the tokens outlive the policies when the profile is deleted.
func (p *policyWriter) chain(ctx context.Context) error {
	if p.desired.RequestAuthentication == nil || p.desired.KeepRequestAuthentication {
		return nil
	}
	for _, c := range p.tokens {
		if c.object == nil {
			continue
		}
		want := p.desired.RequestAuthentication.DeepCopy()
		want.OwnerReferences = p.dependents()
		after, err := p.difference(tokenKind, c.object, want)
		if err != nil || after.none() {
			return err
		}
		if _, err := p.put(ctx, tokenKind, after); err != nil {
			return err
		}
	}
	return nil
}

// dependents are the live policies that stay, as owners of the tokens.
func (p *policyWriter) dependents() []metav1.OwnerReference {
	var owners []metav1.OwnerReference
	for _, c := range p.rules {
		if c.object != nil && c.object.GetUID() != "" {
			owners = append(owners, metav1.OwnerReference{
				APIVersion: securityv1.SchemeGroupVersion.String(), Kind: AuthorizationPolicy, Name: c.object.GetName(), UID: c.object.GetUID(),
			})
		}
	}
	return owners
}
