// Command Runner.Worker stands for the worker of the actions runner: it is
// started with two pipes, reads the job message from one, runs the job with
// ci/miniworker, and reports it to GitHub with the job token.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"strconv"
	"time"

	"github.com/mkappliance/mkappliance/ci/miniworker"
	"github.com/mkappliance/mkappliance/ci/protocol"
	"github.com/mkappliance/mkappliance/ci/stubrunner/internal/files"
)

// version is what the stub says it is; ci/stubrunner sets it at link time.
var version = "2.336.0"

// startTimeout is how long the worker waits for the job message, Worker.cs.
const startTimeout = 30 * time.Second

func main() {
	status, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(status)
}

// run returns the exit status: 100 + TaskResult, or another if there is no
// result.
func run(args []string) (int, error) {
	if len(args) != 3 || args[0] != "spawnclient" {
		return 1, errors.New("usage: Runner.Worker spawnclient IN OUT")
	}
	in, err := strconv.Atoi(args[1])
	if err != nil {
		return 1, err
	}
	if _, err := strconv.Atoi(args[2]); err != nil { // never written
		return 1, err
	}

	root, err := files.FindRoot()
	if err != nil {
		return 1, err
	}
	logFile, err := root.OpenLog("Worker")
	if err != nil {
		return 1, err
	}
	defer logFile.Close()
	logger := log.New(logFile, "", log.LstdFlags|log.LUTC)

	logger.Print("Waiting to receive the job message from the channel.")
	pipe := os.NewFile(uintptr(in), "listener")
	message, err := readJob(pipe)
	if err != nil {
		return 1, err
	}
	logger.Printf("Message received. Job %s, %s", message.JobID, message.JobDisplayName)

	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	go func() { cancel(readStop(pipe, logger)) }()
	conclusion, err := runJob(ctx, root, message, logger)
	logger.Printf("Job completed. %s, %v", conclusion, err)
	return exitStatuses[conclusion], err
}

// exitStatuses are 100 + TaskResult.
var exitStatuses = map[string]int{miniworker.Success: 100, miniworker.Failure: 102, miniworker.Cancelled: 103,
	"": 1}

func readJob(pipe *os.File) (*protocol.JobMessage, error) {
	timeout := time.AfterFunc(startTimeout, func() {
		fmt.Fprintln(os.Stderr, "The operation was canceled.")
		os.Exit(1)
	})
	defer timeout.Stop()
	kind, body, err := protocol.ReadPipe(pipe)
	if err != nil {
		return nil, fmt.Errorf("cannot read the job message: %w", err)
	}
	if kind != protocol.NewJobRequest {
		return nil, fmt.Errorf("cannot read the job message: a message of type %d came instead", kind)
	}
	var message protocol.JobMessage
	if err := json.Unmarshal([]byte(body), &message); err != nil {
		return nil, fmt.Errorf("cannot read the job message: %w", err)
	}
	return &message, nil
}

// readStop waits for the one message that may follow, and returns why the job is
// to end. A pipe that has ended is not a reason.
func readStop(pipe *os.File, logger *log.Logger) error {
	kind, _, err := protocol.ReadPipe(pipe)
	logger.Printf("Message received, type %d, %v", kind, err)
	if kind == protocol.CancelRequest {
		return miniworker.ErrCancelled
	}
	return miniworker.ErrShutdown
}
