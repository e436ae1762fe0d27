// Package process takes a command and runs it as a child that cannot outlive this process, with its output in a file.
package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Command is what to run.
type Command struct {
	// Name names the log file.
	Name string
	// Path is the program, Args what follows it.
	Path string
	Args []string
	// Env is added to this process's environment.
	Env []string
	// Dir is the working directory; empty means this process's own.
	Dir string
	// LogDir is where Name.log is written.
	LogDir string
}

// Process is a running child.
type Process struct {
	name string
	log  string
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// Start runs the command. Its life ends with Stop, or with this process.
func Start(command Command) (*Process, error) {
	log := filepath.Join(command.LogDir, command.Name+".log")
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening the log of %s: %w", command.Name, err)
	}
	defer func() { _ = out.Close() }()
	cmd := exec.Command(command.Path, command.Args...)
	cmd.Env = append(os.Environ(), command.Env...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = command.Dir, out, out
	cmd.SysProcAttr = attributes()
	if err := onSpawner(cmd.Start); err != nil {
		return nil, fmt.Errorf("starting %s: %w", command.Name, err)
	}
	p := &Process{name: command.Name, log: log, cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// Pid is the child's process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Log is the path of the file with the child's output.
func (p *Process) Log() string { return p.log }

// Done is closed when the child has exited.
func (p *Process) Done() <-chan struct{} { return p.done }

// Stop asks the child to end, gives it the grace and then ends it. With no grace it is ended at once.
func (p *Process) Stop(grace time.Duration) {
	if grace > 0 {
		p.signal(syscall.SIGTERM)
		select {
		case <-p.done:
		case <-time.After(grace):
		}
	}
	p.signal(syscall.SIGKILL)
	<-p.done
}

// Freeze holds the child, which keeps what it has open, until Thaw.
func (p *Process) Freeze() { p.signal(syscall.SIGSTOP) }

// Thaw lets the child go on.
func (p *Process) Thaw() { p.signal(syscall.SIGCONT) }

func (p *Process) signal(sig syscall.Signal) {
	select {
	case <-p.done: // its pid may already be somebody else's
	default:
		_ = syscall.Kill(-p.cmd.Process.Pid, sig)
	}
}

// AwaitReady polls ready until it succeeds, the child exits or ctx ends; what it returns then tells the end of the child's log.
func (p *Process) AwaitReady(ctx context.Context, ready func(context.Context) error) error {
	const pause = 50 * time.Millisecond
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("waiting for %s: it ended: %w\n%s", p.name, errors.Join(p.err, err), p.Tail(20))
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w\n%s", p.name, errors.Join(ctx.Err(), err), p.Tail(20))
		case <-time.After(pause):
		}
	}
}

// Tail is the last lines of the child's output.
func (p *Process) Tail(lines int) string {
	raw, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(raw), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// onSpawner runs start on a thread that lives as long as this process: the kernel sends the death signal when the
// starting thread dies, and Go's other threads may come and go.
func onSpawner(start func() error) error {
	result := make(chan error)
	spawner() <- func() { result <- start() }
	return <-result
}

var spawner = sync.OnceValue(func() chan<- func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range work {
			f()
		}
	}()
	return work
})
