// Package testapp takes a command line and is one of the programs that a test bed's pods run: an HTTP server, a service that calls others, a TCP
// server, a client that counts what fails, or something that just stays.
package testapp

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

const headerTimeout = 10 * time.Second

// Main runs the program that the first argument names until it is done or a signal ends it, and returns its exit code.
func Main(args []string) int {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	programs := map[string]func(context.Context, []string) error{
		"httpbin": httpbin, "tcp-echo": tcpEcho, "service": service, "client": client,
		"sleep": sleep,
	}
	if len(args) == 0 || programs[args[0]] == nil {
		fmt.Fprintln(os.Stderr, "usage: httpbin|tcp-echo|service|client|sleep [flags]")
		return 2
	}
	if err := programs[args[0]](ctx, args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", args[0], err)
		return 1
	}
	return 0
}

// sleep does nothing until it is told to end; with anything to do it would be another program.
func sleep(ctx context.Context, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("it takes no arguments, not %q", args)
	}
	<-ctx.Done()
	return nil
}

// ports is a flag that may be given more than once.
type ports []int

// String prints the flag's value.
func (p *ports) String() string { return fmt.Sprint(*p) }

// Set adds a port.
func (p *ports) Set(text string) error {
	n, err := strconv.Atoi(text)
	if err != nil {
		return fmt.Errorf("parsing a port: %w", err)
	}
	*p = append(*p, n)
	return nil
}

func (p *ports) or(fallback int) []int {
	if len(*p) == 0 {
		return []int{fallback}
	}
	return *p
}

// httpbin serves the few paths of its namesake that tests use.
func httpbin(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("httpbin", flag.ContinueOnError)
	var listen ports
	flags.Var(&listen, "port", "port to listen on; may be repeated (default 8000)")
	if err := flags.Parse(args); err != nil {
		return fmt.Errorf("reading the flags: %w", err)
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, port := range listen.or(8000) {
		server := &http.Server{Addr: ":" + strconv.Itoa(port), Handler: Handler(), ReadHeaderTimeout: headerTimeout}
		group.Go(func() error { return serve(ctx, server) })
	}
	return group.Wait()
}

func serve(ctx context.Context, server *http.Server) error {
	stop := context.AfterFunc(ctx, func() {
		// Requests under way are answered: a server that drops them would blame its caller's mesh.
		_ = server.Shutdown(context.Background()) // it is going anyway
	})
	defer stop()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving %s: %w", server.Addr, err)
	}
	return nil
}

// tcpEcho sends back what it receives.
func tcpEcho(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("tcp-echo", flag.ContinueOnError)
	var listen ports
	flags.Var(&listen, "port", "port to listen on; may be repeated (default 9000)")
	greeting := flags.String("greeting", "", "what to send first, as a server-first protocol does")
	if err := flags.Parse(args); err != nil {
		return fmt.Errorf("reading the flags: %w", err)
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, port := range listen.or(9000) {
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", ":"+strconv.Itoa(port))
		if err != nil {
			return fmt.Errorf("listening: %w", err)
		}
		context.AfterFunc(ctx, func() { _ = listener.Close() })
		group.Go(func() error { return echo(listener, *greeting) })
	}
	return group.Wait()
}

func echo(listener net.Listener, greeting string) error {
	for {
		conn, err := listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			return fmt.Errorf("accepting: %w", err)
		}
		go func() {
			defer func() { _ = conn.Close() }()
			if _, err := conn.Write([]byte(greeting)); err != nil {
				return
			}
			buffer := make([]byte, 32<<10)
			for {
				n, err := conn.Read(buffer)
				if err != nil {
					return
				}
				if _, err := conn.Write(buffer[:n]); err != nil {
					return
				}
			}
		}()
	}
}

// flatten makes a header map of single values.
func flatten(header http.Header) map[string]string {
	flat := map[string]string{}
	for name, values := range header {
		flat[name] = strings.Join(values, ",")
	}
	return flat
}
