package builder

import (
	"slices"
	"strings"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

const (
	lower    = "abcdefghijklmnopqrstuvwxyz"
	upper    = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	digits   = "0123456789"
	alphanum = lower + digits
	// token has what the name of a header may have.
	token = alphanum + upper + "!#$%&'*+.^_`|~-"
	// segment has what a segment of a path template may have.
	segment = alphanum + upper + "-._~%!$&'()+,;:@="
	// odd has printable characters that mean something to someone: brackets, quotes, regular expressions, Envoy's commands,
	// YAML, other scripts.
	odd = alphanum + " \"'`\\/*[](){}<>|^$?+.,;:=&#@!~%-_äßñ漢字🍓\u00a0\u200b\u2028"
)

func (m *maker) chance(percent int) bool { return m.IntN(100) < percent }

func (m *maker) maybe() *bool {
	if m.chance(60) {
		return nil
	}
	value := m.chance(50)
	return &value
}

func pick[T any](m *maker, from ...T) T { return from[m.IntN(len(from))] }

// size is small most of the time, and now and then as much as there may be.
func (m *maker) size(most int) int {
	switch {
	case m.chance(2):
		return most
	case m.chance(20):
		return 1 + m.IntN(most)
	}
	return 1 + m.IntN(min(most, 3))
}

// many are from one to most different values.
func many[T comparable](m *maker, most int, one func() T) []T {
	var out []T
	for range m.size(most) {
		if value := one(); !slices.Contains(out, value) {
			out = append(out, value)
		}
	}
	return out
}

// some are none, in percent of the cases, or many.
func some[T comparable](m *maker, percent, most int, one func() T) []T {
	if !m.chance(percent) {
		return nil
	}
	return many(m, most, one)
}

// text has from one to most characters of the alphabet.
func (m *maker) text(alphabet string, most int) string {
	runes := []rune(alphabet)
	var b strings.Builder
	for range m.length(most) {
		b.WriteRune(runes[m.IntN(len(runes))])
	}
	return b.String()
}

func (m *maker) length(most int) int {
	if m.chance(1) {
		return most
	}
	return 1 + m.IntN(min(most, 12))
}

// name begins and ends with a letter or digit.
func (m *maker) name(inner string, most int) string {
	first, last := m.text(alphanum, 1), m.text(alphanum, 1)
	switch {
	case most < 3 || m.chance(10):
		return first
	case m.chance(10):
		return first + last
	}
	return first + m.text(inner, most-2) + last
}

// label is a DNS label as Services, too, may have it.
func (m *maker) label(most int) string {
	return m.text(lower, 1) + m.name(alphanum+"-", most-1)
}

// subdomain is the name of an object.
func (m *maker) subdomain(most int) string {
	out := m.label(63)
	for m.chance(10) {
		next := out + "." + m.label(63)
		if len(next) > most {
			break
		}
		out = next
	}
	return out
}

func (m *maker) labels(most int) map[string]v1alpha1.LabelValue {
	out := map[string]v1alpha1.LabelValue{}
	for range m.size(most) {
		key := m.name(alphanum+upper+"-_.", 63)
		if m.chance(30) {
			key = m.subdomain(253) + "/" + key
		}
		value := m.name(alphanum+upper+"-_.", 63)
		if m.chance(10) {
			value = ""
		}
		out[key] = v1alpha1.LabelValue(value)
	}
	return out
}

func (m *maker) anyPort() int32 {
	return pick(m, 80, 443, 8080, 9080, 3306, 1, 65535, 1+m.Int32N(65535))
}

// port is mostly one of the case's.
func (m *maker) port() int32 {
	if m.chance(70) {
		return pick(m, m.ports...)
	}
	return m.anyPort()
}

// plain is text as people write it, or, sometimes, all that v1alpha1.Text admits.
func (m *maker) plain() v1alpha1.Text {
	if m.chance(20) {
		return v1alpha1.Text(m.text(odd, 64))
	}
	return v1alpha1.Text(m.name(alphanum+upper+"-_.:/@", 250))
}

// match is a value with which something is compared.
func (m *maker) match() v1alpha1.Text {
	switch value := m.plain(); m.IntN(8) {
	case 0:
		return "*"
	case 1:
		return "*" + value
	case 2:
		return value + "*"
	default:
		return value
	}
}
