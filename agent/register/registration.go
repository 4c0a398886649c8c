package register

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/mkappliance/mkappliance/agent/config"
	"github.com/mkappliance/mkappliance/internal/atomicfile"
)

// registration is a registration as the actions runner keeps it: files in its
// root directory.
type registration struct {
	dir   string
	owner *syscall.Credential // of files that restore writes; nil: the calling user
}

// files are the files of a registration, in the order in which the actions
// runner writes them: .runner comes last. The last two replace their namesakes
// after GitHub has moved the runner to another service.
var files = []string{
	".credentials_rsaparams", ".credentials", ".runner",
	".credentials_migrated", ".runner_migrated",
}

// required are the files without which there is no registration.
var required = files[:3]

// isReadable reports whether all required files are there and none was cut
// short: the actions runner does not sync them, so after a power cut some may
// be empty.
func (r registration) isReadable() bool {
	for _, name := range required {
		data, _, err := readRegular(filepath.Join(r.dir, name))
		if err != nil || !json.Valid(withoutBOM(data)) {
			return false
		}
	}
	return true
}

// matches reports whether the registration is readable and is the one that cfg
// asks for.
func (r registration) matches(cfg *config.Config) bool {
	data, _, err := readRegular(filepath.Join(r.dir, ".runner"))
	var settings struct{ AgentName, GitHubURL string }
	if err != nil || json.Unmarshal(withoutBOM(data), &settings) != nil || !r.isReadable() {
		return false
	}
	return settings.AgentName == cfg.Name &&
		strings.EqualFold(strings.TrimRight(settings.GitHubURL, "/"), cfg.GitHubURL)
}

// fingerprint returns a hash that differs between two registrations, or "" if
// there is none: GitHub assigns each a new client id, which is in .credentials.
func (r registration) fingerprint() string {
	data, _, err := readRegular(filepath.Join(r.dir, ".credentials"))
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%x", sha256.Sum256(data))
}

// withoutBOM drops the byte order mark that the runner writes.
func withoutBOM(data []byte) []byte { return bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")) }

// save copies the files to dir, all of them or none.
func (r registration) save(dir string) error {
	tmp := dir + ".tmp"
	for _, d := range []string{tmp, dir} {
		if err := os.RemoveAll(d); err != nil {
			return err
		}
	}
	if err := os.Mkdir(tmp, 0o700); err != nil {
		return err
	}
	if err := copyFiles(r.dir, tmp, nil); err != nil {
		return err
	}

	if err := os.Rename(tmp, dir); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(dir))
}

// restore copies the files that save has left in dir back, if there are any.
// .runner is the last required file: with it the actions runner counts as
// configured.
func (r registration) restore(dir string) error { return copyFiles(dir, r.dir, r.owner) }

// copyFiles copies the files of a registration that are in from.
func copyFiles(from, to string, owner *syscall.Credential) error {
	for _, name := range files {
		if err := copyFile(filepath.Join(from, name), filepath.Join(to, name), owner); err != nil {
			return err
		}
	}
	return nil
}

// copyFile copies a file with its mode. It does nothing if there is no such
// file.
func copyFile(from, to string, owner *syscall.Credential) error {
	data, mode, err := readRegular(from)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}

	f, err := atomicfile.Create(to, mode)
	if err != nil {
		return err
	}
	defer f.Abandon()
	if owner != nil {
		if err := f.Chown(int(owner.Uid), int(owner.Gid)); err != nil {
			return err
		}
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Commit()
}

// readRegular returns content and permissions of a file of the runner's user.
// That user could put a link there, which root must not follow.
func readRegular(path string) ([]byte, fs.FileMode, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()

	st, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	if !st.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%s is not a regular file", path)
	}

	data := make([]byte, st.Size())
	n, err := f.ReadAt(data, 0)
	if n == len(data) {
		err = nil
	}
	return data, st.Mode().Perm(), err
}

// remove removes the files.
func (r registration) remove() error {
	for _, name := range files {
		if err := os.Remove(filepath.Join(r.dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("cannot remove the old registration: %w", err)
		}
	}
	return nil
}

// sync makes the files durable, so that the marker never outlives them.
func (r registration) sync() error {
	for _, name := range required {
		f, err := os.OpenFile(filepath.Join(r.dir, name), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
		if err != nil {
			return fmt.Errorf("cannot sync the registration: %w", err)
		}
		err = f.Sync()
		_ = f.Close()
		if err != nil {
			return fmt.Errorf("cannot sync the registration: %w", err)
		}
	}
	return atomicfile.SyncDir(r.dir)
}
