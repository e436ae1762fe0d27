package resolve

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

// needsWildcard says whether clients of a whole namespace or the mesh are told what to do: where the profile asks for it,
// or where nothing else tells them.
func (res *resolution) needsWildcard() bool {
	mtls := res.profile.Spec.MTLS
	if mtls == nil || res.misplaced || !wide(res.profile.Spec.Target.Kind) {
		return false
	}
	switch mtls.DestinationRule {
	case v1alpha1.DestinationRuleAlways:
		return true
	case v1alpha1.DestinationRuleNever:
		return false
	default:
		return !res.facts.Mesh.AutoMTLS
	}
}

// resolveWildcard finds what a rule for a whole namespace or the mesh must not cover.
func (res *resolution) resolveWildcard(context.Context) error {
	if !res.needsWildcard() {
		return nil
	}
	domain := res.resolver.clusterDomain()
	spaces := map[string][]*corev1.Service{}
	for _, service := range res.services {
		spaces[service.Namespace] = append(spaces[service.Namespace], service)
	}
	wildcard := &facts.Wildcard{Host: wildcardHost(res.profile, domain)}
	for namespace, services := range spaces {
		exempt, meshed := res.exempt(services)
		if res.facts.Target.Scope == v1alpha1.ScopeMesh && len(exempt) > 0 && !meshed {
			exempt = []facts.Exempt{{Host: Host("*", namespace, domain), Name: exemptName("", namespace)}}
		}
		wildcard.Exempt = append(wildcard.Exempt, exempt...)
	}
	slices.SortFunc(wildcard.Exempt, func(a, b facts.Exempt) int { return strings.Compare(a.Name, b.Name) })
	res.facts.Wildcard = wildcard
	return nil
}

// wildcardHost stands for all hosts of the profile's target. The mesh's are those of the cluster's domain, of which Istio's
// documentation takes the last label.
func wildcardHost(profile *v1alpha1.ServiceSecurityProfile, domain string) string {
	if profile.Spec.Target.Kind == v1alpha1.TargetMesh {
		return "*." + domain[strings.LastIndexByte(domain, '.')+1:]
	}
	return Host("*", profile.Namespace, domain)
}

// exempt are the Services of a namespace that cannot be told to use mutual TLS, and whether any can: one has a ready
// endpoint that does not take it, or stands for something that is not in the cluster, as the API server's does.
func (res *resolution) exempt(services []*corev1.Service) (exempt []facts.Exempt, meshed bool) {
	domain := res.resolver.clusterDomain()
	for _, service := range services {
		unmeshed := len(serviceSelector(service)) == 0
		for _, pod := range res.endpointsOf(service) {
			switch {
			case !endpoint(service, pod):
			case takesMutualTLS(pod):
				meshed = true
			default:
				unmeshed = true
			}
		}
		if unmeshed {
			name := service.Name
			if res.facts.Target.Scope == v1alpha1.ScopeMesh {
				name = exemptName(service.Name, service.Namespace)
			}
			exempt = append(exempt, facts.Exempt{Host: Host(service.Name, service.Namespace, domain), Name: name})
		}
	}
	return exempt, meshed
}

// maxLabel is the length of a DNS label, and digestLength what is taken of a digest.
const (
	maxLabel     = 63
	digestLength = 8
)

// exemptName names a Service, or a whole namespace if it is empty, among all of the mesh. Where hyphens could make two
// names one, or where it would be too long, a digest tells them apart.
func exemptName(service, namespace string) string {
	name := namespace
	if service != "" {
		name = service + "-" + namespace
	}
	if !strings.Contains(service, "-") && !strings.Contains(namespace, "-") && len(name) <= maxLabel {
		return name
	}
	sum := sha256.Sum256([]byte(service + "." + namespace))
	if most := maxLabel - 1 - digestLength; len(name) > most {
		name = strings.TrimRight(name[:most], "-")
	}
	return name + "-" + hex.EncodeToString(sum[:])[:digestLength]
}
