package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// Limits bound the resources of guests. Zero does not limit.
type Limits struct {
	Memory int64   // bytes, without swap
	Pids   int64   // processes and threads
	CPUs   float64 // processors, by time

	CPUWeight uint64 // of processor time beside other guests, 1 to 10000
	CPUSet    string // processors such as 0-2,4
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
	limits := map[string]string{}
	if l.Memory > 0 {
		limits["memory.max"], limits["memory.swap.max"] = fmt.Sprint(l.Memory), "0"
	}
	if l.Pids > 0 {
		limits["pids.max"] = fmt.Sprint(l.Pids)
	}
	if l.CPUs > 0 {
		limits["cpu.max"] = fmt.Sprintf("%d %d", max(minQuota, int64(l.CPUs*cpuPeriod)), cpuPeriod)
	}
	if l.CPUWeight > 0 {
		limits["cpu.weight"] = fmt.Sprint(l.CPUWeight)
	}
	if l.CPUSet != "" {
		limits["cpuset.cpus"] = l.CPUSet
	}

	for _, name := range slices.Sorted(maps.Keys(limits)) {
		if err := writeLimit(cgroup, name, limits[name]); err != nil {
			return err
		}
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
