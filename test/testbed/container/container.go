//go:build linux

// Package container takes a command and runs it as a container would: in mount, PID and UTS namespaces of its own, in a given network namespace, on a
// root made of the host's programs, the container's own volumes and otherwise nothing of the host.
package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// ImageDir is where a container finds the files of its image.
const ImageDir = "/image"

// Mount shows a file or a folder of the host inside the container.
type Mount struct {
	Source, Target string
	ReadOnly       bool
}

// Spec is what to run and what it sees.
type Spec struct {
	// Command is the program, a path on the host, and its arguments.
	Command []string
	// Env is the whole environment.
	Env []string
	// Dir is the working directory.
	Dir string
	// UID and GID are whom it runs as.
	UID, GID uint32
	// NetNS is the path of its network namespace.
	NetNS string
	// Hostname is what it calls itself.
	Hostname string
	// Mounts are its volumes and the files of its image.
	Mounts []Mount
	// Log is the file that its output is appended to.
	Log string
}

// Container is one run of a Spec.
type Container struct {
	netns string
	uid   uint32
	gid   uint32
	env   []string
	cmd   *exec.Cmd
	done  chan struct{}
}

// Start runs the spec and returns once the program was started.
func Start(spec Spec) (*Container, error) {
	log, err := os.OpenFile(spec.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening the container's log: %w", err)
	}
	defer func() { _ = log.Close() }()
	// Envoy opens /dev/stdout anew, as its own user.
	if err := log.Chmod(0o666); err != nil {
		return nil, fmt.Errorf("opening the container's log to its user: %w", err)
	}
	c := &Container{netns: spec.NetNS, uid: spec.UID, gid: spec.GID, env: spec.Env, done: make(chan struct{})}
	err = onThread(func() error {
		program, err := isolate(spec)
		if err != nil {
			return err
		}
		c.cmd = &exec.Cmd{
			Path: program, Args: append([]string{program}, spec.Command[1:]...), Env: spec.Env, Dir: spec.Dir, Stdout: log, Stderr: log,
			SysProcAttr: &syscall.SysProcAttr{
				Cloneflags: syscall.CLONE_NEWPID, Setsid: true,
				Credential: &syscall.Credential{Uid: spec.UID, Gid: spec.GID},
			},
		}
		return c.cmd.Start()
	})
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", spec.Command[0], err)
	}
	go func() {
		_ = c.cmd.Wait() // its outcome is in ProcessState
		close(c.done)
	}()
	return c, nil
}

// Pid is the process id of the container's program.
func (c *Container) Pid() int { return c.cmd.Process.Pid }

// Done is closed when the container's program has exited, and with it everything it started.
func (c *Container) Done() <-chan struct{} { return c.done }

// ExitCode is the program's, or 128 and the signal that ended it; it is to be asked after Done.
func (c *Container) ExitCode() int {
	status, ok := c.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return c.cmd.ProcessState.ExitCode()
}

// Signal sends a signal to the container's program.
func (c *Container) Signal(sig syscall.Signal) {
	_ = c.cmd.Process.Signal(sig) // it may have ended, which is what Done is for
}

// Result is what a command printed and how it ended.
type Result struct {
	Stdout, Stderr []byte
	ExitCode       int
}

// Exec runs a command inside the container's namespaces as the container's user, or as root where asked. A command that
// fails is a Result; an error means that it could not run.
func (c *Container) Exec(ctx context.Context, root bool, command ...string) (Result, error) {
	if len(command) == 0 {
		return Result{}, errors.New("running in a container: no command")
	}
	var stdout, stderr bytes.Buffer
	var cmd *exec.Cmd
	err := onThread(func() error {
		if err := c.join(); err != nil {
			return err
		}
		cmd = exec.CommandContext(ctx, command[0], command[1:]...)
		cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = c.env, "/", &stdout, &stderr
		credential := &syscall.Credential{Uid: c.uid, Gid: c.gid}
		if root {
			credential = &syscall.Credential{}
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: credential}
		return cmd.Start()
	})
	if err != nil {
		return Result{}, fmt.Errorf("running %s in a container: %w", command[0], err)
	}
	err = cmd.Wait()
	result := Result{Stdout: stdout.Bytes(), Stderr: stderr.Bytes(), ExitCode: cmd.ProcessState.ExitCode()}
	var exit *exec.ExitError
	if err != nil && (ctx.Err() != nil || !errors.As(err, &exit)) {
		return result, fmt.Errorf("running %s in a container: %w", command[0], errors.Join(ctx.Err(), err))
	}
	return result, nil
}

// join moves the calling thread into the container's namespaces.
func (c *Container) join() error {
	proc := filepath.Join("/proc", strconv.Itoa(c.Pid()), "ns")
	files := map[string]int{}
	for _, kind := range []string{"net", "uts", "mnt"} {
		fd, err := unix.Open(filepath.Join(proc, kind), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("opening the container's %s namespace: %w", kind, err)
		}
		defer func() { _ = unix.Close(fd) }()
		files[kind] = fd
	}
	// A thread that shares its root with others may not change its mount namespace.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("leaving the shared root: %w", err)
	}
	for _, kind := range []string{"net", "uts", "mnt"} {
		if err := unix.Setns(files[kind], 0); err != nil {
			return fmt.Errorf("joining the container's %s namespace: %w", kind, err)
		}
	}
	return nil
}

// onThread runs f on a thread of its own, which ends with f: no other goroutine ever runs in the namespaces that f enters.
func onThread(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked
		result <- f()
	}()
	return <-result
}
