package guestinit

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/agent/guestapi"
)

// ExecRestricted is the name of the runner-shim command that drops
// capabilities and sets limits before it executes a program.
const ExecRestricted = "exec-restricted"

// restriction is what a process may not have, as JSON between the agent and the
// program it starts.
type restriction struct {
	Drop            []string          `json:"drop"` // names without CAP_, or ALL
	NoNewPrivileges bool              `json:"no_new_privileges"`
	Rlimits         []guestapi.Rlimit `json:"rlimits"`
	UID             int               `json:"uid"`
	GID             int               `json:"gid"`
	Groups          []int             `json:"groups"`
}

// restrict puts the program that drops capabilities and sets limits before the
// process, if it is to have any. The agent itself has none.
func restrict(request guestapi.Process, path string, attr *os.ProcAttr) (program string, argv []string, err error) {
	if len(request.DropCapabilities) == 0 && !request.NoNewPrivileges && len(request.Rlimits) == 0 {
		return path, request.Argv, nil
	}

	attr.Sys.Credential = nil // it becomes that user itself, at the end
	r := restriction{
		Drop: request.DropCapabilities, NoNewPrivileges: request.NoNewPrivileges, Rlimits: request.Rlimits,
		UID: int(request.UID), GID: int(request.GID), Groups: []int{},
	}
	for _, g := range request.Groups {
		r.Groups = append(r.Groups, int(g))
	}
	data, err := json.Marshal(r)
	if err != nil {
		return "", nil, err
	}
	return "/proc/self/exe", append([]string{"runner-shim", ExecRestricted, string(data), path}, request.Argv...), nil
}

// RunRestricted drops capabilities, becomes a user, sets limits and executes a program.
// Its arguments are what the agent made: the restriction, the program's path
// and its argument vector. It returns only with an error.
func RunRestricted(args []string) error {
	if len(args) < 3 {
		return fmt.Errorf("want RESTRICTION PATH ARGV..., got %d arguments", len(args))
	}
	var r restriction
	if err := json.Unmarshal([]byte(args[0]), &r); err != nil {
		return fmt.Errorf("cannot read restriction: %w", err)
	}

	runtime.LockOSThread() // capabilities and no_new_privs are a thread's
	if len(r.Drop) > 0 {
		if err := dropCapabilities(r.Drop); err != nil {
			return err
		}
	}
	if err := errors.Join(syscall.Setgroups(r.Groups), syscall.Setgid(r.GID), syscall.Setuid(r.UID)); err != nil {
		return fmt.Errorf("cannot become user %d: %w", r.UID, err)
	}
	if r.NoNewPrivileges {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("cannot set no_new_privs: %w", err)
		}
	}
	// Last, as some of them would end this program.
	if err := setLimits(r.Rlimits); err != nil {
		return err
	}
	return fmt.Errorf("cannot start process: %w", unix.Exec(args[1], args[2:], os.Environ()))
}

// setLimits sets limits of the calling process. By package syscall, which else
// restores the limit of open files that this program was started with.
func setLimits(limits []guestapi.Rlimit) error {
	for _, l := range limits {
		err := syscall.Setrlimit(l.Resource, &syscall.Rlimit{Cur: l.Soft, Max: l.Hard})
		if err == nil {
			continue
		}
		var now syscall.Rlimit
		_ = syscall.Getrlimit(l.Resource, &now)
		return fmt.Errorf("cannot set limit %s to %s: %w; a guest has %s at most",
			limitName(l.Resource), limitValue(l.Hard), err, limitValue(now.Max))
	}
	return nil
}

// limitName returns the name that docker-create(1) has for a limit that a workflow is
// likely to raise.
func limitName(resource int) string {
	switch resource {
	case unix.RLIMIT_MEMLOCK:
		return "memlock"
	case unix.RLIMIT_NOFILE:
		return "nofile"
	case unix.RLIMIT_NPROC:
		return "nproc"
	case unix.RLIMIT_RTPRIO:
		return "rtprio"
	case unix.RLIMIT_NICE:
		return "nice"
	}
	return strconv.Itoa(resource)
}

func limitValue(n uint64) string {
	if n == math.MaxUint64 {
		return "unlimited"
	}
	return strconv.FormatUint(n, 10)
}
