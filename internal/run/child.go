package run

import (
	"os/exec"
	"runtime"
	"syscall"
)

// StartChild starts cmd as a child that is killed when this program ends,
// however it ends (PR_SET_PDEATHSIG, prctl(2)). When the child has ended, done
// is called once with what cmd.Wait gave.
func StartChild(cmd *exec.Cmd, done func(error)) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	started := make(chan error)
	go func() {
		// The signal is sent when the thread ends that started the child, not
		// when the program does, so that thread has to wait for the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			done(cmd.Wait())
		}
	}()
	return <-started
}
