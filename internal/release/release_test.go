package release

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"aead.dev/minisign"
	"github.com/google/go-cmp/cmp"

	"github.com/mkappliance/mkappliance/internal/golden"
)

// exampleManifest returns a manifest that is right, over a root file system of a
// number of blocks.
func exampleManifest(blocks int64) *Manifest {
	hash := strings.Repeat("0123456789abcdef", 4)
	m := &Manifest{Schema: Schema, Image: "runner-amd64", Version: "1.4.0", Architecture: "amd64", Channel: "stable",
		Severity: Low, MinVersion: "1.2.0", RollbackFloor: "1.3.0", Delta: true,
		Verity: NewVerity(hash, VeritySalt, blocks*BlockSize), Files: NewFiles("runner-amd64", "1.4.0")}
	m.Files.Root.Size, m.Files.Verity.Size = blocks*BlockSize, m.Verity.HashBlocks*BlockSize
	m.Files.UKI.Size = 30 << 20
	m.Files.Root.SHA256, m.Files.Verity.SHA256, m.Files.UKI.SHA256 = hash, hash, hash
	return m
}

func exampleIndex() *Index {
	x := &Index{Schema: Schema, Time: time.Unix(1754697600, 0).UTC(), Releases: []Entry{}}
	m := exampleManifest(100)
	for _, version := range []string{"1.4.0", "1.5.0", "1.4.1"} {
		m.Version = version
		x.Add(NewEntry(m, strings.Repeat("0", 64)))
	}
	return x
}

// TestManifestForm pins the files: appliances in the field read them.
func TestManifestForm(t *testing.T) {
	tests := []struct {
		summary, file string
		value         interface{ Encode() ([]byte, error) }
	}{
		{summary: "manifest", file: "manifest.golden", value: exampleManifest(733)},
		{summary: "index", file: "index.golden", value: exampleIndex()},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			data, err := test.value.Encode()
			if err != nil {
				t.Fatal(err)
			}
			golden.Check(t, test.file, string(data))
		})
	}

	data, _ := exampleManifest(733).Encode()
	m, err := DecodeManifest("manifest.json", data)
	if err != nil || !cmp.Equal(m, exampleManifest(733)) {
		t.Errorf("got %+v, %v", m, err)
	}
	data, _ = exampleIndex().Encode()
	x, err := DecodeIndex(data)
	if err != nil || !cmp.Equal(x, exampleIndex()) {
		t.Errorf("got %+v, %v", x, err)
	}
}

func TestHostileManifests(t *testing.T) {
	good, err := exampleManifest(733).Encode()
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct{ summary, old, new string }{
		{summary: "newer schema", old: `"schema": 1,`, new: `"schema": 2, "else": true,`},
		{summary: "no JSON", old: `{`, new: `<html>`},
		{summary: "trailing data", old: "}\n}\n", new: "}\n}\n{}\n"},
		{summary: "unknown field", old: `"delta": true`, new: `"delta": true, "force": true`},
		{summary: "repeated field", old: `"delta": true,`, new: "\"delta\": true,\n  \"delta\": true,"},
		{summary: "field in capitals", old: `"delta"`, new: `"Delta"`},
		{summary: "missing field", old: "  \"min_version\": \"1.2.0\",\n", new: ""},
		{summary: "null", old: `"stable"`, new: `null`},
		{summary: "path as image", old: `"runner-amd64"`, new: `"../../etc"`},
		{summary: "version with separator", old: `"version": "1.4.0"`, new: `"version": "1_4"`},
		{summary: "long version", old: `"version": "1.4.0"`, new: `"version": "1` + strings.Repeat("0", 500) + `"`},
		{summary: "channel", old: `"stable"`, new: `"Stable!"`},
		{summary: "severity", old: `"low"`, new: `"urgent"`},
		{summary: "stepping stone after itself", old: `"1.2.0"`, new: `"1.10.0"`},
		{summary: "floor above itself", old: `"1.3.0"`, new: `"1.4.0.1"`},
		{summary: "agent", old: `"min_agent": ""`, new: `"min_agent": "latest"`},
		{summary: "architecture", old: `"amd64"`, new: `"x/y"`},
		{summary: "path as file", old: `"runner-amd64_1.4.0.efi"`, new: `"../loader.efi"`},
		{summary: "file of another version", old: `_1.4.0.root"`, new: `_1.3.0.root"`},
		{summary: "empty file", old: `"size": 31457280`, new: `"size": 0`},
		{summary: "negative size", old: `"size": 31457280`, new: `"size": -1`},
		{summary: "999 TiB", old: `"size": 3002368`, new: `"size": 1098412116148224`},
		{summary: "size with a point", old: `"size": 31457280`, new: `"size": 1.5`},
		{summary: "number that overflows", old: `"size": 31457280`, new: `"size": 99999999999999999999`},
		{summary: "odd size", old: `"size": 3002368`, new: `"size": 3002369`},
		{summary: "blocks do not fit", old: `"data_blocks": 733`, new: `"data_blocks": 734`},
		{summary: "hash tree too small", old: `"size": 32768`, new: `"size": 28672`},
		{summary: "hash", old: `"sha256": "0`, new: `"sha256": "A`},
		{summary: "root hash", old: `"root_hash": "0`, new: `"root_hash": "`},
		{summary: "salt", old: `"salt": "ac`, new: `"salt": "-c`},
	}

	messages := golden.NewMessages(t, "manifest-errors.golden")
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			data := strings.Replace(string(good), test.old, test.new, 1)
			if data == string(good) {
				t.Fatalf("the manifest has no %q", test.old)
			}
			_, err := DecodeManifest("m.json", []byte(data))
			if err == nil {
				t.Fatal("accepted")
			}
			messages.Check(t, test.summary, err.Error())
		})
	}
	if _, err := DecodeManifest("m.json", make([]byte, MaxManifest+1)); err == nil {
		t.Error("accepted a file that is too large")
	}
}

func TestHostileIndexes(t *testing.T) {
	good, err := exampleIndex().Encode()
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct{ summary, old, new string }{
		{summary: "newer schema", old: `"schema": 1`, new: `"schema": 2`},
		{summary: "local time", old: `"2025-08-09T00:00:00Z"`, new: `"2025-08-09T02:00:00+02:00"`},
		{summary: "no list", old: `"releases": [`, new: `"releases": null, "x": [`},
		{summary: "manifest elsewhere", old: `_1.5.0.manifest.json"`, new: `_1.4.1.manifest.json"`},
		{summary: "out of order", old: `1.5.0`, new: `1.3.0`},
		{summary: "equally new twice", old: `1.5.0`, new: `1.4.01`},
		{summary: "hash", old: `"sha256": "0`, new: `"sha256": "`},
		{summary: "base of a file", old: `"base": ""`, new: `"base": "file:///etc/"`},
		{summary: "base with credentials", old: `"base": ""`, new: `"base": "https://me@example.org/"`},
		{summary: "base without slash", old: `"base": ""`, new: `"base": "https://example.org/x"`},
		{summary: "base with query", old: `"base": ""`, new: `"base": "https://example.org/?x=/"`},
	}

	messages := golden.NewMessages(t, "index-errors.golden")
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			data := strings.Replace(string(good), test.old, test.new, 1)
			if strings.HasPrefix(test.old, "1.5.0") {
				data = strings.ReplaceAll(string(good), test.old, test.new)
			}
			if data == string(good) {
				t.Fatalf("the index has no %q", test.old)
			}
			_, err := DecodeIndex([]byte(data))
			if err == nil {
				t.Fatal("accepted")
			}
			messages.Check(t, test.summary, err.Error())
		})
	}
}

func TestIndexEntries(t *testing.T) {
	x := exampleIndex()
	if e := x.Find("runner-amd64", "1.4.01"); e == nil || e.Version != "1.4.1" {
		t.Errorf("got %+v for an equally new version", e)
	}
	for _, missing := range []struct{ image, version string }{{"runner-amd64", "1.4.2"}, {"runner-arm64", "1.4.1"}} {
		if e := x.Find(missing.image, missing.version); e != nil {
			t.Errorf("found %+v", e)
		}
	}

	m := exampleManifest(100)
	e := NewEntry(m, strings.Repeat("0", 64))
	e.Base = "https://example.org/1.4.0/"
	x.Add(e)
	if len(x.Releases) != 3 || x.Find(m.Image, m.Version).Base != e.Base {
		t.Errorf("the entry was not replaced: %+v", x.Releases)
	}
	if err := e.CheckManifest(m); err != nil {
		t.Error(err)
	}
	m.MinVersion = ""
	if err := e.CheckManifest(m); err == nil {
		t.Error("the entry fits another manifest")
	}
}

func TestCompare(t *testing.T) {
	// The example of UAPI.10, the oldest first.
	order := []string{"122.1", "123~rc1-1", "123", "123-a", "123-a.1", "123-1", "123-1.1", "123^post1", "123.a-1",
		"123.1-1", "123a-1", "124-1"}
	for i, a := range order {
		for j, b := range order {
			want := min(max(i-j, -1), 1)
			if got := Compare(a, b); got != want {
				t.Errorf("Compare(%q, %q) = %d, want %d", a, b, got, want)
			}
		}
	}
	for _, equal := range [][2]string{{"1.0", "1.00"}, {"", ""}, {"1..2", "1..2"}, {"1é2", "1_2"}} {
		if got := Compare(equal[0], equal[1]); got != 0 {
			t.Errorf("Compare(%q, %q) = %d, want 0", equal[0], equal[1], got)
		}
	}
	for _, newer := range [][2]string{{"1.10", "1.9"}, {"1.0", "1.0~rc1"}, {"1.0^1", "1.0"}, {"1.0.1", "1.0^1"},
		{"1.0a", "1.0"}, {"99999999999999999999999", "99999999999999999999998"}} {
		if got := Compare(newer[0], newer[1]); got != 1 {
			t.Errorf("Compare(%q, %q) = %d, want 1", newer[0], newer[1], got)
		}
	}
}

// TestCompareAsSystemd asks systemd, whose boot loader sorts the same versions.
func TestCompareAsSystemd(t *testing.T) {
	program, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is missing")
	}
	versions := []string{"1", "1.0", "1.00", "1.0.1", "1.0~rc1", "1.0~~", "1.0^1", "1.0a", "1.0.a", "1.10", "01.2", "1a2b"}
	for _, a := range versions {
		for _, b := range versions {
			want, sign := 0, "eq"
			if want = Compare(a, b); want != 0 {
				sign = map[int]string{-1: "lt", 1: "gt"}[want]
			}
			if err := exec.Command(program, "compare-versions", a, sign, b).Run(); err != nil {
				t.Errorf("Compare(%q, %q) = %d; systemd has another order", a, b, want)
			}
		}
	}
}

// TestHashBlocks: sizes are those of veritysetup.
func TestHashBlocks(t *testing.T) {
	for _, test := range []struct {
		summary      string
		blocks, want int64
	}{
		{summary: "one block", blocks: 1, want: 2},
		{summary: "full leaf block", blocks: 128, want: 2},
		{summary: "two levels", blocks: 733, want: 8},
		{summary: "three levels", blocks: 128*128 + 1, want: 1 + 1 + 2 + 129},
	} {
		t.Run(test.summary, func(t *testing.T) {
			if v := NewVerity("", "", test.blocks*BlockSize); v.HashBlocks != test.want {
				t.Errorf("got %d blocks, want %d", v.HashBlocks, test.want)
			}
		})
	}
}

func newKey(t *testing.T) (PublicKey, PrivateKey) {
	t.Helper()
	public, private, err := minisign.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return public, private
}

func TestVerify(t *testing.T) {
	oldKey, _ := newKey(t)
	newPublic, private := newKey(t)
	other, _ := newKey(t)
	const name = "index.json"
	data := []byte("content")
	signature, err := Sign(private, name, data, time.Unix(1754697600, 0))
	if err != nil {
		t.Fatal(err)
	}
	unnamed := minisign.Sign(private, data)
	keys := []PublicKey{oldKey, newPublic}

	tests := []struct {
		summary   string
		keys      []PublicKey
		name      string
		data, sig []byte
		want      error
	}{
		{summary: "second of two keys", keys: keys, name: name, data: data, sig: signature},
		{summary: "content", keys: keys, name: name, data: []byte("Content"), sig: signature, want: ErrBadSignature},
		{summary: "truncated", keys: keys, name: name, data: data[:3], sig: signature, want: ErrBadSignature},
		{summary: "unknown key", keys: []PublicKey{oldKey, other}, name: name, data: data, sig: signature,
			want: ErrUnknownKey},
		{summary: "no keys", name: name, data: data, sig: signature, want: ErrUnknownKey},
		{summary: "another file", keys: keys, name: "x.manifest.json", data: data, sig: signature, want: ErrOtherFile},
		{summary: "trusted comment", keys: keys, name: "evil.json", data: data,
			sig: []byte(strings.Replace(string(signature), name, "evil.json", 1)), want: ErrBadSignature},
		{summary: "no name", keys: keys, name: name, data: data, sig: unnamed, want: ErrOtherFile},
		{summary: "no name wanted", keys: keys, name: "", data: data, sig: signature, want: ErrOtherFile},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			if err := Verify(test.keys, test.name, test.data, test.sig); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}

	for _, bad := range [][]byte{nil, []byte("untrusted comment: x\n"), make([]byte, MaxSignature+1),
		append([]byte("untrusted comment: x\n"), signature...)} {
		if err := Verify(keys, name, data, bad); err == nil {
			t.Errorf("accepted %.80q", bad)
		}
	}
	// The last character of base64 has bits that mean nothing.
	var parsed, damaged minisign.Signature
	if err := parsed.UnmarshalText(signature); err != nil {
		t.Fatal(err)
	}
	for i := range signature {
		flipped := []byte(string(signature))
		flipped[i] ^= 1
		same := damaged.UnmarshalText(flipped) == nil && damaged.Equal(parsed)
		if err := Verify(keys, name, data, flipped); (err == nil) != same {
			t.Errorf("byte %d flipped: got %v for %q", i, err, flipped)
		}
	}

	for _, bad := range []string{"", "a/b", "a\tfile:b", "a\nb"} {
		if _, err := Sign(private, bad, data, time.Now()); err == nil {
			t.Errorf("signed as %q", bad)
		}
	}
}

// TestMinisign: minisign(1) reads ours, and we read what it writes.
func TestMinisign(t *testing.T) {
	program, err := exec.LookPath("minisign")
	if err != nil {
		t.Skip("minisign is missing: install the package minisign")
	}
	dir := t.TempDir()
	run := func(args ...string) {
		t.Helper()
		c := exec.Command(program, args...)
		c.Dir = dir
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("minisign %q: %v\n%s", args, err, out)
		}
	}
	write := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}

	public, private := newKey(t)
	publicText, _ := public.MarshalText()
	privateText, _ := private.MarshalText()
	data := []byte("content")
	signature, err := Sign(private, "ours.json", data, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"a.pub": append(publicText, '\n'), "a.key": append(privateText, '\n'),
		"ours.json": data, "ours.json.minisig": signature, "theirs.json": data} {
		write(name, content)
	}

	run("-V", "-p", "a.pub", "-m", "ours.json")
	run("-S", "-W", "-s", "a.key", "-m", "theirs.json")
	theirs, err := os.ReadFile(filepath.Join(dir, "theirs.json.minisig"))
	if err != nil {
		t.Fatal(err)
	}
	if err := Verify([]PublicKey{public}, "theirs.json", data, theirs); err != nil {
		t.Error(err)
	}

	run("-G", "-W", "-p", "b.pub", "-s", "b.key")
	keys, err := ReadKeys(dir)
	if err != nil || len(keys) != 2 || !keys[0].Equal(public) {
		t.Errorf("got keys %v, %v", keys, err)
	}
}

func TestReadKeys(t *testing.T) {
	dir := t.TempDir()
	if keys, err := ReadKeys(filepath.Join(dir, "missing")); err != nil || keys != nil {
		t.Errorf("got %v, %v", keys, err)
	}
	public, private := newKey(t)
	text, _ := private.MarshalText()
	for i, bad := range [][]byte{nil, []byte("x"), text,
		[]byte("untrusted comment: x\n" + public.String() + "\n" + public.String())} {
		path := filepath.Join(dir, fmt.Sprintf("%d.pub", i))
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if keys, err := ReadKeys(dir); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("got %v, %v for %q", keys, err, bad)
		}
		_ = os.Remove(path)
	}
}

func FuzzDecodeManifest(f *testing.F) {
	data, _ := exampleManifest(733).Encode()
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := DecodeManifest("m.json", data)
		if err != nil {
			return
		}
		again, err := m.Encode()
		if err != nil || string(again) != string(data) {
			t.Errorf("decoded %q, encoded %q, %v", data, again, err)
		}
		for _, r := range m.Files.Roles() {
			if filepath.Base(r.File.Name) != r.File.Name || r.File.Size <= 0 {
				t.Errorf("accepted file %+v", r.File)
			}
		}
		if leaves := m.Verity.DataBlocks * HashSize; leaves > m.Files.Verity.Size {
			t.Errorf("%d bytes of leaves in %d bytes", leaves, m.Files.Verity.Size)
		}
	})
}

func FuzzDecodeIndex(f *testing.F) {
	data, _ := exampleIndex().Encode()
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		x, err := DecodeIndex(data)
		if err != nil {
			return
		}
		for _, e := range x.Releases {
			if found := x.Find(e.Image, e.Version); found == nil || *found != e {
				t.Errorf("cannot find %+v", e)
			}
		}
	})
}

func FuzzCompare(f *testing.F) {
	f.Add("1.0~rc1", "1.0", "1.0^1")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		if Compare(a, b) != -Compare(b, a) || Compare(a, a) != 0 {
			t.Errorf("%q and %q have no order", a, b)
		}
		if Compare(a, b) < 0 && Compare(b, c) < 0 && Compare(a, c) >= 0 {
			t.Errorf("%q < %q < %q is no order", a, b, c)
		}
	})
}

func FuzzVerify(f *testing.F) {
	public, private, err := minisign.GenerateKey(nil)
	if err != nil {
		f.Fatal(err)
	}
	data := []byte("content")
	signature, err := Sign(private, "index.json", data, time.Unix(0, 0))
	if err != nil {
		f.Fatal(err)
	}
	f.Add("index.json", data, signature)
	f.Fuzz(func(t *testing.T, name string, content, sig []byte) {
		if Verify([]PublicKey{public}, name, content, sig) == nil &&
			(name != "index.json" || string(content) != string(data)) {
			t.Errorf("accepted %q as %q", content, name)
		}
	})
}
