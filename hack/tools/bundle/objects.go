package main

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/operator-framework/api/pkg/operators/v1alpha1"
	appsv1 "k8s.io/api/apps/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

// object is a manifest as it was read.
type object map[string]any

func (o object) field(names ...string) string {
	var at any = map[string]any(o)
	for _, name := range names {
		fields, ok := at.(map[string]any)
		if !ok {
			return ""
		}
		at = fields[name]
	}
	text, _ := at.(string)
	return text
}

func (o object) kind() string { return o.field("kind") }
func (o object) name() string { return o.field("metadata", "name") }

// objects is the installation, sorted by what becomes of each part in a bundle.
type objects struct {
	base       *v1alpha1.ClusterServiceVersion
	deployment *appsv1.Deployment
	crds       []*apiextensionsv1.CustomResourceDefinition
	// account is the manager's ServiceAccount. OLM makes it, and binds it to the rules in the ClusterServiceVersion.
	account      string
	clusterRules []rbacv1.PolicyRule
	rules        []rbacv1.PolicyRule
	// samples are the examples that a console offers.
	samples []object
	// others are shipped beside the ClusterServiceVersion as they are.
	others []object
}

// sort reads the stream. The rules of roles that are bound go into the ClusterServiceVersion; roles that nothing binds are
// for people, and are shipped.
func sort(stream []byte) (*objects, error) {
	out := &objects{}
	roles := map[string]object{}
	var order []string
	var bindings []object
	for _, document := range bytes.Split(stream, []byte("\n---\n")) {
		var o object
		if err := yaml.Unmarshal(document, &o); err != nil {
			return nil, err
		}
		var err error
		switch o.kind() {
		case "": // an empty document
		case "Namespace": // OLM's users choose it
		case "ServiceAccount":
			out.account = o.name()
		case "ClusterRoleBinding", "RoleBinding":
			bindings = append(bindings, o)
		case "ClusterRole", "Role":
			key := o.kind() + "/" + o.name()
			roles[key] = o
			order = append(order, key)
		case "ClusterServiceVersion":
			out.base, err = decode[v1alpha1.ClusterServiceVersion](o)
		case "Deployment":
			out.deployment, err = decode[appsv1.Deployment](o)
		case "CustomResourceDefinition":
			var crd *apiextensionsv1.CustomResourceDefinition
			crd, err = decode[apiextensionsv1.CustomResourceDefinition](o)
			out.crds = append(out.crds, crd)
			out.others = append(out.others, o)
		case "ServiceSecurityProfile":
			out.samples = append(out.samples, o)
		default:
			out.others = append(out.others, o)
		}
		if err != nil {
			return nil, fmt.Errorf("decoding %s %s: %w", o.kind(), o.name(), err)
		}
	}
	if out.base == nil || out.deployment == nil || out.account == "" || len(out.crds) == 0 {
		return nil, errors.New("one of ClusterServiceVersion, Deployment, ServiceAccount and CustomResourceDefinition is missing")
	}
	return out, out.bind(roles, order, bindings)
}

// bind hands the rules of the bound roles to the manager's account.
func (out *objects) bind(roles map[string]object, order []string, bindings []object) error {
	bound := map[string]bool{}
	for _, binding := range bindings {
		key := binding.field("roleRef", "kind") + "/" + binding.field("roleRef", "name")
		o, found := roles[key]
		if !found {
			return fmt.Errorf("%s %s binds %s, which is not there", binding.kind(), binding.name(), key)
		}
		role, err := decode[rbacv1.ClusterRole](o)
		if err != nil {
			return err
		}
		bound[key] = true
		if binding.kind() == "ClusterRoleBinding" {
			out.clusterRules = append(out.clusterRules, role.Rules...)
		} else {
			out.rules = append(out.rules, role.Rules...)
		}
	}
	for _, key := range order {
		if !bound[key] {
			out.others = append(out.others, roles[key])
		}
	}
	return nil
}

func decode[T any](o object) (*T, error) {
	text, err := yaml.Marshal(o)
	if err != nil {
		return nil, err
	}
	out := new(T)
	return out, yaml.UnmarshalStrict(text, out)
}
