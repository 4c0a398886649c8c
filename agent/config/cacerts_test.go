package config_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mkappliance/mkappliance/agent/config"
)

// certificate returns one in PEM that is valid for a time from now on, and was
// issued by an authority of another name unless it is one itself.
func certificate(t *testing.T, name string, isCA bool, valid time.Duration) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Now().Add(valid),
		BasicConstraintsValid: true, IsCA: isCA,
	}
	issuer := template
	if !isCA {
		issuer = &x509.Certificate{Subject: pkix.Name{CommonName: "authority"}}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// loadCACerts loads a config.env whose fourth line names a file with content.
func loadCACerts(t *testing.T, content string) (*config.Config, []string, error) {
	t.Helper()
	// The directories of tests are beneath /tmp, which config.env may not name.
	dir, err := os.MkdirTemp("/var/tmp", "cacerts")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if content != "" {
		if err := os.WriteFile(filepath.Join(dir, "ca.pem"), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}

	text := "RUNNER_GITHUB_URL=https://ghes.example/acme\nRUNNER_REGISTRATION_TOKEN=" + token +
		"\nRUNNER_NAME=a\nRUNNER_CA_CERTS=" + dir + "/ca.pem\n"
	if err := os.WriteFile(filepath.Join(dir, "config.env"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, warnings, err := config.Load(filepath.Join(dir, "config.env"))
	for i := range warnings {
		warnings[i] = strings.ReplaceAll(warnings[i], dir, "DIR")
	}
	if err != nil {
		err = fmt.Errorf("%s", strings.ReplaceAll(err.Error(), dir, "DIR"))
	}
	return c, warnings, err
}

func TestCACerts(t *testing.T) {
	one, two := certificate(t, "one", true, time.Hour), certificate(t, "two", true, time.Hour)
	c, warnings, err := loadCACerts(t, "one:\n"+one+"two:\r\n"+strings.ReplaceAll(two, "\n", "\r\n"))
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	if !bytes.Equal(c.CACerts.PEM, []byte(one+two)) {
		t.Errorf("read\n%s, want\n%s", c.CACerts.PEM, one+two)
	}
	if err := c.CheckRegistration(); err != nil {
		t.Error(err)
	}
	want := []string{"SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt", "NODE_EXTRA_CA_CERTS=/run/runner/ca-certs.pem"}
	if got := c.CACerts.Environ(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := new(config.CACerts).Environ(); got != nil {
		t.Errorf("sets %q for none", got)
	}
}

func TestBadCACerts(t *testing.T) {
	good := certificate(t, "one", true, time.Hour)
	key := string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: []byte("secret")}))
	broken := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}))
	const at = "DIR/config.env:4: RUNNER_CA_CERTS names DIR/ca.pem, "
	tests := []struct{ summary, content, want string }{
		{summary: "missing", want: at + "but there is no such file; write it, for example by cloud-init's write_files"},
		{summary: "not PEM", content: "MIIB", want: at + "which holds no certificate in PEM; write certificates to it, " +
			"each from -----BEGIN CERTIFICATE----- to -----END CERTIFICATE-----"},
		{summary: "private key", content: good + key, want: at + "which holds a private key; " +
			"it must hold certificates only"},
		{summary: "broken", content: good + broken, want: at + "whose certificate 2 cannot be read: " +
			"x509: malformed certificate; copy it again"},
		{summary: "of a server", content: certificate(t, "server", false, time.Hour), want: at +
			`whose certificate 1 ("CN=server") is that of a server; take the one of the authority that issued it`},
		{summary: "too large", content: strings.Repeat("#", 1<<20+1),
			want: "DIR/config.env:4: RUNNER_CA_CERTS names a file that cannot be read: " +
				"DIR/ca.pem is larger than 1048576 bytes; write certificates in PEM to it"},
	}
	for _, tt := range tests {
		t.Run(tt.summary, func(t *testing.T) {
			if _, _, err := loadCACerts(t, tt.content); err == nil || err.Error() != tt.want {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

// TestExpiredCACerts: only what has to talk to GitHub for the first time fails.
func TestExpiredCACerts(t *testing.T) {
	old, good := certificate(t, "old", true, -24*time.Hour), certificate(t, "good", true, time.Hour)
	message := `config.env:4: RUNNER_CA_CERTS names DIR/ca.pem, where these certificates have expired: "CN=old" on ` +
		time.Now().UTC().Add(-24*time.Hour).Format(time.DateOnly) + "; write new ones to it"
	tests := []struct {
		summary string
		content string
		fails   bool
	}{
		{summary: "one of two", content: old + good},
		{summary: "all", content: old, fails: true},
	}
	for _, tt := range tests {
		t.Run(tt.summary, func(t *testing.T) {
			c, warnings, err := loadCACerts(t, tt.content)
			if err != nil || !slices.Equal(warnings, []string{"DIR/" + message}) {
				t.Fatalf("got %q, %v\nwant %s", warnings, err, message)
			}
			err = c.CheckRegistration()
			if fails := err != nil; fails != tt.fails {
				t.Errorf("got %v", err)
			}
		})
	}
}
