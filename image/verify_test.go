package image

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/mkappliance/mkappliance/internal/run"
	"github.com/mkappliance/mkappliance/internal/run/runtest"
)

func TestVerifyIdentity(t *testing.T) {
	const (
		emptyID = "Size: 0  On-disk size: 0  regular file\n"
		base    = "--path=/usr/lib/runner/base"
	)
	for _, test := range []struct {
		summary    string
		answers    map[string]string // by a word of the command
		root, vars string            // the errors of the two checks
	}{
		{"clean", nil, "", ""},
		{"host key", map[string]string{"--path=/etc/ssh": "  1  1  moduli\n  1  1  ssh_host_rsa_key\n"}, "it holds the ssh host key /etc/ssh/ssh_host_rsa_key", ""},
		{"host key of the guests", map[string]string{base + "/etc/ssh": "  1  1  ssh_host_rsa_key\n"},
			"it holds the ssh host key /usr/lib/runner/base/etc/ssh/ssh_host_rsa_key", ""},
		{"machine-id", map[string]string{"--path=/etc/machine-id": "Size: 33  On-disk size: 33  regular file\n"}, "/etc/machine-id is not an empty file", ""},
		{"no machine-id", map[string]string{"--path=/etc/machine-id": ""}, "/etc/machine-id is not an empty file", ""},
		{"machine-id of the guests", map[string]string{base + "/etc/machine-id": "Size: 33  On-disk size: 33  regular file\n"},
			"/usr/lib/runner/base/etc/machine-id is not an empty file", ""},
		{"config.env", map[string]string{"stat /lib/runner/etc/config.env": "Inode: 13   Type: regular\n"}, "", "it holds /var/lib/runner/etc/config.env"},
		{"marker", map[string]string{"stat /lib/runner/installed": "Inode: 13   Type: regular\n"}, "", "it holds /var/lib/runner/installed"},
		{"credentials", map[string]string{"stat /lib/runner/actions-runner/.credentials": "Inode: 13   Type: regular\n"}, "",
			"it holds /var/lib/runner/actions-runner/.credentials"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			fake := &runtest.Fake{Handle: func(_ context.Context, c run.Cmd) error {
				words := inside(c)
				for _, word := range words {
					if answer, ok := test.answers[word]; ok {
						_, err := io.WriteString(c.Stdout, answer)
						return err
					}
				}
				if strings.HasSuffix(strings.Join(words, " "), "/etc/machine-id /mnt/root.erofs") {
					_, err := io.WriteString(c.Stdout, emptyID)
					return err
				}
				return nil
			}}
			v := &verification{tools: toolbox{run: fake, work: t.TempDir()}}
			for _, check := range []struct {
				do   func(context.Context) error
				want string
			}{{v.checkRootIdentity, test.root}, {v.checkVarIdentity, test.vars}} {
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
	v := &verification{tools: toolbox{run: fake, work: t.TempDir()}}
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
