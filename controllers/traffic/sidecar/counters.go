package sidecar

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

const (
	unknown = "unknown"
	// maxName is what the CRD allows for a caller's workload and namespace.
	maxName = 253
	// maxCallers bounds the callers kept of one proxy. A caller names itself, so the names are not to be trusted.
	maxCallers = 256
	// maxMeshed bounds those by mutual TLS, so that there is always room for the others, whose names matter more.
	maxMeshed = maxCallers / 2
	// maxUptime keeps a process start inside what a time.Duration can say: ninety years.
	maxUptime = 90 * 365 * 24 * 3600
)

// kind is what a series counts.
type kind uint8

const (
	mutualCounted kind = iota // requests and connections by mutual TLS
	mutualOther               // everything else by mutual TLS
	plainRequests
	plainMessages
	plainAnswers
	plainOpened
	plainClosed
	plainBytes
	unlabelled // a series that lacks the label that would tell
)

func (k kind) plain() bool { return k >= plainRequests && k <= plainBytes }
func (k kind) tcp() bool   { return k >= plainOpened && k <= plainBytes }

// sample is one destination series of one proxy. The series itself is kept as a hash: a proxy costs 24 bytes a series.
type sample struct {
	hash   uint64
	value  int64
	caller uint16
	kind   kind
}

// caller is who called, as far as the metrics know. One that sent plaintext has no principal; of one by mutual TLS there is
// only that, which is certain, and the workload that its own proxy says it is.
type caller struct {
	workload, namespace, protocol string
	principal                     string
}

// connections of one inbound port, from the statistics of its HTTP connection manager. A plain one is without TLS.
type connections struct {
	plainTotal, plainActive int64
}

// counters is what one scrape of one proxy said.
type counters struct {
	uptime  int64 // seconds
	updates int64
	drain   int64
	samples []sample // ordered by hash
	callers []caller
	// tcp are the plaintext connections of all series. It is told by the sums over the proxy, not by caller: a connection may be
	// opened before its peer is known, and closed after.
	tcp ends
	// plaintext is a digest of the plaintext series and what they count, the same in every process; empty without any.
	plaintext string
	// ports has the connections by workload port, 0 for the chain of ports that no Service knows. It is nil if the proxy
	// does not expose them all.
	ports map[int32]connections
	// missing names the metric and the label that it lacks.
	missing string
}

// metric says how to read a metric of Istio's.
type metric struct {
	mutual, plain kind
	// principal says that the metric has no connection_security_policy, and that the peer's principal tells instead.
	principal bool
	protocol  string
}

var metrics = map[string]metric{
	"istio_requests_total":               {mutual: mutualCounted, plain: plainRequests},
	"istio_request_messages_total":       {mutual: mutualOther, plain: plainMessages, principal: true, protocol: "GRPC"},
	"istio_response_messages_total":      {mutual: mutualOther, plain: plainAnswers, principal: true, protocol: "GRPC"},
	"istio_tcp_connections_opened_total": {mutual: mutualCounted, plain: plainOpened, protocol: "TCP"},
	"istio_tcp_connections_closed_total": {mutual: mutualOther, plain: plainClosed, protocol: "TCP"},
	"istio_tcp_received_bytes_total":     {mutual: mutualOther, plain: plainBytes, protocol: "TCP"},
	"istio_tcp_sent_bytes_total":         {mutual: mutualOther, plain: plainBytes, protocol: "TCP"},
}

var (
	errNotEnvoy  = errors.New("the answer has no envoy_server_uptime, so it is not from Envoy")
	errDuplicate = errors.New("a series appears twice in the answer")
	errGarbled   = errors.New("the parser found no way through it")
	errHTML      = errors.New("it answered with HTML, not with metrics")
	errEmpty     = errors.New("it answered with nothing, not even the metrics that every Envoy has")
)

// seed makes the hashes of series unpredictable, so that no caller can choose names that collide.
var seed = maphash.MakeSeed()

// parse reads an exposition.
func parse(body []byte) (*counters, error) {
	c, families, err := exposition(body)
	if err != nil {
		return nil, err
	}
	if err := c.traffic(families); err != nil {
		return nil, err
	}
	if err := c.connections(families); err != nil {
		return nil, err
	}
	return c, nil
}

// exposition reads an answer as far as the answers of all proxies go alike: that it is one, and what the proxy says of itself.
func exposition(body []byte) (*counters, map[string]*dto.MetricFamily, error) {
	switch trimmed := bytes.TrimSpace(body); {
	case len(trimmed) == 0:
		return nil, nil, errEmpty
	case trimmed[0] == '<':
		return nil, nil, errHTML
	}
	families, err := familiesOf(body)
	if err != nil {
		return nil, nil, fmt.Errorf("its answer is not in Prometheus' text format: %w", err)
	}
	c := &counters{}
	if err := c.process(families); err != nil {
		return nil, nil, err
	}
	return c, families, nil
}

// familiesOf has Prometheus' own parser read the answer. The parser panics on some that are no exposition, such as a sample
// without a name after a type without samples; a pod must not be able to stop the operator with that.
func familiesOf(body []byte) (families map[string]*dto.MetricFamily, err error) {
	defer func() {
		if recover() != nil {
			families, err = nil, errGarbled
		}
	}()
	if !utf8.Valid(body) {
		// Names that a caller gives itself may be anything; the parser takes only UTF-8.
		body = bytes.ToValidUTF8(body, []byte("\uFFFD"))
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	return parser.TextToMetricFamilies(bytes.NewReader(body))
}

// process reads what the proxy says of itself.
func (c *counters) process(families map[string]*dto.MetricFamily) error {
	if _, ok := families["envoy_server_uptime"]; !ok {
		return errNotEnvoy
	}
	for name, into := range map[string]*int64{
		"envoy_server_uptime":                                 &c.uptime,
		"envoy_listener_manager_listener_modified":            &c.updates,
		"envoy_listener_manager_listener_in_place_updated":    &c.updates,
		"envoy_listener_manager_total_listeners_draining":     &c.drain,
		"envoy_listener_manager_total_filter_chains_draining": &c.drain,
	} {
		for _, m := range families[name].GetMetric() {
			v, err := value(name, m)
			if err != nil {
				return err
			}
			*into = add(*into, v)
		}
	}
	if c.uptime > maxUptime {
		return fmt.Errorf("envoy_server_uptime is %d seconds, which no process runs", c.uptime)
	}
	return nil
}

// traffic reads the series that the proxy reports as the destination; what it sent itself is another target's.
func (c *counters) traffic(families map[string]*dto.MetricFamily) error {
	known := map[caller]uint16{}
	var plaintext []string
	for name, how := range metrics {
		for _, m := range families[name].GetMetric() {
			l := labelsOf(m)
			if l.reporter != "destination" && l.reporter != "" {
				continue
			}
			v, err := value(name, m)
			if err != nil {
				return err
			}
			s := sample{hash: hash(name, m), value: v, kind: c.kind(name, how, l)}
			switch {
			case s.kind.plain():
				s.caller = c.intern(known, l.caller(how), maxCallers)
				plaintext = append(plaintext, text(name, m, v))
			case s.kind == mutualCounted:
				s.caller = c.intern(known, l.meshed(), maxMeshed)
			}
			c.samples = append(c.samples, s)
			c.tcp.count(s)
		}
	}
	c.plaintext = digest(plaintext)
	slices.SortFunc(c.samples, func(a, b sample) int {
		if a.hash < b.hash {
			return -1
		}
		if a.hash > b.hash {
			return 1
		}
		return 0
	})
	for i := 1; i < len(c.samples); i++ {
		if c.samples[i].hash == c.samples[i-1].hash {
			return errDuplicate
		}
	}
	return nil
}

// kind tells plaintext from mutual TLS. Anything but the word for mutual TLS is plaintext.
func (c *counters) kind(name string, how metric, l labels) kind {
	switch {
	case l.reporter == "":
		c.lacks(name, "reporter")
		return unlabelled
	case how.principal && (l.principal == "" || l.principal == "-" || l.principal == unknown):
		return how.plain
	case how.principal:
		return how.mutual
	case l.policy == "":
		c.lacks(name, "connection_security_policy")
		return unlabelled
	case l.policy == "mutual_tls":
		return how.mutual
	}
	return how.plain
}

// lacks keeps the first of the missing labels by name, so that the message does not change with the order of a map.
func (c *counters) lacks(name, label string) {
	if text := fmt.Sprintf("the label %s of %s is missing", label, name); c.missing == "" || text < c.missing {
		c.missing = text
	}
}

// intern gives a caller its number, and copies what it says of itself, to let go of the whole answer. Beyond the bound,
// callers are counted without a name.
func (c *counters) intern(known map[caller]uint16, who caller, bound int) uint16 {
	if _, ok := known[who]; !ok && len(c.callers) >= bound {
		who = caller{workload: unknown, protocol: who.protocol}
	}
	i, ok := known[who]
	if !ok {
		who.workload, who.namespace, who.principal = strings.Clone(who.workload), strings.Clone(who.namespace), strings.Clone(who.principal)
		i = uint16(len(c.callers)) //nolint:gosec // bounded by maxCallers and one unknown caller per protocol
		known[who] = i
		c.callers = append(c.callers, who)
	}
	return i
}

// cx are the four statistics of a connection manager.
type cx struct {
	total, sslTotal, active, sslActive int64
	seen                               uint8
}

// connections reads the connections of inbound ports. All four statistics are needed: Istio exposes downstream_cx_active
// alone to proxies that wait for their connections when they end, and alone it does not tell plaintext from TLS.
func (c *counters) connections(families map[string]*dto.MetricFamily) error {
	found := map[string]*cx{}
	for i, name := range []string{
		"envoy_http_downstream_cx_total", "envoy_http_downstream_cx_ssl_total",
		"envoy_http_downstream_cx_active", "envoy_http_downstream_cx_ssl_active",
	} {
		for _, m := range families[name].GetMetric() {
			prefix := manager(m)
			if !inbound(prefix) {
				continue
			}
			v, err := value(name, m)
			if err != nil {
				return err
			}
			s := found[prefix]
			if s == nil {
				s = &cx{}
				found[prefix] = s
			}
			*[]*int64{&s.total, &s.sslTotal, &s.active, &s.sslActive}[i] = v
			s.seen |= 1 << i
		}
	}
	ports := make(map[int32]connections, len(found))
	for prefix, s := range found {
		if s.seen != 0b1111 {
			return nil
		}
		port := portOf(prefix)
		p := ports[port]
		p.plainTotal = add(p.plainTotal, max(0, s.total-s.sslTotal))
		p.plainActive = add(p.plainActive, max(0, s.active-s.sslActive))
		ports[port] = p
	}
	if len(ports) > 0 {
		c.ports = ports
	}
	return nil
}

// inbound says whether a connection manager's prefix is that of inbound traffic.
func inbound(prefix string) bool {
	return strings.HasPrefix(prefix, "inbound_") || strings.HasPrefix(prefix, "InboundPassthroughCluster")
}

// portOf reads the workload port in inbound_0.0.0.0_8000 or inbound_[__]_8000. Zero is the chain for ports that no Service
// knows.
func portOf(prefix string) int32 {
	if !strings.HasPrefix(prefix, "inbound_") {
		return 0
	}
	port, err := strconv.ParseUint(prefix[strings.LastIndexByte(prefix, '_')+1:], 10, 16)
	if err != nil {
		return 0
	}
	return int32(port)
}

// labels are those that are looked at.
type labels struct {
	reporter, policy, principal, workload, namespace, protocol string
}

func labelsOf(m *dto.Metric) (l labels) {
	for _, p := range m.GetLabel() {
		switch p.GetName() {
		case "reporter":
			l.reporter = p.GetValue()
		case "connection_security_policy":
			l.policy = p.GetValue()
		case "source_principal":
			l.principal = p.GetValue()
		case "source_workload":
			l.workload = p.GetValue()
		case "source_workload_namespace":
			l.namespace = p.GetValue()
		case "request_protocol":
			l.protocol = p.GetValue()
		}
	}
	return l
}

func (l labels) caller(how metric) caller {
	who := caller{workload: bounded(l.workload), namespace: bounded(l.namespace), protocol: how.protocol}
	switch who.workload {
	case "", "-":
		who.workload = unknown
	}
	switch who.namespace {
	case unknown, "-":
		who.namespace = ""
	}
	if who.protocol == "" {
		who.protocol = "HTTP"
		if l.protocol == "grpc" {
			who.protocol = "GRPC"
		}
	}
	return who
}

// meshed is a caller by mutual TLS.
func (l labels) meshed() caller {
	who := caller{principal: bounded(l.principal), workload: bounded(l.workload)}
	if who.workload == unknown || who.workload == "-" {
		who.workload = ""
	}
	return who
}

// bounded cuts a string to what the CRD allows, never inside a character.
func bounded(s string) string {
	if len(s) > maxName {
		s = s[:maxName]
		for !utf8.ValidString(s) {
			s = s[:len(s)-1]
		}
	}
	return s
}

func label(m *dto.Metric, name string) string {
	for _, p := range m.GetLabel() {
		if p.GetName() == name {
			return p.GetValue()
		}
	}
	return ""
}

// hash identifies a series by its name and labels, whatever their order.
func hash(name string, m *dto.Metric) uint64 {
	pairs := m.GetLabel()
	slices.SortFunc(pairs, func(a, b *dto.LabelPair) int { return strings.Compare(a.GetName(), b.GetName()) })
	var h maphash.Hash
	h.SetSeed(seed)
	_, _ = h.WriteString(name)
	for _, p := range pairs {
		// With their lengths, so that no value can pass for its end and another label. One by one, so that nothing is allocated.
		for _, text := range []string{p.GetName(), p.GetValue()} {
			var length [20]byte
			_, _ = h.Write(append(strconv.AppendInt(length[:0], int64(len(text)), 10), 0))
			_, _ = h.WriteString(text)
		}
	}
	return h.Sum64()
}

// text is a series and what it counts. Its labels are in order, as hash has left them.
func text(name string, m *dto.Metric, v int64) string {
	var b strings.Builder
	_, _ = fmt.Fprintf(&b, "%d %s", v, name)
	for _, p := range m.GetLabel() {
		_, _ = fmt.Fprintf(&b, " %q %q", p.GetName(), p.GetValue())
	}
	return b.String()
}

// digest stands for lines in whatever order; it is empty without any.
func digest(lines []string) string {
	if len(lines) == 0 {
		return ""
	}
	slices.Sort(lines)
	sum := sha256.Sum256([]byte(strings.Join(lines, "\n")))
	return hex.EncodeToString(sum[:16])
}

// value reads a count. What is no count is an error: a proxy that prints such things cannot be concluded from.
func value(name string, m *dto.Metric) (int64, error) {
	var v float64
	switch {
	case m.Counter != nil:
		v = m.GetCounter().GetValue()
	case m.Gauge != nil:
		v = m.GetGauge().GetValue()
	case m.Untyped != nil:
		v = m.GetUntyped().GetValue()
	default:
		return 0, fmt.Errorf("%s is neither a counter nor a gauge", name)
	}
	if math.IsNaN(v) || v < 0 || v >= 1<<62 {
		return 0, fmt.Errorf("%s has the value %v, which is no count", name, v)
	}
	return int64(v), nil
}

// add stays at the largest number instead of going over it. Counts are never negative.
func add(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}
