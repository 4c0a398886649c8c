package release

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Schema is the schema of manifests and indexes that this program knows.
const Schema = 1

// Largest files that this package decodes, in bytes. Read no more of a file that
// nothing has verified yet.
const (
	MaxManifest  = 64 << 10
	MaxIndex     = 1 << 20
	MaxSignature = 4 << 10
)

// IndexName is the file name of a channel's index.
const IndexName = "index.json"

// SignatureSuffix is added to the name of a file for that of its signature.
const SignatureSuffix = ".minisig"

// ManifestName returns the file name of a version's manifest.
func ManifestName(image, version string) string { return image + "_" + version + ".manifest.json" }

// Severity is how urgent an upgrade is.
type Severity string

// The severities, in their order.
const (
	Low      Severity = "low"
	Medium   Severity = "medium"
	High     Severity = "high"
	Critical Severity = "critical"
)

// Severities returns the severities, the least urgent first.
func Severities() []Severity { return []Severity{Low, Medium, High, Critical} }

// Manifest describes the update set of one version.
type Manifest struct {
	Schema       int      `json:"schema"`
	Image        string   `json:"image"`        // name of the image, IMAGE_ID of os-release(5)
	Version      string   `json:"version"`      // of the image, IMAGE_VERSION of os-release(5)
	Architecture string   `json:"architecture"` // as dpkg names it
	Channel      string   `json:"channel"`      // for whom it is, as "stable"
	Severity     Severity `json:"severity"`

	// MinVersion is the oldest version that can upgrade to this one directly;
	// empty if each can.
	MinVersion string `json:"min_version"`
	// RollbackFloor is the oldest version that an appliance may still upgrade to
	// on request once this version has booted well; empty if each is allowed.
	RollbackFloor string `json:"rollback_floor"`
	// MinAgent is the oldest runner-agent that can install this version; empty if
	// each can.
	MinAgent string `json:"min_agent"`
	// Delta allows to take blocks from the slots of the appliance. Without it all
	// of the image is downloaded.
	Delta bool `json:"delta"`

	Verity Verity `json:"verity"`
	Files  Files  `json:"files"`
}

// Files are the files of an update set.
type Files struct {
	Root   File `json:"root"`   // root file system, EROFS
	Verity File `json:"verity"` // its dm-verity hash tree
	UKI    File `json:"uki"`    // unified kernel image
}

// File is one file of an update set.
type File struct {
	Name   string `json:"name"`   // in the directory of the manifest
	Size   int64  `json:"size"`   // bytes
	SHA256 string `json:"sha256"` // in lower-case hex
}

// NewFiles returns the files of a version with their names, which follow from
// image and version, and without sizes and hashes.
func NewFiles(image, version string) Files {
	prefix := image + "_" + version
	return Files{
		Root:   File{Name: prefix + ".root"},
		Verity: File{Name: prefix + ".verity"},
		UKI:    File{Name: prefix + ".efi"},
	}
}

// Role is a file with its purpose in an update set.
type Role struct {
	Name string // "root", "verity" or "uki"
	File File
}

// Roles returns the files in the order in which an appliance installs them.
func (f Files) Roles() []Role { return []Role{{"root", f.Root}, {"verity", f.Verity}, {"uki", f.UKI}} }

// DecodeManifest reads a manifest in the one form in which Encode writes it: a
// field that is missing, unknown, repeated or otherwise spelled is an error, for
// it may be a condition of the publisher. Errors begin with the name of the file.
//
// The content is to be trusted only after Verify. Even then each value is within
// bounds that make it safe to use in names and sums.
func DecodeManifest(name string, data []byte) (*Manifest, error) {
	var m Manifest
	if err := decode(data, MaxManifest, &m); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if err := m.Check(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &m, nil
}

// Encode returns the content of the manifest's file.
func (m *Manifest) Encode() ([]byte, error) { return encode(m) }

// decode reads JSON in the form in which encode writes it.
func decode(data []byte, limit int, v any) error {
	if len(data) > limit {
		return fmt.Errorf("more than %d KiB", limit>>10)
	}
	// The schema first: one that is newer has fields that are unknown.
	var head struct {
		Schema int `json:"schema"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return fmt.Errorf("not JSON of ours: %w", err)
	}
	if head.Schema != Schema {
		return fmt.Errorf("schema %d is unknown to this program, which knows %d", head.Schema, Schema)
	}

	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("cannot decode: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	canonical, err := encode(v)
	if err != nil {
		return err
	}
	if !bytes.Equal(data, canonical) {
		return fmt.Errorf("line %d: a field is missing, repeated, or not in the form in which mkappliance writes it",
			firstDifference(data, canonical))
	}
	return nil
}

func encode(v any) ([]byte, error) {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("cannot encode: %w", err)
	}
	return out.Bytes(), nil
}

// firstDifference returns the number of the first line in which a and b differ.
func firstDifference(a, b []byte) int {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return 1 + bytes.Count(a[:n], []byte{'\n'})
}

var (
	imagePattern   = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`)
	channelPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)
	agentPattern   = regexp.MustCompile(`^[0-9][0-9A-Za-z.~^+-]{0,63}$`)
	hashPattern    = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// Largest files of an update set, in bytes: beyond any slot, and far from where
// sums overflow.
const (
	maxRoot = int64(1) << 40
	maxUKI  = int64(4) << 30
)

// Check returns an error that begins with the name of a field if a value is
// outside of its bounds, or does not fit the others.
func (m *Manifest) Check() error {
	if err := checkRelease(m.Image, m.Version, m.Channel, m.Severity); err != nil {
		return err
	}
	if !imagePattern.MatchString(m.Architecture) {
		return fmt.Errorf("architecture: %.80q is not a name", m.Architecture)
	}
	if err := checkOlder("min_version", m.MinVersion, m.Version); err != nil {
		return err
	}
	if err := checkOlder("rollback_floor", m.RollbackFloor, m.Version); err != nil {
		return err
	}
	if m.MinAgent != "" {
		if err := CheckAgent(m.MinAgent); err != nil {
			return fmt.Errorf("min_agent: %w", err)
		}
	}

	if err := m.checkFiles(); err != nil {
		return err
	}
	return m.Verity.check(m.Files)
}

// checkRelease checks what a manifest and an entry of an index have in common.
func checkRelease(image, version, channel string, severity Severity) error {
	if !imagePattern.MatchString(image) {
		return fmt.Errorf("image: %.80q is not a name", image)
	}
	if err := CheckVersion(version); err != nil {
		return fmt.Errorf("version: %w", err)
	}
	if err := CheckChannel(channel); err != nil {
		return fmt.Errorf("channel: %w", err)
	}
	if err := severity.Check(); err != nil {
		return fmt.Errorf("severity: %w", err)
	}
	return nil
}

// CheckChannel returns an error if the text cannot name a channel.
func CheckChannel(channel string) error {
	if !channelPattern.MatchString(channel) {
		return fmt.Errorf("%.80q is not a name; use lower-case letters, digits and '-', as \"stable\"", channel)
	}
	return nil
}

// CheckAgent returns an error if the text is not a version of runner-agent.
func CheckAgent(version string) error {
	if !agentPattern.MatchString(version) {
		return fmt.Errorf("%.80q is not a version; use one like \"1.4.0\"", version)
	}
	return nil
}

// Check returns an error if s is not a severity.
func (s Severity) Check() error {
	if !slices.Contains(Severities(), s) {
		return fmt.Errorf("%.80q is unknown; use low, medium, high or critical", s)
	}
	return nil
}

// checkOlder checks an optional version that must not be newer than another.
func checkOlder(field, version, than string) error {
	if version == "" {
		return nil
	}
	if err := CheckVersion(version); err != nil {
		return fmt.Errorf("%s: %w", field, err)
	}
	if Compare(version, than) > 0 {
		return fmt.Errorf("%s: %s is newer than version %s itself", field, version, than)
	}
	return nil
}

func (m *Manifest) checkFiles() error {
	want := NewFiles(m.Image, m.Version).Roles()
	for i, r := range m.Files.Roles() {
		field := "files." + r.Name
		if r.File.Name != want[i].File.Name {
			return fmt.Errorf("%s.name: %.80q is not the name that follows from image and version, %q",
				field, r.File.Name, want[i].File.Name)
		}
		if !hashPattern.MatchString(r.File.SHA256) {
			return fmt.Errorf("%s.sha256: %.80q is not 64 lower-case hex digits", field, r.File.SHA256)
		}
		limit := maxRoot
		if r.Name == "uki" {
			limit = maxUKI
		}
		if r.File.Size <= 0 || r.File.Size > limit {
			return fmt.Errorf("%s.size: %d is not from 1 to %d", field, r.File.Size, limit)
		}
	}
	return nil
}

// BlockSize is the size of data and hash blocks of every hash tree, in bytes.
const BlockSize = 4096

// HashSize is the size of a hash in a hash tree, SHA-256, in bytes.
const HashSize = 32

// VeritySalt is the salt of every image's hash tree, in hex: the SHA-256 of
// "mkappliance verity salt 1". It is the same in all images, so that the leaves of
// two trees are equal where the blocks are.
const VeritySalt = "ac2fec0a7217325d764921b9a8106c1b147df5af7dc90afb1bbda1a10d83133a"

// Verity describes the dm-verity hash tree of a root file system: format 1, with
// a superblock (https://docs.kernel.org/admin-guide/device-mapper/verity.html).
// Its leaves are the SHA-256 of salt and data block.
type Verity struct {
	RootHash   string `json:"root_hash"`   // in lower-case hex
	Salt       string `json:"salt"`        // in lower-case hex, 32 bytes
	DataBlocks int64  `json:"data_blocks"` // of the root file system, each of BlockSize
	HashBlocks int64  `json:"hash_blocks"` // of the file, with the superblock, each of BlockSize
}

// NewVerity returns the description of a hash tree over a root file system of a
// size in bytes, which must be a multiple of BlockSize.
func NewVerity(rootHash, salt string, size int64) Verity {
	const perBlock = BlockSize / HashSize
	v := Verity{RootHash: rootHash, Salt: salt, DataBlocks: size / BlockSize}
	v.HashBlocks = 1 // superblock
	for n := v.DataBlocks; ; {
		n = (n + perBlock - 1) / perBlock
		v.HashBlocks += n
		if n <= 1 {
			return v
		}
	}
}

func (v Verity) check(files Files) error {
	if !hashPattern.MatchString(v.RootHash) {
		return fmt.Errorf("verity.root_hash: %.80q is not 64 lower-case hex digits", v.RootHash)
	}
	if !hashPattern.MatchString(v.Salt) {
		return fmt.Errorf("verity.salt: %.80q is not 64 lower-case hex digits", v.Salt)
	}
	if files.Root.Size%BlockSize != 0 {
		return errors.New("files.root.size: not a whole number of blocks")
	}
	want := NewVerity(v.RootHash, v.Salt, files.Root.Size)
	if v != want {
		return fmt.Errorf("verity: %d data blocks and %d hash blocks do not fit the root file system, which needs %d and %d",
			v.DataBlocks, v.HashBlocks, want.DataBlocks, want.HashBlocks)
	}
	if files.Verity.Size != v.HashBlocks*BlockSize {
		return fmt.Errorf("files.verity.size: %d is not that of %d hash blocks", files.Verity.Size, v.HashBlocks)
	}
	return nil
}
