package promql

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/common/model"
	"k8s.io/utils/clock"
)

const (
	// maxSkew is by how much the server's clock may differ from the operator's.
	maxSkew = time.Minute
	// maxDrift is by how much that difference may change: a server whose clock was set back, or that answers from a cache,
	// shows old data as new.
	maxDrift = 5 * time.Second
	// maxWarnings are told of a poll.
	maxWarnings = 3
	// forgotten is how many intervals a profile may not ask before it is left out of the polls.
	forgotten = 20
)

// need is what a profile asked for last.
type need struct {
	window     time.Duration
	namespaces []string
	at         time.Time
}

// poller asks the server for all profiles together, at most once an interval.
type poller struct {
	client   *client
	schema   schema
	clock    clock.PassiveClock
	interval time.Duration
	timeout  time.Duration
	steps    time.Duration // into how many the history is cut
	scrapes  int64         // that one poll reads
	log      logr.Logger

	mu      sync.Mutex
	needs   map[string]need
	polling chan struct{} // closed at the end of the poll under way; nil when there is none
	history *history
	last    poll
	warned  map[string]struct{}
	// most is how far back a poll may read after one that was too much for the server; zero before that.
	most time.Duration
	// callsAsked is when the server was last asked about callers.
	callsAsked time.Time
}

// poll is the last one.
type poll struct {
	// began is when it was decided on.
	began time.Time
	// sent and received are the operator's time around the query that told the server's, now.
	sent, received, now time.Time
	err                 error
	// warnings are how Thanos and Mimir say that a part of an answer is missing.
	warnings []string
	// problem says why what was read cannot be concluded from, whatever it says.
	problem string
	// since is how much of the history it was to read.
	since time.Duration
	// jumped is when, on the server's clock, one of the two clocks was last found to have jumped.
	jumped time.Time
	// usual is the difference of the clocks since then, as exactly as the quickest answers tell it.
	usual span

	window     time.Duration
	namespaces map[string]struct{} // nil for all
}

// skew is by how much the server's clock is ahead.
func (p poll) skew() time.Duration {
	return p.now.Sub(p.sent.Add(p.received.Sub(p.sent) / 2))
}

// span is what a duration is at the least, and at the most.
type span struct{ least, most time.Duration }

// ahead is the same, as exactly as can be told: the server said its time somewhere between the question and the answer.
func (p poll) ahead() span { return span{p.now.Sub(p.received), p.now.Sub(p.sent)} }

// apart says whether two spans are of durations that differ by more than maxDrift.
func (s span) apart(other span) bool {
	return s.least > other.most+maxDrift || s.most < other.least-maxDrift
}

// within is what lies in both of two spans: the first, where that is nothing. It never moves on, so small steps add up.
func (s span) within(other span) span {
	both := span{max(s.least, other.least), min(s.most, other.most)}
	if both.least > both.most {
		return s
	}
	return both
}

// doubts says why the answer cannot be concluded from; empty if it can.
func (p poll) doubts() string {
	var texts []string
	if len(p.warnings) > 0 {
		texts = append(texts, p.warned())
	}
	if skew := p.skew(); !p.now.IsZero() && skew.Abs() > maxSkew {
		direction := "ahead of"
		if skew < 0 {
			direction = "behind"
		}
		texts = append(texts, fmt.Sprintf("The server's clock is more than %s %s the operator's, so it cannot be told how old its data is. Synchronise both.", maxSkew, direction))
	}
	return strings.Join(texts, " ")
}

// warned tells the warnings, in the same order each time.
func (p poll) warned() string {
	slices.Sort(p.warnings)
	return "The server answered with a warning, so its answer may lack something: " + strings.Join(p.warnings[:min(len(p.warnings), maxWarnings)], "; ") + "."
}

// require says what a profile needs, and polls if the last poll is too old. A poll that began for another profile a moment
// ago is as good: what it does not have yet will be in the next. So is one before, for who cannot wait: what is concluded from it
// ends when it did.
func (p *poller) require(ctx context.Context, profile string, n need) error {
	if len(n.namespaces) == 0 {
		return nil // it has no pods, of which a server could tell anything
	}
	p.mu.Lock()
	n.at = p.clock.Now()
	p.needs[profile] = n
	if p.polling == nil {
		// So many queries an interval, and never more than six of them.
		if age := n.at.Sub(p.last.began); !p.last.began.IsZero() && age >= 0 && age < p.interval*p.queries(n.at)/6 {
			p.mu.Unlock()
			return nil
		}
		p.start(ctx, n.at)
	}
	done, before := p.polling, p.history != nil
	p.mu.Unlock()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		if before {
			return nil
		}
		return ctx.Err()
	}
}

// queries is how many are asked in an interval now, with that about callers.
func (p *poller) queries(now time.Time) time.Duration {
	if !p.callsAsked.IsZero() && now.Sub(p.callsAsked).Abs() <= 2*p.interval {
		return queriesPerPoll + 1
	}
	return queriesPerPoll
}

// start begins a poll, which whoever asked for it may not live to see the end of.
func (p *poller) start(ctx context.Context, now time.Time) {
	done := make(chan struct{})
	p.polling = done
	window, namespaces := p.needed(now)
	next := poll{began: now, window: window, namespaces: namespaces, jumped: p.last.jumped}
	go func() {
		within, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.timeout)
		defer cancel()
		result, err := p.ask(within, &next)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.finish(next, result, err)
		p.polling = nil
		close(done)
	}()
}

// needed is the longest window and every namespace that profiles ask for.
func (p *poller) needed(now time.Time) (window time.Duration, namespaces map[string]struct{}) {
	namespaces = map[string]struct{}{}
	for profile, n := range p.needs {
		if now.Sub(n.at) > forgotten*p.interval {
			delete(p.needs, profile)
			continue
		}
		window = max(window, n.window)
		for _, name := range n.namespaces {
			namespaces[name] = struct{}{}
		}
	}
	if len(namespaces) > maxNamespaces {
		namespaces = nil
	}
	return window, namespaces
}

// ask asks all the queries of a poll. Nothing but the poll itself is written, as it runs beside readers.
func (p *poller) ask(ctx context.Context, next *poll) (*answer, error) {
	a := &answer{labels: p.schema}
	a.asked.namespaces = slices.Sorted(maps.Keys(next.namespaces))
	next.sent = p.clock.Now()
	var err error
	if a.proxies, err = p.vector(ctx, p.schema.proxies(a.asked), time.Time{}, next); err != nil {
		return nil, err
	}
	next.received = p.clock.Now()
	if err := a.begin(); err != nil {
		return nil, err
	}
	next.now = a.now
	p.reach(next, a)
	if a.events, err = p.vector(ctx, p.schema.events(a.asked), a.asked.at, next); err != nil {
		return nil, err
	}
	if a.times, err = p.vector(ctx, p.schema.plaintextTimes(a.asked), a.asked.at, next); err != nil {
		return nil, err
	}
	a.asked.suspects = a.suspects(p.history)
	if a.counts, err = p.vector(ctx, p.schema.plaintextCounts(a.asked), a.asked.at, next); err != nil {
		return nil, err
	}
	value, err := p.value(ctx, p.schema.mutualCounts(a.asked), a.asked.at, next)
	if err != nil {
		return nil, err
	}
	switch v := value.(type) {
	case model.Vector:
		a.mutual = v
	case model.Matrix:
		a.steps = v
	default:
		return nil, fmt.Errorf("its answer is a %s", value.Type())
	}
	return a, nil
}

// reach says what the poll reads: what is new, or everything when more is asked for than was read before. What is too much
// for one poll begins with its oldest part, so that the next goes on from there.
func (p *poller) reach(next *poll, a *answer) {
	q := &a.asked
	q.gap = min(max(5*a.longest, 15*time.Second), 10*time.Minute)
	whole := next.window + q.gap
	q.afresh = p.history == nil || !p.last.covers(next) || a.now.Before(p.history.to) || a.now.Sub(p.history.to) > whole
	from := a.now.Add(-whole)
	if !q.afresh {
		from = p.history.to
	}
	q.at = from.Add(p.part(a)).Truncate(time.Millisecond)
	if q.at.After(a.now) {
		q.at = a.now
	}
	q.since = max(q.at.Sub(from), time.Millisecond)
	next.since = q.since
	q.span, q.step = q.since, max(whole/p.steps, a.interval)
	if !q.afresh {
		if q.since <= q.step {
			q.step = max((q.since+q.gap+a.interval)/p.steps, a.interval)
		}
		q.span += q.gap + q.step
	}
	if step := max(whole/trafficSteps, q.step); q.since > step {
		q.trafficStep = step
	}
}

// part is how much history one poll reads.
func (p *poller) part(a *answer) time.Duration {
	part := a.interval * time.Duration(min(p.scrapes/max(a.scraped, 1), 1<<20))
	if p.most > 0 {
		part = min(part, p.most)
	}
	// Less than what goes by until the next poll would never come to an end.
	return max(part, 8*a.interval, 2*p.interval)
}

// covers says whether what was read is enough for what is asked for next.
func (p poll) covers(next *poll) bool {
	if p.window < next.window {
		return false
	}
	if p.namespaces == nil {
		return true
	}
	if next.namespaces == nil {
		return false
	}
	for name := range next.namespaces {
		if _, ok := p.namespaces[name]; !ok {
			return false
		}
	}
	return true
}

func (p *poller) vector(ctx context.Context, query string, at time.Time, next *poll) (model.Vector, error) {
	value, err := p.value(ctx, query, at, next)
	if err != nil {
		return nil, err
	}
	vector, ok := value.(model.Vector)
	if !ok {
		return nil, fmt.Errorf("its answer is a %s", value.Type())
	}
	return vector, nil
}

func (p *poller) value(ctx context.Context, query string, at time.Time, next *poll) (model.Value, error) {
	value, warnings, err := p.client.query(ctx, query, at)
	for _, w := range warnings {
		if w = clip(w); len(next.warnings) < maxKept && !slices.Contains(next.warnings, w) {
			next.warnings = append(next.warnings, w)
		}
	}
	if err == nil && value == nil {
		err = fmt.Errorf("its answer is empty")
	}
	return value, err
}

// finish takes in a poll's result.
func (p *poller) finish(next poll, a *answer, err error) {
	next.problem = next.doubts()
	p.tell(next, err)
	if err != nil || len(next.warnings) > 0 {
		// What was read before stays, and the next poll goes on from there: what an answer lacks may come back later.
		next.window, next.namespaces = p.last.window, p.last.namespaces
		next.sent, next.received, next.now, next.usual = p.last.sent, p.last.received, p.last.now, p.last.usual
		next.err = err
		if next.since > 0 && errors.As(err, new(overtaxed)) {
			p.most = next.since / 2
		}
		p.last = next
		return
	}
	switch ahead := next.ahead(); {
	case p.last.now.IsZero():
		next.usual = ahead
	case ahead.apart(p.last.usual):
		next.jumped, next.usual = next.now, ahead
	default:
		next.usual = p.last.usual.within(ahead)
	}
	if a.asked.afresh {
		p.history = newHistory()
	} else {
		next.window = p.last.window
	}
	if p.most += p.most / 4; !a.asked.at.Before(a.now) {
		p.most = 0 // what was too much may have been so for a while only
	}
	a.window = next.window
	p.history.learn(a)
	p.last = next
}

// tell logs each kind of warning and failure when it comes, not at each poll.
func (p *poller) tell(next poll, err error) {
	now := map[string]struct{}{}
	if next.problem != "" {
		now[next.problem] = struct{}{}
	}
	if err != nil {
		now[err.Error()] = struct{}{}
	}
	for message := range now {
		if _, ok := p.warned[message]; !ok {
			p.log.Info("Prometheus answers with less than all", "reason", message)
		}
	}
	p.warned = now
}
