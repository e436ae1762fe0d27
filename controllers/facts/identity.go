package facts

// Identity is who a pod is, as far as its callers and callees care.
type Identity struct {
	Namespace, Name, UID string
	// Address is the pod's own IP; empty before it has one, and for a pod on its node's network, which shares the node's.
	Address string
	// ServiceAccount of the pod, in its namespace.
	ServiceAccount string
	// Workload as istiod names it.
	Workload string
}
