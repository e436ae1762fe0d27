// Package rollout decides what a profile's mutual TLS must be now. Next takes the spec, the facts, what was observed, what
// was decided before and the time, and returns a decision. It is pure: the same input gives the same answer.
//
// Two promises hold for every input, and a fuzz test holds them: STRICT is never decided for a port where it is not in
// force yet without complete evidence over the whole observation window (strategy Immediate, a parent that becomes STRICT,
// and the repair of STRICT that this process wrote apart), and what is in force is never weakened unless the spec or a
// failed verification says so. docs/rollout.md has the transition table, which a test holds to the code.
package rollout
