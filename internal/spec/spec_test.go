package spec

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/BurntSushi/toml"
	"github.com/google/go-cmp/cmp"

	"github.com/mkappliance/mkappliance/internal/golden"
	"github.com/mkappliance/mkappliance/internal/release"
)

// goodDocument has every key; the tests break it one by one.
const goodDocument = `# Images
schema = 1

[image.runner]
architecture = "amd64"
suite = "trixie"
version = "1.0"
mirror = "http://archive.test/debian"

[image.runner.host]
packages = [
    "systemd",  # "quoted", in a comment
    "g++",
]
overlays = ["overlay"]
exclude-paths = ["/usr/share/man/*"]

[image.runner.guest]
packages = ["git"]

[image.runner.runner]
version = "2.337.0" # the newest
path = "runner.tar.gz"
sha256 = "0000000000000000000000000000000000000000000000000000000000000000"

[image.runner.disk]
esp = "512M"
root = "2G"
verity = "32M"
var = "256M"
compression = "lz4"
kernel-arguments = ["quiet"]

[image.runner.update]
keys = ["a.pub", "keys/b.pub"]
channel = "beta"
severity = "high"
min-version = "0.8"
rollback-floor = "0.9"
min-agent = "0.8-12-gc0ffee"
delta = false
`

// testKey is a public key.
const testKey = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3"

// specDirectory makes a directory with the overlay and the keys that goodDocument
// names.
func specDirectory(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for _, sub := range []string{"overlay", "keys"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"a.pub", "keys/a.pub", "keys/b.pub"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("untrusted comment: x\n"+testKey+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestParse(t *testing.T) {
	t.Chdir(specDirectory(t))
	got, err := Parse("images.toml", []byte(goodDocument))
	if err != nil {
		t.Fatal(err)
	}
	want := &Spec{Path: "images.toml", Images: []Image{{
		Name: "runner", Architecture: "amd64", Suite: "trixie", Version: "1.0", Mirror: "http://archive.test/debian",
		Host: Tree{Packages: []string{"systemd", "g++"}, Overlays: []string{"overlay"},
			ExcludePaths: []string{"/usr/share/man/*"}},
		Guest:  Tree{Packages: []string{"git"}},
		Runner: Component{Version: "2.337.0", Path: "runner.tar.gz", SHA256: strings.Repeat("0", 64)},
		Disk: Disk{ESP: 512 << 20, Root: 2 << 30, Verity: 32 << 20, Var: 256 << 20, Compression: "lz4",
			KernelArguments: []string{"quiet"}},
		Update: Update{
			Keys: []UpdateKey{
				{Name: "a.pub", Content: "untrusted comment: minisign public key: E7620F1842B4E81F\n" + testKey + "\n"},
				{Name: "b.pub", Content: "untrusted comment: minisign public key: E7620F1842B4E81F\n" + testKey + "\n"},
			},
			Channel: "beta", Severity: release.High, MinVersion: "0.8", RollbackFloor: "0.9", MinAgent: "0.8-12-gc0ffee",
		},
	}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("got (+), want (-):\n%s", diff)
	}
}

func TestUpdateDefaults(t *testing.T) {
	t.Chdir(specDirectory(t))
	document, _, _ := strings.Cut(goodDocument, "[image.runner.update]")
	got, err := Parse("images.toml", []byte(document))
	if err != nil {
		t.Fatal(err)
	}
	want := Update{Channel: "stable", Severity: release.Low, Delta: true}
	if diff := cmp.Diff(want, got.Images[0].Update); diff != "" {
		t.Errorf("got (+), want (-):\n%s", diff)
	}
}

// TestParseRefuses holds the messages, which begin with the line of the mistake,
// against a file.
func TestParseRefuses(t *testing.T) {
	messages := golden.NewMessages(t, "errors.golden")
	for _, test := range []struct {
		summary  string
		old, new string // replaced in goodDocument; no old means the whole document
	}{
		{summary: "empty file"},
		{summary: "nothing but the schema", new: "schema = 1\n"},
		{summary: "no image", new: "schema = 1\n[image]\n"},
		{summary: "broken syntax", old: `version = "1.0"`, new: `version = 1.0.0`},
		{summary: "number without digits", old: `version = "1.0"`, new: `version = 0b`},
		{summary: "string without end", old: `suite = "trixie"`, new: `suite = "trixie`},
		{summary: "header of two words", old: "[image.runner.host]", new: "[image.runner host]"},
		{summary: "byte order mark", old: "# Images\nschema = 1", new: "\ufeffschema = 2\n"},
		{summary: "key twice", old: `suite = "trixie"`, new: "suite = \"trixie\"\nsuite = \"trixie\""},
		{summary: "not UTF-8", old: `# Images`, new: "# \xff"},
		{summary: "schema missing", old: "schema = 1\n"},
		{summary: "schema unknown", old: "schema = 1", new: "schema = 2"},
		{summary: "schema quoted", old: "schema = 1", new: `schema = "1"`},
		{summary: "unknown key at the top", old: "schema = 1", new: "schema = 1\nimages = 2"},
		{summary: "images as a list", new: "schema = 1\n[[image]]\nname = \"runner\"\n"},
		{summary: "image a scalar", new: "schema = 1\nimage = \"runner\"\n"},
		{summary: "image name", old: "[image.runner]", new: `[image."Runner.1"]` + "\n[image.runner]"},
		{summary: "value missing", old: "architecture = \"amd64\"\n"},
		{
			summary: "value missing, table not written out",
			old: "[image.runner]\narchitecture = \"amd64\"\nsuite = \"trixie\"\nversion = \"1.0\"\n" +
				"mirror = \"http://archive.test/debian\"\n",
		},
		{summary: "value empty", old: `suite = "trixie"`, new: `suite = ""`},
		{summary: "architecture", old: `"amd64"`, new: `"arm64"`},
		{summary: "suite", old: `"trixie"`, new: `"stable"`},
		{summary: "version a number", old: `version = "1.0"`, new: `version = 1.0`},
		{summary: "version a date", old: `version = "1.0"`, new: `version = 2026-01-02 03:04:05`},
		{summary: "version with a dash", old: `"1.0"`, new: `"1.0-rc1"`},
		{summary: "version too long", old: `"1.0"`, new: `"1.0.0.0.0.0.0.0.0.0.0.0.0"`},
		{summary: "mirror", old: `"http://archive.test/debian"`, new: `"archive.test/debian"`},
		{
			summary: "mirror of two words",
			old:     `"http://archive.test/debian"`,
			new:     `"http://archive.test/debian sid"`,
		},
		{summary: "misspelled key", old: "suite =", new: "siute ="},
		{summary: "unknown key in a table", old: "overlays =", new: "colour ="},
		{summary: "unknown quoted key", old: "overlays =", new: `"a = \"b\" ] # ." =`},
		{
			summary: "host missing",
			old: "[image.runner.host]\npackages = [\n    \"systemd\",  # \"quoted\", in a comment\n" +
				"    \"g++\",\n]\noverlays = [\"overlay\"]\nexclude-paths = [\"/usr/share/man/*\"]\n",
		},
		{summary: "guest a list", old: "[image.runner.guest]", new: "[[image.runner.guest]]"},
		{summary: "packages missing", old: `packages = ["git"]`},
		{summary: "packages a string", old: `packages = ["git"]`, new: `packages = "git"`},
		{summary: "package a number", old: `"g++",`, new: "7,\n    \"g++\","},
		{summary: "package name", old: `"g++",`, new: `"libc6 libc6-dev",`},
		{summary: "package twice", old: `"g++",`, new: `"g++", "make", # "x"` + "\n\"systemd\""},
		{summary: "overlay missing", old: `["overlay"]`, new: `["overlay", "overlays"]`},
		{summary: "exclusion not absolute", old: `"/usr/share/man/*"`, new: `"usr/share/man/*"`},
		{summary: "exclusion of two lines", old: `"/usr/share/man/*"`, new: `"/usr/share/man/*\nforce-all"`},
		{summary: "no runner source", old: "path = \"runner.tar.gz\"\n"},
		{summary: "runner source misspelled", old: "path = \"runner", new: "paths = \"runner"},
		{
			summary: "two runner sources",
			old:     `path = "runner.tar.gz"`,
			new:     "path = \"runner.tar.gz\"\nurl = \"https://example.com/r.tar.gz\"",
		},
		{summary: "runner URL", old: `path = "runner.tar.gz"`, new: `url = "file:///runner.tar.gz"`},
		{summary: "runner version", old: `"2.337.0"`, new: `"2.337.0\nID=evil"`},
		{summary: "hash too short", old: `"0000`, new: `"`},
		{
			summary: "disk inline, unknown key",
			old:     "[image.runner.disk]",
			new: "disk = { esp = \"512M\", root = \"2G\", verity = \"32M\", var = \"256M\", " +
				"compression = \"lz4\", swap = \"1G\" }\n" +
				"[other]",
		},
		{summary: "size without unit", old: `"512M"`, new: `"512"`},
		{summary: "size a number", old: `"512M"`, new: `512`},
		{summary: "size negative", old: `"2G"`, new: `"-2G"`},
		{summary: "size with a sign", old: `"2G"`, new: `"+2G"`},
		{summary: "size of nothing", old: `"2G"`, new: `"0G"`},
		{summary: "size beyond measure", old: `"2G"`, new: `"99999999G"`},
		{summary: "ESP too small", old: `"512M"`, new: `"32M"`},
		{summary: "verity too small", old: `"32M"`, new: `"16M"`},
		{summary: "var too small", old: `"256M"`, new: `"16M"`},
		{summary: "compression", old: `"lz4"`, new: `"gzip"`},
		{summary: "kernel argument of two words", old: `["quiet"]`, new: `["quiet", "a b"]`},
		{summary: "kernel arguments a boolean", old: `["quiet"]`, new: `true`},
		{
			summary: "after a multi-line string",
			old:     `["quiet"]`,
			new:     "[\"\"\"\\\n  quiet\"\"\", '''x''''', \n\"c d\"]",
		},
		{summary: "update a list", old: "[image.runner.update]", new: "[[image.runner.update]]"},
		{summary: "unknown key of update", old: "channel =", new: "chanel ="},
		{summary: "update key missing", old: `"a.pub"`, new: `"c.pub"`},
		{summary: "update key of another name", old: `"a.pub"`, new: `"overlay"`},
		{summary: "update keys of one name", old: `"keys/b.pub"`, new: `"keys/a.pub"`},
		{summary: "channel", old: `"beta"`, new: `"Beta"`},
		{summary: "severity", old: `"high"`, new: `"urgent"`},
		{summary: "stepping stone newer than the image", old: `"0.8"`, new: `"1.1"`},
		{summary: "floor not a version", old: `"0.9"`, new: `"v0.9"`},
		{summary: "agent", old: `"0.8-12-gc0ffee"`, new: `"devel"`},
		{summary: "delta a string", old: `delta = false`, new: `delta = "no"`},
	} {
		t.Run(test.summary, func(t *testing.T) {
			t.Chdir(specDirectory(t))
			document := test.new
			if test.old != "" {
				document = strings.Replace(goodDocument, test.old, test.new, 1)
				if document == goodDocument {
					t.Fatalf("%q is not in the document", test.old)
				}
			}

			var message string
			for _, document := range []string{document, strings.ReplaceAll(document, "\n", "\r\n")} {
				if strings.Contains(test.new, "\\\n") && strings.Contains(document, "\r") {
					continue // the decoder does not take CR LF after a backslash
				}
				if err := os.WriteFile("images.toml", []byte(document), 0o644); err != nil {
					t.Fatal(err)
				}
				before := tree(t)

				got, err := Load("images.toml")
				if err == nil {
					t.Fatal("no error")
				}
				if message != "" && err.Error() != message {
					t.Errorf("with CR LF: got  %v\nwant %s", err, message)
				}
				message = err.Error()
				if got != nil {
					t.Errorf("a specification came with the error: %+v", got)
				}
				if after := tree(t); !slices.Equal(before, after) {
					t.Errorf("reading changed %q to %q", before, after)
				}
			}
			messages.Check(t, test.summary, message)
		})
	}
}

// tree lists every file with its content.
func tree(t *testing.T) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			list = append(list, path)
			return err
		}
		data, err := os.ReadFile(path)
		list = append(list, path+"="+string(data))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestLoadMissingFile(t *testing.T) {
	_, err := Load("/nonexistent/images.toml")
	want := "cannot read description of images: open /nonexistent/images.toml: no such file or directory"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestImage(t *testing.T) {
	t.Chdir(specDirectory(t))
	s, err := Parse("images.toml", []byte(goodDocument))
	if err != nil {
		t.Fatal(err)
	}
	if img, err := s.Image("runner"); err != nil || img.Name != "runner" {
		t.Errorf("got %+v, %v", img, err)
	}

	_, err = s.Image("runer")
	want := `cannot find image "runer" in images.toml: it has runner; did you mean "runner"?`
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// TestRepositoryFile holds the file the project ships to what the rest of the
// repository relies on.
func TestRepositoryFile(t *testing.T) {
	s, err := Load("../../images.toml")
	if err != nil {
		t.Fatal(err)
	}
	img, err := s.Image("runner-amd64")
	if err != nil {
		t.Fatal(err)
	}

	if len(s.Images) != 1 || img.Architecture != "amd64" || img.Suite != "trixie" || img.Mirror != "" {
		t.Errorf("got %+v", img)
	}
	for _, pkg := range []string{"systemd", "systemd-boot", "systemd-container", "systemd-repart", "systemd-cryptsetup",
		"dracut", "linux-image-cloud-amd64", "cloud-init", "openssh-server"} {
		if !slices.Contains(img.Host.Packages, pkg) {
			t.Errorf("host lacks %s", pkg)
		}
	}
	for _, pkg := range []string{"systemd", "git", "curl", "jq", "ca-certificates", "sudo", "nodejs"} {
		if !slices.Contains(img.Guest.Packages, pkg) {
			t.Errorf("guest lacks %s", pkg)
		}
	}

	overlays := [][]string{img.Host.Overlays, img.Guest.Overlays}
	if diff := cmp.Diff([][]string{{"../../overlays/host"}, {"../../overlays/guest"}}, overlays); diff != "" {
		t.Errorf("got (+), want (-):\n%s", diff)
	}
	url := fmt.Sprintf("https://github.com/actions/runner/releases/download/v%[1]s/actions-runner-linux-x64-%[1]s.tar.gz",
		img.Runner.Version)
	if img.Runner.URL != url {
		t.Errorf("got runner %+v, want url %s", img.Runner, url)
	}

	want := Disk{ESP: 512 << 20, Root: 2 << 30, Verity: 32 << 20, Var: 256 << 20, Compression: "lz4",
		KernelArguments: []string{"console=tty0", "console=ttyS0", "lsm=landlock,lockdown,yama,integrity,apparmor"}}
	if diff := cmp.Diff(want, img.Disk); diff != "" {
		t.Errorf("got (+), want (-):\n%s", diff)
	}
}

func TestIndexLines(t *testing.T) {
	for _, test := range []struct {
		summary string
		text    string
		want    map[string]int // key -> line
	}{
		{
			summary: "keys before and in tables",
			text:    "a = 1\n\n[t]\nb = 2\n",
			want:    map[string]int{"a": 1, "t": 3, "t.b": 4},
		},
		{
			summary: "a comment after a value",
			text:    "a = 1 # [x]\nb = 2 # \"\nc = 3",
			want:    map[string]int{"a": 1, "b": 2, "c": 3},
		},
		{
			summary: "dotted and quoted keys",
			text:    "a . \"b.c\" = 1\n'd=e' = 2\n\"\\u0066\" = 3\n",
			want:    map[string]int{"a": 1, `a."b.c"`: 1, `"d=e"`: 2, "f": 3},
		},
		{
			summary: "quoted headers",
			text:    "[a.\"b]\"] # ]\nc = 1\n",
			want:    map[string]int{"a": 1, `a."b]"`: 1, `a."b]".c`: 2},
		},
		{
			summary: "arrays of tables",
			text:    "[[a]]\nb = 1\n[[a]]\nc = 1",
			want:    map[string]int{"a": 1, "a.b": 2, "a.c": 4},
		},
		{
			summary: "an array over lines",
			text:    "a = [ # \"\n1,\n'x', [\n\"y\"],\n]\nb = 1\n",
			want:    map[string]int{"a": 1, "a[0]": 2, "a[1]": 3, "a[2]": 3, "a[2][0]": 4, "b": 6},
		},
		{
			summary: "inline tables",
			text:    "a = { b = 1, c.d = [\n{ e = 2 }] }\nf = 1",
			want:    map[string]int{"a": 1, "a.b": 1, "a.c": 1, "a.c.d": 1, "a.c.d[0].e": 2, "f": 3},
		},
		{
			summary: "multi-line strings",
			text:    "a = \"\"\"\n[b]\nc = \\\"\"\"\"\"\nd = '''\n\\''''\ne = 1",
			want:    map[string]int{"a": 1, "d": 4, "e": 6},
		},
		{
			summary: "empty strings",
			text:    "a = \"\"\nb = ''\nc = \"\"\"\"\"\"\nd = 1",
			want:    map[string]int{"a": 1, "b": 2, "c": 3, "d": 4},
		},
		{
			summary: "backslashes",
			text:    "a = '\\'\nb = \"\\\\\"\nc = 1",
			want:    map[string]int{"a": 1, "b": 2, "c": 3},
		},
		{summary: "dates", text: "a = 2026-01-02 03:04:05\nb = 1", want: map[string]int{"a": 1, "b": 2}},
		{summary: "CR LF", text: "a = 1\r\n\r\nb = 2\r\n", want: map[string]int{"a": 1, "b": 3}},
		{
			summary: "a table named only by its children",
			text:    "[a.b]\nc = 1\n[a]\n",
			want:    map[string]int{"a": 3, "a.b": 1, "a.b.c": 2},
		},
	} {
		t.Run(test.summary, func(t *testing.T) {
			var doc map[string]any
			if _, err := toml.Decode(test.text, &doc); err != nil {
				t.Fatalf("the document is wrong: %v", err)
			}
			x := indexLines(test.text)
			for key, want := range test.want {
				if got := x.of(key); got != want {
					t.Errorf("%s: got line %d, want %d", key, got, want)
				}
			}
		})
	}
}

func FuzzIndexLines(f *testing.F) {
	for _, seed := range []string{
		goodDocument, "a.\"b.c\" = {d = [1, '''\n''']}\n[[e]]\n",
		"[[[}", "a=[}", "\"", "'''", "a = \"\\", "[a", "\ufeff#",
	} {
		f.Add(seed)
	}
	// A line may name a key in escapes, which these do not.
	plain := regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
	f.Fuzz(func(t *testing.T, text string) {
		x := indexLines(text)
		lines := strings.Split(text, "\n")
		for key, line := range x.stated {
			if line < 1 || line > len(lines) {
				t.Errorf("%q is said to be on line %d of %d", key, line, len(lines))
			}
		}

		var doc map[string]any
		meta, err := toml.Decode(text, &doc)
		if err != nil || strings.Contains(text, "{") || strings.ContainsAny(text, `\`) {
			return
		}

		for _, key := range meta.Keys() {
			name, last := key.String(), key[len(key)-1]
			line, stated := x.stated[name]
			if !stated {
				line = x.implied[name]
			}
			if line == 0 || plain.MatchString(last) && !strings.Contains(lines[line-1], last) {
				t.Errorf("%s is said to be on line %d", name, line)
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	path := filepath.Join(specDirectory(f), "images.toml")
	f.Add([]byte(goodDocument))
	f.Add([]byte("\x10"))
	f.Add([]byte("a = 0b\n"))
	f.Add([]byte("schema = 1\nimage.a = {host.packages = []}\n"))

	message := regexp.MustCompile(`^` + regexp.QuoteMeta(path) + `:[1-9][0-9]*: .+`)
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Parse(path, data)
		if err != nil {
			text := err.Error()
			if s != nil || !message.MatchString(text) || strings.ContainsAny(text, "\n\x00") || !utf8.ValidString(text) {
				t.Errorf("got %+v and the error %q", s, err)
			}
			again, second := Parse(path, data)
			if again != nil || second == nil || second.Error() != err.Error() {
				t.Errorf("the second time the error is %v, not %v", second, err)
			}
			return
		}

		names := map[string]bool{}
		for _, img := range s.Images {
			names[img.Name] = true
			checkInvariants(t, &img)
		}
		if len(names) == 0 || len(names) != len(s.Images) {
			t.Errorf("got images %v", slices.Sorted(maps.Keys(names)))
		}
	})
}

// checkInvariants asserts what the build relies on.
func checkInvariants(t *testing.T, img *Image) {
	if !namePattern.MatchString(img.Name) || img.Architecture != "amd64" || img.Suite != "trixie" ||
		release.CheckVersion(img.Version) != nil {
		t.Errorf("got %+v", img)
	}

	for _, tree := range []Tree{img.Host, img.Guest} {
		for _, word := range append(slices.Clone(tree.Packages), img.Disk.KernelArguments...) {
			if strings.Join(strings.Fields(word), "") != word || word == "" {
				t.Errorf("%q is not one word", word)
			}
		}
		for _, overlay := range tree.Overlays {
			if info, err := os.Stat(overlay); err != nil || !info.IsDir() {
				t.Errorf("overlay %q is not a directory", overlay)
			}
		}
	}

	if (img.Runner.URL == "") == (img.Runner.Path == "") || len(img.Runner.SHA256) != 64 {
		t.Errorf("got runner %+v", img.Runner)
	}

	d := img.Disk
	for _, size := range []int64{d.ESP, d.Root, d.Verity, d.Var} {
		if size <= 0 || size%mebibyte != 0 {
			t.Errorf("got disk %+v", d)
		}
	}
	if d.Verity < d.Root/128 {
		t.Errorf("verity of %d bytes cannot hold the hash tree of %d", d.Verity, d.Root)
	}
}
