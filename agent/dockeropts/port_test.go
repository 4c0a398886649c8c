package dockeropts

import (
	"fmt"
	"strings"
	"testing"
)

func TestParsePort(t *testing.T) {
	tests := []struct {
		text string
		want Port
	}{
		{text: "8080", want: Port{Container: 8080, Protocol: "tcp"}},
		{text: "8080/udp", want: Port{Container: 8080, Protocol: "udp"}},
		{text: "8080:80", want: Port{Host: 8080, Container: 80, Protocol: "tcp"}},
		{text: "8080:80/udp", want: Port{Host: 8080, Container: 80, Protocol: "udp"}},
		{text: "8080:80/TCP", want: Port{Host: 8080, Container: 80, Protocol: "tcp"}},
		{text: "1:65535", want: Port{Host: 1, Container: 65535, Protocol: "tcp"}},
	}
	for _, tt := range tests {
		if got, err := ParsePort(tt.text); err != nil || got != tt.want {
			t.Errorf("ParsePort(%q) is %+v, %v; want %+v", tt.text, got, err, tt.want)
		}
	}
}

func TestParsePortErrors(t *testing.T) {
	const (
		form = "port %s is neither CONTAINER nor HOST:CONTAINER with numbers from 1 to 65535; " +
			"write for example 8080:80"
		protocol = "port %s has an unknown protocol; write /tcp or /udp, or none for tcp"
		address  = "port %s names an address, but ports are published on the host's loopback only; " +
			"leave the address out, as in 8080:80"
		several = "port %s is a range; write each port on a line of its own"
	)
	tests := []struct{ text, want string }{
		{text: "", want: form},
		{text: "0", want: form},
		{text: "65536", want: form},
		{text: "1:", want: form},
		{text: ":1", want: form},
		{text: ":", want: form},
		{text: "1:1:1", want: form},
		{text: "0:80", want: form},
		{text: "80:0", want: form},
		{text: "-1", want: form},
		{text: "+80", want: form},
		{text: " 80", want: form},
		{text: "0x50", want: form},
		{text: "http", want: form},
		{text: "80:http", want: form},
		{text: "1/tcp/udp", want: protocol},
		{text: "1:1/tcp/udp", want: protocol},
		{text: "80/", want: protocol},
		{text: "80/sctp", want: protocol},
		{text: "80-90", want: several},
		{text: "80-90:80-90/udp", want: several},
		{text: "127.0.0.1:8080:80", want: address},
		{text: "127.0.0.1::80", want: address},
		{text: "127.0.0.1:80", want: address},
		{text: "[::1]:8080:80/udp", want: address},
		{text: "localhost:80:80", want: address},
	}
	for _, tt := range tests {
		want := fmt.Sprintf(tt.want, `"`+tt.text+`"`)
		if got, err := ParsePort(tt.text); err == nil || err.Error() != want || got != (Port{}) {
			t.Errorf("ParsePort(%q) is %+v,\n%v; want\n%s", tt.text, got, err, want)
		}
	}
	want := fmt.Sprintf(form, `"`+strings.Repeat("1", 80)+`"`)
	if _, err := ParsePort(strings.Repeat("1", 300)); err == nil || err.Error() != want {
		t.Errorf("a long port fails with %v", err)
	}
}

func FuzzParsePort(f *testing.F) {
	for _, text := range []string{"80", "8080:80/udp", "127.0.0.1:1:1", "80-90", ":", "/"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParsePort(text)
		if err != nil {
			if s := err.Error(); len(s) > 1200 || strings.ContainsAny(s, "\n\r\x00") {
				t.Errorf("ParsePort(%q) fails with %q", text, s)
			}
			return
		}
		if p.Container == 0 || p.Protocol != "tcp" && p.Protocol != "udp" {
			t.Errorf("ParsePort(%q) is %+v", text, p)
		}
		written := fmt.Sprintf("%d/%s", p.Container, p.Protocol)
		if p.Host != 0 {
			written = fmt.Sprintf("%d:%s", p.Host, written)
		}
		if again, err := ParsePort(written); err != nil || again != p {
			t.Errorf("ParsePort(%q) is %+v, but written %q, %+v, %v", text, p, written, again, err)
		}
	})
}
