package supervise

import (
	"fmt"

	"github.com/landlock-lsm/go-landlock/landlock"
	"github.com/landlock-lsm/go-landlock/landlock/syscall"

	"github.com/mkappliance/mkappliance/agent/config"
)

// systemDirs hold the programs of the system. No job can write to them.
var systemDirs = []string{"/usr", "/bin", "/sbin", "/lib", "/lib64"}

// ProgramDirs returns the directories that the actions runner and its children
// may execute programs from when no step of a job runs on the host. bakedDir is
// the copy of the actions runner that runs.
func ProgramDirs(cfg *config.Config, bakedDir string) []string {
	return append([]string{cfg.ActionsRunnerDir, cfg.HooksDir, bakedDir}, systemDirs...)
}

// Confine forbids this process and its children, for good, to execute a file
// that is not beneath one of dirs, landlock(7). Directories that do not exist
// are ignored.
//
// A job can choose where the actions runner looks for the bash that starts a
// hook (GITHUB_PATH), and it can write to the work directory. Confine keeps it
// from running a program of its own on the host that way.
func Confine(dirs ...string) error {
	execute := landlock.AccessFSSet(syscall.AccessFSExecute)

	rules, err := landlock.NewConfig(execute)
	if err == nil {
		err = rules.RestrictPaths(landlock.PathAccess(execute, dirs...).IgnoreIfMissing())
	}
	if err != nil {
		return fmt.Errorf("cannot keep jobs from executing programs on the host: %w", err)
	}
	return nil
}
