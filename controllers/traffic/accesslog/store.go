package accesslog

import (
	"container/list"
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
	"github.com/servicesecurity/operator/controllers/traffic"
)

// Directory tells who pods are. It answers from a cache.
type Directory interface {
	// Named is the pod of a name as it is now; false if none is known.
	Named(ctx context.Context, namespace, name string) (facts.Identity, bool)
	// At is the pod that had an address at a time; false if none is known.
	At(ctx context.Context, address string, at time.Time) (facts.Identity, bool)
}

// store remembers, for each proxy, who called without mutual TLS.
type store struct {
	limits Limits

	mu      sync.Mutex
	records map[string]*record // by the pod's UID
	callers int
	// retention is the longest window that was asked for.
	retention time.Duration
	// evicted is when a record was last dropped to make room, or something was left out of which it is not known whose it was.
	evicted time.Time
	// accounts are when something was last left out of which only the service account is known.
	accounts map[account]time.Time
	// news are the pods, by UID, that refused somebody since they were last asked for.
	news map[string]types.NamespacedName
}

// account is a service account.
type account struct{ namespace, name string }

// record is what one proxy logged.
type record struct {
	pod     types.NamespacedName
	callers map[callerKey]*list.Element
	// order has the callers as *tally, the one seen longest ago first.
	order *list.List
	last  time.Time
	// entries and messages say how much more may come. They outlive a stream, so that a new one brings no new measure.
	entries, messages *rate.Limiter
	// truncated is when something was last left out.
	truncated time.Time
}

// callerKey tells callers apart. The workload is part of it: an address may pass to another pod.
type callerKey struct {
	address                netip.Addr
	port                   int32
	protocol               string
	refused, authenticated bool
	namespace, workload    string // empty while not known
}

// tally is what a caller did, on the operator's clock.
type tally struct {
	callerKey
	count int64
	// made is when the first of it began, seen when the last was logged.
	made, seen time.Time
}

func newStore(limits Limits) *store {
	return &store{
		limits: limits, records: map[string]*record{}, retention: limits.Retention,
		accounts: map[account]time.Time{}, news: map[string]types.NamespacedName{},
	}
}

// add takes in an entry of a pod's proxy. Who is the caller, if that is known.
func (s *store) add(pod facts.Identity, authenticated bool, e entry, who facts.Identity, now time.Time) {
	key := callerKey{
		address: e.address, port: e.port, protocol: e.protocol, refused: e.refused, authenticated: authenticated,
		namespace: who.Namespace, workload: who.Workload,
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.record(pod, now)
	element := r.callers[key]
	if element == nil {
		s.makeRoom(r, now)
		element = r.order.PushBack(&tally{callerKey: key, made: e.made})
		r.callers[key] = element
		s.callers++
	}
	r.order.MoveToBack(element)
	t := tallyOf(element)
	if e.made.Before(t.made) {
		t.made = e.made
	}
	t.seen = now
	if e.ended {
		t.count++
	}
	if e.refused {
		s.news[pod.UID] = r.pod
	}
}

// tallyOf is what an element of a record's order has.
func tallyOf(element *list.Element) *tally {
	t, _ := element.Value.(*tally)
	return t
}

// truncate notes that something of a pod's was left out.
func (s *store) truncate(pod facts.Identity, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.record(pod, now).truncated = now
}

// truncateAccount notes that something was left out, of some pod of a service account.
func (s *store) truncateAccount(of account, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.accounts[of] = now
}

// truncateAll notes that something was left out, of whatever pod.
func (s *store) truncateAll(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.evicted = now
}

// buckets are those of a pod.
func (s *store) buckets(pod facts.Identity, now time.Time) (entries, messages *rate.Limiter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.record(pod, now)
	return r.entries, r.messages
}

// record is a pod's, made if there is none.
func (s *store) record(pod facts.Identity, now time.Time) *record {
	r := s.records[pod.UID]
	if r == nil {
		if len(s.records) >= s.limits.Proxies {
			s.evict(nil, now)
		}
		r = &record{
			pod:      types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name},
			callers:  map[callerKey]*list.Element{},
			order:    list.New(),
			entries:  rate.NewLimiter(rate.Limit(s.limits.EntriesPerSecond), s.limits.EntriesBurst),
			messages: rate.NewLimiter(rate.Limit(s.limits.MessagesPerSecond), s.limits.MessagesBurst),
		}
		s.records[pod.UID] = r
	}
	r.last = now
	return r
}

// makeRoom makes room for one caller more. A proxy that reached its own bound pays itself.
func (s *store) makeRoom(r *record, now time.Time) {
	if len(r.callers) >= s.limits.CallersPerProxy {
		s.forgetOldest(r, now)
	}
	for s.callers >= s.limits.Callers {
		if !s.evict(r, now) {
			s.forgetOldest(r, now)
		}
	}
}

// forgetOldest drops the caller of a record that was seen longest ago.
func (s *store) forgetOldest(r *record, now time.Time) {
	if oldest := r.order.Front(); oldest != nil {
		s.forget(r, oldest)
		r.truncated = now
	}
}

func (s *store) forget(r *record, element *list.Element) {
	delete(r.callers, tallyOf(element).callerKey)
	r.order.Remove(element)
	s.callers--
}

// evict drops the record that was heard of longest ago, but not the one to spare. It says whether there was one.
func (s *store) evict(spare *record, now time.Time) bool {
	oldest := ""
	for uid, r := range s.records {
		if r != spare && (oldest == "" || r.last.Before(s.records[oldest].last)) {
			oldest = uid
		}
	}
	if oldest == "" {
		return false
	}
	s.drop(oldest)
	s.evicted = now
	return true
}

func (s *store) drop(uid string) {
	s.callers -= len(s.records[uid].callers)
	delete(s.news, uid)
	delete(s.records, uid)
}

// sweep forgets what no window reaches any more.
func (s *store) sweep(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	limit := now.Add(-s.retention)
	for uid, r := range s.records {
		for oldest := r.order.Front(); oldest != nil && tallyOf(oldest).seen.Before(limit); oldest = r.order.Front() {
			s.forget(r, oldest)
		}
		if len(r.callers) == 0 && r.last.Before(limit) {
			s.drop(uid)
		}
	}
	maps.DeleteFunc(s.accounts, func(_ account, last time.Time) bool { return last.Before(limit) })
}

// refusing are the pods that refused somebody since this was last asked.
func (s *store) refusing() []types.NamespacedName {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := map[types.NamespacedName]struct{}{} // two may have had one
	for _, pod := range s.news {
		names[pod] = struct{}{}
	}
	clear(s.news)
	return slices.Collect(maps.Keys(names))
}

// tallies are the callers that a request asks for.
func (s *store) tallies(request traffic.LogRequest, now time.Time) (all []tally, truncated bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retention = max(s.retention, now.Sub(request.Since))
	notAfter(&s.evicted, now)
	truncated = s.evicted.After(request.Since)
	for _, proxy := range request.Proxies {
		r := s.records[proxy.UID]
		if r == nil {
			continue
		}
		notAfter(&r.truncated, now)
		truncated = truncated || r.truncated.After(request.Since)
		for element := r.order.Front(); element != nil; element = element.Next() {
			t := tallyOf(element)
			notAfter(&t.seen, now)
			if request.Ports.Has(t.port) && !t.seen.Before(request.Since) {
				all = append(all, *t)
			}
		}
	}
	return all, truncated
}

// accountTruncated says whether something was left out that may be of the pods that a request asks for.
func (s *store) accountTruncated(ctx context.Context, directory Directory, request traffic.LogRequest, now time.Time) bool {
	s.mu.Lock()
	recent := map[account]bool{}
	for of, last := range s.accounts {
		notAfter(&last, now)
		s.accounts[of] = last
		recent[of] = last.After(request.Since)
	}
	s.mu.Unlock()
	return len(recent) > 0 && slices.ContainsFunc(request.Proxies, func(proxy traffic.Proxy) bool {
		pod, ok := directory.Named(ctx, proxy.Namespace, proxy.Name)
		return ok && recent[account{pod.Namespace, pod.ServiceAccount}]
	})
}

// notAfter dates what a clock that was ahead has noted to the first time that somebody asks once it is right, from which it ages.
func notAfter(noted *time.Time, now time.Time) {
	if noted.After(now) {
		*noted = now
	}
}

// logged says what a request asks for. Callers that had no name when they were logged may have one by now: the cache of
// pods is a moment behind.
func (s *store) logged(ctx context.Context, directory Directory, request traffic.LogRequest, now time.Time) traffic.Logged {
	all, truncated := s.tallies(request, now)
	out := traffic.Logged{Truncated: truncated || s.accountTruncated(ctx, directory, request, now)}
	callers := make([]traffic.LoggedCaller, 0, len(all))
	for _, l := range all {
		if l.workload == "" {
			if who, ok := directory.At(ctx, l.address.String(), l.made); ok {
				l.namespace, l.workload = who.Namespace, who.Workload
			}
		}
		if !l.refused && l.seen.After(out.LastAccepted) {
			out.LastAccepted = l.seen
		}
		callers = append(callers, l.caller())
	}
	out.Callers = traffic.Collapse(callers)
	return out
}

// caller is a tally as the operator has callers. One that goes on and was not counted yet is one.
func (l tally) caller() traffic.LoggedCaller {
	out := traffic.LoggedCaller{
		PlaintextCaller: v1alpha1.PlaintextCaller{
			Workload: l.workload, Namespace: l.namespace, Address: l.address.String(), Port: l.port, Protocol: l.protocol,
			Requests: max(1, l.count), LastSeenTime: &metav1.Time{Time: l.seen}, Refused: l.refused,
		},
		Pod: l.workload != "",
	}
	if !out.Pod {
		out.Workload = traffic.UnknownWorkload
	}
	if l.authenticated {
		out.Authenticated = l.seen
	}
	return out
}

// size is how many callers are remembered.
func (s *store) size() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.callers
}
