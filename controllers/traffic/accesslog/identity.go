package accesslog

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/servicesecurity/operator/controllers/facts"
)

// maxNodeID bounds what a proxy calls itself: two names of Kubernetes, an address and a domain.
const maxNodeID = 1024

// claim is the pod that a stream says it comes from.
type claim struct {
	namespace, pod string
}

// parseNode reads the name that istiod gives proxies: type~IP~pod.namespace~domain.
func parseNode(id string) (claim, error) {
	if len(id) > maxNodeID {
		return claim{}, errors.New("reading the node's name: it is too long")
	}
	parts := strings.Split(id, "~")
	if len(parts) != 4 || parts[0] != "sidecar" {
		return claim{}, errors.New("reading the node's name: it is not sidecar~IP~pod.namespace~domain")
	}
	dot := strings.LastIndexByte(parts[2], '.')
	if dot <= 0 || dot == len(parts[2])-1 {
		return claim{}, errors.New("reading the node's name: its third part is not pod.namespace")
	}
	return claim{namespace: parts[2][dot+1:], pod: parts[2][:dot]}, nil
}

// peer is what a connection shows of who is at its other end.
type peer struct {
	address netip.Addr
	// identity that the operator's own sidecar vouches for; zero without one.
	identity spiffe
}

// sidecarSources are the addresses that Istio's sidecar calls its own application from.
var sidecarSources = []netip.Addr{netip.MustParseAddr("127.0.0.6"), netip.MustParseAddr("::6")}

// bySidecar says that a connection comes from the operator's own sidecar. Nobody outside the pod can use its addresses.
func bySidecar(address netip.Addr) bool {
	return address == sidecarSources[0] || address == sidecarSources[1]
}

// key is what a peer's streams are counted by.
func (p peer) key() string {
	if p.identity != (spiffe{}) {
		return p.identity.String()
	}
	return p.address.String()
}

// verify says whether a peer may log for a pod, and whether the pod's identity is proven.
func (p peer) verify(pod facts.Identity) (authenticated bool, err error) {
	if p.identity != (spiffe{}) {
		if p.identity.namespace != pod.Namespace || p.identity.account != pod.ServiceAccount {
			return false, fmt.Errorf("checking the claim: the connection is of service account %s/%s, and pod %s/%s runs under another",
				p.identity.namespace, p.identity.account, pod.Namespace, pod.Name)
		}
		return true, nil
	}
	own, err := netip.ParseAddr(pod.Address)
	if err != nil || own.Unmap() != p.address {
		return false, fmt.Errorf("checking the claim: the connection does not come from the address of pod %s/%s", pod.Namespace, pod.Name)
	}
	return false, nil
}

// spiffe is an identity of the mesh.
type spiffe struct {
	domain, namespace, account string
}

func (s spiffe) String() string {
	return "spiffe://" + s.domain + "/ns/" + s.namespace + "/sa/" + s.account
}

// parseSPIFFE reads spiffe://domain/ns/NAMESPACE/sa/ACCOUNT.
func parseSPIFFE(text string) (spiffe, error) {
	rest, ok := strings.CutPrefix(text, "spiffe://")
	parts := strings.Split(rest, "/")
	if !ok || len(parts) != 5 || parts[1] != "ns" || parts[3] != "sa" || parts[0] == "" || parts[2] == "" || parts[4] == "" {
		return spiffe{}, errors.New("reading the identity: it is not spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT")
	}
	return spiffe{domain: parts[0], namespace: parts[2], account: parts[4]}, nil
}

// maxXFCC bounds the header that is read.
const maxXFCC = 8 << 10

// parseXFCC reads the caller's identity from x-forwarded-client-cert as the operator's own sidecar wrote it: the last
// element is its own, whatever the caller had put before it. The caller must be of the sidecar's own trust domain: another
// mesh may have the same names.
func parseXFCC(header string) (spiffe, error) {
	if len(header) > maxXFCC {
		return spiffe{}, errors.New("reading x-forwarded-client-cert: it is too long")
	}
	elements, err := split(header, ',')
	if err != nil {
		return spiffe{}, err
	}
	pairs, err := split(elements[len(elements)-1], ';')
	if err != nil {
		return spiffe{}, err
	}
	var by, uris []string
	for _, pair := range pairs {
		key, value, _ := strings.Cut(pair, "=")
		switch strings.ToLower(strings.TrimSpace(key)) {
		case "by":
			by = append(by, unquote(value))
		case "uri":
			uris = append(uris, unquote(value))
		}
	}
	if len(by) != 1 || len(uris) != 1 {
		return spiffe{}, errors.New("reading x-forwarded-client-cert: its last element does not have one By and one URI")
	}
	own, err := parseSPIFFE(by[0])
	if err != nil {
		return spiffe{}, err
	}
	caller, err := parseSPIFFE(uris[0])
	if err != nil {
		return spiffe{}, err
	}
	if caller.domain != own.domain {
		return spiffe{}, errors.New("reading x-forwarded-client-cert: the caller is of another trust domain")
	}
	return caller, nil
}

// split cuts at separators outside of quotes. A quote that is not closed is an error: what follows it is not what it seems.
func split(text string, separator byte) ([]string, error) {
	var parts []string
	start, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case c == separator && !quoted:
			parts, start = append(parts, text[start:i]), i+1
		}
	}
	if quoted {
		return nil, errors.New("reading x-forwarded-client-cert: a quote is not closed")
	}
	return append(parts, text[start:]), nil
}

// unquote takes off quotes.
func unquote(value string) string {
	value = strings.TrimSpace(value)
	if len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"' {
		return value[1 : len(value)-1]
	}
	return value
}
