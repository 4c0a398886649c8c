package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/mkappliance/mkappliance/image"
	"github.com/mkappliance/mkappliance/internal/arch"
	"github.com/mkappliance/mkappliance/internal/cli"
	"github.com/mkappliance/mkappliance/internal/qemu"
	"github.com/mkappliance/mkappliance/internal/spec"
)

type bootOptions struct {
	machine    machineFlags
	seed, keep string
	sshPort    int
	offline    bool
}

func newBootCommand() *cobra.Command {
	var o bootOptions
	c := &cobra.Command{
		Use:   "boot IMAGE",
		Short: "Boot an image in QEMU, without changing it",
		Long: `Boot an image in QEMU with UEFI firmware, its console on this terminal. The image
is not changed: the machine writes to an overlay, which is removed at the end, or
kept with --keep and booted again the next time. All keys go to the machine,
Ctrl-C too. Ctrl-A X switches it off; power-off from inside ends the command as
well.

Exit status:
  0  the machine was powered off
  1  it could not be started, or QEMU failed
  2  the command line is wrong`,
		Example: `  mkappliance boot out/runner-amd64_0.1.0.img --seed seed.iso
  mkappliance boot out/runner-amd64_0.1.0.img --seed seed.iso --ssh-port 2222 --keep vm/`,
		Args: cli.Args("IMAGE"),
		RunE: func(c *cobra.Command, args []string) error { return o.run(c, args[0]) },
	}
	f := c.Flags()
	f.StringVar(&o.seed, "seed", "", "attach the NoCloud seed `FILE`")
	o.machine.add(f)
	f.IntVar(&o.sshPort, "ssh-port", 0, "let 127.0.0.1:`PORT` reach the machine's ssh")
	f.StringVar(&o.keep, "keep", "", "keep the machine's disk in `DIR`, and boot it again if it is there")
	f.BoolVar(&o.offline, "offline", false, "give the machine no network but ssh")
	return c
}

func (o *bootOptions) run(c *cobra.Command, file string) error {
	config, err := o.config(file)
	if err != nil {
		return cli.Usage(err)
	}
	if config.Arch, err = archOf(file); err != nil {
		return err
	}
	config.Console, config.Keyboard = c.OutOrStdout(), os.Stdin

	if config.Dir == "" {
		if config.Dir, err = os.MkdirTemp("", "mkappliance-boot-"); err != nil {
			return fmt.Errorf("cannot boot: %w", err)
		}
		defer os.RemoveAll(config.Dir)
	} else if err := os.MkdirAll(config.Dir, 0o700); err != nil {
		return fmt.Errorf("cannot boot: %w", err)
	}

	vm, err := qemu.Start(c.Context(), config)
	if err != nil {
		return err
	}
	if vm.Emulated != nil {
		fmt.Fprintf(os.Stderr, "mkappliance: emulating the processor, which is slow: %v\n", vm.Emulated)
	}
	fmt.Fprintln(os.Stderr, "mkappliance: the machine is on; Ctrl-A X switches it off")

	err = vm.Wait()
	if c.Context().Err() != nil {
		return nil // ended by the user
	}
	return err
}

// config checks the flags, before a machine is made, and returns the machine that
// they describe.
func (o *bootOptions) config(file string) (qemu.Config, error) {
	config := qemu.Config{Image: file, Seed: o.seed, Dir: o.keep, Offline: o.offline}

	if err := o.machine.fill(&config); err != nil {
		return config, err
	}
	if o.sshPort < 0 || o.sshPort > 65535 {
		return config, fmt.Errorf("cannot use --ssh-port %d: want 1 to 65535", o.sshPort)
	}
	for _, name := range []string{file, o.seed} {
		if _, err := os.Stat(name); name != "" && err != nil {
			return config, fmt.Errorf("cannot boot: %w", err)
		}
	}

	if o.sshPort != 0 {
		config.HostForwards = []qemu.HostForward{{HostPort: o.sshPort, GuestPort: 22}}
	}
	return config, nil
}

// machineFlags are the size of a machine, for every verb that boots one.
type machineFlags struct {
	diskSize, memory string
	cpus             int
}

func (m *machineFlags) add(f *pflag.FlagSet) {
	f.StringVar(&m.diskSize, "disk-size", "8G", "grow the disk to `SIZE`")
	f.StringVar(&m.memory, "memory", "2G", "give the machine `SIZE` of memory")
	f.IntVar(&m.cpus, "cpus", 2, "give the machine `N` processors")
}

// fill checks the flags and sets what they say.
func (m *machineFlags) fill(config *qemu.Config) error {
	var err error
	if config.DiskSize, err = spec.ParseSize(m.diskSize); err != nil {
		return fmt.Errorf("cannot use --disk-size: %w", err)
	}
	if config.Memory, err = spec.ParseSize(m.memory); err != nil {
		return fmt.Errorf("cannot use --memory: %w", err)
	}
	if m.cpus < 1 {
		return fmt.Errorf("cannot use --cpus %d: want 1 or more", m.cpus)
	}
	config.CPUs = m.cpus
	return nil
}

// archOf returns the architecture of an image file by its manifest. Without one, as
// of an image that was copied alone, it is that of all images so far.
func archOf(file string) (arch.Arch, error) {
	i, err := image.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return arch.AMD64(), nil
	}
	if err != nil {
		return arch.Arch{}, err
	}
	defer i.Close()

	a, err := arch.Lookup(i.Manifest().Architecture)
	if err != nil {
		return a, fmt.Errorf("cannot boot %s: %w", file, err)
	}
	return a, nil
}
