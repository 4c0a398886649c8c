package stubrunner_test

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

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
	want := []string{
		"./", "./bin/", "./bin/Runner.Listener", "./bin/Runner.Worker", "./config.sh", "./env.sh",
		"./externals/", "./externals/node20/", "./externals/node20/bin/", "./externals/node20/bin/node", "./run.sh",
	}
	if diff := cmp.Diff(want, names(t, first)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
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

	const usage = "For usage refer to: ./config.sh --help\n"
	for _, test := range []struct {
		summary string
		args    []string
		status  int
		want    string
	}{
		{summary: "version", args: []string{"bin/Runner.Listener", "--version"}, want: "2.400.1\n"},
		{
			summary: "not configured", args: []string{"run.sh"}, status: 1,
			want: "Not configured. Run config.(sh/cmd) to configure the runner.\n",
		},
		{
			summary: "unknown option", args: []string{"config.sh", "--colour"}, status: 1,
			want: "Unrecognized command-line input arguments: '--colour'. " + usage,
		},
		{
			summary: "option without its value", args: []string{"config.sh", "--url"}, status: 1,
			want: "Unrecognized command-line input arguments: '--url'. " + usage,
		},
		{summary: "warmup", args: []string{"bin/Runner.Listener", "warmup"}},
	} {
		c := exec.Command(filepath.Join(dir, test.args[0]), test.args[1:]...)
		out, err := c.CombinedOutput()
		if c.ProcessState == nil {
			t.Fatal(err)
		}
		if c.ProcessState.ExitCode() != test.status || string(out) != test.want {
			t.Errorf("%s: status %d, %q", test.summary, c.ProcessState.ExitCode(), out)
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
