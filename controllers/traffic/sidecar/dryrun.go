package sidecar

import (
	"cmp"
	"context"
	"math"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"

	"github.com/servicesecurity/operator/controllers/traffic"
)

// shadowFilter selects what the proxies count of dry runs, by the statistics' own names:
// http.inbound_0.0.0.0_8000;.rbac.istio_dry_run_allow_.shadow_denied, tcp.rbac.istio_dry_run_deny_.shadow_allowed.
// The zeros are wanted: they tell a proxy that has seen nothing yet from one that has not taken the policy.
const shadowFilter = `\.rbac\.istio_dry_run_(?:allow|deny)_\.shadow_(?:allowed|denied)$|^server\.uptime$`

// The metrics that these statistics become. TCP's filters share one set of counters, whatever their port.
const (
	shadowHTTP = "envoy_http_rbac"
	shadowTCP  = "envoy_tcp"
)

var shadowQuery = asks(shadowFilter)

var _ traffic.DryRunObserver = (*Observer)(nil)

// shadow counts what the policies of one kind would have let in and refused. Both counters have to be there.
type shadow struct {
	counts [2]int64
	seen   [2]bool
}

// The places in shadow.counts.
const (
	allowed = iota
	refused
)

// shadows are the counts of one kind of policy and the other, in this order: ALLOW, DENY.
type shadows [2]shadow

// chains has the counts of one proxy by HTTP connection manager; the empty name stands for TCP.
type chains map[string]*shadows

// DryRun reads what the proxies have counted of policies in dry run.
func (o *Observer) DryRun(ctx context.Context, request traffic.DryRunRequest) traffic.Shadow {
	if !request.Allows && !request.Denies {
		return traffic.Shadow{Completeness: traffic.Skipped}
	}
	type reading struct {
		chains chains
		err    error
	}
	proxies := slices.DeleteFunc(slices.Clone(request.Proxies), func(px traffic.Proxy) bool { return px.Terminating })
	readings := each(o, proxies, func(px traffic.Proxy) (r reading) {
		r.err = o.inSlot(ctx, func() (err error) {
			r.chains, err = o.scraper.shadows(ctx, px.Address)
			return err
		})
		return r
	})
	wanted := [2]bool{request.Allows, request.Denies}
	var why problems
	ports, read := map[int32]traffic.ShadowCount{}, 0
	for i, px := range proxies {
		switch r := readings[i]; {
		case px.Address == "":
			why.unaddressed = append(why.unaddressed, name(px))
		case r.err != nil:
			why.failed(name(px), r.err)
		default:
			read++
			if !r.chains.sum(ports, wanted) {
				why.uncounted = append(why.uncounted, name(px))
			}
		}
	}
	s := traffic.Shadow{Ports: inOrder(ports)}
	s.Completeness, _, s.Message = why.judge(traffic.Request{}, read, true, o.scraper.port)
	return s
}

// shadows reads the dry runs of one proxy.
func (s *scraper) shadows(ctx context.Context, address string) (chains, error) {
	body, err := s.get(ctx, address, shadowQuery)
	if err != nil {
		return nil, err
	}
	return parseShadows(body)
}

// parseShadows reads the counts of dry runs in an exposition.
func parseShadows(body []byte) (chains, error) {
	_, families, err := exposition(body)
	if err != nil {
		return nil, err
	}
	found := chains{}
	for _, name := range []string{shadowHTTP, shadowTCP} {
		for _, m := range families[name].GetMetric() {
			chain := ""
			if name == shadowHTTP {
				if chain = manager(m); !inbound(chain) {
					continue
				}
			}
			if err := found.take(name, chain, m); err != nil {
				return nil, err
			}
		}
	}
	return found, nil
}

// take reads one series. Those of policies in force have none of the labels of a dry run.
func (c chains) take(name, chain string, m *dto.Metric) error {
	kind := slices.Index([]string{"allow", "deny"}, label(m, "authz_dry_run_action"))
	result := slices.Index([]string{allowed: "allowed", refused: "denied"}, label(m, "authz_dry_run_result"))
	if kind < 0 || result < 0 {
		return nil
	}
	v, err := value(name, m)
	if err != nil {
		return err
	}
	if c[chain] == nil {
		c[chain] = &shadows{}
	}
	s := &c[chain][kind]
	if s.seen[result] {
		return errDuplicate
	}
	s.counts[result], s.seen[result] = v, true
	return nil
}

// sum adds a proxy's counts to those of the ports, and says whether every kind that is wanted was there.
func (c chains) sum(ports map[int32]traffic.ShadowCount, wanted [2]bool) bool {
	missing := wanted
	for chain, s := range c {
		found := s.counted(wanted)
		if found == [2]bool{} {
			continue
		}
		missing[0], missing[1] = missing[0] && !found[0], missing[1] && !found[1]
		allows, refuses := s.combine(found)
		port := portOf(chain)
		sum := ports[port]
		ports[port] = traffic.ShadowCount{Port: port, Allowed: add(sum.Allowed, allows), Refused: add(sum.Refused, refuses)}
	}
	return missing == [2]bool{}
}

// counted says which of the kinds that are wanted have both counters.
func (s *shadows) counted(wanted [2]bool) (found [2]bool) {
	for kind := range s {
		found[kind] = wanted[kind] && s[kind].seen == [2]bool{true, true}
	}
	return found
}

// combine takes the counts of some kinds together. Each kind judges every request, so the requests that one refuses may be
// those that the other refuses: what is certain is the larger number. It is taken for every proxy and connection manager
// alone, whose requests are surely not the same, to get as near as the counts allow.
func (s *shadows) combine(kinds [2]bool) (allows, refuses int64) {
	allows = math.MaxInt64
	for kind, one := range s {
		if kinds[kind] {
			allows, refuses = min(allows, one.counts[allowed]), max(refuses, one.counts[refused])
		}
	}
	return allows, refuses
}

// inOrder lists the ports. Port zero always has counters, and is left out while they say nothing.
func inOrder(ports map[int32]traffic.ShadowCount) []traffic.ShadowCount {
	list := make([]traffic.ShadowCount, 0, len(ports))
	for port, count := range ports {
		if port != 0 || count.Allowed > 0 || count.Refused > 0 {
			list = append(list, count)
		}
	}
	slices.SortFunc(list, func(a, b traffic.ShadowCount) int {
		return cmp.Or(cmp.Compare(b.Refused, a.Refused), cmp.Compare(b.Allowed, a.Allowed), cmp.Compare(a.Port, b.Port))
	})
	list = list[:min(len(list), traffic.MaxShadowPorts)]
	slices.SortFunc(list, func(a, b traffic.ShadowCount) int { return cmp.Compare(a.Port, b.Port) })
	return list
}

// manager names the connection manager of a series. Envoy marks the end of the name, and not every Istio takes the mark off.
func manager(m *dto.Metric) string {
	return strings.TrimSuffix(label(m, "http_conn_manager_prefix"), ";")
}
