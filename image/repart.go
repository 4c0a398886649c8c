package image

import (
	"fmt"

	"github.com/mkappliance/mkappliance/internal/layout"
	"github.com/mkappliance/mkappliance/internal/spec"
)

// repartFiles returns the repart.d(5) definitions by which the first boot adds
// slot B and lets var take the rest of the disk. They describe the partitions
// of the image file too, because systemd-repart matches by type and order.
func repartFiles(disk spec.Disk) map[string]string {
	files := map[string]string{}
	for i, p := range layout.Partitions() {
		name := fmt.Sprintf("usr/lib/repart.d/%d0-%s.conf", i+1, p.Name())
		files[name] = repartDefinition(p, sizeOf(disk, p.Role))
	}
	return files
}

func repartDefinition(p layout.Partition, size int64) string {
	head := fmt.Sprintf("[Partition]\nType=%s\n", p.RepartType())
	if p.Grows {
		return head + fmt.Sprintf("Label=%s\nSizeMinBytes=%d\n", layout.VarLabel, size)
	}

	definition := head + fmt.Sprintf("SizeMinBytes=%d\nSizeMaxBytes=%[1]d\n", size)
	if !p.Baked {
		definition += "Label=" + layout.EmptyLabel + "\n"
	}
	return definition
}
