package promql

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"

	"github.com/servicesecurity/operator/controllers/traffic"
	"github.com/servicesecurity/operator/test/testbed/pki"
)

// authority is one that the operator or the server trusts, with a certificate of it.
func authority(t *testing.T, name string) (*x509.CertPool, []byte, pki.Pair) {
	t.Helper()
	a, err := pki.NewAuthority(name)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := a.Issue(pki.Subject{Name: name, Hosts: []string{"localhost"}, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}})
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(a.Certificate())
	return pool, a.Certificate(), pair
}

// TestTLS: the certificates of a Secret are used, those of another authority are refused, and renewed ones are read without a
// restart.
func TestTLS(t *testing.T) {
	s := play(t, nil)
	_, serverCA, serverPair := authority(t, "server")
	clients, _, clientPair := authority(t, "client")
	renewed, _, renewedPair := authority(t, "renewed")
	_, foreignCA, _ := authority(t, "foreign")
	certificate, err := tls.X509KeyPair(serverPair.Cert, serverPair.Key)
	if err != nil {
		t.Fatal(err)
	}
	secure := httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	secure.Config.ErrorLog = nil
	trusted := clients
	secure.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return &tls.Config{Certificates: []tls.Certificate{certificate}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: trusted}, nil
	}}
	secure.StartTLS()
	t.Cleanup(secure.Close)

	dir := t.TempDir()
	write := func(name string, content []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("client.yaml", []byte("tls_config: {ca_file: ca.crt, cert_file: tls.crt, key_file: tls.key}\n"))
	write("ca.crt", serverCA)
	write("tls.crt", clientPair.Cert)
	write("tls.key", clientPair.Key)
	clock := clocktesting.NewFakePassiveClock(s.now)
	o := s.observer(clock, func(o *Options) { o.URL, o.ConfigFile = secure.URL, filepath.Join(dir, "client.yaml") })
	expect := func(what string, want traffic.Completeness, says string) {
		t.Helper()
		secure.CloseClientConnections()
		s.now = s.now.Add(15 * time.Second)
		clock.SetTime(s.now)
		s.server.now = s.now
		s.scrape(s.pod, s.now.Add(-time.Second))
		if seen := o.Observe(context.Background(), s.request(nil)); seen.Completeness != want || !strings.Contains(seen.Message, says) {
			t.Errorf("%s: %s: %s", what, seen.Completeness, seen.Message)
		}
	}
	expect("the Secret as it is", traffic.Complete, "")
	trusted = renewed
	expect("the server trusts others", traffic.Unavailable, "it cannot be reached")
	write("tls.crt", renewedPair.Cert)
	write("tls.key", renewedPair.Key)
	expect("the certificate is renewed", traffic.Complete, "")
	write("ca.crt", foreignCA)
	expect("another authority", traffic.Unavailable, "it cannot be reached")
	write("ca.crt", serverCA)
	expect("the right one again", traffic.Complete, "")
}
