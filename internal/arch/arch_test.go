package arch

import (
	"os/exec"
	"strings"
	"testing"
)

// TestNames pins the names: those on disks in the field cannot change.
func TestNames(t *testing.T) {
	var got []string
	for _, a := range All() {
		names := []string{a.Debian, a.Go, a.Stub(), a.Loader(), a.FallbackLoader(), a.QEMU.Program}
		got = append(got, strings.Join(names, " "))
	}
	want := `amd64 amd64 linuxx64.efi.stub systemd-bootx64.efi BOOTX64.EFI qemu-system-x86_64
arm64 arm64 linuxaa64.efi.stub systemd-bootaa64.efi BOOTAA64.EFI qemu-system-aarch64`
	if text := strings.Join(got, "\n"); text != want {
		t.Errorf("got\n%s\nwant\n%s", text, want)
	}
}

// TestPartitionTypes compares the partition types with systemd's.
func TestPartitionTypes(t *testing.T) {
	if _, err := exec.LookPath("systemd-id128"); err != nil {
		t.Skipf("cannot ask systemd: %v", err)
	}
	for _, test := range []struct {
		summary string // the name in systemd-id128(1)
		id      string
	}{
		{summary: "root-x86-64", id: AMD64().GPT.Root},
		{summary: "root-x86-64-verity", id: AMD64().GPT.RootVerity},
		{summary: "root-x86-64-verity-sig", id: AMD64().GPT.RootVeritySignature},
		{summary: "root-arm64", id: ARM64().GPT.Root},
		{summary: "root-arm64-verity", id: ARM64().GPT.RootVerity},
		{summary: "root-arm64-verity-sig", id: ARM64().GPT.RootVeritySignature},
	} {
		t.Run(test.summary, func(t *testing.T) {
			out, err := exec.Command("systemd-id128", "show", "-u", test.summary).Output()
			if err != nil {
				t.Fatal(err)
			}
			fields := strings.Fields(string(out)) // a heading, the name, the id
			if want := fields[len(fields)-1]; test.id != want {
				t.Errorf("got %s, want %s", test.id, want)
			}
		})
	}
}

func TestLookup(t *testing.T) {
	for _, test := range []struct {
		summary string
		name    string
		known   bool
		err     string // of LookupBakeable
	}{
		{summary: "baked", name: "amd64", known: true},
		{summary: "known, not baked", name: "arm64", known: true,
			err: `architecture "arm64" is not supported yet; use "amd64"`},
		{summary: "unknown", name: "x86_64", err: `architecture "x86_64" is not supported yet; use "amd64"`},
	} {
		t.Run(test.summary, func(t *testing.T) {
			a, err := Lookup(test.name)
			if test.known != (err == nil) || test.known && a.Debian != test.name {
				t.Errorf("Lookup: got %q, %v", a.Debian, err)
			}

			message := ""
			if a, err = LookupBakeable(test.name); err != nil {
				message = err.Error()
			}
			if message != test.err || (message == "") != (a.Debian == test.name) {
				t.Errorf("LookupBakeable: got %q, %q; want error %q", a.Debian, message, test.err)
			}
		})
	}
}
