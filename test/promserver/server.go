// Package promserver is a Prometheus in the process of a test: its own storage and query engine behind its HTTP API, and its own
// reading of what proxies print. It has the clock that it is told; what is scraped when is up to whoever uses it.
package promserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
)

// Server has storage without a log: it lasts as long as the test.
type Server struct {
	// Now is the server's clock.
	Now func() time.Time
	// Warnings go with every answer.
	Warnings []string
	// Missing says which series answers lack, by their metric and hash, as those of a server of many parts do when one of them is away.
	Missing func(metric string, hash uint64) bool
	// Complain takes what no query of the operator's may meet: an error of the engine, or an annotation.
	Complain func(format string, args ...any)

	// Peak is the most samples that a query held at one time.
	Peak atomic.Int64

	head    *tsdb.Head
	engine  *promql.Engine
	limited bool
}

// New makes a server with nothing in it. It needs a directory of its own, and is to be closed.
func New(dir string, now func() time.Time, complain func(format string, args ...any)) (*Server, error) {
	options := tsdb.DefaultHeadOptions()
	options.ChunkDirRoot = dir
	options.ChunkRange = 1 << 40 // everything is in the head
	options.StripeSize = 64
	options.ChunkWriteQueueSize = 0
	head, err := tsdb.NewHead(nil, nil, nil, nil, options, nil)
	if err != nil {
		return nil, fmt.Errorf("making Prometheus' storage: %w", err)
	}
	if err := head.Init(math.MinInt64); err != nil {
		return nil, errors.Join(fmt.Errorf("making Prometheus' storage: %w", err), head.Close())
	}
	return &Server{Now: now, Complain: complain, head: head, engine: newEngine(50_000_000)}, nil
}

// newEngine has Prometheus' defaults but for the samples that a query may hold.
func newEngine(samples int) *promql.Engine {
	return promql.NewEngine(promql.EngineOpts{
		MaxSamples: samples, Timeout: 2 * time.Minute, LookbackDelta: 5 * time.Minute, EnableAtModifier: true, EnableNegativeOffset: true,
		Parser: parser.NewParser(parser.Options{}),
	})
}

// Limit bounds the samples that a query may hold at one time. Queries may fail from then on.
func (s *Server) Limit(samples int) { s.engine, s.limited = newEngine(samples), true }

// Appender writes to the storage, for those who bring their own samples.
func (s *Server) Appender() storage.Appender { return s.head.Appender(context.Background()) }

// Close ends the storage.
func (s *Server) Close() error { return s.head.Close() }

// Querier is how the engine reads the storage.
func (s *Server) Querier(from, to int64) (storage.Querier, error) {
	querier, err := tsdb.NewBlockQuerier(tsdb.NewRangeHead(s.head, from, to), from, to)
	if err != nil || s.Missing == nil {
		return querier, err
	}
	return partial{querier, s.Missing}, nil
}

// ServeHTTP answers an instant query as Prometheus does.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	at := s.Now()
	if text := r.FormValue("time"); text != "" {
		seconds, err := strconv.ParseFloat(text, 64)
		if err != nil {
			s.Complain("the time of a query: %v", err)
		}
		at = time.UnixMilli(int64(math.Round(seconds * 1000)))
	}
	query, err := s.engine.NewInstantQuery(r.Context(), s, nil, r.FormValue("query"), at)
	if err != nil {
		s.Complain("%v in:\n%s", err, r.FormValue("query"))
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	defer query.Close()
	result := query.Exec(r.Context())
	answer := map[string]any{"status": "success", "warnings": s.Warnings}
	if result.Err != nil {
		if !s.limited {
			s.Complain("%v in:\n%s", result.Err, r.FormValue("query"))
		}
		w.WriteHeader(http.StatusUnprocessableEntity)
		answer = map[string]any{"status": "error", "errorType": "execution", "error": result.Err.Error()}
	} else {
		for _, warning := range result.Warnings {
			s.Complain("%v in:\n%s", warning, r.FormValue("query"))
		}
		answer["data"] = map[string]any{"resultType": result.Value.Type(), "result": encode(result.Value)}
	}
	s.Peak.Store(max(s.Peak.Load(), int64(query.Stats().Samples.PeakSamples)))
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		s.Complain("%v", err)
	}
}

func encode(v parser.Value) any {
	pair := func(t int64, f float64) []any {
		return []any{float64(t) / 1000, strconv.FormatFloat(f, 'f', -1, 64)}
	}
	switch v := v.(type) {
	case promql.Vector:
		out := make([]any, 0, len(v))
		for _, s := range v {
			out = append(out, map[string]any{"metric": s.Metric.Map(), "value": pair(s.T, s.F)})
		}
		return out
	case promql.Matrix:
		out := make([]any, 0, len(v))
		for _, s := range v {
			values := make([]any, 0, len(s.Floats))
			for _, p := range s.Floats {
				values = append(values, pair(p.T, p.F))
			}
			out = append(out, map[string]any{"metric": s.Metric.Map(), "values": values})
		}
		return out
	}
	panic(fmt.Sprintf("a result of type %T", v))
}

// partial is a storage of which a part is away.
type partial struct {
	storage.Querier
	missing func(metric string, hash uint64) bool
}

// Select gives the series that are there.
func (p partial) Select(ctx context.Context, sorted bool, hints *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	return &present{p.Querier.Select(ctx, sorted, hints, matchers...), p.missing}
}

type present struct {
	storage.SeriesSet
	missing func(metric string, hash uint64) bool
}

// Next goes on to a series that is there.
func (p *present) Next() bool {
	for p.SeriesSet.Next() {
		series := p.At().Labels()
		if !p.missing(series.Get(model.MetricNameLabel), series.Hash()) {
			return true
		}
	}
	return false
}
