package resolve

import (
	"context"
	"maps"
	"slices"

	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

// winnerLive says whether what the winner of a section has is in the cluster, for every pod of the profile's target: a
// winner that reaches some of them takes nothing off the others.
func (res *resolution) winnerLive(ctx context.Context, contest Contest) (bool, error) {
	winner := contest.Winner.Profile
	switch contest.Section {
	case v1alpha1.SectionMTLS:
		return res.peerLive(ctx, winner)
	case v1alpha1.SectionJWT:
		return res.tokensLive(ctx, winner)
	default:
		return res.callersLive(ctx, winner)
	}
}

// peerLive says so of the winner's PeerAuthentication, which must be no weaker than the profile's own on any port.
func (res *resolution) peerLive(ctx context.Context, winner *v1alpha1.ServiceSecurityProfile) (bool, error) {
	theirs, err := res.peerOf(ctx, winner)
	if err != nil || theirs == nil {
		return false, err
	}
	if res.resolver.member && winner.Spec.MTLS.Mode != v1alpha1.ModeStrict {
		return true, nil // a workload's own profile may be what makes it an exception from its namespace
	}
	ours, err := res.ownPeers(ctx)
	return err == nil && !slices.ContainsFunc(ours, func(form facts.Form) bool { return !formOf(theirs).NoWeaker(form) }), err
}

// peerTaken says whether a profile that takes mutual TLS over has done so: what it has is no weaker than the profile's own, but where
// it asks for less, and is not being verified, or a rollback would take what the profile had.
func (res *resolution) peerTaken(ctx context.Context, taker *v1alpha1.ServiceSecurityProfile) (bool, error) {
	theirs, err := res.peerOf(ctx, taker)
	if err != nil || theirs == nil || theirs.Annotations[v1alpha1.AnnotationSwitchedAt] != "" {
		return false, err
	}
	asked := askedForm(taker)
	ours, err := res.ownPeers(ctx)
	return err == nil && !slices.ContainsFunc(ours, func(form facts.Form) bool {
		ports := slices.AppendSeq(slices.Collect(maps.Keys(form.Ports)), maps.Keys(asked.Ports))
		return !formOf(theirs).NoWeaker(form.Map(ports, func(port int32, mode v1alpha1.Mode) v1alpha1.Mode { return facts.Weaker(mode, asked.At(port)) }))
	}), err
}

// peerOf is another profile's PeerAuthentication, if it is there for every pod of the target; nil if not.
func (res *resolution) peerOf(ctx context.Context, profile *v1alpha1.ServiceSecurityProfile) (*securityv1.PeerAuthentication, error) {
	var theirs securityv1.PeerAuthentication
	live, err := res.owned(ctx, PeerAuthenticationKind, profile, facts.PeerName(profile), &theirs)
	selector := theirs.Spec.GetSelector().GetMatchLabels()
	misses := slices.ContainsFunc(res.subjects(), func(pod subject) bool { return len(selector) > 0 && !matches(selector, pod.labels) })
	if err != nil || !live || misses {
		return nil, err
	}
	return &theirs, nil
}

// askedForm is what a profile asks of mutual TLS.
func askedForm(profile *v1alpha1.ServiceSecurityProfile) facts.Form {
	asked := facts.Form{Mode: profile.Spec.MTLS.Mode, Ports: map[int32]v1alpha1.Mode{}}
	for _, exception := range profile.Spec.MTLS.PortLevel {
		asked.Ports[exception.Port] = exception.Mode
	}
	return asked
}

// ownPeers are what the profile's own objects for pods of the target say. Of a whole namespace's there are several, and that of a
// workload had another name when other workloads shared its labels.
func (res *resolution) ownPeers(ctx context.Context) ([]facts.Form, error) {
	policies, err := listAll(ctx, res.source, policiesBySelector, res.profile.Namespace)
	var forms []facts.Form
	for _, policy := range policies {
		if metav1.IsControlledBy(policy, res.profile) && res.reaches(policy) {
			forms = append(forms, formOf(policy))
		}
	}
	return forms, err
}

// reaches says that one of the profile's own policies is about a pod of the target, or has the name of the target's.
func (res *resolution) reaches(policy *securityv1.PeerAuthentication) bool {
	selector := policy.Spec.GetSelector().GetMatchLabels()
	if res.facts.Target.Scope == v1alpha1.ScopeNamespace || policy.Name == facts.PeerName(res.profile) {
		return true
	}
	return len(selector) > 0 && slices.ContainsFunc(res.subjects(), func(pod subject) bool { return matches(selector, pod.labels) })
}

// tokensLive says so of the winner's RequestAuthentication and of the policy that demands a token.
func (res *resolution) tokensLive(ctx context.Context, winner *v1alpha1.ServiceSecurityProfile) (bool, error) {
	var tokens securityv1.RequestAuthentication
	live, err := res.owned(ctx, RequestAuthenticationKind, winner, facts.TokensName(winner.Name), &tokens)
	if err != nil || !live || !res.covers(&tokens.Spec, winner.Namespace) {
		return false, err
	}
	if !demandsToken(winner) {
		// Tokens that may be left out are weaker than those that are demanded.
		return !demandsToken(res.profile), nil
	}
	return res.accessLive(ctx, winner, facts.TokenName(winner.Name))
}

// callersLive says so of the winner's policies about callers. One that lets in all but some is weaker than one that lets in
// only some, and one that is counted only is none.
func (res *resolution) callersLive(ctx context.Context, winner *v1alpha1.ServiceSecurityProfile) (bool, error) {
	ours, theirs := res.profile.Spec.Authorization, winner.Spec.Authorization
	if ours != nil && ours.Default != v1alpha1.DefaultAllow && theirs.Default == v1alpha1.DefaultAllow {
		return false, nil
	}
	var names []string
	if winner.Spec.Authorization.Default != v1alpha1.DefaultAllow {
		names = append(names, facts.AllowName(winner.Name))
	}
	if len(winner.Spec.Authorization.DeniedCallers) > 0 {
		names = append(names, facts.DenyName(winner.Name))
	}
	for _, name := range names {
		if live, err := res.accessLive(ctx, winner, name); err != nil || !live {
			return false, err
		}
	}
	return true, nil
}

func (res *resolution) accessLive(ctx context.Context, winner *v1alpha1.ServiceSecurityProfile, name string) (bool, error) {
	var policy securityv1.AuthorizationPolicy
	live, err := res.owned(ctx, AuthorizationPolicyKind, winner, name, &policy)
	counted := policy.Annotations[annotationDryRun] == "true"
	ours := res.profile.Spec.Authorization
	if counted && (ours == nil || ours.Enforcement != v1alpha1.EnforcementDryRun) {
		return false, err
	}
	return live && res.covers(&policy.Spec, winner.Namespace), err
}

// owned reads an object and says whether the profile controls it.
func (res *resolution) owned(ctx context.Context, kind schema.GroupVersionKind, profile *v1alpha1.ServiceSecurityProfile, name string, obj client.Object) (bool, error) {
	found, err := res.get(ctx, kind, profile.Namespace, name, obj)
	return found && metav1.IsControlledBy(obj, profile), err
}

// covers says whether a policy applies to every pod of the target.
func (res *resolution) covers(spec placement, namespace string) bool {
	for _, pod := range res.subjects() {
		if !applies(spec, namespace, res.facts.Mesh.RootNamespace, pod) {
			return false
		}
	}
	return true
}

func formOf(policy *securityv1.PeerAuthentication) facts.Form {
	return facts.Form{Mode: modeOf(policy.Spec.GetMtls()), Ports: portsOf(policy)}
}
