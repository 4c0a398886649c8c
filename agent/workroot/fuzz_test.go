package workroot

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// FuzzMake opens and makes directories of any name. Nothing may be made outside
// of the root, and nothing outside of it be opened.
func FuzzMake(f *testing.F) {
	for _, name := range []string{
		".", "a/b", "new/deep", "link/x", "a/../a", "a/out/new", "../outside", "/etc", "proc", "loop/x", "a\x00b", "a//b/",
	} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		r := newRoot(t)
		dir, err := r.Make(name)
		checkOutside(t, r)
		if err != nil {
			return
		}
		defer dir.Close()

		// The kernel's own name of it.
		path, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(dir.Fd())))
		if err != nil {
			t.Fatal(err)
		}
		if path != r.Path && !strings.HasPrefix(path, r.Path+"/") {
			t.Errorf("Make(%q) opened %s, outside of %s", name, path, r.Path)
		}
	})
}
