package builder

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/traffic"
)

// Now is when everything happens.
var Now = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func (m *maker) facts(profile *v1alpha1.ServiceSecurityProfile) facts.Facts {
	f := facts.Facts{
		Mesh: facts.Mesh{
			PeerAuthentications: true, DestinationRules: true, RequestAuthentications: true, AuthorizationPolicies: true,
			RootNamespace: RootNamespace, TrustDomain: pick(m, "cluster.local", "td.example.com", m.subdomain(200)), AutoMTLS: m.chance(70),
		},
		UnchangedFor: pick(m, 0, time.Hour),
		Inherited:    pick(m, v1alpha1.ModePermissive, v1alpha1.ModePermissive, v1alpha1.ModeStrict, v1alpha1.ModeDisabled),
		Ports:        m.workloadPorts(),
	}
	m.resolve(&f, profile)
	if m.chance(50) {
		f.Policy = facts.Policy{Exists: true, Owned: true, Selector: f.Target.Selector, Form: m.form(profile.Spec.MTLS)}
	}
	f.Effective = cmp.Or(f.Policy.Form.Mode, f.Inherited)
	m.conflicts(&f, profile)
	for i := range m.IntN(4) {
		f.Pods = append(f.Pods, facts.Pod{
			Namespace: profile.Namespace, Name: fmt.Sprint("pod-", i), UID: fmt.Sprint(i), Workload: "workload", Ready: true,
			Membership: pick(m, facts.MemberSidecar, facts.MemberSidecar, facts.MemberSidecar, facts.MemberNone),
		})
	}
	return f
}

// resolve sets what the target resolves to, with the hosts that clients call.
func (m *maker) resolve(f *facts.Facts, profile *v1alpha1.ServiceSecurityProfile) {
	target := profile.Spec.Target
	switch target.Kind {
	case v1alpha1.TargetService:
		f.Target = facts.Target{Scope: v1alpha1.ScopeWorkload, Selector: plainLabels(m.labels(4))}
		f.Hosts = []facts.Host{m.hostOf(target.Name, profile.Namespace, f.Ports)}
	case v1alpha1.TargetWorkload:
		f.Target = facts.Target{Scope: v1alpha1.ScopeWorkload, Selector: plainLabels(target.Selector.MatchLabels)}
		for _, service := range many(m, 3, func() string { return m.label(63) }) {
			f.Hosts = append(f.Hosts, m.hostOf(service, profile.Namespace, f.Ports))
		}
		slices.SortFunc(f.Hosts, func(a, b facts.Host) int { return cmp.Compare(a.Name, b.Name) })
	case v1alpha1.TargetGateway:
		f.Target = facts.Target{Scope: v1alpha1.ScopeGateway, Gateway: target.Name}
	case v1alpha1.TargetNamespace:
		f.Target = facts.Target{Scope: v1alpha1.ScopeNamespace}
		m.wildcard(f, "*."+profile.Namespace+".svc.cluster.local")
	case v1alpha1.TargetMesh:
		f.Target = facts.Target{Scope: v1alpha1.ScopeMesh}
		m.wildcard(f, "*.local")
	}
}

func plainLabels(labels map[string]v1alpha1.LabelValue) map[string]string {
	out := map[string]string{}
	for key, value := range labels {
		out[key] = string(value)
	}
	return out
}

func (m *maker) wildcard(f *facts.Facts, host string) {
	if m.chance(30) {
		return
	}
	f.Wildcard = &facts.Wildcard{Host: host}
	for i := range m.IntN(4) {
		f.Wildcard.Exempt = append(f.Wildcard.Exempt, facts.Exempt{Host: fmt.Sprintf("%s%s", m.label(20), host[1:]), Name: fmt.Sprint("exempt-", i)})
	}
}

func (m *maker) workloadPorts() []facts.WorkloadPort {
	var out []facts.WorkloadPort
	for _, port := range some(m, 85, 24, m.port) {
		protocol := pick(m, facts.ProtocolHTTP, facts.ProtocolHTTP, facts.ProtocolTCP, facts.ProtocolUndeclared)
		out = append(out, facts.WorkloadPort{Port: port, Protocol: protocol})
	}
	slices.SortFunc(out, func(a, b facts.WorkloadPort) int { return cmp.Compare(a.Port, b.Port) })
	return out
}

// hostOf is a Service in front of the workload ports.
func (m *maker) hostOf(service, namespace string, ports []facts.WorkloadPort) facts.Host {
	host := facts.Host{Name: service + "." + namespace + ".svc.cluster.local", Service: service, Headless: m.chance(10), Endpoints: m.IntN(4)}
	for i, port := range ports {
		host.Ports = append(host.Ports, facts.ServicePort{Port: int32(8000 + i), TargetPort: port.Port, Name: fmt.Sprint("port-", i)})
	}
	if m.chance(20) {
		host.UnmeshedEndpoints = []string{"legacy"}
	}
	return host
}

func (m *maker) form(asked *v1alpha1.MTLS) facts.Form {
	form := facts.Form{Mode: m.mode()}
	if asked == nil {
		return form
	}
	for _, exception := range asked.PortLevel {
		if m.chance(50) {
			if form.Ports == nil {
				form.Ports = map[int32]v1alpha1.Mode{}
			}
			form.Ports[exception.Port] = m.mode()
		}
	}
	return form
}

// conflicts takes sections from the profile, in their order.
func (m *maker) conflicts(f *facts.Facts, profile *v1alpha1.ServiceSecurityProfile) {
	spec := profile.Spec
	set := map[v1alpha1.Section]bool{
		v1alpha1.SectionMTLS: spec.MTLS != nil, v1alpha1.SectionJWT: spec.JWT != nil, v1alpha1.SectionAuthorization: spec.Authorization != nil,
	}
	for _, section := range []v1alpha1.Section{v1alpha1.SectionMTLS, v1alpha1.SectionJWT, v1alpha1.SectionAuthorization} {
		if set[section] && m.chance(4) {
			problem := facts.Problem{Reason: v1alpha1.ReasonConflicted, Section: section, Message: "An older profile has it."}
			f.Conflicts = append(f.Conflicts, facts.Conflict{Problem: problem, WinnerLive: m.chance(50)})
		}
	}
	if len(f.Conflicts) > 0 {
		f.Problem = &f.Conflicts[0].Problem
	}
}

// observation is complete, and either clean for long or not.
func (m *maker) observation(f facts.Facts) traffic.Observation {
	o := traffic.Observation{
		Completeness: traffic.Complete, Time: Now, Since: Now.Add(-pick(m, 1000*time.Hour, 24*time.Hour, time.Minute)),
		MutualTLS: m.Int64N(3), ConnectionsVisible: true,
	}
	if m.chance(30) {
		o.LastPlaintext = Now.Add(-time.Minute)
	}
	for _, pod := range f.Pods {
		if pod.Membership == facts.MemberSidecar {
			o.Proxies = append(o.Proxies, traffic.Reading{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, Started: o.Since})
		}
	}
	return o
}
