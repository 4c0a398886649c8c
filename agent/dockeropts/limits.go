package dockeropts

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/docker/go-units"
)

// Ulimit is a limit that each process starts with, getrlimit(2).
type Ulimit struct {
	Resource   int    // RLIMIT_...
	Soft, Hard uint64 // of the resource's unit; math.MaxUint64: no limit
}

// addUlimit parses NAME=SOFT[:HARD], -1 for no limit.
func (o *Options) addUlimit(value string) error {
	parsed, err := units.ParseUlimit(value)
	if err != nil || parsed.Soft < -1 || parsed.Hard < -1 {
		return fmt.Errorf("%.80q is not NAME=SOFT or NAME=SOFT:HARD with a name of getrlimit(2); "+
			"write for example nofile=1024:65536", value)
	}
	limit, err := parsed.GetRlimit()
	if err != nil {
		return fmt.Errorf("%.80q is not a name of getrlimit(2); write for example nofile=1024:65536", parsed.Name)
	}

	added := Ulimit{Resource: limit.Type, Soft: limit.Soft, Hard: limit.Hard}
	for i, u := range o.Ulimits {
		if u.Resource == added.Resource {
			o.Ulimits[i] = added
			return nil
		}
	}
	o.Ulimits = append(o.Ulimits, added)
	return nil
}

// Bounds of the kernel and of dockerd.
const (
	minShares, maxShares = 2, 262144
	minQuota             = 1000
	minPeriod, maxPeriod = 1000, 1_000_000
	defaultPeriod        = 100_000
)

// setCPUShares takes the share of cgroups of version 1, of which 1024 is usual, and
// sets the weight of version 2 that runc(8) makes of it.
func (o *Options) setCPUShares(value string) error {
	n, err := strconv.ParseUint(value, 10, 64)
	if err != nil || n != 0 && (n < minShares || n > maxShares) {
		return fmt.Errorf("%.80q is not a number from %d to %d; write for example 512", value, minShares, maxShares)
	}
	o.CPUWeight = 0
	if n > 0 {
		o.CPUWeight = 1 + (n-minShares)*9999/(maxShares-minShares)
	}
	return nil
}

// setCPUSet parses a list such as 0-2,4.
func (o *Options) setCPUSet(value string) error {
	for part := range strings.SplitSeq(value, ",") {
		first, last, isRange := strings.Cut(part, "-")
		from, err := strconv.ParseUint(first, 10, 12)
		to := from
		if err == nil && isRange {
			to, err = strconv.ParseUint(last, 10, 12)
		}
		if err != nil || to < from {
			return fmt.Errorf("%.80q is not a list of processors; write for example 0-2,4", value)
		}
	}
	o.CPUSet = value
	return nil
}

func (p *parser) setCPUQuota(value string) error {
	n, err := strconv.ParseInt(value, 10, 48)
	if err != nil || n > 0 && n < minQuota {
		return fmt.Errorf("%.80q is not a number of microseconds from %d; write for example 50000", value, minQuota)
	}
	p.cpuQuota = max(n, 0) // else there is no limit
	return nil
}

func (p *parser) setCPUPeriod(value string) error {
	n, err := strconv.ParseInt(value, 10, 48)
	if err != nil || n != 0 && (n < minPeriod || n > maxPeriod) {
		return fmt.Errorf("%.80q is not a number of microseconds from %d to %d; write for example %d",
			value, minPeriod, maxPeriod, defaultPeriod)
	}
	p.cpuPeriod = n
	return nil
}

// applyQuota makes the number of processors of --cpu-quota and --cpu-period.
func (p *parser) applyQuota() error {
	if p.cpuQuota > 0 {
		if p.CPUs > 0 {
			return fmt.Errorf("option --cpus contradicts --cpu-quota; remove one of them")
		}
		period := p.cpuPeriod
		if period == 0 {
			period = defaultPeriod
		}
		p.CPUs = min(maxCPUs, max(minCPUs, float64(p.cpuQuota)/float64(period)))
	}
	p.cpuQuota, p.cpuPeriod = 0, 0
	return nil
}
