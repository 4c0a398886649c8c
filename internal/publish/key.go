package publish

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"aead.dev/minisign"

	"github.com/mkappliance/mkappliance/internal/atomicfile"
	"github.com/mkappliance/mkappliance/internal/release"
)

// KeyFiles are the files of a key pair.
type KeyFiles struct {
	Private string `json:"private_key"` // path, mode 0600
	Public  string `json:"public_key"`  // path
	ID      string `json:"id"`          // as minisign prints it
}

// Generate makes a key pair and writes it to NAME.key and NAME.pub, in minisign's
// format. The private key is encrypted unless the password is empty. Files that
// exist are never replaced: os.ErrExist.
func Generate(name, password string) (*KeyFiles, error) {
	public, private, err := minisign.GenerateKey(nil)
	if err != nil {
		return nil, fmt.Errorf("cannot make key: %w", err)
	}
	privateText, err := private.MarshalText()
	if password != "" {
		privateText, err = minisign.EncryptKey(password, private)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot encode key: %w", err)
	}
	publicText, err := public.MarshalText()
	if err != nil {
		return nil, fmt.Errorf("cannot encode key: %w", err)
	}

	files := &KeyFiles{Private: name + ".key", Public: name + ".pub", ID: release.KeyID(public.ID())}
	if err := writeNew(files.Private, append(privateText, '\n'), 0o600); err != nil {
		return nil, err
	}
	if err := writeNew(files.Public, append(publicText, '\n'), 0o644); err != nil {
		// Without its public half the private key is of no use.
		return nil, errors.Join(err, os.Remove(files.Private))
	}
	return files, atomicfile.SyncDir(filepath.Dir(name))
}

// writeNew writes a file that must not exist.
func writeNew(path string, data []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fmt.Errorf("cannot write key: %w", err)
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		_ = os.Remove(path)
		return fmt.Errorf("cannot write key: %w", err)
	}
	return nil
}

// ReadPrivateKey reads a private key in minisign's format. It asks for the
// password only if the key is encrypted.
func ReadPrivateKey(path string, password func() (string, error)) (release.PrivateKey, error) {
	var key release.PrivateKey
	data, err := readFile(path, release.MaxSignature)
	if err != nil {
		return key, fmt.Errorf("cannot read private key: %w", err)
	}
	if !minisign.IsEncrypted(data) {
		if err := key.UnmarshalText(data); err != nil {
			return key, fmt.Errorf("cannot read private key %s: not one in minisign's format", path)
		}
		return key, nil
	}

	text, err := password()
	if err != nil {
		return key, err
	}
	if key, err = minisign.DecryptKey(text, data); err != nil {
		return key, fmt.Errorf("cannot read private key %s: wrong password", path)
	}
	return key, nil
}

// Public returns the public half of a private key.
func Public(key release.PrivateKey) release.PublicKey {
	public, _ := key.Public().(release.PublicKey)
	return public
}
