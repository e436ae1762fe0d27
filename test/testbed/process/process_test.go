package process

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestStopWithoutGraceEndsAtOnce(t *testing.T) {
	p := start(t, "trap '' TERM; while :; do sleep 1; done")
	p.Stop(0)
	select {
	case <-p.Done():
	default:
		t.Error("it still runs")
	}
}

func TestFreezeHoldsUntilThaw(t *testing.T) {
	p := start(t, "while :; do echo tick; sleep 0.01; done")
	moves := func() bool {
		before := p.Tail(1 << 20)
		time.Sleep(200 * time.Millisecond)
		return p.Tail(1<<20) != before
	}
	for _, tc := range []struct {
		name string
		do   func()
		want bool
	}{
		{"started", func() {}, true},
		{"frozen", p.Freeze, false},
		{"thawed", p.Thaw, true},
	} {
		tc.do()
		time.Sleep(100 * time.Millisecond) // what was under way is written
		if got := moves(); got != tc.want {
			t.Errorf("%s: moves: %t, want %t", tc.name, got, tc.want)
		}
	}
}

func TestAwaitReadyTellsWhyTheProcessEnded(t *testing.T) {
	p := start(t, "echo because of this; exit 3")
	err := p.AwaitReady(context.Background(), func(context.Context) error { return errors.New("not yet") })
	if err == nil || !strings.Contains(err.Error(), "because of this") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("got %v, want the exit status and the end of the log", err)
	}
}

func TestAwaitReadyEndsWithItsContext(t *testing.T) {
	p := start(t, "exec sleep 60")
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if err := p.AwaitReady(ctx, func(context.Context) error { return errors.New("not yet") }); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the deadline", err)
	}
}

func start(t *testing.T, script string) *Process {
	t.Helper()
	p, err := Start(Command{Name: "sh", Path: "/bin/sh", Args: []string{"-c", script}, LogDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Stop(0) })
	return p
}
