// Command Runner.Listener stands for the listener of the actions runner: same
// verbs, flags, files, calls, messages and exit codes, as far as runner-agent
// and GitHub can see them. It starts bin/Runner.Worker for each job.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/mkappliance/mkappliance/ci/stubrunner/internal/files"
)

// version is what the stub says it is; ci/stubrunner sets it at link time.
var version = "2.336.0"

// Exit codes of the real listener, Constants.Runner.ReturnCode.
const (
	exitSuccess         = 0
	exitTerminated      = 1
	exitRetryable       = 2
	exitSessionConflict = 5
	exitTooOld          = 7
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:]))
}

func run(ctx context.Context, argv []string) int {
	in, err := parseInput(argv)
	if err == nil && in.verb == "version" {
		fmt.Println(version)
		return exitSuccess
	}

	var r files.Root
	if err == nil {
		r, err = files.FindRoot()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return exitTerminated
	}

	switch in.verb {
	case "configure":
		err = configure(ctx, r, in)
	case "remove":
		err = remove(ctx, r, in)
	case "warmup":
	default:
		return runListener(ctx, r)
	}

	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return exitTerminated
	}
	return exitSuccess
}

// runListener keeps a log, as the real listener does, and serves jobs.
func runListener(ctx context.Context, r files.Root) int {
	log, err := r.OpenLog("Runner")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return exitTerminated
	}
	defer log.Close()
	fmt.Fprintln(log, "Runner listener, version", version)
	code := listen(ctx, r, log)
	fmt.Fprintln(log, "Runner execution has finished with return code", code)
	return code
}
