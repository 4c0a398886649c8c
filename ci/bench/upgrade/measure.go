package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/mkappliance/mkappliance/agent/disk"
	"github.com/mkappliance/mkappliance/agent/upgrade"
	"github.com/mkappliance/mkappliance/image"
	"github.com/mkappliance/mkappliance/internal/arch"
	"github.com/mkappliance/mkappliance/internal/layout"
	"github.com/mkappliance/mkappliance/internal/release"
	"github.com/mkappliance/mkappliance/internal/verity"
)

const runs = 3

// result is one upgrade.
type result struct {
	took  time.Duration // until the next boot would start the version
	wire  int64         // bytes of all files that the server sent
	stats upgrade.Stats // of the root file system
}

// row is a way to upgrade.
type row struct {
	what     string
	channel  string // directory
	noRanges bool   // the server sends whole files alone
	result
}

// measure upgrades the old image a few times, each time on a disk of its own.
func (b *bench) measure(ctx context.Context, way row) (result, error) {
	var results []result
	for range runs {
		r, err := b.upgradeOnce(ctx, way)
		if err != nil {
			return result{}, err
		}
		results = append(results, r)
	}
	return median(results), nil
}

func (b *bench) upgradeOnce(ctx context.Context, way row) (result, error) {
	dir, err := os.MkdirTemp(b.work, "run-")
	if err != nil {
		return result{}, err
	}
	defer os.RemoveAll(dir)
	m, u, err := b.prepare(ctx, dir)
	if err != nil {
		return result{}, err
	}
	var sent atomic.Int64
	files := http.FileServer(http.Dir(way.channel))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if way.noRanges {
			r.Header.Del("Range")
		}
		files.ServeHTTP(&counter{w, &sent}, r)
	}))
	defer server.Close()

	u.Source = server.URL
	if u, err = u.Open(); err != nil {
		return result{}, err
	}
	start := time.Now()
	outcome, err := u.Run(ctx, m, newVersion, false)
	if err != nil {
		return result{}, err
	}
	return result{took: time.Since(start), wire: sent.Load(), stats: *outcome.Stats}, nil
}

// counter counts the bytes of bodies.
type counter struct {
	http.ResponseWriter
	sent *atomic.Int64
}

// Write implements io.Writer.
func (c *counter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.sent.Add(int64(n))
	return n, err
}

// prepare makes the disk of an appliance that runs the old image, in a file, and what
// upgrades it.
func (b *bench) prepare(ctx context.Context, dir string) (*machine, *upgrade.Upgrader, error) {
	path := filepath.Join(b.dir, "old.img")
	old, err := image.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer old.Close()
	baked := old.Manifest()
	m := &machine{path: filepath.Join(dir, "disk"), esp: filepath.Join(dir, "esp")}
	if m.root, err = verity.ParseDigest(baked.RootHash); err != nil {
		return nil, nil, err
	}
	if m.arch, err = arch.Lookup(baked.Architecture); err != nil {
		return nil, nil, err
	}

	ukis := filepath.Join(m.esp, layout.UKIDir)
	if err := errors.Join(m.makeDisk(ctx, path), os.MkdirAll(ukis, 0o755),
		os.WriteFile(filepath.Join(ukis, layout.GoodUKIName(baked.Version)), nil, 0o644)); err != nil {
		return nil, nil, err
	}
	keys, err := release.ReadKeys(b.dir)
	u := &upgrade.Upgrader{Channel: "stable", Keys: keys, Dir: filepath.Join(dir, "state"), Now: time.Now, Log: io.Discard,
		Host: upgrade.Host{Image: baked.Name, Version: baked.Version, Architecture: baked.Architecture, Agent: "1",
			Root: m.root}}
	return m, u, err
}

// machine is an appliance that is off: its disk is a file, and its ESP a directory.
type machine struct {
	path, esp string
	root      verity.Digest
	arch      arch.Arch
}

// OpenDisk implements upgrade.Machine.
func (m *machine) OpenDisk() (*disk.Disk, error) { return disk.Open(m.path, m.root, m.arch) }

// MountESP implements upgrade.Machine.
func (m *machine) MountESP(*disk.Disk) (*disk.ESP, func() error, error) {
	return disk.NewESP(m.esp), func() error { return nil }, nil
}

// makeDisk copies an image and adds slot B, as systemd-repart does at the first boot.
func (m *machine) makeDisk(ctx context.Context, image string) error {
	for _, c := range []struct {
		stdin string
		argv  []string
	}{
		{argv: []string{"cp", "--sparse=always", image, m.path}},
		{argv: []string{"truncate", "--size=8G", m.path}},
		{argv: []string{"sfdisk", "--quiet", "--relocate", "gpt-bak-std", m.path}},
		{argv: []string{"sfdisk", "--quiet", "--append", m.path}, stdin: fmt.Sprintf(
			"size=32MiB, type=%s, name=%s\nsize=2GiB, type=%s, name=%[2]s\n",
			m.arch.GPT.RootVerity, layout.EmptyLabel, m.arch.GPT.Root)},
	} {
		cmd := exec.CommandContext(ctx, c.argv[0], c.argv[1:]...)
		cmd.Stdin = strings.NewReader(c.stdin)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("cannot run %s: %w: %s", c.argv[0], err, out)
		}
	}
	return nil
}

// print writes all ways of one upgrade, with their ratio to the first.
func print(w io.Writer, rows []row) {
	fmt.Fprintf(w, "\nan upgrade from the channel to the slot, median of %d runs, over loopback\n", runs)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "received\tratio\tof the root\trequests\ttime\tratio\t  what")
	first := rows[0]
	for _, row := range rows {
		fmt.Fprintf(t, "%.1f MB\t%.1fx\t%.1f MB\t%d\t%.1f s\t%.1fx\t  %s\n",
			megabytes(row.wire), float64(row.wire)/float64(first.wire), megabytes(row.stats.Bytes), row.stats.Requests,
			row.took.Seconds(), row.took.Seconds()/first.took.Seconds(), row.what)
	}
	_ = t.Flush()
}

func megabytes(n int64) float64 { return float64(n) / 1e6 }
