// Package testbed takes options and returns a running cluster made of processes: a control plane, an istiod on top of it, or a whole mesh whose pods
// are processes in network namespaces of their own; it leaves nothing behind when it, or the process that started it, ends.
package testbed
