package controllers_test

import (
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

var _ = Describe("An operator that may not list the Secrets of remote clusters", func() {
	It("says so, and sees the clusters as soon as it may", func(ctx SpecContext) {
		const user = "single-cluster"
		subjects := []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: user}}
		Expect(k8s.Create(ctx, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: user}, Subjects: subjects,
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "manager-role"},
		})).To(Succeed())
		path, err := shared.plane.KubeconfigFor(user)
		Expect(err).NotTo(HaveOccurred())
		limited := &cluster{plane: shared.plane, client: shared.client}
		limited.operator, err = clientcmd.BuildConfigFromFlags("", path)
		Expect(err).NotTo(HaveOccurred())
		startOperator(forProfilesOf(user), func(o *operator) { o.cluster = limited })

		ns, _ := workload(ctx)
		ssp := profile(ctx, ns, "httpbin", ofOperator(user), staged(func(r *v1alpha1.Rollout) { r.ObservationWindow = "1h" }))
		warnings := func() []v1alpha1.Warning { return status(ctx, ssp).Warnings }
		hidden := HaveField("Type", v1alpha1.WarningRemoteClustersNotVisible)
		Eventually(warnings).WithContext(ctx).Should(ContainElement(hidden))
		Expect(stage(ssp)(ctx)).To(Equal(v1alpha1.StageObserving))

		By("giving it what config/remote-clusters gives")
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{
			Namespace: istioSystem, Name: "istio-remote-secret-east", Labels: map[string]string{"istio/multiCluster": "true"},
		}}
		Expect(k8s.Create(ctx, secret)).To(Succeed())
		DeferCleanup(k8s.Delete, secret)
		Expect(k8s.Create(ctx, &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: user, Namespace: istioSystem}, Subjects: subjects,
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "servicesecurity-remote-clusters"},
		})).To(Succeed())
		Eventually(blockers(ssp)).WithContext(ctx).WithTimeout(2 * patience).Should(ConsistOf(v1alpha1.BlockerRemoteCluster))
		Expect(warnings()).NotTo(ContainElement(hidden))
	})
})
