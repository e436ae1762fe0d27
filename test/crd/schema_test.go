package crd_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	extensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

// definition reads the CRD that is deployed.
func definition() extensions.CustomResourceDefinition {
	GinkgoHelper()
	files, err := filepath.Glob(filepath.Join(bases, "*.yaml"))
	Expect(err).NotTo(HaveOccurred())
	Expect(files).To(HaveLen(1), "there is one CRD only")
	data, err := os.ReadFile(files[0])
	Expect(err).NotTo(HaveOccurred())
	var crd extensions.CustomResourceDefinition
	Expect(yaml.UnmarshalStrict(data, &crd)).To(Succeed())
	Expect(crd.Spec.Versions).To(HaveLen(1))
	return crd
}

// visit walks the schema and calls see with the path of each field, written as in the tables.
func visit(path string, schema extensions.JSONSchemaProps, see func(string, extensions.JSONSchemaProps)) {
	see(path, schema)
	for name, property := range schema.Properties {
		visit(strings.TrimPrefix(path+"."+name, "."), property, see)
	}
	if schema.Items != nil {
		visit(path+"[*]", *schema.Items.Schema, see)
	}
	if schema.AdditionalProperties != nil {
		visit(path+".app", *schema.AdditionalProperties.Schema, see)
	}
}

func visitAll(see func(string, extensions.JSONSchemaProps)) {
	GinkgoHelper()
	root := definition().Spec.Versions[0].Schema.OpenAPIV3Schema
	for _, name := range []string{"spec", "status"} {
		visit(name, root.Properties[name], see)
	}
}

// describe is the description of a field.
func describe(field string) string {
	GinkgoHelper()
	var description string
	visitAll(func(path string, schema extensions.JSONSchemaProps) {
		if path == field {
			description = strings.Join(strings.Fields(schema.Description), " ")
		}
	})
	return description
}

// refusal is what a case proves: this message at this field.
type refusal struct{ field, want string }

// refusals are those of all tables.
func refusals() []refusal {
	var all []refusal
	for _, r := range slices.Concat(specRules(), statusRules()) {
		if len(r.reject) > 0 {
			all = append(all, refusal{r.field, r.want})
		}
	}
	for _, t := range transitions {
		if t.want != "" {
			all = append(all, refusal{t.field, t.want})
		}
	}
	return all
}

// keywords are the rules of a schema that are no CEL, and how their refusals begin.
func keywords(path string, schema extensions.JSONSchemaProps) []refusal {
	var all []refusal
	add := func(set bool, field, want string) {
		if set {
			all = append(all, refusal{field, want})
		}
	}
	add(len(schema.Enum) > 0, path, wantEnum)
	add(schema.Pattern != "", path, wantPattern)
	add(schema.MinLength != nil, path, wantMinLength)
	add(schema.MinItems != nil, path, wantMinItems)
	add(schema.Minimum != nil, path, wantMinimum)
	add(schema.Maximum != nil, path, wantMaximum)
	add(schema.MinProperties != nil, path, wantMinItems)
	if schema.MaxLength != nil {
		all = append(all, refusal{path, fmt.Sprintf("%s %d", wantMaxLength, *schema.MaxLength)})
	}
	if schema.MaxItems != nil {
		all = append(all, refusal{path, fmt.Sprintf("%s: %d: must have at most %d items", wantMaxItems, *schema.MaxItems+1, *schema.MaxItems)})
	}
	if schema.MaxProperties != nil {
		all = append(all, refusal{path, fmt.Sprintf("%s: %d: must have at most %d items", wantMaxItems, *schema.MaxProperties+1, *schema.MaxProperties)})
	}
	if list := schema.XListType; list != nil && *list != "atomic" {
		all = append(all, refusal{path + "[*]", wantDuplicate})
	}
	for _, field := range schema.Required {
		all = append(all, refusal{path + "." + field, wantRequired})
	}
	return all
}

var _ = Describe("The schema", func() {
	It("has no CEL rule without a case that it refuses", func() {
		tested := refusals()
		visitAll(func(path string, schema extensions.JSONSchemaProps) {
			for _, rule := range schema.XValidations {
				field := path + rule.FieldPath
				Expect(slices.ContainsFunc(tested, func(r refusal) bool {
					return r.field == field && r.want != "" && strings.Contains(rule.Message, r.want)
				})).
					To(BeTrue(), "no case is refused at %s with: %s", field, rule.Message)
			}
		})
	})

	It("has no other rule without a case that it refuses", func() {
		tested := refusals()
		visitAll(func(path string, schema extensions.JSONSchemaProps) {
			for _, keyword := range keywords(path, schema) {
				Expect(slices.ContainsFunc(tested, func(r refusal) bool {
					return r.field == keyword.field && strings.Contains(r.want, keyword.want) || keyword.want == wantEnum && r.field == keyword.field && strings.HasPrefix(r.want, "supported values")
				})).
					To(BeTrue(), "no case is refused at %s with: %s", keyword.field, keyword.want)
			}
		})
	})

	It("has a message for each CEL rule, and the root's only rule is tested by name", func() {
		visitAll(func(path string, schema extensions.JSONSchemaProps) {
			for _, rule := range schema.XValidations {
				Expect(rule.Message).NotTo(BeEmpty(), "%s: %s", path, rule.Rule)
			}
		})
		root := definition().Spec.Versions[0].Schema.OpenAPIV3Schema
		Expect(root.XValidations).To(HaveLen(1))
		Expect(root.XValidations[0].Message).To(Equal(wantShortName))
	})

	It("bounds every list, map and string", func() {
		visitAll(func(path string, schema extensions.JSONSchemaProps) {
			switch {
			case schema.Type == "array":
				Expect(schema.MaxItems).NotTo(BeNil(), "maxItems of %s", path)
				Expect(schema.XListType).NotTo(BeNil(), "listType of %s", path)
			case schema.AdditionalProperties != nil:
				Expect(schema.MaxProperties).NotTo(BeNil(), "maxProperties of %s", path)
				Expect(schema.XMapType).NotTo(BeNil(), "mapType of %s", path)
			case schema.Type == "string" && len(schema.Enum) == 0 && schema.Format != "date-time":
				Expect(schema.MaxLength).NotTo(BeNil(), "maxLength of %s", path)
			}
		})
	})

	It("describes every field in sentences", func() {
		visitAll(func(path string, schema extensions.JSONSchemaProps) {
			if strings.HasPrefix(path, "status.conditions[*]") {
				return // Kubernetes' own words
			}
			Expect(schema.Description).To(MatchRegexp(`(?s)^\S.*\.$`), "description of %s", path)
			name := path[strings.LastIndex(path, ".")+1:]
			if !strings.HasSuffix(path, "]") && !strings.HasSuffix(path, ".app") {
				Expect(schema.Description).To(HavePrefix(name+" "), "description of %s", path)
			}
		})
	})

	It("lets every field be either required or left out", func() {
		fields := map[string]bool{}
		for _, file := range parseAPI() {
			ast.Inspect(file, func(node ast.Node) bool {
				fieldsOf, ok := node.(*ast.StructType)
				if !ok {
					return true
				}
				for _, field := range fieldsOf.Fields.List {
					if len(field.Names) == 0 && field.Doc == nil {
						continue // TypeMeta
					}
					doc := ""
					for _, comment := range field.Doc.List {
						doc += comment.Text + "\n"
					}
					Expect(strings.Contains(doc, "+required")).NotTo(Equal(strings.Contains(doc, "+optional")), "%v", field.Names)
					fields[fmt.Sprint(field.Names)] = true
				}
				return true
			})
		}
		Expect(len(fields)).To(BeNumerically(">", 50))
	})

	It("has in each enum the constants of its type, and no others", func() {
		constants := constantsByType()
		seen := 0
		visitAll(func(path string, schema extensions.JSONSchemaProps) {
			if len(schema.Enum) == 0 || strings.HasPrefix(path, "status.conditions[*]") {
				return
			}
			var values []string
			for _, value := range schema.Enum {
				text, err := strconv.Unquote(string(value.Raw))
				Expect(err).NotTo(HaveOccurred())
				values = append(values, text)
			}
			Expect(values).To(ConsistOf(constants[typeAt(path)]), "enum of %s", path)
			seen++
		})
		Expect(seen).To(BeNumerically(">=", 15))
	})
})

// parseAPI reads the API's source.
func parseAPI() []*ast.File {
	GinkgoHelper()
	names, err := filepath.Glob(filepath.Join("..", "..", "api", "v1alpha1", "*_types.go"))
	Expect(err).NotTo(HaveOccurred())
	Expect(names).NotTo(BeEmpty())
	files := make([]*ast.File, 0, len(names))
	for _, name := range names {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		Expect(err).NotTo(HaveOccurred())
		files = append(files, file)
	}
	return files
}

// constantsByType are the API's string constants, by the name of their type.
func constantsByType() map[string][]string {
	GinkgoHelper()
	constants := map[string][]string{}
	for _, file := range parseAPI() {
		ast.Inspect(file, func(node ast.Node) bool {
			spec, ok := node.(*ast.ValueSpec)
			if !ok || spec.Type == nil {
				return true
			}
			for _, value := range spec.Values {
				if literal, ok := value.(*ast.BasicLit); ok && literal.Kind == token.STRING {
					text, err := strconv.Unquote(literal.Value)
					Expect(err).NotTo(HaveOccurred())
					name := fmt.Sprint(spec.Type)
					constants[name] = append(constants[name], text)
				}
			}
			return true
		})
	}
	return constants
}

// typeAt is the name of the Go type of a field.
func typeAt(path string) string {
	GinkgoHelper()
	current := reflect.TypeFor[v1alpha1.ServiceSecurityProfile]()
	element := func() {
		for current.Kind() == reflect.Pointer || current.Kind() == reflect.Slice {
			current = current.Elem()
		}
	}
	for _, step := range strings.Split(strings.ReplaceAll(path, "[*]", ""), ".") {
		element()
		at := slices.IndexFunc(reflect.VisibleFields(current), func(field reflect.StructField) bool {
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			return name == step
		})
		Expect(at).To(BeNumerically(">=", 0), "%s has no %s", current, step)
		current = reflect.VisibleFields(current)[at].Type
	}
	element()
	return current.Name()
}
