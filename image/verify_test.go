package image

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/mkappliance/mkappliance/internal/progress"
	"github.com/mkappliance/mkappliance/internal/run"
	"github.com/mkappliance/mkappliance/internal/run/runtest"
	"github.com/mkappliance/mkappliance/rootfs"
)

func TestVerifyIdentity(t *testing.T) {
	const (
		emptyFile = "Size: 0  On-disk size: 0  regular file\n"
		anID      = "Size: 33  On-disk size: 33  regular file\n"
		exists    = "Inode: 13   Type: regular\n"
		base      = "--path=/usr/lib/runner/base"
	)
	type answers map[string]string // by a word of the command
	for _, test := range []struct {
		summary  string
		answers  answers
		wantRoot string // error of the check of the root file system
		wantVar  string // error of the check of var
	}{{
		summary: "clean",
	}, {
		summary:  "host key",
		answers:  answers{"--path=/etc/ssh": "  1  1  moduli\n  1  1  ssh_host_rsa_key\n"},
		wantRoot: "it holds the ssh host key /etc/ssh/ssh_host_rsa_key",
	}, {
		summary:  "host key of the guests",
		answers:  answers{base + "/etc/ssh": "  1  1  ssh_host_rsa_key\n"},
		wantRoot: "it holds the ssh host key /usr/lib/runner/base/etc/ssh/ssh_host_rsa_key",
	}, {
		summary:  "machine-id",
		answers:  answers{"--path=/etc/machine-id": anID},
		wantRoot: "/etc/machine-id is not an empty file",
	}, {
		summary:  "no machine-id",
		answers:  answers{"--path=/etc/machine-id": ""},
		wantRoot: "/etc/machine-id is not an empty file",
	}, {
		summary:  "machine-id of the guests",
		answers:  answers{base + "/etc/machine-id": anID},
		wantRoot: "/usr/lib/runner/base/etc/machine-id is not an empty file",
	}, {
		summary: "config.env",
		answers: answers{"stat /lib/runner/etc/config.env": exists},
		wantVar: "it holds /var/lib/runner/etc/config.env",
	}, {
		summary: "marker",
		answers: answers{"stat /lib/runner/installed": exists},
		wantVar: "it holds /var/lib/runner/installed",
	}, {
		summary: "credentials",
		answers: answers{"stat /lib/runner/actions-runner/.credentials": exists},
		wantVar: "it holds /var/lib/runner/actions-runner/.credentials",
	}} {
		t.Run(test.summary, func(t *testing.T) {
			fake := &runtest.Fake{Handle: func(_ context.Context, c run.Cmd) error {
				words := inside(c)
				for _, word := range words {
					if answer, ok := test.answers[word]; ok {
						_, err := io.WriteString(c.Stdout, answer)
						return err
					}
				}
				if strings.HasSuffix(strings.Join(words, " "), "/etc/machine-id /mnt/partition-root") {
					_, err := io.WriteString(c.Stdout, emptyFile)
					return err
				}
				return nil
			}}
			v := &verification{tools: tools{executor: fake, tree: &rootfs.Tools{}, work: t.TempDir()}}
			for _, check := range []struct {
				do   func(context.Context) error
				want string
			}{{v.checkRootIdentity, test.wantRoot}, {v.checkVarIdentity, test.wantVar}} {
				got := ""
				if err := check.do(t.Context()); err != nil {
					got = err.Error()
				}
				if got != check.want {
					t.Errorf("got %q, want %q", got, check.want)
				}
			}
		})
	}
}

func TestVerifyToolFails(t *testing.T) {
	fake := &runtest.Fake{Handle: func(_ context.Context, c run.Cmd) error {
		_, _ = io.WriteString(c.Stdout, "pass 1\nroot inode is damaged\n")
		return &run.ExitError{Tool: "bwrap", Status: 4}
	}}
	v := &verification{tools: tools{executor: fake, tree: &rootfs.Tools{}, work: t.TempDir()}}
	err := v.run(t.Context(), "e2fsck", "-fn")
	if want := "e2fsck failed with status 4: root inode is damaged"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	broken := errors.New("cannot run bwrap")
	fake.Handle = func(context.Context, run.Cmd) error { return broken }
	if err := v.run(t.Context(), "e2fsck"); !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
}

// TestVerifyTools asserts where the tools of a verification come from: only if
// the cache has none may it ask the archive.
func TestVerifyTools(t *testing.T) {
	for _, test := range []struct {
		summary string
		spoil   func(*testing.T, Options, *Result)
		network bool
		note    string
	}{
		{"those that baked the image", func(*testing.T, Options, *Result) {}, false, "those that baked the image"},
		{"others", func(t *testing.T, _ Options, r *Result) {
			m, err := readManifest(r.Manifest)
			if err != nil {
				t.Fatal(err)
			}
			m.Tools = strings.Repeat("0", 64)
			if err := m.write(r.Manifest); err != nil {
				t.Fatal(err)
			}
		}, false, "from the cache, not those that baked the image"},
		{"none", func(t *testing.T, o Options, _ *Result) {
			if err := os.RemoveAll(o.CacheDir); err != nil {
				t.Fatal(err)
			}
		}, true, "not in the cache"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			o, result := buildTestImage(t)
			test.spoil(t, o, result)

			tools, report := &fakeTools{}, &strings.Builder{}
			fake := &runtest.Fake{Handle: tools.exec}
			o.Executor, o.Progress = fake, progress.New(report, progress.Plain)
			checks := 0
			if _, err := Verify(t.Context(), o.Environment, result.Image, func(Check) { checks++ }); err != nil {
				t.Fatal(err)
			}
			if checks != 10 {
				t.Errorf("got %d checks, want 10", checks)
			}

			var asked []string
			for _, c := range fake.Calls() {
				if strings.Contains(c.Args[0], "apt") || c.Args[0] == "mmdebstrap" {
					asked = append(asked, c.Args[0])
				}
			}
			if (len(asked) > 0) != test.network {
				t.Errorf("ran %q, want the network to be used: %v", asked, test.network)
			}
			if !strings.Contains(report.String(), test.note+"\n") {
				t.Errorf("the report lacks %q:\n%s", test.note, report)
			}
			noWorkLeft(t, o)
		})
	}
}
