package main

import (
	"errors"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"mkappliance/agent/broker"
	"mkappliance/agent/hook"
	"mkappliance/cli"
)

func newHookCommand() *cobra.Command {
	var socket string
	c := &cobra.Command{
		Use:   "hook",
		Short: "Answer one call of the actions runner's container hooks",
		Long: `Answer one call of the actions runner's container hooks: read a request from
standard input, have the broker do it, and write the response file. The runner
starts this through container-hooks.sh; nobody needs to start it by hand.

Exit status:
  0    done
  1    the guest of the job could not be prepared or removed
  2    the request or the command line could not be read
  3    the workflow asks for what is not supported yet
  125  the step could not be run
  N    the step ran, and ended with N (128 + N for signal N)`,
		Example: `  # end the guest of a job by hand; its id is in the log of the broker
  echo '{"command":"cleanup_job","args":{},"state":{"job":"3f9c"}}' | runner-agent hook`,
		Args: cli.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			signals, stop := stepSignals()
			defer stop()
			h := &hook.Hook{
				Broker: &broker.Client{Socket: socket},
				Stdin:  c.InOrStdin(), Stdout: c.OutOrStdout(), Stderr: c.ErrOrStderr(), Signals: signals,
			}
			status, err := h.Run(c.Context())
			return exit(status, err)
		},
	}
	c.Flags().StringVar(&socket, "socket", broker.DefaultSocket, "unix socket `PATH` of the broker")
	return c
}

// stepSignals receives what the runner cancels a step with, for the step.
func stepSignals() (signals <-chan os.Signal, stop func()) {
	c := make(chan os.Signal, 8) // more than anybody sends before one is passed on
	signal.Notify(c, syscall.SIGINT, syscall.SIGTERM)
	return c, func() { signal.Stop(c) }
}

// exit passes a status on. Only an error of ours is worth a message.
func exit(status int, err error) error {
	switch {
	case err != nil:
		return &cli.StatusError{Status: status, Err: err}
	case status != 0:
		return &cli.StatusError{Status: status, Err: errors.New("the command failed"), Quiet: true}
	}
	return nil
}
