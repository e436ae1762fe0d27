package rollout_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/rollout"
)

// rules writes decided rules in short: "ISTIO_MUTUAL 443=DISABLE".
func rules(d rollout.Decision) string {
	if len(d.Rules) == 0 {
		return ""
	}
	text := string(d.Rules[0].TLS)
	for _, port := range d.Rules[0].Ports {
		text += fmt.Sprintf(" %d=%s", port.Port, port.TLS)
	}
	return text
}

func TestRules(t *testing.T) {
	unmeshed := func(in *rollout.Input) { in.Facts.Hosts[0].UnmeshedEndpoints = []string{"httpbin-2"} }
	foreign := func(in *rollout.Input) {
		in.Facts.ClientRules = []facts.ClientRule{{Namespace: "bar", Name: "x", Host: hostName}}
	}
	headless := func(in *rollout.Input) { in.Facts.Hosts[0].Headless = true }
	noAuto := func(in *rollout.Input) { in.Facts.Mesh.AutoMTLS = false }
	around := func(in *rollout.Input) { in.Facts.Inherited = v1alpha1.ModeDisabled }
	twice := func(in *rollout.Input) {
		in.Facts.Hosts[0].Ports = []facts.ServicePort{{Port: 80, TargetPort: 8080, OtherTargets: []int32{9443}}, {Port: 81, TargetPort: 8080}}
	}
	noRule := func(in *rollout.Input) { in.Facts.Rules = nil }
	empty := func(in *rollout.Input) { in.Facts.Hosts[0].Endpoints = 0 }
	policy := func(p v1alpha1.DestinationRulePolicy) func(*rollout.Input) {
		return func(in *rollout.Input) { in.Spec.DestinationRule = p }
	}
	asked := func(f facts.Form) func(*rollout.Input) { return func(in *rollout.Input) { in.Spec.Asked = f } }
	rule := func(tls facts.TLS) func(*rollout.Input) {
		return func(in *rollout.Input) { in.Facts.Rules, in.Facts.UnchangedFor = []facts.Rule{ownRule(tls)}, 0 }
	}
	always, never := policy(v1alpha1.DestinationRuleAlways), policy(v1alpha1.DestinationRuleNever)
	tests := map[string]struct {
		in    rollout.Input
		edits []func(*rollout.Input)
		want  string
	}{
		"Auto, all in the mesh":               {base(), nil, "ISTIO_MUTUAL"},
		"Auto, written anew":                  {base(), []func(*rollout.Input){noRule}, "ISTIO_MUTUAL"},
		"Auto, PERMISSIVE is new":             {base(), []func(*rollout.Input){noRule, func(in *rollout.Input) { in.Facts.UnchangedFor = 0 }}, ""},
		"Auto, an endpoint without a sidecar": {base(), []func(*rollout.Input){unmeshed}, ""},
		"Auto, a foreign rule":                {base(), []func(*rollout.Input){foreign}, ""},
		"Auto, no endpoints, and no rule yet": {base(), []func(*rollout.Input){empty, noRule}, ""},
		"Auto, no endpoints for a moment":     {base(), []func(*rollout.Input){empty}, "ISTIO_MUTUAL"},
		"Auto, no endpoints for a moment, told by port": {base(), []func(*rollout.Input){empty, func(in *rollout.Input) {
			in.Spec.Asked = form(v1alpha1.ModeDisabled, 9443, v1alpha1.ModeStrict)
			in.Facts.Policy = ownPolicy(form(v1alpha1.ModeDisabled, 9443, v1alpha1.ModePermissive))
			in.Facts.Rules[0].TLS, in.Facts.Rules[0].Ports = facts.TLSDisable, map[int32]facts.TLS{443: facts.TLSMutual}
		}}, "DISABLE 443=ISTIO_MUTUAL"},
		"Auto, a foreign object of that name":          {base(), []func(*rollout.Input){func(in *rollout.Input) { in.Facts.Rules[0].Owned = false; in.Facts.UnchangedFor = 0 }}, ""},
		"Auto, PERMISSIVE asked":                       {base(), []func(*rollout.Input){asked(permissive)}, ""},
		"Auto, a Strict port under Permissive":         {base(), []func(*rollout.Input){asked(form(v1alpha1.ModePermissive, 8080, v1alpha1.ModeStrict))}, "ISTIO_MUTUAL"},
		"Always, an endpoint without a sidecar":        {base(), []func(*rollout.Input){always, unmeshed, foreign}, "ISTIO_MUTUAL"},
		"Always, PERMISSIVE asked":                     {base(), []func(*rollout.Input){always, asked(permissive)}, "ISTIO_MUTUAL"},
		"Never":                                        {base(), []func(*rollout.Input){never}, ""},
		"Never, mode Disabled":                         {base(), []func(*rollout.Input){never, asked(disabled), rule(facts.TLSDisable), func(in *rollout.Input) { in.Facts.Policy.Form = disabled }}, ""},
		"STRICT, auto-mTLS: withdrawn":                 {enforced(), []func(*rollout.Input){unmeshed}, ""},
		"STRICT, headless: never withdrawn":            {enforced(), []func(*rollout.Input){headless, unmeshed}, "ISTIO_MUTUAL"},
		"STRICT, no auto-mTLS: never withdrawn":        {enforced(), []func(*rollout.Input){noAuto, unmeshed, foreign}, "ISTIO_MUTUAL"},
		"STRICT, no auto-mTLS: deleted, comes back":    {enforced(), []func(*rollout.Input){noAuto, unmeshed, noRule}, "ISTIO_MUTUAL"},
		"STRICT, no auto-mTLS: not beside another":     {enforced(), []func(*rollout.Input){noAuto, foreign, noRule}, ""},
		"STRICT on a port, no auto-mTLS":               {enforced(), []func(*rollout.Input){noAuto, unmeshed, asked(form(v1alpha1.ModePermissive, 8080, v1alpha1.ModeStrict))}, "ISTIO_MUTUAL"},
		"STRICT, DISABLE around: never withdrawn":      {enforced(), []func(*rollout.Input){around, unmeshed, foreign}, "ISTIO_MUTUAL"},
		"STRICT, DISABLE around: deleted, comes back":  {enforced(), []func(*rollout.Input){around, unmeshed, noRule}, "ISTIO_MUTUAL"},
		"STRICT, DISABLE around, Never":                {enforced(), []func(*rollout.Input){around, never}, ""},
		"PERMISSIVE, no auto-mTLS: withdrawn":          {base(), []func(*rollout.Input){noAuto, unmeshed}, ""},
		"STRICT, edited to DISABLE: mended at once":    {enforced(), []func(*rollout.Input){rule(facts.TLSDisable)}, "ISTIO_MUTUAL"},
		"STRICT, edited to DISABLE, not Auto's to say": {enforced(), []func(*rollout.Input){rule(facts.TLSDisable), unmeshed}, ""},
		"PERMISSIVE, edited to DISABLE: after settle":  {base(), []func(*rollout.Input){rule(facts.TLSDisable)}, "DISABLE"},
		"DISABLE is inherited, no object yet":          {base(), []func(*rollout.Input){noRule, func(in *rollout.Input) { in.Facts.Policy, in.Facts.Inherited = facts.Policy{}, v1alpha1.ModeDisabled }}, ""},
		"both edited to DISABLE, STRICT comes back": {enforced(), []func(*rollout.Input){rule(facts.TLSDisable), func(in *rollout.Input) {
			in.Facts.Policy.Form, in.Spec.Asked = permissive, form(v1alpha1.ModeStrict, 9443, v1alpha1.ModeDisabled)
		}, unmeshed}, " 443=DISABLE"},
		"mode Disabled, STRICT: clients stay":      {enforced(), []func(*rollout.Input){asked(disabled)}, "ISTIO_MUTUAL"},
		"a port to Disabled, STRICT: clients stay": {enforced(), []func(*rollout.Input){asked(form(v1alpha1.ModeStrict, 9443, v1alpha1.ModeDisabled))}, "ISTIO_MUTUAL"},
		"a port Disabled, PERMISSIVE: clients go":  {base(), []func(*rollout.Input){asked(form(v1alpha1.ModeStrict, 9443, v1alpha1.ModeDisabled))}, "ISTIO_MUTUAL 443=DISABLE"},
		"a Strict port under Disabled":             {base(), []func(*rollout.Input){asked(form(v1alpha1.ModeDisabled, 9443, v1alpha1.ModeStrict))}, "DISABLE 443=ISTIO_MUTUAL"},
		"the same, an endpoint outside":            {base(), []func(*rollout.Input){asked(form(v1alpha1.ModeDisabled, 9443, v1alpha1.ModeStrict)), unmeshed}, " 80=DISABLE"},
		"a STRICT port under DISABLE, an endpoint outside": {enforced(), []func(*rollout.Input){rule(facts.TLSDisable), unmeshed, func(in *rollout.Input) {
			in.Spec.Asked, in.Facts.Policy.Form = form(v1alpha1.ModeDisabled, 9443, v1alpha1.ModeStrict), form(v1alpha1.ModeDisabled, 9443, v1alpha1.ModeStrict)
			in.Facts.Rules[0].Ports = map[int32]facts.TLS{443: facts.TLSMutual}
		}}, " 80=DISABLE"},
		"a port that pods number differently":      {base(), []func(*rollout.Input){twice}, "ISTIO_MUTUAL"},
		"one of its numbers Disabled":              {base(), []func(*rollout.Input){twice, asked(form(v1alpha1.ModeStrict, 9443, v1alpha1.ModeDisabled))}, " 81=ISTIO_MUTUAL"},
		"one of its numbers Strict under Disabled": {base(), []func(*rollout.Input){twice, asked(form(v1alpha1.ModeDisabled, 9443, v1alpha1.ModeStrict))}, " 81=DISABLE"},
		"one of its numbers STRICT: clients stay": {enforced(), []func(*rollout.Input){twice, asked(disabled), func(in *rollout.Input) {
			in.Facts.Policy.Form = form(v1alpha1.ModePermissive, 9443, v1alpha1.ModeStrict)
		}}, "DISABLE 80=ISTIO_MUTUAL"},
		"a Permissive port under Disabled": {base(), []func(*rollout.Input){asked(form(v1alpha1.ModeDisabled, 9443, v1alpha1.ModePermissive))}, " 80=DISABLE"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, rules(rollout.Next(with(tc.in, tc.edits...)))); diff != "" {
				t.Errorf("unexpected rule (-want +got):\n%s", diff)
			}
		})
	}
}

// TestSteps walks from one spec to another, and says each form and rule on the way. Each line is what follows when the one
// before was applied and had its time to settle.
func TestSteps(t *testing.T) {
	port := func(mode, other v1alpha1.Mode) facts.Form { return form(mode, 9443, other) }
	tests := map[string]struct {
		form      facts.Form
		rule      facts.TLS
		ports     map[int32]facts.TLS
		asked     facts.Form
		inherited v1alpha1.Mode
		edit      func(*rollout.Input)
		want      []string
	}{
		"STRICT to DISABLE": {form: strict, rule: facts.TLSMutual, asked: disabled, want: []string{
			"Permissive/ISTIO_MUTUAL", "Permissive/DISABLE", "Disabled/DISABLE",
		}},
		"STRICT to DISABLE, Never": {
			form: strict, rule: facts.TLSMutual, asked: disabled,
			edit: func(in *rollout.Input) { in.Spec.DestinationRule = v1alpha1.DestinationRuleNever },
			want: []string{"Permissive/", "Disabled/"},
		},
		"STRICT to DISABLE, no Service": {
			form: strict, asked: disabled, edit: func(in *rollout.Input) { in.Facts.Hosts = nil },
			want: []string{"Permissive/", "Disabled/"},
		},
		"STRICT to PERMISSIVE": {form: strict, rule: facts.TLSMutual, asked: permissive, want: []string{"Permissive/"}},
		"PERMISSIVE to DISABLE": {form: permissive, rule: facts.TLSMutual, asked: disabled, want: []string{
			"Permissive/DISABLE", "Disabled/DISABLE",
		}},
		"DISABLE to STRICT, Immediate": {form: disabled, rule: facts.TLSDisable, asked: strict, edit: immediately, want: []string{
			"Permissive/DISABLE", "Permissive/ISTIO_MUTUAL", "Strict/ISTIO_MUTUAL",
		}},
		"DISABLE to STRICT, Immediate, Never": {
			form: disabled, asked: strict,
			edit: func(in *rollout.Input) { immediately(in); in.Spec.DestinationRule = v1alpha1.DestinationRuleNever },
			want: []string{"Permissive/", "Strict/"},
		},
		"DISABLE to PERMISSIVE": {form: disabled, rule: facts.TLSDisable, asked: permissive, want: []string{
			"Permissive/DISABLE", "Permissive/",
		}},
		"a port from STRICT to DISABLE": {form: strict, rule: facts.TLSMutual, asked: port(v1alpha1.ModeStrict, v1alpha1.ModeDisabled), want: []string{
			"Strict,9443=Permissive/ISTIO_MUTUAL", "Strict,9443=Permissive/ISTIO_MUTUAL 443=DISABLE", "Strict,9443=Disabled/ISTIO_MUTUAL 443=DISABLE",
		}},
		"a port from DISABLE to STRICT, Immediate": {
			form: port(v1alpha1.ModeStrict, v1alpha1.ModeDisabled), rule: facts.TLSMutual,
			ports: map[int32]facts.TLS{443: facts.TLSDisable}, asked: strict, edit: immediately, want: []string{
				"Strict,9443=Permissive/ISTIO_MUTUAL 443=DISABLE", "Strict,9443=Permissive/ISTIO_MUTUAL", "Strict/ISTIO_MUTUAL",
			},
		},
		"a port from DISABLE, without a rule before, Immediate": {
			form: port(v1alpha1.ModePermissive, v1alpha1.ModeDisabled), asked: strict, edit: immediately, want: []string{
				"Permissive/ 80=ISTIO_MUTUAL", "Permissive/ISTIO_MUTUAL", "Strict/ISTIO_MUTUAL",
			},
		},
		"a port from DISABLE to PERMISSIVE": {
			form: disabled, rule: facts.TLSDisable, asked: port(v1alpha1.ModeDisabled, v1alpha1.ModePermissive), want: []string{
				"Disabled,9443=Permissive/DISABLE", "Disabled,9443=Permissive/ 80=DISABLE",
			},
		},
		"a port from DISABLE, and the rule goes": {
			form: port(v1alpha1.ModeStrict, v1alpha1.ModeDisabled), rule: facts.TLSMutual,
			ports: map[int32]facts.TLS{443: facts.TLSDisable}, asked: strict,
			edit: func(in *rollout.Input) { immediately(in); in.Spec.DestinationRule = v1alpha1.DestinationRuleNever },
			want: []string{"Strict,9443=Permissive/ISTIO_MUTUAL 443=DISABLE", "Strict,9443=Permissive/", "Strict/"},
		},
		"all but a port from STRICT to DISABLE": {form: strict, rule: facts.TLSMutual, asked: port(v1alpha1.ModeDisabled, v1alpha1.ModeStrict), want: []string{
			"Permissive,9443=Strict/ISTIO_MUTUAL", "Permissive,9443=Strict/DISABLE 443=ISTIO_MUTUAL", "Disabled,9443=Strict/DISABLE 443=ISTIO_MUTUAL",
		}},
		"removed at DISABLE": {form: disabled, rule: facts.TLSDisable, want: []string{"/DISABLE", "/"}},
		"removed at DISABLE, STRICT is inherited": {form: disabled, rule: facts.TLSDisable, inherited: v1alpha1.ModeStrict, want: []string{
			"Permissive/DISABLE", "Permissive/", "/",
		}},
		"removed at STRICT, DISABLE is inherited": {form: strict, rule: facts.TLSMutual, inherited: v1alpha1.ModeDisabled, want: []string{
			"Permissive/ISTIO_MUTUAL", "Permissive/", "/",
		}},
		"removed with a Strict port, STRICT is inherited": {
			form: port(v1alpha1.ModeDisabled, v1alpha1.ModeStrict), rule: facts.TLSDisable,
			ports: map[int32]facts.TLS{443: facts.TLSMutual}, inherited: v1alpha1.ModeStrict, want: []string{
				"Permissive,9443=Strict/DISABLE 443=ISTIO_MUTUAL", "Permissive,9443=Strict/", "/",
			},
		},
		"removed at STRICT": {form: strict, rule: facts.TLSMutual, want: []string{"/"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			in := base()
			in.Facts.Policy, in.Held, in.Facts.Rules = ownPolicy(tc.form), ownPolicy(tc.form), nil
			if tc.rule != "" {
				in.Facts.Rules = []facts.Rule{ownRule(tc.rule)}
				in.Facts.Rules[0].Ports = tc.ports
			}
			in.Spec.Asked, in.Facts.Inherited, in.Previous.Inherited = tc.asked, tc.inherited, tc.inherited
			edited(&in)
			if tc.edit != nil {
				tc.edit(&in)
			}
			var got []string
			for range 6 {
				d := rollout.Next(in)
				got = append(got, d.Form.String()+"/"+rules(d))
				in = applied(in, d)
				// Just written: nothing moves before the settle time is over.
				in.Facts.UnchangedFor = 0
				early := rollout.Next(in)
				if step := early.Form.String() + "/" + rules(early); step != got[len(got)-1] {
					t.Errorf("%s follows %s at once", step, got[len(got)-1])
				}
				in.Facts.UnchangedFor = settle
				if next := rollout.Next(in); next.Form.Equal(d.Form) && rules(next) == rules(d) {
					if next.After != 0 && !in.Spec.AsksStrict() {
						t.Errorf("comes back after %s although all is done", next.After)
					}
					break
				}
				if early.After != settle {
					t.Errorf("after %s, comes back in %s", got[len(got)-1], early.After)
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("unexpected way (-want +got):\n%s", diff)
			}
		})
	}
}

func immediately(in *rollout.Input) { in.Spec.Strategy = v1alpha1.StrategyImmediate }

// TestRevisit: what was written and is not there is tried again, but not all the time.
func TestRevisit(t *testing.T) {
	in := enforced()
	if got := rollout.Next(in); got.After != 0 || got.Observe {
		t.Errorf("an idle profile comes back after %s", got.After)
	}
	in.Facts.Rules = nil
	if got := rollout.Next(in); got.After != interval {
		t.Errorf("a missing rule: comes back after %s", got.After)
	}
	in.Interval = 0
	if got := rollout.Next(in); got.After != time.Second {
		t.Errorf("no interval: comes back after %s", got.After)
	}
}
