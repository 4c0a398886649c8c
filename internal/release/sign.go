package release

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"aead.dev/minisign"
)

// PublicKey verifies signatures.
type PublicKey = minisign.PublicKey

// PrivateKey makes signatures.
type PrivateKey = minisign.PrivateKey

// Errors of Verify.
var (
	ErrUnknownKey   = errors.New("signed with an unknown key")
	ErrBadSignature = errors.New("the signature does not fit the content")
	ErrOtherFile    = errors.New("the signature is for another file")
)

// KeyID returns the id of a key as minisign prints it.
func KeyID(id uint64) string { return fmt.Sprintf("%016X", id) }

// Sign returns the signature of a file's content, in minisign's format. The
// trusted comment is the one that minisign writes, with the time and the name.
func Sign(key PrivateKey, name string, data []byte, when time.Time) ([]byte, error) {
	if strings.ContainsAny(name, "\t\r\n/") || name == "" {
		return nil, fmt.Errorf("cannot sign %q: not a file name", name)
	}
	r := minisign.NewReader(bytes.NewReader(data))
	if _, err := new(bytes.Buffer).ReadFrom(r); err != nil {
		return nil, fmt.Errorf("cannot sign %s: %w", name, err)
	}
	trusted := "timestamp:" + strconv.FormatInt(when.Unix(), 10) + "\t" + fileField + name + "\thashed"
	return r.SignWithComments(key, trusted, "signature from mkappliance, key "+KeyID(key.ID())), nil
}

// fileField begins the field of a trusted comment that names the file.
const fileField = "file:"

// Verify checks the signature over a file's content and name against the keys, of
// which one must have made it. A failure has ErrUnknownKey, ErrBadSignature or
// ErrOtherFile in its chain, or the signature is not one.
func Verify(keys []PublicKey, name string, data, signature []byte) error {
	return verify(keys, name, signature, func(key PublicKey) bool { return minisign.Verify(key, data, signature) })
}

// VerifyReader is Verify for content that is read, to its end. The signature must
// be of a hash of the content, as those of Sign and of minisign -S are.
func VerifyReader(keys []PublicKey, name string, data io.Reader, signature []byte) error {
	content := minisign.NewReader(data)
	if _, err := io.Copy(io.Discard, content); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return verify(keys, name, signature, func(key PublicKey) bool { return content.Verify(key, signature) })
}

// verify is Verify, with what compares the signature of a key with the content.
func verify(keys []PublicKey, name string, signature []byte, fits func(PublicKey) bool) error {
	fail := func(err error) error { return fmt.Errorf("%s: %w", name, err) }
	if len(signature) > MaxSignature {
		return fail(fmt.Errorf("the signature has more than %d KiB", MaxSignature>>10))
	}
	var s minisign.Signature
	if err := s.UnmarshalText(signature); err != nil {
		return fail(errors.New("the signature is not in minisign's format"))
	}

	// Anybody can make a key with a given id: two may have the same.
	known, good := false, false
	for _, key := range keys {
		if key.ID() == s.KeyID {
			known = true
			good = good || fits(key)
		}
	}
	if !known {
		return fail(fmt.Errorf("%w, %s", ErrUnknownKey, KeyID(s.KeyID)))
	}
	if !good {
		return fail(ErrBadSignature)
	}

	if signed := signedName(s); signed != name {
		return fail(fmt.Errorf("%w, %.80q", ErrOtherFile, signed))
	}
	return nil
}

// SignedName returns the name of the file that a signature claims to be for; Verify
// checks the claim.
func SignedName(signature []byte) (string, error) {
	var s minisign.Signature
	if err := s.UnmarshalText(signature); err != nil || len(signature) > MaxSignature {
		return "", errors.New("the signature is not in minisign's format")
	}
	return signedName(s), nil
}

func signedName(s minisign.Signature) string {
	for field := range strings.SplitSeq(s.TrustedComment, "\t") {
		if value, ok := strings.CutPrefix(field, fileField); ok {
			return value
		}
	}
	return ""
}

// ParsePublicKey reads the content of a public key file of minisign.
func ParsePublicKey(data []byte) (PublicKey, error) {
	var key PublicKey
	if err := key.UnmarshalText(data); err != nil || len(data) > MaxSignature {
		return key, errors.New("not a public key in minisign's format")
	}
	return key, nil
}

// ReadKeys reads the public keys *.pub of a directory. A missing directory and
// one without keys has none, without an error; a file that is not a key is an
// error.
func ReadKeys(dir string) ([]PublicKey, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.pub"))
	if err != nil {
		return nil, fmt.Errorf("cannot read update keys: %w", err)
	}

	var keys []PublicKey
	for _, path := range paths {
		key, err := ReadKey(path)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// ReadKey reads a public key file.
func ReadKey(path string) (PublicKey, error) {
	f, err := os.Open(path)
	if err != nil {
		return PublicKey{}, fmt.Errorf("cannot read update key: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxSignature+1))
	if err != nil {
		return PublicKey{}, fmt.Errorf("cannot read update key: %w", err)
	}
	key, err := ParsePublicKey(data)
	if err != nil {
		return key, fmt.Errorf("cannot read update key %s: %w", path, err)
	}
	return key, nil
}
