package stubrunner

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"aead.dev/minisign"

	"github.com/mkappliance/mkappliance/internal/actionsrunner"
	"github.com/mkappliance/mkappliance/internal/atomicfile"
	"github.com/mkappliance/mkappliance/internal/release"
)

// BuildChannel builds versions of the stub in dir, and signs them with a new key, as
// 'mkappliance sign' does. The last one is the newest. It returns the public key.
func BuildChannel(ctx context.Context, dir string, versions ...string) (release.PublicKey, error) {
	public, private, err := minisign.GenerateKey(rand.Reader)
	if err != nil {
		return public, fmt.Errorf("cannot make a key: %w", err)
	}

	for _, version := range versions {
		path, _, err := Build(ctx, dir, Options{Version: version})
		if err != nil {
			return public, err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return public, err
		}
		signature, err := release.Sign(private, filepath.Base(path), data, time.Now())
		if err != nil {
			return public, err
		}

		newest, _, _ := actionsrunner.ParseArchiveName(filepath.Base(path))
		for _, name := range []string{path + ".minisig", filepath.Join(dir, newest)} {
			if err := atomicfile.Write(name, signature, 0o644); err != nil {
				return public, err
			}
		}
	}
	return public, nil
}
