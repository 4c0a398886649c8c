// Package arch holds what depends on the processor architecture of an image:
// names, partition types, boot loader files and the machine that QEMU emulates.
// It is the one place of each.
package arch

import (
	"fmt"
	"slices"
	"strings"
)

// Arch is one row of the table of architectures.
type Arch struct {
	Debian string // as dpkg-architecture(1) names it
	Go     string // GOARCH
	// EFI is the suffix of EFI programs, in lower case: "x64" as in
	// BOOTX64.EFI (UEFI 2.10, section 3.5.1.1).
	EFI string
	// ActionsRunner is the name in the file names of the actions runner's
	// releases, "actions-runner-linux-NAME-VERSION.tar.gz".
	ActionsRunner string
	// Kernel is Debian's kernel package for virtual machines.
	Kernel string

	// Bakeable is set if images.toml accepts the architecture.
	Bakeable bool

	GPT  GPT
	QEMU QEMU
}

// GPT holds the partition types that depend on the architecture, as lower-case
// UUIDs of the Discoverable Partitions Specification (UAPI.2).
type GPT struct {
	Root                string // root file system
	RootVerity          string // dm-verity hash tree of it
	RootVeritySignature string // signature of its root hash
}

// QEMU describes the emulated machine.
type QEMU struct {
	Program  string   // looked up in PATH
	Machine  string   // -machine
	CPU      string   // -cpu without KVM
	Packages []string // Debian packages of Program and qemu-img

	// Firmware lists where UEFI firmware may be, in order of preference.
	Firmware        []Firmware
	FirmwarePackage string // Debian package of Firmware
}

// Firmware names the files of UEFI firmware for QEMU.
type Firmware struct {
	Code string // read-only
	Vars string // template of the variable store
}

// AMD64 returns the row of 64-bit x86.
func AMD64() Arch {
	return Arch{
		Debian: "amd64", Go: "amd64", EFI: "x64", ActionsRunner: "x64", Kernel: "linux-image-cloud-amd64",
		Bakeable: true,
		GPT: GPT{
			Root:                "4f68bce3-e8cd-4db1-96e7-fbcaf984b709",
			RootVerity:          "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5",
			RootVeritySignature: "41092b05-9fc8-4523-994f-2def0408b176",
		},
		QEMU: QEMU{
			Program: "qemu-system-x86_64", Machine: "q35",
			// x86-64-v2 is the most that Debian's programs require. Programs
			// choose newer features such as AVX at run time because they are
			// faster; emulated they are slower. A boot without them takes a
			// third less time.
			CPU:      "qemu64,cx16=on,lahf-lm=on,popcnt=on,ssse3=on,sse4.1=on,sse4.2=on",
			Packages: []string{"qemu-system-x86", "qemu-utils"},
			Firmware: []Firmware{
				{Code: "/usr/share/OVMF/OVMF_CODE_4M.fd", Vars: "/usr/share/OVMF/OVMF_VARS_4M.fd"},
				{Code: "/usr/share/OVMF/OVMF_CODE.fd", Vars: "/usr/share/OVMF/OVMF_VARS.fd"},
			},
			FirmwarePackage: "ovmf",
		},
	}
}

// ARM64 returns the row of 64-bit Arm.
func ARM64() Arch {
	return Arch{
		Debian: "arm64", Go: "arm64", EFI: "aa64", ActionsRunner: "arm64", Kernel: "linux-image-cloud-arm64",
		GPT: GPT{
			Root:                "b921b045-1df0-41c3-af44-4c6f280d3fae",
			RootVerity:          "df3300ce-d69f-4c92-978c-9bfb0f38d820",
			RootVeritySignature: "6db69de6-29f4-4758-a7a5-962190f00ce3",
		},
		QEMU: QEMU{
			Program: "qemu-system-aarch64", Machine: "virt",
			CPU:             "cortex-a72",
			Packages:        []string{"qemu-system-arm", "qemu-utils"},
			Firmware:        []Firmware{{Code: "/usr/share/AAVMF/AAVMF_CODE.fd", Vars: "/usr/share/AAVMF/AAVMF_VARS.fd"}},
			FirmwarePackage: "qemu-efi-aarch64",
		},
	}
}

// All returns every known architecture.
func All() []Arch { return []Arch{AMD64(), ARM64()} }

// Lookup returns the architecture that dpkg names debian.
func Lookup(debian string) (Arch, error) {
	for _, a := range All() {
		if a.Debian == debian {
			return a, nil
		}
	}
	return Arch{}, fmt.Errorf("unknown architecture %q", debian)
}

// LookupBakeable returns the architecture that dpkg names debian if images.toml
// accepts it. The error names those that it accepts.
func LookupBakeable(debian string) (Arch, error) {
	a, err := Lookup(debian)
	if err == nil && a.Bakeable {
		return a, nil
	}

	var names []string
	for _, a := range slices.DeleteFunc(All(), func(a Arch) bool { return !a.Bakeable }) {
		names = append(names, fmt.Sprintf("%q", a.Debian))
	}
	return Arch{}, fmt.Errorf("architecture %q is not supported yet; use %s", debian, strings.Join(names, " or "))
}

// Stub returns the file name of systemd-stub(7), of which ukify(1) makes UKIs.
func (a Arch) Stub() string { return "linux" + a.EFI + ".efi.stub" }

// Loader returns the file name of systemd-boot(7).
func (a Arch) Loader() string { return "systemd-boot" + a.EFI + ".efi" }

// FallbackLoader returns the file name that UEFI firmware starts from EFI/BOOT
// on a disk that it knows nothing about.
func (a Arch) FallbackLoader() string { return "BOOT" + strings.ToUpper(a.EFI) + ".EFI" }
