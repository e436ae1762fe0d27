// Package sidecar observes a target's traffic in the metrics of its own sidecars: it scrapes port 15090 of each proxy and
// compares the counters with those of the reading before.
//
// The counters of a proxy's process only grow, so a reading that failed is made good by the next one of the same process,
// and what a reading of a pod that is going away says is the last word on it. Everything else that could hide plaintext is
// a gap, and restarts the stretch: a process that restarted, a pod that went away unread, series that vanished, a clock
// that jumped.
//
// It remembers who calls by mutual TLS, too, and around a switch reads what the proxies of these callers have counted of
// their calls.
//
// It also reads what the proxies have counted of authorization in dry run. These counts are taken as they are, and nothing is
// remembered of them.
//
// What it keeps in status, and what the next process of the operator makes of that, is in evidence.go.
//
// The package reads the network in scrape.go, observer.go, dryrun.go and calls.go; the rest is pure.
package sidecar
