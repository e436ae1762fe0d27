package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/blang/semver/v4"
	"github.com/operator-framework/api/pkg/lib/version"
	"github.com/operator-framework/api/pkg/operators/v1alpha1"
	appsv1 "k8s.io/api/apps/v1"
)

// clusterServiceVersion adds to the words of the base what OLM installs.
func (out *objects) clusterServiceVersion(number string) (*v1alpha1.ClusterServiceVersion, error) {
	parsed, err := semver.Parse(number)
	if err != nil {
		return nil, fmt.Errorf("parsing version %q: %w", number, err)
	}
	examples, err := json.MarshalIndent(out.samples, "", "  ")
	if err != nil {
		return nil, err
	}
	csv := out.base.DeepCopy()
	csv.Namespace = ""
	csv.Name += ".v" + number
	csv.Annotations["alm-examples"] = string(examples)
	csv.Annotations["containerImage"] = out.deployment.Spec.Template.Spec.Containers[0].Image
	csv.Spec.Version = version.OperatorVersion{Version: parsed}
	csv.Spec.InstallStrategy = v1alpha1.NamedInstallStrategy{
		StrategyName: v1alpha1.InstallStrategyNameDeployment,
		StrategySpec: out.strategy(),
	}
	// No required APIs: OLM would pull in whatever operator owns Istio's. The manager looks for Istio at run time.
	csv.Spec.CustomResourceDefinitions.Owned = out.owned()
	return csv, nil
}

func (out *objects) strategy() v1alpha1.StrategyDetailsDeployment {
	spec := *out.deployment.Spec.DeepCopy()
	if spec.Strategy.Type == "" {
		spec.Strategy.Type = appsv1.RollingUpdateDeploymentStrategyType
	}
	return v1alpha1.StrategyDetailsDeployment{
		DeploymentSpecs: []v1alpha1.StrategyDeploymentSpec{{
			Name:  out.deployment.Name,
			Label: out.deployment.Labels,
			Spec:  spec,
		}},
		ClusterPermissions: []v1alpha1.StrategyDeploymentPermissions{{ServiceAccountName: out.account, Rules: out.clusterRules}},
		Permissions:        []v1alpha1.StrategyDeploymentPermissions{{ServiceAccountName: out.account, Rules: out.rules}},
	}
}

// owned describes the CRDs by their own words.
func (out *objects) owned() []v1alpha1.CRDDescription {
	var owned []v1alpha1.CRDDescription
	for _, crd := range out.crds {
		for _, v := range crd.Spec.Versions {
			description := v1alpha1.CRDDescription{
				Name:        crd.Name,
				Version:     v.Name,
				Kind:        crd.Spec.Names.Kind,
				DisplayName: spaced(crd.Spec.Names.Kind),
			}
			if v.Schema != nil && v.Schema.OpenAPIV3Schema != nil {
				description.Description = strings.Join(strings.Fields(v.Schema.OpenAPIV3Schema.Description), " ")
			}
			owned = append(owned, description)
		}
	}
	slices.SortFunc(owned, func(a, b v1alpha1.CRDDescription) int { return strings.Compare(a.Name+a.Version, b.Name+b.Version) })
	return owned
}

// spaced turns ServiceSecurityProfile into Service Security Profile.
func spaced(kind string) string {
	var b strings.Builder
	for i, r := range kind {
		if i > 0 && r >= 'A' && r <= 'Z' {
			b.WriteByte(' ')
		}
		b.WriteRune(r)
	}
	return b.String()
}
