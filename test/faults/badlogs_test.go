package faults

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	logv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/traffic/accesslog"
)

// callersPerProxy is what docs/access-logs.md says that is remembered of one proxy.
const callersPerProxy = 256

// quiet is a rollout to whose target nobody sends plaintext, as far as its metrics tell.
func quiet() script {
	s := *scripts()[0]
	s.plaintext = 0
	return s
}

// attack is what a client does again and again to the server of access logs.
type attack struct {
	send func(*site)
	edit func(*accesslog.Options)
	// believed says that what it says is plaintext to the target, by an accepted stream of the target's own pod.
	believed bool
	// says is a part of the blocker's message, and of the condition PlaintextFree.
	says string
	// listed is how many callers status has at the least, and remembered how many the server has after an attack.
	listed, remembered int
}

// attacked is when an attack is made, from the third reading on: before the window is full, at that time and after it.
var attacked = []time.Duration{2 * interval, 3 * interval, 4 * interval}

// TestBadAccessLogs: whatever a client sends, it holds the switch of the pod alone whose own proxy it speaks for, and that only as
// long as it goes on.
func TestBadAccessLogs(t *testing.T) {
	for name, a := range attacks() {
		for _, away := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, the operator restarted: %t", name, away), func(t *testing.T) {
				t.Parallel()
				s := newSite(t, quiet(), a.edit)
				strict := s.suffer(a, away)
				// The window is full three intervals after it began, and clients need another one to take their rule. A restart does
				// not change that, since status knows of the last plaintext.
				want := 4 * interval
				if a.believed {
					want = attacked[len(attacked)-1] + window
				}
				if strict != want {
					t.Errorf("it is STRICT from %s on, and should be so from %s on", strict, want)
				}
				expect(t, s.world, "Enforced", "")
			})
		}
	}
}

// suffer has a rollout go on under an attack. It says when STRICT came.
func (s *site) suffer(a attack, away bool) (strict time.Duration) {
	s.t.Helper()
	for s.now().Before(epoch.Add(14 * interval)) {
		at := s.now().Sub(epoch)
		hit := slices.Contains(attacked, at)
		switch {
		case hit:
			a.send(s)
		case away && at == attacked[len(attacked)-1]+interval:
			s.restart()
		}
		if hit && a.believed {
			s.oracle.disturbed["web"] = s.now()
		}
		s.reconcile(s.t)
		if s.oracle.strict["web"] && strict == 0 {
			strict = at
		}
		s.judge(a, hit)
	}
	return strict
}

// judge holds the status after a reconcile, and what the server keeps, to what an attack may do.
func (s *site) judge(a attack, hit bool) {
	s.t.Helper()
	stored := s.stored().Status
	if text := printed(stored); len(text) > 16<<10 {
		s.t.Errorf("the status has grown to %d bytes", len(text))
	}
	if n := s.remembered(); n > a.remembered || hit && n < a.remembered {
		s.t.Errorf("the server remembers %d callers", n)
	}
	free := conditionOf(stored.Conditions, v1alpha1.ConditionPlaintextFree)
	switch {
	case !a.believed:
		if stored.MTLS.Stage == v1alpha1.StageBlocked || stored.MTLS.LastPlaintextTime != nil || len(stored.MTLS.PlaintextCallers) > 0 ||
			free.Status == metav1.ConditionFalse {
			s.t.Errorf("it was believed: %s, %s %s: %s", stored.MTLS.Stage, free.Status, free.Reason, free.Message)
		}
	case hit:
		s.blocked(a, free)
	}
}

// blocked holds a status to that of a target to which plaintext came just now.
func (s *site) blocked(a attack, free metav1.Condition) {
	s.t.Helper()
	m := s.stored().Status.MTLS
	now := epoch.Add(s.now().Sub(epoch) - interval) // as it was when it was written
	if m.Stage != v1alpha1.StageBlocked || len(m.Blockers) != 1 || m.Blockers[0].Type != v1alpha1.BlockerPlaintextSeen ||
		!strings.Contains(m.Blockers[0].Message, "Callers still send plaintext: ") || !strings.Contains(m.Blockers[0].Message, a.says) {
		s.t.Errorf("it is %s: %v", m.Stage, m.Blockers)
	}
	if free.Status != metav1.ConditionFalse || free.Reason != v1alpha1.ReasonPlaintextSeen || !strings.Contains(free.Message, a.says) {
		s.t.Errorf("%s %s: %s", free.Status, free.Reason, free.Message)
	}
	if m.LastPlaintextTime == nil || !m.LastPlaintextTime.Time.Equal(now) {
		s.t.Errorf("the last plaintext was at %v, and it came at %s", m.LastPlaintextTime, now)
	}
	if len(m.PlaintextCallers) < max(1, a.listed) {
		s.t.Errorf("%d callers are listed", len(m.PlaintextCallers))
	}
}

func conditionOf(all []metav1.Condition, kind string) metav1.Condition {
	for _, c := range all {
		if c.Type == kind {
			return c
		}
	}
	return metav1.Condition{}
}

func attacks() map[string]attack {
	mtls := func(o *accesslog.Options) { o.RequireMTLS = true }
	return map[string]attack{
		"nothing": {send: func(*site) {}},
		"rubbish": {send: rubbish},
		"rubbish by mutual TLS": {edit: mtls, send: func(s *site) {
			s.hears(codes.Unauthenticated, webAt, nil, of("web-0", requests(s.plaintext(legacyAt))))
			s.hears(codes.Unauthenticated, sidecarAt, nil, of("web-0", requests(s.plaintext(legacyAt))))
			s.hears(codes.Unauthenticated, sidecarAt, []string{"x-forwarded-client-cert", `By="`}, of("web-0", requests(s.plaintext(legacyAt))))
			s.hears(codes.InvalidArgument, sidecarAt, xfcc("web"), requests(s.plaintext(legacyAt)))
		}},
		"another's proxy about the target": {send: func(s *site) {
			s.hears(codes.OK, payAt, nil, of("pay-0", requests(s.plaintext(legacyAt))))
			s.hears(codes.OK, sidecarAt, xfcc("pay"), of("pay-0", requests(s.plaintext(legacyAt))))
		}, remembered: 2},
		"another's proxy as the target's": {send: func(s *site) {
			s.hears(codes.PermissionDenied, payAt, nil, of("web-0", requests(s.plaintext(legacyAt))))
			s.hears(codes.PermissionDenied, payAt, xfcc("web"), of("web-0", requests(s.plaintext(legacyAt))))
			s.hears(codes.PermissionDenied, sidecarAt, xfcc("pay"), of("web-0", requests(s.plaintext(legacyAt))))
			s.hears(codes.InvalidArgument, payAt, nil, of("pay-0", requests()), of("web-0", requests(s.plaintext(legacyAt))))
		}},
		"a pod that there is not": {send: func(s *site) {
			s.hears(codes.Unavailable, webAt, nil, of("web-1", requests(s.plaintext(legacyAt))))
		}},
		"huge messages": {send: func(s *site) {
			big := s.plaintext(legacyAt)
			big.Request = &logv3.HTTPRequestProperties{Path: strings.Repeat("a", 1<<20)}
			s.hears(codes.ResourceExhausted, webAt, nil, of("web-0", requests(big)))
		}},
		"a caller by mutual TLS": {send: func(s *site) {
			s.hears(codes.OK, webAt, nil, of("web-0", requests(s.plaintext(legacyAt, certificate))))
		}},
		"invented": {believed: true, says: "shop/legacy-0", remembered: 1, send: func(s *site) {
			s.hears(codes.OK, webAt, nil, of("web-0", requests(s.plaintext(legacyAt))))
		}},
		"invented, of another's address": {believed: true, says: "shop/legacy-0", remembered: 1, send: func(s *site) {
			s.hears(codes.OK, sidecarAt, xfcc("web"), of("web-0", requests(s.plaintext(legacyAt, func(c *logv3.AccessLogCommon) {
				c.DownstreamLocalAddress = socket(payAt, 8080)
			}))))
		}},
		"from the future":         {believed: true, says: "address " + strangerAt, remembered: 1, send: stamped(1000 * time.Hour)},
		"of long ago":             {believed: true, says: "address " + strangerAt, remembered: 1, send: stamped(-1000 * time.Hour)},
		"a crowd in a full house": {believed: true, says: " and others", listed: 20, remembered: 100, edit: func(o *accesslog.Options) { o.Limits.Callers = 100 }, send: crowd},
		"a crowd":                 {believed: true, says: " and others", listed: 20, remembered: callersPerProxy, send: crowd},
	}
}

func certificate(c *logv3.AccessLogCommon) {
	c.TlsProperties = &logv3.TLSProperties{PeerCertificateProperties: &logv3.TLSProperties_CertificateProperties{Subject: "CN=front"}}
}

// crowd sends requests of as many callers as a message holds, and messages of them.
func crowd(s *site) {
	for range 5 {
		var all []*logv3.HTTPAccessLogEntry
		for range 400 {
			all = append(all, s.plaintext(stranger()))
		}
		s.hears(codes.OK, webAt, nil, of("web-0", requests(all...)))
	}
}

// stamped is a request that began at another time than now.
func stamped(off time.Duration) func(*site) {
	return func(s *site) {
		s.hears(codes.OK, webAt, nil, of("web-0", requests(s.plaintext(strangerAt, func(c *logv3.AccessLogCommon) {
			c.StartTime = timestamppb.New(s.now().Add(off))
		}))))
	}
}

// rubbish is sent by the target's own pod, so that nothing but what it is keeps it out.
func rubbish(s *site) {
	// Tag of a field with bytes, of which there are fewer than it says.
	for _, broken := range [][]byte{{0x12, 0x7f, 1}, {0xff, 0xff, 0xff}, {0x07}, bytes.Repeat([]byte{0x0a, 0xff}, 100)} {
		message := of("web-0", &accesslogv3.StreamAccessLogsMessage{})
		message.ProtoReflect().SetUnknown(broken)
		s.hears(codes.InvalidArgument, webAt, nil, message)
	}
	// http_logs and tcp_logs with one entry each that is none.
	torn := of("web-0", &accesslogv3.StreamAccessLogsMessage{})
	torn.ProtoReflect().SetUnknown([]byte{0x12, 4, 0x0a, 2, 0x0a, 0xff, 0x1a, 4, 0x0a, 2, 0xff, 0xff})
	nowhere := func(address string, port uint32) *logv3.HTTPAccessLogEntry {
		return s.plaintext(address, func(c *logv3.AccessLogCommon) { c.DownstreamLocalAddress = socket(webAt, port) })
	}
	s.hears(codes.OK, webAt, nil, torn, of("web-0", requests(
		nowhere("", 8080), nowhere("legacy", 8080), nowhere("0.0.0.0", 8080), nowhere(legacyAt, 0), nowhere(legacyAt, 1<<16), &logv3.HTTPAccessLogEntry{},
	)))
	s.hears(codes.InvalidArgument, webAt, nil, requests(s.plaintext(legacyAt)))
	s.hears(codes.InvalidArgument, webAt, nil, of("web-0~x", requests(s.plaintext(legacyAt))))
	s.hears(codes.InvalidArgument, webAt, nil, of(strings.Repeat("a", 4096), requests(s.plaintext(legacyAt))))
	connection, err := s.dial(s.t.Context(), webAt)
	if err != nil {
		s.t.Fatal(err)
	}
	_, _ = io.WriteString(connection, strings.Repeat("GET / HTTP/1.0\r\n", 100)) // it may close at any time
	_ = connection.Close()
}

// TestBadAccessLogsOfRefusals: STRICT is taken back for a caller of the cluster that the target's own proxy tells of by mutual
// TLS since the switch, and for nothing else that says that somebody is refused.
func TestBadAccessLogsOfRefusals(t *testing.T) {
	for name, tc := range map[string]struct {
		send   func(*site)
		before bool   // the switch, and not after it
		taken  bool   // STRICT is taken back
		says   string // the condition PlaintextFree
	}{
		"by mutual TLS": {send: refuses(codes.OK, sidecarAt, "web", "web-0", legacyAt), taken: true},
		"by an address": {send: refuses(codes.OK, webAt, "", "web-0", legacyAt), says: "shop/legacy-0 on port 8080"},
		"of an address": {send: refuses(codes.OK, sidecarAt, "web", "web-0", strangerAt), says: "address " + strangerAt + " on port 8080"},
		"by another":    {send: refuses(codes.OK, sidecarAt, "pay", "pay-0", legacyAt)},
		"as another":    {send: refuses(codes.PermissionDenied, sidecarAt, "pay", "web-0", legacyAt)},
		"by a header":   {send: refuses(codes.OK, webAt, "web", "web-0", legacyAt), says: "shop/legacy-0 on port 8080"},
		// The reconcile that switches has read them still.
		"too early": {send: refuses(codes.OK, sidecarAt, "web", "web-0", legacyAt), before: true, says: "shop/legacy-0 on port 8080"},
		"of a whole crowd": {says: " and others", send: func(s *site) {
			for range 300 {
				refuses(codes.OK, webAt, "", "web-0", stranger())(s)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			script := quiet()
			script.breaks = tc.taken
			s := newSite(t, script, nil)
			taken, told := false, 0
			for s.now().Before(epoch.Add(30 * interval)) {
				// Around the switch, which is in the fourth interval.
				at := s.now().Sub(epoch)
				hit := tc.before && at >= 2*interval && at < 4*interval || !tc.before && at > 4*interval && at < 7*interval && !taken
				if hit {
					tc.send(s)
				}
				was := s.oracle.strict["web"]
				s.reconcile(t)
				taken = taken || was && !s.oracle.strict["web"]
				if s.refused(hit && was && !taken, tc.says) {
					told++
				}
			}
			if taken != tc.taken || told > 0 != (tc.says != "") {
				t.Errorf("STRICT is taken back: %t; it is told %d times that somebody is refused", taken, told)
			}
			expect(t, s.world, "Enforced", "")
		})
	}
}

// refuses is a refusal that the proxy of a pod logs.
func refuses(want codes.Code, from, account, pod, caller string) func(*site) {
	return func(s *site) {
		var headers []string
		if account != "" {
			headers = xfcc(account)
		}
		s.hears(want, from, headers, of(pod, s.refusal(caller)))
	}
}

// refused says whether status tells that somebody is refused. It must where that was logged a moment ago.
func (s *site) refused(now bool, says string) bool {
	s.t.Helper()
	stored := s.stored().Status
	if text := printed(stored); len(text) > 16<<10 {
		s.t.Errorf("the status has grown to %d bytes", len(text))
	}
	free := conditionOf(stored.Conditions, v1alpha1.ConditionPlaintextFree)
	told := free.Reason == v1alpha1.ReasonPlaintextRefused
	if told && (says == "" || !strings.Contains(free.Message, says)) || now && says != "" && !told {
		s.t.Errorf("%s %s: %s", free.Status, free.Reason, free.Message)
	}
	return told
}
