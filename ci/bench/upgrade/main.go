// Command upgrade measures an upgrade between two versions: what it downloads and how
// long it takes, by the blocks that the disk lacks and in full, and how long an
// appliance in QEMU is offline. It prints figures and judges nothing.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/mkappliance/mkappliance/ci/appliance"
	"github.com/mkappliance/mkappliance/internal/publish"
	"github.com/mkappliance/mkappliance/internal/release"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("bench: ")
	if len(os.Args) != 3 {
		log.Fatal("usage: upgrade DIR MKAPPLIANCE (DIR as ci/bench/run-upgrade makes it)")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1], os.Args[2]); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, dir, program string) error {
	work, err := os.MkdirTemp("", "bench-upgrade-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	b := &bench{dir: dir, work: work}
	if err := b.makeFullChannel(ctx); err != nil {
		return err
	}

	channel := filepath.Join(dir, "channel")
	rows := []row{
		{what: "blocks that the disk lacks", channel: channel},
		{what: "nothing is taken from the disk", channel: b.path("full")},
		{what: "the server has no ranges", channel: channel, noRanges: true},
	}
	for i := range rows {
		if rows[i].result, err = b.measure(ctx, rows[i]); err != nil {
			return fmt.Errorf("cannot measure %q: %w", rows[i].what, err)
		}
	}
	print(os.Stdout, rows)
	return b.online(ctx, program)
}

// bench is one run, with the versions in dir.
type bench struct{ dir, work string }

func (b *bench) path(name string) string { return filepath.Join(b.work, name) }

// newVersion is the version of ci/bench/run-upgrade that is installed.
const newVersion = "0.2.0"

// makeFullChannel makes a channel with the new version, of which nothing may be taken
// from the appliance's own disk.
func (b *bench) makeFullChannel(ctx context.Context) error {
	key, err := publish.ReadPrivateKey(filepath.Join(b.dir, "release.key"), nil)
	if err != nil {
		return err
	}
	manifests, err := filepath.Glob(filepath.Join(b.dir, "channel", "*_"+newVersion+".manifest.json"))
	if err != nil || len(manifests) != 1 {
		return errors.Join(err, fmt.Errorf("there are %d manifests of version %s", len(manifests), newVersion))
	}
	set, err := publish.OpenSet(manifests[0])
	if err != nil {
		return err
	}

	m := *set.Manifest
	m.Delta = false
	data, err := m.Encode()
	if err != nil {
		return err
	}
	source := b.path("source")
	if err := errors.Join(os.Mkdir(source, 0o755), os.Mkdir(b.path("full"), 0o755)); err != nil {
		return err
	}
	for _, r := range m.Files.Roles() {
		if err := os.Symlink(filepath.Join(set.Dir, r.File.Name), filepath.Join(source, r.File.Name)); err != nil {
			return err
		}
	}
	path := filepath.Join(source, release.ManifestName(m.Image, m.Version))
	if err := os.WriteFile(path, data, 0o644); err != nil {
		return err
	}
	return publishSet(ctx, path, b.path("full"), key)
}

func publishSet(ctx context.Context, manifest, channel string, key release.PrivateKey) error {
	set, err := publish.OpenSet(manifest)
	if err != nil {
		return err
	}
	if _, err := set.Sign(key, time.Now()); err != nil {
		return err
	}
	target, err := publish.OpenTarget(channel, "")
	if err != nil {
		return err
	}
	p := publish.Publisher{Target: target, Key: key, New: true,
		Report: func(string) func(error) { return func(error) {} }}
	_, err = p.Publish(ctx, []*publish.Set{set}, time.Now())
	return err
}

// online has an appliance in QEMU upgrade itself at once, and prints how long GitHub
// saw it offline at most.
func (b *bench) online(ctx context.Context, program string) error {
	program, err := filepath.Abs(program)
	if err != nil {
		return err
	}
	vm := b.path("vm")
	if err := os.Mkdir(vm, 0o700); err != nil {
		return err
	}
	lab, err := appliance.New(ctx, vm, filepath.Join(b.dir, "old.img"), program, appliance.Options{
		Config: []string{"RUNNER_UPGRADE_SOURCE=" + appliance.ChannelURL + "/channel"}})
	if err != nil {
		return err
	}
	lab.Channel = b.dir
	defer lab.Close()
	online := func() error {
		return errors.Join(lab.Until(ctx, "systemctl is-active --quiet runner.service"), lab.GitHub.WaitOnline(ctx, 1))
	}
	if err := errors.Join(lab.GitHubUp(), lab.Boot(ctx), online()); err != nil {
		return err
	}

	start := time.Now()
	if _, err := lab.SSH(ctx, "systemd-run --quiet --collect --unit=now runner-agent upgrade --now"); err != nil {
		return err
	}
	if err := errors.Join(lab.Until(ctx, "grep -qx IMAGE_VERSION="+newVersion+" /etc/os-release"), online()); err != nil {
		return err
	}
	took := time.Since(start)
	installed, err := lab.SSH(ctx, "journalctl -b -1 -o cat --no-pager -u now | grep '^installed version'")
	fmt.Printf("\nfrom 'runner-agent upgrade --now' to online, QEMU emulating the processor: %.0f s\n%s\n",
		took.Seconds(), strings.TrimSpace(installed))
	return err
}

// median returns the middle one of some results by their time.
func median(results []result) result {
	slices.SortFunc(results, func(a, b result) int { return int(a.took - b.took) })
	return results[len(results)/2]
}
