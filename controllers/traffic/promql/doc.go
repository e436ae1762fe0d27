// Package promql observes targets' traffic in the history that a Prometheus-compatible server keeps of their proxies.
//
// One poll asks a constant number of queries for all profiles together, and only while a profile asks. The first poll reads
// the longest window that is asked for; later ones read what is new, with an overlap. What is kept of it are last times:
// when a workload last had plaintext, when a proxy was last not read. One such time answers windows of any length.
//
// Counters only grow while a process lives, so what a proxy counted before a scrape that failed is in the next one. What is
// lost is what a process counted after its last scrape: a proxy that restarted or went away is a gap, unless its last word
// was heard by a direct reading. A time is never taken for earlier than it was, on the server's clock or on the operator's.
//
// Around a switch one more query asks what the callers' proxies have counted of their calls, for all profiles together.
//
// client.go, poller.go and calls.go talk to the server; query.go, history.go, match.go and conclude.go are pure.
package promql
