package builder

import (
	"fmt"
	"strings"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

func (m *maker) authorization() *v1alpha1.Authorization {
	out := &v1alpha1.Authorization{
		Enforcement: pick(m, "", v1alpha1.EnforcementEnforced, v1alpha1.EnforcementEnforced, v1alpha1.EnforcementDryRun),
		Default:     pick(m, "", v1alpha1.DefaultDeny, v1alpha1.DefaultDeny, v1alpha1.DefaultAllow),
	}
	if out.Default != v1alpha1.DefaultAllow && m.chance(90) {
		out.AllowedCallers = m.callers()
	}
	if out.Default == v1alpha1.DefaultAllow || m.chance(50) {
		out.DeniedCallers = m.callers()
	}
	return out
}

func (m *maker) callers() []v1alpha1.Caller {
	var out []v1alpha1.Caller
	for _, name := range many(m, 64, func() string { return m.name(alphanum+"-", 63) }) {
		out = append(out, m.caller(name))
	}
	return out
}

// caller has one condition at least; each kind of condition comes alone, too, which shows most of what can go wrong.
func (m *maker) caller(name string) v1alpha1.Caller {
	only, also := m.IntN(9), pick(m, 0, 15, 40)
	percent := func(kind int) int {
		if kind == only {
			return 100
		}
		return also
	}
	out := v1alpha1.Caller{
		Name:              name,
		ServiceAccounts:   some(m, percent(0), 16, m.serviceAccount),
		Namespaces:        some(m, percent(1), 16, func() v1alpha1.NamespaceName { return v1alpha1.NamespaceName(m.name(alphanum+"-", 63)) }),
		Principals:        some(m, percent(2), 16, m.principal),
		IPBlocks:          some(m, percent(3), 16, m.block),
		RemoteIPBlocks:    some(m, percent(4), 16, m.block),
		RequestPrincipals: some(m, percent(5), 16, m.requestPrincipal),
	}
	if m.chance(percent(6)) {
		for range m.size(16) {
			out.Claims = append(out.Claims, m.claim())
		}
	}
	for _, header := range some(m, percent(7), 16, m.header) {
		out.Headers = append(out.Headers, v1alpha1.HeaderMatch{Name: header, Values: many(m, 16, m.match)})
	}
	if m.chance(percent(8)) {
		for range m.size(16) {
			out.Operations = append(out.Operations, m.operation())
		}
	}
	return out
}

func (m *maker) serviceAccount() v1alpha1.ServiceAccountRef {
	name := m.name(alphanum+"-.", 180)
	if m.chance(50) {
		return v1alpha1.ServiceAccountRef(m.name(alphanum+"-", 63) + "/" + name)
	}
	return v1alpha1.ServiceAccountRef(name)
}

// principal has what means something in a regular expression only where no * comes first: of what follows that one, Istio
// makes a regular expression as it stands, and Envoy refuses the whole listener if it is none.
func (m *maker) principal() v1alpha1.Principal {
	if m.chance(20) {
		return v1alpha1.Principal(m.solid() + pick(m, "", "*"))
	}
	return v1alpha1.Principal(m.starred(fmt.Sprintf("%s/ns/%s/sa/%s", pick(m, "cluster.local", "other.domain"), m.label(20), m.label(20))))
}

// solid is text without blanks and stars.
func (m *maker) solid() string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune(" *", r) {
			return '.'
		}
		return r
	}, m.text(odd, 100))
}

func (m *maker) starred(text string) string {
	switch m.IntN(8) {
	case 0:
		return "*"
	case 1:
		return "*" + text
	case 2:
		return text + "*"
	}
	return text
}

func (m *maker) block() v1alpha1.IPBlock {
	byteOf := func() int { return m.IntN(256) }
	v4 := fmt.Sprintf("%d.%d.%d.%d", byteOf(), byteOf(), byteOf(), byteOf())
	v6 := pick(m, "::", "::1", "2001:db8::", fmt.Sprintf("2001:db8::%x:%x", byteOf(), byteOf()), "fe80::1", "2001:DB8::A")
	switch m.IntN(5) {
	case 0:
		return v1alpha1.IPBlock(v4)
	case 1:
		return v1alpha1.IPBlock(v6)
	case 2:
		return v1alpha1.IPBlock(fmt.Sprintf("%s/%d", v6, m.IntN(129)))
	case 3:
		return pick[v1alpha1.IPBlock](m, "0.0.0.0/0", "::/0", "0.0.0.0", "255.255.255.255/32")
	}
	return v1alpha1.IPBlock(fmt.Sprintf("%s/%d", v4, m.IntN(33)))
}

func (m *maker) requestPrincipal() v1alpha1.RequestPrincipal {
	issuer, subject := string(m.address()), m.label(30)
	if m.chance(20) {
		// A scheme is followed by a host, and nothing after the last / is a part of the issuer.
		issuer = strings.TrimRight(m.solid(), ":/") + "."
		subject = "s" + strings.ReplaceAll(m.solid(), "/", "")
	}
	switch m.IntN(8) {
	case 0:
		return pick[v1alpha1.RequestPrincipal](m, "/*", "*/*", "*")
	case 1:
		return v1alpha1.RequestPrincipal("*" + issuer + "/*")
	case 2:
		return v1alpha1.RequestPrincipal("*" + issuer + "/" + subject)
	case 3:
		return v1alpha1.RequestPrincipal(issuer + "/" + subject + "*")
	case 4:
		return v1alpha1.RequestPrincipal(issuer + "/*")
	case 5:
		return v1alpha1.RequestPrincipal("*/" + subject)
	}
	return v1alpha1.RequestPrincipal(issuer + "/" + subject)
}

func (m *maker) claim() v1alpha1.ClaimMatch {
	one := func() v1alpha1.Text {
		return v1alpha1.Text(strings.NewReplacer("[", "(", "]", ")").Replace(string(m.plain())))
	}
	out := v1alpha1.ClaimMatch{Values: many(m, 16, m.match)}
	if m.chance(50) {
		out.Name = one()
	} else {
		for range m.size(16) {
			out.Path = append(out.Path, one())
		}
	}
	return out
}

// operation has one condition at least.
func (m *maker) operation() v1alpha1.Operation {
	var out v1alpha1.Operation
	for len(out.Methods)+len(out.Paths)+len(out.Hosts)+len(out.Ports) == 0 {
		out = v1alpha1.Operation{
			Methods: some(m, 40, 16, m.method), Paths: some(m, 40, 16, func() v1alpha1.Path { return m.path() }),
			Hosts: some(m, 20, 16, m.host),
		}
		for _, port := range some(m, 40, 16, m.port) {
			out.Ports = append(out.Ports, v1alpha1.Port(port))
		}
	}
	return out
}

func (m *maker) method() v1alpha1.Method {
	if m.chance(10) {
		return v1alpha1.Method(m.text(upper, 1) + m.text(upper+"-", 31))
	}
	return pick[v1alpha1.Method](m, "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "M-SEARCH")
}

func (m *maker) host() v1alpha1.Host {
	name := m.subdomain(200)
	if m.chance(20) {
		name = strings.ReplaceAll(m.solid(), "/", ".")
	}
	if m.chance(20) {
		name += ":8080"
	}
	return v1alpha1.Host(m.starred(name))
}
