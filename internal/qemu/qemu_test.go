package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mkappliance/mkappliance/internal/arch"
	"github.com/mkappliance/mkappliance/internal/run"
	"github.com/mkappliance/mkappliance/internal/run/runtest"
)

func TestArgv(t *testing.T) {
	c := Config{Arch: arch.AMD64(), Seed: "/s,eed.iso", Sticks: []string{"/stick"}, Dir: "/d", Memory: 2 << 30, CPUs: 2,
		Offline:       true,
		HostForwards:  []HostForward{{2222, 22}},
		GuestForwards: []GuestForward{{"10.0.2.100:8080", "socat -,raw TCP:127.0.0.1:1"}}}
	for _, test := range []struct {
		summary string
		kvm     bool
		want    string
	}{
		{
			summary: "emulated",
			want:    "-accel tcg,thread=multi -cpu qemu64,cx16=on,lahf-lm=on,popcnt=on,ssse3=on,sse4.1=on,sse4.2=on",
		},
		{summary: "KVM", kvm: true, want: "-accel kvm -cpu host"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			got := strings.Join(c.argv("/code.fd", test.kvm), " ")
			want := "qemu-system-x86_64 -machine q35 -nodefaults -display none " + test.want + " -smp 2 -m 2048M" +
				" -drive if=pflash,format=raw,readonly=on,file=/code.fd -drive if=pflash,format=raw,file=/d/vars.fd" +
				" -drive if=virtio,format=qcow2,discard=unmap,file=/d/disk.qcow2" +
				" -drive if=virtio,format=raw,readonly=on,file=/s,,eed.iso" +
				" -drive if=virtio,format=raw,readonly=on,file=/stick" +
				" -netdev user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:2222-:22" +
				",guestfwd=tcp:10.0.2.100:8080-cmd:socat -,,raw TCP:127.0.0.1:1" +
				" -device virtio-net-pci,netdev=net -device virtio-rng-pci -qmp unix:/d/qmp,server=on,wait=off -serial mon:stdio"
			if got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

func TestArgvDisk(t *testing.T) {
	got := strings.Join(Config{Arch: arch.AMD64(), Dir: "/d", Disk: "/n,bd"}.argv("/code.fd", false), " ")
	want := " -drive if=virtio,format=raw,discard=unmap,cache=writeback,file.driver=nbd,file.server.type=unix," +
		"file.server.path=/n,,bd -netdev "
	if !strings.Contains(got, want) || strings.Contains(got, overlayName) {
		t.Errorf("got %s\nwithout %s", got, want)
	}
}

func TestPrepareMakesTheOverlayOnce(t *testing.T) {
	if _, err := os.Stat(arch.AMD64().QEMU.Firmware[0].Code); err != nil {
		t.Skipf("no UEFI firmware: %v", err)
	}
	dir := t.TempDir()
	image := filepath.Join(dir, "x.img")
	if err := os.WriteFile(image, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	overlay := filepath.Join(dir, overlayName)
	fake := &runtest.Fake{Handle: func(context.Context, run.Cmd) error { return os.WriteFile(overlay, nil, 0o600) }}
	c := Config{Arch: arch.AMD64(), Image: image, Dir: dir, DiskSize: 8 << 30}

	for range 2 {
		if _, err := c.prepare(t.Context(), fake); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", image, overlay, "8589934592"}
	if calls := fake.Calls(); len(calls) != 1 || !slices.Equal(calls[0].Args, want) {
		t.Errorf("got %v, want %q once", calls, want)
	}
	if info, err := os.Stat(filepath.Join(dir, varsName)); err != nil || info.Size() == 0 {
		t.Errorf("variable store: %v, %v", info, err)
	}

	other := c
	other.Image = filepath.Join(dir, "y.img")
	err := errors.Join(os.WriteFile(other.Image, nil, 0o644), os.Chtimes(image, time.Time{}, time.Unix(1, 0)))
	if err != nil {
		t.Fatal(err)
	}

	for _, c := range []Config{other, c} { // another image, and another build of the same
		_, err := c.prepare(t.Context(), fake)
		want := dir + " keeps a machine made from another image, or from another build of this one; " +
			"remove that directory or keep this machine elsewhere"
		if err == nil || err.Error() != want {
			t.Errorf("%s: got  %v\nwant %s", c.Image, err, want)
		}
	}
	if calls := fake.Calls(); len(calls) != 1 {
		t.Errorf("the overlay was made again: %v", calls)
	}
}

func TestStartWithoutImage(t *testing.T) {
	_, err := Start(t.Context(), Config{Arch: arch.AMD64(), Image: "/nonexistent.img", Dir: t.TempDir()})
	want := "cannot start machine: stat /nonexistent.img: no such file or directory"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// TestMachine runs a real QEMU, whose firmware finds nothing to boot.
func TestMachine(t *testing.T) {
	for _, tool := range []string{"qemu-system-x86_64", "qemu-img", arch.AMD64().QEMU.Firmware[0].Code} {
		if _, err := exec.LookPath(tool); err != nil && !errors.Is(err, fs.ErrPermission) {
			t.Skipf("cannot run machines: %v", err)
		}
	}

	dir := t.TempDir()
	c := Config{Arch: arch.AMD64(), Image: filepath.Join(dir, "x.img"), Dir: dir,
		DiskSize: 1 << 20, Memory: 256 << 20, CPUs: 1, Offline: true}
	if err := os.WriteFile(c.Image, make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	start := func(ctx context.Context, c Config) *Machine {
		m, err := Start(ctx, c)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}

	t.Run("quit", func(t *testing.T) {
		m := start(t.Context(), c)
		if err := m.Powerdown(); err != nil {
			t.Error(err)
		}
		m.Quit()
		if err := m.Wait(); err != nil {
			t.Error(err)
		}
		if err := m.Powerdown(); err == nil || err.Error() != "cannot control machine: it is off" {
			t.Errorf("got %v from a machine that is off", err)
		}
	})

	t.Run("the context ends", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		m := start(ctx, c)
		cancel()
		if err := m.Wait(); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want the context's error", err)
		}
	})

	t.Run("the port is taken", func(t *testing.T) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		c := c
		c.HostForwards = []HostForward{{listener.Addr().(*net.TCPAddr).Port, 22}}
		err = start(t.Context(), c).Wait()
		if err == nil || !strings.Contains(err.Error(), "Could not set up host forwarding rule") {
			t.Errorf("got %v", err)
		}
	})
}

func TestStartWithSmallDisk(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "x.img")
	if err := os.WriteFile(image, make([]byte, 4096), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := Start(t.Context(), Config{Arch: arch.AMD64(), Image: image, Dir: dir, DiskSize: 4095})
	want := "cannot start machine: a disk of 4095 bytes cannot hold " + image + "; give it 4096 or more"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 1 {
		t.Errorf("left %v", left)
	}
}

// TestControlAmidEvents speaks QEMU's side of the protocol: events may come at
// any time, and a connection that closes early takes its command with it.
func TestControlAmidEvents(t *testing.T) {
	const event = `{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "POWERDOWN"}`
	for _, test := range []struct{ summary, reply, want string }{
		{summary: "done", reply: `{"return": {}}`},
		{
			summary: "refused",
			reply:   `{"error": {"class": "GenericError", "desc": "not now"}}`,
			want:    "cannot control machine: not now",
		},
	} {
		t.Run(test.summary, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), qmpName)
			listener, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			served := make(chan error, 1)
			go func() { served <- serveQMP(listener, event, test.reply) }()
			m := &Machine{qmp: path, off: make(chan struct{})}
			got := ""
			if err := m.Powerdown(); err != nil {
				got = err.Error()
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			if err := <-served; err != nil {
				t.Error(err)
			}
		})
	}
}

// serveQMP takes one connection and answers its commands after an event each,
// the last with reply.
func serveQMP(listener net.Listener, event, reply string) error {
	conn, err := listener.Accept()
	if err != nil {
		return err
	}
	defer conn.Close()
	fmt.Fprintln(conn, `{"QMP": {"version": {}, "capabilities": []}}`)
	commands := json.NewDecoder(conn)
	for _, step := range []struct{ execute, reply string }{
		{"qmp_capabilities", `{"return": {}}`},
		{"system_powerdown", reply},
	} {
		var command struct{ Execute string }
		if err := commands.Decode(&command); err != nil || command.Execute != step.execute {
			return fmt.Errorf("got command %q, %v; want %q", command.Execute, err, step.execute)
		}
		fmt.Fprintln(conn, event)
		time.Sleep(50 * time.Millisecond) // an early end shows
		if _, err := fmt.Fprintln(conn, step.reply); err != nil {
			return fmt.Errorf("the connection ended before the reply to %s: %w", step.execute, err)
		}
	}
	return nil
}
