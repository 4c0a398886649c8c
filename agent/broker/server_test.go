package broker

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"mkappliance/agent/guest"
)

func TestEnvironment(t *testing.T) {
	merged := mergeEnv(map[string]string{"PATH": "/bin", "A": "image"}, map[string]string{"A": "job", "B": "job"}, map[string]string{"B": "step"})
	merged["NUL"], merged["X=Y"], merged[""] = "a\x00b", "v", "v"
	got := environ(merged)
	if want := []string{"A=job", "B=step", "PATH=/bin"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestVolume(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "cache/npm"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", filepath.Join(dir, "cache/link")); err != nil {
		t.Fatal(err)
	}
	s := &Server{settings: Settings{RunnerUID: os.Getuid(), RunnerGID: os.Getgid(), BindRO: []HostBind{{Source: filepath.Join(dir, "cache")}}}}
	for source, ok := range map[string]bool{"cache/npm": true, "cache": true, "cache/link": false, "cache/../other": false, "cached": false, "": false} {
		bind, err := s.volume(guest.Bind{Target: "/x"}, filepath.Join(dir, source))
		if (err == nil) != ok {
			t.Errorf("%q: got %v, want success %v", source, err, ok)
		}
		if err == nil && !bind.ReadOnly {
			t.Errorf("%q is writable, and RUNNER_NSPAWN_BIND_RO allowed it", source)
		}
		closeBinds([]guest.Bind{bind})
	}
}

func TestIsAlpine(t *testing.T) {
	for content, want := range map[string]bool{"ID=alpine\n": true, "NAME=x\nID=\"alpine\"\n": true, "ID='alpine'": true, "ID=debian\n": false, "ID_LIKE=alpine\n": false, "": false} {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "etc"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "etc/os-release"), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := isAlpine(dir); got != want {
			t.Errorf("%q: got %v, want %v", content, got, want)
		}
	}
}
