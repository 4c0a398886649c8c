package oci

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/internal/seccomp"
)

// maxMemory is what a process that works with hostile content may use beyond what
// it has at its start, in bytes.
const maxMemory = 1 << 30

// limitProcess makes this process the first that the kernel ends when the host
// has no memory left, and bounds the memory that it can ask for.
func limitProcess() error {
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("500"), 0); err != nil {
		return err
	}

	// The collector works harder before the kernel refuses.
	debug.SetMemoryLimit(maxMemory / 4 * 3)
	used, err := dataSize()
	if err != nil {
		return err
	}
	var set unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_DATA, &set); err != nil {
		return err
	}
	data := min(used+maxMemory, set.Max) // the unpacking process is the helper's child
	return errors.Join(
		unix.Setrlimit(unix.RLIMIT_DATA, &unix.Rlimit{Cur: data, Max: data}),
		unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}),
	)
}

// dataSize returns what counts for RLIMIT_DATA, in bytes: the sixth figure of
// /proc/self/statm, proc_pid_statm(5).
func dataSize() (uint64, error) {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, err
	}
	var pages [6]uint64
	if _, err := fmt.Sscan(string(text), &pages[0], &pages[1], &pages[2], &pages[3], &pages[4], &pages[5]); err != nil {
		return 0, fmt.Errorf("cannot parse /proc/self/statm: %w", err)
	}
	return pages[5] * uint64(os.Getpagesize()), nil
}

// errMemory is the error for a process that ended as limitProcess has it.
var errMemory = fmt.Errorf("it takes more memory than a pull may, %d MiB", maxMemory>>20)

// explainEnd returns the error of a process of ours that failed: what it wrote to
// standard error, or else err.
func explainEnd(err error, stderr string) error {
	line, _, _ := strings.Cut(strings.TrimSpace(stderr), "\n")
	switch {
	case strings.Contains(line, "out of memory") || strings.Contains(line, "cannot allocate memory"):
		return errMemory
	case line != "":
		return fmt.Errorf("%.400s", line)
	}
	return err
}

// neverCalled are system calls that this package does without: they change mounts,
// namespaces, other processes or the kernel.
func neverCalled() []uint32 {
	return []uint32{
		unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_MOVE_MOUNT, unix.SYS_OPEN_TREE, unix.SYS_FSOPEN,
		unix.SYS_FSCONFIG, unix.SYS_FSMOUNT, unix.SYS_FSPICK, unix.SYS_MOUNT_SETATTR, unix.SYS_SETNS, unix.SYS_UNSHARE,
		unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_KCMP, unix.SYS_PIDFD_GETFD,
		unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD, unix.SYS_KEYCTL, unix.SYS_ADD_KEY,
		unix.SYS_REQUEST_KEY, unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
		unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE, unix.SYS_KEXEC_LOAD,
		unix.SYS_NAME_TO_HANDLE_AT, unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_QUOTACTL, unix.SYS_SWAPON, unix.SYS_SWAPOFF,
		unix.SYS_REBOOT, unix.SYS_ACCT, unix.SYS_SYSLOG, unix.SYS_PERSONALITY,
	}
}

// neverUnpacking are further ones that the unpacking process does without.
func neverUnpacking() []uint32 {
	return []uint32{unix.SYS_EXECVE, unix.SYS_EXECVEAT, unix.SYS_SOCKET, unix.SYS_SOCKETPAIR, unix.SYS_CHROOT}
}

// forbid makes system calls fail with EPERM, for good, in all threads of this
// process and in all that it starts, and forgoes new privileges by exec. System
// calls of another architecture end the process.
func forbid(calls []uint32) error {
	// Both hold for a thread; installing passes them on to the others.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot give up privileges: %w", err)
	}

	const eperm = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	return seccomp.Filter{Calls: calls, Action: eperm, Foreign: unix.SECCOMP_RET_KILL_PROCESS, X32: eperm}.Install()
}
