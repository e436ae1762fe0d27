package traffic_test

import (
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
