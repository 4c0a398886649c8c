package fakegithub

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"syscall"
	"time"
)

// ErrReserved says that this user may not listen on ports 80 and 443.
var ErrReserved = errors.New("ports 80 and 443 are reserved; run the tests as root")

// Listen listens on port 80, to which the actions runner goes whatever the port
// in --url is, at a loopback address that nobody else uses.
func Listen() (net.Listener, error) { return listenAt(80) }

func listenAt(port int) (net.Listener, error) {
	for {
		// 127.0.0.0/8 is all this machine's; its first network has others' servers.
		addr := fmt.Sprintf("127.%d.%d.%d:%d", 1+mathrand.IntN(254), mathrand.IntN(256), 1+mathrand.IntN(254), port)
		l, err := net.Listen("tcp4", addr)
		if err == nil {
			return l, nil
		}
		if errors.Is(err, fs.ErrPermission) {
			return nil, ErrReserved
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			return nil, err
		}
	}
}

// ListenTLS does the same on port 443. The certificate is of an authority that
// nobody knows: authority is its own, in PEM.
func ListenTLS() (l net.Listener, authority []byte, err error) {
	plain, err := listenAt(443)
	if err != nil {
		return nil, nil, err
	}
	addr, ok := plain.Addr().(*net.TCPAddr)
	if !ok {
		return nil, nil, fmt.Errorf("cannot listen: %v is not an address of TCP", plain.Addr())
	}
	certificate, authority, err := issue(addr.IP)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot issue a certificate: %w", err)
	}
	return tls.NewListener(plain, &tls.Config{Certificates: []tls.Certificate{certificate}}), authority, nil
}

// issue makes an authority and a certificate of it for an address.
func issue(ip net.IP) (server tls.Certificate, authority []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return server, nil, err
	}
	parent := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Fake authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	root, err := x509.CreateCertificate(rand.Reader, parent, parent, &key.PublicKey, key)
	if err != nil {
		return server, nil, err
	}

	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "Fake GitHub"}, IPAddresses: []net.IP{ip},
		NotBefore: parent.NotBefore, NotAfter: parent.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, parent, &key.PublicKey, key)
	if err != nil {
		return server, nil, err
	}
	authority = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root})
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, authority, nil
}
