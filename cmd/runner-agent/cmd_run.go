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
		Long: `Run one command in a fresh guest of the guest base, and remove the guest when the
command ends. The command has no terminal, and sees no directories of the host
but those of RUNNER_NSPAWN_BIND and RUNNER_NSPAWN_BIND_RO. SIGINT and SIGTERM go
to the command.

Exit status:
  2    the command line is wrong
  125  the command could not be run
  N    the status of the command, 128 + N if signal N ended it`,
		Example: `  # see what a job sees
  ci-nspawn-run -- cat /etc/os-release

  ci-nspawn-run --cwd /tmp --env GREETING=hello -- sh -c 'echo "$GREETING from $PWD"'`,
		Args: cli.Args("COMMAND..."),
		RunE: o.run,
	}
	f := c.Flags()
	f.SetInterspersed(false) // what follows the command is its own
	f.StringVar(&o.socket, "socket", brokerapi.DefaultSocket, "unix socket `PATH` of the broker")
	f.StringVar(&o.cwd, "cwd", "", "working `DIR` of the command in the guest (default /)")
	f.StringArrayVar(&o.env, "env", nil, "set a variable, `NAME=VALUE`; may be given again")
	return c
}

func (o *runOptions) run(c *cobra.Command, argv []string) error {
	env, err := parseEnv(o.env)
	if err != nil {
		return cli.Usage(err)
	}

	signals, stop := stepSignals()
	defer stop()
	client := &brokerapi.Client{Socket: o.socket}
	request := brokerapi.RunRequest{Argv: argv, Env: env, Dir: o.cwd}
	streams := wire.Streams{Stdout: c.OutOrStdout(), Stderr: c.ErrOrStderr(), Signals: signals}
	// A signal ends the context, but it is for the command to answer.
	status, err := client.Run(context.WithoutCancel(c.Context()), request, streams)
	if err != nil {
		return exit(hook.StatusNotStarted, fmt.Errorf("cannot run command: %w", err))
	}
	return exit(status, nil)
}

// parseEnv reads NAME=VALUE assignments; the last one of a name holds.
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

// stepSignals returns the signals with which the user stops the command.
func stepSignals() (signals <-chan os.Signal, stop func()) {
	c := make(chan os.Signal, 8) // more than arrive before the first is sent on
	signal.Notify(c, syscall.SIGINT, syscall.SIGTERM)
	return c, func() { signal.Stop(c) }
}

// exit returns the error that ends the program with a status. Only an error of
// ours is worth a message.
func exit(status int, err error) error {
	switch {
	case err != nil:
		return &cli.StatusError{Status: status, Err: err}
	case status != 0:
		return &cli.StatusError{Status: status, Err: errors.New("the command failed"), Quiet: true}
	}
	return nil
}
