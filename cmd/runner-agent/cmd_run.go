package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/hook"
	"github.com/mkappliance/mkappliance/agent/wire"
	"github.com/mkappliance/mkappliance/internal/cli"
)

type runOptions struct {
	socket string
	cwd    string
	env    []string
}

func newRunCommand() *cobra.Command {
	var o runOptions
	c := &cobra.Command{
		Use:   "run [--cwd DIR] [--env NAME=VALUE]... -- COMMAND [ARGUMENT]...",
		Short: "Run one command in a fresh guest",
		Long: `Run one command in a fresh guest of the base tree, without a terminal and with no
directory of the host but those of RUNNER_NSPAWN_BIND, and remove the guest when
it ends. SIGINT and
SIGTERM go to the command.

Exit status:
  2    the command line is wrong
  125  the command could not be run
  N    the command ran, and ended with N (128 + N for signal N)`,
		Example: `  # what does a job see?
  ci-nspawn-run -- cat /etc/os-release

  ci-nspawn-run --cwd /tmp --env GREETING=hello -- sh -c 'echo "$GREETING from $PWD"'`,
		Args: cli.Args("COMMAND..."),
		RunE: func(c *cobra.Command, args []string) error {
			env, err := parseEnv(o.env)
			if err != nil {
				return cli.Usage(err)
			}
			signals, stop := stepSignals()
			defer stop()
			client := &brokerapi.Client{Socket: o.socket}
			// A signal ends the context, but is the command's to answer.
			status, err := client.Run(context.WithoutCancel(c.Context()), brokerapi.RunRequest{Argv: args, Env: env, Dir: o.cwd},
				wire.Streams{Stdout: c.OutOrStdout(), Stderr: c.ErrOrStderr(), Signals: signals})
			if err != nil {
				return exit(hook.StatusNotStarted, fmt.Errorf("cannot run command: %w", err))
			}
			return exit(status, nil)
		},
	}
	f := c.Flags()
	f.SetInterspersed(false) // what follows the command is its own
	f.StringVar(&o.socket, "socket", brokerapi.DefaultSocket, "unix socket `PATH` of the broker")
	f.StringVar(&o.cwd, "cwd", "", "working `DIR` of the command in the guest (default /)")
	f.StringArrayVar(&o.env, "env", nil, "set a variable, `NAME=VALUE`; may be given again")
	return c
}

func parseEnv(assignments []string) (map[string]string, error) {
	env := map[string]string{}
	for _, a := range assignments {
		name, value, ok := strings.Cut(a, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("cannot set variable: --env %q; want NAME=VALUE", name)
		}
		env[name] = value
	}
	return env, nil
}

// stepSignals receives what the user stops the command with, for the command.
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
