package release

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Index lists the versions of a channel's directory.
type Index struct {
	Schema int `json:"schema"`
	// Time is when the index was written, to the second. It is to be shown, not
	// to be trusted: an appliance that has no network may have a wrong clock.
	Time time.Time `json:"time"`
	// Releases are sorted by image, then the newest version first. No two are
	// equally new.
	Releases []Entry `json:"releases"`
}

// Entry is a version in an index. Its manifest is what counts; the entry lets an
// appliance choose without reading each.
type Entry struct {
	Image      string   `json:"image"`
	Version    string   `json:"version"`
	Channel    string   `json:"channel"`
	Severity   Severity `json:"severity"`
	MinVersion string   `json:"min_version"` // as in the manifest
	Manifest   string   `json:"manifest"`    // file name
	SHA256     string   `json:"sha256"`      // of the manifest, in lower-case hex
	// Base is the URL of the directory with the files of the version, ending in
	// '/'; empty if it is that of the index.
	Base string `json:"base"`
}

// maxReleases is the largest number of entries in an index.
const maxReleases = 1000

// DecodeIndex reads an index in the one form in which Encode writes it, as
// DecodeManifest does for manifests. Errors begin with "index.json: ".
func DecodeIndex(data []byte) (*Index, error) {
	var x Index
	if err := decode(data, MaxIndex, &x); err != nil {
		return nil, fmt.Errorf("%s: %w", IndexName, err)
	}
	if err := x.Check(); err != nil {
		return nil, fmt.Errorf("%s: %w", IndexName, err)
	}
	return &x, nil
}

// Encode returns the content of the index's file.
func (x *Index) Encode() ([]byte, error) { return encode(x) }

// Check returns an error that begins with the name of a field if a value is
// outside of its bounds, or the entries are not in their order.
func (x *Index) Check() error {
	if x.Time.Nanosecond() != 0 || x.Time.Location() != time.UTC {
		return errors.New("time: not a time in UTC to the second")
	}
	if x.Releases == nil {
		return errors.New("releases: missing")
	}
	if len(x.Releases) > maxReleases {
		return fmt.Errorf("releases: more than %d", maxReleases)
	}
	for i, e := range x.Releases {
		if err := e.check(); err != nil {
			return fmt.Errorf("releases[%d].%w", i, err)
		}
		if i > 0 && compareEntries(x.Releases[i-1], e) >= 0 {
			return fmt.Errorf("releases[%d]: %s %s is listed twice or out of order", i, e.Image, e.Version)
		}
	}
	return nil
}

func (e Entry) check() error {
	if err := checkRelease(e.Image, e.Version, e.Channel, e.Severity); err != nil {
		return err
	}
	if err := checkOlder("min_version", e.MinVersion, e.Version); err != nil {
		return err
	}
	if want := ManifestName(e.Image, e.Version); e.Manifest != want {
		return fmt.Errorf("manifest: %.80q is not the name that follows from image and version, %q", e.Manifest, want)
	}
	if !hashPattern.MatchString(e.SHA256) {
		return fmt.Errorf("sha256: %.80q is not 64 lower-case hex digits", e.SHA256)
	}
	if e.Base != "" {
		return CheckBase(e.Base)
	}
	return nil
}

// CheckBase returns an error if the text is not the URL of a directory, http or
// https, that file names can be added to.
func CheckBase(text string) error {
	u, err := url.Parse(text)
	if err != nil || len(text) > 1024 || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" ||
		u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || !strings.HasSuffix(text, "/") {
		return fmt.Errorf("base: %.80q is not the http or https URL of a directory, ending in '/'", text)
	}
	return nil
}

// compareEntries orders by image, then the newest version first.
func compareEntries(a, b Entry) int {
	return cmp.Or(strings.Compare(a.Image, b.Image), Compare(b.Version, a.Version))
}

// Find returns the entry of a version, or nil. Versions that are equally new are
// one.
func (x *Index) Find(image, version string) *Entry {
	i, found := slices.BinarySearchFunc(x.Releases, Entry{Image: image, Version: version}, compareEntries)
	if !found {
		return nil
	}
	return &x.Releases[i]
}

// Add puts an entry in its place. It replaces the one of an equally new version.
func (x *Index) Add(e Entry) {
	i, found := slices.BinarySearchFunc(x.Releases, e, compareEntries)
	if found {
		x.Releases[i] = e
		return
	}
	x.Releases = slices.Insert(x.Releases, i, e)
}

// NewEntry returns the entry of a manifest whose file has that SHA-256, in hex.
func NewEntry(m *Manifest, sha256 string) Entry {
	return Entry{Image: m.Image, Version: m.Version, Channel: m.Channel, Severity: m.Severity,
		MinVersion: m.MinVersion, Manifest: ManifestName(m.Image, m.Version), SHA256: sha256}
}

// CheckManifest returns an error if the manifest is not the one that the entry
// was made from, for its values. The hash is checked where the file is read.
func (e Entry) CheckManifest(m *Manifest) error {
	want := NewEntry(m, e.SHA256)
	want.Base = e.Base
	if e != want {
		return fmt.Errorf("%s: not the manifest that %s describes", e.Manifest, IndexName)
	}
	return nil
}
