package testbed

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// TestControlPlane starts two side by side, which is also the proof that they do not share a port or a folder.
func TestControlPlane(t *testing.T) {
	for _, name := range []string{"one", "two"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			start := time.Now()
			c, err := StartControlPlane(ctx, ControlPlaneOptions{ControllerManager: true, Audit: true})
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("ready after %s", time.Since(start))
			t.Cleanup(func() {
				if err := c.Stop(); err != nil {
					t.Error(err)
				}
			})
			k, err := client.New(c.Config(), client.Options{})
			if err != nil {
				t.Fatal(err)
			}
			var sa corev1.ServiceAccount
			for {
				err := k.Get(ctx, client.ObjectKey{Namespace: "default", Name: "default"}, &sa)
				if err == nil {
					break
				}
				if client.IgnoreNotFound(err) != nil || time.Since(start) > time.Minute {
					t.Fatalf("the controller manager made no service account: %v", err)
				}
				time.Sleep(50 * time.Millisecond)
			}
		})
	}
}
