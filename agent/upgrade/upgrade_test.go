package upgrade

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"aead.dev/minisign"
	"github.com/diskfs/go-diskfs/partition/gpt"
	"github.com/google/go-cmp/cmp"

	"github.com/mkappliance/mkappliance/agent/disk"
	"github.com/mkappliance/mkappliance/internal/arch"
	"github.com/mkappliance/mkappliance/internal/golden"
	"github.com/mkappliance/mkappliance/internal/layout"
	"github.com/mkappliance/mkappliance/internal/release"
	"github.com/mkappliance/mkappliance/internal/verity"
)

// version is an update set in memory.
type version struct {
	manifest          release.Manifest
	root, verity, uki []byte
	tree              *verity.Tree
}

func newVersion(t *testing.T, number string, root []byte) *version {
	t.Helper()
	salt, err := hex.DecodeString(release.VeritySalt)
	if err != nil {
		t.Fatal(err)
	}
	var hashes bytes.Buffer
	tree, err := verity.Build(&hashes, bytes.NewReader(root), int64(len(root)), salt, [16]byte{})
	if err != nil {
		t.Fatal(err)
	}
	v := &version{root: root, verity: hashes.Bytes(), tree: tree, uki: newUKI("quiet roothash=" + tree.Root().String())}
	v.manifest = release.Manifest{Schema: release.Schema, Image: "runner-amd64", Version: number, Architecture: "amd64",
		Channel: "stable", Severity: release.Low, Delta: true,
		Verity: release.NewVerity(tree.Root().String(), release.VeritySalt, int64(len(root))),
		Files:  release.NewFiles("runner-amd64", number)}
	v.seal()
	return v
}

// seal puts sizes and hashes into the manifest.
func (v *version) seal() {
	f := &v.manifest.Files
	for _, file := range []struct {
		to   *release.File
		data []byte
	}{{&f.Root, v.root}, {&f.Verity, v.verity}, {&f.UKI, v.uki}} {
		sum := sha256.Sum256(file.data)
		file.to.Size, file.to.SHA256 = int64(len(file.data)), hex.EncodeToString(sum[:])
	}
}

// newUKI returns the smallest PE file with a command line.
func newUKI(cmdline string) []byte {
	var out bytes.Buffer
	dos := make([]byte, 64)
	copy(dos, "MZ")
	dos[0x3c] = 64
	out.Write(dos)
	out.WriteString("PE\x00\x00")
	put := func(v any) { _ = binary.Write(&out, binary.LittleEndian, v) }
	put([]uint16{0x8664, 1}) // x86-64, one section
	put([]uint32{0, 0, 0})
	put([]uint16{0, 0})
	name := [8]byte{}
	copy(name[:], ".cmdline")
	put(name)
	put([]uint32{uint32(len(cmdline)), 0x1000, uint32(len(cmdline)), 128, 0, 0, 0, 0})
	out.Write(make([]byte, 128-out.Len()))
	out.WriteString(cmdline)
	return out.Bytes()
}

// lab is an appliance and a channel.
type lab struct {
	t       *testing.T
	key     release.PrivateKey
	dir     string // of the channel
	disk    string // file
	esp     *disk.ESP
	espDir  string
	running *version
	u       *Upgrader
	grace   time.Duration // for a request
	log     bytes.Buffer
}

const slotSize = 4 << 20

var today = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func newLab(t *testing.T) *lab {
	t.Helper()
	public, private, err := minisign.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{t: t, key: private, dir: t.TempDir(), espDir: t.TempDir(), grace: time.Minute,
		running: newVersion(t, "1.0.0", noise(1, 400))}
	l.esp = disk.NewESP(l.espDir)
	l.writeDisk()
	if err := os.MkdirAll(filepath.Join(l.espDir, layout.UKIDir), 0o755); err != nil {
		t.Fatal(err)
	}
	l.write(filepath.Join(l.espDir, layout.UKIDir, "runner_1.0.0.efi"), l.running.uki)

	l.u = &Upgrader{Source: l.dir, Channel: "stable", Keys: []release.PublicKey{public}, Dir: t.TempDir(),
		Now: func() time.Time { return today }, Log: &l.log,
		Host: Host{Image: "runner-amd64", Version: "1.0.0", Architecture: "amd64", Agent: "1.0.0",
			Root: l.running.tree.Root()}}
	return l
}

func (l *lab) write(path string, data []byte) {
	l.t.Helper()
	if err := os.WriteFile(path, data, 0o644); err != nil {
		l.t.Fatal(err)
	}
}

// writeDisk writes a disk with the running version in slot A.
func (l *lab) writeDisk() {
	l.t.Helper()
	l.disk = filepath.Join(l.t.TempDir(), "disk")
	f, err := os.Create(l.disk)
	if err != nil {
		l.t.Fatal(err)
	}
	defer f.Close()
	const size = 8 * slotSize
	if err := f.Truncate(size); err != nil {
		l.t.Fatal(err)
	}

	rootID, verityID := disk.IDs(l.running.tree.Root())
	table := &gpt.Table{LogicalSectorSize: 512, PhysicalSectorSize: 512, ProtectiveMBR: true}
	for i, p := range layout.Partitions() {
		label, start := p.Label("1.0.0"), int64(i+1)*slotSize
		switch p.Name() {
		case "verity-b", "root-b":
			label = layout.EmptyLabel
		case "verity-a":
			_, err = f.WriteAt(l.running.verity, start)
		case "root-a":
			_, err = f.WriteAt(l.running.root, start)
		}
		if err != nil {
			l.t.Fatal(err)
		}
		id := map[string]string{"verity-a": verityID.String(), "root-a": rootID.String()}[p.Name()]
		table.Partitions = append(table.Partitions, &gpt.Partition{Index: i + 1, GUID: id, Name: label,
			Start: uint64(start / 512), End: uint64((start+slotSize)/512) - 1,
			Type: gpt.Type(strings.ToUpper(p.TypeID(arch.AMD64())))})
	}
	if err := table.Write(f, size); err != nil {
		l.t.Fatal(err)
	}
}

// publish writes versions to the channel, with a change of each file just before
// it is signed, if that is not nil.
func (l *lab) publish(change func(name string, data []byte) []byte, versions ...*version) {
	l.t.Helper()
	if change == nil {
		change = func(_ string, data []byte) []byte { return data }
	}

	index := release.Index{Schema: release.Schema, Time: today.Add(-time.Hour), Releases: []release.Entry{}}
	for _, v := range versions {
		data, err := v.manifest.Encode()
		if err != nil {
			l.t.Fatal(err)
		}
		name := release.ManifestName(v.manifest.Image, v.manifest.Version)
		data = change(name, data)
		l.sign(name, data)
		for _, f := range []struct {
			file release.File
			data []byte
		}{{v.manifest.Files.Root, v.root}, {v.manifest.Files.Verity, v.verity}, {v.manifest.Files.UKI, v.uki}} {
			l.write(filepath.Join(l.dir, f.file.Name), f.data)
		}

		sum := sha256.Sum256(data)
		index.Add(release.NewEntry(&v.manifest, hex.EncodeToString(sum[:])))
	}
	data, err := index.Encode()
	if err != nil {
		l.t.Fatal(err)
	}
	l.sign(release.IndexName, change(release.IndexName, data))
}

func (l *lab) sign(name string, data []byte) {
	l.t.Helper()
	signature, err := release.Sign(l.key, name, data, today)
	if err != nil {
		l.t.Fatal(err)
	}
	l.write(filepath.Join(l.dir, name), data)
	l.write(filepath.Join(l.dir, name+release.SignatureSuffix), signature)
}

// upgrade does all of an upgrade.
func (l *lab) upgrade(ctx context.Context, to string) (Outcome, error) {
	l.t.Helper()
	u, err := l.u.Open()
	if err != nil {
		return Outcome{}, err
	}
	u.pause = time.Millisecond
	if h, ok := u.channel.(*httpChannel); ok {
		h.grace, h.slowest = l.grace, 1<<30
	}

	return u.Run(ctx, l, to, false)
}

func (l *lab) OpenDisk() (*disk.Disk, error) { return disk.Open(l.disk, l.u.Host.Root, arch.AMD64()) }

func (l *lab) MountESP(*disk.Disk) (*disk.ESP, func() error, error) {
	return l.esp, func() error { return nil }, nil
}

// boot lets the appliance run a version, which boots well.
func (l *lab) boot(v *version) {
	l.t.Helper()
	number := v.manifest.Version
	l.renameUKI(layout.UKIName(number, tries), "runner_"+number+".efi")
	l.running, l.u.Host.Version, l.u.Host.Root = v, number, v.tree.Root()
}

func (l *lab) renameUKI(from, to string) {
	l.t.Helper()
	dir := filepath.Join(l.espDir, layout.UKIDir)
	if err := os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)); err != nil {
		l.t.Fatal(err)
	}
}

// checkBootable asserts that each UKI on the ESP is whole, and starts a slot that
// is.
func (l *lab) checkBootable(versions ...*version) {
	l.t.Helper()
	ukis, err := l.esp.UKIs()
	if err != nil {
		l.t.Fatal(err)
	}

	bootable := false
	for _, uki := range ukis {
		for _, v := range versions {
			if v.manifest.Version != uki.Version {
				continue
			}
			if uki.Size != int64(len(v.uki)) {
				l.t.Errorf("the UKI of %s has %d bytes", uki.Version, uki.Size)
			}
			d, err := disk.Open(l.disk, v.tree.Root(), arch.AMD64())
			if err != nil {
				l.t.Errorf("the UKI of %s finds no slot: %v", uki.Version, err)
				continue
			}
			if err := check(l.t.Context(), d.ActiveRoot(), v.tree); err != nil {
				l.t.Errorf("slot of %s: %v", uki.Version, err)
			}
			_ = d.Close()
			bootable = bootable || v == l.running
		}
	}
	if !bootable {
		l.t.Error("the running version cannot boot any more")
	}
}

func (l *lab) names() []string {
	l.t.Helper()
	files, err := os.ReadDir(filepath.Join(l.espDir, layout.UKIDir))
	if err != nil {
		l.t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		names = append(names, f.Name())
	}
	return names
}

// TestCycles upgrades five times, to and fro between the slots, over HTTP.
func TestCycles(t *testing.T) {
	l := newLab(t)
	server := httptest.NewServer(http.FileServer(http.Dir(l.dir)))
	defer server.Close()
	l.u.Source = server.URL

	common := noise(1, 400)
	for cycle := 1; cycle <= 5; cycle++ {
		next := newVersion(t, fmt.Sprintf("1.%d.0", cycle), join(noise(int64(10+cycle), 20), common))
		l.publish(nil, next)
		before := l.running
		o, err := l.upgrade(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		if s := o.Stats; o.Version != next.manifest.Version || s.Downloaded != 20 || s.InPlace+s.Copied != 400 {
			t.Errorf("cycle %d: got version %s, %+v", cycle, o.Version, s)
		}
		l.checkBootable(before, next)

		want := []string{"runner_" + before.manifest.Version + ".efi", "runner_" + next.manifest.Version + "+3.efi"}
		if diff := cmp.Diff(want, l.names()); diff != "" {
			t.Errorf("cycle %d: ESP (-want +got):\n%s", cycle, diff)
		}
		staged, err := os.ReadDir(l.u.Dir)
		if err != nil || len(staged) != 1 {
			t.Errorf("cycle %d: %v is left in the directory of the state, %v", cycle, staged, err)
		}
		l.boot(next)
	}
	if o, err := l.upgrade(t.Context(), ""); o.Version != "" || err != nil {
		t.Errorf("the newest version: got %v, %v", o, err)
	}
}

// TestRollback: a version that the boot loader gave up is not tried again, but on
// request.
func TestRollback(t *testing.T) {
	l := newLab(t)
	next := newVersion(t, "1.1.0", join(noise(2, 20), l.running.root))
	l.publish(nil, next)
	if _, err := l.upgrade(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	l.renameUKI("runner_1.1.0+3.efi", "runner_1.1.0+0-3.efi")

	l.log.Reset()
	if err := l.u.Settle(l); err != nil {
		t.Fatal(err)
	}
	const given = "version 1.1.0 is given up: it did not boot well, and the boot loader went back to 1.0.0\n"
	if l.log.String() != given {
		t.Errorf("the log is %q, want %q", l.log.String(), given)
	}
	if o, err := l.upgrade(t.Context(), ""); o.Version != "" || err != nil {
		t.Errorf("got %v, %v; want no version", o, err)
	}
	s, err := LoadState(l.u.Dir)
	if err != nil {
		t.Fatal(err)
	}
	want := []Failure{{Version: "1.1.0", Time: today,
		Reason: "it did not boot well, and the boot loader went back to 1.0.0"}}
	if diff := cmp.Diff(want, s.Failed); diff != "" || s.Pending != nil {
		t.Errorf("pending %v, failed (-want +got):\n%s", s.Pending, diff)
	}

	o, err := l.upgrade(t.Context(), "1.1.0")
	if err != nil || o.Stats.InPlace != 420 {
		t.Errorf("on request: %+v, %v; want all blocks in place", o, err)
	}
	if o, err := l.upgrade(t.Context(), "1.1.0"); err != nil || !o.Installed || o.Stats != nil {
		t.Errorf("again: %+v, %v; want nothing to be written", o, err)
	}
}

// TestNotStarted: a version that the boot loader does not even try is not installed
// and booted for ever.
func TestNotStarted(t *testing.T) {
	l := newLab(t)
	l.publish(nil, newVersion(t, "1.1.0", join(noise(2, 20), l.running.root)))
	l.u.Host.Boot = "one"
	for range 2 {
		if o, err := l.upgrade(t.Context(), ""); err != nil || !o.Installed || o.Failed != nil {
			t.Fatalf("before a boot: %+v, %v", o, err)
		}
	}

	l.u.Host.Boot = "two"
	o, err := l.upgrade(t.Context(), "")
	if err != nil || o.Installed || len(o.Failed) != 1 || !strings.Contains(o.Failed[0].Reason, "did not start it") {
		t.Errorf("after a boot: %+v, %v", o, err)
	}
}

// TestDowngrade goes back to an older version, which the boot loader would not
// prefer by itself, and not below the floor of a version that booted well.
func TestDowngrade(t *testing.T) {
	l := newLab(t)
	first := l.running
	next := newVersion(t, "1.1.0", join(noise(2, 20), l.running.root))
	last := newVersion(t, "1.2.0", join(noise(3, 20), l.running.root))
	last.manifest.RollbackFloor = "1.1.0"
	l.publish(nil, first, next)
	if _, err := l.upgrade(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	l.boot(next)

	o, err := l.upgrade(t.Context(), "1.0.0")
	if err != nil || o.Stats.InPlace != 400 {
		t.Fatalf("%+v, %v; want all blocks in place", o, err)
	}
	if diff := cmp.Diff([]string{"runner_1.0.0+3.efi", "runner_1.1.0+0.efi"}, l.names()); diff != "" {
		t.Errorf("ESP (-want +got):\n%s", diff)
	}
	l.boot(first)

	l.publish(nil, first, next, last)
	if _, err := l.upgrade(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	l.boot(last)
	_, err = l.upgrade(t.Context(), "1.0.0")
	if want := "refused: version 1.0.0 is below 1.1.0, the oldest that version 1.2.0 allows to go back to"; err == nil ||
		err.Error() != want {
		t.Errorf("got %v", err)
	}
}

// TestKilled ends an upgrade at each of its requests in turn: what runs can boot
// at any time, and the next upgrade succeeds.
func TestKilled(t *testing.T) {
	l := newLab(t)
	older := newVersion(t, "0.9.0", noise(5, 300))
	l.publish(nil, older)
	if _, err := l.upgrade(t.Context(), "0.9.0"); err != nil { // so that slot B holds something
		t.Fatal(err)
	}
	l.renameUKI("runner_1.0.0+0.efi", "runner_1.0.0.efi")
	var scattered [][]byte
	for i := range 20 {
		scattered = append(scattered, noise(int64(20+i), 3), l.running.root[i*20*blockSize:(i+1)*20*blockSize])
	}
	next := newVersion(t, "1.1.0", join(scattered...))
	l.publish(nil, older, next)

	var calls, limit atomic.Int64
	var cancel context.CancelFunc
	files := http.FileServer(http.Dir(l.dir))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) > limit.Load() {
			cancel()
			return
		}
		files.ServeHTTP(w, r)
	}))
	defer server.Close()
	l.u.Source = server.URL

	kills := 0
	for n := int64(0); ; n++ {
		calls.Store(0)
		limit.Store(n)
		var ctx context.Context
		ctx, cancel = context.WithCancel(t.Context())
		_, err := l.upgrade(ctx, "")
		cancel()
		if err == nil {
			break
		}
		kills++
		l.checkBootable(l.running, older, next)
	}
	if kills < 8 {
		t.Errorf("it was killed %d times only", kills)
	}
	l.checkBootable(l.running, next)
	if diff := cmp.Diff([]string{"runner_1.0.0.efi", "runner_1.1.0+3.efi"}, l.names()); diff != "" {
		t.Errorf("ESP (-want +got):\n%s", diff)
	}
}

// TestRefusals compares the messages with testdata/refusals.txt, and asserts that
// nothing was written.
func TestRefusals(t *testing.T) {
	flip := func(file string) func(string, []byte) []byte { // after signing
		return func(name string, data []byte) []byte {
			if name != file {
				return data
			}
			data = bytes.Clone(data)
			switch middle := &data[len(data)/2]; {
			case !strings.HasSuffix(name, ".minisig"):
				*middle ^= 1
			case *middle == 'A': // one digit of base64 for another
				*middle = 'B'
			default:
				*middle = 'A'
			}
			return data
		}
	}
	const manifest = "runner-amd64_1.1.0.manifest.json"
	var messages strings.Builder
	for _, test := range []struct {
		summary string
		version func(v *version)                      // before publishing
		change  func(name string, data []byte) []byte // before signing
		served  func(name string, data []byte) []byte // after signing; nil is a missing file
		host    func(l *lab)                          // of the appliance
		to      string
	}{
		{summary: "bit flip in the index", served: flip("index.json")},
		{summary: "bit flip in the manifest", served: flip(manifest)},
		{summary: "bit flip in the signature", served: flip("index.json.minisig")},
		{summary: "bit flip in the hash tree", served: flip("runner-amd64_1.1.0.verity")},
		{summary: "bit flip in the UKI", served: flip("runner-amd64_1.1.0.efi")},
		{summary: "truncated index", served: func(name string, data []byte) []byte {
			if name == "index.json" {
				return data[:len(data)-10]
			}
			return data
		}},
		{summary: "truncated UKI", served: func(name string, data []byte) []byte {
			if name == "runner-amd64_1.1.0.efi" {
				return data[:len(data)-10]
			}
			return data
		}},
		{summary: "truncated root", served: func(name string, data []byte) []byte {
			if name == "runner-amd64_1.1.0.root" {
				return data[:len(data)-10]
			}
			return data
		}},
		{summary: "missing root", served: func(name string, data []byte) []byte {
			if name == "runner-amd64_1.1.0.root" {
				return nil
			}
			return data
		}},
		{summary: "endless index", served: func(name string, data []byte) []byte {
			if name == "index.json" {
				return make([]byte, release.MaxIndex+1)
			}
			return data
		}},
		{summary: "unknown key", host: func(l *lab) {
			l.u.Keys = []release.PublicKey{otherKey(t)}
		}},
		{summary: "no key", host: func(l *lab) { l.u.Keys = nil }},
		{summary: "manifest of another version under this name", served: func(name string, data []byte) []byte {
			return data
		}, host: func(l *lab) { l.swap("1.1.0", "1.0.5") }},
		{summary: "manifest signed again after the index", host: func(l *lab) {
			v := newVersion(t, "1.1.0", noise(7, 10))
			data, _ := v.manifest.Encode()
			l.sign(manifest, data)
		}},
		{summary: "index with an unknown field", change: func(name string, data []byte) []byte {
			if name == "index.json" {
				return bytes.Replace(data, []byte("{"), []byte(`{"more": 1,`), 1)
			}
			return data
		}},
		{summary: "newer schema", change: func(name string, data []byte) []byte {
			return bytes.Replace(data, []byte(`"schema": 1`), []byte(`"schema": 2`), 1)
		}},
		{summary: "missing manifest", served: func(name string, data []byte) []byte {
			if name == manifest {
				return nil
			}
			return data
		}},
		{summary: "missing index", served: func(string, []byte) []byte { return nil }},
		{summary: "stepping stone", version: func(v *version) { v.manifest.MinVersion = "1.0.7" }},
		{summary: "stepping stone, on request", version: func(v *version) { v.manifest.MinVersion = "1.0.7" }, to: "1.1.0"},
		{summary: "below the floor", to: "1.0.5", host: func(l *lab) {
			l.u.Host.Version = "1.2.0"
			l.write(filepath.Join(l.u.Dir, stateName), []byte(`{"schema":1,"floor":"1.1.0","floor_by":"1.2.0","more":1}`))
		}},
		{summary: "other architecture", version: func(v *version) { v.manifest.Architecture = "arm64" }},
		{summary: "other image", host: func(l *lab) { l.u.Host.Image = "builder-amd64" }},
		{summary: "unknown version", to: "3.0.0"},
		{summary: "the running version", to: "1.1.0", host: func(l *lab) { l.u.Host.Version = "1.1.0" }},
		{summary: "agent too old", version: func(v *version) { v.manifest.MinAgent = "1.1.0" }},
		{summary: "root larger than the slot", version: func(v *version) {
			*v = *newVersion(t, "1.1.0", noise(1, slotSize/blockSize+1))
		}},
		{summary: "UKI of another root", version: func(v *version) { v.uki = newUKI("roothash=00"); v.seal() }},
		{summary: "not a UKI", version: func(v *version) { v.uki = []byte("kernel"); v.seal() }},
		{summary: "hash tree of another root", version: func(v *version) {
			v.verity = newVersion(t, "1.1.0", noise(8, 420)).verity
			v.seal()
		}},
		{summary: "clock in 1970", host: func(l *lab) { l.u.Now = func() time.Time { return time.Unix(100, 0) } }},
		{summary: "on trial", host: func(l *lab) { l.renameUKI("runner_1.0.0.efi", "runner_1.0.0+2-1.efi") }},
		{summary: "unknown schema of the state", host: func(l *lab) {
			l.write(filepath.Join(l.u.Dir, stateName), []byte(`{"schema":2}`))
		}},
		{summary: "source is not a channel", host: func(l *lab) { l.u.Source = "ftp://example.com" }},
	} {
		t.Run(test.summary, func(t *testing.T) {
			l := newLab(t)
			v := newVersion(t, "1.1.0", join(noise(2, 20), l.running.root))
			if test.version != nil {
				test.version(v)
			}
			l.publish(test.change, v, newVersion(t, "1.0.5", noise(6, 10)))
			if test.version != nil || test.summary == "unknown version" {
				l.publish(test.change, v) // 1.0.5 would be installed instead
			}
			if test.served != nil {
				l.serve(test.served)
			}
			if test.host != nil {
				test.host(l)
			}

			before, names := l.diskHash(), l.names()
			_, err := l.upgrade(t.Context(), test.to)
			if err == nil {
				t.Fatal("it was not refused")
			}
			text := strings.NewReplacer(l.dir, "DIR", l.u.Dir, "STATE", release.KeyID(l.key.ID()), "KEY").Replace(err.Error())
			if len(l.u.Keys) == 1 {
				text = strings.ReplaceAll(text, release.KeyID(l.u.Keys[0].ID()), "OTHER KEY")
			}
			fmt.Fprintf(&messages, "%s\n  %s\n", test.summary, text)
			if l.diskHash() != before || !cmp.Equal(names, l.names()) {
				t.Error("the disk or the ESP was written")
			}
		})
	}
	golden.Check(t, "refusals.txt", messages.String())
}

// TestSizes fills each place to the last byte, and beyond.
func TestSizes(t *testing.T) {
	files := release.NewFiles("runner-amd64", "1.1.0")
	files.Root.Size, files.Verity.Size, files.UKI.Size = 4000, 200, 100
	for _, test := range []struct {
		summary      string
		root, verity int64
		onESP, inVar int64
		want         string
	}{
		{summary: "all fit", root: 4000, verity: 200, onESP: 100, inVar: 300},
		{summary: "root", root: 3999, verity: 200, onESP: 100, inVar: 300,
			want: "refused: runner-amd64_1.1.0.root has 4000 bytes, the slot has room for 3999; " +
				"flash the image anew, on a disk with larger slots"},
		{summary: "verity", root: 4000, verity: 199, onESP: 100, inVar: 300,
			want: "refused: runner-amd64_1.1.0.verity has 200 bytes, the slot has room for 199; " +
				"flash the image anew, on a disk with larger slots"},
		{summary: "ESP", root: 4000, verity: 200, onESP: 99, inVar: 300,
			want: "refused: runner-amd64_1.1.0.efi has 100 bytes, the ESP has room for 99; remove files from it"},
		{summary: "var", root: 4000, verity: 200, onESP: 100, inVar: 299,
			want: "refused: what is staged has 300 bytes, /var has room for 299; make room there"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			got := ""
			slot := disk.Slot{RootSize: test.root, VeritySize: test.verity}
			if err := checkSizes(files, slot, test.onESP, test.inVar); err != nil {
				got = err.Error()
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func otherKey(t *testing.T) release.PublicKey {
	t.Helper()
	public, _, err := minisign.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return public
}

// serve changes the files of the channel.
func (l *lab) serve(change func(name string, data []byte) []byte) {
	l.t.Helper()
	files, err := os.ReadDir(l.dir)
	if err != nil {
		l.t.Fatal(err)
	}
	for _, f := range files {
		path := filepath.Join(l.dir, f.Name())
		data, err := os.ReadFile(path)
		if err != nil {
			l.t.Fatal(err)
		}
		if data = change(f.Name(), data); data == nil {
			_ = os.Remove(path)
			continue
		}
		l.write(path, data)
	}
}

// swap serves manifest and signature of one version under the names of another.
func (l *lab) swap(to, from string) {
	l.t.Helper()
	for _, suffix := range []string{"", release.SignatureSuffix} {
		data, err := os.ReadFile(filepath.Join(l.dir, release.ManifestName("runner-amd64", from)+suffix))
		if err != nil {
			l.t.Fatal(err)
		}
		l.write(filepath.Join(l.dir, release.ManifestName("runner-amd64", to)+suffix), data)
	}
}

func (l *lab) diskHash() string {
	l.t.Helper()
	f, err := os.Open(l.disk)
	if err != nil {
		l.t.Fatal(err)
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		l.t.Fatal(err)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// TestWrongBlocks has the channel serve a root file system with another block: the
// slot is left without a version, and the running one boots.
func TestWrongBlocks(t *testing.T) {
	l := newLab(t)
	next := newVersion(t, "1.1.0", join(noise(2, 20), l.running.root))
	l.publish(nil, next)
	l.serve(func(name string, data []byte) []byte {
		if name == "runner-amd64_1.1.0.root" {
			data[5*blockSize]++
		}
		return data
	})
	_, err := l.upgrade(t.Context(), "")
	var refused *RefusedError
	want := "cannot write version 1.1.0: block 5: the server sent another than the manifest lists"
	if err == nil || errors.As(err, &refused) || err.Error() != want {
		t.Errorf("got %v", err)
	}
	l.checkBootable(l.running, next)
	if diff := cmp.Diff([]string{"runner_1.0.0.efi"}, l.names()); diff != "" {
		t.Errorf("ESP (-want +got):\n%s", diff)
	}
}
