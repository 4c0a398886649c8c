package stubrunner_test

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mkappliance/mkappliance/ci/stubrunner"
)

func TestBuildIsDeterministic(t *testing.T) {
	first, sum1, err := stubrunner.Build(t.Context(), t.TempDir(), stubrunner.Options{})
	if err != nil {
		t.Fatal(err)
	}
	_, sum2, err := stubrunner.Build(t.Context(), t.TempDir(), stubrunner.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if sum1 != sum2 {
		t.Errorf("two builds differ: %s, %s", sum1, sum2)
	}
	if got, want := filepath.Base(first), "actions-runner-linux-x64-2.336.0.tar.gz"; got != want {
		t.Errorf("file is %s", got)
	}
	want := []string{"./", "./bin/", "./bin/Runner.Listener", "./config.sh", "./env.sh", "./externals/",
		"./externals/node20/", "./externals/node20/bin/", "./externals/node20/bin/node", "./run.sh"}
	if got := names(t, first); !slices.Equal(got, want) {
		t.Errorf("holds %q", got)
	}
}

func TestListenerSpeaksAsTheRealOne(t *testing.T) {
	path, _, err := stubrunner.Build(t.Context(), t.TempDir(), stubrunner.Options{Version: "2.400.1"})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if out, err := exec.Command("tar", "-xzf", path, "-C", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, tt := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"bin/Runner.Listener", "--version"}, 0, "2.400.1\n"},
		{[]string{"run.sh"}, 1, "Not configured. Run config.(sh/cmd) to configure the runner.\n"},
		{[]string{"config.sh", "--colour"}, 1, "Unrecognized command-line input arguments: " +
			"'--colour'. For usage refer to: ./config.sh --help\n"},
		{[]string{"config.sh", "--url"}, 1, "Unrecognized command-line input arguments: '--url'. For usage refer to: " +
			"./config.sh --help\n"},
		{[]string{"bin/Runner.Listener", "warmup"}, 0, ""},
	} {
		c := exec.Command(filepath.Join(dir, tt.args[0]), tt.args[1:]...)
		out, err := c.CombinedOutput()
		if c.ProcessState == nil {
			t.Fatal(err)
		}
		if c.ProcessState.ExitCode() != tt.status || string(out) != tt.want {
			t.Errorf("%q: status %d, %q", tt.args, c.ProcessState.ExitCode(), out)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, ".runner"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(filepath.Join(dir, "config.sh"), "--unattended").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "\nCannot configure the runner because it is already configured. "+
		"To reconfigure the runner, run 'config.cmd remove' or './config.sh remove' first.\n") {
		t.Errorf("%v: %s", err, out)
	}
}

func names(t *testing.T, path string) []string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	gz, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for tr := tar.NewReader(gz); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, h.Name)
	}
}
