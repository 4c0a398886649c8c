package disk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/internal/verity"
)

// RunningRoot returns the root hash in a kernel's command line, of which the file
// is at path.
func RunningRoot(path string) (verity.Digest, error) {
	cmdline, err := os.ReadFile(path)
	if err != nil {
		return verity.Digest{}, fmt.Errorf("cannot read command line of the kernel: %w", err)
	}
	for _, word := range strings.Fields(string(cmdline)) {
		if hash, ok := strings.CutPrefix(word, "roothash="); ok {
			return verity.ParseDigest(hash)
		}
	}
	return verity.Digest{}, errors.New("the kernel was started without a root hash: this is not an appliance")
}

// Find returns the path of the disk with the root partition of a root hash, as
// "/dev/vda".
func Find(root verity.Digest) (string, error) {
	rootID, _ := IDs(root)
	device, err := filepath.EvalSymlinks("/dev/disk/by-partuuid/" + rootID.String())
	if err != nil {
		return "", fmt.Errorf("cannot find disk of the root partition: %w", err)
	}
	// A partition is a directory in that of its disk.
	node, err := filepath.EvalSymlinks("/sys/class/block/" + filepath.Base(device))
	if err != nil {
		return "", fmt.Errorf("cannot find disk of the root partition: %w", err)
	}
	return "/dev/" + filepath.Base(filepath.Dir(node)), nil
}

// partitionDevice returns the device of a partition of a disk.
func partitionDevice(disk string, number int) (string, error) {
	name := filepath.Base(disk)
	files, err := filepath.Glob("/sys/class/block/" + name + "/*/partition")
	if err != nil {
		return "", err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err == nil && strings.TrimSpace(string(text)) == strconv.Itoa(number) {
			return "/dev/" + filepath.Base(filepath.Dir(file)), nil
		}
	}
	return "", fmt.Errorf("the kernel knows no partition %d of %s", number, disk)
}

// MountESP mounts the ESP of a disk at dir, which it makes, and returns what
// unmounts it. The ESP may be mounted elsewhere too.
func MountESP(disk string, number int, dir string) (*ESP, func() error, error) {
	device, err := partitionDevice(disk, number)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot mount ESP: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("cannot mount ESP: %w", err)
	}
	_ = unix.Unmount(dir, unix.MNT_DETACH) // what a killed upgrade left
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount(device, dir, "vfat", flags, "umask=0077"); err != nil {
		return nil, nil, fmt.Errorf("cannot mount ESP %s: %w", device, err)
	}

	unmount := func() error {
		if err := unix.Unmount(dir, 0); err != nil {
			return fmt.Errorf("cannot unmount ESP: %w", err)
		}
		return nil
	}
	return NewESP(dir), unmount, nil
}
