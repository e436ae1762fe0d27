package accesslog

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	logv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/servicesecurity/operator/controllers/facts"
)

// playing makes the test binary play proxies, in a process of their own, so that the memory of the server is told apart.
const playing = "ACCESSLOG_PROXIES"

func TestMain(m *testing.M) {
	if text := os.Getenv(playing); text != "" {
		if err := play(strings.Fields(text)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// crowd is as many pods, with addresses on loopback.
func crowd(n int) []facts.Identity {
	pods := make([]facts.Identity, n)
	for i := range pods {
		pods[i] = identify("foo", fmt.Sprintf("pod%d", i), fmt.Sprintf("127.2.%d.%d", i/250, 1+i%250))
	}
	return pods
}

// play opens connections of each of a number of proxies, and streams in each; these stay, until its standard input ends.
// After its first line hostile ones flood.
func play(args []string) error {
	numbers := make([]int, 3)
	for i := range numbers {
		numbers[i], _ = strconv.Atoi(args[i+1])
	}
	var open []grpc.ClientStreamingClient[accesslogv3.StreamAccessLogsMessage, accesslogv3.StreamAccessLogsResponse]
	for _, pod := range crowd(numbers[0]) {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(pod.Address)}}
		for range numbers[1] {
			connection, err := grpc.NewClient("passthrough:"+args[0], grpc.WithTransportCredentials(insecure.NewCredentials()),
				grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
					return dialer.DialContext(ctx, "tcp", address)
				}))
			if err != nil {
				return err
			}
			for range numbers[2] {
				stream, err := accesslogv3.NewAccessLogServiceClient(connection).StreamAccessLogs(context.Background())
				if err != nil {
					return err
				}
				if err := stream.Send(introduce(pod, request("192.0.2.1", 8000))); err != nil {
					return err
				}
				open = append(open, stream)
			}
		}
	}
	input := bufio.NewReader(os.Stdin)
	_, _ = input.ReadString('\n')
	if args[4] == "hostile" {
		message := large()
		for _, stream := range open {
			go func() {
				for stream.Send(message) == nil {
				}
			}()
		}
	}
	_, _ = input.ReadString('\n')
	return nil
}

// large is a message that takes as much memory as can be.
func large() *accesslogv3.StreamAccessLogsMessage {
	empty := make([]*logv3.HTTPAccessLogEntry, 65000)
	for i := range empty {
		empty[i] = &logv3.HTTPAccessLogEntry{}
	}
	bytes, _ := proto.Marshal(requests(empty...))
	message := &accesslogv3.StreamAccessLogsMessage{}
	message.ProtoReflect().SetUnknown(bytes) // so that it need not be encoded anew
	return message
}

// BenchmarkStreams says what a proxy costs that has two threads, and so two connections, each with the streams of two
// providers; and what one costs that uses up all that it may.
func BenchmarkStreams(b *testing.B) {
	b.Run("ordinary", func(b *testing.B) { streams(b, 500, 2, 2, "ordinary") })
	b.Run("hostile", func(b *testing.B) { streams(b, 8, 2, 32, "hostile") })
}

func streams(b *testing.B, proxies, connections, perConnection int, kind string) {
	s := newSite(b, nil, crowd(proxies)...)
	before := inUse()
	players := exec.Command(os.Args[0])
	players.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d %d %d %s", playing, s.address, proxies, connections, perConnection, kind))
	players.Stderr = os.Stderr
	input, err := players.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := players.Start(); err != nil {
		b.Fatal(err)
	}
	eventually(b, "all streams are open", func() bool {
		return s.server.store.size() == proxies && s.server.streams.inUse() == proxies*connections*perConnection
	})
	if _, err := fmt.Fprintln(input); err != nil {
		b.Fatal(err)
	}
	var after, most uint64
	for range 50 {
		time.Sleep(100 * time.Millisecond)
		most = max(most, heldNow())
		after = max(after, inUse())
	}
	for b.Loop() {
	}
	b.ReportMetric(float64(after-before)/float64(proxies), "B/proxy")
	b.ReportMetric(float64(most-before)/float64(proxies), "B/proxy-with-garbage")
	b.ReportMetric(float64(s.server.streams.inUse()), "streams")
	_ = input.Close()
	_ = players.Wait()
}

// inUse is the memory that the heap and the stacks take after a garbage collection.
func inUse() uint64 {
	runtime.GC()
	return heldNow()
}

func heldNow() uint64 {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapInuse + stats.StackInuse
}
