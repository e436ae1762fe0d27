package simulation_test

import (
	"bytes"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/servicesecurity/operator/controllers/traffic"
	"github.com/servicesecurity/operator/test/simulation"
)

// between stands between the operator and the server.
type between struct {
	next http.RoundTripper
	// query changes what is asked, answer what comes of it.
	query  func(query string) string
	answer func(query string, status int, body []byte) (int, []byte)
}

func (b between) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.ParseForm(); err != nil {
		return nil, err
	}
	query := r.Form.Get("query")
	if b.query != nil {
		r.Form.Set("query", b.query(query))
	}
	response, err := b.next.RoundTrip(r)
	if b.answer == nil {
		return response, err
	}
	var body []byte
	status := http.StatusBadGateway
	if err == nil {
		status = response.StatusCode
		body, _ = io.ReadAll(response.Body)
	}
	status, body = b.answer(query, status, body)
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(body))}, nil
}

func asks(change func(query string) string) func() simulation.Core {
	return func() simulation.Core {
		return simulation.Core{Server: func(next http.RoundTripper) http.RoundTripper { return between{next: next, query: change} }}
	}
}

func hears(change func(query string, status int, body []byte) (int, []byte)) func() simulation.Core {
	return func() simulation.Core {
		return simulation.Core{Server: func(next http.RoundTripper) http.RoundTripper { return between{next: next, answer: change} }}
	}
}

// without drops terms of a query that are of a form. Where nothing else is left, something that never is stands for them.
func without(form string) func(string) string {
	term := regexp.MustCompile(form)
	return func(query string) string {
		lines := strings.Split(query, "\n")
		for i, line := range lines {
			lines[i] = term.ReplaceAllString(line, "(vector(1) > 2)")
		}
		return strings.Join(lines, "\n")
	}
}

const nothing = `{"status":"success","data":{"resultType":"vector","result":[]}}`

// serverMutantsFrom is the first history of those that take long to be caught: histories with a server are slow.
var serverMutantsFrom = map[string]int64{
	"ignores gaps between scrapes": 220, "takes an unanswered query for no plaintext": 50, "counts increases alone, and none of a series that is born": 25,
}

// serverMutants are those that Prometheus is the source of.
var serverMutants = map[string]mutant{
	"takes an unanswered query for no plaintext": {20, inSpite, hears(func(query string, status int, body []byte) (int, []byte) {
		if status != http.StatusOK && strings.Contains(query, "topk") {
			return http.StatusOK, []byte(nothing)
		}
		return status, body
	})},
	"counts increases alone, and none of a series that is born": {20, concealed, asks(without(`\(last_over_time\([^()]*\) > 0 unless last_over_time\([^()]*\)\)|\([^()]* > 0 unless timestamp.*$`))},
	"ignores gaps between scrapes": {20, inSpite, func() simulation.Core {
		return sees(func() func(*traffic.Observation) {
			return func(o *traffic.Observation) {
				if o.Completeness == traffic.Complete {
					o.Since, o.Gap = o.Time.Add(-24*time.Hour), ""
				}
			}
		})
	}},
	"takes half a window":              mutants["takes half a window"],
	"conceals plaintext":               mutants["conceals plaintext"],
	"never switches":                   mutants["never switches"],
	"takes what was not read for zero": mutants["takes what was not read for zero"],
}
