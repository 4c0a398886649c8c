package rootfs

import (
	"io"
	"strconv"

	"github.com/mkappliance/mkappliance/internal/run"
)

// workMount is where a sandbox mounts the directory that it may write to.
const workMount = "/mnt"

// Sandbox runs programs of a tree with that tree as their root directory, in
// namespaces of their own, by bubblewrap (bwrap(1)). They have no network and
// see nothing of the build host but the one work directory, so their output
// depends on the tree alone.
type Sandbox struct {
	Root     string    // the tree
	Work     string    // mounted at /mnt, writable; empty for none
	Writable bool      // whether the tree itself may be changed
	Epoch    int64     // SOURCE_DATE_EPOCH, seconds since 1970
	Log      io.Writer // receives the output of the programs
}

// Path returns the path inside the sandbox of a file in the work directory.
func (s Sandbox) Path(name string) string { return workMount + "/" + name }

// Command returns the command that runs args inside the sandbox.
func (s Sandbox) Command(args ...string) run.Cmd {
	bind := "--ro-bind"
	if s.Writable {
		bind = "--bind"
	}
	argv := []string{"bwrap", bind, s.Root, "/",
		"--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", "/run"}
	if s.Work != "" {
		argv = append(argv, "--bind", s.Work, workMount, "--chdir", workMount)
	}

	// The environment is part of the input: programs write PATH, locale and time
	// zone into what they make.
	argv = append(argv,
		"--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--die-with-parent", "--new-session",
		"--clearenv",
		"--setenv", "PATH", "/usr/sbin:/usr/bin:/sbin:/bin",
		"--setenv", "LC_ALL", "C.UTF-8",
		"--setenv", "TZ", "UTC",
		"--setenv", "SOURCE_DATE_EPOCH", strconv.FormatInt(s.Epoch, 10),
		"--setenv", "SYSTEMD_OFFLINE", "1",
		"--")
	return run.Cmd{Args: append(argv, args...), Stdout: s.Log, Stderr: s.Log}
}
