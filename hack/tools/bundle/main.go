// Command bundle takes the output of 'kustomize build config/manifests' on its standard input and writes the OLM bundle
// (registry+v1) that installs the same: the same input makes the same bytes. What it wrote is then held against
// operator-framework's own validators.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
)

func main() {
	version := flag.String("version", "", "version of the bundle, without a v")
	out := flag.String("out", "bundle", "folder to write; its manifests and metadata are replaced")
	flag.Parse()
	if err := run(os.Stdin, *version, *out); err != nil {
		fmt.Fprintln(os.Stderr, "bundle:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, version, out string) error {
	if version == "" {
		return errors.New("-version is missing")
	}
	stream, err := io.ReadAll(in)
	if err != nil {
		return fmt.Errorf("reading the manifests: %w", err)
	}
	objects, err := sort(stream)
	if err != nil {
		return fmt.Errorf("sorting the manifests: %w", err)
	}
	csv, err := objects.clusterServiceVersion(version)
	if err != nil {
		return fmt.Errorf("making the ClusterServiceVersion: %w", err)
	}
	if err := write(out, csv, objects); err != nil {
		return fmt.Errorf("writing the bundle: %w", err)
	}
	return validate(out)
}
