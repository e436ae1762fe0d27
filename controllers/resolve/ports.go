package resolve

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

// ServiceMapping is one port of a Service and the workload ports that it leads to.
type ServiceMapping struct {
	Service string
	Port    int32
	Targets []int32
}

// JudgePorts looks at the ports of mtls.portLevel, which Istio takes by workload port and ignores silently otherwise.
// Unmapped are those that no Service maps. The message is not empty if one is certainly a mistake: a Service port that
// is no workload port.
func JudgePorts(ports []v1alpha1.PortMTLS, mappings []ServiceMapping, declared []int32) (unmapped []int32, message string) {
	var wrong []string
	for _, exception := range ports {
		port := exception.Port
		isTarget := slices.ContainsFunc(mappings, func(m ServiceMapping) bool { return slices.Contains(m.Targets, port) })
		if isTarget {
			continue
		}
		text := serviceAndTargets(port, mappings)
		if text == "" || slices.Contains(declared, port) {
			unmapped = append(unmapped, port)
			continue
		}
		wrong = append(wrong, text)
	}
	slices.Sort(unmapped)
	if len(wrong) == 0 {
		return unmapped, ""
	}
	return unmapped, fmt.Sprintf("Ports in mtls.portLevel are workload ports, and Istio ignores others: %s.", strings.Join(wrong, "; "))
}

// serviceAndTargets says what to write instead of a port of Services; empty if it is none, or if the workload port
// cannot be told.
func serviceAndTargets(port int32, mappings []ServiceMapping) string {
	var services, targets []string
	for _, mapping := range mappings {
		if mapping.Port != port || len(mapping.Targets) == 0 {
			continue
		}
		services = append(services, fmt.Sprintf("%q", mapping.Service))
		for _, target := range mapping.Targets {
			if text := fmt.Sprint(target); !slices.Contains(targets, text) {
				targets = append(targets, text)
			}
		}
	}
	if len(services) == 0 {
		return ""
	}
	return fmt.Sprintf("%d is a port of Service %s whose workload port is %s, so write %s",
		port, strings.Join(services, ", "), strings.Join(targets, " or "), strings.Join(targets, " or "))
}

func (res *resolution) resolvePorts(context.Context) error {
	mtls := res.profile.Spec.MTLS
	if mtls == nil || len(mtls.PortLevel) == 0 {
		return nil
	}
	var mappings []ServiceMapping
	for _, service := range res.services {
		for _, port := range service.Spec.Ports {
			if tcp(port.Protocol) {
				targets := targetsOf(port, res.endpointsOf(service))
				mappings = append(mappings, ServiceMapping{Service: service.Name, Port: port.Port, Targets: targets})
			}
		}
	}
	var declared []int32
	for _, pod := range res.pods {
		declared = append(declared, containerPorts(pod)...)
	}
	unmapped, message := JudgePorts(mtls.PortLevel, mappings, declared)
	res.facts.UnmappedPorts = unmapped
	if message != "" {
		res.problem(v1alpha1.ReasonInvalid, v1alpha1.SectionMTLS, message)
	}
	return nil
}
