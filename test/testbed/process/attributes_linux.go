package process

import "syscall"

// attributes has the kernel kill the child when this process dies. A group of its own keeps the terminal's Ctrl-C away
// from it: whoever started the bed decides the order in which it stops.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
