package image

import (
	"fmt"

	"github.com/mkappliance/mkappliance/internal/spec"
)

// repartFiles gives the repart.d(5) definitions by which the first boot adds
// slot B and lets var take the rest of the disk. They describe the partitions
// of the image file too, because systemd-repart matches by type and order.
func repartFiles(disk spec.Disk) map[string]string {
	fixed := func(kind string, size int64, more string) string {
		return fmt.Sprintf("[Partition]\nType=%s\nSizeMinBytes=%d\nSizeMaxBytes=%d\n%s", kind, size, size, more)
	}
	const free = "Label=_empty\n"
	return map[string]string{
		"usr/lib/repart.d/10-esp.conf":      fixed("esp", disk.ESP, ""),
		"usr/lib/repart.d/20-verity-a.conf": fixed("root-verity", disk.Verity, ""),
		"usr/lib/repart.d/30-root-a.conf":   fixed("root", disk.Root, ""),
		"usr/lib/repart.d/40-verity-b.conf": fixed("root-verity", disk.Verity, free),
		"usr/lib/repart.d/50-root-b.conf":   fixed("root", disk.Root, free),
		"usr/lib/repart.d/60-var.conf":      fmt.Sprintf("[Partition]\nType=var\nLabel=runner-var\nSizeMinBytes=%d\n", disk.Var),
	}
}
