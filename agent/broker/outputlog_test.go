package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/mkappliance/mkappliance/agent/wire"
)

func TestOutputLog(t *testing.T) {
	l := &outputLog{limit: 10 + 2*chunkCost}
	read := func(follow bool) string {
		var out strings.Builder
		err := l.copy(t.Context(), follow, func(kind wire.Kind, data []byte) error {
			fmt.Fprintf(&out, "%c%s ", kind, data)
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		return strings.TrimSpace(out.String())
	}
	o, e := l.writer(wire.Stdout), l.writer(wire.Stderr)
	fmt.Fprint(o, "one")
	fmt.Fprint(e, "two")
	want := fmt.Sprintf("%cone %ctwo", wire.Stdout, wire.Stderr)
	if got := read(false); got != want {
		t.Errorf("got %q, want %q", got, want)
	}

	// The oldest goes; what is larger than the limit stays whole while it is the last.
	fmt.Fprint(o, "three")
	if got, want := read(false), fmt.Sprintf("%ctwo %cthree", wire.Stderr, wire.Stdout); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	fmt.Fprint(o, strings.Repeat("x", 20))
	l.end()
	if got, want := read(true), fmt.Sprintf("%c%s", wire.Stdout, strings.Repeat("x", 20)); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestOutputLogFollow: a reader gets everything once, while it is written.
func TestOutputLogFollow(t *testing.T) {
	l := &outputLog{limit: 1 << 20}
	var out strings.Builder
	done := make(chan error)
	go func() {
		done <- l.copy(t.Context(), true, func(_ wire.Kind, data []byte) error {
			out.Write(data)
			return nil
		})
	}()
	var want strings.Builder
	for i := range 1000 {
		fmt.Fprintln(l.writer(wire.Stdout), i)
		fmt.Fprintln(&want, i)
	}
	l.end()
	if err := <-done; err != nil || out.String() != want.String() {
		t.Errorf("got %d bytes, %v, want %d", out.Len(), err, want.Len())
	}

	ctx, cancel := context.WithCancelCause(t.Context())
	quiet := &outputLog{limit: 1}
	go func() { done <- quiet.copy(ctx, true, nil) }()
	cancel(errors.New("enough"))
	if err := <-done; err == nil || err.Error() != "enough" {
		t.Errorf("got %v, want the context's cause", err)
	}
}
