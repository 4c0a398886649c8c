package image

import (
	"context"
	"fmt"
	"os"
	"strings"
)

// bootTries is how often a new version may fail to boot before systemd-boot
// prefers the older one (systemd.io, Automatic Boot Assessment).
const bootTries = 3

// ukiName is the file name of a version's UKI on the ESP.
func ukiName(version string) string { return fmt.Sprintf("runner_%s+%d.efi", version, bootTries) }

// makeUKI joins kernel, initrd and command line to one EFI program, by
// ukify(1).
func (t toolbox) makeUKI(ctx context.Context, kernel, initrd, osRelease, release, out string, cmdline []string) error {
	return t.do(ctx, "make UKI", "ukify", "build",
		"--stub=/usr/lib/systemd/boot/efi/linuxx64.efi.stub",
		"--linux="+t.path(kernel), "--initrd="+t.path(initrd),
		"--os-release=@"+t.path(osRelease), "--uname="+release,
		"--cmdline="+strings.Join(cmdline, " "),
		"--output="+t.path(out))
}

// espFiles are the small files of the ESP.
func espFiles() map[string]string {
	return map[string]string{
		"loader/loader.conf": "timeout 0\nconsole-mode keep\neditor no\n",
		// The EFI shell of OVMF runs this if the loader could not start
		// anything: try again rather than wait for a person.
		"startup.nsh": "reset -c\r\n",
	}
}

// makeESP writes a FAT32 file system of size bytes with systemd-boot and the
// UKI, by mkfs.vfat(8) and mtools(1).
func (t toolbox) makeESP(ctx context.Context, out, uki, version, volumeID string, size int64) error {
	if err := createSized(t.file(out), size); err != nil {
		return err
	}
	err := t.do(ctx, "make ESP", "mkfs.vfat", "-F", "32", "-n", "ESP", "-i", volumeID, t.path(out))
	if err != nil {
		return err
	}
	const loader = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi"
	copies := [][2]string{
		{loader, "EFI/BOOT/BOOTX64.EFI"},
		{loader, "EFI/systemd/systemd-bootx64.efi"},
		{t.path(uki), "EFI/Linux/" + ukiName(version)},
	}
	for i, name := range []string{"loader/loader.conf", "startup.nsh"} {
		file := fmt.Sprintf("esp-file-%d", i)
		if err := os.WriteFile(t.file(file), []byte(espFiles()[name]), 0o644); err != nil {
			return err
		}
		copies = append(copies, [2]string{t.path(file), name})
	}
	dirs := []string{"::EFI", "::EFI/BOOT", "::EFI/systemd", "::EFI/Linux", "::loader"}
	if err := t.do(ctx, "make ESP", append([]string{"mmd", "-i", t.path(out)}, dirs...)...); err != nil {
		return err
	}
	for _, c := range copies {
		if err := t.do(ctx, "fill ESP", "mcopy", "-i", t.path(out), c[0], "::"+c[1]); err != nil {
			return err
		}
	}
	return nil
}
