package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"
)

// row is one line of the results.
type row struct {
	What   string
	Median time.Duration
	Runs   int           // 0 if it was not measured in this run
	Aim    time.Duration // what the project has set itself; 0 if nothing
}

// results are those of a run.
type results struct {
	spareWorker, coldWorker row
	spare                   row
	starts                  []row
	steps                   []row
	inside                  insideRows
	podman                  podmanRows
	programs                []row
}

// recorded are the times of GitHub's own container hook for Docker, commit cf62bcc
// of actions/runner-container-hooks with Docker 20.10.24 and runc 1.1.5, on 2 cores:
// medians with a pulled Debian image, the calling shell included. They are constants
// here, since neither is on the machines that run this program.
var recorded = struct{ prepare, step, cleanup row }{
	prepare: row{What: "Docker hook, prepare_job", Median: 1076 * time.Millisecond},
	step:    row{What: "Docker hook, run_script_step `true`", Median: 246 * time.Millisecond},
	cleanup: row{What: "Docker hook, cleanup_job", Median: 571 * time.Millisecond},
}

// print writes all rows in groups, each of which compares the same thing. The
// first of a group is ours.
func (r results) print(w io.Writer) {
	print(w, "start of a job's worker in a guest", r.spareWorker, r.coldWorker)
	print(w, "a step `run: true` of a job whose worker is in a guest",
		r.inside.Plain, r.inside.Hook, r.podman.exec, recorded.step)
	print(w, "start of a job's container", r.inside.Prepare, r.podman.start, recorded.prepare)
	print(w, "end of a job's container", r.inside.Cleanup, r.podman.remove, recorded.cleanup)
	print(w, "start of a guest", slices.Concat(r.starts, []row{r.spare, r.podman.run})...)
	print(w, "one step that runs /bin/true, the worker being on the host", r.steps...)
	print(w, "the program of the hook, which starts with every step, alone", r.programs...)
	fmt.Fprintln(w, "\nruns -: recorded elsewhere, on another machine, and not in this run: no exact comparison")
}

// print writes rows with their ratio to the first.
func print(w io.Writer, title string, rows ...row) {
	fmt.Fprintf(w, "\n%s\n", title)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "median\tratio\truns\t  what")
	for _, r := range rows {
		ratio := r.Median.Seconds() / rows[0].Median.Seconds()
		fmt.Fprintf(t, "%s\t%.1fx\t%s\t  %s\n", milliseconds(r.Median), ratio, r.count(), r.what())
	}
	_ = t.Flush()
}

func (r row) count() string {
	if r.Runs == 0 {
		return "-"
	}
	return strconv.Itoa(r.Runs)
}

func (r row) what() string {
	switch {
	case r.Runs == 0:
		return r.What + " (recorded elsewhere)"
	case r.Aim != 0:
		return fmt.Sprintf("%s (aim: at most %d ms)", r.What, r.Aim.Milliseconds())
	}
	return r.What
}

func milliseconds(d time.Duration) string { return fmt.Sprintf("%.2f ms", d.Seconds()*1000) }

// measure returns the median of n runs.
func measure(what string, n int, do func() (time.Duration, error)) (row, error) {
	var times []time.Duration
	for range n {
		d, err := do()
		if err != nil {
			return row{}, fmt.Errorf("cannot measure %q: %w", what, err)
		}
		times = append(times, d)
	}
	return median(what, times), nil
}

// median returns the row of times, zero if there are none.
func median(what string, times []time.Duration) row {
	if len(times) == 0 {
		return row{What: what}
	}
	times = slices.Sorted(slices.Values(times))
	return row{What: what, Median: times[len(times)/2], Runs: len(times)}
}
