// Package accesslog serves Envoy's access log service: proxies stream to it what arrives without mutual TLS, and it knows,
// for each of them, who that was, on which port, and whether STRICT refused it.
//
// A proxy is not trusted. A stream says in its first message which pod it is, and is believed only as far as its connection
// shows that: by mutual TLS under the pod's service account, or, weaker, by coming from the pod's address. What it logs
// then concerns its own pod alone, and everything that it can use up is bounded: streams, messages, entries, callers. What
// was left out to keep a bound is said.
//
// server.go and guard.go talk to the network; identity.go, entry.go and store.go are pure but for the store's lock.
package accesslog
