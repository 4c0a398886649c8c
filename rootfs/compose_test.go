package rootfs

import (
	"os"
	"path/filepath"
	"testing"
)

func TestScrub(t *testing.T) {
	root := tree(t, map[string]string{
		"etc/ssh/ssh_host_rsa_key": "secret",
		"etc/ssh/sshd_config":      "kept",
		"etc/machine-id":           "0123456789abcdef",
		"etc/passwd-":              "backup",
		"etc/passwd":               "kept",
		"tmp/left":                 "",
		"var/log/dpkg.log":         "log",
		"var/lib/apt/lists/index":  "index",
		"var/lib/dpkg/status":      "kept",
	})
	if err := scrub(root); err != nil {
		t.Fatal(err)
	}

	want := `etc/ 0755
etc/.updated -r--r--r-- ""
etc/machine-id -rw------- ""
etc/passwd -rw------- "kept"
etc/ssh/ 0755
etc/ssh/sshd_config -rw------- "kept"
tmp/ 0755
var/ 0755
var/.updated -r--r--r-- ""
var/cache/ 0755
var/cache/apt/ 0755
var/cache/apt/archives/ 0755
var/cache/apt/archives/partial/ 0755
var/cache/debconf/ 0755
var/lib/ 0755
var/lib/apt/ 0755
var/lib/apt/lists/ 0755
var/lib/apt/lists/partial/ 0755
var/lib/dpkg/ 0755
var/lib/dpkg/status -rw------- "kept"
var/log/ 0755
`
	if got := dump(t, root); got != want {
		t.Errorf("got tree\n%swant\n%s", got, want)
	}
}

func TestSplitVar(t *testing.T) {
	dir := tree(t, map[string]string{
		"root/etc/passwd":          "passwd",
		"root/home/":               "",
		"root/root/.profile":       "profile",
		"root/usr/":                "",
		"root/var/lib/dpkg/status": "status",
		"root/var/log/":            "",
		"var/":                     "",
	})
	err := splitVar(&HostTree{Root: filepath.Join(dir, "root"), Var: filepath.Join(dir, "var")})
	if err != nil {
		t.Fatal(err)
	}

	want := `root/ 0755
root/efi/ 0755
root/etc/ 0755
root/etc/passwd -rw------- "passwd"
root/home -> var/home
root/root -> var/roothome
root/usr/ 0755
root/usr/lib/ 0755
root/usr/lib/sysimage/ 0755
root/usr/lib/sysimage/dpkg/ 0755
root/usr/lib/sysimage/dpkg/status -rw------- "status"
root/var/ 0755
var/ 0755
var/home/ 0755
var/lib/ 0755
var/lib/dpkg -> ../../usr/lib/sysimage/dpkg
var/log/ 0755
var/roothome/ 0755
var/roothome/.profile -rw------- "profile"
`
	if got := dump(t, dir); got != want {
		t.Errorf("got tree\n%swant\n%s", got, want)
	}
}

func TestKernelRelease(t *testing.T) {
	const several = "found 2 kernels in the host tree, want exactly one: list one linux-image package in images.toml"
	for _, test := range []struct {
		summary   string
		kernels   []string
		want, err string
	}{
		{summary: "one", kernels: []string{"vmlinuz-6.12-amd64"}, want: "6.12-amd64"},
		{summary: "two", kernels: []string{"vmlinuz-1", "vmlinuz-2"}, err: several},
	} {
		t.Run(test.summary, func(t *testing.T) {
			root := tree(t, map[string]string{"boot/": ""})
			for _, kernel := range test.kernels {
				if err := os.WriteFile(filepath.Join(root, "boot", kernel), nil, 0o644); err != nil {
					t.Fatal(err)
				}
			}

			got, err := kernelRelease(root)
			text := ""
			if err != nil {
				text = err.Error()
			}
			if got != test.want || text != test.err {
				t.Errorf("got %q, %q; want %q, %q", got, text, test.want, test.err)
			}
		})
	}
}
