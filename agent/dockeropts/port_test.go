package dockeropts

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParsePorts(t *testing.T) {
	several := func(protocol string, host, container uint16, n int) (ports []Port) {
		for i := range uint16(n) {
			p := Port{Container: container + i, Protocol: protocol}
			if host != 0 {
				p.Host = host + i
			}
			ports = append(ports, p)
		}
		return ports
	}
	tests := []struct {
		text string
		want []Port
	}{
		{text: "8080", want: []Port{{Container: 8080, Protocol: "tcp"}}},
		{text: "8080/udp", want: []Port{{Container: 8080, Protocol: "udp"}}},
		{text: "8080:80", want: []Port{{Host: 8080, Container: 80, Protocol: "tcp"}}},
		{text: "8080:80/udp", want: []Port{{Host: 8080, Container: 80, Protocol: "udp"}}},
		{text: "8080:80/TCP", want: []Port{{Host: 8080, Container: 80, Protocol: "tcp"}}},
		{text: "1:65535", want: []Port{{Host: 1, Container: 65535, Protocol: "tcp"}}},

		{text: "8000-8002:8000-8002", want: several("tcp", 8000, 8000, 3)}, // V27
		{text: "9000-9001", want: several("tcp", 0, 9000, 2)},              // V28
		{text: "8000-8002:80-82/udp", want: several("udp", 8000, 80, 3)},
		{text: "80-80", want: several("tcp", 0, 80, 1)},
		{text: "1-256", want: several("tcp", 0, 1, 256)},
		{text: "65535-65535:65535", want: several("tcp", 65535, 65535, 1)},

		{text: "127.0.0.1:8080:80", want: several("tcp", 8080, 80, 1)}, // V25
		{text: "127.0.0.1::80", want: several("tcp", 0, 80, 1)},
		{text: "0.0.0.0:8080:80", want: several("tcp", 8080, 80, 1)}, // V26
		{text: "[::1]:8080:80/udp", want: several("udp", 8080, 80, 1)},
		{text: "::1:8080:80", want: several("tcp", 8080, 80, 1)},
		{text: "[::]:8000-8001:8000-8001", want: several("tcp", 8000, 8000, 2)},
	}
	for _, tt := range tests {
		got, err := ParsePorts(tt.text)
		if diff := cmp.Diff(tt.want, got); err != nil || diff != "" {
			t.Errorf("ParsePorts(%q) fails with %v, -want +got:\n%s", tt.text, err, diff)
		}
	}
}

func TestParsePortsErrors(t *testing.T) {
	const (
		form = "port %s is neither CONTAINER nor HOST:CONTAINER with numbers from 1 to 65535; " +
			"write for example 8080:80"
		protocol = "port %s has an unknown protocol; write /tcp or /udp, or none for tcp"
		address  = "port %s has something else than an address before its ports; write for example 127.0.0.1:8080:80"
		foreign  = "port %s names the address 192.0.2.1, but ports are published on loopback only; " +
			"leave the address out, as in 8080:80"
		unequal = "port %s maps a range to one of another length; write for example 8000-8002:80-82"
		many    = "port %s names more than the 256 ports that a job can publish"
	)
	tests := []struct{ text, want string }{
		{text: "", want: form},
		{text: "0", want: form},
		{text: "65536", want: form},
		{text: "1:", want: form},
		{text: ":1", want: form},
		{text: ":", want: form},
		{text: "0:80", want: form},
		{text: "80:0", want: form},
		{text: "-1", want: form},
		{text: "+80", want: form},
		{text: " 80", want: form},
		{text: "0x50", want: form},
		{text: "http", want: form},
		{text: "80:http", want: form},
		{text: "90-80", want: form},
		{text: "80-", want: form},
		{text: "0-1", want: form},
		{text: "1-2-3", want: form},
		{text: "127.0.0.1:80:", want: form},
		{text: "1/tcp/udp", want: protocol},
		{text: "1:1/tcp/udp", want: protocol},
		{text: "80/", want: protocol},
		{text: "80/sctp", want: protocol},
		{text: "80-90:80", want: unequal},
		{text: "80:80-90/udp", want: unequal},
		{text: "1-257", want: many},
		{text: "1-65535", want: many},
		{text: "1:1:1", want: address},
		{text: "127.0.0.1:80", want: address},
		{text: "localhost:80:80", want: address},
		{text: "192.0.2.1:80:80", want: foreign},
	}
	for _, tt := range tests {
		want := fmt.Sprintf(tt.want, `"`+tt.text+`"`)
		if got, err := ParsePorts(tt.text); err == nil || err.Error() != want || got != nil {
			t.Errorf("ParsePorts(%q) is %+v,\n%v; want\n%s", tt.text, got, err, want)
		}
	}
	want := fmt.Sprintf(form, `"`+strings.Repeat("1", 80)+`"`)
	if _, err := ParsePorts(strings.Repeat("1", 300)); err == nil || err.Error() != want {
		t.Errorf("a long port fails with %v", err)
	}
}

func FuzzParsePorts(f *testing.F) {
	for _, text := range []string{"80", "8080:80/udp", "127.0.0.1:1:1", "80-90", "1-2:3-4", "[::1]::1", ":", "/"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		ports, err := ParsePorts(text)
		if err != nil {
			if s := err.Error(); len(s) > 1200 || strings.ContainsAny(s, "\n\r\x00") {
				t.Errorf("ParsePorts(%q) fails with %q", text, s)
			}
			return
		}
		if len(ports) == 0 || len(ports) > 256 {
			t.Errorf("ParsePorts(%q) returns %d ports", text, len(ports))
		}
		for _, p := range ports {
			if p.Container == 0 || p.Protocol != "tcp" && p.Protocol != "udp" {
				t.Errorf("ParsePorts(%q) has %+v", text, p)
			}
			written := fmt.Sprintf("%d/%s", p.Container, p.Protocol)
			if p.Host != 0 {
				written = fmt.Sprintf("%d:%s", p.Host, written)
			}
			if again, err := ParsePorts(written); err != nil || !slices.Equal(again, []Port{p}) {
				t.Errorf("ParsePorts(%q) has %+v, but written %q, %+v, %v", text, p, written, again, err)
			}
		}
	})
}
