package rootfs

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// dump returns a golden form of a tree: one line an entry, "PATH MODE CONTENT".
func dump(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(file string, entry fs.DirEntry, err error) error {
		if err != nil || file == dir {
			return err
		}
		name, _ := filepath.Rel(dir, file)
		info, err := entry.Info()
		if err != nil {
			return err
		}

		switch {
		case entry.IsDir():
			fmt.Fprintf(&b, "%s/ %#o\n", name, info.Mode().Perm())
		case entry.Type() == fs.ModeSymlink:
			target, _ := os.Readlink(file)
			fmt.Fprintf(&b, "%s -> %s\n", name, target)
		default:
			data, _ := os.ReadFile(file)
			fmt.Fprintf(&b, "%s %v %q\n", name, info.Mode(), data)
		}
		return nil
	})

	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// tree makes files below a new directory: a name that ends with / is a
// directory, "-> X" a link, a "!" before the content makes it executable.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			err = os.Symlink(target, path)
		} else if strings.HasSuffix(name, "/") {
			err = os.MkdirAll(path, 0o755)
		} else if script, ok := strings.CutPrefix(content, "!"); ok {
			err = os.WriteFile(path, []byte(script), 0o700)
		} else {
			err = os.WriteFile(path, []byte(content), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestMergeOverlay(t *testing.T) {
	self := fmt.Sprintf("%d:%d", os.Getuid(), os.Getgid())
	for _, test := range []struct {
		summary       string
		tree, overlay map[string]string
		want, err     string
	}{{
		summary: "files get plain modes, whatever the umask of the checkout",
		overlay: map[string]string{"etc/a.conf": "x", "usr/bin/tool": "!#!/bin/sh"},
		want:    "etc/ 0755\netc/a.conf -rw-r--r-- \"x\"\nusr/ 0755\nusr/bin/ 0755\nusr/bin/tool -rwxr-xr-x \"#!/bin/sh\"\n",
	}, {
		summary: "a file replaces a file and a link, and does not follow the link",
		tree:    map[string]string{"a": "old", "b": "-> a"},
		overlay: map[string]string{"a": "new", "b": "own"},
		want:    "a -rw-r--r-- \"new\"\nb -rw-r--r-- \"own\"\n",
	}, {
		summary: "a directory of the tree keeps its mode; a link to a directory is followed",
		tree:    map[string]string{"usr/lib/x": "1", "lib": "-> usr/lib"},
		overlay: map[string]string{"lib/y": "2"},
		want:    "lib -> usr/lib\nusr/ 0755\nusr/lib/ 0755\nusr/lib/x -rw------- \"1\"\nusr/lib/y -rw-r--r-- \"2\"\n",
	}, {
		summary: "links are copied as they are",
		tree:    map[string]string{"etc/": ""},
		overlay: map[string]string{"etc/resolv.conf": "-> ../run/stub"},
		want:    "etc/ 0755\netc/resolv.conf -> ../run/stub\n",
	}, {
		summary: "the owners file sets modes and is not copied",
		overlay: map[string]string{".owners": "# comment\n\nsecret 0640 " + self + "\n", "secret": "s"},
		want:    "secret -rw-r----- \"s\"\n",
	}, {
		summary: "a link that leads out of the tree is not followed",
		tree:    map[string]string{"etc": "-> /etc"},
		overlay: map[string]string{"etc/passwd": "x"},
		want:    "etc -> /etc\n",
		err:     "overlay OVERLAY: ",
	}, {
		summary: "an owners line for a path that is not there",
		overlay: map[string]string{".owners": "nothere 0640 0:0\n"},
		err:     "overlay OVERLAY: lchownat nothere: no such file or directory",
	}} {
		t.Run(test.summary, func(t *testing.T) {
			dst, src := tree(t, test.tree), tree(t, test.overlay)
			err := mergeOverlay(dst, src)
			got := ""
			if err != nil {
				got = strings.ReplaceAll(err.Error(), src, "OVERLAY")
			}
			if (test.err == "") != (err == nil) || !strings.HasPrefix(got, test.err) {
				t.Errorf("got error %q, want %q", got, test.err)
			}
			if tree := dump(t, dst); tree != test.want {
				t.Errorf("got tree\n%swant\n%s", tree, test.want)
			}
		})
	}
}

func TestParseOwnersErrors(t *testing.T) {
	const inside = "is not inside the overlay; write it relative to the overlay, without '..'"
	for _, test := range []struct{ summary, line, want string }{
		{"no owner", "a 0640", `o:1: want 'PATH MODE UID:GID', found "a 0640"`},
		{"parent", "../a 0640 0:0", `o:1: path "../a" ` + inside},
		{"absolute path", "/a 0640 0:0", `o:1: path "/a" ` + inside},
		{"unclean path", "a//b 0640 0:0", `o:1: path "a//b" ` + inside},
		{"decimal mode", "a 9 0:0", `o:1: mode "9" is not octal; write it like 0640`},
		{"large mode", "a 17777 0:0", `o:1: mode "17777" is not octal; write it like 0640`},
		{"names", "a 0640 root:root", `o:1: owner "root:root" is not UID:GID in numbers, as 0:900`},
		{"no group", "a 0640 0", `o:1: owner "0" is not UID:GID in numbers, as 0:900`},
		{"second line", "# ok\nb 0640 -1:0", `o:2: owner "-1:0" is not UID:GID in numbers, as 0:900`},
	} {
		_, err := parseOwners("o", strings.NewReader(test.line))
		if err == nil || err.Error() != test.want {
			t.Errorf("%s: got %v, want %s", test.summary, err, test.want)
		}
	}
}

func FuzzParseOwners(f *testing.F) {
	f.Add("a/b 0640 0:900\n# x\n")
	f.Add("a 4755 1:1")
	f.Fuzz(func(t *testing.T, text string) {
		owners, err := parseOwners("o", strings.NewReader(text))
		if err != nil {
			return
		}
		for _, o := range owners {
			if !filepath.IsLocal(o.path) || o.uid < 0 || o.gid < 0 || o.uid > 65535 || o.gid > 65535 {
				t.Errorf("accepted %+v", o)
			}
		}
	})
}
