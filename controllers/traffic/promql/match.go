package promql

import "strings"

// maxGenerated is how much of a controller's name is certainly left in its pods' names, which are cut to 63 characters.
const maxGenerated = 46

// maxPodName is the length of a name that may have been cut.
const maxPodName = 63

// belongs says whether a pod that is known by its name alone may be one of a workload's: its series does not say whose it
// was. Controllers name pods after themselves, with a hash, a number, or both behind it. Yes may be wrong, no is not where a
// workload is called as its controller is: see stem.
func belongs(pod, workload object) bool {
	if pod.namespace != workload.namespace {
		return false
	}
	if pod.name == workload.name {
		return true
	}
	if len(workload.name) > maxGenerated {
		return strings.HasPrefix(pod.name, workload.name[:maxGenerated])
	}
	rest, ok := strings.CutPrefix(pod.name, workload.name+"-")
	if !ok {
		return false
	}
	parts := strings.Split(rest, "-")
	return len(parts) <= 2 || len(parts) == 3 && digits(parts[0])
}

// stem stands for the workload of a pod that is not called after it, because a label says its name: what the controller's other
// pods have before theirs, too.
func stem(pod object) object {
	if len(pod.name) >= maxPodName {
		return object{pod.namespace, pod.name[:maxGenerated+1]}
	}
	parts := strings.Split(pod.name, "-")
	keep := max(1, len(parts)-2)
	if keep > 1 && digits(parts[keep-1]) {
		keep--
	}
	return object{pod.namespace, strings.Join(parts[:keep], "-")}
}

func digits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }
