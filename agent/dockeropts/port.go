package dockeropts

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Port asks for a port of a container to appear on the machine's loopback.
type Port struct {
	Host      uint16 `json:"host,omitempty"` // 0: any that is free
	Container uint16 `json:"container"`      // never 0
	Protocol  string `json:"protocol"`       // tcp or udp
}

var (
	addressPattern = regexp.MustCompile(`[^0-9:/-][^/]*:`) // what a port is not, before a colon
	rangePattern   = regexp.MustCompile(`[0-9]-[0-9]`)
)

// ParsePort reads one entry of ports: CONTAINER or HOST:CONTAINER, with
// /tcp, which is the default, or /udp behind it.
func ParsePort(text string) (Port, error) {
	mapping, protocol, ok := strings.Cut(text, "/")
	if !ok {
		protocol = "tcp"
	}
	host, container, both := strings.Cut(mapping, ":")
	if !both {
		host, container = "", mapping
	}
	p := Port{Protocol: strings.ToLower(protocol)}
	var err error
	switch {
	case addressPattern.MatchString(mapping):
		return Port{}, fmt.Errorf("port %.80q names an address, but only the machine's loopback is published to; leave the address out, as in 8080:80", text)
	case rangePattern.MatchString(mapping):
		return Port{}, fmt.Errorf("port %.80q is a range; write each port on a line of its own", text)
	case p.Protocol != "tcp" && p.Protocol != "udp":
		return Port{}, fmt.Errorf("port %.80q has an unknown protocol; write /tcp or /udp, or none for tcp", text)
	}
	if p.Container, err = parsePort(container); err == nil && both {
		p.Host, err = parsePort(host)
	}
	if err != nil {
		return Port{}, fmt.Errorf("port %.80q is neither CONTAINER nor HOST:CONTAINER with numbers from 1 to 65535; write for example 8080:80", text)
	}
	return p, nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err == nil && n == 0 {
		err = strconv.ErrRange
	}
	return uint16(n), err
}
