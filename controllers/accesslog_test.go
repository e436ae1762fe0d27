package controllers_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	logv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers"
	"github.com/servicesecurity/operator/test/testbed"
)

// receiving makes an operator that receives access logs.
func receiving(address string) func(*operator) {
	return func(o *operator) { o.accessLogs = controllers.AccessLogOptions{BindAddress: address} }
}

func freeAddress() string { return fmt.Sprintf("127.0.0.1:%d", freePort()) }

// logStream is the stream of a pod's proxy, from the pod's own address.
func logStream(ctx context.Context, address string, pod *corev1.Pod) func(*accesslogv3.StreamAccessLogsMessage) {
	GinkgoHelper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(pod.Status.PodIP)}}
	connection, err := grpc.NewClient("passthrough:"+address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", address)
		}))
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(connection.Close)
	node := &corev3.Node{Id: fmt.Sprintf("sidecar~%s~%s.%s~%s.svc.cluster.local", pod.Status.PodIP, pod.Name, pod.Namespace, pod.Namespace)}
	return func(message *accesslogv3.StreamAccessLogsMessage) {
		GinkgoHelper()
		message.Identifier = &accesslogv3.StreamAccessLogsMessage_Identifier{Node: node}
		Eventually(func() error {
			stream, err := accesslogv3.NewAccessLogServiceClient(connection).StreamAccessLogs(ctx, grpc.WaitForReady(true))
			if err != nil {
				return err
			}
			if err := stream.Send(message); err != nil {
				return err
			}
			// The server takes all of it before it finds the end, and answers nothing.
			_, _ = stream.CloseAndRecv()
			return nil
		}).WithContext(ctx).Should(Succeed())
	}
}

func address(ip string, port int) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: ip, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(port)},
	}}}
}

// requestFrom and refusalOf are what a proxy logs.
func requestFrom(ip string, port int) *accesslogv3.StreamAccessLogsMessage {
	return &accesslogv3.StreamAccessLogsMessage{LogEntries: &accesslogv3.StreamAccessLogsMessage_HttpLogs{
		HttpLogs: &accesslogv3.StreamAccessLogsMessage_HTTPAccessLogEntries{LogEntry: []*logv3.HTTPAccessLogEntry{{
			CommonProperties: &logv3.AccessLogCommon{
				AccessLogType: logv3.AccessLogType_DownstreamEnd, DownstreamDirectRemoteAddress: address(ip, 40000), DownstreamLocalAddress: address("10.0.0.1", port),
			},
		}}},
	}}
}

func refusalOf(ip string, port int) *accesslogv3.StreamAccessLogsMessage {
	return &accesslogv3.StreamAccessLogsMessage{LogEntries: &accesslogv3.StreamAccessLogsMessage_TcpLogs{
		TcpLogs: &accesslogv3.StreamAccessLogsMessage_TCPAccessLogEntries{LogEntry: []*logv3.TCPAccessLogEntry{{
			CommonProperties: &logv3.AccessLogCommon{
				DownstreamDirectRemoteAddress: address(ip, 40000), DownstreamLocalAddress: address("10.0.0.1", port),
				ResponseFlags: &logv3.ResponseFlags{NoRouteFound: true},
			},
		}}},
	}}
}

// callersOf reads who calls in plaintext, as "namespace/workload address port refused".
func callersOf(ssp *v1alpha1.ServiceSecurityProfile) func(context.Context) []string {
	return func(ctx context.Context) []string {
		var all []string
		if mtls := status(ctx, ssp).MTLS; mtls != nil {
			for _, c := range mtls.PlaintextCallers {
				all = append(all, fmt.Sprintf("%s/%s %s %d %t", c.Namespace, c.Workload, c.Address, c.Port, c.Refused))
			}
		}
		return all
	}
}

var _ = Describe("Access logs", func() {
	It("name plaintext callers before the switch, and those that are refused after it", func(ctx SpecContext) {
		where := freeAddress()
		ns, _ := workload(ctx)
		startOperator(forProfilesOf(ns), receiving(where))
		legacy, _ := pod(ctx, ns, "cron", "cron-1", false)
		server := &corev1.Pod{}
		Expect(k8s.Get(ctx, client.ObjectKey{Namespace: ns, Name: "httpbin-1"}, server)).To(Succeed())
		send := logStream(ctx, where, server)
		ssp := profile(ctx, ns, "httpbin", ofOperator(ns), staged(func(r *v1alpha1.Rollout) { r.ObservationWindow = "3s" }))
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageObserving))

		By("counting what the metrics have not seen yet")
		send(requestFrom(legacy.Status.PodIP, 8080))
		plain := time.Now()
		Eventually(condition(ssp, v1alpha1.ConditionReady)).WithContext(ctx).Should(And(HavePrefix("False/PlaintextSeen"), ContainSubstring(ns+"/cron-1 on port 8080")))
		Expect(callersOf(ssp)(ctx)).To(ConsistOf(fmt.Sprintf("%s/cron-1 %s 8080 false", ns, legacy.Status.PodIP)))
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageEnforced))
		Expect(switched(ns)).To(BeTemporally(">=", plain.Add(2*time.Second)))

		By("telling who is refused")
		Expect(callersOf(ssp)(ctx)).To(BeEmpty())
		send(refusalOf(legacy.Status.PodIP, 8080))
		send(refusalOf("192.0.2.7", 8080))
		Eventually(callersOf(ssp)).WithContext(ctx).Should(ConsistOf(fmt.Sprintf("%s/cron-1 %s 8080 true", ns, legacy.Status.PodIP), "/unknown 192.0.2.7 8080 true"))
		Expect(condition(ssp, v1alpha1.ConditionPlaintextFree)(ctx)).To(And(HavePrefix("False/PlaintextRefused"), ContainSubstring("address 192.0.2.7 on port 8080")))
		Expect(condition(ssp, v1alpha1.ConditionReady)(ctx)).To(HavePrefix("True/Ready"))
		Eventually(told(ssp)).WithContext(ctx).Should(ContainElement(HavePrefix("PlaintextRefused: ")))

		By("forgetting them when the window has passed")
		Eventually(callersOf(ssp)).WithContext(ctx).Should(BeEmpty())
		Expect(condition(ssp, v1alpha1.ConditionPlaintextFree)(ctx)).To(HavePrefix("Unknown/NotNeeded"))
		Expect(peerMode(ns, "httpbin")(ctx)).To(Equal("STRICT"))
		Expect(stages(ssp)(ctx)).NotTo(ContainElement("RolledBack"))
	})

	It("keep what a restart would forget, until its window has passed", func(ctx SpecContext) {
		where := freeAddress()
		ns, _ := workload(ctx)
		first := startOperator(forProfilesOf(ns), receiving(where))
		server := &corev1.Pod{}
		Expect(k8s.Get(ctx, client.ObjectKey{Namespace: ns, Name: "httpbin-1"}, server)).To(Succeed())
		ssp := profile(ctx, ns, "httpbin", ofOperator(ns), staged(func(r *v1alpha1.Rollout) { r.ObservationWindow = "3s" }))
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageEnforced))
		update(ctx, ssp, func(p *v1alpha1.ServiceSecurityProfile) { p.Spec.MTLS.Rollout.ObservationWindow = "1h" })
		logStream(ctx, where, server)(refusalOf("192.0.2.7", 8080))
		Eventually(callersOf(ssp)).WithContext(ctx).Should(HaveLen(1))
		first.stop()
		startOperator(forProfilesOf(ns), receiving(freeAddress()))
		update(ctx, ssp, func(p *v1alpha1.ServiceSecurityProfile) { p.Spec.MTLS.Rollout.MinRequests = never })
		Eventually(func() int64 { return status(ctx, ssp).ObservedGeneration }).Should(Equal(int64(3)))
		Consistently(callersOf(ssp)).WithContext(ctx).Should(HaveLen(1))
		update(ctx, ssp, func(p *v1alpha1.ServiceSecurityProfile) { p.Spec.MTLS.Rollout.ObservationWindow = "1s" })
		Eventually(callersOf(ssp)).WithContext(ctx).Should(BeEmpty())
	})

	It("keep for a whole namespace what a restart would forget, and make it no workload's", func(ctx SpecContext) {
		where := freeAddress()
		ns, proxies := shop(ctx, "cart", "orders")
		stop := every(func() {
			for _, p := range proxies {
				p.TakeConfiguration()
			}
			proxies["orders"].Plaintext(1)
		})
		first := startOperator(forProfilesOf(ns), receiving(where))
		ssp := profile(ctx, ns, "all", ofOperator(ns), whole(v1alpha1.TargetNamespace))
		Eventually(counted(ssp)).WithContext(ctx).Should(Equal(v1alpha1.WorkloadCount{Blocked: 1, Enforced: 1}))
		update(ctx, ssp, func(p *v1alpha1.ServiceSecurityProfile) { p.Spec.MTLS.Rollout.ObservationWindow = "1h" })
		cart := &corev1.Pod{}
		Expect(k8s.Get(ctx, client.ObjectKey{Namespace: ns, Name: "cart-1"}, cart)).To(Succeed())
		logStream(ctx, where, cart)(refusalOf("192.0.2.7", 9090))
		refused, accepted := "/unknown 192.0.2.7 9090 true", "/unknown  0 false"
		Eventually(callersOf(ssp)).WithContext(ctx).Should(ConsistOf(refused, accepted))

		By("restarting")
		stop()
		first.stop()
		startOperator(forProfilesOf(ns), receiving(freeAddress()))
		update(ctx, ssp, func(p *v1alpha1.ServiceSecurityProfile) { p.Spec.MTLS.Rollout.MinRequests = never })
		Eventually(func() int64 { return status(ctx, ssp).ObservedGeneration }).Should(Equal(int64(3)))
		Consistently(callersOf(ssp)).WithContext(ctx).Should(ConsistOf(refused, accepted))
		Expect(status(ctx, ssp).MTLS.Blockers).NotTo(ContainElement(HaveField("Message", ContainSubstring("192.0.2.7"))))
		update(ctx, ssp, func(p *v1alpha1.ServiceSecurityProfile) { p.Spec.MTLS.Rollout.ObservationWindow = "1s" })
		Eventually(callersOf(ssp)).WithContext(ctx).Should(BeEmpty())
	})

	It("on ports that are excepted hold nothing", func(ctx SpecContext) {
		where := freeAddress()
		ns, _ := workload(ctx)
		startOperator(forProfilesOf(ns), receiving(where))
		server := &corev1.Pod{}
		Expect(k8s.Get(ctx, client.ObjectKey{Namespace: ns, Name: "httpbin-1"}, server)).To(Succeed())
		send := logStream(ctx, where, server)
		send(requestFrom("192.0.2.7", 9443))
		ssp := profile(ctx, ns, "httpbin", ofOperator(ns), func(p *v1alpha1.ServiceSecurityProfile) {
			p.Spec.MTLS.PortLevel = []v1alpha1.PortMTLS{{Port: 9443, Mode: v1alpha1.ModePermissive}}
		})
		Eventually(stage(ssp)).WithContext(ctx).Should(Equal(v1alpha1.StageEnforced))
		Expect(callersOf(ssp)(ctx)).To(BeEmpty())
		Expect(stages(ssp)(ctx)).NotTo(ContainElement("Blocked"))
	})

	It("end at the leader, and at the next one when it goes", func(ctx SpecContext) {
		const servicesecuritySystem = "servicesecurity-system"
		Expect(k8s.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: servicesecuritySystem}})).To(Succeed())
		text, err := os.ReadFile(filepath.Join("..", "config", "components", "accesslog", "role.yaml"))
		Expect(err).NotTo(HaveOccurred())
		objects, err := testbed.Objects(text)
		Expect(err).NotTo(HaveOccurred())
		Expect(testbed.Apply(ctx, k8s, objects...)).To(Succeed())
		Expect(k8s.Create(ctx, &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: operatorUser, Namespace: servicesecuritySystem},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: operatorUser}},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "servicesecurity-accesslog"},
		})).To(Succeed())
		service := &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: "servicesecurity-accesslog", Namespace: servicesecuritySystem},
			Spec: corev1.ServiceSpec{
				Selector: map[string]string{"app": "manager"}, Ports: []corev1.ServicePort{{Name: "grpc-accesslog", Port: 9095}},
			},
		}
		Expect(k8s.Create(ctx, service)).To(Succeed())
		replica := func(name, ip string) (*operator, string) {
			where := fmt.Sprintf("127.0.0.1:%d", freePort())
			return startOperator(forProfilesOf("leading"), receiving(where), func(o *operator) {
				o.elect = true
				o.accessLogs.Service = service.Name
				o.accessLogs.Pod = controllers.Endpoint{Namespace: servicesecuritySystem, Name: name, IP: ip}
			}), where
		}
		endpoint := func(ctx context.Context) string {
			slice := &discoveryv1.EndpointSlice{}
			if err := k8s.Get(ctx, client.ObjectKey{Namespace: servicesecuritySystem, Name: "servicesecurity-accesslog-leader"}, slice); err != nil {
				return err.Error()
			}
			Expect(slice.Labels).To(HaveKeyWithValue(discoveryv1.LabelServiceName, service.Name))
			Expect(slice.OwnerReferences).To(ConsistOf(HaveField("UID", service.UID)))
			Expect(slice.Endpoints).To(HaveLen(1))
			Expect(slice.Ports).To(HaveLen(1))
			return fmt.Sprintf("%s %s:%d", slice.Endpoints[0].TargetRef.Name, slice.Endpoints[0].Addresses[0], *slice.Ports[0].Port)
		}
		listens := func(where string) func() error {
			return func() error {
				connection, err := net.Dial("tcp", where)
				if err != nil {
					return err
				}
				return connection.Close()
			}
		}
		port := func(where string) string {
			_, port, err := net.SplitHostPort(where)
			Expect(err).NotTo(HaveOccurred())
			return port
		}
		By("leaving alone a Service that leads to all replicas")
		first, here := replica("manager-a", "10.0.0.1")
		Eventually(listens(here)).Should(Succeed())
		Consistently(endpoint).WithContext(ctx).Should(ContainSubstring("not found"))
		update(ctx, service, func(s *corev1.Service) { s.Spec.Selector = nil })
		Eventually(endpoint).WithContext(ctx).Should(Equal("manager-a 10.0.0.1:" + port(here)))

		By("mending what others do to it")
		slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: servicesecuritySystem, Name: "servicesecurity-accesslog-leader"}}
		Expect(k8s.Delete(ctx, slice)).To(Succeed())
		Eventually(endpoint).WithContext(ctx).Should(Equal("manager-a 10.0.0.1:" + port(here)))
		update(ctx, slice, func(s *discoveryv1.EndpointSlice) {
			s.Endpoints[0].Addresses[0], s.Endpoints[0].TargetRef.Name = "192.0.2.9", "somebody"
		})
		Eventually(endpoint).WithContext(ctx).Should(Equal("manager-a 10.0.0.1:" + port(here)))
		version := func() string {
			Expect(k8s.Get(ctx, client.ObjectKeyFromObject(slice), slice)).To(Succeed())
			return slice.ResourceVersion
		}
		settled := version()
		Consistently(version, "1s").Should(Equal(settled), "nothing is written when nothing differs")

		By("changing the leader")
		_, there := replica("manager-b", "10.0.0.2")
		Consistently(listens(there)).ShouldNot(Succeed())
		first.stop()
		Eventually(endpoint).WithContext(ctx).Should(Equal("manager-b 10.0.0.2:" + port(there)))
		Eventually(listens(there)).Should(Succeed())
		Expect(listens(here)()).NotTo(Succeed())
	})

	DescribeTable("are not received with flags that cannot be right", func(options controllers.AccessLogOptions, message string) {
		Expect(options.Validate()).To(MatchError(ContainSubstring(message)))
	},
		Entry("no address", controllers.AccessLogOptions{RequireMTLS: true}, "--accesslog-bind-address"),
		Entry("a Service and no address", controllers.AccessLogOptions{Service: "a"}, "--accesslog-bind-address"),
		Entry("less than no streams", controllers.AccessLogOptions{BindAddress: ":1", MaxStreams: -1}, "--accesslog-max-streams"),
		Entry("a Service and no pod", controllers.AccessLogOptions{BindAddress: ":1", Service: "a"}, "POD_IP"),
	)
})
