//go:build linux

package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// hostDirs are the folders of the host that a container sees, read-only: programs and the libraries they need. Whatever
// else it writes goes to a file system in memory, so that nothing remains on the host.
var hostDirs = []string{"bin", "sbin", "usr", "lib", "lib32", "lib64", "libx32", "opt", "nix", "gnu"}

// kernelDirs are the kernel's own file systems.
var kernelDirs = []string{"proc", "sys", "dev"}

// isolate puts the calling thread into new mount and UTS namespaces and into the spec's network namespace, with the
// spec's root; it returns where the program is there.
func isolate(spec Spec) (program string, err error) {
	if err := joinNetwork(spec.NetNS); err != nil {
		return "", err
	}
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWUTS); err != nil {
		return "", fmt.Errorf("making namespaces: %w", err)
	}
	if err := unix.Sethostname([]byte(spec.Hostname)); err != nil {
		return "", fmt.Errorf("setting the host name: %w", err)
	}
	// What follows must not be seen outside.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return "", fmt.Errorf("making mounts private: %w", err)
	}
	program = filepath.Join(ImageDir, filepath.Base(spec.Command[0]))
	// Any existing folder will do: the root is mounted over it for this thread alone.
	const root = "/run"
	mounts := append([]Mount{{Source: spec.Command[0], Target: program, ReadOnly: true}}, spec.Mounts...)
	if err := buildRoot(root, mounts); err != nil {
		return "", err
	}
	return program, enterRoot(root)
}

func joinNetwork(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening the network namespace: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("joining the network namespace: %w", err)
	}
	return nil
}

// buildRoot mounts a root file system at root. The mounts' sources are opened first, since root may hide them.
func buildRoot(root string, mounts []Mount) error {
	trees := make([]int, len(mounts))
	for i, m := range mounts {
		fd, err := unix.OpenTree(unix.AT_FDCWD, m.Source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
		if err != nil {
			return fmt.Errorf("opening %s to mount it: %w", m.Source, err)
		}
		defer func() { _ = unix.Close(fd) }()
		trees[i] = fd
	}
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mounting a root: %w", err)
	}
	if err := mountHost(root); err != nil {
		return err
	}
	for i, m := range mounts {
		if err := place(root, trees[i], m); err != nil {
			return fmt.Errorf("mounting %s: %w", m.Target, err)
		}
	}
	return nil
}

func mountHost(root string) error {
	for _, name := range append(hostDirs, kernelDirs...) {
		if err := mountHostDir(root, name); err != nil {
			return fmt.Errorf("showing /%s: %w", name, err)
		}
	}
	for path, mode := range map[string]os.FileMode{"tmp": 0o777 | fs.ModeSticky, "run": 0o755, "var/lib": 0o755, "var/log": 0o755, "var/tmp": 0o777 | fs.ModeSticky, "root": 0o700} {
		dir := filepath.Join(root, path)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("making /%s: %w", path, err)
		}
		if err := os.Chmod(dir, mode); err != nil { // the umask must not narrow it
			return fmt.Errorf("making /%s: %w", path, err)
		}
	}
	if err := os.Symlink("../run", filepath.Join(root, "var/run")); err != nil {
		return fmt.Errorf("linking /var/run: %w", err)
	}
	return mountEtc(root)
}

func mountHostDir(root, name string) error {
	source, target := "/"+name, filepath.Join(root, name)
	info, err := os.Lstat(source)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		link, err := os.Readlink(source)
		if err != nil {
			return err
		}
		return os.Symlink(link, target)
	}
	if err := os.Mkdir(target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	for _, kernel := range kernelDirs {
		if name == kernel {
			return nil
		}
	}
	return readOnly(target)
}

// mountEtc links each entry of the host's /etc, so that single entries can be replaced by the container's own.
func mountEtc(root string) error {
	const hidden = ".etc"
	for _, name := range []string{"etc", hidden} {
		if err := os.Mkdir(filepath.Join(root, name), 0o755); err != nil {
			return err
		}
	}
	target := filepath.Join(root, hidden)
	if err := unix.Mount("/etc", target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("showing /etc: %w", err)
	}
	if err := readOnly(target); err != nil {
		return fmt.Errorf("showing /etc: %w", err)
	}
	entries, err := os.ReadDir(target)
	if err != nil {
		return fmt.Errorf("reading /etc: %w", err)
	}
	for _, e := range entries {
		if err := os.Symlink(filepath.Join("/", hidden, e.Name()), filepath.Join(root, "etc", e.Name())); err != nil {
			return fmt.Errorf("linking /etc/%s: %w", e.Name(), err)
		}
	}
	// Names come from the hosts file alone; nothing asks a name server, and none is there.
	for name, content := range map[string]string{"resolv.conf": "nameserver 127.0.0.1\noptions attempts:1 timeout:1\n", "nsswitch.conf": "hosts: files dns\n"} {
		path := filepath.Join(root, "etc", name)
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("replacing /etc/%s: %w", name, err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil { // every user of the container reads it
			return fmt.Errorf("writing /etc/%s: %w", name, err)
		}
	}
	return nil
}

// place attaches an opened tree at the mount's target, which it makes.
func place(root string, tree int, m Mount) error {
	var stat unix.Stat_t
	if err := unix.Fstat(tree, &stat); err != nil {
		return fmt.Errorf("looking at the source: %w", err)
	}
	target, err := mountPoint(root, m.Target, stat.Mode&unix.S_IFMT == unix.S_IFDIR)
	if err != nil {
		return err
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("attaching it: %w", err)
	}
	if m.ReadOnly {
		return readOnly(target)
	}
	return nil
}

func mountPoint(root, path string, dir bool) (string, error) {
	path = filepath.Clean(path)
	if rest, ok := strings.CutPrefix(path, "/var/run/"); ok {
		path = filepath.Join("/run", rest)
	}
	if rest, ok := strings.CutPrefix(path, "/etc/"); ok {
		top, _, _ := strings.Cut(rest, "/")
		entry := filepath.Join(root, "etc", top)
		if info, err := os.Lstat(entry); err == nil && info.Mode()&fs.ModeSymlink != 0 {
			if err := os.Remove(entry); err != nil {
				return "", fmt.Errorf("replacing /etc/%s: %w", top, err)
			}
		}
	}
	target := filepath.Join(root, path)
	parent := target
	if !dir {
		parent = filepath.Dir(target)
	}
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return "", fmt.Errorf("making its place: %w", err)
	}
	if dir {
		return target, nil
	}
	f, err := os.OpenFile(target, os.O_CREATE, 0o644)
	if err != nil {
		return "", fmt.Errorf("making its place: %w", err)
	}
	return target, f.Close()
}

func readOnly(target string) error {
	if err := unix.MountSetattr(unix.AT_FDCWD, target, unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		return fmt.Errorf("making it read-only: %w", err)
	}
	return nil
}

// enterRoot makes root the root and forgets the old one.
func enterRoot(root string) error {
	if err := unix.Chdir(root); err != nil {
		return fmt.Errorf("entering the root: %w", err)
	}
	// The old root comes to lie over the new one and is taken off again.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("changing the root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leaving the old root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("entering the root: %w", err)
	}
	return nil
}
