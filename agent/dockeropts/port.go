package dockeropts

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Port is a port of a container to publish on the host's loopback.
type Port struct {
	Host      uint16 // 0: any free one
	Container uint16 // never 0
	Protocol  string // tcp or udp
}

// maxPorts is how many ports one entry may name: as many as a job can publish.
const maxPorts = 256

// ParsePorts parses one entry of ports: CONTAINER or HOST:CONTAINER, each a port or
// a range of equally many, an address before them, and after them /tcp, which is the
// default, or /udp. The address is one of loopback, where all are published, or the
// one that stands for all.
func ParsePorts(text string) ([]Port, error) {
	mapping, protocol, ok := strings.Cut(text, "/")
	if !ok {
		protocol = "tcp"
	}
	protocol = strings.ToLower(protocol)
	if protocol != "tcp" && protocol != "udp" {
		return nil, fmt.Errorf("port %.80q has an unknown protocol; write /tcp or /udp, or none for tcp", text)
	}

	rest, hasAddress, err := cutAddress(mapping)
	if err != nil {
		return nil, fmt.Errorf("port %.80q %w", text, err)
	}
	host, container, both := strings.Cut(rest, ":")
	if !both {
		host, container = "", rest
	}

	from, count, ok := parseRange(container)
	hostFrom, hostCount := uint16(0), count
	if ok && (host != "" || both && !hasAddress) {
		hostFrom, hostCount, ok = parseRange(host)
	}
	switch {
	case !ok:
		return nil, fmt.Errorf("port %.80q is neither CONTAINER nor HOST:CONTAINER with numbers from 1 to 65535; "+
			"write for example 8080:80", text)
	case hostCount != count:
		return nil, fmt.Errorf("port %.80q maps a range to one of another length; write for example 8000-8002:80-82", text)
	case count > maxPorts:
		return nil, fmt.Errorf("port %.80q names more than the %d ports that a job can publish", text, maxPorts)
	}

	var ports []Port
	for i := range uint16(count) {
		p := Port{Container: from + i, Protocol: protocol}
		if hostFrom != 0 {
			p.Host = hostFrom + i
		}
		ports = append(ports, p)
	}
	return ports, nil
}

// cutAddress returns what follows the address in ADDRESS:HOST:CONTAINER.
func cutAddress(mapping string) (rest string, hasAddress bool, err error) {
	last := strings.LastIndexByte(mapping, ':')
	if last < 0 {
		return mapping, false, nil
	}
	before := strings.LastIndexByte(mapping[:last], ':')
	if before < 0 && strings.Trim(mapping[:last], digits+"-") == "" {
		return mapping, false, nil // HOST:CONTAINER
	}

	text := mapping[:max(before, 0)]
	if bare, ok := strings.CutPrefix(text, "["); ok {
		text = strings.TrimSuffix(bare, "]")
	}
	address, parseErr := netip.ParseAddr(text)
	switch {
	case parseErr != nil:
		return "", false, errors.New("has something else than an address before its ports; write for example " +
			"127.0.0.1:8080:80")
	case !address.IsLoopback() && !address.IsUnspecified():
		return "", false, fmt.Errorf("names the address %s, but ports are published on loopback only; "+
			"leave the address out, as in 8080:80", address)
	}
	return mapping[before+1:], true, nil
}

// parseRange parses FIRST or FIRST-LAST.
func parseRange(s string) (first uint16, count int, ok bool) {
	from, to, isRange := strings.Cut(s, "-")
	first, err := parsePort(from)
	last := first
	if err == nil && isRange {
		last, err = parsePort(to)
	}
	return first, int(last) - int(first) + 1, err == nil && last >= first
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err == nil && n == 0 {
		err = strconv.ErrRange
	}
	return uint16(n), err
}
