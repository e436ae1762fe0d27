package resolve

import (
	"context"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/lru"
	"sigs.k8s.io/yaml"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

const (
	// The injector notes its revision as an annotation of the pod; a namespace asks for one by a label.
	annotationRevision = "istio.io/rev"
	labelRevision      = "istio.io/rev"
	defaultRevision    = "default"

	meshConfigMap      = "istio"
	meshConfigKey      = "mesh"
	defaultTrustDomain = "cluster.local"
)

// meshConfig is what is read of Istio's mesh configuration.
type meshConfig struct {
	RootNamespace  string `json:"rootNamespace"`
	TrustDomain    string `json:"trustDomain"`
	EnableAutoMTLS *bool  `json:"enableAutoMtls"`

	DefaultDestinationRuleExportTo []string `json:"defaultDestinationRuleExportTo"`

	metricProviders `json:",inline"`
}

// parsed are the mesh configurations that were read last, by their text: every pod's event and every workload asks for them,
// and they hardly ever change.
var parsed = lru.New(16)

// parseMesh reads a mesh configuration; one that cannot be read says nothing. Nobody may change what it returns.
func parseMesh(text string) *meshConfig {
	if known, ok := parsed.Get(text); ok {
		if config, ok := known.(*meshConfig); ok {
			return config
		}
	}
	config := &meshConfig{}
	if err := yaml.Unmarshal([]byte(text), config); err != nil {
		config = &meshConfig{}
	}
	parsed.Add(text, config)
	return config
}

// ParseMesh reads a mesh configuration. What it does not say, or cannot say because istiod could not read it either, is
// as Istio has it by default.
func ParseMesh(text, rootNamespace string) facts.Mesh {
	config := parseMesh(text)
	mesh := facts.Mesh{
		RootNamespace: config.RootNamespace,
		TrustDomain:   config.TrustDomain,
		AutoMTLS:      config.EnableAutoMTLS == nil || *config.EnableAutoMTLS,
		PrivateRules:  slices.Contains(config.DefaultDestinationRuleExportTo, "."),
	}
	if mesh.RootNamespace == "" {
		mesh.RootNamespace = rootNamespace
	}
	if mesh.TrustDomain == "" {
		mesh.TrustDomain = defaultTrustDomain
	}
	return mesh
}

func (res *resolution) resolveMesh(ctx context.Context) error {
	auto, private := true, false
	for i, revision := range revisions(res.pods, res.revision) {
		text, err := res.readMesh(ctx, res.resolver.RootNamespace, revision)
		if err != nil {
			return err
		}
		res.meshes = append(res.meshes, text)
		mesh := ParseMesh(text, res.resolver.RootNamespace)
		// A profile for the mesh is for the one whose root namespace it is in.
		isIts := res.facts.Target.Scope == v1alpha1.ScopeMesh && mesh.RootNamespace == res.profile.Namespace
		if i == 0 || isIts && res.facts.Mesh.RootNamespace != mesh.RootNamespace {
			res.facts.Mesh = mesh
		}
		// While two revisions have a part of the pods each, a client may follow either.
		auto, private = auto && mesh.AutoMTLS, private || mesh.PrivateRules
	}
	res.facts.Mesh.AutoMTLS, res.facts.Mesh.PrivateRules = auto, private
	return nil
}

// readMesh reads the mesh configuration of a revision, or the default one's where the revision has none of its own; empty
// if there is none at all.
func (s *source) readMesh(ctx context.Context, namespace, revision string) (string, error) {
	names := []string{meshConfigMap}
	if revision != defaultRevision {
		names = []string{meshConfigMap + "-" + revision, meshConfigMap}
	}
	for _, name := range names {
		var config corev1.ConfigMap
		found, err := s.get(ctx, core, namespace, name, &config)
		if err != nil {
			return "", err
		}
		if found {
			return config.Data[meshConfigKey], nil
		}
	}
	return "", nil
}

// revisions are the revisions of the control planes that injected the pods, in order; if none did, the one that the
// namespace asks for.
func revisions(pods []*corev1.Pod, asked string) []string {
	var all []string
	for _, pod := range pods {
		if revision := pod.Annotations[annotationRevision]; revision != "" && sidecar(pod) != nil && !slices.Contains(all, revision) {
			all = append(all, revision)
		}
	}
	switch {
	case len(all) > 0:
	case asked != "":
		return []string{asked}
	default:
		return []string{defaultRevision}
	}
	slices.Sort(all)
	return all
}

// meshConfigName says whether a ConfigMap of this name holds a mesh configuration.
func meshConfigName(name string) bool {
	return name == meshConfigMap || strings.HasPrefix(name, meshConfigMap+"-")
}
