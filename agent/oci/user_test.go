package oci_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/mkappliance/mkappliance/agent/oci"
)

// newTree makes a tree of files; "-> " starts a link.
func newTree(t *testing.T, files map[string]string) string {
	t.Helper()
	tree := t.TempDir()
	for name, content := range files {
		path := filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		write := func() error { return os.WriteFile(path, []byte(content), 0o644) }
		if len(content) > 3 && content[:3] == "-> " {
			write = func() error { return os.Symlink(content[3:], path) }
		}
		if err := write(); err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

func TestUser(t *testing.T) {
	tree := newTree(t, map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\napp:x:1001:1002::/home/app:/bin/sh\nhomeless:x:7:8:::\nodd:x:9:many::/odd:\nbig:x:70000:1::/:\nshort:x:5\n",
		"etc/group":  "root:x:0:\nstaff:x:50:app,other\nmore:x:51:other,app\napp:x:1002:app\nhuge:x:65536:app\n",
	})
	for _, test := range []struct{ spec, want string }{
		{"", "0 0 [] /root"},
		{"root", "0 0 [] /root"},
		{"0", "0 0 [] /root"},
		{"app", "1001 1002 [50 51] /home/app"},
		{"1001", "1001 1002 [50 51] /home/app"},
		{"app:staff", "1001 50 [] /home/app"},
		{"app:", "1001 1002 [50 51] /home/app"},
		{"1001:1001", "1001 1001 [] /home/app"},
		{"4242", "4242 0 [] /"},
		{"4242:staff", "4242 50 [] /"},
		{":staff", "0 50 [] /root"},
		{"homeless", "7 8 [] /"},
		{"short", "5 0 [] /"},
		{"nobody", `cannot find user "nobody": the image has no such name`},
		{"app:wheel", `cannot find group "wheel": the image has no such name`},
		{"70000", `cannot find user "70000": "70000" is no number between 0 and 65535`},
		{"-1", `cannot find user "-1": "-1" is no number between 0 and 65535`},
		{"1:-1", `cannot find group "-1": "-1" is no number between 0 and 65535`},
		{"big", `cannot find user "big": "70000" is no number between 0 and 65535`},
		{"odd", `cannot find group of user "odd": "many" is no number between 0 and 65535`},
		{"app:huge", `cannot find group "huge": "65536" is no number between 0 and 65535`},
	} {
		if got := user(tree, test.spec); got != test.want {
			t.Errorf("%q: got %s, want %s", test.spec, got, test.want)
		}
	}
}

func user(tree, spec string) string {
	uid, gid, groups, home, err := oci.User(tree, spec)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d %d %d %s", uid, gid, groups, home)
}

// TestUserLinks: links lead where they do for a process of the guest.
func TestUserLinks(t *testing.T) {
	outside := newTree(t, map[string]string{"passwd": "app:x:666:666::/:\n"})
	const inside = "app:x:5:6::/home:\n"
	for what, test := range map[string]struct {
		files map[string]string
		want  string
	}{
		"absolute":  {map[string]string{"etc/passwd": "-> /store/passwd", "store/passwd": inside}, "5 6 [] /home"},
		"relative":  {map[string]string{"etc/passwd": "-> ../../../store/passwd", "store/passwd": inside}, "5 6 [] /home"},
		"directory": {map[string]string{"etc": "-> /usr/etc", "usr/etc/passwd": inside}, "5 6 [] /home"},
		"outside":   {map[string]string{"etc/passwd": "-> " + outside + "/passwd"}, `cannot find user "app": the image has no such name`},
		"host's":    {map[string]string{"etc": "-> " + outside}, `cannot find user "app": the image has no such name`},
		"loop":      {map[string]string{"etc/passwd": "-> passwd"}, `cannot find user "app": the image has no such name`},
		"device":    {map[string]string{"etc/passwd": "-> /proc/self/mounts"}, `cannot find user "app": the image has no such name`},
		"none":      {nil, `cannot find user "app": the image has no such name`},
	} {
		if got := user(newTree(t, test.files), "app"); got != test.want {
			t.Errorf("%s: got %s, want %s", what, got, test.want)
		}
	}
	if got := user(newTree(t, nil), ""); got != "0 0 [] /" {
		t.Errorf("a tree without users: got %s", got)
	}
}

func TestIsAlpine(t *testing.T) {
	for what, test := range map[string]struct {
		files map[string]string
		want  bool
	}{
		"alpine":     {map[string]string{"etc/os-release": "NAME=\"Alpine Linux\"\nID=alpine\n"}, true},
		"quoted":     {map[string]string{"etc/os-release": "ID=\"alpine\"\n"}, true},
		"usr":        {map[string]string{"usr/lib/os-release": "ID=alpine\n"}, true},
		"link":       {map[string]string{"etc/os-release": "-> /usr/lib/os-release", "usr/lib/os-release": "ID='alpine'\n"}, true},
		"debian":     {map[string]string{"etc/os-release": "ID=debian\nID_LIKE=alpine\n"}, false},
		"etc is it":  {map[string]string{"etc/os-release": "ID=debian\n", "usr/lib/os-release": "ID=alpine\n"}, false},
		"no release": {nil, false},
	} {
		if got := oci.IsAlpine(newTree(t, test.files)); got != test.want {
			t.Errorf("%s: got %v", what, got)
		}
	}
	if oci.IsAlpine("/no/such/tree") {
		t.Error("a tree that does not exist is Alpine")
	}
}
