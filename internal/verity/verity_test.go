package verity

import (
	"bytes"
	"encoding/hex"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// noise returns n blocks that differ from each other.
func noise(n int) []byte {
	data := make([]byte, n*BlockSize)
	_, _ = rand.New(rand.NewSource(1)).Read(data)
	return data
}

var testSalt = bytes.Repeat([]byte{7}, 32)

func build(t *testing.T, data []byte) (*Tree, []byte) {
	t.Helper()
	var out bytes.Buffer
	tree, err := Build(&out, bytes.NewReader(data), int64(len(data)), testSalt, [16]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	return tree, out.Bytes()
}

// TestRead reads trees of one to three levels.
func TestRead(t *testing.T) {
	for _, blocks := range []int{2, 127, 128, 129, 128*128 + 1} {
		data := noise(blocks)
		built, file := build(t, data)
		tree, err := Read(bytes.NewReader(file), int64(len(file)), built.Root())
		if err != nil {
			t.Fatalf("%d blocks: %v", blocks, err)
		}

		if tree.Blocks() != int64(blocks) || tree.Size() != int64(len(file)) || !bytes.Equal(tree.Salt(), testSalt) {
			t.Errorf("got %d blocks, tree of %d, salt %x", tree.Blocks(), tree.Size(), tree.Salt())
		}
		h := NewHasher(testSalt)
		for i := range tree.Blocks() {
			if got, want := tree.Leaf(i), h.Sum(data[i*BlockSize:(i+1)*BlockSize]); got != want {
				t.Fatalf("leaf %d of %d: got %s, want %s", i, blocks, got, want)
			}
		}
	}
}

// TestReadRefuses changes each part of a tree.
func TestReadRefuses(t *testing.T) {
	built, file := build(t, noise(300))
	for _, test := range []struct {
		summary string
		change  func(file []byte) []byte
		want    string
	}{
		{"no header", func(b []byte) []byte { b[0] = 'V'; return b }, "does not start with a verity header"},
		{"version", func(b []byte) []byte { b[8] = 2; return b }, "version 2 and hash type 1 are not supported"},
		{"algorithm", func(b []byte) []byte { copy(b[32:], "sha512"); return b }, `"sha512" is not supported`},
		{"block size", func(b []byte) []byte { b[65] = 8; return b }, "blocks of 2048 and 4096 bytes"},
		{"no data", func(b []byte) []byte { clear(b[72:80]); return b }, "0 data blocks are not supported"},
		{"endless data", func(b []byte) []byte { b[79] = 0x7f; return b }, "data blocks are not supported"},
		{"more data", func(b []byte) []byte { b[74] = 1; return b }, "there are"},
		{"salt size", func(b []byte) []byte { b[81] = 2; return b }, "its salt has 544 bytes"},
		{"salt", func(b []byte) []byte { b[88] ^= 1; return b }, "block 0 of level 1"},
		{"top", func(b []byte) []byte { b[BlockSize+5] ^= 1; return b }, "block 0 of level 1"},
		{"leaf", func(b []byte) []byte { b[3*BlockSize+5] ^= 1; return b }, "block 1 of level 0"},
		{"padding", func(b []byte) []byte { b[len(b)-1] = 1; return b }, "block 2 of level 0"},
		{"short", func(b []byte) []byte { return b[:len(b)-1] }, "there are"},
		{"empty", func([]byte) []byte { return nil }, "unexpected EOF"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			changed := test.change(bytes.Clone(file))
			_, err := Read(bytes.NewReader(changed), int64(len(changed)), built.Root())
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// TestVeritysetup compares with the program whose format it is.
func TestVeritysetup(t *testing.T) {
	program, err := exec.LookPath("veritysetup")
	if err != nil {
		t.Skip("needs veritysetup, from the package cryptsetup-bin")
	}
	dir := t.TempDir()
	data := noise(1000)
	dataFile, treeFile := filepath.Join(dir, "data"), filepath.Join(dir, "tree")
	if err := os.WriteFile(dataFile, data, 0o600); err != nil {
		t.Fatal(err)
	}

	out, err := exec.Command(program, "format", "--uuid", "01000000-0000-0000-0000-000000000000",
		"--salt", hex.EncodeToString(testSalt), dataFile, treeFile).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	theirs, err := os.ReadFile(treeFile)
	if err != nil {
		t.Fatal(err)
	}
	tree, ours := build(t, data)
	if !bytes.Equal(ours, theirs) {
		t.Errorf("the trees differ: %s", cmp.Diff(ours[:512], theirs[:512]))
	}
	if !strings.Contains(string(out), tree.Root().String()) {
		t.Errorf("root hash %s, veritysetup's is in\n%s", tree.Root(), out)
	}
}
