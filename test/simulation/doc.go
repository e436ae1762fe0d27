// Package simulation plays histories of a cluster in which everything is known: every request of every client, what the
// proxies took and counted, and what went wrong. The operator's own observer and decisions see only what they would see of it.
// An oracle holds them to the truth. A history is made of a seed: the same one each time.
//
// truth.go has clients and pods, proxy.go what the proxies answer, source.go how the operator sees it: prometheus.go, scrape.go
// and server.go by a Prometheus, logs.go with access logs beside. operator.go the loop of a reconcile, history.go what may
// happen, oracle.go the judgement and timeline.go the telling. verification.go and the files of that name play the time after a
// switch, when callers' proxies tell whom it cut off. docs/proof.md says what it proves.
package simulation
