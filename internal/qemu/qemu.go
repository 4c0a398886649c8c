// Package qemu runs a disk image in QEMU with UEFI firmware, on a
// copy-on-write overlay, so that the image itself is never changed.
package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mkappliance/mkappliance/internal/arch"
	"github.com/mkappliance/mkappliance/internal/run"
)

// Config describes a machine.
type Config struct {
	Arch  arch.Arch // architecture of Image
	Image string    // path of a raw disk image, which is not changed
	Seed  string    // path of a NoCloud image, attached read-only; empty for none
	// Sticks are paths of raw images of further disks, attached read-only.
	Sticks []string
	// Dir is a directory for the overlay and the firmware's variables. Starting again in the
	// same directory boots the same machine; another image there is refused.
	Dir      string
	DiskSize int64 // bytes the overlay is grown to
	// Disk is the Unix socket of an NBD server that serves the disk: Image, DiskSize
	// and the overlay are then of no use. QEMU passes the machine's flushes on.
	Disk     string
	Memory   int64     // bytes
	CPUs     int       // number of processors
	Console  io.Writer // output of the first serial port
	Keyboard io.Reader // input of that port; nil for none

	Offline       bool // no network but the forwards below
	HostForwards  []HostForward
	GuestForwards []GuestForward
}

// HostForward lets this host reach a port of the machine, on 127.0.0.1.
type HostForward struct{ HostPort, GuestPort int }

// GuestForward lets the machine reach a command of this host at an address of
// QEMU's user network: a connection is the command's input and output.
type GuestForward struct{ Addr, Command string }

// Machine is a running QEMU.
type Machine struct {
	// Emulated is the reason why the processor is emulated, which is slow; nil if
	// KVM runs it.
	Emulated error

	process *run.Process
	off     <-chan struct{} // closed when process has ended
	qmp     string          // path of its control socket
	stderr  strings.Builder // complete when process has ended
}

// Names in Config.Dir.
const (
	overlayName = "disk.qcow2"
	varsName    = "vars.fd"
	originName  = "image"
	qmpName     = "qmp"
)

// Start switches a machine on. It runs until it powers off, Quit is called, ctx
// ends or the calling program does.
func Start(ctx context.Context, c Config) (*Machine, error) {
	code, err := c.prepare(ctx, run.Local{})
	if err != nil {
		return nil, fmt.Errorf("cannot start machine: %w", err)
	}
	m := &Machine{Emulated: tryKVM(ctx, run.Local{}, c.Arch.QEMU), qmp: filepath.Join(c.Dir, qmpName)}

	m.process, err = run.Start(ctx, run.Cmd{
		Args:  c.argv(code, m.Emulated == nil),
		Stdin: c.Keyboard, Stdout: c.Console, Stderr: &m.stderr,
		// When ctx ends QEMU gets SIGTERM first, since only then it restores the
		// terminal.
		KillWithParent: true,
		WaitDelay:      quitGrace,
	})
	if err != nil {
		return nil, fmt.Errorf("cannot start machine: %w", err)
	}
	m.off = m.process.Done()
	return m, nil
}

// prepare makes the overlay and the variable store unless they exist, and returns
// the path of the firmware's code.
func (c Config) prepare(ctx context.Context, executor run.Executor) (code string, err error) {
	for _, tool := range []string{c.Arch.QEMU.Program, "qemu-img"} {
		if _, err := run.LookPath(tool); err != nil {
			return "", fmt.Errorf("%w; install the packages %s", err, strings.Join(c.Arch.QEMU.Packages, " and "))
		}
	}

	if c.Disk != "" {
		return c.prepareVars()
	}
	image, err := filepath.Abs(c.Image)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(image)
	if err != nil {
		return "", err
	}
	if info.Size() > c.DiskSize {
		return "", fmt.Errorf("a disk of %d bytes cannot hold %s; give it %d or more", c.DiskSize, c.Image, info.Size())
	}

	firmware, err := findFirmware(c.Arch.QEMU)
	if err != nil {
		return "", err
	}

	// Changing an image under an existing overlay corrupts its file systems.
	origin := fmt.Sprintf("%s, %d bytes, of %s\n", image, info.Size(), info.ModTime().UTC().Format(time.RFC3339Nano))
	if _, err := os.Stat(filepath.Join(c.Dir, overlayName)); errors.Is(err, fs.ErrNotExist) {
		return firmware.Code, c.makeDisk(ctx, executor, image, origin, firmware.Vars)
	}
	if kept, err := os.ReadFile(filepath.Join(c.Dir, originName)); err != nil || string(kept) != origin {
		return "", fmt.Errorf("%s keeps a machine made from another image, or from another build of this one; "+
			"remove that directory or keep this machine elsewhere", c.Dir)
	}
	return firmware.Code, nil
}

// prepareVars makes the variable store of a machine whose disk is elsewhere, unless
// it exists.
func (c Config) prepareVars() (code string, err error) {
	firmware, err := findFirmware(c.Arch.QEMU)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(filepath.Join(c.Dir, varsName)); err == nil {
		return firmware.Code, nil
	}
	return firmware.Code, c.makeVars(firmware.Vars)
}

func (c Config) makeVars(from string) error {
	store, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(c.Dir, varsName), store, 0o600)
}

// findFirmware returns the first UEFI firmware that is installed.
func findFirmware(q arch.QEMU) (arch.Firmware, error) {
	for _, firmware := range q.Firmware {
		if _, err := os.Stat(firmware.Code); err == nil {
			return firmware, nil
		}
	}
	return arch.Firmware{}, fmt.Errorf("no UEFI firmware found; install the package %s", q.FirmwarePackage)
}

// makeDisk makes the variable store and the overlay over the image. The overlay is
// the last: where it exists, the rest does.
func (c Config) makeDisk(ctx context.Context, executor run.Executor, image, origin, vars string) error {
	if err := c.makeVars(vars); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(c.Dir, originName), []byte(origin), 0o600); err != nil {
		return err
	}
	return executor.Exec(ctx, run.Cmd{Args: []string{"qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", image,
		filepath.Join(c.Dir, overlayName), strconv.FormatInt(c.DiskSize, 10)}})
}

// argv returns the command line of QEMU, qemu-system(1).
func (c Config) argv(code string, kvm bool) []string {
	accel := []string{"-accel", "tcg,thread=multi", "-cpu", c.Arch.QEMU.CPU}
	if kvm {
		accel = []string{"-accel", "kvm", "-cpu", "host"}
	}

	argv := []string{c.Arch.QEMU.Program, "-machine", c.Arch.QEMU.Machine, "-nodefaults", "-display", "none"}
	argv = append(argv, accel...)
	argv = append(argv,
		"-smp", strconv.Itoa(c.CPUs), "-m", strconv.FormatInt(c.Memory>>20, 10)+"M",
		"-drive", "if=pflash,format=raw,readonly=on,file="+comma(code),
		"-drive", "if=pflash,format=raw,file="+comma(filepath.Join(c.Dir, varsName)),
		"-drive", c.disk())
	more := c.Sticks
	if c.Seed != "" {
		more = slices.Concat([]string{c.Seed}, more)
	}
	for _, disk := range more {
		argv = append(argv, "-drive", "if=virtio,format=raw,readonly=on,file="+comma(disk))
	}
	return append(argv,
		"-netdev", c.netdev(), "-device", "virtio-net-pci,netdev=net",
		"-device", "virtio-rng-pci",
		"-qmp", "unix:"+comma(filepath.Join(c.Dir, qmpName))+",server=on,wait=off",
		// With the monitor behind Ctrl-A, QEMU passes Ctrl-C on.
		"-serial", "mon:stdio")
}

func (c Config) disk() string {
	if c.Disk != "" {
		return "if=virtio,format=raw,discard=unmap,cache=writeback,file.driver=nbd,file.server.type=unix," +
			"file.server.path=" + comma(c.Disk)
	}
	return "if=virtio,format=qcow2,discard=unmap,file=" + comma(filepath.Join(c.Dir, overlayName))
}

func (c Config) netdev() string {
	netdev := "user,id=net"
	if c.Offline {
		netdev += ",restrict=on"
	}
	for _, f := range c.HostForwards {
		netdev += fmt.Sprintf(",hostfwd=tcp:127.0.0.1:%d-:%d", f.HostPort, f.GuestPort)
	}
	for _, f := range c.GuestForwards {
		netdev += ",guestfwd=tcp:" + f.Addr + "-cmd:" + comma(f.Command)
	}
	return netdev
}

// comma doubles commas, which separate QEMU's options.
func comma(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// Wait waits until the machine is off. The cause of a context that ended the
// machine is in the error.
func (m *Machine) Wait() error {
	err := m.process.Wait()
	var exit *run.ExitError
	if errors.As(err, &exit) {
		return fmt.Errorf("cannot run machine: %w: %s", err, strings.TrimSpace(m.stderr.String()))
	}
	return err
}

// Ended is closed when the machine is off.
func (m *Machine) Ended() <-chan struct{} { return m.off }

// quitGrace is how long QEMU may take to flush and end.
const quitGrace = 5 * time.Second

// Quit switches the machine off at once, as a power cut does, and waits for the
// end of QEMU.
func (m *Machine) Quit() {
	if m.control("quit") == nil {
		select {
		case <-m.off:
			return
		case <-time.After(quitGrace):
		}
	}
	_ = m.process.Signal(os.Kill)
	<-m.off
}

// Powerdown presses the power button, and does not wait for what the machine makes
// of it.
func (m *Machine) Powerdown() error { return m.control("system_powerdown") }

// dial connects to QEMU, which opens its socket a moment after it starts.
func (m *Machine) dial() (net.Conn, error) {
	for deadline := time.Now().Add(quitGrace); ; {
		conn, err := net.Dial("unix", m.qmp)
		if err == nil || time.Now().After(deadline) {
			return conn, err
		}
		select {
		case <-m.off:
			return nil, errors.New("it is off")
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// control sends one command to QEMU and waits for the reply.
func (m *Machine) control(command string) error {
	conn, err := m.dial()
	if err != nil {
		return fmt.Errorf("cannot control machine: %w", err)
	}
	defer conn.Close()

	if err := converse(conn, command); err != nil {
		return fmt.Errorf("cannot control machine: %w", err)
	}
	return nil
}

// converse follows the QEMU Machine Protocol Specification: QEMU greets, and
// accepts commands after qmp_capabilities.
func converse(conn net.Conn, command string) error {
	if err := conn.SetDeadline(time.Now().Add(quitGrace)); err != nil {
		return err
	}
	replies := json.NewDecoder(conn)
	var greeting any
	if err := replies.Decode(&greeting); err != nil {
		return err
	}

	for _, execute := range []string{"qmp_capabilities", command} {
		if err := json.NewEncoder(conn).Encode(map[string]string{"execute": execute}); err != nil {
			return err
		}
		if err := awaitReply(replies); err != nil {
			return err
		}
	}
	return nil
}

// awaitReply reads up to the reply to a command. QEMU may send events before it.
func awaitReply(replies *json.Decoder) error {
	for {
		var message struct {
			Return json.RawMessage        `json:"return"`
			Error  *struct{ Desc string } `json:"error"`
		}
		if err := replies.Decode(&message); err != nil {
			return err
		}
		if message.Error != nil {
			return errors.New(message.Error.Desc)
		}
		if message.Return != nil {
			return nil
		}
	}
}

// tryKVM returns the reason why QEMU cannot use KVM on this host, or nil if it
// can. Neither the device node nor an empty machine shows it: nested or restricted
// KVM fails only when processors are set up, so tryKVM sets one up.
func tryKVM(ctx context.Context, executor run.Executor, q arch.QEMU) error {
	if _, err := os.Stat("/dev/kvm"); err != nil {
		return fmt.Errorf("cannot use KVM: %w", err)
	}
	probe := run.Cmd{Args: []string{q.Program, "-machine", q.Machine, "-accel", "kvm", "-cpu", "host",
		"-nodefaults", "-display", "none", "-S", "-qmp", "stdio"},
		Stdin: strings.NewReader(`{"execute":"qmp_capabilities"}{"execute":"quit"}`)}
	if err := executor.Exec(ctx, probe); err != nil {
		return fmt.Errorf("cannot use KVM: %w", err)
	}
	return nil
}
