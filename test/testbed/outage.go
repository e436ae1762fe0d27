package testbed

import (
	"context"
	"fmt"

	"k8s.io/client-go/rest"
)

// KillServer ends the API server at once. etcd keeps what was written; StartServer brings the API server back.
func (c *ControlPlane) KillServer() { c.api.Stop(0) }

// StartServer starts the API server, with the flags that it always has, and returns when it answers.
func (c *ControlPlane) StartServer(ctx context.Context) error {
	var err error
	if c.api, err = c.start("kube-apiserver", c.apiArgs...); err != nil {
		return err
	}
	client, err := rest.HTTPClientFor(c.config)
	if err != nil {
		return fmt.Errorf("making the API server's client: %w", err)
	}
	return c.api.AwaitReady(ctx, func(ctx context.Context) error { return probe(ctx, client, c.server+"/readyz") })
}

// FreezeServer holds the API server: connections stay open and calls to it hang, until ThawServer, when it answers them.
func (c *ControlPlane) FreezeServer() { c.api.Freeze() }

// ThawServer lets the API server go on.
func (c *ControlPlane) ThawServer() { c.api.Thaw() }
