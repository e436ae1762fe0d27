package testbed

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/servicesecurity/operator/test/testbed/netns"
	"github.com/servicesecurity/operator/test/testbed/testapp"
)

const (
	roleVariable = "TESTBED_ROLE"
	roleInit     = "init"
	roleInside   = "inside"
	// appArgument makes this program one of the test images.
	appArgument = "testbed-app"
	aptRemedy   = "run apt-get install iptables iproute2 curl"
)

// Enter puts the rest of this program into network, mount, PID and UTS namespaces of its own, and has to be the first
// thing it does: it starts the program again inside them, stays behind to pass on signals, and exits with its exit code.
// It returns inside, or with a MissingError. Whatever happens in there ends with the program, however that ends, also
// when the one that stayed behind is killed.
func Enter() error {
	if len(os.Args) > 1 && os.Args[1] == appArgument {
		os.Exit(testapp.Main(os.Args[2:]))
	}
	switch os.Getenv(roleVariable) {
	case roleInit:
		os.Exit(exitCode(runInit()))
	case roleInside:
		unix.CloseOnExec(hostListenerFD)
		return os.Unsetenv(roleVariable)
	}
	if err := Prerequisites(); err != nil {
		return err
	}
	os.Exit(exitCode(reenter()))
	return nil
}

// Main is TestMain for tests of a mesh: it enters the namespaces and runs the tests there. Missing prerequisites fail them.
func Main(m interface{ Run() int }) {
	if err := Enter(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// Prerequisites tells everything that a mesh needs and this machine lacks, as a MissingError.
func Prerequisites() error {
	var m missing
	if os.Geteuid() != 0 {
		m.add("root", "run it as root")
	}
	for _, tool := range []string{"iptables", "ip", "curl"} {
		if _, err := exec.LookPath(tool); err != nil {
			m.add(tool, aptRemedy)
		}
	}
	for _, find := range []func() error{
		func() error {
			_, err := kubernetesBinaries("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubectl")
			return err
		},
		func() error { _, err := meshFiles(); return err },
		func() error { _, err := envoyBinary(); return err },
		func() error { _, err := gatewayAPICRDs(); return err },
	} {
		err := find()
		var binaries *MissingError
		if errors.As(err, &binaries) {
			for _, what := range binaries.What {
				m.add(what, "run hack/testbed/build.sh mesh")
			}
		} else if err != nil {
			return err
		}
	}
	return m.err()
}

func meshFiles() (map[string]string, error) {
	return istioBinaries("pilot-discovery", "pilot-agent", "crds.yaml", "manifests.yaml", "envoy_bootstrap.json")
}

// ended is a program's end as an error, so that its exit code can be passed on.
type ended int

// Error names the exit code.
func (e ended) Error() string { return fmt.Sprintf("it ended with exit code %d", int(e)) }

func exitCode(err error) int {
	var code ended
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// reenter starts this program as the first process of new namespaces and waits for its end.
func reenter() error {
	// The death signal comes when the thread that started the child dies, so this one may not.
	runtime.LockOSThread()
	cmd, err := self(roleInit)
	if err != nil {
		return err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS,
		Pdeathsig:  syscall.SIGKILL,
		// A terminal's Ctrl-C comes to this process alone, which passes it on once.
		Setpgid: true,
	}
	listener, err := listenOnHost()
	if err != nil {
		return err
	}
	defer func() { _ = listener.Close() }()
	cmd.ExtraFiles = []*os.File{listener}
	signals := catch()
	if err := cmd.Start(); err != nil {
		if errors.Is(err, syscall.EPERM) {
			return &MissingError{What: []string{"the right to make namespaces (CAP_SYS_ADMIN)"}, Remedy: "run it as root outside a container, or in a privileged one"}
		}
		return fmt.Errorf("starting in new namespaces: %w", err)
	}
	go forward(signals, cmd.Process.Pid)
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return endOf(exit.Sys().(syscall.WaitStatus)) // it is one on Linux
	}
	return err
}

func self(role string) (*exec.Cmd, error) {
	path, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	cmd := exec.Command(path, os.Args[1:]...) // it is this program
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd, nil
}

func catch() <-chan os.Signal {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGHUP)
	return signals
}

func forward(signals <-chan os.Signal, pid int) {
	for s := range signals {
		_ = syscall.Kill(pid, s.(syscall.Signal)) // it is one on Linux; the process may be gone
	}
}

func endOf(status syscall.WaitStatus) error {
	switch {
	case status.Signaled():
		return ended(128 + int(status.Signal()))
	case status.ExitStatus() != 0:
		return ended(status.ExitStatus())
	}
	return nil
}

// runInit is the first process of the namespaces: it sets them up, runs the program and buries what that leaves orphaned.
func runInit() error {
	if err := setUp(); err != nil {
		return err
	}
	cmd, err := self(roleInside)
	if err != nil {
		return err
	}
	listener := os.NewFile(hostListenerFD, "host listener")
	defer func() { _ = listener.Close() }()
	cmd.ExtraFiles = []*os.File{listener}
	signals := catch()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting inside: %w", err)
	}
	go forward(signals, cmd.Process.Pid)
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return fmt.Errorf("waiting for the program: %w", err)
		case pid == cmd.Process.Pid:
			return endOf(status) // and with the first process everything else in the namespace ends
		}
	}
}

func setUp() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mounting /proc: %w", err)
	}
	// The bed's data, its sockets and the names of its network namespaces live in memory and go with the mount namespace.
	if err := unix.Mount("tmpfs", runDir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mounting %s: %w", runDir, err)
	}
	if err := os.Mkdir("/run/netns", 0o755); err != nil {
		return fmt.Errorf("making a place for network namespaces: %w", err)
	}
	ctx, cancel := startContext()
	defer cancel()
	if err := netns.Batch(ctx, "link set lo up"); err != nil {
		return err
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o600); err != nil {
		return fmt.Errorf("switching forwarding on: %w", err)
	}
	return nil
}
