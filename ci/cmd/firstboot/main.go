// Command firstboot boots a baked image in QEMU until its runner is registered
// with a fake GitHub and listens for jobs, and prints the time of each stage.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"time"

	"github.com/mkappliance/mkappliance/ci/appliance"
	"github.com/mkappliance/mkappliance/internal/progress"
)

// patience is far more than a boot under software emulation takes.
const patience = 10 * time.Minute

func main() {
	log.SetFlags(0)
	log.SetPrefix("firstboot: ")
	if len(os.Args) != 3 {
		log.Fatal("usage: firstboot IMAGE MKAPPLIANCE")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := run(ctx, os.Args[1], os.Args[2]); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, image, program string) error {
	dir, err := os.MkdirTemp("", "firstboot-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	lab, err := appliance.New(ctx, dir, image, program, appliance.Options{})
	if err != nil {
		return err
	}
	defer lab.Close()

	report := progress.New(os.Stderr, progress.DetectMode(os.Stderr))
	for _, stage := range []struct {
		name string
		do   func() error
	}{
		{name: "boot to ssh", do: func() error {
			if err := lab.GitHubUp(); err != nil {
				return err
			}
			if err := lab.Boot(ctx); err != nil {
				return err
			}
			return lab.WaitSSH(ctx)
		}},
		{name: "registered", do: func() error { return lab.Until(ctx, "test -s /var/lib/runner/installed") }},
		{name: "listening for jobs", do: func() error { return lab.GitHub.WaitOnline(ctx, 1) }},
	} {
		s := report.Stage(stage.name)
		if err := stage.do(); err != nil {
			s.Fail(err)
			return err
		}
		s.Done("")
	}

	report.Summary()
	fmt.Printf("registered: %s, with %s\n", image, lab.GitHub.Runners()[0].Name)
	return nil
}
