package builder

import (
	"fmt"
	"slices"
	"strings"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

// Key sets of every kind, public keys alone.
var keySets = []string{
	`{"keys":[{"kty":"RSA","use":"sig","alg":"RS256","kid":"rsa","n":"1puNo0x5JNxjGnUaKVe9nBhWv6DoDmQifyl4kd-sh1xz6c9Odcy6GJ9S3zMD2vAoZkLlOep9uJiJcRCZJfYXfHnslYkQCatflSRyNKGYejwghLXtjV33pMhqW6fgHZlOb4pK-UiWjQ6EnkwBPEEvLoY_Zkqck8AitvYHF7OjGPA2LIVV0RGSdbaiIsYS6zClAmhiqCc-P4UadQiAKZK-ntAirRly2dzEjxgDFDQR0P75NAELGxOHDmSgbXE0aaNi9ROFE0G6w5PZrFN5zr7Gih9HbQ_RbNZYb-Bsop3M6qLNamXIYzPyDHNN0xeo-2MHsTBfWI_sYCylQ7uCNRXk0Q","e":"AQAB"}]}`,
	`{"keys": [{"kty": "EC", "crv": "P-256", "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4", "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}`,
	"\n {\"keys\":\n[ {\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"kid\":\"ed\",\"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"} ]\n}\n",
}

func (m *maker) jwt() *v1alpha1.JWT {
	out := &v1alpha1.JWT{Requirement: pick(m, "", v1alpha1.TokenRequired, v1alpha1.TokenRequired, v1alpha1.TokenOptional)}
	if out.Requirement != v1alpha1.TokenOptional {
		switch m.IntN(3) {
		case 0:
			out.ExemptPaths = many(m, 16, func() v1alpha1.Path { return m.path("/*", "*", "/{**}") })
		case 1:
			out.RequiredPaths = many(m, 16, func() v1alpha1.Path { return m.path() })
		}
	}
	for _, issuer := range many(m, 16, m.issuerName) {
		out.Issuers = append(out.Issuers, m.issuer(issuer))
	}
	return out
}

func (m *maker) issuerName() v1alpha1.Text {
	if m.chance(50) {
		return v1alpha1.Text(m.address())
	}
	// A * at an end would stand for other issuers.
	return "i" + v1alpha1.Text(strings.TrimRight(string(m.plain()), "*")) + "i"
}

func (m *maker) issuer(name v1alpha1.Text) v1alpha1.Issuer {
	out := v1alpha1.Issuer{
		Issuer:               name,
		Audiences:            some(m, 40, 16, m.plain),
		FromParams:           some(m, 20, 16, func() v1alpha1.Text { return m.without("&=?#") }),
		FromCookies:          some(m, 20, 16, func() v1alpha1.Text { return m.without(";,=\"") }),
		ForwardOriginalToken: m.maybe(),
		Timeout:              pick[v1alpha1.Duration](m, "", "", "", "5s", "1ms", "1h1m1s1ms", "99999h"),
	}
	discovered := strings.HasPrefix(string(name), "http://") || strings.HasPrefix(string(name), "https://")
	switch {
	case m.chance(50):
		out.JWKS = pick(m, keySets...)
	case !discovered || m.chance(70):
		out.JWKSURI = m.address()
	}
	for _, header := range some(m, 30, 16, m.header) {
		out.FromHeaders = append(out.FromHeaders, v1alpha1.TokenHeader{Name: header, Prefix: pick(m, "", "Bearer ", m.text(odd, 256))})
	}
	if m.chance(30) {
		out.OutputPayloadToHeader = m.header()
	}
	for _, header := range some(m, 30, 16, func() v1alpha1.HTTPHeaderName { return v1alpha1.HTTPHeaderName(m.text(alphanum+upper+"-_", 64)) }) {
		out.OutputClaimToHeaders = append(out.OutputClaimToHeaders, v1alpha1.ClaimToHeader{Header: header, Claim: m.plain()})
	}
	return out
}

// address is an http or https one.
func (m *maker) address() v1alpha1.URL {
	if m.options.KeysAt != "" {
		return v1alpha1.URL(fmt.Sprintf("%s/%s", m.options.KeysAt, m.label(40)))
	}
	host := pick(m, m.subdomain(100), m.subdomain(100)+":8443", "user:word@"+m.label(20), "192.0.2.7", "[2001:db8::1]:8443", "XN--"+m.label(9), "under_score")
	path := pick(m, "", "/", "/keys", "/"+m.text(segment, 64), "/keys?version=1&x=%20", "/a//b/../c", "/keys;v=1")
	if strings.Contains(path, "%") && !strings.Contains(path, "%20") {
		path = strings.ReplaceAll(path, "%", "%25")
	}
	return v1alpha1.URL(pick(m, "https://", "http://", "HTTPS://") + host + path)
}

// without is text that has neither blanks nor the given characters.
func (m *maker) without(characters string) v1alpha1.Text {
	return v1alpha1.Text(strings.Map(func(r rune) rune {
		if strings.ContainsRune(characters, r) || strings.ContainsRune(" \t", r) {
			return '.'
		}
		return r
	}, string(m.plain())))
}

func (m *maker) header() v1alpha1.HTTPHeaderName {
	if m.chance(20) {
		return v1alpha1.HTTPHeaderName(m.text(token, 256))
	}
	return v1alpha1.HTTPHeaderName(m.name(alphanum+upper+"-_", 40))
}

// path is any but those refused.
func (m *maker) path(refused ...v1alpha1.Path) v1alpha1.Path {
	for {
		var path v1alpha1.Path
		switch m.IntN(5) {
		case 0:
			path = m.template()
		case 1:
			path = v1alpha1.Path(pick(m, "*", "/*", "*"+m.plainPath(), "*.jpg"))
		case 2:
			path = v1alpha1.Path("/" + m.plainPath() + "*")
		default:
			path = v1alpha1.Path("/" + m.plainPath())
		}
		if len([]rune(path)) <= 256 && !slices.Contains(refused, path) {
			return path
		}
	}
}

// plainPath has what a path that is no template may have.
func (m *maker) plainPath() string {
	if m.chance(20) {
		return strings.Map(func(r rune) rune {
			if strings.ContainsRune(" ?#*{}", r) {
				return '/'
			}
			return r
		}, m.text(odd, 60))
	}
	return m.text(alphanum+upper+"-_./~%", 60)
}

// template has whole segments, one {**} at most, the last of its operators.
func (m *maker) template() v1alpha1.Path {
	var b strings.Builder
	for range m.size(8) {
		b.WriteString("/" + pick(m, "{*}", m.text(segment, 12)))
	}
	if m.chance(50) {
		b.WriteString("/{**}")
		for range m.IntN(3) {
			b.WriteString("/" + m.text(segment, 12))
		}
	}
	if m.chance(10) {
		b.WriteString("/")
	}
	return v1alpha1.Path(b.String())
}
