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
	lan := file("lan", "search example.org\nnameserver 10.0.2.3 # router\n\tnameserver 9.9.9.9\n"+
		"nameserver 10.0.2.3\n#nameserver 8.8.8.8\n")
	odd := file("odd", "nameserver\nnameserver fe80::1%eth0\nnameserver fd00::53\nnameserver x\n"+
		"nameserver 0.0.0.0\nnameservers 1.1.1.1")
	for _, test := range []struct {
		summary string
		files   []string
		want    string
	}{
		{summary: "private and public, each once", files: []string{lan}, want: "[10.0.2.3 9.9.9.9]"},
		{
			summary: "the first that has any",
			files:   []string{filepath.Join(dir, "missing"), stub, lan},
			want:    "[10.0.2.3 9.9.9.9]",
		},
		{summary: "only loopback", files: []string{stub}, want: "[]"},
		{summary: "nothing a guest can use", files: []string{odd}, want: "[]"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			if got := fmt.Sprint(network.Resolvers(test.files...)); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}
