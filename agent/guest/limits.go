package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Limits bound the resources of guests. Zero does not limit.
type Limits struct {
	Memory int64   // bytes, without swap
	Pids   int64   // processes and threads
	CPUs   float64 // processors, by time
}

// Times of cpu.max, in microseconds.
const (
	cpuPeriod = 100_000 // the kernel's default
	minQuota  = 1000    // the least that the kernel takes
)

// set writes the limits of a cgroup, in the formats of cgroups(7) and the
// kernel's cgroup-v2 document. A limit whose controller the kernel lacks does
// not hold.
func (l Limits) set(cgroup string) error {
	if l.Memory > 0 {
		err := errors.Join(writeLimit(cgroup, "memory.max", fmt.Sprint(l.Memory)), writeLimit(cgroup, "memory.swap.max", "0"))
		if err != nil {
			return err
		}
	}
	if l.Pids > 0 {
		if err := writeLimit(cgroup, "pids.max", fmt.Sprint(l.Pids)); err != nil {
			return err
		}
	}
	if l.CPUs > 0 {
		quota := max(minQuota, int64(l.CPUs*cpuPeriod))
		return writeLimit(cgroup, "cpu.max", fmt.Sprintf("%d %d", quota, cpuPeriod))
	}
	return nil
}

func writeLimit(cgroup, name, value string) error {
	f, err := os.OpenFile(filepath.Join(cgroup, name), os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot limit guests: %w", err)
	}
	_, err = f.WriteString(value)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("cannot limit guests to %s of %s: %w", value, name, err)
	}
	return nil
}
