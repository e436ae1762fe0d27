package accesslog

import (
	"net/netip"
	"testing"

	"github.com/servicesecurity/operator/controllers/facts"
)

func TestParseNode(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		id   string
		want claim
	}{
		"a sidecar":          {id: "sidecar~10.1.2.3~httpbin-abc.foo~foo.svc.cluster.local", want: claim{"foo", "httpbin-abc"}},
		"a name with dots":   {id: "sidecar~10.1.2.3~web.v1.foo~foo.svc.cluster.local", want: claim{"foo", "web.v1"}},
		"a gateway":          {id: "router~10.1.2.3~ingress.istio-system~istio-system.svc.cluster.local"},
		"nothing":            {},
		"too few parts":      {id: "sidecar~10.1.2.3~httpbin.foo"},
		"too many parts":     {id: "sidecar~10.1.2.3~httpbin.foo~x~y"},
		"no namespace":       {id: "sidecar~10.1.2.3~httpbin~x"},
		"an empty namespace": {id: "sidecar~10.1.2.3~httpbin.~x"},
		"no pod":             {id: "sidecar~10.1.2.3~.foo~x"},
		"far too long":       {id: "sidecar~10.1.2.3~" + string(make([]byte, maxNodeID)) + ".foo~x"},
	} {
		got, err := parseNode(tc.id)
		if got != tc.want || (err == nil) != (tc.want != claim{}) {
			t.Errorf("%s: got %+v, %v, want %+v", name, got, err, tc.want)
		}
	}
}

const (
	own  = "By=spiffe://cluster.local/ns/servicesecurity-system/sa/servicesecurity-controller-manager;Hash=abc;Subject=\"\";"
	foo  = "URI=spiffe://cluster.local/ns/foo/sa/httpbin"
	evil = "URI=spiffe://cluster.local/ns/victim/sa/victim"
)

func TestParseXFCC(t *testing.T) {
	t.Parallel()
	want := spiffe{"cluster.local", "foo", "httpbin"}
	for name, tc := range map[string]struct {
		header string
		want   spiffe
	}{
		"as the sidecar writes it":             {header: own + foo, want: want},
		"what the caller had put before it":    {header: own + evil + "," + own + foo, want: want},
		"a quoted URI":                         {header: own + `URI="spiffe://cluster.local/ns/foo/sa/httpbin"`, want: want},
		"a comma in the caller's quotes":       {header: `Subject="a,b";` + evil + "," + own + foo, want: want},
		"a quote that the caller left open":    {header: evil + `;Subject="` + "," + own + foo},
		"a quote and an escape left open":      {header: evil + `;Subject="\` + "," + own + foo},
		"two URIs":                             {header: own + evil + ";" + foo},
		"no URI":                               {header: own},
		"no By":                                {header: foo},
		"another trust domain":                 {header: own + "URI=spiffe://other.domain/ns/foo/sa/httpbin"},
		"an identity that is none of Istio's":  {header: own + "URI=spiffe://cluster.local/foo/httpbin"},
		"an identity with an empty account":    {header: own + "URI=spiffe://cluster.local/ns/foo/sa/"},
		"an identity with more path than that": {header: own + foo + "/x"},
		"nothing":                              {},
		"far too long":                         {header: own + foo + string(make([]byte, maxXFCC))},
	} {
		got, err := parseXFCC(tc.header)
		if got != tc.want || (err == nil) != (tc.want != spiffe{}) {
			t.Errorf("%s: got %+v, %v, want %+v", name, got, err, tc.want)
		}
	}
}

func TestVerify(t *testing.T) {
	t.Parallel()
	pod := facts.Identity{Namespace: "foo", Name: "httpbin-1", UID: "1", Address: "10.0.0.1", ServiceAccount: "httpbin"}
	hostNetwork := pod
	hostNetwork.Address = ""
	for name, tc := range map[string]struct {
		peer          peer
		pod           facts.Identity
		authenticated bool
		ok            bool
	}{
		"its own identity":                 {peer: peer{sidecarSources[0], spiffe{"d", "foo", "httpbin"}}, pod: pod, authenticated: true, ok: true},
		"another account":                  {peer: peer{sidecarSources[0], spiffe{"d", "foo", "sleep"}}, pod: pod},
		"another namespace's account":      {peer: peer{sidecarSources[0], spiffe{"d", "bar", "httpbin"}}, pod: pod},
		"another's identity, its address":  {peer: peer{netip.MustParseAddr("10.0.0.1"), spiffe{"d", "bar", "httpbin"}}, pod: pod},
		"its own address":                  {peer: peer{address: netip.MustParseAddr("10.0.0.1")}, pod: pod, ok: true},
		"another's address":                {peer: peer{address: netip.MustParseAddr("10.0.0.2")}, pod: pod},
		"loopback":                         {peer: peer{address: netip.MustParseAddr("127.0.0.1")}, pod: pod},
		"a pod that shares its address":    {peer: peer{address: netip.MustParseAddr("10.0.0.1")}, pod: hostNetwork},
		"no address at all on either side": {peer: peer{}, pod: hostNetwork},
	} {
		authenticated, err := tc.peer.verify(tc.pod)
		if authenticated != tc.authenticated || (err == nil) != tc.ok {
			t.Errorf("%s: authenticated %t, %v", name, authenticated, err)
		}
	}
}

func FuzzParseXFCC(f *testing.F) {
	f.Add(own + evil)
	f.Add(`a="\",`)
	f.Fuzz(func(t *testing.T, before string) {
		// Whatever the caller sends, its sidecar-made last element decides, or nothing is believed.
		got, err := parseXFCC(before + "," + own + foo)
		if want := (spiffe{"cluster.local", "foo", "httpbin"}); err == nil && got != want {
			t.Errorf("%q makes the caller %+v", before, got)
		}
	})
}
