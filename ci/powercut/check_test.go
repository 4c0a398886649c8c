package powercut

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestChoose(t *testing.T) {
	entry := func(name, key, version string) bootEntry {
		e := bootEntry{name: name, sortKey: key, version: version, left: -1}
		if m := counted.FindStringSubmatch(name); m != nil {
			e.left = int(m[2][0] - '0')
		}
		return e
	}
	for _, test := range []struct {
		summary string
		entries []bootEntry
		want    string
	}{
		{summary: "none"},
		{summary: "the newer", entries: []bootEntry{entry("r_0.9.efi", "r", "0.9"), entry("r_0.10.efi", "r", "0.10")},
			want: "r_0.10.efi"},
		{summary: "the newer on trial",
			entries: []bootEntry{entry("r_1.efi", "r", "1"), entry("r_2+1-2.efi", "r", "2")}, want: "r_2+1-2.efi"},
		{summary: "the newer was given up",
			entries: []bootEntry{entry("r_2+0-3.efi", "r", "2"), entry("r_1.efi", "r", "1")}, want: "r_1.efi"},
		{summary: "all were given up",
			entries: []bootEntry{entry("r_1+0.efi", "r", "1"), entry("r_2+0-3.efi", "r", "2")}, want: "r_2+0-3.efi"},
		{summary: "the sort key comes before the version",
			entries: []bootEntry{entry("z_9.efi", "z", "9"), entry("a_1.efi", "a", "1")}, want: "a_1.efi"},
		{summary: "one version, two counters",
			entries: []bootEntry{entry("r_2+1-2.efi", "r", "2"), entry("r_2+3.efi", "r", "2")}, want: "r_2+3.efi"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			if got, ok := choose(test.entries); got.name != test.want || ok != (test.want != "") {
				t.Errorf("got %q, want %q", got.name, test.want)
			}
		})
	}
}

func TestParseEntry(t *testing.T) {
	if _, err := parseEntry("x.efi", []byte("MZ")); err == nil {
		t.Error("what is no program was read as a UKI")
	}
}

// command runs a tool that makes file systems.
func command(t *testing.T, args ...string) {
	t.Helper()
	if _, err := exec.LookPath(args[0]); err != nil {
		t.Skipf("cannot make a file system: %v", err)
	}
	if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", args, err, out)
	}
}

// TestFAT reads what mkfs.vfat and mtools have made, and what a power cut leaves of
// it.
func TestFAT(t *testing.T) {
	dir := t.TempDir()
	image, file := filepath.Join(dir, "esp"), filepath.Join(dir, "file")
	content := bytes.Repeat([]byte("0123456789abcdef"), 10000)
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	command(t, "mkfs.vfat", "-C", "-F", "32", image, "65536")
	command(t, "mmd", "-i", image, "::EFI", "::EFI/Linux")
	for _, name := range []string{"EFI/A.TXT", "EFI/Linux/runner_0.1.0.efi", "EFI/Linux/gone.efi"} {
		command(t, "mcopy", "-i", image, file, "::"+name)
	}
	command(t, "mdel", "-i", image, "::EFI/Linux/gone.efi")

	disk, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	f, err := openFAT(disk)
	if err != nil {
		t.Fatal(err)
	}
	files, err := f.files()
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, file := range files {
		paths = append(paths, file.path)
		if got, err := f.read(file); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s has %d bytes, %v", file.path, len(got), err)
		}
	}
	if got := strings.Join(paths, " "); got != "EFI/Linux/runner_0.1.0.efi EFI/A.TXT" &&
		got != "EFI/A.TXT EFI/Linux/runner_0.1.0.efi" {
		t.Errorf("got %s", got)
	}
	if err := checkShared(files); err != nil {
		t.Error(err)
	}

	shared := append(slices.Clone(files), fatFile{path: "other", clusters: files[0].clusters[3:4]})
	if err := checkShared(shared); err == nil {
		t.Error("a cluster in two files is not found")
	}
	f.table[files[0].clusters[2]] = 0 // as if its write was lost
	if files, err = f.files(); err != nil || files[0].broken == nil {
		t.Errorf("a chain that ends early is not found: %v", err)
	}
	if _, err := openFAT(bytes.NewReader(make([]byte, 4096))); err == nil {
		t.Error("zeros are read as a file system")
	}
}

func TestCheckWhole(t *testing.T) {
	const id = "0123456789abcdef0123456789abcdef\n"
	good := map[string]string{varMachineID: id, varMarker: "{}", varRunner: "\xef\xbb\xbf{}", varRSA: "{}",
		varCredential: "{}", varConfig: "A=b\n", varSeed: "", varHostKey: "x\n-----END OPENSSH PRIVATE KEY-----\n"}
	for _, test := range []struct {
		summary, path, content, want string
	}{
		{summary: "good"},
		{summary: "empty machine id", path: varMachineID, want: `the machine id is ""`},
		{summary: "empty ssh key", path: varHostKey, want: "the ssh host key has 0 bytes and is not whole"},
		{summary: "half a state", path: varUpgrade, content: "{", want: `the state of upgrades is "{"`},
		{summary: "empty registration", path: varRSA,
			want: `the appliance is registered, and /var/lib/runner/actions-runner/.credentials_rsaparams is ""`},
		{summary: "no config.env", path: varConfig, want: "cloud-init has applied the seed, and config.env is empty"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			files := map[string][]byte{}
			for path, content := range good {
				files[path] = []byte(content)
			}
			if test.path != "" {
				files[test.path] = []byte(test.content)
			}
			got := ""
			if err := checkWhole(files); err != nil {
				got = err.Error()
			}
			if got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}
