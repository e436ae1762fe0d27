package accesslog

import (
	"cmp"
	"time"
)

// Limits bound what proxies can use up. The zero value of each stands for its default.
type Limits struct {
	// Streams over all peers: 8192. A proxy has one for each of its threads and providers: 4 for two threads.
	Streams int
	// StreamsPerIdentity bounds those of one service account, all of whose pods share it: a quarter of all.
	StreamsPerIdentity int
	// Connections over all peers: as many as streams. ConnectionsPerAddress bounds those of one, the operator's own sidecar
	// apart: 32. A proxy has one for each of its threads.
	Connections, ConnectionsPerAddress int
	// StreamsPerPod bounds those of one pod, and of one address without mutual TLS: 64, of 32 threads.
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
	// Penalty is how long a stream is kept waiting that claims to be of a pod that it is not of, or that is not known, so that
	// trying again and again costs little: 1 s.
	Penalty time.Duration
	// Idle streams are closed after: 2 min. A proxy opens another when it has something to say.
	Idle time.Duration
	// Retention is how long a caller is remembered at the least: 24 h. Whoever asks for a longer window makes it longer.
	Retention time.Duration
}

// DefaultStreams are enough for 2,048 proxies of two threads that log within the same two minutes.
const DefaultStreams = 8192

// perIdentity bounds the streams of a peer. Without mutual TLS that is a pod's address.
func (l Limits) perIdentity(from peer) int {
	if from.identity == (spiffe{}) {
		return l.StreamsPerPod
	}
	return l.StreamsPerIdentity
}

// withDefaults fills in what is not set.
func (l Limits) withDefaults() Limits {
	for _, field := range []struct {
		value    *int
		fallback int
	}{
		{&l.ConnectionsPerAddress, 32},
		{&l.Streams, DefaultStreams},
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
	l.Connections = cmp.Or(l.Connections, l.Streams)
	l.StreamsPerIdentity = cmp.Or(l.StreamsPerIdentity, max(l.Streams/4, l.StreamsPerPod))
	l.Identify = cmp.Or(l.Identify, 10*time.Second)
	l.Penalty = cmp.Or(l.Penalty, time.Second)
	l.Idle = cmp.Or(l.Idle, 2*time.Minute)
	l.Retention = cmp.Or(l.Retention, 24*time.Hour)
	return l
}
