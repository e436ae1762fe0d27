package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	stdruntime "runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"
	securityapi "istio.io/api/security/v1beta1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/traffic"
)

const (
	// seed of the samples.
	seed = 1
	// sampledReads and sampledPairs are how many runs of each script are made of what is not played in full.
	sampledReads = 60
	sampledPairs = 60
	// maxTold is how many failures of a script are told.
	maxTold = 3
)

func TestMain(m *testing.M) {
	debug.SetGCPercent(400) // much garbage, and little that stays
	os.Exit(m.Run())
}

// everything says that nothing is sampled.
func everything() bool { return os.Getenv("FAULTS") == "all" }

// campaign plays one script with many plans.
type campaign struct {
	t      *testing.T
	script *script
	core   Core
	clean  Report

	mu     sync.Mutex
	played int
	unmet  int
	failed []string
}

func begin(t *testing.T, s *script, core Core) *campaign {
	t.Helper()
	clean, err := run(s, Core{}, nil, true)
	if err != nil {
		t.Fatal(err)
	}
	if len(clean.Violations) > 0 {
		t.Fatalf("without a fault: %s\n%s", strings.Join(clean.Violations, "\n"), clean.Diary)
	}
	return &campaign{t: t, script: s, core: core, clean: clean}
}

// play makes one run, and says what is wrong with it.
func (c *campaign) play(plan ...Fault) Report {
	r, err := run(c.script, c.core, plan, false)
	if err != nil {
		c.t.Error(err)
		return r
	}
	wrong := c.wrong(r)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.played++
	if r.Met < len(plan) {
		c.unmet++
	}
	if wrong != "" {
		text := Tell(plan, r.Calls)
		if len(c.failed) < maxTold {
			again, _ := run(c.script, c.core, plan, true)
			text += "\n" + wrong + "\n" + again.Diary
		}
		c.failed = append(c.failed, text)
	}
	return r
}

func (c *campaign) wrong(r Report) string {
	if len(r.Violations) > 0 {
		return strings.Join(r.Violations, "\n")
	}
	if r.End != c.clean.End {
		return "it ends otherwise than without a fault (-without +with):\n" + cmp.Diff(c.clean.End, r.End)
	}
	return ""
}

// all makes runs with plans at the same time.
func all[T any](plans []T, do func(T)) {
	group := errgroup.Group{}
	group.SetLimit(stdruntime.GOMAXPROCS(0))
	for _, plan := range plans {
		group.Go(func() error { do(plan); return nil })
	}
	_ = group.Wait() // nothing fails but the test
}

// some of a few, in no order.
func some[T any](random *rand.Rand, from []T, n int) []T {
	random.Shuffle(len(from), func(i, j int) { from[i], from[j] = from[j], from[i] })
	return from[:min(n, len(from))]
}

func (c *campaign) end() {
	c.t.Helper()
	for i, text := range c.failed {
		if i >= 30 {
			break
		}
		c.t.Errorf("%s: %s", c.script.name, text)
	}
	if len(c.failed) > 0 {
		c.t.Errorf("%s: %d of %d runs failed, with seed %d", c.script.name, len(c.failed), c.played, seed)
	}
	c.t.Logf("%s: %d runs, %d with a fault that was not met; %d calls and %d reconciles without a fault",
		c.script.name, c.played, c.unmet, len(c.clean.Calls), c.clean.Reconciles)
}

func TestOneFault(t *testing.T) {
	for _, s := range scripts() {
		t.Run(s.name, func(t *testing.T) {
			c := begin(t, s, Core{})
			essential, others := sites(c.clean.Calls, 0)
			var plans, reads []Fault
			for _, f := range others {
				if f.Way == Fails {
					reads = append(reads, f)
				} else {
					plans = append(plans, f)
				}
			}
			if !everything() {
				reads = some(rand.New(rand.NewPCG(seed, 1)), reads, sampledReads)
				plans = some(rand.New(rand.NewPCG(seed, 2)), plans, sampledReads)
			}
			all(append(append(plans, reads...), essential...), func(f Fault) { c.play(f) })
			c.end()
		})
	}
}

// TestMembersUnknown: while the objects of workloads are to stay, one list that fails must not make them go.
func TestMembersUnknown(t *testing.T) {
	s := scripts()[2]
	c := begin(t, s, Core{})
	after := 0
	for i, call := range c.clean.Calls {
		switch {
		case call.What == "update PeerAuthentication default":
			after = i
		case after > 0 && call.What == "list PeerAuthentication":
			c.play(Fault{i + 1, Fails})
		}
	}
	c.end()
}

// TestKilledTwice: between the switch and its status, and again at the rollback that follows. The object alone tells of both.
func TestKilledTwice(t *testing.T) {
	const write = "update PeerAuthentication web"
	s := scripts()[1]
	c := begin(t, s, Core{})
	for i, call := range c.clean.Calls {
		if call.What != write {
			continue
		}
		first := Fault{i + 1, KilledAfter}
		for j, next := range c.play(first).Calls {
			if j > i && next.What == write {
				c.play(first, Fault{j + 1, KilledAfter})
				c.play(first, Fault{j + 1, Unanswered})
			}
		}
	}
	if c.played < 6 {
		t.Errorf("played %d runs, want those of a switch, a rollback and another switch", c.played)
	}
	c.end()
}

func TestTwoFaults(t *testing.T) {
	for _, s := range scripts() {
		t.Run(s.name, func(t *testing.T) {
			c := begin(t, s, Core{})
			essential, others := sites(c.clean.Calls, 0)
			if everything() {
				all(essential, func(first Fault) {
					after, _ := sites(c.play(first).Calls, first.Call)
					for _, second := range after {
						c.play(first, second)
					}
				})
			} else {
				c.sample(essential, others)
			}
			c.end()
		})
	}
}

// sample plays pairs of essential faults, and as many of any.
func (c *campaign) sample(essential, others []Fault) {
	numbers := make([]uint64, sampledPairs)
	for i := range numbers {
		numbers[i] = uint64(i)
	}
	all(numbers, func(number uint64) {
		random := rand.New(rand.NewPCG(seed, number))
		of := essential
		if number%2 == 0 {
			of = append(append([]Fault{}, essential...), others...)
		}
		first := of[random.IntN(len(of))]
		after, rest := sites(c.play(first).Calls, first.Call)
		if number%2 == 0 {
			after = append(after, rest...)
		}
		if len(after) > 0 {
			c.play(first, after[random.IntN(len(after))])
		}
	})
}

// hasty claims that it has watched for a day.
type hasty struct{ traffic.Observer }

func (h hasty) Observe(ctx context.Context, request traffic.Request) traffic.Observation {
	o := h.Observer.Observe(ctx, request)
	o.Since, o.LastPlaintext, o.Callers = o.Time.Add(-24*time.Hour), time.Time{}, nil
	return o
}

// careless takes a delete that failed for made.
type careless struct{ client.Client }

func (c careless) Delete(ctx context.Context, object client.Object, opts ...client.DeleteOption) error {
	_ = c.Client.Delete(ctx, object, opts...) // that is what is wrong with it
	return nil
}

// bent is a client that does something else with an object of a name that is written, or something besides.
type bent struct {
	client.Client
	kind, name string
	create     func(client.Client, client.Object) error
	update     func(client.Client, client.Object) error
}

func (b bent) is(object client.Object) bool {
	return object.GetName() == b.name && strings.HasSuffix(fmt.Sprintf("%T", object), "."+b.kind)
}

func (b bent) Create(ctx context.Context, object client.Object, opts ...client.CreateOption) error {
	if options := (client.CreateOptions{}); b.create != nil && b.is(object) && len(options.ApplyOptions(opts).DryRun) == 0 {
		return b.create(b.Client, object)
	}
	return b.Client.Create(ctx, object, opts...)
}

func (b bent) Update(ctx context.Context, object client.Object, opts ...client.UpdateOption) error {
	if options := (client.UpdateOptions{}); b.update != nil && b.is(object) && len(options.ApplyOptions(opts).DryRun) == 0 {
		return b.update(b.Client, object)
	}
	return b.Client.Update(ctx, object, opts...)
}

// hurried reads a profile as if nobody had to approve.
type hurried struct{ client.Reader }

func (h hurried) Get(ctx context.Context, key client.ObjectKey, object client.Object, opts ...client.GetOption) error {
	err := h.Reader.Get(ctx, key, object, opts...)
	if profile, ok := object.(*v1alpha1.ServiceSecurityProfile); ok && err == nil {
		profile.Spec.MTLS.Rollout.Approval = v1alpha1.ApprovalAutomatic
	}
	return err
}

// hurriedClient is hurried, and a client.
type hurriedClient struct {
	client.Client
	hurried
}

func (h hurriedClient) Get(ctx context.Context, key client.ObjectKey, object client.Object, opts ...client.GetOption) error {
	return h.hurried.Get(ctx, key, object, opts...)
}

func (h hurriedClient) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	return h.Client.List(ctx, list, opts...)
}

// tidy removes the objects of workloads as soon as the namespace's demands mutual TLS.
func tidy(c client.Client, object client.Object) error {
	if err := c.Update(context.Background(), object); err != nil || !isStrict(object.(*securityv1.PeerAuthentication)) {
		return err
	}
	var all securityv1.PeerAuthenticationList
	if err := c.List(context.Background(), &all, client.InNamespace(namespace)); err != nil {
		return err
	}
	for _, other := range all.Items {
		if other.Name == object.GetName() {
			continue
		}
		if err := c.Delete(context.Background(), other); err != nil {
			return err
		}
	}
	return nil
}

// forgetful writes PERMISSIVE when all that changes is that STRICT has been verified.
func forgetful(c client.Client, object client.Object) error {
	policy := object.(*securityv1.PeerAuthentication)
	if policy.Annotations[v1alpha1.AnnotationSwitchedAt] == "" {
		policy.Spec.Mtls.Mode = securityapi.PeerAuthentication_MutualTLS_PERMISSIVE
	}
	return c.Update(context.Background(), policy)
}

// tokenless removes the tokens once a policy asks for them.
func tokenless(c client.Client, object client.Object) error {
	if err := c.Create(context.Background(), object); err != nil {
		return err
	}
	tokens := &securityv1.RequestAuthentication{}
	if err := c.Get(context.Background(), client.ObjectKey{Namespace: namespace, Name: "web"}, tokens); err != nil {
		return err
	}
	return c.Delete(context.Background(), tokens)
}

func bend(kind, name string, create, update func(client.Client, client.Object) error) Core {
	return Core{Client: func(c client.Client) client.Client {
		return bent{Client: c, kind: kind, name: name, create: create, update: update}
	}}
}

// TestMutants: what is broken is caught, or the tests above would prove nothing.
func TestMutants(t *testing.T) {
	for name, tc := range map[string]struct {
		core Core
		// script and the fault with which it is caught; by what its call asks for.
		script int
		what   string
		way    Way
		want   string
	}{
		"an observer that claims a whole day": {
			core: Core{Observer: func(o traffic.Observer) traffic.Observer { return hasty{o} }}, want: "EARLY",
		},
		"a delete that failed is taken for made": {
			core: Core{Client: func(c client.Client) client.Client { return careless{c} }}, script: 5, what: "delete RequestAuthentication web", way: Fails, want: "ORPHAN",
		},
		"nobody is asked for approval": {
			core: Core{
				Client: func(c client.Client) client.Client { return hurriedClient{c, hurried{c}} },
				Live:   func(r client.Reader) client.Reader { return hurried{r} },
			}, script: 3, want: "UNAPPROVED",
		},
		"the workloads' objects go at once":     {core: bend("PeerAuthentication", "default", nil, tidy), script: 2, want: "is gone"},
		"STRICT is lost with its annotation":    {core: bend("PeerAuthentication", "web", nil, forgetful), script: 0, want: "WEAKER"},
		"the tokens go when they are asked for": {core: bend("AuthorizationPolicy", "web-token", tokenless, nil), script: 5, want: "nobody gets in"},
		"what fails is tried for ever": {
			core: bend("PeerAuthentication", "web", func(client.Client, client.Object) error { return errInjected }, nil), script: 0, want: "LOOP",
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := begin(t, scripts()[tc.script], tc.core)
			var plan []Fault
			for i, call := range c.clean.Calls {
				if call.What != tc.what {
					continue
				}
				plan = append(plan, Fault{i + 1, tc.way})
				break
			}
			c.play(plan...)
			if len(c.failed) != 1 || !strings.Contains(c.failed[0], tc.want) {
				t.Errorf("not caught as %q:\n%s", tc.want, strings.Join(c.failed, "\n"))
			}
		})
	}
}
