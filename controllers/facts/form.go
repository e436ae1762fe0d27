package facts

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

var strength = map[v1alpha1.Mode]int{v1alpha1.ModeDisabled: 1, v1alpha1.ModePermissive: 2, v1alpha1.ModeStrict: 3}

// Weaker is the weaker of two modes; one that is empty does not count.
func Weaker(a, b v1alpha1.Mode) v1alpha1.Mode {
	if a == "" || b != "" && strength[b] < strength[a] {
		return b
	}
	return a
}

// Form is what a PeerAuthentication says: a mode, and another one on some workload ports.
type Form struct {
	Mode  v1alpha1.Mode
	Ports map[int32]v1alpha1.Mode
}

// At is the mode of a port.
func (f Form) At(port int32) v1alpha1.Mode {
	if mode, ok := f.Ports[port]; ok {
		return mode
	}
	return f.Mode
}

// Empty says that the form says nothing.
func (f Form) Empty() bool { return f.Mode == "" && len(f.Ports) == 0 }

// Equal says whether both mean the same on every port.
func (f Form) Equal(g Form) bool {
	return f.Mode == g.Mode && maps.Equal(f.reduced(), g.reduced())
}

// NoWeaker says whether the form is no weaker than another on every port. One that is unset may turn out to be anything.
func (f Form) NoWeaker(than Form) bool {
	ports := slices.AppendSeq(slices.AppendSeq([]int32{0}, maps.Keys(f.Ports)), maps.Keys(than.Ports))
	return !slices.ContainsFunc(ports, func(port int32) bool {
		got, least := f.At(port), than.At(port)
		return least != "" && (got == "" || Weaker(got, least) != least)
	})
}

// Map gives the form with every mode replaced by what fn says of it; port 0 stands for all other ports.
func (f Form) Map(ports []int32, fn func(port int32, mode v1alpha1.Mode) v1alpha1.Mode) Form {
	out := Form{Mode: fn(0, f.Mode)}
	for _, port := range ports {
		if mode := fn(port, f.At(port)); mode != out.Mode {
			if out.Ports == nil {
				out.Ports = map[int32]v1alpha1.Mode{}
			}
			out.Ports[port] = mode
		}
	}
	return out
}

func (f Form) reduced() map[int32]v1alpha1.Mode {
	out := maps.Clone(f.Ports)
	maps.DeleteFunc(out, func(_ int32, mode v1alpha1.Mode) bool { return mode == f.Mode })
	return out
}

// String writes the form for an annotation: "Strict" or "Strict,9443=Permissive".
func (f Form) String() string {
	parts := []string{string(f.Mode)}
	for _, port := range slices.Sorted(maps.Keys(f.Ports)) {
		parts = append(parts, fmt.Sprintf("%d=%s", port, f.Ports[port]))
	}
	return strings.Join(parts, ",")
}

// ParseForm reads what String wrote. It fails on anything else.
func ParseForm(text string) (Form, error) {
	parts := strings.Split(text, ",")
	mode, err := parseMode(parts[0])
	if err != nil {
		return Form{}, err
	}
	form := Form{Mode: mode}
	for _, part := range parts[1:] {
		number, name, ok := strings.Cut(part, "=")
		if !ok {
			return Form{}, errors.New("parsing form: a port needs a mode")
		}
		port, err := strconv.ParseUint(number, 10, 16)
		if err != nil || port == 0 || strconv.FormatUint(port, 10) != number {
			return Form{}, fmt.Errorf("parsing form: %q is no port", number)
		}
		if mode, err = parseMode(name); err != nil {
			return Form{}, err
		}
		if form.Ports == nil {
			form.Ports = map[int32]v1alpha1.Mode{}
		}
		form.Ports[int32(port)] = mode
	}
	return form, nil
}

func parseMode(text string) (v1alpha1.Mode, error) {
	switch mode := v1alpha1.Mode(text); mode {
	case v1alpha1.ModeStrict, v1alpha1.ModePermissive, v1alpha1.ModeDisabled:
		return mode, nil
	}
	return "", fmt.Errorf("parsing form: %q is no mode", text)
}
