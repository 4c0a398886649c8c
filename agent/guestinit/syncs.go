package guestinit

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// SuppressSyncs makes the system calls that wait for the disk succeed at once,
// in this program and in all that it starts. The files of a guest go with
// it, so nothing is gained by waiting. Files that are opened with O_SYNC are left
// alone: systemd-nspawn's --suppress-sync= refuses to open them at all, which
// container engines and databases do not survive.
//
// The filter looks at calls of the program's own architecture; others, such as
// those of 32-bit programs, still wait. See seccomp(2).
func SuppressSyncs() error {
	filter := syncFilter()
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	// The guest's root needs no PR_SET_NO_NEW_PRIVS, which would break sudo.
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC,
		uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return fmt.Errorf("cannot suppress syncs: %w", errno)
	}
	return nil
}

// Offsets of struct seccomp_data, seccomp(2).
const (
	offsetNumber = 0
	offsetArch   = 4
)

// syncFilter returns a program of seccomp(2) that returns 0 for the calls that
// wait for the disk and lets everything else pass.
func syncFilter() []unix.SockFilter {
	calls := []uint32{
		unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_SYNC, unix.SYS_SYNCFS, unix.SYS_SYNC_FILE_RANGE, unix.SYS_MSYNC,
	}
	n := uint8(len(calls))

	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offsetArch},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: auditArch(), Jf: n + 1}, // to the end: allow
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offsetNumber},
	}
	for i, call := range calls {
		// Each match jumps over the calls after it and the allowing instruction.
		filter = append(filter, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: call, Jt: n - uint8(i)})
	}
	return append(filter,
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO}, // errno 0: the call returns 0
	)
}

// auditArch is the AUDIT_ARCH_* of this program, linux/audit.h.
func auditArch() uint32 {
	if runtime.GOARCH == "arm64" {
		return unix.AUDIT_ARCH_AARCH64
	}
	return unix.AUDIT_ARCH_X86_64
}
