// Package spec reads images.toml, the list of images and of their contents. It
// refuses everything that it does not know, with the line, before a build starts.
package spec

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"github.com/BurntSushi/toml"

	"github.com/mkappliance/mkappliance/internal/arch"
	"github.com/mkappliance/mkappliance/internal/release"
	"github.com/mkappliance/mkappliance/internal/suggest"
)

// Spec is a whole images.toml.
type Spec struct {
	Path   string  // of the file
	Images []Image // in the order of the file
}

// Image describes one image.
type Image struct {
	Name         string // in file names and os-release(5)
	Architecture string // as dpkg names it; arch.LookupBakeable accepts it
	Suite        string // Debian release, as "trixie"
	Version      string // of the image; in file names and partition labels
	Mirror       string // of the Debian archive; empty for the build host's own
	Host, Guest  Tree
	Runner       Component
	Disk         Disk
	Update       Update
}

// Tree describes a file tree made of Debian packages and overlays.
type Tree struct {
	Packages     []string
	Overlays     []string // directories; relative ones resolved against the file
	ExcludePaths []string // globs of files not to unpack, dpkg(1) --path-exclude
}

// Component is a release archive. Exactly one of URL and Path is set.
type Component struct {
	Version string // without the "v" of a tag
	URL     string // http or https
	Path    string // of a local file; relative ones resolved against images.toml
	SHA256  string // of the archive, in lower-case hex
}

// Disk holds the sizes of the partitions, in bytes, and what depends on them.
type Disk struct {
	ESP, Root, Verity, Var int64
	Compression            string   // of the root file system, mkfs.erofs(1) -z, or "none"
	KernelArguments        []string // added to what the build itself needs
}

// Update describes what an image can be upgraded to, and from what.
type Update struct {
	Keys []UpdateKey // may sign what the image is upgraded to; none if it cannot be upgraded
	// Properties of the image as an upgrade of others, as release.Manifest has them.
	Channel       string
	Severity      release.Severity
	MinVersion    string
	RollbackFloor string
	MinAgent      string
	Delta         bool
}

// UpdateKey is a public key in minisign's format.
type UpdateKey struct {
	Name    string // of its file, in which it ends in ".pub"
	Content string // of its file
}

// Load reads and checks a file. Messages about its content begin with its path and
// a line, as "images.toml:6: ".
func Load(path string) (*Spec, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read description of images: %w", err)
	}
	return Parse(path, data)
}

// Parse checks the content of a file. The path is for messages, and relative paths
// in the content are resolved against it.
func Parse(path string, data []byte) (*Spec, error) {
	text := strings.TrimPrefix(string(data), "\ufeff") // a byte order mark
	var doc map[string]any
	if _, err := toml.Decode(text, &doc); err != nil {
		var syntax toml.ParseError
		if errors.As(err, &syntax) {
			// Position.Line is one off around the end of a line.
			line := 1 + strings.Count(text[:max(0, min(syntax.Position.Start, len(text)))], "\n")
			message := strings.TrimSuffix(strings.Map(printable, syntax.Message), ".")
			return nil, fmt.Errorf("%s:%d: %s; see https://toml.io", path, line, message)
		}
		return nil, fmt.Errorf("%s:1: %w", path, err)
	}

	d := &decoder{path: path, lines: indexLines(text)}
	root := d.table("", doc)
	root.integer("schema", 1)
	images := root.tables("image")
	root.end()

	s := &Spec{Path: path}
	for _, name := range slices.SortedFunc(maps.Keys(images), func(a, b string) int {
		return cmp.Or(d.lines.of(images[a].key)-d.lines.of(images[b].key), strings.Compare(a, b))
	}) {
		s.Images = append(s.Images, d.image(name, images[name]))
	}

	if err := cmp.Or(d.err, d.missing); err != nil {
		return nil, err
	}
	return s, nil
}

// printable drops characters that would break a message into lines.
func printable(r rune) rune {
	if unicode.IsControl(r) {
		return -1
	}
	return r
}

// Image returns the image of that name.
func (s *Spec) Image(name string) (*Image, error) {
	var names []string
	for i := range s.Images {
		if s.Images[i].Name == name {
			return &s.Images[i], nil
		}
		names = append(names, s.Images[i].Name)
	}

	hint := ""
	// Two edits would turn amd64 into arm64, which nobody misspells.
	if meant := suggest.Closest(name, names, 1); meant != "" {
		hint = fmt.Sprintf("; did you mean %q?", meant)
	}
	return nil, fmt.Errorf("cannot find image %q in %s: it has %s%s", name, s.Path, strings.Join(names, ", "), hint)
}

// image reads [image.NAME].
func (d *decoder) image(name string, t *table) Image {
	if !namePattern.MatchString(name) {
		d.fail(t.key, "image name %q is not usable in file names; use lower-case letters, digits and '-'", name)
	}

	img := Image{
		Name:         name,
		Architecture: t.text("architecture"),
		Suite:        t.text("suite"),
		Version:      t.text("version"),
		Mirror:       t.optionalText("mirror"),
	}
	if _, err := arch.LookupBakeable(img.Architecture); img.Architecture != "" && err != nil {
		d.fail(t.sub("architecture"), "%v", err)
	}
	if img.Suite != "" && img.Suite != "trixie" {
		d.fail(t.sub("suite"), "suite %q is not supported; use \"trixie\" (Debian 13)", img.Suite)
	}
	if err := release.CheckVersion(img.Version); img.Version != "" && err != nil {
		d.fail(t.sub("version"), "%v", err)
	}
	if img.Mirror != "" && !urlPattern.MatchString(img.Mirror) {
		d.fail(t.sub("mirror"), "mirror %q is not an http or https URL; leave it out to use this host's own", img.Mirror)
	}

	img.Host, img.Guest = d.tree(t.child("host")), d.tree(t.child("guest"))
	img.Runner, img.Disk = d.component(t.child("runner")), d.disk(t.child("disk"))
	img.Update = d.update(t.optionalChild("update"), img.Version)
	t.end()
	return img
}

// tree reads [image.NAME.host] or [image.NAME.guest].
func (d *decoder) tree(t *table) Tree {
	tree := Tree{
		Packages:     t.list("packages"),
		Overlays:     t.optionalList("overlays"),
		ExcludePaths: t.optionalList("exclude-paths"),
	}

	for i, name := range tree.Packages {
		key := fmt.Sprintf("%s[%d]", t.sub("packages"), i)
		if !packagePattern.MatchString(name) {
			d.fail(key, "%q is not a Debian package name; use lower-case letters, digits and '+-.'", name)
		}
		if slices.Contains(tree.Packages[:i], name) {
			d.fail(key, "package %q is listed twice; remove one", name)
		}
	}

	for i, dir := range tree.Overlays {
		tree.Overlays[i] = d.resolve(dir)
		if info, err := os.Stat(tree.Overlays[i]); err != nil || !info.IsDir() {
			d.fail(fmt.Sprintf("%s[%d]", t.sub("overlays"), i),
				"overlay %q is not a directory beside this file; create it or correct the path", dir)
		}
	}

	for i, glob := range tree.ExcludePaths {
		key := fmt.Sprintf("%s[%d]", t.sub("exclude-paths"), i)
		if !strings.HasPrefix(glob, "/") {
			d.fail(key, "exclude path %q is not absolute; begin it with '/'", glob)
		}
		if strings.ContainsFunc(glob, unicode.IsControl) {
			d.fail(key, "exclude path %q holds a control character; remove it", glob)
		}
	}

	t.end()
	return tree
}

// component reads [image.NAME.runner].
func (d *decoder) component(t *table) Component {
	c := Component{
		Version: t.text("version"),
		URL:     t.optionalText("url"),
		Path:    t.optionalText("path"),
		SHA256:  t.text("sha256"),
	}
	t.end()

	if t.present && (c.URL == "") == (c.Path == "") {
		d.fail(t.key, "the runner needs exactly one of url and path; remove one or add one")
	}
	if c.Version != "" && !runnerVersionPattern.MatchString(c.Version) {
		d.fail(t.sub("version"), "version %q does not begin with a digit or has characters other than "+
			"letters, digits and '.+~-'; use one like \"2.337.0\"", c.Version)
	}
	if c.URL != "" && !urlPattern.MatchString(c.URL) {
		d.fail(t.sub("url"), "url %q is not an http or https URL; use path for a local file", c.URL)
	}
	if c.SHA256 != "" && !sha256Pattern.MatchString(c.SHA256) {
		d.fail(t.sub("sha256"), "sha256 %q is not 64 lower-case hex digits; copy it from the release page", c.SHA256)
	}

	if c.Path != "" {
		c.Path = d.resolve(c.Path)
	}
	return c
}

// Smallest sizes that can work, in bytes.
const (
	mebibyte = int64(1) << 20
	// fat32Minimum is the size of the smallest FAT32, of 65525 clusters.
	fat32Minimum = 64 * mebibyte
)

// disk reads [image.NAME.disk].
func (d *decoder) disk(t *table) Disk {
	disk := Disk{
		ESP:             t.size("esp"),
		Root:            t.size("root"),
		Verity:          t.size("verity"),
		Var:             t.size("var"),
		Compression:     t.text("compression"),
		KernelArguments: t.optionalList("kernel-arguments"),
	}

	if disk.ESP != 0 && disk.ESP < fat32Minimum {
		d.fail(t.sub("esp"), "esp is too small for FAT32 and two versions; use at least \"%dM\"", fat32Minimum/mebibyte)
	}
	// A hash tree of 32-byte hashes over 4 KiB blocks needs 1/128 of the data, and
	// little more for its upper levels.
	if need := disk.Root/127 + mebibyte; disk.Verity != 0 && disk.Verity < need {
		d.fail(t.sub("verity"), "verity is too small for the hash tree of root; use at least \"%dM\"", need/mebibyte+1)
	}
	if disk.Var != 0 && disk.Var < 32*mebibyte {
		d.fail(t.sub("var"), "var is too small; use at least \"32M\"")
	}

	if disk.Compression != "" && !compressionPattern.MatchString(disk.Compression) {
		d.fail(t.sub("compression"), "compression %q is unknown; "+
			"use \"none\", \"lz4\", \"lz4hc,LEVEL\" or \"zstd,LEVEL\"", disk.Compression)
	}
	for i, argument := range disk.KernelArguments {
		if argument == "" || strings.ContainsFunc(argument, isSpaceOrControl) {
			d.fail(fmt.Sprintf("%s[%d]", t.sub("kernel-arguments"), i),
				"kernel argument %q is not one word; list each on its own", argument)
		}
	}
	t.end()
	return disk
}

func isSpaceOrControl(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }

// resolve returns a path of images.toml relative to the working directory.
func (d *decoder) resolve(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(d.path), path)
}
