package disk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// StickLabel is the label of a file system with a channel, as of a USB stick, or
// the name of its GPT partition.
const StickLabel = "RUNNER_UPDATE"

// shortStickLabel stands for StickLabel where that does not fit: the labels of FAT
// and exFAT have 11 characters.
const shortStickLabel = "RUNNER_UPD"

// stickLinks returns the names that udev may give to a stick's device, in the order
// in which they are tried.
func stickLinks() []string {
	return []string{"by-label/" + StickLabel, "by-label/" + shortStickLabel, "by-partlabel/" + StickLabel}
}

// stickTypes are the file systems that a stick may have, each with the options that
// it is mounted with beside "ro". Recovery would write.
var stickTypes = map[string][]string{"vfat": nil, "exfat": nil, "iso9660": nil, "ext4": {"noload"}}

// Stick is the file system of a stick, mounted for this process alone.
type Stick struct {
	Device string // as "/dev/sdb1"
	mount  *os.File
}

// OpenStick mounts the file system of the stick that is plugged in, or returns nil
// without one. The mount has no place in the tree of files and ends with the
// process; it is read-only, and follows no symbolic link. udev has to know a type
// of stickTypes: nothing else is handed to the kernel.
func OpenStick() (*Stick, error) {
	for _, link := range stickLinks() {
		device, err := filepath.EvalSymlinks(filepath.Join("/dev/disk", link))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		var s *Stick
		if err == nil {
			s, err = mountStick(device)
		}
		if err != nil {
			return nil, fmt.Errorf("cannot mount file system %s: %w", filepath.Base(link), err)
		}
		return s, nil
	}
	return nil, nil
}

func mountStick(device string) (*Stick, error) {
	var st unix.Stat_t
	if err := unix.Stat(device, &st); err != nil {
		return nil, err
	}
	record := fmt.Sprintf("/run/udev/data/b%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	data, err := os.ReadFile(record)
	if err != nil {
		return nil, err
	}
	fsType := fileSystemType(string(data))
	options, ok := stickTypes[fsType]
	if !ok {
		return nil, fmt.Errorf(
			"%s has a file system of type %.20q, it must be %s",
			device,
			fsType,
			"vfat, exfat, ext4 or iso9660",
		)
	}

	mount, err := mountDetached(device, fsType, options)
	if err != nil {
		return nil, fmt.Errorf("%s (%s): %w", device, fsType, err)
	}
	return &Stick{Device: device, mount: mount}, nil
}

// fileSystemType returns the type of the file system in udev's record of a device,
// or "".
func fileSystemType(record string) string {
	for line := range strings.Lines(record) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "E:ID_FS_TYPE="); ok {
			return value
		}
	}
	return ""
}

// mountDetached mounts a device read-only, attached nowhere; fsopen(2).
func mountDetached(device, fsType string, options []string) (*os.File, error) {
	context, err := unix.Fsopen(fsType, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("the kernel has no driver for it: %w", err)
	}
	defer unix.Close(context)
	if err := unix.FsconfigSetString(context, "source", device); err != nil {
		return nil, err
	}
	for _, option := range slices.Concat([]string{"ro"}, options) {
		if err := unix.FsconfigSetFlag(context, option); err != nil {
			return nil, fmt.Errorf("option %s: %w", option, err)
		}
	}
	if err := unix.FsconfigCreate(context); err != nil {
		return nil, err
	}

	const attributes = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV |
		unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_NOSYMFOLLOW
	mount, err := unix.Fsmount(context, unix.FSMOUNT_CLOEXEC, attributes)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(mount), device), nil
}

// Dir returns a path of the stick's top directory that is valid in this process.
func (s *Stick) Dir() string { return "/proc/self/fd/" + strconv.Itoa(int(s.mount.Fd())) }

// Close unmounts the stick.
func (s *Stick) Close() error { return s.mount.Close() }
