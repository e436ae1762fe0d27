package accesslog

import (
	"errors"
	"fmt"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// frame is a message as it came. Decoded, the same bytes can take fifty times the memory, so that is done entry by entry.
type frame struct {
	bytes []byte
}

// wire is gRPC's codec: it leaves messages as they are.
type wire struct{}

// Name implements encoding.CodecV2.
func (wire) Name() string { return "proto" }

// Marshal implements encoding.CodecV2. The service never answers.
func (wire) Marshal(any) (mem.BufferSlice, error) {
	return nil, errors.New("encoding an answer: there is none")
}

// Unmarshal implements encoding.CodecV2.
func (wire) Unmarshal(data mem.BufferSlice, into any) error {
	message, ok := into.(*frame)
	if !ok {
		return fmt.Errorf("reading a message: it is a %T", into)
	}
	message.bytes = data.Materialize()
	return nil
}

// Numbers of the fields of envoy.service.accesslog.v3.StreamAccessLogsMessage that are read.
const (
	fieldIdentifier protowire.Number = 1
	fieldHTTPLogs   protowire.Number = 2
	fieldTCPLogs    protowire.Number = 3
	// fieldFirst is identifier.node, identifier.node.id and http_logs.log_entry, tcp_logs.log_entry.
	fieldFirst protowire.Number = 1
)

// fields calls for each field of a message that has bytes: a string, or another message.
func fields(message []byte, each func(number protowire.Number, value []byte) error) error {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return fmt.Errorf("reading a field: %w", protowire.ParseError(n))
		}
		message = message[n:]
		if kind == protowire.BytesType {
			value, n := protowire.ConsumeBytes(message)
			if n >= 0 {
				if err := each(number, value); err != nil {
					return err
				}
			}
		}
		if n = protowire.ConsumeFieldValue(number, kind, message); n < 0 {
			return fmt.Errorf("reading a field: %w", protowire.ParseError(n))
		}
		message = message[n:]
	}
	return nil
}

// field is the last one of a number; nil if there is none.
func field(message []byte, wanted protowire.Number) (found []byte, err error) {
	err = fields(message, func(number protowire.Number, value []byte) error {
		if number == wanted {
			found = value
		}
		return nil
	})
	return found, err
}

// nodeOf is what the proxy calls itself; empty if the message does not say.
func nodeOf(message []byte) (string, error) {
	for _, number := range []protowire.Number{fieldIdentifier, fieldFirst, fieldFirst} {
		var err error
		if message, err = field(message, number); err != nil {
			return "", err
		}
	}
	return string(message), nil
}
