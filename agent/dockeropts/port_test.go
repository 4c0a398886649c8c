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
		{"8080", Port{0, 8080, "tcp"}},
		{"8080/udp", Port{0, 8080, "udp"}},
		{"8080:80", Port{8080, 80, "tcp"}},
		{"8080:80/udp", Port{8080, 80, "udp"}},
		{"8080:80/TCP", Port{8080, 80, "tcp"}},
		{"1:65535", Port{1, 65535, "tcp"}},
	}
	for _, tt := range tests {
		if got, err := ParsePort(tt.text); err != nil || got != tt.want {
			t.Errorf("ParsePort(%q) is %+v, %v; want %+v", tt.text, got, err, tt.want)
		}
	}
}

func TestParsePortErrors(t *testing.T) {
	const (
		form     = "port %s is neither CONTAINER nor HOST:CONTAINER with numbers from 1 to 65535; write for example 8080:80"
		protocol = "port %s has an unknown protocol; write /tcp or /udp, or none for tcp"
		address  = "port %s names an address, but only the machine's loopback is published to; leave the address out, as in 8080:80"
		several  = "port %s is a range; write each port on a line of its own"
	)
	tests := []struct{ text, want string }{
		{"", form},
		{"0", form},
		{"65536", form},
		{"1:", form},
		{":1", form},
		{":", form},
		{"1:1:1", form},
		{"0:80", form},
		{"80:0", form},
		{"-1", form},
		{"+80", form},
		{" 80", form},
		{"0x50", form},
		{"http", form},
		{"80:http", form},
		{"1/tcp/udp", protocol},
		{"1:1/tcp/udp", protocol},
		{"80/", protocol},
		{"80/sctp", protocol},
		{"80-90", several},
		{"80-90:80-90/udp", several},
		{"127.0.0.1:8080:80", address},
		{"127.0.0.1::80", address},
		{"127.0.0.1:80", address},
		{"[::1]:8080:80/udp", address},
		{"localhost:80:80", address},
	}
	for _, tt := range tests {
		want := fmt.Sprintf(tt.want, `"`+tt.text+`"`)
		if got, err := ParsePort(tt.text); err == nil || err.Error() != want || got != (Port{}) {
			t.Errorf("ParsePort(%q) is %+v,\n%v; want\n%s", tt.text, got, err, want)
		}
	}
	if _, err := ParsePort(strings.Repeat("1", 300)); err == nil || err.Error() != fmt.Sprintf(form, `"`+strings.Repeat("1", 80)+`"`) {
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
