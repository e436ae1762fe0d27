//go:build istio

package istio_test

import (
	"fmt"
	"time"

	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/istio"
	"github.com/servicesecurity/operator/controllers/plan"
	"github.com/servicesecurity/operator/controllers/rollout"
	"github.com/servicesecurity/operator/test/builder"
)

// render takes a case through the pure part of the pipeline.
func render(c builder.Case) (istio.Objects, error) {
	spec, err := rollout.SpecOf(c.Profile)
	if err != nil {
		return istio.Objects{}, err
	}
	found := c.Facts
	var decision rollout.Decision
	if !found.Lost(v1alpha1.SectionMTLS) {
		in := rollout.Input{Spec: spec, Facts: found, Seen: c.Seen, Now: builder.Now, Interval: 15 * time.Second, Settle: 5 * time.Second}
		if decision = rollout.Next(in); decision.Confirm {
			in.Facts.Live = true
			decision = rollout.Next(in)
		}
	}
	return istio.Render(c.Profile.Name, plan.Build(c.Profile, found, decision)), nil
}

// listed are all objects, with their kinds, as they are sent.
func listed(objects istio.Objects) []client.Object {
	var all []client.Object
	if pa := objects.PeerAuthentication; pa != nil {
		all = append(all, pa)
		pa.SetGroupVersionKind(securityv1.SchemeGroupVersion.WithKind("PeerAuthentication"))
	}
	for _, dr := range objects.DestinationRules {
		all = append(all, dr)
		dr.SetGroupVersionKind(networkingv1.SchemeGroupVersion.WithKind("DestinationRule"))
	}
	if ra := objects.RequestAuthentication; ra != nil {
		all = append(all, ra)
		ra.SetGroupVersionKind(securityv1.SchemeGroupVersion.WithKind("RequestAuthentication"))
	}
	for _, ap := range objects.AuthorizationPolicies {
		all = append(all, ap)
		ap.SetGroupVersionKind(securityv1.SchemeGroupVersion.WithKind("AuthorizationPolicy"))
	}
	return all
}

// told is a case of a profile that someone wrote: its target is there, and takes requests, and connections if tcp says so.
func told(profile *v1alpha1.ServiceSecurityProfile, tcp bool) builder.Case {
	f := facts.Facts{
		Mesh: facts.Mesh{
			PeerAuthentications: true, DestinationRules: true, RequestAuthentications: true, AuthorizationPolicies: true,
			RootNamespace: builder.RootNamespace, TrustDomain: "cluster.local", AutoMTLS: true,
		},
		UnchangedFor: time.Hour, Inherited: v1alpha1.ModePermissive,
		Ports: []facts.WorkloadPort{{Port: 8000, Protocol: facts.ProtocolHTTP}},
	}
	if tcp {
		f.Ports = append(f.Ports, facts.WorkloadPort{Port: 9000, Protocol: facts.ProtocolTCP})
	}
	target := profile.Spec.Target
	switch target.Kind {
	case v1alpha1.TargetService:
		f.Target = facts.Target{Scope: v1alpha1.ScopeWorkload, Selector: map[string]string{"app": target.Name}}
		f.Hosts = []facts.Host{{Name: target.Name + "." + profile.Namespace + ".svc.cluster.local", Service: target.Name, Endpoints: 1}}
		if mtls := profile.Spec.MTLS; mtls != nil && mtls.Mode == v1alpha1.ModeDisabled {
			break // clients follow before the server takes plaintext alone
		}
		f.Rules = []facts.Rule{{Name: profile.Name, Owned: true, Host: f.Hosts[0].Name, TLS: facts.TLSMutual}}
	case v1alpha1.TargetWorkload:
		f.Target = facts.Target{Scope: v1alpha1.ScopeWorkload, Selector: map[string]string{}}
		for key, value := range target.Selector.MatchLabels {
			f.Target.Selector[key] = string(value)
		}
	case v1alpha1.TargetGateway:
		f.Target = facts.Target{Scope: v1alpha1.ScopeGateway, Gateway: target.Name}
	case v1alpha1.TargetNamespace:
		f.Target = facts.Target{Scope: v1alpha1.ScopeNamespace}
		f.Wildcard = &facts.Wildcard{Host: "*." + profile.Namespace + ".svc.cluster.local"}
	case v1alpha1.TargetMesh:
		f.Target = facts.Target{Scope: v1alpha1.ScopeMesh}
		f.Wildcard = &facts.Wildcard{Host: "*.local", Exempt: []facts.Exempt{{Host: "kubernetes.default.svc.cluster.local", Name: "kubernetes"}}}
	}
	return builder.Case{Profile: profile, Facts: f}
}

// text is an object as YAML, for whoever must find out what is wrong with it.
func text(object any) string {
	out, err := yaml.Marshal(object)
	if err != nil {
		return fmt.Sprint(err)
	}
	return string(out)
}
