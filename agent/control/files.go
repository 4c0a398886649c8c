package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/mkappliance/mkappliance/internal/atomicfile"
)

// SaveStatus writes the status that LoadStatus returns, in dir.
func SaveStatus(dir string, s Status) error {
	data, err := json.Marshal(s)
	if err == nil {
		err = atomicfile.Write(filepath.Join(dir, statusName), append(data, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("cannot save status: %w", err)
	}
	return nil
}

// LoadStatus returns the status that the service saved last since the machine
// started, and the zero Status if there is none.
//
// Root reads that file, and user runner writes it: a link, a pipe or a file of
// any size must not matter.
func LoadStatus(dir string) (Status, error) {
	data, err := readRegular(filepath.Join(dir, statusName))
	if errors.Is(err, fs.ErrNotExist) {
		return Status{}, nil
	}
	var s Status
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	if err != nil {
		return Status{}, fmt.Errorf("cannot read status: %w", err)
	}
	return s, nil
}

// readRegular returns the first maxAnswer bytes of a regular file.
func readRegular(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	return io.ReadAll(io.LimitReader(f, maxAnswer))
}
