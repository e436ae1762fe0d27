package sidecar

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/servicesecurity/operator/controllers/traffic"
)

// FuzzParse: whatever a proxy answers is counters or an error, and what is read is inside the bounds.
func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.prom")
	for _, name := range files {
		body, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
	}
	for _, s := range []string{"", "<html>", "#TYPE A00000000000 \n{}0", uptime, uptime + plainHTTP + " 1\n", uptime + noPolicy + " 1\n", "# TYPE envoy_server_uptime summary\nenvoy_server_uptime_sum 1\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		c, err := parse(body)
		if (c == nil) == (err == nil) {
			t.Fatalf("counters %v, error %v", c, err)
		}
		if err != nil {
			return
		}
		if c.uptime < 0 || c.updates < 0 || c.drain < 0 || len(c.callers) > maxCallers+3 {
			t.Fatalf("counters are out of bounds: %+v", c)
		}
		for _, who := range c.callers {
			if len(who.workload) > maxName || len(who.namespace) > maxName || !utf8.ValidString(who.workload+who.namespace) || who.workload == "" {
				t.Fatalf("caller is %+v", who)
			}
		}
		if d := c.since(c); d.plain() || d.lost || d.mutual != 0 || d.unlabelled {
			t.Fatalf("counters differ from themselves: %+v", d)
		}
		if plain, mutual := c.totals(); plain < 0 || mutual < 0 || c.openTCP(ends{}) < 0 {
			t.Fatalf("totals are out of bounds: %+v", c)
		}
	})
}

// FuzzShadows: whatever a proxy answers is counts or an error, and no sum leaves the bounds of status.
func FuzzShadows(f *testing.F) {
	for _, name := range []string{"dryrun.prom", "dryrun-deny.prom", "dryrun-token.prom", "idle.prom"} {
		f.Add([]byte(prom(f, name)))
	}
	f.Add([]byte(uptime + judged("inbound_[__]_65535;", "deny", "4.6e18", "1e-9")))
	f.Fuzz(func(t *testing.T, body []byte) {
		read, err := parseShadows(body)
		if (read == nil) == (err == nil) {
			t.Fatalf("counts %v, error %v", read, err)
		}
		ports := map[int32]traffic.ShadowCount{}
		for range 4 {
			read.sum(ports, [2]bool{true, true})
		}
		list := inOrder(ports)
		for i, p := range list {
			if p.Port < 0 || p.Port > 65535 || p.Allowed < 0 || p.Refused < 0 || len(list) > traffic.MaxShadowPorts || i > 0 && list[i-1].Port >= p.Port {
				t.Fatalf("ports are out of bounds: %+v", list)
			}
		}
	})
}

// truth knows of all plaintext in a random history, whether it can be seen or not.
type truth struct {
	at    map[*simulated]time.Duration // last plaintext of each proxy
	first time.Time                    // the first complete reading
	// known are the pods that the operator was ever told of. One that comes and goes between two observations, or that
	// evidence does not speak of before an absence, nobody can know of.
	known, kept map[*simulated]bool
}

// FuzzTracker lets random things happen and holds the observations against the truth: the stretch that an observation
// claims to be free of plaintext, up to the reading before, is free of it.
func FuzzTracker(f *testing.F) {
	f.Add([]byte("\x00\x10\x20\x30\x01\x11\x0a\x0b\x0c"))
	f.Add([]byte("\x01\x05\x0d\x01\x02\x0d\x06\x0d\x07\x0d\x08\x0d"))
	f.Add([]byte("\x00\x0d\x10\x02\x0d\x14\x24\x0d\x09\x0d\x0b\x0d\x0c\x0d\x0d"))
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) > 200 {
			t.Skip()
		}
		w := newWorld(t)
		w.now = time.Hour
		h := &truth{at: map[*simulated]time.Duration{}, known: map[*simulated]bool{}}
		for i, b := range script {
			h.happens(w, b, i)
		}
	})
}

// happens lets one thing happen: the low bits say what, the high bits to whom.
func (h *truth) happens(w *world, b byte, i int) {
	if len(w.pods) == 0 {
		olderPod(string(rune('A'+i)), time.Duration(b)*time.Second)(w)
	}
	p := w.pods[int(b>>4)%len(w.pods)]
	plain := func(series string) {
		p.series[series]++
		h.at[p] = w.now
	}
	switch b & 15 {
	case 0:
		plain(plainHTTP)
	case 1:
		plain(plainTCPBytes)
	case 2:
		plain(plainMessage)
	case 3:
		p.series[mtlsHTTP]++
	case 4:
		p.err = errHTML
	case 5:
		p.err = nil
	case 6:
		restart(p.Name)(w)
		p.Restarts++
	case 7:
		if len(w.pods) < 5 {
			olderPod(string(rune('a'+i%26))+string(rune('a'+i/26)), time.Duration(b>>4)*time.Minute)(w)
		}
	case 8:
		p.Terminating = true
	case 9:
		if !p.Terminating {
			gone(p.Name)(w)
			if !h.known[p] {
				delete(h.at, p)
			}
		}
	case 10:
		if b>>4 == 0 {
			w.set -= 7 * time.Second
		}
	case 11:
		if b>>4 == 1 {
			operatorRestarts(w)
			h.known = map[*simulated]bool{}
			maps.Copy(h.known, h.kept)
			maps.DeleteFunc(h.at, func(p *simulated, _ time.Duration) bool { return !h.known[p] && !slices.Contains(w.pods, p) })
		}
	case 12:
		w.now += time.Duration(b>>4) * 7 * time.Second
	default:
		w.now += 10 * time.Second
		w.observe()
		for _, p := range w.pods {
			h.known[p] = true
		}
		if w.last.Completeness == traffic.Complete {
			h.kept = maps.Clone(h.known)
		}
		h.check(w.tb, w)
	}
}

// check holds the last observation against the truth.
func (h *truth) check(tb testing.TB, w *world) {
	o := w.last
	if (o.Completeness == traffic.Complete) == o.Since.IsZero() || (o.Message == "") != (o.Completeness == traffic.Complete) {
		tb.Fatalf("completeness, stretch and message disagree: %s", tell(o))
	}
	if o.Since.After(o.Time) || o.LastPlaintext.After(o.Time) || o.OpenPlaintext < 0 || o.MutualTLS < 0 || len(o.Callers) > maxListed {
		tb.Fatalf("observation is out of bounds: %s", tell(o))
	}
	if o.Completeness != traffic.Complete {
		return
	}
	if h.first.IsZero() {
		h.first = o.Since
	}
	if w.set == 0 && o.Since.Before(h.first) {
		tb.Fatalf("the stretch begins before the first complete reading: %s", tell(o))
	}
	clean := o.Since
	if o.LastPlaintext.After(clean) {
		clean = o.LastPlaintext
	}
	for p, at := range h.at {
		if p.Terminating && p.err != nil {
			continue // its last word was read; what it sees while it goes is the one thing that is not known
		}
		// What the clock was then is not known; as long as it was never set, the truth is on it.
		if w.set == 0 && epoch.Add(at).After(clean) {
			tb.Fatalf("plaintext of %s at %s is not known: %s", p.Name, at, tell(o))
		}
	}
}

// FuzzCalls reads what a caller's proxy may print: whatever it is, it does no harm and counts nothing below zero.
func FuzzCalls(f *testing.F) {
	f.Add([]byte(callerExposition), "httpbin.foo.svc.cluster.local")
	f.Add([]byte("istio_requests_total{reporter=\"source\",response_flags=\",,UF\",destination_service=\"a\"} 9e18\nenvoy_server_uptime 1\n"), "a")
	f.Add([]byte("istio_tcp_connections_closed_total{reporter=\"source\",response_flags=\"UR\"} 1\nenvoy_server_uptime 1\n"), "")
	f.Fuzz(func(t *testing.T, body []byte, service string) {
		for _, services := range []traffic.Services{{Names: []string{service}}, {Suffix: service}} {
			if _, err := regexp.Compile(callsFilter(services)); err != nil && utf8.ValidString(service) {
				t.Errorf("the filter for %q is none: %v", service, err)
			}
			calls, err := parseCalls(body, services)
			if calls.Arrived < 0 || calls.Failed < 0 || err != nil && calls != (traffic.PodCalls{}) {
				t.Errorf("got %+v, %v", calls, err)
			}
		}
	})
}
