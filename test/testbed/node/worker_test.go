//go:build linux

package node

import (
	"log/slog"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"
)

// A pod whose deletion is news, before the node ever ran it or after it ended here, goes without being started.
func TestDeletedPodIsNotStarted(t *testing.T) {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: "cart", UID: "1", DeletionTimestamp: ptr.To(metav1.Now()), DeletionGracePeriodSeconds: ptr.To[int64](30),
		},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "app"}}},
	}
	client := fake.NewClientset(pod)
	a := &Agent{
		options: Options{
			Dir: t.TempDir(), LogDir: t.TempDir(), Log: slog.New(slog.DiscardHandler),
			PodAddress: func(int) string { t.Error("the pod got a network"); return "" },
		},
		client: client, workers: map[types.UID]*worker{},
	}
	// The second finds no object.
	for _, when := range []string{"before it ran", "after it ended"} {
		a.sync(t.Context(), pod)
		ended := make(chan struct{})
		go func() { a.group.Wait(); close(ended) }()
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			t.Fatalf("a pod deleted %s is still held", when)
		}
		if len(a.workers) > 0 {
			t.Errorf("a pod deleted %s is still known", when)
		}
		if _, err := client.CoreV1().Pods("shop").Get(t.Context(), "cart", metav1.GetOptions{}); err == nil {
			t.Errorf("the object of a pod deleted %s is still there", when)
		}
	}
}
