package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestFrames(t *testing.T) {
	var buf bytes.Buffer
	c := NewConn(&buf, MaxData)
	big := bytes.Repeat([]byte{0xff}, MaxData+3)
	if _, err := c.Writer(Stdout).Write(big); err != nil {
		t.Fatal(err)
	}
	if err := c.SendJSON(Reply, map[string]int{"a": 1}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct {
		kind Kind
		data []byte
	}{{Stdout, big[:MaxData]}, {Stdout, big[:3]}, {Reply, []byte(`{"a":1}`)}} {
		kind, data, err := c.Receive()
		if err != nil || kind != want.kind || !bytes.Equal(data, want.data) {
			t.Fatalf("got %c with %d bytes, %v; want %c with %d", kind, len(data), err, want.kind, len(want.data))
		}
	}
	if _, _, err := c.Receive(); err != io.EOF {
		t.Errorf("got %v at the end, want EOF", err)
	}
}

func TestReceiveErrors(t *testing.T) {
	for _, test := range []struct{ summary, input, want string }{
		{summary: "part of a header", input: "o\x00", want: "cannot receive: unexpected EOF"},
		{summary: "header alone", input: "o\x00\x00\x00\x05", want: "cannot receive: unexpected EOF"},
		{summary: "part of a payload", input: "o\x00\x00\x00\x05abc", want: "cannot receive: unexpected EOF"},
		{
			summary: "largest size", input: "o\xff\xff\xff\xff",
			want: "cannot receive: a frame of 4294967295 bytes is more than the 100 allowed",
		},
		{
			summary: "one byte too many", input: "o\x00\x00\x00\x65abc",
			want: "cannot receive: a frame of 101 bytes is more than the 100 allowed",
		},
	} {
		_, _, err := NewConn(struct {
			io.Reader
			io.Writer
		}{strings.NewReader(test.input), io.Discard}, 100).Receive()
		if err == nil || err.Error() != test.want {
			t.Errorf("%s: got %v, want %s", test.summary, err, test.want)
		}
	}
}

// FuzzReceive: frames are taken up to the limit, and sending what was received
// makes the bytes that came in, up to the end or the frame that is refused.
func FuzzReceive(f *testing.F) {
	const limit = 1024
	f.Add([]byte("q\x00\x00\x00\x02{}"))
	f.Add([]byte("o\x00\x00\x00\x00x\x00\x00\x00\x01\x07o\x00\x00\x00\x05cut"))
	f.Add([]byte("o\x00\x00\x04\x01"))
	f.Fuzz(func(t *testing.T, input []byte) {
		in, out := NewConn(bytes.NewBuffer(input), limit), new(bytes.Buffer)
		again := NewConn(out, limit)
		for {
			kind, payload, err := in.Receive()
			if err != nil {
				checkRefused(t, input[out.Len():], err, limit)
				return
			}
			if err := again.Send(kind, payload); err != nil {
				t.Fatal(err)
			}
			if !bytes.HasPrefix(input, out.Bytes()) {
				t.Fatalf("%q was received as %q", input, out)
			}
		}
	})
}

// checkRefused requires that rest, which Receive answered with an error, is
// nothing, a part of a frame, or a frame above the limit.
func checkRefused(t *testing.T, rest []byte, err error, limit uint32) {
	t.Helper()
	switch {
	case len(rest) == 0:
		if err != io.EOF {
			t.Errorf("got %v at the end, want EOF", err)
		}
	case errors.Is(err, io.ErrUnexpectedEOF):
		if len(rest) >= headerSize && uint64(len(rest)-headerSize) >= uint64(binary.BigEndian.Uint32(rest[1:])) {
			t.Errorf("the whole frame %q was refused: %v", rest, err)
		}
	case len(rest) < headerSize || binary.BigEndian.Uint32(rest[1:]) <= limit:
		t.Errorf("%q was refused: %v", rest, err)
	}
}
