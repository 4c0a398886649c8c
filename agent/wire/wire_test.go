package wire

import (
	"bytes"
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
	for input, want := range map[string]string{
		"o\x00":                     "cannot receive: unexpected EOF",
		"o\x00\x00\x00\x05abc":      "cannot receive: unexpected EOF",
		"o\xff\xff\xff\xff":         "cannot receive: a frame of 4294967295 bytes is more than the 100 allowed",
		"o\x00\x00\x00\x65" + "abc": "cannot receive: a frame of 101 bytes is more than the 100 allowed",
	} {
		_, _, err := NewConn(struct {
			io.Reader
			io.Writer
		}{strings.NewReader(input), io.Discard}, 100).Receive()
		if err == nil || err.Error() != want {
			t.Errorf("%q: got %v, want %s", input, err, want)
		}
	}
}

func FuzzReceive(f *testing.F) {
	f.Add([]byte("q\x00\x00\x00\x02{}"))
	f.Fuzz(func(t *testing.T, input []byte) {
		c := NewConn(bytes.NewBuffer(input), 1024)
		for {
			_, payload, err := c.Receive()
			if err != nil {
				if errors.Is(err, io.EOF) && len(payload) != 0 {
					t.Error("payload with EOF")
				}
				return
			}
			if len(payload) > 1024 {
				t.Fatalf("accepted %d bytes", len(payload))
			}
		}
	})
}
