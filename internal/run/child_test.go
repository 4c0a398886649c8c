package run

import (
	"os/exec"
	"syscall"
	"testing"
)

func TestStartChild(t *testing.T) {
	ended := make(chan error, 1)
	cmd := exec.Command("sh", "-c", "exit 7")
	if err := StartChild(cmd, func(err error) { ended <- err }); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil || ExitStatus(cmd.ProcessState) != 7 {
		t.Errorf("got %v, status %d; want status 7", err, ExitStatus(cmd.ProcessState))
	}
	if cmd.SysProcAttr.Pdeathsig != syscall.SIGKILL {
		t.Errorf("the child outlives this program: %+v", cmd.SysProcAttr)
	}
	err := StartChild(exec.Command("/no/such"), func(error) { t.Error("done was called for what never started") })
	if err == nil {
		t.Error("a program that does not exist was started")
	}
}
