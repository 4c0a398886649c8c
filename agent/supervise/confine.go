package supervise

import (
	"fmt"

	"github.com/landlock-lsm/go-landlock/landlock"
	"github.com/landlock-lsm/go-landlock/landlock/syscall"

	"github.com/mkappliance/mkappliance/agent/config"
)

// systemDirs hold the programs of the system, which no job can write.
var systemDirs = []string{"/usr", "/bin", "/sbin", "/lib", "/lib64"}

// ProgramDirs are where the runner and what it starts may find programs when no
// step of a job runs on the host.
func ProgramDirs(cfg *config.Config, bakedDir string) []string {
	return append([]string{cfg.ActionsRunnerDir, cfg.HooksDir, bakedDir}, systemDirs...)
}

// Confine forbids this process and all it starts, for good, to execute a file
// that is not beneath one of dirs, landlock(7). A job can have the runner look
// for bash, with which it starts a hook, in a directory of its choice
// (GITHUB_PATH), and it can write to the work root; this keeps it from having a
// program of its own run on the host. Directories that do not exist are left out.
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
