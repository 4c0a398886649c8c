package rootfs

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// ownersFile, at the top of an overlay, sets owner and mode of single paths. It
// is not itself copied.
const ownersFile = ".owners"

// ownership is one line of an owners file.
type ownership struct {
	path     string // relative to the overlay
	mode     fs.FileMode
	uid, gid int
}

// mergeOverlay copies the overlay directory src over the tree dst. Files belong
// to root, with mode 0755 if they are executable in the overlay and 0644 if not.
// Directories have mode 0755, unless the tree has them already. Symbolic links
// are copied as they are. Lines "PATH MODE UID:GID" in the overlay's .owners file
// change owner and mode of single paths.
func mergeOverlay(dst, src string) error {
	owners, err := readOwners(filepath.Join(src, ownersFile))
	if err != nil {
		return err
	}

	// An os.Root confines every write to the tree, whatever links the tree holds.
	tree, err := os.OpenRoot(dst)
	if err != nil {
		return err
	}
	defer tree.Close()

	err = filepath.WalkDir(src, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(src, file)
		if err != nil || name == "." || name == ownersFile {
			return err
		}
		return mergeEntry(tree, name, file, entry)
	})
	if err != nil {
		return fmt.Errorf("overlay %s: %w", src, err)
	}

	// Only now does the tree have all paths.
	for _, o := range owners {
		if err := errors.Join(tree.Lchown(o.path, o.uid, o.gid), tree.Chmod(o.path, o.mode)); err != nil {
			return fmt.Errorf("overlay %s: %w", src, err)
		}
	}
	return nil
}

func mergeEntry(tree *os.Root, name, file string, entry fs.DirEntry) error {
	switch {
	case entry.IsDir():
		if err := tree.Mkdir(name, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return nil
	case entry.Type() == fs.ModeSymlink:
		target, err := os.Readlink(file)
		if err != nil {
			return err
		}
		if err := tree.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return tree.Symlink(target, name)
	case entry.Type().IsRegular():
		info, err := entry.Info()
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		if info.Mode()&0o100 != 0 {
			mode = 0o755
		}
		return copyInto(tree, name, file, mode)
	}
	return fmt.Errorf("%s is neither file, directory nor symbolic link", name)
}

// copyInto copies a file of the build host to name in the tree, and replaces the
// file that was there.
func copyInto(tree *os.Root, name, file string, mode fs.FileMode) error {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()

	// An existing file may be a link, or have other links.
	if err := tree.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	out, err := tree.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	// The umask may have taken bits away from what OpenFile was given.
	return errors.Join(err, out.Chmod(mode), out.Close())
}

// readOwners reads an owners file; a missing one is empty.
func readOwners(name string) ([]ownership, error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseOwners(name, f)
}

// parseOwners parses lines "PATH MODE UID:GID"; blank lines and lines that
// begin with # are skipped.
func parseOwners(name string, r io.Reader) ([]ownership, error) {
	var owners []ownership
	scanner := bufio.NewScanner(r)
	for line := 1; scanner.Scan(); line++ {
		text := strings.TrimSpace(scanner.Text())
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		o, err := parseOwnership(text)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, line, err)
		}
		owners = append(owners, o)
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", name, err)
	}
	return owners, nil
}

func parseOwnership(text string) (ownership, error) {
	fields := strings.Fields(text)
	if len(fields) != 3 {
		return ownership{}, fmt.Errorf("want 'PATH MODE UID:GID', found %q", text)
	}
	if !filepath.IsLocal(fields[0]) || path.Clean(fields[0]) != fields[0] {
		return ownership{}, fmt.Errorf("path %q is not inside the overlay;"+
			" write it relative to the overlay, without '..'", fields[0])
	}

	mode, err := strconv.ParseUint(fields[1], 8, 12)
	if err != nil {
		return ownership{}, fmt.Errorf("mode %q is not octal; write it like 0640", fields[1])
	}

	uid, gid, ok := strings.Cut(fields[2], ":")
	u, uidErr := strconv.ParseUint(uid, 10, 16)
	g, gidErr := strconv.ParseUint(gid, 10, 16)
	if !ok || uidErr != nil || gidErr != nil {
		return ownership{}, fmt.Errorf("owner %q is not UID:GID in numbers, as 0:900", fields[2])
	}
	return ownership{path: fields[0], mode: unixMode(uint32(mode)), uid: int(u), gid: int(g)}, nil
}

// unixMode converts the twelve permission bits of chmod(2) to Go's form.
func unixMode(bits uint32) fs.FileMode {
	mode := fs.FileMode(bits & 0o777)
	if bits&0o4000 != 0 {
		mode |= fs.ModeSetuid
	}
	if bits&0o2000 != 0 {
		mode |= fs.ModeSetgid
	}
	if bits&0o1000 != 0 {
		mode |= fs.ModeSticky
	}
	return mode
}
