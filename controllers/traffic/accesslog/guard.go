package accesslog

import (
	"net"
	"net/netip"
	"sync"
)

// quota counts what is in use, altogether and by key.
type quota struct {
	mu    sync.Mutex
	total int
	by    map[string]int
}

// acquire takes one of a key if neither the key nor all together are at their bounds; no bound is zero or less.
func (q *quota) acquire(key string, most, all int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if all > 0 && q.total >= all || most > 0 && q.by[key] >= most {
		return false
	}
	if q.by == nil {
		q.by = map[string]int{}
	}
	q.total++
	q.by[key]++
	return true
}

func (q *quota) release(key string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.total--
	if q.by[key]--; q.by[key] <= 0 {
		delete(q.by, key)
	}
}

// inUse is how many there are altogether.
func (q *quota) inUse() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.total
}

// boundedListener closes connections beyond the bounds at once, so that one peer cannot keep all others out.
type boundedListener struct {
	net.Listener
	limits Limits
	open   quota
	// over is told of each, and whether that is because of all others together.
	over func(address netip.Addr, all bool)
}

// Accept implements net.Listener.
func (l *boundedListener) Accept() (net.Conn, error) {
	for {
		connection, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		address, _ := remote(connection.RemoteAddr())
		most := l.limits.ConnectionsPerAddress
		if bySidecar(address) {
			most = 0
		}
		key := address.String()
		if l.open.acquire(key, most, l.limits.Connections) {
			return &countedConnection{Conn: connection, closed: sync.OnceFunc(func() { l.open.release(key) })}, nil
		}
		_ = connection.Close() // there is nobody to tell
		l.over(address, l.open.inUse() >= l.limits.Connections)
	}
}

// countedConnection gives back its place when it is closed.
type countedConnection struct {
	net.Conn
	closed func()
}

// Close implements net.Conn.
func (c *countedConnection) Close() error {
	c.closed()
	return c.Conn.Close()
}

// remote is the IP of the other end.
func remote(address net.Addr) (netip.Addr, bool) {
	tcp, ok := address.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}, false
	}
	return tcp.AddrPort().Addr().Unmap().WithZone(""), true
}
