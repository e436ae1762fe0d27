package rollout_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/rollout"
	"github.com/servicesecurity/operator/controllers/traffic"
)

var update = flag.Bool("update", false, "rewrite the transition table in docs/rollout.md")

// state is a column of the transition table.
type state struct {
	title string
	input func() rollout.Input
}

var states = []state{
	{"(new)", func() rollout.Input {
		in := base()
		in.Facts.Policy, in.Held, in.Facts.Rules, in.Previous = facts.Policy{}, facts.Policy{}, nil, rollout.Previous{}
		in.Facts.UnchangedFor, in.Seen.Since = 0, noon
		return in
	}},
	{"Observing", base},
	{"Observing, window full", full},
	{"Blocked by plaintext", func() rollout.Input {
		in := base()
		in.Previous.Stage = v1alpha1.StageBlocked
		in.Seen.LastPlaintext = noon.Add(-20 * time.Second)
		in.Previous.LastPlaintext, in.Previous.CleanSince = in.Seen.LastPlaintext, in.Seen.LastPlaintext
		return in
	}},
	{"AwaitingApproval", func() rollout.Input {
		in := full()
		in.Spec.Approval = v1alpha1.ApprovalManual
		in.Previous.Stage = v1alpha1.StageAwaitingApproval
		in.Previous.Approval.Token = token(in)
		return in
	}},
	{"Verifying", verifying},
	{"Enforced", enforced},
	{"RolledBack", rolledBack},
}

func token(in rollout.Input) string {
	in.Spec.Approval = v1alpha1.ApprovalManual
	if a := rollout.Next(in).Approval; a != nil {
		return a.Token
	}
	return ""
}

func shift(in *rollout.Input, by time.Duration) {
	in.Now = in.Now.Add(by)
	for _, t := range []*time.Time{&in.Seen.Time, &in.Seen.Since, &in.Seen.LastPlaintext} {
		if !t.IsZero() {
			*t = t.Add(by)
		}
	}
	for i := range in.Seen.Proxies {
		in.Seen.Proxies[i].Started = in.Seen.Proxies[i].Started.Add(by)
	}
}

// pass lets time go by under complete observation without plaintext.
func pass(in *rollout.Input, by time.Duration) {
	in.Now = in.Now.Add(by)
	if in.Seen.Completeness == traffic.Complete {
		in.Seen.Time = in.Now
	}
}

func incomplete(in *rollout.Input, how traffic.Completeness) {
	in.Seen = traffic.Observation{Completeness: how, Message: "Proxy httpbin-1 was not read. Allow port 15090.", Time: in.Now}
}

func edited(in *rollout.Input) { in.Spec.Generation++ }

// event is a row of the transition table: what happens, and what follows in each state.
type event struct {
	name string
	do   func(*rollout.Input)
	want [8]string
}

// cell says what a decision means: the stage, and the form if it is not the live one.
func cell(in rollout.Input, d rollout.Decision) string {
	stage := string(d.Stage)
	if stage == "" {
		stage = "none"
	}
	switch {
	case d.Keep && in.Facts.Policy.Exists:
		return stage + " (kept)"
	case d.Form.Empty() && in.Facts.Policy.Exists:
		return stage + " → removed"
	case d.Keep || d.Form.Empty() || d.Form.Equal(in.Facts.Policy.Form) && sameSelector(in):
		return stage
	}
	return stage + " → " + strings.ToUpper(strings.ReplaceAll(d.Form.String(), "Disabled", "Disable"))
}

func sameSelector(in rollout.Input) bool {
	return cmp.Equal(in.Facts.Policy.Selector, in.Facts.Target.Selector)
}

func TestTransitions(t *testing.T) {
	for _, event := range events {
		for i, state := range states {
			t.Run(event.name+"/"+state.title, func(t *testing.T) {
				in := state.input()
				event.do(&in)
				before := clone(in)
				got := rollout.Next(in)
				if diff := cmp.Diff(event.want[i], cell(in, got)); diff != "" {
					t.Errorf("unexpected step (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(before, in); diff != "" {
					t.Errorf("the input was changed (-before +after):\n%s", diff)
				}
			})
		}
	}
}

const (
	doc   = "../../docs/rollout.md"
	begin = "<!-- BEGIN TRANSITIONS: written by go test ./controllers/rollout -run TestDocument -update -->\n"
	end   = "<!-- END TRANSITIONS -->\n"
)

func transitions() string {
	var b strings.Builder
	b.WriteString("| what happens |")
	for _, state := range states {
		fmt.Fprintf(&b, " %s |", state.title)
	}
	b.WriteString("\n|" + strings.Repeat(" --- |", len(states)+1) + "\n")
	for _, event := range events {
		fmt.Fprintf(&b, "| %s |", event.name)
		for _, want := range event.want {
			fmt.Fprintf(&b, " %s |", want)
		}
		b.WriteString("\n")
	}
	return b.String()
}

// TestDocument holds the published table against the one that is tested.
func TestDocument(t *testing.T) {
	text, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(text), begin)
	got, tail, okEnd := strings.Cut(rest, end)
	if !ok || !okEnd {
		t.Fatalf("%s has no markers %q and %q", doc, begin, end)
	}
	if *update {
		if err := os.WriteFile(doc, []byte(head+begin+transitions()+end+tail), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(transitions(), got); diff != "" {
		t.Errorf("%s is not what is tested; run go test ./controllers/rollout -run TestDocument -update (-want +got):\n%s", doc, diff)
	}
}
