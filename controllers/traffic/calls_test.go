package traffic_test

import (
	"math"
	"testing"

	"github.com/servicesecurity/operator/controllers/traffic"
)

func TestMeshedCaller(t *testing.T) {
	for name, tc := range map[string]struct {
		caller                traffic.MeshedCaller
		wantNamespace, wantSA string
		wantIdentity          bool
		wantName              string
	}{
		"by service account":  {traffic.MeshedCaller{Principal: "spiffe://cluster.local/ns/shop/sa/web"}, "shop", "web", true, "shop/web"},
		"with a workload":     {traffic.MeshedCaller{Principal: "spiffe://td/ns/shop/sa/default", Workload: "web-v2"}, "shop", "default", true, "shop/web-v2"},
		"not Istio's":         {traffic.MeshedCaller{Principal: "spiffe://td/workload/web", Workload: "web"}, "", "", false, "spiffe://td/workload/web"},
		"no SPIFFE ID":        {traffic.MeshedCaller{Principal: "cluster.local/ns/shop/sa/web"}, "", "", false, "cluster.local/ns/shop/sa/web"},
		"without a namespace": {traffic.MeshedCaller{Principal: "spiffe://td/ns//sa/web"}, "", "", false, "spiffe://td/ns//sa/web"},
		"without an account":  {traffic.MeshedCaller{Principal: "spiffe://td/ns/shop/sa/"}, "", "", false, "spiffe://td/ns/shop/sa/"},
		"longer":              {traffic.MeshedCaller{Principal: "spiffe://td/ns/shop/sa/web/x"}, "", "", false, "spiffe://td/ns/shop/sa/web/x"},
		"none":                {traffic.MeshedCaller{}, "", "", false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			namespace, account, ok := tc.caller.Identity()
			if namespace != tc.wantNamespace || account != tc.wantSA || ok != tc.wantIdentity || tc.caller.Name() != tc.wantName {
				t.Errorf("got %q, %q, %t and the name %q", namespace, account, ok, tc.caller.Name())
			}
		})
	}
}

func TestServices(t *testing.T) {
	for name, tc := range map[string]struct {
		services           traffic.Services
		wantHas, wantOther bool
		wantEmpty          bool
	}{
		"one":         {traffic.Services{Names: []string{"a.foo.svc.cluster.local"}}, true, false, false},
		"a namespace": {traffic.Services{Suffix: ".foo.svc.cluster.local"}, true, true, false},
		"none":        {traffic.Services{}, false, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			if has, other := tc.services.Has("a.foo.svc.cluster.local"), tc.services.Has("b.foo.svc.cluster.local"); has != tc.wantHas || other != tc.wantOther {
				t.Errorf("it has it: %t, and another: %t", has, other)
			}
			if tc.services.Has("a.bar.svc.cluster.local") || tc.services.Has("") || tc.services.Empty() != tc.wantEmpty {
				t.Errorf("it has what it has not, or empty: %t", tc.services.Empty())
			}
		})
	}
}

func TestCallTally(t *testing.T) {
	for name, tc := range map[string]struct {
		tell                    func(*traffic.CallTally)
		wantArrived, wantFailed int64
	}{
		"nothing":                 {func(*traffic.CallTally) {}, 0, 0},
		"an answer":               {func(c *traffic.CallTally) { c.Requests("-", 3) }, 3, 0},
		"no flags":                {func(c *traffic.CallTally) { c.Requests("", 3) }, 3, 0},
		"flags that nobody knows": {func(c *traffic.CallTally) { c.Requests("XYZ", 3) }, 3, 0},
		"retries used up":         {func(c *traffic.CallTally) { c.Requests("URX", 3) }, 3, 0},
		"a stream that was reset": {func(c *traffic.CallTally) { c.Requests("UR", 3) }, 3, 0},
		"a connection that ended": {func(c *traffic.CallTally) { c.Requests("UC", 3) }, 0, 3},
		"no connection, retried":  {func(c *traffic.CallTally) { c.Requests("URX,UF", 1); c.Requests("UF,URX", 2) }, 0, 3},
		"lost and hung up":        {func(c *traffic.CallTally) { c.Requests("DC,UC", 3) }, 0, 3},
		"no endpoint":             {func(c *traffic.CallTally) { c.Requests("UH", 3) }, 0, 0},
		"a limit":                 {func(c *traffic.CallTally) { c.Requests("UO,URX", 3) }, 0, 0},
		"a timeout":               {func(c *traffic.CallTally) { c.Requests("UT", 3) }, 0, 0},
		"the client hung up":      {func(c *traffic.CallTally) { c.Requests("DC", 3) }, 0, 0},
		"open connections":        {func(c *traffic.CallTally) { c.Opened("-", 3) }, 3, 0},
		"closed ones":             {func(c *traffic.CallTally) { c.Opened("-", 3); c.Closed("-", 3) }, 3, 0},
		"never sent":              {func(c *traffic.CallTally) { c.Opened("UH", 3); c.Closed("UH", 3) }, 0, 0},
		"sent after all":          {func(c *traffic.CallTally) { c.Opened("-", 1); c.Opened("UH,UC", 2); c.Closed("UH,UC", 2) }, 1, 2},
		"reset ones":              {func(c *traffic.CallTally) { c.Opened("-", 3); c.Closed("UR", 2) }, 1, 2},
		"closed and never opened": {func(c *traffic.CallTally) { c.Closed("UF", 2) }, 0, 2},
		"beyond what can be told": {func(c *traffic.CallTally) { c.Requests("UC", math.MaxInt64); c.Requests("UC", 1) }, 0, math.MaxInt64},
		"below zero is no count":  {func(c *traffic.CallTally) { c.Requests("UC", -5); c.Requests("-", -5) }, 0, 0},
		"requests and connections": {func(c *traffic.CallTally) {
			c.Requests("-", 1)
			c.Requests("UC", 2)
			c.Opened("-", 10)
			c.Closed("UC", 4)
		}, 7, 6},
	} {
		t.Run(name, func(t *testing.T) {
			var tally traffic.CallTally
			tc.tell(&tally)
			if got := tally.Calls(); got.Arrived != tc.wantArrived || got.Failed != tc.wantFailed {
				t.Errorf("%d arrived and %d failed, want %d and %d", got.Arrived, got.Failed, tc.wantArrived, tc.wantFailed)
			}
		})
	}
}
