package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"

	"github.com/spf13/cobra"

	"mkappliance/agent/guestinit"
	"mkappliance/cli"
)

func newGuestInitCommand() *cobra.Command {
	var socket string
	var boot bool
	c := &cobra.Command{
		Use:    "guest-init",
		Short:  "Start the processes of steps inside a guest",
		Hidden: true,
		Long: `Start the processes of steps inside a guest. The broker binds this program into
every guest; nobody needs to start it by hand.

Exit status:
  0  it was asked to stop
  1  it could not listen, or could not start the init system`,
		Args: cli.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if boot {
				return guestinit.Boot([]string{"runner-agent", "guest-init", "--socket", socket})
			}
			if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("cannot listen: %w", err)
			}
			l, err := net.Listen("unix", socket)
			if err != nil {
				return fmt.Errorf("cannot listen: %w", err)
			}
			server := &guestinit.Server{Cgroup: guestinit.OwnCgroup()}
			return server.Serve(c.Context(), l)
		},
	}
	c.Flags().StringVar(&socket, "socket", "", "listen on the unix socket `PATH`")
	c.Flags().BoolVar(&boot, "boot", false, "go on as the guest's init system, process 1")
	_ = c.MarkFlagRequired("socket")
	return c
}
