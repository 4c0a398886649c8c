package guestinit

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/agent/guestapi"
)

// ExecRestricted is the name of the runner-shim command that drops
// capabilities before it executes a program.
const ExecRestricted = "exec-restricted"

// restriction is what a process may not have, as JSON between the agent and the
// program it starts.
type restriction struct {
	Drop   []string `json:"drop"` // names without CAP_, or ALL
	UID    int      `json:"uid"`
	GID    int      `json:"gid"`
	Groups []int    `json:"groups"`
}

// restrict puts the program that drops capabilities before the process, if it
// is to have fewer. The agent itself needs them all.
func restrict(request guestapi.Process, path string, attr *os.ProcAttr) (program string, argv []string, err error) {
	if len(request.DropCapabilities) == 0 {
		return path, request.Argv, nil
	}

	attr.Sys.Credential = nil // it becomes that user itself, at the end
	r := restriction{Drop: request.DropCapabilities, UID: int(request.UID), GID: int(request.GID), Groups: []int{}}
	for _, g := range request.Groups {
		r.Groups = append(r.Groups, int(g))
	}
	data, err := json.Marshal(r)
	if err != nil {
		return "", nil, err
	}
	return "/proc/self/exe", append([]string{"runner-shim", ExecRestricted, string(data), path}, request.Argv...), nil
}

// RunRestricted drops capabilities, becomes a user and executes a program.
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

	runtime.LockOSThread() // capabilities are a thread's
	if err := dropCapabilities(r.Drop); err != nil {
		return err
	}
	if err := errors.Join(syscall.Setgroups(r.Groups), syscall.Setgid(r.GID), syscall.Setuid(r.UID)); err != nil {
		return fmt.Errorf("cannot become user %d: %w", r.UID, err)
	}
	return fmt.Errorf("cannot start process: %w", unix.Exec(args[1], args[2:], os.Environ()))
}
