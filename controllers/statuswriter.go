package controllers

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/status"
)

// statusInterval is how often a status is written in which only counts and times moved.
const statusInterval = time.Minute

// writeStatus writes the status by server-side apply, if it says something new, and announces what changed.
func (p *run) writeStatus(ctx context.Context, computed v1alpha1.ServiceSecurityProfileStatus) error {
	before := p.profile.Status
	if status.Equal(before, computed) {
		p.tell(before, computed)
		return nil
	}
	if !p.urgent(before, computed) && p.out.Now.Sub(p.known.statusWritten).Abs() < statusInterval {
		p.tell(before, computed)
		return nil
	}
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&computed)
	if err != nil {
		return fmt.Errorf("converting the status: %w", err)
	}
	object := &unstructured.Unstructured{Object: map[string]any{"status": fields}}
	object.SetGroupVersionKind(v1alpha1.SchemeGroupVersion.WithKind(v1alpha1.Kind))
	object.SetNamespace(p.profile.Namespace)
	object.SetName(p.profile.Name)
	// The UID keeps the status of a deleted profile from being given to one of the same name.
	object.SetUID(p.profile.UID)
	err = p.Client.Status().Apply(ctx, client.ApplyConfigurationFromUnstructured(object), FieldOwner, client.ForceOwnership)
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		if p.known.untold == nil {
			p.known.untold = before.DeepCopy()
		}
		return fmt.Errorf("writing the status: %w", err)
	}
	p.known.written(object.GetResourceVersion(), computed, p.out.Now)
	p.tell(before, computed)
	return nil
}

// urgent says whether a status must be written at once. A stretch that restarts is among that: after a restart of the
// operator, the longer one that status still has must not be taken for true.
func (p *run) urgent(before, computed v1alpha1.ServiceSecurityProfileStatus) bool {
	return p.out.Seen.Gap != "" || status.Significant(before, computed) || status.Overstates(before, computed, statusInterval)
}

// tell announces what changed since it was last announced.
func (p *run) tell(before, now v1alpha1.ServiceSecurityProfileStatus) {
	if p.known.untold != nil {
		before, p.known.untold = *p.known.untold, nil
	}
	p.announce(before, now)
}
