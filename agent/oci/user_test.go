package oci_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
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
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\napp:x:1001:1002::/home/app:/bin/sh\nhomeless:x:7:8:::\n" +
			"odd:x:9:many::/odd:\nbig:x:70000:1::/:\nshort:x:5\n",
		"etc/group": "root:x:0:\nstaff:x:50:app,other\nmore:x:51:other,app\napp:x:1002:app\nhuge:x:65536:app\n",
	})

	const outOfRange = "users and groups of a guest have numbers from 0 to 65535"
	for _, test := range []struct{ summary, spec, want string }{
		{summary: "nothing", spec: "", want: "0 0 [] /root"},
		{summary: "name of root", spec: "root", want: "0 0 [] /root"},
		{summary: "number of root", spec: "0", want: "0 0 [] /root"},
		{summary: "name", spec: "app", want: "1001 1002 [50 51 1002] /home/app"},
		{summary: "number", spec: "1001", want: "1001 1002 [50 51 1002] /home/app"},
		{summary: "group", spec: "app:staff", want: "1001 50 [] /home/app"},
		{summary: "empty group", spec: "app:", want: "1001 1002 [50 51 1002] /home/app"},
		{summary: "number of no group", spec: "1001:1001", want: "1001 1001 [] /home/app"},
		{summary: "number of no user", spec: "4242", want: "4242 0 [] /"},
		{summary: "number of no user, group", spec: "4242:staff", want: "4242 50 [] /"},
		{summary: "group alone", spec: ":staff", want: "0 50 [] /root"},
		{summary: "no home", spec: "homeless", want: "7 8 [] /"},
		{summary: "short line", spec: "short", want: "5 0 [] /"},
		{summary: "group is not a number", spec: "odd", want: "9 0 [] /odd"}, // as dockerd
		{summary: "unknown user", spec: "nobody", want: `cannot find user "nobody": the image has no such user`},
		{summary: "unknown group", spec: "app:wheel", want: `cannot find user "app:wheel": the image has no such group`},
		{summary: "large number", spec: "70000", want: `cannot find user "70000": ` + outOfRange},
		{summary: "negative number", spec: "-1", want: `cannot find user "-1": ` + outOfRange},
		{summary: "negative group", spec: "1:-1", want: `cannot find user "1:-1": ` + outOfRange},
		{summary: "user of large number", spec: "big", want: `cannot find user "big": ` + outOfRange},
		{summary: "group of large number", spec: "app:huge", want: `cannot find user "app:huge": ` + outOfRange},
		{summary: "lines in a name", spec: "a\nb", want: `cannot find user "a\nb": the image has no such user`},
	} {
		if got := findUser(tree, test.spec); got != test.want {
			t.Errorf("%s: got %s, want %s", test.summary, got, test.want)
		}
	}

	long := newTree(t, map[string]string{"etc/passwd": strings.Repeat("x", 1<<20)})
	want := `cannot find user "": its /etc/passwd or /etc/group cannot be read`
	if got := findUser(long, ""); got != want {
		t.Errorf("a line without end: got %s, want %s", got, want)
	}
}

func findUser(tree, spec string) string {
	u, err := oci.FindUser(tree, spec)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d %d %d %s", u.UID, u.GID, u.Groups, u.Home)
}

// TestUserLinks: links lead where they do for a process of the guest.
func TestUserLinks(t *testing.T) {
	outside := newTree(t, map[string]string{"passwd": "app:x:666:666::/:\n"})
	const (
		inside  = "app:x:5:6::/home:\n"
		missing = `cannot find user "app": the image has no such user`
	)
	for _, test := range []struct {
		summary string
		files   map[string]string
		want    string
	}{
		{
			summary: "absolute",
			files:   map[string]string{"etc/passwd": "-> /store/passwd", "store/passwd": inside},
			want:    "5 6 [] /home",
		},
		{
			summary: "relative",
			files:   map[string]string{"etc/passwd": "-> ../../../store/passwd", "store/passwd": inside},
			want:    "5 6 [] /home",
		},
		{
			summary: "directory",
			files:   map[string]string{"etc": "-> /usr/etc", "usr/etc/passwd": inside},
			want:    "5 6 [] /home",
		},
		{summary: "outside", files: map[string]string{"etc/passwd": "-> " + outside + "/passwd"}, want: missing},
		{summary: "host's", files: map[string]string{"etc": "-> " + outside}, want: missing},
		{summary: "loop", files: map[string]string{"etc/passwd": "-> passwd"}, want: missing},
		{summary: "device", files: map[string]string{"etc/passwd": "-> /proc/self/mounts"}, want: missing},
		{summary: "none", want: missing},
	} {
		if got := findUser(newTree(t, test.files), "app"); got != test.want {
			t.Errorf("%s: got %s, want %s", test.summary, got, test.want)
		}
	}
	if got := findUser(newTree(t, nil), ""); got != "0 0 [] /" {
		t.Errorf("a tree without users: got %s", got)
	}
}

func TestIsAlpine(t *testing.T) {
	for _, test := range []struct {
		summary string
		files   map[string]string
		want    bool
	}{
		{summary: "alpine", files: map[string]string{"etc/os-release": "NAME=\"Alpine Linux\"\nID=alpine\n"}, want: true},
		{summary: "quoted", files: map[string]string{"etc/os-release": "ID=\"alpine\"\n"}, want: true},
		{summary: "usr", files: map[string]string{"usr/lib/os-release": "ID=alpine\n"}, want: true},
		{
			summary: "link",
			files:   map[string]string{"etc/os-release": "-> /usr/lib/os-release", "usr/lib/os-release": "ID='alpine'\n"},
			want:    true,
		},
		{summary: "debian", files: map[string]string{"etc/os-release": "ID=debian\nID_LIKE=alpine\n"}},
		{
			summary: "etc comes first",
			files:   map[string]string{"etc/os-release": "ID=debian\n", "usr/lib/os-release": "ID=alpine\n"},
		},
		{summary: "no release"},
	} {
		if got := oci.IsAlpine(newTree(t, test.files)); got != test.want {
			t.Errorf("%s: got %v", test.summary, got)
		}
	}
	if oci.IsAlpine("/no/such/tree") {
		t.Error("a tree that does not exist is Alpine")
	}
}
