// Package faults takes the operator's own Reconciler through whole rollouts on a cluster in memory in which every call to the
// API server is numbered, and may be made to fail, to be made without an answer, to be answered by a cache that lags, or to be
// the last one before the operator is killed. An oracle judges every write, and the end must be that of the undisturbed run.
//
// store.go is the API server, client.go the operator's clients with the faults, cluster.go the proxies and the operator,
// script.go the rollouts, oracle.go the judgement and run.go the loop. docs/proof.md says what it proves.
package faults
