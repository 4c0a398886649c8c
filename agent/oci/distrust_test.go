package oci_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestStoreOfHelper: a helper that a hostile registry has taken over owns the
// store. The broker follows no link in it and waits for no pipe.
func TestStoreOfHelper(t *testing.T) {
	for _, test := range []struct {
		summary string
		spoil   func(dir string) error // the image's directory
	}{
		{summary: "root file system", spoil: func(dir string) error {
			tree := filepath.Join(dir, "rootfs")
			return errors.Join(os.RemoveAll(tree), os.Symlink("/", tree))
		}},
		{summary: "image", spoil: func(dir string) error {
			away := filepath.Join(filepath.Dir(filepath.Dir(filepath.Dir(dir))), "away")
			return errors.Join(os.Rename(dir, away), os.Symlink(away, dir))
		}},
		{summary: "record", spoil: func(dir string) error {
			file := filepath.Join(dir, "config.json")
			away := filepath.Join(filepath.Dir(filepath.Dir(filepath.Dir(dir))), "away")
			return errors.Join(os.Rename(file, away), os.Symlink(away, file))
		}},
		{summary: "pipe as lock", spoil: func(dir string) error {
			file := filepath.Join(dir, "lock")
			return errors.Join(os.Remove(file), unix.Mkfifo(file, 0o600))
		}},
		{summary: "pipe as record", spoil: func(dir string) error {
			file := filepath.Join(dir, "config.json")
			return errors.Join(os.Remove(file), unix.Mkfifo(file, 0o600))
		}},
	} {
		t.Run(test.summary, func(t *testing.T) {
			store := newStore(t)
			image, err := store.Import(t.Context(), "app",
				writeArchive(t, archiveOf(t, newImage(t, newLayer(t, file{name: "f"})))...))
			if err != nil {
				t.Fatal(err)
			}
			image.Release()
			if err := test.spoil(filepath.Dir(image.Tree)); err != nil {
				t.Fatal(err)
			}

			found := make(chan bool, 1)
			go func() {
				_, ok := store.Lookup("app")
				found <- ok
			}()
			select {
			case ok := <-found:
				if ok {
					t.Error("the image is used")
				}
			case <-time.After(5 * time.Second):
				t.Error("the broker waits for a pipe")
			}
		})
	}
}

// TestSweepOfHelper: what links of the store lead to is not removed.
func TestSweepOfHelper(t *testing.T) {
	for _, name := range []string{"refs", "images", "tmp"} {
		store, outside := newStore(t), t.TempDir()
		canary := filepath.Join(outside, "canary")
		if err := errors.Join(
			os.WriteFile(canary, nil, 0o600), os.Mkdir(store.Dir, 0o700), os.Symlink(outside, filepath.Join(store.Dir, name)),
		); err != nil {
			t.Fatal(err)
		}
		_ = store.Sweep()
		if _, err := os.Stat(canary); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
