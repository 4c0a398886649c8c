package image

import (
	"context"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/mkappliance/mkappliance/internal/layout"
	"github.com/mkappliance/mkappliance/rootfs"
)

// efiDir is where the tools tree has the EFI programs of systemd.
const efiDir = "/usr/lib/systemd/boot/efi/"

// ukiPath returns the path of a version's UKI on the ESP. Attempts to boot it are
// not counted: the image has no other version to fall back to.
func ukiPath(version string) string {
	return path.Join(layout.UKIDir, layout.GoodUKIName(version))
}

// makeUKI joins kernel, initrd and command line to one EFI program, by ukify(1).
func (t tools) makeUKI(ctx context.Context, tree *rootfs.HostTree, cmdline []string, out string) error {
	return t.run(ctx, "make UKI", "ukify", "build",
		"--stub="+efiDir+t.arch.Stub(),
		"--linux="+t.inSandbox(tree.Kernel),
		"--initrd="+t.inSandbox(tree.Initrd),
		"--os-release=@"+t.inSandbox(tree.OSRelease()),
		"--uname="+tree.KernelRelease,
		"--cmdline="+strings.Join(cmdline, " "),
		"--output="+t.inSandbox(out))
}

// espFile is a small file of the ESP.
type espFile struct{ name, content string }

func espFiles() []espFile {
	return []espFile{
		{"loader/loader.conf", "timeout 0\nconsole-mode keep\neditor no\n"},
		// The EFI shell of OVMF runs this if the loader could not start
		// anything: try again rather than wait for a person.
		{"startup.nsh", "reset -c\r\n"},
	}
}

// makeESP writes a FAT32 file system of size bytes with systemd-boot and the
// UKI to the file out, by mkfs.vfat(8) and mtools(1).
func (t tools) makeESP(ctx context.Context, uki, version, out, volumeID string, size int64) error {
	if err := createSized(out, size); err != nil {
		return fmt.Errorf("cannot make ESP: %w", err)
	}
	esp := t.inSandbox(out)
	if err := t.run(ctx, "make ESP", "mkfs.vfat", "-F", "32", "-n", "ESP", "-i", volumeID, esp); err != nil {
		return err
	}
	dirs := []string{"::EFI", "::EFI/BOOT", "::EFI/systemd", "::" + layout.UKIDir, "::loader"}
	if err := t.run(ctx, "make ESP", append([]string{"mmd", "-i", esp}, dirs...)...); err != nil {
		return err
	}

	loader := efiDir + t.arch.Loader()
	copies := []struct{ from, to string }{
		{loader, "EFI/BOOT/" + t.arch.FallbackLoader()},
		{loader, "EFI/systemd/" + t.arch.Loader()},
		{t.inSandbox(uki), ukiPath(version)},
	}
	for i, f := range espFiles() {
		source := fmt.Sprintf("%s/esp-file-%d", t.work, i)
		if err := os.WriteFile(source, []byte(f.content), 0o644); err != nil {
			return fmt.Errorf("cannot fill ESP: %w", err)
		}
		copies = append(copies, struct{ from, to string }{t.inSandbox(source), f.name})
	}
	for _, c := range copies {
		if err := t.run(ctx, "fill ESP", "mcopy", "-i", esp, c.from, "::"+c.to); err != nil {
			return err
		}
	}
	return nil
}
