package testbed

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Versions of the parts, which are also the names of their folders in bin/.
const (
	KubernetesVersion = "v1.36.3"
	IstioVersion      = "1.29.2"
	EnvoyVersion      = "1.40.0"
	PrometheusVersion = "v0.311.3"
)

// MissingError says what a bed needs and does not find, and how to get it.
type MissingError struct {
	// What is missing, one entry each.
	What []string
	// Remedy is what to run.
	Remedy string
}

// Error lists everything that is missing at once, so that one look suffices.
func (e *MissingError) Error() string {
	return fmt.Sprintf("the test bed needs what is not here (%s): %s", strings.Join(e.What, ", "), e.Remedy)
}

// missing collects what is not there.
type missing struct {
	what, remedy []string
}

func (m *missing) add(what, remedy string) {
	m.what = append(m.what, what)
	for _, r := range m.remedy {
		if r == remedy {
			return
		}
	}
	m.remedy = append(m.remedy, remedy)
}

func (m *missing) err() error {
	if len(m.what) == 0 {
		return nil
	}
	return &MissingError{What: m.what, Remedy: strings.Join(m.remedy, "; ")}
}

// binRoot is the folder into which hack/testbed/build.sh builds: TESTBED_BIN, or bin/ of the checkout that the working directory is in.
func binRoot() (string, error) {
	if dir := os.Getenv("TESTBED_BIN"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := checkout()
	if err != nil {
		return "", fmt.Errorf("%w; set TESTBED_BIN to the folder of the test bed's binaries", err)
	}
	return filepath.Join(dir, "bin"), nil
}

// checkout is the one that the working directory is in.
func checkout() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("finding the checkout: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "hack", "testbed", "build.sh")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("finding the checkout: the working directory is in none")
		}
		dir = parent
	}
}

// gatewayAPICRDs is the folder of Gateway API's CRDs, in the version that Istio is built with. Go fetches its module when
// it is not there, which needs the host's network.
func gatewayAPICRDs() (string, error) {
	const pkg = "apis/v1"
	dir, err := checkout()
	if err != nil {
		return "", err
	}
	list := exec.Command("go", "list", "-mod=readonly", "-find", "-f", "{{.Dir}}", "sigs.k8s.io/gateway-api/"+pkg)
	list.Dir = filepath.Join(dir, "hack", "testbed", "istio")
	out, err := list.Output()
	if err != nil {
		return "", fmt.Errorf("finding Gateway API's module: %w", err)
	}
	return filepath.Join(strings.TrimSuffix(strings.TrimSpace(string(out)), pkg), "config", "crd", "standard"), nil
}

// kubernetesBinaries returns where each named binary is: in KUBEBUILDER_ASSETS when that has it, else in bin/.
func kubernetesBinaries(names ...string) (map[string]string, error) {
	root, err := binRoot()
	if err != nil {
		return nil, err
	}
	return locate([]string{os.Getenv("KUBEBUILDER_ASSETS"), filepath.Join(root, "k8s-"+KubernetesVersion)}, "hack/testbed/build.sh control-plane", names)
}

func istioBinaries(names ...string) (map[string]string, error) {
	root, err := binRoot()
	if err != nil {
		return nil, err
	}
	return locate([]string{filepath.Join(root, "istio-"+IstioVersion)}, "hack/testbed/build.sh istiod", names)
}

func envoyBinary() (string, error) {
	root, err := binRoot()
	if err != nil {
		return "", err
	}
	found, err := locate([]string{filepath.Join(root, "envoy-"+EnvoyVersion)}, "hack/testbed/build.sh mesh", []string{"envoy"})
	return found["envoy"], err
}

func prometheusBinary() (string, error) {
	root, err := binRoot()
	if err != nil {
		return "", err
	}
	found, err := locate([]string{filepath.Join(root, "prometheus-"+PrometheusVersion)}, "hack/testbed/build.sh e2e", []string{"prometheus"})
	return found["prometheus"], err
}

func locate(dirs []string, build string, names []string) (map[string]string, error) {
	found := map[string]string{}
	var m missing
	for _, name := range names {
		for _, dir := range dirs {
			path := filepath.Join(dir, name)
			if _, err := os.Stat(path); dir != "" && err == nil && found[name] == "" {
				found[name] = path
			}
		}
		if found[name] == "" {
			m.add(name, "run "+build)
		}
	}
	return found, m.err()
}
