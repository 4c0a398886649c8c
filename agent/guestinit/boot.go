package guestinit

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	cgroupRoot = "/sys/fs/cgroup"
	// agentCgroup is beside those that systemd makes, which leaves it alone.
	agentCgroup = cgroupRoot + "/runner"
)

// BecomeInit starts the agent, by its argument vector, as a process of its own
// and becomes the guest's init system, as process 1. The agent answers while
// the init system still boots, and is not started by it: a guest is ready
// early. BecomeInit returns only with an error.
func BecomeInit(agent []string) error {
	if err := SuppressSyncs(); err != nil {
		return err
	}
	cgroup, err := openCgroup()
	if err != nil {
		return fmt.Errorf("cannot make cgroup for the agent: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("cannot start the agent: %w", err)
	}

	attr := &os.ProcAttr{
		Env:   os.Environ(),
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
		Sys:   &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(cgroup.Fd()), Setsid: true},
	}
	if _, err := os.StartProcess(self, agent, attr); err != nil {
		return fmt.Errorf("cannot start the agent: %w", err)
	}

	// systemd reads its arguments; it has none here.
	return fmt.Errorf("cannot start the init system: %w", unix.Exec("/sbin/init", []string{"/sbin/init"}, os.Environ()))
}

func openCgroup() (*os.File, error) {
	if err := os.Mkdir(agentCgroup, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return os.Open(agentCgroup)
}

// Where systemctl(1) reaches systemd: root without a bus, other users by D-Bus.
const (
	initSocket = "/run/systemd/private"
	busSocket  = "/run/dbus/system_bus_socket"
	busUnit    = "/usr/lib/systemd/system/dbus.socket" // makes busSocket
)

// initWait is longer than systemd takes to make its sockets. If it never does,
// steps are not refused: they need it rarely.
const initWait = 5 * time.Second

// awaitInit waits until systemd answers, and until D-Bus does in guests that
// have it.
func awaitInit() {
	deadline := time.Now().Add(initWait)
	await(deadline, func() bool {
		conn, err := net.Dial("unix", initSocket)
		if err != nil {
			return false
		}
		_ = conn.Close()
		return true
	})

	if _, err := os.Stat(busUnit); err == nil {
		await(deadline, func() bool {
			// Not connected to: that would start the bus for nobody.
			_, err := os.Stat(busSocket)
			return err == nil
		})
	}
}

// await waits for a condition until the deadline.
func await(deadline time.Time, done func() bool) {
	for !done() && time.Now().Before(deadline) {
		time.Sleep(2 * time.Millisecond)
	}
}
