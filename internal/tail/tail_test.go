package tail

import (
	"fmt"
	"strings"
	"sync"
	"testing"
)

func TestBuffer(t *testing.T) {
	for _, test := range []struct {
		summary string
		writes  []string
		want    string
		last    string // two lines
	}{
		{summary: "nothing"},
		{summary: "less than the limit", writes: []string{"a\n", "b\n"}, want: "a\nb", last: "a\nb"},
		{
			summary: "more than the limit", writes: []string{"0123456789", "abcdef"},
			want: "6789abcdef", last: "6789abcdef",
		},
		{
			summary: "one write above the limit", writes: []string{strings.Repeat("x", 100) + "\nend\n"},
			want: "xxxxx\nend", last: "xxxxx\nend",
		},
		{summary: "three lines", writes: []string{"a\nb\nc\n"}, want: "a\nb\nc", last: "b\nc"},
		{summary: "white space", writes: []string{"  a\n\n\n"}, want: "a", last: "a"},
		{summary: "lines with nothing between", writes: []string{"a\n\n\nb"}, want: "a\n\n\nb", last: "b"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			b := &Buffer{Limit: 10}
			for _, w := range test.writes {
				if n, err := b.Write([]byte(w)); n != len(w) || err != nil {
					t.Errorf("got %d, %v", n, err)
				}
			}
			if got := b.String(); got != test.want {
				t.Errorf("kept %q, want %q", got, test.want)
			}
			if got := b.LastLines(2); got != test.last {
				t.Errorf("last lines are %q, want %q", got, test.last)
			}
		})
	}
}

func TestConcurrentWrites(t *testing.T) {
	b := &Buffer{Limit: 1 << 10}
	var writes sync.WaitGroup
	for range 8 {
		writes.Go(func() {
			for range 100 {
				fmt.Fprint(b, "x")
			}
		})
	}
	writes.Wait()
	if got := len(b.String()); got != 800 {
		t.Errorf("kept %d bytes, want 800", got)
	}
}
