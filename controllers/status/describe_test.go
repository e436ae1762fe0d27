package status_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode"
)

// TestDescribe keeps what a person reads at the stages of a rollout. go test -run TestStories -v prints all others.
func TestDescribe(t *testing.T) {
	for _, name := range []string{"e1-legacy-caller", "e2-caller-moves-in"} {
		t.Run(name, func(t *testing.T) {
			var b strings.Builder
			for _, o := range tell(t, name) {
				fmt.Fprintf(&b, "=== %s\n%s\n", o.step, describe(t, o))
			}
			golden(t, filepath.Join("testdata", name, "describe.txt"), b.String())
		})
	}
}

// describe prints a profile's status as kubectl describe does: field names spread into words, in the alphabet's order.
func describe(t testing.TB, o outcome) string {
	t.Helper()
	status := o.status.DeepCopy()
	if status.MTLS != nil {
		status.MTLS.Evidence = nil
	}
	text, err := json.Marshal(status)
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(text, &fields); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "Name:       %s\nNamespace:  %s\nStatus:\n", o.input.Profile.Name, o.input.Profile.Namespace)
	describeFields(&b, fields, "  ")
	return b.String()
}

func describeFields(b *strings.Builder, fields map[string]any, indent string) {
	width := 0
	for key, value := range fields {
		if !nested(value) {
			width = max(width, len(words(key)))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		switch value := fields[key].(type) {
		case map[string]any:
			fmt.Fprintf(b, "%s%s:\n", indent, words(key))
			describeFields(b, value, indent+"  ")
		case []any:
			fmt.Fprintf(b, "%s%s:\n", indent, words(key))
			for _, item := range value {
				describeFields(b, item.(map[string]any), indent+"  ")
			}
		default:
			fmt.Fprintf(b, "%s%-*s  %v\n", indent, width+1, words(key)+":", value)
		}
	}
}

func nested(value any) bool {
	switch value.(type) {
	case map[string]any, []any:
		return true
	}
	return false
}

// words spreads a field's name: eligibleTime is Eligible Time.
func words(key string) string {
	var b strings.Builder
	for i, r := range key {
		switch {
		case i == 0:
			r = unicode.ToUpper(r)
		case unicode.IsUpper(r) && !unicode.IsUpper(rune(key[i-1])):
			b.WriteByte(' ')
		}
		b.WriteRune(r)
	}
	return b.String()
}
