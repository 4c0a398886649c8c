// Package trial upgrades an appliance in QEMU to a version that nobody else has yet,
// and looks at what became of it: whether it is still the same appliance, and whether
// it goes back from a version that does not work.
//
// The appliance does all of it itself, as one in the field does. The trial serves the
// channel, waits, and asks it by ssh.
package trial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/mkappliance/mkappliance/internal/progress"
	"github.com/mkappliance/mkappliance/internal/publish"
	"github.com/mkappliance/mkappliance/internal/qemu"
	"github.com/mkappliance/mkappliance/internal/release"
	"github.com/mkappliance/mkappliance/internal/run"
)

// Config describes a trial.
type Config struct {
	// Machine boots the old version, with a seed that lets Key in as root. Its
	// console and forwards are the trial's.
	Machine qemu.Config
	Key     Key
	// Set is the new version. Without one the new version is what the appliance
	// chooses in the channel at the path Dir.
	Set *publish.Set
	Dir string
	// Channel is the name of the channel for which the appliance looks.
	Channel string
	// Signer signs an index with Set, and a broken version; the old version must
	// accept it.
	Signer release.PrivateKey
	// NoBroken leaves out going back from a broken version. With Dir, Signer is not
	// needed then.
	NoBroken bool
	// Registers is set if the appliance can register, which is waited for. If not,
	// units that need a registration may fail.
	Registers bool
	Progress  *progress.Reporter
}

// Report is what a trial has found, in the form of the output of test-upgrade --json.
type Report struct {
	Image    string  `json:"image,omitempty"`
	From     string  `json:"from,omitempty"` // version
	To       string  `json:"to,omitempty"`   // version
	OK       bool    `json:"ok"`
	Error    string  `json:"error,omitempty"`
	Phases   []Phase `json:"phases"`
	Emulated bool    `json:"emulated"` // the processor was, which is slow
	// Installed is what the agent logged of the blocks of To.
	Installed string `json:"installed,omitempty"`
	Broken    *Left  `json:"broken,omitempty"` // nil if it was not tried
}

// Phase is a part of a trial that has ended.
type Phase struct {
	Name    string  `json:"phase"`
	Seconds float64 `json:"seconds"`
}

// Left is the broken version, from which the appliance went back.
type Left struct {
	Version string `json:"version"`
	Boots   int    `json:"boots"`  // attempts to boot it
	Reason  string `json:"reason"` // as the appliance states it
}

// FailedError is the error of a version that did not do well.
type FailedError struct{ Err error }

func (e *FailedError) Error() string { return e.Err.Error() }
func (e *FailedError) Unwrap() error { return e.Err }

// Source of the channels as the machine sees it.
const channelHost = "10.0.2.100"

// Names of channels in their URLs.
const (
	newChannelName    = "new"
	brokenChannelName = "broken"
)

// trial is one run of Run.
type trial struct {
	Config
	report  *Report
	console console
	before  identity // of the appliance at first

	sh    func(ctx context.Context, script string) (string, error) // runs a script in the machine
	ended <-chan struct{}                                          // closed when it is off
	pause time.Duration                                            // between two looks at it
}

// Run tries a version. The report is of use with an error, too; evidence is what the
// machine had to say about an error.
func Run(ctx context.Context, c Config) (report *Report, evidence string, err error) {
	t := &trial{Config: c, report: &Report{Phases: []Phase{}}, pause: time.Second}
	vm, stop, err := t.start(ctx)
	defer stop()
	if err == nil {
		defer vm.Quit()
		if err = t.run(ctx); err != nil {
			evidence = t.evidence(context.WithoutCancel(ctx))
		}
	}

	t.report.OK = err == nil
	if err != nil {
		t.report.Error = err.Error()
	}
	return t.report, evidence, err
}

// start serves the channels, until stop is called, and switches the machine on.
func (t *trial) start(ctx context.Context) (vm *qemu.Machine, stop func(), err error) {
	stop = func() {}
	if _, err := run.LookPath("socat"); err != nil {
		return nil, stop, fmt.Errorf("%w; install the package socat", err)
	}
	channels, err := t.channels(ctx)
	if err != nil {
		return nil, stop, err
	}
	server, addr, err := serve(channels)
	if err != nil {
		return nil, stop, fmt.Errorf("cannot serve channel: %w", err)
	}
	stop = func() { _ = server.Close() }

	port, err := freePort()
	if err != nil {
		return nil, stop, err
	}
	machine := t.Machine
	machine.Console = &t.console
	machine.HostForwards = []qemu.HostForward{{HostPort: port, GuestPort: 22}}
	machine.GuestForwards = []qemu.GuestForward{{Addr: channelHost + ":80", Command: "socat - TCP:" + addr.String()}}
	if vm, err = qemu.Start(ctx, machine); err != nil {
		return nil, stop, err
	}

	t.report.Emulated = vm.Emulated != nil
	t.ended = vm.Ended()
	t.sh = (&shell{addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), key: t.Key}).run
	return vm, stop, nil
}

// channels returns those that the appliance upgrades from. The broken version is not
// there yet.
func (t *trial) channels(ctx context.Context) (map[string]channel, error) {
	for _, name := range []string{newChannelName, brokenChannelName} {
		if err := os.MkdirAll(t.path(name), 0o700); err != nil {
			return nil, fmt.Errorf("cannot prepare channel: %w", err)
		}
	}
	offered := channel{t.Dir}
	if t.Set != nil {
		var err error
		if offered, err = newChannel(ctx, t.path(newChannelName), t.Set, t.Signer); err != nil {
			return nil, err
		}
	}
	return map[string]channel{newChannelName: offered, brokenChannelName: {t.path(brokenChannelName)}}, nil
}

func (t *trial) path(name string) string { return filepath.Join(t.Machine.Dir, name) }

// freePort returns a port of 127.0.0.1 at which nothing listens.
func freePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port, nil
}

// phase is a part of a trial.
type phase struct {
	name string
	do   func(context.Context) (note string, err error)
	// old is set if an error is not the new version's.
	old bool
}

// run goes through the phases, each of which starts from what the one before left.
func (t *trial) run(ctx context.Context) error {
	phases := []phase{
		{name: "first boot", do: t.boot, old: true},
		{name: "upgrade", do: t.upgrade},
		{name: "health", do: t.prove},
		{name: "identity", do: t.compare},
	}
	if !t.NoBroken {
		phases = append(phases, phase{name: "going back", do: t.goBack}, phase{name: "identity after it", do: t.compare})
	}

	for _, p := range phases {
		start := time.Now()
		stage := t.Progress.Stage(p.name)
		t.console.show(stage.Writer())
		note, err := p.do(ctx)
		t.console.show(nil)
		t.report.Phases = append(t.report.Phases, Phase{Name: p.name, Seconds: time.Since(start).Seconds()})
		if err != nil {
			stage.Fail(err)
			if !p.old && !errors.Is(context.Cause(ctx), context.Canceled) { // by the user
				err = &FailedError{err}
			}
			return err
		}
		stage.Done(note)
	}
	return nil
}

// evidence returns the end of the console and of the journal, as far as the machine
// still answers.
func (t *trial) evidence(ctx context.Context) string {
	text := "the end of the console:\n" + t.console.kept.LastLines(60)
	ctx, cancel := context.WithTimeout(ctx, connectWait)
	defer cancel()
	journal, err := t.sh(ctx, "journalctl --no-pager -q -p notice -n 40; journalctl --no-pager -q -u 'runner*' -n 60")
	if errors.Is(err, context.DeadlineExceeded) || journal == "" {
		return text
	}
	return text + "\n\nthe journal, first warnings and the like, then that of the runner:\n" + journal
}
