package accesslog

import (
	"cmp"
	"time"
)

// Limits bound what proxies can use up. The zero value of each stands for its default. With the defaults, hostile proxies
// together cost at most about 300 MiB while all of them send (a message on its way in each stream, and its decoded form), and
// 30 MiB of that afterwards; well-behaved ones, a few MiB.
type Limits struct {
	// Connections over all peers: 1024. ConnectionsPerAddress bounds those of one, the operator's own sidecar apart: 16.
	Connections, ConnectionsPerAddress int
	// Streams over all peers: 1024. A proxy has one for each of its threads and providers.
	Streams int
	// StreamsPerIdentity bounds those of one service account, or of one address without mutual TLS: 256.
	StreamsPerIdentity int
	// StreamsPerPod bounds those of one pod: 64.
	StreamsPerPod int
	// MessageBytes bounds a message: 128 KiB. Envoy sends after 16 KiB, and one entry has at most some headers more.
	MessageBytes int
	// EntriesPerSecond of one pod, and EntriesBurst at once: 2000 and 10000. Entries beyond them are left out.
	EntriesPerSecond, EntriesBurst int
	// MessagesPerSecond of one pod, and MessagesBurst at once: 100 and 400. Beyond them its streams are read more slowly.
	MessagesPerSecond, MessagesBurst int
	// Callers of one proxy: 256 combinations of address, port, protocol and outcome. The one seen longest ago goes first.
	CallersPerProxy int
	// Callers over all proxies: 65536, of about 400 bytes. What the proxy has that was heard of longest ago goes first.
	Callers int
	// Proxies that are remembered: 8192.
	Proxies int
	// Identify is how long a stream has for its first message: 10 s.
	Identify time.Duration
	// Penalty is how long a stream that is turned away is kept waiting, so that trying again and again costs little: 1 s.
	Penalty time.Duration
	// Idle streams are closed after: 10 min.
	Idle time.Duration
	// Retention is how long a caller is remembered at the least: 24 h. Whoever asks for a longer window makes it longer.
	Retention time.Duration
}

// withDefaults fills in what is not set.
func (l Limits) withDefaults() Limits {
	for _, field := range []struct {
		value    *int
		fallback int
	}{
		{&l.Connections, 1024},
		{&l.ConnectionsPerAddress, 16},
		{&l.Streams, 1024},
		{&l.StreamsPerIdentity, 256},
		{&l.StreamsPerPod, 64},
		{&l.MessageBytes, 128 << 10},
		{&l.EntriesPerSecond, 2000},
		{&l.EntriesBurst, 10000},
		{&l.MessagesPerSecond, 100},
		{&l.MessagesBurst, 400},
		{&l.CallersPerProxy, 256},
		{&l.Callers, 1 << 16},
		{&l.Proxies, 8192},
	} {
		*field.value = cmp.Or(*field.value, field.fallback)
	}
	l.Identify = cmp.Or(l.Identify, 10*time.Second)
	l.Penalty = cmp.Or(l.Penalty, time.Second)
	l.Idle = cmp.Or(l.Idle, 10*time.Minute)
	l.Retention = cmp.Or(l.Retention, 24*time.Hour)
	return l
}
