// Package layout holds what the build and the agent must agree on: the
// partitions of an appliance's disk, and the fixed paths and ids of its root
// file system. It is the one place of each.
package layout

import (
	"fmt"
	"slices"

	"github.com/mkappliance/mkappliance/internal/arch"
)

// Role is the purpose of a partition.
type Role string

// The roles of partitions.
const (
	ESP    Role = "esp"    // EFI system partition: boot loader and UKIs
	Verity Role = "verity" // dm-verity hash tree of a root partition
	Root   Role = "root"   // read-only root file system
	Var    Role = "var"    // all that outlives an upgrade
)

// Slot is one of the two places for a version. A slot is a root partition and
// its verity partition.
type Slot string

// The slots of a disk.
const (
	NoSlot Slot = "" // of partitions that all versions share
	SlotA  Slot = "a"
	SlotB  Slot = "b"
)

// EmptyLabel is the label of a slot's partitions while they hold no version,
// as systemd-sysupdate wants it (sysupdate.d(5)).
const EmptyLabel = "_empty"

// VarLabel is the label by which the initrd finds the var partition.
const VarLabel = "runner-var"

// Partition is one partition of an appliance's disk.
type Partition struct {
	Role Role
	Slot Slot
	// Baked is set for partitions of the image file. systemd-repart adds the
	// others at the first boot.
	Baked bool
	// Grows is set if the partition takes the rest of the disk.
	Grows bool
}

// Partitions returns the partitions of a disk in the order in which
// systemd-repart matches them by type. The partitions of an image file are
// those baked, in the same order.
func Partitions() []Partition {
	return []Partition{
		{Role: ESP, Baked: true},
		{Role: Verity, Slot: SlotA, Baked: true},
		{Role: Root, Slot: SlotA, Baked: true},
		{Role: Verity, Slot: SlotB},
		{Role: Root, Slot: SlotB},
		{Role: Var, Baked: true, Grows: true},
	}
}

// Baked returns the partitions of an image file in the order of its partition
// table.
func Baked() []Partition {
	return slices.DeleteFunc(Partitions(), func(p Partition) bool { return !p.Baked })
}

// Name returns the role and slot of p, as "root-a". It is unique on a disk.
func (p Partition) Name() string {
	if p.Slot == NoSlot {
		return string(p.Role)
	}
	return string(p.Role) + "-" + string(p.Slot)
}

// Label returns the GPT label of p when its slot holds the version. Labels of
// partitions without a slot do not depend on the version.
func (p Partition) Label(version string) string {
	switch p.Role {
	case Root:
		return labelPrefix + version
	case Verity:
		return labelPrefix + version + verityLabelSuffix
	case Var:
		return VarLabel
	}
	return string(p.Role)
}

const (
	labelPrefix       = "runner_"
	verityLabelSuffix = "_verity"
	// maxLabel is the longest GPT label, in UTF-16 units (UEFI 2.10, 5.3.3).
	maxLabel = 36
)

// MaxVersion is the length in bytes of the longest version that fits into the
// label of every partition.
const MaxVersion = maxLabel - len(labelPrefix) - len(verityLabelSuffix)

// UKIName returns the file name of a version's unified kernel image in the
// directory UKIDir of the ESP. tries is how often it may fail to boot before
// systemd-boot prefers another version (systemd.io, Automatic Boot Assessment).
func UKIName(version string, tries int) string {
	return fmt.Sprintf("%s%s+%d.efi", labelPrefix, version, tries)
}

// GoodUKIName returns the file name of a version's UKI whose attempts to boot are
// not counted: it has booted well, or is the only one.
func GoodUKIName(version string) string { return labelPrefix + version + ".efi" }

// UKIDir is the directory of unified kernel images on the ESP (UAPI.1, type 2).
const UKIDir = "EFI/Linux"

// Partition types of the Discoverable Partitions Specification (UAPI.2) that are
// the same on every architecture.
const (
	typeESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
	typeVar = "4d21b016-b534-45c2-a9fb-5c16e091fd2d"
)

// TypeID returns the GPT type of p on an architecture, as a lower-case UUID.
func (p Partition) TypeID(a arch.Arch) string {
	switch p.Role {
	case ESP:
		return typeESP
	case Verity:
		return a.GPT.RootVerity
	case Root:
		return a.GPT.Root
	}
	return typeVar
}

// RepartType returns the name of p's type in repart.d(5), which stands for the
// architecture that systemd-repart runs on.
func (p Partition) RepartType() string {
	if p.Role == Verity {
		return "root-verity"
	}
	return string(p.Role)
}
