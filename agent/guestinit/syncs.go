package guestinit

import (
	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/internal/seccomp"
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
	// The guest's root needs no PR_SET_NO_NEW_PRIVS, which would break sudo.
	return seccomp.Filter{
		Calls: []uint32{
			unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_SYNC, unix.SYS_SYNCFS, unix.SYS_SYNC_FILE_RANGE, unix.SYS_MSYNC,
		},
		Action:  unix.SECCOMP_RET_ERRNO, // of error 0: the call returns 0
		Foreign: unix.SECCOMP_RET_ALLOW, X32: unix.SECCOMP_RET_ALLOW,
	}.Install()
}
