package testbed

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"github.com/servicesecurity/operator/test/testbed/pki"
)

// hostListenerFD is the first file that a child inherits beside its standard ones. A socket stays in the network
// namespace that it was made in: this one is made on the host's loopback before Enter leaves it, and so lets the host
// reach into a bed that it otherwise cannot reach.
const hostListenerFD = 3

func listenOnHost() (*os.File, error) {
	listener, err := net.Listen("tcp", net.JoinHostPort(loopback, "0"))
	if err != nil {
		return nil, fmt.Errorf("listening on the host's loopback: %w", err)
	}
	defer func() { _ = listener.Close() }()
	file, err := listener.(*net.TCPListener).File()
	if err != nil {
		return nil, fmt.Errorf("listening on the host's loopback: %w", err)
	}
	return file, nil
}

// Expose makes the mesh's API server reachable from the host, on a port of its loopback, and writes a superuser's
// kubeconfig for it. It lasts as long as the program, and works once.
func (m *Mesh) Expose(kubeconfig string) error {
	file := os.NewFile(hostListenerFD, "host listener")
	defer func() { _ = file.Close() }()
	listener, err := net.FileListener(file)
	if err != nil {
		return fmt.Errorf("taking over the host's listener: %w", err)
	}
	pair, err := m.controlPlane.authority.Issue(pki.Subject{Name: "admin", Groups: []string{superusers}})
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	if err := m.controlPlane.writeKubeconfig(kubeconfig, "https://"+listener.Addr().String(), pair); err != nil {
		return errors.Join(err, listener.Close())
	}
	go relay(listener, net.JoinHostPort(nodeAddress, fmt.Sprint(apiPort)))
	return nil
}

// relay joins each connection to one of its own to the target.
func relay(listener net.Listener, target string) {
	for {
		outer, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = outer.Close() }()
			inner, err := net.Dial("tcp", target)
			if err != nil {
				return
			}
			defer func() { _ = inner.Close() }()
			var both sync.WaitGroup
			both.Go(func() { pipe(inner, outer) })
			both.Go(func() { pipe(outer, inner) })
			both.Wait()
		}()
	}
}

// pipe copies until the end and then ends the other side too.
func pipe(to, from net.Conn) {
	_, _ = io.Copy(to, from)           // either side may go at any time
	_ = to.(*net.TCPConn).CloseWrite() // both are TCP
}
