package promql

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// queriesPerPoll is how many queries a poll asks, however many profiles there are.
const queriesPerPoll = 5

const (
	// listed bounds the callers that the server returns of a workload.
	listed = 20
	// historySteps is into how many steps the longest window is cut: a time read from history is late by up to one.
	historySteps = 300
	// trafficSteps is into how many the counts by mutual TLS are: fewer, because each workload answers with all of them.
	trafficSteps = 24
	// maxScrapes is how many scrapes one poll reads: of 1,000 proxies every 15 s those of four hours. A server decodes all
	// samples of them several times over, and ends a query at --query.timeout and --query.max-samples.
	maxScrapes = 1_000_000
	// recently is how far back proxies are looked for that have just gone, and what the scrape interval is told from: the best
	// of several such times, for scrapes that failed make it look longer than it is.
	recently = 5 * time.Minute
	several  = 6
	// maxNamespaces and maxSuspects are what a query names; with more it asks for all.
	maxNamespaces = 50
	maxSuspects   = 200
	// startTolerance is by how much two estimates of one process's start may differ: see sidecar.
	startTolerance = 12 * time.Second
)

// The label that tells the parts of an answer apart, and those that it groups by.
const (
	part                = "part"
	destinationWorkload = "destination_workload"
	destinationCluster  = "destination_cluster"
	sourceWorkload      = "source_workload"
	sourceNamespace     = "source_workload_namespace"
	protocolLabel       = "request_protocol"
	policyLabel         = "connection_security_policy"
	reporterLabel       = "reporter"
)

// The parts.
const (
	partAt       = "at"       // when a proxy was last scraped
	partStarted  = "started"  // when its process started
	partGone     = "gone"     // scraped recently, but not now
	partNow      = "now"      // the server's clock
	partInterval = "interval" // between scrapes
	partCopies   = "copies"   // of each proxy's series

	partRestart = "restart" // another process of the same pod
	partVanish  = "vanish"  // no scrape any more
	partAppear  = "appear"  // scraped again, or at last, long after its start
	partBirth   = "birth"   // scraped for the first time, young
	partOutage  = "outage"  // no proxy scraped at all
	partCluster = "cluster" // series of another cluster

	partRequests = "requests"
	partOpen     = "open"
	partServes   = "serves" // the workload that a proxy counts for
)

// asked says what the queries of a poll are about.
type asked struct {
	// namespaces to ask for; all of them if empty.
	namespaces []string
	// at is up to when this poll reads, on the server's clock: now, unless there is more to read than one poll should.
	at time.Time
	// span is how far back from there it reads, and step its resolution.
	span, step time.Duration
	// since is how far back the counts go: to the poll before, without an overlap.
	since time.Duration
	// gap is how long a proxy may go without a scrape that its counters make good.
	gap time.Duration
	// afresh says that nothing is kept of the polls before.
	afresh bool
	// trafficStep is that of the counts by mutual TLS; zero if only their sum is wanted.
	trafficStep time.Duration
	// suspects are the workloads of which it matters which pods count for them.
	suspects []string
}

// schema is how the server's series are labelled.
type schema struct {
	namespace, pod string
	cluster        string
	matchers       string
}

var plaintextByPolicy = []string{
	"istio_requests_total",
	"istio_tcp_connections_opened_total",
	"istio_tcp_connections_closed_total",
	"istio_tcp_received_bytes_total",
	"istio_tcp_sent_bytes_total",
}

var plaintextByPrincipal = []string{"istio_request_messages_total", "istio_response_messages_total"}

// counted are the metrics whose counts are shown: requests and connections.
var counted = []string{"istio_requests_total", "istio_tcp_connections_opened_total"}

// heartbeat selects the one series that every scrape of a proxy has, whatever its traffic.
func (s schema) heartbeat(namespaces []string) string {
	return fmt.Sprintf(`envoy_server_uptime{%s}`, s.where(namespaces))
}

// alive selects what tells that a pod was there to be scraped, if only in vain.
func (s schema) alive(namespaces []string) string {
	return fmt.Sprintf(`{__name__=~"envoy_server_uptime|up",%s}`, s.where(namespaces))
}

// where are the matchers of every selector.
func (s schema) where(namespaces []string, more ...string) string {
	matchers := []string{s.pod + `!=""`}
	if len(namespaces) == 0 || len(namespaces) > maxNamespaces {
		matchers = append(matchers, s.namespace+`!=""`)
	} else {
		matchers = append(matchers, s.namespace+"=~"+strconv.Quote(exactly(namespaces)))
	}
	if s.matchers != "" {
		matchers = append(matchers, s.matchers)
	}
	return strings.Join(append(matchers, more...), ",")
}

// exactly is the regular expression that matches these values.
func exactly(values []string) string {
	quoted := make([]string, 0, len(values))
	for _, v := range values {
		quoted = append(quoted, regexp.QuoteMeta(v))
	}
	slices.Sort(quoted)
	return strings.Join(quoted, "|")
}

// plaintext selects the series of a metric, or of several of a kind with | between them, that are not known to be mutual TLS.
// One that does not say is among them.
func (s schema) plaintext(metric string, namespaces []string) string {
	more := []string{`__name__=~"` + metric + `"`, reporterLabel + `=~"destination|"`}
	if strings.Contains(metric, "_messages_") {
		more = append(more, `source_principal=~"unknown|-|"`)
	} else {
		more = append(more, policyLabel+`!="mutual_tls"`)
	}
	if s.cluster != "" {
		more = append(more, destinationCluster+"=~"+strconv.Quote(regexp.QuoteMeta(s.cluster)+"|unknown|"))
	}
	return "{" + s.where(namespaces, more...) + "}"
}

func (s schema) mutual(metric string, namespaces []string) string {
	more := s.here(reporterLabel+`="destination"`, policyLabel+`="mutual_tls"`)
	return metric + "{" + s.where(namespaces, more...) + "}"
}

// here adds that it is of this cluster, where that has a name.
func (s schema) here(more ...string) []string {
	if s.cluster != "" {
		more = append(more, destinationCluster+"="+strconv.Quote(s.cluster))
	}
	return more
}

// serves asks which proxies count for the suspects.
func (s schema) serves(a asked) string {
	more := []string{`__name__=~"` + strings.Join(counted, "|") + `"`, reporterLabel + `="destination"`}
	if len(a.suspects) <= maxSuspects {
		more = append(more, destinationWorkload+"=~"+strconv.Quote(exactly(a.suspects)))
	}
	return fmt.Sprintf("group by (%s,%s) ({%s})", s.proxy(), destinationWorkload, s.where(a.namespaces, s.here(more...)...))
}

// by is a list of labels to group by.
func (s schema) by(more ...string) string {
	return strings.Join(append([]string{s.namespace, destinationWorkload, destinationCluster}, more...), ",")
}

func (s schema) callers() string {
	return s.by(sourceWorkload, sourceNamespace, protocolLabel, policyLabel, reporterLabel)
}

func (s schema) proxy() string { return s.namespace + "," + s.pod }

func named(name, expression string) string {
	return fmt.Sprintf(`label_replace(%s,"%s","%s","","")`, expression, part, name)
}

func anyOf(terms ...string) string { return strings.Join(terms, "\nor ") }

// lastTime is when an expression last had a result, now or at a step of the span. A time of now comes first: of equal
// labels, or takes the left.
func (a asked) lastTime(expression string) string {
	at := fmt.Sprintf("(%s) * time()", expression)
	return fmt.Sprintf("(%s) or max_over_time((%s)[%s:%s])", at, at, text(a.span), text(a.step))
}

// proxies asks what the server knows of the proxies now, by its own clock.
func (s schema) proxies(a asked) string {
	up, by, r := s.heartbeat(a.namespaces), s.proxy(), text(recently)
	return anyOf(
		named(partNow, "vector(time())"),
		named(partAt, fmt.Sprintf("min by (%s) (timestamp(%s))", by, up)),
		named(partStarted, fmt.Sprintf("max by (%s) (timestamp(%s) - %s)", by, up, up)),
		named(partGone, fmt.Sprintf("(group by (%s) (last_over_time(%s[%s])) unless group by (%s) (%s))", by, up, r, by, up)),
		// The uptime is a clock that runs between the first scrape and the last.
		named(partInterval, fmt.Sprintf("min by (%s) (min_over_time(((max_over_time(%s[%s]) - min_over_time(%s[%s])) / (count_over_time(%s[%s]) - 1 > 3))[%s:%s]))",
			by, up, r, up, r, up, r, text(several*recently), text(recently))),
		named(partCopies, fmt.Sprintf("max(count by (%s) (%s))", by, up)),
	)
}

// events asks when the scraping of a proxy last began, ended, or found another process.
func (s schema) events(a asked) string {
	up, alive, by := s.heartbeat(a.namespaces), s.alive(a.namespaces), s.proxy()
	step, gap, both := text(a.step), text(a.gap), a.step+a.gap
	// When an outage ends matters, not when it was first found.
	fine := a
	fine.step = min(a.step, a.gap/2)
	start := func(offset string) string {
		return fmt.Sprintf("max by (%s) (timestamp(%s%s) - %s%s)", by, up, offset, up, offset)
	}
	before := " offset " + step
	here := fmt.Sprintf("max by (%s) (last_over_time(%s[%s]))", by, up, step)
	unseen := fmt.Sprintf("max by (%s) (last_over_time(%s[%s]%s))", by, up, gap, before)
	group := func(expression string) string { return fmt.Sprintf("group by (%s) (%s)", by, expression) }
	terms := []string{
		named(partRestart, a.lastTime(group(fmt.Sprintf("(%s - %s > %g) or (max by (%s) (resets(%s[%s])) > 0)",
			start(""), start(before), startTolerance.Seconds(), by, up, text(both))))),
		named(partVanish, a.lastTime(group(fmt.Sprintf("group by (%s) (last_over_time(%s[%s] offset %s)) unless group by (%s) (last_over_time(%s[%s]))", by, alive, step, gap, by, alive, gap)))),
		named(partAppear, a.lastTime(group(fmt.Sprintf("(%s > %g) unless %s", here, both.Seconds(), unseen)))),
		named(partBirth, a.lastTime(group(fmt.Sprintf("(%s <= %g) unless %s", here, both.Seconds(), unseen)))),
		named(partOutage, fine.lastTime(fmt.Sprintf("group(absent_over_time(%s[%s]))", up, gap))),
	}
	if s.cluster != "" {
		terms = append(terms, named(partCluster, a.lastTime(group(s.elsewhere(a.namespaces)))))
	}
	return anyOf(terms...)
}

// elsewhere selects what proxies of other clusters counted: all that is left out of what counts as plaintext.
func (s schema) elsewhere(namespaces []string) string {
	metrics := slices.Concat(plaintextByPolicy, plaintextByPrincipal)
	return "{" + s.where(namespaces, `__name__=~"`+strings.Join(metrics, "|")+`"`, reporterLabel+`="destination"`,
		destinationCluster+"!~"+strconv.Quote(regexp.QuoteMeta(s.cluster)+"|unknown|")) + "}"
}

// plaintextTimes asks when each caller's plaintext last moved.
func (s schema) plaintextTimes(a asked) string {
	moved := fmt.Sprintf("group by (%s) (%s)", s.callers(), anyOf(
		s.moved(a, plaintextByPolicy),
		// Metrics of messages have no policy, and here it is known.
		fmt.Sprintf(`label_replace(%s,"%s","none","","")`, s.moved(a, plaintextByPrincipal), policyLabel),
	))
	return fmt.Sprintf("topk by (%s,%s) (%d, %s)", s.namespace, destinationWorkload, listed, a.lastTime(moved))
}

// moved is what counters that moved within a step leave: a sample unlike the one before, also with a gap between them; a
// series that was not there before; the whole count of a process that is young, whose predecessor may have counted the same;
// and a series that comes while its proxy was read all along, for it may have gone and begun again.
func (s schema) moved(a asked, metrics []string) string {
	step, gap, both := text(a.step), text(a.gap), a.step+a.gap
	all, up, by := s.plaintext(strings.Join(metrics, "|"), a.namespaces), s.heartbeat(a.namespaces), s.proxy()
	var terms []string
	for _, metric := range metrics {
		c := s.plaintext(metric, a.namespaces)
		terms = append(terms,
			fmt.Sprintf("(changes(%s[%s]) - changes(%s[%s] offset %s) > 0)", c, text(both), c, gap, step),
			fmt.Sprintf("(last_over_time(%s[%s]) > 0 unless last_over_time(%s[%s] offset %s))", c, step, c, gap, step),
			// Its last sample is older than its proxy's: it was gone. Nothing marks that where the server restarted meanwhile.
			fmt.Sprintf("(%s > 0 unless timestamp(%s offset %s) >= on (%s) group_left () min by (%s) (timestamp(%s offset %s))) and on (%s) (%s offset %s)",
				c, c, step, by, by, up, step, by, up, step),
		)
	}
	terms = append(terms,
		fmt.Sprintf("(%s > 0 and on (%s) (%s < %g))", all, by, up, both.Seconds()),
	)
	return "(" + anyOf(terms...) + ")"
}

// plaintextCounts asks how much each caller sent, what is open, and which proxies count for the suspects.
func (s schema) plaintextCounts(a asked) string {
	var terms []string
	for _, metric := range counted {
		terms = append(terms, s.grown(a, s.plaintext(metric, a.namespaces), a.since))
	}
	opened := s.perProxy("istio_tcp_connections_opened_total", a.namespaces)
	closed := s.perProxy("istio_tcp_connections_closed_total", a.namespaces)
	parts := []string{
		named(partRequests, fmt.Sprintf("topk by (%s,%s) (%d, sum by (%s) (%s) > 0)", s.namespace, destinationWorkload, listed, s.callers(), anyOf(terms...))),
		named(partOpen, fmt.Sprintf("sum by (%s) (clamp_min(%s - (%s or %s * 0), 0)) > 0", s.by(), opened, closed, opened)),
	}
	if len(a.suspects) > 0 {
		parts = append(parts, named(partServes, s.serves(a)))
	}
	return anyOf(parts...)
}

func (s schema) perProxy(metric string, namespaces []string) string {
	return fmt.Sprintf("sum by (%s) (%s)", s.by(s.pod), s.plaintext(metric, namespaces))
}

// mutualCounts asks how much came by mutual TLS. A workload without series is absent, one with no traffic has a zero.
func (s schema) mutualCounts(a asked) string {
	since := cmp.Or(a.trafficStep, a.since)
	var terms []string
	for _, metric := range counted {
		terms = append(terms, s.grown(a, s.mutual(metric, a.namespaces), since))
	}
	sum := fmt.Sprintf("sum by (%s) (%s)", s.by(), anyOf(terms...))
	if a.trafficStep == 0 {
		return sum
	}
	return fmt.Sprintf("(%s)[%s:%s]", sum, text(a.since), text(since))
}

// grown is by how much counters grew. A series that was not there counts in full if its proxy was read then, or started
// since; of one that nobody read it is not known what is new. A scrape that failed does not hide them.
func (s schema) grown(a asked, counter string, since time.Duration) string {
	gap, offset := text(a.gap), " offset "+text(since)
	recent := func(selector, offset string) string {
		return fmt.Sprintf("last_over_time(%s[%s]%s)", selector, gap, offset)
	}
	last, before := recent(counter, ""), recent(counter, offset)
	up := s.heartbeat(a.namespaces)
	return "(" + anyOf(
		fmt.Sprintf("(%s - %s >= 0)", last, before),
		fmt.Sprintf("((%s unless %s) and on (%s) %s)", last, before, s.proxy(), recent(up, offset)),
		fmt.Sprintf("(%s and on (%s) (%s < %g))", last, s.proxy(), recent(up, ""), since.Seconds()),
		last+" * 0",
	) + ")"
}

// text is a duration as PromQL writes it.
func text(d time.Duration) string { return strconv.FormatInt(max(1, d.Milliseconds()), 10) + "ms" }
