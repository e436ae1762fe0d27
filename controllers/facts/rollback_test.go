package facts_test

import (
	"testing"
	"time"

	"github.com/servicesecurity/operator/controllers/facts"
)

func TestRollback(t *testing.T) {
	want := facts.Rollback{Generation: 3, Attempts: 2, Time: time.Date(2026, 1, 2, 12, 0, 0, 5, time.UTC)}
	if got, err := facts.ParseRollback(want.String()); err != nil || got != want {
		t.Errorf("got %s, %v, from %s", got, err, want)
	}
	for _, text := range []string{
		"", "null", "{}", "[]", "3", `"3"`, `{"generation":3,"attempts":2}`, `{"generation":0,"attempts":2,"time":"2026-01-02T12:00:00Z"}`,
		`{"generation":3,"attempts":-1,"time":"2026-01-02T12:00:00Z"}`, `{"generation":3,"attempts":2,"time":"noon"}`,
		`{"generation":3,"attempts":99999999999,"time":"2026-01-02T12:00:00Z"}`, `{"generation":3,"attempts":2,"time":"2026-01-02T12:00:00Z"} ` + "}",
	} {
		if got, err := facts.ParseRollback(text); err == nil || got != (facts.Rollback{}) {
			t.Errorf("%s is read as %s", text, got)
		}
	}
	if text := (facts.Rollback{Time: time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC)}).String(); text != "" {
		t.Errorf("a year that cannot be written is written as %s", text)
	}
}
