// Package cli holds the command-line conventions of mkappliance and
// runner-agent: how an error is printed, which exit status it has, how arguments
// are checked, and --version.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit statuses of both programs. The help of a verb lists those it has beyond
// these.
const (
	StatusOK     = 0
	StatusFailed = 1 // the work could not be done
	StatusUsage  = 2 // the command line or a configuration file is wrong
)

// StatusError is an error with an exit status of its own.
type StatusError struct {
	Status int
	Err    error // the message
	// Quiet is set when the message has been shown already, or when there is
	// none to show, as for a command whose status is only passed on.
	Quiet bool
}

func (e *StatusError) Error() string { return e.Err.Error() }
func (e *StatusError) Unwrap() error { return e.Err }

// Usage returns err with StatusUsage: the mistake is in the user's input.
func Usage(err error) error { return &StatusError{Status: StatusUsage, Err: err} }

// Main runs root with the process's own arguments, until it ends or SIGINT or
// SIGTERM cancels its context, and returns the exit status.
func Main(root *cobra.Command) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return Run(ctx, root, os.Args[1:], os.Stderr)
}

// Run executes root with args and reports an error on stderr as
// "NAME: error: ...".
func Run(ctx context.Context, root *cobra.Command, args []string, stderr io.Writer) int {
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetArgs(args)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return Usage(fmt.Errorf("%w (see '%s --help')", err, c.CommandPath()))
	})

	started := false
	noteStart(root, &started)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return StatusOK
	}

	status := StatusFailed
	if !started {
		status = StatusUsage // as an unknown verb, or a flag that is missing
	}
	var se *StatusError
	if errors.As(err, &se) {
		status = se.Status
	}

	if se == nil || !se.Quiet {
		fmt.Fprintf(stderr, "%s: error: %v\n", root.Name(), err)
	}
	return status
}

// noteStart sets started once the work of c or a verb beneath it begins: what
// cobra finds wrong before that is wrong with the command line.
func noteStart(c *cobra.Command, started *bool) {
	if work := c.RunE; work != nil {
		c.RunE = func(c *cobra.Command, args []string) error {
			*started = true
			return work(c, args)
		}
	}
	for _, verb := range c.Commands() {
		noteStart(verb, started)
	}
}

// Args wants one argument for each name, as "IMAGE". A last name that ends in
// "..." stands for one or more, as "COMMAND...". A wrong number has StatusUsage.
func Args(names ...string) cobra.PositionalArgs {
	want := "none"
	if len(names) > 0 {
		want = strings.Join(names, " ")
	}
	open := len(names) > 0 && strings.HasSuffix(names[len(names)-1], "...")

	return func(c *cobra.Command, args []string) error {
		var problem string
		switch {
		case len(args) < len(names):
			problem = "missing argument"
		case len(args) > len(names) && !open:
			problem = fmt.Sprintf("unexpected argument %q", args[len(names)])
		default:
			return nil
		}
		return Usage(fmt.Errorf("%s: want %s (see '%s --help')", problem, want, c.CommandPath()))
	}
}
