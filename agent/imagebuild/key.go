package imagebuild

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/agent/workroot"
)

// contextKey names a Dockerfile and everything in its directory by content:
// names, permissions and bytes.
func contextKey(workRoot workroot.Root, dir, dockerfile string) (string, error) {
	name, beneath := workRoot.Name(dir)
	if !beneath {
		return "", errors.New("it does not lie beneath the work root")
	}
	root, err := workRoot.OpenRoot(name)
	if err != nil {
		return "", err
	}
	defer root.Close()

	if info, err := root.Lstat(dockerfile); err != nil || !info.Mode().IsRegular() {
		return "", errors.New("there is no such file")
	}

	sum := sha256.New()
	fmt.Fprintf(sum, "%q\n", dockerfile)
	if err := fs.WalkDir(root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return hashEntry(sum, root, name)
	}); err != nil {
		return "", fmt.Errorf("cannot read its directory: %w", err)
	}
	return "dockerfile " + hex.EncodeToString(sum.Sum(nil)), nil
}

// hashEntry hashes one entry. It follows no link and waits for no FIFO, since a
// job chose what is there.
func hashEntry(sum io.Writer, root *os.Root, name string) error {
	info, err := root.Lstat(name)
	if err != nil {
		return err
	}
	fmt.Fprintf(sum, "%q %v %d\n", name, info.Mode(), info.Size())

	switch info.Mode().Type() {
	case fs.ModeSymlink:
		target, err := root.Readlink(name)
		fmt.Fprintf(sum, "%q\n", target)
		return err
	case 0: // a regular file
		f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		defer f.Close()

		_, err = io.Copy(sum, f)
		return err
	}
	return nil
}
