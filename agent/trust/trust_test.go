package trust_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/mkappliance/mkappliance/agent/trust"
)

func TestSet(t *testing.T) {
	const image, first, second = "-- image --\n", "-- first --\n", "-- second --\n"
	dir := t.TempDir()
	store := trust.Store{Bundle: filepath.Join(dir, "bundle"), Own: filepath.Join(dir, "run", "own")}
	if err := os.WriteFile(store.Bundle, []byte(image), 0o644); err != nil {
		t.Fatal(err)
	}

	// Each step starts from what the one before has left.
	for _, step := range []struct{ summary, pem, bundle string }{
		{summary: "none", pem: "", bundle: image},
		{summary: "first", pem: first, bundle: image + "# Of RUNNER_CA_CERTS:\n" + first},
		{summary: "the same again", pem: first, bundle: image + "# Of RUNNER_CA_CERTS:\n" + first},
		{summary: "second in its place", pem: second, bundle: image + "# Of RUNNER_CA_CERTS:\n" + second},
		{summary: "none any more", pem: "", bundle: image},
	} {
		if err := store.Set([]byte(step.pem)); err != nil {
			t.Fatalf("%s: %v", step.summary, err)
		}
		if got, err := os.ReadFile(store.Bundle); err != nil || string(got) != step.bundle {
			t.Errorf("%s: bundle is %q, %v", step.summary, got, err)
		}

		own, err := os.ReadFile(store.Own)
		if step.pem == "" && !errors.Is(err, fs.ErrNotExist) || step.pem != "" && string(own) != step.pem {
			t.Errorf("%s: own file is %q, %v", step.summary, own, err)
		}
	}
}

func TestSetWithoutStore(t *testing.T) {
	dir := t.TempDir()
	store := trust.Store{Bundle: filepath.Join(dir, "bundle"), Own: filepath.Join(dir, "own")}
	if err := store.Set([]byte("x")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
