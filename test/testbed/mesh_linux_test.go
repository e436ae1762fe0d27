package testbed

import (
	"errors"
	"path"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func TestBootstrapFiltersTheStatisticsListener(t *testing.T) {
	const template = `{"http_filters": [{"name": "envoy.filters.http.router"}]} {"prefix": "/stats/prometheus", "http_filters": [{"name": "gzip"}, {"name": "envoy.filters.http.router"}]}`
	got, err := bootstrap(template)
	if err != nil {
		t.Fatal(err)
	}
	lua, gzip := strings.Index(got, "envoy.filters.http.lua"), strings.Index(got, "gzip")
	if lua < gzip || lua > strings.LastIndex(got, "envoy.filters.http.router") || strings.Count(got, "envoy.filters.http.lua") != 1 {
		t.Errorf("the filter is not between the compressor and the router: %s", got)
	}
	if _, err := bootstrap(`{"http_filters": []}`); err == nil {
		t.Error("a bootstrap without the listener passed")
	}
}

func TestProxyConfigKeepsWhatTheBedNeeds(t *testing.T) {
	got := meshConfig(proxyConfig(MeshOptions{
		ConnectionStats: true,
		MeshConfig:      map[string]any{"accessLogFile": "/dev/stdout", "defaultConfig": map[string]any{"concurrency": 2}},
	}))
	defaults, ok := got["defaultConfig"].(map[string]any)
	if !ok {
		t.Fatalf("there is no defaultConfig in %v", got)
	}
	if defaults["binaryPath"] != envoyPath || defaults["concurrency"] != 2 || defaults["discoveryAddress"] == nil || defaults["proxyStatsMatcher"] == nil {
		t.Errorf("got %v", defaults)
	}
	if got["accessLogFile"] != "/dev/stdout" || got["rootNamespace"] != istioNamespace {
		t.Errorf("got %v", got)
	}
}

func TestManifestsAreInTheirNamespace(t *testing.T) {
	client, err := LoadClient("ns", "load", "--rate=1")
	if err != nil {
		t.Fatal(err)
	}
	for name, manifest := range map[string]string{"httpbin": Httpbin("ns"), "sleep": Sleep("ns"), "tcp-echo": TCPEcho("ns"), "load": client} {
		objects, err := Objects([]byte(manifest))
		if err != nil {
			t.Fatal(err)
		}
		if len(objects) < 2 {
			t.Errorf("%s has %d objects", name, len(objects))
		}
		for _, o := range objects {
			if o.GetNamespace() != "ns" || o.GetName() != name {
				t.Errorf("%s: %s %s/%s", name, o.GetKind(), o.GetNamespace(), o.GetName())
			}
		}
	}
}

func TestDemosHaveTheirImages(t *testing.T) {
	for name, manifest := range map[string]string{"Bookinfo": Bookinfo("ns"), "the shop": OnlineShop("ns"), "the fruits": FruitsAPI("ns")} {
		objects, err := Objects([]byte(manifest))
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range objects {
			if o.GetNamespace() != "ns" {
				t.Errorf("%s: %s %s/%s", name, o.GetKind(), o.GetNamespace(), o.GetName())
			}
			containers, _, err := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "containers")
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range containers {
				image, _, _ := strings.Cut(path.Base(c.(map[string]any)["image"].(string)), ":")
				if demoImages[image] == nil {
					t.Errorf("%s: there is no image %s", name, image)
				}
			}
		}
	}
}

func TestMissingErrorListsEverythingOnce(t *testing.T) {
	var m missing
	if m.err() != nil {
		t.Error("nothing is missing, and that is an error")
	}
	m.add("ip", "install them")
	m.add("iptables", "install them")
	m.add("root", "be root")
	var got *MissingError
	if !errors.As(m.err(), &got) {
		t.Fatalf("got %v", m.err())
	}
	want := &MissingError{What: []string{"ip", "iptables", "root"}, Remedy: "install them; be root"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
