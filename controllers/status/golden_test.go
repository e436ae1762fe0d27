package status_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestStories holds what comes of every story, objects, status and conditions.
func TestStories(t *testing.T) {
	for _, name := range stories(t) {
		t.Run(name, func(t *testing.T) {
			var documents []string
			var before *outcome
			for _, o := range tell(t, name) {
				documents = append(documents, o.yaml(t, before))
				before = &o
				t.Logf("%s\n%s", o.step, describe(t, o))
			}
			golden(t, filepath.Join("testdata", name, "out.yaml"), strings.Join(documents, "---\n"))
		})
	}
}

// golden compares a text with a file, or writes it.
func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got), -update writes it:\n%s", path, diff)
	}
}
