//go:build unix && !linux

package process

import "syscall"

// attributes gives the child a group of its own, which keeps the terminal's Ctrl-C away from it. Only Linux can also
// promise that the child dies with this process.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
