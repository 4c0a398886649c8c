package spec

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/BurntSushi/toml"
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
`

// specDirectory makes a directory with the overlay that goodDocument names.
func specDirectory(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "overlay"), 0o755); err != nil {
		t.Fatal(err)
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
		Host:   Tree{Packages: []string{"systemd", "g++"}, Overlays: []string{"overlay"}, ExcludePaths: []string{"/usr/share/man/*"}},
		Guest:  Tree{Packages: []string{"git"}},
		Runner: Component{Version: "2.337.0", Path: "runner.tar.gz", SHA256: strings.Repeat("0", 64)},
		Disk: Disk{ESP: 512 << 20, Root: 2 << 30, Verity: 32 << 20, Var: 256 << 20, Compression: "lz4",
			KernelArguments: []string{"quiet"}},
	}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestParseRefuses(t *testing.T) {
	const everyHostKey = "known here are exclude-paths, overlays, packages"
	for _, test := range []struct {
		summary  string
		old, new string // replaced in goodDocument; no old means the whole document
		want     string // after "images.toml:"
	}{
		{"empty file", "", "", `1: schema is missing from the top; add a line like: schema = 1`},
		{"nothing but the schema", "", "schema = 1\n", `1: [image] is missing; add that table`},
		{"no image", "", "schema = 1\n[image]\n", `2: no image is described; add a table [image.NAME]`},
		{"broken syntax", `version = "1.0"`, `version = 1.0.0`, `7: Invalid float value: "1.0.0"; see https://toml.io`},
		{"number without digits", `version = "1.0"`, `version = 0b`, `7: not a binary number: '0b'; see https://toml.io`},
		{"string without end", `suite = "trixie"`, `suite = "trixie`, `6: strings cannot contain newlines; see https://toml.io`},
		{"header of two words", "[image.runner.host]", "[image.runner host]", `10: expected '.' or ']' to end table name, but got 'h' instead; see https://toml.io`},
		{"byte order mark", "# Images\nschema = 1", "\ufeffschema = 2\n", `1: schema 2 is unknown to this version; use 1`},
		{"key twice", `suite = "trixie"`, "suite = \"trixie\"\nsuite = \"trixie\"", `7: Key 'image.runner.suite' has already been defined; see https://toml.io`},
		{"not UTF-8", `# Images`, "# \xff", `1: invalid UTF-8 byte: 0xff; see https://toml.io`},
		{"schema missing", "schema = 1\n", "", `1: schema is missing from the top; add a line like: schema = 1`},
		{"schema unknown", "schema = 1", "schema = 2", `2: schema 2 is unknown to this version; use 1`},
		{"schema quoted", "schema = 1", `schema = "1"`, `2: schema is a string, want an integer`},
		{"unknown key at the top", "schema = 1", "schema = 1\nimages = 2", `3: unknown key "images"; did you mean "image"?`},
		{"images as a list", "", "schema = 1\n[[image]]\nname = \"runner\"\n", `2: image is a list, want a table, [image]`},
		{"image a scalar", "", "schema = 1\nimage = \"runner\"\n", `2: image is a string, want a table, [image]`},
		{"image name", "[image.runner]", `[image."Runner.1"]` + "\n[image.runner]",
			`4: image name "Runner.1" is not usable in file names; use lower-case letters, digits and '-'`},
		{"value missing", "architecture = \"amd64\"\n", "", `4: architecture is missing from [image.runner]; add a line like: architecture = "..."`},
		{"value missing, table not written out", "[image.runner]\narchitecture = \"amd64\"\nsuite = \"trixie\"\nversion = \"1.0\"\nmirror = \"http://archive.test/debian\"\n", "",
			`5: architecture is missing from [image.runner]; add a line like: architecture = "..."`},
		{"value empty", `suite = "trixie"`, `suite = ""`, `6: suite is empty; give it a value`},
		{"architecture", `"amd64"`, `"arm64"`, `5: architecture "arm64" is not supported yet; use "amd64"`},
		{"suite", `"trixie"`, `"stable"`, `6: suite "stable" is not supported; use "trixie" (Debian 13)`},
		{"version a number", `version = "1.0"`, `version = 1.0`, `7: version is a number with a point, want a string in quotes`},
		{"version a date", `version = "1.0"`, `version = 2026-01-02 03:04:05`, `7: version is a date, want a string in quotes`},
		{"version with a dash", `"1.0"`, `"1.0-rc1"`, `7: version "1.0-rc1" does not begin with a digit or has characters other than letters, digits and '.~^'; use one like "1.4.0"`},
		{"version too long", `"1.0"`, `"1.0.0.0.0.0.0.0.0.0.0.0.0"`, `7: version "1.0.0.0.0.0.0.0.0.0.0.0.0" is too long for a partition label; use at most 22 characters`},
		{"mirror", `"http://archive.test/debian"`, `"archive.test/debian"`, `8: mirror "archive.test/debian" is not an http or https URL; leave it out to use this host's own`},
		{"mirror of two words", `"http://archive.test/debian"`, `"http://archive.test/debian sid"`, `8: mirror "http://archive.test/debian sid" is not an http or https URL; leave it out to use this host's own`},
		{"misspelled key", "suite =", "siute =", `6: unknown key "siute"; did you mean "suite"?`},
		{"unknown key in a table", "overlays =", "colour =", `15: unknown key "colour"; ` + everyHostKey},
		{"unknown quoted key", "overlays =", `"a = \"b\" ] # ." =`, `15: unknown key "a = \"b\" ] # ."; ` + everyHostKey},
		{"host missing", "[image.runner.host]\npackages = [\n    \"systemd\",  # \"quoted\", in a comment\n    \"g++\",\n]\noverlays = [\"overlay\"]\nexclude-paths = [\"/usr/share/man/*\"]\n", "",
			`4: [image.runner.host] is missing; add that table`},
		{"guest a list", "[image.runner.guest]", "[[image.runner.guest]]", `18: guest is a list, want a table, [image.runner.guest]`},
		{"packages missing", `packages = ["git"]`, "", `18: packages is missing from [image.runner.guest]; add a line like: packages = ["..."]`},
		{"packages a string", `packages = ["git"]`, `packages = "git"`, `19: packages is a string, want a list of strings`},
		{"package a number", `"g++",`, "7,\n    \"g++\",", `13: packages holds an integer, want only strings`},
		{"package name", `"g++",`, `"libc6 libc6-dev",`, `13: "libc6 libc6-dev" is not a Debian package name; use lower-case letters, digits and '+-.'`},
		{"package twice", `"g++",`, `"g++", "make", # "x"` + "\n\"systemd\"", `14: package "systemd" is listed twice; remove one`},
		{"overlay missing", `["overlay"]`, `["overlay", "overlays"]`, `15: overlay "overlays" is not a directory beside this file; create it or correct the path`},
		{"exclusion not absolute", `"/usr/share/man/*"`, `"usr/share/man/*"`, `16: exclude path "usr/share/man/*" is not absolute; begin it with '/'`},
		{"exclusion of two lines", `"/usr/share/man/*"`, `"/usr/share/man/*\nforce-all"`, `16: exclude path "/usr/share/man/*\nforce-all" holds a control character; remove it`},
		{"no runner source", "path = \"runner.tar.gz\"\n", "", `21: the runner needs exactly one of url and path; remove one or add one`},
		{"runner source misspelled", "path = \"runner", "paths = \"runner", `23: unknown key "paths"; did you mean "path"?`},
		{"two runner sources", `path = "runner.tar.gz"`, "path = \"runner.tar.gz\"\nurl = \"https://example.com/r.tar.gz\"", `21: the runner needs exactly one of url and path; remove one or add one`},
		{"runner URL", `path = "runner.tar.gz"`, `url = "file:///runner.tar.gz"`, `23: url "file:///runner.tar.gz" is not an http or https URL; use path for a local file`},
		{"runner version", `"2.337.0"`, `"2.337.0\nID=evil"`, `22: version "2.337.0\nID=evil" does not begin with a digit or has characters other than letters, digits and '.+~-'; use one like "2.337.0"`},
		{"hash too short", `"0000`, `"`, `24: sha256 "000000000000000000000000000000000000000000000000000000000000" is not 64 lower-case hex digits; copy it from the release page`},
		{"disk inline, unknown key", "[image.runner.disk]", "disk = { esp = \"512M\", root = \"2G\", verity = \"32M\", var = \"256M\", compression = \"lz4\", swap = \"1G\" }\n[other]", `27: unknown key "other"; known here are image, schema`},
		{"size without unit", `"512M"`, `"512"`, `27: esp "512" is not a size; write whole MiB or GiB, like "512M" or "2G"`},
		{"size a number", `"512M"`, `512`, `27: esp is an integer, want a string in quotes`},
		{"size negative", `"2G"`, `"-2G"`, `28: root "-2G" is not a size; write whole MiB or GiB, like "512M" or "2G"`},
		{"size with a sign", `"2G"`, `"+2G"`, `28: root "+2G" is not a size; write whole MiB or GiB, like "512M" or "2G"`},
		{"size of nothing", `"2G"`, `"0G"`, `28: root "0G" is not a size; write whole MiB or GiB, like "512M" or "2G"`},
		{"size beyond measure", `"2G"`, `"99999999G"`, `28: root "99999999G" is not a size; write whole MiB or GiB, like "512M" or "2G"`},
		{"ESP too small", `"512M"`, `"32M"`, `27: esp is too small for FAT32 and two versions; use at least "64M"`},
		{"verity too small", `"32M"`, `"16M"`, `29: verity is too small for the hash tree of root; use at least "18M"`},
		{"var too small", `"256M"`, `"16M"`, `30: var is too small; use at least "32M"`},
		{"compression", `"lz4"`, `"gzip"`, `31: compression "gzip" is unknown; use "none", "lz4", "lz4hc,LEVEL" or "zstd,LEVEL"`},
		{"kernel argument of two words", `["quiet"]`, `["quiet", "a b"]`, `32: kernel argument "a b" is not one word; list each on its own`},
		{"kernel arguments a boolean", `["quiet"]`, `true`, `32: kernel-arguments is a boolean, want a list of strings`},
		{"after a multi-line string", `["quiet"]`, "[\"\"\"\\\n  quiet\"\"\", '''x''''', \n\"c d\"]", `34: kernel argument "c d" is not one word; list each on its own`},
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
			for _, document := range []string{document, strings.ReplaceAll(document, "\n", "\r\n")} {
				if strings.Contains(test.new, "\\\n") && strings.Contains(document, "\r") {
					continue // the decoder does not take CR LF after a backslash
				}
				if err := os.WriteFile("images.toml", []byte(document), 0o644); err != nil {
					t.Fatal(err)
				}
				before := tree(t)
				got, err := Load("images.toml")
				if want := "images.toml:" + test.want; err == nil || err.Error() != want {
					t.Errorf("got  %v\nwant %s", err, want)
				}
				if got != nil {
					t.Errorf("a specification came with the error: %+v", got)
				}
				if after := tree(t); !slices.Equal(before, after) {
					t.Errorf("reading changed %q to %q", before, after)
				}
			}
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
	if want := "cannot read description of images: open /nonexistent/images.toml: no such file or directory"; err == nil || err.Error() != want {
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
	if want := `cannot find image "runer" in images.toml: it has runner; did you mean "runner"?`; err == nil || err.Error() != want {
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
	if !slices.Equal(img.Host.Overlays, []string{"../../overlays/host"}) || !slices.Equal(img.Guest.Overlays, []string{"../../overlays/guest"}) {
		t.Errorf("got overlays %q, %q", img.Host.Overlays, img.Guest.Overlays)
	}
	url := "https://github.com/actions/runner/releases/download/v" + img.Runner.Version + "/actions-runner-linux-x64-" + img.Runner.Version + ".tar.gz"
	if img.Runner.URL != url {
		t.Errorf("got runner %+v, want url %s", img.Runner, url)
	}
	want := Disk{ESP: 512 << 20, Root: 2 << 30, Verity: 32 << 20, Var: 256 << 20, Compression: "lz4",
		KernelArguments: []string{"console=tty0", "console=ttyS0", "lsm=landlock,lockdown,yama,integrity,apparmor"}}
	if !reflect.DeepEqual(img.Disk, want) {
		t.Errorf("got disk %+v\nwant %+v", img.Disk, want)
	}
}

func TestIndexLines(t *testing.T) {
	for _, test := range []struct {
		summary, text string
		want          map[string]int
	}{
		{"keys before and in tables", "a = 1\n\n[t]\nb = 2\n", map[string]int{"a": 1, "t": 3, "t.b": 4}},
		{"a comment after a value", "a = 1 # [x]\nb = 2 # \"\nc = 3", map[string]int{"a": 1, "b": 2, "c": 3}},
		{"dotted and quoted keys", "a . \"b.c\" = 1\n'd=e' = 2\n\"\\u0066\" = 3\n", map[string]int{"a": 1, `a."b.c"`: 1, `"d=e"`: 2, "f": 3}},
		{"quoted headers", "[a.\"b]\"] # ]\nc = 1\n", map[string]int{"a": 1, `a."b]"`: 1, `a."b]".c`: 2}},
		{"arrays of tables", "[[a]]\nb = 1\n[[a]]\nc = 1", map[string]int{"a": 1, "a.b": 2, "a.c": 4}},
		{"an array over lines", "a = [ # \"\n1,\n'x', [\n\"y\"],\n]\nb = 1\n", map[string]int{"a": 1, "a[0]": 2, "a[1]": 3, "a[2]": 3, "a[2][0]": 4, "b": 6}},
		{"inline tables", "a = { b = 1, c.d = [\n{ e = 2 }] }\nf = 1", map[string]int{"a": 1, "a.b": 1, "a.c": 1, "a.c.d": 1, "a.c.d[0].e": 2, "f": 3}},
		{"multi-line strings", "a = \"\"\"\n[b]\nc = \\\"\"\"\"\"\nd = '''\n\\''''\ne = 1", map[string]int{"a": 1, "d": 4, "e": 6}},
		{"empty strings", "a = \"\"\nb = ''\nc = \"\"\"\"\"\"\nd = 1", map[string]int{"a": 1, "b": 2, "c": 3, "d": 4}},
		{"backslashes", "a = '\\'\nb = \"\\\\\"\nc = 1", map[string]int{"a": 1, "b": 2, "c": 3}},
		{"dates", "a = 2026-01-02 03:04:05\nb = 1", map[string]int{"a": 1, "b": 2}},
		{"CR LF", "a = 1\r\n\r\nb = 2\r\n", map[string]int{"a": 1, "b": 3}},
		{"a table named only by its children", "[a.b]\nc = 1\n[a]\n", map[string]int{"a": 3, "a.b": 1, "a.b.c": 2}},
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
	for _, seed := range []string{goodDocument, "a.\"b.c\" = {d = [1, '''\n''']}\n[[e]]\n", "[[[}", "a=[}", "\"", "'''", "a = \"\\", "[a", "\ufeff#"} {
		f.Add(seed)
	}
	// A line may name a key in escapes, which these do not.
	plain := regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
	f.Fuzz(func(t *testing.T, text string) {
		x := indexLines(text)
		lines := strings.Split(text, "\n")
		for key, line := range x.stated {
			if line < 1 || line > len(lines) {
				t.Errorf("%q is said to stand on line %d of %d", key, line, len(lines))
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
				t.Errorf("%s is said to stand on line %d", name, line)
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
			if s != nil || !message.MatchString(err.Error()) || strings.ContainsAny(err.Error(), "\n\x00") || !utf8.ValidString(err.Error()) {
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
	if !namePattern.MatchString(img.Name) || img.Architecture != "amd64" || img.Suite != "trixie" || CheckVersion(img.Version) != nil {
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
				t.Errorf("overlay %q is no directory", overlay)
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
