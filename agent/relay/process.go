package relay

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/control"
)

// Main is the program Runner.Worker: it takes the place of the worker that the
// listener starts, asks the broker at socket for the real one, and returns the
// exit status.
//
// Where jobs run on the host, it becomes the real worker instead.
func Main(ctx context.Context, argv []string, socket string, signals <-chan os.Signal) (int, error) {
	if os.Getenv("RUNNER_JOBS") == "host" { // as the supervisor says to the listener
		return 0, becomeReal(argv)
	}

	in, out, err := descriptors(argv[1:])
	if err != nil {
		return 0, err
	}
	if err := closeInherited(in, out); err != nil {
		return 0, err
	}
	ctx, err = withParent(ctx)
	if err != nil {
		return 0, err
	}

	input := os.NewFile(uintptr(in), "listener")
	defer input.Close()
	r := &Relay{
		Broker: &brokerapi.Client{Socket: socket}, Environ: os.Environ(),
		Input: input, Stdout: os.Stdout, Stderr: os.Stderr, Signals: signals,
	}
	status, err := r.Run(ctx)
	if dir := os.Getenv(control.DirVariable); dir != "" && err == nil && isResult(status) {
		// A drain stops the listener now, before it learns that its job has ended, and
		// asks for another. Without an answer the job ends all the same.
		client := control.Client{Dir: dir}
		_ = client.JobEnded(context.Background())
	}
	return status, err
}

// isResult reports whether a worker that ended with this status has reported a
// result: 100 + TaskResult. With another status the listener reports a failure,
// unless it is stopped.
func isResult(status int) bool { return status >= 100 && status <= 105 }

// becomeReal executes the real worker with the same arguments, environment and
// descriptors. It returns only with an error.
func becomeReal(argv []string) error {
	path := filepath.Join(filepath.Dir(argv[0]), Real)
	err := unix.Exec(path, append([]string{path}, argv[1:]...), os.Environ())
	return fmt.Errorf("cannot start %s: %w", path, err)
}

// descriptors returns the pipes that a listener starts its worker with:
// spawnclient IN OUT. The worker reads from in and never writes to out.
func descriptors(args []string) (in, out int, err error) {
	if len(args) != 3 || args[0] != "spawnclient" {
		return 0, 0, fmt.Errorf("cannot start worker: want the arguments spawnclient IN OUT, got %.200q", args)
	}
	for i, fd := range []*int{&in, &out} {
		n, err := strconv.ParseUint(args[i+1], 10, 31)
		var stat unix.Stat_t
		if err != nil || n <= 2 || unix.Fstat(int(n), &stat) != nil || stat.Mode&unix.S_IFMT != unix.S_IFIFO {
			return 0, 0, fmt.Errorf("cannot start worker: %.20q is not the descriptor of a pipe", args[i+1])
		}
		*fd = int(n)
	}
	return in, out, nil
}

// closeInherited closes what the listener left open besides the standard
// streams and keep. With a writing end of the worker's own pipe among that, its
// end would never be seen.
func closeInherited(keep ...int) error {
	fds, err := openDescriptors()
	if err != nil {
		return fmt.Errorf("cannot close inherited descriptors: %w", err)
	}

	for _, fd := range fds {
		if fd <= 2 || slices.Contains(keep, fd) {
			continue
		}
		// An inherited descriptor came through execve(2), and so has no such flag.
		// All of this program's own, the Go runtime's among them, have it.
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			_ = unix.Close(fd)
		}
	}
	return nil
}

// openDescriptors returns the descriptors of this process.
func openDescriptors() ([]int, error) {
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}

	var fds []int
	for _, name := range names {
		if fd, err := strconv.Atoi(name); err == nil {
			fds = append(fds, fd)
		}
	}
	return fds, nil
}

// withParent returns a context that ends with ErrListenerGone when the parent
// process does. PR_SET_PDEATHSIG would not serve: it follows the thread that
// forked, and the listener's come and go.
func withParent(ctx context.Context) (context.Context, error) {
	parent := os.Getppid()
	fd, err := unix.PidfdOpen(parent, 0)
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return nil, fmt.Errorf("cannot watch the listener: %w", err)
	}
	if err != nil || os.Getppid() != parent {
		return nil, ErrListenerGone
	}

	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		defer unix.Close(fd)
		for {
			_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
			if !errors.Is(err, unix.EINTR) {
				cancel(ErrListenerGone)
				return
			}
		}
	}()
	return ctx, nil
}
