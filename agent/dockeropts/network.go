package dockeropts

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// hostGateway stands for the address of the host in --add-host.
const hostGateway = "host-gateway"

// addHost parses NAME:ADDRESS or NAME=ADDRESS, IPv6 with or without brackets.
func (o *Options) addHost(value string) error {
	i := strings.IndexAny(value, ":=")
	if i < 0 || !isName(value[:i]) {
		return fmt.Errorf("%.80q is not NAME:ADDRESS; write for example db.example:192.0.2.1", value)
	}

	text := value[i+1:]
	if text == hostGateway {
		o.AddHosts = append(o.AddHosts, HostEntry{Name: value[:i], Gateway: true})
		return nil
	}
	if strings.HasPrefix(text, "[") {
		text = strings.TrimSuffix(text[1:], "]")
	}
	address, err := netip.ParseAddr(text)
	if err != nil || address.Zone() != "" {
		return fmt.Errorf("%.80q is not an IPv4 or IPv6 address; write for example %.80s:192.0.2.1", text, value[:i])
	}
	o.AddHosts = append(o.AddHosts, HostEntry{Name: value[:i], Address: address.String()})
	return nil
}

// addDNS takes IPv4 only: guests have no other to reach a name server by.
func (o *Options) addDNS(value string) error {
	address, err := netip.ParseAddr(value)
	if err != nil || !address.Is4() {
		return fmt.Errorf("%.80q is not an IPv4 address; write for example 192.0.2.53", value)
	}
	o.DNS = appendNew(o.DNS, address.String())
	return nil
}

// addDNSSearch takes a domain, or "." for none.
func (o *Options) addDNSSearch(value string) error {
	if value != "." && !isName(strings.TrimSuffix(value, ".")) {
		return fmt.Errorf("%.80q is not a domain; write for example example.test", value)
	}
	o.DNSSearch = appendNew(o.DNSSearch, value)
	return nil
}

// addDNSOption takes an option of resolv.conf(5).
func (o *Options) addDNSOption(value string) error {
	if !isWord(value, alphanumeric, alphanumeric+":-") {
		return fmt.Errorf("%.80q is not an option of resolv.conf(5); write for example ndots:2", value)
	}
	o.DNSOptions = appendNew(o.DNSOptions, value)
	return nil
}

func (o *Options) setDomainname(value string) error {
	if !isHostname(value) {
		return fmt.Errorf("%.80q is not a domain; write letters, digits and inner hyphens, 63 at most", value)
	}
	o.Domainname = value
	return nil
}

// addSysctl parses net.NAME=VALUE.
func (o *Options) addSysctl(value string) error {
	name, setting, ok := strings.Cut(value, "=")
	if !ok || setting == "" {
		return fmt.Errorf("%.80q is not NAME=VALUE; write for example net.core.somaxconn=1024", value)
	}
	isPart := func(part string) bool { return isWord(part, alphanumeric+"_", alphanumeric+"_-") }
	if !eachPart(name, ".", isPart) {
		return fmt.Errorf("%.80q is not a name of sysctl(8); write for example net.core.somaxconn=1024", name)
	}
	if !strings.HasPrefix(name, "net.") {
		return errors.New("only those beneath net belong to a guest, all others to the host; remove it")
	}

	if o.Sysctls == nil {
		o.Sysctls = map[string]string{}
	}
	o.Sysctls[name] = setting
	return nil
}

// publish parses what ports: takes as well.
func (o *Options) publish(value string) error {
	ports, err := ParsePorts(value)
	o.Ports = append(o.Ports, ports...)
	return err
}
