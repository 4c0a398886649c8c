package guestinit

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// fill copies what is in a directory of the guest's image into a volume that is to
// cover it, unless the volume has something in it already, as Docker does.
func fill(volume, dir string) error {
	entries, err := os.ReadDir(volume)
	if err != nil || len(entries) > 0 {
		return err
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil { // as mount(2) does
		return err
	}
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if name == "." {
			return fillRoot(volume, info)
		}
		return copyEntry(path, filepath.Join(volume, name), info)
	})
}

// fillRoot has the volume look like the directory that it covers. It belongs to the
// container's user already, who can then write to it where only root could before.
func fillRoot(volume string, info fs.FileInfo) error {
	if owner := info.Sys().(*syscall.Stat_t); owner.Uid != 0 {
		if err := os.Lchown(volume, int(owner.Uid), int(owner.Gid)); err != nil {
			return err
		}
	}
	return os.Chmod(volume, chmodBits(info))
}

// copyEntry copies a file, a link or a directory without what is in it. Sockets and
// devices are left out.
func copyEntry(from, to string, info fs.FileInfo) error {
	switch info.Mode().Type() {
	case 0:
		if err := copyFile(from, to); err != nil {
			return err
		}
	case fs.ModeDir:
		if err := os.Mkdir(to, 0o700); err != nil {
			return err
		}
	case fs.ModeSymlink:
		link, err := os.Readlink(from)
		if err != nil {
			return err
		}
		if err := os.Symlink(link, to); err != nil {
			return err
		}
	case fs.ModeNamedPipe:
		if err := unix.Mkfifo(to, 0o600); err != nil {
			return err
		}
	default:
		return nil
	}

	owner := info.Sys().(*syscall.Stat_t)
	if err := os.Lchown(to, int(owner.Uid), int(owner.Gid)); err != nil {
		return err
	}
	if info.Mode().Type() == fs.ModeSymlink {
		return nil
	}
	// The owner comes first: changing it takes set-user-ID bits away.
	if err := os.Chmod(to, chmodBits(info)); err != nil {
		return err
	}
	return os.Chtimes(to, info.ModTime(), info.ModTime())
}

func copyFile(from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	return errors.Join(err, target.Close())
}

// chmodBits returns what os.Chmod takes of a mode.
func chmodBits(info fs.FileInfo) fs.FileMode {
	return info.Mode() & (fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky)
}
