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

// TestServerComesBack has the API server killed and frozen; what was written is there afterwards.
func TestServerComesBack(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	c, err := StartControlPlane(ctx, ControlPlaneOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	k, err := client.New(c.Config(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	kept := &corev1.Namespace{}
	kept.Name = "kept"
	if err := k.Create(ctx, kept); err != nil {
		t.Fatal(err)
	}
	ask := func() error {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		return k.Get(ctx, client.ObjectKeyFromObject(kept), kept)
	}
	for _, tc := range []struct {
		name  string
		leave func()
		back  func() error
	}{
		{"killed", c.KillServer, func() error { return c.StartServer(ctx) }},
		{"frozen", c.FreezeServer, func() error { c.ThawServer(); return nil }},
	} {
		tc.leave()
		if err := ask(); err == nil {
			t.Errorf("%s: it answers", tc.name)
		}
		if err := tc.back(); err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		if err := ask(); err != nil {
			t.Errorf("%s and back: %v", tc.name, err)
		}
	}
}
