//go:build !linux

package testbed

import (
	"fmt"
	"os"
)

// Enter says that a mesh needs Linux.
func Enter() error {
	return &MissingError{What: []string{"Linux"}, Remedy: "run it on Linux, as root"}
}

// Main fails the tests of a mesh, which needs Linux.
func Main(interface{ Run() int }) {
	fmt.Fprintln(os.Stderr, Enter())
	os.Exit(1)
}
