package network_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/mkappliance/mkappliance/agent/network"
)

func TestResolvers(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	stub := file("stub", "# made by systemd-resolved\nnameserver 127.0.0.53\noptions edns0\n")
	lan := file("lan", "search example.org\nnameserver 10.0.2.3 # router\n\tnameserver 9.9.9.9\nnameserver 10.0.2.3\n#nameserver 8.8.8.8\n")
	odd := file("odd", "nameserver\nnameserver fe80::1%eth0\nnameserver fd00::53\nnameserver x\nnameserver 0.0.0.0\nnameservers 1.1.1.1")
	for _, test := range []struct {
		summary string
		files   []string
		want    string
	}{
		{"private and public, each once", []string{lan}, "[10.0.2.3 9.9.9.9]"},
		{"the first that has any", []string{filepath.Join(dir, "missing"), stub, lan}, "[10.0.2.3 9.9.9.9]"},
		{"only loopback", []string{stub}, "[]"},
		{"nothing a guest can use", []string{odd}, "[]"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			if got := fmt.Sprint(network.Resolvers(test.files...)); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}
