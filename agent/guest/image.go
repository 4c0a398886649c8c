package guest

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// systemDirs are the directories that systemd-nspawn makes files and mounts in.
// It works as root of the host and outside the guest's root, so the kernel
// follows a link at the top of an image to the host.
func systemDirs() []string {
	return []string{"dev", "etc", "proc", "run", "sys", "tmp", "usr", "var"}
}

// checkRoot refuses a root of which one of the systemDirs is anything but a
// directory. One that does not exist is made by nspawn. Below them nothing is
// checked: nspawn mounts file systems of its own where it makes files.
func checkRoot(root string) error {
	dir, err := os.Open(root)
	if err != nil {
		return err
	}
	defer dir.Close()

	for _, name := range systemDirs() {
		var stat unix.Stat_t
		err := unix.Fstatat(int(dir.Fd()), name, &stat, unix.AT_SYMLINK_NOFOLLOW)
		switch {
		case err == unix.ENOENT:
		case err != nil:
			return fmt.Errorf("cannot check /%s of the image: %w", name, err)
		case stat.Mode&unix.S_IFMT != unix.S_IFDIR:
			return fmt.Errorf("/%s of the image is not a directory; guests start from images in which it is one", name)
		}
	}
	return nil
}
