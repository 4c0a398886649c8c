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

// identity is what the runner keeps of a registration, in its root directory.
type identity struct {
	dir   string
	owner *syscall.Credential // nil: the calling user
}

// identityFiles are the runner's files, in the order it writes them:
// .runner comes last. The last two replace their namesakes after GitHub moved
// the runner to another service.
var identityFiles = []string{".credentials_rsaparams", ".credentials", ".runner", ".credentials_migrated", ".runner_migrated"}

// required are the files without which there is no identity.
var required = identityFiles[:3]

// whole tells whether all files are there and none was cut short: the runner
// does not sync them, so after a power cut some may be empty.
func (id identity) whole() bool {
	for _, name := range required {
		data, _, err := readRegular(filepath.Join(id.dir, name))
		if err != nil || !json.Valid(withoutBOM(data)) {
			return false
		}
	}
	return true
}

// complete tells whether the identity is whole and is one that cfg asks for.
func (id identity) complete(cfg *config.Config) bool {
	data, _, err := readRegular(filepath.Join(id.dir, ".runner"))
	var settings struct{ AgentName, GitHubURL string }
	if err != nil || json.Unmarshal(withoutBOM(data), &settings) != nil || !id.whole() {
		return false
	}
	return settings.AgentName == cfg.Name && strings.EqualFold(strings.TrimRight(settings.GitHubURL, "/"), cfg.GitHubURL)
}

// fingerprint tells one registration from another; "" if there is none. GitHub
// gives each a new client id, which is in .credentials.
func (id identity) fingerprint() string {
	data, _, err := readRegular(filepath.Join(id.dir, ".credentials"))
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%x", sha256.Sum256(data))
}

// withoutBOM drops the byte order mark that the runner writes.
func withoutBOM(data []byte) []byte { return bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")) }

// save copies the files to dir, all of them or none.
func (id identity) save(dir string) error {
	tmp := dir + ".tmp"
	for _, d := range []string{tmp, dir} {
		if err := os.RemoveAll(d); err != nil {
			return err
		}
	}
	if err := os.Mkdir(tmp, 0o700); err != nil {
		return err
	}
	if err := copyFiles(id.dir, tmp, nil); err != nil {
		return err
	}
	if err := os.Rename(tmp, dir); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(dir))
}

// restore copies what save kept back, if there is anything. .runner comes back
// last of the three, as that is what makes the runner "configured".
func (id identity) restore(dir string) error {
	return copyFiles(dir, id.dir, id.owner)
}

func copyFiles(from, to string, owner *syscall.Credential) error {
	for _, name := range identityFiles {
		data, mode, err := readRegular(filepath.Join(from, name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		f, err := atomicfile.Create(filepath.Join(to, name), mode)
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
		if err := f.Commit(); err != nil {
			return err
		}
	}
	return nil
}

// readRegular reads a file of the runner's user. That user could put a link
// there, which root must not follow.
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

func (id identity) remove() error {
	for _, name := range identityFiles {
		if err := os.Remove(filepath.Join(id.dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("cannot remove the old identity: %w", err)
		}
	}
	return nil
}

// sync makes the files durable, so that the marker never outlives them.
func (id identity) sync() error {
	for _, name := range required {
		f, err := os.OpenFile(filepath.Join(id.dir, name), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
		if err != nil {
			return fmt.Errorf("cannot sync the identity: %w", err)
		}
		err = f.Sync()
		_ = f.Close()
		if err != nil {
			return fmt.Errorf("cannot sync the identity: %w", err)
		}
	}
	return atomicfile.SyncDir(id.dir)
}
