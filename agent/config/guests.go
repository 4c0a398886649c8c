package config

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"time"
)

// Guests are the settings of the guests of container jobs.
type Guests struct {
	Subnet     netip.Prefix      // addresses of their networks, a /16; invalid: any that is free
	Allow      []netip.Prefix    // private addresses that they may reach
	Images     map[string]string // value of container.image -> tree on the host
	Insecure   []string          // registries, HOST[:PORT], that may be used without TLS
	ImageCache int64             // bytes of OCI images that are kept
	Devices    []string          // device nodes that --device may name
	Spare      bool              // keep a spare guest
	KeepWork   bool              // leave tools and workspaces of a job to later jobs
	KeepTools  bool              // leave complete tools of a job to later jobs
	Volumes    []string          // names of volumes that outlive jobs

	Memory  int64         // bytes of all guests together; 0: set by the broker
	Pids    int64         // processes and threads of all guests together
	CPUs    float64       // processors' worth of time; 0: no limit
	Disk    int64         // bytes that a job may write; 0: no limit
	Timeout time.Duration // how long a job may take; 0: no limit
}

var (
	imagePattern    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/:@-]*$`)
	volumePattern   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)
	registryPattern = regexp.MustCompile(`^[A-Za-z0-9.-]+(:[0-9]{1,5})?$`)
)

func parseSubnet(v string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(v)
	if err != nil || !p.Addr().Is4() || p.Bits() != 16 || p.Masked() != p {
		return p, errors.New("is not an IPv4 network of 16 bits; write for example 172.29.0.0/16")
	}
	return p, nil
}

// parsePrefixes reads addresses and networks, separated by blanks.
func parsePrefixes(v string) ([]netip.Prefix, error) {
	var list []netip.Prefix
	for _, word := range strings.Fields(v) {
		if addr, err := netip.ParseAddr(word); err == nil && addr.Is4() {
			word = addr.String() + "/32"
		}
		p, err := netip.ParsePrefix(word)
		if err != nil || !p.Addr().Is4() || p.Masked() != p {
			return nil, errors.New("has an entry that is not an IPv4 address or network; " +
				"write for example 10.1.2.3 or 10.1.0.0/16")
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
			return nil, errors.New("has an entry that is not NAME=TREE; " +
				"write for example builder:1=/usr/lib/runner/builder")
		}
		if _, twice := trees[name]; twice {
			return nil, fmt.Errorf("names %s twice; keep one", quotable(name))
		}
		trees[name] = tree
	}
	return trees, nil
}

// parseRegistries reads "HOST[:PORT] ...", separated by blanks.
func parseRegistries(v string) ([]string, error) {
	registries := strings.Fields(v)
	for _, r := range registries {
		if !registryPattern.MatchString(r) {
			return nil, errors.New("has an entry that is not HOST or HOST:PORT; " +
				"write for example registry.example:5000")
		}
	}
	return registries, nil
}

// parseDevices reads paths beneath /dev, separated by blanks.
func parseDevices(v string) ([]string, error) {
	devices := strings.Fields(v)
	for _, d := range devices {
		if !cleanAbsolute(d) || !within(d, "/dev") || d == "/dev" {
			return nil, errors.New("has an entry that is not a path beneath /dev; write for example /dev/kvm")
		}
	}
	return devices, nil
}

// parseVolumes reads names as docker-volume-create(1) takes them, separated by blanks.
func parseVolumes(v string) ([]string, error) {
	volumes := strings.Fields(v)
	for _, name := range volumes {
		if len(name) > 128 || !volumePattern.MatchString(name) {
			return nil, errors.New("has an entry that is not the name of a volume; write for example npm-cache")
		}
	}
	return volumes, nil
}
