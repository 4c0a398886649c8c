package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/mkappliance/mkappliance/agent/control"
	"github.com/mkappliance/mkappliance/internal/cli"
)

type drainOptions struct {
	controlDir string
	timeout    time.Duration
	noWait     bool
}

func newDrainCommand() *cobra.Command {
	var o drainOptions
	c := &cobra.Command{
		Use:   "drain [--timeout DURATION] [--no-wait]",
		Short: "Take no more jobs, and wait for the one under way",
		Long: `Let the runner take no more jobs, and wait until the job under way has ended and
the listener has closed its session: GitHub then shows the runner offline, and
jobs wait for another one. A job that GitHub offers meanwhile is not lost: it goes
to another runner, or is the last one here.

A drain holds until runner-agent resume or the next boot, also when runner.service
is restarted. Ending this command does not end the drain. Several drains are one;
of their timeouts the first to pass counts.

After --timeout the job under way is cancelled: its steps end, and GitHub shows it
as cancelled. Without --timeout it may take as long as it likes.

Only root may drain.

Exit status:
  0  drained, or draining with --no-wait
  1  not drained: the runner was resumed meanwhile, or cannot be asked
  2  the command line is wrong
  3  runner.service does not run`,
		Example: `  # before maintenance
  runner-agent drain --timeout 30m && systemctl reboot`,
		Args: cli.Args(),
		RunE: func(c *cobra.Command, _ []string) error { return o.run(c) },
	}
	f := c.Flags()
	f.DurationVar(&o.timeout, "timeout", 0, "cancel the job under way after this `DURATION`, as 30m; 0 for never")
	f.BoolVar(&o.noWait, "no-wait", false, "return at once")
	addControlDir(c, &o.controlDir)
	return c
}

func (o *drainOptions) run(c *cobra.Command) error {
	if o.timeout < 0 || o.timeout > control.MaxTimeout {
		return cli.Usage(fmt.Errorf("--timeout %s is not from 0s to %s", o.timeout, control.MaxTimeout))
	}
	client := control.Client{Dir: o.controlDir}
	status, err := client.Drain(c.Context(), o.timeout)
	if err != nil {
		return notRunning(err)
	}
	if o.noWait {
		fmt.Fprintln(c.OutOrStdout(), status.State)
		return nil
	}

	status, err = client.Wait(c.Context(), func(s control.Status) {
		if s.State == control.Draining && !s.JobSince.IsZero() {
			fmt.Fprintf(c.OutOrStdout(), "waiting for job %.80q\n", s.Job)
		}
	})
	if err != nil {
		return fmt.Errorf("cannot drain runner: %w", err)
	}
	if status.Drain != nil && status.Drain.Cancelled {
		fmt.Fprintln(c.OutOrStdout(), "a job was cancelled at the timeout")
	}
	fmt.Fprintln(c.OutOrStdout(), status.State)
	return nil
}

func newResumeCommand() *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use:   "resume",
		Short: "End a drain: take jobs again",
		Long: `End a drain, so that the runner takes jobs again. A job that the drain waits for
goes on. Without a drain nothing changes.

Only root may resume.

Exit status:
  0  the runner takes jobs again, or soon
  1  runner.service cannot be asked
  2  the command line is wrong
  3  runner.service does not run`,
		Example: "  runner-agent resume",
		Args:    cli.Args(),
		RunE: func(c *cobra.Command, _ []string) error {
			client := control.Client{Dir: dir}
			status, err := client.Resume(c.Context())
			if err != nil {
				return notRunning(err)
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), status.State)
			return err
		},
	}
	addControlDir(c, &dir)
	return c
}

// notRunning adds the exit status and the fix of a service that does not run.
func notRunning(err error) error {
	if errors.Is(err, control.ErrNotRunning) {
		return &cli.StatusError{Status: statusTakesNoJobs, Err: fmt.Errorf("%w; see 'systemctl status runner'", err)}
	}
	return err
}

// drain lets the job under way be the last, and waits for its end, at most for
// limit if that is not 0.
func drain(ctx context.Context, controlDir string, limit time.Duration, log io.Writer) error {
	client := control.Client{Dir: controlDir}
	_, err := client.Drain(ctx, limit)
	if err == nil {
		_, err = client.Wait(ctx, func(s control.Status) {
			if s.State == control.Draining && !s.JobSince.IsZero() {
				fmt.Fprintf(log, "waiting for job %.80q\n", s.Job)
			}
		})
	}
	if err := ignoreNotRunning(err); err != nil {
		return fmt.Errorf("cannot drain runner: %w", err)
	}
	return nil
}

// ignoreNotRunning returns err, or nil for a service that does not run: no job does
// either.
func ignoreNotRunning(err error) error {
	if errors.Is(err, control.ErrNotRunning) {
		return nil
	}
	return err
}
