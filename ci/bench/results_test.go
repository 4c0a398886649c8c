package main

import (
	"strings"
	"testing"
	"time"
)

// TestPrint: nobody takes a recorded time for one of this run.
func TestPrint(t *testing.T) {
	var out strings.Builder
	print(&out, "title",
		row{What: "ours", Median: 20 * time.Millisecond, Runs: 3, Aim: 50 * time.Millisecond}, recorded.step)
	const want = `
title
     median  ratio  runs  what
   20.00 ms   1.0x     3  ours (aim: at most 50 ms)
  246.00 ms  12.3x     -  Docker hook, run_script_step ` + "`true`" + ` (recorded elsewhere)
`
	if got := out.String(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestMedian(t *testing.T) {
	r := median("x", []time.Duration{3, 1, 2})
	if r != (row{What: "x", Median: 2, Runs: 3}) {
		t.Errorf("got %+v", r)
	}
	if r := median("x", nil); r.Runs != 0 || r.Median != 0 {
		t.Errorf("got %+v of no times", r)
	}
}
