package trial

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"aead.dev/minisign"

	"github.com/mkappliance/mkappliance/internal/publish"
	"github.com/mkappliance/mkappliance/internal/release"
	"github.com/mkappliance/mkappliance/internal/verity"
)

func newKey(t *testing.T) release.PrivateKey {
	t.Helper()
	_, key, err := minisign.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// signedSet writes an update set with a root file system of four blocks.
func signedSet(t *testing.T, key release.PrivateKey) *publish.Set {
	t.Helper()
	dir := t.TempDir()
	m := &release.Manifest{Schema: release.Schema, Image: "runner", Version: "1.2.0", Architecture: "amd64",
		Channel: "stable", Severity: release.Low, Delta: true, Files: release.NewFiles("runner", "1.2.0")}
	write := func(f *release.File, data []byte) {
		if err := os.WriteFile(filepath.Join(dir, f.Name), data, 0o600); err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(data)
		f.Size, f.SHA256 = int64(len(data)), hex.EncodeToString(sum[:])
	}

	root := bytes.Repeat([]byte("root"), release.BlockSize)
	salt, err := hex.DecodeString(release.VeritySalt)
	if err != nil {
		t.Fatal(err)
	}
	var tree bytes.Buffer
	built, err := verity.Build(&tree, bytes.NewReader(root), int64(len(root)), salt, [16]byte{})
	if err != nil {
		t.Fatal(err)
	}
	hash := built.Root().String()
	write(&m.Files.Root, root)
	write(&m.Files.Verity, tree.Bytes())
	write(&m.Files.UKI, fakeUKI(t, ".osrel", "IMAGE_VERSION=1.2.0\n", ".cmdline", "roothash="+hash, ".linux", "kernel"))
	m.Verity = release.NewVerity(hash, release.VeritySalt, int64(len(root)))

	data, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, release.ManifestName(m.Image, m.Version))
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	set, err := publish.OpenSet(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := set.Sign(key, time.Now()); err != nil {
		t.Fatal(err)
	}
	return set
}

// TestMakeBroken checks the broken version as an appliance does that installs it.
func TestMakeBroken(t *testing.T) {
	key := newKey(t)
	set := signedSet(t, key)
	broken, err := makeBroken(t.TempDir(), set, key)
	if err != nil {
		t.Fatal(err)
	}
	m := broken.Manifest
	if err := broken.CheckFiles(); err != nil || release.Compare(m.Version, set.Manifest.Version) <= 0 {
		t.Errorf("got %v, version %s", err, m.Version)
	}
	if m.Verity.RootHash == set.Manifest.Verity.RootHash {
		t.Error("the root hash is that of the version it was made from: two slots would look the same")
	}

	root, err := verity.ParseDigest(m.Verity.RootHash)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := os.Open(filepath.Join(broken.Dir, m.Files.Verity.Name))
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	if read, err := verity.Read(tree, m.Files.Verity.Size, root); err != nil || read.DataSize() != m.Files.Root.Size {
		t.Errorf("hash tree: %v", err)
	}
	uki, err := os.ReadFile(filepath.Join(broken.Dir, m.Files.UKI.Name))
	if err != nil {
		t.Fatal(err)
	}
	want := "roothash=" + m.Verity.RootHash + " systemd.mask=runner-guestd.socket"
	if got, err := section(uki, ".cmdline"); err != nil || got != want {
		t.Errorf("got command line %q, %v", got, err)
	}
}

// TestChannel reads a channel as an appliance does.
func TestChannel(t *testing.T) {
	key := newKey(t)
	set := signedSet(t, key)
	c, err := newChannel(t.Context(), t.TempDir(), set, key)
	if err != nil {
		t.Fatal(err)
	}
	server, addr, err := serve(map[string]channel{"new": c, "empty": {t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	get := func(path, bytes string) (int, []byte) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("http://%s/%s", addr, path), nil)
		if err != nil {
			t.Fatal(err)
		}
		if bytes != "" {
			request.Header.Set("Range", "bytes="+bytes)
		}
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		data, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode, data
	}

	_, data := get("new/index.json", "")
	_, signature := get("new/index.json.minisig", "")
	if err := release.Verify([]release.PublicKey{publish.Public(key)}, release.IndexName, data, signature); err != nil {
		t.Fatal(err)
	}
	index, err := release.DecodeIndex(data)
	if err != nil || len(index.Releases) != 1 || index.Releases[0].Version != "1.2.0" {
		t.Fatalf("got %+v, %v", index, err)
	}
	for _, name := range []string{index.Releases[0].Manifest, index.Releases[0].Manifest + ".minisig"} {
		if status, _ := get("new/"+name, ""); status != http.StatusOK {
			t.Errorf("%s: status %d", name, status)
		}
	}
	if status, part := get("new/"+set.Manifest.Files.Root.Name, "4-11"); status != http.StatusPartialContent ||
		string(part) != "rootroot" {
		t.Errorf("a part of the root file system: status %d, %q", status, part)
	}
	for _, path := range []string{"new/missing", "empty/index.json", "new/..%2fx", "new/"} {
		if status, _ := get(path, ""); status == http.StatusOK {
			t.Errorf("%s was served", path)
		}
	}
}
