package config

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Guests is what config.env says of the guests of container jobs.
type Guests struct {
	Subnet     netip.Prefix      // their networks' addresses, a /16; invalid: any that is free
	Allow      []netip.Prefix    // private addresses they may reach
	Images     map[string]string // container.image -> tree of the host
	Insecure   []string          // registries spoken to without TLS
	ImageCache int64             // bytes of pulled images that are kept
	Devices    []string          // what --device may name
	Spare      bool              // keep one started
	KeepWork   bool              // leave what jobs leave in the work root to later ones

	Memory  int64         // bytes of all guests together; 0: set by the broker
	Pids    int64         // processes and threads of all guests together
	CPUs    float64       // processors' worth of time; 0: no limit
	Disk    int64         // bytes a job may write; 0: set by the broker
	Timeout time.Duration // how long a job may take; 0: no limit
}

const (
	exampleSubnet     = "172.29.0.0/16"
	defaultImageCache = 20 << 30
	defaultPids       = 16384
)

func defaultGuests() Guests {
	return Guests{ImageCache: defaultImageCache, Pids: defaultPids, Spare: true}
}

var (
	imagePattern    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/:@-]*$`)
	registryPattern = regexp.MustCompile(`^[A-Za-z0-9.-]+(:[0-9]{1,5})?$`)
	sizePattern     = regexp.MustCompile(`^([0-9]{1,9})([KMGT])$`)
)

// addGuests adds the settings of guests to those of the runner.
func addGuests(to map[string]setting) map[string]setting {
	maps.Copy(to, map[string]setting{
		"RUNNER_GUEST_SUBNET": func(c *Config, v string) error {
			p, err := netip.ParsePrefix(v)
			if err != nil || !p.Addr().Is4() || p.Bits() != 16 || p.Masked() != p {
				return fmt.Errorf("RUNNER_GUEST_SUBNET is not an IPv4 network of 16 bits; write for example %s", exampleSubnet)
			}
			c.Guests.Subnet = p
			return nil
		},
		"RUNNER_GUEST_ALLOW": func(c *Config, v string) (err error) {
			c.Guests.Allow, err = parsePrefixes(v)
			return err
		},
		"RUNNER_IMAGES": func(c *Config, v string) (err error) {
			c.Guests.Images, err = parseImages(v)
			return err
		},
		"RUNNER_INSECURE_REGISTRIES": func(c *Config, v string) error {
			for _, r := range strings.Fields(v) {
				if !registryPattern.MatchString(r) {
					return errors.New("RUNNER_INSECURE_REGISTRIES has an entry that is no HOST or HOST:PORT; write for example registry.example:5000")
				}
				c.Guests.Insecure = append(c.Guests.Insecure, r)
			}
			return nil
		},
		"RUNNER_IMAGE_CACHE": sizeOf("RUNNER_IMAGE_CACHE", func(c *Config) *int64 { return &c.Guests.ImageCache }),
		"RUNNER_NSPAWN_DEVICES": func(c *Config, v string) error {
			for _, d := range strings.Fields(v) {
				if !cleanAbsolute(d) || !within(d, "/dev") || d == "/dev" {
					return errors.New("RUNNER_NSPAWN_DEVICES has an entry that is no path beneath /dev; write for example /dev/kvm")
				}
				c.Guests.Devices = append(c.Guests.Devices, d)
			}
			return nil
		},
		"RUNNER_SPARE_GUEST": boolOf("RUNNER_SPARE_GUEST", func(c *Config) *bool { return &c.Guests.Spare }),
		"RUNNER_KEEP_WORK":   boolOf("RUNNER_KEEP_WORK", func(c *Config) *bool { return &c.Guests.KeepWork }),
		"RUNNER_JOB_MEMORY":  sizeOf("RUNNER_JOB_MEMORY", func(c *Config) *int64 { return &c.Guests.Memory }),
		"RUNNER_JOB_DISK":    sizeOf("RUNNER_JOB_DISK", func(c *Config) *int64 { return &c.Guests.Disk }),
		"RUNNER_JOB_PIDS": func(c *Config, v string) error {
			n, err := strconv.ParseInt(v, 10, 64)
			if err != nil || n < minPids || n > maxPids {
				return fmt.Errorf("RUNNER_JOB_PIDS is not a number from %d to %d; write for example %d", minPids, maxPids, defaultPids)
			}
			c.Guests.Pids = n
			return nil
		},
		"RUNNER_JOB_CPUS": func(c *Config, v string) error {
			n, err := strconv.ParseFloat(v, 64)
			if err != nil || !(n >= 0.1 && n <= 4096) {
				return errors.New("RUNNER_JOB_CPUS is not a number from 0.1 to 4096; write for example 2 or 1.5")
			}
			c.Guests.CPUs = n
			return nil
		},
		"RUNNER_JOB_TIMEOUT_S": func(c *Config, v string) error {
			n, err := strconv.Atoi(v)
			if err != nil || n < 1 || n > maxJobSeconds {
				return fmt.Errorf("RUNNER_JOB_TIMEOUT_S is not a number of seconds from 1 to %d; write for example 21600", maxJobSeconds)
			}
			c.Guests.Timeout = time.Duration(n) * time.Second
			return nil
		},
	})
	return to
}

const (
	minPids       = 64 // the guest's own
	maxPids       = 4 << 20
	maxJobSeconds = 30 * 24 * 3600
)

func boolOf(key string, field func(*Config) *bool) setting {
	return func(c *Config, v string) error {
		if v != "true" && v != "false" {
			return fmt.Errorf("%s is neither true nor false; write one of them", key)
		}
		*field(c) = v == "true"
		return nil
	}
}

// sizeOf reads a number of bytes with a unit.
func sizeOf(key string, field func(*Config) *int64) setting {
	return func(c *Config, v string) error {
		m := sizePattern.FindStringSubmatch(v)
		if m == nil {
			return fmt.Errorf("%s is not a size; write a whole number with K, M, G or T, such as 8G", key)
		}
		n, err := strconv.ParseInt(m[1], 10, 64)
		n <<= 10 * (1 + strings.Index("KMGT", m[2]))
		if err != nil || n <= 0 {
			return fmt.Errorf("%s is not a size of this world; write for example 8G", key)
		}
		*field(c) = n
		return nil
	}
}

func parsePrefixes(v string) ([]netip.Prefix, error) {
	var list []netip.Prefix
	for _, word := range strings.Fields(v) {
		if addr, err := netip.ParseAddr(word); err == nil && addr.Is4() {
			word = addr.String() + "/32"
		}
		p, err := netip.ParsePrefix(word)
		if err != nil || !p.Addr().Is4() || p.Masked() != p {
			return nil, errors.New("RUNNER_GUEST_ALLOW has an entry that is no IPv4 address or network; write for example 10.1.2.3 or 10.1.0.0/16")
		}
		list = append(list, p)
	}
	return list, nil
}

// parseImages reads "NAME=TREE ...", separated by blanks.
func parseImages(v string) (map[string]string, error) {
	trees := map[string]string{}
	for _, word := range strings.Fields(v) {
		name, tree, ok := strings.Cut(word, "=")
		if !ok || !imagePattern.MatchString(name) || !cleanAbsolute(tree) || tree == "/" {
			return nil, errors.New("RUNNER_IMAGES has an entry that is not NAME=TREE; write for example builder:1=/usr/lib/runner/builder")
		}
		if _, twice := trees[name]; twice {
			return nil, fmt.Errorf("RUNNER_IMAGES names %s twice; keep one", show(name))
		}
		trees[name] = tree
	}
	return trees, nil
}
