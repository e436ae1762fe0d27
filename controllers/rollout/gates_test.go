package rollout_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/rollout"
	"github.com/servicesecurity/operator/controllers/traffic"
)

func member(m facts.Membership) func(*rollout.Input) {
	return func(in *rollout.Input) {
		pod := sidecar("httpbin-2")
		pod.Membership = m
		in.Facts.Pods = append(in.Facts.Pods, pod)
	}
}

// closed are single things that close a gate, with the blocker and what its message must name.
var closed = map[string]struct {
	close func(*rollout.Input)
	want  v1alpha1.BlockerType
	names []string
}{
	"no pods":              {func(in *rollout.Input) { in.Facts.Pods = nil }, v1alpha1.BlockerNoPods, []string{"Immediate"}},
	"no sidecar":           {member(facts.MemberNone), v1alpha1.BlockerPodsNotInMesh, []string{"httpbin-2", "istio-injection=enabled"}},
	"ambient":              {member(facts.MemberAmbient), v1alpha1.BlockerAmbientUnsupported, []string{"httpbin-2"}},
	"proxyless":            {member(facts.MemberProxyless), v1alpha1.BlockerPodsNotInMesh, []string{"httpbin-2", "gRPC"}},
	"tlsMode disabled":     {member(facts.MemberTLSDisabled), v1alpha1.BlockerPodsNotInMesh, []string{"httpbin-2", "security.istio.io/tlsMode"}},
	"interception NONE":    {member(facts.MemberNoInterception), v1alpha1.BlockerPodsNotInMesh, []string{"httpbin-2", "REDIRECT"}},
	"a WorkloadEntry":      {func(in *rollout.Input) { in.Facts.WorkloadEntries = []string{"foo/vm"} }, v1alpha1.BlockerWorkloadEntry, []string{"foo/vm"}},
	"a remote cluster":     {func(in *rollout.Input) { in.Facts.RemoteClusters = []string{"east"} }, v1alpha1.BlockerRemoteCluster, []string{"east"}},
	"an excluded port":     {func(in *rollout.Input) { in.Facts.Pods[0].ExcludedStrict = []string{"9090"} }, v1alpha1.BlockerPortsExcluded, []string{"httpbin-1 (9090)", "excludeInboundPorts"}},
	"an unrewritten probe": {func(in *rollout.Input) { in.Facts.Pods[0].UnrewrittenProbes = []string{"app"} }, v1alpha1.BlockerUnrewrittenProbes, []string{"httpbin-1/app", "rewriteAppHTTPProbers"}},
	"a Sidecar with tls":   {func(in *rollout.Input) { in.Facts.SidecarIngress = []string{"foo/in"} }, v1alpha1.BlockerSidecarIngressTLS, []string{"foo/in"}},
	"a client's rule": {func(in *rollout.Input) {
		in.Facts.ClientRules = []facts.ClientRule{{Namespace: "bar", Name: "legacy", Host: hostName, TLS: "SIMPLE", Where: "subset v1"}, {Namespace: "bar", Name: "harmless", Host: hostName}}
	}, v1alpha1.BlockerPlaintextDestinationRule, []string{"bar/legacy", hostName, "SIMPLE", "subset v1", "ISTIO_MUTUAL"}},
	"a ServiceEntry": {func(in *rollout.Input) { in.Facts.ServiceEntries = []string{"bar/out"} }, v1alpha1.BlockerPlaintextServiceEntry, []string{"bar/out", "MESH_INTERNAL"}},
	"a younger policy": {func(in *rollout.Input) {
		in.Facts.CompetingPolicies = []facts.CompetingPolicy{{Namespace: "foo", Name: "x", Pod: "httpbin-1"}}
	}, v1alpha1.BlockerCompetingPeerAuthentication, []string{"foo/x", "httpbin-1", "ignores it"}},
	"an older policy": {func(in *rollout.Input) {
		in.Facts.CompetingPolicies = []facts.CompetingPolicy{{Namespace: "foo", Name: "x", Pod: "httpbin-1", Wins: true}}
	}, v1alpha1.BlockerCompetingPeerAuthentication, []string{"foo/x", "instead of"}},
	"a Telemetry":         {func(in *rollout.Input) { in.Facts.TelemetryOverrides = []string{"istio-system/off"} }, v1alpha1.BlockerTelemetryOverridden, []string{"istio-system/off"}},
	"nobody counts":       {func(in *rollout.Input) { in.Facts.Uncounted = true }, v1alpha1.BlockerTelemetryOverridden, []string{"meshConfig.defaultProviders.metrics", "root namespace"}},
	"incomplete":          {func(in *rollout.Input) { incomplete(in, traffic.Incomplete) }, v1alpha1.BlockerTelemetryIncomplete, []string{"httpbin-1", "15090"}},
	"not observed":        {func(in *rollout.Input) { in.Seen = traffic.Observation{Completeness: traffic.Skipped, Message: " "} }, v1alpha1.BlockerTelemetryIncomplete, []string{"not observed yet"}},
	"a value of no sense": {func(in *rollout.Input) { in.Seen.Completeness = "" }, v1alpha1.BlockerTelemetryIncomplete, nil},
	"plaintext": {func(in *rollout.Input) {
		in.Seen.LastPlaintext = in.Now
		in.Seen.Callers = []v1alpha1.PlaintextCaller{{Workload: "cron", Namespace: "legacy"}}
	}, v1alpha1.BlockerPlaintextSeen, []string{"legacy/cron"}},
	"plaintext of no port": {func(in *rollout.Input) { in.Seen.LastPlaintext, in.Seen.NotAttributable = in.Now, true }, v1alpha1.BlockerPortNotAttributable, []string{"proxyStatsMatcher"}},
	"a rollout in flight":  {func(in *rollout.Input) { in.Facts.RollingOut = []string{"Deployment httpbin"} }, v1alpha1.BlockerPodsRollingOut, []string{"Deployment httpbin", "OnDelete", "partition", "delete the pods"}},
	"too little traffic":   {func(in *rollout.Input) { in.Seen.MutualTLS = 0 }, v1alpha1.BlockerInsufficientTraffic, []string{"minRequests (1)"}},
	"nobody approved":      {func(in *rollout.Input) { in.Spec.Approval = v1alpha1.ApprovalManual }, v1alpha1.BlockerApprovalMissing, []string{"servicesecurity.dev/approve"}},
}

func TestGates(t *testing.T) {
	for name, tc := range closed {
		t.Run(name, func(t *testing.T) {
			got := rollout.Next(with(full(), tc.close))
			if diff := cmp.Diff([]v1alpha1.BlockerType{tc.want}, types(got.Blockers)); diff != "" {
				t.Fatalf("unexpected blockers (-want +got):\n%s", diff)
			}
			if got.Switched || got.Confirm {
				t.Error("the gate does not hold the switch")
			}
			for _, name := range tc.names {
				if !strings.Contains(got.Blockers[0].Message, name) {
					t.Errorf("%q does not name %q", got.Blockers[0].Message, name)
				}
			}
		})
	}
}

// TestEveryGate: everything that is wrong is said at once, in bounded full sentences that do not change with the time.
func TestEveryGate(t *testing.T) {
	long := strings.Repeat("ü", 400)
	in := full()
	in.Facts.Pods = nil
	for i, m := range []facts.Membership{facts.MemberSidecar, facts.MemberNone, facts.MemberAmbient, facts.MemberProxyless, facts.MemberTLSDisabled, facts.MemberNoInterception} {
		for j := range 9 {
			pod := sidecar(fmt.Sprintf("%d-%d-%s", i, j, long))
			pod.Membership, pod.ExcludedStrict, pod.UnrewrittenProbes = m, slices.Repeat([]string{long}, 9), []string{long}
			in.Facts.Pods = append(in.Facts.Pods, pod)
		}
	}
	for i := range 40 {
		name := fmt.Sprint(i, long)
		in.Facts.ClientRules = append(in.Facts.ClientRules, facts.ClientRule{Namespace: "bar", Name: name, Host: hostName + long, TLS: "DISABLE", Where: long})
		in.Facts.CompetingPolicies = append(in.Facts.CompetingPolicies, facts.CompetingPolicy{Namespace: "foo", Name: name, Pod: name, Wins: i%2 == 0})
		in.Seen.Callers = append(in.Seen.Callers, v1alpha1.PlaintextCaller{Workload: name, Namespace: long})
	}
	many := slices.Repeat([]string{"foo/" + long}, 9)
	in.Facts.WorkloadEntries, in.Facts.RemoteClusters, in.Facts.SidecarIngress = many, many, many
	in.Facts.ServiceEntries, in.Facts.TelemetryOverrides, in.Facts.RollingOut = many, many, many
	in.Seen.OpenPlaintext, in.Seen.LastPlaintext = 3, noon
	incompleteSeen := in
	incompleteSeen.Seen.Completeness, incompleteSeen.Seen.Message = traffic.Incomplete, strings.Repeat("This proxy was not read. ", 100)

	want := map[v1alpha1.BlockerType]bool{}
	for _, tc := range closed {
		want[tc.want] = true
	}
	want[v1alpha1.BlockerPlaintextConnectionsOpen] = true
	for _, late := range []v1alpha1.BlockerType{v1alpha1.BlockerNoPods, v1alpha1.BlockerPortNotAttributable, v1alpha1.BlockerInsufficientTraffic, v1alpha1.BlockerApprovalMissing, v1alpha1.BlockerPodsRollingOut} {
		delete(want, late)
	}
	got := rollout.Next(incompleteSeen)
	if len(got.Blockers) > 32 {
		t.Errorf("%d blockers", len(got.Blockers))
	}
	have := map[v1alpha1.BlockerType]bool{}
	for _, b := range got.Blockers {
		have[b.Type] = true
		if n := len([]rune(b.Message)); n > 1024 || n < 40 {
			t.Errorf("%s: %d characters: %s", b.Type, n, b.Message)
		}
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("unexpected blockers (-want +got):\n%s", diff)
	}

	later := clone(incompleteSeen)
	pass(&later, interval)
	later.Facts.Pods = append(later.Facts.Pods, sidecar("zzz"))
	later.Seen.Callers[0], later.Seen.Callers[1] = later.Seen.Callers[1], later.Seen.Callers[0]
	if diff := cmp.Diff(got.Blockers, rollout.Next(later).Blockers); diff != "" {
		t.Errorf("messages churn (-before +after):\n%s", diff)
	}
}

func TestCallers(t *testing.T) {
	caller := func(namespace, workload, protocol string) v1alpha1.PlaintextCaller {
		return v1alpha1.PlaintextCaller{Namespace: namespace, Workload: workload, Protocol: protocol}
	}
	tests := map[string]struct {
		callers []v1alpha1.PlaintextCaller
		want    string
		unnamed bool
	}{
		"nobody known":             {nil, "an unknown workload.", true},
		"unknown":                  {[]v1alpha1.PlaintextCaller{caller("", "unknown", "")}, "an unknown workload (outside the mesh, so its proxy cannot name it).", true},
		"unknown, by TCP":          {[]v1alpha1.PlaintextCaller{caller("", "unknown", "TCP")}, "an unknown workload (TCP, outside the mesh, so its proxy cannot name it).", true},
		"no namespace":             {[]v1alpha1.PlaintextCaller{caller("", "cron", "HTTP")}, "cron.", false},
		"unknown, with an address": {[]v1alpha1.PlaintextCaller{located("", "unknown", 0)}, "address 192.0.2.7.", false},
		"with a port":              {[]v1alpha1.PlaintextCaller{located("a", "x", 8080), located("", "unknown", 9090)}, "a/x on port 8080, address 192.0.2.7 on port 9090.", false},
		"refused ones":             {[]v1alpha1.PlaintextCaller{{Workload: "y", Namespace: "a", Port: 8080, Refused: true}, located("a", "x", 8080)}, "a/x on port 8080.", false},
		"each once":                {[]v1alpha1.PlaintextCaller{caller("a", "x", "HTTP"), caller("a", "x", "TCP")}, "a/x.", false},
		"in a still order":         {[]v1alpha1.PlaintextCaller{caller("b", "x", ""), caller("a", "x", "")}, "a/x, b/x.", false},
		"the worst three":          {[]v1alpha1.PlaintextCaller{caller("d", "x", ""), caller("c", "x", ""), caller("b", "x", ""), caller("a", "x", "")}, "b/x, c/x, d/x and others.", false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			in := base()
			in.Seen.LastPlaintext, in.Seen.Callers = noon, tc.callers
			got := rollout.Next(in).Blockers[0].Message
			want := "Callers still send plaintext: " + tc.want + " Move them into the mesh; their counts are in status.mtls.plaintextCallers."
			if tc.unnamed {
				want += " The address of an unknown one is in the access logs of the target's proxies; docs/observation.md says how to turn them on."
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("unexpected message (-want +got):\n%s", diff)
			}
		})
	}
}

// located is a caller as access logs have it.
func located(namespace, workload string, port int32) v1alpha1.PlaintextCaller {
	return v1alpha1.PlaintextCaller{Namespace: namespace, Workload: workload, Address: "192.0.2.7", Port: port, Protocol: "HTTP"}
}

func TestOnePort(t *testing.T) {
	two := []facts.WorkloadPort{{Port: 8080}, {Port: 9090}}
	const exception = "{port: 9090, mode: Permissive}"
	for name, tc := range map[string]struct {
		callers []v1alpha1.PlaintextCaller
		edit    func(*rollout.Input)
		want    bool
	}{
		"one port of two":                 {callers: []v1alpha1.PlaintextCaller{located("a", "x", 9090), located("", "unknown", 9090)}, want: true},
		"both":                            {callers: []v1alpha1.PlaintextCaller{located("a", "x", 9090), located("a", "x", 8080)}},
		"a port is not known":             {callers: []v1alpha1.PlaintextCaller{located("a", "x", 9090), located("a", "y", 0)}},
		"no port is known":                {callers: []v1alpha1.PlaintextCaller{located("a", "y", 0)}},
		"who was refused elsewhere":       {callers: []v1alpha1.PlaintextCaller{located("a", "x", 9090), {Workload: "y", Port: 8080, Refused: true}}, want: true},
		"there is only one":               {callers: []v1alpha1.PlaintextCaller{located("a", "x", 9090)}, edit: func(in *rollout.Input) { in.Facts.Ports = two[1:] }},
		"the other is an exception":       {callers: []v1alpha1.PlaintextCaller{located("a", "x", 9090)}, edit: func(in *rollout.Input) { in.Spec.Asked.Ports = map[int32]v1alpha1.Mode{8080: v1alpha1.ModePermissive} }},
		"a namespace has none":            {callers: []v1alpha1.PlaintextCaller{located("a", "x", 9090)}, edit: func(in *rollout.Input) { in.Facts.Target.Scope = v1alpha1.ScopeNamespace }},
		"as many as are listed":           {callers: slices.Repeat([]v1alpha1.PlaintextCaller{located("a", "x", 9090)}, 20)},
		"known although no metric has it": {callers: []v1alpha1.PlaintextCaller{located("a", "x", 9090)}, edit: func(in *rollout.Input) { in.Seen.NotAttributable = true }, want: true},
	} {
		in := base()
		in.Facts.Target.Scope, in.Facts.Ports = v1alpha1.ScopeWorkload, two
		in.Seen.LastPlaintext, in.Seen.Callers = noon, tc.callers
		if tc.edit != nil {
			tc.edit(&in)
		}
		got := rollout.Next(in).Blockers[0]
		if got.Type != v1alpha1.BlockerPlaintextSeen || strings.Contains(got.Message, exception) != tc.want {
			t.Errorf("%s: %s: %s", name, got.Type, got.Message)
		}
	}
}

// TestOnePortOfMember: a profile for a namespace can have no exceptions, so the way is a profile of the workload's own.
func TestOnePortOfMember(t *testing.T) {
	in := base()
	in.Spec = rollout.MemberSpec(in.Spec)
	in.Facts.Ports = []facts.WorkloadPort{{Port: 8080}, {Port: 9090}}
	in.Seen.LastPlaintext, in.Seen.Callers = noon, []v1alpha1.PlaintextCaller{located("a", "x", 9090)}
	member := rollout.Member{Name: "web", Object: "all-web", Facts: in.Facts, Decision: rollout.Next(in)}
	got := rollout.Gather(whole(), []rollout.Member{member}, nil, nil).Blockers
	const want = "Workload web: Callers still send plaintext: a/x on port 9090. Move them into the mesh; their counts are in status.mtls.plaintextCallers." +
		" All of it goes to workload port 9090: with a profile of its own for this workload that has the exception {port: 9090, mode: Permissive} in mtls.portLevel its other ports and the rest of the namespace can become STRICT before that."
	if diff := cmp.Diff([]v1alpha1.Blocker{{Type: v1alpha1.BlockerPlaintextSeen, Message: want}}, got); diff != "" {
		t.Errorf("blockers (-want +got):\n%s", diff)
	}
}
