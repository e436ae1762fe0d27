//go:build istio

package testbed

import (
	"context"
	"strings"
	"testing"
	"time"
)

// TestIstiod asks a real istiod for its verdict on an object that passes and on one that only Istio itself refuses.
func TestIstiod(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	start := time.Now()
	c, err := StartControlPlane(ctx, ControlPlaneOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	i, err := StartIstiod(ctx, c, IstiodOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(i.Stop)
	t.Logf("ready after %s", time.Since(start))

	tests := map[string]struct {
		key         string
		wantAllowed bool
		wantMessage string
	}{
		"a known key":    {key: "source.ip", wantAllowed: true},
		"an unknown key": {key: "source.nonsense", wantMessage: "unknown attribute"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			objects, err := Objects([]byte(strings.ReplaceAll(denyPolicy, "KEY", tc.key)))
			if err != nil {
				t.Fatal(err)
			}
			got, err := i.Validate(ctx, objects[0])
			if err != nil {
				t.Fatal(err)
			}
			if got.Allowed != tc.wantAllowed || !strings.Contains(got.Message, tc.wantMessage) {
				t.Errorf("got %+v, want allowed %t with %q in the message", got, tc.wantAllowed, tc.wantMessage)
			}
		})
	}
}

const denyPolicy = `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: a, namespace: default}
spec:
  action: DENY
  rules:
  - when:
    - {key: KEY, values: ["10.0.0.1"]}
`
