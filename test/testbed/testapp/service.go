package testapp

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const callTimeout = 5 * time.Second

// Page is what a service answers: who it is, and what it got from each service that it called for it.
type Page struct {
	Service string `json:"service"`
	Version string `json:"version,omitempty"`
	Parts   []Part `json:"parts,omitempty"`
}

// Part is one call's outcome: the status, 0 for none, and the page or whatever else came.
type Part struct {
	Name   string `json:"name"`
	Status int    `json:"status"`
	Page   *Page  `json:"page,omitempty"`
	Text   string `json:"text,omitempty"`
}

// Find gives the part of that name, however deep; nil if the page has none.
func (p *Page) Find(name string) *Part {
	if p == nil {
		return nil
	}
	for i := range p.Parts {
		if p.Parts[i].Name == name {
			return &p.Parts[i]
		}
		if found := p.Parts[i].Page.Find(name); found != nil {
			return found
		}
	}
	return nil
}

// calls is a flag name=URL that may be given more than once.
type calls []call

type call struct{ name, url string }

// String prints the flag's value.
func (c *calls) String() string { return fmt.Sprint(*c) }

// Set adds a call. Variables in the URL are those of the environment, as the services of demos have them.
func (c *calls) Set(text string) error {
	name, url, ok := strings.Cut(text, "=")
	if !ok {
		return errors.New("write NAME=URL")
	}
	*c = append(*c, call{name: name, url: os.ExpandEnv(url)})
	return nil
}

// service is any service of a demo: every path is a page, for which it calls the services that it is told to, as it was called itself.
func service(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("service", flag.ContinueOnError)
	var listen ports
	var upstreams calls
	flags.Var(&listen, "port", "port to listen on; may be repeated (default 9080)")
	flags.Var(&upstreams, "call", "NAME=URL to call for each page, or for those below a path with --page; may be repeated")
	name := flags.String("name", "service", "what it calls itself")
	version := flags.String("version", "", "its version")
	page := flags.String("page", "/", "path below which pages call; others are answered alone")
	if err := flags.Parse(args); err != nil {
		return fmt.Errorf("reading the flags: %w", err)
	}
	// A connection to a proxy that is about to drain must not fail a page.
	client := &http.Client{Timeout: callTimeout, Transport: &http.Transport{DisableKeepAlives: true}}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := Page{Service: *name, Version: *version}
		if strings.HasPrefix(r.URL.Path, *page) {
			answer.Parts = upstreams.ask(r.Context(), client, r.Header)
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(answer) // the caller may have gone
	})
	// Ports that are declared as gRPC get HTTP/2 without TLS from their proxy.
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	group, ctx := errgroup.WithContext(ctx)
	for _, port := range listen.or(9080) {
		server := &http.Server{Addr: fmt.Sprintf(":%d", port), Handler: handler, Protocols: protocols, ReadHeaderTimeout: headerTimeout}
		group.Go(func() error { return serve(ctx, server) })
	}
	return group.Wait()
}

// ask calls all at once and gives their parts in the order of the flags.
func (c calls) ask(ctx context.Context, client *http.Client, header http.Header) []Part {
	parts := make([]Part, len(c))
	var group sync.WaitGroup
	for i, upstream := range c {
		group.Go(func() { parts[i] = upstream.ask(ctx, client, header) })
	}
	group.Wait()
	return parts
}

func (c call) ask(ctx context.Context, client *http.Client, header http.Header) Part {
	part := Part{Name: c.name}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url, nil)
	if err != nil {
		part.Text = err.Error()
		return part
	}
	if token := header.Get("Authorization"); token != "" {
		request.Header.Set("Authorization", token)
	}
	response, err := client.Do(request)
	if err != nil {
		part.Text = err.Error()
		return part
	}
	defer func() { _ = response.Body.Close() }()
	part.Status = response.StatusCode
	body, err := io.ReadAll(io.LimitReader(response.Body, maxBody))
	if err != nil {
		part.Text = err.Error()
		return part
	}
	var page Page
	if json.Unmarshal(body, &page) == nil {
		part.Page = &page
	} else {
		part.Text = string(body)
	}
	return part
}
