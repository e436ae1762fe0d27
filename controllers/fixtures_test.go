package controllers_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	securityapi "istio.io/api/security/v1beta1"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/test/playback"
)

var lastHost atomic.Int32

func freePort() int32 {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	Expect(err).NotTo(HaveOccurred())
	defer func() { Expect(listener.Close()).To(Succeed()) }()
	return int32(listener.Addr().(*net.TCPAddr).Port)
}

// namespace makes one for a spec.
func namespace(ctx context.Context) string {
	object := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "spec-"}}
	Expect(k8s.Create(ctx, object)).To(Succeed())
	return object.Name
}

// service makes a Service with port 8000 for the pods labelled app: name.
func service(ctx context.Context, namespace, name string) *corev1.Service {
	object := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": name},
			Ports:    []corev1.ServicePort{{Name: "http", Port: 8000, TargetPort: intstr.FromInt32(8080)}},
		},
	}
	Expect(k8s.Create(ctx, object)).To(Succeed())
	return object
}

// pod makes a running, ready pod with the label app; its sidecar, if it has one, is played back.
func pod(ctx context.Context, namespace, app, name string, meshed bool, edit ...func(*corev1.Pod)) (*corev1.Pod, *playback.Proxy) {
	object := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"app": app}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "app", Image: "app", Ports: []corev1.ContainerPort{{ContainerPort: 8080}},
		}}},
	}
	if meshed {
		object.Labels["security.istio.io/tlsMode"] = "istio"
		object.Spec.Containers = append(object.Spec.Containers, corev1.Container{Name: "istio-proxy", Image: "proxy"})
	}
	for _, e := range edit {
		e(object)
	}
	// The namespace's service account comes a moment after the namespace.
	Eventually(func() error { return k8s.Create(ctx, object) }).WithContext(ctx).Should(Succeed())
	n := lastHost.Add(1)
	host := fmt.Sprintf("127.0.%d.%d", 1+n/250, 1+n%250)
	var proxy *playback.Proxy
	if meshed {
		var err error
		proxy, err = playback.Start(host, proxyPort)
		Expect(err).NotTo(HaveOccurred())
		proxy.Age(time.Hour)
		istiod.serve(namespace, proxy)
		DeferCleanup(proxy.Stop)
	}
	object.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: host, PodIPs: []corev1.PodIP{{IP: host}},
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
	}
	Expect(k8s.Status().Update(ctx, object)).To(Succeed())
	return object, proxy
}

// profile makes a Strict, Staged one for a Service, with windows of a few intervals.
func profile(ctx context.Context, namespace, service string, edit ...func(*v1alpha1.ServiceSecurityProfile)) *v1alpha1.ServiceSecurityProfile {
	object := &v1alpha1.ServiceSecurityProfile{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: service},
		Spec: v1alpha1.ServiceSecurityProfileSpec{
			Target: v1alpha1.Target{Kind: v1alpha1.TargetService, Name: service},
			MTLS: &v1alpha1.MTLS{
				Mode:    v1alpha1.ModeStrict,
				Rollout: &v1alpha1.Rollout{ObservationWindow: "300ms", VerificationWindow: "300ms"},
			},
		},
	}
	for _, e := range edit {
		e(object)
	}
	Expect(k8s.Create(ctx, object)).To(Succeed())
	api := k8s
	// What is left over would be observed until the suite ends.
	DeferCleanup(func(ctx SpecContext) { Expect(client.IgnoreNotFound(api.Delete(ctx, object))).To(Succeed()) })
	return object
}

// stage reads the stage of a profile.
func stage(object *v1alpha1.ServiceSecurityProfile) func(context.Context) v1alpha1.Stage {
	return func(ctx context.Context) v1alpha1.Stage {
		if mtls := status(ctx, object).MTLS; mtls != nil {
			return mtls.Stage
		}
		return ""
	}
}

func status(ctx context.Context, object *v1alpha1.ServiceSecurityProfile) v1alpha1.ServiceSecurityProfileStatus {
	live := &v1alpha1.ServiceSecurityProfile{}
	Expect(k8s.Get(ctx, client.ObjectKeyFromObject(object), live)).To(Succeed())
	return live.Status
}

// condition reads a condition as "Status/Reason: message".
func condition(object *v1alpha1.ServiceSecurityProfile, kind string) func(context.Context) string {
	return func(ctx context.Context) string {
		c := meta.FindStatusCondition(status(ctx, object).Conditions, kind)
		if c == nil {
			return ""
		}
		return fmt.Sprintf("%s/%s: %s", c.Status, c.Reason, c.Message)
	}
}

// blockers reads the types of a profile's blockers.
func blockers(object *v1alpha1.ServiceSecurityProfile) func(context.Context) []v1alpha1.BlockerType {
	return func(ctx context.Context) []v1alpha1.BlockerType {
		var out []v1alpha1.BlockerType
		if mtls := status(ctx, object).MTLS; mtls != nil {
			for _, b := range mtls.Blockers {
				out = append(out, b.Type)
			}
		}
		return out
	}
}

func peerAuthentication(ctx context.Context, namespace, name string) (*securityv1.PeerAuthentication, error) {
	object := &securityv1.PeerAuthentication{}
	return object, k8s.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, object)
}

// peerMode reads the mode that a PeerAuthentication says; empty if there is none.
func peerMode(namespace, name string) func(context.Context) string {
	return func(ctx context.Context) string {
		object, err := peerAuthentication(ctx, namespace, name)
		if err != nil {
			return ""
		}
		return securityapi.PeerAuthentication_MutualTLS_Mode_name[int32(object.Spec.GetMtls().GetMode())]
	}
}

// destinationRule reads the one with the name httpbin.
func destinationRule(ctx context.Context, namespace string) (*networkingv1.DestinationRule, error) {
	object := &networkingv1.DestinationRule{}
	return object, k8s.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "httpbin"}, object)
}

// calls makes meshed callers call the proxies steadily until the spec ends.
func calls(proxies ...*playback.Proxy) {
	every(func() {
		for _, proxy := range proxies {
			proxy.MutualTLS("sleep", "clients", 1)
		}
	})
}

// every does something five times an interval until the spec ends, or until what it returns is called.
func every(do func()) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer GinkgoRecover()
		defer close(done)
		ticker := time.NewTicker(interval / 5)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				do()
			}
		}
	}()
	stop = func() { cancel(); <-done }
	DeferCleanup(stop)
	return stop
}

// workload is a namespace with the Service httpbin and one pod that meshed callers call.
func workload(ctx context.Context) (ns string, proxy *playback.Proxy) {
	GinkgoHelper()
	ns = namespace(ctx)
	service(ctx, ns, "httpbin")
	_, proxy = pod(ctx, ns, "httpbin", "httpbin-1", true)
	proxy.MutualTLS("sleep", "clients", 1)
	calls(proxy)
	return ns, proxy
}

// enforced is a workload whose profile has come to STRICT and is settled.
func enforced(ctx context.Context, edit ...func(*v1alpha1.ServiceSecurityProfile)) (ns string, proxy *playback.Proxy, ssp *v1alpha1.ServiceSecurityProfile) {
	GinkgoHelper()
	ns, proxy = workload(ctx)
	ssp = profile(ctx, ns, "httpbin", edit...)
	Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageEnforced))
	Eventually(func(g Gomega) {
		peer, err := peerAuthentication(ctx, ns, "httpbin")
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(peer.Annotations).NotTo(HaveKey(v1alpha1.AnnotationSwitchedAt))
	}).Should(Succeed())
	return ns, proxy, ssp
}

// update changes the live object until it succeeds.
func update[T client.Object](ctx context.Context, object T, edit func(T)) {
	GinkgoHelper()
	Eventually(func() error {
		live := object.DeepCopyObject().(T)
		if err := k8s.Get(ctx, client.ObjectKeyFromObject(object), live); err != nil {
			return err
		}
		edit(live)
		return k8s.Update(ctx, live)
	}).Should(Succeed())
}

// patchStatus writes over a profile's status, as no one should.
func patchStatus(ctx context.Context, ssp *v1alpha1.ServiceSecurityProfile, patch string) {
	GinkgoHelper()
	live := &v1alpha1.ServiceSecurityProfile{ObjectMeta: metav1.ObjectMeta{Namespace: ssp.Namespace, Name: ssp.Name}}
	Expect(k8s.Status().Patch(ctx, live, client.RawPatch(types.MergePatchType, []byte(patch)))).To(Succeed())
}

// staged edits the rollout of a profile.
func staged(edit func(*v1alpha1.Rollout)) func(*v1alpha1.ServiceSecurityProfile) {
	return func(p *v1alpha1.ServiceSecurityProfile) { edit(p.Spec.MTLS.Rollout) }
}

// mtls replaces the section mtls of a profile.
func mtls(section v1alpha1.MTLS) func(*v1alpha1.ServiceSecurityProfile) {
	return func(p *v1alpha1.ServiceSecurityProfile) { p.Spec.MTLS = &section }
}

// told are the events about a profile, oldest first, as "reason: note".
func told(object *v1alpha1.ServiceSecurityProfile) func(context.Context) []string {
	return func(ctx context.Context) []string {
		list := &eventsv1.EventList{}
		Expect(k8s.List(ctx, list, client.InNamespace(object.Namespace))).To(Succeed())
		slices.SortFunc(list.Items, func(a, b eventsv1.Event) int { return a.EventTime.Compare(b.EventTime.Time) })
		var out []string
		for i := range list.Items {
			if e := &list.Items[i]; e.Regarding.Kind == v1alpha1.Kind && e.Regarding.Name == object.Name {
				out = append(out, e.Reason+": "+e.Note)
			}
		}
		return out
	}
}

// stages are the reasons of the events about a profile's rollout, oldest first.
func stages(object *v1alpha1.ServiceSecurityProfile) func(context.Context) []string {
	return func(ctx context.Context) []string {
		var out []string
		for _, text := range told(object)(ctx) {
			reason, _, _ := strings.Cut(text, ":")
			if slices.Contains([]string{"Blocked", "Observing", "AwaitingApproval", "Verifying", "Enforced", "RolledBack", "RolloutEnded"}, reason) {
				out = append(out, reason)
			}
		}
		return out
	}
}

// generated are the Istio objects of a namespace that a profile controls.
func generated(namespace string) func(context.Context) []string {
	return func(ctx context.Context) []string {
		var out []string
		for kind, list := range map[string]client.ObjectList{
			"PeerAuthentication/": &securityv1.PeerAuthenticationList{}, "DestinationRule/": &networkingv1.DestinationRuleList{},
			"RequestAuthentication/": &securityv1.RequestAuthenticationList{}, "AuthorizationPolicy/": &securityv1.AuthorizationPolicyList{},
		} {
			Expect(k8s.List(ctx, list, client.InNamespace(namespace))).To(Succeed())
			Expect(meta.EachListItem(list, func(item runtime.Object) error {
				if o := item.(client.Object); metav1.GetControllerOf(o) != nil {
					out = append(out, kind+o.GetName())
				}
				return nil
			})).To(Succeed())
		}
		return out
	}
}

// ruleMode reads the tls mode of the DestinationRule httpbin; empty if there is none.
func ruleMode(namespace string) func(context.Context) string {
	return func(ctx context.Context) string {
		object, err := destinationRule(ctx, namespace)
		if err != nil {
			return ""
		}
		return object.Spec.GetTrafficPolicy().GetTls().GetMode().String()
	}
}
