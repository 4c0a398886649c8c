// Package cloudinit makes NoCloud seeds: small disks from which cloud-init takes
// an appliance's configuration at first boot.
package cloudinit

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/textproto"
	"os"
	"path/filepath"
	"regexp"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/iso9660"

	"github.com/mkappliance/mkappliance/internal/atomicfile"
)

// ConfigPath is the file to which cloud-init writes config.env.
const ConfigPath = "/etc/runner/config.env"

// Seed is the content of a seed.
type Seed struct {
	ConfigEnv []byte // content of config.env, a secret
	UserData  []byte // the operator's own user-data; nil for none
	Hostname  string // of the machine; empty keeps the image's
	// InstanceID names the instance to cloud-init, which applies a seed once for
	// each id. Empty derives it from the content, so that a changed seed is
	// applied again.
	InstanceID string
}

// Check returns an error if cloud-init could not use the names in s.
func (s Seed) Check() error {
	if s.Hostname != "" && !hostnamePattern.MatchString(s.Hostname) {
		return fmt.Errorf("cannot use host name %q: "+
			"want letters, digits and dashes, in parts of up to 63 that dots may join", s.Hostname)
	}
	if s.InstanceID != "" && !instanceIDPattern.MatchString(s.InstanceID) {
		return fmt.Errorf("cannot use instance id %q: want letters, digits, dots, dashes and underscores", s.InstanceID)
	}
	return nil
}

// hostnameLabel is a part of a host name, RFC 1123 section 2.1.
const hostnameLabel = `[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?`

var (
	hostnamePattern   = regexp.MustCompile(`^` + hostnameLabel + `(\.` + hostnameLabel + `)*$`)
	instanceIDPattern = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)
)

// volumeLabel is the label by which cloud-init's NoCloud source finds a seed.
const volumeLabel = "CIDATA"

// Write writes the seed to path as an ISO 9660 image that only its owner can
// read, since it holds the registration token. The image holds the time, so two
// seeds of one content differ.
func (s Seed) Write(path string) error {
	if err := s.Check(); err != nil {
		return fmt.Errorf("cannot make seed: %w", err)
	}
	files, err := s.files()
	if err != nil {
		return fmt.Errorf("cannot make seed: %w", err)
	}

	out, err := atomicfile.Create(path, 0o600)
	if err != nil {
		return err
	}
	defer out.Abandon()
	if err := writeISO(out.File, files); err != nil {
		return fmt.Errorf("cannot make seed: %w", err)
	}
	return out.Commit()
}

// files returns the files of the seed by name, as the NoCloud data source reads
// them.
func (s Seed) files() (map[string][]byte, error) {
	userData, err := s.userData()
	if err != nil {
		return nil, err
	}

	id := s.InstanceID
	if id == "" {
		sum := sha256.Sum256(append(bytes.Clone(userData), s.Hostname...))
		id = "iid-" + hex.EncodeToString(sum[:8])
	}

	meta := "instance-id: " + id + "\n"
	if s.Hostname != "" {
		meta += "local-hostname: " + s.Hostname + "\n"
	}
	return map[string][]byte{"user-data": userData, "meta-data": []byte(meta)}, nil
}

// ownPart returns the cloud-config that writes config.env. It asks cloud-init to
// append its list of files to the operator's instead of replacing that ("Merging
// user-data sections" in cloud-init's documentation).
func (s Seed) ownPart() []byte {
	return fmt.Appendf(nil, `#cloud-config
merge_how:
  - name: list
    settings: [append]
  - name: dict
    settings: [no_replace, recurse_list]
write_files:
  - path: %s
    owner: root:root
    permissions: '0600'
    encoding: b64
    content: %s
`, ConfigPath, base64.StdEncoding.EncodeToString(s.ConfigEnv))
}

// userData joins the operator's user-data and ours, as MIME parts if there are
// two ("MIME multi-part archive" in cloud-init's documentation).
func (s Seed) userData() ([]byte, error) {
	if s.UserData == nil {
		return s.ownPart(), nil
	}
	kind := contentType(s.UserData)
	if kind == "" {
		return nil, errors.New("user-data has none of cloud-init's headers")
	}

	// A random boundary would make another instance id of the same content.
	var body bytes.Buffer
	w := multipart.NewWriter(&body)
	sum := sha256.Sum256(append(bytes.Clone(s.UserData), s.ConfigEnv...))
	if err := w.SetBoundary("mkappliance-" + hex.EncodeToString(sum[:8])); err != nil {
		return nil, err
	}

	// The way of merging that the last part asks for is the one in force.
	if err := writePart(w, "user-data", kind, s.UserData); err != nil {
		return nil, err
	}
	if err := writePart(w, "config.env", cloudConfig, s.ownPart()); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}

	head := fmt.Sprintf("Content-Type: multipart/mixed; boundary=%q\nMIME-Version: 1.0\n\n", w.Boundary())
	return append([]byte(head), body.Bytes()...), nil
}

// writePart writes one part of a type that cloud-init knows, such as
// "text/cloud-config".
func writePart(w *multipart.Writer, name, kind string, content []byte) error {
	header := textproto.MIMEHeader{}
	header.Set("Content-Type", kind+`; charset="utf-8"`)
	// Not "8bit": cloud-init reads the message as ASCII text, and drops a part
	// that holds other characters.
	header.Set("Content-Transfer-Encoding", "base64")
	header.Set("Content-Disposition", fmt.Sprintf("attachment; filename=%q", name))

	part, err := w.CreatePart(header)
	if err != nil {
		return err
	}
	_, err = io.WriteString(part, base64.StdEncoding.EncodeToString(content))
	return err
}

// writeISO writes files to the top directory of an ISO 9660 image.
func writeISO(out *os.File, files map[string][]byte) error {
	// The library takes the files from a directory. MkdirTemp makes one that only
	// we can read.
	workspace, err := os.MkdirTemp("", "mkappliance-seed-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(workspace)

	// The size is fixed before the content is written: each file takes whole
	// blocks, and a MiB is more than the directories need.
	const blockSize, directories = 2048, 1 << 20
	size := int64(directories)
	for _, content := range files {
		size += (int64(len(content)) + blockSize - 1) / blockSize * blockSize
	}
	if err := out.Truncate(size); err != nil {
		return err
	}

	fs, err := iso9660.Create(file.New(out, false), size, 0, blockSize, workspace)
	if err != nil {
		return err
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(workspace, name), content, 0o600); err != nil {
			return err
		}
	}
	return fs.Finalize(iso9660.FinalizeOptions{RockRidge: true, Joliet: true, VolumeIdentifier: volumeLabel})
}
