// Package netns takes a name and an address and makes a network namespace that is reached by routing alone: a veth pair, one /32 address, no bridge.
package netns

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// gateway is the next hop of every namespace. Each veth's outer end answers for it, so that all traffic, also between
// two pods, is routed through the outer namespace and its connection tracking sees both directions.
const gateway = "169.254.1.1"

const commandTimeout = 30 * time.Second

// Namespace is a network namespace with an address.
type Namespace struct {
	// Name is its name in /run/netns.
	Name string
	// Address is its only address that is not loopback.
	Address string

	link string
}

// Add makes a namespace. Traffic from the outer namespace to it has the source address given.
func Add(ctx context.Context, name, address, source string) (*Namespace, error) {
	n := &Namespace{Name: name, Address: address, link: "v" + name}
	outer := []string{
		"netns add " + name,
		"link add " + n.link + " type veth peer name eth0 netns " + name,
		"addr add " + gateway + "/32 dev " + n.link,
		"link set " + n.link + " up",
		"route add " + address + "/32 dev " + n.link + " src " + source,
	}
	if err := batch(ctx, outer); err != nil {
		return nil, fmt.Errorf("adding network namespace %s: %w", name, err)
	}
	inner := []string{
		"link set lo up",
		"addr add " + address + "/32 dev eth0",
		"link set eth0 up",
		"route add " + gateway + " dev eth0 scope link",
		"route add default via " + gateway + " src " + address,
	}
	if err := batch(ctx, inner, "-n", name); err != nil {
		return nil, fmt.Errorf("configuring network namespace %s: %w", name, err)
	}
	// As container runtimes do: a gateway listens on port 80 without being root.
	open := exec.CommandContext(ctx, "ip", "netns", "exec", name, "sh", "-c", "echo 0 >/proc/sys/net/ipv4/ip_unprivileged_port_start")
	if output, err := open.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("opening low ports in network namespace %s: %w: %s", name, err, bytes.TrimSpace(output))
	}
	return n, nil
}

// Path is a file that stands for the namespace.
func (n *Namespace) Path() string { return filepath.Join("/run/netns", n.Name) }

// Delete removes the namespace and its link.
func (n *Namespace) Delete(ctx context.Context) error {
	// The link goes first: the namespace itself lives as long as a dying process holds it.
	if err := batch(ctx, []string{"link del " + n.link, "netns del " + n.Name}); err != nil {
		return fmt.Errorf("deleting network namespace %s: %w", n.Name, err)
	}
	return nil
}

// Batch runs lines of ip(8) in the current network namespace.
func Batch(ctx context.Context, lines ...string) error { return batch(ctx, lines) }

func batch(ctx context.Context, lines []string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "ip", append(args, "-batch", "-")...)
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("running ip: %w: %s", err, bytes.TrimSpace(output.Bytes()))
	}
	return nil
}
