package testbed

// Kubectl is the path of the bed's kubectl.
func Kubectl() (string, error) {
	binaries, err := kubernetesBinaries("kubectl")
	return binaries["kubectl"], err
}
