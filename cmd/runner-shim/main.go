// Command runner-shim is what of the job path starts often: the container hook,
// once for every step, and the agent in every guest. It is apart from
// runner-agent because a small program starts in a third of the time.
//
//	runner-shim hook [SOCKET]             answer one call of the actions runner
//	runner-shim guest-init [-boot] SOCKET start processes in this guest
//	runner-shim without CAPABILITIES UID GID GROUPS PATH ARGV...
//	                                      execute a program with fewer rights
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/guestinit"
	"github.com/mkappliance/mkappliance/agent/hook"
)

const usage = `usage: runner-shim hook [SOCKET]
       runner-shim guest-init [-boot] SOCKET
       runner-shim without CAPABILITIES UID GID GROUPS PATH ARGV...`

func main() {
	args := os.Args[1:]
	switch {
	case len(args) == 1 && args[0] == "hook":
		os.Exit(answer(brokerapi.DefaultSocket))
	case len(args) == 2 && args[0] == "hook":
		os.Exit(answer(args[1]))
	case len(args) == 2 && args[0] == "guest-init":
		fail(serve(args[1], false))
	case len(args) == 3 && args[0] == "guest-init" && args[1] == "-boot":
		fail(guestinit.Boot([]string{os.Args[0], "guest-init", "-booting", args[2]}))
	case len(args) == 3 && args[0] == "guest-init" && args[1] == "-booting":
		fail(serve(args[2], true))
	case len(args) > 6 && args[0] == "without":
		fail(without(args[1:]))
	default:
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	}
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "runner-shim: error:", err)
		os.Exit(1)
	}
}

// answer is the hook; its statuses are those of package hook.
func answer(socket string) int {
	signals := make(chan os.Signal, 8) // more than anybody sends before one is passed on
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	dir, err := os.Getwd()
	if err != nil {
		fmt.Fprintln(os.Stderr, "runner-shim: error:", err)
		return hook.StatusFailed
	}
	h := &hook.Hook{Broker: &brokerapi.Client{Socket: socket}, Workspace: dir, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Signals: signals}
	status, err := h.Run(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "runner-shim: error:", err)
	}
	return status
}

// without is started by the agent of a guest.
func without(args []string) error {
	runtime.LockOSThread() // capabilities are a thread's
	uid, err := strconv.Atoi(args[1])
	gid, err2 := strconv.Atoi(args[2])
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	var groups []int
	for _, text := range strings.FieldsFunc(args[3], func(r rune) bool { return r == ',' }) {
		g, err := strconv.Atoi(text)
		if err != nil {
			return err
		}
		groups = append(groups, g)
	}
	return guestinit.RunWithout(strings.Split(args[0], ","), uid, gid, groups, args[4], args[5:], os.Environ())
}

// serve is the agent of a guest.
func serve(socket string, booting bool) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot listen: %w", err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return fmt.Errorf("cannot listen: %w", err)
	}
	server := &guestinit.Server{Cgroup: guestinit.OwnCgroup(), Booting: booting}
	return server.Serve(ctx, l)
}
