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
