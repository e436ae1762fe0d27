package rollout

import (
	"testing"
	"time"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

// TestTokenSurvivesStatus: status rounds the start of the stretch up to the second, which must not make another token.
func TestTokenSurvivesStatus(t *testing.T) {
	whole := time.Date(2026, 1, 1, 12, 0, 2, 0, time.UTC)
	token := func(since time.Time) string {
		d := Decision{CleanSince: since}
		approval(Input{Spec: Spec{Approval: v1alpha1.ApprovalManual, Generation: 1}}, &d)
		return d.Approval.Token
	}
	if before, after := token(whole.Add(-400*time.Millisecond)), token(whole); before != after {
		t.Errorf("the token was %s, and is %s once the stretch has been to status", before, after)
	}
	if token(whole) == token(whole.Add(time.Second)) {
		t.Error("a later stretch has the same token")
	}
}
