//go:build istio

package istio_test

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/test/builder"
)

var compiledProfiles = flag.Uint64("compiled", 300, "how many random profiles are written and compiled")

const keySet = `{"keys":[{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}`

// keyServer has a key set at every address, and says so to who discovers it.
func keyServer(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Path[max(0, len(r.URL.Path)-len("openid-configuration")):] == "openid-configuration" {
			_, _ = fmt.Fprintf(w, `{"jwks_uri": "http://%s/keys"}`, r.Host)
			return
		}
		_, _ = fmt.Fprint(w, keySet)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// TestRandomListeners: the proxies of a random profile's target get every rule that the profile's objects have, and nothing
// that Envoy's API forbids.
func TestRandomListeners(t *testing.T) {
	ctx := testContext(t)
	keys := builder.Options{KeysAt: keyServer(t)}
	started := time.Now()
	var mu sync.Mutex
	all := map[uint64][]*listenerv3.Listener{}
	one := func(number uint64, mesh bool) error {
		c := builder.Make(*seed, number, keys)
		if (c.Profile.Spec.Target.Kind == v1alpha1.TargetMesh) != mesh {
			return nil
		}
		got, err := compile(ctx, c)
		mu.Lock()
		defer mu.Unlock()
		all[number] = got.listeners
		return err
	}
	each(t, *compiledProfiles, keys, asking, func(number uint64) error { return one(number, false) })
	// What is for the mesh is for every target, so one profile for it must go before the next comes.
	each(t, *compiledProfiles, keys, 1, func(number uint64) error { return one(number, true) })
	everyLoadable(ctx, t, all)
	t.Logf("%d profiles in %s", *compiledProfiles, time.Since(started).Round(time.Second))
}

// everyLoadable asks Envoy about all of them, and if it does not take them, about each.
func everyLoadable(ctx context.Context, t *testing.T, all map[uint64][]*listenerv3.Listener) {
	t.Helper()
	var together []*listenerv3.Listener
	for _, listeners := range all {
		together = append(together, listeners...)
	}
	if loadable(ctx, t, together) == nil {
		return
	}
	wrong := 0
	for number, listeners := range all {
		err := loadable(ctx, t, listeners)
		if err == nil {
			continue
		}
		t.Errorf("-seed %d -only %d: %v", *seed, number, err)
		if wrong++; wrong == enough {
			return
		}
	}
	if wrong == 0 {
		t.Error("Envoy takes each target's listeners, but not all together")
	}
}

// TestSampleListeners: the same for each sample.
func TestSampleListeners(t *testing.T) {
	ctx := testContext(t)
	server := keyServer(t)
	for name, profile := range samples(t) {
		t.Run(name, func(t *testing.T) {
			if profile.Spec.JWT != nil {
				for i := range profile.Spec.JWT.Issuers {
					if issuer := &profile.Spec.JWT.Issuers[i]; issuer.JWKSURI != "" {
						issuer.JWKSURI = v1alpha1.URL(server)
					}
				}
			}
			if _, err := compile(ctx, told(profile, true)); err != nil {
				t.Error(err)
			}
		})
	}
}
