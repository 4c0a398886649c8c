package guest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestArgv(t *testing.T) {
	g := &Guest{host: &Host{Agent: "/usr/local/bin/runner-agent"}, slot: 2, dir: "/jobs/j-1", spec: Spec{ID: "j-1",
		Binds: []Bind{{Target: "/__w", Owner: 900}, {Target: "/a:b", ReadOnly: true}}}}
	want := "systemd-nspawn --quiet --boot --keep-unit --register=no --settings=no --directory=/jobs/j-1/root " +
		"--machine=j-1 --hostname=j-1 --private-users=655360:65536 --private-users-ownership=off --private-network " +
		"--link-journal=no --timezone=off --resolv-conf=off --console=pipe --suppress-sync=yes " +
		"--bind-ro=/usr/local/bin/runner-agent:/run/runner/runner-agent --bind=/jobs/j-1/socket:/run/runner/host " +
		`--bind=/jobs/j-1/bind/0:/__w --bind-ro=/jobs/j-1/bind/1:/a\:b`
	if got := strings.Join(g.argv(), " "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestRangesAreDisjoint(t *testing.T) {
	for slot := range MaxGuests {
		first, last := rangeBase(slot), rangeBase(slot)+rangeSize-1
		if slot > 0 && first <= rangeBase(slot-1)+rangeSize-1 {
			t.Errorf("slot %d begins at %d, within the one before", slot, first)
		}
		if last >= SubordinateBase {
			t.Errorf("slot %d ends at %d, among the numbers for files", slot, last)
		}
	}
}

func TestOpenBeneath(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"root/a/b", "outside"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{"root/link": "../outside", "root/a/inner": "b", "root/abs": "/"} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.Open(filepath.Join(dir, "root"))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for name, ok := range map[string]bool{
		".": true, "a": true, "a/b": true, "new/deep": true,
		"..": false, "../outside": false, "a/../../outside": false, "/etc": false, "": false,
		"link": false, "link/x": false, "a/inner": false, "abs/etc": false,
	} {
		f, err := OpenBeneath(root, name, os.Getuid(), os.Getgid())
		if (err == nil) != ok {
			t.Errorf("%q: got error %v, want success %v", name, err, ok)
		}
		if err == nil {
			_ = f.Close()
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "root/new/deep")); err != nil {
		t.Errorf("a missing directory was not made: %v", err)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "outside")); len(left) != 0 {
		t.Errorf("made through a link: %v", left)
	}
}

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{`/a\040b`: "/a b", `/a\134`: `/a\`, "/plain": "/plain", `/a\04`: `/a\04`, `/a\999`: `/a\999`, "": ""} {
		if got := unescape(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func FuzzUnescape(f *testing.F) {
	f.Add(`/a\040b\`)
	f.Fuzz(func(t *testing.T, s string) {
		if got := unescape(s); len(got) > len(s) {
			t.Errorf("%q grew to %q", s, got)
		}
	})
}
