// Command runner-shim contains the short-lived programs of the job path: the
// relay, which starts with every job, the container hook, which starts with
// every step, and the guest agent. It is apart from runner-agent because a small
// program starts in a third of the time.
//
//	Runner.Worker spawnclient IN OUT
//	    is the worker of a job for the listener, when started by this name
//	docker ARGUMENT...
//	    answers for the containers of a job in the guest of its worker, when
//	    started by this name, and hands over to the guest's own Docker otherwise
//	runner-shim hook [SOCKET]
//	    answers one call of the actions runner
//	runner-shim guest-init [-become-init | -await-init] SOCKET
//	    starts processes in this guest
//	runner-shim exec-restricted RESTRICTION PATH ARGV...
//	    executes a program with fewer rights
//	runner-shim --version
//	    prints version and commit
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/dockercli"
	"github.com/mkappliance/mkappliance/agent/guestinit"
	"github.com/mkappliance/mkappliance/agent/hook"
	"github.com/mkappliance/mkappliance/agent/relay"
	"github.com/mkappliance/mkappliance/internal/buildinfo"
	"github.com/mkappliance/mkappliance/internal/layout"
)

const usage = `usage: runner-shim hook [SOCKET]
       runner-shim guest-init [-become-init | -await-init] SOCKET
       runner-shim exec-restricted RESTRICTION PATH ARGV...
       runner-shim --version`

func main() {
	args := os.Args[1:]
	switch {
	case filepath.Base(os.Args[0]) == relay.Program:
		os.Exit(work())
	case filepath.Base(os.Args[0]) == "docker":
		os.Exit(docker(args))
	case len(args) == 1 && args[0] == "hook":
		os.Exit(answer(brokerapi.DefaultSocket))
	case len(args) == 2 && args[0] == "hook":
		os.Exit(answer(args[1]))
	case len(args) == 2 && args[0] == "guest-init":
		fail(serve(args[1], false))
	case len(args) == 3 && args[0] == "guest-init" && args[1] == "-become-init":
		fail(guestinit.BecomeInit([]string{os.Args[0], "guest-init", "-await-init", args[2]}))
	case len(args) == 3 && args[0] == "guest-init" && args[1] == "-await-init":
		fail(serve(args[2], true))
	case len(args) > 0 && args[0] == guestinit.ExecRestricted:
		fail(guestinit.RunRestricted(args[1:]))
	case len(args) == 1 && args[0] == "--version":
		fmt.Println("runner-shim version", buildinfo.Read())
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

// work is the worker of a job; its statuses are those of the real one. When
// there is none to be had, GitHub shows what stands on standard error as the
// job's annotation.
func work() int {
	signals := make(chan os.Signal, 8) // more than the listener sends
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)

	status, err := relay.Main(context.Background(), os.Args, brokerapi.DefaultSocket, signals)
	if err != nil {
		fmt.Fprintln(os.Stderr, "runner-shim: error:", strings.Join(strings.Fields(err.Error()), " "))
		return 1
	}
	return status
}

// answer is the hook; its statuses are those of package hook.
func answer(socket string) int {
	signals := make(chan os.Signal, 8) // more than the runner sends before one is passed on
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	dir, err := os.Getwd()
	if err != nil {
		fmt.Fprintln(os.Stderr, "runner-shim: error:", err)
		return hook.StatusFailed
	}

	h := &hook.Hook{
		Broker: &brokerapi.Client{Socket: socket}, Workspace: dir,
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Signals: signals,
	}
	status, err := h.Run(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "runner-shim: error:", err)
	}
	return status
}

// engine is the docker of a guest that has Docker.
const engine = "/usr/bin/docker"

// docker answers a call of docker; its statuses are those of docker(1).
func docker(args []string) int {
	signals := make(chan os.Signal, 8) // more than the runner sends before one is passed on
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	dir, err := os.Getwd()
	_, noEngine := os.Stat(engine)
	if _, noSocket := os.Stat(layout.WorkerSocket); err == nil && noSocket != nil && noEngine != nil {
		err = errors.New("there is no Docker here; docker works in steps of jobs that have no container")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		return dockercli.StatusFailed
	}
	c := &dockercli.CLI{
		Broker: &brokerapi.Client{Socket: layout.WorkerSocket}, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Getenv: os.LookupEnv, Signals: signals, Dir: dir, Everything: noEngine != nil || calledByWorker(),
	}
	status, err := c.Run(ctx, args)
	if errors.Is(err, dockercli.ErrElsewhere) {
		signal.Reset()
		err = syscall.Exec(engine, append([]string{"docker"}, args...), os.Environ())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
	}
	return status
}

// calledByWorker reports whether the actions runner's worker is the parent. It
// decides on nothing but who answers: all of a guest may ask the same.
func calledByWorker() bool {
	parent, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", os.Getppid()))
	return err == nil && strings.HasPrefix(filepath.Base(parent), relay.Program)
}

// serve is the guest agent.
func serve(socket string, awaitInit bool) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()

	// Where an init system runs, the program that became it has done so.
	if !awaitInit {
		if err := guestinit.SuppressSyncs(); err != nil {
			return err
		}
	}

	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot listen: %w", err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return fmt.Errorf("cannot listen: %w", err)
	}

	server := &guestinit.Server{Cgroup: guestinit.OwnCgroup(), AwaitInit: awaitInit}
	return server.Serve(ctx, l)
}
