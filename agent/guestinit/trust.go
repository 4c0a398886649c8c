package guestinit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/agent/guestapi"
)

// bundles are the files, one or several in a system, from which programs take
// the authorities that they trust. https://go.dev/src/crypto/x509/root_linux.go
// has such a list with its sources.
var bundles = []string{
	"/etc/ssl/certs/ca-certificates.crt",                // Debian, Ubuntu, Arch, Alpine
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // Fedora, RHEL
	"/etc/pki/tls/certs/ca-bundle.crt",                  // older ones of these
	"/etc/ssl/ca-bundle.pem",                            // openSUSE
	"/etc/ssl/cert.pem",                                 // older Alpine
}

// anchors is where Fedora's update-ca-trust(8) looks for authorities.
const anchors = "/etc/pki/ca-trust/source/anchors"

// trustAuthorities adds certificates in PEM to those that the system beneath
// root trusts, and writes them where a later update of its store finds them.
func trustAuthorities(root, pem string) error {
	if err := replace(filepath.Join(root, guestapi.CACertsFile), pem); err != nil {
		return err
	}
	if st, err := os.Stat(filepath.Join(root, anchors)); err == nil && st.IsDir() {
		if err := replace(filepath.Join(root, anchors, "runner.pem"), pem); err != nil {
			return err
		}
	}

	var done []fs.FileInfo
	for _, name := range bundles {
		file, err := appendTo(filepath.Join(root, name), pem, done)
		if err != nil {
			return fmt.Errorf("cannot add authorities to %s: %w", name, err)
		}
		if file != nil {
			done = append(done, file)
		}
	}
	return nil
}

// appendTo appends text, as lines of its own, to a file that exists and is none
// of done: some bundles are links to others. It returns the file, or nil if
// there is none.
func appendTo(name, text string, done []fs.FileInfo) (fs.FileInfo, error) {
	// An image may have anything there, a pipe without a reader too.
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.EISDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()

	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		return nil, err
	}
	for _, other := range done {
		if os.SameFile(st, other) {
			return nil, nil
		}
	}
	_, err = f.WriteString("\n" + text)
	return st, err
}
