package rollout

import (
	"fmt"
	"testing"
	"time"

	"github.com/servicesecurity/operator/controllers/traffic"
)

// A caller whose pods change all the time does not fill the memory.
func TestCallHistoryIsBounded(t *testing.T) {
	var h CallHistory
	at := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	for i := range 1000 {
		var pods []traffic.PodCalls
		for j := range traffic.MaxCallerProxies {
			pods = append(pods, traffic.PodCalls{UID: fmt.Sprint(i, "-", j), Arrived: 1})
		}
		h.Note(traffic.Calls{Callers: []traffic.CallerCalls{{Name: "shop/web", Pods: pods}}}, at)
		if got := len(h.callers["shop/web"].pods); got > maxHistories+traffic.MaxCallerProxies {
			t.Fatalf("%d pods are remembered", got)
		}
	}
}
