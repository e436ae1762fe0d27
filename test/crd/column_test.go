package crd_test

import (
	"context"
	"encoding/json"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

var _ = Describe("kubectl get", func() {
	// table is what kubectl asks for when it prints.
	table := func(ctx context.Context, resource, name string) metav1.Table {
		GinkgoHelper()
		shallow := rest.CopyConfig(config)
		shallow.GroupVersion = &v1alpha1.SchemeGroupVersion
		shallow.APIPath = "/apis"
		shallow.NegotiatedSerializer = scheme.Codecs.WithoutConversion()
		caller, err := rest.RESTClientFor(shallow)
		Expect(err).NotTo(HaveOccurred())
		data, err := caller.Get().Namespace(metav1.NamespaceDefault).Resource(resource).Name(name).
			SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").Do(ctx).Raw()
		Expect(err).NotTo(HaveOccurred())
		var got metav1.Table
		Expect(json.Unmarshal(data, &got)).To(Succeed())
		return got
	}
	names := func(got metav1.Table, wide bool) []string {
		var columns []string
		for _, column := range got.ColumnDefinitions {
			if wide || column.Priority == 0 {
				columns = append(columns, column.Name)
			}
		}
		return columns
	}

	It("prints the columns of a profile", func(ctx context.Context) {
		object := profile(strict)
		create(ctx, object)
		object.Object["status"] = parse(`{
			target: Service/reviews,
			pods: {total: 3, inMesh: 2},
			mtls: {effectiveMode: Permissive, stage: Blocked, cleanSinceTime: "` + time.Now().Add(-90*time.Minute).UTC().Format(time.RFC3339) + `"},
			conditions: [
				{type: Accepted, status: "True", reason: Accepted, message: "", lastTransitionTime: "2026-01-02T03:04:05Z"},
				{type: Ready, status: "False", reason: PodsNotInMesh, message: "", lastTransitionTime: "2026-01-02T03:04:05Z"}]}`)
		Expect(api.Status().Update(ctx, object)).To(Succeed())

		got := table(ctx, "servicesecurityprofiles", object.GetName())
		Expect(names(got, false)).To(Equal([]string{"Name", "Target", "mTLS", "Stage", "Ready", "Reason", "Age"}))
		Expect(names(got, true)).To(Equal([]string{"Name", "Target", "mTLS", "Stage", "Ready", "Reason", "Clean Since", "In Mesh", "Pods", "Age"}))
		Expect(got.Rows).To(HaveLen(1))
		cells := got.Rows[0].Cells
		Expect(cells[:9]).To(Equal([]any{object.GetName(), "Service/reviews", "Permissive", "Blocked", "False", "PodsNotInMesh", "90m", 2.0, 3.0}))
		Expect(cells[9]).To(MatchRegexp(`^[0-9]+s$`))
		for _, column := range got.ColumnDefinitions[1:] {
			Expect(column.Description).NotTo(BeEmpty(), column.Name)
		}
	})

	It("prints a profile that has no status yet", func(ctx context.Context) {
		object := profile()
		create(ctx, object)
		got := table(ctx, "servicesecurityprofiles", object.GetName())
		Expect(got.Rows).To(HaveLen(1))
		Expect(got.Rows[0].Cells[:9]).To(Equal([]any{object.GetName(), nil, nil, nil, nil, nil, nil, nil, nil}))
	})

	It("knows the short name and the category", func() {
		definition := definition()
		Expect(definition.Spec.Names.ShortNames).To(Equal([]string{"ssp"}))
		Expect(definition.Spec.Names.Categories).To(Equal([]string{"istio-io"}))
	})
})
