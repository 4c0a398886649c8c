package config

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/mkappliance/mkappliance/internal/layout"
)

// CACerts are certificate authorities that the appliance trusts besides those of
// the system.
type CACerts struct {
	File string // of config.env; "" for none
	PEM  []byte // the certificates alone, as Load read them from File

	certs []*x509.Certificate
}

// transientDirs are directories of the appliance that are empty or as the image
// has them at every boot, while cloud-init writes its files only once.
var transientDirs = []string{"/etc", "/run", "/var/run", "/tmp", "/dev", "/proc", "/sys", "/usr"}

func parseCACertsFile(v string) (string, error) {
	if !cleanAbsolute(v) || v == "/" {
		return "", errors.New("is not an absolute path in its shortest form; write for example " + exampleCACerts)
	}
	kept := path.Dir(layout.ConfigFile)
	for _, dir := range transientDirs {
		if within(v, dir) && !within(v, kept) {
			return "", fmt.Errorf("names a file beneath %s, which a reboot does not keep; "+
				"write the file to %s", dir, exampleCACerts)
		}
	}
	return v, nil
}

const exampleCACerts = "/etc/runner/ca-certs.pem"

// maxCACerts bounds the file of certificates. All public authorities together
// need less than 300 KiB.
const maxCACerts = 1 << 20

// readCACerts reads the file of RUNNER_CA_CERTS, if there is one.
func (c *Config) readCACerts(now time.Time) (warning string, err error) {
	if c.CACerts.File == "" {
		return "", nil
	}
	if err := c.CACerts.read(); err != nil {
		return "", fmt.Errorf("%s%s %w", c.at(keyCACerts), keyCACerts, err)
	}
	if message, _ := c.CACerts.expired(now); message != "" {
		return c.at(keyCACerts) + keyCACerts + " " + message, nil
	}
	return "", nil
}

// read reads the certificates of the file. A message follows the key.
func (c *CACerts) read() error {
	data, err := readBounded(c.File, maxCACerts)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("names %s, but there is no such file; write it, for example by cloud-init's write_files",
			quotable(c.File))
	case err != nil:
		return fmt.Errorf("names a file that cannot be read: %w; write certificates in PEM to it", err)
	}

	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if strings.HasSuffix(block.Type, "PRIVATE KEY") {
			return fmt.Errorf("names %s, which holds a private key; it must hold certificates only", quotable(c.File))
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		if err := c.add(block.Bytes); err != nil {
			return fmt.Errorf("names %s, whose certificate %d %w", quotable(c.File), len(c.certs)+1, err)
		}
	}
	if len(c.certs) == 0 {
		return fmt.Errorf("names %s, which holds no certificate in PEM; write certificates to it, each from "+
			"-----BEGIN CERTIFICATE----- to -----END CERTIFICATE-----", quotable(c.File))
	}
	return nil
}

// add adds a certificate in DER.
func (c *CACerts) add(der []byte) error {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("cannot be read: %w; copy it again", err)
	}
	if !cert.IsCA && !slices.Equal(cert.RawSubject, cert.RawIssuer) {
		return fmt.Errorf("(%.80q) is that of a server; take the one of the authority that issued it", cert.Subject.String())
	}

	c.certs = append(c.certs, cert)
	c.PEM = append(c.PEM, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	return nil
}

// expired returns a message about the certificates that are not valid any more
// at a time, or "", and reports whether no other is left.
func (c *CACerts) expired(now time.Time) (message string, all bool) {
	var names []string
	for _, cert := range c.certs {
		if now.After(cert.NotAfter) {
			names = append(names, fmt.Sprintf("%.80q on %s", cert.Subject.String(), cert.NotAfter.Format(time.DateOnly)))
		}
	}
	if names == nil {
		return "", false
	}
	return fmt.Sprintf("names %s, where these certificates have expired: %s; write new ones to it",
		quotable(c.File), strings.Join(names, ", ")), len(names) == len(c.certs)
}

// Environ returns the variables, as KEY=VALUE, that let the actions runner and
// node.js on the host use the authorities: .NET takes SSL_CERT_FILE beside its
// directory of certificates, node.js only what NODE_EXTRA_CA_CERTS names beside
// the list that it brings. Both files are those that package trust writes.
func (c *CACerts) Environ() []string {
	if c.File == "" {
		return nil
	}
	return []string{"SSL_CERT_FILE=" + layout.CABundle, "NODE_EXTRA_CA_CERTS=" + layout.CACerts}
}

// readBounded reads a regular file of at most limit bytes.
func readBounded(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file", quotable(name))
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", quotable(name), limit)
	}
	return data, err
}
