//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/test/testbed"
)

// This file has the rows of docs/scenarios.md that are the same whatever the operator observes by. Their names are the prefix of their namespaces.

// moveIn takes the client cron, which is outside the mesh, into it.
func moveIn(ctx context.Context, namespace string) {
	GinkgoHelper()
	Expect(mesh.Namespace(ctx, namespace, true)).To(Succeed())
	_, err := mesh.Kubectl(ctx, "rollout", "restart", "deployment/cron", "-n", namespace)
	Expect(err).NotTo(HaveOccurred())
	Expect(mesh.WaitReady(ctx, namespace, "app=cron")).To(Succeed())
}

// expectNamedThenMoved is E1 and E2 with access logs: who sends plaintext is named and served, and once it is in the mesh STRICT comes
// without a failure.
func expectNamedThenMoved(ctx context.Context, name string) {
	GinkgoHelper()
	legacy := name + "-legacy"
	old, err := testbed.LoadClient(legacy, "cron", "--url=http://httpbin."+name+":8000/ip", "--rate=5", "--connections=1")
	Expect(err).NotTo(HaveOccurred())
	meshedShop(ctx, name)
	setUp(ctx, space{name: legacy, manifests: []string{old}})
	Expect(mesh.Served(ctx, name, "steady")).To(Succeed())
	Expect(mesh.Served(ctx, legacy, "cron")).To(Succeed())
	profile := applyProfile(ctx, name, "httpbin", staged)
	Eventually(plaintextCallers(ctx, profile)).WithContext(ctx).Should(ConsistOf(calls(ctx, legacy, "cron", 8000, false)), "%s", describe(ctx, profile))
	expectHeld(ctx, profile, v1alpha1.BlockerPlaintextSeen, legacy+"/cron on port 8000")
	Expect(mesh.Totals(ctx, legacy, "cron")).To(HaveField("Failed()", BeZero()))
	GinkgoWriter.Printf("blocked:\n%s\n", describe(ctx, profile))

	moveIn(ctx, legacy)
	expectStage(ctx, profile, v1alpha1.StageEnforced)
	Expect(peerMode(ctx, name, "httpbin")).To(Equal("STRICT"))
	Expect(plaintextCallers(ctx, profile)()).NotTo(ContainElement(HaveField("Refused", true)))
	time.Sleep(afterSwitch)
	expectClean(ctx, name, "steady")
}

// afterSwitch is the time in which a call that STRICT breaks breaks.
const afterSwitch = 2 * time.Second

// expectNeverPromoted is E3: one request in plaintext now and then, more often than the window is long, that looks like a new client's each time.
func expectNeverPromoted(ctx context.Context, name, legacy string) {
	GinkgoHelper()
	setUp(ctx, space{name: name, meshed: true, manifests: []string{testbed.Httpbin(name), testbed.Sleep(name)}})
	profile := applyProfile(ctx, name, "httpbin", `{mode: Strict, rollout: {observationWindow: 20s, verificationWindow: 3s, minRequests: 0}}`)
	for _, code := range []int{200, 418, 404} {
		// Each is a series of its own, born with this one request. One that kube-proxy has no rule for yet arrives nowhere.
		expectAnswers(ctx, ask{from: legacy, url: fmt.Sprintf("http://httpbin.%s:8000/status/%d", name, code), want: code})
		Consistently(func() string { return peerMode(ctx, name, "httpbin") }, "12s", "500ms").Should(Or(BeEmpty(), Equal("PERMISSIVE")))
	}
	Expect(read(ctx, profile).Status.MTLS.LastPlaintextTime).NotTo(BeNil(), "%s", describe(ctx, profile))
	expectStage(ctx, profile, v1alpha1.StageEnforced)
}

// expectHeldByTelemetry is E4: proxies that cannot be read hold the switch, and STRICT stays where it is.
func expectHeldByTelemetry(ctx context.Context, name string) {
	GinkgoHelper()
	meshedShop(ctx, name)
	settled := applyProfile(ctx, name, "httpbin", staged)
	expectStage(ctx, settled, v1alpha1.StageEnforced)
	waiting := applyProfile(ctx, name, "sleep", `{mode: Strict, rollout: {observationWindow: 5s, verificationWindow: 3s, minRequests: 0}}`)

	By("closing port 15090 in both pods")
	for _, app := range []string{"httpbin", "sleep"} {
		closeStats(ctx, name, app, "-I")
	}
	expectHeld(ctx, waiting, v1alpha1.BlockerTelemetryIncomplete, "NetworkPolicy")
	Expect(condition(ctx, waiting, v1alpha1.ConditionTrafficObserved)).To(HavePrefix("False/"))
	Expect(peerMode(ctx, name, "httpbin")).To(Equal("STRICT"))
	Expect(stage(ctx, settled)).To(Equal(v1alpha1.StageEnforced))

	By("opening it again")
	closeStats(ctx, name, "sleep", "-D")
	expectStage(ctx, waiting, v1alpha1.StageEnforced)
}

// expectHeldByClientRule is E5: a meshed client's own DestinationRule with DISABLE holds the switch and is named.
func expectHeldByClientRule(ctx context.Context, name string) {
	GinkgoHelper()
	host := "httpbin." + name + ".svc.cluster.local"
	meshedShop(ctx, name)
	Expect(mesh.Apply(ctx, clientRule(name, host, "DISABLE"))).To(Succeed())
	profile := applyProfile(ctx, name, "httpbin", staged)
	expectHeld(ctx, profile, v1alpha1.BlockerPlaintextDestinationRule, "DestinationRule "+name+"/client-of-httpbin")
	Expect(mesh.Delete(ctx, clientRule(name, host, "DISABLE"))).To(Succeed())
	expectStage(ctx, profile, v1alpha1.StageEnforced)
	expectReach(ctx, reach{from: name, to: name, status: 200})
}

// expectTakenBack is E6: a meshed caller that begins to fail after the switch is named, and STRICT is taken back. Once its client is
// there, prepare may do something to it.
func expectTakenBack(ctx context.Context, name string, prepare func(client string)) {
	GinkgoHelper()
	client := name + "-client"
	host := "httpbin." + name + ".svc.cluster.local"
	setUp(ctx,
		space{name: name, meshed: true, manifests: []string{testbed.Httpbin(name)}},
		space{name: client, meshed: true, manifests: []string{testbed.Sleep(client)}},
	)
	load := startLoad(ctx, client, "--url=http://httpbin."+name+":8000/ip", "--rate=20", "--new=2")
	prepare(client)
	profile := applyProfile(ctx, name, "httpbin", `{mode: Strict, rollout: {observationWindow: 10s, verificationWindow: 90s}}`)
	expectStage(ctx, profile, v1alpha1.StageVerifying)
	Eventually(func() string { return condition(ctx, profile, v1alpha1.ConditionMutualTLSEnforced) }).WithContext(ctx).Should(
		ContainSubstring(client+"/sleep"), "%s", describe(ctx, profile))
	Expect(mesh.Apply(ctx, clientRule(client, host, "DISABLE"))).To(Succeed())
	begin := time.Now()
	expectStage(ctx, profile, v1alpha1.StageRolledBack)
	GinkgoWriter.Printf("from the cause to the rollback: %s\n", time.Since(begin).Round(100*time.Millisecond))
	Expect(peerMode(ctx, name, "httpbin")).To(Equal("PERMISSIVE"))
	Expect(condition(ctx, profile, v1alpha1.ConditionReady)).To(ContainSubstring("Callers that failed: " + client + "/sleep."))
	Expect(load.Served(ctx)).To(Succeed())
}

// fiveApps are the workloads of E7, of which orders has a client outside the mesh.
var fiveApps = []string{"cart", "catalog", "orders", "payment", "users"}

// five is E7: a namespace of five workloads and their clients.
type five struct {
	shop, clients, legacy string
	callers               []string
	profile               *v1alpha1.ServiceSecurityProfile
}

// startFive sets it up, with every client served, and applies the namespace's profile.
func startFive(ctx context.Context, name string) *five {
	GinkgoHelper()
	f := &five{shop: name + "-shop", clients: name + "-clients", legacy: name + "-legacy"}
	var servers, callers []string
	for _, app := range fiveApps {
		servers = append(servers, renamed(testbed.Httpbin(f.shop), "httpbin", app))
		callers = append(callers, f.caller(app))
	}
	old, err := testbed.LoadClient(f.legacy, "cron", "--url=http://orders."+f.shop+":8000/ip", "--rate=5", "--connections=1")
	Expect(err).NotTo(HaveOccurred())
	setUp(ctx,
		space{name: f.shop, meshed: true, manifests: servers}, space{name: f.clients, meshed: true, manifests: callers},
		space{name: f.legacy, manifests: []string{testbed.Sleep(f.legacy), old}},
	)
	for _, app := range f.callers {
		Expect(mesh.Served(ctx, f.clients, app)).To(Succeed())
	}
	Expect(mesh.Served(ctx, f.legacy, "cron")).To(Succeed())
	f.profile = applyWhole(ctx, f.shop, "Namespace", `{mode: Strict, rollout: {observationWindow: 5s, verificationWindow: 3s, maxConcurrent: 2}}`)
	return f
}

// caller is the manifest of a workload's meshed client.
func (f *five) caller(app string) string {
	GinkgoHelper()
	load, err := testbed.LoadClient(f.clients, "calls-"+app, "--url=http://"+app+"."+f.shop+":8000/ip", "--rate=30", "--new=2")
	Expect(err).NotTo(HaveOccurred())
	f.callers = append(f.callers, "calls-"+app)
	return load
}

// expectCount waits until so many workloads are blocked and enforced, and never more than two in between.
func (f *five) expectCount(ctx context.Context, blocked, enforced int32) {
	GinkgoHelper()
	Eventually(func() v1alpha1.WorkloadCount {
		mtls := read(ctx, f.profile).Status.MTLS
		if mtls == nil || mtls.Workloads == nil {
			return v1alpha1.WorkloadCount{}
		}
		Expect(mtls.Workloads.Verifying).To(BeNumerically("<=", 2), "maxConcurrent")
		return *mtls.Workloads
	}).WithContext(ctx).WithTimeout(rollout).Should(Equal(v1alpha1.WorkloadCount{Blocked: blocked, Enforced: enforced}), "%s", describe(ctx, f.profile))
}

// expectFour expects four workloads with STRICT, and the fifth with what holds it.
func (f *five) expectFour(ctx context.Context) {
	GinkgoHelper()
	f.expectCount(ctx, 1, 4)
	Expect(peers(ctx, f.shop)).To(Equal("=PERMISSIVE cart=STRICT catalog=STRICT payment=STRICT users=STRICT "))
	Expect(stage(ctx, f.profile)).To(Equal(v1alpha1.StageBlocked))
	Expect(blockers(ctx, f.profile)).To(ContainElement(HavePrefix("PlaintextSeen: Workload orders: ")))
	Expect(mesh.Totals(ctx, f.legacy, "cron")).To(HaveField("Failed()", BeZero()))
	GinkgoWriter.Println(describe(ctx, f.profile))
}

// expectAll takes the fifth workload's client into the mesh and expects one object for all in the end, without a failure on the way.
func (f *five) expectAll(ctx context.Context) {
	GinkgoHelper()
	refused := f.expectRefused(ctx)
	moveIn(ctx, f.legacy)
	Eventually(func() string { return peers(ctx, f.shop) }).WithContext(ctx).WithTimeout(rollout).Should(Equal("=STRICT "), "%s", describe(ctx, f.profile))
	expectStage(ctx, f.profile, v1alpha1.StageEnforced)
	Expect(condition(ctx, f.profile, v1alpha1.ConditionReady)).To(HavePrefix("True/Ready"))
	time.Sleep(afterSwitch)
	GinkgoWriter.Printf("%d plaintext requests, each refused, while the namespace's object took over\n", refused())
	expectClean(ctx, f.clients, f.callers...)
}

// expectRefused sends plaintext to a workload that has STRICT, without a pause, and expects that none gets in. It returns what
// ends that and says how many were sent.
func (f *five) expectRefused(ctx context.Context) func() int {
	GinkgoHelper()
	ctx, stop := context.WithCancel(ctx)
	DeferCleanup(stop)
	sent := make(chan int)
	go func() {
		defer GinkgoRecover()
		defer close(sent)
		count := 0
		for ctx.Err() == nil {
			answer, err := mesh.Curl(ctx, f.legacy, "sleep", "http://"+fiveApps[0]+"."+f.shop+":8000/ip")
			if ctx.Err() != nil {
				break
			}
			Expect(err).NotTo(HaveOccurred())
			Expect(answer).To(And(HaveField("HTTPCode", 0), HaveField("CurlExit", 56)), "plaintext got in after %d that did not", count)
			count++
		}
		sent <- count
	}()
	return func() int {
		GinkgoHelper()
		stop()
		count := <-sent
		Expect(count).To(BeNumerically(">", 20))
		return count
	}
}

// killWindow is that of the rollouts in which something happens to the operator or to the API server.
const killWindow = 5 * time.Second

// beginRollout starts httpbin's rollout from PERMISSIVE and returns when it began.
func beginRollout(ctx context.Context, namespace string) (*v1alpha1.ServiceSecurityProfile, time.Time) {
	GinkgoHelper()
	deleteProfiles(ctx, namespace)
	Eventually(func() string { return peerMode(ctx, namespace, "httpbin") }).Should(BeEmpty())
	return applyProfile(ctx, namespace, "httpbin", staged), time.Now()
}

// expectEnd expects STRICT and Enforced, not earlier than the window after the given moment.
func expectEnd(ctx context.Context, profile *v1alpha1.ServiceSecurityProfile, notBefore time.Time) {
	GinkgoHelper()
	expectStage(ctx, profile, v1alpha1.StageEnforced)
	Expect(peerMode(ctx, profile.Namespace, "httpbin")).To(Equal("STRICT"))
	enforced := read(ctx, profile).Status.MTLS.EnforcedTime
	Expect(enforced).NotTo(BeNil())
	// The API keeps whole seconds.
	Expect(enforced.Time).To(BeTemporally(">=", notBefore.Add(killWindow).Truncate(time.Second)))
}

// operatorKilled declares E8's specs: the operator killed so long after a rollout's start, and killed and kept away while plaintext is sent.
func operatorKilled(name string, killed, away []time.Duration) {
	legacy := name + "-legacy"

	BeforeAll(func(ctx SpecContext) {
		meshedShop(ctx, name)
		setUp(ctx, space{name: legacy, manifests: []string{testbed.Sleep(legacy)}})
		Expect(mesh.Served(ctx, name, "steady")).To(Succeed())
	}, NodeTimeout(2*patience))

	AfterAll(func(ctx SpecContext) { expectClean(ctx, name, "steady") }, NodeTimeout(patience))

	for _, after := range killed {
		It(fmt.Sprintf("E8: operator killed %s after the start", after), func(ctx SpecContext) {
			profile, began := beginRollout(ctx, name)
			modes := recordModes(ctx, name)
			time.Sleep(time.Until(began.Add(after)))
			killOperator(ctx)
			expectEnd(ctx, profile, began)
			Expect(modes()).To(Equal(onceEach), "no moment of anything else")
		}, SpecTimeout(2*rollout))
	}

	for _, after := range away {
		It(fmt.Sprintf("E8: operator killed %s after the start, with plaintext sent while it is down", after), func(ctx SpecContext) {
			profile, began := beginRollout(ctx, name)
			modes := recordModes(ctx, name)
			time.Sleep(time.Until(began.Add(after)))
			scaleOperator(ctx, 0)
			DeferCleanup(func(ctx SpecContext) { scaleOperator(ctx, 1) }, NodeTimeout(patience))
			call(ctx, legacy, "httpbin."+name, 8000, 0) // it is PERMISSIVE still
			sent := time.Now()
			scaleOperator(ctx, 1)
			expectEnd(ctx, profile, sent)
			Expect(modes()).To(Equal(onceEach), "no moment of anything else")
		}, SpecTimeout(2*rollout))
	}
}
