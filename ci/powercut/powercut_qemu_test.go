//go:build upgrade

package powercut_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/mkappliance/mkappliance/ci/appliance"
	"github.com/mkappliance/mkappliance/ci/fakegithub"
	"github.com/mkappliance/mkappliance/ci/powercut"
	"github.com/mkappliance/mkappliance/internal/arch"
)

var (
	samples = flag.Int("power.samples", 20, "how many disks of each phase are booted")
	tails   = flag.Int("power.tails", 2, "how many disks are made of each flush")
	seed    = flag.Uint64("power.seed", 1, "decides which changes a cut loses, and which disks are booted")
	only    = flag.Int("power.at", -1, "boot the disk of the cut after this flush alone")
	// Machines are slow under software emulation beside other work.
	patience = flag.Duration("power.patience", 15*time.Minute, "how long a machine may take to come online")
	keep     = flag.String("power.recording", "", "keep the recorded appliance in this directory, or use the one there")
)

// TestPowerCuts records an appliance from its first boot to the end of an upgrade,
// and cuts its power after every flush.
func TestPowerCuts(t *testing.T) {
	updates := os.Getenv("MKAPPLIANCE_TEST_UPGRADE")
	if updates == "" {
		t.Skip("MKAPPLIANCE_TEST_UPGRADE names no directory of ci/bake-upgrade: run it through 'make test-power'")
	}
	dir := *keep
	if dir == "" {
		dir = t.TempDir()
	}
	r := openRecording(t, dir, updates)

	ukis := knownUKIs(t, updates)
	first := &suite{recording: r, updates: updates, ukis: ukis, end: r.Online}
	second := &suite{recording: r, updates: updates, ukis: ukis, from: r.Started, end: r.Done, upgrading: true}

	t.Run("FirstBoot", first.check)
	t.Run("Upgrade", second.check)
	t.Run("WrongOrder", second.wrongOrder)
	t.Run("BootFirst", first.boot)
	t.Run("BootUpgrade", second.boot)
}

// knownUKIs returns the hashes of the UKIs of both versions.
func knownUKIs(t *testing.T, updates string) [][sha256.Size]byte {
	t.Helper()
	newest, err := os.ReadFile(filepath.Join(updates, "channel", "runner-amd64_0.2.0.efi"))
	if err != nil {
		t.Fatal(err)
	}
	image, err := os.Open(filepath.Join(updates, "old.img"))
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	baked, err := powercut.UKIs(image, arch.AMD64())
	if err != nil || len(baked) != 1 {
		t.Fatalf("the image has %d UKIs: %v", len(baked), err)
	}
	return append(baked, sha256.Sum256(newest))
}

// suite is one phase of the recording.
type suite struct {
	*recording
	updates   string
	ukis      [][sha256.Size]byte
	from, end int // in the log
	upgrading bool

	// hard are the flushes after which a cut has left something to repair: they are
	// booted first.
	hard []int
}

// replay returns a replay of the log and what looks at its disks.
func (s *suite) replay(t *testing.T, log *powercut.Log) (*powercut.Replay, *powercut.Checker) {
	t.Helper()
	dir := t.TempDir()
	disk := copyDisk(t, filepath.Join(s.updates, "old.img"), filepath.Join(dir, "disk.img"))
	replay, err := powercut.NewReplay(disk, log, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = replay.Close() })
	return replay, &powercut.Checker{Arch: arch.AMD64(), UKIs: s.ukis, Dir: dir}
}

// barriers returns the flushes of the phase.
func (s *suite) barriers(log *powercut.Log) []int {
	return slices.DeleteFunc(log.Barriers(), func(at int) bool { return at < s.from || at >= s.end })
}

// identity has the checker demand what is on the disk at the start of an upgrade.
func (s *suite) identity(t *testing.T, replay *powercut.Replay, checker *powercut.Checker, first int) {
	t.Helper()
	if !s.upgrading {
		return
	}
	if _, err := replay.Cut(first, 0); err != nil {
		t.Fatal(err)
	}
	var err error
	if checker.Identity, err = checker.ReadIdentity(t.Context(), replay.Disk()); err != nil {
		t.Fatal(err)
	}
	if len(checker.Identity) != 7 {
		t.Fatalf("the appliance has %d files of identity", len(checker.Identity))
	}
}

// check looks at the disk of a cut after every flush.
func (s *suite) check(t *testing.T) {
	start := time.Now()
	replay, checker := s.replay(t, s.log)
	barriers := s.barriers(s.log)
	s.identity(t, replay, checker, barriers[0])

	seen := &tally{versions: map[string]int{}}
	for _, barrier := range barriers {
		for tail := range *tails {
			cut, err := replay.Cut(barrier, *seed+uint64(tail))
			if err != nil {
				t.Fatal(err)
			}
			report, err := checker.Check(t.Context(), replay.Disk(), cut)
			if err != nil {
				t.Errorf("%v: %v", cut, err)
			}
			seen.add(report)
			if tail == 0 && (report.Backup || report.Unwritten || report.Empty > 0) {
				s.hard = append(s.hard, barrier)
			}
		}
	}
	t.Logf("%d flushes, %v in %v", len(barriers), seen, time.Since(start).Round(time.Second))
}

// tally counts what is on disks.
type tally struct {
	disks, backups, unwritten, empty int
	versions                         map[string]int
}

func (c *tally) add(r powercut.Report) {
	c.disks++
	c.versions[r.Version]++
	c.backups += btoi(r.Backup)
	c.unwritten += btoi(r.Unwritten)
	c.empty += btoi(r.Empty > 0)
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// String describes c for messages.
func (c *tally) String() string {
	return fmt.Sprintf("%d disks: versions that boot %v, %d by the second copy of the partition table, "+
		"%d with an empty config.env, %d with an empty UKI", c.disks, c.versions, c.backups, c.unwritten, c.empty)
}

// wrongOrder shows that the checks find an upgrade that writes the ESP first.
func (s *suite) wrongOrder(t *testing.T) {
	image, err := os.Open(filepath.Join(s.updates, "old.img"))
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	offset, size, err := powercut.ESP(image, arch.AMD64())
	if err != nil {
		t.Fatal(err)
	}
	log := s.log.Hoist(s.from, offset, size)
	replay, checker := s.replay(t, log)

	found, cuts := 0, 0
	example := ""
	for _, barrier := range s.barriers(log) {
		cut, err := replay.Cut(barrier, *seed)
		if err != nil {
			t.Fatal(err)
		}
		cuts++
		if _, err := checker.Check(t.Context(), replay.Disk(), cut); err != nil {
			found++
			example = err.Error()
		}
	}
	t.Logf("%d of %d disks are found broken, as by: %s", found, cuts, example)
	if found == 0 {
		t.Error("an upgrade that writes the ESP first is not found")
	}
}

// boot starts an appliance from the disks of some cuts.
func (s *suite) boot(t *testing.T) {
	replay, _ := s.replay(t, s.log)
	chosen := s.choose()
	for i, barrier := range chosen {
		t.Run(fmt.Sprintf("%02d", i), func(t *testing.T) {
			cut, err := replay.Cut(barrier, *seed)
			if err != nil {
				t.Fatal(err)
			}
			image := filepath.Join(t.TempDir(), "disk.img")
			if err := powercut.CopySparse(replay.Disk(), image, diskSize); err != nil {
				t.Fatal(err)
			}
			// A few go through the whole upgrade after it.
			s.bootOne(t, cut, image, i%5 == 0 || slices.Contains(s.hard, barrier))
		})
	}
}

// choose returns the flushes to boot after, some of them hard.
func (s *suite) choose() []int {
	barriers := s.barriers(s.log)
	if *only >= 0 {
		return slices.DeleteFunc(barriers, func(at int) bool { return at != *only })
	}
	random := rand.New(rand.NewPCG(*seed, uint64(s.from)))
	for _, list := range [][]int{s.hard, barriers} {
		random.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	}

	chosen := slices.Clone(s.hard[:min(*samples/4, len(s.hard))])
	for _, barrier := range barriers {
		if len(chosen) < *samples && !slices.Contains(chosen, barrier) {
			chosen = append(chosen, barrier)
		}
	}
	slices.Sort(chosen)
	return chosen
}

// bootOne asserts that an appliance comes online from the disk of a cut, with the
// registration it has, and that it can be upgraded.
func (s *suite) bootOne(t *testing.T, cut *powercut.Cut, image string, more bool) {
	ctx, cancel := context.WithTimeout(t.Context(), *patience)
	defer cancel()
	lab := newLab(t, filepath.Join(t.TempDir(), "lab"), image, appliance.Options{Seed: s.path("lab")})
	lab.Channel = s.updates
	options := fakegithub.Options{Tokens: []string{appliance.Token}}
	registered := cut.Note() > 0
	if registered {
		options.Runners = s.Runners
	}
	lab.GitHub = fakegithub.New(options)
	defer func() {
		if t.Failed() {
			t.Log(lab.Evidence(context.WithoutCancel(ctx)))
		}
		_ = lab.Close()
	}()

	start := time.Now()
	if err := errors.Join(lab.GitHubUp(), lab.Boot(ctx), lab.GitHub.WaitOnline(ctx, 1)); err != nil {
		t.Fatalf("%v: not online: %v", cut, err)
	}
	online := time.Since(start)
	if err := lab.WaitSSH(ctx); err != nil {
		t.Fatalf("%v: %v", cut, err)
	}
	version, err := lab.SSH(ctx, "sed -n s/^IMAGE_VERSION=//p /etc/os-release; systemctl --failed --no-legend --plain")
	if err != nil {
		t.Fatal(err)
	}
	registrations := lab.Registrations()
	if n := len(lab.GitHub.Runners()); n != 1 || s.upgrading && registrations != 0 || registrations > 1 ||
		!registered && registrations != 1 {
		t.Errorf("%v: GitHub has %d runners after %d more registrations", cut, n, registrations)
	}
	t.Logf("%v: online after %v with %d more registrations, version %s", cut, online.Round(time.Second), registrations,
		version)

	if more && s.upgrading {
		if err := upgrade(ctx, lab); err != nil {
			t.Errorf("%v: cannot upgrade: %v", cut, err)
		}
	}
}
