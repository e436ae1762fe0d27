package facts_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

const (
	s = v1alpha1.ModeStrict
	p = v1alpha1.ModePermissive
	d = v1alpha1.ModeDisabled
)

type ports = map[int32]v1alpha1.Mode

func TestForm(t *testing.T) {
	tests := map[string]struct {
		form      facts.Form
		wantText  string
		wantAt80  v1alpha1.Mode
		wantEmpty bool
	}{
		"nothing":        {facts.Form{}, "", "", true},
		"a mode":         {facts.Form{Mode: s}, "Strict", s, false},
		"an exception":   {facts.Form{Mode: s, Ports: ports{80: p}}, "Strict,80=Permissive", p, false},
		"another port":   {facts.Form{Mode: p, Ports: ports{81: s}}, "Permissive,81=Strict", p, false},
		"ports in order": {facts.Form{Mode: d, Ports: ports{9443: s, 80: p}}, "Disabled,80=Permissive,9443=Strict", p, false},
		"ports only":     {facts.Form{Ports: ports{80: s}}, ",80=Strict", s, false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.wantText, tc.form.String()); diff != "" {
				t.Errorf("unexpected text (-want +got):\n%s", diff)
			}
			if got := tc.form.At(80); got != tc.wantAt80 {
				t.Errorf("port 80 is at %q", got)
			}
			if got := tc.form.Empty(); got != tc.wantEmpty {
				t.Errorf("empty: %t", got)
			}
			if tc.form.Mode == "" {
				return
			}
			parsed, err := facts.ParseForm(tc.form.String())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.form, parsed); diff != "" {
				t.Errorf("not what was written (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFormEqual(t *testing.T) {
	tests := map[string]struct {
		a, b facts.Form
		want bool
	}{
		"nothing":                       {facts.Form{}, facts.Form{}, true},
		"no ports and none":             {facts.Form{Mode: s}, facts.Form{Mode: s, Ports: ports{}}, true},
		"another mode":                  {facts.Form{Mode: s}, facts.Form{Mode: p}, false},
		"an exception that is none":     {facts.Form{Mode: s}, facts.Form{Mode: s, Ports: ports{80: s}}, true},
		"an exception":                  {facts.Form{Mode: s}, facts.Form{Mode: s, Ports: ports{80: p}}, false},
		"the same exception":            {facts.Form{Mode: s, Ports: ports{80: p}}, facts.Form{Mode: s, Ports: ports{80: p, 81: s}}, true},
		"another port":                  {facts.Form{Mode: s, Ports: ports{80: p}}, facts.Form{Mode: s, Ports: ports{81: p}}, false},
		"another mode of the exception": {facts.Form{Mode: s, Ports: ports{80: p}}, facts.Form{Mode: s, Ports: ports{80: d}}, false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := tc.a.Equal(tc.b); got != tc.want {
				t.Errorf("got %t", got)
			}
			if got := tc.b.Equal(tc.a); got != tc.want {
				t.Errorf("the other way around: %t", got)
			}
		})
	}
}

func TestNoWeaker(t *testing.T) {
	tests := map[string]struct {
		form, than facts.Form
		want       bool
	}{
		"the same":                    {facts.Form{Mode: s}, facts.Form{Mode: s}, true},
		"stronger":                    {facts.Form{Mode: s}, facts.Form{Mode: p}, true},
		"weaker":                      {facts.Form{Mode: p}, facts.Form{Mode: s}, false},
		"weaker on a port":            {facts.Form{Mode: s, Ports: ports{80: p}}, facts.Form{Mode: s}, false},
		"as weak on a port":           {facts.Form{Mode: s, Ports: ports{80: p}}, facts.Form{Mode: s, Ports: ports{80: p}}, true},
		"stronger on a port":          {facts.Form{Mode: p, Ports: ports{80: s}}, facts.Form{Mode: p}, true},
		"weaker than a port":          {facts.Form{Mode: p}, facts.Form{Mode: p, Ports: ports{80: s}}, false},
		"unset":                       {facts.Form{}, facts.Form{Mode: d}, false},
		"than unset":                  {facts.Form{Mode: d}, facts.Form{}, true},
		"unset, with a port":          {facts.Form{Ports: ports{80: s}}, facts.Form{Ports: ports{80: s}}, true},
		"unset, than one with a port": {facts.Form{}, facts.Form{Ports: ports{80: p}}, false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := tc.form.NoWeaker(tc.than); got != tc.want {
				t.Errorf("got %t", got)
			}
		})
	}
}

func TestFormMap(t *testing.T) {
	loosen := func(port int32, mode v1alpha1.Mode) v1alpha1.Mode {
		if mode == s && port != 81 {
			return p
		}
		return mode
	}
	tests := map[string]struct {
		form  facts.Form
		ports []int32
		want  facts.Form
	}{
		"no ports":                   {facts.Form{Mode: s}, nil, facts.Form{Mode: p}},
		"a port that differs":        {facts.Form{Mode: s}, []int32{80, 81}, facts.Form{Mode: p, Ports: ports{81: s}}},
		"a port that does no more":   {facts.Form{Mode: s, Ports: ports{80: p}}, []int32{80}, facts.Form{Mode: p}},
		"a port that is not mapped":  {facts.Form{Mode: s, Ports: ports{80: d}}, nil, facts.Form{Mode: p}},
		"a port that stays":          {facts.Form{Mode: s, Ports: ports{80: d}}, []int32{80}, facts.Form{Mode: p, Ports: ports{80: d}}},
		"the given form is left be":  {facts.Form{Mode: p, Ports: ports{80: s}}, []int32{80}, facts.Form{Mode: p}},
		"nothing, and a port for it": {facts.Form{}, []int32{80}, facts.Form{}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			before := tc.form.String()
			if diff := cmp.Diff(tc.want, tc.form.Map(tc.ports, loosen)); diff != "" {
				t.Errorf("unexpected form (-want +got):\n%s", diff)
			}
			if tc.form.String() != before {
				t.Errorf("%s became %s", before, tc.form)
			}
		})
	}
}

func TestParseFormFails(t *testing.T) {
	for text, want := range map[string]string{
		"": "no mode", "STRICT": "no mode", "strict": "no mode", "Strict,": "needs a mode", "Strict,80": "needs a mode", "Strict,80=": "no mode",
		"Strict,80=Off": "no mode", "Strict,=Permissive": "no port", "Strict,0=Permissive": "no port", "Strict,65536=Permissive": "no port",
		"Strict,-1=Permissive": "no port", "Strict,4294967376=Permissive": "no port", "Strict, 80=Permissive": "no port", "Strict,80=Permissive=Strict": "no mode", ",80=Strict": "no mode",
	} {
		if got, err := facts.ParseForm(text); err == nil || !strings.Contains(err.Error(), want) || !got.Empty() {
			t.Errorf("%q: got %+v, %v", text, got, err)
		}
	}
}

// FuzzParseForm: what is read means the same when it is written and read again, and says nothing that no policy can.
func FuzzParseForm(f *testing.F) {
	for _, seed := range []string{"Strict", "Permissive,80=Strict", "Disabled,80=Permissive,9443=Strict", "Strict,80=Strict,80=Permissive", "Strict,+80=Permissive", ",", "=,="} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		form, err := facts.ParseForm(text)
		if err != nil {
			if !form.Empty() {
				t.Errorf("%q fails and gives %q", text, form)
			}
			return
		}
		for port, mode := range form.Ports {
			if port < 1 || port > 65535 || mode != s && mode != p && mode != d {
				t.Errorf("%q gives port %d at %q", text, port, mode)
			}
		}
		again, err := facts.ParseForm(form.String())
		if err != nil {
			t.Fatalf("%q gives %q, which fails: %v", text, form, err)
		}
		if diff := cmp.Diff(form, again); diff != "" {
			t.Errorf("%q is not what it was (-want +got):\n%s", text, diff)
		}
	})
}

func TestRuleName(t *testing.T) {
	if got := facts.RuleName("web", v1alpha1.TargetService, "httpbin"); got != "web" {
		t.Errorf("Service: got %q", got)
	}
	if got := facts.RuleName("web", v1alpha1.TargetWorkload, "httpbin"); got != "web-httpbin" {
		t.Errorf("Workload: got %q", got)
	}
}
