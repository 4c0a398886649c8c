// Package seccomp makes system calls fail or succeed without being carried out, in
// the words of seccomp(2).
package seccomp

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Filter is what a process may not do any more. Its actions are SECCOMP_RET_*.
type Filter struct {
	Calls []uint32 // numbers of system calls, SYS_*; 250 at most
	// Action is taken for these calls. With SECCOMP_RET_ERRNO | n they return the
	// error n, and with n = 0 they return 0.
	Action uint32
	// Foreign is the action for calls of another architecture, whose numbers have
	// other meanings: those of 32-bit programs, say.
	Foreign uint32
	// X32 is the action for the x32 calls of amd64.
	X32 uint32
}

// Install puts the filter before all system calls of all threads of this process,
// and of all processes that it starts. It needs CAP_SYS_ADMIN or
// PR_SET_NO_NEW_PRIVS.
func (f Filter) Install() error {
	program := f.program()
	fprog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC,
		uintptr(unsafe.Pointer(&fprog)))
	if errno != 0 {
		return fmt.Errorf("cannot filter system calls: %w", errno)
	}
	return nil
}

// Offsets of struct seccomp_data, seccomp(2).
const (
	offsetNumber = 0
	offsetArch   = 4
)

// firstX32 is the first number of the x32 system calls of amd64, which has no
// others so high; on arm64 there are none.
const firstX32 = 0x4000_0000

// program returns the filter as a program of classic BPF. A jump counts the
// instructions that it passes over.
func (f Filter) program() []unix.SockFilter {
	const load, jumpIfEqual = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	const jumpIfAtLeast, result = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	program := []unix.SockFilter{
		{Code: load, K: offsetArch},
		{Code: jumpIfEqual, K: auditArch(), Jt: 1},
		{Code: result, K: f.Foreign},
		{Code: load, K: offsetNumber},
		{Code: jumpIfAtLeast, K: firstX32, Jf: 1},
		{Code: result, K: f.X32},
	}
	for i, call := range f.Calls {
		// Over the calls after it, and the instruction that allows.
		program = append(program, unix.SockFilter{Code: jumpIfEqual, K: call, Jt: uint8(len(f.Calls) - i)})
	}
	return append(program,
		unix.SockFilter{Code: result, K: unix.SECCOMP_RET_ALLOW},
		unix.SockFilter{Code: result, K: f.Action},
	)
}

// auditArch is the AUDIT_ARCH_* of this program, linux/audit.h.
func auditArch() uint32 {
	if runtime.GOARCH == "arm64" {
		return unix.AUDIT_ARCH_AARCH64
	}
	return unix.AUDIT_ARCH_X86_64
}
