package image

import (
	"io"
	"os"
	"strings"
	"testing"

	"github.com/mkappliance/mkappliance/internal/layout"
)

// buildTestImage builds an image with fake tools: each partition holds the name
// of the tool that made it.
func buildTestImage(t *testing.T) (Options, *Result) {
	t.Helper()
	o := testOptions(t, "")
	result, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return o, result
}

func TestOpen(t *testing.T) {
	o, result := buildTestImage(t)
	img, err := Open(result.Image)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	m := img.Manifest()
	if m.SHA256 != result.SHA256 || m.Name != "runner" || m.Tools == "" || img.Size() != result.Bytes {
		t.Errorf("got %d bytes, manifest %+v", img.Size(), m)
	}

	for _, test := range []struct {
		role layout.Role
		size int64
		tool string
	}{
		{layout.ESP, o.Spec.Disk.ESP, ""}, // an empty file: the fake mkfs.vfat finds it made
		{layout.Verity, o.Spec.Disk.Verity, "veritysetup"},
		{layout.Root, o.Spec.Disk.Root, "mkfs.erofs"},
		{layout.Var, o.Spec.Disk.Var, ""},
	} {
		content, err := img.Partition(test.role)
		if err != nil {
			t.Errorf("%s: %v", test.role, err)
			continue
		}
		head := make([]byte, 16)
		if _, err := io.ReadFull(content, head); err != nil {
			t.Errorf("%s: %v", test.role, err)
		}
		if tool := strings.TrimRight(string(head), "\x00"); content.Size() != test.size || tool != test.tool {
			t.Errorf("%s: got %d bytes of %q, want %d of %q", test.role, content.Size(), tool, test.size, test.tool)
		}
	}
}

func TestPartitionRefuses(t *testing.T) {
	for _, test := range []struct {
		summary string
		role    layout.Role
		change  func(*Manifest)
		want    string
	}{
		{"unknown role", "swap", func(*Manifest) {}, `image files have no partition "swap"`},
		{"another version", layout.Root, func(m *Manifest) { m.Version = "2.0" }, `partition 3 is "runner_1.0" with type `},
		{"another root hash", layout.Verity, func(m *Manifest) { m.RootHash = strings.Repeat("cd", 32) },
			`partition 2 is "runner_1.0_verity" with type `},
		{"no root hash", layout.Root, func(m *Manifest) { m.RootHash = "" }, `cannot use root hash ""`},
	} {
		t.Run(test.summary, func(t *testing.T) {
			_, result := buildTestImage(t)
			img, err := Open(result.Image)
			if err != nil {
				t.Fatal(err)
			}
			defer img.Close()
			test.change(img.Manifest())
			if _, err := img.Partition(test.role); err == nil || !strings.HasPrefix(err.Error(), test.want) {
				t.Errorf("got %v, want %s...", err, test.want)
			}
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	_, result := buildTestImage(t)
	for _, test := range []struct{ summary, manifest, want string }{
		{"not JSON", "{", "cannot read manifest MANIFEST: unexpected end of JSON input"},
		{"newer schema", `{"schema": 2}`,
			"cannot read manifest MANIFEST: its schema 2 is newer than this program; use a newer mkappliance"},
	} {
		if err := os.WriteFile(result.Manifest, []byte(test.manifest), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := Open(result.Image)
		if want := strings.Replace(test.want, "MANIFEST", result.Manifest, 1); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", test.summary, err, want)
		}
	}
}
