package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Limits bound what guests take. Zero means no limit of its own.
type Limits struct {
	Memory int64   // bytes, without swap
	Pids   int64   // processes and threads
	CPUs   float64 // processors' worth of time
}

// cpuPeriod is the kernel's default period of cpu.max, in microseconds.
const cpuPeriod = 100_000

// set writes the limits of a cgroup, as the files of cgroups(7) and the
// kernel's cgroup-v2 document want them. On a kernel without a controller its
// limit does not hold.
func (l Limits) set(cgroup string) error {
	files := map[string]string{}
	if l.Memory > 0 {
		files["memory.max"] = fmt.Sprint(l.Memory)
		files["memory.swap.max"] = "0"
	}
	if l.Pids > 0 {
		files["pids.max"] = fmt.Sprint(l.Pids)
	}
	if l.CPUs > 0 {
		files["cpu.max"] = fmt.Sprintf("%d %d", max(1000, int64(l.CPUs*cpuPeriod)), cpuPeriod)
	}
	for name, value := range files {
		f, err := os.OpenFile(filepath.Join(cgroup, name), os.O_WRONLY, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("cannot limit guests: %w", err)
		}
		_, err = f.WriteString(value)
		if err := errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("cannot limit guests: cannot set %s to %s: %w", name, value, err)
		}
	}
	return nil
}
