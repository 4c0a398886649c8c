package guestinit

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestTrustAuthorities(t *testing.T) {
	const pem, with = "-- ours --\n", "-- theirs --\n-- ours --\n"
	tests := []struct {
		summary string
		make    map[string]string // files, and links by a target that begins with ">"
		want    map[string]string
	}{
		{
			summary: "no store",
			want:    map[string]string{"usr/local/share/ca-certificates/runner.crt": pem},
		},
		{
			summary: "Debian",
			make:    map[string]string{"etc/ssl/certs/ca-certificates.crt": "-- theirs --"},
			want: map[string]string{
				"etc/ssl/certs/ca-certificates.crt":          with,
				"usr/local/share/ca-certificates/runner.crt": pem,
			},
		},
		{
			summary: "Alpine: two names of one file",
			make: map[string]string{
				"etc/ssl/certs/ca-certificates.crt": "-- theirs --",
				"etc/ssl/cert.pem":                  ">certs/ca-certificates.crt",
			},
			want: map[string]string{"etc/ssl/cert.pem": with},
		},
		{
			summary: "Fedora",
			make: map[string]string{
				"etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem": "-- theirs --",
				"etc/pki/tls/certs/ca-bundle.crt":                  ">../../ca-trust/extracted/pem/tls-ca-bundle.pem",
				"etc/pki/ca-trust/source/anchors/README":           "",
			},
			want: map[string]string{
				"etc/pki/tls/certs/ca-bundle.crt":            with,
				"etc/pki/ca-trust/source/anchors/runner.pem": pem,
			},
		},
		{
			summary: "a link that leads nowhere",
			make:    map[string]string{"etc/ssl/certs/ca-certificates.crt": ">none"},
			want:    map[string]string{"usr/local/share/ca-certificates/runner.crt": pem},
		},
	}
	for _, tt := range tests {
		t.Run(tt.summary, func(t *testing.T) {
			root := t.TempDir()
			for name, content := range tt.make {
				lay(t, filepath.Join(root, name), content)
			}
			if err := trustAuthorities(root, pem); err != nil {
				t.Fatal(err)
			}
			for name, want := range tt.want {
				if got, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(got) != want {
					t.Errorf("%s is %q, %v; want %q", name, got, err, want)
				}
			}
		})
	}
}

// lay writes a file, or a link if content begins with ">".
func lay(t *testing.T, name, content string) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(name), 0o755)
	if err == nil && content != "" && content[0] == '>' {
		err = os.Symlink(content[1:], name)
	} else if err == nil {
		err = os.WriteFile(name, []byte(content), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestTrustAuthoritiesOfAnyImage: an image with something else in the place of a
// store neither holds the agent up nor makes it fail.
func TestTrustAuthoritiesOfAnyImage(t *testing.T) {
	root := t.TempDir()
	lay(t, filepath.Join(root, "etc/ssl/certs/ca-certificates.crt/x"), "") // a directory
	if err := unix.Mkfifo(filepath.Join(root, "etc/ssl/cert.pem"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := trustAuthorities(root, "x"); err != nil {
		t.Error(err)
	}
}
