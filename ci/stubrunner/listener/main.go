// Command Runner.Listener stands for the listener of the actions runner: same
// verbs, flags, files, messages and exit codes, as far as runner-agent can
// see them. It speaks with ci/fakegithub and runs scripted jobs through
// ci/miniworker, in its own process (the real one starts Runner.Worker).
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

// version is what the stub says it is; ci/stubrunner sets it at link time.
var version = "2.336.0"

// Exit codes of the real listener, Constants.Runner.ReturnCode.
const (
	exitSuccess         = 0
	exitTerminated      = 1
	exitRetryable       = 2
	exitSessionConflict = 5
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

	var r root
	if err == nil {
		r, err = findRoot()
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
		return listen(ctx, r)
	}

	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return exitTerminated
	}
	return exitSuccess
}

// root is the runner's directory: the parent of the one that holds this
// program, symbolic links resolved, as the real runner finds it.
type root string

func findRoot() (root, error) {
	self, err := os.Executable()
	if err == nil {
		self, err = filepath.EvalSymlinks(self)
	}
	if err != nil {
		return "", fmt.Errorf("cannot find the runner's directory: %w", err)
	}
	return root(filepath.Dir(filepath.Dir(self))), nil
}

func (r root) path(name string) string { return filepath.Join(string(r), name) }

func (r root) configured() bool {
	_, err := os.Stat(r.path(".runner"))
	return !errors.Is(err, os.ErrNotExist)
}
