// Package health checks whether this version of the image works, by what is on the
// appliance alone: GitHub, DNS and registries may be down, and going back to an
// older version would not bring them up.
//
// An upgrade counts as good once boot-complete.target is reached, which requires
// these checks. Until then the boot loader counts the attempts to boot it.
package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/config"
	"github.com/mkappliance/mkappliance/agent/upgrade"
	"github.com/mkappliance/mkappliance/agent/wire"
)

// Check is one question about the appliance.
type Check struct {
	Name string
	// Run returns an error if the answer is negative. It ends with ctx.
	Run func(ctx context.Context) error
}

// Result is the answer to a check.
type Result struct {
	Check string        `json:"check"`
	OK    bool          `json:"ok"`
	Error string        `json:"error,omitempty"`
	Took  time.Duration `json:"-"`
}

// Run runs all checks in their order and reports each before and after it:
// before has no result yet. It returns the failures.
func Run(ctx context.Context, checks []Check, before func(name string), after func(Result)) error {
	var failures []error
	for _, c := range checks {
		before(c.Name)
		start := time.Now()
		err := c.Run(ctx)
		r := Result{Check: c.Name, OK: err == nil, Took: time.Since(start)}
		if err != nil {
			r.Error = err.Error()
			failures = append(failures, fmt.Errorf("%s: %w", c.Name, err))
		}
		after(r)
	}
	return errors.Join(failures...)
}

// Config checks that config.env can be read. A missing one is not the version's
// fault.
func Config(path string) Check {
	return Check{Name: "config.env", Run: func(context.Context) error {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		_, _, err := config.Load(path)
		return err
	}}
}

// State checks that the state of the appliance can be read and written.
func State(dir, upgrades string) Check {
	return Check{Name: "state", Run: func(context.Context) error {
		if _, err := upgrade.LoadState(upgrades); err != nil {
			return err
		}

		f, err := os.CreateTemp(dir, ".health-*")
		if err != nil {
			return fmt.Errorf("cannot write state: %w", err)
		}
		defer os.Remove(f.Name())
		_, err = io.WriteString(f, "written by the health check\n")
		if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
			return fmt.Errorf("cannot write state: %w", err)
		}
		return nil
	}}
}

// Guest checks that the broker at socket answers, and that a guest starts and runs
// a program.
func Guest(socket string) Check {
	return Check{Name: "guest", Run: func(ctx context.Context) error {
		client := brokerapi.Client{Socket: socket}
		request := brokerapi.RunRequest{Argv: []string{"true"}}
		status, err := client.Run(ctx, request, wire.Streams{Stdout: io.Discard, Stderr: io.Discard})
		if err != nil {
			return err
		}
		if status != 0 {
			return fmt.Errorf("true ended with status %d in a guest", status)
		}
		return nil
	}}
}

// lookEvery is how often Network looks at links.
const lookEvery = 500 * time.Millisecond

// Network checks that the kernel drives a network card, and that one whose cable
// is plugged in has an address, within wait. sys is /sys/class/net.
func Network(sys string, addresses func(link string) (int, error), wait time.Duration) Check {
	return Check{Name: "network", Run: func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, wait)
		defer cancel()
		for {
			err := lookAtLinks(sys, addresses)
			if err == nil {
				return nil
			}
			select {
			case <-ctx.Done():
				return err
			case <-time.After(lookEvery):
			}
		}
	}}
}

func lookAtLinks(sys string, addresses func(link string) (int, error)) error {
	devices, err := filepath.Glob(filepath.Join(sys, "*", "device"))
	if err != nil {
		return err
	}
	if len(devices) == 0 {
		return errors.New("there is no network card, or no driver for it")
	}

	plugged := 0
	for _, device := range devices {
		link := filepath.Base(filepath.Dir(device))
		// The file cannot be read while the link is down.
		if carrier, err := os.ReadFile(filepath.Join(sys, link, "carrier")); err != nil || string(carrier) != "1\n" {
			continue
		}
		plugged++
		if n, err := addresses(link); err != nil || n > 0 {
			return err
		}
	}
	if plugged > 0 {
		return errors.New("no network card has an address; networkctl(1) shows why")
	}
	return nil // a cable that is not plugged in is nobody's fault
}
