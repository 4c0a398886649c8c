package dockeropts

import (
	"fmt"
	"strconv"
	"strings"
)

// Port is a port of a container to publish on the host's loopback.
type Port struct {
	Host      uint16 // 0: any free one
	Container uint16 // never 0
	Protocol  string // tcp or udp
}

// ParsePort parses one entry of ports: CONTAINER or HOST:CONTAINER, followed by
// /tcp, which is the default, or /udp.
func ParsePort(text string) (Port, error) {
	mapping, protocol, ok := strings.Cut(text, "/")
	if !ok {
		protocol = "tcp"
	}
	p := Port{Protocol: strings.ToLower(protocol)}

	// Docker takes these, so their authors expect more than "not a number".
	switch {
	case hasAddress(mapping):
		return Port{}, fmt.Errorf("port %.80q names an address, but ports are published on the host's loopback only; "+
			"leave the address out, as in 8080:80", text)
	case hasRange(mapping):
		return Port{}, fmt.Errorf("port %.80q is a range; write each port on a line of its own", text)
	case p.Protocol != "tcp" && p.Protocol != "udp":
		return Port{}, fmt.Errorf("port %.80q has an unknown protocol; write /tcp or /udp, or none for tcp", text)
	}

	host, container, both := strings.Cut(mapping, ":")
	if !both {
		host, container = "", mapping
	}
	var err error
	if p.Container, err = parsePort(container); err == nil && both {
		p.Host, err = parsePort(host)
	}
	if err != nil {
		return Port{}, fmt.Errorf("port %.80q is neither CONTAINER nor HOST:CONTAINER with numbers from 1 to 65535; "+
			"write for example 8080:80", text)
	}
	return p, nil
}

// hasAddress reports whether there is something before the last colon that
// neither ports nor ranges consist of.
func hasAddress(mapping string) bool {
	colon := strings.LastIndexByte(mapping, ':')
	return colon >= 0 && strings.Trim(mapping[:colon], digits+":-") != ""
}

// hasRange reports whether s contains a hyphen between two digits.
func hasRange(s string) bool {
	for i := 1; i < len(s)-1; i++ {
		if s[i] == '-' && strings.IndexByte(digits, s[i-1]) >= 0 && strings.IndexByte(digits, s[i+1]) >= 0 {
			return true
		}
	}
	return false
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err == nil && n == 0 {
		err = strconv.ErrRange
	}
	return uint16(n), err
}
